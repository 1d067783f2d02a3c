#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
# Leases are exact in whatever order threads, hosts, Redis and the time take their steps: Spin tries all
# orders in the model lease.pml. It finds each fault that is planted in the model.

use strict;
use warnings;

use Cwd qw(abs_path);
use File::Basename qw(dirname);
use File::Temp;
use Test::More;

my $model = abs_path(dirname(__FILE__)) . '/lease.pml';

plan skip_all => 'spin is not installed' unless grep { -x "$_/spin" } split /:/, $ENV{PATH};

my $admits = qr/assertion violated \((?:admitted|sum)/;    # more units than the algorithm admits
my $twice  = qr/assertion violated \(unspent/;             # a unit is spent twice
my $small  = '-DBUCKET -DBURST=2 -DLASTS=1';

my @sound = (
    ['a window, a host with two threads', ''],
    ['a window, two hosts',               '-DHOSTS=2 -DTHREADS=1'],
    ['a bucket, a host with two threads', '-DBUCKET'],
    ['a bucket, two hosts',               '-DBUCKET -DHOSTS=2 -DTHREADS=1'],
);

my @faults = (
    ['a lease expires so long after the reply instead of after the call', '-DFROM_RECEIPT', $admits],
    ['a lease is spent after it has expired',            '-DSPEND_EXPIRED',        $admits],
    ['a lease is spent after it has expired (bucket)',   "$small -DSPEND_EXPIRED", $admits],
    ['a spend does not compare the lease',               '-DBLIND_SPEND',          $twice],
    ['units return to whichever lease is there',         '-DRETURN_ANY',           $twice],
    ['unspent units return to Redis',                    '-DREFUND',               $admits],
    ['unspent units return to Redis (bucket)',           "$small -DREFUND",        $admits],
    ['a late grant is used',                             '-DLATE_GRANT',           $admits],
    ['a grant is added to another lease, which then expires like it', '-DMERGE',   $twice],
    ['two refills in flight share a grant',              '-DSHARED_GRANT',         $twice],
    ['the host computes the window from its own clock',  '-DHOST_WINDOW',          $admits],
    ['requests that ask Redis use the whole burst',      '-DBUCKET -DFULL_BURST',  $admits],
);

# Builds the model's verifier in a new directory, and runs it. Returns what it prints. Faults are found soon, so
# their verifiers are built without optimization.
sub verify {
    my ($options, $optimize) = @_;
    my $dir  = File::Temp->newdir;
    my $said = qx{cd $dir && { spin -a $options "$model" && cc $optimize -w -DSAFETY -DMEMLIM=1000 -o pan pan.c \\
        && ./pan -n -m20000; } 2>&1};
    $said .= "\nthe search is not complete" if $said =~ /too small|truncated|reached -DMEMLIM/i;
    return $said;
}

for my $case (@sound) {
    my ($name, $options) = @$case;
    my $said = verify($options, '-O1');
    my ($states) = $said =~ /(\d+) states, stored/;
    ok $said =~ /errors: 0$/m && $said !~ /not complete/, "$name: no order breaks it" or diag $said;
    cmp_ok $states // 0, '>', 100_000, 'and there are ' . ($states // 'no') . ' states';
}
for my $case (@faults) {
    my ($name, $options, $property) = @$case;
    my $said = verify($options, '-O0');
    like $said, $property, "found: $name";
}
done_testing;
