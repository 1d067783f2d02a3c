#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
# httpd -t refuses every mistake in a configuration with a message that quotes what it read, states what it
# expected and gives an example. That includes options that contradict each other. Every valid configuration
# is accepted; one that cannot work as intended gets a warning.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";

use Httpd;
use Test::More;

# httpd -t must refuse the configuration with a message that matches all patterns.
sub refused {
    my ($config, @patterns) = @_;
    my ($status, $said) = Httpd->config_test(config => $config);
    my ($message) = $said =~ /Syntax error on line[^\n]*\n(.*)/s;
    # mistakes that only the whole configuration shows are reported after all lines are read
    $message //= join "\n", $said =~ /^ratelimit: (.*)/mg;
    my @missing = grep { $message !~ $_ } @patterns;
    (my $name = $config) =~ s/\n/; /g;
    $name = substr($name, 0, 90) . ' ...' if length $name > 90;
    ok $status != 0 && $message ne '' && !@missing, "refused: $name"
        or diag "status $status, it lacks @missing:\n$said";
    return $message;
}

sub accepted {
    my ($what, $config, %opt) = @_;
    my ($status, $said) = Httpd->config_test(config => $config, %opt);
    is $status, 0, "accepted: $what" or diag $said;
    return $said;
}

subtest 'every valid configuration is accepted' => sub {
    my $n     = 0;
    my @rules = map { 'RateLimit r' . $n++ . " $_" } (
        '10/s', '10/1m', '10/M', '10/100ms', '10/500ms', '10/10s', '10/1h', '10/1d', '10/1w',
        '10/31d', '0/1m', '1/1m', '1000000000/1s', '1000000000/2251799ms',
        '10/1m key=ip', '10/1m key=ip/24', '10/1m key=ip/128', '10/1m key=user',
        '10/1m key=env:TENANT', '10/1m key=method', '10/1m key=host', '10/1m key=path',
        '10/1m key=path:2', '10/1m key=server', '10/1m key=header:X-Api-Key',
        '10/1m key=cookie:session', '10/1m key=%{REQUEST_SCHEME}-%{HTTP_HOST}',
        '10/1m key=user|header:X-Api-Key|ip', '10/1m key=host+path:1|ip/16+method',
        '10/1m "key=%{md5:%{HTTP_HOST}|a + b}|ip"', '10/1m key="%{req:X A}"', "10/1m 'key=ip'",
        '10/1m algorithm=sliding-window', '10/1m algorithm=fixed-window', '10/1m status=400',
        '10/1m status=511', '10/1m on-failure=local', '10/1m on-failure=open',
        '10/1m on-failure=closed', '10/1m headers=off', '10/1m headers=on', '10/1m shadow',
        '10/1m sync=request', '10/1m sync=lease', '10/1m sync=local', '10/1m phase=access',
        '10/1m phase=auth key=user', "10/1m\tkey=ip\t shadow  status=503 ",
        '10/1m KEY=IP Algorithm=Fixed-Window', 'off',
        '10/1m algorithm=token-bucket', '10/1m algorithm=token-bucket burst=1',
        '10/1m algorithm=leaky-bucket burst=100 delay=500ms', '10/1m algorithm=leaky-bucket delay=10s',
        '10/1m algorithm=leaky-bucket delay=0', '0/1m algorithm=token-bucket burst=5',
        '10000/1m algorithm=sliding-log', '10/1m cost=10', '0/1m cost=10',
        '10/1m algorithm=token-bucket burst=50 cost=50', '10/1m cost=%{HTTP:Content-Length}',
        '10/1m "cost=%{HTTP:X-Cost}"', '10/1m path=/', '10/1m path=/api/**', '10/1m methods=POST',
        '10/1m methods=POST,put,M-SEARCH', q(10/1m when="%{REQUEST_METHOD} == 'POST'"),
        q(10/1m "when=%{REQUEST_METHOD} == 'POST'"), q(10/1m 'when=%{QUERY_STRING} == "a b"'),
        '10/1m unless="-n %{QUERY_STRING} && %{REMOTE_ADDR} -ipmatch \'10.0.0.0/8\'"',
        '10/1m tier=%{HTTP:X-Plan}', '10/1m tier=gold', '10/1m charge-on=401,403,5xx',
        '10/1m charge-on=2xx', '10/1m charge-on=401 phase=access', '10/1m charge-on=401 phase=early',
        '10/1m charge-on=403 key=user', '10/1m charge-on=401 key=env:X phase=access',
        '10/1m block=100ms', '10/1m block=31d', '10/1m adaptive', '10/1m phase=early',
        '10/1m phase=early path=/x methods=POST key=header:X-A|ip',
    );
    push @rules, 'RateLimit ' . 'n' x 64 . ' 1/1m', 'RateLimit A-z_0.9 1/1m', 'RateLimit "quoted" 1/1m';
    my $config = join "\n", @rules, <<'EOC';
RateLimit off
RateLimitEngine shadow
RateLimitHeaders x-ratelimit draft-11 draft-03 yield
RateLimitResponse text
RateLimitNotes all
RateLimitNormalize -case +slashes dots -trailing params +encoding
RateLimitRedis redis://127.0.0.1:6379/3
RateLimitRedisTimeout 1ms connect=10s
RateLimitRedisPrefix my-app.1:rl
RateLimitOnFailure closed nodes=100000
RateLimitBreaker failures=1000 retry=1ms..10s
RateLimitSharedMemory 64K
RateLimitIPv6Prefix 128
RateLimitScope everything.here
RateLimitOverrides on
RateLimitDelayWorkers 50%
RateLimitAdaptive 0 0.999 50 0.5 99 0.001
RateLimit tiered 10/1m tier=%{HTTP:X-Plan}
RateLimitTier tiered gold 1000
RateLimitTier "tiered" 'silver' 100
RateLimitTier tiered barred 0
RateLimitTier tiered inner unlimited
RateLimit bucket 10/1m algorithm=token-bucket burst=50 tier=%{HTTP:X-Plan}
RateLimitTier bucket gold 1000 burst=1
EOC
    accepted 'every option and directive', $config;
    accepted 'the directives of sections, in every kind of section', <<'EOC', modules => ['proxy'], ports => 2;
<VirtualHost *:@PORT2@>
    RateLimit a 1/1m
    RateLimit early 1/1m phase=early
    RateLimitScope second
    RateLimitEngine off
    <Location /a>
        RateLimit a 2/1m
        RateLimitHeaders off
        RateLimitResponse off
        RateLimitNotes denied
        RateLimitNormalize -case
        RateLimit tiered 1/1m tier=%{HTTP:X-Plan}
        RateLimitTier tiered gold 2
    </Location>
</VirtualHost>
<LocationMatch "^/b">
    RateLimit a 3/1m
</LocationMatch>
<Directory @DOCROOT@>
    RateLimit a 3/1m
    <Files x.html>
        RateLimit a 4/1m
        RateLimit b off
        RateLimitEngine on
    </Files>
</Directory>
<If "%{REQUEST_URI} =~ m#^/c#">
    RateLimit off
</If>
<Proxy "http://127.0.0.1/*">
    RateLimit a 5/1m
    RateLimitResponse problem
</Proxy>
RateLimitRedisTimeout connect=1s
RateLimitRedis unix:///run/redis/redis.sock?db=2
RateLimitSharedMemory 1g
RateLimitOnFailure open
RateLimitHeaders off
EOC
};

