#!/usr/bin/perl
# What requests wait for a Redis that is killed, or stopped, in the middle of a flood: by the
# module's own histogram, with the verdicts and what became of the calls.
#
#   perl -It/lib t/bench/failure.pl [deadline in ms]

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";

use Client;
use Httpd;
use RedisServer;
use Status;
use Time::HiRes qw(time);

my $deadline = $ARGV[0] // 25;
my $config   = "RateLimitRedis \@REDIS\@\nRateLimitRedisTimeout ${deadline}ms\n"
    . "<Location />\nRateLimit page 1000000000/1s\n</Location>\n" . Status::CONFIG;

# A second well, two with the fault, two after it; the fault itself falls into a flood.
sub flood_through {
    my ($host, %at) = @_;
    my ($start, %status) = (time);
    while (time - $start < 5) {
        for my $second (sort keys %at) {
            (delete $at{$second})->() if time - $start >= $second;
        }
        my $sum = Client->flood(targets => [$host->port], connections => 32, requests => 2000,
            path => '/hello.txt');
        $status{$_} += $sum->{status}{$_} for keys %{ $sum->{status} };
    }
    return join ' ', map { "$_: $status{$_}" } sort keys %status;
}

# Sends the signal from a process of its own, while the flood goes on.
sub during_flood {
    my ($signal, $pid) = @_;
    defined(my $child = fork) or die "fork: $!\n";
    return $child if $child;
    select undef, undef, undef, 0.02;
    kill $signal, $pid;
    require POSIX;
    POSIX::_exit(0);
}

for my $mpm ('event', 'prefork') {
    for my $fault ('killed', 'stopped') {
        my $redis = RedisServer->start;
        my $host  = Httpd->start(config => $config, redis => $redis, mpm => $mpm,
            modules => ['status']);
        my ($signal, $pid) = ($fault eq 'killed' ? 'KILL' : 'STOP', $redis->pid);
        my $verdicts = flood_through($host,
            1 => sub { during_flood($signal, $pid) },
            3 => sub { $fault eq 'killed' ? do { $redis->kill9; $redis->restart } : kill 'CONT', $pid },
        );
        my $status = Status->of($host);
        printf "%-8s %-8s %s; answered %d, late %d, lost %d, fell back at once %d; wait in µs: "
            . "p50 %d, p99 %d, p99.9 %d\n", $mpm, $fault, $verdicts,
            (map { $status->{"Redis$_"} } qw(Answered FailedLate FailedLost)),
            $status->{RedisFailedOpen} + $status->{RedisFailedDown},
            (map { $status->{"RedisWait$_"} } qw(P50Us P99Us P999Us));
    }
}
