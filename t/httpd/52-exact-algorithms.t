#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
# Every algorithm is exact: under requests of mixed costs to two hosts and two rules, one of them shared by
# all clients, exactly the quota passes, and denied requests are charged to neither rule.

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

# Only decisions of Redis are exact, so it gets a long time to answer on a slow machine. With a window of a
# week, buckets drain less than a unit during the test.
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

# The units in a key of Redis, in the format of decide.lua.
sub units {
    my ($algorithm, $key) = @_;
    my $value = $redis->cmd('GET', "$key:$algorithm:1w") // return undef;
    return RedisServer::units($value) if $algorithm =~ /window/;
    return unpack 'V', $value if $algorithm eq 'sliding-log';
    my ($low, $middle, $high) = unpack 'x7 V v C', $value;
    my $level = $low + $middle * 2**32 + $high * 2**48;
    return int($level / WEEK_MS) + ($level % WEEK_MS ? 1 : 0);    # it has drained a little
}

for my $case (['event', @algorithms], ['prefork', 'sliding-log', 'token-bucket']) {
    my ($mpm, @those) = @$case;
    my @hosts = map { Httpd->start(redis => $redis, mpm => $mpm, modules => ['status'], config => $config,
        $mpm eq 'prefork' ? (children => 34) : (threads => 40)) } 1, 2;
    for my $algorithm (@those) {
        subtest "two hosts admit exactly the quota: $algorithm ($mpm)" => sub {
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
                cmp_ok $dear, '>', 0, 'some of them by requests that cost more than one';
                is units($algorithm, "rl:{ip:$address}:narrow"), $quota, 'the rule by address is charged as many';
                is units($algorithm, 'rl:{server}:wide'), $spent += $quota, 'the shared rule is charged as many';
            }
            is $_->redis_failures, 0, 'Redis decided every request' for map { Status->of($_) } @hosts;
        };
    }
}

done_testing;
