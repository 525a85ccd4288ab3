# The machine is what users have: what the other suites rest on.
note "$(nproc) CPUs, controllers $(cat $cgroups/cgroup.controllers)"
note "LSMs $(cat /sys/kernel/security/lsm), Landlock ABI $(landlock_abi)"
check "systemd is process 1" grep -qx systemd /proc/1/comm
check "the boot ended" poll 60 eval 'case $(systemctl is-system-running) in running|degraded) ;; *) false ;; esac'
check "cgroup v2, and nothing beside it" [ "$(grep -c ' cgroup' /proc/mounts) $(stat -f -c %T $cgroups)" = "1 cgroup2fs" ]
for controller in cpu io memory pids; do
    check "controller $controller" grep -qw "$controller" $cgroups/cgroup.controllers
done
check "pressure is told" cat $cgroups/system.slice/memory.pressure
check "Landlock" [ "$(landlock_abi)" -ge 1 ]
check "user namespaces for everybody" setpriv --reuid 65534 --regid 65534 --clear-groups unshare -Ur true
