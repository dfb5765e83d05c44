#!/bin/bash
# timeout: 120
# FEATURES: every set of them compiles. A feature changes the sources that name it and no other, so each of these is compiled with all sets of
# those that it names, which stands for all sets of all; `make features` builds and tests whole programs.
cd "$(dirname "$0")/.." || exit 1
build=${BITNET_BUILD:-build/release}
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
read -ra features <<<"$(sed -n 's/^ALL_FEATURES := //p' Makefile)"
macros=()
for feature in "${features[@]}"; do macros+=("FEATURE_$(tr a-z- A-Z_ <<<"$feature")"); done
llhttp=$(dirname "$(find /usr/share/include/llhttp /usr/include -maxdepth 1 -name llhttp.h 2>/dev/null | head -1)")
flags=(-D_GNU_SOURCE -I. "-I$build/gen" "-I$llhttp" -std=c11 -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Werror -fsyntax-only)
n_compiled=0

compile() { # SOURCE DEFINITION...
    n_compiled=$((n_compiled + 1))
    gcc "${flags[@]}" "${@:2}" "$1" >>"$work/log" 2>&1 || echo "$1 with ${*:2}" >>"$work/log"
}
sets() { # SOURCE "DEFINITIONS" MACRO...: all sets of the macros
    if [ $# -eq 2 ]; then
        # shellcheck disable=SC2086 # words
        compile "$1" $2
    else
        sets "$1" "$2" "${@:4}"
        sets "$1" "$2 -D$3=1" "${@:4}"
    fi
}
: >"$work/named"
while read -r source; do
    named=()
    for macro in "${macros[@]}"; do ! grep -qw "$macro" "$source" || { named+=("$macro") && echo "$macro" >>"$work/named"; }; done
    sets "$source" "" "${named[@]}"
done < <(grep -lE '\bFEATURE_[A-Z]' --include='*.c' -r $(ls -d base kernels engine rpc trace service gateway tools tests/unit 2>/dev/null) | LC_ALL=C sort)
if ! [ -s "$work/log" ] && [ $n_compiled -gt 8 ]; then
    echo "ok features: sources compile with all sets of those that they name ($n_compiled compilations)"
else
    head -30 "$work/log" | sed 's/^/  # /'
    echo "not ok features: sources compile with all sets of those that they name"
fi
# A feature that nothing names would be a word without meaning.
for macro in "${macros[@]}"; do
    if grep -qx "$macro" "$work/named"; then echo "ok features: $macro means something"; else echo "not ok features: $macro means something"; fi
done
if ! make -n --no-print-directory FEATURES="cpu gpuu" help >"$work/out" 2>&1 && grep -q 'found gpuu' "$work/out"; then
    echo "ok features: an unknown one is an error"
else
    echo "not ok features: an unknown one is an error"
fi
