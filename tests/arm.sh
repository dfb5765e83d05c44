#!/bin/bash
# timeout: 900
# The CPU backend on aarch64, by a cross build that runs under qemu: the kernel tests with plain NEON and with dot products, and logits
# that are the bytes of the native build. Check is not there for aarch64: tests/cross stands in for it.
cd "$(dirname "$0")/.." || exit 1
build=${BITNET_BUILD:-build/release}
sysroot=/usr/aarch64-linux-gnu
if ! command -v aarch64-linux-gnu-gcc >/dev/null || ! command -v qemu-aarch64 >/dev/null || [ ! -d $sysroot ]; then
    echo "skip arm: kernels and logits (aarch64-linux-gnu-gcc, its C library or qemu-aarch64 not found)"
    exit 0
fi
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
failed=0
check() { # NAME STATUS
    if [ "$2" -eq 0 ]; then echo "ok arm: $1"; else echo "not ok arm: $1"; sed 's/^/  # /' "$work/log"; failed=1; fi
}
# The first has no dot products.
cpu_of() { case $1 in neon) echo cortex-a57 ;; dotprod) echo max ;; esac; }
on() { # ISA COMMAND...: on a CPU whose best instruction set that is
    local cpu
    cpu=$(cpu_of "$1")
    shift
    qemu-aarch64 -L $sysroot -cpu "$cpu" "$@"
}

unset SAN MAKEFLAGS FEATURES
export BITNET_TEST_QUICK=1
cross() { make --no-print-directory CC=aarch64-linux-gnu-gcc HAVE_NUMA=0 HAVE_PCRE2=0 OUT="${build%/*}" "$@"; }
arm=${build%/*}/release-aarch64-NUMA0-PCRE20
tests=$(printf '%s\n' tests/kernels/test_*.c tests/unit/kernels/test_{arith,backend,tensor}.c | sed 's/\.c$//; /test_cuda/d') # CUDA's emulated device is for x86-64
# shellcheck disable=SC2086 # a list of words
cross -j2 "$arm/bitnet" ${tests//tests\//$arm/tests/} >"$work/log" 2>&1
check "libraries, tests and the tool build" $?
[ $failed -eq 0 ] || exit 1

# Each test of a program is a case of this script.
run_tests() { # ISA
    local test status
    for test in $tests; do
        on "$1" "$arm/$test" >"$work/out" 2>"$work/log"
        status=$?
        sed -nE "s/^ok /&arm $1: /p; s/^not ok /  # &/p" "$work/out"
        [ $status -eq 0 ] && grep -q '^ok ' "$work/out" || check "$1: $test" 1
    done
}

# A sequence of one token, and one that is no multiple of a chunk or of what a kernel takes at once.
{ echo 5 && seq 1 67 4000 | tr '\n' ' '; } >"$work/ids"
logits() { # OUTPUT COMMAND...
    local output=$work/$1
    shift
    "$@" --model models/tales.gguf --tokens "$work/ids" -o "$output" --threads 2
}
logits native "$build/bitnet" logits --isa portable >"$work/log" 2>&1
check "logits of the native build" $?

cases() { # ISA
    local isa=$1 native=$work/native failed=0
    local work=$work/$1
    mkdir -p "$work"
    cp "$native" "$work/native"
    cp "${native%/*}/ids" "$work/ids"
    run_tests "$isa"
    on "$isa" "$arm/bitnet" bench --model models/tales.gguf -p 1 -n 0 -r 1 --json >"$work/log" 2>&1
    grep -q "\"isa\":\"$isa\"" "$work/log"
    check "$isa: found at run time" $?
    for chunk in 7 512; do
        logits "$isa" on "$isa" "$arm/bitnet" logits --chunk $chunk >"$work/log" 2>&1 &&
            cmp "$work/native" "$work/$isa" >>"$work/log" 2>&1
        check "$isa: logits in chunks of $chunk are the native build's bytes" $?
    done
    return $failed
}

# Both at once: the tests are mostly of one thread.
cases neon >"$work/neon.out" &
cases dotprod || failed=1
wait $! || failed=1
cat "$work/neon.out"
exit $failed
