#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
# What conf/examples say of whole sites: one host alone, networks of one's own, a deny
# list, a limit on trial, a challenge.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";

use Client;
use Examples;
use Httpd;
use Process;
use RedisServer;
use Test::More;
use Windows;

*statuses = \&Examples::statuses;
*at_once  = \&Examples::at_once;

Examples::run(
    'single-host.conf'       => \&a_site_alone,
    'internal-networks.conf' => \&own_networks_are_free,
    'deny-list.conf'         => \&redis_holds_a_deny_list,
    'dry-run.conf'           => \&a_limit_on_trial_denies_nobody,
    'challenge.conf'         => \&a_mark_comes_before_a_denial,
);
done_testing;

# One child: where a child loses the race for a connection to another, its listener keeps the worker
# that it had reserved, and httpd with one free worker left, of two children, accepts nothing.
sub a_site_alone {
    my ($file) = @_;
    my $host = Httpd->start(
        mpm    => 'event', children => 1, threads => 10,
        config => "Include $file\n<Directory \@DOCROOT\@/app>\nFallbackResource /app/index.php\n</Directory>",
        files  => { 'style.css' => 'x', 'app/index.php' => 'x' },
    );
    Windows::time_left(40, 60);

    my $flood = Client->flood(
        targets => [$host->port], requests => 100, connections => 4, path => '/page.html'
    );
    my $most = 60 + int(2 * $flood->{seconds} + 0.1);
    my $came = $flood->{status}{200};
    ok $came >= 60 && $came <= $most, "60 pages at once, then two a second ($came)"
        or diag "at most $most in $flood->{seconds} s";
    is_deeply at_once($host, 100, 4, path => '/style.css'), { 200 => 100 }, 'styles are free';
    my $disguised = at_once($host, 100, 4, path => '/page.html/style.css');
    ok $disguised->{429} > 0, 'but not pages that are called like one';
    my $routed = at_once($host, 100, 4, path => '/app/page.css', from => '127.0.0.5');
    ok $routed->{429} > 0, 'nor what an application answers in place of a file that is not there';
    is $host->get('/page.html', from => '127.0.0.2')->status, 200, 'others are not concerned';

    my @form = (path => '/style.css', method => 'POST', body => 'a=b', from => '127.0.0.3');
    is statuses($host, 25, @form)->{429}, 5, 'of forms there are 20';
    $host->graceful;
    is $host->request(@form)->status, 429, 'after a reload too';

    is limit_of($host, 30, hold_workers($host, 9)), 30,
        'while 9 of 10 workers are busy: half of the pages';
    is limit_of($host, 60), 60, 'then all again';
}

# So many connections that have sent half a request: each keeps a worker busy.
sub hold_workers {
    my ($host, $count) = @_;
    return map {
        my $half = Client->connect(port => $host->port);
        $half->syswrite("GET / HTTP/1.1\r\n");
        $half;
    } 1 .. $count;
}

# The limit that a client is told of, once it is that; load is looked at now and then. The
# connections are held until then.
sub limit_of {
    my ($host, $expected, @held) = @_;
    my $limit = 0;
    Process::wait_until(
        sub {
            $limit = $host->get('/hello.txt', from => '127.0.0.4')->header('X-RateLimit-Limit');
            return $limit == $expected;
        },
        what => "a limit of $expected", within => 30,
    );
    return $limit;
}

sub own_networks_are_free {
    my ($file) = @_;
    my $host = Httpd->start(modules => ['remoteip'], config => <<"EOC");
RemoteIPHeader X-Forwarded-For
RemoteIPInternalProxy 127.0.0.1
Include $file
EOC
    Windows::time_left(30, 60);
    my $from = sub { return (headers => { 'X-Forwarded-For' => $_[0] }) };
    for my $own ('10.1.2.3', '172.31.0.1', '192.168.7.7', '127.0.0.1', 'fd00::7', '::1') {
        is_deeply at_once($host, 65, 4, $from->($own)), { 200 => 65 }, "$own is free";
    }
    for my $other ('203.0.113.7', '172.15.0.1', '172.32.0.1', '2001:db8::7') {
        is_deeply at_once($host, 65, 4, $from->($other)), { 200 => 60, 429 => 5 },
            "$other has 60";
    }
    is $host->get('/', $from->('10.1.2.3'))->header('X-RateLimit-Limit'), undef,
        'who is free hears of no limit';
    is $host->get('/', $from->('198.51.100.9'))->header('X-RateLimit-Limit'), 600, 'a partner has 600';
    is_deeply at_once($host, 65, 4, from => '127.0.0.2', $from->('10.1.2.3')), { 200 => 65 },
        'a client of the host itself is free';
}

