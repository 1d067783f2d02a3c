#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
# The files of conf/examples for a migration from other limiters admit as many requests as their comments
# say.

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

# A block lasts 10 s from the first denial, longer than the checks of a denied client take.
sub pages_and_sites_are_blocked {
    my ($file) = @_;
    my $host = Httpd->start(config => "Include $file");

    my $reload = Examples::at_once($host, 60, 8, path => '/page.html');
    ok $reload->{200} >= 5 && $reload->{200} < 60, "a page has at least 5 requests in a second ($reload->{200})";
    my $denied = $host->get('/page.html');
    is $denied->status, 403, 'then it is denied with 403';
    ok $denied->header('Retry-After') > 1, 'for longer than that second';
    is $host->get('/PAGE.html')->status, 403, 'another spelling is denied, too';

    my @waits = waits_until_admitted($host, '/page.html');
    is_deeply \@waits, [sort { $b <=> $a } @waits], 'denied requests do not prolong the block';

    my $crawl = Examples::at_once($host, 300, 8, from => '127.0.0.2', path => sub { "/$_[0].html" });
    ok $crawl->{404} >= 50 && $crawl->{404} < 300, "a site has at least 50 requests in a second ($crawl->{404})";
    is $host->get('/hello.txt', from => '127.0.0.2')->status, 403, 'then the whole site is denied';
    is $host->get('/hello.txt', from => '127.0.0.3')->status, 200, 'but not to another address';

    my $redis = RedisServer->start;
    my @hosts = map { Httpd->start(redis => $redis, config => <<"EOC") } 1, 2;
RateLimitRedis \@REDIS\@
$Examples::LONG_TIMEOUT
Include $file
EOC
    $crawl = Examples::at_once($hosts[0], 300, 8, path => sub { "/$_[0].html" });
    ok $crawl->{403}, 'with Redis the site is denied, too';
    for my $each (@hosts) {
        my $wait = $each->get('/hello.txt')->header('Retry-After') || 0;
        ok $wait > 2, "the block is valid on both hosts, for more than two windows ($wait s)";
    }
}

# Sends requests until one is admitted, and returns the values of Retry-After before.
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
    # a quarter of its 50 workers may delay requests, enough for six
    my $host = Httpd->start(mpm => 'event', config => "Include $file",
        files => { map { ("$_/page.html" => 'page') } qw(nodelay strict queue two-stage) });

    Examples::is_bucket($host, 'burst=5 nodelay: six pass at once',
        path => '/nodelay/page.html', at_once => 6, admits => 6, unit => 2);
    Examples::is_bucket($host, 'no burst: one passes',
        path => '/strict/page.html', at_once => 1, admits => 1, unit => 2);
    is $host->get('/STRICT//page.html')->status, 429, 'another spelling of the path is denied, too';
    Examples::is_bucket($host, 'burst=4: one passes and four are delayed',
        path => '/queue/page.html', at_once => 1, admits => 5, unit => 2);
    Examples::is_bucket($host, 'burst=5 delay=3: four pass and two are delayed',
        path => '/two-stage/page.html', at_once => 4, admits => 6, unit => 2);
}
