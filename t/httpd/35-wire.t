#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
# A denial on the wire: a body that is still to come does not hold a worker, a
# connection without one is kept, HEAD has none; and what was decided is told to
# the log and to other modules.

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

# All that the server sends until it closes; it must within 20 s, as httpd's own
# Timeout, for which it would wait for a body, is 60.
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
    'that is asked for' => ['Content-Length: 1000000', 'Expect: 100-continue'],
);
for my $mpm (qw(event worker prefork)) {
    my $httpd = Httpd->start(mpm => $mpm, modules => [qw(proxy proxy_http)],
        $mpm eq 'prefork' ? (children => 4) : (children => 1, threads => 4), config => <<'EOF');
ProxyPass /proxied http://127.0.0.1:1/
<LocationMatch "^/(closed|proxied)">
    RateLimit closed 0/1d
</LocationMatch>
EOF
    subtest "the body of a denied POST, $mpm" => sub {
        my %posted = map {
            $_ => say_by_hand($httpd, 'POST /closed HTTP/1.1', 'Host: localhost', @{ $pending{$_} })
        } keys %pending;
        for my $form (sort keys %pending) {
            my ($said, $closed) = until_closed($posted{$form});
            like $said, qr{^HTTP/1\.1 429 }, "$form: it is denied at once";
            like $said, qr/"error":"rate_limit_exceeded".*\n$/s, 'with the whole answer';
            like $said, qr/^Connection: close\r$/mi, 'which says that the connection ends';
            ok $closed, 'as it does';
        }
        my ($said) = until_closed(say_by_hand($httpd, 'POST /proxied/x HTTP/1.1', 'Host: localhost',
            'Content-Length: 1000000'));
        like $said, qr{^HTTP/1\.1 429 }, 'also where it would be proxied';
        ($said) = until_closed(say_by_hand($httpd, 'POST /closed HTTP/1.0', 'Content-Length: 9'));
        like $said, qr{^HTTP/1\.\d 429 }, 'and to HTTP/1.0';

        my @held = map { say_by_hand($httpd, 'POST /closed HTTP/1.1', 'Host: localhost',
            'Content-Length: 1000000') } 1 .. 8;
        is $httpd->get('/hello.txt', timeout => 20)->status, 200,
            'clients that never send it do not hold the workers';
        my $whole = $httpd->get('/closed', method => 'POST', body => 'x' x 1000);
        is $whole->status, 429, 'one that sent it all hears of the denial';
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

subtest 'a connection' => sub {
    my @from = (from => fresh_address());
    my $kept = Client->new(port => $httpd->port, @from);
    is $kept->request(path => '/hello.txt')->status, 200, 'passes two' for 1, 2;
    my $socket = $kept->{socket};
    for my $method (qw(GET HEAD GET)) {
        my $denied = $kept->request(path => '/hello.txt', method => $method);
        is $denied->status, 429, "denies a $method";
        is $denied->header('Content-Type'), 'application/problem+json', 'with the type of its body';
        is length $denied->body, 0, 'and none' if $method eq 'HEAD';
    }
    is $kept->request(path => '/page.html')->status, 200, 'and is kept';
    is $kept->{socket}, $socket, 'the same one all the time';
};

subtest 'a page that the client has' => sub {
    my @from = (from => fresh_address());
    my $page = $httpd->get('/hello.txt', @from);
    my @have = (headers => { 'If-None-Match' => $page->header('ETag') });
    my $same = $httpd->get('/hello.txt', @from, @have);
    is $same->status, 304, 'is not sent again';
    is $same->header('X-RateLimit-Remaining'), 0, 'which costs one too';
    is $httpd->get('/hello.txt', @from, @have)->status, 429, 'and is denied like any other';
    is $httpd->get('/hello.txt', @from, headers => { Range => 'bytes=0-1' })->status, 429,
        'as is a part of it';
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

subtest 'a denial after authentication is not a form of the page' => sub {
    my %header = ('a.txt.gz' => 'Content-Encoding', 'page.html.en' => 'Content-Language');
    for my $page (sort keys %header) {
        my $passed = $late->get("/open/$page");
        is $passed->status, 200, "$page: it passes";
        ok defined $passed->header($header{$page}), "with a $header{$page}";
        for my $method (qw(GET HEAD)) {
            my $denied = $late->get("/closed/$page", method => $method);
            is $denied->status, 429, "a $method is denied";
            is_deeply [map { $denied->header_all($_) } qw(Content-Encoding Content-Language)], [],
                'with neither encoding nor language';
        }
        like $late->get("/closed/$page")->body, qr/rate_limit_exceeded/, 'in plain JSON';
    }
};

subtest 'a denial by a rule that shows nothing shows nothing of the steps before' => sub {
    my $ours = sub { join ' ', sort grep { /ratelimit/i } map { $_->[0] } @{ $_[0]->headers } };
    my @secret = (headers => { 'X-Secret' => 'yes' });
    my $passed = $late->get('/login.html');
    is $passed->status, 200, 'without it';
    is scalar(split / /, $ours->($passed)), 8, 'there are headers';
    my $denied = $late->get('/login.html', @secret);
    is $denied->status, 429, 'with it, a denial';
    is $ours->($denied), '', 'and none';
};

# Lines are written after the response, by several threads: they come late and in any order.
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

subtest 'notes and environment' => sub {
    my $rule   = sub { $httpd->get(@_)->header('X-Rule') };
    my @from   = (from => fresh_address());
    is $rule->('/log/x.html', @from), '(null)', 'a header can show no rule where one passed';
    is $rule->('/log/x.html', @from), 'log', 'and the one that denied';
    is $rule->("/log/$_", from => fresh_address()), 'log', "$_: too" for qw(trial page said);
    my $page = $httpd->get('/log/dynamic', from => fresh_address());
    is $page->body, 'sorry log', 'an error document can say which';
    my @all = (from => fresh_address());
    is $rule->('/log/all', @all), 'log', 'notes of all requests' for 1 .. 3;
    is $rule->('/page.html'), '(null)', 'where nothing is limited, nothing is noted';

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
    ], 'the log has them all, error documents too';
    my @denied = lines('denied', qr{^/log|^/sorry}, 8);
    is scalar(@denied), 8, 'and can be kept to those with a rule to name' or diag "@denied";
};

done_testing;
