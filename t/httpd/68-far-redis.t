#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
# A Redis that always answers later than requests may wait: after the first few requests none waits for it,
# and the log names the directive to raise.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";

use FakeRedis;
use Httpd;
use IO::Select;
use IO::Socket::INET;
use RedisServer;
use Status;
use Test::More;
use Time::HiRes qw(sleep);

use constant { ALLOWED_MS => 100, ROUND_TRIP_S => 0.3 };

# A relay that delays every reply of Redis.
sub far {
    my ($redis) = @_;
    my $port = $redis->port;
    return FakeRedis->start(sub {
        my ($conn) = @_;
        my $near = $conn->socket;
        my $far = IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $port) or return;
        my $both = IO::Select->new($near, $far);
        while (1) {
            for my $ready ($both->can_read) {
                sysread($ready, my $bytes, 65_536) or return;
                sleep ROUND_TRIP_S if $ready == $far;
                syswrite($ready == $far ? $near : $far, $bytes) // return;
            }
        }
    });
}

for my $mpm (qw(event prefork)) {
    subtest "a Redis that is 300 ms away, with a timeout of 100 ms ($mpm)" => sub {
        my $redis = RedisServer->start;
        my $far = far($redis);
        my $host = Httpd->start(mpm => $mpm, modules => ['status'], children => 2,
            vars => { URL => $far->url }, config => <<"EOT" . Status::CONFIG);
RateLimitRedis \@URL\@
RateLimitRedisTimeout @{[ALLOWED_MS]}ms connect=2s
RateLimitBreaker failures=5 retry=50ms..300ms
<Location />
RateLimit one 20/1h
</Location>
EOT
        my $asked = 0;
        my $open = Status->wait_for_breaker($host, sub {
            die "no breaker opens after $asked requests\n" if ++$asked > 200;
            $host->get('/hello.txt', from => '127.0.0.2');
        });
        my %status;
        for (1 .. 200) {
            $status{ $host->get('/hello.txt', from => '127.0.0.3')->status }++;
            sleep 0.01;
        }
        is_deeply \%status, { 200 => 20, 429 => 180 }, 'this host counts alone';
        my $then = Status->of($host);
        is $then->{RedisFailedLate}, $open->{RedisFailedLate}, 'no other request waits in vain';
        is $then->{RedisBreakerOpen}, 1, 'a probe that is answered late does not close the breaker';
        is scalar($host->error_log_lines(qr/breaker open/)), 1, 'the breaker opened once';
        ok $host->wait_for_log(qr/answers, but later than the 100 ms that RateLimitRedisTimeout allows/),
            'the log names the directive to raise';
    };
}

done_testing;
