#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
# Whatever bytes a client sends, in whatever place, the status page, its form for programs, the metrics, the
# logs and the quota page stay valid, and nothing that may be a secret is in any of them.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";

use Client;
use Httpd;
use JSON::PP ();
use Metrics;
use MIME::Base64 qw(encode_base64);
use RedisServer;
use Status;
use Test::More;

my $redis = RedisServer->start;
my $host  = Httpd->start(redis => $redis, log_level => 'warn',
    modules => [qw(status unique_id auth_basic authn_anon authz_user)],
    config => <<'EOT' . Status::CONFIG . Metrics::CONFIG);
RateLimitRedis @REDIS@
RateLimitRedisTimeout 10s connect=10s
ExtendedStatus On
HttpProtocolOptions Unsafe LenientMethods Allow0.9
LimitRequestFieldSize 16000
RateLimitLog v.json
RateLimit path 0/1h key=path
RateLimit many 0/1h key=path+header:X-Key+cookie:sid+host
RateLimit all 100000000/1h key=ip
# One rule for each: if memory denies by one rule, Redis is not asked about others.
<Location /header>
    RateLimit off
    RateLimit header 0/1h key=header:X-Key
</Location>
<Location /cookie>
    RateLimit off
    RateLimit cookie 0/1h key=cookie:sid
</Location>
<Location /query>
    RateLimit off
    RateLimit query 0/1h key=%{QUERY_STRING}+%{HTTP_HOST}
</Location>
<Location /method>
    RateLimit off
    RateLimit method 0/1h key=%{REQUEST_METHOD}
</Location>
<Location /private>
    RateLimit off
    RateLimit user 0/1h key=user
    AuthType Basic
    AuthName x
    AuthBasicProvider anon
    Anonymous *
    Anonymous_NoUserID on
    Anonymous_MustGiveEmail off
    Require valid-user
</Location>
<Location /quota>
    SetHandler ratelimit-quota
</Location>
<VirtualHost *:@PORT@>
    ServerName localhost
</VirtualHost>
<VirtualHost *:@PORT@>
    ServerName text
    RateLimitLog v.txt text
</VirtualHost>
<VirtualHost *:@PORT@>
    ServerName error
    ErrorLog @DIR@/vhost-error.log
</VirtualHost>
EOT

# Sends the bytes and returns the status, or 0 if the server closed without a response.
sub send_raw {
    my ($raw) = @_;
    my $answer = eval { Client->request(port => $host->port, raw => $raw) };
    return $answer ? $answer->status : 0;
}

my %seen;

# Sends a value in every place of a request. SECRET marks what must not be shown anywhere.
sub send_everywhere {
    my ($value, $name) = @_;
    my $tail = "Connection: close\r\n\r\n";
    my $user = encode_base64("us$value" . "er:pw", '');
    (my $path = "p$value" . 'q') =~ s/([^A-Za-z0-9])/sprintf '%%%02X', ord $1/ge;
    my $secret = "SECRET$value" . 'SECRET';
    $seen{$_}++ for map { send_raw($_ . $tail) } (
        "GET /$path HTTP/1.1\r\nHost: $name\r\n",
        "GET /p$value" . "q HTTP/1.1\r\nHost: $name\r\n",
        "GET /query?SECRET$value HTTP/1.1\r\nHost: $name\r\n",
        "GET /header HTTP/1.1\r\nHost: $name\r\nX-Key: $secret\r\n",
        "GET /cookie HTTP/1.1\r\nHost: $name\r\nCookie: sid=$secret\r\n",
        "GET /query HTTP/1.1\r\nHost: $name$value\r\n",
        "M$value" . "D /method HTTP/1.1\r\nHost: $name\r\n",
        "GET /private HTTP/1.1\r\nHost: $name\r\nAuthorization: Basic $user\r\n",
        "GET /quota/$path HTTP/1.1\r\nHost: $name\r\nX-Key: $secret\r\n",
    );
}

