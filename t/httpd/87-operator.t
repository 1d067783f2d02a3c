#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
# The commands in the runbook of OPERATING.md work: let a client in again, find it by its key, raise its
# limit, ban it. The lines of the error log that it explains exist.

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

# Runs a command of the page in a shell, with this Redis and a client of the test.
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

# The number of n requests that pass.
sub passes {
    my ($n, @opt) = @_;
    return scalar grep { $host->get('/hello.txt', @opt)->status == 200 } 1 .. $n;
}

# A command takes effect within about a second.
sub soon {
    my ($what, $condition) = @_;
    ok eval { Process::wait_until($condition, within => 10, what => $what); 1 }, $what;
}

plan skip_all => 'redis-cli is not installed' unless grep { -x "$_/redis-cli" } split /:/, $ENV{PATH};

subtest 'an operator lets a client in again' => sub {
    my @me = (from => '127.0.0.7');
    is passes(11, @me), 10, 'ten of eleven requests pass';
    like run_line(qr/--scan/, client => '127.0.0.7'), qr/^rl:\{ip:127\.0\.0\.7\}:login:sliding-window:1m$/m,
        'the scan finds the counter of the client';
    run_line(qr/ DEL /, client => '127.0.0.7');
    soon('the client is admitted again', sub { passes(1, @me) });
};

subtest 'an operator raises a limit, bans a client and lifts the ban' => sub {
    my @me = (from => '127.0.0.8');
    run_line(qr/HSET .* login 100/, client => '127.0.0.8');
    is passes(60, @me), 60, 'sixty requests pass instead of ten';
    is passes(11, from => '127.0.0.9'), 10, 'another client has ten';
    run_line(qr/HSET .* login 0\b/, client => '127.0.0.8');
    soon('a ban takes effect', sub { !passes(1, @me) });
    is passes(20, @me), 0, 'on every request';
    run_line(qr/HDEL .* login/, client => '127.0.0.8');
    run_line(qr/ DEL 'rl:\{ip/, client => '127.0.0.8');
    soon('a ban is lifted', sub { passes(1, @me) });
};

subtest 'an operator finds a client by its key' => sub {
    $host->get('/hello.txt', headers => { 'X-Api-Key' => 'a b' }, from => '127.0.0.10');
    my $digest = run_line(qr/sha256sum/, key => 'a b');
    chomp $digest;
    $digest =~ s/.*\n//s;
    is $digest, substr(sha256_hex('header:x-api-key:a b'), 0, 32), 'the command prints the digest of the key';
    is $redis->cmd('EXISTS', "rl:{$digest}:day:sliding-window:1d"), 1, 'which is its name in Redis';
};

subtest 'the log lines that are explained exist' => sub {
    my %source = map { $_ => Examples::slurp($_) }
        map { glob "$Documents::ROOT/$_" } qw(*.c src/*.c src/*/*.c);
    (my $all = join "\n", values %source) =~ s/(?<!\\)"\s*"//g;    # as the compiler joins strings
    $all =~ s/\\"/"/g;
    my @said = $page =~ /^\| `([^`]+)` \|/mg;
    ok @said >= 6, scalar(@said) . ' lines are explained';
    for my $said (@said) {
        # … stands for parts that vary; the parts between must be in a message of the module
        my @parts = grep { length > 3 } split /\s*…\s*/, $said;
        is_deeply [grep { index($all, $_) < 0 } @parts], [], $said;
    }
};

done_testing;
