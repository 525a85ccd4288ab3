# Limits are the kernel's: what the manifest says stands in the files of the cgroup, and who goes beyond is stopped.
check "a limited function is deployed" drop limited hog '[limits]
memory = "48M"
cpu = 0.25
pids = 24'
check "its neighbour without is deployed" drop unlimited hog '[limits]
memory = "512M"
cpu = 4.0
pids = 512'
check "both answer" eval 'answers /limited/ ok && answers /unlimited/ ok'
limited=$(leaf "$(instance limited)") unlimited=$(leaf "$(instance unlimited)")
note "the cgroup of an instance: $limited"
check "it is below the unit's" grep -q "^$(unit_cgroup)/" <<<"$limited"
holds() { [ "$(cat "$limited/$1")" = "$2" ] || { echo "$1: $(cat "$limited/$1")"; false; }; }
check "memory.max" holds memory.max $((48 << 20))
check "memory.swap.max" holds memory.swap.max 0
check "memory.oom.group" holds memory.oom.group 1
check "pids.max" holds pids.max 24
check "cpu.max" holds cpu.max "5000 20000"
check "cgroup.max.descendants" holds cgroup.max.descendants 0

# From inside.
check "the neighbour may take 100 MiB" get '/unlimited/memory?mb=100'
check "who is limited to 48 MiB may not" eval '! get "/limited/memory?mb=100"'
ended_by_memory() { funcd ps --json | jq -e '.instances[] | select(.function == "limited") | .last_exit.reason == "oom"'; }
check "it ended out of memory, and funcd ps says so" poll 30 ended_by_memory
check "it answers again" poll 30 answers /limited/ ok
limited=$(leaf "$(instance limited)")
throttled() { sed -n 's/^nr_throttled //p' "$1/cpu.stat"; }
check "it computes" get '/limited/cpu?ms=1500'
check "the neighbour computes" get '/unlimited/cpu?ms=1500'
check "who is limited to a quarter of a CPU was held back" [ "$(throttled "$limited")" -gt 0 ]
check "the neighbour was not" [ "$(throttled "$unlimited")" = 0 ]
check "a function that forks is deployed" drop forking forkbomb '[limits]
pids = 24'
forked=$(get /forking/bomb)
note "a fork bomb with 24 processes: $forked"
check "it was refused by pids.max" grep -q '^max [1-9]' "$(leaf "$(instance forking)")/pids.events"
rm -r "$functions/forking"
check "nothing of it is left" poll 30 eval '! pgrep -f "^/?forking"'

# The host as a whole, by what systemd sets.
systemctl set-property --runtime funcd.slice MemoryMax=700M 'IOWriteBandwidthMax=/ 8M'
check "the slice bounds the host's memory" [ "$(cat $cgroups/funcd.slice/memory.max)" = $((700 << 20)) ]
check "the slice bounds its writing" grep -q 'wbps=8' $cgroups/funcd.slice/io.max
check "functions answer within that" eval 'answers /limited/ ok && answers /hello/ Hello'
systemctl set-property --runtime funcd.slice MemoryMax= IOWriteBandwidthMax=
rm -r "$functions/limited" "$functions/unlimited"
