# The table of attacks, made at the packaged product on this kernel; hosts of their own, below a delegated cgroup.
if [ ! -e /vm/artifacts/attacks ]; then
    skip "the attacks" "they are not built: cargo test -p funcd-tests --test attacks"
    return
fi
cp /usr/bin/funcd /vm/artifacts/funcd
systemd-run --quiet --wait --pipe -p Delegate=yes -p TasksMax=infinity -p LimitNOFILE=524288 \
    --setenv FUNCD_TEST_ARTIFACTS=/vm/artifacts --setenv TMPDIR=/var/tmp \
    /vm/artifacts/attacks --test-threads 2 >/vm/out/attacks.txt 2>&1
code=$?
while read -r _ name _ outcome; do
    case $outcome in
    ok) held=$((${held:-0} + 1)) ;;
    ignored) skipped="${skipped:-} ${name%%_*}" ;;
    *) check "attack $name" eval 'grep -A 12 "^---- $name" /vm/out/attacks.txt; false' ;;
    esac
done < <(grep '^test .* \.\.\. ' /vm/out/attacks.txt)
note "attacks: ${held:-0} trials held; not tried for want of a program: $(echo "${skipped:-none}" | tr ' ' '\n' | sort -u | xargs)"
check "every attack that was tried is stopped" [ $code = 0 ]
check "most of the table was tried" [ "${held:-0}" -ge 80 ]
