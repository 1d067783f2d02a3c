#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
# Whatever answers on Redis's port, requests get a verdict: nobody gets an error,
# nobody waits past the deadline, this host counts by itself, and when a real Redis
# takes over the port it decides. What can happen to a Redis that was good:
# 61-faults.t.

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
    MEMORY_KB   => 100_000,    # what a child may ever have: it needs a fifth of it
    HUGE        => 2**31 - 1,
};

sub host {
    my ($url, %opt) = @_;
    return Fallback::host(url => $url, config => LIMIT, %opt);
}

# What must be true of a host whose Redis is no good.
sub counts_by_itself {
    my ($host) = @_;
    is_deeply Fallback::load($host, 200)->{status}, { 200 => 20, 429 => 180 },
        'exactly the quota passes, by its own count';
    my $status = Status->of($host);
    Fallback::bounded_wait($status);
    is $status->{RedisAnswered}, 0, 'no answer was believed';
    cmp_ok $status->redis_failures, '>=', 1, 'that is seen';
    unlike $host->error_log, qr/exit signal/, 'no child died of it';
    cmp_ok most_memory($host), '<', MEMORY_KB, 'no child took much memory' unless $ENV{RL_LD_PRELOAD};
}

# The most memory that any child of a host ever had, in KB.
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

# Sends the same bytes until nobody reads them any more.
sub flood {
    my ($conn, $head, $bytes) = @_;
    $conn->send($head);
    1 while $conn->send($bytes);
    return 0;
}

# A Redis that shakes hands and then answers decisions as the function does.
sub after_handshake {
    my ($answer) = @_;
    return sub {
        my ($conn) = @_;
        while (my $words = $conn->command) {
            if ($words->[0] eq 'EVALSHA') { $answer->($conn, $words) or return }
            else                          { $conn->send('$40' . "\r\n" . 'a' x 40 . "\r\n") }
        }
    };
}

# A reply as the script gives it: whether all was charged, then the time, prev and cur of a rule.
sub reply {
    my ($charged, $cur) = @_;
    my $now = int(time * 1000);
    my $text = $charged . pack('V v V V', $now & 0xffffffff, int($now / 2**32), 0, $cur);
    return '$' . length($text) . "\r\n$text\r\n";
}

sub says { my ($bytes) = @_; return after_handshake(sub { $_[0]->send($bytes) }) }

# Answers all that a client says first, until the second script, and closes.
sub greet_and_close {
    my ($conn) = @_;
    my $scripts = 0;
    while ($scripts < 2) {
        my $words = $conn->command or return;
        $scripts += $words->[0] eq 'SCRIPT';
        $conn->send('$40' . "\r\n" . 'a' x 40 . "\r\n");
    }
}

