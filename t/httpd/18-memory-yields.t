#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
# A denial that memory repeats ends when what it was made from does not hold any more: an override
# lifts it, for all requests and not for the one that asks, and the wait of one quota is not the
# wait of another.

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
    is statuses($path, 10, from => $from), '404 x 3 429 x 7', "$path: denied, by memory at last";
    $redis->cmd('HSET', "rl:override:{ip:$from}", $rule, $word);
    Process::wait_until(sub { $httpd->get($path, from => $from)->status == 404 },
        what => "the override $word to be seen");
    is statuses($path, 30, from => $from), '404 x 30', "the override $word holds for all";
}

is statuses('/plans', 8), '404 x 3 429 x 5', 'a plan of 3 is used up';
is statuses('/plans', 20, headers => ['X-Plan' => 'gold']), '404 x 20',
    'which says nothing of a plan of 1000';

statuses('/shared', 5, from => '127.0.8.1');
statuses('/shared', 5, from => '127.0.8.2');
is statuses('/shared', 2, from => '127.0.8.3'), '429 x 2', 'the quota of all is used up';
$redis->cmd('DEL', 'rl:{server}:all:sliding-window:1d');
Process::wait_until(
    sub {
        $httpd->get('/shared', from => '127.0.8.1');
        return $httpd->get('/shared', from => '127.0.8.3')->status == 404;
    },
    what => 'its counter to be missed, while one who is denied anyway asks first each time');
pass 'a client who is denied by a rule of his own keeps nobody from hearing of all';

done_testing;
