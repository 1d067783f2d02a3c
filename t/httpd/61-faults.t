#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
# Whatever happens to Redis while 32 clients send requests: no client gets an error except the 503 of
# on-failure=closed, no request waits past the deadline, and soon none waits at all. The host counts alone, no
# limit admits more than OPERATING.md says, and after the fault the limit is exact again. The faults are the
# rows of Fault.pm.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";

use Fallback;
use Fault;
use Status;
use Test::More;
use Time::HiRes qw(time);

use constant QUOTA => 100;

my $rules = <<"EOT";
<Location /hello.txt>
    RateLimit many 1000000/1d
</Location>
<Location /page.html>
    RateLimit one @{[QUOTA]}/1d
</Location>
<Location /login.html>
    RateLimit closed 1000000/1d on-failure=closed
</Location>
<Location /index.html>
    RateLimit open 1000000/1d on-failure=open
</Location>
EOT

# The number of requests for the limited page that passed. All others must have been denied.
sub admitted {
    my ($sum, $requests) = @_;
    my $status = $sum->{path}{'/page.html'};
    is +($status->{200} // 0) + ($status->{429} // 0), $requests,
        'the limited page answers 200 or 429';
    return $status->{200} // 0;
}

my $closed_before;    # how often the log had reported a closed breaker when the fault began

# The fault begins in the middle of the requests of a client that has half of its quota left.
sub begins_under_load {
    my ($fault, $host) = @_;
    my @at  = map { 8 * QUOTA / 2 + 100 * $_ } 0 .. ($fault->{often} ? 15 : 0);
    my $sum = Fallback::load($host, 2400, from => '127.0.0.2',
        path => sub { $_[0] % 8 ? '/hello.txt' : '/page.html' },
        at   => { map { $_ => sub {
            return if $fault->{first};
            $closed_before = (Fallback::opened_and_closed($host))[1];
            $fault->begin;
        } } @at });
    Fallback::no_error($sum, 2400);
    return admitted($sum, 300);
}

# A client that comes during the fault meets each rule as configured.
sub enforces_limits {
    my ($fault, $host, $nothing) = @_;
    my @path = qw(/page.html /hello.txt /login.html /index.html);
    my $sum = Fallback::load($host, 800, from => '127.0.0.3', path => sub { $path[$_[0] % 4] });
    my $admitted = admitted($sum, 200);
    is_deeply $sum->{path}{'/hello.txt'}, { 200 => 200 }, 'a client with quota left is not denied';
    is_deeply $sum->{path}{'/index.html'}, { 200 => 200 }, 'on-failure=open admits all';
    my $closed = $sum->{path}{'/login.html'};
    if ($nothing) {
        is $admitted, QUOTA, 'this host admits the quota by its own count';
        is_deeply $closed, { 503 => 200 }, 'on-failure=closed answers 503';
    }
    else {
        is_deeply [grep { !/^(?:200|503)$/ } keys %$closed], [], 'on-failure=closed admits or answers 503';
        cmp_ok $admitted, '>=', QUOTA, 'the client gets its quota';
        cmp_ok $admitted, '<=', 2 * QUOTA, 'at most once from the host and once from Redis';
    }
}

# Once the breaker is open, a Redis that decides nothing delays no request.
sub stays_open {
    my ($fault, $host, $since) = @_;
    Status->wait_for_breaker($host, sub { Fallback::load($host, 64, from => '127.0.0.4') });
    Fallback::wait_until_reported($host);
    my @log  = Fallback::breaker_log($host);
    my $open = Status->of($host);
    cmp_ok $open->{RedisFailedLate}, '<=', 8 * Fallback::CLIENTS, 'few requests have waited in vain';
    enforces_limits($fault, $host, 1);
    while (time - $since < ($fault->{lasts} // 0)) {
        Fallback::no_error(Fallback::load($host, 2000, from => '127.0.0.4'), 2000);
    }
    my $then = Status->of($host);
    is $then->{RedisFailedLate}, $open->{RedisFailedLate}, 'after that no other request waits';
    is $then->{RedisAnswered}, $open->{RedisAnswered}, 'no answer is accepted';
    is $then->{RedisBreakerOpen}, 1, 'the breaker stays open during the fault';
    is_deeply [Fallback::breaker_log($host)], \@log, 'and the log does not report it again';
    is +(Fallback::opened_and_closed($host))[1], $closed_before, 'nor that it has closed since the fault began';
    like $log[-1], qr/breaker open.*: it .*$fault->{says}/, 'it has reported the reason' if $fault->{says};
}

# Both ends of a fault are in the log.
sub logs_both_ends {
    my ($host) = @_;
    my ($opened, $closed) = Fallback::opened_and_closed($host);
    cmp_ok $opened, '>=', 1, 'the log reports that Redis is gone';
    is $closed, $opened, 'and reports each time that it is back' or diag join "\n", Fallback::breaker_log($host);
}

sub survives {
    my ($name, $mpm) = @_;
    my $fault = Fault->new($name);
    plan skip_all => $fault->{skip} if $fault->{skip};
    $fault->begin if $fault->{first};
    my $host = Fallback::host(url => $fault->url, mpm => $mpm, config => $fault->config . $rules,
        $fault->host_options);
    my ($start, @children) = (time, sort $host->children);
    $closed_before = 0;
    my $first = begins_under_load($fault, $host);
    if    ($fault->{answers} eq 'none') { stays_open($fault, $host, $start) }
    elsif ($fault->{answers} eq 'some') { enforces_limits($fault, $host, 0) }
    $fault->end;
    my $after = Fallback::recovered($host);
    Fallback::bounded_wait($after) if $fault->{answers} ne 'all';
    my $failed = $after->redis_failures;
    if ($fault->{answers} eq 'all') { is $failed, 0, 'no call to Redis failed' }
    else                            { cmp_ok $failed, '>', 0, 'failed calls are counted' }
    logs_both_ends($host) if $fault->{answers} eq 'none';

    my $sum = Fallback::load($host, 400, from => '127.0.0.5', path => '/page.html');
    is admitted($sum, 400), QUOTA, 'afterwards the limit is exact again';
    is +(Status->of($host))->redis_failures, $failed, 'and no further call has failed';
    my $total = $first + admitted(
        Fallback::load($host, 200, from => '127.0.0.2', path => '/page.html'), 200);
    my $counts = $fault->{answers} eq 'all' ? 1 : $fault->{forgets} ? 3 : 2;
    cmp_ok $total, '>=', QUOTA, 'the client of the beginning got its quota';
    cmp_ok $total, '<=', $counts * QUOTA, "at most $counts times";
    is_deeply [sort $host->children], \@children, 'no child of httpd has ended';
    diag sprintf '%-45s %4.1f s, late %d, total %d', "$name ($mpm)", time - $start,
        $after->{RedisFailedLate}, $total if $ENV{RL_VERBOSE};
}

for my $name (@ARGV ? @ARGV : Fault::names()) {
    subtest "$name (event)" => sub { survives($name, 'event') };
    subtest "$name (prefork)" => sub { survives($name, 'prefork') } if Fault::row($name)->{prefork};
}

done_testing;