subtest 'a rule needs a valid name' => sub {
    refused 'RateLimit', qr/expected NAME QUOTA/, qr{RateLimit login 10/1m};
    for my $name ('"log in"', 'log/in', 'r:a', '{a}', "l\xc3\xb6g", 'n' x 65, '"a\"b"', '""') {
        refused "RateLimit $name 10/1m", qr{RateLimit login 10/1m};
    }
    refused 'RateLimit "log in" 10/1m', qr/invalid name "log in"/, qr/letters, digits/;
    refused "RateLimit a 1/1m\nRateLimit a 2/1m", qr/"a" is given twice in one section/;
    refused "<Location /x>\nRateLimit a 1/1m\nRateLimit a off\n</Location>", qr/"a" is given twice/;
};

subtest 'a rule needs a valid quota and window' => sub {
    refused 'RateLimit login', qr/"login"/, qr{expected QUOTA/WINDOW}, qr{for example 10/1m};
    for my $text (qw(ten/1m 10 10/ /1m -1/1m +1/1m 10.5/1m 10x/1m 10//1m 0x10/1m 1e3/1m
            10/1x 10/1.5s 10/-1m 10/1mm 10/60 10/m1 10/sec 10/0s 10/0ms 10/99ms 10/0w
            10/32d 10/5w 10/2678400001ms 10/99999999999999999999d 10/300000000000w
            1000000001/1s 9223372036854775808/1s 99999999999999999999999/1s)) {
        refused "RateLimit login $text", qr/"login"/, qr/\Q"$text"\E/;
    }
    refused 'RateLimit login 10/0s', qr/"login".*"10\/0s": expected a window from 100ms to 31d, for example 10\/1m/;
    refused 'RateLimit login 10/1x', qr/ms, s, m, h, d and w, for example 10\/1m/;
    refused 'RateLimit login 10/99ms', qr/100ms to 31d/;
    refused "RateLimit login $_/1s", qr/expected a quota of at most 1000000000/
        for '1000000001', '9223372036854775808', '9' x 40;
    refused 'RateLimit login 1000000000/31d', qr/too large to count exactly/, qr/at most 840725/;
    refused 'RateLimit login off key=ip', qr/unexpected "key=ip" after off/;
    refused 'RateLimit off now', qr/"off"/;
};

