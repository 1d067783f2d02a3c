#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
# Whatever happens to children, totals never fall and are the numbers that clients count, except for requests
# that a killed child was working on.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";

use Client;
use Httpd;
use Metrics;
use RedisServer;
use Test::More;

my $redis    = RedisServer->start;
my $requests = 'apache_ratelimit_requests_total';

sub host {
    my ($config, $mpm) = @_;
    # more children than are ever killed at once, so one can always answer
    return Httpd->start(redis => $redis, mpm => $mpm, children => $mpm eq 'prefork' ? 80 : 4,
        config => "$config\nRateLimit total 500/1h\nRateLimit beside 1000000/1h sync=local\n"
            . Metrics::CONFIG);
}

# The metrics now. Tries again if the child that answers is killed.
sub metrics {
    my ($host) = @_;
    for (1 .. 20) {
        my $metrics = eval { Metrics->of($host) };
        return $metrics if $metrics;
    }
    die "no metrics: $@";
}

for my $mpm (qw(event prefork)) {
    for my $redis_or_not ('with Redis', 'alone') {
        subtest "totals are right while children are killed ($mpm, $redis_or_not)" => sub {
            $redis->cmd('FLUSHALL');
            my $host = host($redis_or_not eq 'alone' ? ''
                : "RateLimitRedis \@REDIS\@\nRateLimitRedisTimeout 10s connect=10s", $mpm);
            my ($seen, $killed, $reads, %last, @fell) = (0, 0, 0);
            my $sum = Client->flood(
                targets => [$host->port], connections => 64, requests => 6000, path => '/hello.txt',
                on_response => sub {
                    $seen++;
                    if ($seen % 400 == 0) {
                        my @children = $host->children;
                        $killed += kill KILL => $children[rand @children];
                    }
                    if ($seen % 100 == 0) {
                        my $series = metrics($host)->series;
                        push @fell, grep { $series->{$_} < $last{$_} } keys %last;
                        %last = map { $_ => $series->{$_} } grep { /_total|_count|_sum|_bucket/ } keys %$series;
                        $reads++;
                    }
                },
            );
            cmp_ok $killed, '>=', 5, "$killed children were killed";
            is_deeply \@fell, [], "no counter fell in $reads reads";
            my $metrics = metrics($host);
            my %client = (pass => 0, deny => 0);
            $client{pass} = $sum->{status}{200} || 0;
            $client{deny} = $sum->{status}{429} || 0;
            # a child works on as many requests as it has threads
            my $lost = $killed * ($mpm eq 'prefork' ? 1 : 25);
            cmp_ok $client{deny}, '>=', 4000, 'most requests were denied';
            for my $verdict (qw(pass deny)) {
                my $total = $metrics->value($requests, rule => 'total', verdict => $verdict);
                cmp_ok $total, '>=', $client{$verdict},
                    "$verdict: $total, at least the $client{$verdict} that clients counted";
                cmp_ok $total, '<=', $client{$verdict} + $lost,
                    'at most as many more as killed children were working on';
            }
            my $all = $metrics->value($requests, rule => 'total');
            my $beside = $metrics->value($requests, rule => 'beside');
            cmp_ok abs($all - $beside), '<=', $lost, "both rules counted all requests: $all, $beside";
        };
    }
}

done_testing;
