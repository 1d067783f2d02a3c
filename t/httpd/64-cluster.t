#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
# On a Redis Cluster the limit is exact for every client, whichever node has its slot and while slots move.
# Rules of several slots are charged together or not at all. When a primary dies, only clients whose counts
# it had fall back until its replica takes over.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";

use Client;
use FakeRedis;
use Httpd;
use Process;
use RedisCluster;
use RedisServer;
use Status;
use Test::More;
use Time::HiRes qw(time);

use constant { CLIENTS => 32, IDENTITIES => $ENV{RL_IDENTITIES} || 20_000, RESHARDED => 2_000 };

# Only decisions of Redis are exact, so it gets a long time to answer on a slow machine.
my $common = Status::CONFIG . <<'EOT';
RateLimitRedisTimeout 10s connect=10s
RemoteIPHeader X-Client
RemoteIPInternalProxy 127.0.0.1
RateLimitNotes all
Header always set X-Source %{RATELIMIT_SOURCE}e
EOT

# The other nodes serve their slots while one is replaced.
my $cluster = RedisCluster->start(conf => ['cluster-require-full-coverage no']);

sub host {
    my ($config, %opt) = @_;
    my $mpm  = $opt{mpm} // 'event';
    my @size = $mpm eq 'prefork' ? (children => CLIENTS + 2) : (threads => 40);
    return Httpd->start(mpm => $mpm, modules => [qw(status headers remoteip)], @size, log_level => 'error',
        vars => { URL => $cluster->url }, %opt, config => "RateLimitRedis \@URL\@\n$common$config");
}

sub flood {
    my ($hosts, %opt) = @_;
    return Client->flood(targets => [map { $_->port } @$hosts], connections => CLIENTS,
        path => '/hello.txt', %opt);
}

# The address of a client by its number, and the slot of its counts.
sub address { my ($n) = @_; return sprintf '10.%d.%d.%d', $n >> 16, $n >> 8 & 255, $n & 255 }
sub slot_of { my ($n) = @_; return $cluster->slot('{ip:' . address($n) . '}') }

sub counted {
    my ($key) = @_;
    return RedisServer::units($cluster->cmd_at($key, 'GET', $key));
}

sub sum { my $sum = 0; $sum += $_ for @_; return $sum }

sub no_failure {
    my (@hosts) = @_;
    is $_->redis_failures, 0, 'Redis decided every request' for map { Status->of($_) } @hosts;
}

# The connections that the hosts have to a node.
sub connections {
    my ($node) = @_;
    return scalar grep { /cmd=(?:evalsha|script|asking|cluster\|slots)/ } split /\n/,
        $node->cmd(qw(CLIENT LIST));
}

my $fresh = 1 << 20;    # the next number that no client has had

for my $mpm (qw(event prefork)) {
    subtest "two hosts share the limit of each client ($mpm)" => sub {
        my @primaries = $cluster->primaries;
        my @replicas = grep { my $node = $_; !grep { $_ == $node } @primaries } $cluster->nodes;
        my $seeds = 'cluster://' . join ',', map { '127.0.0.1:' . $_->port } @replicas;
        my @hosts = map {
            host("RateLimit one 5/1h\nRateLimit two 1000/1h algorithm=fixed-window", mpm => $mpm,
                vars => { URL => $seeds })
        } 1, 2;
        my $first = $fresh;
        $fresh += 100;
        my $sum = flood(\@hosts, requests => 2000,
            headers => sub { +{ 'X-Client' => address($first + $_[0] % 100) } });
        is_deeply $sum->{status}, { 200 => 500, 429 => 1500 }, 'exactly the quotas pass';
        no_failure(@hosts);
        my %slots = map { slot_of($_) => 1 } $first .. $first + 99;
        cmp_ok scalar(keys %slots), '>', 50, 'the clients are in many slots';
        my $ip = address($first);
        is_deeply [$cluster->keys_like("*{ip:$ip}*")],
            ["rl:{ip:$ip}:one:sliding-window:1h", "rl:{ip:$ip}:two:fixed-window:1h"], 'in the expected keys';
        is counted("rl:{ip:$ip}:two:fixed-window:1h"), 5, 'both rules of a client are charged together';
        Process::wait_until(
            sub { $_->get('/hello.txt') for @hosts; !sum(map { connections($_) } @replicas) },
            what => 'the connections to the seeds to be closed'
        ) if $mpm eq 'event';
        my $children = $mpm eq 'event' ? 4 : 2 * (CLIENTS + 2);
        my @open = map { connections($_) } @primaries;
        is scalar(grep { $_ < 1 || $_ > $children } @open), 0,
            'each primary has at most one connection of each child';
    };
}

