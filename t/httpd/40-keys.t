#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
# Requests that belong to one key share a count, however a client spells them, and other requests do not.
# Counts are kept by this host; 42-redis-keys.t shows the names of keys in Redis.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";

use Client;
use Httpd;
use Keys;
use Ports;
use Test::More;

my $mapped = -e '/proc/net/if_inet6' ? Ports::free() : undef;
my $httpd  = Httpd->start(
    ports   => 5,
    vars    => { Keys::VARS, BOTH => $mapped ? "Listen [::ffff:127.0.0.1]:$mapped" : '' },
    modules => [Keys::MODULES, qw(env rewrite headers)],
    config  => <<'EOF');
@BOTH@
@CLIENT@
<Location /ip>
    RateLimit ip 1/1d
</Location>
<Location /net>
    RateLimit net 1/1d key=ip/24
</Location>
<Location /net48>
    RateLimit net48 1/1d key=ip/48
</Location>
<Location /one>
    RateLimit one 1/1d key=ip/128
</Location>
<Location /header>
    RateLimit header 1/1d key=header:X-Api-Key
</Location>
<Location /cookie>
    RateLimit cookie 1/1d key=cookie:session
</Location>
<Location /env>
    RateLimit env 1/1d key=env:TENANT phase=access
</Location>
<Location /setenv>
    SetEnv PLACE here
    RateLimit setenv 1/1d key=env:PLACE
</Location>
<Location /method>
    RateLimit method 1/1d key=ip+method
</Location>
<Location /server>
    RateLimit server 1/1d key=server
</Location>
<Location /expr>
    RateLimit expr 1/1d "key=%{tolower:%{HTTP:X-Org}}|ip"
</Location>
<Location /blank>
    RateLimit blank 1/1d key="%{HTTP:X-Org} of %{REQUEST_METHOD}"
</Location>
<Location /either>
    RateLimit either 1/1d key=header:X-Api-Key|cookie:session|ip
</Location>
<Location /both>
    RateLimit both 1/1d key=header:X-A+header:X-B|ip
</Location>
<Location /user>
    @LOGIN@
    RateLimit user 1/1d key=user
</Location>
<LocationMatch "^/expr-user/(lower|mixed)">
    @LOGIN@
</LocationMatch>
<Location /expr-user/lower>
    RateLimit lower 1/1d key=%{remote_user}
</Location>
<Location /expr-user/mixed>
    RateLimit mixed 1/1d "key=of %{Remote_User}"
</Location>
@SHARED@
<Location /shared/hour>
    RateLimit shared 1/1h
</Location>
<Location /shared/fixed>
    RateLimit shared 1/1d algorithm=fixed-window
</Location>
<VirtualHost *:@PORT2@>
    RateLimit path 1/1d key=path
</VirtualHost>
<VirtualHost *:@PORT3@>
    RateLimit path 1/1d key=path:2
</VirtualHost>
<VirtualHost *:@PORT4@>
    RateLimitNormalize -case -trailing -params
    RateLimit exact 1/1d key=path
    <Location /folded>
        RateLimitNormalize +case
    </Location>
</VirtualHost>
<VirtualHost *:@PORT5@>
    ServerName one.test
    ServerAlias uno.test *.one.test
    RateLimit host 1/1d key=ip+host
</VirtualHost>
<VirtualHost *:@PORT5@>
    ServerName two.test
    RateLimit host 1/1d key=ip+host
</VirtualHost>
EOF

my $number = 0;

# The address of a client that has sent nothing yet.
sub fresh { $number++; return sprintf '198.51.%d.%d', $number >> 8, $number & 255 }

sub ask {
    my ($path, %opt) = @_;
    my %headers = (($opt{from} ? () : ('X-Client' => fresh())), %{ $opt{headers} || {} });
    return $httpd->get($path, %opt, headers => \%headers)->status;
}

my $passes = qr/^(?:200|404|405|501)$/;    # httpd answers unusual methods with the last two

# Sends two requests under a rule with a quota of 1. The first passes; the second is denied if both have the
# same key.
sub pair {
    my ($expected, $what, $one, $other) = @_;
    my $first  = ask(@$one);
    my $second = ask(@$other);
    like $first, $passes, "$what: the first request passes";
    return is $second, 429, "$what: the second shares its count" if $expected eq 'same';
    return like $second, $passes, "$what: the second has another count";
}

sub with { my ($path, @headers) = @_; return [$path, headers => {@headers}] }
sub from { my ($path, $address) = @_; return with($path, 'X-Client' => $address) }

