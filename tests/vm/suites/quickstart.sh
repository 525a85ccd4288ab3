# docs/quickstart.md, to the letter, by an ordinary user with sudo, on a machine that has never seen funcd. It ends with
# the package purged.
user=newcomer
useradd -m -s /bin/bash $user
echo "$user ALL=(ALL) NOPASSWD: ALL" >/etc/sudoers.d/newcomer
cp product/funcd.deb "/home/$user/"
chown -R $user: "/home/$user"
first() { head -n 1 <<<"$1" | cut -c1-70; }
as_user() { runuser -u $user -- env -i -C "/home/$user" HOME="/home/$user" USER=$user LC_ALL=C.UTF-8 PATH=/usr/local/bin:/usr/bin:/bin "$@"; }

# `…` in what is printed stands for anything.
fits() { perl -e 'my ($e, $s) = @ARGV; s/\s+\z// for $e, $s; $e = join ".*", map quotemeta, split /\xe2\x80\xa6/, $e, -1; exit($s =~ /\A$e\z/s ? 0 : 1)' "$1" "$2"; }

# How the document's blocks are done; the script below is made of them.
file() {
    run() { printf %s "$2" | as_user tee "$1" >/dev/null && as_user chmod 755 "$1"; }
    check "write $1" run "$1" "$2"
}
script() {
    run() { as_user bash -euc "$1"; }
    check "$(first "$1")" run "$1"
    # What is restarted is ready before the next command is typed by hand.
    ! systemctl is-active --quiet funcd || poll 60 curl -fs --unix-socket /run/funcd/admin.sock http://funcd/readyz
}
typed() {
    run() {
        local said
        said=$(as_user bash -c "$1") || { echo "it failed; it printed: $said"; return 1; }
        fits "$2" "$said" || { echo "it printed: $said"; return 1; }
    }
    check "$(first "$1")" run "$1" "$2"
}
elsewhere() { check "elsewhere: $(first "$2")" host elsewhere "$1"; }
. ./quickstart.sh

check "nothing of it is left" eval '[ ! -e /usr/bin/funcd ] && [ ! -e /var/lib/funcd ] && [ ! -e /etc/funcd ] && ! systemctl cat funcd.service'
rm -rf /etc/systemd/system/funcd.service.d /etc/systemd/system.control/funcd.slice.d
systemctl daemon-reload
