#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
# The clock of Redis may step back: by hand, by NTP, or because a replica with another clock takes over. That
# gives no quota back, and denies no client for as long as the step was. X-RateLimit-Reset is by the clock of
# the host.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";

use FakeRedis;
use Fallback;
use Process;
use RedisServer;
use Test::More;
use Time::HiRes qw(sleep time);

use constant HOUR_MS => 3600000;

my $redis = RedisServer->start;
my $host  = Fallback::host(redis => $redis, config => <<'EOT');
RateLimitRedisTimeout 10s connect=10s
<Location /hello.txt>
    RateLimit sliding 3/2s
</Location>
<Location /page.html>
    RateLimit fixed 3/2s algorithm=fixed-window
</Location>
<Location /bucket>
    RateLimit bucket 3/2s algorithm=token-bucket
</Location>
<Location /log>
    RateLimit log 3/2s algorithm=sliding-log
</Location>
<Location /block>
    RateLimit block 3/2s block=3s
</Location>
EOT

# A little-endian number of some bytes, as in the values of keys.
sub number { my ($n, $bytes) = @_; return substr pack('Q<', $n), 0, $bytes }
sub number_at { my ($value, $at, $bytes) = @_; return unpack 'Q<', substr($value, $at, $bytes) . "\0" x 8 }

# Moves the times in a key an hour ahead, as if the clock had been set back by an hour since. Each time is
# given by its offset, its number of bytes and its units per ms.
sub set_back {
    my ($key, @times) = @_;
    my $value = $redis->cmd('GET', $key);
    for my $time (@times) {
        my ($at, $bytes, $per_ms) = @$time;
        my $then = number_at($value, $at, $bytes) or next;
        substr $value, $at, $bytes, number($then + HOUR_MS * $per_ms, $bytes);
    }
    $redis->cmd('SET', $key, $value, 'PX', HOUR_MS);    # its expiry moves as well
}

my $count = 0;
my $window = [0, 6, 1 / 2000];
my @cases = (
    ['a sliding window', '/hello.txt', 'sliding:sliding-window', $window],
    ['a fixed window', '/page.html', 'fixed:fixed-window', $window],
    ['a bucket', '/bucket', 'bucket:token-bucket', [0, 7, 1000]],
    ['a log', '/log', 'log:sliding-log', [27, 6, 1], [37, 6, 1], [47, 6, 1]],
    ['a block', '/block', 'block:sliding-window', $window, [14, 7, 1]],
);

for my $case (@cases) {
    my ($what, $path, $key, @times) = @$case;
    subtest "$what, with the clock of Redis set back by an hour" => sub {
        my $from = '127.0.0.' . (10 + $count++);
        my $get = sub { $host->get($path, from => $from)->status };
        for (1 .. 50) {
            last if $get->() == 429;
        }
        set_back("rl:{ip:$from}:$key:2s", @times);
        is $get->(), 429, 'the client is still denied';
        Process::wait_until(sub { $get->() != 429 }, what => 'the denial to end', within => 60);
        pass 'the denial ends long before an hour is over';
    };
}



subtest 'X-RateLimit-Reset is by the same clock as Date' => sub {
    my $ahead = 1825000;    # by so many ms the clock of Redis is ahead
    my $fake = FakeRedis->start(sub {
        my ($conn) = @_;
        while (my $words = $conn->command) {
            my $is_script = $words->[0] eq 'EVALSHA';
            my $reply = $is_script ? '0' . number(int(1000 * time) + $ahead, 7) . pack('L<L<', 0, 9) : 'x';
            $conn->drip('$' . length($reply) . "\r\n$reply\r\n", 0);
        }
    });
    my $host = Fallback::host(url => $fake->url, config => <<'EOT');
RateLimitRedisTimeout 10s connect=10s
RateLimit one 3/10s algorithm=fixed-window
EOT
    my $differ = 0;
    for (1 .. 30) {
        my $denied = $host->get('/hello.txt', from => '127.0.0.9');
        my ($seconds) = ($denied->header('Date') // '') =~ /:(\d\d) GMT$/;
        my $after = $denied->header('X-RateLimit-Reset') % 60 - $seconds;
        $after += 60 if $after < 0;
        my $less = $after - $denied->header('Retry-After');
        $differ++ if $denied->status != 429 || $less < 0 || $less > 10;
        sleep 0.1;
    }
    is $differ, 0, 'it is Date plus Retry-After, or at most ten seconds later';
};

done_testing;
