#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
# A Redis that refuses a command that only some decisions need opens the breaker once, and the breaker stays
# open, because a probe uses everything that decisions use. The log names the cause, without control bytes
# and without data of clients.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";

use FakeRedis;
use Fallback;
use Pulse;
use RedisServer;
use Status;
use Test::More;
use Time::HiRes qw(sleep time);

use constant WATCHED_S => 3;

# Nothing hangs here: a busy machine gets the time that it needs.
sub rule {
    my ($more) = @_;
    return "RateLimitRedisTimeout 10s connect=10s\n<Location />\nRateLimit one 20/1h $more\n</Location>\n";
}

# Sends requests until the breaker is open and some seconds longer: it must stay open, logged once, with the
# reason. Under prefork it is out of date when nothing has probed for a second, and then requests ask Redis:
# where the machine stood still for half of that, they are watched once more.
sub breaker_stays_open {
    my ($host, $says) = @_;
    my ($before, $after, @opened, $pulse);
    for (1 .. 5) {
        $pulse = Pulse->start;
        Status->wait_for_breaker($host, sub { Fallback::load($host, 64, from => '127.0.0.2') });
        Fallback::wait_until_reported($host);
        $before = { answered => Status->of($host)->{RedisAnswered}, opened => scalar(opened($host)) };
        my $until = time + WATCHED_S;
        while (time < $until) {
            Fallback::no_error(Fallback::load($host, 64, from => '127.0.0.3'), 64);
            sleep 0.1;
        }
        @opened = opened($host);
        $after  = { answered => Status->of($host)->{RedisAnswered}, opened => scalar(@opened) };
        last if $pulse->late_ms < 500;
    }
    is_deeply $after, $before, 'Redis decides no request meanwhile, and the breaker does not open again'
        or diag $pulse->late_ms . " ms late\n", grep { !/denied/ } $host->error_log;
    like $opened[-1], $says, 'the log has the reason';
}

sub opened { my ($host) = @_; return $host->error_log_lines(qr/breaker open/) }

my @forbidden = (
    ['SET',    '-set',    'algorithm=sliding-window'],
    ['PSETEX', '-psetex', 'algorithm=token-bucket'],
    ['APPEND', '-append', 'algorithm=sliding-log'],
    ['PSETEX', '-psetex', 'block=1m'],
);
for my $case (@forbidden) {
    my ($command, $forbid, $options) = @$case;
    for my $mpm (qw(event prefork)) {
        subtest "a user without $command and a rule with $options ($mpm)" => sub {
            my $redis = RedisServer->start;
            my $host = Fallback::host(redis => $redis, mpm => $mpm, config => rule($options));
            Fallback::wait_for_redis($host);
            Fallback::load($host, 64, from => '127.0.0.4', path => '/hello.txt');
            $redis->cmd('ACL', 'SETUSER', 'default', $forbid);
            breaker_stays_open($host, qr/its user may not run what is needed/);
            $redis->cmd('ACL', 'SETUSER', 'default', $forbid =~ s/-/+/r);
            Fallback::recovered($host);
        };
    }
}

subtest 'commands that no rule needs can be forbidden' => sub {
    my $redis = RedisServer->start;
    $redis->cmd(qw(ACL SETUSER default -append -setrange -getrange -strlen -pexpire));
    my $host = Fallback::host(redis => $redis, config => rule(''));
    Fallback::wait_for_redis($host);
    $redis->kill9;
    Status->wait_for_breaker($host, sub { Fallback::load($host, 64) });
    $redis->restart;
    $redis->cmd(qw(ACL SETUSER default -append -setrange -getrange -strlen -pexpire));
    Fallback::recovered($host);
};

subtest 'EVALSHA is disabled' => sub {
    my $redis = RedisServer->start(conf => ['rename-command EVALSHA ""']);
    my $host = Fallback::host(redis => $redis, config => rule(''));
    breaker_stays_open($host, qr/does not know a command that is needed/);
};

# A Redis that completes the handshake and refuses decisions with an error.
sub refuses {
    my ($text) = @_;
    return FakeRedis->start(FakeRedis::after_handshake(sub { $_[0]->send("-$text\r\n") }));
}

subtest 'Redis 5 is recognized during the handshake' => sub {
    my $fake = FakeRedis->start(sub {
        my ($conn) = @_;
        while (my $words = $conn->command) {
            my $known = $words->[0] ne 'HELLO';
            $conn->send($known ? FakeRedis::WELCOME
                : "-ERR unknown command `HELLO`, with args beginning with: `2`, \r\n") or return;
        }
    });
    my $host = Fallback::host(url => $fake->url, config => rule(''));
    breaker_stays_open($host, qr/does not know HELLO: Redis 6\.0 or later is needed/);
    is scalar(grep { /^EVALSHA/ } $fake->commands), 0, 'it gets no call';
};

subtest 'SET does not know KEEPTTL' => sub {
    my $fake = refuses('ERR Error running script (call to f_6e81): @user_script:91: '
        . '@user_script: 91: ERR syntax error');
    my $host = Fallback::host(url => $fake->url, config => rule(''));
    breaker_stays_open($host, qr/Redis 6\.0 or later is needed/);
};

subtest 'an unknown error' => sub {
    my $fake = refuses("ERR no %s%n today\e[31m, with args beginning with: 'SECRET'");
    my $host = Fallback::host(url => $fake->url, config => rule(''));
    breaker_stays_open($host, qr/refuses what it is asked/);
    my @lines = $host->error_log_lines(qr/refuses what it is asked: ERR no/);
    like $lines[0], qr/: ERR no %s%n today\?\[31m$/, 'its text is logged with control bytes replaced';
    cmp_ok scalar(@lines), '<=', 2 * 4, 'but not every time';
    unlike $host->error_log, qr/SECRET/, 'and without the arguments of the call';
};

done_testing;
