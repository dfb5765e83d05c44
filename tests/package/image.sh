#!/bin/bash
# image.sh: executes the Dockerfile's steps in fresh Debians, and runs what comes of it as the image would be run: as its user, with a read-only
# root file system, without capabilities, engine and gateway in a network of their own. Stages on bases other than Debian are skipped.
# image.sh --parse prints the instructions as they are understood, and fails at one that is not.
cd "$(dirname "$0")/../.." || exit 1

# instructions: the Dockerfile's, one a line, continuation lines joined.
instructions() { sed -E '/^[[:space:]]*(#|$)/d' Dockerfile | sed -E ':a; /\\$/ { N; s/[[:space:]]*\\\n[[:space:]]*/ /; ba }'; }
known='^(FROM [^ ]+( AS [a-z-]+)?|WORKDIR /.*|RUN .*|COPY (--from=[a-z-]+ )?[^ ]+ [^ ]+|ARG [A-Z_]+(=.*)?|USER [0-9]+:[0-9]+|EXPOSE .*|HEALTHCHECK .*CMD \[.*\]|CMD \[.*\])$'
if [ "${1:-}" = --parse ]; then
    instructions
    ! instructions | grep -vE "$known" >&2
    exit
fi
. tests/package/lib.sh
need_root image

# A JSON list of strings, one a line.
words() { jq -r '.[]' <<<"$1"; }

context() { git ls-files -co --exclude-standard | grep -vE '(^|/)node_modules(/|$)' | while read -r f; do [ -e "$f" ] && printf '%s\0' "$f"; done; }

copy() { # [--from=STAGE] SOURCE TARGET
    local to from=
    case $1 in --from=*) from=${1#--from=} && shift ;; esac
    case $2 in /*) to=$root$2 ;; *) to=$root$dir/$2 ;; esac
    if [ -n "$from" ]; then
        mkdir -p "$(dirname "$to")" && cp -a "$work/stage-$from$1" "$to"
    elif [ "$1" = . ]; then
        mkdir -p "$to" && context | tar --null -T - -cf - | tar -C "$to" --no-same-owner -xf -
    else
        mkdir -p "$(dirname "$to")" && cp "$1" "$to"
    fi
}

run() { # [--mount=type=bind,from=STAGE,source=PATH,target=PATH] COMMAND
    local command=$1 MOUNTS=: from source target
    if [[ $command == --mount=type=bind,* ]]; then
        read -r from source target < <(sed -E 's/^--mount=type=bind,from=([^,]+),source=([^,]+),target=([^ ]+) .*/\1 \2 \3/' <<<"$command")
        command=${command#* }
        # A place to mount on is there for the step only.
        touch "$root$target"
        MOUNTS="mount --bind '$work/stage-$from$source' \"\$R$target\""
    fi
    in_root "$root" /usr/bin/env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root "${arguments[@]}" \
        sh -c "cd '$dir' && $command" || return 1
    [ -z "${target:-}" ] || rm -f "$root$target"
}

begin() { # BASE [AS NAME]
    stage=${3:-} dir=/ arguments=()
    [ -n "$stage" ] || stage=last
    root=$work/stage-$stage skip=
    case $1 in
    debian:12 | debian:12-slim) debian_root "$root" && before=$(installed_kib "$root") ;;
    *)
        if [ -d "$work/stage-$1" ]; then
            cp -a --reflink=auto "$work/stage-$1" "$root"
        else
            skip=1
            echo "skip image: stage $stage (its base $1 is no Debian)"
        fi
        ;;
    esac
}

user= cmd= health=
while read -r -u 9 instruction rest; do
    [ "$instruction" = FROM ] || [ -z "$skip" ] || continue
    status=0
    if [[ $instruction == COPY && $rest == --from=* ]]; then
        from=${rest#--from=}
        [ -d "$work/stage-${from%% *}" ] || { skip=1 && echo "skip image: stage $stage (it needs stage ${from%% *})" && continue; }
    fi
    case $instruction in
    FROM) # shellcheck disable=SC2086 # words
        begin $rest ;;
    WORKDIR) dir=$rest && mkdir -p "$root$dir" ;;
    ARG) [[ $rest != *=* ]] || arguments+=("$(sed -E 's/="(.*)"$/=\1/' <<<"$rest")") ;;
    COPY) # shellcheck disable=SC2086 # words
        copy $rest >"$work/log" 2>&1 || status=1 ;;
    RUN) run "$rest" >"$work/log" 2>&1 || status=1 ;;
    USER) user=$rest ;;
    CMD) cmd=$rest ;;
    HEALTHCHECK) health=${rest#*CMD } ;;
    esac
    case $instruction in
    RUN | COPY) check "image: $stage: $instruction ${rest:0:70}" $status "$work/log" || exit 1 ;;
    esac
    [ "$stage" != runtime ] || after=$(installed_kib "$root")