subtest 'an option needs a valid value' => sub {
    my %bad = (
        'burst'              => qr/burst= needs a value/,
        'key='               => qr/key= needs a value/,
        'nosuch=1'           => qr/unknown option "nosuch=1"; expected one of: key=, algorithm=.*shadow/,
        'shadow=1'           => qr/shadow takes no value; "1" was given/,
        'key=ip key=ip'      => qr/key is given twice/,
        'shadow shadow'      => qr/shadow is given twice/,
        'key=name'           => qr/invalid value "name" for key=: expected ip, ip\/N, user, header:NAME.*%\{\.\.\.\}/,
        'key=ip/0'           => qr/invalid value "ip\/0" for key=: expected a number from 1 to 128 after "ip\/", for example key=ip\/64/,
        'key=ip/129'         => qr/invalid value "ip\/129" for key=: expected a number from 1 to 128 after "ip\/", for example key=ip\/64/,
        'key=ip/x'           => qr/invalid value "ip\/x" for key=: expected a number/,
        'key=ip:8'           => qr/invalid value "ip:8" for key=/,
        'key=ips'            => qr/invalid value "ips" for key=/,
        'key=header'         => qr/invalid value "header" for key=/,
        'key=header:'        => qr/invalid value "header:" for key=/,
        'key=cookie/x'       => qr/invalid value "cookie\/x" for key=/,
        'key=path:0'         => qr/invalid value "path:0" for key=: expected a number from 1 to 1000 after "path:", for example key=path:2/,
        'key=path/2'         => qr/invalid value "path\/2" for key=/,
        'key=user:x'         => qr/invalid value "user:x" for key=/,
        'key=ip+'            => qr/invalid value "" for key=/,
        'key=|ip'            => qr/invalid value "" for key=/,
        'key=ip||user'       => qr/invalid value "" for key=/,
        'key=%{HTTP_HOST'    => qr/invalid expression "%\{HTTP_HOST" for key=/,
        'key=%{nosuch:x}'    => qr/invalid expression "%\{nosuch:x\}" for key=/,
        'algorithm=leaky'    => qr/invalid value "leaky" for algorithm=: expected sliding-window, fixed-window/,
        'status=200'         => qr/invalid value "200" for status=: expected a status from 400 to 599, for example status=503/,
        'status=418'         => qr/httpd cannot send status=418; expected .* for example 429/,
        'status=600'         => qr/invalid value "600" for status=/,
        'status=4xx'         => qr/invalid value "4xx" for status=/,
        'on-failure=maybe'   => qr/invalid value "maybe" for on-failure=: expected local, open or closed/,
        'sync=never'         => qr/invalid value "never" for sync=: expected request, lease or local/,
        'phase=late'         => qr/invalid value "late" for phase=: expected early, access or auth/,
        'headers=maybe'      => qr/invalid value "maybe" for headers=: expected off or on/,
        'when="unclosed'     => qr/missing closing quote/,
        'key=user phase=access' => qr/key=user needs phase=auth/,
        'key=%{remote_user} phase=access' => qr/reads the user/,
        'key=a-%{REMOTE_USER} phase=access' => qr/reads the user/,
        'burst=0'            => qr/invalid value "0" for burst=: expected a whole number from 1 to 1000000000, for example burst=100/,
        'burst=x'            => qr/invalid value "x" for burst=: expected a whole number/,
        'burst=1000000001'   => qr/invalid value "1000000001" for burst=: expected a whole number from 1 to 1000000000/,
        'delay=2'            => qr/invalid value "2" for delay=: expected a duration of at most 10s, for example delay=500ms/,
        'delay=11s'          => qr/invalid value "11s" for delay=: expected a duration of at most 10s/,
        'cost=-1'            => qr/invalid value "-1" for cost=: expected a whole number .* or an expression, for example cost=5/,
        'cost=0'             => qr/invalid value "0" for cost=: expected a whole number/,
        'cost=1.5'           => qr/invalid value "1\.5" for cost=: expected a whole number/,
        'cost=1000000001'    => qr/invalid value "1000000001" for cost=: expected a whole number/,
        'cost=many'          => qr/invalid value "many" for cost=: expected a whole number/,
        'cost=%{nosuch:x}'   => qr/invalid expression ".*" for cost=:/,
        'block=soon'         => qr/invalid value "soon" for block=: expected a duration from 1ms to 31d, for example block=10m/,
        'block=0s'           => qr/invalid value "0s" for block=: expected a duration/,
        'block=32d'          => qr/invalid value "32d" for block=: expected a duration from 1ms to 31d/,
        'charge-on=4x1'      => qr/invalid value "4x1" for charge-on=: expected statuses separated by commas, for example charge-on=401,403,5xx/,
        'charge-on=401,'     => qr/for charge-on=: expected statuses separated by commas/,
        'charge-on=600'      => qr/for charge-on=: expected statuses separated by commas/,
        'charge-on=40'       => qr/for charge-on=: expected statuses separated by commas/,
        'charge-on=401;403'  => qr/for charge-on=: expected statuses separated by commas/,
        'path=api/**'        => qr{invalid value "api/\*\*" for path=: expected a glob that begins with a slash, for example path=/api/\*\*},
        'methods=POST,'      => qr/invalid value "POST," for methods=: expected methods separated by commas, for example methods=POST,PUT/,
        'methods="P OST"'    => qr/for methods=: expected methods separated by commas/,
        'adaptive=1'         => qr/adaptive takes no value/,
        'unless="-nosuch x"' => qr/invalid expression ".*" for unless=:/,
        'tier='              => qr/tier= needs a value/,
        'when="%{X ="'       => qr/invalid expression ".*" for when=:/,
        'tier=%{nosuch:x}'   => qr/invalid expression ".*" for tier=:/,
    );
    refused "RateLimit login 10/1m $_", qr/RateLimit "login"/, $bad{$_} for sort keys %bad;
};

