#!/bin/bash
# timeout: 120
# What is installed and how: the package's content, the units, the bill of materials, the Dockerfile, compose and workflow files. They are run in
# earnest by `make deb-test`, `make image-test` and `make readme-test`, which take minutes.
cd "$(dirname "$0")/.." || exit 1
build=${BITNET_BUILD:-build/release}
out=${build%/*}
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
: >"$work/log"
check() { # NAME STATUS
    if [ "$2" -eq 0 ]; then echo "ok package: $1"; else echo "not ok package: $1"; tail -n 20 "$work/log" | sed 's/^/  # /'; fi
}
targets=$(sed -nE 's/^([a-z-]+):.*/\1/p' Makefile)
is_target() { grep -qx -- "$1" <<<"$targets"; }

# ---- the package ----
if [ -n "${SAN:-}" ]; then
    echo "skip package: the package (a build with a sanitizer)"
else
    SOURCE_DATE_EPOCH=1700000000 tools/package/deb.sh "$build" 1.2.3 "$work/a.deb" >"$work/log" 2>&1 && dpkg-deb -x "$work/a.deb" "$work/root" 2>>"$work/log" &&
        dpkg-deb -e "$work/a.deb" "$work/control" 2>>"$work/log"
    check "a package is made" $?
    SOURCE_DATE_EPOCH=1700000000 tools/package/deb.sh "$build" 1.2.3 "$work/b.deb" >"$work/log" 2>&1 && cmp "$work/a.deb" "$work/b.deb" >>"$work/log" 2>&1
    check "made again it has the same bytes" $?
    grep -q '^Version: 1.2.3$' "$work/control/control" && grep -qE '^Depends: .*\blibgrpc[0-9]+\b.*\blibssl3\b' "$work/control/control"
    check "it depends on the libraries that it links" $?
    (cd "$work/root" && md5sum --quiet -c "$work/control/md5sums" >"$work/log" 2>&1) &&
        diff <(cd "$work/root" && find etc -type f -printf '/%p\n' | sort) "$work/control/conffiles" >>"$work/log"
    check "its sums are right, and all of /etc are configuration files" $?
    "$work/root/usr/bin/bitnet-engine" --config "$work/root/etc/bitnet/bitnet-engine.conf" --model models/tales.gguf --model-dirs= --state-file= --check-config >"$work/log" 2>&1 &&
        "$work/root/usr/bin/bitnet-gateway" --config "$work/root/etc/bitnet/bitnet-gateway.conf" --check-config >"$work/log" 2>&1
    check "the programs take its configuration" $?
    for script in postinst prerm postrm; do sh -n "$work/control/$script"; done 2>"$work/log" && ! [ -s "$work/log" ]
    check "its scripts are shell" $?
    n=0
    : >"$work/log"
    while read -r file; do
        n=$((n + 1))
        [ -e "$work/root$file" ] || echo "$file" >>"$work/log"
    done < <(cat "$work"/root/usr/lib/systemd/system/*.service | grep -E '^(ExecStart|EnvironmentFile)=' | grep -oE '/(usr|etc)/[^ ]+')
    [ $n -eq 6 ] && ! [ -s "$work/log" ]
    check "all files that the units name are in it" $?
    if command -v systemd-analyze >/dev/null; then
        : >"$work/log"
        for unit in "$work"/root/usr/lib/systemd/system/*.service; do
            # The programs are not installed here; what else it says is a fault.
            sed -E "s#^ExecStart=/usr#ExecStart=$work/root/usr#; /^Documentation/d" "$unit" >"$work/${unit##*/}"
            systemd-analyze verify --man=no "$work/${unit##*/}" >>"$work/log" 2>&1 || echo "${unit##*/}: refused" >>"$work/log"
        done
        ! grep -E 'bitnet-(engine|gateway)' "$work/log" >"$work/found"
        check "systemd finds no fault in the units" $?
    else
        echo "skip package: systemd finds no fault in the units (systemd-analyze not found)"
    fi
fi

# ---- the bill of materials ----
tools/package/sbom.sh "$build" 1.2.3 abc >"$work/sbom.json" 2>"$work/log"
# CycloneDX 1.5: what it requires, and that each reference leads somewhere.
jq -e '.bomFormat == "CycloneDX" and .specVersion == "1.5" and (.version | type) == "number"
    and (.serialNumber | test("^urn:uuid:[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")) and (.metadata.timestamp | fromdate > 0)
    and (.components | all((.type | IN("library", "machine-learning-model")) and (.name | length > 0) and (."bom-ref" | length > 0)
        and (.type != "library" or (.version | length > 0))))
    and ([.components[]."bom-ref"] | length == (unique | length))
    and (([.components[]."bom-ref"] - .dependencies[0].dependsOn) == []) and .dependencies[0].ref == .metadata.component."bom-ref"' "$work/sbom.json" >>"$work/log" 2>&1
check "the bill of materials has what CycloneDX asks for" $?
names=$(jq -r '.components[].name' "$work/sbom.json")
for name in libgrpc29 libssl3 libnghttp2-14 libevent-2.1-7 libc6 node-llhttp tales; do grep -qx $name <<<"$names" || echo "no $name" >>"$work/log"; done
! grep -q '^no ' "$work/log" && ! grep -qE '^(check|chromium|nodejs|npm)$' <<<"$names"
check "it names what is linked, compiled in and shipped, and nothing of the tests" $?

# ---- the image ----
instructions=$(bash tests/package/image.sh --parse 2>"$work/log")
check "the Dockerfile has no instruction that its test does not execute" $?
{
    sed -nE 's/^COPY ([^-. ][^ ]*) .*/\1/p' <<<"$instructions" | while read -r file; do [ -e "$file" ] || echo "COPY: no $file"; done
    sed -nE 's/^RUN make (.*)/\1/p' <<<"$instructions" | sed -E 's/"[^"]*"//g' | tr ' ' '\n' | grep -v '=' | while read -r target; do is_target "$target" || echo "no target $target"; done
    sed -nE 's/^RUN ([a-z/]+\.sh).*/\1/p' <<<"$instructions" | while read -r file; do [ -x "$file" ] || echo "RUN: no $file"; done
} >"$work/log"
! [ -s "$work/log" ]
check "what the Dockerfile copies and runs is there" $?
grep -qE '^USER [1-9][0-9]*:[1-9]' <<<"$instructions" && grep -qE '^HEALTHCHECK .*CMD \["bitnet", "healthcheck"\]$' <<<"$instructions"
check "the image runs as a user by number, and asks for its health without a shell" $?

# ---- YAML ----
yaml=$out/host/yaml_json
json() { "$yaml" "$1" >"$work/json" 2>>"$work/log"; }
if ! make -s --no-print-directory OUT="$out" "$yaml" >"$work/log" 2>&1; then
    check "the reader of YAML is built" 1
else
    : >"$work/log"
    # Merge keys (<<) are YAML 1.1's, which the tool leaves as they are.
    json compose.yaml && jq -r '.services | to_entries[] | .value.volumes // [] | .[]' "$work/json" | sed -nE 's/^(\.[^:]+):.*/\1/p' |
        while read -r file; do [ -e "$file" ] || echo "compose.yaml: no $file" >>"$work/log"; done
    jq -r '.services | (.engine, .gateway).environment | keys[]' "$work/json" | while read -r name; do
        { "$build/bitnet-engine" --help; "$build/bitnet-gateway" --help; } | grep -qE "[; \[]$name\]" || echo "compose.yaml: no option $name" >>"$work/log"
    done
    for file in tools/package/compose/*.y*ml; do json "$file" || echo "$file" >>"$work/log"; done
    ! [ -s "$work/log" ]
    check "compose mounts files that are there and sets variables of options" $?
    : >"$work/log"
    for file in .github/workflows/*.yml; do
        json "$file" && jq -e '(.name | length > 0) and (.on | type == "object") and (.jobs | length > 0) and (.permissions | type == "object")
            and ([.jobs[] | (."runs-on" | type == "string") and ((."timeout-minutes" // 0) > 0) and (.steps | length > 0)
                and all(.steps[]; has("run") != has("uses")) and all(.steps[]; (.uses // "a@v1") | test("@"))] | all)
            and (. as $w | [.jobs[].needs // empty | if type == "array" then .[] else . end | in($w.jobs)] | all)' "$work/json" >/dev/null ||
            echo "$file is no workflow" >>"$work/log"
        jq -r '.jobs[].steps[].run // empty' "$work/json" | grep -oE '^ *make .*' | tr ' ' '\n' | grep -E '^[a-z]+(-[a-z]+)*$' | grep -vx make | while read -r target; do
            is_target "$target" || echo "$file: no target $target" >>"$work/log"
        done
    done
    ! [ -s "$work/log" ]
    check "workflows have jobs, limits, permissions and targets that are there" $?
fi
