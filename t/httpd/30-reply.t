#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
# What a limited response says, to the letter: the three families of headers,
# Retry-After, and the body of a denial by what the client accepts.

use strict;
use warnings;

use Client qw(fresh_address);
use FindBin;
use lib "$FindBin::Bin/../lib";

use Httpd;
use JSON::PP;
use Test::More;
use Time::HiRes qw(time);    # perl's own is the kernel's coarse one, some ms behind httpd's
use Windows;

use constant DAY => Windows::DAY;

sub midnight { return Windows::ends(DAY) }

my @families = qw(X-RateLimit-Limit X-RateLimit-Remaining X-RateLimit-Reset RateLimit-Limit
    RateLimit-Remaining RateLimit-Reset RateLimit-Policy RateLimit);

# All header lines of the three families, sorted, as name: value. What says how many seconds
# are left of the day, or when it ends, is shown as T or MIDNIGHT if it is right.
sub limits {
    my ($response) = @_;
    my %ours = map { $_ => 1 } @families;
    my $midnight = midnight();
    my $left     = $midnight - int time;
    return join "\n", sort map {
        my ($name, $value) = @$_;
        $value =~ s/(^|;t=)(\d+)$/$1 . ($2 >= $left && $2 <= $left + 30 ? 'T' : $2)/e
            if $name =~ /^RateLimit(?:-Reset)?$/;
        $value =~ s/^$midnight$/MIDNIGHT/;
        "$name: $value";
    } grep { $ours{ $_->[0] } } @{ $response->headers };
}

my $httpd = Httpd->start(config => <<'EOF');
<LocationMatch "^/(?<FAMILY>x|d11|d03|all|none)$">
    RateLimit fixed 3/1d algorithm=fixed-window
</LocationMatch>
<Location /d11>
    RateLimitHeaders draft-11
</Location>
<Location /d03>
    RateLimitHeaders draft-03
</Location>
<Location /all>
    RateLimitHeaders draft-03 x-ratelimit draft-11
</Location>
<Location /none>
    RateLimitHeaders off
</Location>
<Location /yield>
    RateLimitHeaders yield
    RateLimit fixed 3/1d algorithm=fixed-window
</Location>
<LocationMatch "^/several">
    RateLimitHeaders x-ratelimit draft-11
    RateLimit wide 500/1d algorithm=fixed-window
    RateLimit tight 2/1d algorithm=fixed-window
    RateLimit brief 1000000/500ms
    RateLimit secret 50/1d headers=off
    RateLimit trial 1/1d shadow
</LocationMatch>
<Location /secret>
    RateLimitHeaders x-ratelimit draft-11 draft-03
    RateLimit open 100/1d
    RateLimit secret 0/1d headers=off
</Location>
<Location /never>
    RateLimitHeaders x-ratelimit draft-11
    RateLimit never 0/1d
</Location>
<Location /sliding>
    RateLimitHeaders x-ratelimit draft-11
    RateLimit sliding 2/1d
</Location>
<Location /trial>
    RateLimit trial 0/1d shadow
</Location>
EOF

subtest 'X-RateLimit' => sub {
    my $from = fresh_address();
    is limits($httpd->get('/x', from => $from)), <<"EOF" =~ s/\n$//r, "$_ left" for 2, 1, 0, 0;
X-RateLimit-Limit: 3
X-RateLimit-Remaining: $_
X-RateLimit-Reset: MIDNIGHT
EOF
};

subtest 'draft 11' => sub {
    my $from = fresh_address();
    is limits($httpd->get('/d11', from => $from)), <<"EOF" =~ s/\n$//r, "$_ left" for 2, 1, 0, 0;
RateLimit-Policy: "fixed";q=3;w=86400
RateLimit: "fixed";r=$_;t=T
EOF
};

subtest 'draft 03' => sub {
    my $from = fresh_address();
    is limits($httpd->get('/d03', from => $from)), <<"EOF" =~ s/\n$//r, "$_ left" for 2, 1, 0, 0;
RateLimit-Limit: 3
RateLimit-Remaining: $_
RateLimit-Reset: T
EOF
};

