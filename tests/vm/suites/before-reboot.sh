# What shall be there again after a reboot.
check "a function that always runs is deployed" drop kept echo '[scale]
min = 1'
check "it runs" poll 30 instance kept
funcd ls --json | jq -S '[.functions[] | {name, revision: .function.revision}]' >/vm/before.json
cat /proc/sys/kernel/random/boot_id >/vm/boot-id