for my $mpm (qw(event prefork)) {
    subtest "rules of several slots are charged together or not at all ($mpm)" => sub {
        $cluster->cmd_at($_, 'DEL', $_) for $cluster->keys_like('*{server}*'), $cluster->keys_like('*{path:*');
        my ($host) = host(<<'EOT', mpm => $mpm);
RateLimit narrow 3/1h algorithm=fixed-window
RateLimit seen 1000000/1h algorithm=fixed-window shadow
RateLimit wide 400/1h key=server algorithm=fixed-window
RateLimit dry 100/1h key=path algorithm=fixed-window shadow
EOT
        my $first = $fresh;
        $fresh += 200;
        my $sum = flood([$host], requests => 2000,
            headers => sub { +{ 'X-Client' => address($first + $_[0] % 200) } });
        is_deeply $sum->{status}, { 200 => 400, 429 => 1600 }, 'the quota of the wide rule passes';
        my $narrow = sub {
            sum(map { counted('rl:{ip:' . address($_) . '}:narrow:fixed-window:1h') } $first .. $first + 199)
        };
        eval { Process::wait_until(sub { $narrow->() == 400 }, what => 'the last give-back') };
        is $narrow->(), 400, 'the clients are charged for it, and not for one unit more';
        is counted('rl:{server}:wide:fixed-window:1h'), 400, 'so is the wide rule';
        is counted('rl:{path:/hello.txt}:dry:fixed-window:1h'), 100, 'a shadow rule counts up to its quota';
        no_failure($host);
    };
}

subtest 'Retry-After is the longest of all slots' => sub {
    my $host = host(<<'EOT');
RateLimit narrow 1/10s algorithm=fixed-window
RateLimit wide 1/31d key=method algorithm=fixed-window
EOT
    my $get = sub { $host->get('/hello.txt', headers => { 'X-Client' => address($fresh) }) };
    Process::wait_until(sub { time % 10 < 5 }, what => 'a window');
    is $get->()->status, 200, 'the first request passes';
    cmp_ok $get->()->header('Retry-After'), '>', 10, 'both rules deny, and Retry-After is the longer wait';
    $fresh++;
};

# Moves slots in steps. The steps are some responses apart, so requests meet every state of a move.
sub mover {
    my ($from, $to, @slots) = @_;
    my @open;
    return sub {
        if (@slots) {
            my $slot = shift @slots;
            $cluster->open_slot($from, $to, $slot);
            push @open, $slot;
        }
        return !1 if !@open;
        if (@open > 4 || !@slots) {
            my $slot = shift @open;
            $cluster->move_keys($from, $to, $slot);
            $cluster->close_slot($from, $to, $slot);
        }
        return 1;
    };
}