done 9< <(instructions)

# ---- what was made ----
root=$work/stage-last
ours=$(chroot "$root" dpkg-query -W -f '${Installed-Size}' bitnetd)
echo "# base $((before / 1024)) MiB, image $((after / 1024)) MiB: $(((after - before) / 1024)) MiB over the base, $((ours / 1024)) of them ours"
[ $((after - before)) -lt $((60 * 1024)) ]
check "image: under 60 MiB over the base" $? || true
! find "$root" -xdev \( -type f -name gcc -o -type f -name cc1 -o -name '*.h' -path '*/include/*' \) | grep -q .
check "image: no compiler, no headers" $?

# The container: its own mounts, processes and network.
cat >"$work/run.sh" <<'EOF'
set -u
ip link set lo up
mapfile -t engine < <(jq -r '.[]' <<<"$CMD")
mapfile -t probe < <(jq -r '.[]' <<<"$HEALTH")
as=(chroot "$R" /usr/bin/setpriv --reuid "${USER_%:*}" --regid "${USER_#*:}" --clear-groups --no-new-privs --bounding-set -all --inh-caps -all)
! touch "$R/planted" 2>/dev/null && ! "${as[@]}" sh -c 'echo >/tmp/planted' 2>/dev/null || { echo "the root can be written to" >&2; exit 1; }
! "${as[@]}" "${probe[@]}" 2>/dev/null || { echo "the probe found something where nothing runs" >&2; exit 1; }
"${as[@]}" "${engine[@]}" & engine_pid=$!
"${as[@]}" bitnet-gateway --rate-limits off & gateway_pid=$!
for i in $(seq 300); do curl -fsS -o /dev/null http://127.0.0.1:8080/health/ready 2>/dev/null && break; sleep 0.1; done
set -e
"${as[@]}" "${probe[@]}"
for pid in $engine_pid $gateway_pid; do # the user, no capability, no new one
    grep -qE "^Uid:\s${USER_%:*}\s" /proc/$pid/status
    grep -qE '^CapEff:\s0+$' /proc/$pid/status && grep -qE '^NoNewPrivs:\s1$' /proc/$pid/status
done
curl -fsS http://127.0.0.1:8080/health >health.json
curl -fsS http://127.0.0.1:9090/metrics | grep -q '^bitnet_build_info'
curl -fsS http://127.0.0.1:8080/v1/completions -H 'Content-Type: application/json' \
    -d '{"model": "tales", "prompt": "Once upon a time", "max_tokens": 40, "seed": 7}' >answer.json
jq -e '.usage.completion_tokens == 40 or .choices[0].finish_reason == "stop"' answer.json >/dev/null
kill -TERM $gateway_pid && wait $gateway_pid
kill -TERM $engine_pid && wait $engine_pid
EOF
(cd "$work" && CMD=$cmd HEALTH=$health USER_=$user R=$root unshare --mount --pid --net --fork --kill-child bash -c '
    mount --bind "$R" "$R" && mount -o remount,bind,ro "$R" && mount -t proc proc "$R/proc" && mount -t proc proc /proc &&
    mount -t tmpfs -o mode=755 dev "$R/dev" && for n in null zero random urandom; do touch "$R/dev/$n" && mount --bind "/dev/$n" "$R/dev/$n"; done &&
    exec bash run.sh') >"$work/log" 2>&1
check "image: engine and gateway serve as $user, read-only, without capabilities; the health check sees it" $? "$work/log"
[ $failed -ne 0 ] || echo "# answer: $(jq -c '.choices[0].text' "$work/answer.json" | cut -c1-100)"
exit $failed
