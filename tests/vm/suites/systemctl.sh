# What an operator does to the unit, and what each leaves.
check "a function that always runs is deployed" drop steady echo '[scale]
min = 1'
check "it runs" poll 30 instance steady
running() { ps -eo uid=,pid= | awk '$1 >= 1900000000 {print $2}'; }
none_of() { local pid; for pid in $1; do [ ! -d "/proc/$pid" ] || { ps -fp "$pid"; return 1; }; done; }
nothing_left() {
    local dir
    [ -z "$(running)" ] || { ps -eo uid,pid,args | awk '$1 >= 1900000000'; return 1; }
    dir=$(find $cgroups/funcd.slice -mindepth 2 -type d 2>/dev/null | head -n 3)
    [ -z "$dir" ] || { echo "cgroups: $dir"; return 1; }
    if grep funcd /proc/self/mountinfo; then return 1; fi
    if ss -ltnH | grep -E ':8080 '; then return 1; fi
}

# restart
before=$(running) main=$(main_pid) revision=$(funcd ls --json | jq -c '[.functions[] | [.name, .function.revision]]')
check "restart" systemctl restart funcd
check "restart: nothing of before runs" none_of "$before $main"
check "restart: the same revisions" poll 30 eval '[ "$(funcd ls --json | jq -c "[.functions[] | [.name, .function.revision]]")" = "$revision" ]'
check "restart: the function that always runs runs" poll 30 instance steady
check "restart: a function answers callers outside" host get 8080 vm /hello/

# reload: nothing is started again, and no caller notices.
if [ "$(systemctl show -P CanReload funcd)" = yes ]; then
    steady=$(instance steady) main=$(main_pid)
    supervisor=$(pgrep -P "$main" -f supervisor)
    check "reload: callers are there" host load 8080 vm /hello/
    check "reload" systemctl reload funcd
    check "reload: the unit is active" poll 60 [ "$(systemctl is-active funcd)" = active ]
    check "reload: a caller is answered" host get 8080 vm /steady/
    check "reload: no request failed" unload
    check "reload: the function is the same process" [ "$(instance steady)" = "$steady" ]
    check "reload: the launcher is the same process" [ "$(main_pid)" = "$main" ]
    note "reload: supervisor $supervisor before, $(pgrep -P "$main" -f supervisor | xargs) after"
else
    skip "reload" "- the unit has no ExecReload"
fi

# kill -9 of the supervisor: functions go on.
steady=$(instance steady) supervisor=$(pgrep -P "$(main_pid)" -f supervisor)
kill -9 "$supervisor"
check "kill -9 of the supervisor: another one" poll 30 eval 'new=$(pgrep -P "$(main_pid)" -f supervisor) && [ "$new" != "$supervisor" ]'
check "kill -9 of the supervisor: a caller is answered" host get 8080 vm /steady/
check "kill -9 of the supervisor: the function is the same process" [ "$(instance steady)" = "$steady" ]

# kill -9 of the launcher: systemd starts it again, and nothing of before goes on unsupervised.
before=$(running) main=$(main_pid) restarts=$(systemctl show -P NRestarts funcd)
kill -9 "$main"
check "kill -9 of the launcher: systemd starts it again" poll 60 eval '[ "$(systemctl show -P NRestarts funcd)" -gt "$restarts" ] && systemctl is-active --quiet funcd'
check "kill -9 of the launcher: nothing of before runs" poll 30 none_of "$before $main"
check "kill -9 of the launcher: the function that always runs runs" poll 60 instance steady
check "kill -9 of the launcher: a caller is answered" host get 8080 vm /hello/

# systemctl kill: SIGTERM to everything in the unit, at once.
before=$(running) main=$(main_pid)
# It goes from cgroup to cgroup, and may come to one that funcd, told by the first, has just removed.
signalled() { local said; said=$(systemctl kill funcd 2>&1) || grep -q 'No such device' <<<"$said" || { echo "$said"; return 1; }; }
check "systemctl kill" signalled
check "systemctl kill: it ends" poll 60 eval '! systemctl is-active --quiet funcd'
check "systemctl kill: nothing is left" poll 30 nothing_left
check "systemctl kill: it was no failure" [ "$(systemctl show -P Result funcd)" = success ]
systemctl reset-failed funcd
systemctl start funcd

# systemctl kill -s KILL: everything at once, without a word.
poll 60 instance steady
before=$(running)
systemctl kill -s KILL funcd
check "systemctl kill -s KILL: it comes back" poll 60 eval 'systemctl is-active --quiet funcd && instance steady'
check "systemctl kill -s KILL: nothing of before runs" none_of "$before"

# stop, start
check "stop" systemctl stop funcd
check "stop: nothing is left" poll 30 nothing_left
check "stop: it was no failure" [ "$(unit_state)" = "inactive success" ]
check "start" systemctl start funcd
check "start: the function that always runs runs" poll 30 instance steady
check "start: a function answers callers outside" host get 8080 vm /hello/
rm -r "$functions/steady"
