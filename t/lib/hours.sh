#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Runs a command at hours at which tests have failed before: shortly before midnight, right after it, and in
# the last minute of a February, each time with all processors busy.
#
#   t/lib/hours.sh build/wallclock.so prove ...
#
# RL_HOURS='2026-02-28T23:59:00 ...' gives other hours, in UTC. The command and every process that it starts
# see the wall clock moved by the same offset: see wallclock.c. t/httpd/00-harness.t checks that httpd, Redis
# and Perl do. promtool does not, because it asks the kernel directly; its tests have their own times.
set -eu

hours=${RL_HOURS:-2026-11-27T23:20:00 2026-11-28T00:00:40 2026-02-28T23:59:00}
library=$(realpath "$1")
shift

busy=
trap 'kill $busy 2>/dev/null || true' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
for _ in $(seq "$(nproc)"); do
    sh -c 'while kill -0 "$1" 2>/dev/null; do :; done' busy $$ &
    busy="$busy $!"
done

failed=0
for hour in $hours; do
    offset=$(($(date -ud "$hour" +%s) - $(date +%s)))
    echo "At $hour UTC, which is ${offset} s from now"
    LD_PRELOAD=$library WALLCLOCK_OFFSET=$offset "$@" || failed=1
done
exit $failed
