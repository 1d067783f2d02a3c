#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
# Redis over TLS, if hiredis supports it: the certificate of Redis and the name in it are verified, a client
# certificate is sent if Redis requires one, and a handshake that never ends delays no request beyond its
# deadline.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";

use Certificates;
use Client;
use FakeRedis;
use Fallback;
use Httpd;
use Ports;
use Process;
use RedisCluster;
use RedisSentinel;
use RedisServer;
use Status;
use Test::More;
use Time::HiRes qw(sleep);

plan skip_all => 'hiredis 0.14 has no TLS: make test-debian13 runs this'
    if (Httpd->config_test(config => 'RateLimitRedis rediss://h'))[1] =~ /TLS needs hiredis/;

use constant DEADLINE_MS => 200;

my $ca     = Certificates->new;
my $server = $ca->issue('server', 'DNS:redis.test,IP:127.0.0.1');
my $client = $ca->issue('client', 'DNS:client.test');
my $stranger = Certificates->new;

sub redis {
    my ($clients, @conf) = @_;
    my $port  = Ports::free();
    my $redis = RedisServer->start(conf => [@conf, "tls-port $port", "tls-auth-clients $clients",
        "tls-cert-file $server->{cert}", "tls-key-file $server->{key}",
        'tls-ca-cert-file ' . $ca->file]);
    return ($redis, "rediss://127.0.0.1:$port");
}

