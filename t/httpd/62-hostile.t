#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
# Whatever answers on the port of Redis, every request gets a verdict by the deadline and no client gets an
# error: the host counts alone, and a real Redis that takes over the port decides. 61-faults.t shows faults
# of a Redis that worked before.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";

use Client;
use FakeRedis;
use Fallback;
use Ports;
use Process;
use RedisServer;
use Status;
use Test::More;
use Time::HiRes qw(sleep time);

use constant {
    LIMIT       => "<Location />\nRateLimit one 20/1h\n</Location>\n",
    DEADLINE_MS => Fallback::DEADLINE_MS,
    MEMORY_KB   => 100_000,    # the most that a child may use; it needs a fifth of it
    HUGE        => 2**31 - 1,
};

sub host {
    my ($url, %opt) = @_;
    return Fallback::host(url => $url, config => LIMIT, %opt);
}

# What must be true of a host whose Redis does not work.
sub counts_by_itself {
    my ($host) = @_;
    is_deeply Fallback::load($host, 200)->{status}, { 200 => 20, 429 => 180 },
        'exactly the quota passes, by the count of the host';
    my $status = Status->of($host);
    Fallback::bounded_wait($status);
    is $status->{RedisAnswered}, 0, 'no answer is accepted';
    cmp_ok $status->redis_failures, '>=', 1, 'failures are counted';
    unlike $host->error_log, qr/exit signal/, 'no child crashes';
    cmp_ok most_memory($host), '<', MEMORY_KB, 'no child uses much memory' unless $ENV{RL_LD_PRELOAD};
}

