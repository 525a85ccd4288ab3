# What `funcd doctor` says of this machine, beside what can be seen of it without funcd.
check "a function to look at is deployed" drop looked echo '[limits]
memory = "64M"
cpu = 0.5
pids = 33'
check "it answers" answers /looked/facts pid
pid=$(instance looked)
funcd doctor --json >/vm/out/doctor.json
said() { jq -r "$1" /vm/out/doctor.json; }
property() { jq -e --arg code "$1" '.properties[] | select(.code == $code) | .kept' /vm/out/doctor.json; }
mechanism() { jq -r --arg code "$1" '.properties[] | select(.code == $code) | .mechanism' /vm/out/doctor.json; }
status() { sed -n "s/^$1:[[:space:]]*//p" "/proc/$pid/status"; }
tried() { get "/looked/try?do=$1&at=$2"; }
for code in P1 P2 P3 P4 P5 P6 P7 P8 P9 P10; do note "$code: $(mechanism $code)"; done
check "the kernel" [ "$(said .kernel)" = "$(uname -r)" ]
check "the Landlock ABI" [ "$(said .landlock_abi)" = "$(landlock_abi)" ]
check "control groups" [ "$(said .cgroup)" = v2 ]
check "all ten are kept" [ "$(said '[.properties[] | select(.kept)] | length')" = 10 ]
check "P1 files: a mount namespace of its own" [ "$(readlink "/proc/$pid/ns/mnt")" != "$(readlink /proc/1/ns/mnt)" ]
check "P1 files: what anybody may read is not there" [ "$(tried read /etc/hostname)" = ENOENT ]
check "P1 files: nothing of the host is mounted" eval '! grep -E " / / | /(home|root|etc|var|usr) " "/proc/$pid/mountinfo" | grep -v " / / ro"'
check "P2 network: a namespace of its own, with loopback alone" eval '[ "$(readlink "/proc/$pid/ns/net")" != "$(readlink /proc/1/ns/net)" ] &&
    [ "$(nsenter -t "$pid" -n ip -o link | wc -l)" = 1 ]'
if [ "$(landlock_abi)" -ge 6 ]; then
    check "P3 processes: by Landlock's scopes" grep -q Landlock <<<"$(mechanism P3)"
    check "P3 processes: so the pid namespace is the host's" [ "$(status NSpid | wc -w)" = 1 ]
else
    check "P3 processes: by a pid namespace" grep -q 'pid namespace' <<<"$(mechanism P3)"
    check "P3 processes: it is in one" [ "$(status NSpid | wc -w)" = 2 ]
fi
check "P4 kernel surface: a filter, and no new privileges" [ "$(status Seccomp) $(status NoNewPrivs)" = "2 1" ]
check "P5 memory: the limit" [ "$(cat "$(leaf "$pid")/memory.max")" = $((64 << 20)) ]
check "P6 processes and threads: the limit" [ "$(cat "$(leaf "$pid")/pids.max")" = 33 ]
check "P7 CPU: the limit" [ "$(cat "$(leaf "$pid")/cpu.max")" = "10000 20000" ]
check "P8 total kill: cgroup.kill" [ -e "$(leaf "$pid")/cgroup.kill" ]
stored=$(stat -Lc '%u %a' "/proc/$pid/exe")
check "P9 artifact: root's, and nobody may write it" [ "$stored" = "0 111" ]
check "P9 artifact: it is what was dropped" cmp "/proc/$pid/exe" /vm/bin/echo
check "P10 privileges: a uid of its own" [ "$(status Uid | cut -f1)" -ge 1900000000 ]
check "P10 privileges: no capability" [ "$(for set in CapInh CapPrm CapEff CapBnd CapAmb; do status $set; done | sort -u)" = 0000000000000000 ]

# Where something is missing, it says that too.
useradd -m plain 2>/dev/null
runuser -u plain -- funcd doctor --json --admin /nonexistent >/vm/out/doctor-plain.json
missing() { jq -e --arg code "$1" '.properties[] | select(.code == $code) | .kept | not' /vm/out/doctor-plain.json; }
check "somebody without a delegated cgroup: no limits" eval 'missing P5 && missing P6 && missing P7'
check "somebody without a delegated cgroup: it is true" eval '! runuser -u plain -- mkdir "$cgroups$(cut -d: -f3 /proc/self/cgroup)/mine"'
rm -r "$functions/looked"