is limits($httpd->get('/all', from => fresh_address())), <<"EOF" =~ s/\n$//r, 'all three at once';
RateLimit-Limit: 3
RateLimit-Policy: "fixed";q=3;w=86400
RateLimit-Remaining: 2
RateLimit-Reset: T
RateLimit: "fixed";r=2;t=T
X-RateLimit-Limit: 3
X-RateLimit-Remaining: 2
X-RateLimit-Reset: MIDNIGHT
EOF

subtest 'RateLimitHeaders off' => sub {
    my $from = fresh_address();
    is limits($httpd->get('/none', from => $from)), '', 'shows nothing' for 1 .. 4;
    my $denied = $httpd->get('/none', from => $from);
    is $denied->status, 429, 'and denies all the same';
    ok $denied->header('Retry-After'), 'with Retry-After';
};

like limits($httpd->get('/yield', from => fresh_address())), qr/^X-RateLimit-Limit: 3$/m,
    'yield by itself is about the usual headers';

subtest 'several rules' => sub {
    my $from = fresh_address();
    is limits($httpd->get('/several', from => $from)), <<"EOF" =~ s/\n$//r, 'tightest speaks, all are named'
RateLimit-Policy: "wide";q=500;w=86400, "tight";q=2;w=86400, "brief";q=1000000
RateLimit: "tight";r=$_;t=T
X-RateLimit-Limit: 2
X-RateLimit-Remaining: $_
X-RateLimit-Reset: MIDNIGHT
EOF
        for 1, 0, 0;
    my $denied = decode_json($httpd->get('/several', from => $from)->body);
    is_deeply $denied->{'violated-policies'}, ['tight'], 'the denial names the one that denied';
};

subtest 'a rule with headers=off' => sub {
    my $denied = $httpd->get('/secret', from => fresh_address());
    is $denied->status, 429, 'denies';
    is limits($denied), '', 'in no header';
    unlike $denied->body, qr/secret/, 'nor in the body';
    is_deeply decode_json($denied->body)->{'violated-policies'}, [], 'which stays well-formed';
};

subtest 'a shadow rule' => sub {
    my $passed = $httpd->get('/trial', from => fresh_address());
    is $passed->status, 404, 'denies nobody';
    is limits($passed), '', 'and shows nowhere';
};

subtest 'a quota of zero' => sub {
    my $denied = $httpd->get('/never', from => fresh_address());
    is $denied->status, 429, 'denies';
    is $denied->header('Retry-After'), undef, 'and does not say to come back';
    is $denied->header('RateLimit'), '"never";r=0', 'nor when';
    my $problem = decode_json($denied->body);
    is_deeply [grep { /retry/ } keys %$problem], [], 'in the body neither';
};

subtest 'Retry-After' => sub {
    my $from = fresh_address();
    my $passed = $httpd->get('/sliding', from => $from);
    is $passed->header($_), undef, "what passes has no $_" for qw(Retry-After Cache-Control);
    # two of two in this day: the first unit is back at half the next one
    my $before = time;
    my $back   = midnight() + DAY / 2;
    my $is_due = sub {
        my ($wait, $what) = @_;
        ok $wait >= $back - time && $wait <= $back - $before + 1, $what
            or diag "$wait, not " . ($back - $before);
    };
    my ($unit) = $httpd->get('/sliding', from => $from)->header('RateLimit') =~ /;r=0;t=(\d+)$/;
    $is_due->($unit, 'the next unit is announced');
    my $denied = $httpd->get('/sliding', from => $from);
    $is_due->($denied->header('Retry-After'), 'is when a sliding window has room again');
    is $denied->header('X-RateLimit-Reset'), midnight() + DAY, 'the whole quota is back at its end';
    is $denied->header('Cache-Control'), 'no-store', 'and nobody keeps the denial';
};

# --- Bodies ----------------------------------------------------------------------

my $bodies = Httpd->start(files => { 'sorry.html' => 'sorry' }, config => <<'EOF');
RateLimit none 0/1d
<Location /due>
    RateLimit none off
    RateLimit due 1/1d
    RateLimit other 1/1d
    RateLimit third 100/1d
</Location>
<Location /text>
    RateLimitResponse text
</Location>
<Location /off>
    RateLimitResponse off
</Location>
<Location /busy>
    RateLimit none 0/1d status=503
