#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
# Instructions per request, counted by callgrind. They vary by 1 or 2 % with the load of the machine: where
# the next request is late, the event MPM waits for it in another way.
#
# In each scene an httpd of one process answers N, and in a second run 2N requests of one keep-alive
# connection. The difference, divided by N, is the cost of a request without the start of the server and
# without the first requests, which create entries and fill caches.
#
#   perl -It/lib t/bench/instructions.pl [N] [scene...]

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";

use Client;
use Httpd;
use RedisServer;

my $n = @ARGV && $ARGV[0] =~ /^\d+$/ ? shift : 500;
my %only = map { $_ => 1 } @ARGV;

my $rule = "<Location /hello.txt>\nRateLimit page %s\n%s\n</Location>\n";
my $local = sprintf $rule, '1000000/1h', 'RateLimitHeaders off';
my $redis = "RateLimitRedis \@REDIS\@\nRateLimitRedisTimeout 10s\n";

# Many rules in one section, each with its own counter.
sub rules {
    my ($count, $options) = @_;
    return "<Location /hello.txt>\nRateLimitHeaders off\n"
        . join('', map { "RateLimit page$_ 1000000/1h $options\n" } 1 .. $count) . "</Location>\n";
}

# name, whether it needs Redis, configuration, whether the module is loaded
my @scenes = (
    ['bare',             0, '',                                                           0],
    ['redirect-429',     0, "Redirect 429 /hello.txt\n",                                  0],
    ['location',         0, "<Location /hello.txt>\nEnableMMAP on\n</Location>\n",          0],
    ['require-denied',   0, "<Location /hello.txt>\nRequire all denied\n</Location>\n",   0],
    ['loaded',           0, '',                                                           1],
    ['local-pass',       0, $local,                                                       1],
    ['local-headers',    0, sprintf($rule, '1000000/1h', ''),                             1],
    ['local-draft-11',   0, sprintf($rule, '1000000/1h', 'RateLimitHeaders draft-11'),    1],
    ['local-denial',     0, sprintf($rule, '1/1h', ''),                                   1],
    ['early-denial',     0, "RateLimit page 1/1h phase=early\n",                          1],
    ['bucket-pass',      0, sprintf($rule, '1000000/1h algorithm=token-bucket', 'RateLimitHeaders off'), 1],
    ['charge-on-pass',   0, sprintf($rule, '1000000/1h charge-on=401', 'RateLimitHeaders off'), 1],
    ['when-pass',        0, sprintf($rule, q{1000000/1h when="%{REQUEST_METHOD} == 'GET'"},
                                    'RateLimitHeaders off'),                              1],
    ['path-pass',        0, sprintf($rule, '1000000/1h path=/hello.*', 'RateLimitHeaders off'), 1],
    ['10-rules',         0, rules(10, ''),                                                1],
    ['50-rules',         0, rules(50, ''),                                                1],
    ['50-not-mine',      0, rules(50, 'methods=POST'),                                    1],
    ['redis-pass',       1, $redis . $local,                                              1],
    ['redis-10-rules',   1, $redis . rules(10, ''),                                       1],
    ['redis-50-rules',   1, $redis . rules(50, ''),                                       1],
    ['memory-denial',    1, $redis . sprintf($rule, '1/31d', ''),                         1],
);

sub instructions {
    my ($scene, $requests) = @_;
    my (undef, $needs_redis, $config, $module) = @$scene;
    my $redis = $needs_redis ? RedisServer->start : undef;
    my $httpd = Httpd->start(
        config  => "MaxKeepAliveRequests 0\nKeepAliveTimeout 60\nLogLevel crit\n<Directory />\nAllowOverride None\n</Directory>\n$config",
        ($module ? () : (module => 0)),
        wrapper  => ['valgrind', '--tool=callgrind', '--vgdb=no', '--callgrind-out-file=/dev/null'],
        patience => 120,
        ($redis ? (redis => $redis) : ()),
    );
    my $client = Client->new(port => $httpd->port, timeout => 60);
    $client->request(path => '/hello.txt') for 1 .. $requests;
    $client->disconnect;
    $httpd->stop;
    open my $log, '<', $httpd->dir . '/console' or die "no console: $!\n";
    my ($count) = map { /Collected : (\d+)/ ? $1 : () } <$log>;
    die "$scene->[0]: callgrind counted nothing\n" unless $count;
    return $count;
}

my %per_request;
for my $scene (@scenes) {
    my $name = $scene->[0];
    next if %only && !$only{$name};
    $per_request{$name} = (instructions($scene, 2 * $n) - instructions($scene, $n)) / $n;
    my $beyond = $per_request{bare} ? sprintf ' %+8.0f', $per_request{$name} - $per_request{bare} : '';
    printf "%-16s %8.0f%s\n", $name, $per_request{$name}, $beyond;
}
