#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
# A client's own quotas: as its next request would find them, by all algorithms, without being
# charged for the look, with Redis and without.

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
    subtest "what is left ($redis_or_not)" => sub {
        my $host = host(($redis_or_not eq 'alone' ? '' : $shared) . $page);
        my @from = (from => $redis_or_not eq 'alone' ? '127.0.0.2' : '127.0.0.3');
        my $all = quotas($host, @from);
        is_deeply [sort keys %$all], [qw(bucket fixed window)], 'rules that may show, and no others';
        is_deeply { map { $_ => $all->{$_}{remaining} } keys %$all }, { window => 10, fixed => 20, bucket => 5 },
            'at first everything is left';
        is_deeply { map { $_ => $all->{$_}{limit} } keys %$all }, { window => 10, fixed => 20, bucket => 30 },
            'of the quota';
        is_deeply { map { $_ => $all->{$_}{capacity} } keys %$all }, { window => 10, fixed => 20, bucket => 5 },
            'of what may come at once';
        quotas($host, @from) for 1 .. 50;
        is quotas($host, @from)->{window}{remaining}, 10, 'fifty looks cost nothing';
        is $host->get('/api/x', @from, headers => { 'X-Key' => 'a' })->status, 200, 'a request' for 1 .. 3;
        $all = quotas($host, @from, headers => { 'X-Key' => 'a' });
        is_deeply { map { $_ => $all->{$_}{remaining} } keys %$all }, { window => 7, fixed => 17, bucket => 2 },
            'costs';
        is $all->{window}{used}, 3, 'what it costs';
        is quotas($host, @from, headers => { 'X-Key' => 'b' })->{fixed}{remaining}, 20,
            'another key has its own quota';
        is $all->{window}{retry_after_ms}, 0, 'nobody has to wait';
        cmp_ok $all->{window}{reset_ms}, '>', 0, 'for the whole quota one has';
        my $next = $host->get('/api/x', @from);
        is $next->header('X-RateLimit-Remaining'), 1, 'the next request finds it so';
        $host->get('/api/x', @from) for 1 .. 3;
        my $denied = $host->get('/api/x', @from);
        is $denied->status, 429, 'who has used it up';
        my $bucket = quotas($host, @from)->{bucket};
        is $bucket->{remaining}, 0, 'can still look';
        is int(($bucket->{retry_after_ms} + 999) / 1000), $denied->header('Retry-After'), 'how long it takes';
        is_deeply [grep { /X-RateLimit/ } map { $_->[0] } @{ $host->get('/api/quota', @from)->headers }], [],
            'a look has no headers of limits';
    };
}

subtest 'another host sees the same' => sub {
    my ($one, $two) = map { host($shared . $page) } 1 .. 2;
    $one->get('/api/x', from => '127.0.0.9') for 1 .. 2;
    is quotas($two, from => '127.0.0.9')->{window}{remaining}, 8, 'by Redis';
    is quotas($two, from => '127.0.0.9')->{window}{source}, 'redis', 'which is asked';
    my $status = Status->of($two);
    is $status->{Requests}, 0, 'looks are no requests under a rule';
};

subtest 'the page' => sub {
    my $host = host($page);
    my $answer = $host->get('/api/quota');
    is $answer->header('Content-Type'), 'application/json', 'is JSON';
    is $answer->header('Cache-Control'), 'no-store', 'of now';
    is $host->get('/api/quota', method => 'HEAD')->status, 200, 'answers HEAD';
    is $host->get('/api/quota', method => $_)->status, 405, "not $_" for qw(POST DELETE);
    my $free = host("<Location /quota>\nSetHandler ratelimit-quota\n</Location>");
    is $free->get('/quota')->body, "{\"quotas\":[]}\n", 'has nothing where there is no rule';
    is $host->get('/api/x')->header('X-RateLimit-Remaining'), 4, 'and what is beside it is limited';
};

subtest 'what is not limited, and what is not known' => sub {
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
    ok $all->{free}{unlimited}, 'a tier without a limit says so';
    is $all->{free}{limit}, undef, 'and has none';
    is $all->{never}{retry_after_ms}, undef, 'for a quota of 0 no waiting helps';
    $gone->kill9;
    $all = $read->();
    is $all->{open}{remaining}, undef, 'what only Redis knows is not known without it';
    is $all->{'all-ip'}{source}, 'fallback', 'what this host counts is';
};

done_testing;
