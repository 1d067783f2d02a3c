# SPDX-License-Identifier: Apache-2.0
package Fallback;

# Hosts whose Redis fails, and what must be true of them.
#
#   my $host = Fallback::host(redis => $redis, config => 'RateLimit one 100/1h');
#   my $sum  = Fallback::load($host, 4000, at => { 1000 => sub { $redis->kill9 } });
#   Fallback::no_error($sum, 4000);
#   $redis->restart;
#   my $status = Fallback::recovered($host);
#
# A host gives Redis DEADLINE_MS and probes at least once a second. It has
# a page /noted, apart from the tested limits, that says in X-Source who decided.

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

# Last, so that no <Location /> of a test brings rules back here.
my $pages = <<'EOT' . Status::CONFIG;
Alias /noted @DOCROOT@/hello.txt
<Location /noted>
    RateLimit off
    RateLimit noted 1000000/1h
    RateLimitNotes all
    Header always set X-Source %{RATELIMIT_SOURCE}e
</Location>
EOT

# Options are those of Httpd->start, and url. Without one, that of redis. Under
# prefork there is one child for each client, so that a load meets all of them.
sub host {
    my (%opt) = @_;
    my $url  = delete $opt{url} // $opt{redis}->url;
    my $mpm  = $opt{mpm} ||= 'event';
    $pulse   = Pulse->start;
    my @size = $mpm eq 'prefork' ? (children => CLIENTS) : (threads => 25);
    return Httpd->start(modules => [qw(status headers)], @size, %opt,
        vars => { URL => $url }, config => $settings . ($opt{config} // '') . "\n$pages");
}

# Requests by 32 clients; at => { N => sub }: what happens after N responses. The
# sum also has {path}{PATH}{STATUS}.
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
    is_deeply [grep { !/^(?:200|429)$/ } keys %$status], [], 'nobody gets an error'
        or diag explain $status;
    is +($status->{200} // 0) + ($status->{429} // 0), $requests, 'everybody gets an answer';
}

# The histogram is exact to 1/8. A thread that wakes up when its time is over still has to get a
# processor, and so has whoever wakes it: twice what this machine was late since the host started.
sub bounded_wait {
    my ($status) = @_;
    my $late_ms = 2 * $pulse->late_ms;
    cmp_ok $status->{RedisWaitP999Us}, '<', (2 * DEADLINE_MS + $late_ms) * 1000,
        'nobody waits longer than the deadline';
}

# Waits until Redis decides everything again, in every child. A breaker that
# closes lets a growing share of eight through: who gets as many answers as there
# are here has seen the end of that.
sub wait_for_redis {
    my ($host) = @_;
    Process::wait_until(sub {
        my %source;
        return 0 if $host->get('/noted')->header('X-Source') ne 'redis';
        Client->flood(targets => [$host->port], connections => CLIENTS, requests => 2 * CLIENTS,
            path => '/noted', on_response => sub { $source{ $_[1]->header('X-Source') // '' }++ });
        return ($source{redis} // 0) == 2 * CLIENTS;
    }, what => 'Redis to decide again', within => 30);
}

sub recovered {
    my ($host) = @_;
    wait_for_redis($host);
    my $status = Status->of($host);
    is $status->{RedisBreakerOpen}, 0, 'the breaker is closed again';
    return $status;
}

1;
