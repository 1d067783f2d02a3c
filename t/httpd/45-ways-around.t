#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
# Every way around a rate limit that has been reported for any limiter is closed. Each way has a name in the
# table below, is tried with the bytes that a client would send, counted by this host and by Redis, and the
# test fails if a way was not tried. The table names the files that test a way more closely.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";

use Client;
use Digest::SHA qw(sha1_base64);
use Httpd;
use MIME::Base64 qw(encode_base64);
use RedisServer;
use Status;
use Test::More;
use Time::HiRes qw(sleep time);

my %ways = (
    '//'                      => '40-keys.t, paths; t/unit/path.c',
    '/./'                     => '40-keys.t, paths',
    '/a/../b'                 => '40-keys.t, paths',
    'trailing /'              => '40-keys.t, paths',
    'case'                    => '40-keys.t, paths',
    '%6Cogin'                 => '40-keys.t, paths; t/fuzz/path.c',
    ';x=1'                    => '40-keys.t, paths',
    'query string in the key' => '40-keys.t, paths',
    'backslash'               => '40-keys.t, paths',
    'PATH_INFO'               => '80-examples.t, login.conf',
    'AllowEncodedSlashes NoDecode' => '80-examples.t, login.conf and api-behind-proxy.conf',
    'RewriteRule in a folder' => '25-chain.t, redirects',
    'RewriteRule [PT]'        => '80-examples.t, login.conf',
    'HEAD for GET'            => '40-keys.t, methods',
    'method override'         => '40-keys.t, methods',
    'fresh path segment'      => '40-keys.t, path:2',
    'spoofed X-Forwarded-For' => '40-keys.t, addresses and networks',
    '::ffff:a.b.c.d'          => '40-keys.t, addresses and networks',
    'rotating within a /64'   => '40-keys.t, addresses and networks',
    'omitting the API key'    => '40-keys.t, headers, cookies and expressions',
    'cheaper than the cached denial' => '13-options.t, cost=',
    'dearer than the quota'   => '13-options.t, cost=; 17-exceptions.t, denials that start no block',
    'random API keys'         => '10-config.t warns',
    'attacker-chosen Host'    => '40-keys.t, hosts',
    'Satisfy Any'             => '20-once.t, Satisfy Any',
    'Satisfy Any, Deny from all' => '20-once.t, Satisfy Any',
    'DirectoryIndex'          => '20-once.t, 25-chain.t',
    'MultiViews'              => '20-once.t',
    'FallbackResource'        => '20-once.t',
    'ErrorDocument'           => '20-once.t, the error document of a denial',
    'internal redirects'      => '20-once.t, 25-chain.t',
    'flooding the table'      => '51-local.t, the smallest size',
    'killing Redis'           => '60-failure.t, 62-hostile.t',
    'a graceful reload'       => '51-local.t, a graceful restart under load',
    'a restart'               => '51-local.t, killed children',
    'refunds after the window' => '25-chain.t; t/unit/limiter.c',
    'collisions in the table' => 'only here: each server has another seed',
);
my %tried;

