#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
# A limit that two hosts share is exact: of a flood over both, the quota passes, not one request more and not
# one less, under every MPM and for every combination of rules. RL_RUNS=20 repeats the main case 20 times.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";

use Client qw(fresh_address);
use FakeRedis;
use Httpd;
use IO::Select;
use JSON::PP;
use Process;
use RedisServer;
use Status;
use Test::More;
use Time::HiRes qw(sleep time);

# Only decisions of Redis are exact, so it gets a long time to answer on a slow machine.
my $common = <<'EOT' . Status::CONFIG;
RateLimitRedisTimeout 10s connect=10s
RateLimitOnFailure closed
EOT

my $redis = RedisServer->start;

# Two hosts with this configuration. Under prefork each has a process for each of its clients.
sub two_hosts {
    my ($config, %opt) = @_;
    my @size = ($opt{mpm} // $ENV{RL_MPM} // '') eq 'prefork' ? (children => 34) : (threads => 40);
    return map {
        Httpd->start(redis => $redis, modules => ['status'], @size, %opt,
            config => "RateLimitRedis \@REDIS\@\n$common$config")
    } 1, 2;
}

# 2,000 requests over 64 connections from one address, half of them to each host.
sub flood {
    my ($hosts, %opt) = @_;
    return Client->flood(targets => [map { $_->port } @$hosts], connections => 64,
        requests => 2000, path => '/hello.txt', %opt);
}

sub counted { my ($key) = @_; return RedisServer::units($redis->cmd('GET', $key)) }

sub no_failure {
    my (@hosts) = @_;
    is $_->redis_failures, 0, "Redis decided every request" for map { Status->of($_) } @hosts;
}

for my $case (['event', $ENV{RL_RUNS} || 3], map { [$_, $ENV{RL_RUNS} || 1] } 'worker', 'prefork') {
    my ($mpm, $runs) = @$case;
    subtest "two hosts share one limit ($mpm)" => sub {
        my @hosts = two_hosts('RateLimit shared 100/1h', mpm => $mpm);
        $_->get('/hello.txt', from => fresh_address()) for @hosts;    # so both are connected to Redis
        my %passed;
        for my $run (1 .. $runs) {
            my $address = fresh_address();
            my $sum = flood(\@hosts, from => $address);
            is_deeply $sum->{status}, { 200 => 100, 429 => 1900 }, "run $run: exactly the quota passes";
            $passed{ $_->port } += $sum->{target}{ $_->port }{200} // 0 for @hosts;
            is counted("rl:{ip:$address}:shared:sliding-window:1h"), 100, 'Redis counted the requests that passed';
            my $lives = $redis->cmd('PTTL', "rl:{ip:$address}:shared:sliding-window:1h");
            ok $lives > 0 && $lives <= 7_200_000, 'in a key that expires';
        }
        ok $passed{ $_->port }, 'each host admitted a part' for @hosts;
        no_failure(@hosts);
    };
}

subtest 'two rules of one section: both are charged, or neither is' => sub {
    my @hosts = two_hosts(<<'EOT');
RateLimit wide 250/1h key=server algorithm=fixed-window
RateLimit narrow 100/1h
EOT
    my $left = 250;
    for my $passes (100, 100, 50) {
        my $address = fresh_address();
        my $sum = flood(\@hosts, from => $address);
        is_deeply $sum->{status}, { 200 => $passes, 429 => 2000 - $passes }, "$passes pass";
        $left -= $passes;
        is counted("rl:{ip:$address}:narrow:sliding-window:1h"), $passes,
            'the narrow rule counts the admitted requests';
        is counted('rl:{server}:wide:fixed-window:1h'), 250 - $left, 'so does the wide rule: denials cost nothing';
    }
    no_failure(@hosts);
};

subtest 'two sections share a counter, each with its own quota' => sub {
    my @hosts = two_hosts(<<'EOT');
<Location /hello.txt>
    RateLimit shared 100/1h
</Location>
<Location /page.html>
    RateLimit shared 60/1h
</Location>
EOT
    my $address = fresh_address();
    my %passed = ('/hello.txt' => 0, '/page.html' => 0);
    my $path = sub { $_[0] % 4 < 2 ? '/hello.txt' : '/page.html' };
    my $sum = flood(\@hosts, from => $address, path => $path,
        on_response => sub { $passed{ $path->($_[0]) }++ if $_[1]->status == 200 });
    is_deeply $sum->{status}, { 200 => 100, 429 => 1900 }, 'the larger quota passes in total';
    ok $passed{'/page.html'} > 0 && $passed{'/page.html'} <= 60, 'at most the smaller quota in its section';
    ok $passed{'/hello.txt'} >= 40, 'the rest in the other section';
    is counted("rl:{ip:$address}:shared:sliding-window:1h"), 100, 'both use one counter';
    is_deeply $redis->cmd('KEYS', "rl:{ip:$address}:*"),
        ["rl:{ip:$address}:shared:sliding-window:1h"], 'with one key';
    no_failure(@hosts);
};

subtest 'two hosts share a database, one by TCP and one by a Unix socket' => sub {
    my @hosts = map {
        Httpd->start(modules => ['status'],
            config => "$common\nRateLimitRedis $_\nRateLimit fixed 100/1h algorithm=fixed-window\n")
    } $redis->url . '/5', $redis->unix_url . '?db=5';
    my $address = fresh_address();
    my $sum = flood(\@hosts, from => $address);
    is_deeply $sum->{status}, { 200 => 100, 429 => 1900 }, 'exactly the quota passes';
    no_failure(@hosts);
    my $key = "rl:{ip:$address}:fixed:fixed-window:1h";
    is $redis->cmd('EXISTS', $key), 0, 'the key is not in database 0';
    $redis->cmd('SELECT', 5);
    is counted($key), 100, 'it is in database 5';
    $redis->cmd('SELECT', 0);
};

# The bytes of one reply of any type.
sub whole_reply {
    my ($redis) = @_;
    my $bytes = <$redis> // die "Redis is gone\n";
    read $redis, $bytes, $1 + 2, length $bytes if $bytes =~ /^\$(\d+)/;
    $bytes .= join '', map { whole_reply($redis) } 1 .. $1 if $bytes =~ /^\*(\d+)/;
    return $bytes;
}

# A Redis that answers no decision before it has read eight of them.
sub batching_redis {
    my ($real_port) = @_;
    return FakeRedis->start(sub {
        my ($conn) = @_;
        my $real = Client->connect(port => $real_port);
        my @held;
        while (my $words = $conn->command) {
            push @held, join '', '*' . @$words . "\r\n", map { '$' . length($_) . "\r\n$_\r\n" } @$words;
            next if $words->[0] eq 'EVALSHA' && @held < 8;
            for my $bytes (splice @held) {
                $real->syswrite($bytes);
                $conn->send(whole_reply($real));
            }
        }
    });
}

subtest 'one connection of a child carries many requests at once' => sub {
    my $fake   = batching_redis($redis->port);
    my $config = $common . "RateLimitRedis \@URL\@\nRateLimit pipe 100/1h\n";
    my $direct = Httpd->start(config => $config, vars => { URL => $redis->url });
    my $host   = Httpd->start(config => $config, vars => { URL => $fake->url }, children => 1,
        modules => ['status'], mpm => 'event');
    my @clients = map { fresh_address() } 1 .. 8;
    for my $i (0 .. 7) {
        $direct->get('/hello.txt', from => $clients[$i]) for 1 .. $i;
    }
    my %remaining;
    my $sum = Client->flood(targets => [$host->port], connections => 8, requests => 8,
        path => '/hello.txt', from => \@clients,
        on_response => sub { $remaining{ $_[0] } = $_[1]->header('X-RateLimit-Remaining') });
    is_deeply $sum->{status}, { 200 => 8 }, 'eight requests are answered by a Redis that waits for eight';
    is $fake->connections, 1, 'over one connection';
    is_deeply \%remaining, { map { $_ => 99 - $_ } 0 .. 7 }, 'each gets its own reply';
    no_failure($host);
};

subtest 'each child has one connection to Redis' => sub {
    my ($host) = two_hosts('RateLimit shared 1000000/1h', mpm => 'event');
    flood([$host], from => fresh_address());
    my @links = grep { /cmd=evalsha/ } split /\n/, $redis->cmd(qw(CLIENT LIST));
    my %open = map { /addr=(\S+)/ ? ($1 => 1) : () } @links;
    ok %open >= 1 && %open <= 2, 'two children have at most two connections';
};

subtest 'a client that waits as long as Retry-After says is admitted' => sub {
    for my $algorithm (qw(sliding-window fixed-window)) {
        my @hosts = two_hosts("RateLimit short 3/1500ms algorithm=$algorithm");
        my $address = fresh_address();
        my $turn = 0;
        my $ask = sub { $hosts[$turn++ % 2]->get('/hello.txt', from => $address) };
        for my $round (1 .. 4) {
            my $answer;
            for (1 .. 1000) {
                $answer = $ask->();
                last if $answer->status == 429;
            }
            is $answer->status, 429, "$algorithm, round $round: the quota is used up";
            my $said = decode_json($answer->body)->{retry_after_ms};
            cmp_ok $said, '<=', 3000, 'the wait is not longer than two windows';
            is $answer->header('Retry-After'), int(($said + 999) / 1000), 'Retry-After is rounded up to seconds';
            sleep $said / 1000;
            is $ask->()->status, 200, "after $said ms the client is admitted, by either host";
        }
        no_failure(@hosts);
    }
};

done_testing;