</Location>
<Location /hidden>
    RateLimit none 0/1d status=404
</Location>
<Location /said>
    ErrorDocument 429 "slow down"
</Location>
<Location /page>
    ErrorDocument 429 /sorry.html
</Location>
<Location /elsewhere>
    ErrorDocument 503 "not this one"
</Location>
EOF

subtest 'problem+json' => sub {
    my $from = fresh_address();
    $bodies->get('/due', from => $from);
    my $denied  = $bodies->get('/due', from => $from);
    my $problem = decode_json($denied->body);
    is $denied->header('Content-Type'), 'application/problem+json', 'its type';
    is $denied->header('Content-Length'), length $denied->body, 'its length';
    my $ms = delete $problem->{retry_after_ms};
    my $s  = delete $problem->{retry_after};
    is $s, $denied->header('Retry-After'), 'retry_after is Retry-After';
    ok $ms > ($s - 1) * 1000 && $ms <= $s * 1000, 'retry_after_ms the same, exactly';
    like $problem->{detail}, qr/\b$s seconds\b/, 'detail says it to people';
    is $problem->{detail}, delete $problem->{message}, 'and so does message';
    delete $problem->{detail};
    is_deeply $problem, {
        type   => 'https://iana.org/assignments/http-problem-types#quota-exceeded',
        title  => 'Request cannot be satisfied as assigned quota has been exceeded',
        status => 429, error => 'rate_limit_exceeded', 'violated-policies' => [qw(due other)],
    }, 'and the rest';
};

my %type = (
    problem => 'application/problem+json', html => 'text/html; charset=utf-8',
    text    => 'text/plain; charset=utf-8',
);
my @accepted = (
    [undef, 'problem'], ['*/*', 'problem'], ['', 'problem'],
    ['application/problem+json', 'problem'], ['application/json', 'problem'],
    ['application/*', 'problem'], ['text/html', 'html'], ['text/plain', 'text'], ['text/*', 'text'],
    ['TEXT/HTML', 'html'], ['image/png', 'problem'],
    ['text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8', 'html'],
    ['text/html;q=0.5, application/json', 'problem'],
    ['application/json;q=0.1, text/plain;q=0.25', 'text'],
    ['text/html; q=0.9 , text/plain;q=0.95', 'text'], ['text/html;level=1;q=0.3, text/plain;q=0.2', 'html'],
    ['text/html;q=0, */*', 'problem'], ['text/html;q=0', 'problem'],
    ['text/plain;Q=0.1, text/html;Q=0.2', 'html'],
    [';;,,q=;q=,/;q=9', 'problem'], ['text/html;q=0.0001, text/plain;q=0.001', 'text'],
    [join(',', ('a/b') x 1500) . ',text/plain', 'text'],
);
for my $case (@accepted) {
    my ($accept, $form) = @$case;
    my $denied = $bodies->get('/', headers => defined $accept ? { Accept => $accept } : {});
    my $name = defined $accept ? 'Accept: ' . substr $accept, 0, 70 : 'no Accept';
    is $denied->status . ' ' . $denied->header('Content-Type'), "429 $type{$form}", "$name: $form";
}

subtest 'each form is what it says' => sub {
    my $html = $bodies->get('/', headers => { Accept => 'text/html' })->body;
    like $html, qr{^<!DOCTYPE html>.*<h1>Too Many Requests</h1>.*</html>$}s, 'HTML';
    my $text = $bodies->get('/', headers => { Accept => 'text/plain' })->body;
    is $text, "This request is not admitted.\n", 'text';
};

subtest 'RateLimitResponse' => sub {
    my $text = $bodies->get('/text');
    is $text->header('Content-Type'), $type{text}, 'text';
    is $bodies->get('/text', headers => { Accept => 'text/html' })->header('Content-Type'), $type{html},
        'to a browser HTML';
    my $off = $bodies->get('/off');
    is $off->status, 429, 'off';
    like $off->body, qr/<!DOCTYPE HTML PUBLIC.*429 Too Many Requests/s, "leaves httpd's own page";
    is $off->header('Cache-Control'), 'no-store', 'with our headers';
};

