#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
# What conf/examples say of a change from other limiters: how many requests the new
# lines let through.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";

use Examples;
use Httpd;
use Process;
use RedisServer;
use Test::More;

Examples::run(
    'from-mod_evasive.conf' => \&pages_and_sites_are_blocked,
    'from-nginx.conf'       => \&buckets_let_in_what_nginx_does,
);
done_testing;

# Blocks last 10 s from the first denial: what is tried here is denied until then.
sub pages_and_sites_are_blocked {
    my ($file) = @_;
    my $host = Httpd->start(config => "Include $file");

    my $reload = Examples::at_once($host, 60, 8, path => '/page.html');
    ok $reload->{200} >= 5 && $reload->{200} < 60, "a page has 5 requests in a second ($reload->{200})";
    my $denied = $host->get('/page.html');
    is $denied->status, 403, 'then it is denied, with 403';
    ok $denied->header('Retry-After') > 1, 'for longer than that second';
    is $host->get('/PAGE.html')->status, 403, 'in any spelling';

    my @waits = waits_until_admitted($host, '/page.html');
    is_deeply \@waits, [sort { $b <=> $a } @waits], 'what is denied meanwhile does not prolong that';

    my $crawl = Examples::at_once($host, 300, 8, from => '127.0.0.2', path => sub { "/$_[0].html" });
    ok $crawl->{404} >= 50 && $crawl->{404} < 300, "a site has 50 requests in a second ($crawl->{404})";
    is $host->get('/hello.txt', from => '127.0.0.2')->status, 403, 'then all of it is denied';
    is $host->get('/hello.txt', from => '127.0.0.3')->status, 200, 'to this address';

    my $redis = RedisServer->start;
    my @hosts = map { Httpd->start(redis => $redis, config => <<"EOC") } 1, 2;
RateLimitRedis \@REDIS\@
$Examples::LONG_TIMEOUT
Include $file
EOC
    $crawl = Examples::at_once($hosts[0], 300, 8, path => sub { "/$_[0].html" });
    ok $crawl->{403}, 'with Redis a site is denied as well';
    for my $each (@hosts) {
        my $wait = $each->get('/hello.txt')->header('Retry-After') || 0;
        ok $wait > 2, "and blocked on both hosts, for more than two windows ($wait s)";
    }
}

# Tries again and again, and returns each Retry-After there was.
sub waits_until_admitted {
    my ($host, $path) = @_;
    my @waits;
    Process::wait_until(
        sub {
            my $answer = $host->get($path);
            push @waits, $answer->header('Retry-After') if $answer->status != 200;
            return $answer->status == 200;
        },
        what => 'the end of a block', within => 60,
    );
    return @waits;
}

sub buckets_let_in_what_nginx_does {
    my ($file) = @_;
    # its workers are enough to hold six: a quarter of 50
    my $host = Httpd->start(mpm => 'event', config => "Include $file",
        files => { map { ("$_/page.html" => 'page') } qw(nodelay strict queue two-stage) });

    Examples::is_bucket($host, 'burst=5 nodelay: six at once',
        path => '/nodelay/page.html', at_once => 6, admits => 6, unit => 2);
    Examples::is_bucket($host, 'no burst: one',
        path => '/strict/page.html', at_once => 1, admits => 1, unit => 2);
    is $host->get('/STRICT//page.html')->status, 429, 'by any spelling of the path';
    Examples::is_bucket($host, 'burst=4: one, and four wait',
        path => '/queue/page.html', at_once => 1, admits => 5, unit => 2);
    Examples::is_bucket($host, 'burst=5 delay=3: four, and two wait',
        path => '/two-stage/page.html', at_once => 4, admits => 6, unit => 2);
}