subtest 'addresses and networks' => sub {
    pair(same    => 'one address',
        from('/ip', '203.0.113.1'), from('/ip', '203.0.113.1'));
    pair(another => 'two addresses',
        from('/ip', '203.0.113.2'), from('/ip', '203.0.113.3'));
    pair(same    => 'an IPv4 address, and the same mapped into IPv6',
        from('/ip', '203.0.113.4'), from('/ip', '::ffff:203.0.113.4'));
    pair(same    => 'a mapped address, and the same in IPv4',
        from('/ip', '::ffff:203.0.113.5'), from('/ip', '203.0.113.5'));
    pair(another => 'two mapped addresses',
        from('/ip', '::ffff:203.0.113.6'), from('/ip', '::ffff:203.0.113.7'));
    pair(same    => 'one IPv6 /64 network',
        from('/ip', '2001:db8:0:1::1'), from('/ip', '2001:db8:0:1:ffff:ffff:ffff:ffff'));
    pair(another => 'two IPv6 /64 networks',
        from('/ip', '2001:db8:0:2::1'), from('/ip', '2001:db8:0:3::1'));
    pair(same    => 'two spellings of an IPv6 address',
        from('/ip', '2001:db8:0:4::1'), from('/ip', '2001:0DB8:0000:0004:0:0:0:1'));
    pair(same    => 'ip/24: one network',
        from('/net', '203.0.113.8'), from('/net', '203.0.113.250'));
    pair(another => 'ip/24: two networks',
        from('/net', '203.0.114.8'), from('/net', '203.0.115.8'));
    pair(same    => 'ip/48: one IPv6 network',
        from('/net48', '2001:db8:7:1::1'), from('/net48', '2001:db8:7:2::1'));
    pair(another => 'ip/48: two IPv6 networks',
        from('/net48', '2001:db8:8:1::1'), from('/net48', '2001:db8:9:1::1'));
    pair(another => 'ip/48: two IPv4 addresses',
        from('/net48', '203.0.113.9'), from('/net48', '203.0.113.10'));
    pair(same    => 'ip/24: one IPv6 /64 network',
        from('/net', '2001:db8:10:1::1'), from('/net', '2001:db8:10:1::2'));
    pair(another => 'ip/24: two /64 networks in one IPv6 /24',
        from('/net', '2001:db8:11:1::1'), from('/net', '2001:db8:11:2::1'));
    pair(same    => 'ip/24: an IPv4 network, and the same mapped into IPv6',
        from('/net', '203.0.116.8'), from('/net', '::ffff:203.0.116.9'));
    pair(another => 'ip/128: two IPv6 addresses',
        from('/one', '2001:db8::1'), from('/one', '2001:db8::2'));
    # a socket of httpd that accepts IPv6 and IPv4 shows IPv4 clients with mapped addresses
    SKIP: {
        skip 'no IPv6', 4 if !$mapped;
        my @both = (port => $mapped);
        pair(same => 'a client on an IPv4 and on a dual-stack socket', ['/ip', from => '127.0.0.11'],
            ['/ip', from => '127.0.0.11', @both]);
        pair(another => 'two clients on a dual-stack socket', ['/ip', from => '127.0.0.12', @both],
            ['/ip', from => '127.0.0.13', @both]);
    }
    my @spoofed = map {
        my %says = ('X-Forwarded-For' => "192.0.2.$_", 'X-Client' => "192.0.2.$_");
        ['/ip', from => '127.0.0.9', headers => \%says]
    } 1, 2;
    pair(same    => 'X-Forwarded-For from a client that is not trusted', @spoofed);
};

my $wider = Httpd->start(modules => ['remoteip'], config => <<'EOF');
RateLimitIPv6Prefix 56
RemoteIPHeader X-Client
RemoteIPInternalProxy 127.0.0.1
RateLimit net 1/1d key=ip/24
EOF

subtest 'ip/24 leaves IPv6 to RateLimitIPv6Prefix' => sub {
    my $at = sub { return [@{ from('/', $_[0]) }, port => $wider->port] };
    pair(same    => 'one IPv6 /56 network', $at->('2001:db8:0:100::1'), $at->('2001:db8:0:1ff::1'));
    pair(another => 'two IPv6 /56 networks', $at->('2001:db8:0:200::1'), $at->('2001:db8:0:300::1'));
    pair(same    => 'one IPv4 /24 network', $at->('203.0.113.1'), $at->('203.0.113.2'));
};

