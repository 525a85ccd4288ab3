# Run by the guest's agent at each boot, with the drive for results as its argument: takes the steps that the host names, one
# after the other, and goes on with the next one after a reboot or a power cut.
cd /vm || exit 1
step=$(cat .step 2>/dev/null || echo 0)
# A getty or a message of the kernel on this port would be taken for the host's word.
echo "@@ boot $(uname -r), $(systemctl --version | head -n 1)"
read -r -a steps </dev/ttyS1

results() {
    journalctl --no-pager -o short-monotonic >out/journal.txt 2>&1
    tar -cf "$1" -C out . 2>/dev/null
}

while [ "$step" -lt "${#steps[@]}" ]; do
    name=${steps[$step]}
    step=$((step + 1))
    echo "$step" >.step
    sync
    case $name in
    @reboot)
        echo "@@ reboot"
        stty -F /dev/ttyS1 raw -echo # returns when that is out
        systemctl reboot
        sleep infinity
        ;;
    @powercut)
        echo "@@ powercut"
        sleep infinity
        ;;
    *)
        echo "@@ suite $name"
        # A shell of its own: a suite that ends early ends alone. What it prints beside its checks goes to a file.
        bash -c '. ./lib.sh; . "./suites/$0.sh"; : >".ended-$0"' "$name" >"out/$name.txt" 2>&1
        [ -e ".ended-$name" ] || {
            echo "@@ failed the suite comes to its end"
            tail -n 20 "out/$name.txt" | sed 's/^/@@ because /'
        }
        ;;
    esac
done
results "$1"
sync
echo "@@ done"
