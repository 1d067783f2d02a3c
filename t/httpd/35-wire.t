#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
# A denial on the wire: it does not wait for a request body, a connection without one is kept alive, and a
# response to HEAD has no body. The verdict is available to the access log and to other modules as notes
# and environment variables.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";

use Client qw(fresh_address);
use Httpd;
use IO::Select;
use Process;
use Test::More;
use Time::HiRes qw(time);

# Everything that the server sends until it closes, and whether it closed within 20 s. If it waited for the
# request body, that would take httpd's Timeout, 60 s.
sub until_closed {
    my ($socket) = @_;
    my ($all, $deadline) = ('', time + 20);
    while (1) {
        my $left = $deadline - time;
        return ($all, 0) if $left <= 0 || !IO::Select->new($socket)->can_read($left);
        $socket->sysread($all, 65_536, length $all) or return ($all, 1);
    }
}

sub say_by_hand {
    my ($httpd, @lines) = @_;
    my $socket = Client->connect(port => $httpd->port);
    $socket->syswrite(join('', map { "$_\r\n" } @lines) . "\r\n");
    return $socket;
}

my %pending = (
    'with a length'     => ['Content-Length: 1000000'],
    'in chunks'         => ['Transfer-Encoding: chunked'],
    'after 100-continue' => ['Content-Length: 1000000', 'Expect: 100-continue'],
);
for my $mpm (qw(event worker prefork)) {
    my $httpd = Httpd->start(mpm => $mpm, modules => [qw(proxy proxy_http)],
        $mpm eq 'prefork' ? (children => 4) : (children => 1, threads => 4), config => <<'EOF');
ProxyPass /proxied http://127.0.0.1:1/
<LocationMatch "^/(closed|proxied)">
    RateLimit closed 0/1d
</LocationMatch>
EOF
    subtest "a denied POST does not wait for its body, $mpm" => sub {
        my %posted = map {
            $_ => say_by_hand($httpd, 'POST /closed HTTP/1.1', 'Host: localhost', @{ $pending{$_} })
        } keys %pending;
        for my $form (sort keys %pending) {
            my ($said, $closed) = until_closed($posted{$form});
            like $said, qr{^HTTP/1\.1 429 }, "a body $form: denied at once";
            like $said, qr/"error":"rate_limit_exceeded".*\n$/s, 'with the whole response';
            like $said, qr/^Connection: close\r$/mi, 'which announces the end of the connection';
            ok $closed, 'the connection is closed';
        }
        my ($said) = until_closed(say_by_hand($httpd, 'POST /proxied/x HTTP/1.1', 'Host: localhost',
            'Content-Length: 1000000'));
        like $said, qr{^HTTP/1\.1 429 }, 'a request that would be proxied is denied at once';
        ($said) = until_closed(say_by_hand($httpd, 'POST /closed HTTP/1.0', 'Content-Length: 9'));
        like $said, qr{^HTTP/1\.\d 429 }, 'a request of HTTP/1.0 is denied at once';

        my @held = map { say_by_hand($httpd, 'POST /closed HTTP/1.1', 'Host: localhost',
            'Content-Length: 1000000') } 1 .. 8;
        is $httpd->get('/hello.txt', timeout => 20)->status, 200,
            'clients that never send their body do not occupy the workers';
        my $whole = $httpd->get('/closed', method => 'POST', body => 'x' x 1000);
        is $whole->status, 429, 'a client that sent the whole body gets the denial';
    };
}

my $httpd = Httpd->start(modules => [qw(headers mime include)],
    files  => { 'sorry.shtml' => 'sorry <!--#echo var="RATELIMIT_RULE" -->',
                'sorry.html' => 'sorry', 'log/x.html' => 'x' },
    config => <<'EOF');
<LocationMatch "^/(hello|kept)">
    RateLimit kept 2/1d
</LocationMatch>
LogFormat "%r|%>s|%{RATELIMIT_VERDICT}n|%{RATELIMIT_RULE}n|%{RATELIMIT_SOURCE}n|\
%{RATELIMIT_REMAINING}n|%{RATELIMIT_VERDICT}e|%{RATELIMIT_RULE}e" verdicts
CustomLog @DIR@/access verdicts
CustomLog @DIR@/denied "%U" env=RATELIMIT_RULE
Header always set X-Rule "%{RATELIMIT_RULE}e"
AddType text/html .shtml
AddOutputFilter INCLUDES .shtml
<Directory @DOCROOT@>
    Options +Includes
</Directory>
<Location /log>
    RateLimit log 1/1d
</Location>
<Location /log/all>
    RateLimitNotes all
    RateLimit log 2/1d
    RateLimit wide 100/1d
</Location>
<Location /log/trial>
    RateLimit log 0/1d shadow
</Location>
<Location /log/page>
    ErrorDocument 429 /sorry.html
    RateLimit log 0/1d
</Location>
<Location /log/dynamic>
    ErrorDocument 429 /sorry.shtml
    RateLimit log 0/1d
</Location>
<Location /log/said>
    ErrorDocument 429 "slow down"
    RateLimit log 0/1d
</Location>
EOF

