#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
# A request can be decided in several steps: before authentication, after it, and again after a redirect.
# Together they count as one request: a denial gives back what earlier steps charged, no counter is charged
# twice, and the request waits at most one timeout for Redis.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";

use Client qw(fresh_address);
use Httpd;
use RedisServer;
use Status;
use Test::More;

my $shared = "RateLimitRedis \@REDIS\@\nRateLimitRedisTimeout 10s connect=10s\n";

# One child has one connection to Redis, so a give-back arrives there before the next request.
sub host {
    my ($redis, $config, %opt) = @_;
    return Httpd->start(redis => $redis, children => 1, %opt, config => $config);
}

my $later = <<'EOF';
RateLimit early 1/1d
<Location /page.html>
    RateLimit late 0/1d phase=auth
</Location>
EOF

subtest 'a denial after authentication gives back what was charged before it' => sub {
    my $redis = RedisServer->start;
    my ($host, $other) = map { host($redis, $shared . $later) } 1, 2;
    my @from = (from => fresh_address());
    is $host->get('/page.html', @from)->status, 429, 'the later rule denies';
    is $host->get('/hello.txt', @from)->status, 200, 'the unit is back at once on the same host';
    is $other->get('/hello.txt', @from)->status, 429, 'one unit was given back, not two';
    @from = (from => fresh_address());
    is $host->statuses('/page.html', 5, @from), '429 429 429 429 429', 'five requests are denied';
    is $host->statuses('/hello.txt', 2, @from), '200 429', 'they leave one unit, neither none nor five';
};

subtest 'a denial gives back even if Redis dies right after' => sub {
    my $redis = RedisServer->start;
    my $host  = host($redis, "RateLimitRedis \@REDIS\@\n$later");
    my @from  = (from => fresh_address());
    is $host->get('/page.html', @from)->status, 429, 'the later rule denies';
    $redis->kill9;
    is $host->statuses('/hello.txt', 2, @from), '200 429', 'this host continues with the whole quota';
};

subtest 'a denial gives back without Redis' => sub {
    my $host = host(undef, $later);
    is $host->get('/page.html')->status, 429, 'the later rule denies';
    is $host->statuses('/hello.txt', 2), '200 429', 'the unit is back';
};

my $twice = <<'EOF';
RateLimit site 100/1d
<Files index.html>
    RateLimit site 50/1d
</Files>
<Directory @DOCROOT@/one>
    <Files index.html>
        RateLimit site 1/1d
    </Files>
</Directory>
<Directory @DOCROOT@/three>
    <Files index.html>
        RateLimit site 3/1d
    </Files>
</Directory>
EOF

for my $where ('by Redis', 'by this host') {
    subtest "one request never charges one counter twice, counted $where" => sub {
        my $redis = $where eq 'by Redis' ? RedisServer->start : undef;
        my $httpd = host($redis, ($redis ? $shared : '') . $twice,
            files => { 'one/index.html' => 'one', 'three/index.html' => 'three' });
        my $left = sub { $httpd->get(@_)->header('X-RateLimit-Remaining') };
        my @from = (from => fresh_address());
        is join(' ', map { $left->('/dir/', @from) } 1 .. 4), '49 48 47 46',
            'a directory and its index cost one unit of the smaller quota';
        is $left->('/hello.txt', @from), 95, 'and one of the larger quota';
        is $left->('/index.html', @from), 44, 'the index by its own name costs one unit';
        is $httpd->statuses('/one/', 3, from => fresh_address()), '200 429 429',
            'a quota of one admits the first request';
        @from = (from => fresh_address());
        is $httpd->statuses('/three/', 5, @from), '200 200 200 429 429', 'the smaller quota of a section is enforced';
        is $left->('/hello.txt', @from), 96, 'its denials cost nothing';
        @from = (from => fresh_address());
        is $httpd->statuses('/hello.txt', 3, @from), '200 200 200', 'three units are used elsewhere';
        is $httpd->get('/three/', @from)->status, 429, 'they count against the smaller quota';
    };
}

for my $mpm (qw(event prefork)) {
    subtest "the steps of a request together wait for Redis once ($mpm)" => sub {
        my $redis = RedisServer->start;
        my $httpd = host($redis, <<'EOF', mpm => $mpm);
RateLimitRedis @REDIS@
RateLimitRedisTimeout 2s connect=2s
<Location /page.html>
    RateLimit before 1000/1d phase=access on-failure=open
    RateLimit after 1000/1d phase=auth on-failure=open
</Location>
EOF
        my $kept = Client->new(port => $httpd->port);
        is $kept->request(path => '/page.html')->status, 200, 'a request connects to Redis';
        $redis->pause;
        my $response = $kept->request(path => '/page.html');
        $redis->resume;
        is $response->status, 200, 'a request without an answer from Redis is served';
        cmp_ok $response->elapsed, '>', 1.9, 'after one timeout';
        cmp_ok $response->elapsed, '<', 3.5, 'not two';
    };
}

# Several times as many rules as fit into one call to Redis.
sub many {
    my ($first, $last) = @_;
    return join "\n", "RateLimit r1 $first", (map { "RateLimit r$_ 1000/1d" } 2 .. 199),
        "RateLimit r200 $last";
}

for my $where ('by Redis', 'by this host') {
    subtest "two hundred rules in one section, counted $where" => sub {
        my $redis = $where eq 'by Redis' ? RedisServer->start : undef;
        my $httpd = host($redis, ($redis ? $shared : '') . Status::CONFIG . <<'EOF',
<Location /page.html>
    @CLOSED@
</Location>
<Location /login.html>
    @FEW@
</Location>
<Location /hello.txt>
    RateLimit r1 3/1d
</Location>
EOF
            modules => ['status'],
            vars    => { CLOSED => many('3/1d', '0/1d'), FEW => many('3/1d', '2/1d') });
        my @from = (from => fresh_address());
        is $httpd->statuses('/page.html', 2, @from), '429 429', 'the last rule denies';
        is $httpd->statuses('/hello.txt', 4, @from), '200 200 200 429',
            'its denials cost nothing under the first rule';
        is $httpd->get('/login.html', @from)->status, 429, 'the first rule denies';
        @from = (from => fresh_address());
        is $httpd->statuses('/login.html', 4, @from), '200 200 429 429', 'the last rule counts';
        is $httpd->statuses('/hello.txt', 2, @from), '200 429', 'the first rule was charged as well';
        return unless $redis;
        my @kept = map { $redis->cmd('GET', $_) } grep { !/:r1:|:r200:/ } @{ $redis->cmd('KEYS', '*:r*') };
        my %units;
        $units{ RedisServer::units($_) }++ for @kept;
        is join(' ', sort keys %units), '0 2', 'all other counters contain only the admitted requests';
    };
}

subtest 'a chain that reaches a counter twice while Redis is down' => sub {
    my $redis = RedisServer->start;
    my $httpd = host($redis, $shared . <<'EOF');
RateLimit page 10/1d
<Files index.html>
    RateLimit page 10/1d status=403
</Files>
EOF
    my @from = (from => fresh_address());
    is $httpd->get('/dir/', @from)->header('X-RateLimit-Remaining'), 9, 'Redis charges once';
    $redis->kill9;
    @from = (from => fresh_address());
    $httpd->get('/dir/', @from);
    is $httpd->get('/dir/', @from)->header('X-RateLimit-Remaining'), 8, 'the host charges each request once';
};

done_testing;
