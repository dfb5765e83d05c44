#!/bin/bash
# timeout: 120
# Configuration: the sample files and manual pages say what the tables say; flags win over the environment, it over the file, it over the default;
# --check-config finds what is wrong without starting, and says which option it is.
cd "$(dirname "$0")/.." || exit 1
build=${BITNET_BUILD:-build/release}
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
# shellcheck disable=SC2046 # names
unset $(env | sed -nE 's/^(BITNET_[A-Z_]+)=.*/\1/p')
model=models/tales.gguf
check() { # NAME STATUS
    if [ "$2" -eq 0 ]; then echo "ok config: $1"; else echo "not ok config: $1"; sed 's/^/  # /' "$work/log"; fi
}
run() { "$build/$program" "$@"; }

tools/package/documents.sh "$build" "$work/share" >"$work/log" 2>&1
check "all manual pages and samples are written" $?
if command -v mandoc >/dev/null; then
    find "$work/share/man" -type f -print0 | xargs -0 mandoc -Tlint -Wwarning >"$work/log" 2>&1
    # A page without a date is the same from one build to the next.
    ! grep -v 'missing date' "$work/log" | grep -q .
    check "mandoc finds nothing wrong in $(find "$work/share/man" -type f | wc -l) pages" $?
else
    echo "skip config: manual pages are well-formed (mandoc not found)"
fi

for program in bitnet-engine bitnet-gateway; do
    args=()
    [ $program = bitnet-engine ] && args=(--model $model)
    sample=$work/share/doc/bitnetd/examples/$program.conf page=$work/share/man/man8/$program.8
    run --help >"$work/help"
    # name and "flag only" of each option of the table
    options=$(awk '/^  (--)?[a-z]/ { sub(/^--/, "", $1); name = $1 } /^        \[/ { print name, /flag only/ ? "flag" : "" }' "$work/help" | grep -v '^config ')
    : >"$work/log"
    [ "$(wc -l <<<"$options")" -gt 20 ] || echo "found no options in --help" >>"$work/log"
    while read -r name only; do
        grep -q "^#$name =" "$sample" || [ -n "$only" ] || echo "the sample lacks $name" >>"$work/log"
        ! grep -q "^#$name =" "$sample" || [ -z "$only" ] || echo "the sample has $name, which is for the command line" >>"$work/log"
        grep -qF -- "--$name" <(sed 's/\\-/-/g' "$page") || echo "the manual page lacks $name" >>"$work/log"
    done <<<"$options"
    sed -nE 's/^#([a-z0-9-]+) =.*/\1/p' "$sample" | while read -r name; do
        grep -q "^$name " <<<"$options " || echo "the sample has $name, which is no option" >>"$work/log"
    done
    ! [ -s "$work/log" ]
    check "$program: sample and manual page have exactly the options of the table" $?

    sed -nE 's/^#([a-z0-9-]+ = .+)/\1/p' "$sample" >"$work/all.conf"
    run "${args[@]}" --check-config >"$work/default" 2>"$work/log" && run "${args[@]}" --config "$work/all.conf" --check-config >"$work/out" 2>"$work/log" &&
        diff "$work/default" "$work/out" >"$work/log"
    check "$program: the sample's values are the defaults" $?
    run "${args[@]}" --config "$work/default" --check-config >"$work/out" 2>"$work/log" && diff "$work/default" "$work/out" >"$work/log"
    check "$program: what --check-config prints is a configuration file" $?

    value() { sed -nE 's/^drain-timeout-ms = //p' "$work/out"; }
    echo 'drain-timeout-ms = 2000' >"$work/file.conf"
    found=
    run "${args[@]}" --check-config >"$work/out" 2>"$work/log" && found="$(value)"
    run "${args[@]}" --config "$work/file.conf" --check-config >"$work/out" 2>"$work/log" && found="$found $(value)"
    BITNET_DRAIN_TIMEOUT_MS=3000 run "${args[@]}" --config "$work/file.conf" --check-config >"$work/out" 2>"$work/log" && found="$found $(value)"
    BITNET_DRAIN_TIMEOUT_MS=3000 run "${args[@]}" --config "$work/file.conf" --check-config --drain-timeout-ms 4000 >"$work/out" 2>"$work/log" && found="$found $(value)"
    BITNET_CONFIG="$work/file.conf" run "${args[@]}" --check-config >"$work/out" 2>"$work/log" && found="$found $(value)"
    echo "found: $found" >>"$work/log"
    [ "$found" = "45000 2000 3000 4000 2000" ]
    check "$program: flag over environment over file over default" $?
