#!/bin/bash
# readme.sh: the README's first commands in a fresh Debian without compiler, in a clone, as a newcomer would type them.
cd "$(dirname "$0")/../.." || exit 1
. tests/package/lib.sh
need_root readme
root=$work/root
debian_root "$root"
! in_root "$root" sh -c 'command -v gcc cc make git curl' >"$work/log" 2>&1
check "readme: the root has no gcc, make, git or curl to begin with" $? "$work/log"
# What README says is needed before the first command.
needs=$(sed -nE 's/.*`apt-get install ([a-z -]+)`.*/\1/p' README.md | head -1)
[ -n "$needs" ]
check "readme: it says what it needs ($needs)" $? || exit 1
began=$(date +%s)
in_root "$root" sh -c "apt-get update -qq && apt-get install -y -qq $needs" >"$work/log" 2>&1
check "readme: apt-get install $needs" $? "$work/log" || exit 1
git clone -q --no-hardlinks . "$root/root/bitnetd" && git -C "$root/root/bitnetd" remote remove origin
in_root "$root" sh -c 'cd /root/bitnetd && make demo' >"$work/log" 2>&1
check "readme: make demo" $? "$work/log" || exit 1
grep -E '^[0-9]+ tokens in' "$work/log" | sed 's/^/# /'
echo "# $(du -sm "$root" | cut -f1) MB with packages and build, $(($(date +%s) - began)) s"
in_root "$root" sh -c 'cd /root/bitnetd && ip link set lo up 2>/dev/null; (make serve & echo $! >/tmp/pid; wait) & for i in $(seq 600); do
    curl -fsS -o /dev/null http://127.0.0.1:8080/health/ready 2>/dev/null && break; sleep 0.1; done
    curl -fsSN http://127.0.0.1:8080/v1/inference/stream -H "Content-Type: application/json" -d "{\"prompt\": \"Once upon a time\", \"max_tokens\": 20, \"seed\": 7}"' \
    >"$work/log" 2>&1
grep -q '"type":"complete"' "$work/log"
check "readme: make serve, and the curl below it" $? "$work/log"
exit $failed