subtest 'options that contradict each other are refused' => sub {
    my %contradiction = (
        'burst=20'                  => qr/burst= needs algorithm=token-bucket or leaky-bucket/,
        'burst=20 algorithm=fixed-window' => qr/burst= needs algorithm=token-bucket/,
        'burst=20 algorithm=sliding-log'  => qr/burst= needs algorithm=token-bucket/,
        'delay=1s'                  => qr/delay= needs algorithm=leaky-bucket/,
        'delay=1s algorithm=token-bucket' => qr/delay= needs algorithm=leaky-bucket/,
        'algorithm=leaky-bucket delay=1s charge-on=401' => qr/delay= and charge-on= cannot be combined/,
        'algorithm=sliding-log sync=local' => qr/algorithm=sliding-log needs Redis.*sync=local/,
        'cost=11'                   => qr/cost=11 exceeds the 10 units that the rule admits at once: every request would be denied/,
        'cost=6 algorithm=token-bucket burst=5' => qr/cost=6 exceeds the 5 units/,
        'charge-on=401 phase=auth'  => qr/charge-on=401 needs phase=access: a failed login never reaches/,
        'charge-on=4xx phase=auth'  => qr/charge-on=401 needs phase=access/,
        'charge-on=401 key=user'    => qr/charge-on=401 needs phase=access/,
        'charge-on=401 key=env:X'   => qr/charge-on=401 needs phase=access/,
        'phase=early key=user'      => qr/key=user needs phase=auth/,
        'phase=early key=path'      => qr/key=path cannot be combined with phase=early: .*use the option path=/,
        'phase=early key=ip+path:1' => qr/key=path cannot be combined with phase=early/,
        'phase=early when="-n %{REMOTE_USER}"' => qr/reads the user/,
        'phase=access tier=%{REMOTE_USER}' => qr/reads the user/,
        'phase=access cost=%{REMOTE_USER}' => qr/reads the user/,
    );
    refused "RateLimit login 10/1m $_", qr/RateLimit "login"/, $contradiction{$_}
        for sort keys %contradiction;
    refused 'RateLimit login 10001/1m algorithm=sliding-log',
        qr/invalid value "10001\/1m": algorithm=sliding-log takes a quota of at most 10000/;
    refused 'RateLimit login 10/31d algorithm=token-bucket burst=1000000',
        qr/too large to count exactly.*at most 840725/;
    refused 'RateLimit login 30000000/1m algorithm=token-bucket burst=40000000',
        qr/too large to count exactly.*at most 37529996/;
    refused 'RateLimit login 35000000/1m algorithm=leaky-bucket burst=35000000 delay=10s',
        qr/too large to count exactly with this delay=/;
    refused 'RateLimit login 10/1m algorithm=sliding-log',
        qr/"login".*algorithm=sliding-log needs RateLimitRedis, for example/;
    accepted 'a sliding log with Redis', "RateLimitRedis redis://h\nRateLimit login 10/1m algorithm=sliding-log";
    refused "<$_>\nRateLimit login 10/1m phase=early\n</" . ($_ =~ /^(\w+)/)[0] . '>',
        qr/"login": phase=early is allowed only outside of sections.*path= or when=/
        for 'Location /x', 'LocationMatch /x', 'Directory /x', 'Files x', 'If "true"';
    like accepted('adaptive without RateLimitAdaptive', 'RateLimit login 10/1m adaptive'),
        qr/"login".*adaptive does nothing without RateLimitAdaptive/, 'with a warning';
    unlike accepted('adaptive with RateLimitAdaptive',
            "RateLimitAdaptive 70 0.5\nRateLimit login 10/1m adaptive"),
        qr/adaptive does nothing/, 'without a warning';
};

