#!/usr/bin/perl
# What an administrator may write. Each mistake ends httpd -t with a message
# that says what was read, what was expected and an example; what a later version
# brings is refused by name; and nothing that is right is refused.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";

use Httpd;
use Test::More;

# A configuration that httpd -t refuses, with a message of all these patterns.
sub refused {
    my ($config, @patterns) = @_;
    my ($status, $said) = Httpd->config_test(config => $config);
    my ($message) = $said =~ /Syntax error on line[^\n]*\n(.*)/s;
    $message //= '';
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

my $later = qr/not supported in this version/;

subtest 'all that is right is taken' => sub {
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
        '10/1m sync=request', '10/1m sync=local', '10/1m phase=access',
        '10/1m phase=auth key=user', "10/1m\tkey=ip\t shadow  status=503 ",
        '10/1m KEY=IP Algorithm=Fixed-Window', 'off',
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
EOC
    accepted 'every option and directive', $config;
    accepted 'the same anywhere but in the settings', <<'EOC', modules => ['proxy'], ports => 2;
<VirtualHost *:@PORT2@>
    RateLimit a 1/1m
    RateLimitEngine off
    <Location /a>
        RateLimit a 2/1m
        RateLimitHeaders off
        RateLimitResponse off
        RateLimitNotes denied
        RateLimitNormalize -case
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

subtest 'a name' => sub {
    refused 'RateLimit', qr/needs NAME QUOTA/, qr{RateLimit login 10/1m};
    for my $name ('"log in"', 'log/in', 'r:a', '{a}', "l\xc3\xb6g", 'n' x 65, '"a\"b"', '""') {
        refused "RateLimit $name 10/1m", qr{RateLimit login 10/1m};
    }
    refused 'RateLimit "log in" 10/1m', qr/"log in" is no name/, qr/letters, digits/;
    refused "RateLimit a 1/1m\nRateLimit a 2/1m", qr/"a" is given twice in one section/;
    refused "<Location /x>\nRateLimit a 1/1m\nRateLimit a off\n</Location>", qr/"a" is given twice/;
};

subtest 'a quota and its window' => sub {
    refused 'RateLimit login', qr/"login"/, qr{needs QUOTA/WINDOW}, qr{as in 10/1m};
    for my $text (qw(ten/1m 10 10/ /1m -1/1m +1/1m 10.5/1m 10x/1m 10//1m 0x10/1m 1e3/1m
            10/1x 10/1.5s 10/-1m 10/1mm 10/60 10/m1 10/sec 10/0s 10/0ms 10/99ms 10/0w
            10/32d 10/5w 10/2678400001ms 10/99999999999999999999d 10/300000000000w
            1000000001/1s 9223372036854775808/1s 99999999999999999999999/1s)) {
        refused "RateLimit login $text", qr/"login"/, qr/\Q"$text"\E/;
    }
    refused 'RateLimit login 10/0s', qr/"login".*"10\/0s" needs a window above zero, as in 10\/1m/;
    refused 'RateLimit login 10/1x', qr/ms, s, m, h, d and w, as in 10\/1m/;
    refused 'RateLimit login 10/99ms', qr/100ms to 31d/;
    refused "RateLimit login $_/1s", qr/quota above 1000000000/
        for '1000000001', '9223372036854775808', '9' x 40;
    refused 'RateLimit login 1000000000/31d', qr/too large to count exactly/, qr/at most 840725/;
    refused 'RateLimit login off key=ip', qr/nothing behind off/;
    refused 'RateLimit off now', qr/"off"/;
};

subtest 'options' => sub {
    my %bad = (
        'burst'              => qr/burst= needs a value/,
        'key='               => qr/key= needs a value/,
        'nosuch=1'           => qr/"nosuch=1" is no option; known are key=, algorithm=.*shadow/,
        'shadow=1'           => qr/shadow takes no value, "shadow=1"/,
        'key=ip key=ip'      => qr/key is given twice/,
        'shadow shadow'      => qr/shadow is given twice/,
        'key=name'           => qr/"name" is none of ip, ip\/N, user, header:NAME.*%\{\.\.\.\}/,
        'key=ip/0'           => qr/ip\/0 needs a number of 1 to 128/,
        'key=ip/129'         => qr/ip\/129 needs a number of 1 to 128/,
        'key=ip/x'           => qr/ip\/x needs a number/,
        'key=ip:8'           => qr/"ip:8" is none of/,
        'key=ips'            => qr/"ips" is none of/,
        'key=header'         => qr/"header" is none of/,
        'key=header:'        => qr/"header:" is none of/,
        'key=cookie/x'       => qr/"cookie\/x" is none of/,
        'key=path:0'         => qr/path:0 needs a number of 1 to 1000/,
        'key=path/2'         => qr/"path\/2" is none of/,
        'key=user:x'         => qr/"user:x" is none of/,
        'key=ip+'            => qr/"" is none of/,
        'key=|ip'            => qr/"" is none of/,
        'key=ip||user'       => qr/"" is none of/,
        'key=%{HTTP_HOST'    => qr/"%\{HTTP_HOST" is no expression/,
        'key=%{nosuch:x}'    => qr/"%\{nosuch:x\}" is no expression/,
        'algorithm=leaky'    => qr/algorithm=leaky is none of sliding-window, fixed-window/,
        'status=200'         => qr/status=200 is not a status of 400 to 599, as in status=503/,
        'status=418'         => qr/status=418 is none that httpd can send, as 429/,
        'status=600'         => qr/status=600 /,
        'status=4xx'         => qr/status=4xx /,
        'on-failure=maybe'   => qr/on-failure=maybe is none of local, open and closed/,
        'sync=never'         => qr/sync=never is none of request, lease and local/,
        'phase=late'         => qr/phase=late is none of early, access and auth/,
        'headers=maybe'      => qr/headers=maybe is neither on nor off/,
        'when="unclosed'     => qr/quote is not closed/,
        'key=user phase=access' => qr/key=user needs phase=auth/,
        'key=%{remote_user} phase=access' => qr/reads the user/,
        'key=a-%{REMOTE_USER} phase=access' => qr/reads the user/,
        'burst=0'            => qr/"0" is not a whole number of 1 to 1000000000/,
        'burst=x'            => qr/"x" is not a whole number/,
        'delay=2'            => qr/"2" is not a duration, as in 10s/,
        'cost=-1'            => qr/"-1" is not a whole number/,
        'block=soon'         => qr/"soon" is not a duration/,
        'charge-on=4x1'      => qr/"4x1" is not a list of statuses, as in 401,403,5xx/,
        'charge-on=401,'     => qr/not a list of statuses/,
        'when="%{X ="'       => qr/when=: .*is no expression/,
        'tier=%{nosuch:x}'   => qr/tier=: .*is no expression/,
    );
    refused "RateLimit login 10/1m $_", qr/RateLimit "login"/, $bad{$_} for sort keys %bad;
};

subtest 'what a later version brings is refused by its name' => sub {
    my %option = (
        burst => 'burst=20', delay => 'delay=2s', cost => 'cost=3', path => 'path=/a/**',
        methods => 'methods=POST,PUT', unless => q(unless="-n %{QUERY_STRING}"),
        tier => 'tier=%{HTTP:X-Plan}', 'charge-on' => 'charge-on=401,403,5xx', block => 'block=1h',
        adaptive => 'adaptive', 'algorithm=token-bucket' => 'algorithm=token-bucket burst=100',
        'algorithm=leaky-bucket' => 'algorithm=leaky-bucket',
        'algorithm=sliding-log'  => 'algorithm=sliding-log',
        'sync=lease' => 'sync=lease', 'phase=early' => 'phase=early',
    );
    refused "RateLimit login 10/1m $option{$_}", qr/"login".*\Q$_\E/, $later for sort keys %option;
    refused "RateLimit login 10/1m $_", qr/option when= is/, $later
        for q(when="%{REQUEST_METHOD} == 'POST'"), q("when=%{REQUEST_METHOD} == 'POST'"),
        q('when=%{QUERY_STRING} == "a b"');
    my %directive = (
        RateLimitTier      => 'login gold 100', RateLimitScope      => 'shop',
        RateLimitLog       => 'logs/violations json every=10s', RateLimitOverrides => 'on',
        RateLimitAdaptive  => '80 0.5',
    );
    refused "$_ $directive{$_}", qr/^$_ /, $later for sort keys %directive;
};

subtest 'directives' => sub {
    refused "RateLimitEngine $_", qr/RateLimitEngine/, qr/on, shadow or off/ for 'maybe', '';
    refused "RateLimitHeaders $_", qr/RateLimitHeaders/, qr/x-ratelimit, draft-11/
        for 'draft-12', 'x-ratelimit nosuch';
    refused "RateLimitHeaders $_", qr/off/, qr/alone/ for 'off x-ratelimit', 'draft-11 off', 'off yield';
    refused 'RateLimitResponse html', qr/"html" was read, expected problem, text or off/;
    refused 'RateLimitNotes some',    qr/"some" was read, expected denied or all/;
    refused 'RateLimitNormalize -cases', qr/"-cases" was read/, qr/as in -case/;
    refused 'RateLimitNormalize +-case', qr/"\+-case" was read/;
    for my $time ('0ms', '25', '11s', '-1s', 'connect=0s', 'connect=', '25ms connect=1h',
        '25ms wait=1s', '25ms 30ms', 'connect=1s connect=2s') {
        refused "RateLimitRedisTimeout $time", qr/RateLimitRedisTimeout: /,
            qr/as in 25ms connect=250ms/;
    }
    refused "RateLimitRedisPrefix $_", qr/RateLimitRedisPrefix: /, qr/as in rl/
        for '"a b"', 'a{b}', 'a*', 'p' x 65, "r\xc3\xa9l", '"a\rb"', '[x]';
    refused 'RateLimitOnFailure maybe', qr/"maybe" was read, expected local, open or closed/;
    refused "RateLimitOnFailure local $_", qr/as in nodes=4/
        for 'nodes=0', 'nodes=-1', 'nodes=100001', 'nodes=x', 'hosts=4', 'nodes=4x', 'nodes=';
    refused "RateLimitBreaker $_", qr/RateLimitBreaker: "\Q$_\E" was read/, qr/as in/
        for 'failures=0', 'failures=1001', 'failures=x', 'retry=50ms', 'retry=2s..1s',
        'retry=0s..1s', 'retry=a..b', 'retries=5', '5';
    refused "RateLimitSharedMemory $_", qr/"\Q$_\E" was read, expected a size of 64K to 64G, as in 16M/
        for '16MB', '1.5G', '-1', '0', '63K', '65G', '9' x 30, '9' x 30 . 'G', 'x', '16T';
    refused "RateLimitIPv6Prefix $_", qr/"\Q$_\E" was read.*1 to 128, as in 64/
        for '0', '129', '/64', '64x', '-1', '9' x 30;
};

subtest 'places' => sub {
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
        'RateLimitIPv6Prefix 56');
    for my $line (@settings) {
        my ($name) = $line =~ /(\w+)/;
        refused "<VirtualHost *:80>\n$line\n</VirtualHost>", qr/$name cannot occur within/;
        refused "<Location />\n$line\n</Location>", qr/$name not allowed in/;
    }
};

subtest 'a key that clients invent is warned of when it stands alone' => sub {
    my $warns = qr/RateLimit "api" \(.*httpd\.conf:\d+\): clients choose its key.*key=ip/;
    for my $key ('header:X-Api-Key', 'cookie:session', '%{HTTP:X-Api-Key}', '%{HTTP_USER_AGENT}',
        '%{http:X-Key}', '%{Http_User_Agent}', '%{query_string}',
        '%{req:X-Api-Key}', '%{QUERY_STRING}', 'header:X-Api-Key|ip', 'ip+header:X-Api-Key') {
        like accepted($key, "RateLimit api 10/1m key=$key"), $warns, 'with a warning';
    }
    my $api  = "RateLimit api 10/1m key=header:X-Api-Key\n";
    my %calm = (
        'a rule by address beside it'   => "RateLimit all 99/1m\n$api",
        'a rule for the whole server'   => "${api}RateLimit all 99/1m key=server",
        'one by network in the section' => "<Location /x>\n${api}RateLimit n 9/1m key=ip/24\n</Location>",
        'one outside the section'       => "<Location /x>\n$api</Location>\nRateLimit all 99/1m",
        'one around the virtual host'   => "RateLimit all 9/1m\n<VirtualHost *:80>\n$api</VirtualHost>",
        'a key no client invents'       => 'RateLimit api 10/1m key=env:TENANT',
    );
    unlike accepted($_, $calm{$_}), qr/clients choose/, 'without a warning' for sort keys %calm;
    my %not = (
        'one that is off'          => "RateLimit all off\n$api",
        'one in another section'   => "<Location /y>\nRateLimit all 9/1m\n</Location>\n$api",
        'one in another host'      => "<VirtualHost *:80>\nRateLimit all 9/1m\n</VirtualHost>\n$api",
    );
    like accepted($_, $not{$_}), $warns, 'does not help' for sort keys %not;
};

done_testing;
