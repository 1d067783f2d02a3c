#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
# A rule with phase=early decides before httpd looks at the path, so it also counts requests that httpd
# answers or refuses before the hooks of other phases run. Apart from that it works as any other rule: it
# is charged once in a chain of redirects, given back if a later rule denies, and denies with the same
# response.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";

use Client qw(fresh_address);
use Http2;
use Httpd;
use JSON::PP;
use Process;
use RedisServer;
use Test::More;


# The response to these bytes.
sub raw {
    my ($httpd, $from, $bytes, %opt) = @_;
    return Client->request(port => $httpd->port, from => $from, raw => $bytes, close => 1, %opt);
}

my $pages = <<'EOF';
LogFormat "%>s %U %{RATELIMIT_VERDICT}n %{RATELIMIT_RULE}n" early
CustomLog @DIR@/access.log early
Redirect /moved http://elsewhere.test/
TraceEnable on
<Location /forbidden>
    Require all denied
</Location>
<Location /dropped>
    RateLimit off
</Location>
EOF

# Requests that no rule in the access phase sees: a name, the status without a limit, the bytes sent.
my @unseen = (
    ['a server-level Redirect', 302, "GET /moved HTTP/1.1\r\nHost: a\r\n\r\n"],
    ['OPTIONS *',               200, "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n"],
    ['TRACE',                   200, "TRACE / HTTP/1.1\r\nHost: a\r\n\r\n"],
    ['a path above the root',   400, "GET /../../etc/passwd HTTP/1.1\r\nHost: a\r\n\r\n"],
    ['a bad escape',            400, "GET /%zz HTTP/1.1\r\nHost: a\r\n\r\n"],
    ['an encoded slash',        404, "GET /a%2fb HTTP/1.1\r\nHost: a\r\n\r\n"],
    ['an encoded NUL',          404, "GET /a%00b HTTP/1.1\r\nHost: a\r\n\r\n"],
);
my @seen = (
    ['a missing file', 404, "GET /nothing HTTP/1.1\r\nHost: a\r\n\r\n"],
    ['a forbidden path', 403, "GET /forbidden HTTP/1.1\r\nHost: a\r\n\r\n"],
    ['an existing file',     200, "GET /hello.txt HTTP/1.1\r\nHost: a\r\n\r\n"],
    ['a section without rules', 404, "GET /dropped HTTP/1.1\r\nHost: a\r\n\r\n"],
);

for my $mpm (qw(event prefork)) {
    subtest "requests that httpd answers before its access hooks are counted ($mpm)" => sub {
        my $later = Httpd->start(mpm => $mpm, config => "RateLimit all 0/1d\n$pages");
        my $early = Httpd->start(mpm => $mpm, config => "RateLimit all 1/1d phase=early\n$pages");
        for my $case (@unseen, @seen) {
            my ($what, $status, $bytes) = @$case;
            my $from = fresh_address();
            is raw($early, $from, $bytes)->status, $status, "$what is answered the first time";
            is raw($early, $from, $bytes)->status, 429, 'and denied the second time';
        }
        is raw($later, fresh_address(), $_->[2])->status, $_->[1], "phase=access never sees $_->[0]" for @unseen;
        my $logged = sub { return scalar(() = $early->text('access.log') =~ /^429 .* deny all$/mg) };
        eval { Process::wait_until(sub { $logged->() >= @unseen + @seen }, what => 'the last line') };
        is $logged->(), @unseen + @seen, 'each denial is in the access log, with its notes';
    };
}

