#!/bin/bash
# fuzz.sh FOLDER SECONDS: runs each fuzzer of the folder for that long, from tests/fuzz/corpus/<name> where there is one.
# New inputs and crashes stay below build/fuzz. Exit 1 when one found something.
set -u
cd "$(dirname "$0")/.." || exit 1
folder=$1 seconds=$2 status=0 n=0
for source in tests/fuzz/fuzz_*.c; do
    [ -f "$source" ] || continue
    name=$(basename "$source" .c)
    found=build/fuzz/found/$name
    mkdir -p "$found"
    n=$((n + 1))
    seeds=()
    [ -d "tests/fuzz/corpus/$name" ] && seeds=("tests/fuzz/corpus/$name")
    echo "$name: $seconds s"
    if "$folder/$name" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -print_final_stats=1 -verbosity=0 \
        -artifact_prefix="$found-" "$found" "${seeds[@]}" >"$found.log" 2>&1; then
        grep -E 'number_of_executed_units|new_units_added' "$found.log" | sed 's/^/  /'
    else
        sed 's/^/  | /' "$found.log"
        status=1
    fi
done
echo "$n fuzzers, $([ "$status" -eq 0 ] && echo "nothing found" || echo "FAILED")"
exit "$status"
