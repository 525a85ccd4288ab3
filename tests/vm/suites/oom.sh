# A function that runs out of memory ends alone, and whole.
check "a function that will be hungry is deployed" drop hungry hog '[limits]
memory = "48M"'
check "it answers" answers /hungry/ ok
all=$(dirname "$(leaf "$(instance hungry)")")
event() { sed -n "s/^$1 //p" "$all/memory.events"; }
before=$(event oom_group_kill)
neighbour=$(get /hello/ >/dev/null && instance hello)
supervisor=$(pgrep -P "$(main_pid)" -f supervisor)
check "callers of its neighbour are there" host load 8080 vm /hello/
for _ in 1 2 3; do
    get '/hungry/memory?mb=200' && break
    poll 30 answers /hungry/ ok
done
check "it was killed as a group, by the kernel" [ "$(event oom_group_kill)" -gt "${before:-0}" ]
reason() { funcd ps --json | jq -e '.instances[] | select(.function == "hungry") | .last_exit.reason == "oom"'; }
check "funcd ps says why" poll 30 reason
check "its log says why" poll 30 eval 'funcd logs hungry | grep -i "out of memory"'
check "no request of the neighbour failed" host unload
check "the neighbour's process is the same" [ "$(instance hello)" = "$neighbour" ]
check "the supervisor is the same" [ "$(pgrep -P "$(main_pid)" -f supervisor)" = "$supervisor" ]
check "the unit is active, and systemd saw no failure" [ "$(unit_state)" = "active success" ]
rm -r "$functions/hungry"
