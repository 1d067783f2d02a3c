#!/usr/bin/perl
# What asking Redis for every request costs: CPU of httpd beyond a bare one, CPU of Redis, and
# beside it one blocking connection for each thread, in the same run, round by round.
#
#   perl -It/lib t/bench/redis.pl [rounds] [seconds a round] [connections]

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";

use Httpd;
use POSIX qw(sysconf _SC_CLK_TCK);
use Process;
use RedisServer;

my ($rounds, $seconds, $connections) = map { $ARGV[$_] // (3, 5, 64)[$_] } 0 .. 2;
my $callers = "$FindBin::Bin/../../build/t/bench/callers";
my $redis   = RedisServer->start;
my %config  = (
    bare  => '',
    asked => "RateLimitRedis \@REDIS\@\nRateLimitRedisTimeout 1s\n"
        . "<Location /hello.txt>\nRateLimit page 1000000000/1s\n</Location>\n",
);
my %httpd = map {
    $_ => Httpd->start(
        redis => $redis, children => 2, threads => 32, modules => ['status'],
        config => "<Location /server-status>\nSetHandler server-status\n</Location>\n$config{$_}",
        )
} keys %config;

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

sub wrk {
    my ($port) = @_;
    my $out = `wrk -t 2 -c $connections -d ${seconds}s http://127.0.0.1:$port/hello.txt 2>&1`;
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
    my $before = cpu_us($redis->pid);
    my ($count, $us) = split ' ', `$callers @{[$redis->port]} $connections $seconds`;
    note_round('blocking', $count, $us, cpu_us($redis->pid) - $before, $seconds);
}

my $bare = $sum{bare}[1] / $sum{bare}[0];
printf "%-10s %10s %14s %14s\n", '', 'per second', 'server µs', 'Redis µs';
for my $name ('bare', 'asked', 'blocking') {
    my ($count, $server, $redis_us, $elapsed) = @{ $sum{$name} };
    printf "%-10s %10.0f %14.1f %14.1f\n", $name, $count / $elapsed,
        $server / $count - ($name eq 'asked' ? $bare : 0), $redis_us / $count;
}
print "(asked: server µs beyond bare)\n";
my $status = $httpd{asked}->get('/server-status?auto')->body;
print map { "$_\n" } grep { /RateLimitRedis/ } split /\n/, $status;
