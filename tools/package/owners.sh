# shellcheck shell=bash
# owners.sh: sourced. Which Debian packages own what programs link.

# owners PATH...: the packages of these files, sorted. Libraries may be registered below /lib or /usr/lib, and by name or by what it links to.
owners() {
    local paths=() path
    for path in "$@"; do paths+=("$path" "$(realpath "$path")" "/usr$path" "$(realpath "$path" | sed 's#^/usr##')"); done
    { dpkg -S "${paths[@]}" 2>/dev/null || true; } | sed 's/: .*//; s/, .*//' | sort -u
}

# needed PROGRAM...: files of the libraries that the programs name themselves.
needed() {
    readelf -d "$@" | sed -nE 's/.*\(NEEDED\).*\[(.*)\]/\1/p' | sort -u | while read -r library; do
        ldconfig -p | awk -v l="$library" '$1 == l { print $NF; exit }'
    done
}

# loaded PROGRAM...: files of all libraries that are in memory with the programs.
loaded() { ldd "$@" | sed -nE 's/.* => (\/[^ ]+) .*/\1/p; s/^\t(\/[^ ]+) .*/\1/p' | sort -u; }
