#!/usr/bin/perl
# Whatever answers on Redis's port, or does not, requests get a verdict: nobody
# gets an error, nobody waits past the deadline, this host counts by itself, and
# when a real Redis takes over the port it decides again.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";

use Client;
use FakeRedis;
use Httpd;
use IO::Socket::INET;
use Ports;
use Process;
use RedisServer;
use Status;
use Test::More;
use Time::HiRes qw(sleep time);

use constant DEADLINE_MS => 100;

my $config = <<"EOT" . <<'EOT' . Status::CONFIG;
RateLimitRedisTimeout @{[DEADLINE_MS]}ms connect=250ms
EOT
RateLimitRedis @URL@
RateLimitBreaker failures=5 retry=50ms..300ms
<Location />
    RateLimit one 20/1h
</Location>
Alias /noted @DOCROOT@/hello.txt
<Location /noted>
    RateLimit one off
    RateLimit noted 1000000/1h
    RateLimitNotes all
    Header always set X-Source %{RATELIMIT_SOURCE}e
</Location>
EOT

sub host {
    my ($url, $mpm) = @_;
    my @size = ($mpm // '') eq 'prefork' ? (children => 10) : ();
    return Httpd->start(config => $config, vars => { URL => $url }, mpm => $mpm || 'event',
        modules => [qw(status headers)], @size);
}

# Sixteen in a row: then a breaker that closes has let all through.
sub redis_decides {
    my ($host) = @_;
    Process::wait_until(sub {
        for (1 .. 16) {
            return 0 if $host->get('/noted')->header('X-Source') ne 'redis';
        }
        return 1;
    }, what => 'Redis to decide again', within => 30);
}

# What must be true of a host whose Redis is no good.
sub counts_by_itself {
    my ($host) = @_;
    my $sum = Client->flood(targets => [$host->port], connections => 8, requests => 200,
        path => '/hello.txt');
    is_deeply $sum->{status}, { 200 => 20, 429 => 180 }, 'exactly the quota passes, by its own count';
    my $status = Status->of($host);
    cmp_ok $status->{RedisWaitP999Us}, '<', (DEADLINE_MS + 15) * 1000, 'nobody waits past the deadline';
    is $status->{RedisAnswered}, 0, 'no answer was believed';
    cmp_ok $status->redis_failures, '>=', 1, 'that is seen';
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

my %hostile = (
    'accepts and says nothing' => sub { $_[0]->silence },
    'accepts and closes'       => sub { },
    'shakes hands and says nothing' => after_handshake(sub { $_[0]->silence; 0 }),
    'drips its handshake' => sub { $_[0]->drip('$40' . "\r\n" . 'a' x 40 . "\r\n", 0.05) },
    'drips its replies' => after_handshake(sub { $_[0]->drip(reply(1, 0), 0.05) }),
    'greets with garbage' => sub { $_[0]->send("HTTP/1.0 400 Bad\r\n\r\n\0\xff"); $_[0]->silence },
    'greets like a Redis that nobody asked' => sub { $_[0]->send("+OK\r\n" x 9); $_[0]->silence },
    'answers garbage' => says("\0\xff\r\n?!\r\n"),
    'answers a number' => says(":1\r\n"),
    'answers nil' => says("\$-1\r\n"),
    'answers a status' => says("+1\r\n"),
    'answers nested arrays without end' => says("*1\r\n" x 1000),
    'answers too little' => says("\$3\r\n1ab\r\n"),
    'answers too much' => says("\$29\r\n1" . 'x' x 28 . "\r\n"),
    'answers counts out of range' => says("\$15\r\n1" . "\xff" x 14 . "\r\n"),
    'answers twice' => says("-ERR no\r\n-ERR no\r\n"),
    'answers that it is loading' => says("-LOADING Redis is loading the dataset in memory\r\n"),
    'never knows the script' => says("-NOSCRIPT No matching script. Please use EVAL.\r\n"),
    'answers a bulk without end' => after_handshake(sub {
        $_[0]->send("\$500000000\r\n");
        1 while $_[0]->send('x' x 65_536);
        return 0;
    }),
    'promises a bulk and stops' => after_handshake(sub { $_[0]->send("\$500000000\r\nx") }),
    'closes inside a reply' => after_handshake(sub { $_[0]->send(substr reply(1, 0), 0, 9); 0 }),
    'closes at each decision' => after_handshake(sub { 0 }),
);

sub hostile {
    my ($name, $mpm) = @_;
    my $port = Ports::free();
    my $fake = FakeRedis->start($hostile{$name}, port => $port);
    my $host = host("redis://127.0.0.1:$port", $mpm);
    counts_by_itself($host);
    $fake->stop;
    my $redis = RedisServer->start(port => $port);
    redis_decides($host);
    my $sum = Client->flood(targets => [$host->port], connections => 8, requests => 100,
        path => '/hello.txt', from => '127.0.0.2');
    is_deeply $sum->{status}, { 200 => 20, 429 => 80 }, 'a real Redis that takes over decides';
    my $state = $redis->cmd('GET', 'rl:{ip:127.0.0.2}:one:sliding-window:1h');
    is unpack('x10 V', $state // ("\0" x 14)), 20, 'and counts';
}

subtest "a Redis that $_" => sub { hostile($_) } for sort keys %hostile;
subtest "a Redis that $_ (prefork)" => sub { hostile($_, 'prefork') }
    for 'accepts and says nothing', 'shakes hands and says nothing', 'drips its replies',
        'answers garbage', 'closes inside a reply';

# Too few calls to fail often in one second: what counts is that they fail in a row.
for my $mpm (qw(event prefork)) {
    subtest "a Redis that shakes hands and decides nothing, and a client now and then ($mpm)" => sub {
        my $fake = FakeRedis->start($hostile{'shakes hands and says nothing'});
        my $host = Httpd->start(config => $config, vars => { URL => $fake->url }, mpm => $mpm,
            children => 2, modules => [qw(status headers)]);
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
        my $host = Httpd->start(config => $config, vars => { URL => $fake->url }, mpm => $mpm,
            children => 1, modules => [qw(status headers)]);
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

subtest 'no Redis yet when httpd starts' => sub {
    my $port = Ports::free();
    my $host = host("redis://127.0.0.1:$port");
    counts_by_itself($host);
    my $redis = RedisServer->start(port => $port);
    redis_decides($host);
    is $host->get('/hello.txt', from => '127.0.0.2')->header('X-RateLimit-Remaining'), 19,
        'it is found when it comes';
    my $status = Status->of($host);
    is $status->{RedisBreakerOpen}, 0, 'and stays';
};

subtest 'a name that has no address' => sub {
    my $host = host('redis://redis.invalid:6379');
    counts_by_itself($host);
};

subtest 'an address that takes no connection' => sub {
    my $port = Ports::free();
    my $listener = IO::Socket::INET->new(LocalAddr => '127.0.0.1', LocalPort => $port, Listen => 1,
        ReuseAddr => 1) or die "listen: $!\n";
    # a full backlog: the kernel drops what comes then
    my @queued = map {
        IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $port, Blocking => 0)
    } 1 .. 8;
    my $host = host("redis://127.0.0.1:$port");
    counts_by_itself($host);
    close $_ for @queued, $listener;
    my $redis = RedisServer->start(port => $port);
    redis_decides($host);
    pass 'it is tried again';
};

done_testing;
