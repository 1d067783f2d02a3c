#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
# A request is charged once, however many subrequests, internal redirects and error documents httpd makes of
# it. A rule that applies only to a redirected request is charged at the redirect, once, and can deny there.
# Neither a client nor Satisfy Any can undo a denial.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";

use Client qw(fresh_address);
use Digest::SHA qw(sha1_base64);
use Httpd;
use MIME::Base64 qw(encode_base64);
use Process;
use RedisServer;
use Test::More;

my $users = join '', map { "$_:{SHA}" . sha1_base64("$_ secret") . "=\n" } qw(alice bob);

sub login {
    my ($user, $password) = @_;
    $password //= "$user secret";
    return { Authorization => 'Basic ' . encode_base64("$user:$password", '') };
}


my @names = qw(X-RateLimit-Limit X-RateLimit-Remaining X-RateLimit-Reset);

# Each header is there once; a denial has Retry-After and Cache-Control, too.
sub headers_once {
    my ($response, $what) = @_;
    my @expected = (@names, $response->status == 429 ? ('Retry-After', 'Cache-Control') : ());
    my @seen     = map { my $name = $_; map { $name } $response->header_all($name) } @expected;
    is "@seen", "@expected", "$what: one line for each header";
}

my $httpd = Httpd->start(
    modules => [qw(mime include rewrite negotiation)],
    files   => {
        'ssi.shtml' => '<!--#include virtual="/part.html" --><!--#include virtual="/hello.txt" -->'
            . '<!--#include virtual="/dir/" -->',
        'part.html' => 'part', 'sorry.html' => 'sorry',
        'sorry.shtml' => 'so <!--#echo var="REDIRECT_STATUS" -->',
        'multi/doc.html' => 'doc', 'fall/app.html' => 'app', 'app/index.html' => 'app index',
    },
    config => <<'EOF');
RateLimit base 100/1d
<Directory @DOCROOT@>
    Options +Includes
    AddOutputFilter INCLUDES .shtml
    AddType text/html .shtml
    RewriteEngine on
    RewriteRule ^pretty$ /login.html [L]
    RewriteRule ^same$ /hello.txt [L]
    RewriteRule ^twice$ /same [L]
</Directory>
<Location /part.html>
    RateLimit part 0/1d
</Location>
<Location /login.html>
    RateLimit login 2/1d
</Location>
<Location /limited>
    RateLimit limited 1/1d
    ErrorDocument 429 /sorry.html
</Location>
<Location /dynamic>
    RateLimit limited 1/1d
    ErrorDocument 429 /sorry.shtml
</Location>
<Location /lost>
    ErrorDocument 404 /sorry.html
</Location>
<LocationMatch "^/sorry">
    RateLimit sorry 2/1d
</LocationMatch>
<Directory @DOCROOT@/dir>
    <FilesMatch "index\.html$">
        RateLimit index 2/1d
    </FilesMatch>
</Directory>
<Directory @DOCROOT@/multi>
    Options +MultiViews
    <Files doc.html>
        RateLimit doc 2/1d
    </Files>
</Directory>
<Directory @DOCROOT@/fall>
    FallbackResource /fall/app.html
    <Files app.html>
        RateLimit app 2/1d
    </Files>
</Directory>
EOF

# The units that the rule "base" has left for a client, after the request that reads them.
sub base_left {
    my ($from) = @_;
    return $httpd->get('/hello.txt', from => $from)->header('X-RateLimit-Remaining');
}

subtest 'a page with three subrequests is charged once' => sub {
    my $from = fresh_address();
    my $page = $httpd->get('/ssi.shtml', from => $from);
    is $page->body, "parthello\n<p>dir index\n", 'it includes its parts, whatever rules they have';
    is $page->header('X-RateLimit-Remaining'), 99, 'it costs one unit';
    headers_once($page, 'SSI');
    is base_left($from), 98, 'the next request finds one unit less, not more';
    is $httpd->get('/part.html', from => $from)->status, 429,
        'the rule of a part applies when the part is requested directly';
};

subtest 'a directory index is charged once' => sub {
    my $from = fresh_address();
    my $page = $httpd->get('/', from => $from);
    is $page->body, "<p>index\n", 'the index is served';
    is $page->header('X-RateLimit-Remaining'), 99, 'it costs one unit';
    headers_once($page, 'DirectoryIndex');
};

my %reached = (
    '/dir/'           => 'DirectoryIndex',   '/multi/doc' => 'MultiViews',
    '/fall/any/thing' => 'FallbackResource', '/pretty'    => 'a rewrite in <Directory>',
);
for my $path (sort keys %reached) {
    subtest "a rule reached by $reached{$path} is charged once and denies" => sub {
        my $from  = fresh_address();
        my $first = $httpd->get($path, from => $from);
        is $first->status, 200, 'the first request passes';
        is $first->header('X-RateLimit-Limit'), 2, 'the headers show the rule that was reached, the tightest';
        is $first->header('X-RateLimit-Remaining'), 1, 'it is charged once';
        headers_once($first, 'passed');
        is base_left($from), 98, 'the rule around it is charged once';
        is $httpd->statuses($path, 3, from => $from), '200 429 429', 'requests beyond the quota are denied';
        is base_left($from), 96, 'denied requests cost nothing under the rule around it';
        my $denied = $httpd->get($path, from => $from);
        headers_once($denied, 'denied');
        like $denied->body, qr/"violated-policies":\["\w+"\]/, 'the denial has its body';
    };
}