my $config = <<'EOF' . Status::CONFIG;
RateLimitSharedMemory 64K
RemoteIPHeader X-Forwarded-For
RemoteIPInternalProxy 127.0.7.1
RateLimit login 1/1d path=/login
RateLimit get 1/1d path=/get methods=GET
RateLimit post 1/1d path=/post methods=POST
RateLimit api 3/1d path=/api/**
<Location /ip>
    RateLimit ip 1/1d
</Location>
<Location /key>
    RateLimit key 2/1d key=header:X-Api-Key|ip
    RateLimit key-ip 5/1d
</Location>
<Location /cost>
    RateLimit cost 10/1d cost=%{HTTP:X-Cost}
</Location>
<Location /any>
    Satisfy Any
    Require all granted
    RateLimit any 1/1d
</Location>
<Location /deny>
    Satisfy Any
    Order deny,allow
    Deny from all
    AuthType Basic
    AuthName test
    AuthUserFile @DOCROOT@/users
    Require valid-user
    RateLimit deny 1/1d
</Location>
<Directory @DOCROOT@/sub>
    Options +MultiViews
    RewriteEngine on
    RewriteRule ^pretty$ /sub/doc.html [L]
    <Files index.html>
        RateLimit index 1/1d
    </Files>
    <Files doc.html>
        RateLimit doc 1/1d
    </Files>
</Directory>
<Directory @DOCROOT@/fall>
    FallbackResource /fall/app.html
    <Files app.html>
        RateLimit app 1/1d
    </Files>
</Directory>
<Location /document>
    RateLimit document 1/1d
    ErrorDocument 429 /hello.txt
    ErrorDocument 404 /hello.txt
</Location>
<Location /refund>
    RateLimit base 5/500ms algorithm=fixed-window
    RateLimit hold 10/5s algorithm=leaky-bucket burst=1 delay=5s
    RateLimit closed 0/1d phase=auth
</Location>
<Location /refund/kept>
    RateLimit base off
    RateLimit closed off
</Location>
<Location /refund/plain>
    RateLimit hold off
    RateLimit closed off
</Location>
<Location /crowd>
    RateLimit crowd 1000/1d
</Location>
<Location /once>
    RateLimit once 1/1d
</Location>
<VirtualHost *:@PORT2@>
    RateLimit page 1/1d key=path
</VirtualHost>
<VirtualHost *:@PORT3@>
    RateLimit first 3/1d key=path:1
</VirtualHost>
<VirtualHost *:@PORT4@>
    ServerName one.test
    RateLimit host 1/1d key=host+ip
</VirtualHost>
<VirtualHost *:@PORT5@>
    AllowEncodedSlashes NoDecode
    RateLimit form 1/1d path=/**/form/**
    Header always set X-Form 1 "expr=%{RATELIMIT_PATH} =~ m#/form#"
    CustomLog @DIR@/form.log "%r" "expr=%{RATELIMIT_PATH} =~ m#/form#"
    <If "%{RATELIMIT_PATH} =~ m#/section$#">
        RateLimit section 1/1d
    </If>
</VirtualHost>
<VirtualHost *:@PORT6@>
    RewriteEngine on
    RewriteRule ^ /hello.txt [PT]
    RateLimit sent 1/1d path=/**/sent phase=early
</VirtualHost>
<VirtualHost *:@PORT7@>
    RateLimit signin 1/1d path=/**/signin phase=early
    <Directory @DOCROOT@/sub>
        RewriteRule ^secret$ /signin [L]
    </Directory>
</VirtualHost>
EOF

my %files = (users => 'alice:{SHA}' . sha1_base64('secret') . "=\n",
    map { ($_ => 'x') } qw(sub/index.html sub/doc.html fall/app.html));
my $client = 1;

# An address that no test has used yet, so its whole quota is left.
sub fresh { $client++; return sprintf '127.6.%d.%d', $client / 200, 1 + $client % 200 }

my ($httpd, $redis);

