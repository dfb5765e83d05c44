#!/bin/bash
# deb.sh PACKAGE: the package in a fresh Debian: installs, its programs run as its user with its configuration, it is installed again over a
# changed configuration, removed, and purged.
cd "$(dirname "$0")/../.." || exit 1
package=$(realpath "${1:-build/bitnetd.deb}")
. tests/package/lib.sh
need_root deb
root=$work/root
debian_root "$root"
before=$(installed_kib "$root")
cp "$package" "$root/root/bitnetd.deb"
in_root "$root" sh -c 'apt-get update -qq && apt-get install -y -qq /root/bitnetd.deb' >"$work/log" 2>&1
check "deb: installs with what it depends on" $? "$work/log" || exit 1
rm -rf "$root"/var/lib/apt/lists/* "$root"/var/cache/apt/*
echo "# $((($(installed_kib "$root") - before) / 1024)) MiB more than before; $(in_root "$root" dpkg-query -W -f '${Depends}' bitnetd)"
in_root "$root" getent passwd bitnet >"$work/log"
check "deb: its user is there" $? "$work/log"
in_root "$root" dpkg --verify bitnetd >"$work/log" 2>&1 && ! [ -s "$work/log" ]
check "deb: all files are as they were packed" $? "$work/log"
for program in bitnet-engine bitnet-gateway; do
    in_root "$root" $program --config /etc/bitnet/$program.conf --check-config >"$work/log" 2>&1
    check "deb: $program takes its configuration" $? "$work/log"
done
MOUNTS='ip link set lo up 2>/dev/null || true' in_root "$root" sh -c '
    install -d -o bitnet /run/bitnet
    setpriv --reuid bitnet --regid bitnet --clear-groups bitnet-engine --config /etc/bitnet/bitnet-engine.conf --listen unix:/run/bitnet/e --admin-listen unix:/run/bitnet/a &
    for i in $(seq 300); do bitnet-engine healthcheck --target unix:/run/bitnet/e >/dev/null 2>&1 && exit 0; sleep 0.1; done; exit 1' >"$work/log" 2>&1
check "deb: the engine serves as its user with the packaged model" $? "$work/log"
in_root "$root" sh -c 'echo "log-level = warn" >>/etc/bitnet/bitnet-gateway.conf && apt-get install -y -qq --reinstall /root/bitnetd.deb &&
    grep -q "^log-level = warn" /etc/bitnet/bitnet-gateway.conf' >"$work/log" 2>&1
check "deb: installing it again keeps a changed configuration" $? "$work/log"
in_root "$root" sh -c 'apt-get remove -y -qq bitnetd && test -f /etc/bitnet/bitnet-gateway.conf && ! test -e /usr/bin/bitnet-engine &&
    apt-get purge -y -qq bitnetd && ! test -e /etc/bitnet && ! test -e /etc/default/bitnet-engine' >"$work/log" 2>&1
check "deb: removed but for the configuration, purged with it" $? "$work/log"
if command -v lintian >/dev/null; then
    lintian --fail-on error --suppress-tags-from-file tests/package/lintian "$package" >"$work/log" 2>&1
    check "deb: lintian finds no error" $? "$work/log"
    sed 's/^/# /' "$work/log"
else
    echo "skip deb: lintian (apt-get install lintian)"
fi
exit $failed
