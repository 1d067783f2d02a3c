#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
# The cost of asking Redis for every decision. First the client of the module with 1, 8, 32 and 64 callers is
# compared with a blocking connection for each caller, in alternating rounds with the same script and the same
# Redis. Then a whole httpd under wrk is compared with one without the module.
#
#   perl -It/lib t/bench/redis.pl [rounds] [seconds a round] [callers...]
#
# With numbers of callers, only these are measured, and no httpd.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";

use Httpd;
use POSIX qw(sysconf _SC_CLK_TCK);
use Process;
use RedisServer;

use constant CONNECTIONS => 64;

my ($rounds, $seconds, @callers) = @ARGV;
$rounds  //= 3;
$seconds //= 3;
my $program = "$FindBin::Bin/../../build/t/bench/callers";
my $redis   = RedisServer->start;
my %config  = (
    bare  => '',
    asked => "RateLimitRedis \@REDIS\@\nRateLimitRedisTimeout 1s\n"
        . "<Location /hello.txt>\nRateLimit page 1000000000/1s\n</Location>\n",
);
# CPU time of processes in µs, from /proc.
sub cpu_us {
    my $ticks = 0;
    for my $pid (@_) {
        open my $stat, '<', "/proc/$pid/stat" or next;
        my @field = split ' ', (<$stat> =~ s/.*\) //r);
        $ticks += $field[11] + $field[12];
    }
    return $ticks * 1e6 / sysconf(_SC_CLK_TCK);
}

# --- The client ----------------------------------------------------------------

# One round of one way and number of callers: the numbers that callers.c prints, and the CPU time of Redis.
sub round_of_callers {
    my ($sum, $way, $callers) = @_;
    my $before = cpu_us($redis->pid);
    my @said   = split ' ', `$program $way @{[$redis->port]} $callers $seconds`;
    die "callers failed\n" if $? || @said != 5;
    my $redis_us = cpu_us($redis->pid) - $before;
    my ($n, $waited, $us, $p50, $p99) = @said;
    push @{ $sum->{$way} }, {
        rate => $n / $seconds, latency => $waited / $n, cpu => $us / $n, redis => $redis_us / $n,
        p50 => $p50, p99 => $p99,
    };
}

sub median { my @sorted = sort { $a <=> $b } @_; return $sorted[$#sorted / 2] }

# The median of the ratios of each round, because the load of the machine changes over time.
sub ratio {
    my ($sum, $what) = @_;
    return median(map { $sum->{client}[$_]{$what} / ($sum->{blocking}[$_]{$what} || 1) }
            0 .. $rounds - 1);
}

my %aim = (
    1  => [[latency => 'at most', 1.1]],
    64 => [[rate => 'at least', 1.8], [redis => 'at most', 0.6]],
);
my @figures = qw(rate latency p50 p99 cpu redis);
printf "%7s %-9s %9s %9s %7s %7s %9s %9s\n", 'callers', 'way', 'per s', 'mean µs', 'p50', 'p99',
    'CPU µs', 'Redis µs';
for my $callers (@callers ? @callers : (1, 8, 32, 64)) {
    my %sum;
    for my $round (1 .. $rounds) {
        my @ways = $round % 2 ? qw(blocking client) : qw(client blocking);
        round_of_callers(\%sum, $_, $callers) for @ways;
    }
    for my $way (qw(blocking client)) {
        my %m;
        for my $what (@figures) { $m{$what} = median(map { $_->{$what} } @{ $sum{$way} }) }
        printf "%7d %-9s %9.0f %9.1f %7d %7d %9.1f %9.1f\n", $callers, $way, @m{@figures};
    }
    my %ratio = map { $_ => ratio(\%sum, $_) } @figures;
    printf "%7d %-9s %9.2f %9.2f %7.2f %7.2f %9.2f %9.2f\n", $callers, 'ratio', @ratio{@figures};
    for my $aim (@{ $aim{$callers} || [] }) {
        my ($what, $side, $bound) = @$aim;
        my $met = $side eq 'at most' ? $ratio{$what} <= $bound : $ratio{$what} >= $bound;
        printf "%17s %s of %s %s %.1f: %.2f\n", '', $met ? 'met' : 'MISSED', $what, $side, $bound,
            $ratio{$what};
    }
}

exit if @callers;

# --- A whole httpd ---------------------------------------------------------------

my %httpd = map {
    $_ => Httpd->start(
        redis => $redis, children => 2, threads => 32, modules => ['status'],
        config => "<Location /server-status>\nSetHandler server-status\n</Location>\n$config{$_}",
        )
} keys %config;

sub wrk {
    my ($port) = @_;
    my $out = `wrk -t 2 -c @{[CONNECTIONS]} -d ${seconds}s http://127.0.0.1:$port/hello.txt 2>&1`;
    my ($requests) = $out =~ /(\d+) requests in/ or die "wrk said: $out";
    die "not all passed: $out" if $out =~ /Non-2xx/;
    return $requests;
}

my %sum;
sub note_round {
    my ($name, $count, $server_us, $redis_us, $elapsed) = @_;
    my $s = $sum{$name} ||= [0, 0, 0, 0];
    $s->[0] += $count; $s->[1] += $server_us; $s->[2] += $redis_us; $s->[3] += $elapsed;
}

for my $round (1 .. $rounds) {
    for my $name ('bare', 'asked') {
        my $h = $httpd{$name};
        my @before = (cpu_us($h->pid, $h->children), cpu_us($redis->pid));
        my $count = wrk($h->port);
        note_round($name, $count, cpu_us($h->pid, $h->children) - $before[0],
            cpu_us($redis->pid) - $before[1], $seconds);
    }
}

my $bare = $sum{bare}[1] / $sum{bare}[0];
printf "\nhttpd, %d connections\n%-10s %10s %14s %14s\n", CONNECTIONS, '', 'per second',
    'server µs', 'Redis µs';
for my $name ('bare', 'asked') {
    my ($count, $server, $redis_us, $elapsed) = @{ $sum{$name} };
    printf "%-10s %10.0f %14.1f %14.1f\n", $name, $count / $elapsed,
        $server / $count - ($name eq 'asked' ? $bare : 0), $redis_us / $count;
}
print "(asked: server µs beyond bare)\n";
my $status = $httpd{asked}->get('/server-status?auto')->body;
print map { "$_\n" } grep { /RateLimitRedis/ } split /\n/, $status;
