#!/bin/bash
# sbom.sh BUILD VERSION GIT_SHA: a CycloneDX 1.5 document on stdout of what the programs in BUILD consist of: the Debian packages of all
# libraries that they load, those of sources that are compiled in, and the bundled model. What only tests need is not in it.
set -eu
cd "$(dirname "$0")/../.."
build=$1 version=$2 git_sha=$3
. tools/package/owners.sh
compiled_in="node-llhttp libprotobuf-dev"

# Short name of the licence of all of a package's files, where its copyright file is machine-readable.
licence() {
    awk '/^Files:/ { all = ($2 == "*") } /^License:/ && all { sub(/^License: */, ""); print; exit }' "/usr/share/doc/$1/copyright" 2>/dev/null || true
}
packages() { # USE PACKAGE...: lines of use, name, version, architecture, source, maintainer, licence, separated by tabs
    dpkg-query -W -f '${Package}\t${Version}\t${Architecture}\t${source:Package}\t${Maintainer}\n' "${@:2}" | while IFS= read -r line; do
        printf '%s\t%s\t%s\n' "$1" "$line" "$(licence "${line%%$'\t'*}")"
    done
}
programs=$(printf "$build/%s " bitnet-engine bitnet-gateway bitnet bitnet-load)
# shellcheck disable=SC2046,SC2086 # words
{
    packages linked $(owners $(loaded $programs))
    packages compiled-in $compiled_in
} | jq -nR --arg version "$version" --arg sha "$git_sha" --arg time "$(date -u -d "@${SOURCE_DATE_EPOCH:-$(date +%s)}" +%FT%TZ)" \
    --arg release "$(. /etc/os-release && echo "$ID-${VERSION_ID:-}")" --arg model "$(sha256sum models/tales.gguf | cut -d' ' -f1)" \
    --arg uuid "$(cat /proc/sys/kernel/random/uuid)" '
    def package: split("\t") as [$use, $name, $version, $arch, $source, $maintainer, $licence] |
        "pkg:deb/debian/\($name | @uri)@\($version | @uri)?arch=\($arch)&distro=\($release)" as $purl |
        {type: "library", "bom-ref": $purl, name: $name, version: $version, purl: $purl, supplier: {name: $maintainer}, scope: "required",
         properties: [{name: "bitnetd:use", value: $use}, {name: "bitnetd:source-package", value: $source}]}
        + (if $licence == "" then {} else {licenses: [{license: {name: $licence}}]} end);
    def apache: [{license: {id: "Apache-2.0"}}];
    "pkg:generic/bitnetd@\($version)" as $self |
    ([inputs | package] + [{type: "machine-learning-model", "bom-ref": "model:tales", name: "tales", scope: "required", licenses: apache,
        hashes: [{alg: "SHA-256", content: $model}]}]) as $parts |
    {"$schema": "http://cyclonedx.org/schema/bom-1.5.schema.json", bomFormat: "CycloneDX", specVersion: "1.5",
     serialNumber: "urn:uuid:\($uuid)", version: 1,
     metadata: {timestamp: $time, component: {type: "application", "bom-ref": $self, name: "bitnetd", version: $version, purl: $self,
        licenses: apache, properties: [{name: "bitnetd:git-sha", value: $sha}]}},
     components: $parts,
     dependencies: [{ref: $self, dependsOn: ($parts | map(."bom-ref"))}]}'
