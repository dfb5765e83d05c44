#!/bin/bash
# deb.sh BUILD VERSION OUT: a Debian package of what was built in BUILD, with nothing but dpkg-deb. It depends on the packages whose
# libraries the programs link, which are looked up on this machine, so build it on the release that it is for. DEBFULLNAME and DEBEMAIL say who
# makes it, as for Debian's own tools.
set -eu
cd "$(dirname "$0")/../.."
build=$1 version=$2 out=$(realpath -m "$3")
maintainer="${DEBFULLNAME:-bitnetd} <${DEBEMAIL:-root@localhost}>"
case $build in *address* | *undefined* | *thread* | *fuzz*) echo "deb: expected a build without a sanitizer, found $build" >&2 && exit 1 ;; esac

root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
chmod 755 "$root"
umask 022
# One time for all files, so that the same sources give the same package.
export SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || date +%s)}

tools/package/install.sh "$build" "$root" /usr
rm "$root/usr/share/bitnet/LICENSE" # in copyright
find "$root/usr/bin" "$root/usr/lib" -type f \( -perm -u+x -o -name '*.so' \) -exec strip --strip-unneeded --remove-section=.comment {} +
find "$root/usr/share/man" -type f -exec gzip -9n {} +

# The samples become the configuration, with the bundled model first and a place for others.
install -d "$root/etc/bitnet" "$root/etc/default" "$root/var/lib/bitnet/models"
mv "$root"/usr/share/doc/bitnetd/examples/*.conf "$root/etc/bitnet"
rmdir "$root/usr/share/doc/bitnetd/examples"
set_option() { # NAME VALUE
    sed -i "s|^#$1 =\$|$1 = $2|" "$root/etc/bitnet/bitnet-engine.conf"
    grep -q "^$1 = $2" "$root/etc/bitnet/bitnet-engine.conf"
}
set_option model /usr/share/bitnet/tales.gguf
set_option model-dirs /var/lib/bitnet/models:/usr/share/bitnet
set_option state-file /var/lib/bitnet/state
for program in bitnet-engine bitnet-gateway; do
    printf '# Variables of %s, such as BITNET_LOG_LEVEL=debug; they win over /etc/bitnet/%s.conf.\n' $program $program >"$root/etc/default/$program"
done

doc=$root/usr/share/doc/bitnetd
install -m 644 tools/package/debian/copyright "$doc/copyright"
{
    printf 'bitnetd (%s) unstable; urgency=medium\n\n  * See /usr/share/doc/bitnetd/NEWS.gz.\n\n' "$version"
    printf ' -- %s  %s\n' "$maintainer" "$(date -u -R -d "@$SOURCE_DATE_EPOCH")"
} | gzip -9n >"$doc/changelog.gz"
gzip -9n <CHANGELOG.md >"$doc/NEWS.gz"

. tools/package/owners.sh
# shellcheck disable=SC2046 # paths
depends=$(owners $(needed "$root"/usr/bin/*) | sed 's/:.*//' | sort -u | paste -sd, | sed 's/,/, /g')
install -d "$root/DEBIAN"
(cd "$root" && find etc -type f -printf '/%p\n' | sort) >"$root/DEBIAN/conffiles"
(cd "$root" && find usr -type f -print0 | sort -z | xargs -0 md5sum) >"$root/DEBIAN/md5sums"
sed -e "s/@VERSION@/$version/; s/@ARCHITECTURE@/$(dpkg --print-architecture)/; s/@DEPENDS@/$depends/" \
    -e "s|@MAINTAINER@|$maintainer|; s/@SIZE@/$(du -ks --exclude=DEBIAN "$root" | cut -f1)/" tools/package/debian/control >"$root/DEBIAN/control"
for script in postinst prerm postrm; do
    install -m 755 "tools/package/debian/$script" "$root/DEBIAN/$script"
done
mkdir -p "$(dirname "$out")"
dpkg-deb --root-owner-group -Zxz --build "$root" "$out" >/dev/null
echo "$out: $(stat -c %s "$out") bytes, installed $(sed -n 's/^Installed-Size: //p' "$root/DEBIAN/control") KiB"
