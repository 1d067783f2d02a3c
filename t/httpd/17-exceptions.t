#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
# Three ways to change the quota of a rule: block= blocks a client for longer after a denial, an override in
# Redis gives one client another limit, and RateLimitAdaptive lowers the quota for all clients while the
# server is busy.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";

use Backend;
use Client qw(fresh_address);
use Digest::SHA qw(sha256_hex);
use Httpd;
use JSON::PP;
use Process;
use RedisServer;
use Test::More;
use Time::HiRes qw(sleep time);

my $shared = "RateLimitRedis \@REDIS\@\nRateLimitRedisTimeout 10s connect=10s\n";
my $redis  = RedisServer->start;

# --- block= --------------------------------------------------------------------

my $blocks = <<'EOF';
<Location /long>
    RateLimit long 2/1s block=1h
</Location>
<Location /hour>
    RateLimit hour 2/1h block=1h algorithm=fixed-window
</Location>
<Location /short>
    RateLimit short 2/1d block=1s
</Location>
<Location /brief>
    RateLimit brief 2/500ms block=3s
</Location>
<Location /cost>
    RateLimit cost 2/1d block=1h cost=%{HTTP:X-Cost} algorithm=@ALGORITHM@
</Location>
<Location /beside>
    RateLimit beside 2/1d block=1h
    RateLimit other 4/1d
</Location>
<Location /shadow>
    RateLimit dry 2/1s block=1h shadow
</Location>
EOF

# Sends requests until the first denial.
sub until_denied {
    my ($httpd, $path, @opt) = @_;
    my $answer;
    Process::wait_until(sub { ($answer = $httpd->get($path, @opt))->status == 429 }, what => 'a denial');
    return $answer;
}

sub retry_ms { my ($answer) = @_; return decode_json($answer->body)->{retry_after_ms} }

# The tick at which a block ends, from the key in Redis.
sub blocked_until {
    my ($from, $rule) = @_;
    my $value = $redis->cmd('GET', "rl:{ip:$from}:$rule") // '';
    my ($low, $middle, $high) = unpack 'x14 V v C', $value;
    return length $value == 33 ? $low + $middle * 2**32 + $high * 2**48 : 0;
}