subtest 'status=' => sub {
    my $busy = $bodies->get('/busy');
    is $busy->status, 503, 'is the status';
    is decode_json($busy->body)->{status}, 503, 'also in the body';
    is $bodies->get('/hidden')->status, 404, 'whichever it is';
};

subtest 'ErrorDocument wins' => sub {
    my $said = $bodies->get('/said');
    is $said->status . ' ' . $said->body, '429 slow down', 'as a text';
    my $page = $bodies->get('/page', headers => { Accept => 'application/json' });
    is $page->status . ' ' . $page->body, '429 sorry', 'as a page';
    is $page->header_all($_), 1, "$_ once" for 'X-RateLimit-Limit', 'Cache-Control';
    like $bodies->get('/elsewhere')->body, qr/rate_limit_exceeded/, 'only that of the status';
};

# --- A backend with headers of its own ----------------------------------------------

my $backend = Httpd->start(module => 0, modules => ['headers'], config => <<'EOF');
Header always set X-RateLimit-Limit 999
Header set X-RateLimit-Remaining 998
Header set RateLimit '"theirs";r=997'
<Location /hello.txt>
    Header set X-RateLimit-Reset 1
</Location>
<Location /refused>
    Redirect 429
    Header always set Retry-After 17
</Location>
EOF
my $front = Httpd->start(modules => [qw(proxy proxy_http)], vars => { BACKEND => $backend->port },
    config => <<'EOF');
ProxyPass / http://127.0.0.1:@BACKEND@/
RateLimitHeaders x-ratelimit
RateLimit mine 5/1d algorithm=fixed-window
<LocationMatch "^/(page|login)">
    RateLimitHeaders x-ratelimit yield
</LocationMatch>
<Location /dir>
    RateLimitHeaders off
</Location>
EOF

subtest 'a backend that sends such headers too' => sub {
    my $from = fresh_address();
    is limits($front->get('/hello.txt', from => $from)), <<'EOF' =~ s/\n$//r, 'ours take their place';
RateLimit: "theirs";r=997
X-RateLimit-Limit: 5
X-RateLimit-Remaining: 4
X-RateLimit-Reset: MIDNIGHT
EOF
    is limits($front->get('/page.html', from => $from)), <<'EOF' =~ s/\n$//r, 'with yield theirs stand, without any of ours between them';
RateLimit: "theirs";r=997
X-RateLimit-Limit: 999
X-RateLimit-Remaining: 998
EOF
    like limits($front->get('/dir/', from => $from)), qr/^X-RateLimit-Limit: 999$/m,
        'and where ours are off';
    my $refused = $front->get('/refused', from => $from);
    is $refused->status . ' ' . join(',', $refused->header_all('Retry-After')), '429 17',
        "the backend's own denial is handed on";
    is $refused->header_all('X-RateLimit-Limit'), 1, 'with one line each';
    $front->get('/', from => $from);
    my $denied = $front->get('/page.html', from => $from);
    is $denied->status, 429, 'a denial does not reach it';
    is join(',', $denied->header_all('X-RateLimit-Limit')), 5, 'and has our headers, yield or not';
};

my $paths = Httpd->start(modules => [qw(headers rewrite)], files => { 'sorry.html' => 'sorry' },
    config => <<'EOF');
RateLimit mine 50/1d
ErrorDocument 404 /sorry.html
ErrorDocument 429 /sorry.html
<Location /closed>
    RateLimit mine 0/1d
</Location>
<Directory @DOCROOT@>
    Header set X-RateLimit-Limit 999
    RewriteEngine on
    RewriteRule ^pretty$ /page.html [L]
</Directory>
<Location /dir>
    FallbackResource /page.html
</Location>
EOF

subtest 'a page with such headers, however it is reached' => sub {
    my %reached = ('/page.html' => 'directly', '/dir/' => 'as a directory index',
        '/dir/any' => 'as a fallback', '/pretty' => 'by a rewrite', '/lost' => 'as an error document');
    is join(',', $paths->get($_)->header_all('X-RateLimit-Limit')), 50, $reached{$_}
        for sort keys %reached;
    is join(',', $paths->get('/closed')->header_all('X-RateLimit-Limit')), 0,
        'as the error document of a denial';
};

done_testing;
