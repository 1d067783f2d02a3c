#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
# Each configuration in OPERATING.md that combines the module with other parts of a site is started as
# it is, and requests show what the text around it says.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";

use Client;
use Documents;
use Examples;
use Httpd;
use Process;
use RedisServer;
use Test::More;
use Windows;

my $operating = Documents->read('conf/OPERATING.md');

# The configuration under a heading.
sub config_under {
    my ($title) = @_;
    my ($example) = grep { $_->[0] eq $title } $operating->examples('apache');
    return $example ? $example->[1] : die "no configuration in $title\n";
}

subtest 'phase=early counts requests that httpd answers before other hooks' => sub {
    my $client = 1;
    for my $phase (qw(access early)) {
        my $host = Httpd->start(modules => ['rewrite'], config => <<"EOT");
RewriteEngine on
RewriteRule ^/forbidden - [F]
RewriteRule ^/gone - [G]
RewriteRule ^/moved /hello.txt [R]
Redirect /sent-on /hello.txt
RateLimit one 1/1d phase=$phase
<Directory \@DOCROOT\@>
    RewriteEngine on
    RewriteRule ^folder - [F]
</Directory>
EOT
        my %status = (forbidden => 403, gone => 410, moved => 302, 'sent-on' => 302);
        for my $path (sort keys %status) {
            is $host->statuses("/$path", 2, from => '127.0.0.' . ++$client),
                "$status{$path} " . ($phase eq 'early' ? 429 : $status{$path}), "$path, phase=$phase";
        }
        is $host->statuses('/folder', 2, from => '127.0.0.99'), '403 429',
            "/folder, rewritten in <Directory>, phase=$phase";
    }
};

subtest 'scripts of other origins' => sub {
    my $origin  = 'Access-Control-Allow-Origin';
    my $backend = Httpd->start(module => 0, modules => ['headers'], files => { 'api/x' => 'x' },
        config => "Header set $origin https://www.example.org\n");
    my $host = Httpd->start(modules => [qw(headers proxy proxy_http)],
        config => config_under('Scripts of other origins (CORS)') . 'ProxyPass /api/ http://127.0.0.1:'
            . $backend->port . "/api/\n");
    Windows::time_left(30, 60);
    my $first = $host->get('/api/x');
    is_deeply [$first->header_all($origin)], ['https://www.example.org'],
        'the origin is allowed once, by the application';
    like $first->header('Access-Control-Expose-Headers'), qr/X-RateLimit-Remaining/,
        'scripts may read the headers of the limit';
    Client->flood(targets => [$host->port], requests => 100, connections => 4, path => '/api/x');
    my $denied = $host->get('/api/x');
    is $denied->status, 429, 'the request is denied';
    is_deeply [$denied->header_all($origin)], ['https://www.example.org'], 'scripts may read the denial';
    like $denied->header('Access-Control-Expose-Headers'), qr/Retry-After/, 'and its Retry-After';
    is $host->request(path => '/api/x', method => 'OPTIONS')->status, 200,
        'a preflight request has another rule';

    my $plain = Httpd->start(modules => ['headers'], config => "Header set $origin *\nRateLimit one 1/1d\n");
    is $plain->request(method => 'OPTIONS')->status . ' ' . $plain->get('/')->status, '200 429',
        'a rule for all methods counts preflight requests';
    is $plain->get('/')->header($origin), undef, 'Header set does not apply to denials';
};

subtest 'cached responses are counted and have the headers of the client' => sub {
    my $cache = <<'EOT';
CacheEnable disk /
CacheRoot @DIR@/run
Header set Cache-Control max-age=60
RateLimit one 3/1d
EOT
    my $start = sub { Httpd->start(modules => [qw(cache cache_disk headers)], config => $cache . $_[0]) };
    my $left  = sub { $_[0]->get('/hello.txt', from => $_[1])->header('X-RateLimit-Remaining') };

    my $host = $start->(config_under('Caches and CDNs'));
    is_deeply [map { $left->($host, $_) } ('127.0.0.2') x 2, ('127.0.0.3') x 2], [2, 1, 2, 1],
        'each client gets its own numbers';
    is $host->statuses('/hello.txt', 3, from => '127.0.0.3'), '200 429 429', 'hits are counted';

    $host = $start->("CacheIgnoreHeaders X-RateLimit-Limit X-RateLimit-Remaining X-RateLimit-Reset\n");
    $left->($host, '127.0.0.2');
    is $left->($host, '127.0.0.3'), undef, 'without the example, headers of a hit can be ignored';
    $host = $start->('');
    is_deeply [map { $left->($host, '127.0.0.2') } 1 .. 5], [(2) x 5], 'or are those of the first client';
};

subtest 'X-Forwarded-For may have a port' => sub {
    my $config = config_under('X-Forwarded-For with a port');
    $config =~ s{10\.0\.0\.0/24}{127.0.0.1} or die "no load balancer\n";
    my $host = Httpd->start(modules => [qw(headers remoteip)], config => "$config\nRateLimit one 1/1d\n");
    my $as = sub { $host->get('/', headers => { 'X-Forwarded-For' => $_[0] })->status };
    is join(' ', map { $as->($_) } '203.0.113.7:40022', '203.0.113.7:40023', '203.0.113.7'), '200 429 429',
        'all ports of an IPv4 address are one client';
    is $as->('203.0.113.8:40022'), 200, 'another address is another client';
    is $as->('192.0.2.1:1, 203.0.113.8:2'), 429, 'the last address of a list is used';
    is join(' ', map { $as->($_) } '[2001:db8::7]:443', '2001:db8::7', '[2001:db8::7]'), '200 429 429',
        'all ports of an IPv6 address are one client';
    is join(' ', map { $as->($_) } '2001:db8:1::1:7', '2001:db8:1::1'), '200 429',
        'without brackets an IPv6 address has no port';

    my $late = Httpd->start(modules => [qw(remoteip headers)], config => "$config\nRateLimit one 1/1d\n");
    my @got = map { $late->get('/', headers => { 'X-Forwarded-For' => "203.0.113.$_:1" })->status } 1, 2;
    is "@got", '200 429', 'if mod_remoteip is loaded before mod_headers, all clients are one';
};

