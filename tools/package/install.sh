#!/bin/bash
# install.sh BUILD DESTDIR PREFIX: puts what was built in BUILD where a Linux system looks for it.
set -eu
cd "$(dirname "$0")/../.."
build=$1 to=$2$3 prefix=$3

install -d "$to/bin" "$to/share/bitnet" "$to/lib/systemd/system" "$to/lib/sysusers.d"
for program in bitnet-engine bitnet-gateway bitnet bitnet-load; do
    install -m 755 "$build/$program" "$to/bin"
done
install -m 644 LICENSE models/*.gguf "$to/share/bitnet"
# Where the programs look for it, from where they lie.
! [ -f "$build/libbitnet-cuda.so" ] || install -D -m 644 "$build/libbitnet-cuda.so" "$to/lib/bitnet/libbitnet-cuda.so"
for unit in tools/package/systemd/*.service; do
    sed "s#/usr/bin/bitnet#$prefix/bin/bitnet#" "$unit" >"$to/lib/systemd/system/${unit##*/}"
done
install -m 644 tools/package/systemd/sysusers.conf "$to/lib/sysusers.d/bitnetd.conf"
tools/package/documents.sh "$build" "$to/share"