subtest 'a connection is kept over denials' => sub {
    my @from = (from => fresh_address());
    my $kept = Client->new(port => $httpd->port, @from);
    is $kept->request(path => '/hello.txt')->status, 200, 'two requests pass' for 1, 2;
    my $socket = $kept->{socket};
    for my $method (qw(GET HEAD GET)) {
        my $denied = $kept->request(path => '/hello.txt', method => $method);
        is $denied->status, 429, "$method is denied";
        is $denied->header('Content-Type'), 'application/problem+json', 'with the content type of the body';
        is length $denied->body, 0, 'and without a body' if $method eq 'HEAD';
    }
    is $kept->request(path => '/page.html')->status, 200, 'another page is served';
    is $kept->{socket}, $socket, 'all on the same connection';
};

subtest 'conditional and partial requests are counted' => sub {
    my @from = (from => fresh_address());
    my $page = $httpd->get('/hello.txt', @from);
    my @have = (headers => { 'If-None-Match' => $page->header('ETag') });
    my $same = $httpd->get('/hello.txt', @from, @have);
    is $same->status, 304, 'a page that the client has is not sent again';
    is $same->header('X-RateLimit-Remaining'), 0, 'the response 304 costs one unit';
    is $httpd->get('/hello.txt', @from, @have)->status, 429, 'a conditional request is denied';
    is $httpd->get('/hello.txt', @from, headers => { Range => 'bytes=0-1' })->status, 429,
        'a request for a range is denied';
};

my $late = Httpd->start(modules => ['mime'],
    files => { map { +"$_/a.txt.gz" => 'a', "$_/page.html.en" => 'page' } qw(open closed) },
    config => <<'EOF');
AddEncoding gzip .gz
AddLanguage en .en
<Location /closed>
    RateLimit closed 0/1d phase=auth
</Location>
<Location /login.html>
    RateLimit shown 100/1d
    RateLimitHeaders x-ratelimit draft-03 draft-11
</Location>
<If "%{HTTP:X-Secret} == 'yes'">
    RateLimit secret 0/1d headers=off phase=auth
</If>
EOF

subtest 'a denial after authentication has no header of the page' => sub {
    my %header = ('a.txt.gz' => 'Content-Encoding', 'page.html.en' => 'Content-Language');
    for my $page (sort keys %header) {
        my $passed = $late->get("/open/$page");
        is $passed->status, 200, "$page passes";
        ok defined $passed->header($header{$page}), "with a $header{$page}";
        for my $method (qw(GET HEAD)) {
            my $denied = $late->get("/closed/$page", method => $method);
            is $denied->status, 429, "a $method is denied";
            is_deeply [map { $denied->header_all($_) } qw(Content-Encoding Content-Language)], [],
                'without Content-Encoding and Content-Language';
        }
        like $late->get("/closed/$page")->body, qr/rate_limit_exceeded/, 'the body is plain JSON';
    }
};

subtest 'a denial by a rule with headers=off removes the headers of earlier steps' => sub {
    my $ours = sub { join ' ', sort grep { /ratelimit/i } map { $_->[0] } @{ $_[0]->headers } };
    my @secret = (headers => { 'X-Secret' => 'yes' });
    my $passed = $late->get('/login.html');
    is $passed->status, 200, 'the request passes';
    is scalar(split / /, $ours->($passed)), 8, 'with the headers of a rule';
    my $denied = $late->get('/login.html', @secret);
    is $denied->status, 429, 'a hidden rule denies';
    is $ours->($denied), '', 'without any of them';
};

# Several threads write lines after the response, so they come late and in any order.
sub lines {
    my ($file, $about, $least) = @_;
    my @lines;
    Process::wait_until(sub {
        open my $in, '<', $httpd->dir . "/$file" or return 0;
        @lines = grep { /$about/ } <$in>;
        return @lines >= $least && $lines[-1] =~ /\n/;
    }, what => "$least lines in $file");
    chomp @lines;
    return @lines;
}

subtest 'notes and environment variables contain the verdict' => sub {
    my $rule   = sub { $httpd->get(@_)->header('X-Rule') };
    my @from   = (from => fresh_address());
    is $rule->('/log/x.html', @from), '(null)', 'a request that passes has no rule in its environment';
    is $rule->('/log/x.html', @from), 'log', 'a denied one has the rule that denied';
    is $rule->("/log/$_", from => fresh_address()), 'log', "so has /log/$_" for qw(trial page said);
    my $page = $httpd->get('/log/dynamic', from => fresh_address());
    is $page->body, 'sorry log', 'an error document can show the rule';
    my @all = (from => fresh_address());
    is $rule->('/log/all', @all), 'log', 'RateLimitNotes all sets it for all requests' for 1 .. 3;
    is $rule->('/page.html'), '(null)', 'a page without rules has none';

    my @lines = lines('access', qr{/log/}, 9);
    s{^(\w+ )?/?(.*?) HTTP/1\.1}{$2} for @lines;
    is_deeply [sort @lines], [sort
        'log/x.html|200|-|-|-|-|-|-',
        'log/x.html|429|deny|log|local|0|deny|log',
        'log/trial|404|shadow|log|local|0|shadow|log',
        'log/page|429|deny|log|local|0|deny|log',
        'log/said|429|deny|log|local|0|deny|log',
        'log/dynamic|429|deny|log|local|0|deny|log',
        'log/all|404|pass|log|local|1|pass|log',
        'log/all|404|pass|log|local|0|pass|log',
        'log/all|429|deny|log|local|0|deny|log',
    ], 'the access log has the notes of all requests';
    my @denied = lines('denied', qr{^/log|^/sorry}, 8);
    is scalar(@denied), 8, 'a log with env=RATELIMIT_RULE has only those with a rule' or diag "@denied";
};

done_testing;