subtest sprintf('%d clients have exact limits while %d slots move', IDENTITIES, RESHARDED) => sub {
    my @hosts = (host("RateLimit one 2/1h algorithm=fixed-window\nRateLimit two 1000/1h algorithm=fixed-window"));
    my $first = $fresh;
    $fresh += IDENTITIES;
    my $requests = 3 * IDENTITIES;
    # each client sends three requests far apart, the third above its quota
    my $client = sub { $first + $_[0] % IDENTITIES };
    my ($from, $to) = $cluster->primaries;
    my $step = mover($from, $to, ($cluster->slots_of($from))[0 .. RESHARDED - 1]);
    my ($seen, $moving, %passed) = (0, 1);
    my $sum = flood(\@hosts, requests => $requests, timeout => 300,
        headers => sub { +{ 'X-Client' => address($client->($_[0])) } },
        on_response => sub {
            my ($number, $answer) = @_;
            $passed{ $client->($number) }++ if $answer->status == 200;
            $moving &&= $step->() if ++$seen % int($requests / (RESHARDED * 1.25)) == 0;
        });
    diag sprintf '%d requests in %.1f s', $requests, $sum->{seconds};
    1 while $moving && $step->();
    is_deeply $sum->{status}, { 200 => 2 * IDENTITIES, 429 => IDENTITIES }, 'two of three requests pass';
    is scalar(grep { $_ != 2 } values %passed), 0, 'of every client';
    no_failure(@hosts);
    $cluster->wait_until_ok;
};

subtest 'limits are exact while a move takes long' => sub {
    my $host = host("RateLimit one 3/1h algorithm=fixed-window\nRateLimit two 2/1h algorithm=fixed-window");
    my ($old, $new) = ($fresh, $fresh + 1);
    $new++ while slot_of($new) == slot_of($old) || $cluster->owner(slot_of($new)) != $cluster->owner(slot_of($old));
    $fresh = $new + 1;
    my $get = sub { my ($n) = @_; $host->get('/hello.txt', headers => { 'X-Client' => address($n) })->status };
    my $from = $cluster->owner(slot_of($old));
    my ($to) = grep { $_ != $from } $cluster->primaries;
    my $sent_away = sub { $to->cmd(qw(INFO errorstats)) =~ /errorstat_MOVED:count=(\d+)/ ? $1 : 0 };
    my $before = $sent_away->();
    is $get->($old), 200, 'a client is counted';
    $cluster->open_slot($from, $to, slot_of($_)) for $old, $new;
    is $get->($old), 200, 'and still after its slot has begun to move';
    is $get->($new), 200, 'so is a client that comes after its slot has begun to move';
    my $one = 'rl:{ip:' . address($old) . '}:one:fixed-window:1h';
    $from->cmd('MIGRATE', '127.0.0.1', $to->port, $one, 0, 5000);
    is $get->($old), 429, 'a client with one key on each node is denied at its quota';
    is $get->($new), 200, 'the other client has its quota';
    is $get->($new), 429, 'and is denied beyond it';
    is counted_in($to, $one), 2, 'the charge before the denial was given back';
    is $get->($get->($new) == 429 ? $new : $old), 429, 'the client is denied again';
    is $sent_away->(), $before, 'ASK redirects single calls: no call reached the new node without ASKING';
    for my $n ($old, $new) {
        $cluster->move_keys($from, $to, slot_of($n));
        $cluster->close_slot($from, $to, slot_of($n));
    }
    is $get->($old), 429, 'the client is denied after the move';
    no_failure($host);
};

# A count on a given node. While a slot moves, its keys can be on either node.
sub counted_in {
    my ($node, $key) = @_;
    $node->cmd('ASKING');
    return RedisServer::units($node->cmd('GET', $key));
}