sub host {
    my ($url, $tls, %opt) = @_;
    my $time = $opt{time} // '5s connect=5s';
    return Httpd->start(modules => [qw(status headers)], mpm => $opt{mpm} // 'event',
        children => $opt{children} // 2, config => <<"EOC");
RateLimitRedis $url
@{[$tls ? "RateLimitRedisTLS $tls" : '']}
RateLimitRedisTimeout $time
RateLimitNotes all
<Location /hello.txt>
    RateLimit one 20/1h
    Header always set X-Source %{RATELIMIT_SOURCE}e
</Location>
@{[Status::CONFIG]}
EOC
}

sub flood {
    my ($host, $from) = @_;
    return Client->flood(targets => [$host->port], connections => 8, requests => 200,
        path => '/hello.txt', from => $from // '127.0.0.1')->{status};
}

sub redis_decides {
    my ($host, $how) = @_;
    is_deeply flood($host), { 200 => 20, 429 => 180 }, "$how: exactly the quota passes";
    my $status = Status->of($host);
    cmp_ok $status->{RedisAnswered}, '>=', 20, 'Redis has decided';
    is $status->redis_failures, 0, 'without a failure';
}

sub counts_by_itself {
    my ($host, $says) = @_;
    is_deeply flood($host), { 200 => 20, 429 => 180 }, 'exactly the quota passes, by the count of the host';
    my $status = Status->wait_for_breaker($host);
    is $status->{RedisAnswered}, 0, 'Redis has decided nothing';
    like +($host->error_log_lines(qr/breaker open/))[0], $says, 'the log has the reason';
}

my $trust = 'ca=' . $ca->file;

for my $mpm (qw(event prefork)) {
    subtest "a valid certificate is accepted ($mpm)" => sub {
        my ($redis, $url) = redis('no');
        my $host = host($url, $trust, mpm => $mpm);
        redis_decides($host, 'verified by address');
        $redis->kill9;
        is $host->get('/hello.txt', from => '127.0.0.2')->status, 200, 'without Redis requests pass';
        $redis->restart;
        Fallback::wait_for_verdict($host);
        pass 'Redis decides again when it is back';
    };
}

for my $mpm (qw(event prefork)) {
    subtest "connections that Redis closes when idle are opened again ($mpm)" => sub {
        my ($redis, $url) = redis('no', 'timeout 1');
        my $host = host($url, $trust, mpm => $mpm, children => 1);
        for (1 .. 3) {
            is $host->get('/hello.txt')->header('X-Source'), 'redis', 'Redis decides';
            sleep 2.5;
        }
        is +(Status->of($host))->redis_failures, 0, 'nothing has failed';
    };
}

subtest 'name= is verified instead of the host' => sub {
    my ($redis, $url) = redis('no');
    redis_decides(host($url, "$trust name=redis.test"), 'a name that is in the certificate');
    counts_by_itself(host($url, "$trust name=other.test"), qr/certificate is not valid: .*mismatch/);
};

subtest 'a certificate of an unknown authority is refused' => sub {
    my ($redis, $url) = redis('no');
    counts_by_itself(host($url, ''), qr/certificate is not valid: .*self.signed|unable to get/);
    counts_by_itself(host($url, 'ca=' . $stranger->file), qr/certificate is not valid/);
};

subtest 'a client certificate is sent' => sub {
    my ($redis, $url) = redis('yes');
    my $known = "$trust cert=$client->{cert} key=$client->{key}";
    redis_decides(host($url, $known), 'with a client certificate');
    counts_by_itself(host($url, $trust), qr/TLS|closed|reset|error/i);
    my $other = $stranger->issue('other', 'DNS:client.test');
    counts_by_itself(host($url, "$trust cert=$other->{cert} key=$other->{key}"),
        qr/TLS|closed|reset|error/i);
    like +(Httpd->config_test(config =>
        "RateLimitRedisTLS cert=$client->{cert} key=$other->{key}"))[1],
        qr/key=\S+ (?:is not the key of cert=|cannot be used)/, 'a key of another certificate is refused';
};

my @tls_files = ("tls-cert-file $server->{cert}", "tls-key-file $server->{key}",
    'tls-ca-cert-file ' . $ca->file);

# Connections of httpd to a server, as CLIENT LIST shows them.
sub named { my ($redis) = @_; return grep { / name=ratelimit:/ } split /\n/, $redis->cmd(qw(CLIENT LIST)) }

for my $mpm (qw(event prefork)) {
    subtest "sentinels and the servers that they name are used over TLS ($mpm)" => sub {
        my $site = RedisSentinel->start(replicas => 1, tls => \@tls_files);
        my $host = host($site->url, $trust, mpm => $mpm);
        redis_decides($host, 'over TLS');
        for my $server ($site->servers, $site->sentinels) {
            is scalar(grep { !/laddr=\S+:$server->{tls_port} / } named($server)), 0, 'no connection is unencrypted';
        }
        my $new = $site->fail_over;
        Process::wait_until(sub {
            my $r = $host->get('/hello.txt', from => '127.0.0.' . (3 + int rand 250));
            return ($r->header('X-Source') // '') eq 'redis' && named($new);
        }, what => 'the new primary to decide', within => 60);
        pass 'the new primary decides after a failover';
    };
    subtest "all nodes of a cluster are used over TLS ($mpm)" => sub {
        my $cluster = RedisCluster->start(replicas => 0, tls => \@tls_files);
        my $host = host($cluster->url(1), $trust, mpm => $mpm);
        redis_decides($host, 'by one node of the cluster');
        for my $client (2 .. 40) {
            my $r = $host->get('/hello.txt', from => "127.0.0.$client");
            is $r->header('X-Source'), 'redis', 'by the other nodes' if $client == 40;
        }
        my @of = map { scalar(named($_)) } $cluster->nodes;
        cmp_ok +(sort { $a <=> $b } @of)[0], '>', 0, 'every node has a connection';
        for my $node ($cluster->nodes) {
            is scalar(grep { !/laddr=\S+:$node->{tls_port} / } named($node)), 0, 'no connection is unencrypted';
        }
        is +(Status->of($host))->redis_failures, 0, 'nothing has failed';
    };
}

for my $mpm (qw(event prefork)) {
    my %hostile = (
        'sends nothing' => sub { $_[0]->silence },
        'is sent byte by byte' => sub { $_[0]->drip("\x16\x03\x03\x02\x00" . "\0" x 512, 0.02) },
        'sends garbage' => sub { $_[0]->send("+OK\r\n" x 9); $_[0]->silence },
        'closes' => sub { },
    );
    for my $name (sort keys %hostile) {
        subtest "a handshake that $name delays no request ($mpm)" => sub {
            my $fake = FakeRedis->start($hostile{$name});
            my $host = host('rediss://127.0.0.1:' . $fake->port, $trust, mpm => $mpm,
                children => $mpm eq 'prefork' ? 10 : 2, time => DEADLINE_MS . 'ms connect=250ms');
            counts_by_itself($host, qr/TLS|in time|closed|reset/i);
            # a blocking handshake would take ten seconds or never end
            cmp_ok +(Status->of($host))->{RedisWaitP999Us}, '<', 5 * DEADLINE_MS * 1000,
                'no request waits for it';
        };
    }
}

done_testing;