my %hostile = (
    'accepts and says nothing' => sub { $_[0]->silence },
    'accepts and closes'       => sub { },
    'shakes hands and says nothing' => after_handshake(sub { $_[0]->silence; 0 }),
    'drips its handshake' => sub { $_[0]->drip('$40' . "\r\n" . 'a' x 40 . "\r\n", 0.05) },
    'greets with garbage' => sub { $_[0]->send("HTTP/1.0 400 Bad\r\n\r\n\0\xff"); $_[0]->silence },
    'greets like a Redis that nobody asked' => sub { $_[0]->send("+OK\r\n" x 9); $_[0]->silence },
    'answers a number' => says(":1\r\n"),
    'answers nil' => says("\$-1\r\n"),
    'answers a status' => says("+1\r\n"),
    'answers nested arrays without end' => says("*1\r\n" x 1000),
    'answers too little' => says("\$3\r\n1ab\r\n"),
    'answers too much' => says("\$29\r\n1" . 'x' x 28 . "\r\n"),
    'answers counts out of range' => says("\$15\r\n1" . "\xff" x 14 . "\r\n"),
    'answers twice' => says("-ERR no\r\n-ERR no\r\n"),
    'never knows the script' => says("-NOSCRIPT No matching script. Please use EVAL.\r\n"),
    'promises a bulk and stops' => after_handshake(sub { $_[0]->send("\$500000000\r\nx") }),
    'shakes hands and closes' => \&greet_and_close,
    'closes at each decision' => after_handshake(sub { 0 }),
    'claims 2,147,483,647 elements' => says('*' . HUGE . "\r\n"),
    'claims as many in an array within' => says("*1\r\n*" . HUGE . "\r\n"),
    'claims them in the handshake' => sub { $_[0]->send('*' . HUGE . "\r\n"); $_[0]->silence },
    'claims many numbers and sends them' => after_handshake(sub {
        flood($_[0], "*50000000\r\n", ":1\r\n" x 16_384);
    }),
    'claims a text without end and sends it' => after_handshake(sub {
        flood($_[0], '$' . HUGE . "\r\n", 'x' x 65_536);
    }),
    'refuses the handshake in a format string' => sub {
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
    is unpack('x10 V', $state // ("\0" x 14)), 20, 'and counts';
}

subtest "a Redis that $_" => sub { hostile($_, 'event') } for sort keys %hostile;
subtest "a Redis that $_ (prefork)" => sub { hostile($_, 'prefork') }
    for 'accepts and says nothing', 'shakes hands and says nothing', 'drips its handshake',
        'answers too little', 'closes at each decision', 'shakes hands and closes',
        'claims 2,147,483,647 elements', 'claims as many in an array within',
        'claims them in the handshake', 'claims many numbers and sends them',
        'claims a text without end and sends it', 'refuses the handshake in a format string';

# What a cluster's or a sentinel's answers may have is more, but no less bounded.
my %lie = (
    'claims 2,147,483,647 elements'      => sub { $_[0]->send('*' . HUGE . "\r\n") },
    'claims as many in an array within'  => sub { $_[0]->send("*1\r\n*3\r\n:0\r\n:9\r\n*" . HUGE . "\r\n") },
    'claims many numbers and sends them' => sub { flood($_[0], "*50000000\r\n", ":1\r\n" x 16_384) },
    'claims few and sends many in them'  => sub { flood($_[0], "*1000\r\n", "*1000\r\n" . ":1\r\n" x 1000) },
    'tells of all slots again and again' => sub {
        $_[0]->send("*40000\r\n" . "*3\r\n:0\r\n:16383\r\n*2\r\n+127.0.0.1\r\n:1\r\n" x 40_000);
    },
);

sub lies {
    my ($lie, $kind, $mpm) = @_;
    my $fake = FakeRedis->start(sub {
        my ($conn) = @_;
        while (my $words = $conn->command) {
            if ($words->[0] =~ /^(?:CLUSTER|SENTINEL)$/) { $lie{$lie}->($conn) or return }
            else { $conn->send('$40' . "\r\n" . 'a' x 40 . "\r\n") }
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

# A handshake proves nothing: whoever is good at nothing else is asked less and less often, and the
# log says it less and less often.
use constant WATCHED_S => 4;

sub is_left_alone {
    my ($host, $fake) = @_;
    my $before = $fake->connections;
    sleep WATCHED_S;
    my $made = $fake->connections - $before;
    cmp_ok $made, '<=', 2 * (WATCHED_S / 0.3 + 5), "few connections of two children ($made)";
    cmp_ok scalar($host->error_log_lines(qr/lost the connection|breaker/)), '<=', 2 * 5 + 2,
        'few lines in the log';
}

subtest 'a Redis that shakes hands and closes is left alone, without any request' => sub {
    my $fake = FakeRedis->start(\&greet_and_close);
    my $host = host($fake->url);
    Process::wait_until(sub { $fake->connections >= 4 }, what => 'a child to connect again');
    is_left_alone($host, $fake);
};

subtest 'a sentinel that names the primary and closes, likewise' => sub {
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

# Too few calls to fail often in one second: what counts is that they fail in a row.
for my $mpm (qw(event prefork)) {
    subtest "a Redis that shakes hands and decides nothing, and a client now and then ($mpm)" => sub {
        my $fake = FakeRedis->start($hostile{'shakes hands and says nothing'});
        my $host = host($fake->url, mpm => $mpm, children => 2);
        my $asked = 0;
        my $open = Status->wait_until($host, sub {
            return 1 if $_[0]{RedisBreakerOpen};
            die "no breaker opens after $asked requests\n" if ++$asked > 40;
            $host->get('/hello.txt');
            return 0;
        }, what => 'the breaker to open', within => 30);
        cmp_ok $open->{RedisFailedLate}, '<=', 20, 'few requests waited in vain';
        is $host->get('/hello.txt', from => '127.0.0.2')->status, 200, 'requests pass' for 1 .. 10;
        my $then = Status->of($host);
        is $then->{RedisFailedLate}, $open->{RedisFailedLate}, 'and no other waits';
        is $then->{RedisBreakerOpen}, 1, 'as long as that lasts';
    };
}

subtest 'a late reply is never taken for the next one' => sub {
    for my $mpm (qw(event prefork)) {
        # the first client is told 'denied' after its deadline, the second 'passed' at once
        my $fake = FakeRedis->start(after_handshake(sub {
            my ($conn, $words) = @_;
            return $conn->send(reply(1, 5)) unless "@$words" =~ /127\.0\.0\.2/;
            sleep 2 * DEADLINE_MS / 1000;
            return $conn->send(reply(0, 1000));
        }));
        my $host = host($fake->url, mpm => $mpm, children => 1);
        my $late = Client->new(port => $host->port, from => '127.0.0.2')->request(path => '/hello.txt');
        is $late->status, 200, "$mpm: who got no reply in time passes by this host's count";
        is $late->header('X-RateLimit-Remaining'), 19, 'which is at its start';
        my @remaining;
        for (1 .. 40) {
            my $next = $host->get('/hello.txt', from => '127.0.0.3');
            is $next->status, 200, 'the next one passes' if $_ == 1;
            push @remaining, $next->header('X-RateLimit-Remaining');
            last if $remaining[-1] == 14;
        }
        is $remaining[-1], 14, 'and in the end gets the reply that is its own';
        is scalar(grep { $_ < 14 } @remaining), 0, 'never the other one';
    }
};

subtest 'a name that has no address' => sub {
    my $host = host('redis://redis.invalid:6379');
    counts_by_itself($host);
};

done_testing;
