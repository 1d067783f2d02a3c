#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
# mpm-itk forks a process for each connection, long after httpd has started its
# children. Such a process must not speak over a connection to Redis that others
# hold too: it makes its own, so that limits are as exact as under any other MPM,
# survive a restart of Redis, and nobody gets a reply that is for someone else.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";

use Client;
use FakeRedis;
use Httpd;
use Process;
use RedisServer;
use Status;
use Test::More;
use Time::HiRes qw(sleep time);

my $itk = Httpd::_libexecdir() . '/mpm_itk.so';
plan skip_all => 'it takes root to start mpm-itk' if $> != 0;
plan skip_all => 'mpm-itk is not installed (libapache2-mpm-itk)' if !-e $itk;

use constant QUOTA => 20;

sub host {
    my ($url, %opt) = @_;
    my $timeout = $opt{timeout} // '2s';
    return Httpd->start(mpm => 'prefork', modules => [qw(status headers)], %opt,
        children => $opt{children} // 4, vars => { URL => $url, ITK => $itk, QUOTA => QUOTA },
        config => <<"EOT" . Status::CONFIG);
LoadModule mpm_itk_module \@ITK\@
AssignUserID www-data www-data
RateLimitRedis \@URL\@
RateLimitRedisTimeout $timeout connect=1s
RateLimitNotes all
<Location /hello.txt>
    RateLimit one \@QUOTA\@/1h
    Header always set X-Source %{RATELIMIT_SOURCE}e
</Location>
EOT
}

# How many connections Redis has, beside the one that asks.
sub connections {
    my ($redis) = @_;
    my @lines = split /\n/, $redis->cmd(qw(CLIENT LIST));
    return @lines - 1;
}

subtest 'many connections at once share one exact limit' => sub {
    my $redis = RedisServer->start;
    my $host = host($redis->url);
    my %source;
    my $sum = Client->flood(targets => [$host->port], connections => 8, requests => 200,
        path => '/hello.txt', on_response => sub { $source{ $_[1]->header('X-Source') // '' }++ });
    is_deeply $sum->{status}, { 200 => QUOTA, 429 => 200 - QUOTA }, 'the quota passes, no more';
    is $source{fallback} // 0, 0, 'and Redis alone has decided';
    my $kept = Client->new(port => $host->port, from => '127.0.0.2');
    is $kept->request(path => '/hello.txt')->header('X-Source'), 'redis',
        'it decides each request of a connection' for 1 .. 3;
    cmp_ok connections($redis), '<=', 1, 'only a process that serves somebody is connected';
    $kept->disconnect;
    Process::wait_until(sub { connections($redis) == 0 }, what => 'its connection to end with it');
    pass 'and no longer than it does';
};

subtest 'Redis is used again after it was restarted' => sub {
    my $redis = RedisServer->start;
    my $host = host($redis->url);
    is $host->get('/hello.txt')->header('X-Source'), 'redis', 'Redis decides' for 1 .. 4;
    my $kept = Client->new(port => $host->port, from => '127.0.0.2');
    is $kept->request(path => '/hello.txt')->header('X-Source'), 'redis', 'a client has a connection';
    $redis->restart;
    Process::wait_until(sub { $kept->request(path => '/hello.txt')->header('X-Source') eq 'redis' },
        what => 'Redis to decide again for a connection that was there before');
    is $host->get('/hello.txt', from => '127.0.0.3')->header('X-Source'), 'redis',
        'and for new ones' for 1 .. 8;
    $kept->disconnect;    # httpd would wait for it when it ends
    is scalar($host->crashes), 0, 'no process was lost';
};

# One that is asked for 127.0.0.2 answers after the request's deadline that nothing is left, others
# at once that there is.
sub slow_for_one {
    my ($conn) = @_;
    while (my $words = $conn->command) {
        my ($name) = map { uc } @$words;
        if    ($name eq 'SCRIPT')      { $conn->send('$40' . "\r\n" . 'a' x 40 . "\r\n") }
        elsif ($name !~ /^EVALSHA/)    { $conn->send("+OK\r\n") }
        elsif ("@$words" =~ /0\.0\.2/) { sleep 3; $conn->send(reply(0, 1000)) }
        else                           { $conn->send(reply(1, 5)) }
    }
}

# As decide.lua answers one ask: whether all was charged, the time, and the counts of the windows.
sub reply {
    my ($charged, $cur) = @_;
    my $now = int(time * 1000);
    my $text = $charged . pack 'V v V V', $now & 0xffffffff, int($now / 2**32), 0, $cur;
    return '$' . length($text) . "\r\n$text\r\n";
}

subtest 'a late reply is never taken for that of another client' => sub {
    my $fake = FakeRedis->start(\&slow_for_one);
    my $host = host($fake->url, timeout => '1s', children => 1);
    my $late = Client->new(port => $host->port, from => '127.0.0.2');
    is $late->request(path => '/hello.txt')->header('X-Source'), 'fallback', 'one reply is late';
    $late->disconnect;    # httpd's one process is free again
    my @next = map { $host->get('/hello.txt', from => '127.0.0.3') } 1 .. 10;
    is_deeply [map { $_->status } @next], [(200) x 10], 'the next clients pass';
    my $commands = grep { /^EVALSHA.*127\.0\.0\.3/ } $fake->commands;
    is $commands, 10, 'each by a call of its own';
};

done_testing;
