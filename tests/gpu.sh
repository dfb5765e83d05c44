#!/bin/bash
# timeout: 600
# FEATURES=gpu builds a library that is loaded at run time; without it, or without a GPU, the engine says why and uses the CPU.
cd "$(dirname "$0")/.." || exit 1
nvcc=$(command -v nvcc || ls /usr/local/cuda/bin/nvcc 2>/dev/null)
if [ -z "$nvcc" ]; then
    echo "skip gpu: the CUDA library (nvcc not found)"
    exit 0
fi
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
failed=0
check() { # NAME STATUS
    if [ "$2" -eq 0 ]; then echo "ok gpu: $1"; else echo "not ok gpu: $1"; sed 's/^/  # /' "$work/log"; failed=1; fi
}
unset SAN MAKEFLAGS
make --no-print-directory OUT="$work/build" FEATURES="cpu gpu prometheus opentelemetry" tools cuda >"$work/log" 2>&1
check "the library and the tool build" $?
library=$(find "$work/build" -name libbitnet-cuda.so | head -1)
tool=$(find "$work/build" -name bitnet -type f | head -1)
[ -n "$library" ] && nm -D "$library" 2>>"$work/log" | grep -q ' T bitnet_cuda_open'
check "the library exports its one symbol" $?
[ -n "$tool" ] || exit 1
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