for my $where ('by this host', 'by Redis') {
    my $by_redis = $where eq 'by Redis';
    my ($httpd, $other) = map { Httpd->start(redis => $redis, vars => { ALGORITHM => 'sliding-window' },
        config => ($by_redis ? $shared : '') . $blocks) } 1 .. ($by_redis ? 2 : 1);

    subtest "block= denies for longer than the window, $where" => sub {
        my @from = (from => fresh_address());
        my $denied = until_denied($httpd, '/long', @from);
        my ($start, $ms) = (time, retry_ms($denied));
        ok $ms > 3_500_000 && $ms <= 3_600_100, 'the first denial starts the block, and Retry-After is its length';
        cmp_ok $denied->header('X-RateLimit-Reset'), '>', $start + 3500, 'X-RateLimit-Reset is not before its end';
        my @until = ($ms, retry_ms(until_denied($httpd, '/hour', @from)));
        my $until = $by_redis ? blocked_until($from[1], 'hour:fixed-window:1h') : 0;
        $httpd->get('/hour', @from), sleep 0.05 while time < $start + 2.1;
        my $later = $httpd->get('/long', @from);
        is $later->status, 429, 'the block lasts longer than the window';
        my @later = ($later, $httpd->get('/hour', @from));
        cmp_ok retry_ms($later[$_]), '<', $until[$_] - 1500, 'its end does not move with further denials'
            for 0, 1;
        is blocked_until($from[1], 'hour:fixed-window:1h'), $until, 'nor does the end in the key' if $by_redis;
        is $httpd->statuses('/long', 1, from => fresh_address()), '404', 'no other client is blocked';
        cmp_ok until_denied($httpd, '/short', @from)->header('Retry-After'), '>', 5,
            'Retry-After is the wait for the quota if that is longer than the block';
    };

    subtest "a block ends while the client keeps asking, $where" => sub {
        my @from  = (from => fresh_address());
        my $start = time;
        my $ms    = retry_ms(until_denied($httpd, '/brief', @from));
        my $until = time + $ms / 1000;
        my ($denied, $early) = (0, 0);
        while (1) {
            my $asked = time;
            if ($httpd->get('/brief', @from)->status != 429) { $early = 1 if time < $start + 3; last }
            $denied++;
            die "it never ends\n" if $asked > $until + 5;
            sleep 0.02;
        }
        cmp_ok $denied, '>', 5, 'a blocked client that keeps asking is denied';
        ok !$early, 'for the whole block';
        pass 'and then admitted, although it never stopped';
    };

    subtest "denials that start no block, $where" => sub {
        my @from = (from => fresh_address());
        my $cost = sub { return (@from, headers => { 'X-Cost' => $_[0] }) };
        my $dear = $httpd->get('/cost', $cost->(3));
        is $dear->status, 429, 'a cost above the quota is denied';
        is $dear->header('Retry-After'), undef, 'without Retry-After';
        is $httpd->statuses('/cost', 1, $cost->(1)), '404', 'and without a block: a smaller cost passes';
        is $httpd->statuses('/cost', 1, $cost->(2)), '429', 'a cost that does not fit at the moment is denied';
        is $httpd->statuses('/cost', 1, $cost->(1)), '429', 'with a block: a smaller cost does not pass';
        @from = (from => fresh_address());
        is $httpd->statuses('/shadow', 5, @from), '404 404 404 404 404', 'a shadow rule blocks no client';
        is $httpd->statuses('/beside', 4, @from), '404 404 429 429', 'one of two rules blocks the client';
        my $other_left = $httpd->get('/beside', @from);
        is_deeply decode_json($other_left->body)->{'violated-policies'}, ['beside'],
            'only the rule with block= is violated';
    };

    next if !$by_redis;
    subtest 'a block is valid on all hosts until an operator lifts it' => sub {
        my @from = (from => fresh_address());
        until_denied($httpd, '/long', @from);
        my $there = $other->get('/long', @from);
        is $there->status, 429, 'another host denies at once';
        cmp_ok retry_ms($there), '>', 3_500_000, 'for as long as the first';
        my ($key) = @{ $redis->cmd('KEYS', "rl:{ip:$from[1]}:*") };
        cmp_ok $redis->cmd('PTTL', $key), '>', 3_500_000, 'the key lives as long as the block';
        $redis->cmd('DEL', $key);
        for my $host ($httpd, $other) {
            Process::wait_until(sub { $host->get('/long', @from)->status == 404 }, within => 5,
                what => 'the block to end');
            pass 'after DEL the client is admitted';
        }
    };
}

for my $algorithm (qw(fixed-window sliding-log token-bucket leaky-bucket)) {
    subtest "block= with $algorithm" => sub {
        my $httpd = Httpd->start(redis => $redis, vars => { ALGORITHM => $algorithm },
            config => $shared . $blocks);
        my @one = (from => fresh_address(), headers => { 'X-Cost' => 1 });
        is $httpd->statuses('/cost', 3, @one), '404 404 429', 'the third request is denied';
        cmp_ok $httpd->get('/cost', @one)->header('Retry-After'), '>=', 3500, 'the denial starts a block';
        is $httpd->statuses('/cost', 2, @one), '429 429', 'the block is repeated from memory';
    };
}

# --- Overrides -------------------------------------------------------------------

my $overrides = $shared . <<'EOF';
RateLimitOverrides on
RateLimitNotes all
Header always set X-Verdict %{RATELIMIT_VERDICT}e
<Location /api>
    RateLimit api 3/1d tier=%{HTTP:X-Plan}
    RateLimitTier api gold 5
    RateLimitTier api barred 0
    RateLimitTier api inner unlimited
</Location>
<Location /bucket>
    RateLimit bucket 3/1d algorithm=token-bucket burst=4
    RateLimitTier bucket gold 2 burst=6
</Location>
<Location /log>
    RateLimit log 3/1d algorithm=sliding-log
</Location>
<Location /key>
    RateLimit key 2/1d key=header:X-Api-Key
    RateLimit key-ip 100/1d
</Location>
<Location /two>
    RateLimit first 3/1d
    RateLimit second 4/1d
</Location>
EOF

my ($one, $two) = map { Httpd->start(redis => $redis, modules => ['headers'], config => $overrides) } 1, 2;

sub override {
    my ($from, $rule, $value) = @_;
    $redis->cmd('HSET', "rl:override:{ip:$from}", $rule, $value);
}