# The most memory that any child of a host has used so far, in KB.
sub most_memory {
    my ($host) = @_;
    my $most = 0;
    for my $pid ($host->children) {
        open my $in, '<', "/proc/$pid/status" or next;
        my ($kb) = join('', <$in>) =~ /^VmHWM:\s+(\d+) kB/m;
        $most = $kb if ($kb // 0) > $most;
    }
    return $most;
}

# Sends the same bytes until the other side stops reading.
sub flood {
    my ($conn, $head, $bytes) = @_;
    $conn->send($head);
    1 while $conn->send($bytes);
    return 0;
}

*after_handshake = \&FakeRedis::after_handshake;

sub says { my ($bytes) = @_; return after_handshake(sub { $_[0]->send($bytes) }) }

# Answers the handshake until the second script, and closes.
sub greet_and_close {
    my ($conn) = @_;
    my $scripts = 0;
    while ($scripts < 2) {
        my $words = $conn->command or return;
        $scripts += $words->[0] eq 'SCRIPT';
        $conn->send(FakeRedis::WELCOME);
    }
}

my %hostile = (
    'accepts and sends nothing' => sub { $_[0]->silence },
    'accepts and closes'       => sub { },
    'completes the handshake and sends nothing' => after_handshake(sub { $_[0]->silence; 0 }),
    'sends its handshake byte by byte' => sub { $_[0]->drip(FakeRedis::WELCOME, 0.05) },
    'greets with garbage' => sub { $_[0]->send("HTTP/1.0 400 Bad\r\n\r\n\0\xff"); $_[0]->silence },
    'sends replies before any command' => sub { $_[0]->send("+OK\r\n" x 9); $_[0]->silence },
    'answers a number' => says(":1\r\n"),
    'answers nil' => says("\$-1\r\n"),
    'answers a status' => says("+1\r\n"),
    'answers with arrays nested 1,000 deep' => says("*1\r\n" x 1000),
    'answers with too few bytes' => says("\$3\r\n1ab\r\n"),
    'answers with too many bytes' => says("\$29\r\n1" . 'x' x 28 . "\r\n"),
    'answers counts out of range' => says("\$16\r\n1" . "\xff" x 15 . "\r\n"),
    'answers twice' => says("-ERR no\r\n-ERR no\r\n"),
    'never knows the script' => says("-NOSCRIPT No matching script. Please use EVAL.\r\n"),
    'announces a string and stops' => after_handshake(sub { $_[0]->send("\$500000000\r\nx") }),
    'completes the handshake and closes' => \&greet_and_close,
    'closes at each decision' => after_handshake(sub { 0 }),
    'claims 2,147,483,647 elements' => says('*' . HUGE . "\r\n"),
    'claims as many in a nested array' => says("*1\r\n*" . HUGE . "\r\n"),
    'claims as many in the handshake' => sub { $_[0]->send('*' . HUGE . "\r\n"); $_[0]->silence },
    'claims many numbers and sends them' => after_handshake(sub {
        flood($_[0], "*50000000\r\n", ":1\r\n" x 16_384);
    }),
    'claims a huge string and sends it' => after_handshake(sub {
        flood($_[0], '$' . HUGE . "\r\n", 'x' x 65_536);
    }),
    'refuses the handshake with a format string' => sub {
        my ($conn) = @_;
        while ($conn->command) { $conn->send('-ERR ' . '%s%n' x 12 . "\r\n") }
    },
);

sub hostile {
    my ($name, $mpm) = @_;
    my $port = Ports::free();
    my $fake = FakeRedis->start($hostile{$name}, port => $port);
    my $host = host("redis://127.0.0.1:$port", mpm => $mpm);
    counts_by_itself($host);
    $fake->stop;
    my $redis = RedisServer->start(port => $port);
    Fallback::recovered($host);
    is_deeply Fallback::load($host, 100, from => '127.0.0.2')->{status}, { 200 => 20, 429 => 80 },
        'a real Redis that takes over decides';
    my $state = $redis->cmd('GET', 'rl:{ip:127.0.0.2}:one:sliding-window:1h');
    is RedisServer::units($state), 20, 'and counts the quota';
}

subtest "a Redis that $_" => sub { hostile($_, 'event') } for sort keys %hostile;
subtest "a Redis that $_ (prefork)" => sub { hostile($_, 'prefork') }
    for 'accepts and sends nothing', 'completes the handshake and sends nothing', 'sends its handshake byte by byte',
        'answers with too few bytes', 'closes at each decision', 'completes the handshake and closes',
        'claims 2,147,483,647 elements', 'claims as many in a nested array',
        'claims as many in the handshake', 'claims many numbers and sends them',
        'claims a huge string and sends it', 'refuses the handshake with a format string';

# Replies of clusters and sentinels may be larger, and are bounded as well.
my %lie = (
    'claims 2,147,483,647 elements'      => sub { $_[0]->send('*' . HUGE . "\r\n") },
    'claims as many in a nested array'  => sub { $_[0]->send("*1\r\n*3\r\n:0\r\n:9\r\n*" . HUGE . "\r\n") },
    'claims many numbers and sends them' => sub { flood($_[0], "*50000000\r\n", ":1\r\n" x 16_384) },
    'claims few and sends many in them'  => sub { flood($_[0], "*1000\r\n", "*1000\r\n" . ":1\r\n" x 1000) },
    'repeats all slots 40,000 times' => sub {
        $_[0]->send("*40000\r\n" . "*3\r\n:0\r\n:16383\r\n*2\r\n+127.0.0.1\r\n:1\r\n" x 40_000);
    },
);

sub lies {
    my ($lie, $kind, $mpm) = @_;
    my $fake = FakeRedis->start(sub {
        my ($conn) = @_;
        while (my $words = $conn->command) {
            if ($words->[0] =~ /^(?:CLUSTER|SENTINEL)$/) { $lie{$lie}->($conn) or return }
            else { $conn->send(FakeRedis::WELCOME) }
        }
    });
    my $at = '127.0.0.1:' . $fake->port;
    counts_by_itself(host($kind eq 'cluster' ? "cluster://$at" : "sentinel://$at/main", mpm => $mpm));
}

for my $lie (sort keys %lie) {
    for my $kind (qw(cluster sentinel)) {
        for my $mpm (qw(event prefork)) {
            subtest "a $kind that $lie ($mpm)" => sub { lies($lie, $kind, $mpm) };
        }
    }
}

# A handshake does not prove that a Redis works. One that fails after each handshake is connected to less and
# less often, and logged less and less often.
use constant WATCHED_S => 4;

sub is_left_alone {
    my ($host, $fake) = @_;
    my $before = $fake->connections;
    sleep WATCHED_S;
    my $made = $fake->connections - $before;
    cmp_ok $made, '<=', 2 * (WATCHED_S / 0.3 + 5), "two children make few connections ($made)";
    cmp_ok scalar($host->error_log_lines(qr/lost the connection|breaker/)), '<=', 2 * 5 + 2,
        'and log few lines';
}

subtest 'a Redis that closes after the handshake is connected to less often, even without requests' => sub {
    my $fake = FakeRedis->start(\&greet_and_close);
    my $host = host($fake->url);
    Process::wait_until(sub { $fake->connections >= 4 }, what => 'a child to connect again');
    is_left_alone($host, $fake);
};

subtest 'so is a sentinel that names the primary and closes' => sub {
    my $redis = RedisServer->start;
    my $port = $redis->port;
    my $fake = FakeRedis->start(sub {
        my ($conn) = @_;
        my %reply = (
            SENTINEL  => "*2\r\n\$9\r\n127.0.0.1\r\n\$" . length($port) . "\r\n$port\r\n",
            SUBSCRIBE => "*3\r\n\$9\r\nsubscribe\r\n\$14\r\n+switch-master\r\n:1\r\n",
        );
        while (my $words = $conn->command) {
            $conn->send($reply{ $words->[0] } // "+OK\r\n");
            return if $words->[0] eq 'SUBSCRIBE';
        }
    });
    my $host = host('sentinel://127.0.0.1:' . $fake->port . '/main');
    Fallback::wait_for_redis($host);
    is_left_alone($host, $fake);
    is_deeply Fallback::load($host, 100)->{status}, { 200 => 20, 429 => 80 }, 'the primary decides';
};

# The calls are too few to fail often within a second, so the breaker counts failures in a row.
for my $mpm (qw(event prefork)) {
    subtest "the breaker opens even with few requests ($mpm)" => sub {
        my $fake = FakeRedis->start($hostile{'completes the handshake and sends nothing'});
        my $host = host($fake->url, mpm => $mpm, children => 2);
        my $asked = 0;
        my $open = Status->wait_for_breaker($host, sub {
            die "no breaker opens after $asked requests\n" if ++$asked > 40;
            $host->get('/hello.txt');
        });
        cmp_ok $open->{RedisFailedLate}, '<=', 20, 'few requests have waited in vain';
        is $host->get('/hello.txt', from => '127.0.0.2')->status, 200, 'requests pass' for 1 .. 10;
        my $then = Status->of($host);
        is $then->{RedisFailedLate}, $open->{RedisFailedLate}, 'after that no other request waits';
        is $then->{RedisBreakerOpen}, 1, 'the breaker stays open';
    };
}

subtest 'a late reply is never used for another request' => sub {
    for my $mpm (qw(event prefork)) {
        # "denied" for the first client, after its deadline; "passed" for the second, at once
        my $fake = FakeRedis->start(after_handshake(sub {
            my ($conn, $words) = @_;
            return $conn->send(FakeRedis::verdict(1, 5)) unless "@$words" =~ /127\.0\.0\.2/;
            sleep 2 * DEADLINE_MS / 1000;
            return $conn->send(FakeRedis::verdict(0, 1000));
        }));
        my $host = host($fake->url, mpm => $mpm, children => 1);
        my $late = Client->new(port => $host->port, from => '127.0.0.2')->request(path => '/hello.txt');
        is $late->status, 200, "$mpm: a request without a reply in time passes by this host's count";
        is $late->header('X-RateLimit-Remaining'), 19, 'of which it is the first';
        my @remaining;
        for (1 .. 40) {
            my $next = $host->get('/hello.txt', from => '127.0.0.3');
            is $next->status, 200, 'the next client passes' if $_ == 1;
            push @remaining, $next->header('X-RateLimit-Remaining');
            last if $remaining[-1] == 14;
        }
        is $remaining[-1], 14, 'and in the end gets the reply for its own request';
        is scalar(grep { $_ < 14 } @remaining), 0, 'never the reply for the other client';
    }
};

subtest 'a Redis whose name has no address' => sub {
    my $host = host('redis://redis.invalid:6379');
    counts_by_itself($host);
};

done_testing;
