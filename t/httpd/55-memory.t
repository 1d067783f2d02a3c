#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
# A host remembers a denial: requests of a denied client do not reach Redis, except for one request a second
# and host, which revalidates the denial. So a change that an operator makes in Redis takes effect within
# about a second.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";

use Httpd;
use JSON::PP;
use Process;
use RedisServer;
use Status;
use Test::More;
use Time::HiRes qw(sleep time);

my $redis  = RedisServer->start;
my $common = <<'EOT' . Status::CONFIG;
RateLimitRedis @REDIS@
RateLimitRedisTimeout 10s connect=10s
RateLimitNotes all
Header always set X-Source %{RATELIMIT_SOURCE}e
EOT

sub host {
    my ($config, %opt) = @_;
    return Httpd->start(redis => $redis, modules => [qw(status headers)], %opt,
        config => $common . $config);
}

# How often Redis has run the script.
sub asked {
    my ($calls) = $redis->cmd(qw(INFO commandstats)) =~ /^cmdstat_evalsha:calls=(\d+)/m;
    return $calls // 0;
}

for my $mpm (qw(event prefork)) {
    subtest "requests of a denied client do not reach Redis ($mpm)" => sub {
        my $host = host('RateLimit one 5/1h', mpm => $mpm, children => $mpm eq 'prefork' ? 20 : 2);
        my $address = $mpm eq 'prefork' ? '127.0.0.2' : '127.0.0.3';
        $host->get('/hello.txt', from => $address) for 1 .. 6;
        my ($before, $start) = (asked(), time);
        my $sum = $host->flood(2000, from => $address);
        my $seconds = time - $start;
        is_deeply $sum->{status}, { 429 => 2000 }, '2,000 requests are denied';
        cmp_ok asked() - $before, '<=', 1 + int $seconds, 'Redis is asked at most once a second';
        my $denied = $host->get('/hello.txt', from => $address);
        is $denied->header('X-RateLimit-Remaining'), 0, 'a denial from memory has the headers of one by Redis';
        cmp_ok $denied->header('Retry-After'), '>', 0, 'and Retry-After';
        is $host->get('/hello.txt', from => '127.0.0.9')->header('X-Source'), 'redis',
            'Redis still decides about other clients';
        $redis->cmd('DEL', 'rl:{ip:127.0.0.9}:one:sliding-window:1h');
    };
}

subtest 'an operator can lift a denial' => sub {
    my @hosts = map { host('RateLimit one 5/1h') } 1, 2;
    my $key = 'rl:{ip:127.0.0.4}:one:sliding-window:1h';
    $hosts[0]->get('/hello.txt', from => '127.0.0.4') for 1 .. 5;
    is $_->get('/hello.txt', from => '127.0.0.4')->status, 429, 'the client is denied on both hosts'
        for @hosts;
    $redis->cmd('DEL', $key);
    for my $host (@hosts) {
        Process::wait_until(sub { $host->get('/hello.txt', from => '127.0.0.4')->status == 200 },
            what => 'the denial to end', within => 5);
        pass 'after DEL the client is admitted again';
    }
};

subtest 'while one request revalidates a denial the others are denied' => sub {
    my $host = host('RateLimit one 5/1h');
    $host->get('/hello.txt', from => '127.0.0.5') for 1 .. 6;
    my ($before, $start) = (asked(), time);
    my %from;
    while (time - $start < 2.5) {
        $host->flood(200, from => '127.0.0.5',
            on_response => sub { $from{ $_[1]->header('X-Source') }++ });
    }
    my $questions = asked() - $before;
    cmp_ok $questions, '>=', 1, 'Redis is asked again';
    cmp_ok $questions, '<=', 4, 'about once a second';
    is $from{redis}, $questions, 'each of these calls is noted as decided by Redis';
    cmp_ok $from{local}, '>', 100, 'all other requests are denied from memory';
};

subtest 'a denial is remembered for its rule only' => sub {
    my $host = host(<<'EOT');
RateLimit mine 1000/1h
<Location /hello.txt>
    RateLimit page 3/1h key=path
</Location>
EOT
    $host->get('/hello.txt', from => '127.0.0.6') for 1 .. 5;
    is $host->get('/hello.txt', from => '127.0.0.7')->status, 429, 'the page is denied to all clients';
    is $host->get('/page.html', from => '127.0.0.6')->status, 200, 'the client is not denied elsewhere';
    is $host->get('/page.html', from => '127.0.0.6')->header('X-RateLimit-Remaining'), 1000 - 5,
        'and was charged only for requests that passed';
};

subtest 'a denial from memory ends on time' => sub {
    my $host = host('RateLimit short 2/1s');
    for my $round (1 .. 5) {
        my $answer;
        for (1 .. 1000) {
            $answer = $host->get('/hello.txt', from => '127.0.0.8');
            last if $answer->status == 429;
        }
        $answer = $host->get('/hello.txt', from => '127.0.0.8');    # usually from memory
        my $wait = $answer->status == 429 ? decode_json($answer->body)->{retry_after_ms} : 0;
        sleep $wait / 1000;
        is $host->get('/hello.txt', from => '127.0.0.8')->status, 200,
            "round $round: the client is admitted after $wait ms" if $wait;
    }
    pass 'five rounds are done';
};

done_testing;
