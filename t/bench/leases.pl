#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
# What leases cost and save.
#
#   share   four hosts, one limit of 20000/10s, twice as much offered over five windows: admitted in each window,
#           what of the quota stayed unused, Redis commands for each admitted request
#   hot     one host, 64 connections, one key under its quota: throughput, server CPU for each request and p99,
#           with sync=local, sync=lease and sync=request in turn, as medians, for each MPM
#   cold    100,000 keys once each: Redis commands, Redis CPU and server CPU, sync=lease beside sync=request
#
#   perl -It/lib t/bench/leases.pl [share] [hot] [cold]

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";

use Httpd;
use Process;
use RedisServer;
use Status;
use Time::HiRes qw(sleep time);

use constant { QUOTA => 20_000, WINDOW => 10, WINDOWS => 5, ROUNDS => 7, SECONDS => 3 };

my $redis = RedisServer->start;

sub host {
    my ($mpm, $rule) = @_;
    my @size = $mpm eq 'prefork' ? (children => 66) : (children => 2, threads => 40);
    return Httpd->start(redis => $redis, modules => ['status'], mpm => $mpm, @size, config =>
        "RateLimitRedis \@REDIS\@\nRateLimitRedisTimeout 2s\nMaxKeepAliveRequests 0\n" . Status::CONFIG . "$rule\n");
}

sub calls {
    my ($calls) = $redis->cmd(qw(INFO commandstats)) =~ /cmdstat_evalsha:calls=(\d+)/;
    return $calls // 0;
}

# Seconds of processor that processes have used.
sub cpu {
    my $ticks = 0;
    for my $pid (@_) {
        open my $in, '<', "/proc/$pid/stat" or next;
        my @field = split ' ', (<$in> =~ /\) (.*)/)[0];
        $ticks += $field[11] + $field[12];
    }
    return $ticks / 100;
}

sub median { my @sorted = sort { $a <=> $b } @_; return $sorted[ @sorted / 2 ] }

# Starts wrk; returns a handle on its output.
sub wrk {
    my ($host, $connections, $seconds, @more) = @_;
    open my $out, '-|', 'wrk', '-t1', "-c$connections", "-d${seconds}s", '--latency', @more,
        'http://127.0.0.1:' . $host->port . '/hello.txt' or die "wrk: $!";
    return $out;
}

sub passed { my $sum = 0; $sum += Status->of($_)->rule('one')->{Passed} for @_; return $sum }

sub share {
    my @hosts = map { host('event', 'RateLimit one ' . QUOTA . '/' . WINDOW . 's sync=lease') } 1 .. 4;
    my $paced = Process::tempdir('bench') . '/paced.lua';
    open my $out, '>', $paced or die $!;
    print $out "function delay() return 8 end\n";
    close $out;
    $_->get('/hello.txt') for @hosts;
    my $now = sub { my $t = $redis->cmd('TIME'); return $t->[0] + $t->[1] / 1e6 };
    my $left = sub { my $t = $now->() / WINDOW; return WINDOW * (1 + int($t) - $t) };
    sleep $left->() + 0.05;
    my ($calls, $start, $last) = (calls(), passed(@hosts), 0);
    my $before = $start;
    my @runs = map { wrk($_, 10, WINDOWS * WINDOW, '-s', $paced) } @hosts;
    for my $n (1 .. WINDOWS) {
        sleep 0.01 while $left->() > 0.2;
        my ($at, $sum) = ($left->(), passed(@hosts));
        my $admitted = $sum - $before;
        my $estimate = $admitted + $last * $at / WINDOW;
        printf "window %d: %5d admitted; with what counts of the window before %7.1f of %d, %.2f %% unused\n", $n,
            $admitted, $estimate, QUOTA, 100 - 100 * $estimate / QUOTA;
        sleep 0.01 while $left->() < 0.3;
        my $end = passed(@hosts);
        ($before, $last) = ($end, $end - $before);
    }
    my $offered = 0;
    for (@runs) {
        local $/;
        $offered += $1 if <$_> =~ /(\d+) requests in/;
    }
    my $admitted = $before - $start;
    printf "offered %d, admitted %d, %.2f %% of %d windows unused, %.4f Redis commands for each\n", $offered, $admitted,
        100 - 100 * $admitted / QUOTA / WINDOWS, WINDOWS, (calls() - $calls) / $admitted;
}

sub hot {
    for my $mpm (qw(event worker prefork)) {
        my %host = map { $_ => host($mpm, "RateLimit one 100000000/1h sync=$_") } qw(local lease request);
        my %seen;
        for my $round (0 .. ROUNDS) {
            for my $sync (qw(local lease request)) {
                my @pids = $host{$sync}->children;
                my ($cpu, $redis_cpu) = (cpu(@pids), cpu($redis->pid));
                my $out = wrk($host{$sync}, 64, SECONDS);
                local $/;
                my $text = <$out>;
                my ($requests) = $text =~ /(\d+) requests in/;
                my ($p99, $unit) = $text =~ /99%\s+([\d.]+)(us|ms|s)/;
                next unless $round;    # the first warms up
                push @{ $seen{$sync}{rate} }, $requests / SECONDS;
                push @{ $seen{$sync}{cpu} }, 1e6 * (cpu(@pids) - $cpu) / $requests;
                push @{ $seen{$sync}{redis} }, 1e6 * (cpu($redis->pid) - $redis_cpu) / $requests;
                push @{ $seen{$sync}{p99} }, $p99 * { us => 1, ms => 1e3, s => 1e6 }->{$unit};
            }
        }
        for my $sync (qw(local lease request)) {
            my %m = map { $_ => median(@{ $seen{$sync}{$_} }) } keys %{ $seen{$sync} };
            my @ratio = map { my $what = $_; median(map { $seen{$sync}{$what}[$_] / $seen{local}{$what}[$_] }
                0 .. ROUNDS - 1) } qw(rate cpu);
            printf "%-7s sync=%-7s %6.0f requests/s (%.3f of local), %5.1f us CPU (%.3f), Redis %4.1f us, p99 %5.0f us\n",
                $mpm, $sync, $m{rate}, $ratio[0], $m{cpu}, $ratio[1], $m{redis}, $m{p99};
        }
    }
}

sub cold {
    my $keys = Process::tempdir('bench') . '/keys.lua';
    open my $out, '>', $keys or die $!;
    print $out <<'EOT';
local n = 0
function request()
    n = n + 1
    return wrk.format('GET', '/hello.txt', {['X-Key'] = tostring(n)})
end
function response()
    if n >= 100000 then wrk.thread:stop() end
end
EOT
    close $out;
    for my $round (1 .. 3) {
        for my $sync (qw(request lease)) {
            $redis->cmd('FLUSHALL');
            my $host = host('event', "RateLimitSharedMemory 64M\nRateLimit one 1000/1h key=header:X-Key sync=$sync");
            my ($calls, $cpu, $own) = (calls(), cpu($redis->pid), cpu($host->children));
            my $run = wrk($host, 32, 30, '-s', $keys);
            local $/;
            my ($requests) = <$run> =~ /(\d+) requests in/;
            printf "cold, sync=%-7s %d requests, %.4f Redis commands, %.2f us Redis CPU, %.1f us server CPU each\n",
                $sync, $requests, (calls() - $calls) / $requests,
                1e6 * (cpu($redis->pid) - $cpu) / $requests, 1e6 * (cpu($host->children) - $own) / $requests;
        }
    }
}

my %parts = (share => \&share, hot => \&hot, cold => \&cold);
$parts{$_}->() for @ARGV ? @ARGV : qw(share hot cold);