# How many of ten requests pass.
sub passes {
    my ($path, $from, @opt) = @_;
    return scalar grep { $_ == 404 } split / /, $one->statuses($path, 10, from => $from, @opt);
}

subtest 'overrides before the first request' => sub {
    my @cases = (['6', 6], ['1', 1], ['0', 0], ['gold', 5], ['barred', 0], ['inner', 10], ['unlimited', 10],
        ['007', 7]);
    for my $case (@cases) {
        my ($value, $passes) = @$case;
        my $from = fresh_address();
        override($from, 'api', $value);
        is passes('/api', $from), $passes, "$value: $passes pass";
        is passes('/api', $from, headers => { 'X-Plan' => 'gold' }), 0 + ($passes == 10 ? 10 : 0),
            'and the tier that a request asks for changes nothing';
    }
    my $from = fresh_address();
    override($from, 'api', 6);
    my $answer = $one->get('/api', from => $from);
    is $answer->header('X-RateLimit-Limit') . ' ' . $answer->header('X-RateLimit-Remaining'), '6 5',
        'the headers show the override';
    $from = fresh_address();
    override($from, 'api', 'unlimited');
    $answer = $one->get('/api', from => $from);
    is $answer->header('X-RateLimit-Limit'), undef, 'an unlimited client gets no limit header';
    is $answer->header('X-Verdict'), 'exempt', 'and the verdict "exempt"';
    $from = fresh_address();
    override($from, 'api', 0);
    is $one->get('/api', from => $from)->header('Retry-After'), undef, 'a banned client gets no Retry-After';
    is passes('/api', fresh_address()), 3, 'other clients have the quota of the rule';
};

subtest 'overrides work with other algorithms and keys' => sub {
    my $from = fresh_address();
    override($from, 'bucket', 'gold');
    is passes('/bucket', $from), 6, 'the name of a tier sets its burst';
    override($from = fresh_address(), 'bucket', 2);
    is passes('/bucket', $from), 2, 'a number sets quota and burst';
    is $one->get('/bucket', from => $from)->header('X-RateLimit-Limit'), 2, 'the header shows it';
    override($from = fresh_address(), 'log', 5);
    is passes('/log', $from), 5, 'a number sets the quota of a sliding log';
    override($from = fresh_address(), 'log', 10001);
    is passes('/log', $from), 3, 'a number above the maximum of a sliding log is ignored';
    override($from = fresh_address(), 'second', 1);
    is passes('/two', $from), 1, 'an override of one of two rules applies';
    override($from = fresh_address(), 'nosuch', 1);
    is passes('/two', $from), 3, 'a field that names no rule is ignored';
    my $id = substr sha256_hex('header:x-api-key:k1'), 0, 32;
    $redis->cmd('HSET', "rl:override:{$id}", 'key', 4);
    is passes('/key', fresh_address(), headers => { 'X-Api-Key' => 'k1' }), 4,
        'a secret key is overridden by its digest';
    is passes('/key', fresh_address(), headers => { 'X-Api-Key' => 'k2' }), 2, 'another key is not affected';
};

subtest 'overrides act within about a second' => sub {
    my @from = (from => fresh_address());
    my $soon = sub {
        my ($status, $what) = @_;
        for my $host ($one, $two) {
            Process::wait_until(sub { $host->get('/api', @from)->status == $status }, within => 5,
                what => $what);
            pass $what;
        }
    };
    is passes('/api', $from[1]), 3, 'three pass';
    is $two->get('/api', @from)->status, 429, 'none passes at the other host';
    override($from[1], 'api', 1000);
    $soon->(404, 'a raised quota admits a denied client');
    is $one->statuses('/api', 3, @from), '404 404 404', 'and goes on admitting it';
    override($from[1], 'api', 2);
    is $one->statuses('/api', 1, @from), '429', 'a lowered quota denies: earlier requests count';
    is $two->statuses('/api', 1, @from), '429', 'at once, because Redis is asked about every request that might pass';
    override($from[1], 'api', 'unlimited');
    $soon->(404, 'unlimited admits the client');
    override($from[1], 'api', '0');
    is $one->statuses('/api', 2, @from) . ' ' . $two->statuses('/api', 2, @from), '429 429 429 429',
        'a quota of 0 bans it on both hosts';
    $redis->cmd('PEXPIRE', "rl:override:{ip:$from[1]}", 300);
    $redis->cmd('DEL', "rl:{ip:$from[1]}:api:sliding-window:1d");
    $soon->(404, 'the client is admitted when the override expires');
};