subtest 'rewrites under the same rules are charged once' => sub {
    my $from = fresh_address();
    is $httpd->get('/same', from => $from)->header('X-RateLimit-Remaining'), 99, 'one redirect costs one unit';
    is $httpd->get('/twice', from => $from)->header('X-RateLimit-Remaining'), 98, 'two redirects cost one unit';
};

subtest 'the error document of a denial costs nothing' => sub {
    my $from = fresh_address();
    is $httpd->get('/limited', from => $from)->status, 404, 'the first request passes';
    for (1 .. 4) {
        my $denied = $httpd->get('/limited', from => $from);
        is $denied->status, 429, 'the next is denied';
        is $denied->body, 'sorry', 'with the error document';
        is $denied->header('X-RateLimit-Limit'), 1, 'and the headers of the rule that denied';
        headers_once($denied, 'ErrorDocument');
    }
    is base_left($from), 98, 'denials cost nothing';
    is $httpd->statuses('/sorry.html', 3, from => $from), '200 200 429',
        'nor does the document: the quota of its own rule is whole';
    my $denied = $httpd->get('/limited', from => $from);
    is $denied->status . ' ' . $denied->body, '429 sorry', 'a denial by the rule of the document does not replace it';
};

subtest 'an error document can have server-side includes' => sub {
    my $from = fresh_address();
    $httpd->get('/dynamic', from => $from);
    my $denied = $httpd->get('/dynamic', from => $from);
    is $denied->status . ' ' . $denied->body, '429 so 429', 'the includes are evaluated';
    headers_once($denied, 'SSI');
    my $head = $httpd->get('/dynamic', from => $from, method => 'HEAD');
    is $head->status, 429, 'HEAD is denied as well';
};

subtest 'the error document of another error costs nothing' => sub {
    my $from = fresh_address();
    my $lost = $httpd->get('/lost', from => $from);
    is $lost->status . ' ' . $lost->body, '404 sorry', 'the document is sent';
    is $lost->header('X-RateLimit-Remaining'), 99, 'the request costs one unit';
    headers_once($lost, 'ErrorDocument 404');
    is base_left($from), 98, 'the next request finds one unit less, not more';
    is $httpd->statuses('/sorry.html', 2, from => $from), '200 200', 'the rule of the document was not charged';
};

my $auth = <<'EOF';
    AuthType Basic
    AuthName test
    AuthUserFile @DOCROOT@/users
EOF
my $guarded = Httpd->start(
    modules => [qw(access_compat auth_basic authn_file authz_user rewrite)],
    files   => { users => $users, 'any/index.html' => 'any' },
    config  => <<"EOF");
<Location /granted>
    Satisfy Any
    Require all granted
    RateLimit granted 2/1d
</Location>
<Location /plain>
    Satisfy Any
    Require all granted
    RateLimitResponse off
    RateLimit plain 2/1d
</Location>
<Location /by-ip>
    Satisfy Any
    Require ip 127.0.0.0/8
    RateLimit by-ip 2/1d
</Location>
<Location /allowed>
    Satisfy Any
    Order allow,deny
    Allow from all
$auth    Require valid-user
    RateLimit allowed 2/1d
</Location>
<Location /forbidden>
    Satisfy Any
    Order deny,allow
    Deny from all
$auth    Require valid-user
    RateLimit forbidden 2/1d
</Location>
<Location /own>
    Satisfy Any
    Order deny,allow
    Deny from all
$auth    Require valid-user
    RateLimit own 2/1d key=user
</Location>
<Location /nobody>
    Satisfy Any
    Order deny,allow
    Deny from all
    Require all denied
    RateLimit nobody 2/1d
</Location>
<Directory \@DOCROOT\@/any>
    Satisfy Any
    Order deny,allow
    Deny from all
$auth    Require valid-user
    <Files index.html>
        RateLimit any 2/1d
    </Files>
    RewriteEngine on
    RewriteRule ^pretty\$ /forbidden/x [L]
</Directory>
<Location /private>
$auth    Require valid-user
    RateLimit attempts 3/1d phase=access
</Location>
<Location /account>
$auth    Require valid-user
    RateLimit account 2/1d key=user
</Location>
EOF

