#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
# The explorer sees: each fault that was found in what children share, or that a line of it is there
# to prevent, is put back into a copy of the sources, and a scene must show it.

use strict;
use warnings;

use Cwd;
use File::Basename qw(dirname);
use File::Copy qw(copy);
use File::Path qw(make_path);
use File::Temp;
use Test::More;

my $root = getcwd();
my $dir  = File::Temp->newdir;

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

# Name, file, the text that is there, what takes its place, program, scene, what the scene must say.
my @faults = (
    ['a claim evicts the entry that its own key has just got', 'shm/local.c',
        "    mine = evicted;\n",
        "    evicted.owner = load_acquire(&evicted.entry->owner);\n    mine = evicted;\n",
        'claims', 'a new key, two threads, a full set', qr/not the quota is admitted/],
    ['an entry is evicted for what its owner before was worth', 'shm/local.c',
        "    mine = evicted;\n",
        "    evicted.owner = load_acquire(&evicted.entry->owner);\n    mine = evicted;\n",
        'claims', 'two new keys, a full set', qr/a count is lost/],
    ['the key is looked for first and a place in a second pass', 'shm/local.c',
        "        if ((t.owner & VALUE) == fingerprint)\n            return t;\n        if (",
        "        if (i == 0) {\n"
            . "            tenure found = rl_local_find(table, fingerprint << FINGERPRINT_SHIFT);\n\n"
            . "            if (found.entry)\n                return found;\n"
            . "            t.owner = load_acquire(&t.entry->owner);\n        }\n"
            . "        if (t.owner & BEING_MADE && ",
        'claims', 'a new key, two threads, a full set', qr/not the quota is admitted/],
    ['a place that was given up is made again in the same generation', 'shm/local.c',
        "swap(&e->owner, owner, *owner & GENERATION)",
        "swap(&e->owner, owner, (*owner - (UINT64_C(1) << GENERATION_SHIFT)) & GENERATION)",
        'claims', 'two places, at random', qr/two entries|not the quota/],
    ['nobody looks whether the key has another entry', 'shm/local.c',
        "if (&set[i] == mine.entry ||", "if (1 ||",
        'claims', 'two places', qr/two entries|not the quota/],
    ['makers take places from each other', 'shm/local.c',
        "    if (owner & BEING_MADE)", "    if (0)",
        'claims', 'take no place', qr/taken from its maker/],
    ['a maker says too late that it is at work', 'shm/local.c',
        "    store(&mine.entry->used, now_s << 8);", "    ",
        'claims', 'take no place', qr/taken from its maker/],
    ['a look does not ask whose count it has read', 'shm/local_count.c',
        "return is_of(first_of(p), t->owner) ? p :", "return 1 ? p :",
        'counts', 'a look while the place', qr/by another count/],
    ['a block is not asked whose it is', 'shm/local_count.c',
        "    if (is_of(was->blocked, t->owner))\n", "    if (was->blocked)\n",
        'counts', 'who was blocked', qr/another count|not what bob/],
    ['a late writer swaps what the next owner has written', 'shm/local_table.h',
        "return load_acquire(&t->entry->owner) == t->owner;", "return 1;",
        'counts', 'a late', qr/not what bob|by another count/],
    ['a generation comes back with what was left of it', 'shm/local.c',
        "    put_aside(&mine);\n", "",
        'counts', 'comes back', qr/not what bob|by another count|not his/],
    ['a charge does not see what became pending and was charged meanwhile', 'shm/local_count.c',
        "if (is.count == was->count && is.pending == was->pending)",
        "if (limit->on_response ? is.count == was->count : is.pending == was->pending)",
        'counts', 'settles it with a charge', qr/more than the quota/],
    ['units overdue are charged, then removed', 'shm/local_count.c',
        "    if (!marked(pending))\n",
        "    rl_pair all = pending | (uint64_t)overdue(limit, pending, now) << OVERDUE_SHIFT;\n"
            . "    reading due = {was->count, all, 0};\n"
            . "    rl_pending rest = without_overdue(all);\n\n"
            . "    if (!marked(pending)) {\n"
            . "        if (swap_pair(&words[COUNT], was->count, charge_marked(limit, t, &due, now)\n"
            . "                      ^ pair_of(0, COUNT_SIDE)))\n"
            . "            swap_pair(&words[PENDING], pending, pack_pending(pending, &rest));\n"
            . "    }\n    else if (0)\n",
        'counts', 'three find units overdue', qr/not charged once/],
    ['a count is not asked on which side it is', 'shm/local_count.c',
        "    return pair_of(first_of(count), second_of(count) ^ COUNT_SIDE);",
        "    return count;",
        'counts', 'units overdue', qr/not charged once|not come to an end/],
    ['a unit is settled and overdue at once', 'shm/local_count.c',
        "            if (charged_at >= 0)\n", "            if (0)\n",
        'counts', 'while it becomes overdue', qr/not charged once/],
    ['a unit is prolonged that others have found overdue', 'shm/local_count.c',
        "if (t.entry && is_over(units->period, &view.state, pair_in(&t, was.pending)))",
        "if (0)",
        'counts', 'prolonged while it becomes overdue', qr/told wrong/],
    ['what is pending is read once', 'shm/local_count.c',
        "while (second_of(pair_in(t, was->pending)) && read_pair(&words[PENDING]) != was->pending)",
        "while (0)",
        'counts', 'units overdue', qr/not charged once|not seen once|not come to an end/],
    ['a report is trusted without its checksum', 'shm/local_snapshot.c',
        "(w[REDIS_NOW] ^ sum) & LOW_SUM || (w[CHECK] ^ sum) & HIGH_SUM", "sum == 1",
        'snapshots', 'report', qr/nobody made|bob's report/],
    ['each that meets a denial that is due asks again', 'shm/local_snapshot.c',
        "        && swap(&t.entry->words[CHECK], &said.check,", "        && exchange(&t.entry->words[CHECK],",
        'snapshots', 'stale snapshot', qr/more than one asks/],
    ['a delayed request does not look again when it has counted itself', 'shm/delayed.c',
        "        if (count_delayed(delayed, host_ms / TENTH_MS) <= most)\n            return 1;\n",
        "        return 1;\n", 'shared', 'delayed', qr/two have the last place/],
    ['a name is believed without its checksum', 'shm/top_denied.c',
        "return check == checksum(key, words);", "return check != 1;",
        'shared', 'most denied', qr/for another key/],
    ['a copy of the statistics is believed while it is written', 'shm/stats.c',
        "if ((int64_t)load(&before->at_ms) == at_ms)", "if (1)",
        'shared', 'statistics', qr/than ever/],
    ['a ramp is over for a clock that was read before it began', 'redis/breaker.c',
        "if (age >= RAMP_MS) {", "if ((uint64_t)age >= RAMP_MS) {",
        'shared', 'breaker', qr/ended at once/],
    ['the breaker opens before there is a pause', 'redis/breaker.c',
        $pause . $open, $open . $pause, 'shared', 'breaker', qr/no pause|single probe/],
    ['a probe has as many owners as want it', 'redis/breaker.c',
        "    return swap(&b->claim_until, &until, (uint64_t)(now_ms + lasts_ms));",
        "    store(&b->claim_until, (uint64_t)(now_ms + lasts_ms));\n    return 1;",
        'shared', 'breaker', qr/two owners/],
);

sub text_of {
    my ($path) = @_;
    open my $in, '<', $path or die "$path: $!\n";
    local $/;
    return <$in>;
}

# The program with this one fault in it; dies if the line that it is put in place of is not there.
sub plant {
    my ($n, $file, $from, $to, $program) = @_;
    my ($copy, $build) = ("$dir/$n/src", "$dir/$n/build");
    for my $path (glob "$root/src/*/*.[ch]") {
        my $to = $copy . substr $path, length "$root/src";
        make_path(dirname($to));
        copy($path, $to);
    }
    my $text = text_of("$copy/$file");
    my $at = index $text, $from;
    die "$file has not exactly one: $from" if $at < 0 || index($text, $from, $at + 1) >= 0;
    substr $text, $at, length $from, $to;
    open my $out, '>', "$copy/$file" or die "$copy/$file: $!\n";
    print $out $text;
    close $out;
    my $made = qx{make -s BUILD=$build EXPLORE_SRC=$copy CFLAGS='-O0 -w' $build/t/explore/$program 2>&1};
    die $made if $?;
    return "$build/t/explore/$program";
}

my $n = 0;
for (@faults) {
    my ($name, $file, $from, $to, $program, $scene, $says) = @$_;
    my $path = plant($n++, $file, $from, $to, $program);
    my $out = qx{'$path' '$scene' 2>&1};
    ok $? && $out =~ $says, "it sees when $name" or diag $out;
}

SKIP: {
    skip 'every build for this processor swaps two words at once', 1
        unless qx{gcc -dumpmachine} =~ /^x86_64/;
    my $said = qx{make -s BUILD=$dir/narrow MACHINE= $dir/narrow/src/shm/local.o 2>&1};
    like $said, qr/error: .*needs a 16-byte compare and swap/,
        'a build that cannot swap two words at once fails, and says what is missing';
}

done_testing;
