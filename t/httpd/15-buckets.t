#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
# Token buckets admit a burst and then a rate. A leaky bucket with delay= delays requests instead of denying
# them, but never more than its share of the workers, even if children are killed or replaced. A sliding
# log forgets each request one window after it came. A client that waits as long as Retry-After says is
# admitted. With leases a bucket admits a smaller burst.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";

use Client qw(fresh_address);
use Httpd;
use IO::Select;
use JSON::PP;
use Process;
use RedisServer;
use Status;
use Test::More;
use Time::HiRes qw(sleep time);

my $shared = "RateLimitRedis \@REDIS\@\nRateLimitRedisTimeout 10s connect=10s\n";
my $redis  = RedisServer->start;
my $client = 1;

my $config = <<'EOF';
RateLimitHeaders x-ratelimit draft-03 draft-11
<Location /token>
    RateLimit token 10/1h algorithm=token-bucket burst=4
</Location>
<Location /rate>
    RateLimit rate 1/1s algorithm=token-bucket burst=3
</Location>
<Location /dear>
    RateLimit dear 10/1h algorithm=token-bucket burst=8 cost=%{HTTP:X-Cost}
</Location>
<Location /leaky>
    RateLimit leaky 10/1h algorithm=leaky-bucket burst=2
</Location>
EOF

for my $where ('by this host', 'by Redis') {
    my $httpd = Httpd->start(redis => $redis, config => ($where eq 'by Redis' ? $shared : '') . $config);

    subtest "a bucket admits a burst, $where" => sub {
        my @from = (from => fresh_address());
        my $first = $httpd->get('/token', @from);
        is $first->status, 404, 'the first request passes';
        is $first->header("$_-Limit"), 4, "$_-Limit is the burst" for qw(X-RateLimit RateLimit);
        is $first->header("$_-Remaining"), 3, "$_-Remaining is the rest of it" for qw(X-RateLimit RateLimit);
        is $first->header('RateLimit-Policy'), '"token";q=10;w=3600', 'RateLimit-Policy is the rate';
        like $first->header('RateLimit'), qr/^"token";r=3;t=360$/, 't is the time until one unit is back';
        is $first->header('RateLimit-Reset'), 360,
            'RateLimit-Reset is the time until the bucket is full, here one unit as well';
        is $httpd->statuses('/token', 5, @from), '404 404 404 429 429', 'the whole burst passes, and no more';
        my $denied = $httpd->get('/token', @from);
        is $denied->header('X-RateLimit-Remaining'), 0, 'nothing is left';
        my $wait = $denied->header('Retry-After');
        ok $wait > 0 && $wait <= 360, 'Retry-After is the time until the next unit';
        cmp_ok $denied->header('RateLimit-Reset'), '>', 1000, 'RateLimit-Reset, until the bucket is full, is longer';
        is $httpd->statuses('/leaky', 3, @from), '404 404 429',
            'a leaky bucket without delay= admits its burst and denies the rest';
    };

    subtest "after the burst a bucket admits its rate, $where" => sub {
        my @from = (from => fresh_address());
        my ($denied, $round) = (undef, 0);
        for (1 .. 100) {
            $denied = $httpd->get('/rate', @from);
            last if $denied->status == 429;
        }
        for (1 .. ($where eq 'by Redis' ? 2 : 1)) {
            my $wait = decode_json($denied->body)->{retry_after_ms};
            cmp_ok $wait, '<=', 1100, 'the next unit is back within a second';
            sleep $wait / 1000;
            my $start = time;
            is $httpd->get('/rate', @from)->status, 404, 'a client that has waited that long passes';
            $denied = $httpd->get('/rate', @from);
            is $denied->status, 429, 'one request, not two' if time - $start < 0.9;
            last if $denied->status != 429;
        }
    };

    subtest "a bucket with costs, $where" => sub {
        my $from = fresh_address();
        my $ask = sub {
            my ($cost) = @_;
            my $answer = $httpd->get('/dear', from => $from, headers => { 'X-Cost' => $cost });
            return $answer->status == 429 ? 'denied' : $answer->header('X-RateLimit-Remaining');
        };
        is join(' ', map { $ask->($_) } 9, 3, 6, 5, 1), 'denied 5 denied 0 denied',
            'a cost above the burst is denied, others pass as long as they fit';
        is $httpd->get('/dear', from => fresh_address(), headers => { 'X-Cost' => 9 })->header('Retry-After'), undef,
            'a cost above the burst gets no Retry-After';
    };
}

# --- Delaying ----------------------------------------------------------------

