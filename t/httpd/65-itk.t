#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
# mpm-itk forks a process for each connection, long after httpd has started its children. Such a process must
# not use a connection to Redis that it has inherited. It opens its own, so limits are as exact as under
# other MPMs and survive a restart of Redis, and no request gets the reply for another one.

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
plan skip_all => 'only root can start mpm-itk' if $> != 0;
plan skip_all => 'mpm-itk is not installed (libapache2-mpm-itk)' if !-e $itk;

use constant QUOTA => 20;

sub host {
    my ($url, %opt) = @_;
    my $timeout = $opt{timeout} // '10s';
    return Httpd->start(mpm => 'prefork', modules => [qw(status headers)], %opt,
        children => $opt{children} // 4, vars => { URL => $url, ITK => $itk, QUOTA => QUOTA },
        config => <<"EOT" . Status::CONFIG);
LoadModule mpm_itk_module \@ITK\@
AssignUserID www-data www-data
RateLimitRedis \@URL\@
RateLimitRedisTimeout $timeout connect=10s
RateLimitNotes all
<Location /hello.txt>
    RateLimit one \@QUOTA\@/1h
    Header always set X-Source %{RATELIMIT_SOURCE}e
</Location>
EOT
}

# The number of connections to Redis, except that of the test.
sub connections {
    my ($redis) = @_;
    my @lines = split /\n/, $redis->cmd(qw(CLIENT LIST));
    return @lines - 1;
}

subtest 'concurrent connections share one exact limit' => sub {
    my $redis = RedisServer->start;
    my $host = host($redis->url);
    my %source;
    my $sum = Client->flood(targets => [$host->port], connections => 8, requests => 200,
        path => '/hello.txt', on_response => sub { $source{ $_[1]->header('X-Source') // '' }++ });
    is_deeply $sum->{status}, { 200 => QUOTA, 429 => 200 - QUOTA }, 'exactly the quota passes';
    is $source{fallback} // 0, 0, 'Redis has decided every request';
    my $kept = Client->new(port => $host->port, from => '127.0.0.2');
    is $kept->request(path => '/hello.txt')->header('X-Source'), 'redis',
        'Redis decides each request of a kept connection' for 1 .. 3;
    cmp_ok connections($redis), '<=', 1, 'only a process that serves a client is connected to Redis';
    $kept->disconnect;
    Process::wait_until(sub { connections($redis) == 0 }, what => 'its connection to end with it');
    pass 'the connection to Redis ends with that of the client';
};

subtest 'Redis is used again after it was restarted' => sub {
    my $redis = RedisServer->start;
    my $host = host($redis->url);
    is $host->get('/hello.txt')->header('X-Source'), 'redis', 'Redis decides' for 1 .. 4;
    my $kept = Client->new(port => $host->port, from => '127.0.0.2');
    is $kept->request(path => '/hello.txt')->header('X-Source'), 'redis', 'a client keeps its connection';
    $redis->restart;
    Process::wait_until(sub { $kept->request(path => '/hello.txt')->header('X-Source') eq 'redis' },
        what => 'Redis to decide again for the kept connection');
    is $host->get('/hello.txt', from => '127.0.0.3')->header('X-Source'), 'redis',
        'Redis decides for new connections' for 1 .. 8;
    $kept->disconnect;    # otherwise httpd would wait for it when it stops
    is scalar($host->crashes), 0, 'no process has crashed';
};

# A Redis that denies 127.0.0.2, after the deadline of the request, and admits other clients at once.
my $slow_for_one = FakeRedis::after_handshake(sub {
    my ($conn, $words) = @_;
    return $conn->send(FakeRedis::verdict(1, 5)) unless "@$words" =~ /127\.0\.0\.2/;
    sleep 12;
    return $conn->send(FakeRedis::verdict(0, 1000));
});

subtest 'a late reply is never used for another client' => sub {
    my $fake = FakeRedis->start($slow_for_one);
    my $host = host($fake->url, timeout => '4s', children => 1);
    my $late = Client->new(port => $host->port, from => '127.0.0.2');
    is $late->request(path => '/hello.txt')->header('X-Source'), 'fallback', 'the reply for a client is late';
    $late->disconnect;    # the only process of httpd is free again
    my @next = map { $host->get('/hello.txt', from => '127.0.0.3') } 1 .. 10;
    is_deeply [map { $_->status } @next], [(200) x 10], 'the next clients pass';
    is_deeply [map { $_->header('X-Source') } @next], [('redis') x 10], 'by a decision of Redis';
    my $commands = grep { /^EVALSHA.*127\.0\.0\.3/ } $fake->commands;
    is $commands, 10, 'Redis was called once for each';
};

done_testing;