# The status of the response to these bytes, in which \n stands for \r\n.
sub bytes {
    my ($bytes, %opt) = @_;
    $bytes =~ s/\n/\r\n/g;
    my ($method) = $bytes =~ /^(\w+)/;
    return Client->request(port => $httpd->port($opt{at} // 0), from => $opt{from}, raw => $bytes,
        method => $method)->status;
}

sub get {
    my ($path, %opt) = @_;
    return bytes("GET $path HTTP/1.1\nHost: localhost\n" . ($opt{with} // '') . "Connection: close\n\n", %opt);
}

# Checks the result of a way and notes that it was tried.
sub way {
    my ($way, $got, $expected, $what) = @_;
    $tried{$way}++;
    is $got, $expected, $what ? "$way: $what" : $way;
}

sub spellings {
    my %spelling = (
        '//'                      => ['//login', '///login//'],
        '/./'                     => ['/./login', '/login/.', '/%2e/login'],
        '/a/../b'                 => ['/a/../login', '/login/x/..', '/a/%2e%2e/login', '/a/.%2E/login'],
        'trailing /'              => ['/login/', '/login//'],
        'case'                    => ['/Login', '/LOGIN'],
        '%6Cogin'                 => ['/%6Cogin', '/%6c%6F%67%69%6e', '/%256Cogin'],
        ';x=1'                    => ['/login;x=1', '/login;', '/;a/login;b=c;d'],
        'query string in the key' => ['/login?x=1', '/login?', '/login?/../x'],
        'backslash'               => ['/x\\..\\login', '\\login', '/%5Clogin'],
    );
    for my $way (sort keys %spelling) {
        for my $path (@{ $spelling{$way} }) {
            $path = "/$path" if $path =~ /^\\/;
            my $from = fresh();
            my $ok = get('/login', from => $from) . ' ' . get($path, from => $from);
            way($way, $ok, '404 429', "path= and $path");
            # all clients share the count of a page, so each spelling gets its own page
            (my $page = $path) =~ s/^/\/n$client/;
            my $plain = get("/n$client/login", from => $from, at => 1);
            way($way, "$plain " . get($page, from => $from, at => 1), '404 429', "key=path and $page");
        }
    }
}

# An application may route by PATH_INFO, decode what httpd left encoded, or serve a path that httpd has
# rewritten.
sub applications {
    my @tries = (
        ['PATH_INFO', 4, '/form', qw(/index.php/form /hello.txt/form /form/x /index.php/Form;a=b)],
        ['PATH_INFO', 4, '/section', qw(/index.php/section /a/b/SECTION/)],
        ['AllowEncodedSlashes NoDecode', 4, '/form',
            qw(/api%2Fform /api%2fform /x%2F..%2Fform /api%252Fform /%2Fform)],
        ['AllowEncodedSlashes NoDecode', 4, '/section',
            qw(/api%2Fsection /x/..;/section /x%2F..;%2Fsection)],
        ['RewriteRule in a folder', 6, '/signin', qw(/sub/signin /SIGNIN/ /sub/secret)],
        ['RewriteRule [PT]', 5, '/sent', qw(/SENT //sent /index.php/sent /x%2Fsent /x/../sent)],
    );
    for my $try (@tries) {
        my ($way, $at, $first, @others) = @$try;
        my $from = fresh();
        isnt get($first, from => $from, at => $at), 429, "$first passes once";
        way($way, get($_, from => $from, at => $at), 429, $_) for @others;
    }
    my @other = map { get($_, from => fresh(), at => 4) } ('/other/x') x 2;
    is "@other", '404 404', 'another path is not limited';
    is get('/' . 'a' x 9000, from => fresh(), at => 4), 414,
        'a request line that is too long is answered, with expressions over its missing path in a log and a header';
    is scalar($httpd->crashes), 0, 'and crashes no child';
}

sub methods {
    my $from = fresh();
    get('/get', from => $from);
    way('HEAD for GET', bytes("HEAD /get HTTP/1.1\nHost: a\n\n", from => $from), 429);
    $from = fresh();
    get('/post', from => $from);
    my $post = "POST /post HTTP/1.1\nHost: a\nContent-Length: 0\n";
    is bytes("$post\n", from => $from), 404, 'the first POST passes';
    for my $name ('X-HTTP-Method-Override', 'X-HTTP-Method', 'X-Method-Override') {
        way('method override', bytes("$post$name: GET\n\n", from => $from), 429, $name);
    }
    way('method override', bytes("$post\n" =~ s/POST/post/r, from => $from), 429, 'post');
    way('method override', bytes("POST /post?_method=GET HTTP/1.1\nHost: a\nContent-Length: 0\n\n",
        from => $from), 429, '_method=');
}

sub paths {
    my $from = fresh();
    my @got = map { get("/api/$_/" . rand, from => $from) } 1 .. 20;
    way('fresh path segment', "@got", join(' ', (404) x 3, (429) x 17), 'path=');
    my $first = "/first$client";
    @got = map { get("$first/$_/" . rand, from => $from, at => 2) } 1 .. 20;
    way('fresh path segment', "@got", join(' ', (404) x 3, (429) x 17), 'key=path:1');
    return if !$redis;
    way('fresh path segment', scalar @{ $redis->cmd('KEYS', "rl:{*$first*}:*") }, 1, 'one key in Redis');
}

sub addresses {
    my $from = fresh();
    get('/ip', from => $from);
    for my $header ('X-Forwarded-For: 192.0.2.1', 'X-Forwarded-For: 127.0.7.1', 'Forwarded: for=192.0.2.2',
        'X-Real-IP: 192.0.2.3', 'True-Client-IP: 192.0.2.4', 'Client-IP: 192.0.2.5',
        'X-Forwarded-For: ', "X-Forwarded-For: 192.0.2.6\nX-Forwarded-For: 192.0.2.7") {
        way('spoofed X-Forwarded-For', get('/ip', from => $from, with => "$header\n"), 429,
            $header =~ s/\n/, /r);
    }
    my $net = $client++;
    my $as = sub { get('/ip', from => '127.0.7.1', with => "X-Forwarded-For: $_[0]\n") };
    my $host = $redis ? 10 : 20;
    $as->("203.0.113.$host");
    way('spoofed X-Forwarded-For', $as->("192.0.2.$_, 203.0.113.$host"), 429,
        "in front of the address from the load balancer ($_)") for 1 .. 3;
    way('::ffff:a.b.c.d', $as->("::ffff:203.0.113.$host"), 429, 'the mapped address is the same client');
    $host++;
    way('::ffff:a.b.c.d', $as->("::ffff:203.0.113.$host"), 404, 'another mapped address is not');
    way('::ffff:a.b.c.d', $as->("::FFFF:203.0.113.$host"), 429, 'upper case is the same');
    way('::ffff:a.b.c.d', $as->("203.0.113.$host"), 429, 'the plain form is the same');
    my @rotating = map { $as->(sprintf '2001:db8:%x:1:%x::%x', $net, $_, $_) } 1 .. 10;
    way('rotating within a /64', "@rotating", join ' ', 404, (429) x 9);
}

sub keys_of_clients {
    my $from = fresh();
    my @got = map { get('/key', from => $from) } 1 .. 4;
    way('omitting the API key', "@got", '404 404 429 429');
    way('omitting the API key', get('/key', from => $from, with => "X-Api-Key:\n"), 429, 'an empty key');
    way('omitting the API key', get('/key', from => $from, with => "X_Api_Key: x\n"), 429, 'a misspelt header');
    $from = fresh();
    @got = map { get('/key', from => $from, with => "X-Api-Key: " . rand() . "\n") } 1 .. 20;
    way('random API keys', "@got", join(' ', (404) x 5, (429) x 15), 'the rule by address beside it limits the client');
    $from = fresh();
    my $one = "GET / HTTP/1.1\nHost: one.test\n\n";
    is bytes($one, from => $from, at => 3), 200, 'the first request passes';
    for my $host ('evil.test', 'one.test:81', 'ONE.test', 'one.test.', 'h' . int(rand 1e9) . '.test') {
        way('attacker-chosen Host', bytes($one =~ s/one\.test/$host/r, from => $from, at => 3), 429, $host);
    }
    way('attacker-chosen Host', bytes("GET http://two.test/ HTTP/1.1\nHost: x\n\n", from => $from, at => 3),
        429, 'in the request line');
    way('attacker-chosen Host', bytes("GET / HTTP/1.0\n\n", from => $from, at => 3), 429, 'no Host at all');
}

sub costs {
    my $from = fresh();
    my $cost = sub { get('/cost', from => $from, with => "X-Cost: $_[0]\n") };
    is $cost->(7), 404, 'seven of ten are used';
    way('dearer than the quota', $cost->(11), 429);
    way('dearer than the quota', $cost->('99999999999999999999'), 429, 'a cost of 20 digits');
    my @denied = map { $cost->(4) } 1 .. 3;
    is "@denied", '429 429 429', 'a cost of four does not fit';
    way('cheaper than the cached denial', join(' ', map { $cost->($_) } 3, 1), '404 429',
        'a cost of three fits and passes, then a cost of one does not');
    way('cheaper than the cached denial', $cost->(-5), 429, 'a negative cost gives nothing back');
}

sub httpds_own {
    my $from = fresh();
    my $basic = 'Authorization: Basic ' . encode_base64('alice:secret', '') . "\n";
    way('Satisfy Any', join(' ', map { get('/any/x', from => $from) } 1 .. 3), '404 429 429');
    way('Satisfy Any', get('/any/x', from => $from, with => $basic), 429, 'with a password');
    way('Satisfy Any, Deny from all',
        join(' ', map { get('/deny/x', from => $from, with => $basic) } 1 .. 3), '404 429 429');
    way('Satisfy Any, Deny from all', get('/deny/x', from => $from), 429, 'without a password');
    my %reached = (DirectoryIndex => ['/sub/', '/sub//', '/sub/.', '/sub/?x'],
        MultiViews => ['/sub/doc', '/sub/doc.html'], FallbackResource => ['/fall/any', '/fall/x/y', '/fall/app.html'],
        'internal redirects' => ['/sub/pretty', '/sub/doc']);
    for my $way (sort keys %reached) {
        my ($first, @others) = @{ $reached{$way} };
        $from = fresh();
        is get($first, from => $from), 200, "$first passes once";
        way($way, get($_, from => $from), 429, $_) for $first, @others;
    }
    $from = fresh();
    way('ErrorDocument', join(' ', map { get('/document', from => $from) } 1 .. 3), '404 429 429',
        'that of the denial');
    way('ErrorDocument', get('/document/other', from => $from), 429, 'that of a missing page');
}

# Requests are charged, delayed, and denied when the window is over. Their charge must not be given back to a
# later window.
sub refunds {
    my $from = fresh();
    is get('/refund/kept', from => $from), 404, 'one passes at once, so the next ones are delayed';
    my @delayed = map { Client->connect(port => $httpd->port, from => $from) } 1 .. 5;
    $_->syswrite("GET /refund/x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n") for @delayed;
    my $window = sub { int(2 * $_[0]) };
    my $now    = $window->(time);
    sleep 0.01 while $window->(time) == $now;
    my $plain = Client->new(port => $httpd->port, from => $from);
    my ($start, $passed) = (time, 0);
    while (time < $start + 2.6) {
        $passed++ if $plain->request(path => '/refund/plain/x')->status == 404;
    }
    # the clock of the test may differ a little from that of the counter
    my $windows = $window->(time + 0.02) - $window->($start) + 1;
    cmp_ok $passed, '<=', 5 * $windows, "refunds after the window: only $passed passed in $windows windows";
    cmp_ok $passed, '>=', 5, 'at least one quota passed';
    is join(' ', map { (<$_> // '') =~ m{^HTTP/1\.1 (\d+)} } @delayed), '429 429 429 429 429',
        'the delayed requests were denied';
    $tried{'refunds after the window'}++;
}

# Many clients behind a load balancer.
sub crowd {
    my ($path) = @_;
    my $capacity = Status->of($httpd)->{LocalCapacity};
    my $sum = Client->flood(targets => [$httpd->port], connections => 16, requests => 2 * $capacity,
        from => '127.0.7.1', path => $path,
        headers => sub { { 'X-Forwarded-For' => sprintf '10.%d.%d.1', $_[0] / 256, $_[0] % 256 } });
    return $sum->{status}{404};
}

sub floods {
    my $from = fresh();
    is get('/ip', from => $from) . ' ' . get('/ip', from => $from), '404 429', 'a client is denied';
    my $before = Status->of($httpd)->{LocalEvictions};
    cmp_ok crowd('/crowd'), '>', 500, 'a crowd passes';
    my $evicted = Status->of($httpd)->{LocalEvictions} - $before;
    cmp_ok $evicted, '>', 0, 'and overfills the table';
    way('flooding the table', get('/ip', from => $from), 429);
    $httpd->graceful;
    way('a graceful reload', get('/ip', from => $from), 429);
    return if !$redis;
    $httpd->stop;
    $httpd = start();
    way('a restart', get('/ip', from => $from), 429);
    $redis->kill9;
    way('killing Redis', get('/ip', from => $from), 429, 'a denied client stays denied');
    my @got = map { get('/ip', from => $from = fresh()), get('/ip', from => $from) } 1 .. 3;
    way('killing Redis', "@got", '404 429 404 429 404 429', 'other clients are counted by this host');
}

sub start {
    return Httpd->start(
        redis => $redis, ports => 7, files => \%files,
        modules => [qw(status remoteip access_compat auth_basic authn_file authz_user mime negotiation
            rewrite headers)],
        config  => ($redis ? "RateLimitRedis \@REDIS\@\nRateLimitRedisTimeout 5s connect=5s\n" : '') . $config,
    );
}

# Clients cannot compute which of them collide in the table: two servers with the same clients forget
# different ones.
sub collisions {
    my @remembered = map {
        $httpd = start();
        crowd('/once');
        join '', map {
            get('/once', from => '127.0.7.1', with => "X-Forwarded-For: 10.0.$_.1\n") == 429 ? 1 : 0
        } 1 .. 100;
    } 1, 2;
    cmp_ok $_ =~ tr/0//, '>', 5, 'a table that is too small forgets some clients' for @remembered;
    $tried{'collisions in the table'}++;
    isnt $remembered[0], $remembered[1], 'collisions in the table: two servers forget different clients';
}

subtest 'collisions in the table' => \&collisions;

for my $where ('by this host', 'by Redis') {
    $redis = $where eq 'by Redis' ? RedisServer->start : undef;
    $httpd = start();
    subtest "$where: spellings of the path"            => \&spellings;
    subtest "$where: routes of applications"     => \&applications;
    subtest "$where: methods"          => \&methods;
    subtest "$where: fresh path segments"    => \&paths;
    subtest "$where: addresses"         => \&addresses;
    subtest "$where: keys that clients choose" => \&keys_of_clients;
    subtest "$where: costs"       => \&costs;
    subtest "$where: features of httpd"    => \&httpds_own;
    subtest "$where: refunds"             => \&refunds;
    subtest "$where: floods and restarts" => \&floods;
}

is_deeply [sort keys %tried], [sort keys %ways], 'every way was tried';

done_testing;
