#!/bin/bash
# Who may include whom, as ARCHITECTURE.md draws it, and that the libraries link with nothing but what their folder may use.
# Includes of ours are written from the repository's root, so a match of their text is exact. Each rule is also shown to
# fail: an include that breaks it is planted in a copy of the tree.
set -u
cd "$(dirname "$0")/.." || exit 1
build=${BITNET_BUILD:-build/release}
folders=$(ls -d base kernels engine rpc trace service gateway tools tests 2>/dev/null)
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT

# check_includes ROOT: prints each include that is not allowed, as FILE:LINE: TEXT (why).
check_includes() {
    (cd "$1" && find $folders -name '*.[ch]' -o -name '*.cu' -o -name '*.cuh' | LC_ALL=C sort |
        xargs grep -nHE '^[[:space:]]*#[[:space:]]*include[[:space:]]' 2>/dev/null) | awk '
    # What the files of a place may include: a regular expression on paths from the root.
    function may(file) {
        generated = "(.*\\.pb-c\\.h|version\\.h)"
        if (file ~ /^base\//) return "^base/"
        if (file ~ /^kernels\//) return "^(base|kernels)/"
        if (file ~ /^engine\//) return "^(base/|engine/|kernels/kernels\\.h$)"
        if (file ~ /^rpc\//) return "^(base/|rpc/|" generated "$)"
        if (file ~ /^trace\//) return "^(base/|rpc/rpc\\.h$|trace/|" generated "$)"
        if (file ~ /^service\//) return "^(base/|rpc/|trace/trace\\.h$|service/|engine/(engine|registry)\\.h$|" generated "$|descriptors\\.h$)"
        if (file ~ /^gateway\//) return "^(base/|rpc/|trace/trace\\.h$|gateway/|llhttp\\.h$|" generated "$)"
        if (file ~ /^tools\/load/) return "^(base/|rpc/|tools/load|llhttp\\.h$|" generated "$)"
        if (file ~ /^tools\//) return "^(base/|tools/|engine/engine\\.h$|engine/model/gguf\\.h$|kernels/kernels\\.h$|version\\.h$)"
        if (file ~ /^tests\/((unit\/)?kernels|cuda)\//) return "^(base|kernels|tests)/"
        if (file ~ /^tests\/unit\/base\//) return "^(base|tests)/"
        if (file ~ /^tests\/unit\/engine\//) return "^(base/|engine/|tests/|kernels/kernels\\.h$|tools/(synth|gguf_[a-z_]*)\\.h$)"
        if (file ~ /^tests\/unit\/rpc\//) return "^(base/|rpc/|tests/|" generated "$)"
        if (file ~ /^tests\/unit\/trace\//) return "^(base/|rpc/rpc\\.h$|trace/|tests/|" generated "$)"
        if (file ~ /^tests\/unit\/service\//) return "^(base/|rpc/|trace/trace\\.h$|service/|tests/|engine/(engine|registry)\\.h$|" generated "$|descriptors\\.h$)"
        if (file ~ /^tests\/unit\/gateway\//) return "^(base/|rpc/|trace/trace\\.h$|gateway/|tests/|llhttp\\.h$|" generated "$)"
        if (file ~ /^tests\/unit\/load\//) return "^(base/|rpc/|tools/load|tests/|llhttp\\.h$|" generated "$)"
        if (file ~ /^tests\/unit\/tools\//) return "^(base/|tools/|tests/|engine/engine\\.h$|engine/model/gguf\\.h$|kernels/kernels\\.h$|version\\.h$)"
        if (file ~ /^tests\/fuzz\//) return "."
        if (file ~ /^tests\/mutate\//) return "^(base|tests)/"
        return "^tests/"
    }
    # Where a system header may stand.
    function place(header) {
        if (header ~ /^grpc\//) return "^rpc/"
        if (header ~ /^nghttp2\//) return "^(gateway|tests/mutate)/"
        if (header ~ /^(immintrin|x86intrin|[a-z]mmintrin|cpuid)\.h$/) return "^kernels/x86/"
        if (header ~ /^(arm_neon|arm_sve|arm_acle)\.h$/) return "^kernels/arm/"
        if (header ~ /^(cuda|cublas|cooperative_groups|mma)/) return "^(kernels|tests)/cuda/"
        if (header == "yaml.h") return "^tools/host/"
        if (header ~ /^(event2\/|jansson\.h|openssl\/|protobuf-c\/|rhonabwy\.h)/) return "^(rpc|trace|service|gateway|tools/load|tests)"
        return "."
    }
    function bad(why) { print file ":" line ": " text " (" why ")" }
    {
        file = $0; sub(/:.*/, "", file)
        rest = substr($0, length(file) + 2)
        line = rest; sub(/:.*/, "", line)
        text = substr(rest, length(line) + 2); gsub(/^[ \t]+|[ \t]+$/, "", text)
        header = text; sub(/^#[ \t]*include[ \t]*/, "", header)
        quoted = header ~ /^"/
        header = substr(header, 2); sub(/[">].*/, "", header)
        if (header ~ /\.\./) bad("not from the root")
        else if (quoted && header !~ may(file)) bad("not for this folder")
        else if (!quoted && file !~ place(header)) bad("not in this place")
        else if (!quoted && header ~ /^(base|kernels|engine|rpc|trace|service|gateway|tools)\//) bad("ours, so in quotes")
        if (header ~ /^nghttp2\// && file ~ /^gateway\// && nghttp2 != "" && nghttp2 != file) bad("second file, beside " nghttp2)
        if (header ~ /^nghttp2\// && file ~ /^gateway\//) nghttp2 = file
    }'
}

found=$(check_includes .)
if [ -z "$found" ]; then
    echo "ok includes"
else
    echo "$found"
    echo "not ok includes"
fi

# ---- the same check, shown to see what it is for ----
copy=$work/copy
mkdir "$copy" && (cd "$copy" && mkdir $folders)
find $folders \( -name '*.[ch]' -o -name '*.cu' \) -type f -print0 | tar --null -T - -cf - | tar -xf - -C "$copy"
plant() { # FILE INCLUDE
    local before after had=
    mkdir -p "$copy/$(dirname "$1")"
    [ -f "$copy/$1" ] && had=1 && cp "$copy/$1" "$work/saved"
    before=$(check_includes "$copy" | wc -l)
    echo "#include $2" >>"$copy/$1"
    after=$(check_includes "$copy" | wc -l)
    if [ -n "$had" ]; then mv "$work/saved" "$copy/$1"; else rm "$copy/$1"; fi
    if [ "$after" -gt "$before" ]; then echo "ok planted $1 $2 is seen"; else echo "not ok planted $1 $2 is seen"; fi
}
plant base/planted.c '"kernels/kernels.h"'
plant kernels/planted.c '"engine/engine.h"'
plant kernels/planted.c '<immintrin.h>'
plant kernels/planted.c '<cuda_runtime.h>'
plant engine/planted.c '"kernels/cpu.h"'
plant engine/planted.c '"bitnet/v1/inference.pb-c.h"'
plant engine/planted.c '<jansson.h>'
plant engine/model/planted.c '"../sampler.h"'
plant rpc/planted.c '"service/service.h"'
plant trace/planted.c '"gateway/gateway.h"'
plant trace/planted.c '<grpc/grpc.h>'
plant gateway/planted.c '"trace/span.h"'
plant service/planted.c '"engine/sampler.h"'
plant service/planted.c '<grpc/grpc.h>'
plant gateway/planted.c '"engine/engine.h"'
plant gateway/planted.c '"descriptors.h"'
plant tools/planted.c '"engine/model/model.h"'
plant tools/planted.c '"rpc/rpc.h"'
plant tools/load_planted.c '"engine/engine.h"'
plant tests/unit/load/planted.c '"tools/bench.h"'
plant tests/unit/gateway/planted.c '"engine/engine.h"'
cat >"$copy/gateway/planted_a.c" <<<'#include <nghttp2/nghttp2.h>'
plant gateway/planted_b.c '<nghttp2/nghttp2.h>'

# ---- libraries: all of their objects link with what is below them and libc alone ----
read -ra cc <<<"${BITNET_CC:-gcc}"
read -ra ldflags <<<"${BITNET_LDFLAGS:-}"
echo 'int main(void) { return 0; }' >"$work/main.c"
links() { # LIBRARY... -- SYSTEM_LIBRARY...
    local libraries=()
    while [ "$1" != -- ]; do libraries+=("$1") && shift; done
    shift
    "${cc[@]}" "${ldflags[@]}" -o "$work/main" "$work/main.c" -Wl,--whole-archive "${libraries[@]}" -Wl,--no-whole-archive \
        "$@" >"$work/link" 2>&1
}
check_library() { # NAME FOLDERS -- SYSTEM_LIBRARY...
    local name=$1 libraries=() missing=
    shift
    while [ "$1" != -- ]; do
        [ -f "$build/lib$1.a" ] || missing=1
        libraries+=("$build/lib$1.a") && shift
    done
    if [ -n "$missing" ]; then
        echo "skip libraries-$name not built in $build"
    elif links "${libraries[@]}" "$@"; then
        echo "ok libraries-$name links with its own"
    else
        grep -E 'undefined reference' "$work/link" | sort -u | head -20
        echo "not ok libraries-$name links with its own"
    fi
}
optional() { # those of the two optional libraries that this build has
    local l
    for l in ${BITNET_CORE_LIBS--lnuma -lpcre2-8}; do case $l in "$1") echo "$l" ;; esac; done
}
check_library base base -- -lm -lpthread
check_library kernels kernels base -- -lm -lpthread -ldl $(optional -lnuma)
check_library engine engine kernels base -- -lm -lpthread -ldl $(optional -lnuma) $(optional -lpcre2-8)

# --log-level takes the components that lines are of, and no others.
unknown=$(grep -rhoE --include='*.c' 'log_(debug|info|warn|error)\("[a-z]+"' $folders | sed 's/.*"\(.*\)"/\1/' | sort -u | grep -vE '^(test|x)$' |
    while read -r name; do sed -n '/^static bool is_component/,/^}/p' base/log.c | grep -q "\"$name\"" || echo "$name"; done)
[ -z "$unknown" ] && echo "ok components of the log are known" || echo "not ok components of the log are known: $unknown"

echo 'int SSL_new(void); int planted(void); int planted(void) { return SSL_new(); }' >"$work/planted.c"
"${cc[@]}" -c -o "$work/planted.o" "$work/planted.c" && ar rcs "$work/libplanted.a" "$work/planted.o"
if links "$work/libplanted.a" -- -lm -lpthread -ldl; then
    echo "not ok planted library is seen"
else
    echo "ok planted library is seen"
fi
