#!/bin/bash
# sbom.sh BUILD VERSION GIT_SHA: a CycloneDX 1.5 document on stdout of what the programs in BUILD consist of: the Debian packages of all
# libraries that they load, those of sources that are compiled in, and the bundled model. What only tests need is not in it.
set -eu
cd "$(dirname "$0")/../.."
build=$1 version=$2 git_sha=$3
programs="bitnet-engine bitnet-gateway bitnet bitnet-load"

owner() { dpkg -S "$1" 2>/dev/null || dpkg -S "$(realpath "$1")" 2>/dev/null || dpkg -S "/usr$1"; }
linked() {
    for program in $programs; do
        ldd "$build/$program" | sed -nE 's/.* => (\/[^ ]+) .*/\1/p; s/^\t(\/[^ ]+) .*/\1/p'
    done | sort -u | while read -r library; do owner "$library"; done | sed 's/: .*//; s/,.*//' | sort -u
}
# Short names of the licence of a package's files, where its copyright file is machine-readable.
licences() {
    awk '/^Files:/ { all = ($2 == "*") } /^License:/ && all { sub(/^License: */, ""); print; exit }' "/usr/share/doc/${1%%:*}/copyright" 2>/dev/null || true
}
component() { # SCOPE PACKAGE
    dpkg-query -W -f '${Package} ${Version} ${Architecture} ${source:Package} ${Maintainer}\n' "$2" | while read -r name v arch source maintainer; do
        jq -nc --arg name "$name" --arg v "$v" --arg arch "$arch" --arg source "$source" --arg maintainer "$maintainer" --arg how "$1" \
            --arg licence "$(licences "$2")" --arg release "$(. /etc/os-release && echo "$ID-${VERSION_ID:-}")" '
            ("pkg:deb/debian/" + ($name | @uri) + "@" + ($v | @uri) + "?arch=" + $arch + "&distro=" + $release) as $purl |
            {type: "library", "bom-ref": $purl, name: $name, version: $v, purl: $purl, supplier: {name: $maintainer}, scope: "required",
             properties: [{name: "bitnetd:use", value: $how}, {name: "bitnetd:source-package", value: $source}]}
            + (if $licence == "" then {} else {licenses: [{license: {name: $licence}}]} end)'
    done
}
{
    linked | while read -r package; do component linked "$package"; done
    for package in node-llhttp libprotobuf-dev; do component compiled-in "$package"; done
} | jq -s --arg version "$version" --arg sha "$git_sha" --arg time "$(date -u -d "@${SOURCE_DATE_EPOCH:-$(date +%s)}" +%FT%TZ)" \
    --arg model "$(sha256sum models/tales.gguf | cut -d' ' -f1)" --arg uuid "$(cat /proc/sys/kernel/random/uuid)" '
    ("pkg:generic/bitnetd@" + $version) as $self |
    (map(select(.)) + [{type: "machine-learning-model", "bom-ref": "model:tales", name: "tales", scope: "required",
        licenses: [{license: {id: "Apache-2.0"}}], hashes: [{alg: "SHA-256", content: $model}]}]) as $parts |
    {"$schema": "http://cyclonedx.org/schema/bom-1.5.schema.json", bomFormat: "CycloneDX", specVersion: "1.5", serialNumber: ("urn:uuid:" + $uuid), version: 1,
     metadata: {timestamp: $time, component: {type: "application", "bom-ref": $self, name: "bitnetd", version: $version, purl: $self,
        licenses: [{license: {id: "Apache-2.0"}}], properties: [{name: "bitnetd:git-sha", value: $sha}]}},
     components: $parts,
     dependencies: [{ref: $self, dependsOn: ($parts | map(."bom-ref"))}]}'
