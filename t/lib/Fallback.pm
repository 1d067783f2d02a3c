# SPDX-License-Identifier: Apache-2.0
package Fallback;

# Hosts whose Redis fails, and checks of what must be true of them.
#
#   my $host = Fallback::host(redis => $redis, config => 'RateLimit one 100/1h');
#   my $sum  = Fallback::load($host, 4000, at => { 1000 => sub { $redis->kill9 } });
#   Fallback::no_error($sum, 4000);
#   $redis->restart;
#   my $status = Fallback::recovered($host);
#
# A host waits DEADLINE_MS for Redis and probes it at least once a second. It has a page /noted that the tested
# limits do not cover. Its responses have the source of the verdict in X-Source.

use strict;
use warnings;

use Client;
use Httpd;
use Process;
use Pulse;
use Status;
use Test::More;

use constant { DEADLINE_MS => 500, FAILURES => 5, CLIENTS => 32 };

my $settings = <<"EOT";
RateLimitRedis \@URL\@
RateLimitRedisTimeout @{[DEADLINE_MS]}ms connect=@{[DEADLINE_MS]}ms
RateLimitBreaker failures=@{[FAILURES]} retry=50ms..1s
EOT

my $pulse;

# These sections come last, so a <Location /> of a test adds no rules to them.
my $pages = <<'EOT' . Status::CONFIG;
Alias /noted @DOCROOT@/hello.txt
<Location /noted>
    RateLimit off
    RateLimit noted 1000000/1h
    RateLimitNotes all
    Header always set X-Source %{RATELIMIT_SOURCE}e
</Location>
EOT

# Takes the options of Httpd->start and url, by default that of redis. Under prefork there is a child for each
# client, so that a load reaches all of them.
sub host {
    my (%opt) = @_;
    my $url  = delete $opt{url} // $opt{redis}->url;
    my $mpm  = $opt{mpm} ||= 'event';
    $pulse   = Pulse->start;
    my @size = $mpm eq 'prefork' ? (children => CLIENTS) : (threads => 25);
    return Httpd->start(modules => [qw(status headers)], @size, %opt,
        vars => { URL => $url }, config => $settings . ($opt{config} // '') . "\n$pages");
}

# Sends requests over 32 connections. at => { N => sub } calls a function after N responses. The sum also has
# {path}{PATH}{STATUS}.
sub load {
    my ($host, $requests, %opt) = @_;
    my ($seen, $at, %path) = (0, delete $opt{at} || {});
    my $of  = $opt{path} ||= '/hello.txt';
    my $sum = Client->flood(
        targets => [map { $_->port } ref $host eq 'ARRAY' ? @$host : $host],
        connections => CLIENTS, requests => $requests, %opt,
        on_response => sub {
            my ($number, $response) = @_;
            $path{ ref $of ? $of->($number) : $of }{ $response->status }++;
            my $now = $at->{ ++$seen };
            $now->() if $now;
        });
    return { %$sum, path => \%path };
}

sub no_error {
    my ($sum, $requests) = @_;
    my $status = $sum->{status};
    is_deeply [grep { !/^(?:200|429)$/ } keys %$status], [], 'no client gets an error'
        or diag explain $status;
    is +($status->{200} // 0) + ($status->{429} // 0), $requests, 'every request is answered';
}

# No request may wait longer than the deadline. The histogram is exact to 1/8. At its deadline a thread still
# has to get a processor, and so has the thread that wakes it, so twice the delay of this machine is added.
sub bounded_wait {
    my ($status) = @_;
    my $late_ms = 2 * $pulse->late_ms;
    cmp_ok $status->{RedisWaitP999Us}, '<', (2 * DEADLINE_MS + $late_ms) * 1000,
        'no request waits longer than the deadline';
}

# Waits until Redis decides everything again in every child. A breaker that closes admits a growing number of
# eighths of the calls; two rounds of all clients without a fallback show that it admits all.
sub wait_for_redis {
    my ($host) = @_;
    Process::wait_until(sub {
        my %source;
        return 0 if $host->get('/noted')->header('X-Source') ne 'redis';
        Client->flood(targets => [$host->port], connections => CLIENTS, requests => 2 * CLIENTS,
            path => '/noted', on_response => sub { $source{ $_[1]->header('X-Source') // '' }++ });
        return ($source{redis} // 0) == 2 * CLIENTS;
    }, what => 'Redis to decide again', within => 60);
}

# Waits until Redis decides about a new client of /hello.txt, whose responses have X-Source.
sub wait_for_verdict {
    my ($host) = @_;
    Process::wait_until(sub {
        my $answer = $host->get('/hello.txt', from => Client::fresh_address());
        return ($answer->header('X-Source') // '') eq 'redis';
    }, what => 'Redis to decide', within => 60);
}

# The lines about the breaker, of which each opening has one, and each closing. A busy machine can open it
# before a fault, and calls that began during the fault can open it after the end.
sub breaker_log { my ($host) = @_; return $host->error_log_lines(qr/breaker (?:open|closed)/) }

sub opened_and_closed {
    my ($host) = @_;
    my @log = breaker_log($host);
    my $opened = grep { /breaker open/ } @log;
    return ($opened, @log - $opened);
}

# Waits until the log reports the last opening, which is seen before that.
sub wait_until_reported {
    my ($host) = @_;
    Process::wait_until(sub { my ($opened, $closed) = opened_and_closed($host); $opened == $closed + 1 },
        what => 'the log to report that Redis is gone', within => 60);
}

sub recovered {
    my ($host) = @_;
    wait_for_redis($host);
    my $status = Status->of($host);
    is $status->{RedisBreakerOpen}, 0, 'the breaker is closed again';
    return $status;
}

1;
