#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
# sync=lease: hosts lease units of a limit from Redis and spend them without asking. However the hosts share it,
# no more than the quota passes, and nearly all of it does.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";

use Client qw(fresh_address);
use FakeRedis;
use Fallback;
use Httpd;
use Process;
use RedisCluster;
use RedisServer;
use Status;
use Test::More;
use Time::HiRes qw(sleep time);

# Nothing is to be late on a slow machine.
my $common = <<'EOT' . Status::CONFIG;
RateLimitRedisTimeout 10s connect=10s
RateLimitOnFailure closed
RateLimitNotes all
Header always set X-Source %{RATELIMIT_SOURCE}e env=RATELIMIT_SOURCE
EOT

my $redis = RedisServer->start;

sub hosts {
    my ($count, $config, %opt) = @_;
    my @size = ($opt{mpm} // '') eq 'prefork' ? (children => 18) : (threads => 25);
    return map {
        Httpd->start(redis => $redis, modules => [qw(status headers)], @size, %opt,
            config => "RateLimitRedis \@REDIS\@\n$common$config")
    } 1 .. $count;
}

sub flood {
    my ($hosts, %opt) = @_;
    return Client->flood(targets => [map { $_->port } @$hosts], connections => 16 * @$hosts,
        path => '/hello.txt', %opt);
}

sub counted { my ($key) = @_; return RedisServer::units($redis->cmd('GET', $key)) // 0 }

# How often Redis has run a script.
sub calls {
    my ($calls) = $redis->cmd(qw(INFO commandstats)) =~ /cmdstat_evalsha:calls=(\d+)/;
    return $calls // 0;
}

sub sum { my ($name, @hosts) = @_; my $sum = 0; $sum += Status->of($_)->{$name} for @hosts; return $sum }

# --- Exact ---

for my $mpm (qw(event worker prefork)) {
    subtest "four hosts lease from one limit ($mpm)" => sub {
        my @hosts = hosts(4, <<'EOT', mpm => $mpm);
RateLimit window 1500/1h algorithm=fixed-window sync=lease
EOT
        my $address = fresh_address();
        my $before = calls();
        my $sum = flood(\@hosts, from => $address, requests => 3500);
        my $passed = $sum->{status}{200};
        is $passed + $sum->{status}{429}, 3500, 'each request is answered with 200 or 429';
        cmp_ok $passed, '<=', 1500, 'no more than the quota passes';
        cmp_ok $passed, '>=', 1485, 'and no more than 1 % of it stays unused';
        is counted("rl:{ip:$address}:window:fixed-window:1h"), 1500, 'Redis counted all of it';
        cmp_ok calls() - $before, '<', $passed / 4, 'Redis was asked far less often';
        my ($debited, $spent) = map { sum("LeaseUnits$_", @hosts) } qw(Debited Spent);
        my $leased = 0;
        $leased += Status->of($_)->rule('window')->{Leased} for @hosts;
        is $spent, $leased, 'a unit was spent for each request that a lease admitted';
        is $debited - $spent, 1500 - $passed, 'and what did not pass is what was leased and not spent';
        cmp_ok sum('LeaseRefills', @hosts), '>', 0, 'the refills are counted';
    };
}

subtest 'small quotas are served whole' => sub {
    my @hosts = hosts(2, <<'EOT');
<Location /hello.txt>
    RateLimit small 37/1h algorithm=fixed-window sync=lease
</Location>
<Location /page.html>
    RateLimit one 1/1h algorithm=fixed-window sync=lease
</Location>
EOT
    my $address = fresh_address();
    my $sum = flood(\@hosts, from => $address, requests => 500);
    is $sum->{status}{200}, 37, 'all 37';
    $sum = flood(\@hosts, from => $address, requests => 100, path => '/page.html');
    is $sum->{status}{200}, 1, 'and the only one';
};

subtest 'a redirect to a section with the same rule is charged once, also with the last unit' => sub {
    my ($host) = hosts(1, <<'EOT', modules => [qw(status headers rewrite)]);
<Location /hello.txt>
    RateLimit same 5/1h algorithm=fixed-window sync=lease
    RewriteEngine On
    RewriteRule . /page.html
</Location>
<Location /page.html>
    RateLimit same 5/1h algorithm=fixed-window sync=lease
</Location>
EOT
    my $address = fresh_address();
    is join(' ', map { $host->get('/hello.txt', from => $address)->status } 1 .. 6), '200 200 200 200 200 429',
        'five pass';
};

subtest 'a cost above one is leased, too' => sub {
    my ($host) = hosts(1, "RateLimit dear 100000/1h algorithm=fixed-window sync=lease cost=7\n");
    my $sum = flood([$host], from => fresh_address(), requests => 1000);
    is $sum->{status}{200}, 1000, 'all pass';
    cmp_ok +Status->of($host)->rule('dear')->{Leased}, '>', 800, 'most of them by leases';
};

subtest 'units of several sizes' => sub {
    my ($host) = hosts(1, <<'EOT');
RateLimit sized 1500/1h algorithm=fixed-window sync=lease cost=%{HTTP:X-Cost}
EOT
    my $address = fresh_address();
    my $spent = 0;
    flood([$host], from => $address, requests => 1000,
        headers => sub { { 'X-Cost' => 1 + $_[0] % 5 } },
        on_response => sub { $spent += 1 + $_[0] % 5 if $_[1]->status == 200 });
    cmp_ok $spent, '<=', 1500, 'no more than the quota';
    cmp_ok $spent, '>=', 1485, 'and nearly all of it';
};

subtest 'a bucket never admits more than its burst and what it is refilled with' => sub {
    my @hosts = hosts(2, "RateLimit bucket 2000/10s algorithm=token-bucket burst=1000 sync=lease\n");
    my $address = fresh_address();
    my ($start, @at) = time;
    flood(\@hosts, from => $address, requests => 3000,
        on_response => sub { push @at, time if $_[1]->status == 200 });
    my ($n, $worst) = (0, 0);
    for (@at) {
        my $over = ++$n - 1000 - 200 * ($_ - $start);
        $worst = $over if $over > $worst;
    }
    is $worst, 0, 'at no time';
    cmp_ok $n, '>=', 750, 'and three quarters of the burst at least';
};

# --- Several rules, and what the client sees ---

subtest 'a denial by another rule returns the units' => sub {
    my ($host) = hosts(1, <<'EOT');
RateLimit wide 3000/1h key=server algorithm=fixed-window sync=lease
RateLimit narrow 50/1h algorithm=fixed-window
EOT
    my @of;
    for (1 .. 8) {
        push @of, flood([$host], from => fresh_address(), requests => 200)->{status}{200};
    }
    is_deeply \@of, [(50) x 8], 'each client has its own quota';
    my $status = Status->of($host);
    my $unspent = $status->{LeaseUnitsDebited} - $status->{LeaseUnitsSpent};
    is counted('rl:{server}:wide:fixed-window:1h') - $unspent, 400,
        'the wide rule was charged for what passed, and for nothing else';
    cmp_ok $status->{LeaseUnitsSpent}, '>', 200, 'mostly by leases';
};

subtest 'in a cluster, where the two rules are on different nodes' => sub {
    my $cluster = RedisCluster->start(replicas => 0);
    my @hosts = map {
        Httpd->start(modules => [qw(status headers)], threads => 25, vars => { URL => $cluster->url },
            config => "RateLimitRedis \@URL\@\n$common" . <<'EOT')
RateLimit own 300/1h algorithm=fixed-window sync=lease
RateLimit all 1000/1h algorithm=fixed-window key=server sync=lease
EOT
    } 1, 2;
    my @passed = map { flood(\@hosts, from => fresh_address(), requests => 800)->{status}{200} // 0 } 1 .. 4;
    cmp_ok $passed[$_], '<=', 300, 'no client gets more than its quota' for 0 .. 3;
    my $sum = 0;
    $sum += $_ for @passed;
    cmp_ok $sum, '<=', 1000, 'and all together no more than the other';
    cmp_ok $sum, '>=', 950, 'but nearly all of it';
    is sum('RedisFailedGarbage', @hosts) + sum('RedisFailedLate', @hosts), 0, 'no call failed';
};

subtest 'a client sees what is left' => sub {
    my ($host) = hosts(1, "RateLimitHeaders x-ratelimit\nRateLimit seen 1000/1h algorithm=fixed-window sync=lease\n");
    my $address = fresh_address();
    my ($rises, $leased, $last) = (0, 0, 1000);
    my $sum = Client->flood(targets => [$host->port], connections => 1, requests => 600, path => '/hello.txt',
        from => $address, on_response => sub {
            my $remaining = $_[1]->header('X-RateLimit-Remaining');
            $rises++ if $remaining > $last;
            $leased++ if $_[1]->header('X-Source') eq 'lease';
            $last = $remaining;
        });
    is $last, 400, 'one less with each request';
    cmp_ok $rises, '<=', Status->of($host)->{LeaseRefills}, 'it rises only for a moment, when a lease arrives';
    cmp_ok $leased, '>', 300, 'most requests were admitted by a lease, and their notes say so';
};

# --- What a cold key costs ---

subtest 'a client that comes once costs one call, as without leases' => sub {
    my ($host) = hosts(1, "RateLimit cold 1000/1h sync=lease\n");
    my $before = calls();
    $host->get('/hello.txt', from => fresh_address()) for 1 .. 50;
    is calls() - $before, 50, 'one call each';
    is +Status->of($host)->{LeaseRefills}, 0, 'and no lease';
};

# --- Failures ---

subtest 'Redis goes: leases are spent, then on-failure decides; it returns: exact again' => sub {
    my $own = RedisServer->start;
    my $host = Fallback::host(redis => $own, config => <<'EOT');
RateLimit leased 2000/1h algorithm=fixed-window sync=lease
EOT
    my $address = fresh_address();
    my $passed = 0;
    my $sum = Fallback::load($host, 1000, from => $address);
    is $sum->{status}{200}, 1000, 'half of the quota passes';
    my $left = RedisServer::units($own->cmd('GET', "rl:{ip:$address}:leased:fixed-window:1h")) - 1000;
    cmp_ok $left, '>', 0, 'a lease has units left';
    $own->pause;
    Status->wait_for_breaker($host, sub { Fallback::load($host, 64, from => '127.0.0.4') });
    $sum = Fallback::load($host, 3000, from => $address);
    cmp_ok $sum->{status}{200}, '<=', 1000 + $left, 'then the count of this host limits, from what memory knows';
    cmp_ok $sum->{status}{200}, '>=', 1000 - $left, 'the client keeps what it had left beside the lease';
    $own->resume;
    Fallback::recovered($host);
    my $other = fresh_address();
    $sum = Fallback::load($host, 4000, from => $other);
    cmp_ok $sum->{status}{200}, '<=', 2000, 'afterwards the limit is exact again';
    cmp_ok $sum->{status}{200}, '>=', 1980, 'and served';
};

# A Redis that has charged so many units, and lies where a lease is wanted.
sub liar {
    my ($used, $leased, $hours) = @_;
    my $lies = 0;
    return FakeRedis->start(FakeRedis::after_handshake(sub {
        my ($conn, $words) = @_;
        my $wanted = length $words->[5] < 33 ? 0 : unpack 'x26 L<', $words->[5];
        return $conn->send(FakeRedis::verdict(1, $used)) unless $wanted;
        my $ahead = $hours ? 3600 * ++$lies : 0;
        my $state = substr(pack('Q<', 1000 * (time + $ahead)), 0, 7) . pack 'L< L<', 0, $used;
        my $text  = "1$state" . pack 'L<', $leased->($wanted);
        return $conn->send('$' . length($text) . "\r\n$text\r\n");
    }));
}

my %lies = (
    'more than was asked for' => [0,   sub { $_[0] + 1 }],
    'more than is left'       => [998, sub { $_[0] }],
    'a negative number'       => [0,   sub { 0xffffffff }],
    'another window'          => [0,   sub { $_[0] }, 1],
);
for my $lie (sort keys %lies) {
    for my $mpm (qw(event prefork)) {
        subtest "Redis leases $lie ($mpm)" => sub {
            my $fake = liar(@{ $lies{$lie} });
            my $host = Httpd->start(modules => [qw(status headers)], mpm => $mpm, children => 1,
                config => 'RateLimitRedis ' . $fake->url . "\n$common"
                    . "RateLimit lied 1000/1m algorithm=fixed-window sync=lease on-failure=local\n");
            my $sum = Client->flood(targets => [$host->port], connections => 1, requests => 200,
                path => '/hello.txt', from => '127.0.0.5');
            is $sum->{status}{200} + ($sum->{status}{429} // 0), 200, 'each request is answered with 200 or 429';
            my $status = Status->of($host);
            is $status->{LeaseUnitsSpent}, 0, 'no such unit is spent';
            if ($lie =~ /window/) {
                cmp_ok $status->{LeaseUnitsLost}, '>', 0, 'they are lost';
                my @said = $host->error_log_lines(qr/a lease of Redis is not used: the time in its reply/);
                is @said, 1, 'which is logged once';
            }
            else {
                cmp_ok $status->{RedisFailedGarbage}, '>', 0, 'the reply is counted as garbage';
            }
        };
    }
}

for my $mpm (qw(event prefork)) {
    subtest "children are killed while they spend ($mpm)" => sub {
        my @hosts = hosts(2, "RateLimit killed 1500/1h algorithm=fixed-window sync=lease\n", mpm => $mpm);
        my $address = fresh_address();
        my $answered = 0;
        my $sum = flood(\@hosts, from => $address, requests => 4000, timeout => 900, on_response => sub {
            my @children = $hosts[ rand @hosts ]->children;
            kill KILL => $children[ rand @children ] if ++$answered % 300 == 0 && @children;
        });
        # A request whose child was killed may have been charged.
        cmp_ok $sum->{status}{200}, '<=', 1500, 'no unit is spent twice';
        my $rest = flood(\@hosts, from => $address, requests => 400);
        is $sum->{status}{200} + ($rest->{status}{200} // 0) <= 1500, 1, 'nor later';
        is counted("rl:{ip:$address}:killed:fixed-window:1h"), 1500, 'Redis counted no more than the quota';
    };
}

subtest 'a reload that moves the counts does not duplicate leases' => sub {
    my $config = "RateLimit moved 1500/1h algorithm=fixed-window sync=lease\n";
    my ($host) = hosts(1, $config);
    my $address = fresh_address();
    my ($answered, $size) = (0, 0);
    my $sum = flood([$host], from => $address, requests => 3000, on_response => sub {
        return if ++$answered % 500;
        $size = 4 + $size % 8;
        $host->graceful(old => 0,
            config => "RateLimitSharedMemory ${size}M\nRateLimitRedis \@REDIS\@\n$common$config");
    });
    cmp_ok $sum->{status}{200}, '<=', 1500, 'no unit is spent twice';
    cmp_ok $sum->{status}{200}, '>=', 1000, 'and most of the quota passes';
    is_deeply [$host->crashes], [], 'no child has crashed';
};

done_testing;
