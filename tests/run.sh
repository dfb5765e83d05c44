#!/bin/bash
# Runs all tests, or those whose path has the argument in it: one line for each program, the output of those that failed,
# and last, alone on its line, "N passed, M failed" (", K skipped" when there were any). Exit 1 when any failed.
#
# A unit test is a Check executable below $BITNET_BUILD/tests. A script (tests/*.sh, tests/golden/*.sh, tests/e2e/*.{sh,mjs};
# lib* and harness* are helpers) prints "ok NAME", "not ok NAME" or "skip NAME reason" for each of its cases, and
# may ask for more than 120 seconds by "timeout: SECONDS" in its first ten lines. A Check case that cannot run prints such
# a skip line too. Scripts get BITNET_BUILD, the folder with the programs, and BITNET_SHARED, which is empty where the
# folder ../shared with models and reference data is not there: the cases that need it are skipped then.
set -u
cd "$(dirname "$0")/.." || exit 1
export BITNET_BUILD=${BITNET_BUILD:-build/release}
export BITNET_SHARED=
[ -d ../shared ] && BITNET_SHARED=$(cd ../shared && pwd)
filter=${1:-}
slow=1
if [ -n "${SAN:-}" ]; then
    slow=4
    # An allocation that is too large returns NULL as it does without a sanitizer.
    export ASAN_OPTIONS=halt_on_error=1:allocator_may_return_null=1:detect_leaks=1:detect_stack_use_after_return=1${ASAN_OPTIONS:+:$ASAN_OPTIONS}
    export UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1${UBSAN_OPTIONS:+:$UBSAN_OPTIONS}
    export TSAN_OPTIONS=halt_on_error=1:allocator_may_return_null=1:second_deadlock_stack=1:suppressions=$PWD/tests/tsan.supp${TSAN_OPTIONS:+:$TSAN_OPTIONS}
fi
export CK_DEFAULT_TIMEOUT=$((60 * slow)) CK_VERBOSITY=normal

work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM
passed=0 failed=0 skipped=0
n_begun=0 n_shown=0 # programs

count() { grep -cE "$1" "$2" 2>/dev/null || true; }

# In the folder of one program, $at: its output in out, what is printed of it in report, its figures in counts.

# report NAME STATUS OK NOT_OK SKIP SECONDS: the line, and the output if it failed.
report() {
    local name=$1 status=$2 ok=$3 not_ok=$4 skip=$5 seconds=$6 word=ok
    if [ "$status" -eq 124 ] || [ "$status" -eq 137 ]; then
        echo "stopped: over its time limit" >>"$at/out"
    fi
    # A program that died has failed even if the cases it got to had not; one that says nothing has shown nothing.
    if [ "$not_ok" -eq 0 ] && { [ "$status" -ne 0 ] || [ $((ok + skip)) -eq 0 ]; }; then
        not_ok=1
    fi
    [ "$ok" -eq 0 ] && [ "$skip" -gt 0 ] && word=skip
    [ "$not_ok" -gt 0 ] && word=FAIL
    {
        printf '%-4s %-52s %4d passed' "$word" "$name" "$ok"
        [ "$not_ok" -gt 0 ] && printf ', %d failed' "$not_ok"
        [ "$skip" -gt 0 ] && printf ', %d skipped' "$skip"
        printf '  %ss\n' "$seconds"
        if [ "$word" = FAIL ]; then
            sed 's/^/    | /' "$at/out"
        elif [ "$skip" -gt 0 ]; then
            grep -E '^skip ' "$at/out" | sed 's/^/     /'
        fi
    } >"$at/report"
    echo "$ok $not_ok $skip" >"$at/counts.part"
    mv "$at/counts.part" "$at/counts" # whole, or not there
}

# run LIMIT COMMAND...: leaves output in $at/out, status in $status, time in $seconds.
run() {
    local limit=$1 began
    shift
    began=$(date +%s%N)
    timeout --kill-after=10 "$limit" "$@" >"$at/out" 2>&1 </dev/null
    status=$?
    seconds=$(awk "BEGIN { printf \"%.1f\", ($(date +%s%N) - $began) / 1e9 }")
}

run_check() {
    local ok not_ok skip
    CK_TAP_LOG_FILE_NAME=$at/tap run $((120 * slow)) "$1"
    ok=$(count '^ok ' "$at/tap")
    not_ok=$(count '^not ok ' "$at/tap")
    skip=$(count '^skip ' "$at/out")
    [ -n "$ok" ] || ok=0
    [ -n "$not_ok" ] || not_ok=0
    report "${1#"$BITNET_BUILD"/}" "$status" $((ok > skip ? ok - skip : 0)) "$not_ok" "$skip" "$seconds"
}

run_script() {
    local limit
    limit=$(head -10 "$1" | sed -nE 's/.*timeout: ([0-9]+).*/\1/p' | head -1)
    case $1 in
    *.mjs) run $((${limit:-120} * slow)) node "$1" ;;
    *) run $((${limit:-120} * slow)) bash "$1" ;;
    esac
    report "$1" "$status" "$(count '^ok ' "$at/out")" "$(count '^not ok ' "$at/out")" \
        "$(count '^skip ' "$at/out")" "$seconds"
}

# Prints what has ended, in the order in which it began.
show() {
    local ok not_ok skip
    while [ -f "$work/$n_shown/counts" ]; do
        cat "$work/$n_shown/report"
        read -r ok not_ok skip <"$work/$n_shown/counts"
        passed=$((passed + ok)) failed=$((failed + not_ok)) skipped=$((skipped + skip))
        rm -r "${work:?}/$n_shown"
        n_shown=$((n_shown + 1))
    done
}

# begin COMMAND...: runs it beside at most $beside - 1 others.
begin() {
    while [ "$(jobs -rp | wc -l)" -ge "$beside" ]; do
        wait -n
        show
    done
    at=$work/$n_begun
    mkdir "$at"
    "$@" &
    n_begun=$((n_begun + 1))
}

end() {
    wait
    show
}

# Programs without clients run beside each other.
beside=$([ -n "${SAN:-}" ] && echo 1 || nproc)
[ "$beside" -gt 4 ] && beside=4
while read -r source; do
    case $source in *"$filter"*) begin run_check "$BITNET_BUILD/${source%.c}" ;; esac
done < <(find tests/unit tests/kernels -name 'test_*.c' 2>/dev/null | LC_ALL=C sort)
end

for script in tests/*.sh tests/golden/*.sh tests/e2e/*.sh tests/e2e/*.mjs; do
    case $script in tests/run.sh | tests/fuzz.sh | */lib* | */harness*) continue ;; esac
    [ -f "$script" ] || continue
    case $script in
    tests/e2e/*)
        [ "$beside" -gt 1 ] && end
        beside=1
        ;;
    esac
    case $script in *"$filter"*) begin run_script "$script" ;; esac
done
end

printf '%d passed, %d failed' "$passed" "$failed"
[ "$skipped" -gt 0 ] && printf ', %d skipped' "$skipped"
echo
[ "$failed" -eq 0 ] && [ $((passed + skipped)) -gt 0 ]