subtest 'options that cannot work as written are refused or warned about' => sub {
    refused 'RateLimit login 10/1m cost=%{resp:X-Cost}',
        qr/"login": cost=: "%\{resp:X-Cost\}" reads the response.*charge-on=404/;
    refused 'RateLimit login 10/1m key=%{resp:X-Tenant}|ip', qr/key=: .*reads the response/;
    refused 'RateLimit login 10/1m when="%{REQUEST_STATUS} == 404"', qr/when=: .*reads the response/;
    refused 'RateLimit login 10/1m path=/search?page=1', qr/a query is not part of a path.*when="%\{QUERY_STRING\}/;
    accepted 'expressions that read only the request', <<'EOC';
RateLimit a 10/1m cost=%{note:cost}
RateLimit b 10/1m cost=%{reqenv:COST} when="%{CONTENT_TYPE} == 'text/html'"
RateLimit c 10/1m when="%{HTTP:Content-Type} == 'text/html'" path=/v?/x
EOC
    my %vain = (
        'methods=PSOT'        => qr/httpd does not know the method in methods=PSOT.* RegisterHttpMethod PSOT/,
        'methods=GET,psot'    => qr/httpd does not know the method in methods=psot/,
        'key=ip|user'         => qr/alternative of its key is never used.*key=user\|ip/,
        'key=host+path:1|ip'  => qr/alternative of its key is never used/,
        'tier=%{env:PLAN}'    => qr/tier= does nothing without a tier.*RateLimitTier login gold 1000/,
    );
    like accepted($_, "RateLimit login 10/1m $_"),
        qr/RateLimit "login" \(.*httpd\.conf:\d+\): .*$vain{$_}/, 'with a warning' for sort keys %vain;
    like accepted('tier= with a constant that names no tier',
            "RateLimit login 10/1m tier=gold\nRateLimitTier login silver 5"),
        qr/tier=gold is always "gold", which is not one of its tiers/, 'with a warning';
    my %sane = (
        'methods that httpd knows' =>
            'RateLimit login 10/1m methods=get,HEAD,Post,PATCH,PROPFIND,TRACE',
        'a method that a later line registers' =>
            "RateLimit login 10/1m methods=PURGE\nRegisterHttpMethod PURGE",
        'alternatives of a key that can all be used' =>
            'RateLimit login 10/1m key=user|header:X-A+host|ip',
        'tier= with the name of a tier' =>
            "RateLimit login 10/1m tier=gold\nRateLimitTier login gold 5",
    );
    unlike accepted($_, $sane{$_}), qr/does not know the method|never used|tier=/, 'without a warning'
        for sort keys %sane;
};