done

# ---- what is wrong is found ----
key() { openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj "/CN=$1" -keyout "$work/$1.key" -out "$work/$1.pem" 2>/dev/null; }
key one && key two
echo nothing >"$work/no.pem" && mkdir "$work/folder" && head -c 4096 models/tales.gguf >"$work/cut.gguf"
refused() { # PATTERN ARGUMENT...: exit status 1, the reason in one line, and nothing printed as if it were in effect
    local pattern=$1
    shift
    run --check-config "$@" >"$work/out" 2>"$work/log"
    local status=$?
    [ $status -eq 1 ] && ! [ -s "$work/out" ] && grep -qE -- "$pattern" "$work/log"
    check "$program --check-config $(sed "s#$work/##g" <<<"$*" | cut -c1-90)" $?
}
program=bitnet-engine
run --model $model --tls-cert "$work/one.pem" --tls-key "$work/one.key" --tls-client-ca "$work/two.pem" --listen '127.0.0.1:0,[::1]:0,unix:/x/y' \
    --model-dirs "$work" --state-file "$work/state" --check-config >"$work/out" 2>"$work/log"
check "$program takes files that fit" $?
refused 'expected a GGUF file' --listen 127.0.0.1:1
refused '--model.*No such file' --model "$work/none.gguf"
refused '--model.*expected a file' --model "$work/folder"
refused '--model.*(cut|end|beyond|bytes)' --model "$work/cut.gguf"
refused '--listen: expected HOST:PORT' --model $model --listen 127.0.0.1
refused '--listen: expected HOST:PORT' --model $model --listen 127.0.0.1:1,127.0.0.1:70000
refused '--admin-listen: expected HOST:PORT' --model $model --admin-listen '::1:9090'
refused '--device: expected auto' --model $model --device tpu
refused '--tls-key .*two.key: .*mismatch' --model $model --tls-cert "$work/one.pem" --tls-key "$work/two.key"
refused '--tls-cert .*no.pem: ' --model $model --tls-cert "$work/no.pem" --tls-key "$work/one.key"
refused '--tls-client-ca .*none.pem: No such file' --model $model --tls-cert "$work/one.pem" --tls-key "$work/one.key" --tls-client-ca "$work/none.pem"
refused '--model-dirs: folder .*none: No such' --model $model --model-dirs "$work:$work/none"
refused '--model-dirs: folder .*no.pem: Not a directory' --model $model --model-dirs "$work/no.pem"
refused '--state-file: folder .*none: No such' --model $model --state-file "$work/none/state"
program=bitnet-gateway
run --tls-cert "$work/one.pem" --tls-key "$work/one.key" --engine-tls-ca "$work/two.pem" --listen https://127.0.0.1:0 --engine dns:///engine:50051 \
    --check-config >"$work/out" 2>"$work/log"
check "$program takes files that fit" $?
refused 'engine: expected HOST:PORT' --engine engine
refused '--listen: expected HOST:PORT' --listen 8080
refused '--admin-listen: 127.0.0.1:1: expected --tls-cert' --admin-listen https://127.0.0.1:1
refused '--tls-key .*two.key: .*mismatch' --tls-cert "$work/one.pem" --tls-key "$work/two.key"
refused '--engine-tls-ca .*none: No such file' --engine-tls-ca "$work/none"
refused '--engine-tls-key .*two.key: .*mismatch' --engine-tls-ca "$work/two.pem" --engine-tls-cert "$work/one.pem" --engine-tls-key "$work/two.key"
refused 'none' --api-keys "$work/none"
refused 'none' --jwt-key "$work/none"
refused 'proxies' --trusted-proxies 10.0.0.0/99
refused 'origin' --cors-origins nonsense
