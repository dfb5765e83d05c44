#!/bin/bash
# demo.sh: starts engine and gateway on free loopback ports, streams one tale, stops them; exit 0 when it came whole.
# demo.sh serve: starts them on the default ports and stays until Ctrl-C or SIGTERM.
# BITNET_MODEL names another model than the bundled one.
set -u
cd "$(dirname "$0")/.." || exit 1
model=${BITNET_MODEL:-models/tales.gguf}
prompt='Once upon a time there was a little girl who'
max_tokens=160
min_tokens=100

work=$(mktemp -d) || exit 1
engine_pid= gateway_pid=

fail() {
    echo "demo: $*" >&2
    for log in "$work"/*.log; do
        [ -s "$log" ] && tail -n 20 "$log" | sed "s/^/  $(basename "$log" .log) | /" >&2
    done
    exit 1
}

# The gateway first, so that it does not see its engine go. Who does not end within a minute is killed.
stop() {
    local pid i
    for pid in $gateway_pid $engine_pid; do
        kill -TERM "$pid" 2>/dev/null || continue
        for ((i = 0; i < 600; i++)); do
            kill -0 "$pid" 2>/dev/null || break
            sleep 0.1
        done
        kill -KILL "$pid" 2>/dev/null
        wait "$pid" 2>/dev/null
    done
    rm -rf "$work"
}
trap stop EXIT
trap 'exit 0' INT TERM

# A port that nobody listens on, below those that the kernel gives to clients.
free_port() {
    local port
    while :; do
        port=$((20000 + RANDOM % 10000))
        case " $taken " in *" $port "*) continue ;; esac
        (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || break
    done
    taken="$taken $port"
    free=$port
}

start() { # ENGINE ENGINE_ADMIN GATEWAY GATEWAY_ADMIN (ports)
    [ -f "$model" ] || fail "$model is not there"
    build/bitnet-engine --model "$model" --listen "127.0.0.1:$1" --admin-listen "127.0.0.1:$2" >"$work/engine.log" 2>&1 &
    engine_pid=$!
    build/bitnet-gateway --engine "127.0.0.1:$1" --listen "127.0.0.1:$3" --admin-listen "127.0.0.1:$4" \
        --rate-limits off >"$work/gateway.log" 2>&1 &
    gateway_pid=$!
}

wait_ready() { # URL
    local i
    for ((i = 0; i < 600; i++)); do
        kill -0 "$engine_pid" 2>/dev/null || fail "the engine ended"
        kill -0 "$gateway_pid" 2>/dev/null || fail "the gateway ended"
        curl -fsS -o /dev/null --max-time 2 "$1/health/ready" 2>/dev/null && return
        sleep 0.1
    done
    fail "not ready after 60 s"
}

body() { jq -nc --arg prompt "$prompt" --argjson n "$max_tokens" '{prompt: $prompt, max_tokens: $n, seed: 7}'; }

if [ "${1:-}" = serve ]; then
    start 50051 9090 8080 9091
    wait_ready http://127.0.0.1:8080
    printf 'Serving %s on http://127.0.0.1:8080 (gRPC 50051, metrics 9090 and 9091). Open it in a browser, or:\n\n' "$model"
    printf "  curl -N http://127.0.0.1:8080/v1/inference/stream -H 'Content-Type: application/json' \\\\\n    -d '%s'\n\n" "$(body)"
    echo 'Ctrl-C stops it.'
    wait -n "$engine_pid" "$gateway_pid"
    fail "one of the two ended"
fi

taken=
free_port; engine_port=$free
free_port; engine_admin=$free
free_port; gateway_port=$free
free_port; gateway_admin=$free
start "$engine_port" "$engine_admin" "$gateway_port" "$gateway_admin"
url=http://127.0.0.1:$gateway_port
wait_ready "$url"
echo "POST $url/v1/inference/stream"
printf '\n%s' "$prompt"
began=$(date +%s%N)
curl -fsSN --max-time 120 "$url/v1/inference/stream" -H 'Content-Type: application/json' -d "$(body)" |
    sed -un 's/^data: //p' | tee "$work/events" |
    jq --unbuffered -j 'if .type == "token" then .text elif .type == "error" then "\n\(.code): \(.message)\n" else empty end'
[ "${PIPESTATUS[0]}" -eq 0 ] || fail "the request failed"
elapsed=$((($(date +%s%N) - began) / 1000000))
n_tokens=$(jq -s '[.[] | select(.type == "token")] | length' "$work/events")
printf '\n\n%s tokens in %s ms\n' "$n_tokens" "$elapsed"
jq -es 'last | .type == "complete"' "$work/events" >/dev/null || fail "the stream did not end with complete"
[ "$n_tokens" -ge "$min_tokens" ] || fail "expected at least $min_tokens tokens"
