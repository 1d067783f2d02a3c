#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
# What the runbook in OPERATING.md tells an operator to type works: let a client in again, find it
# by its key, raise its limit, ban it. The lines of the error log that it explains exist.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";

use Client;
use Digest::SHA qw(sha256_hex);
use Documents;
use Examples;
use Httpd;
use Process;
use RedisServer;
use Test::More;
use Time::HiRes qw(sleep time);

my $page = Documents->read('conf/OPERATING.md')->section('Runbook');

my $redis = RedisServer->start;
my $host  = Httpd->start(redis => $redis, config => <<'EOT');
RateLimitRedis @REDIS@
RateLimitRedisTimeout 10s connect=10s
RateLimitOverrides on
RateLimit login 10/1m
RateLimit day 1000000/1d key=header:X-Api-Key|ip
EOT

# Runs a line of the page as a shell would, against this Redis and about this client.
sub run_line {
    my ($pattern, %as) = @_;
    my ($line) = grep { /$pattern/ } map { split /\n/ } $page =~ /^```sh\n(.*?)^```$/msg;
    die "the page has no line like $pattern\n" unless $line;
    $line =~ s/redis-cli/redis-cli -p @{[$redis->port]}/g;
    $line =~ s/203\.0\.113\.7/$as{client}/g if $as{client};
    $line =~ s/THE-KEY/$as{key}/g if $as{key};
    my $said = `$line 2>&1`;
    is $?, 0, $line;
    return $said;
}

# How many of n requests pass.
sub passes {
    my ($n, @opt) = @_;
    return scalar grep { $host->get('/hello.txt', @opt)->status == 200 } 1 .. $n;
}

# What an operator types acts within about a second.
sub soon {
    my ($what, $condition) = @_;
    ok eval { Process::wait_until($condition, within => 10, what => $what); 1 }, $what;
}

plan skip_all => 'no redis-cli' unless grep { -x "$_/redis-cli" } split /:/, $ENV{PATH};

subtest 'let one in again' => sub {
    my @me = (from => '127.0.0.7');
    is passes(11, @me), 10, 'ten pass';
    like run_line(qr/--scan/, client => '127.0.0.7'), qr/^rl:\{ip:127\.0\.0\.7\}:login:sliding-window:1m$/m,
        'its counters are found';
    run_line(qr/ DEL /, client => '127.0.0.7');
    soon('it is let in again', sub { passes(1, @me) });
};

subtest 'raise one, ban one, and take it back' => sub {
    my @me = (from => '127.0.0.8');
    run_line(qr/HSET .* login 100/, client => '127.0.0.8');
    is passes(60, @me), 60, 'sixty pass where ten would';
    is passes(11, from => '127.0.0.9'), 10, 'of others ten';
    run_line(qr/HSET .* login 0\b/, client => '127.0.0.8');
    soon('a ban acts', sub { !passes(1, @me) });
    is passes(20, @me), 0, 'on each request';
    run_line(qr/HDEL .* login/, client => '127.0.0.8');
    run_line(qr/ DEL 'rl:\{ip/, client => '127.0.0.8');
    soon('a ban is lifted', sub { passes(1, @me) });
};

subtest 'find one by its key' => sub {
    $host->get('/hello.txt', headers => { 'X-Api-Key' => 'a b' }, from => '127.0.0.10');
    my $digest = run_line(qr/sha256sum/, key => 'a b');
    chomp $digest;
    $digest =~ s/.*\n//s;
    is $digest, substr(sha256_hex('header:x-api-key:a b'), 0, 32), 'the digest of a key';
    is $redis->cmd('EXISTS', "rl:{$digest}:day:sliding-window:1d"), 1, 'is its name in Redis';
};

subtest 'what the log lines mean' => sub {
    my %source = map { $_ => Examples::slurp($_) }
        map { glob "$Documents::ROOT/$_" } qw(*.c src/*.c src/*/*.c);
    (my $all = join "\n", values %source) =~ s/(?<!\\)"\s*"//g;    # as the compiler joins strings
    $all =~ s/\\"/"/g;
    my @said = $page =~ /^\| `([^`]+)` \|/mg;
    ok @said >= 6, scalar(@said) . ' lines are explained';
    for my $said (@said) {
        # what varies stands as ... there; what is between must be in a message of ours
        my @parts = grep { length > 3 } split /\s*…\s*/, $said;
        is_deeply [grep { index($all, $_) < 0 } @parts], [], $said;
    }
};

done_testing;