subtest 'a tier needs a rule before it, a valid name and a valid quota' => sub {
    my $rule   = 'RateLimit api 10/1m tier=%{HTTP:X-Plan}';
    my $bucket = "$rule algorithm=token-bucket";
    my %bad = (
        'RateLimitTier'                  => qr/expected the name of a RateLimit before it/,
        'RateLimitTier other gold 1'     => qr/"other": expected the name of a RateLimit before it/,
        'RateLimitTier api'              => qr/"api": expected TIER QUOTA\|unlimited \[burst=N\], for example/,
        'RateLimitTier api gold'         => qr/"api": expected TIER QUOTA\|unlimited/,
        'RateLimitTier api gold 1 2 3'   => qr/"api": expected TIER QUOTA\|unlimited/,
        'RateLimitTier api go/ld 1'      => qr/"api": invalid tier name "go\/ld"/,
        'RateLimitTier api gold many'    => qr/invalid value "many": expected a quota .*or unlimited, for example/,
        'RateLimitTier api gold -1'      => qr/invalid value "-1": expected a quota/,
        'RateLimitTier api gold 10/1m'   => qr/invalid value "10\/1m": expected a quota/,
        'RateLimitTier api gold 1000000001' => qr/expected a quota from 0 to 1000000000/,
        'RateLimitTier api gold 1 burst=2'  => qr/burst= needs algorithm=token-bucket/,
        'RateLimitTier api gold 1 size=2'   => qr/invalid value "size=2": expected burst=N/,
    );
    refused "$rule\n$_", qr/^RateLimitTier /, $bad{$_} for sort keys %bad;
    refused "RateLimitTier api gold 1\n$rule", qr/expected the name of a RateLimit before it/;
    refused "$rule\n<Location /x>\nRateLimitTier api gold 1\n</Location>", qr/before it in this section/;
    refused "RateLimit api off\nRateLimitTier api gold 1", qr/expected the name of a RateLimit/;
    refused "$rule\nRateLimitTier api gold 1\nRateLimitTier api gold 2", qr/tier "gold" is given twice/;
    refused "$bucket\nRateLimitTier api gold 1 burst=0", qr/invalid value "burst=0": expected burst=N/;
    refused "$bucket\nRateLimitTier api gold unlimited burst=2", qr/burst= cannot be combined with unlimited/;
    refused "$bucket\nRateLimitTier api gold 1 burst=50000000", qr/too large to count exactly/;
    refused "RateLimit api 10/31d\nRateLimitTier api gold 1000000", qr/"api": "1000000" is too large/;
    refused "RateLimitRedis redis://h\n$rule algorithm=sliding-log\nRateLimitTier api gold 10001",
        qr/invalid value "10001": .* at most 10000/;
};

subtest 'what cannot be leased is refused, with the reason' => sub {
    my $redis  = "RateLimitRedis redis://h\n";
    my $bucket = 'algorithm=token-bucket sync=lease';
    my %never  = (
        'algorithm=sliding-log' => qr/algorithm=sliding-log cannot be combined with sync=lease, because/,
        'algorithm=leaky-bucket burst=100 delay=1s' => qr/delay= cannot be combined with sync=lease: only Redis/,
        'charge-on=401'         => qr/charge-on= cannot be combined with sync=lease: units/,
        'block=1m'              => qr/block= cannot be combined with sync=lease: other hosts/,
        'algorithm=token-bucket burst=7' =>
            qr/sync=lease needs a burst of at least 8, .*; this one is 7/,
        'algorithm=leaky-bucket cost=8 burst=8' => qr/cost=8 exceeds the 7 units .* with sync=lease/,
    );
    refused $redis . "RateLimit login 10/1m sync=lease $_", qr/RateLimit "login"/, $never{$_} for sort keys %never;
    refused $redis . "RateLimit login 1000/1s $bucket burst=79", qr/"login" \(.*:\d+\): .* burst of at least 80, /,
        qr/what is refilled in 80 ms; this one is 79/;
    refused $redis . "RateLimit login 10/1s $bucket\nRateLimitTier login gold 1000 burst=79",
        qr/"login".*tier "gold": sync=lease needs a burst of at least 80/;
    my $shared = $redis . "RateLimit login 10/1m sync=lease\n<Location /x>\nRateLimit login 20/1m %s\n</Location>";
    refused sprintf($shared, $_), qr/"login".*cannot be combined with block= or charge-on= of another rule/
        for 'block=1m', 'charge-on=401';
    refused $redis . "RateLimit api 100/1s $bucket\n<Location /x>\n"
        . "RateLimit api 1000/1s algorithm=token-bucket burst=79\n</Location>", qr/at least 80.*this one is 79/;
    my %leased = (
        windows                    => "RateLimit a 10/1m sync=lease\nRateLimit b 1/100ms sync=lease algorithm=fixed-window",
        'buckets'                  => "RateLimit a 8/1m $bucket\nRateLimit b 1000/1s $bucket burst=80",
        'tiers'                    => "RateLimit a 1000/1s $bucket tier=%{HTTP:X-Plan}\n"
            . "RateLimitTier a few 5\nRateLimitTier a none 0\nRateLimitTier a staff unlimited",
        'a quota of 0 with a tier' => "RateLimit a 0/1s $bucket tier=%{HTTP:X-Plan}\nRateLimitTier a gold 50",
        'a local rule beside it'   => "RateLimit a 1000/1s $bucket\n<Location /x>\n"
            . "RateLimit a 1000/1s algorithm=token-bucket burst=5 sync=local\n</Location>",
        'a block of this host'     => "RateLimit a 10/1m sync=lease\n<Location /x>\n"
            . "RateLimit a 10/1m sync=local block=1m\n</Location>",
    );
    unlike accepted($_, $redis . $leased{$_}), qr/sync=lease/, 'without a warning' for sort keys %leased;
    like accepted('sync=lease without Redis', 'RateLimit login 10/1m sync=lease'),
        qr/"login".*sync=lease does nothing without RateLimitRedis: this host counts alone/, 'with a warning';
};