sub redis_holds_a_deny_list {
    my ($file) = @_;
    my $redis = RedisServer->start;
    my $host  = Httpd->start(redis => $redis, config => <<"EOC");
Define REDIS \@REDIS\@
$Examples::LONG_TIMEOUT
Include $file
EOC
    # what the comments tell to type
    my ($deny, $expire, $more, $free, $end) = map { [map { s/^'|'$//gr } split] }
        Examples::slurp($file) =~ /^#     redis-cli (.*)$/mg;
    my $as = sub { my ($command, $ip) = @_; return map { s/203\.0\.113\.\d+/$ip/gr } @$command };

    my @guest = (from => '127.0.0.7');
    is $host->get('/', @guest)->status, 200, 'who is not on the list passes';
    $redis->cmd($as->($deny, '127.0.0.7'));
    $redis->cmd($as->($expire, '127.0.0.7'));
    for my $path ('/', '/hello.txt', '/nowhere', '/%2f', '/a/../hello.txt') {
        is $host->get($path, @guest)->status, 403, "who is on it does not get $path";
    }
    is $host->get('/', @guest)->header('Retry-After'), undef, 'nor a time to come back';
    ok $redis->cmd('TTL', 'rl:override:{ip:127.0.0.7}') > 86_000, 'for a day';
    is $host->get('/', from => '127.0.0.8')->status, 200, 'others pass';

    $redis->cmd($as->($more, '127.0.0.8'));
    is $host->get('/', from => '127.0.0.8')->header('X-RateLimit-Limit'), 6000, 'a good one has more';
    $redis->cmd($as->($free, '127.0.0.9'));
    is $host->get('/', from => '127.0.0.9')->header('X-RateLimit-Limit'), undef,
        'one that is welcome has no limit';

    $redis->cmd($as->($end, '127.0.0.7'));
    Process::wait_until(sub { $host->get('/', @guest)->status == 200 }, what => 'an end', within => 20);
    pass 'off the list he passes again';
    $redis->cmd($as->($deny, '127.0.0.10'));
    $redis->kill9;
    is $host->get('/', from => '127.0.0.10')->status, 200, 'without Redis there is no list';
}

sub a_limit_on_trial_denies_nobody {
    my ($file) = @_;
    my $host = Httpd->start(config => "Define VERDICTS \@DIR\@/verdicts\nInclude $file",
        files => { search => "found\n" });
    Windows::time_left(30, 60);

    is_deeply statuses($host, 10, path => $_), { 200 => 10 }, "ten of $_ pass" for qw(/search //search);
    is -s $host->dir . '/verdicts', 0, 'without a word';
    my $last = $host->get('/search');
    is $last->header('X-RateLimit-Limit'), 60, 'clients hear of the limit that holds';
    is_deeply statuses($host, 44, path => '/search'), { 200 => 39, 429 => 5 }, 'which is sixty';

    my @said = lines_of($host, 45);
    is_deeply [map { (split)[-2] . ' ' . (split)[-1] } @said],
        [('shadow search-new') x 40, ('deny search') x 5], 'the log tells the one from the other';
    like $said[0], qr{^[\d-]+T[\d:]+ 127\.0\.0\.1 "GET /search HTTP/1\.1" 200 }, 'and who it was';
}

# The log of verdicts, once it has so many lines.
sub lines_of {
    my ($host, $count) = @_;
    my @lines;
    Process::wait_until(
        sub { @lines = split /\n/, Examples::slurp($host->dir . '/verdicts'); @lines >= $count },
        what => "$count lines",
    );
    return @lines;
}

sub a_mark_comes_before_a_denial {
    my ($file) = @_;
    my $backend = Httpd->start(mpm => 'event', module => 0, modules => ['rewrite'],
        files => { 'shop/cart' => "cart\n", 'challenge' => "are you a person?\n" }, config => <<'EOC');
RewriteEngine on
RewriteCond %{HTTP:X-Challenge} =yes
RewriteRule ^/shop/ /challenge
EOC
    my $host = Httpd->start(
        modules => [qw(headers proxy proxy_http)],
        vars    => { BACKEND => 'http://127.0.0.1:' . $backend->port },
        config  => "Define BACKEND \@BACKEND\@\nInclude $file",
    );
    Windows::time_left(30, 60);
    my %seen;
    $seen{ $host->get('/shop/cart')->body }++ for 1 .. 40;
    is_deeply \%seen, { "cart\n" => 30, "are you a person?\n" => 10 }, 'the 31st meets the challenge';
    is $host->get('/shop/cart', from => '127.0.0.2', headers => { 'X-Challenge' => 'yes' })->body,
        "cart\n", 'no client asks for it himself';
    is $host->get('/shop/cart', headers => { 'X-Challenge' => 'no' })->body, "are you a person?\n",
        'or does without';
    is_deeply statuses($host, 84, path => '/shop/cart'), { 200 => 79, 429 => 5 },
        'and at 120 it ends';
}