subtest 'headers, cookies and expressions' => sub {
    my @key = ('X-Api-Key');
    pair(same    => 'a header, its name in two spellings',
        with('/header', @key, 'k1'), with('/header', 'x-api-KEY', 'k1'));
    pair(another => 'two values',
        with('/header', @key, 'k2'), with('/header', @key, 'k3'));
    pair(another => 'two values that differ in case',
        with('/header', @key, 'k4'), with('/header', @key, 'K4'));
    my $from = fresh();
    pair(same    => 'without a value, the address',
        with('/header', 'X-Client', $from), with('/header', 'X-Client', $from, @key, ''));
    pair(another => 'an address, and a value that looks like it',
        from('/header', '203.0.113.20'), with('/header', @key, '203.0.113.20'));
    pair(same    => 'a cookie, alone and among others',
        with('/cookie', Cookie => 'session=s1'),
        with('/cookie', Cookie => 'a=b; session=s1; c=d'));
    pair(another => 'two values of a cookie',
        with('/cookie', Cookie => 'session=s2'), with('/cookie', Cookie => 'session=s3'));
    pair(another => 'cookies whose names end alike',
        with('/cookie', Cookie => 'session=s4'), with('/cookie', Cookie => 'xsession=s4'));
    my $long = 'v' x 8000;
    pair(same    => 'a value of 8 KB',
        with('/header', @key, $long), with('/header', @key, $long));
    pair(another => 'values of 8 KB that differ in one byte',
        with('/header', @key, "${long}a"), with('/header', @key, "${long}b"));
    my $binary = join '', map { chr } 0x80 .. 0xff;
    pair(same    => 'a binary value',
        with('/header', @key, $binary), with('/header', @key, $binary));
    pair(another => 'binary values that differ in one byte',
        with('/header', @key, "\xff\xfe"), with('/header', @key, "\xff\xfd"));
    pair(same    => 'an expression with the same value',
        with('/expr', 'X-Org' => 'Acme'), with('/expr', 'X-Org' => 'ACME'));
    pair(another => 'an expression with two values',
        with('/expr', 'X-Org' => 'a'), with('/expr', 'X-Org' => 'b'));
    $from = fresh();
    pair(same    => 'an expression with an empty value: the address', from('/expr', $from), from('/expr', $from));
    pair(same    => 'a value with blanks',
        with('/blank', 'X-Org' => 'a b'), with('/blank', 'X-Org' => 'a b'));
    pair(another => 'values that differ in blanks',
        with('/blank', 'X-Org' => 'c d'), with('/blank', 'X-Org' => 'c  d'));
};

subtest 'alternatives and joined parts' => sub {
    my $from = fresh();
    pair(same    => 'the first alternative is used',
        with('/either', 'X-Api-Key', 'a', Cookie => 'session=1'),
        with('/either', 'X-Api-Key', 'a', Cookie => 'session=2'));
    pair(same    => 'the second, if the first is missing or empty',
        with('/either', Cookie => 'session=3'),
        with('/either', 'X-Api-Key', '', Cookie => 'session=3'));
    pair(same    => 'the third, if the others are missing',    from('/either', $from), from('/either', $from));
    pair(another => 'the same value in two alternatives',
        with('/either', 'X-Api-Key', 'v'), with('/either', Cookie => 'session=v'));
    pair(same    => 'two parts, sent in either order',
        with('/both', 'X-A', 1, 'X-B', 2), with('/both', 'X-B', 2, 'X-A', 1));
    pair(another => 'keys that differ in one part',
        with('/both', 'X-A', 1, 'X-B', 3), with('/both', 'X-A', 1, 'X-B', 4));
    pair(another => 'the same characters, split differently',
        with('/both', 'X-A', 'ab', 'X-B', 'c'), with('/both', 'X-A', 'a', 'X-B', 'bc'));
    pair(another => 'the same characters, split at another plus',
        with('/both', 'X-A', 'a+b', 'X-B', 'c'), with('/both', 'X-A', 'a', 'X-B', 'b+c'));
    $from = fresh();
    pair(same    => 'one part is missing: the address',
        with('/both', 'X-Client', $from, 'X-A', 5), with('/both', 'X-Client', $from, 'X-B', 6));
};

subtest 'environment variables and users' => sub {
    pair(same    => 'a variable of SetEnvIf',
        with('/env', 'X-Tenant', 't1'), with('/env', 'X-Tenant', 't1'));
    pair(another => 'two values',
        with('/env', 'X-Tenant', 't2'), with('/env', 'X-Tenant', 't3'));
    pair(same    => 'a variable of SetEnv',        ['/setenv'], ['/setenv']);
    pair(same    => 'key=server: all clients',    ['/server'], ['/server']);
    my $as = sub { with('/user', Keys::basic($_[0])) };
    pair(same    => "user $_",              $as->($_), $as->($_))
        for 'alice', 'al{ice}', 'al"i\'ce', 'al ice', "al\r\nice", "\xe9\xff", 'a' x 900, '*', '-',
        '{', 'user:alice+ip:1';
    pair(another => 'users that differ',                $as->('bob'), $as->('Bob'));
    for my $path ('/expr-user/lower', '/expr-user/mixed') {
        my $user = sub { with($path, 'X-Client' => '203.0.113.30', Keys::basic($_[0])) };
        pair(another => "$path: two users at one address", $user->('alice'), $user->('bob'));
        pair(same    => "$path: one user", $user->('carol'), $user->('carol'));
    }
};

