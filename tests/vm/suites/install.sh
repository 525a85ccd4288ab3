# From the package to the first answer.
began=$(date +%s%N)
mkdir -p /etc/funcd/conf.d
printf 'listen = ["0.0.0.0:8080"]\nadmin_listen = "127.0.0.1:9090"\n' >/etc/funcd/conf.d/10-vm.toml
check "the package is installed" apt-get install -y ./product/funcd.deb
check "the unit is active" poll 60 systemctl is-active --quiet funcd
check "the host is ready" poll 60 curl -fs --unix-socket /run/funcd/admin.sock http://funcd/readyz
check "a dropped executable is deployed" drop hello hello
check "it answers" answers /hello/ 'Hello from funcd'
note "from the start of the installation to the first answer: $(($(date +%s%N) / 1000000 - began / 1000000)) ms, emulated"
check "it answers callers outside" host get 8080 vm /hello/
check "funcd doctor finds every property kept" funcd doctor
check "the unit's files are without a fault" systemd-analyze --man=no verify funcd.service
systemd-analyze security --no-pager funcd.service >out/security.txt 2>&1
note "systemd-analyze security: $(tail -n 1 out/security.txt | tr -cd ' -~')"