subtest 'the death of a primary affects only its clients' => sub {
    my $host = host('RateLimit one 2/1h algorithm=fixed-window');
    $cluster->replace_nodes_after(1500);
    my ($dead) = $cluster->primaries;
    my %lost = map { $_ => 1 } $cluster->slots_of($dead);
    my $round = int(IDENTITIES / 4);
    my ($began, $done, $times, %passed) = (0, 0, 0);
    my $probe = $fresh++;
    $probe = $fresh++ while !$lost{ slot_of($probe) };
    my $first = $fresh;
    my $killed = sub { my ($n) = @_; $lost{ slot_of($n) } };
    my $is_back = sub {
        $host->get('/hello.txt', headers => { 'X-Client' => address($probe) })->header('X-Source') ne 'fallback'
    };
    my $step = sub {
        my ($passed) = @_;
        my $start = $fresh;
        $fresh += $round;
        my $seen = 0;
        my $sum = flood([$host], requests => 3 * $round, timeout => 120,
            headers => sub { +{ 'X-Client' => address($start + $_[0] % $round) } },
            on_response => sub {
                my ($number, $answer) = @_;
                $passed->{ $start + $number % $round }++ if $answer->status == 200;
                return if $began || ++$seen < $round;
                $began = time;
                $dead->kill9;
            });
        is_deeply [grep { !/^(?:200|429)$/ } keys %{ $sum->{status} }], [], 'no client gets an error';
    };
    $step->(\%passed);
    $step->(\%passed) while !$done && ++$times < 20 && !($done = $is_back->());
    $cluster->wait_for_failover($dead);
    Process::wait_until(sub { $done ||= $is_back->() }, what => 'the limit to come back', within => 20);
    diag sprintf 'exact again after %.1f s at the latest', time - $began;
    is scalar(grep { $passed{$_} != 2 && !$killed->($_) } keys %passed), 0,
        'clients with counts on other nodes keep exact limits';
    is scalar(grep { $passed{$_} < 2 || $passed{$_} > 4 } keys %passed), 0,
        'the others get at most one quota more';
    recovered($host, \%lost);
    my %after;
    $step->(\%after);
    is scalar(grep { $_ != 2 } values %after), 0, 'afterwards the limits of all clients are exact';
    is +(Status->of($host))->{RedisBreakerOpen}, 0, 'no breaker stays open for the dead server';
};

# Waits until Redis decides about clients of the lost slots in every child.
sub recovered {
    my ($host, $lost) = @_;
    Process::wait_until(sub {
        for (1 .. 16) {
            $fresh++ while !$lost->{ slot_of($fresh) };
            my $answer = $host->get('/hello.txt', headers => { 'X-Client' => address($fresh++) });
            return 0 if $answer->header('X-Source') ne 'redis';
        }
        return 1;
    }, what => 'Redis to decide again', within => 60);
}

subtest 'one working seed is enough' => sub {
    my ($dead) = grep { !$_->pid } $cluster->nodes;
    my ($alive) = grep { $_->pid } $cluster->nodes;
    my $lonely = RedisServer->start;
    my $silent = FakeRedis->start(sub { $_[0]->silence });
    my $url = sub { 'cluster://' . join ',', map { '127.0.0.1:' . $_->port } @_ };
    for my $mpm (qw(event prefork)) {
        my $host = host('RateLimit one 3/1h', mpm => $mpm, children => 3,
            vars => { URL => $url->($dead, $lonely, $silent, $alive) });
        my $n = $fresh++;
        my @status = map { $host->get('/hello.txt', headers => { 'X-Client' => address($n) })->status } 1 .. 4;
        is "@status", '200 200 200 429', "Redis decides with one that works ($mpm)";
        no_failure($host);
    }
    my $host = host('RateLimit one 3/1h', vars => { URL => $url->($lonely) });
    my @status = map { $host->get('/hello.txt')->status } 1 .. 4;
    is "@status", '200 200 200 429', 'without one the host counts alone';
    # a child without requests asks for the table of slots, too
    my $told = sub { map { /\[pid (\d+)/ } $host->error_log_lines(qr/no table of slots/) };
    my $asked = sub {
        return ($lonely->cmd(qw(INFO commandstats)) =~ /^cmdstat_cluster\S*:calls=(\d+)/m)[0];
    };
    my $children = sub { my %pid = map { $_ => 1 } $told->(); return scalar keys %pid };
    Process::wait_until(sub { $children->() == 2 }, what => 'both children to have tried');
    my $before = $asked->();
    Process::wait_until(sub { $asked->() >= $before + 10 }, what => 'more tries');
    is scalar(() = $told->()), 2, 'each child logs the reason once';
    like +($host->error_log_lines(qr/no table of slots/))[0], qr/cluster support disabled/,
        'with the error text of Redis';
};

done_testing;
