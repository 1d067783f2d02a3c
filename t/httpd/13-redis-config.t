#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
# httpd -t refuses every mistake in the URL of Redis, in a password file or in a certificate with a specific
# message, and no message repeats a password.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";

use File::Temp qw(tempdir);
use Httpd;
use Test::More;

my $dir = tempdir(CLEANUP => 1);

# Returns the exit status of httpd -t and everything that it printed.
sub said {
    my ($config) = @_;
    return Httpd->config_test(config => $config);
}

sub refused {
    my ($config, $pattern) = @_;
    my ($status, $said) = said($config);
    ok $status != 0 && $said =~ $pattern, "refused: $config"
        or diag "status $status, it lacks $pattern:\n$said";
    return $said;
}

sub accepted {
    my ($config) = @_;
    my ($status, $said) = said($config);
    is $status, 0, "accepted: $config" or diag $said;
    return $said;
}

sub file {
    my ($name, $text, $mode) = @_;
    open my $out, '>', "$dir/$name" or die "$dir/$name: $!\n";
    print $out $text;
    close $out or die "$dir/$name: $!\n";
    chmod $mode // 0600, "$dir/$name" or die "chmod: $!\n";
    return "$dir/$name";
}

my $none = qr/begins with none of redis:.*as in redis:/;
my $db   = qr/is not a valid database number/;
my $port = qr/is not a valid port, as in/;
my $host = qr/is not a valid host, as in/;
my $lost = qr/a host is missing, as in/;
my $char = qr/has no meaning here/;
my $user = qr/is not a valid user for a URL, which has letters/;
my $pass = qr/a password never stands in a URL.*RateLimitRedisAuth file:PATH/;
my $unix = qr{begins with a third slash.*as in unix:///run};
my $tls  = qr{TLS needs hiredis 1\.0.*conf/examples/redis-over-stunnel\.conf};

my @defects = (
    [$none, '127.0.0.1:6379', 'http://127.0.0.1', 'redis:127.0.0.1', 'redis//h', 'redis', '://h',
        'redis+tls://h', 'rediss', 'sentinel+ssl://h/m'],
    [$lost, 'redis://', 'redis://:6379', 'redis:///2', 'rediss://', 'sentinel:///m', 'cluster://',
        'cluster://a:1,', 'sentinel://a,,b/m', 'redis://[]:1'],
    [$host, '"redis://a b"', 'redis://a;b', 'cluster://a:1,"b', 'redis://a*', 'redis://[a*]'],
    [$port, 'redis://h:port', 'redis://h:0', 'redis://h:65536', 'redis://h:-1',
        'redis://h:99999999999', '"redis://h:63 79"', 'sentinel://a:1,b:x/m', 'cluster://a:1,b:70000'],
    [qr/is not a valid address in brackets/, 'redis://[::1', 'redis://[::1]6379'],
    [qr/more than one port.*\[::1\]/, 'redis://::1', 'redis://h:1:2'],
    [$db, 'redis://h/x', 'redis://h/2x', 'redis://h/-1', 'redis://h/1000001', 'redis://h//',
        'redis://h/1/2', 'sentinel://h/m/x'],
    [$char, 'redis://h/1?db=2', 'redis://h#1', 'redis://h?password=x', 'cluster://h/0#x'],
    [qr/redis:\/\/ takes one host/, 'redis://a,b', 'redis://a:1,b:2/3'],
    [qr/a:1 is given twice/, 'cluster://a:1,b:1,a:1', 'sentinel://a:1,a:1/m'],
    [qr/more than 32 hosts/, 'cluster://' . join ',', map { "h$_" } 1 .. 33],
    [qr/name of the primary, as the sentinels know it, is missing/, 'sentinel://a:1,b:2', 'sentinel://a/', 'sentinel://a//2'],
    [qr/is not a valid name of a primary/, 'sentinel://a/m*'],
    [qr/a cluster has only database 0/, 'cluster://a:1/1', 'cluster://a:1/m'],
    [$unix, 'unix://run/redis.sock', 'unix://', 'unix://me@h/run/r.sock'],
    [qr/path of the unix socket is missing/, 'unix:///', 'unix:///?db=1'],
    [qr/107 bytes/, 'unix:///run/' . 'r' x 110],
    [qr/is not \?db=N/, 'unix:///r.sock?database=2'],
    [$db, 'unix:///r.sock?db=x'],
    [$pass, 'redis://:s3cret@h', 'redis://me:s3cret@h:6379/1', 'REDIS://me:s3cret@h/x',
        'rediss://me:s3cret@h', 'redis://me:s3cret@[::1', 'redis://me:s3/cret@h',
        'sentinel://me:s3cret@a,b/m', 'cluster://me:s3cret@a:1', 'cluster+tls://a:1,me:s3cret@b'],
    [$none, 'http://me:s3cret@h', 'me:s3cret@h:6379'],
    [$unix, 'unix://me:s3cret@/run/r.sock'],
    [$user, 'redis://s3cret/s3cret@h', 'redis://s3cret%20@h', '"redis://s3cret s3cret@h"',
        'sentinel://a,s3cret@b/m'],
    [qr/the user before '\@' is missing/, 'redis://@h', 'cluster://@a:1'],
);

subtest 'each mistake in a URL has its own message' => sub {
    for (@defects) {
        my ($pattern, @urls) = @$_;
        for my $url (@urls) {
            my $said = refused "RateLimitRedis $url", qr/^RateLimitRedis: .*?$pattern/m;
            unlike $said, qr/s3cret|s3\/cret/, 'the message does not show the password' if $url =~ /\@/;
        }
    }
};

my $has_tls = (said('RateLimitRedis rediss://h'))[1] !~ /TLS needs hiredis/;
my $secret  = file('secret', "s3cret\n");

subtest 'every valid URL is accepted' => sub {
    accepted "RateLimitRedis $_"
        for 'redis://localhost', 'redis://[::1]:6380/0', 'REDIS://h:1/', 'unix:///r.sock',
        'unix:///run/redis@6379/r.sock?db=3', 'redis://h:/2', 'redis://fe80-1.example.com';
    accepted "RateLimitRedis redis://limiter\@h\nRateLimitRedisAuth file:$secret";
};

subtest 'without TLS in hiredis the message names an alternative' => sub {
    plan skip_all => 'hiredis supports TLS here' if $has_tls;
    refused "RateLimitRedis $_", $tls
        for 'rediss://h', 'rediss://h:1/2', 'sentinel+tls://a:1/m', 'cluster+tls://a:1,b:2';
    refused 'RateLimitRedisTLS name=h', $tls;
};

subtest 'RateLimitRedisTLS' => sub {
    my $expected = qr/expected ca=FILE, cert=FILE, key=FILE and name=HOST.* for example/;
    refused "RateLimitRedisTLS $_", $expected for 'CA', 'pem=/x', 'ca=', 'ca', 'name=h insecure=1';
    refused 'RateLimitRedisTLS ca=/x ca=/y', qr/ca= is given twice/;
    refused 'RateLimitRedisTLS cert=/x', qr/cert= and key= belong together/;
    refused 'RateLimitRedisTLS key=/x', qr/cert= and key= belong together/;
    return unless $has_tls;
    refused 'RateLimitRedisTLS ca=/nowhere/ca.pem', qr{ca=/nowhere/ca\.pem cannot be used};
    my $junk = file('junk', "junk\n");
    refused "RateLimitRedisTLS cert=$junk key=$junk", qr{cert=\Q$junk\E cannot be used};
    like accepted("RateLimitRedis redis://h\nRateLimitRedisTLS name=h"),
        qr/has no effect on a URL without TLS/, 'a URL without TLS gets a warning';
};

subtest 'RateLimitRedisAuth' => sub {
    my $where = qr{expected a file.*RateLimitRedisAuth file:/etc};
    unlike refused("RateLimitRedisAuth $_", $where), qr/s3cret/, 'a password is not repeated'
        for 's3cret', 'file:', 'pass:s3cret', '/etc/s3cret';
    refused "RateLimitRedisAuth file:$dir/none", qr{$dir/none cannot be read: No such file};
    refused "RateLimitRedisAuth file:$dir", qr{$dir cannot be read};
    refused 'RateLimitRedisAuth file:' . file('empty', $_), qr/empty is empty, and should have one/
        for '', "\n", " \t\r\n\n";
    for (["s3cret\nother\n", qr/more than one line/], ["a s3cret b\n", qr/more than two words/],
        ["s3cret\0\n", qr/contains NUL bytes/], ['s3cret' x 12_000, qr/more than 66558 bytes/],
        ['"s3cret', qr/quote that is not closed/], ['me "s3cret\\"', qr/quote that is not closed/],
        ['"me"s3cret', qr/is followed by other text/], ['""', qr/an empty password/]) {
        my ($text, $why) = @$_;
        unlike refused('RateLimitRedisAuth file:' . file('bad', $text), $why), qr/s3cret/,
            'the message does not show the password';
    }
    my $good = "RateLimitRedis redis://h\nRateLimitRedisAuth file:";
    unlike accepted($good . file('good', $_)), qr/s3cret|chmod/, 'no warning, and no password is shown'
        for 's3cret', "s3cret\n", "  s3cret \r\n\n", "me s3cret\n", "me\ts3cret",
            '"s3cret with blanks"', 'me "s3cret \"and\" \\ more"  ', '"my self" s3cret',
            's3cret"', 's3cret' x 10_000;
    like accepted($good . file('open', 's3cret', $_)), qr/chmod 600/,
        sprintf('a file that others may read or write gets a warning: mode %o', $_) for 0644, 0604, 0602;
    unlike accepted($good . file('open', 's3cret', 0640)), qr/chmod/, 'a file that its group may read gets none';
    refused "RateLimitRedis redis://me\@h", qr/names a user, whose password is missing/;
    unlike refused("RateLimitRedis redis://me\@h\nRateLimitRedisAuth file:"
            . file('other', 'other s3cret'), qr/another one: name it in one of them/), qr/s3cret/,
        'the message does not show the password';
    accepted "RateLimitRedis redis://me\@h\nRateLimitRedisAuth file:" . file('same', 'me s3cret');
    my $sentinels = "RateLimitRedis sentinel://a:1,b:2/m\nRateLimitRedisAuth";
    accepted "$sentinels file:$secret sentinel=file:$secret";
    accepted "$sentinels sentinel=file:$secret";
    accepted "$sentinels sentinel=file:$secret\nRateLimitRedisAuth file:$secret";
    refused "$sentinels file:$secret sentinel=$secret", $where;
    refused "$sentinels sentinel=file:$dir/none", qr{$dir/none cannot be read: No such file};
    refused "RateLimitRedis redis://h\nRateLimitRedisAuth sentinel=file:$secret",
        qr/sentinel= needs a RateLimitRedis URL with sentinel:/;
};

done_testing;
