# Functions are back, without anybody's help.
check "it is another boot" [ "$(cat /proc/sys/kernel/random/boot_id)" != "$(cat /vm/boot-id)" ]
check "the unit is active" poll 60 systemctl is-active --quiet funcd
check "the host is ready" poll 60 curl -fs --unix-socket /run/funcd/admin.sock http://funcd/readyz
check "the same revisions are there" poll 30 eval 'funcd ls --json | jq -S "[.functions[] | {name, revision: .function.revision}]" | diff /vm/before.json -'
check "the function that always runs runs, unasked" poll 30 instance kept
check "a function answers callers outside" host get 8080 vm /hello/