subtest 'methods' => sub {
    my $by = sub {
        my ($method, $from, @more) = @_;
        return ['/method', method => $method, headers => { 'X-Client' => $from, @more }];
    };
    my $from = fresh();
    pair(same    => 'HEAD and GET',          $by->('GET', $from), $by->('HEAD', $from));
    pair(another => 'POST and PUT',          $by->('POST', $from), $by->('PUT', $from));
    pair(same    => 'X-HTTP-Method-Override is ignored',
        $by->('DELETE', $from), $by->('DELETE', $from, 'X-HTTP-Method-Override', 'GET'));
    pair(same    => 'two methods that httpd does not know', $by->('FOO', $from), $by->('BAR', $from));
};

subtest 'hosts' => sub {
    my @there = (port => $httpd->port(4));
    my $at    = sub {
        my ($host, $from) = @_;
        return ['/', @there, host => $host, headers => { 'X-Client' => $from }];
    };
    for my $host ('uno.test', 'ONE.test', 'one.test:8080', 'one.test.', 'x.one.test', 'evil.test',
        '203.0.113.1', '') {
        my $from = fresh();
        pair(same => "one.test and '$host'", $at->('one.test', $from), $at->($host, $from));
    }
    my $from = fresh();
    pair(another => 'one.test and two.test', $at->('one.test', $from), $at->('two.test', $from));
};

subtest 'paths' => sub {
    my $n = 0;
    my @by_path = (port => $httpd->port(1));
    for my $form ('/N/login', '//N//login', '/N/./login', '/N/x/../login', '/N/login/', '/N/login//',
        '/N/LOGIN', '/N/%6Cogin', '/N/%6cogin', '/N/login;x=1', '/N;a=b/login;', '/N\login',
        '/N%5Clogin', '/N/%256Cogin', '/N/%25256Cogin', '/N/login?x=1', '/N/login?',
        '/N/x/%2e%2e/login', '/N/x/%252e%252e/login', '/N/login/.', '/./N/login/x/..', '/N/%252Flogin',
        '/N/x;y/..;z/login', 'http://localhost/N/login') {
        my ($plain, $path) = ('/N/login', $form);
        $n++;
        s/N/case$n/ for $plain, $path;
        pair(same => "/N/login and $form", [$plain, @by_path], [$path, @by_path]);
    }
    for my $form ('/N/login2', '/N/logi', '/N', '/N/login/x', '/N/lo gin', '/N/.login', '/N/login~',
        '/N/%2525login') {
        my ($plain, $path) = ('/N/login', $form);
        $n++;
        s/N/case$n/, s/ /%20/ for $plain, $path;
        pair(another => "/N/login and $form", [$plain, @by_path], [$path, @by_path]);
    }
    my @first = (port => $httpd->port(2));
    pair(same    => 'path:2, two paths below two segments',     ['/a/b/c/d', @first], ['/a/b/x', @first]);
    pair(same    => 'path:2, two spellings of two segments',  ['/e/f/x', @first], ['/E//./F;1', @first]);
    pair(another => 'path:2, second segments that differ',    ['/a/c', @first], ['/a/d', @first]);
    pair(another => 'path:2, one segment and two',     ['/g/h', @first], ['/g', @first]);
    my @exact = (port => $httpd->port(3));
    pair(another => 'RateLimitNormalize -case', ['/q', @exact], ['/Q', @exact]);
    pair(another => 'RateLimitNormalize -params', ['/r', @exact], ['/r;x', @exact]);
    pair(another => 'RateLimitNormalize -trailing', ['/s', @exact], ['/s/', @exact]);
    pair(same    => 'what RateLimitNormalize does not name stays as it was', ['/t', @exact], ['//%74', @exact]);
    pair(same    => 'RateLimitNormalize +case in a section',   ['/folded/u', @exact], ['/folded/U', @exact]);
    pair(another => 'the other settings are inherited', ['/folded/v', @exact], ['/folded/v/', @exact]);
};

subtest 'rules of one name share a count' => sub {
    my $from = fresh();
    my $said = Keys::shares(sub { ask(@{ from($_[0], $from) }) });
    is $said->('/shared/hour', 2),  '404 429', 'unless they have another window';
    is $said->('/shared/fixed', 2), '404 429', 'or another algorithm';
};

done_testing;
