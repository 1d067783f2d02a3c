#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
# A host repeats a denial from memory only as long as Redis would deny. An override ends the denial for all
# requests, not only for the request that asked Redis. A denial of one tier is not repeated for another, and
# one of a shared rule ends for all clients.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";

use Httpd;
use Process;
use RedisServer;
use Test::More;

my $redis = RedisServer->start;
my $httpd = Httpd->start(redis => $redis, config => <<'EOF');
RateLimitRedis @REDIS@
RateLimitRedisTimeout 10s connect=10s
RateLimitOverrides on
<Location /window>
    RateLimit window 3/1d
</Location>
<Location /bucket>
    RateLimit bucket 3/1d algorithm=token-bucket
    RateLimitTier bucket gold 1000 burst=2000
</Location>
<Location /log>
    RateLimit log 3/1d algorithm=sliding-log
</Location>
<Location /shared>
    RateLimit all 6/1d key=server
    RateLimit one 3/1d
</Location>
<Location /plans>
    RateLimit plans 3/1d algorithm=sliding-log tier=%{req:X-Plan}
    RateLimitTier plans gold 1000
</Location>
EOF

sub statuses {
    my ($path, $n, @options) = @_;
    my %seen;
    $seen{ $httpd->get($path, @options)->status }++ for 1 .. $n;
    return join ' ', map { "$_ x $seen{$_}" } sort keys %seen;
}

my $clients = 0;
for my $case (
    ['/window', 'window', 'unlimited'],
    ['/bucket', 'bucket', 'unlimited'],
    ['/bucket', 'bucket', 'gold'],
    ['/log',    'log',    'unlimited'],
    ['/log',    'log',    '1000'],
) {
    my ($path, $rule, $word) = @$case;
    my $from = '127.0.7.' . ++$clients;
    is statuses($path, 10, from => $from), '404 x 3 429 x 7',
        "$path: the quota passes, the rest is denied, in the end from memory";
    $redis->cmd('HSET', "rl:override:{ip:$from}", $rule, $word);
    Process::wait_until(sub { $httpd->get($path, from => $from)->status == 404 },
        what => "the override $word to be noticed");
    is statuses($path, 30, from => $from), '404 x 30', "the override $word applies to all requests";
}

is statuses('/plans', 8), '404 x 3 429 x 5', 'the quota of 3 is used up';
is statuses('/plans', 20, headers => ['X-Plan' => 'gold']), '404 x 20',
    'a tier of 1000 is still admitted';

statuses('/shared', 5, from => '127.0.8.1');
statuses('/shared', 5, from => '127.0.8.2');
is statuses('/shared', 2, from => '127.0.8.3'), '429 x 2', 'the quota that all clients share is used up';
$redis->cmd('DEL', 'rl:{server}:all:sliding-window:1d');
Process::wait_until(
    sub {
        $httpd->get('/shared', from => '127.0.8.1');
        return $httpd->get('/shared', from => '127.0.8.3')->status == 404;
    },
    what => 'the deleted counter to be noticed, with requests before it that another rule denies');
pass 'a client denied by a rule by address does not keep others from being admitted again';

done_testing;
