#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
# charge-on= counts responses instead of requests, such as failed logins without successful ones. A request
# is pending until its response is known, so concurrent guesses cannot exceed the quota together, and
# concurrent successful logins are at worst told to come back in a second. Pending units are settled
# whatever happens to the client, the child or Redis.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";

use Backend;
use Client qw(fresh_address);
use Digest::SHA qw(sha1_base64);
use Httpd;
use JSON::PP;
use MIME::Base64 qw(encode_base64);
use Process;
use RedisServer;
use Test::More;

my $shared = "RateLimitRedis \@REDIS\@\nRateLimitRedisTimeout 10s connect=10s\n";
my $redis  = RedisServer->start;
my $users  = 'alice:{SHA}' . sha1_base64('secret') . "=\n";

sub with_password { return { Authorization => 'Basic ' . encode_base64("alice:$_[0]", '') } }

my @good  = (headers => with_password('secret'));
my @wrong = (headers => with_password('guess'));

# Sends a request until it gets a final response. A response is sent before its request is settled, so the
# next request may be told to come back in a second.
sub ask {
    my ($httpd, $path, @opt) = @_;
    my $answer;
    Process::wait_until(sub {
        $answer = $httpd->get($path, @opt);
        return $answer->status != 429 || ($answer->header('Retry-After') // 0) != 1;
    }, what => 'the pending request to be settled');
    return $answer;
}

# The statuses of some requests in a row, as text.
sub said {
    my ($httpd, $path, $times, @opt) = @_;
    return join ' ', map { ask($httpd, $path, @opt)->status } 1 .. $times;
}

# The value of a key in Redis: units charged and pending, and the minute of the pending ones.
sub counted {
    my ($from, $rule, $store) = @_;
    my $value = ($store || $redis)->cmd('GET', "rl:{ip:$from}:$rule:sliding-window:1d") // '';
    my ($prev, $cur) = unpack 'x6 V V', $value;
    my ($period, $before, $pending) = length $value == 33 ? unpack 'x21 V V V', $value : (0, 0, 0);
    return { charged => ($prev // 0) + ($cur // 0), pending => $before + $pending, value => $value,
        period => $period };
}

# Waits until the requests of a client are settled.
sub settled {
    my ($from, $rule, $charged) = @_;
    return Process::wait_until(sub {
        my $now = counted($from, $rule);
        return $now->{charged} == $charged && $now->{pending} == 0;
    }, what => "$charged charged and nothing pending");
}

my $auth = <<'EOF';
    AuthType Basic
    AuthName test
    AuthUserFile @DOCROOT@/users
    Require valid-user
EOF
my $config = <<"EOF";
<Location /private>
$auth
    RateLimit guesses 3/1d phase=access charge-on=401
</Location>
<Location /private/closed>
    Require all denied
</Location>
<Location /many>
$auth
    RateLimit many 5/1d phase=access charge-on=401 block=1h
</Location>
<Location /document>
$auth
    ErrorDocument 401 /sorry.html
    RateLimit document 3/1d phase=access charge-on=401
</Location>
<Location /lost>
    RateLimit lost 2/1d charge-on=404,5xx
</Location>
<Location /hard>
    RateLimit hard 1/1d
    RateLimit errors 3/1d charge-on=4xx
</Location>
<Location /after>
    RateLimit errors 3/1d charge-on=4xx
    RateLimit after 1/1d phase=auth
</Location>
<Location /dear>
    RateLimit dear 10/1d charge-on=404 cost=4
</Location>
<Location /fixed>
    RateLimit fixed 2/1d charge-on=404 algorithm=fixed-window
</Location>
<Location /bucket>
    RateLimit bucket 2/1d charge-on=404 algorithm=token-bucket
</Location>
<Directory \@DOCROOT\@/again>
    RewriteEngine on
    RewriteRule ^there\$ /rewritten/x.html [L]
    RewriteRule ^nowhere\$ /rewritten/nothing [L]
    RateLimit rewritten 2/1d phase=access charge-on=404
</Directory>
<Directory \@DOCROOT\@/both>
    RewriteEngine on
    RewriteRule ^there\$ /wall/x.html [L]
    RateLimit both 5/1d phase=access charge-on=404
</Directory>
<Directory \@DOCROOT\@/wall>
    RateLimit both 5/1d phase=access
    RateLimit wall 0/1d phase=auth
</Directory>
RateLimit scan 3/1d phase=early charge-on=404 path=/scan/**
<Directory \@DOCROOT\@/rewritten>
    RewriteEngine on
    RewriteRule ^there\$ /hello.txt [L]
    RewriteRule ^nowhere\$ /nothing [L]
    RateLimit rewritten 2/1d phase=access charge-on=404
</Directory>
EOF

sub host {
    my (%opt) = @_;
    return Httpd->start(
        modules => [qw(auth_basic authn_file authz_user rewrite)],
        redis   => $redis,
        files   => { users => $users, 'sorry.html' => 'sorry', 'scan/x.html' => 'x',
            map { ("$_/x.html" => 'x') } qw(private private/closed many document lost hard after
                rewritten again both wall) },
        %opt,
        config => ($opt{shared} ? $shared : '') . $config,
    );
}

sub check {
    my ($httpd, $where) = @_;
    my $by_redis = $where eq 'by Redis';

    subtest 'failed logins are charged, successful ones are not' => sub {
        my @from = (from => fresh_address());
        is said($httpd, '/private/x.html', 8, @from, @good), '200 ' x 7 . '200', 'successful logins pass';
        is said($httpd, '/private/x.html', 2, @from, @wrong), '401 401', 'two wrong passwords are charged';
        is said($httpd, '/private/x.html', 4, @from, @good), '200 200 200 200', 'successful logins still pass';
        is said($httpd, '/private/closed/x.html', 3, @from, @good), '403 403 403',
            'another refusal, 403, is not charged';
        is said($httpd, '/private/x.html', 1, @from), '401',
            'a request without a password is charged as a failed login';
        my $denied = ask($httpd, '/private/x.html', @from, @good);
        is $denied->status, 429, 'after the third failure the right password is denied, too';
        cmp_ok $denied->header('Retry-After'), '>', 1, 'until enough of the window has passed';
        is said($httpd, '/private/x.html', 1, from => fresh_address(), @good), '200',
            'the same user gets in from another address';
    };

    subtest 'the final status counts, whatever httpd does on the way' => sub {
        my @from = (from => fresh_address());
        my $refused = ask($httpd, '/document/x.html', @from, @wrong);
        is $refused->status . ' ' . $refused->body, '401 sorry', 'a failed login gets the ErrorDocument';
        is said($httpd, '/document/x.html', 2, @from, @good), '200 200', 'the ErrorDocument is not charged again';
        is said($httpd, '/document/x.html', 3, @from, @wrong), '401 401 429',
            'failed logins with an ErrorDocument are charged';
        is said($httpd, '/rewritten/there', 4, @from), '200 200 200 200',
            'a rewritten request with status 200 at the end is not charged';
        is said($httpd, '/rewritten/nowhere', 3, @from), '404 404 429', 'one with 404 is charged';
        @from = (from => fresh_address());
        is said($httpd, '/again/there', 4, @from), '200 200 200 200',
            'a rewrite into a section with the same rule is not charged either';
        settled($from[1], 'rewritten', 0) if $by_redis;
        is said($httpd, '/again/nowhere', 3, @from), '404 404 429', 'and is charged once for 404';
        is said($httpd, '/scan/x.html', 5, @from), '200 200 200 200 200',
            'phase=early: requests for existing files are not charged';
        is said($httpd, '/scan/nothing', 4, @from), '404 404 404 429', 'requests for missing files are';
        is said($httpd, '/scan/%zz', 1, @from), '429', 'and then a malformed path is denied';
        is said($httpd, '/lost/nothing', 3, @from, method => 'HEAD'), '404 404 429', 'HEAD is charged';
    };

    subtest 'a denial by another rule is not charged' => sub {
        my @from = (from => fresh_address());
        is said($httpd, '/hard/x.html', 1, @from), '200', 'the first request passes';
        is said($httpd, '/hard/nothing', 6, @from), '429 429 429 429 429 429', 'another rule of the section denies';
        is said($httpd, '/after/x.html', 1, @from), '200', 'the first request passes';
        is said($httpd, '/after/nothing', 6, @from), '429 429 429 429 429 429', 'a rule of a later phase denies';
        settled($from[1], 'errors', 0) if $by_redis;
        is_deeply decode_json(ask($httpd, '/after/x.html', @from)->body)->{'violated-policies'}, ['after'],
            'only that rule denies';
    };

    subtest 'pending and charged units of one counter are both given back' => sub {
        my @from = (from => fresh_address());
        is said($httpd, '/both/there', 6, @from), '429 429 429 429 429 429', 'a rule of a later phase denies';
        settled($from[1], 'both', 0) if $by_redis;
        is said($httpd, '/both/nowhere', 6, @from), '404 404 404 404 404 429', 'the whole quota is left';
    };

    subtest 'charge-on= works with costs and other algorithms' => sub {
        my @from = (from => fresh_address());
        is said($httpd, '/dear', 3, @from), '404 404 429', 'a cost of 4 of 10';
        is said($httpd, '/fixed', 3, @from), '404 404 429', 'a fixed window';
        is said($httpd, '/bucket', 3, @from), '404 404 429', 'a bucket';
    };

    subtest 'concurrent guesses do not exceed the quota together' => sub {
        my $from = fresh_address();
        my $sum = Client->flood(targets => [$httpd->port], connections => 24, requests => 400,
            path => '/many/x.html', from => $from, @wrong);
        is_deeply $sum->{status}, { 401 => 5, 429 => 395 }, 'exactly as many passwords as the quota are checked';
        my $denied = ask($httpd, '/many/x.html', from => $from, @good);
        cmp_ok $denied->header('Retry-After'), '>', 3000, 'then the client is blocked';
    };

    subtest 'concurrent successful logins block nobody' => sub {
        my $from = fresh_address();
        my (%soft, %blocked);
        my $sum = Client->flood(targets => [$httpd->port], connections => 24, requests => 400,
            path => '/many/x.html', from => $from, @good, on_response => sub {
                my ($number, $answer) = @_;
                $soft{ $answer->header('Retry-After') }++ if $answer->status == 429;
            });
        is_deeply [grep { !/^(?:200|429)$/ } keys %{ $sum->{status} }], [], 'they pass or are denied';
        is_deeply [grep { $_ != 1 } keys %soft], [], 'every denial says to come back in a second';
        cmp_ok $sum->{status}{200}, '>=', 5, 'at least as many as the quota pass';
        settled($from, 'many', 0) if $by_redis;
        is said($httpd, '/many/x.html', 1, from => $from, @good), '200', 'afterwards a login passes';
        is said($httpd, '/many/x.html', 5, from => $from, @wrong), '401 401 401 401 401',
            'and the whole quota is left: no block has begun';
    };

    my @odd = $httpd->error_log_lines(qr/ratelimit.*(?:failed|error)/i);
    is "@odd", '', 'no failure is logged';
}

for my $mpm (qw(event prefork)) {
    subtest "by this host ($mpm)" => sub {
        check(host(mpm => $mpm, $mpm eq 'prefork' ? (children => 26) : ()), 'by this host');
    };
    subtest "by Redis ($mpm)" => sub {
        $redis->cmd('FLUSHALL');
        check(host(mpm => $mpm, shared => 1, $mpm eq 'prefork' ? (children => 26) : ()), 'by Redis');
    };
}

subtest 'concurrent guesses on two hosts do not exceed the quota together' => sub {
    $redis->cmd('FLUSHALL');
    my @hosts = map { host(shared => 1) } 1, 2;
    my $from = fresh_address();
    my $sum = Client->flood(targets => [map { $_->port } @hosts], connections => 48, requests => 1000,
        path => '/private/x.html', from => $from, @wrong);
    is_deeply $sum->{status}, { 401 => 3, 429 => 997 }, 'exactly as many passwords as the quota are checked';
    settled($from, 'guesses', 3);
    pass 'three are charged, nothing is pending';
};

# --- While a response is pending -------------------------------------------

my $backend = Backend->new;

sub behind {
    my (%opt) = @_;
    return Httpd->start(modules => [qw(proxy proxy_http)], vars => { BACKEND => $backend->port },
        redis => $redis, %opt, config => ($opt{shared} // '') . <<'EOF');
ProxyPass /app http://127.0.0.1:@BACKEND@/ retry=0 disablereuse=on
<Location /app>
    RateLimit app 1/1d charge-on=403,5xx block=1h
</Location>
EOF
}

# Returns a request that the backend has received and not answered. Repeats it while the one before is not
# settled yet.
sub pending_request {
    my ($httpd, %opt) = @_;
    my ($socket, $there);
    Process::wait_until(sub {
        $socket = Client->connect(port => $httpd->port, %opt);
        $socket->syswrite("GET /app HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        return $there = $backend->accept($socket);
    }, what => 'a request to pass');
    return ($socket, $there);
}

*answer = \&Backend::answer;
*rest   = \&Backend::rest;

for my $where ('by this host', 'by Redis') {
    subtest "a pending request denies others only until it is settled, $where" => sub {
        my $by_redis = $where eq 'by Redis';
        my ($httpd, $other) = map { behind($by_redis ? (shared => $shared) : ()) } 1, 2;
        $other = $httpd if !$by_redis;
        my @from = (from => fresh_address());
        my ($one, $there) = pending_request($httpd, @from);
        for my $host ($httpd, $other, $httpd) {
            my $soft = $host->get('/app', @from);
            is $soft->status, 429, 'a request beside a pending one is denied';
            is $soft->header('Retry-After'), 1, 'for a second';
        }
        answer($there, 200);
        like rest($one), qr{^HTTP/1\.1 200 }, 'the pending request ends with 200';
        settled($from[1], 'app', 0) if $by_redis;
        for my $host ($httpd, $other) {
            my ($two, $here) = pending_request($host, @from);
            answer($here, 200);
            like rest($two), qr{^HTTP/1\.1 200 }, 'the next one passes at once: the denial was not remembered';
        }
        ($one, $there) = pending_request($httpd, @from);
        answer($there, 403);
        like rest($one), qr{^HTTP/1\.1 403 }, 'a request ends with a status that is charged';
        settled($from[1], 'app', 1) if $by_redis;
        cmp_ok ask($httpd, '/app', @from)->header('Retry-After'), '>', 3000, 'then the client is blocked for an hour';
    };

    subtest "a request whose client disconnects is settled, $where" => sub {
        my $httpd = behind($where eq 'by Redis' ? (shared => $shared) : ());
        my @from  = (from => fresh_address());
        my ($gone, $there) = pending_request($httpd, @from);
        close $gone;
        is $httpd->get('/app', @from)->status, 429, 'the request is pending while the backend works';
        answer($there, 200);
        settled($from[1], 'app', 0) if $where eq 'by Redis';
        ($gone, $there) = pending_request($httpd, @from);
        pass 'after a response of 200 the next request passes: nothing was charged';
        close $gone;
        close $there;
        settled($from[1], 'app', 1) if $where eq 'by Redis';
        cmp_ok ask($httpd, '/app', @from)->header('Retry-After'), '>', 3000,
            'a request whose backend fails is charged as 502';
    };
}

subtest 'a pending request of a killed child becomes a charge' => sub {
    my $httpd = behind(shared => $shared, children => 1);
    my @from  = (from => fresh_address());
    my ($one, $there) = pending_request($httpd, @from);
    is counted($from[1], 'app')->{pending}, 1, 'the request is pending';
    my @children = $httpd->children;
    kill KILL => @children;
    rest($one);
    Process::wait_until(sub { my ($now) = $httpd->children; $now && $now != $children[0] },
        what => 'a new child');
    is $httpd->get('/app', @from)->header('Retry-After'), 1, 'and still denies others after the child is dead';
    # as if two minutes had passed, the time that a unit may be pending
    my $now = counted($from[1], 'app');
    my $value = $now->{value};
    substr $value, 21, 4, pack 'V', $now->{period} - 2;
    $redis->cmd('SET', "rl:{ip:$from[1]}:app:sliding-window:1d", $value, 'KEEPTTL');
    cmp_ok ask($httpd, '/app', @from)->header('Retry-After'), '>', 3000, 'then it is charged';
};

subtest 'responses are not held up when Redis dies while requests are pending' => sub {
    my $own   = RedisServer->start;
    my $httpd = behind(shared => "RateLimitRedis \@REDIS\@\n", redis => $own, children => 1);
    my @from  = (from => fresh_address());
    my ($one, $there);
    Process::wait_until(sub {
        ($one, $there) = pending_request($httpd, from => $from[1] = fresh_address());
        return 1 if counted($from[1], 'app', $own)->{pending};
        answer($there, 200);
        return 0;
    }, what => 'Redis to count');
    $own->kill9;
    answer($there, 403);
    like rest($one), qr{^HTTP/1\.1 403 }, 'the response does not wait for Redis';
    ($one, $there) = pending_request($httpd, from => fresh_address());
    answer($there, 403);
    like rest($one), qr{^HTTP/1\.1 403 }, 'the next request is counted by this host';
};

done_testing;
