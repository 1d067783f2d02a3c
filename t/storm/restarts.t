#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
# Graceful restarts, one after the other, while clients go on asking: no client gets an error, no
# count is lost, httpd has as many descriptors, threads and maps and as much memory at the end as
# after the first few, and Redis has one connection of each child. STORM_RESTARTS sets how many.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";

use Fallback;
use List::Util qw(max);
use Process;
use RedisServer;
use Test::More;

use constant { QUOTA => 50, RESTARTS => $ENV{STORM_RESTARTS} || 10, EARLY => 5 };

my @flat = ('descriptors', 'threads', 'descriptors of a child', 'threads of a child');

sub entries { my ($path) = @_; my @found = glob "$path/*"; return scalar @found }

sub lines {
    my ($path) = @_;
    open my $in, '<', $path or die "$path: $!\n";
    my $n = () = <$in>;
    return $n;
}

sub resident_kb {
    my ($pid) = @_;
    open my $in, '<', "/proc/$pid/status" or die "no process $pid\n";
    my ($kb) = map { /^VmRSS:\s+(\d+)/ ? $1 : () } <$in>;
    return $kb;
}

# What the parent has, and the most that one of its children has. httpd decides how many there are.
sub held {
    my ($host) = @_;
    my $parent = $host->pid;
    my %held = (
        'descriptors' => entries("/proc/$parent/fd"), 'threads' => entries("/proc/$parent/task"),
        'maps' => lines("/proc/$parent/maps"), 'memory' => resident_kb($parent),
    );
    for my $child ($host->children) {
        my %of = (
            descriptors => entries("/proc/$child/fd"), threads => entries("/proc/$child/task"),
        );
        $held{"$_ of a child"} = max($of{$_}, $held{"$_ of a child"} // 0) for keys %of;
    }
    return \%held;
}

# The same when each child has its connection to Redis and no client has one to httpd.
sub held_at_rest {
    my ($host, $redis) = @_;
    Fallback::recovered($host);
    my ($held, $connections, $before);
    my $rests = eval {
        Process::wait_until(sub {
            ($connections) = $redis->cmd(qw(INFO clients)) =~ /^connected_clients:(\d+)/m;
            $before = $held;
            $held   = held($host);
            return 0 if !$before || $connections - 1 != $host->children;    # one is the test's
            return !grep { $before->{$_} != $held->{$_} } @flat;
        }, what => 'rest', within => 15);
    };
    ok $rests, 'Redis has one connection of each child' or diag "it has $connections";
    return $held;
}

sub restarts {
    my ($mpm, $times) = @_;
    my $redis = RedisServer->start;
    my $host  = Fallback::host(redis => $redis, mpm => $mpm, config => <<"EOT",
RateLimitRedisTimeout 10s connect=10s
<Location /hello.txt>
    RateLimit many 1000000/1d
</Location>
<Location /page.html>
    RateLimit one @{[QUOTA]}/1d
</Location>
EOT
        ($mpm eq 'prefork' ? (children => 6) : ()));
    my ($early, %status, %limited);
    for my $n (1 .. $times) {
        my $sum;
        $host->graceful(meanwhile => sub {
            $sum = Fallback::load($host, 96,
                path => sub { $_[0] % 8 ? '/hello.txt' : '/page.html' });
        });
        $status{$_}  += $sum->{path}{'/hello.txt'}{$_} for keys %{ $sum->{path}{'/hello.txt'} };
        $limited{$_} += $sum->{path}{'/page.html'}{$_} for keys %{ $sum->{path}{'/page.html'} };
        $early = held_at_rest($host, $redis) if $n == EARLY;
    }
    is_deeply \%status, { 200 => 84 * $times }, 'no client gets an error';
    is_deeply \%limited, { 200 => QUOTA, 429 => 12 * $times - QUOTA }, 'no count is lost';
    my $late = held_at_rest($host, $redis);
    is $late->{$_}, $early->{$_}, "as many $_ as early on" for @flat;
    cmp_ok abs($late->{maps} - $early->{maps}), '<=', 4, 'as many maps';
    # httpd itself grows by some kB with each restart
    my $growth = ($late->{memory} - $early->{memory}) / ($times - EARLY);
    cmp_ok $growth, '<', 16, 'as much memory' or diag explain [$early, $late];
    diag sprintf '%s: %d restarts, %.1f kB each; %s', $mpm, $times, $growth,
        join ', ', map { "$_ $late->{$_}" } sort keys %$late if $ENV{RL_VERBOSE};
}

subtest "graceful restarts ($_)" => sub { restarts($_, RESTARTS) } for qw(event prefork);

done_testing;
