#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Runs the whole suite in a Debian 13, where compiler, httpd, hiredis and Redis are newer, and the tests that
# use Redis once more with Valkey.
#
#   t/lib/debian13.sh [DIR]    DIR is the root of the Debian: build/debian13
#
# An existing root is used again and gets the current files of the work tree. Everything runs in a separate
# mount and pid namespace, so nothing stays mounted and no process is left when this script ends, however it
# ends. It must run as root. Packages come from the mirror that apt uses on this host.
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
    mount --rbind "$root" "$root" # namespaces inside need / to be a mount point
    mount -t proc proc "$root/proc"
    mount --rbind /dev "$root/dev"
    mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
    cp /etc/resolv.conf /etc/hosts "$root/etc/"
    run apt-get update -q >"$root/tmp/apt.log" 2>&1 || {
        cat "$root/tmp/apt.log" >&2
        fail "apt-get update failed in $root"
    }
    run make -C /srv/tree test PLANTED=
    run sh -c 'cd /srv/tree && t/lib/deps.sh valkey'
    run make -C /srv/tree check-redis RL_REDIS_SERVER=valkey-server
    exit 0
fi

# --- The root ------------------------------------------------------------------

[ "$(id -u)" = 0 ] || fail 'only root can create a Debian 13 and run in it'
unshare --mount --pid --fork true 2>/dev/null || fail 'mount and pid namespaces (unshare) are not available'
command -v debootstrap >/dev/null || fail 'debootstrap is missing'

# The mirror of this host's release.
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
    # the settings with which this host fetches packages, such as proxies
    apt-config dump | grep '^Acquire::\(http\|https\|Check\|ForceIP\)[^ ]* "[^"]' \
        >"$root/etc/apt/apt.conf.d/90host" || true
    touch "$root/.complete"
fi

# The files of the work tree: those that git lists, or everything except build/ if there is no git.
files() {
    git ls-files -z --cached --others --exclude-standard 2>/dev/null \
        || find . -path ./build -prune -o -type f -print0
}

rm -rf "$tree"
mkdir -p "$tree"
files | tar --null --no-recursion --ignore-failed-read -cf - -T - 2>/dev/null | tar -xf - -C "$tree"

exec unshare --mount --propagation private --pid --fork --kill-child "$0" "$root" inside