# Sends requests without reading the responses, each after the one before is decided.
sub send_one_by_one {
    my ($httpd, $rule, $times, %opt) = @_;
    my $before = Status->of($httpd)->rule($rule)->{Requests} // 0;
    return map {
        my $socket = Client->connect(port => $httpd->port, %opt);
        $socket->syswrite("GET /hello.txt HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        Status->wait_until($httpd, sub { $_[0]->rule($rule)->{Requests} >= $before + $_ },
            what => 'the request to be decided');
        $socket;
    } 1 .. $times;
}

sub read_status {
    my ($socket) = @_;
    my $line = <$socket> // '';
    return $line =~ m{^HTTP/1\.1 (\d+)} ? $1 : 'broken';
}

sub delaying {
    my ($where, $mpm, %opt) = @_;
    return Httpd->start(mpm => $mpm, redis => $redis, modules => ['status'], %opt,
        config => ($where eq 'by Redis' ? $shared : '') . Status::CONFIG
            . "RateLimitDelayWorkers @{[delete $opt{share} // 12]}\n" . <<'EOF');
RateLimit leaky 1/1s algorithm=leaky-bucket burst=1 delay=5s
EOF
}

for my $case (['by this host', 'event'], ['by Redis', 'prefork']) {
    my ($where, $mpm) = @$case;
    subtest "delay= delays requests, but only on its share of the workers, $where ($mpm)" => sub {
        my $httpd = delaying($where, $mpm, $mpm eq 'prefork' ? (children => 25) : (children => 1));
        my ($said, $start, $in_time);
        my $tries = 0;
        while (!$in_time && $tries < 5) {    # until all are sent before the first worker is free again
            sleep 0.2 if $tries++;    # a place is taken until the tenth of a second in which it ends is over
            $start = time;
            my @sent = send_one_by_one($httpd, 'leaky', 6, from => fresh_address());
            $in_time = time - $start < 1;
            $said    = join ' ', map { read_status($_) } @sent;
        }
        SKIP: {
            skip 'the machine is too slow', 2 if !$in_time;
            is $said, '200 200 200 200 429 429', 'one passes at once, three are delayed, the rest is denied';
            cmp_ok time - $start, '>', 2.8, 'the third of the delayed requests waited for three units';
        }
        my $rule = Status->of($httpd)->rule('leaky');
        is $rule->{Passed} + $rule->{Denied}, 6 * $tries, 'each request is counted once';
        my @again = send_one_by_one($httpd, 'leaky', 2, from => fresh_address());
        is join(' ', map { read_status($_) } @again), '200 200', 'then requests can be delayed again';
    };
}

# What drains in 250 ms, a quarter of the window, is taken off each burst.
my $leased = <<'EOF';
RateLimitHeaders x-ratelimit draft-11
<Location /leased>
    RateLimit burst 1000/1s algorithm=token-bucket sync=lease tier=%{HTTP:X-Plan}
    RateLimitTier burst gold 2000 burst=4000
</Location>
<Location /asks>
    RateLimit burst 1000/1s algorithm=token-bucket
</Location>
<Location /alone>
    RateLimit burst 1000/1s algorithm=token-bucket sync=local
</Location>
EOF

subtest 'a bucket with leases admits less at once, and shows it' => sub {
    my %limit = ('/leased' => 750, '/asks' => 750, '/alone' => 1000);
    my $httpd = Httpd->start(redis => $redis, config => $shared . $leased);
    for my $path (sort keys %limit) {
        my $reply = $httpd->get($path, from => fresh_address());
        is $reply->header('X-RateLimit-Limit'), $limit{$path}, "X-RateLimit-Limit of $path";
        is $reply->header('X-RateLimit-Remaining'), $limit{$path} - 1, 'X-RateLimit-Remaining';
        is $reply->header('RateLimit-Policy'), '"burst";q=1000;w=1', 'RateLimit-Policy is the rate';
    }
    my $gold = $httpd->get('/leased', from => fresh_address(), headers => { 'X-Plan' => 'gold' });
    is $gold->header('X-RateLimit-Limit'), 3500, 'the burst of a tier is smaller, too';
    my $alone = Httpd->start(config => $leased);
    is $alone->get('/leased')->header('X-RateLimit-Limit'), 1000, 'without Redis the burst is whole';
};

subtest 'RateLimitDelayWorkers 0 delays nothing' => sub {
    my $httpd = delaying('by this host', 'event', share => 0);
    is $httpd->statuses('/hello.txt', 2, from => fresh_address()), '200 429', 'the rule denies as without delay=';
};

