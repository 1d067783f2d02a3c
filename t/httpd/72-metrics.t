#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
# The metrics for Prometheus are valid in both formats, have the numbers that clients count, never fall, and
# have no labels that a client can choose.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";

use Httpd;
use Metrics;
use Process;
use RedisServer;
use Status;
use Test::More;

my $redis  = RedisServer->start;
my $shared = "RateLimitRedis \@REDIS\@\nRateLimitRedisTimeout 10s connect=10s\n";
my $rules  = <<'EOT';
<Location /hello.txt>
    RateLimit one 100/1h
    RateLimit trial 30/1h shadow
</Location>
<Location /page.html>
    RateLimit two 30/1h sync=local key=header:X-Key|ip
    RateLimit two-ip 100000/1h sync=local
</Location>
EOT

sub host {
    my ($config, %opt) = @_;
    return Httpd->start(redis => $redis, modules => ['status'], %opt,
        config => "$config\n" . Metrics::CONFIG . Status::CONFIG);
}

my $requests = 'apache_ratelimit_requests_total';

my ($version) = qx{cat src/core/version.h} =~ /^#define RL_VERSION "(.*)"$/m;

subtest 'the metrics have the numbers that clients count' => sub {
    my $host = host($shared . $rules);
    is(Metrics->of($host)->value($requests), 0, 'all counters are 0 at the start');
    is(Metrics->of($host)->value('apache_ratelimit_build_info', version => $version), 1, 'the version is a label');
    is scalar($host->error_log_lines(qr{ mod_ratelimit_redis/\Q$version\E .*resuming normal operations})), 1,
        'the start-up notice shows it';
    is_deeply $host->flood(500)->{status}, { 200 => 100, 429 => 400 }, 'the quota of one is used up';
    is_deeply $host->flood(100, path => '/page.html')->{status}, { 200 => 30, 429 => 70 },
        'the quota of two is used up';
    my $metrics = Metrics->of($host);
    is $metrics->value($requests, rule => 'one', verdict => 'pass'), 100, 'requests that passed are counted';
    is $metrics->value($requests, rule => 'one', verdict => 'deny'), 400, 'requests that were denied are counted';
    is $metrics->value($requests, rule => 'two', verdict => 'deny', source => 'local'), 70,
        'with the source of the verdict';
    is $metrics->value($requests, rule => 'two-ip', verdict => 'veto'), 70,
        'requests that another rule denied are counted';
    cmp_ok $metrics->value($requests, rule => 'trial', verdict => 'shadow'), '>=', 70,
        'requests that a shadow rule would have denied are counted';
    my $answers = $metrics->value('apache_ratelimit_redis_answers_total');
    is $metrics->value($requests, rule => 'one', source => 'redis'), $answers,
        'the answers of Redis are those of its verdicts';
    is $metrics->value('apache_ratelimit_redis_duration_seconds_count'), $answers,
        'the histogram of waits has as many';
    cmp_ok $metrics->value('apache_ratelimit_redis_duration_seconds_sum'), '>', 0, 'their sum is above 0';
    is $metrics->value('apache_ratelimit_redis_errors_total'), 0, 'there were no errors';
    is $metrics->value('apache_ratelimit_breaker_state'), 0, 'the breaker is closed';
    cmp_ok $metrics->value('apache_ratelimit_local_entries'), '>=', 3, 'the table has entries';
    is(Metrics->of($host, open => 1)->value($_), $metrics->value($_), "$_ is the same in OpenMetrics")
        for $requests, 'apache_ratelimit_redis_answers_total', 'apache_ratelimit_local_entries';

    my $before = $metrics->series;
    $host->graceful;
    my $after = Metrics->of($host)->series;
    is_deeply [grep { ($after->{$_} // -1) < $before->{$_} } keys %$before], [],
        'no series falls or disappears over a graceful restart';
    is $host->flood(10)->{status}{429}, 10, 'more requests are denied';
    is(Metrics->of($host)->value($requests, rule => 'one', verdict => 'deny'), 410, 'and added to the others');
};

subtest 'units of leases are counted' => sub {
    my $host = host($shared . 'RateLimit leased 100000/10s sync=lease');
    is_deeply $host->flood(2000)->{status}, { 200 => 2000 }, 'all requests pass';
    my $metrics = Metrics->of($host);
    my ($debited, $spent, $lost) =
        map { $metrics->value('apache_ratelimit_lease_units_total', event => $_) } qw(debited spent lost);
    my $asked = $metrics->value($requests, rule => 'leased', verdict => 'pass', source => 'redis');
    cmp_ok $spent, '>', 1000, 'most requests spent a leased unit';
    is $spent + $asked, 2000, 'Redis decided the others';
    is $metrics->value($requests, rule => 'leased', verdict => 'pass', source => 'lease'), $spent,
        'the source of their verdicts is a lease';
    cmp_ok $debited, '>=', $spent + $lost, 'what is spent or lost was debited';
    cmp_ok $metrics->value('apache_ratelimit_lease_refills_total'), '>', 0, 'leases were refilled';
};

subtest 'both formats are valid' => sub {
    my $host = host($shared . $rules);
    $host->flood(200);
    my $plain = $host->get('/ratelimit-metrics');
    is $plain->header('Content-Type'), 'text/plain; version=0.0.4; charset=utf-8', 'text is the default';
    is $plain->header('Cache-Control'), 'no-store', 'the response must not be cached';
    my %accept = (
        Metrics::OPEN() => 1,
        'application/openmetrics-text' => 1,
        'application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,text/plain;q=0.5,*/*;q=0.2' => 1,
        'text/plain;version=0.0.4' => 0,
        'text/plain,application/openmetrics-text;q=0.9' => 0,
        'application/openmetrics-text;q=0' => 0,
        '*/*' => 0,
    );
    for my $accept (sort keys %accept) {
        my $type = $host->get('/ratelimit-metrics', headers => { Accept => $accept })->header('Content-Type');
        is $type =~ /openmetrics/ ? 1 : 0, $accept{$accept}, "Accept: $accept";
    }
    my $open = Metrics->of($host, open => 1);
    for my $family ($open->families) {
        my $is = $open->family($family);
        ok $is->{UNIT} || $is->{TYPE} eq 'gauge', "$family has a unit or is a gauge";
    }
    like $open->text, qr/_bucket\{le="0\.00005"\}.*_bucket\{le="1\.0"\}/s, 'buckets reach from 50 us to 1 s';
  SKIP: {
        skip 'promtool is not installed', 1 unless grep { -x "$_/promtool" } split /:/, $ENV{PATH};
        my $file = $host->file('metrics.txt', $plain->body);
        my $said = `promtool check metrics <$file 2>&1`;
        is "$?:$said", '0:', 'promtool has no complaint';
    }
};

subtest 'only GET and HEAD are allowed' => sub {
    my $host = host($shared . $rules);
    my $get  = $host->get('/ratelimit-metrics');
    my $head = $host->get('/ratelimit-metrics', method => 'HEAD');
    is $head->status, 200, 'HEAD is allowed';
    is $head->header('Content-Type'), $get->header('Content-Type'), 'with the headers of GET';
    is $head->body, '', 'without a body';
    for my $method (qw(POST PUT DELETE OPTIONS PATCH MADEUP)) {
        my $answer = $host->get('/ratelimit-metrics', method => $method);
        is $answer->status, 405, "$method is not allowed";
        like $answer->header('Allow') // '', qr/GET/, 'the response names GET as allowed';
    }
};

subtest 'clients cannot create series' => sub {
    my $host = host($shared . $rules);
    my $before = keys %{ Metrics->of($host)->series };
    $host->get("/page.html?$_", headers => { 'X-Key' => "key-$_", Host => "h$_.test" }, from => "127.0.1.$_")
        for 1 .. 50;
    my $metrics = Metrics->of($host);
    is scalar(keys %{ $metrics->series }), $before, 'fifty clients add no series';
    unlike $metrics->text, qr/key-\d|127\.0\.1\.|\.test/, 'no client is named';
};

subtest 'without Redis there are no metrics of Redis' => sub {
    my $host = host($rules);
    my $metrics = Metrics->of($host);
    is_deeply [grep { /redis|breaker/ } $metrics->families], [], 'no family is about Redis';
    ok $metrics->family('apache_ratelimit_local_entries'), 'those about memory are there';
};

subtest 'failures of Redis are counted' => sub {
    my $gone = RedisServer->start;
    my $host = Httpd->start(redis => $gone, modules => ['status'], config => Metrics::CONFIG
        . "RateLimitRedis \@REDIS\@\nRateLimitRedisTimeout 50ms\n$rules");
    $gone->kill9;
    is $host->flood(300)->{status}{429}, 200, 'this host counts alone';
    my $metrics = Metrics->of($host);
    is $metrics->value($requests, rule => 'one', source => 'fallback'), 300, 'all requests are counted as fallback';
    cmp_ok $metrics->value('apache_ratelimit_redis_errors_total'), '>=', 200, 'errors are counted';
    Process::wait_until(sub { $host->flood(5, from => '127.0.0.5');
        Metrics->of($host)->value('apache_ratelimit_breaker_state') == 1 }, what => 'the breaker to open');
    cmp_ok(Metrics->of($host)->value('apache_ratelimit_breaker_opens_total'), '>=', 1,
        'the opening of the breaker is counted');
};

subtest 'error replies of Redis are counted and explained' => sub {
    my $full = RedisServer->start(conf => ['maxmemory 1', 'maxmemory-policy noeviction']);
    my $host = Httpd->start(redis => $full, modules => ['status'], config => Metrics::CONFIG
        . Status::CONFIG . "RateLimitRedis \@REDIS\@\nRateLimitRedisTimeout 1s\n$rules");
    $host->flood(5);
    my $metrics = Metrics->of($host);
    cmp_ok $metrics->value('apache_ratelimit_redis_error_replies_total', error => 'oom'), '>', 0,
        'they are counted by kind';
    my $page = $host->get('/server-status')->body;
    like $page, qr/<td title="Error">oom</, 'the status page shows the kind';
    like $page, qr/memory is full: raise maxmemory/, 'and what to do';
    like $page, qr/class="bad"><b>Redis at 127\.0\.0\.1:\d+ is not asked/, 'and that Redis is not asked';
};

done_testing;
