# What was deployed and synced is to survive; the cut comes while functions are called and deployed.
check "a function is deployed before the cut" drop lasting hello
check "it answers" answers /lasting/ 'Hello from funcd'
sync
funcd ls --json | jq -S '[.functions[] | {name, revision: .function.revision}]' >/vm/before.json
cat /proc/sys/kernel/random/boot_id >/vm/boot-id
sync
# Half of a deployment, and writes under way.
head -c 200000 /vm/bin/echo >"$functions/torn"
chmod 755 "$functions/torn"
check "callers are there" host load 8080 vm /lasting/