my $config = <<'EOF';
RemoteIPHeader X-Client
RemoteIPInternalProxy 127.0.2.1
SetEnvIf X-Tenant "^(.+)$" TENANT=$1
RateLimitNotes all
RewriteEngine on
RewriteRule ^/pretty$ /login.html [PT]
Header always set X-Rule %{RATELIMIT_RULE}e
RateLimit early 3/1d phase=early
RateLimit tenant 2/1d phase=early key=env:TENANT path=/tenant/**
RateLimit login 1/1d phase=early path=/Login methods=POST
RateLimit busy 2/1d phase=early cost=%{HTTP:X-Cost} when="%{HTTP:X-Busy} == 'yes'" status=503
<Location /late>
    RateLimit late 0/1d
</Location>
<Location /more>
    RateLimit early 100/1d
</Location>
<VirtualHost *:@PORT2@>
    ServerName one.test
    RateLimit early 1/1d phase=early
    ErrorDocument 429 /sorry.html
</VirtualHost>
<VirtualHost *:@PORT2@>
    ServerName two.test
    RateLimit off
</VirtualHost>
EOF

sub check {
    my (%opt) = @_;
    my $httpd = Httpd->start(ports => 2, modules => [qw(headers remoteip setenvif rewrite)], %opt,
        files => { 'sorry.html' => 'sorry' }, config => ($opt{shared} || '') . $config);
    my $left = sub { $httpd->get('/hello.txt', @_)->header('X-RateLimit-Remaining') };

    subtest 'a request is charged once in a chain of redirects' => sub {
        for my $path ('/', '/dir/', '/pretty') {
            my @from = (from => fresh_address());
            my $answer = $httpd->get($path, @from);
            is $answer->status, 200, $path;
            is $answer->header('X-RateLimit-Remaining'), 2, 'it costs one unit';
            is scalar($answer->header_all('X-RateLimit-Remaining')), 1, 'the header is sent once';
            is $left->(@from), 1, 'the next request finds one unit less, not two';
        }
        my @from = (from => fresh_address());
        is $httpd->get('/more', @from)->header('X-RateLimit-Remaining'), 2,
            'a section with the same rule and a larger quota does not raise what is left';
        is $left->(@from), 1, 'and does not charge the counter twice';
    };

    subtest 'a request that a later rule denies is given back' => sub {
        my @from = (from => fresh_address());
        is $httpd->statuses('/late', 5, @from), '429 429 429 429 429', 'the later rule denies';
        Process::wait_until(sub {
            my $there = $opt{redis}->cmd('GET', "rl:{ip:$from[1]}:early:sliding-window:1d");
            return $there && RedisServer::units($there) == 0;
        }, what => 'the units to be given back') if $opt{shared};
        is $left->(@from), 2, 'the denials cost nothing';
    };

    subtest 'keys and conditions work in the early phase' => sub {
        my @via = (from => '127.0.2.1');
        is $httpd->statuses('/hello.txt', 4, @via, headers => { 'X-Client' => '192.0.2.1' }), '200 200 200 429',
            'the address is the one that mod_remoteip sets';
        is $httpd->statuses('/hello.txt', 1, @via, headers => { 'X-Client' => '192.0.2.2' }), '200',
            'another address has its own count';
        my @tenant = (headers => { 'X-Tenant' => 't' });
        is join(' ', map { $httpd->statuses('/tenant/x', 1, from => fresh_address(), @tenant) } 1 .. 3),
            '404 404 429', 'SetEnvIf has run before';
        for my $spelling ('/login', '//LOGIN', '/%6Cogin', '/x/../login/', '/login;x=1', '/%256Cogin?x') {
            my @post = (from => fresh_address(), method => 'POST');
            isnt $httpd->get('/login', @post)->status, 429, 'path= matches the path as it was sent: /login';
            is $httpd->get($spelling, @post)->status, 429, "and shares its count with $spelling";
        }
        my @busy = (from => fresh_address(), headers => { 'X-Busy' => 'yes', 'X-Cost' => 2 });
        is $httpd->statuses('/hello.txt', 2, @busy), '200 503', 'when=, cost= and status= apply';
        is $httpd->get('/hello.txt', @busy)->header('X-Rule'), 'busy', 'and the notes are set';
    };

    subtest 'virtual hosts have their own early rules' => sub {
        my @at = (from => fresh_address(), port => $httpd->port(1));
        is $httpd->statuses('/hello.txt', 2, @at, host => 'one.test'), '200 429',
            'a virtual host can have a smaller quota';
        my $denied = $httpd->get('/nothing', @at, host => 'one.test');
        is $denied->status . ' ' . $denied->body, '429 sorry', 'its ErrorDocument is sent';
        is scalar($denied->header_all('Retry-After')), 1, 'with Retry-After once';
        is $httpd->statuses('/hello.txt', 5, @at, host => 'two.test'), '200 200 200 200 200',
            'a virtual host can drop the rule';
        is $httpd->statuses('/hello.txt', 1, @at, host => 'nowhere.test'), '429',
            'an unknown Host gets the rules of the first virtual host';
    };

    subtest 'a denial keeps the connection in a usable state' => sub {
        my $kept = Client->new(port => $httpd->port, from => fresh_address());
        is join(' ', map { $kept->request(path => '/hello.txt')->status } 1 .. 6),
            '200 200 200 429 429 429', 'a kept connection goes on after a denial';
        my $pipe = Client->connect(port => $httpd->port, from => $kept->{from});
        $pipe->syswrite("GET /a HTTP/1.1\r\nHost: a\r\n\r\nGET /b HTTP/1.1\r\nHost: a\r\n"
            . "Connection: close\r\n\r\n");
        my $pair = do { local $/; <$pipe> } // '';
        is scalar(() = $pair =~ m{^HTTP/1\.1 429 }mg), 2, 'both pipelined requests are answered';
        my $from = fresh_address();
        my $denied;
        for (1 .. 4) {
            $denied = $httpd->request(path => '/hello.txt', from => $from, method => 'POST', body => 'x' x 10);
        }
        is $denied->status, 429, 'a POST is denied';
        is decode_json($denied->body)->{error}, 'rate_limit_exceeded', 'and gets the whole body of the denial';
        my $waits = Client->request(port => $httpd->port, from => $from, timeout => 10,
            raw => "POST /hello.txt HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\nxxx");
        is $waits->status, 429, 'a denial does not wait for the request body';
        is lc($waits->header('Connection') // ''), 'close', 'and closes the connection instead';
        my $both = Client->connect(port => $httpd->port, from => $from);
        $both->syswrite("POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 34\r\n\r\n"
            . "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n");
        my $answers = do { local $/; <$both> } // '';
        is scalar(() = $answers =~ m{^HTTP/1\.1 }mg), 1, 'a request body is never read as a request';
    };
}

subtest 'by this host' => sub { check() };

my $redis = RedisServer->start;
for my $mpm (qw(event prefork)) {
    subtest "by Redis ($mpm)" => sub {
        $redis->cmd('FLUSHALL');
        check(mpm => $mpm, redis => $redis,
            shared => "RateLimitRedis \@REDIS\@\nRateLimitRedisTimeout 10s connect=10s\n");
    };
}

subtest 'responses of mod_cache are counted' => sub {
    my $httpd = Httpd->start(modules => [qw(cache cache_disk)], config => <<'EOF');
CacheRoot @DIR@/run
CacheEnable disk /
CacheHeader on
CacheMinExpire 3600
RateLimit early 3/1d phase=early
RateLimit later 1/1d phase=access
EOF
    Process::wait_until(sub {
        ($httpd->get('/hello.txt', from => fresh_address())->header('X-Cache') // '') =~ /^HIT/;
    }, what => 'a page in the cache');
    my @answers = map { $httpd->get('/hello.txt', from => '127.0.2.252') } 1 .. 4;
    is join(' ', map { $_->status } @answers), '200 200 200 429', 'phase=early counts them, phase=access does not';
    like $answers[2]->header('X-Cache'), qr/^HIT/, 'the last one before the denial came from the cache';
};

subtest 'every stream of HTTP/2 is counted' => sub {
    my $httpd = Httpd->start(modules => ['http2'], config => <<'EOF');
Protocols h2c http/1.1
RateLimit early 3/1d phase=early
EOF
    my $h2 = Http2->new(port => $httpd->port, from => '127.0.2.250');
    for my $n (1 .. 5) {
        my $id     = $h2->ask(path => '/nothing');
        my $answer = $h2->answers($id)->{$id};
        is $answer->{status}, $n <= 3 ? 404 : 429, "stream $n has the expected status";
        like $answer->{body}, qr/^\{.*"error":"rate_limit_exceeded".*\}\n$/, 'and the body of the denial' if $n > 3;
    }
    my @open = map { $h2->ask(path => '/', method => 'POST', open => 1) } 1 .. 4;
    my $said = $h2->answers(@open);
    is join(' ', map { $said->{$_}{status} } @open), '429 429 429 429',
        'streams whose request bodies never arrive are denied at once';
    is $httpd->get('/hello.txt', from => '127.0.2.250')->status, 429, 'HTTP/1.1 shares the count';
    $h2 = Http2->new(port => $httpd->port, from => '127.0.2.251');
    my @ids = map { $h2->ask(path => '/hello.txt') } 1 .. 20;
    my %count;
    $count{ $_->{status} }++ for values %{ $h2->answers(@ids) };
    is_deeply \%count, { 200 => 3, 429 => 17 }, 'concurrent streams are counted once each';
};

done_testing;
