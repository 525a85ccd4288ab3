# Read by each suite: what a check is, and what suites share. `say` is for the host, which reads the second serial port.
say() { printf '@@ %s\n' "$*" >/dev/ttyS1; }
note() { say note "$*"; }

# check NAME COMMAND…: holds when the command succeeds; else its last lines are told.
check() {
    local name=$1 log=/tmp/check.log
    shift
    if "$@" >"$log" 2>&1; then
        say ok "$name"
    else
        local code=$?
        say failed "$name"
        say because "$(printf '%q ' "$@" | cut -c1-400): exit code $code"
        tail -n 15 "$log" | tr -cd '\t\n -~' | sed 's/^/@@ because /' >/dev/ttyS1
    fi
    { echo "--- $name: $*"; cat "$log"; }
}

# skip NAME WHY; a WHY that begins with "- " is a release that can't, not something that could be installed.
skip() { say skipped "$1: $2"; }

# host WORD…: has the host do it (xtask/src/vm/caller.rs); what it answers is printed.
host() {
    local code answer
    say host "$*"
    read -r code answer </dev/ttyS1
    echo "$answer"
    return "$code"
}

# unload: ends the load outside; how many were answered is told.
unload() { local came; came=$(host unload); local code=$?; echo "$came"; note "under load: $came"; return $code; }

# poll SECONDS COMMAND…: repeats the command until it succeeds; an emulated machine that shares its cores gets four times as long. The
# bound is for one that hangs; nothing is timed.
poll() {
    local end=$((SECONDS + 4 * $1))
    shift
    until "$@"; do
        [ "$SECONDS" -lt "$end" ] || return 1
        sleep 0.2
    done
}

functions=/var/lib/funcd/functions
cgroups=/sys/fs/cgroup

# The unit's cgroup, its main process, what runs in it.
unit_cgroup() { echo "$cgroups$(systemctl show -P ControlGroup funcd)"; }
main_pid() { systemctl show -P MainPID funcd; }
unit_state() { echo "$(systemctl show -P ActiveState funcd) $(systemctl show -P Result funcd)"; }
landlock_abi() { perl -e 'print syscall(444, 0, 0, 1)'; }

# get PATH [HEADER…]: the body, of 200 alone.
get() { curl -fsS --max-time 30 "http://127.0.0.1:8080$1" "${@:2}"; }
status_of() { curl -s --max-time 30 -o /dev/null -w '%{http_code}' "http://127.0.0.1:8080$1"; }
answers() { get "$1" | grep -q "$2"; }

# drop NAME EXAMPLE [MANIFEST]: deploys an example, as a file, or as a folder with a manifest; waits until it is there.
drop() {
    if [ $# = 2 ]; then
        cp "/vm/bin/$2" "$functions/$1"
    else
        mkdir -p "$functions/.$1"
        cp "/vm/bin/$2" "$functions/.$1/$1"
        printf '%s\n' "$3" >"$functions/.$1/function.toml"
        mv "$functions/.$1" "$functions/$1"
    fi
    poll 30 is_live "$1"
}
is_live() { funcd ls --json | jq -e --arg name "$1" '.functions[] | select(.name == $name) | .function.revision' >/dev/null; }
# instance NAME: the pid of its first instance that runs.
instance() { funcd ps --json | jq -e --arg name "$1" 'first(.instances[] | select(.function == $name and .pid != null and .state != "standby")) | .pid'; }
# leaf PID: where its cgroup is.
leaf() { echo "$cgroups$(cut -d: -f3 "/proc/$1/cgroup")"; }
