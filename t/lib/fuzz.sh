#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Runs one fuzzer as a test: it must find nothing in FUZZ_SECONDS.
#
#   t/lib/fuzz.sh build/fuzz/t/fuzz/NAME
set -u

fuzzer=$1
corpus=${fuzzer%/t/fuzz/*}/corpus/${fuzzer##*/}
dict=
case ${fuzzer##*/} in link | reply | slots) dict=-dict=t/fuzz/redis.dict ;; esac
mkdir -p "$corpus"
echo 1..1
if "$fuzzer" -max_total_time="${FUZZ_SECONDS:-10}" -max_len=512 -malloc_limit_mb=64 \
    $dict -print_final_stats=1 \
    -artifact_prefix="${corpus%/*}/../" "$corpus" >"$fuzzer.log" 2>&1; then
    echo "ok 1 - $(sed -n 's/.*executed_units: *//p' "$fuzzer.log") inputs without a failure"
else
    tail -40 "$fuzzer.log" | sed 's/^/# /'
    echo "not ok 1 - ${fuzzer##*/}"
fi
