#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
# Keys in Redis are made for operators: they can be read, found by a pattern, and computed with sha256sum.
# They contain no secret in clear text and nothing that a client can break out of, and every key expires.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";

use Client;
use Digest::SHA qw(sha256_hex);
use Httpd;
use Keys;
use MIME::Base64 qw(encode_base64);
use Process;
use RedisServer;
use Test::More;

my $redis = RedisServer->start;
my $httpd = Httpd->start(
    redis   => $redis,
    ports   => 2,
    vars    => {Keys::VARS},
    modules => [Keys::MODULES],
    config  => <<'EOF');
RateLimitRedis @REDIS@/2
RateLimitRedisTimeout 5s
RateLimitRedisPrefix shop
ServerName front.test
@CLIENT@
<LocationMatch "^/ip">
    RateLimit login 1/1h
</LocationMatch>
<Location /net>
    RateLimit net 1/1d key=ip/24
</Location>
<Location /fixed>
    RateLimit fixed 1/90s algorithm=fixed-window
</Location>
<Location /brief>
    RateLimit brief 1/31d
    RateLimit ms 1000000/1500ms
</Location>
<Location /host>
    RateLimit host 100/1d key=host+method+path:1
</Location>
<Location /server>
    RateLimit server 100/1w key=server
</Location>
<Location /header>
    RateLimit header 1/1d key=header:X-Api-Key
</Location>
<Location /cookie>
    RateLimit cookie 1/1d key=cookie:Session
</Location>
<Location /env>
    RateLimit env 1/1d key=env:TENANT
</Location>
<Location /expr>
    RateLimit expr 1/1d "key=%{unbase64:%{HTTP:X-Org}}|ip"
</Location>
<Location /join>
    RateLimit join 1/1d key=ip+header:X-Api-Key
</Location>
<Location /user>
    @LOGIN@
    RateLimit user 1/1d key=user
</Location>
<VirtualHost *:@PORT2@>
    RateLimit path 1/1d key=path
</VirtualHost>
@SHARED@
EOF
$redis->cmd('SELECT', 2);

sub keys_now { return sort @{ $redis->cmd('KEYS', '*') } }

sub ask {
    my ($path, @headers) = @_;
    return $httpd->get($path, headers => { 'X-Client' => '203.0.113.7', @headers });
}

# The keys that one request creates in an empty database.
sub keys_of {
    my ($path, @headers) = @_;
    $redis->cmd('FLUSHDB');
    like ask($path, @headers)->status, qr/^(?:200|404)$/, "$path passes once";
    return join "\n", keys_now();
}

sub digest { return substr sha256_hex(shift), 0, 32 }

subtest 'identities that are not secret are readable' => sub {
    my @expected = (
        [['/ip'],                                'shop:{ip:203.0.113.7}:login:sliding-window:1h'],
        [['/ip', 'X-Client', '2001:DB8:0:1::5'], 'shop:{ip:2001:db8:0:1::/64}:login:sliding-window:1h'],
        [['/ip', 'X-Client', '::ffff:192.0.2.1'], 'shop:{ip:192.0.2.1}:login:sliding-window:1h'],
        [['/net'],                               'shop:{ip:203.0.113.0/24}:net:sliding-window:1d'],
        [['/fixed'],                             'shop:{ip:203.0.113.7}:fixed:fixed-window:90s'],
        [['/brief'], "shop:{ip:203.0.113.7}:brief:sliding-window:31d\n"
            . 'shop:{ip:203.0.113.7}:ms:sliding-window:1500ms'],
        [['/host/x/y'],    'shop:{host:front.test+method:GET+path:/host}:host:sliding-window:1d'],
        [['/server'],      'shop:{server}:server:sliding-window:1w'],
        [['/header'],      'shop:{ip:203.0.113.7}:header:sliding-window:1d'],
    );
    is keys_of(@{ $_->[0] }), $_->[1], $_->[1] =~ s/\n.*/ .../r for @expected;
    $redis->cmd('FLUSHDB');
    $httpd->get('/Log//in/', port => $httpd->port(1), headers => { 'X-Client' => '192.0.2.2' });
    is join(' ', keys_now()), 'shop:{path:/log/in}:path:sliding-window:1d', 'a path is normalized';
};

subtest 'a pattern finds all keys of a client' => sub {
    $redis->cmd('FLUSHDB');
    my @client = ('X-Client', '203.0.113.77');
    ask($_, @client) for '/ip', '/fixed', '/brief';
    ask('/ip');
    is ask('/fixed', @client)->status, 429, 'the client is denied';
    my $found = $redis->cmd('SCAN', 0, 'MATCH', 'shop:{ip:203.0.113.77}:*', 'COUNT', 1000);
    is scalar(@{ $found->[1] }), 4, 'the pattern finds its four rules and no other client';
    $redis->cmd('DEL', @{ $found->[1] });
    ok Process::wait_until(sub { ask('/fixed', @client)->status == 404 }, what => 'a pass'),
        'deleting the keys gives the client its quota back';
};

