# A newer package while callers are there; nothing is started again, nobody notices.
check "a function that always runs is deployed" drop lively echo '[scale]
min = 1'
check "it runs" poll 30 instance lively
lively=$(instance lively) main=$(main_pid)
supervisor=$(pgrep -P "$main" -f supervisor)
check "callers are there" host load 8080 vm /lively/
check "apt installs the newer package" apt-get install -y ./product/funcd-next.deb
check "it is the newer one" grep -q '^99' <<<"$(dpkg-query -W -f '${Version}' funcd)"
check "the unit is active" poll 60 systemctl is-active --quiet funcd
check "another supervisor serves" poll 60 eval 'new=$(pgrep -P "$(main_pid)" -f supervisor | head -n 1) && [ "$new" != "$supervisor" ]'
check "callers outside are answered" host get 8080 vm /lively/
check "no request failed" unload
check "the function is the same process" [ "$(instance lively)" = "$lively" ]
check "the main process is the same" [ "$(main_pid)" = "$main" ]
check "what runs is the file that is installed" eval 'for pid in $(main_pid) $(pgrep -P "$(main_pid)" -f supervisor); do cmp "/proc/$pid/exe" /usr/bin/funcd || exit 1; [ ! -e "/proc/$pid/exe" ] || readlink "/proc/$pid/exe"; done'
check "and back" apt-get install -y --allow-downgrades ./product/funcd.deb
check "and back: a caller is answered" host get 8080 vm /lively/
check "and back: the function is the same process" [ "$(instance lively)" = "$lively" ]
rm -r "$functions/lively"
