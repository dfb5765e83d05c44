#!/bin/bash
# documents.sh BUILD OUT: what the programs in BUILD write about themselves, from their tables of options: manual pages into OUT/man, sample
# configuration files into OUT/doc/bitnetd/examples.
set -eu
cd "$(dirname "$0")/../.."
build=$1 out=$2
mkdir -p "$out/man/man1" "$out/man/man8" "$out/doc/bitnetd/examples"

page() { # NAME SECTION COMMAND...: what the command prints, and what docs/man adds
    local to=$out/man/man$2/$1.$2
    "${@:3}" --help=man >"$to"
    ! [ -f "docs/man/$1.roff" ] || cat "docs/man/$1.roff" >>"$to"
}

for program in bitnet-engine bitnet-gateway; do
    page $program 8 "$build/$program"
    "$build/$program" --help=config >"$out/doc/bitnetd/examples/$program.conf"
done
page bitnet-load 1 "$build/bitnet-load"
page bitnet 1 "$build/bitnet"
"$build/bitnet" --help | sed -nE 's/^  ([a-z-]+) +.*/\1/p' | while read -r command; do
    page "bitnet-$command" 1 "$build/bitnet" "$command"
done
