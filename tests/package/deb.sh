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
    install -d -o bitnet -g bitnet /run/bitnet /var/lib/bitnet
    setpriv --reuid bitnet --regid bitnet --clear-groups bitnet-engine --config /etc/bitnet/bitnet-engine.conf --listen unix:/run/bitnet/e --admin-listen unix:/run/bitnet/a &
    for i in $(seq 300); do bitnet-engine healthcheck --target unix:/run/bitnet/e >/dev/null 2>&1 && exit 0; sleep 0.1; done; exit 1' >"$work/log" 2>&1
check "deb: the engine serves as its user with the packaged model" $? "$work/log"
in_root "$root" sh -c 'echo "log-level = warn" >>/etc/bitnet/bitnet-gateway.conf && apt-get install -y -qq --reinstall /root/bitnetd.deb &&
    grep -q "^log-level = warn" /etc/bitnet/bitnet-gateway.conf' >"$work/log" 2>&1
check "deb: installing it again keeps a changed configuration" $? "$work/log"
# Under systemd, where cgroups of one's own can be had.
boot() {
    rm -f "$root/usr/sbin/policy-rc.d"
    install -m 755 tests/package/boot.sh "$root/root/boot.sh"
    printf '[Service]\nExecStart=/root/boot.sh\nStandardOutput=file:/root/boot.log\nStandardError=file:/root/boot.log\n' >"$root/etc/systemd/system/boot-test.service"
    ln -sf ../boot-test.service "$root/etc/systemd/system/multi-user.target.wants/boot-test.service"
    MOUNTS='mount -t sysfs sysfs "$R/sys" && mount -t tmpfs run "$R/run" && { mountpoint -q "$R/sys/fs/cgroup" || mount -t cgroup2 cgroup2 "$R/sys/fs/cgroup"; } && ip link set lo up' \
        UNSHARE="--cgroup --ipc --uts --net" timeout 120 bash -c '. tests/package/lib.sh; in_root "$@"' bash "$root" /usr/bin/env -i container=chroot \
        PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd --unit=multi-user.target --show-status=no >"$work/systemd" 2>&1
    [ -f "$root/root/boot.log" ]
}
if ! unshare --mount --cgroup sh -c 'mount -t cgroup2 cgroup2 /mnt' 2>"$work/log"; then
    echo "skip deb: the services under systemd (cgroups of one's own are not allowed here)"
elif in_root "$root" sh -c "apt-get update -qq && apt-get install -y -qq systemd" >"$work/log" 2>&1 && boot; then
    sed -n 's/^note: /# /p' "$root/root/boot.log"
    sed -n 's/^case /ok deb: systemd: /p; s/^fails: /not ok deb: systemd: /p' "$root/root/boot.log"
    ! grep -q '^fails: ' "$root/root/boot.log" && [ "$(grep -c '^case ' "$root/root/boot.log")" -ge 11 ]
    check "deb: systemd runs both services" $? "$root/root/boot.log"
else
    check "deb: systemd boots" 1 "$work/log"
fi
in_root "$root" sh -c 'apt-get remove -y -qq bitnetd && test -f /etc/bitnet/bitnet-gateway.conf && ! test -e /usr/bin/bitnet-engine &&
    apt-get purge -y -qq bitnetd && ! test -e /etc/bitnet && ! test -e /etc/default/bitnet-engine' >"$work/log" 2>&1
check "deb: removed but for the configuration, purged with it" $? "$work/log"
if command -v lintian >/dev/null; then
    # Who made it is not known here.
    lintian --allow-root --fail-on error --suppress-tags bogus-mail-host,bogus-mail-host-in-debian-changelog,root-in-contact "$package" >"$work/log" 2>&1
    check "deb: lintian finds no error" $? "$work/log"
    sed 's/^/# /' "$work/log"
else
    echo "skip deb: lintian (apt-get install lintian)"
fi
exit $failed
