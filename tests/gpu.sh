#!/bin/bash
# timeout: 600
# FEATURES=gpu builds a library that is loaded at run time; without it, or without a GPU, the engine says why and uses the CPU.
cd "$(dirname "$0")/.." || exit 1
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
failed=0
check() { # NAME STATUS
    if [ "$2" -eq 0 ]; then echo "ok gpu: $1"; else echo "not ok gpu: $1"; sed 's/^/  # /' "$work/log"; failed=1; fi
}
# The tool that lies beside a library for an emulated device.
emulated=${BITNET_BUILD:-build/release}/emulated/bitnet
emulated() { # NAME=VALUE DEVICE
    env "$1" "$emulated" run --model models/tales.gguf -p Once -n 4 --seed 1 --quiet --device "$2" >"$work/out" 2>"$work/log"
}
if [ -x "$emulated" ] && [ "${SAN:-}" != thread ]; then
    emulated X= cpu && mv "$work/out" "$work/expected" && emulated X= cuda:0 && cmp "$work/expected" "$work/out" >>"$work/log"
    check "the library beside a program is found, and computes the CPU's tokens" $?
    ! emulated CUDA_EMULATOR_DEVICES=0 cuda:0 && grep -q 'no CUDA device' "$work/log"
    check "no device" $?
    ! emulated CUDA_EMULATOR_DEVICES=2 cuda:2 && grep -q 'cuda:2: there are CUDA devices 0 to 1 only' "$work/log"
    check "a device that is not there" $?
    ! emulated CUDA_EMULATOR_MEMORY=18000000 cuda:0 &&
        grep -qE 'no memory on cuda:0 \(emulated\) .*: [0-9]+ bytes are needed, [0-9]+ of 18000000 are free' "$work/log"
    check "a device that is full says what is needed and what is free" $?
    ! emulated CUDA_EMULATOR_FAIL=1 cuda:0 && grep -q 'cuda:0 (emulated) failed its self-test: .* unspecified launch failure' "$work/log"
    check "a device that fails when it is opened" $?
fi
nvcc=$(command -v nvcc || ls /usr/local/cuda/bin/nvcc 2>/dev/null)
if [ -z "$nvcc" ]; then
    echo "skip gpu: the CUDA library (nvcc not found)"
    exit $failed
fi
unset SAN MAKEFLAGS
make --no-print-directory -j2 OUT="$work/build" FEATURES="cpu gpu prometheus opentelemetry" GENCODE="-gencode arch=compute_90,code=sm_90" cuda >"$work/log" 2>&1
check "the library builds" $?
library=$(find "$work/build" -name libbitnet-cuda.so | head -1)
[ -n "$library" ] && [ "$(nm -D "$library" 2>>"$work/log" | grep -c ' T bitnet_cuda_\(open\|list\)$')" = 2 ]
check "the library exports its two symbols" $?
[ -n "$library" ] && [ -x "$emulated" ] || exit $failed
tool=$(dirname "$library")/bitnet
cp "$emulated" "$tool" # the tool with the plugin, now beside the real library
if command -v nvidia-smi >/dev/null && nvidia-smi -L >/dev/null 2>&1; then
    echo "skip gpu: falling back (there is a GPU here)"
    exit $failed
fi
BITNET_LOG_LEVEL=warn "$tool" run --model models/tales.gguf -p "Once" -n 5 --seed 1 --device gpu >"$work/out" 2>"$work/log"
check "without a GPU the request runs on the CPU" $?
grep -qiE "cuda|gpu" "$work/log"
check "the reason is logged" $?
! "$tool" run --model models/tales.gguf -p "Once" -n 5 --device cuda:0 >"$work/out" 2>"$work/log" && grep -qi "cuda" "$work/log"
check "a device that was named is an error" $?
mv "$library" "$library.away"
BITNET_LOG_LEVEL=warn "$tool" run --model models/tales.gguf -p "Once" -n 5 --seed 1 --device gpu >"$work/out" 2>"$work/log"
check "without the library too" $?
exit $failed