subtest 'invalid overrides are ignored and logged' => sub {
    my @garbage = ('', ' ', 'x', '-1', '+5', '1.5', '5 ', '1e3', '0x5', '5/1m', '1000000001', '99999999999',
        '9' x 400, 'gold 5', 'gol', 'Gold', '.*', 'g.ld', '%a+', '%', "gold\0", "\r\n", 'UNLIMITED', 'x' x 70_000);
    for my $value (@garbage) {
        my $from = fresh_address();
        override($from, 'api', $value);
        (my $name = substr $value, 0, 20) =~ s/[^ -~]/?/g;
        my $first = $one->get('/api', from => $from);
        is $first->header('X-RateLimit-Limit'), 3, "'$name' is ignored";
        is passes('/api', $from), 2, 'and the quota of the rule applies';
        my @lines = $one->error_log_lines(
            qr/the override of rule=api for identity=ip:\Q$from\E is neither a quota, nor a tier/);
        is scalar(@lines), 1, 'one line is logged';
    }
    my $from = fresh_address();
    $redis->cmd('SET', "rl:override:{ip:$from}", 0);
    is passes('/api', $from), 3, 'a key of another type is ignored';
    is scalar($one->error_log_lines(
        qr/the override of rule=api for identity=ip:\Q$from\E is ignored: its key is not a hash;.* HSET/)), 1,
        'and one line says how to fix it';
    my @broken = grep { !/^(?:\[|ratelimit: RateLimit ")/ } split /\n/, $one->error_log;
    is "@broken", '', 'every line of the log is whole';
};

# --- Load ------------------------------------------------------------------------

subtest 'RateLimitAdaptive lowers quotas while workers are busy' => sub {
    my $backend = Backend->new;
    my $httpd = Httpd->start(modules => [qw(proxy proxy_http)], children => 1, threads => 20,
        vars => { BACKEND => $backend->port }, config => <<'EOF');
ProxyPass /work http://127.0.0.1:@BACKEND@/ retry=0 disablereuse=on
RateLimitAdaptive 40 0.5 80 0.1
<Location /page.html>
    RateLimit page 10/1d adaptive
</Location>
<Location /bucket>
    RateLimit bucket 10/1d adaptive algorithm=token-bucket burst=20
</Location>
<Location /one>
    RateLimit one 1/1d adaptive
</Location>
<Location /hello.txt>
    RateLimit hello 10/1d
</Location>
EOF
    my (@clients, @there);
    my $busy = sub {    # makes that many workers wait for the backend
        my ($number) = @_;
        while (@clients < $number) {
            push @clients, Client->connect(port => $httpd->port);
            $clients[-1]->syswrite("GET /work HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
            push @there, $backend->accept // die "the backend is not asked\n";
        }
    };
    my $limit = sub {
        my ($path, $expected, $what) = @_;
        Process::wait_until(sub {
            $httpd->get($path, from => fresh_address())->header('X-RateLimit-Limit') == $expected;
        }, what => "$path to have $expected", within => 10);
        pass "$what: $path has $expected";
    };
    my @from = (from => fresh_address());
    $limit->('/page.html', 10, 'idle');
    is $httpd->statuses('/page.html', 4, @from), '200 200 200 200', 'four of ten units are used';
    $busy->(12);
    $limit->('/page.html', 5,  'half busy');
    $limit->('/bucket',    10, 'half busy, the burst');
    is $httpd->statuses('/page.html', 3, @from), '200 429 429', 'a client that has used four units has one left';
    $busy->(18);
    $limit->('/page.html', 1, 'nearly all busy');
    is $httpd->statuses('/one', 2, from => fresh_address()), '404 429', 'a quota is never lowered below one';
    is $httpd->statuses('/hello.txt', 10, from => fresh_address()), join(' ', (200) x 10),
        'a rule without adaptive keeps its quota';
    Backend::answer($_, 200) for @there;
    readline $_ for @clients;
    $limit->('/page.html', 10, 'idle again');
    is $httpd->statuses('/page.html', 6, @from), '200 200 200 200 200 429', 'then the rest of the ten is left';
};

done_testing;
