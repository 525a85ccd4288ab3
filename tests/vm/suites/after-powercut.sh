# What was synced is there; what was not does no harm.
host unload
check "it is another boot" [ "$(cat /proc/sys/kernel/random/boot_id)" != "$(cat /vm/boot-id)" ]
check "the unit is active" poll 60 systemctl is-active --quiet funcd
check "the host is ready" poll 60 curl -fs --unix-socket /run/funcd/admin.sock http://funcd/readyz
rm -f "$functions/torn"
check "the same revisions are there" poll 30 eval 'funcd ls --json | jq -S "[.functions[] | {name, revision: .function.revision}]" | diff /vm/before.json -'
check "a function answers callers outside" host get 8080 vm /lasting/
whole() {
    local log
    for log in /var/lib/funcd/logs/*.log; do jq -e . "$log" >/dev/null || return 1; done
}
check "logs are whole lines" whole
