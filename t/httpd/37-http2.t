#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
# Over HTTP/2 each stream is counted once, a denied stream gets the body of the denial, and the connection
# goes on.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";

use Http2;
use Httpd;
use Test::More;

my $httpd = Httpd->start(modules => ['http2'], files => { 'sorry.html' => 'sorry' }, config => <<'EOF');
Protocols h2c http/1.1
RateLimit streams 3/1d
<Location /closed>
    RateLimit streams off
    RateLimit closed 0/1d
</Location>
<Location /closed/page>
    ErrorDocument 429 /sorry.html
</Location>
EOF

subtest 'streams one after the other are counted once each' => sub {
    my $h2 = Http2->new(port => $httpd->port, from => '127.0.0.2');
    for my $n (1 .. 6) {
        my $id     = $h2->ask(path => '/hello.txt');
        my $answer = $h2->answers($id)->{$id};
        is $answer->{status}, $n <= 3 ? 200 : 429, "request $n has the expected status";
        is $answer->{body}, "hello\n", 'with the page' if $n <= 3;
        like $answer->{body}, qr/^\{.*"error":"rate_limit_exceeded".*\}\n$/, 'with the body of the denial' if $n > 3;
    }
    is $httpd->get('/hello.txt', from => '127.0.0.2')->status, 429, 'HTTP/1.1 shares the count';
};

subtest 'concurrent streams are counted once each' => sub {
    my $h2  = Http2->new(port => $httpd->port, from => '127.0.0.3');
    my @ids = map { $h2->ask(path => '/hello.txt') } 1 .. 20;
    my %count;
    $count{ $_->{status} }++ for values %{ $h2->answers(@ids) };
    is_deeply \%count, { 200 => 3, 429 => 17 }, 'three pass';
};

subtest 'a denied stream does not wait for its body' => sub {
    my $h2   = Http2->new(port => $httpd->port, from => '127.0.0.4');
    my @held = map { $h2->ask(path => '/closed', method => 'POST', open => 1) } 1 .. 8;
    my $said = $h2->answers(@held);
    is $said->{$_}{status}, 429, 'a stream whose body never comes is denied at once' for @held;
    like $said->{ $held[0] }{body}, qr/rate_limit_exceeded/, 'with the whole response';
    my $id = $h2->ask(path => '/hello.txt');
    is $h2->answers($id)->{$id}{status}, 200, 'the connection goes on';
    $id = $h2->ask(path => '/closed', method => 'HEAD');
    is_deeply [@{ $h2->answers($id)->{$id} }{qw(status body)}], [429, ''], 'a denial of HEAD has no body';
    $id = $h2->ask(path => '/closed/page');
    is_deeply [@{ $h2->answers($id)->{$id} }{qw(status body)}], [429, 'sorry'], 'an ErrorDocument replaces the body';
};

done_testing;
