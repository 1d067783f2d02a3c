#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
# A Redis Cluster has lost one primary that has no replica. Rules whose counts are on the other primaries are
# still decided by Redis, for all hosts together; only rules of the lost slots fall back. Rules of both kinds
# are still charged together or not at all.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";

use Httpd;
use Process;
use RedisCluster;
use Status;
use Test::More;

my $cluster = RedisCluster->start(replicas => 0,
    conf => ['cluster-require-full-coverage no']);
my $dead = $cluster->owner($cluster->slot('{server}'));

my @hosts = map {
    Httpd->start(modules => [qw(status headers remoteip)], vars => { URL => $cluster->url },
        config => Status::CONFIG . <<'EOT') } 1, 2;
RateLimitRedis @URL@
RateLimitRedisTimeout 10s connect=10s
RemoteIPHeader X-Client
RemoteIPInternalProxy 127.0.0.1
RateLimit own 4/1h algorithm=fixed-window
<Location /hello.txt>
    RateLimit all 1000/1h algorithm=fixed-window key=server
</Location>
<Location /page.html>
    RateLimit few 2/1h algorithm=fixed-window key=server
</Location>
<Location /index.html>
    RateLimit none 1000/1h algorithm=fixed-window key=server on-failure=closed
</Location>
EOT

# An address whose counts are on a running primary.
my $last = 0;
sub client {
    my $address;
    do { $address = '10.0.0.' . ++$last } while $cluster->primary_of("{ip:$address}") == $dead;
    return $address;
}

sub get {
    my ($host, $path, $client) = @_;
    return $hosts[$host]->get($path, headers => { 'X-Client' => $client })->status;
}

sub counted {
    my ($client) = @_;
    my $key = "rl:{ip:$client}:own:fixed-window:1h";
    return RedisServer::units($cluster->cmd_at($key, 'GET', $key));
}

# Waits for a count, because a give-back may reach Redis after the client has its response.
sub is_counted {
    my ($client, $count, $what) = @_;
    eval { Process::wait_until(sub { counted($client) == $count }, what => 'the give-back') };
    is counted($client), $count, $what;
}

is get($_, '/hello.txt', client()), 200, 'with all primaries a request passes' for 0, 1;
my @clients = map { client() } 1 .. 5;
$dead->kill9;

subtest 'a client has one quota on all hosts' => sub {
    my $client = shift @clients;
    my @status = map { get($_ % 2, '/hello.txt', $client) } 1 .. 12;
    is "@status[0 .. 3]", '200 200 200 200', 'the quota passes';
    is scalar(grep { $_ == 429 } @status), 8, 'and not one request more';
    is_counted($client, 4, 'Redis has counted the requests that passed');
};

subtest 'a denial by a rule that falls back gives back what Redis was charged' => sub {
    my $client = shift @clients;
    my @status = map { get(0, '/page.html', $client) } 1 .. 3;
    is "@status", '200 200 429', 'the host counts the lost rule alone';
    is_counted($client, 2, 'the client is charged for the requests that passed');
};

subtest 'a denial by on-failure=closed gives back as well' => sub {
    my $client = shift @clients;
    is get(0, '/index.html', $client), 503, 'a rule that cannot be decided denies with 503';
    is_counted($client, 0, 'the client is not charged');
};

subtest 'a denial by Redis charges no count on the host' => sub {
    my ($client, $other) = splice @clients, 0, 2;
    get(1, '/hello.txt', $client) for 1 .. 4;
    is get(1, '/page.html', $client), 429, 'a client above its own limit is denied' for 1 .. 5;
    is get(1, '/page.html', $other), 200, 'another client has the whole quota of the lost rule' for 1 .. 2;
    is get(1, '/page.html', $other), 429, 'and no more';
};

done_testing;
