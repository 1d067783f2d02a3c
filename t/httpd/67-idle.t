#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
# A connection to Redis that dies while it is idle costs no request anything, even under on-failure=closed:
# whether Redis closes it, something on the way resets it, or the way drops everything sent over it. A
# command that may have run is never sent again.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";

use FakeRedis;
use Httpd;
use IO::Select;
use IO::Socket::INET;
use Process;
use RedisServer;
use Socket qw(SOL_SOCKET SO_LINGER);
use Status;
use Test::More;
use Time::HiRes qw(sleep time);

sub host {
    my ($url, $mpm, %opt) = @_;
    return Httpd->start(mpm => $mpm, modules => [qw(status headers)], children => 1,
        log_level => 'warn ratelimit_redis:info', vars => { URL => $url }, %opt,
        config => <<'EOT' . Status::CONFIG);
RateLimitRedis @URL@
RateLimitRedisTimeout 10s connect=10s
RateLimitOnFailure closed
RateLimitNotes all
<Location /hello.txt>
    RateLimit one 1000/1h
    Header always set X-Source %{RATELIMIT_SOURCE}e
</Location>
EOT
}

sub asks {
    my ($host, $name) = @_;
    my $r = $host->get('/hello.txt');
    return is $r->status . ' ' . ($r->header('X-Source') // ''), '200 redis', $name;
}

for my $mpm (qw(event prefork)) {
    subtest "Redis closes idle connections ($mpm)" => sub {
        my $redis = RedisServer->start(conf => ['timeout 1']);
        my $host = host($redis->url, $mpm);
        asks($host, 'a request opens a connection');
        $host->wait_for_log(qr/lost the connection to Redis/) if $mpm eq 'event';
        sleep 2.5 if $mpm eq 'prefork';    # which notices the end at the next request
        asks($host, 'the next request gets a working one') for 1 .. 3;
        my @lines = $host->error_log_lines(qr/lost the connection to Redis/);
        cmp_ok scalar @lines, '>', 0, 'the log reports the end of the connection';
        is scalar(grep { !/ratelimit_redis:info/ } @lines), 0, 'at level info';
        is +(Status->of($host))->redis_failures, 0, 'nothing has failed';
    };
}

# A relay between httpd and Redis. A file (see set_fault) makes it drop what arrives on connections that are
# older than the file, or reset them when something arrives.
sub relay {
    my ($redis, $dir) = @_;
    my $port = $redis->port;
    return FakeRedis->start(sub {
        my ($conn) = @_;
        my $client = $conn->socket;
        my $server = IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $port) or return;
        my $select = IO::Select->new($client, $server);
        my $born = time;
        while (1) {
            for my $ready ($select->can_read) {
                sysread($ready, my $bytes, 65_536) or return;
                my ($how, $when) = fault($dir);
                if (!$how || $born > $when) {
                    syswrite($ready == $client ? $server : $client, $bytes) or return;
                }
                elsif ($how eq 'reset') {
                    setsockopt $client, SOL_SOCKET, SO_LINGER, pack 'ii', 1, 0;
                    return;
                }
            }
        }
    });
}

# What happens to old connections: 'reset' or 'swallow', and the time before which they must have begun.
sub fault {
    my ($dir) = @_;
    open my $in, '<', "$dir/fault" or return;
    return split ' ', <$in> // '';
}

sub set_fault {
    my ($dir, $how) = @_;
    open my $out, '>', "$dir/next" or die "$dir/next: $!\n";
    printf $out "%s %.6f\n", $how, time;
    close $out;
    rename "$dir/next", "$dir/fault" or die "$dir/fault: $!\n";
}

for my $mpm (qw(event prefork)) {
    for my $how (qw(reset swallow)) {
        my $is = { reset => 'is reset', swallow => 'drops what is sent' }->{$how};
        subtest "an idle connection that $is costs no request ($mpm)" => sub {
            my $redis = RedisServer->start;
            my $dir   = Process::tempdir('relay');
            my $relay = relay($redis, $dir);
            my $host  = host($relay->url, $mpm);
            asks($host, 'Redis decides') for 1, 2;
            sleep 5.2;    # longer than an idle connection is trusted
            set_fault($dir, $how);
            asks($host, 'Redis decides although the idle connection is dead') for 1 .. 3;
            is +(Status->of($host))->redis_failures, 0, 'nothing has failed';
            my @lines = $host->error_log_lines(qr/lost the connection to Redis/);
            is scalar(@lines), 1, 'the log reports the end of the connection';
            like $lines[0], qr/ratelimit_redis:info/, 'at level info';
            is $redis->cmd(qw(STRLEN rl:{ip:127.0.0.1}:one:sliding-window:1h)) > 0, 1, 'Redis has a count';
            my ($left) = $host->get('/hello.txt')->header('X-RateLimit-Remaining');
            is $left, 1000 - 6, 'of each request once';
        };
    }
}

subtest 'the kernel probes idle connections' => sub {
    my $redis = RedisServer->start;
    my $host = host($redis->url, 'event');
    asks($host, 'a request opens a connection');
    my $peer = sprintf ':%04X', $redis->port;
    open my $in, '<', '/proc/net/tcp' or plan skip_all => 'there is no /proc/net/tcp';
    # fields: sl, local, remote, state (01 is established), queues, timer:when (timer 02 is keepalive)
    my @timers = map { (split)[5] } grep { /^\s*\d+: \S+ \S+$peer 01 / } <$in>;
    cmp_ok scalar(grep { /^02:/ && hex(substr $_, 3) <= 1500 } @timers), '>', 0,
        'the first keepalive probe is due within 15 s';
};

done_testing;
