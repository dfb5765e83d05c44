#!/bin/bash
# deps.sh demo|test: installs the Debian packages that building and the demo, or the tests, need. Silent, quick and without
# the network when none is missing.
set -u
cd "$(dirname "$0")/.." || exit 1

packages="gcc libc6-dev make pkg-config git libgrpc-dev libprotobuf-c-dev protobuf-c-compiler protobuf-compiler
libprotobuf-dev libnghttp2-dev node-llhttp libevent-dev libssl-dev zlib1g-dev libjansson-dev librhonabwy-dev libpcre2-dev libnuma-dev libyaml-dev
curl jq"

if [ "${1:-}" = test ]; then
    packages="$packages g++ iproute2 util-linux faketime ca-certificates check clang libclang-rt-14-dev chromium nghttp2-client nginx-light haproxy openssl qemu-user gcc-aarch64-linux-gnu
    libc6-dev-arm64-cross mandoc wrk python3 python3-grpcio python3-protobuf python3-requests"
    # Node may come from elsewhere than Debian, and then Debian's npm must not be put over it.
    node_major=$(node --version 2>/dev/null | sed -E 's/^v([0-9]+).*/\1/')
    [ "${node_major:-0}" -ge 18 ] || packages="$packages nodejs"
    command -v npm >/dev/null || packages="$packages npm"
fi

missing() {
    for package in $packages; do
        [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || printf '%s ' "$package"
    done
}

install_packages() {
    local list=$1 as_root=
    if [ "$(id -u)" -ne 0 ]; then
        if ! command -v sudo >/dev/null; then
            printf 'These packages are missing:\n  %s\nAs root, run:\n  apt-get update && apt-get install --no-install-recommends %s\n' \
                "$list" "$list" >&2
            return 1
        fi
        echo "installing with sudo: $list"
        as_root=sudo
    else
        echo "installing: $list"
    fi
    # shellcheck disable=SC2086 # the list is words
    $as_root env DEBIAN_FRONTEND=noninteractive apt-get update -qq &&
        $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $list
}

if ! command -v dpkg-query >/dev/null; then
    echo "This is not Debian: install what corresponds to" $packages >&2
    exit 1
fi
list=$(missing)
if [ -n "$list" ]; then
    install_packages "$list" || exit 1
    list=$(missing)
    if [ -n "$list" ]; then
        echo "still missing: $list" >&2
        exit 1
    fi
fi

# The end-to-end tests' npm packages, once for each version of the lock file.
if [ "${1:-}" = test ] && [ -f tests/e2e/package-lock.json ]; then
    stamp=tests/e2e/node_modules/.package-lock.sha256
    if ! sha256sum --status -c "$stamp" 2>/dev/null; then
        echo "npm ci in tests/e2e"
        (cd tests/e2e && npm ci --no-audit --no-fund --loglevel=error) || exit 1
        sha256sum tests/e2e/package-lock.json >"$stamp"
    fi
fi
if [ "${1:-}" = test ]; then
    tests/helm/tools.sh || exit 1
fi