subtest 'secrets are digests that an operator can compute' => sub {
    my @expected = (
        ['/header', 'header:x-api-key:s3cret', 'X-API-KEY' => 's3cret'],
        ['/cookie', 'cookie:Session:s3cret', Cookie => 'a=b; Session=s3cret'],
        ['/env', 'env:TENANT:s3cret', 'X-Tenant' => 's3cret'],
        ['/expr', '%{unbase64:%{HTTP:X-Org}}:s3cret', 'X-Org' => encode_base64('s3cret', '')],
        ['/user', 'user:s3cret user', Keys::basic('s3cret user')],
    );
    for my $case (@expected) {
        my ($path, $text, @headers) = @$case;
        my ($rule) = $path =~ m{(\w+)};
        my ($key)  = split /\n/, keys_of($path, @headers);
        is $key, 'shop:{' . digest($text) . "}:$rule:sliding-window:1d", "$text | sha256sum";
    }
    is keys_of('/join', 'X-Api-Key' => 's3cret'),
        'shop:{ip:203.0.113.7+' . digest('header:x-api-key:s3cret') . '}:join:sliding-window:1d',
        'a digest stands beside a readable part';
    ask('/header', 'X-Api-Key' => 's3cret');
    is scalar($httpd->error_log_lines(qr/s3cret/)), 0, 'no secret is in the log';
    is keys_of('/user', Keys::basic('alice@example.org')),
        'shop:{user:alice@example.org}:user:sliding-window:1d', 'a plain user name is readable';
};

# What every key looks like, whatever a client sent.
my $plain = qr/^shop:\{[!#-&(-z|~]+\}:\w+:(?:sliding|fixed)-window:\d+(?:ms|[smhdw])$/;

sub harmless {
    my ($what, $path, @headers) = @_;
    my $keys = keys_of($path, @headers);
    like $keys, $plain, "$what: the key is plain printable text";
    is ask($path, @headers)->status, 429, 'and counts: the second request is denied';
}

subtest 'clients cannot break the form of a key' => sub {
    harmless('8 KB',            '/header', 'X-Api-Key' => 'v' x 8000);
    harmless('binary',          '/header', 'X-Api-Key' => join '', map { chr } 0x80 .. 0xff);
    harmless('a hash tag', '/header', 'X-Api-Key' => '}:login:{');
    harmless('a pattern',       '/cookie', Cookie => 'Session=*?[a]');
    harmless('a line break',    '/expr',   'X-Org' => encode_base64("a\r\nDEL shop\r\n", ''));
    my $control = join '', map { chr } 1 .. 31, 127;
    harmless('control bytes',   '/expr',   'X-Org' => encode_base64($control, ''));
    harmless("user $_", '/user', Keys::basic($_)) for "al\r\nice", 'al}ice', '{', 'al"ice', q(al'ice),
        'al ice', 'al+ip:1.2.3.4', 'a' x 65, 'a' x 900, "\xe9", '%s%n', '\\';
    my $long = '/' . join '/', ('x' x 100) x 20;
    for my $path ('/a%0d%0ab', '/a%7Db', '/%22', '/a:b', $long, '/%ff%fe', '/a+b', '/%5B*%5D') {
        $redis->cmd('FLUSHDB');
        my @there = (port => $httpd->port(1));
        isnt $httpd->get($path, @there)->status, 429, 'a path passes: ' . substr $path, 0, 20;
        like join("\n", keys_now()), $plain, 'the key is plain printable text';
        is $httpd->get($path, @there)->status, 429, 'and counts: the second request is denied';
    }
    my @broken = grep { !/^(?:\[|ratelimit: RateLimit ")/ } split /\n/, $httpd->error_log;
    is "@broken", '', 'every line of the log is whole';
};

subtest 'every key expires' => sub {
    $redis->cmd('FLUSHDB');
    ask($_, 'X-Client', '192.0.2.99') for qw(/ip /net /fixed /brief /host /server);
    my %window = (login => 3600, net => 86_400, fixed => 90, brief => 31 * 86_400, ms => 1.5,
        host => 86_400, server => 7 * 86_400);
    my %seen;
    for my $key (keys_now()) {
        my ($rule) = $key =~ /\}:(\w+):/;
        my $left = $redis->cmd('PTTL', $key);
        next if $left == -2;    # it has expired
        $seen{$rule} = 1;
        ok $left > 0 && $left <= 2000 * $window{$rule} + 60_000, "$rule: about two windows later"
            or diag "$key: $left ms";
    }
    ok $seen{$_}, "$_ was checked" for qw(login net fixed brief host server);
};

subtest 'rules of one name share a key' => sub {
    $redis->cmd('FLUSHDB');
    Keys::shares(sub { ask($_[0])->status });
    is join(' ', keys_now()), 'shop:{ip:203.0.113.7}:shared:sliding-window:1d', 'there is one key';
};

is scalar(@{ $redis->cmd('SELECT', 0) eq 'OK' ? $redis->cmd('KEYS', '*') : [] }), 0,
    'nothing was written to another database';

done_testing;
