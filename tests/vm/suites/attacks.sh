# The table of attacks, made at the packaged product on this kernel; hosts of their own, below a delegated cgroup. By a static
# executable alone, and without the rows that no kernel has a part in (what callers send, what is logged): those are
# made where the tests are built, and take long here.
if [ ! -e /vm/artifacts/attacks ]; then
    skip "the attacks" "they are not built: cargo test -p funcd-tests --test attacks"
    return
fi
cp /usr/bin/funcd /vm/artifacts/funcd
systemd-run --quiet --wait --pipe -p Delegate=yes -p TasksMax=infinity -p LimitNOFILE=524288 \
    --setenv FUNCD_TEST_ARTIFACTS=/vm/artifacts --setenv TMPDIR=/var/tmp \
    /vm/artifacts/attacks --test-threads 2 --skip ::dynamic --skip ::python --skip ::node --skip 42_ --skip 43_ --skip 44_ \
    --skip 45_ --skip 46_ --skip 47_ --skip 51_ --skip 53_ --skip 54_ --skip 55_ >/vm/out/attacks.txt 2>&1
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
check "most of the table was tried" [ "${held:-0}" -ge 40 ]
