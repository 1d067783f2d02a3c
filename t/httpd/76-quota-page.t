#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
# The quota page shows a client its own quotas as its next request would find them, for every algorithm, with
# Redis and without. Reading it costs nothing.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";

use Client;
use Httpd;
use JSON::PP ();
use RedisServer;
use Status;
use Test::More;
use Time::HiRes qw(sleep time);

my $redis  = RedisServer->start;
my $shared = "RateLimitRedis \@REDIS\@\nRateLimitRedisTimeout 10s connect=10s\n";

sub host {
    my ($config, %opt) = @_;
    return Httpd->start(redis => $redis, modules => ['status'], %opt,
        config => "$config\n" . Status::CONFIG);
}

my $page = <<'EOT';
Alias /api/x @DOCROOT@/hello.txt
<Location /api/>
    RateLimit window 10/1h
    RateLimit fixed 20/1h algorithm=fixed-window key=header:X-Key|ip
    RateLimit bucket 30/1h algorithm=token-bucket burst=5
    RateLimit hidden 40/1h headers=off
    RateLimit trial 1/1h shadow
</Location>
<Location /api/quota>
    SetHandler ratelimit-quota
</Location>
EOT

# The quotas by the names of their rules.
sub quotas {
    my ($host, @opt) = @_;
    my $answer = $host->get('/api/quota', @opt);
    die 'the page answers ' . $answer->status . "\n" unless $answer->status == 200;
    return { map { $_->{rule} => $_ } @{ JSON::PP->new->utf8->decode($answer->body)->{quotas} } };
}

for my $redis_or_not ('with Redis', 'alone') {
    subtest "the page shows what is left ($redis_or_not)" => sub {
        my $host = host(($redis_or_not eq 'alone' ? '' : $shared) . $page);
        my @from = (from => $redis_or_not eq 'alone' ? '127.0.0.2' : '127.0.0.3');
        my $all = quotas($host, @from);
        is_deeply [sort keys %$all], [qw(bucket fixed window)],
            'it shows all rules except shadow rules and those with headers=off';
        is_deeply { map { $_ => $all->{$_}{remaining} } keys %$all }, { window => 10, fixed => 20, bucket => 5 },
            'everything is left at the start';
        is_deeply { map { $_ => $all->{$_}{limit} } keys %$all }, { window => 10, fixed => 20, bucket => 30 },
            'limit is the quota';
        is_deeply { map { $_ => $all->{$_}{capacity} } keys %$all }, { window => 10, fixed => 20, bucket => 5 },
            'capacity is the quota or the burst';
        quotas($host, @from) for 1 .. 50;
        is quotas($host, @from)->{window}{remaining}, 10, 'reading the page fifty times costs nothing';
        is $host->get('/api/x', @from, headers => { 'X-Key' => 'a' })->status, 200, 'a request passes' for 1 .. 3;
        $all = quotas($host, @from, headers => { 'X-Key' => 'a' });
        is_deeply { map { $_ => $all->{$_}{remaining} } keys %$all }, { window => 7, fixed => 17, bucket => 2 },
            'three requests cost three units of each rule';
        is $all->{window}{used}, 3, 'used is what they cost';
        is quotas($host, @from, headers => { 'X-Key' => 'b' })->{fixed}{remaining}, 20,
            'another key has its own quota';
        is $all->{window}{retry_after_ms}, 0, 'retry_after_ms is 0 as long as something is left';
        cmp_ok $all->{window}{reset_ms}, '>', 0, 'reset_ms is the time until the whole quota is back';
        my $next = $host->get('/api/x', @from);
        is $next->header('X-RateLimit-Remaining'), 1, 'the next request finds these numbers';
        $host->get('/api/x', @from) for 1 .. 3;
        my $denied = $host->get('/api/x', @from);
        is $denied->status, 429, 'a client that has used up a quota is denied';
        my $bucket = quotas($host, @from)->{bucket};
        is $bucket->{remaining}, 0, 'it can still read the page';
        is int(($bucket->{retry_after_ms} + 999) / 1000), $denied->header('Retry-After'),
            'retry_after_ms is Retry-After';
        is_deeply [grep { /X-RateLimit/ } map { $_->[0] } @{ $host->get('/api/quota', @from)->headers }], [],
            'the page has no X-RateLimit headers';
    };
}

subtest 'another host shows the same' => sub {
    my ($one, $two) = map { host($shared . $page) } 1 .. 2;
    $one->get('/api/x', from => '127.0.0.9') for 1 .. 2;
    is quotas($two, from => '127.0.0.9')->{window}{remaining}, 8, 'the count is that of both hosts';
    is quotas($two, from => '127.0.0.9')->{window}{source}, 'redis', 'the source is Redis';
    my $status = Status->of($two);
    is $status->{Requests}, 0, 'reading the page does not count as a request under a rule';
};

subtest 'the page is JSON for GET and HEAD' => sub {
    my $host = host($page);
    my $answer = $host->get('/api/quota');
    is $answer->header('Content-Type'), 'application/json', 'the content type is JSON';
    is $answer->header('Cache-Control'), 'no-store', 'the page must not be cached';
    is $host->get('/api/quota', method => 'HEAD')->status, 200, 'HEAD is allowed';
    is $host->get('/api/quota', method => $_)->status, 405, "$_ is not allowed" for qw(POST DELETE);
    my $free = host("<Location /quota>\nSetHandler ratelimit-quota\n</Location>");
    is $free->get('/quota')->body, "{\"quotas\":[]}\n", 'without rules the list is empty';
    is $host->get('/api/x')->header('X-RateLimit-Remaining'), 4, 'other pages are limited';
};

subtest 'unlimited and unknown quotas are shown as such' => sub {
    my $gone = RedisServer->start;
    my $host = Httpd->start(redis => $gone, config => <<'EOT');
RateLimitRedis @REDIS@
RateLimitRedisTimeout 50ms
RateLimit free 10/1h tier=%{HTTP:X-Tier}
RateLimitTier free gold unlimited
RateLimit open 10/1h on-failure=open
RateLimit never 0/1h
RateLimit all-ip 1000/1h
<Location /quota>
    SetHandler ratelimit-quota
</Location>
EOT
    my $read = sub { +{ map { $_->{rule} => $_ } @{ JSON::PP->new->decode($host->get('/quota',
        headers => { 'X-Tier' => 'gold' })->body)->{quotas} } } };
    my $all = $read->();
    ok $all->{free}{unlimited}, 'an unlimited tier is shown as unlimited';
    is $all->{free}{limit}, undef, 'without a limit';
    is $all->{never}{retry_after_ms}, undef, 'a quota of 0 has no wait';
    $gone->kill9;
    $all = $read->();
    is $all->{open}{remaining}, undef, 'without Redis nothing is known about a rule with on-failure=open';
    is $all->{'all-ip'}{source}, 'fallback', 'a rule that this host counts is shown as fallback';
};

done_testing;
