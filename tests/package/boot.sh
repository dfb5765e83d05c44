#!/bin/sh
# boot.sh: runs inside a system that systemd has booted, as a service: both services under systemd's eyes. Its output is the test's log; prints
# "case NAME" for each thing that holds.
units="bitnet-engine bitnet-gateway"
state() { systemctl show -p "$2" --value "$1"; }
holds() { name=$1 && shift && "$@" && echo "case $name" || { echo "fails: $name"; systemctl status $units --no-pager -l; }; }

# A container may forbid what two of the settings need; the others stay.
for i in 1 2 3 4 5; do systemctl is-active -q $units && break; sleep 1; done
if [ "$(state bitnet-engine ExecMainStatus)" = 226 ] || [ "$(state bitnet-gateway ExecMainStatus)" = 226 ]; then
    echo "note: without PrivateDevices and PrivateUsers, which are not allowed here"
    settings="PrivateDevices=no\nPrivateUsers=no\n"
fi
for unit in $units; do
    mkdir -p /run/systemd/system/$unit.service.d
    printf "[Service]\n${settings:-}WatchdogSec=2\n" >/run/systemd/system/$unit.service.d/test.conf
done
systemctl daemon-reload && systemctl reset-failed

holds "both services are up when systemctl says so" systemctl restart $units
holds "the pair is well then" bitnet healthcheck
holds "both reload" systemctl reload $units
holds "and go on" systemctl is-active -q $units
running_as() { grep -qE "^Uid:\s$(id -u bitnet)\s" "/proc/$1/status" && grep -qE '^CapBnd:\s0+$' "/proc/$1/status" && grep -qE '^Seccomp:\s2$' "/proc/$1/status"; }
for unit in $units; do holds "$unit is the user bitnet, without capabilities, with a filter of system calls" running_as "$(state $unit MainPID)"; done
owner() { [ "$(stat -c %U "$1")" = bitnet ]; }
holds "the folders for models and state are its own" owner /var/lib/bitnet/models

before=$(state bitnet-engine MainPID)
kill -STOP "$before"
watched() { for i in $(seq 200); do [ "$(state bitnet-engine MainPID)" != "$before" ] && [ "$(state bitnet-engine ActiveState)" = active ] && return 0; sleep 0.1; done; return 1; }
holds "an engine that hangs is started again" watched
well() { for i in $(seq 100); do bitnet healthcheck http://127.0.0.1:8080/health/ready 2>/dev/null && return 0; sleep 0.1; done; return 1; }
holds "and the gateway finds it" well
systemctl stop bitnet-gateway bitnet-engine
ended() { [ "$(state $1 Result)" = success ] && [ "$(state $1 ExecMainStatus)" = 0 ]; }
for unit in $units; do holds "$unit ends in order" ended $unit; done
systemctl --force --force poweroff
