#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Installs the packages that are missing to build and test, on Debian 12 or later.
#
#   t/lib/deps.sh [demo] [test] [lint] [bench] [clang] [fuzz] [debian13] [valkey]
#
# Does nothing if nothing is missing. As root it installs with apt-get and keeps the packages from starting
# daemons. Otherwise it prints the command to run as root and fails.
set -eu

PATH=$PATH:/usr/sbin:/sbin
missing=

# need PACKAGE COMMAND...: the package is missing if the command fails
need() {
    package=$1
    shift
    "$@" >/dev/null 2>&1 || missing="$missing $package"
}

has_perl_modules() {
    perl -MTest::More -MTime::HiRes -MIO::Socket::INET -e1
}

# The packages to build the module and to run the demo.
demo_packages() {
    need gcc command -v gcc
    need libc6-dev test -e /usr/include/stdio.h
    need pkg-config command -v pkg-config
    need perl has_perl_modules
    need perl command -v prove
    need apache2-bin command -v apache2
    need apache2-dev command -v apxs
    need libhiredis-dev pkg-config --exists hiredis
    need redis-server command -v redis-server
}

test_packages() {
    demo_packages
    need libapache2-mpm-itk test -e /usr/lib/apache2/modules/mpm_itk.so
    need openssl command -v openssl
    need stunnel4 command -v stunnel4
    need libssl-dev test -e /usr/include/openssl/ssl.h
    need prometheus command -v promtool
    need fail2ban command -v fail2ban-regex
    need spin command -v spin
}

lint_packages() {
    need clang command -v clang
    need cppcheck command -v cppcheck
}

bench_packages() {
    need wrk command -v wrk
    need valgrind command -v valgrind
}

clang_packages() {
    need clang command -v clang
}

debian13_packages() {
    need debootstrap command -v debootstrap
}

# In Debian 13 only.
valkey_packages() {
    need valkey-server command -v valkey-server
}

# The fuzzer runtime for the major version of the clang that is installed.
fuzz_packages() {
    major=$(clang -dumpversion | cut -d. -f1)
    need "libclang-rt-$major-dev" \
        sh -c 'ls "$(clang -print-resource-dir)"/lib/*/libclang_rt.fuzzer*.a'
}

# Maintainer scripts run this policy before they start a daemon; 101 forbids it. An existing policy belongs to
# the administrator and stays.
forbid_daemons() {
    policy=/usr/sbin/policy-rc.d
    if [ ! -e "$policy" ]; then
        trap 'rm -f "$policy"' EXIT
        trap 'exit 130' INT
        trap 'exit 143' TERM
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod 755 "$policy"
    fi
}

for group in "${@:-test}"; do
    "${group}_packages"
done
[ -n "$missing" ] || exit 0

install="apt-get install -y --no-install-recommends$missing"
if ! command -v apt-get >/dev/null 2>&1; then
    echo "Missing, by their Debian names:$missing" >&2
    exit 1
fi
if [ "$(id -u)" != 0 ]; then
    echo "Missing packages. As root: $install" >&2
    exit 1
fi

echo "Installing:$missing"
forbid_daemons
log=$(mktemp)
# shellcheck disable=SC2086  # a list of words
get() {
    DEBIAN_FRONTEND=noninteractive $install -q -o DPkg::Lock::Timeout=300 >"$log" 2>&1
}
# A failure is usually due to old or missing package lists, so fetch them and try once more.
if ! get && ! { apt-get update -q >"$log" 2>&1 && get; }; then
    cat "$log" >&2
    rm -f "$log"
    echo "apt-get failed, even with fresh lists" >&2
    exit 1
fi
rm -f "$log"
