#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
# The files of conf/examples for whole sites do what their comments say: a single host, internal networks, a
# deny list, a limit on trial, a challenge.

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

# There is one child, because a listener that loses the race for a connection to another child keeps the
# worker that it has reserved. With two children and one free worker, httpd would accept nothing.
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
    ok $came >= 60 && $came <= $most, "60 pages pass at once, then two a second ($came)"
        or diag "at most $most in $flood->{seconds} s";
    is_deeply at_once($host, 100, 4, path => '/style.css'), { 200 => 100 }, 'style sheets are not counted';
    my $disguised = at_once($host, 100, 4, path => '/page.html/style.css');
    ok $disguised->{429} > 0, 'pages with the name of a style sheet as PATH_INFO are';
    my $routed = at_once($host, 100, 4, path => '/app/page.css', from => '127.0.0.5');
    ok $routed->{429} > 0, 'so are pages of an application that replace a missing style sheet';
    is $host->get('/page.html', from => '127.0.0.2')->status, 200, 'other clients pass';

    my @form = (path => '/style.css', method => 'POST', body => 'a=b', from => '127.0.0.3');
    is statuses($host, 25, @form)->{429}, 5, '20 forms pass';
    $host->graceful;
    is $host->request(@form)->status, 429, 'a reload keeps the count';

    is limit_of($host, 30, occupy_workers($host, 9)), 30,
        'while 9 of 10 workers are busy the quota is half';
    is limit_of($host, 60), 60, 'then it is whole again';
}

# Opens connections that have sent half a request: each keeps a worker busy.
sub occupy_workers {
    my ($host, $count) = @_;
    return map {
        my $half = Client->connect(port => $host->port);
        $half->syswrite("GET / HTTP/1.1\r\n");
        $half;
    } 1 .. $count;
}

# Waits until the limit in the headers is the expected one, because load is measured only now and then. The
# connections in the arguments stay open until then.
sub limit_of {
    my ($host, $expected, @busy) = @_;
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
        is_deeply at_once($host, 65, 4, $from->($own)), { 200 => 65 }, "$own is not limited";
    }
    for my $other ('203.0.113.7', '172.15.0.1', '172.32.0.1', '2001:db8::7') {
        is_deeply at_once($host, 65, 4, $from->($other)), { 200 => 60, 429 => 5 },
            "$other has 60";
    }
    is $host->get('/', $from->('10.1.2.3'))->header('X-RateLimit-Limit'), undef,
        'an internal client gets no limit header';
    is $host->get('/', $from->('198.51.100.9'))->header('X-RateLimit-Limit'), 600, 'a partner has 600';
    is_deeply at_once($host, 65, 4, from => '127.0.0.2', $from->('10.1.2.3')), { 200 => 65 },
        'a client that connects from the host itself is not limited';
}

sub redis_holds_a_deny_list {
    my ($file) = @_;
    my $redis = RedisServer->start;
    my $host  = Httpd->start(redis => $redis, config => <<"EOC");
Define REDIS \@REDIS\@
$Examples::LONG_TIMEOUT
Include $file
EOC
    # the commands in the comments
    my ($deny, $expire, $more, $free, $end) = map { [map { s/^'|'$//gr } split] }
        Examples::slurp($file) =~ /^#     redis-cli (.*)$/mg;
    my $as = sub { my ($command, $ip) = @_; return map { s/203\.0\.113\.\d+/$ip/gr } @$command };

    my @guest = (from => '127.0.0.7');
    is $host->get('/', @guest)->status, 200, 'a client that is not on the list passes';
    $redis->cmd($as->($deny, '127.0.0.7'));
    $redis->cmd($as->($expire, '127.0.0.7'));
    for my $path ('/', '/hello.txt', '/nowhere', '/%2f', '/a/../hello.txt') {
        is $host->get($path, @guest)->status, 403, "a client on the list does not get $path";
    }
    is $host->get('/', @guest)->header('Retry-After'), undef, 'nor a Retry-After';
    ok $redis->cmd('TTL', 'rl:override:{ip:127.0.0.7}') > 86_000, 'the entry lasts a day';
    is $host->get('/', from => '127.0.0.8')->status, 200, 'other clients pass';

    $redis->cmd($as->($more, '127.0.0.8'));
    is $host->get('/', from => '127.0.0.8')->header('X-RateLimit-Limit'), 6000, 'the second command raises a limit';
    $redis->cmd($as->($free, '127.0.0.9'));
    is $host->get('/', from => '127.0.0.9')->header('X-RateLimit-Limit'), undef,
        'the third removes a limit';

    $redis->cmd($as->($end, '127.0.0.7'));
    Process::wait_until(sub { $host->get('/', @guest)->status == 200 }, what => 'an end', within => 20);
    pass 'the last command takes a client off the list';
    $redis->cmd($as->($deny, '127.0.0.10'));
    $redis->kill9;
    is $host->get('/', from => '127.0.0.10')->status, 200, 'without Redis the list does not apply';
}

sub a_limit_on_trial_denies_nobody {
    my ($file) = @_;
    my $host = Httpd->start(config => "Define VERDICTS \@DIR\@/verdicts\nInclude $file",
        files => { search => "found\n" });
    Windows::time_left(30, 60);

    is_deeply statuses($host, 10, path => $_), { 200 => 10 }, "ten of $_ pass" for qw(/search //search);
    is -s $host->dir . '/verdicts', 0, 'nothing is logged';
    my $last = $host->get('/search');
    is $last->header('X-RateLimit-Limit'), 60, 'clients see the limit that is enforced';
    is_deeply statuses($host, 44, path => '/search'), { 200 => 39, 429 => 5 }, 'it is sixty';

    my @said = lines_of($host, 45);
    is_deeply [map { (split)[-2] . ' ' . (split)[-1] } @said],
        [('shadow search-new') x 40, ('deny search') x 5], 'the log distinguishes the limit on trial from the other';
    like $said[0], qr{^[\d-]+T[\d:]+ 127\.0\.0\.1 "GET /search HTTP/1\.1" 200 }, 'and has the client and the request';
}

# Waits until the log of verdicts has so many lines and returns them.
sub lines_of {
    my ($host, $count) = @_;
    my @lines;
    Process::wait_until(
        sub { @lines = split /\n/, $host->text('verdicts'); @lines >= $count },
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
    is_deeply \%seen, { "cart\n" => 30, "are you a person?\n" => 10 },
        'from the 31st request on the client gets the challenge';
    is $host->get('/shop/cart', from => '127.0.0.2', headers => { 'X-Challenge' => 'yes' })->body,
        "cart\n", 'a client cannot ask for the challenge by a header';
    is $host->get('/shop/cart', headers => { 'X-Challenge' => 'no' })->body, "are you a person?\n",
        'or avoid it by one';
    is_deeply statuses($host, 84, path => '/shop/cart'), { 200 => 79, 429 => 5 },
        'after 120 requests the client is denied';
}
