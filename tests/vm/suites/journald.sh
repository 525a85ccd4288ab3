# What functions say is found by their names, in funcd's own files and, where that is asked for, in the journal.
printf 'journal = true\n' >/etc/funcd/conf.d/20-journal.toml
check "it takes the setting" eval 'funcd config check && systemctl restart funcd'
check "the host is ready" poll 60 curl -fs --unix-socket /run/funcd/admin.sock http://funcd/readyz
check "two functions that talk are deployed" eval 'drop speaker echo && drop whisperer echo'
# A line is one when it ends; and a guest that is short of CPU may refuse a request now and then.
talk() { printf '%s\n' "$2" >/tmp/said && poll 30 curl -fsS --max-time 30 --data-binary @/tmp/said "http://127.0.0.1:8080/$1/log?to=$3"; }
check "they talk" eval 'talk speaker "spoken aloud" stdout && talk whisperer "said quietly" stderr'
check "funcd logs has each one's own" poll 30 eval 'funcd logs speaker | grep "spoken aloud" && ! funcd logs speaker | grep quietly && funcd logs whisperer | grep "said quietly"'
found() { journalctl --sync; journalctl -q -o json "$@" | jq -r .MESSAGE; }
check "the journal has them by function" poll 30 eval 'found FUNCD_FUNCTION=speaker | grep "spoken aloud"'
check "and not another's" eval '! found FUNCD_FUNCTION=speaker | grep quietly'
check "by identifier" eval 'found -t whisperer | grep "said quietly"'
check "by stream" eval 'found FUNCD_STREAM=stderr FUNCD_FUNCTION=whisperer | grep "said quietly" && [ -z "$(found FUNCD_STREAM=stderr FUNCD_FUNCTION=speaker)" ]'
check "they are the unit's" eval 'found -u funcd FUNCD_FUNCTION=speaker | grep "spoken aloud"'
talk speaker 'a line
PRIORITY=0
FUNCD_FUNCTION=whisperer' stdout
check "no line says that it is another's" poll 30 eval 'found FUNCD_FUNCTION=speaker | grep PRIORITY=0 && ! found FUNCD_FUNCTION=whisperer | grep PRIORITY=0'
check "funcd's own log is there" eval 'journalctl -q -u funcd -o cat | grep -v "^$" | head -n 1 | grep .'
rm /etc/funcd/conf.d/20-journal.toml
rm "$functions/speaker" "$functions/whisperer"
systemctl restart funcd
check "without the setting: nothing of functions is in the journal" eval 'drop mute echo && talk mute "for nobody" stdout && poll 30 eval "funcd logs mute | grep nobody" && ! found FUNCD_FUNCTION=mute | grep nobody'
rm "$functions/mute"
