#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
# A section inherits the rules around it; a rule of the same name replaces the inherited one, and "off"
# drops it. The tests compare RateLimit-Policy, which lists the rules that were evaluated for a request.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";

use Client;
use Httpd;
use Test::More;

my $httpd = Httpd->start(ports => 3, modules => [qw(proxy proxy_http)],
    files => { 'over/.htaccess' => "RateLimitEngine off\n", 'over/x.html' => 'x',
               'rule/.htaccess' => "RateLimit mine 1000/1s\n", 'rule/x.html' => 'x' },
    config => <<'EOF');
RateLimitHeaders draft-11
RateLimit base 1000/1d
<Location /loc>
    RateLimit loc 100/1d
</Location>
<Location /loc/deeper>
    RateLimit deep 50/1d
</Location>
<Location /again>
    RateLimit base 70/1h
</Location>
<Location /nobase>
    RateLimit base off
</Location>
<Location /nobase/back>
    RateLimit base 30/1d
</Location>
<Location /none>
    RateLimit off
</Location>
<Location /none/some>
    RateLimit some 40/1d
</Location>
<Location /fresh>
    RateLimit only 20/1d
    RateLimit off
</Location>
<Location /unknown>
    RateLimit nosuch off
</Location>
<LocationMatch "^/match[0-9]+">
    RateLimit match 90/1d
</LocationMatch>
<Directory @DOCROOT@/dir>
    RateLimit dir 80/1d
    <Files page.html>
        RateLimit file 60/1d
        RateLimit dir 81/1d
    </Files>
</Directory>
<Directory @DOCROOT@/over>
    AllowOverride All
</Directory>
<Directory @DOCROOT@/rule>
    AllowOverride All
</Directory>
<FilesMatch "^login\.">
    RateLimit login 10/1d
</FilesMatch>
<If "%{QUERY_STRING} == 'if'">
    RateLimit cond 5/1d
    RateLimit base off
</If>
<If "-n %{HTTP:X-Plan}">
    RateLimit plan 6/1d
</If>
<Location /off>
    RateLimitEngine off
</Location>
<Location /off/on>
    RateLimitEngine on
    RateLimit on 3/1d
</Location>
<Location /shadow>
    RateLimitEngine shadow
    RateLimit never 0/1d
</Location>
<Location /strict>
    RateLimit never 0/1d
</Location>
<Location /strict/off>
    RateLimitEngine off
</Location>
<VirtualHost *:@PORT2@>
    RateLimit base 2000/1d
    RateLimit vhost 1000/1d
    <Location /loc>
        RateLimit vhost off
    </Location>
    ProxyPass /loc !
    ProxyPass / http://127.0.0.1:@PORT3@/
    <Proxy "http://127.0.0.1:@PORT3@/*">
        RateLimit proxied 500/1d
    </Proxy>
</VirtualHost>
<VirtualHost *:@PORT3@>
    RateLimit off
    RateLimitHeaders off
    <Location /loc>
        RateLimitHeaders draft-11
    </Location>
</VirtualHost>
EOF

# The rules that were evaluated for a path, as name=quota, in their order.
sub rules {
    my ($path, %opt) = @_;
    my $policy = $httpd->get($path, %opt)->header('RateLimit-Policy') // '';
    return join ' ', map { /^"([^"]+)";q=(\d+)/ ? "$1=$2" : $_ } split /, /, $policy;
}

my @expected = (
    ['/',              'base=1000',                 'rules of the server'],
    ['/loc',           'base=1000 loc=100',         '<Location> inherits'],
    ['/location',      'base=1000',                 '/location is not inside <Location /loc>'],
    ['/loc/deeper/x',  'base=1000 loc=100 deep=50', '<Location> inherits from a shorter <Location>'],
    ['/again',         'base=70',                   'a rule of the same name replaces the inherited one'],
    ['/nobase',        '',                          'NAME off drops the rule'],
    ['/nobase/back',   'base=30',                   'a dropped rule can be given again'],
    ['/none',          '',                          'off drops all rules'],
    ['/none/some',     'some=40',                   'other rules can follow off'],
    ['/fresh',         'only=20',                   'off keeps the rules of its own section'],
    ['/unknown',       'base=1000',                 'NAME off of an unknown rule does nothing'],
    ['/match7',        'base=1000 match=90',        '<LocationMatch>'],
    ['/match',         'base=1000',                 '<LocationMatch> applies only where it matches'],
    ['/dir/nothing',   'base=1000 dir=80',          '<Directory>'],
    ['/dir/page.html', 'base=1000 file=60 dir=81',  '<Files> inside <Directory>'],
    ['/login.html',    'base=1000 login=10',        '<FilesMatch>'],
    ['/?if',           'cond=5',                    '<If>'],
    ['/loc?if',        'loc=100 cond=5',            '<If> comes last'],
    ['/off',           '',                          'RateLimitEngine off'],
    ['/off/on',        'base=1000 on=3',            'RateLimitEngine on inside off'],
);
is rules($_->[0]), $_->[1], "$_->[2]: $_->[0]" for @expected;
is rules('/', headers => { 'X-Plan' => 'gold' }), 'base=1000 plan=6', '<If> on a header';

subtest 'virtual hosts' => sub {
    is rules('/', port => $httpd->port(1)), 'base=2000 vhost=1000 proxied=500',
        'a virtual host inherits from the server, and <Proxy> from the virtual host';
    is rules('/loc', port => $httpd->port(1)), 'base=2000 loc=100', 'a section inherits from both';
    is rules('/loc', port => $httpd->port(2)), 'loc=100', 'off in a virtual host drops the rules of the server';
    is rules('/nobase/back', port => $httpd->port(2)), '', 'sections inherit RateLimitHeaders off';
};

subtest 'RateLimitEngine' => sub {
    is $httpd->get('/strict/x')->status,     429, 'RateLimitEngine on denies';
    is $httpd->get('/strict/off/x')->status, 404, 'off in a section does not deny';
    is $httpd->get('/shadow/x', from => '127.0.0.9')->status, 404, 'shadow does not deny';
    is scalar($httpd->error_log_lines(qr/would deny \(shadow\) rule=never/)), 1, 'it logs the denial instead';
};

subtest '.htaccess can set no limits' => sub {
    is $httpd->get('/over/x.html')->status, 500, 'it cannot switch the engine off';
    is $httpd->get('/rule/x.html')->status, 500, 'it cannot replace a rule';
    is scalar($httpd->error_log_lines(qr{/$_: RateLimit\w* not allowed here})), 1,
        'the error log names the directive that is not allowed'
        for qw(over/.htaccess rule/.htaccess);
};

done_testing;
