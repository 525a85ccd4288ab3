# An ordinary user with a delegated session: everything below a cgroup of the user's own.
user=worker
id $user >/dev/null 2>&1 || useradd -m -s /bin/bash $user
uid=$(id -u $user)
check "the user has a manager" eval 'loginctl enable-linger $user && poll 60 systemctl is-active --quiet "user@$uid"'
as_user() { runuser -u $user -- env XDG_RUNTIME_DIR="/run/user/$uid" HOME="/home/$user" "$@"; }
cp /vm/bin/hello /vm/bin/hog "/home/$user/"
chown $user: "/home/$user/"*
as_user systemd-run --user --quiet --wait --pipe -p Delegate=yes \
    funcd doctor --json --admin /nonexistent >/vm/out/doctor-rootless.json
kept() { jq -e --arg code "$1" '.properties[] | select(.code == $code) | .kept' /vm/out/doctor-rootless.json; }
missing=$(jq -r '[.properties[] | select(.kept | not) | .name] | join(",")' /vm/out/doctor-rootless.json)
note "what an ordinary user with a delegated session misses: ${missing:-nothing}"
check "doctor: memory, processes and total kill are kept" eval 'kept P5 && kept P6 && kept P8'
host_of_user() {
    as_user systemd-run --user --quiet --unit funcd-rootless -p Delegate=yes \
        funcd serve --listen 127.0.0.1:8181 ${missing:+--degraded "$missing"}
}
check "it starts as a unit of the user" host_of_user
ask() { curl -fsS --max-time 30 "http://127.0.0.1:8181$1"; }
state=/home/$user/.local/state/funcd/functions
check "it makes its functions folder" poll 60 [ -d $state ]
as_user cp "/home/$user/hello" $state/hello
as_user mkdir $state/.hungry
as_user cp "/home/$user/hog" $state/.hungry/hungry
printf '[limits]\nmemory = "48M"\n' | as_user tee $state/.hungry/function.toml >/dev/null
as_user mv $state/.hungry $state/hungry
check "a function answers" poll 60 eval 'ask /hello/ | grep Hello'
check "another one answers" poll 60 eval 'ask /hungry/ | grep ok'
theirs() { as_user funcd ps --json | jq -e --arg name "$1" 'first(.instances[] | select(.function == $name and .pid != null and .state != "standby")) | .pid'; }
pid=$(theirs hungry)
check "it runs below the user's unit" grep -q "user@$uid.service/app.slice/funcd-rootless.service/" "/proc/$pid/cgroup"
check "it is root nowhere" [ "$(awk '/^Uid/ {print $2}' "/proc/$pid/status")" != 0 ]
check "memory.max stands" [ "$(cat "$(leaf "$pid")/memory.max")" = $((48 << 20)) ]
check "who goes beyond is killed" eval '! ask "/hungry/memory?mb=100"'
oom() { as_user funcd ps --json | jq -e '.instances[] | select(.function == "hungry") | .last_exit.reason == "oom"'; }
check "funcd ps says why" poll 30 oom
check "the neighbour answers" eval 'ask /hello/ | grep Hello'
check "its commands find its host" eval 'as_user funcd ls | grep hello'
check "it stops" as_user systemctl --user stop funcd-rootless
check "nothing of it is left" poll 30 eval '! pgrep -u $user -f "hello|hog|hungry|funcd"'
loginctl disable-linger $user
