#!/bin/bash
# The CUDA emulator finds what it is there to find: tests/cuda/misuse.cu.
cd "$(dirname "$0")/.." || exit 1
program=${BITNET_BUILD:-build/release}/emulated/misuse
if [ ! -x "$program" ] || [ "${SAN:-}" = thread ]; then
    echo "skip emulator: for x86-64, and not with the thread sanitizer"
    exit 0
fi
failed=0
log=$(mktemp) || exit 1
trap 'rm -f "$log"' EXIT
check() { # NAME STATUS
    if [ "$2" -eq 0 ]; then echo "ok emulator: $1"; else echo "not ok emulator: $1"; sed 's/^/  # /' "$log"; failed=1; fi
}
# Bash tells of a process that a signal ended; that is no news here.
run() { { "$program" "$1"; } >"$log" 2>&1; }
finds() { # CASE WORDS NAME: the process ends, and says so
    ! run "$1" && grep -qE "$2" "$log"
    check "$3" $?
}
finds unreached-barrier '127 of 128 threads wait at a barrier, 1 have returned; in .*unreached_kernel.*block 0, 0, 0' "a barrier that a thread does not reach"
finds absent-lane '__shfl_xor_sync of lanes ffffffff; in .*absent_lane_kernel' "a lane that does not come"
finds crossed 'lanes ffffffff meet in (__shfl_xor_sync and in __ballot_sync|__ballot_sync and in __shfl_xor_sync)' "lanes that meet in two operations"
finds overrun 'Segmentation|SEGV|AddressSanitizer' "a write behind device memory"
finds host-touch 'Segmentation|SEGV|AddressSanitizer' "a touch of device memory by the host"
holds() { # CASE NAME
    run "$1"
    check "$2" $?
}
holds missing-barrier "threads run in an order that shows a barrier that is missing"
holds missing-wait "copies to shared memory arrive when they are waited for"
holds instructions "products of a warp are those of the instructions"
holds host-argument "an argument that points to the host is an error"
holds full "memory has an end"
holds lost "a lost device fails all calls"
holds late-copies "copies from pinned memory are late, from other memory at once"
holds events "streams wait for events only"
holds graphs "a captured graph runs when it is launched"
exit $failed
