# shellcheck shell=bash
# lib.sh: fresh Debian systems below a folder, for tests of what is installed; sourced. Needs root and debootstrap. Nothing of it is kept.
#
# A root gets this machine's apt sources, proxies and certificates, so that it finds packages as the machine does.
set -u
suite=bookworm
work=$(mktemp -d /var/tmp/bitnetd-package.XXXXXX) || exit 1
failed=0

check() { # NAME STATUS [LOG]: one line a case, and the log's end when it failed
    if [ "$2" -eq 0 ]; then
        echo "ok $1"
    else
        echo "not ok $1"
        failed=1
        [ -n "${3:-}" ] && tail -n 40 "$3" | sed 's/^/  # /'
    fi
    return "$2"
}

need_root() {
    [ "$(id -u)" -eq 0 ] || { echo "skip $1: needs root" && exit 0; }
    command -v debootstrap >/dev/null || { echo "skip $1: needs debootstrap (apt-get install debootstrap)" && exit 0; }
    unshare --mount true 2>/dev/null || { echo "skip $1: needs mounts of its own (CAP_SYS_ADMIN)" && exit 0; }
}

mirror() {
    { cat /etc/apt/sources.list /etc/apt/sources.list.d/*.sources /etc/apt/sources.list.d/*.list 2>/dev/null || true; } |
        sed -nE 's/^URIs: *([^ ]+).*/\1/p; s/^deb (\[[^]]*\] )?([^ ]+) bookworm .*/\2/p' | grep -m1 -E '/debian/?$' || echo http://deb.debian.org/debian
}

# What lets apt in the root reach the registry.
root_prepare() { # ROOT
    local f
    cp -L /etc/resolv.conf "$1/etc/resolv.conf"
    for f in /etc/apt/apt.conf $(grep -ls Acquire /etc/apt/apt.conf.d/*) /etc/apt/auth.conf.d/*; do
        [ -f "$f" ] && mkdir -p "$1${f%/*}" && cp "$f" "$1$f"
    done
    printf 'APT::Install-Recommends "false";\nAcquire::Languages "none";\n' >"$1/etc/apt/apt.conf.d/90small"
    # No service is started in a root.
    printf '#!/bin/sh\nexit 101\n' >"$1/usr/sbin/policy-rc.d" && chmod 755 "$1/usr/sbin/policy-rc.d"
    if [ -f /etc/apt/sources.list.d/debian.sources ]; then
        rm -f "$1/etc/apt/sources.list"
        cp /etc/apt/sources.list.d/debian.sources "$1/etc/apt/sources.list.d/"
    fi
}

debian_root() { # ROOT: a minimal Debian, as debian:12-slim is
    if [ ! -f "$work/base.tar" ]; then
        debootstrap --variant=minbase --include=ca-certificates "$suite" "$work/base" "$(mirror)" >"$work/debootstrap.log" 2>&1 ||
            { check "a minimal Debian comes from $(mirror)" 1 "$work/debootstrap.log"; exit 1; }
        root_prepare "$work/base"
        rm -rf "$work"/base/var/cache/apt/archives/*.deb "$work"/base/var/lib/apt/lists/*
        tar -C "$work/base" -cf "$work/base.tar" . && rm -rf "$work/base"
    fi
    mkdir -p "$1" && tar -C "$1" -xpf "$work/base.tar"
}

# Runs a command in a root, with mounts and processes of its own that end with it. Before it, MOUNTS (shell, with $R the root) may say more.
in_root() { # ROOT COMMAND...
    local root=$1
    shift
    R=$root MOUNTS=${MOUNTS:-:} CHROOT=${CHROOT:-} unshare --mount --pid --fork --kill-child --propagation private ${UNSHARE:-} bash -c '
        mount --bind "$R" "$R" && mount -t proc proc "$R/proc" && mount -t tmpfs -o mode=755 dev "$R/dev" &&
        for n in null zero full random urandom tty; do touch "$R/dev/$n" && mount --bind "/dev/$n" "$R/dev/$n"; done &&
        ln -s /proc/self/fd "$R/dev/fd" && ln -s fd/0 "$R/dev/stdin" && ln -s fd/1 "$R/dev/stdout" && ln -s fd/2 "$R/dev/stderr" &&
        mkdir "$R/dev/shm" && mount -t tmpfs shm "$R/dev/shm" && eval "$MOUNTS" && exec ${CHROOT:-chroot} "$R" "$@"' bash "$@"
}

installed_kib() { # ROOT: what its files take
    du -skx "$1" | cut -f1
}

finish() {
    rm -rf --one-file-system "$work"
}
trap finish EXIT
trap 'exit 130' INT TERM
