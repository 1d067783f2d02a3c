#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# The whole suite in a Debian 13, where compiler, httpd, hiredis and Redis are
# newer, and what asks Redis once more against Valkey.
#
#   t/lib/debian13.sh [DIR]    DIR keeps the root: build/debian13
#
# A root that is there is used again. It gets the files of the work tree as they
# are now. All that happens in it happens in a mount and a pid namespace of its
# own: when this ends, however it ends, nothing is mounted and nothing runs.
# Needs root's rights. Packages come from the mirror that apt uses here.
set -eu

fail() {
    echo "test-debian13: $*" >&2
    exit 1
}

root=$(realpath -m "${1:-build/debian13}")
tree=$root/srv/tree

run() {
    chroot "$root" env -i HOME=/root LANG=C.UTF-8 PATH=/usr/sbin:/usr/bin:/sbin:/bin "$@"
}

# --- In the namespaces ---------------------------------------------------------

if [ "${2:-}" = inside ]; then
    mount --rbind "$root" "$root" # / in there becomes a mount point: namespaces of its own need one
    mount -t proc proc "$root/proc"
    mount --rbind /dev "$root/dev"
    mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
    cp /etc/resolv.conf /etc/hosts "$root/etc/"
    run apt-get update -q >"$root/tmp/apt.log" 2>&1 || {
        cat "$root/tmp/apt.log" >&2
        fail "apt-get update failed in $root"
    }
    run make -C /srv/tree test
    run sh -c 'cd /srv/tree && t/lib/deps.sh valkey'
    run make -C /srv/tree check-redis RL_REDIS_SERVER=valkey-server
    exit 0
fi

# --- The root ------------------------------------------------------------------

[ "$(id -u)" = 0 ] || fail 'it takes root to make a root of Debian 13 and to enter it'
unshare --mount --pid --fork true 2>/dev/null || fail 'no mount and pid namespaces here (unshare)'
command -v debootstrap >/dev/null || fail 'debootstrap is missing'

# The mirror of this host's own release, whatever apt's configuration is called.
mirror() {
    codename=$(. /etc/os-release && echo "$VERSION_CODENAME")
    apt-get indextargets --format '$(CODENAME) $(COMPONENT) $(REPO_URI)' \
        | awk -v c="$codename" '$1 == c && $2 == "main" { print $3; exit }'
}

if [ ! -e "$root/.complete" ]; then
    from=$(mirror)
    [ -n "$from" ] || fail "apt has no mirror of this release: run apt-get update"
    echo "Debian 13 into $root"
    rm -rf "$root"
    mkdir -p "$root"
    debootstrap --variant=minbase --include=make,git,ca-certificates trixie "$root" "$from" \
        >"$root.log" 2>&1 || { tail -20 "$root.log" >&2; fail "debootstrap failed"; }
    # how this host fetches packages: proxies, dates
    apt-config dump | grep '^Acquire::\(http\|https\|Check\|ForceIP\)[^ ]* "[^"]' \
        >"$root/etc/apt/apt.conf.d/90host" || true
    touch "$root/.complete"
fi

# What belongs to the work tree, as git says or, where it says nothing, all but build/.
files() {
    git ls-files -z --cached --others --exclude-standard 2>/dev/null \
        || find . -path ./build -prune -o -type f -print0
}

rm -rf "$tree"
mkdir -p "$tree"
files | tar --null --no-recursion --ignore-failed-read -cf - -T - 2>/dev/null | tar -xf - -C "$tree"

exec unshare --mount --propagation private --pid --fork --kill-child "$0" "$root" inside
