#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
# The exact text of a limited response: the three families of headers, Retry-After, and the body of a
# denial in the form that the client accepts.

use strict;
use warnings;

use Client qw(fresh_address);
use FindBin;
use lib "$FindBin::Bin/../lib";

use Httpd;
use JSON::PP;
use Test::More;
use Time::HiRes qw(time);    # Perl's own time() reads a coarse clock, some ms behind httpd's
use Windows;

use constant DAY => Windows::DAY;

sub midnight { return Windows::ends(DAY) }

my @families = qw(X-RateLimit-Limit X-RateLimit-Remaining X-RateLimit-Reset RateLimit-Limit
    RateLimit-Remaining RateLimit-Reset RateLimit-Policy RateLimit);

# All header lines of the three families, sorted. A correct number of seconds until the end of the day is
# shown as T, a correct time of its end as MIDNIGHT.
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

subtest 'x-ratelimit sends limit, remaining units and the time of the reset' => sub {
    my $from = fresh_address();
    is limits($httpd->get('/x', from => $from)), <<"EOF" =~ s/\n$//r, "$_ left" for 2, 1, 0, 0;
X-RateLimit-Limit: 3
X-RateLimit-Remaining: $_
X-RateLimit-Reset: MIDNIGHT
EOF
};

subtest 'draft-11 sends the policy, the remaining units and the seconds until the reset' => sub {
    my $from = fresh_address();
    is limits($httpd->get('/d11', from => $from)), <<"EOF" =~ s/\n$//r, "$_ left" for 2, 1, 0, 0;
RateLimit-Policy: "fixed";q=3;w=86400
RateLimit: "fixed";r=$_;t=T
EOF
};

subtest 'draft-03 sends limit, remaining units and the seconds until the reset' => sub {
    my $from = fresh_address();
    is limits($httpd->get('/d03', from => $from)), <<"EOF" =~ s/\n$//r, "$_ left" for 2, 1, 0, 0;
RateLimit-Limit: 3
RateLimit-Remaining: $_
RateLimit-Reset: T
EOF
};

is limits($httpd->get('/all', from => fresh_address())), <<"EOF" =~ s/\n$//r, 'all three families can be sent at once';
RateLimit-Limit: 3
RateLimit-Policy: "fixed";q=3;w=86400
RateLimit-Remaining: 2
RateLimit-Reset: T
RateLimit: "fixed";r=2;t=T
X-RateLimit-Limit: 3
X-RateLimit-Remaining: 2
X-RateLimit-Reset: MIDNIGHT
EOF

subtest 'RateLimitHeaders off sends no headers' => sub {
    my $from = fresh_address();
    is limits($httpd->get('/none', from => $from)), '', 'no limit header' for 1 .. 4;
    my $denied = $httpd->get('/none', from => $from);
    is $denied->status, 429, 'the rule still denies';
    ok $denied->header('Retry-After'), 'with Retry-After';
};

like limits($httpd->get('/yield', from => fresh_address())), qr/^X-RateLimit-Limit: 3$/m,
    'yield without a family means the default headers';

subtest 'of several rules the tightest is shown' => sub {
    my $from = fresh_address();
    is limits($httpd->get('/several', from => $from)), <<"EOF" =~ s/\n$//r, 'limits of the tightest, policies of all'
RateLimit-Policy: "wide";q=500;w=86400, "tight";q=2;w=86400, "brief";q=1000000
RateLimit: "tight";r=$_;t=T
X-RateLimit-Limit: 2
X-RateLimit-Remaining: $_
X-RateLimit-Reset: MIDNIGHT
EOF
        for 1, 0, 0;
    my $denied = decode_json($httpd->get('/several', from => $from)->body);
    is_deeply $denied->{'violated-policies'}, ['tight'], 'the body names the rule that denied';
};

subtest 'a rule with headers=off is not shown to clients' => sub {
    my $denied = $httpd->get('/secret', from => fresh_address());
    is $denied->status, 429, 'it denies';
    is limits($denied), '', 'it is in no header';
    unlike $denied->body, qr/secret/, 'its name is not in the body';
    is_deeply decode_json($denied->body)->{'violated-policies'}, [], 'the body stays valid JSON';
};

subtest 'a shadow rule is not shown to clients' => sub {
    my $passed = $httpd->get('/trial', from => fresh_address());
    is $passed->status, 404, 'it denies nothing';
    is limits($passed), '', 'it is in no header';
};

subtest 'a quota of zero does not say when to come back' => sub {
    my $denied = $httpd->get('/never', from => fresh_address());
    is $denied->status, 429, 'it denies';
    is $denied->header('Retry-After'), undef, 'without Retry-After';
    is $denied->header('RateLimit'), '"never";r=0', 'without t in RateLimit';
    my $problem = decode_json($denied->body);
    is_deeply [grep { /retry/ } keys %$problem], [], 'without retry_after in the body';
};