my @bytes = grep { $_ !~ /[\r\n]/ } map { chr } 1 .. 255;
for my $name (qw(localhost text)) {
    send_everywhere($_, $name) for @bytes;
}
send_everywhere($_, $_[0] // 'localhost') for '<script>alert(1)</script>', '"><b x="', "'><b x='",
    '&lt;', '%s%n%99999d', '$(id)`id`', "\x1b[31m", '{"a":1}', '"} 1', "\xff\xfe\xc3\x28", "\xe2\x80\xae", '{x}',
    'A' x 7000, '"' x 3000, "\xff" x 3000, '..%2f..', '%0d%0aX: y';
cmp_ok $seen{429} || 0, '>', 3000, join ', ', map { "$seen{$_} of $_" } sort keys %seen;
is $seen{500} // 0, 0, 'no request caused a server error';

my $html = $host->get('/server-status')->body;
$html =~ s/\A.*?<div class="rl">//s;
$html =~ s{</div>.*\z}{}s;
$html =~ s{<style>.*?</style>}{}s;

subtest 'the status page is valid' => sub {
    my $tag = qr{</?(?:h2|p|b|code|table|thead|tbody|tr|th|td)(?: [a-z]+="[^"<>&]*")*>};
    (my $text = $html) =~ s/$tag//g;
    unlike $text, qr/[<>]/, 'it has only its own tags';
    unlike $text, qr/&(?!(?:lt|gt|amp|quot|micro|#\d+);)/, 'it has only its own entities';
    unlike $html, qr/[^\x20-\x7e\n]/, 'it is printable ASCII';
    like $html, qr/title="Identity">/, 'it shows denied identities';
    unlike $html, qr/SECRET/, 'it shows no secret';
    for my $element (qw(table tr td th p code b tbody thead)) {
        my $open = () = $html =~ /<$element[ >]/g;
        my $close = () = $html =~ m{</$element>}g;
        is $close, $open, "each <$element> is closed";
    }
};

subtest 'the status page for programs is valid' => sub {
    my $auto = $host->get('/server-status?auto')->body;
    is ref eval { Status->parse($auto) }, 'Status', 'it consists of names and numbers' or diag $@;
    # apache_exporter splits lines at ": " and reads some names as numbers
    my %known = map { $_ => 1 } 'Total Accesses', 'Total kBytes', 'Total Duration', 'Uptime', 'BusyWorkers',
        'IdleWorkers', 'CPULoad', 'CPUUser', 'Load1', 'ConnsTotal', 'ReqPerSec', 'ServerUptimeSeconds';
    my @ours = map { (split /: /)[0] } grep { /^RateLimit/ } split /\n/, $auto;
    is_deeply [grep { $known{$_} } @ours], [], 'no name is one that apache_exporter reads';
    my %twice;
    is_deeply [grep { $twice{$_}++ } @ours], [], 'no name is used twice';
};

subtest 'the metrics are valid' => sub {
    for my $open (0, 1) {
        my $metrics = eval { Metrics->of($host, open => $open) };
        ok $metrics, 'they can be parsed' or diag $@;
        unlike $metrics->text, qr/SECRET|[^\x20-\x7e\n]/, 'they are printable ASCII without a secret';
        my %rules = map { $_->{labels}{rule} // '' => 1 } @{ $metrics->{samples} };
        is_deeply [sort keys %rules], ['', qw(all cookie header many method path query user)],
            'the only labels of rules are those of the configuration';
    }
};

subtest 'the violation log is valid' => sub {
    my ($json, $text) = map { $host->text($_) || die "$_ is empty\n" } qw(v.json v.txt);
    my @lines = eval { map { JSON::PP->new->utf8->decode($_) } split /\n/, $json };
    is $@, '', scalar(@lines) . ' lines are JSON';
    cmp_ok scalar(@lines), '>', 1000, 'there are many lines';
    my %keys = map { join(',', sort keys %$_) => 1 } @lines;
    is scalar(keys %keys), 1, 'all lines have the same members';
    is_deeply [grep { $_->{address} ne '127.0.0.1' || $_->{rule} !~ /^[a-z]+$/ } @lines], [],
        'address and rule are right in each';
    is scalar(grep { !/^\S+Z( [a-z-]+=[\x21-\x7e]+){15}$/ } split /\n/, $text), 0,
        'every line of the text log is valid';
    unlike $json . $text, qr/SECRET/, 'no secret is in the logs';
    unlike $json . $text, qr/[^\x20-\x7e\n]/, 'both logs are printable ASCII';
    my ($longest) = sort { $b <=> $a } map { length } split /\n/, $json . $text;
    cmp_ok $longest, '<', 4096, 'no line is too long';
};

subtest 'the error log is valid' => sub {
    my @ours = $host->error_log_lines(qr/ratelimit:/);
    is scalar(grep { /SECRET/ && !/path=|identity=/ } @ours), 0,
        'no line of the module has a secret, except in the path or a readable identity';
    is scalar(grep { !/^\[\w+ \w+ +\d+ [\d:.]+ \d+\] \[/ } split /\n/, $host->error_log), 0, 'no line is forged';
};

subtest 'the quota page is valid' => sub {
    my $answer = $host->get('/quota', headers => { 'X-Key' => '"}]', Cookie => 'sid="<>' });
    my $quotas = eval { JSON::PP->new->utf8->decode($answer->body)->{quotas} };
    is_deeply [map { $_->{rule} } @{ $quotas || [] }], [qw(path many all)], 'it is valid JSON with all rules';
};

is scalar(grep { /SECRET/ } @{ $redis->cmd('KEYS', '*') }), 0, 'no secret is in Redis';
is $host->get('/x')->status, 429, 'the server goes on';

done_testing;