subtest 'the other directives need valid arguments' => sub {
    refused "RateLimitEngine $_", qr/RateLimitEngine/, qr/off, on or shadow/ for 'maybe', '';
    refused "RateLimitHeaders $_", qr/RateLimitHeaders/, qr/off, x-ratelimit, draft-11/
        for 'draft-12', 'x-ratelimit nosuch';
    refused "RateLimitHeaders $_", qr/off/, qr/alone/ for 'off x-ratelimit', 'draft-11 off', 'off yield';
    refused 'RateLimitResponse html', qr/invalid value "html": expected off, problem or text/;
    refused 'RateLimitNotes some',    qr/invalid value "some": expected denied or all/;
    refused 'RateLimitNormalize -cases', qr/invalid value "-cases"/, qr/for example -case/;
    refused 'RateLimitNormalize +-case', qr/invalid value "\+-case"/;
    for my $time ('0ms', '25', '11s', '-1s', 'connect=0s', 'connect=', '25ms connect=1h',
        '25ms wait=1s', '25ms 30ms', 'connect=1s connect=2s') {
        refused "RateLimitRedisTimeout $time", qr/RateLimitRedisTimeout: /,
            qr/for example 25ms connect=250ms/;
    }
    refused "RateLimitRedisPrefix $_", qr/RateLimitRedisPrefix: /, qr/for example rl/
        for '"a b"', 'a{b}', 'a*', 'p' x 65, "r\xc3\xa9l", '"a\rb"', '[x]';
    refused 'RateLimitOnFailure maybe', qr/invalid value "maybe": expected local, open or closed/;
    refused "RateLimitOnFailure local $_", qr/for example nodes=4/
        for 'nodes=0', 'nodes=-1', 'nodes=100001', 'nodes=x', 'hosts=4', 'nodes=4x', 'nodes=';
    refused "RateLimitBreaker $_", qr/RateLimitBreaker: invalid value "\Q$_\E": .*, for example/
        for 'failures=0', 'failures=1001', 'failures=x', 'retry=50ms', 'retry=2s..1s',
        'retry=0s..1s', 'retry=a..b', 'retries=5', '5';
    refused 'RateLimitBreaker failures=5 failures=6', qr/RateLimitBreaker: invalid value "failures=6"/;
    refused "RateLimitSharedMemory $_", qr/invalid value "\Q$_\E": expected a size from 64K to 64G, for example 16M/
        for '16MB', '1.5G', '-1', '0', '63K', '65G', '9' x 30, '9' x 30 . 'G', 'x', '16T';
    refused "RateLimitIPv6Prefix $_", qr/invalid value "\Q$_\E": .*1 to 128, for example 64/
        for '0', '129', '/64', '64x', '-1', '9' x 30;
    refused "RateLimitScope $_", qr/RateLimitScope: invalid value "\Q$_\E": .*for example shop/
        for 'a/b', 'a:b', 'x' x 65, '{x}', 'a*';
    refused 'RateLimitOverrides maybe', qr/RateLimitOverrides must be On or Off/;
    refused 'RateLimitOverrides on', qr/RateLimitOverrides on needs RateLimitRedis.*for example/;
    refused "RateLimitDelayWorkers $_", qr/RateLimitDelayWorkers: .*0 to 100 percent, for example 25/
        for '101', '-1', 'x', '%', '5%%', '2.5';
    refused 'RateLimitAdaptive', qr/RateLimitAdaptive: expected pairs of LOAD and FACTOR, for example 70 0.5/;
    refused "RateLimitAdaptive $_", qr/RateLimitAdaptive: /, qr/for example 70 0\.5/
        for '70', '70 0.5 90', '70 0', '70 1.1', '70 half', '70 -0.5', '70 0.0005', '70 .5', '100 0.5',
        '-1 0.5', '70% 0.5', '70 0.5 70 0.4', '70 0.5 60 0.4';
};

