#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
# The cost of statistics and logs. First the instructions per request in the functions that count, measured by
# callgrind with the normal build. Then a flood of denials of a hundred clients, with a log and without: lines
# per client and interval, and CPU time per denial.
#
#   perl -It/lib t/bench/seeing.pl [seconds a round] [rounds]

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";

use Client;
use Httpd;
use Metrics;
use POSIX qw(sysconf _SC_CLK_TCK);
use RedisServer;
use Time::HiRes qw(time);

use constant { CLIENTS => 100, EVERY => 2 };

my ($seconds, $rounds) = map { $ARGV[$_] // (6, 2)[$_] } 0 .. 1;

# --- Instructions --------------------------------------------------------------------------

my $quiet = "MaxKeepAliveRequests 0\nKeepAliveTimeout 60\nLogLevel crit\n"
    . "<Directory />\nAllowOverride None\n</Directory>\n";

sub instructions {
    my ($config, $functions, $requests) = @_;
    my $redis = RedisServer->start;
    my $httpd = Httpd->start(
        redis    => $redis,
        config   => $quiet . $config,
        patience => 120,
        wrapper  => ['valgrind', '--tool=callgrind', '--vgdb=no', '--callgrind-out-file=/dev/null',
            map { "--toggle-collect=$_" } @$functions],
    );
    my $client = Client->new(port => $httpd->port, timeout => 60);
    $client->request(path => '/hello.txt') for 1 .. $requests;
    $client->disconnect;
    $httpd->stop;
    open my $log, '<', $httpd->dir . '/console' or die "no console: $!\n";
    my ($count) = map { /Collected : (\d+)/ ? $1 : () } <$log>;
    return $count || 0;
}

sub per_request {
    my ($config, @functions) = @_;
    my ($n, $once, $twice) = (200);
    ($once, $twice) = map { instructions($config, \@functions, $_) } $n, 2 * $n;
    return ($twice - $once) / $n;
}

my $redis = "RateLimitRedis \@REDIS\@\nRateLimitRedisTimeout 10s\n";
my @scenes = (
    ['a pass, this host alone', 'RateLimit page 1000000/1h'],
    ['a pass, by Redis', $redis . 'RateLimit page 1000000/1h'],
    ['a denial, from memory', 'RateLimit page 1/1h'],
);
print "instructions a request\n";
printf "%-26s %10s %10s %10s\n", '', 'counting', 'histogram', 'log';
for my $scene (@scenes) {
    my ($name, $config) = @$scene;
    printf "%-26s %10.0f %10.0f %10.0f\n", $name, per_request($config, 'rl_stats_count'),
        per_request($config, 'rl_stats_count_redis'), per_request($config, 'rl_violation_log');
}

# --- A flood of denials --------------------------------------------------------------------

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

my %logs = (
    'no log'     => 'LogLevel ratelimit_redis:crit',
    'JSON file'  => 'RateLimitLog @DIR@/v.log json every=' . EVERY . 's',
    'text file'  => 'RateLimitLog @DIR@/v.log text every=' . EVERY . 's',
    'a program'  => 'RateLimitLog "|/bin/cat" json every=' . EVERY . 's',
);
my %host = map {
    my $httpd = Httpd->start(children => 2, threads => 32, config => "$logs{$_}\n"
            . "RateLimit page 1/1h key=header:X-Client\nRateLimit page-ip 500000000/1h\n" . Metrics::CONFIG);
    $httpd->file($httpd->dir . '/wrk.lua', 'local n = 0 function request() n = n + 1 '
            . 'return wrk.format("GET", "/hello.txt", {["X-Client"] = tostring(n % ' . CLIENTS . ')}) end');
    ($_ => $httpd)
} keys %logs;

my %sum;
for my $round (1 .. $rounds) {
    for my $name (sort keys %logs) {
        my $h = $host{$name};
        my $script = $h->dir . '/wrk.lua';
        my $lines = Metrics->of($h)->value('apache_ratelimit_log_lines_total', fate => 'written');
        my ($cpu, $start) = (cpu_us($h->children), time);
        my $out = `wrk -t 2 -c 64 -d ${seconds}s -s $script http://127.0.0.1:@{[$h->port]}/hello.txt 2>&1`;
        my $lasted = time - $start;
        my ($count) = $out =~ /(\d+) requests in/ or die "wrk said: $out";
        my $s = $sum{$name} ||= [0, 0, 0, 0];
        $s->[0] += $count;
        $s->[1] += cpu_us($h->children) - $cpu;
        $s->[2] += Metrics->of($h)->value('apache_ratelimit_log_lines_total', fate => 'written') - $lines;
        $s->[3] += $lasted;
    }
}
printf "\na flood of denials of %d clients, every=%ds\n%-10s %10s %16s %10s %28s\n", CLIENTS, EVERY, '',
    'a second', 'µs CPU a denial', 'lines', 'lines a client and interval';
for my $name (sort keys %sum) {
    my ($count, $cpu, $lines, $lasted) = @{ $sum{$name} };
    printf "%-10s %10.0f %16.1f %10d %28.2f\n", $name, $count / $lasted, $cpu / $count, $lines,
        $lines / CLIENTS / ($lasted / EVERY);
}
