#!/bin/bash
# timeout: 900
# The engine under the thread sanitizer, over the null model, so that it is done in seconds: many threads at once, and every end in every phase.
cd "$(dirname "$0")/.." || exit 1
build=${BITNET_BUILD:-build/release}
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
unset SAN MAKEFLAGS FEATURES
export TSAN_OPTIONS=halt_on_error=1:second_deadlock_stack=1 CK_DEFAULT_TIMEOUT=240
thread=${build%/*}/thread

echo 'int main(void) { return 0; }' >"$work/main.c"
if ! gcc -fsanitize=thread -o "$work/main" "$work/main.c" 2>/dev/null || ! "$work/main" 2>/dev/null; then
    echo "skip race: the engine's threads (gcc has no thread sanitizer that runs here)"
    exit 0
fi
tests="stress phases"
# shellcheck disable=SC2046,SC2059,SC2086 # a list of words
if ! make --no-print-directory SAN=thread OUT="${build%/*}" -j2 $(printf "$thread/tests/unit/engine/test_%s " $tests) >"$work/log" 2>&1; then
    echo "not ok race: the tests build"
    sed 's/^/  # /' "$work/log"
    exit 1
fi
for test in $tests; do
    if "$thread/tests/unit/engine/test_$test" >"$work/log" 2>&1; then
        echo "ok race: $test"
    else
        echo "not ok race: $test"
        sed 's/^/  # /' "$work/log"
    fi
done
