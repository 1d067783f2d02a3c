#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
# The simulator of leases finds faults: each line that leases are exact by, or waste little by, is
# replaced in a copy of the sources, and a test of the simulator must fail.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";

use Planted;
use Test::More;

my $planted = Planted->new;

my $place = "        i = read_leases(t, l) ? place_for(l, grant) : -1;\n";
my $in_time = "    if (grant->units > 0 && grant->host_ms < grant->sent_ms + grant->life_ms)\n"
    . "        lost = put(&t, grant);\n";

# Name, file, text, its replacement, test, schedules (60).
my @faults = (
    ['the life of a lease is counted from the receipt of the reply', 'src/shm/local_lease.c',
        "uint64_t expires_ms = (uint64_t)(grant->sent_ms + grant->life_ms);",
        "uint64_t expires_ms = (uint64_t)(grant->host_ms + grant->life_ms);", 'old leases'],
    ['a lease is spent after it has expired', 'src/shm/local_lease.c',
        "return l->left >= max64(cost, 1) && host_ms < l->expires_ms;",
        "return l->left >= max64(cost, 1);", 'old leases'],
    ['units return to another lease than theirs', 'src/shm/local_lease.c',
        "if (l.serial != serial || l.left + cost > l.size)", "if (l.left + cost > l.size)",
        'return late'],
    ['units return to Redis and are still spent', 't/lib/lease_host.h',
        "    about->wanted = claim(w, h, r, o);\n",
        "    about->wanted = claim(w, h, r, o);\n"
            . "    rl_limiter_give_back(&o->limit, &w->counters[o->counter].state,\n"
            . "                         w->counters[o->counter].state.index, o->lease.left);\n",
        'old leases'],
    ['a late grant counts as one that was asked for now', 'src/shm/local_lease.c',
        $in_time,
        "    rl_lease_grant fresh = *grant;\n\n"
            . "    if (grant->host_ms >= grant->sent_ms + grant->life_ms)\n"
            . "        fresh.sent_ms = grant->host_ms;\n"
            . "    if (grant->units > 0)\n        lost = put(&t, &fresh);\n", 'stop and crash', 200],
    ['units that are left move to a lease that expires later', 'src/shm/local_lease.c',
        "with_left(&fresh, grant->units)", "with_left(&fresh, l[i].left + grant->units)",
        'old leases'],
    ['new units move to a lease that expires earlier', 'src/shm/local_lease.c',
        $place,
        $place . "        for (int j = 0; j < 2; j++) {\n"
            . "            fresh = l[j];\n            fresh.size += grant->units;\n"
            . "            if (is_live(&l[j], 1, grant->host_ms)\n"
            . "                && swap_pair(words_of(t, j), l[j].pair,\n"
            . "                             with_left(&fresh, l[j].left + grant->units)))\n"
            . "                return 0;\n        }\n"
            . "        fresh = (lease){.size = grant->units, .life_ms = grant->life_ms};\n",
        'unused units'],
    ['every debit of a bucket may use its whole burst', 'src/core/limiter.c',
        "return burst < RL_LEASE_SHARE ? burst : ", "return burst ? burst : ", 'old leases'],
    ['a bucket without a lease may use its whole burst', 't/lib/lease_redis.h',
        "    apply_override(w, o);\n",
        "    apply_override(w, o);\n"
            . "    if (o->cost)\n        o->limit.burst = o->term->burst;\n", 'old leases'],
    ['the window is that of the host\'s wall clock', 't/lib/lease_host.h',
        "rl_limiter_lease_ms(&o->limit, o->now)",
        "rl_limiter_lease_ms(&o->limit, o->now + h->wall_us / 1000 * "
            . "rl_limiter_ticks(&o->limit))", 'stop and crash', 200],
    ['a lease lives for all that remains of its window', 'src/core/limiter.c',
        "return least(lease_rest(limit, now) * 7 / 8, limit->lease_ms);",
        "return least(lease_rest(limit, now), limit->lease_ms);", 'old leases'],
);

my @sources = (glob('src/{core,shm}/*.[ch]'), glob('t/lib/*.h'), 't/unit/lease_simulator.c');
for (@faults) {
    my ($name, $file, $from, $to, $test, $schedules) = @$_;
    my $copy = $planted->copy(\@sources, $file, $from, $to);
    my $path = "$copy/lease_simulator";
    my $made = qx{make -s COPY=$copy CFLAGS='-O1 -w' $path 2>&1};
    die $made if $?;
    my $out = qx{'$path' @{[$schedules // 60]} '$test' 2>&1};
    ok $? && $out =~ /^not ok/m, "it finds that $name" or diag $out;
}

done_testing;
