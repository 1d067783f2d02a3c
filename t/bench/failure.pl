#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
# How long requests wait when Redis fails. For each fault of Fault.pm, 32 clients send requests for one second
# before it, two seconds during it and one second after it. Printed are the statuses, the outcomes of calls to
# Redis, and the wait for Redis by the module's own histogram. Then Redis hangs under 16 children of httpd:
# printed are the requests that waited in vain, and the response times before, during and after.
#
#   perl -It/lib t/bench/failure.pl [fault...] [blackhole]

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";

use Fallback;
use Fault;
use Status;
use Time::HiRes qw(time);

my $rules = "<Location /hello.txt>\nRateLimit page 1000000000/1s\n</Location>\n";

# Sends requests for some seconds. Returns the response times in ms, sorted, and the statuses.
sub phase {
    my ($host, $seconds, $connections) = @_;
    my ($start, @elapsed, %status) = (time);
    while (time - $start < $seconds) {
        Client->flood(targets => [$host->port], connections => $connections, path => '/hello.txt',
            requests => 20 * $connections, on_response => sub {
                push @elapsed, 1000 * $_[1]{elapsed};
                $status{ $_[1]->status }++;
            });
    }
    return { elapsed => [sort { $a <=> $b } @elapsed], status => \%status };
}

sub quantile {
    my ($phase, $share) = @_;
    my $all = $phase->{elapsed};
    return $all->[$share * $#$all];
}

sub statuses {
    my %sum;
    for my $phase (@_) { $sum{$_} += $phase->{status}{$_} for keys %{ $phase->{status} } }
    return join ' ', map { "$_: $sum{$_}" } sort keys %sum;
}

# A second before the fault, two during it, a second after it. It begins and ends between requests: the few
# that would be under way do not matter among thousands.
sub endure {
    my ($fault, $host, $connections) = @_;
    my @phases = phase($host, 1, $connections);
    $fault->begin;
    push @phases, phase($host, 2, $connections);
    my $during = Status->of($host);
    $fault->end;
    Fallback::wait_for_redis($host);
    push @phases, phase($host, 1, $connections);
    return ($during, @phases);
}

my @columns = qw(P50Us P99Us P999Us MaxUs);
printf "%-48s %8s %6s %5s %6s %8s   wait µs: %6s %6s %6s %6s\n", '', 'answered', 'late', 'lost',
    'errors', 'at once', qw(p50 p99 p99.9 max);

sub report {
    my ($name, $host, @phases) = @_;
    my $s = Status->of($host);
    printf "%-48s %8d %6d %5d %6d %8d            %6d %6d %6d %6d   %s\n", $name,
        $s->{RedisAnswered}, $s->{RedisFailedLate}, $s->{RedisFailedLost},
        $s->{RedisFailedRefused} + $s->{RedisFailedGarbage},
        $s->{RedisFailedOpen} + $s->{RedisFailedDown} + $s->{RedisFailedBusy},
        (map { $s->{"RedisWait$_"} } @columns), statuses(@phases);
}

my @only = @ARGV ? @ARGV : (Fault::names(), 'blackhole');
for my $name (grep { $_ ne 'blackhole' } @only) {
    for my $mpm ('event', Fault::row($name)->{prefork} ? 'prefork' : ()) {
        my $fault = Fault->new($name);
        my $label = "$name ($mpm)";
        if ($fault->{skip}) {
            print "$label: $fault->{skip}\n";
            next;
        }
        my $host = Fallback::host(url => $fault->url, mpm => $mpm,
            config => $fault->config . $rules, $fault->host_options);
        my (undef, @phases) = endure($fault, $host, Fallback::CLIENTS);
        report($label, $host, @phases);
    }
}

exit unless grep { $_ eq 'blackhole' } @only;

print "\nRedis hangs, 16 children, 64 connections (16 under prefork), deadline ",
    Fallback::DEADLINE_MS, " ms\n";
for my $mpm ('event', 'prefork') {
    my $fault = Fault->new('SIGSTOP');
    my $connections = $mpm eq 'event' ? 64 : 16;
    my $host = Fallback::host(url => $fault->url, mpm => $mpm, config => $rules, children => 16,
        threads => 4);
    my ($during, @phases) = endure($fault, $host, $connections);
    printf "%s: %d requests waited in vain, of %d while it lasted\n", $mpm,
        $during->{RedisFailedLate} + $during->{RedisFailedLost}, scalar @{ $phases[1]{elapsed} };
    printf "  %-7s p50 %6.1f ms, p99 %6.1f ms, p99.9 %6.1f ms, max %6.1f ms, %d requests\n",
        (qw(before during after))[$_],
        quantile($phases[$_], 0.5), quantile($phases[$_], 0.99), quantile($phases[$_], 0.999),
        quantile($phases[$_], 1), scalar @{ $phases[$_]{elapsed} }
        for 0 .. 2;
}
