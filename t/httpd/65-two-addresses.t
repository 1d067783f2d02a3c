#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
# A name can have the addresses of several servers, as the headless service of a primary and its replicas
# has. The module finds the primary among them, in any order, and finds the new one after a change of roles.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";

use Fallback;
use Fault;
use Ports;
use Process;
use RedisServer;
use Status;
use Test::More;

plan skip_all => 'the test cannot set names on this machine' unless my @named = Fault->named('127.0.0.1');

sub exact {
    my ($host, $from) = @_;
    return is_deeply Fallback::load($host, 100, from => $from)->{status}, { 200 => 20, 429 => 80 },
        'the limit is exact';
}

for my $mpm (qw(event prefork)) {
    for my $first (qw(replica primary)) {
        subtest "a name of a primary and a replica, the $first first ($mpm)" => sub {
            my $primary = RedisServer->start(address => '127.0.0.2');
            my $replica = RedisServer->start(address => '127.0.0.3', port => $primary->port,
                conf => ['replicaof 127.0.0.2 ' . $primary->port]);
            Process::wait_until(sub { $replica->cmd('ROLE')->[3] eq 'connected' },
                what => 'the replica to follow', within => 30);
            my @addresses = $first eq 'replica' ? qw(127.0.0.3 127.0.0.2) : qw(127.0.0.2 127.0.0.3);
            my $host = Fallback::host(url => 'redis://redis.test:' . $primary->port, mpm => $mpm,
                config => "<Location />\nRateLimit one 20/1h algorithm=fixed-window\n</Location>\n",
                Fault->named(@addresses));
            Fallback::recovered($host);
            exact($host, '127.0.0.4');
            is RedisServer::units($primary->cmd('GET', 'rl:{ip:127.0.0.4}:one:fixed-window:1h')), 20,
                'the primary has counted';

            $replica->cmd(qw(REPLICAOF NO ONE));
            $primary->cmd('REPLICAOF', '127.0.0.3', $primary->port);
            Fallback::recovered($host);
            exact($host, '127.0.0.5');
            is RedisServer::units($replica->cmd('GET', 'rl:{ip:127.0.0.5}:one:fixed-window:1h')), 20,
                'after a change of roles the other server has counted';
        };
    }
}

done_testing;