subtest 'the share is at least one worker' => sub {
    my $httpd = delaying('by this host', 'event', share => 1, children => 1);
    is $httpd->statuses('/hello.txt', 2, from => fresh_address()), '200 200', 'one request is delayed';
};

subtest 'two hosts share a leaky bucket' => sub {
    my @hosts = map { delaying('by Redis', 'event') } 1, 2;
    my @from  = (from => fresh_address());
    is $hosts[0]->get('/hello.txt', @from)->status, 200, 'a request passes at one host';
    my $start = time;
    is $hosts[1]->get('/hello.txt', @from)->status, 200, 'another passes at the other host';
    my $elapsed = time - $start;
    cmp_ok $elapsed, '>', 0.3, 'after a delay';
};

# Sends a request from each address while Redis is paused, resumes Redis once httpd works on all of them,
# and returns the statuses.
sub wait_together {
    my ($httpd, $own, @from) = @_;
    $own->pause;
    my @sent = map {
        my $socket = Client->connect(port => $httpd->port, from => $_);
        $socket->syswrite("GET /hello.txt HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        $socket;
    } @from;
    my $busy = sub { ($httpd->get('/server-status?auto')->body =~ /^BusyWorkers: (\d+)/m)[0] // 0 };
    Process::wait_until(sub { $busy->() > @from }, what => 'all to wait for Redis');
    $own->resume;
    return map { read_status($_) } @sent;
}

# A host that may delay one request at a time.
sub one_at_a_time {
    my ($own) = @_;
    my $httpd = Httpd->start(redis => $own, modules => ['status'], threads => 50, children => 1,
        config => $shared . Status::CONFIG . <<'EOF');
RateLimitDelayWorkers 1
RateLimit leaky 1/1s algorithm=leaky-bucket burst=1 delay=10s
EOF
    Process::wait_until(sub { $httpd->get('/hello.txt', from => fresh_address()); $own->cmd('DBSIZE') },
        what => 'Redis to decide');
    return $httpd;
}

subtest 'requests that only wait for Redis do not count as delayed' => sub {
    my $own = RedisServer->start;
    my $client = fresh_address();
    my %said;
    $said{$_}++ for wait_together(one_at_a_time($own), $own, (map { fresh_address() } 1 .. 24), $client, $client);
    is_deeply \%said, { 200 => 26 }, 'with 24 others waiting, the one that needs a delay is delayed';
};

subtest 'a request that cannot be delayed any more is denied, and not charged' => sub {
    my $own = RedisServer->start;
    my $client = fresh_address();
    my @said = sort +wait_together(one_at_a_time($own), $own, ($client) x 5);
    is "@said", '200 200 429 429 429', 'one passes, one is delayed, and three exceed the share';
    my $level = sub {
        my $value = $own->cmd('GET', "rl:{ip:$client}:leaky:leaky-bucket:1s") // return 0;
        my (undef, $level) = unpack 'a7a7', $value;
        return unpack 'Q<', "$level\0";
    };
    eval { Process::wait_until(sub { $level->() <= 2_000_000 }, what => 'the give-back') };
    cmp_ok $level->(), '<=', 2_000_000, 'the bucket is charged only for the admitted requests';
};

# Delayed requests that ended without a trace must not count forever.
sub delays_again {
    my ($httpd) = @_;
    Process::wait_until(sub { $httpd->statuses('/hello.txt', 2, from => fresh_address()) eq '200 200' },
        what => 'a delayed request', within => 20);
    pass 'requests can be delayed again';
}

subtest 'delayed requests of a killed child stop counting' => sub {
    my $httpd = delaying('by this host', 'event', children => 1);
    my @delayed = send_one_by_one($httpd, 'leaky', 4, from => fresh_address());
    kill KILL => $httpd->children;
    is join(' ', map { read_status($_) } @delayed[2, 3]), 'broken broken', 'they end with the child';
    delays_again($httpd);
};

subtest 'a graceful restart lets delayed requests finish' => sub {
    my $httpd = delaying('by this host', 'event', children => 1);
    my @delayed = send_one_by_one($httpd, 'leaky', 4, from => fresh_address());
    $httpd->graceful(old => 0);
    is join(' ', map { read_status($_) } @delayed), '200 200 200 200', 'all of them are served';
    delays_again($httpd);
};

# --- The sliding log -----------------------------------------------------------

my $log = "RateLimit log 5/1h algorithm=sliding-log cost=%{HTTP:X-Cost}\n";

subtest 'two hosts share a sliding log' => sub {
    my ($httpd, $other) = map { Httpd->start(redis => $redis, config => $shared . $log) } 1, 2;
    my @from = (from => fresh_address());
    my $ask = sub {
        my ($host, $cost) = @_;
        return $host->get('/hello.txt', @from, headers => { 'X-Cost' => $cost });
    };
    is join(' ', map { $ask->($_->[0], $_->[1])->status } [$httpd, 2], [$other, 4], [$other, 3], [$httpd, 1]),
        '200 429 200 429', 'costs add up over both hosts';
    my $denied = $ask->($other, 1);
    is $denied->header('X-RateLimit-Remaining'), 0, 'nothing is left';
    ok $denied->header('Retry-After') > 3590, 'Retry-After lasts until the first request leaves the window';
    is $ask->($httpd, 6)->header('Retry-After'), undef, 'a cost above the quota gets no Retry-After';
    is $ask->($httpd, 0)->status, 200, 'a request that costs nothing passes';
    my $key = "rl:{ip:$from[1]}:log:sliding-log:1h";
    my $lives = $redis->cmd('PTTL', $key);
    ok $lives > 0 && $lives <= 7_300_000, 'the key expires';
    cmp_ok $redis->cmd('STRLEN', $key), '<', 100, 'and contains only the admitted requests';
};

subtest 'a sliding log forgets each request one window after it came' => sub {
    my $httpd = Httpd->start(redis => $redis, config => $shared . 'RateLimit log 2/2s algorithm=sliding-log');
    my @from  = (from => fresh_address());
    my $first = time;
    is $httpd->get('/hello.txt', @from)->status, 200, 'the first request passes';
    my $first_done = time;
    sleep 1.2;
    my $second = time;
    is $httpd->get('/hello.txt', @from)->status, 200, 'the second passes 1.2 seconds later';
    my $denied = $httpd->get('/hello.txt', @from);
    SKIP: {
        skip 'the machine is too slow', 4 if time - $first > 1.8;
        is $denied->status, 429, 'the third is denied';
        my $wait = decode_json($denied->body)->{retry_after_ms};
        cmp_ok $wait, '<=', 900, 'until the first leaves the window';
        sleep $wait / 1000;
        skip 'the machine is too slow', 2 if time - $second > 1.9;
        is $httpd->get('/hello.txt', @from)->status, 200, 'then one request passes';
        is $httpd->get('/hello.txt', @from)->status, 429, 'and not two' if time - $second < 1.9;
    }
};

subtest 'a sliding log whose Redis dies is counted by the host' => sub {
    my $own   = RedisServer->start;
    my $httpd = Httpd->start(redis => $own, config => "RateLimitRedis \@REDIS\@\n$log");
    my @from  = (from => fresh_address());
    Process::wait_until(sub { $httpd->get('/hello.txt', from => fresh_address()); $own->cmd('DBSIZE') },
        what => 'Redis to decide');
    my $said = $httpd->statuses('/hello.txt', 3, @from);
    is $said, '200 200 200', 'three of five units are used';
    $own->kill9;
    is $httpd->statuses('/hello.txt', 1, from => fresh_address()), '200', 'another client passes';
    my $sum = Client->flood(targets => [$httpd->port], connections => 8, requests => 40,
        path => '/hello.txt', from => fresh_address());
    is_deeply $sum->{status}, { 200 => 5, 429 => 35 }, 'and this host enforces the quota';
};

# --- Retry-After -----------------------------------------------------------------

for my $algorithm (qw(sliding-log token-bucket leaky-bucket)) {
    subtest "a client that waits as long as Retry-After says is admitted: $algorithm" => sub {
        my @hosts = map { Httpd->start(redis => $redis, config => $shared
                . "RateLimit short 4/1500ms algorithm=$algorithm cost=%{HTTP:X-Cost}") } 1, 2;
        my ($turn, $address) = (0, fresh_address());
        my $ask = sub {
            $hosts[$turn++ % 2]->get('/hello.txt', from => $address, headers => { 'X-Cost' => $_[0] });
        };
        for my $cost (1, 2, 3) {
            my $answer;
            for (1 .. 1000) {
                $answer = $ask->($cost);
                last if $answer->status == 429;
            }
            is $answer->status, 429, "cost $cost: the quota is used up";
            $answer = $ask->($cost);    # from memory, or by the other host
            next if $answer->status == 200;
            my $said = decode_json($answer->body)->{retry_after_ms};
            is $answer->header('Retry-After'), int(($said + 999) / 1000) || 1, 'Retry-After is rounded up to seconds';
            sleep $said / 1000;
            is $ask->($cost)->status, 200, "after $said ms the client is admitted, by either host";
        }
    };
}

done_testing;