subtest 'directives are refused where they do not belong' => sub {
    my @section = ('RateLimit a 1/1m', 'RateLimit off', 'RateLimit a off');
    for my $limit ('Limit POST', 'LimitExcept GET') {
        my ($word) = $limit =~ /(\w+)/;
        refused "<Location /x>\n<$limit>\n$_\n</$word>\n</Location>", qr/<Limit>/, qr/methods=/
            for @section;
    }
    refused "<Location /x>\n<Limit POST>\n$_\n</Limit>\n</Location>", qr/Limit/
        for 'RateLimitEngine off', 'RateLimitHeaders off', 'RateLimitResponse off',
        'RateLimitNotes all', 'RateLimitNormalize -case';
    my @settings = ('RateLimitRedis redis://h', 'RateLimitRedisTimeout 5ms', 'RateLimitRedisPrefix p',
        'RateLimitOnFailure open', 'RateLimitBreaker failures=2', 'RateLimitSharedMemory 1M',
        'RateLimitIPv6Prefix 56', 'RateLimitOverrides off', 'RateLimitDelayWorkers 5',
        'RateLimitAdaptive 70 0.5');
    for my $line (@settings) {
        my ($name) = $line =~ /(\w+)/;
        refused "<VirtualHost *:80>\n$line\n</VirtualHost>", qr/$name cannot occur within/;
        refused "<Location />\n$line\n</Location>", qr/$name not allowed in/;
    }
    refused "<Location />\nRateLimitScope a\n</Location>", qr/RateLimitScope not allowed in/;
    refused "<Location /x>\nRateLimit a 1/1m\n<Limit POST>\nRateLimitTier a b 1\n</Limit>\n</Location>",
        qr/Limit/;
};

subtest 'a key that clients choose gets a warning if no other rule limits them' => sub {
    my $warns = qr/RateLimit "api" \(.*httpd\.conf:\d+\): clients choose its key.*key=ip/;
    for my $key ('header:X-Api-Key', 'cookie:session', '%{HTTP:X-Api-Key}', '%{HTTP_USER_AGENT}',
        '%{http:X-Key}', '%{Http_User_Agent}', '%{query_string}',
        '%{req:X-Api-Key}', '%{QUERY_STRING}', 'header:X-Api-Key|ip', 'ip+header:X-Api-Key') {
        like accepted($key, "RateLimit api 10/1m key=$key"), $warns, 'with a warning';
    }
    my $api  = "RateLimit api 10/1m key=header:X-Api-Key\n";
    my %calm = (
        'with a rule by address beside it' =>
            "RateLimit all 99/1m\n$api",
        'with a rule for the whole server' =>
            "${api}RateLimit all 99/1m key=server",
        'with a rule by network in the same section' =>
            "<Location /x>\n${api}RateLimit n 9/1m key=ip/24\n</Location>",
        'with a rule by address outside the section' =>
            "<Location /x>\n$api</Location>\nRateLimit all 99/1m",
        'with a rule by address around the virtual host' =>
            "RateLimit all 9/1m\n<VirtualHost *:80>\n$api</VirtualHost>",
        'a key that clients do not choose' =>
            'RateLimit api 10/1m key=env:TENANT',
    );
    unlike accepted($_, $calm{$_}), qr/clients choose/, 'without a warning' for sort keys %calm;
    my %not = (
        'with a rule by address that is off' =>
            "RateLimit all off\n$api",
        'with a rule by address in another section' =>
            "<Location /y>\nRateLimit all 9/1m\n</Location>\n$api",
        'with a rule by address in another virtual host' =>
            "<VirtualHost *:80>\nRateLimit all 9/1m\n</VirtualHost>\n$api",
    );
    like accepted($_, $not{$_}), $warns, 'with a warning' for sort keys %not;
};

done_testing;