subtest 'Satisfy Any does not undo a denial' => sub {
    my @alice = (headers => login('alice'));
    my @wrong = (headers => login('alice', 'guess'));
    my @cases = (
        ['Require all granted',            '/granted',    '404 404 429 429'],
        ["httpd's own page",               '/plain',      '404 404 429 429'],
        ['Require ip',                     '/by-ip',      '404 404 429 429'],
        ['Allow from all',                 '/allowed',    '404 404 429 429'],
        ['Allow from all, logged in',      '/allowed',    '404 404 429 429', @alice],
        ['Deny from all, right password',  '/forbidden',  '404 404 429 429', @alice],
        ['Deny from all, wrong password',  '/forbidden',  '401 401 429 429', @wrong],
        ['Deny from all, no password',     '/forbidden',  '401 401 429 429'],
        ['Deny from all, nobody may',      '/nobody',     '403 403 429 429'],
        ['a directory index',              '/any/',       '200 200 429 429', @alice],
        ['a rewrite into a stricter rule', '/any/pretty', '404 404 429 429', @alice],
    );
    for my $case (@cases) {
        my ($what, $path, $expected, @opt) = @$case;
        is $guarded->statuses($path, 4, from => fresh_address(), @opt), $expected, "$what: the denial stands";
    }
    my $from = fresh_address();
    $guarded->statuses('/forbidden', 3, from => $from);
    is $guarded->statuses('/forbidden', 1, from => $from, @alice),
        $guarded->statuses('/forbidden', 1, from => $from, @wrong),
        'a denied client cannot distinguish a right password from a wrong one';
    is $guarded->statuses('/own', 3, @alice), '404 404 429', 'a rule by user denies beyond its quota';
    is $guarded->statuses('/own', 1, headers => login('bob')), '404', 'another user passes';
};

subtest 'phase=access limits failed logins' => sub {
    my $from = fresh_address();
    is $guarded->statuses('/private', 4, from => $from, headers => login('alice', 'guess')),
        '401 401 401 429', 'wrong passwords are counted';
    is $guarded->statuses('/private', 1, from => $from, headers => login('alice')), '429',
        'then the right password is denied';
    is $guarded->statuses('/private', 1, from => fresh_address(), headers => login('alice')), '404',
        'the same user gets in from another address';
};

subtest 'a rule by user counts after authentication' => sub {
    is $guarded->statuses('/account', 4, headers => login('bob', 'guess')), '401 401 401 401',
        'failed logins are not counted against the user';
    is $guarded->statuses('/account', 3, headers => login('bob')), '404 404 429', 'the user has the whole quota';
    is $guarded->statuses('/account', 1, headers => login('bob'), from => fresh_address()), '429',
        'from all addresses together';
    is $guarded->statuses('/account', 1, headers => login('alice')), '404', 'another user has another quota';
};

my $redis = RedisServer->start;
for my $case (['event', 'in memory'], ['event', 'in Redis'], ['prefork', 'in Redis']) {
    my ($mpm, $where) = @$case;
    $redis->cmd('FLUSHALL');
    my $host = Httpd->start(
        mpm     => $mpm,
        modules => [qw(auth_basic authn_file authz_user)],
        files   => { users => $users, 'both/x.html' => 'x' },
        redis   => $redis,
        config  => ($where eq 'in Redis' ? "RateLimitRedis \@REDIS\@\nRateLimitRedisTimeout 5s\n" : '')
            . <<"EOF");
RateLimitHeaders draft-11
RateLimit all 100/1d key=ip
<Directory \@DOCROOT\@/both>
$auth    Require valid-user
    RateLimit each 2/1d key=user
</Directory>
EOF
    subtest "a denial after authentication gives back what was charged before it, $where, $mpm" => sub {
        my $from = fresh_address();
        my $left = sub {
            my ($n) = $host->get('/hello.txt', from => $from)->header('RateLimit') =~ /^"all";r=(\d+)/;
            return $n;
        };
        my @alice = (from => $from, headers => login('alice'));
        is $host->statuses('/both/x.html', 2, @alice), '200 200', 'two pass both rules';
        is $left->(), 97, 'they are charged';
        is $host->statuses('/both/x.html', 5, @alice), '429 429 429 429 429', 'five are denied';
        # a denial does not wait until Redis has the give-back; decide.lua describes the value of a key
        my $charged = sub { RedisServer::units($redis->cmd('GET', "rl:{ip:$from}:all:sliding-window:1d")) };
        Process::wait_until(sub { $charged->() == 3 }, what => 'the charges to be given back')
            if $where eq 'in Redis';
        is $left->(), 96, 'they are not charged';
        is $host->statuses('/both/x.html', 1, from => $from, headers => login('bob')), '200',
            'another user passes';
        is $left->(), 94, 'and is charged';
        my @keys = sort @{ $redis->cmd('KEYS', '*') };
        is "@keys", $where eq 'in Redis'
            ? "rl:{ip:$from}:all:sliding-window:1d rl:{user:alice}:each:sliding-window:1d"
            . ' rl:{user:bob}:each:sliding-window:1d'
            : '', "the keys in Redis are those that are $where";
    };
}

done_testing;