subtest 'Retry-After is the time until a sliding window has room again' => sub {
    my $from = fresh_address();
    my $passed = $httpd->get('/sliding', from => $from);
    is $passed->header($_), undef, "a response that passes has no $_" for qw(Retry-After Cache-Control);
    # two of two units are used on this day, so the first one is back in the middle of the next day
    my $before = time;
    my $back   = midnight() + DAY / 2;
    my $is_due = sub {
        my ($wait, $what) = @_;
        ok $wait >= $back - time && $wait <= $back - $before + 1, $what
            or diag "$wait, not " . ($back - $before);
    };
    my ($unit) = $httpd->get('/sliding', from => $from)->header('RateLimit') =~ /;r=0;t=(\d+)$/;
    $is_due->($unit, 'RateLimit announces the next unit');
    my $denied = $httpd->get('/sliding', from => $from);
    $is_due->($denied->header('Retry-After'), 'Retry-After is the same time');
    is $denied->header('X-RateLimit-Reset'), midnight() + DAY, 'the whole quota is back at the end of the next day';
    is $denied->header('Cache-Control'), 'no-store', 'caches must not store the denial';
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

subtest 'the problem document has all its members' => sub {
    my $from = fresh_address();
    $bodies->get('/due', from => $from);
    my $denied  = $bodies->get('/due', from => $from);
    my $problem = decode_json($denied->body);
    is $denied->header('Content-Type'), 'application/problem+json', 'the content type is right';
    is $denied->header('Content-Length'), length $denied->body, 'the content length is right';
    my $ms = delete $problem->{retry_after_ms};
    my $s  = delete $problem->{retry_after};
    is $s, $denied->header('Retry-After'), 'retry_after is Retry-After';
    ok $ms > ($s - 1) * 1000 && $ms <= $s * 1000, 'retry_after_ms is the same time in milliseconds';
    like $problem->{detail}, qr/\b$s seconds\b/, 'detail contains the seconds';
    is $problem->{detail}, delete $problem->{message}, 'message is the same as detail';
    delete $problem->{detail};
    is_deeply $problem, {
        type   => 'https://iana.org/assignments/http-problem-types#quota-exceeded',
        title  => 'Request cannot be satisfied as assigned quota has been exceeded',
        status => 429, error => 'rate_limit_exceeded', 'violated-policies' => [qw(due other)],
    }, 'the other members are right';
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

subtest 'the bodies in HTML and text are valid' => sub {
    my $html = $bodies->get('/', headers => { Accept => 'text/html' })->body;
    like $html, qr{^<!DOCTYPE html>.*<h1>Too Many Requests</h1>.*</html>$}s, 'the HTML body is a whole page';
    my $text = $bodies->get('/', headers => { Accept => 'text/plain' })->body;
    is $text, "This request is not admitted.\n", 'the text body is one line';
};

subtest 'RateLimitResponse chooses the body' => sub {
    my $text = $bodies->get('/text');
    is $text->header('Content-Type'), $type{text}, 'text sends text by default';
    is $bodies->get('/text', headers => { Accept => 'text/html' })->header('Content-Type'), $type{html},
        'text sends HTML to a browser';
    my $off = $bodies->get('/off');
    is $off->status, 429, 'off still denies';
    like $off->body, qr/<!DOCTYPE HTML PUBLIC.*429 Too Many Requests/s, "off leaves httpd's own page";
    is $off->header('Cache-Control'), 'no-store', "with the module's headers";
};

subtest 'status= is the status of a denial' => sub {
    my $busy = $bodies->get('/busy');
    is $busy->status, 503, '503 is sent';
    is decode_json($busy->body)->{status}, 503, 'and is in the body';
    is $bodies->get('/hidden')->status, 404, '404 is sent';
};

subtest 'an ErrorDocument replaces the body' => sub {
    my $said = $bodies->get('/said');
    is $said->status . ' ' . $said->body, '429 slow down', 'as text';
    my $page = $bodies->get('/page', headers => { Accept => 'application/json' });
    is $page->status . ' ' . $page->body, '429 sorry', 'as a page';
    is $page->header_all($_), 1, "$_ is sent once" for 'X-RateLimit-Limit', 'Cache-Control';
    like $bodies->get('/elsewhere')->body, qr/rate_limit_exceeded/, 'an ErrorDocument for another status does not';
};

# --- A backend that sends rate limit headers ----------------------------------------------

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

subtest 'headers of a backend are replaced, or kept with yield' => sub {
    my $from = fresh_address();
    is limits($front->get('/hello.txt', from => $from)), <<'EOF' =~ s/\n$//r, "the module's replace the backend's";
RateLimit: "theirs";r=997
X-RateLimit-Limit: 5
X-RateLimit-Remaining: 4
X-RateLimit-Reset: MIDNIGHT
EOF
    is limits($front->get('/page.html', from => $from)), <<'EOF' =~ s/\n$//r, 'with yield all are those of the backend';
RateLimit: "theirs";r=997
X-RateLimit-Limit: 999
X-RateLimit-Remaining: 998
EOF
    like limits($front->get('/dir/', from => $from)), qr/^X-RateLimit-Limit: 999$/m,
        'with RateLimitHeaders off those of the backend stay';
    my $refused = $front->get('/refused', from => $from);
    is $refused->status . ' ' . join(',', $refused->header_all('Retry-After')), '429 17',
        "the backend's own denial is passed on";
    is $refused->header_all('X-RateLimit-Limit'), 1, 'with X-RateLimit-Limit once';
    $front->get('/', from => $from);
    my $denied = $front->get('/page.html', from => $from);
    is $denied->status, 429, 'the module denies';
    is join(',', $denied->header_all('X-RateLimit-Limit')), 5, "a denial has the module's headers, even with yield";
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

subtest 'headers of a page are replaced, however it is reached' => sub {
    my %reached = ('/page.html' => 'directly', '/dir/' => 'as a directory index',
        '/dir/any' => 'as a fallback', '/pretty' => 'by a rewrite', '/lost' => 'as an error document');
    is join(',', $paths->get($_)->header_all('X-RateLimit-Limit')), 50, $reached{$_}
        for sort keys %reached;
    is join(',', $paths->get('/closed')->header_all('X-RateLimit-Limit')), 0,
        'as the error document of a denial';
};

done_testing;
