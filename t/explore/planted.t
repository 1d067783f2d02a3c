#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
# The explorer finds faults: each fault that was once found in the code that children share, or that
# a line of it prevents, is put into a copy of the sources, and a scene must find it.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";

use Planted;
use Test::More;

my $planted = Planted->new;

my $pause = <<'EOT';
    store(&b->backoff_ms, (uint64_t)next_ms);
    store(&b->probe_at, (uint64_t)now_ms + jittered((uint64_t)next_ms, now_ms));
    store(&b->claim_until, 0);
    store(&b->probes, 0);
EOT
my $open = <<'EOT';
    do {
        if ((state & 0xff) == RL_BREAKER_OPEN)
            return 0;
    } while (!swap(&b->state, &state, RL_BREAKER_OPEN));
EOT

# Name, file, text, its replacement, program, scene, what the scene must report.
my @faults = (
    ['a claim evicts the entry that its own key has just got', 'shm/local.c',
        "    mine = evicted;\n",
        "    evicted.owner = load_acquire(&evicted.entry->owner);\n    mine = evicted;\n",
        'claims', 'a new key, two threads, a full set', qr/are not the quota/],
    ['an entry is evicted that was judged by an earlier owner', 'shm/local.c',
        "    mine = evicted;\n",
        "    evicted.owner = load_acquire(&evicted.entry->owner);\n    mine = evicted;\n",
        'claims', 'two new keys, a full set', qr/a count is lost/],
    ['the key is searched first, and a place in a second pass', 'shm/local.c',
        "        if ((t.owner & VALUE) == fingerprint)\n            return t;\n        if (",
        "        if (i == 0) {\n"
            . "            tenure found = rl_local_find(table, fingerprint << FINGERPRINT_SHIFT);\n\n"
            . "            if (found.entry)\n                return found;\n"
            . "            t.owner = load_acquire(&t.entry->owner);\n        }\n"
            . "        if (t.owner & BEING_MADE && ",
        'claims', 'a new key, two threads, a full set', qr/are not the quota/],
    ['a place that was given up is used again in the same generation', 'shm/local.c',
        "swap(&e->owner, owner, *owner & GENERATION)",
        "swap(&e->owner, owner, (*owner - (UINT64_C(1) << GENERATION_SHIFT)) & GENERATION)",
        'claims', 'two places, at random', qr/two entries|not the quota/],
    ['the other entries of the key are not looked for', 'shm/local.c',
        "if (&set[i] == mine.entry ||", "if (1 ||",
        'claims', 'two places', qr/two entries|not the quota/],
    ['makers take places from each other', 'shm/local.c',
        "    if (owner & BEING_MADE)", "    if (0)",
        'claims', 'take no place', qr/taken from its maker/],
    ['a maker sets the last use too late', 'shm/local.c',
        "    store(&mine.entry->used, now_s << 8);", "    ",
        'claims', 'take no place', qr/taken from its maker/],
    ['a peek does not check whose count it has read', 'shm/local_count.c',
        "return is_of(first_of(p), t->owner) ? p :", "return 1 ? p :",
        'counts', 'a peek while', qr/by another count/],
    ['the owner of a block is not checked', 'shm/local_count.c',
        "    if (is_of(was->blocked, t->owner))\n", "    if (was->blocked)\n",
        'counts', 'that was blocked', qr/another count|not what bob/],
    ['a late writer swaps what the next owner has written', 'shm/local_table.h',
        "return load_acquire(&t->entry->owner) == t->owner;", "return 1;",
        'counts', 'a late', qr/not what bob|by another count/],
    ['a generation comes back with old words', 'shm/local.c',
        "    put_aside(&mine);\n", "",
        'counts', 'comes back', qr/not what bob|by another count/],
    ['a charge does not see units that became pending and were charged in between',
        'shm/local_count.c',
        "if (is.count == was->count && is.pending == was->pending)",
        "if (limit->on_response ? is.count == was->count : is.pending == was->pending)",
        'counts', 'settles it with a charge', qr/more than the quota/],
    ['overdue units are charged, then removed', 'shm/local_count.c',
        "    if (!marked(pending))\n",
        "    rl_pair all = pending | (uint64_t)overdue(limit, pending, now) << OVERDUE_SHIFT;\n"
            . "    reading due = {was->count, all, 0};\n"
            . "    rl_pending rest = without_overdue(all);\n\n"
            . "    if (!marked(pending)) {\n"
            . "        if (swap_pair(&words[COUNT], was->count, charge_marked(limit, t, &due, now)\n"
            . "                      ^ pair_of(0, COUNT_SIDE)))\n"
            . "            swap_pair(&words[PENDING], pending, pack_pending(pending, &rest));\n"
            . "    }\n    else if (0)\n",
        'counts', 'three find overdue units', qr/not charged once/],
    ['the side bit of a count is not turned', 'shm/local_count.c',
        "    return pair_of(first_of(count), second_of(count) ^ COUNT_SIDE);",
        "    return count;",
        'counts', 'overdue units', qr/not charged once|not come to an end/],
    ['a unit is settled and overdue at the same time', 'shm/local_count.c',
        "            if (charged_at >= 0)\n", "            if (0)\n",
        'counts', 'while it becomes overdue', qr/not charged once/],
    ['a unit is prolonged that another thread has found overdue', 'shm/local_count.c',
        "if (t.entry && is_over(units->period, &view.state, pair_in(&t, was.pending)))",
        "if (0)",
        'counts', 'prolonged while it becomes overdue', qr/wrong period/],
    ['the pending pair is read once', 'shm/local_count.c',
        "while (second_of(pair_in(t, was->pending)) && read_pair(&words[PENDING]) != was->pending)",
        "while (0)",
        'counts', 'overdue units', qr/not charged once|not seen once|not come to an end/],
    ['a snapshot is trusted without its checksum', 'shm/local_snapshot.c',
        "(w[REDIS_NOW] ^ sum) & LOW_SUM || (w[CHECK] ^ sum) & HIGH_SUM", "sum == 1",
        'snapshots', 'store', qr/a mixture|bob's reply/],
    ['each thread that meets a stale denial revalidates it', 'shm/local_snapshot.c',
        "        && swap(&t.entry->words[CHECK], &said.check,", "        && exchange(&t.entry->words[CHECK],",
        'snapshots', 'stale snapshot', qr/more than one revalidates/],
    ['a lease is spent by a swap of its units alone', 'shm/local_lease.c',
        "    } while (!swap_pair(words_of(&t, i), from->pair, with_left(from, from->left - cost)));",
        "    } while (!swap(&words_of(&t, i)[1], (uint64_t[]){second_of(from->pair)},\n"
            . "                   second_of(with_left(from, from->left - cost))));",
        'leases', 'a late spend', qr/cannot spend bob's own units|not what bob/],
    ['units of a lease are stored without a swap', 'shm/local_lease.c',
        "    } while (!swap_pair(words_of(&t, i), from->pair, with_left(from, from->left - cost)));",
        "        store(&words_of(&t, i)[1], second_of(with_left(from, from->left - cost)));\n"
            . "    } while (0);",
        'leases', 'spend the last units', qr/more is spent/],
    ['a lease is spent after it has expired', 'shm/local_lease.c',
        "return l->left >= max64(cost, 1) && host_ms < l->expires_ms;",
        "return l->left >= max64(cost, 1);",
        'leases', 'expires', qr/an expired unit is spent/],
    ['a lease is spent to the end of the ms in which it expires', 'shm/local_lease.c',
        "return l->left >= max64(cost, 1) && host_ms < l->expires_ms;",
        "return l->left >= max64(cost, 1) && host_ms <= l->expires_ms;",
        'leases', 'expires', qr/an expired unit is spent/],
    ['units return to whatever lease has the place', 'shm/local_lease.c',
        "if (l.serial != serial || l.left + cost > l.size)", "if (l.left + cost > l.size)",
        'leases', 'a return to', qr/an expired unit is spent/],
    ['a grant replaces a lease that is live', 'shm/local_lease.c',
        "            if (!is_live(&l[i], cost, grant->host_ms))\n", "",
        'leases', 'two grants', qr/replaced that is not over/],
    ['a grant is added to the lease in its place', 'shm/local_lease.c',
        "with_left(&fresh, grant->units)", "with_left(&fresh, l[i].left + grant->units)",
        'leases', 'is replaced', qr/more is spent|an expired unit/],
    ['a grant is stored without a swap', 'shm/local_lease.c',
        "        if (swap_pair(words_of(t, i), l[i].pair, with_left(&fresh, grant->units)))\n"
            . "            return l[i].left;\n",
        "        store(&words_of(t, i)[0], fresh.serial);\n"
            . "        store(&words_of(t, i)[1], second_of(with_left(&fresh, grant->units)));\n"
            . "        return l[i].left;\n",
        'leases', 'grant', qr/less can be spent|two of three|replaced that is not over/],
    ['a grant is stored in the entry of another key', 'shm/local_lease.c',
        "    return is_current(t);\n", "    return 1;\n",
        'leases', 'a late grant', qr/not what bob|bob's own units|denied by a lease/],
    ['a claim is not looked at', 'shm/local_lease.c',
        "(is_of(claim, t.owner) && (int64_t)(claim & VALUE) > times->host_ms)", "0",
        'leases', 'claim a refill', qr/not one thread claims/],
    ['a claim is stored without a swap', 'shm/local_lease.c',
        "    if (!swap(&t.entry->words[CLAIM], &claim, "
            . "(t.owner & GENERATION) | (uint64_t)until_ms))\n        return 0;\n",
        "    store(&t.entry->words[CLAIM], (t.owner & GENERATION) | (uint64_t)until_ms);\n",
        'leases', 'claim a refill', qr/not one thread claims/],
    ['a claim lasts for ever', 'shm/local_lease.c',
        "(int64_t)(claim & VALUE) > times->host_ms", "(claim & VALUE)",
        'leases', 'claim a refill', qr/does not end/],
    ['a claim is stored in the entry of another key', 'shm/local_lease.c',
        "if (!is_current(&t) || (is_of(claim", "if ((is_of(claim",
        'leases', 'a late claim', qr/not what bob|bob's claim|denied by a lease/],
    ['the end of a claim is stored in the entry of another key', 'shm/local_lease.c',
        "    if (is_of(claim, t->owner) && is_current(t))\n        swap",
        "    if (claim)\n        swap",
        'leases', 'the end of a late claim', qr/bob's claim is gone/],
    ['a generation comes back with old leases', 'shm/local.c',
        "    put_aside(&mine);\n", "",
        'leases', 'comes back', qr/an old lease|an old claim/],
    ['a delayed request does not count again after it has taken a place', 'shm/delayed.c',
        "        if (count_delayed(delayed, host_ms / TENTH_MS) <= most)\n            return 1;\n",
        "        return 1;\n", 'shared', 'delayed', qr/two threads have the last place/],
    ['a denied identity is believed without its checksum', 'shm/top_denied.c',
        "return check == checksum(key, words);", "return check != 1;",
        'shared', 'most denied', qr/for another key/],
    ['a copy of the statistics is believed while it is written', 'shm/stats.c',
        "if ((int64_t)load(&before->at_ms) == at_ms)", "if (1)",
        'shared', 'statistics', qr/than ever/],
    ['a ramp is over for a clock read before it began', 'redis/breaker.c',
        "if (age >= RAMP_MS) {", "if ((uint64_t)age >= RAMP_MS) {",
        'shared', 'breaker', qr/ended at once/],
    ['the breaker opens before there is a pause', 'redis/breaker.c',
        $pause . $open, $open . $pause, 'shared', 'breaker', qr/no pause|single probe/],
    ['a probe has as many owners as claim it', 'redis/breaker.c',
        "    return swap(&b->claim_until, &until, (uint64_t)(now_ms + lasts_ms));",
        "    store(&b->claim_until, (uint64_t)(now_ms + lasts_ms));\n    return 1;",
        'shared', 'breaker', qr/two owners/],
);

for (@faults) {
    my ($name, $file, $from, $to, $program, $scene, $says) = @$_;
    my $copy = $planted->copy([glob 'src/*/*.[ch]'], "src/$file", $from, $to);
    my $path = "$copy/build/t/explore/$program";
    my $made = qx{make -s BUILD=$copy/build EXPLORE_SRC=$copy/src CFLAGS='-O0 -w' $path 2>&1};
    die $made if $?;
    my $out = qx{'$path' '$scene' 2>&1};
    ok $? && $out =~ $says, "it finds that $name" or diag $out;
}

SKIP: {
    skip 'every build for this processor can swap two words at once', 1
        unless qx{gcc -dumpmachine} =~ /^x86_64/;
    my $narrow = $planted->dir . '/narrow';
    my $said = qx{make -s BUILD=$narrow MACHINE= $narrow/src/shm/local.o 2>&1};
    like $said, qr/error: .*needs a 16-byte compare and swap/,
        'a build that cannot swap two words at once fails with a message';
}

done_testing;
