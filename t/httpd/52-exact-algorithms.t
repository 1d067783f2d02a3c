#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
# Exact for every algorithm: two hosts, requests of mixed costs, two rules of which
# one is shared by all clients. The units that pass are the quota, not one more and
# not one less, and what was denied has charged neither rule.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";

use Client qw(fresh_address);
use Httpd;
use RedisServer;
use Status;
use Test::More;
use Time::HiRes qw(sleep time);

use constant WEEK_MS => 7 * 86_400_000;

my @algorithms = qw(sliding-window fixed-window sliding-log token-bucket leaky-bucket);

# Exact is what Redis decided: on a slow machine too it must be given the time. A
# bucket of so long a window gives nothing back while a test counts.
my $config = <<'EOT' . Status::CONFIG . join '', map { <<"EOT" } @algorithms;
RateLimitRedis @REDIS@
RateLimitRedisTimeout 10s connect=10s
RateLimitOnFailure closed
EOT
<Location /$_>
    RateLimit wide 250/1w key=server cost=%{HTTP:X-Cost} algorithm=$_
    RateLimit narrow 100/1w cost=%{HTTP:X-Cost} algorithm=$_
</Location>
EOT

my $redis = RedisServer->start;

# The units that a key of Redis holds, as decide.lua stores them.
sub units {
    my ($algorithm, $key) = @_;
    my $value = $redis->cmd('GET', "$key:$algorithm:1w") // return undef;
    if ($algorithm =~ /window/) {
        my ($prev, $cur) = unpack 'x6 V V', $value;
        return $prev + $cur;
    }
    return unpack 'V', $value if $algorithm eq 'sliding-log';
    my ($low, $middle, $high) = unpack 'x7 V v C', $value;
    my $level = $low + $middle * 2**32 + $high * 2**48;
    return int($level / WEEK_MS) + ($level % WEEK_MS ? 1 : 0);    # it drains
}

for my $case (['event', @algorithms], ['prefork', 'sliding-log', 'token-bucket']) {
    my ($mpm, @those) = @$case;
    my @hosts = map { Httpd->start(redis => $redis, mpm => $mpm, modules => ['status'], config => $config,
        $mpm eq 'prefork' ? (children => 34) : (threads => 40)) } 1, 2;
    for my $algorithm (@those) {
        subtest "$algorithm ($mpm)" => sub {
            $redis->cmd('FLUSHALL');
            my $spent = 0;
            for my $quota (100, 100, 50) {
                my ($address, $passed, $dear) = (fresh_address(), 0, 0);
                my $cost = sub { 1 + $_[0] % 5 };
                my $sum = Client->flood(targets => [map { $_->port } @hosts], connections => 64,
                    requests => 600, path => "/$algorithm", from => $address,
                    headers => sub { { 'X-Cost' => $cost->($_[0]) } },
                    on_response => sub {
                        my ($number, $answer) = @_;
                        return if $answer->status != 404;
                        $passed += $cost->($number);
                        $dear++ if $cost->($number) > 1;
                    });
                is_deeply [sort keys %{ $sum->{status} }], [404, 429], 'each request has a verdict';
                is $passed, $quota, "exactly $quota units pass";
                cmp_ok $dear, '>', 0, 'dear requests among them';
                is units($algorithm, "rl:{ip:$address}:narrow"), $quota, 'as many are charged to the client';
                is units($algorithm, 'rl:{server}:wide'), $spent += $quota, 'and to all together';
            }
            is $_->redis_failures, 0, 'Redis decided every request' for map { Status->of($_) } @hosts;
        };
    }
}

done_testing;