subtest 'many sites in one virtual host have their own counts' => sub {
    my $config = config_under('Many sites in one virtual host');
    $config =~ s{600/1m}{2/1d} && $config =~ s{300/1m}{4/1d} or die "other quotas\n";
    my $host = Httpd->start(modules => ['vhost_alias'],
        files => { map { ("../www/$_.test/x" => $_) } qw(a b) }, config => $config . <<'EOT');
VirtualDocumentRoot @DIR@/www/%0
<Directory @DIR@/www>
    Require all granted
</Directory>
RateLimit by-host 2/1d key=host path=/by-host
EOT
    my $n = 1;
    my $of = sub { $host->get($_[1] // '/x', host => $_[0], from => '127.0.1.' . $n++)->status };
    is join(' ', map { $of->($_) } qw(a.test A.Test a.test:80 a.test.)), '200 200 429 429',
        'all spellings of a site share a count';
    is $of->('b.test'), 200, 'another site has another count';
    is join(' ', map { $host->get('/x', host => "h$_.test")->status } 1 .. 6), '404 404 404 404 429 429',
        'unknown names are limited together';
    is join(' ', map { $of->($_, '/by-host') } qw(c.test d.test e.test)), '404 404 429',
        'key=host counts all sites together';
};

subtest 'a site that proxies to itself charges each client once' => sub {
    my $inner = config_under('A site that proxies to itself');
    $inner =~ s/8080/\@PORT2\@/ or die "no port\n";
    my $start = sub {
        my ($inner, $more) = @_;
        return Httpd->start(modules => [qw(proxy proxy_http remoteip)], ports => 2,
            files => { 'app/x' => 'x' }, config => <<"EOT");
RateLimit one 3/1d
$more
<VirtualHost *:\@PORT\@>
    ProxyPass /app/ http://127.0.0.1:\@PORT2\@/app/
</VirtualHost>
$inner
EOT
    };
    my $tried = sub { my ($host, $last) = @_; $host->statuses('/app/x', 4, from => "127.0.0.$last") };
    my $host = $start->($inner, '');
    is $tried->($host, $_), '200 200 200 429', "client $_ has its quota" for 2, 3;

    $host = $start->('', '');
    is $tried->($host, 2), '200 200 200 429', 'without the example the first client has its quota';
    is $tried->($host, 3), '429 429 429 429', 'and the next client is denied as 127.0.0.1';
    $host = $start->('', "RemoteIPHeader X-Forwarded-For\nRemoteIPInternalProxy 127.0.0.1\n");
    is $tried->($host, 2), '200 429 429 429', 'or each request is charged twice';
};

subtest 'farms that share a Redis count together' => sub {
    my $redis = RedisServer->start;
    my @farm = map {
        Httpd->start(redis => $redis, config => "RateLimitRedis \@REDIS\@\n$Examples::LONG_TIMEOUT\n$_\nRateLimit one 1/1d\n")
    } '', '', 'RateLimitRedisPrefix shop', 'RateLimitScope shop';
    is join(' ', map { $_->get('/')->status } @farm), '200 429 200 200',
        'unless they have different prefixes or scopes';
};

subtest 'the password is changed without a gap' => sub {
    my ($user, $commands) = map { $_->[1] } grep { $_->[1] =~ /ACL SETUSER/ } $operating->examples('sh');
    my ($add, $drop) = map { [map { s/^'|'$//gr } split] } $commands =~ /^redis-cli (ACL.*)$/mg;
    $user =~ s/\\\n//;    # two lines
    my $redis = RedisServer->start;
    my (undef, @user) = map { s/^'|'$//gr =~ s/PASSWORD/OLD/r } split ' ', $user;
    $redis->cmd(@user);
    my $host = Httpd->start(redis => $redis, modules => ['headers'], files => { '../secret' => "limiter OLD\n" },
        config => <<"EOT");
RateLimitRedis \@REDIS\@
RateLimitRedisAuth file:\@DIR\@/secret
$Examples::LONG_TIMEOUT
RateLimit one 100/1d
RateLimitNotes all
Header always set X-Source %{RATELIMIT_SOURCE}e
EOT
    my $source = sub { $host->get('/')->header('X-Source') };
    is $source->(), 'redis', 'Redis decides with the old password';
    $redis->cmd(@$add);
    $host->file($host->dir . '/secret', "limiter NEW\n");
    is $source->(), 'redis', 'it decides while it accepts both passwords';
    $host->graceful;
    $redis->cmd(@$drop);
    $redis->cmd('CLIENT', 'KILL', 'TYPE', 'normal', 'SKIPME', 'yes');
    Process::wait_until(sub { $source->() eq 'redis' }, what => 'Redis to decide', within => 20);
    pass 'it decides with the new one';
    my ($refused) = $host->error_log_lines(qr/WRONGPASS|NOAUTH/);
    is $refused, undef, 'no password was refused';
};

done_testing;
