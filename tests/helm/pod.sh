#!/bin/bash
# pod.sh FOLDER: starts containers as Kubernetes would, in a network of their own: FOLDER has a folder for each, with `command`, `env` (the only
# variables), `files` (what is mounted) and `writable` (paths of volumes that may be written). Each gets a read-only root of this system's programs and
# those files, and runs as a user without rights. FOLDER/check then runs beside them; SIGTERM ends them. The last line is "ended STATUS...".
# Exit 77: this system does not allow such namespaces.
set -u
folder=$1
user=65532
export PATH=/usr/sbin:/usr/bin:/sbin:/bin

if [ -z "${POD_INSIDE:-}" ]; then
    flags=--map-root-user
    [ "$(id -u)" -eq 0 ] && flags=
    # shellcheck disable=SC2086 # none or one
    unshare $flags --net --mount true 2>/dev/null || exit 77
    # shellcheck disable=SC2086
    POD_INSIDE=1 POD_MAPPED=$flags exec unshare $flags --net --mount "$0" "$folder"
fi

mount --make-rprivate / || exit 77
/usr/bin/python3 -c 'import fcntl, socket, struct
fcntl.ioctl(socket.socket(), 0x8914, struct.pack("16sh", b"lo", 1))' || exit 77 # SIOCSIFFLAGS: up

make_root() { # CONTAINER
    local root=$1/root place
    mkdir -p "$root" && mount -t tmpfs -o mode=755 tmpfs "$root" || return
    for place in bin lib lib64 sbin; do
        if [ -L "/$place" ]; then cp -P "/$place" "$root"; elif [ -d "/$place" ]; then mkdir "$root/$place" && mount --rbind "/$place" "$root/$place"; fi
    done
    mkdir -p "$root"/{usr,proc,sys,dev,etc,opt/bitnet}
    for place in usr proc sys; do mount --rbind "/$place" "$root/$place" || return; done
    mount --bind "$BITNET_PROGRAMS" "$root/opt/bitnet" || return
    for place in null urandom; do touch "$root/dev/$place" && mount --bind "/dev/$place" "$root/dev/$place" || return; done
    cp -r "$1/files/." "$root" && cp /etc/ld.so.cache "$root/etc" && echo 'hosts: files' >"$root/etc/nsswitch.conf"
    while read -r place; do mkdir -p "$root$place" && mount -t tmpfs -o mode=1777 tmpfs "$root$place"; done <"$1/writable"
    mount -o remount,bind,ro "$root" && ! touch "$root/x" 2>/dev/null
}

containers=() pids=() ended=
for container in "$folder"/*/; do
    container=${container%/}
    make_root "$container" || { echo "no root for $container"; exit 77; }
    mapfile -t variables <"$container/env"
    as=(--userspec=$user:$user)
    [ -n "$POD_MAPPED" ] && as=() # of its ids only root's is there
    chroot "${as[@]}" "$container/root" env -i PATH=/opt/bitnet "${variables[@]}" "$(cat "$container/command")" >"$container/log" 2>&1 &
    pids+=($!)
    containers+=("$container")
done
bash "$folder/check"
status=$?
kill -TERM "${pids[@]}"
for pid in "${pids[@]}"; do
    wait "$pid"
    ended="$ended $?"
done
[ "$status" -eq 0 ] || tail -n 20 "${containers[@]/%//log}"
echo "ended$ended"
exit "$status"
