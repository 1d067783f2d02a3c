#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
# With charge-on=, a unit stays pending as long as its request takes, even through a reload, and is then
# settled by the status of the response. Pending units of a child that is killed become charges one
# to two minutes later.
#
# In the module that this test builds, such a minute (PERIOD) lasts four seconds. All hosts wait at the same
# time for several of them to pass.

use strict;
use warnings;

use Cwd qw(abs_path);
use FindBin;
use lib "$FindBin::Bin/../lib";

use Backend;
use Client;
use Http2;
use Httpd;
use IO::Select;
use POSIX ();
use Process;
use RedisServer;
use Test::More;
use Time::HiRes qw(sleep time);

use constant { PERIOD => 4, PERIODS => 3.5, BIG => 1 << 20 };

my $module  = short_periods();
my $redis   = RedisServer->start;
my $backend = Backend->new;
my $hosts   = 0;

sub short_periods {
    my $root = abs_path("$FindBin::Bin/../..");
    delete local @ENV{qw(MAKEFLAGS MFLAGS MAKELEVEL LD_PRELOAD)};
    my $said = `make -s -C $root periods 2>&1`;
    die "make periods: $said" if $?;
    return "$root/build/periods/mod_ratelimit_redis.so";
}

sub host {
    my ($mpm, $redis_counts, %opt) = @_;
    my $link  = "RateLimitRedis \@REDIS\@\nRateLimitRedisTimeout 10s connect=10s\n";
    my $httpd = Httpd->start(mpm => $mpm, module => $module, redis => $redis,
        modules => [qw(proxy proxy_http), $mpm eq 'event' ? 'http2' : ()], vars => { BACKEND => $backend->port },
        files => { big => 'x' x BIG }, %opt, config => ($redis_counts ? $link : '') . <<'EOF');
<IfModule http2_module>
    Protocols h2c http/1.1
</IfModule>
ProxyPass /app http://127.0.0.1:@BACKEND@/ retry=0 disablereuse=on flushpackets=on upgrade=websocket
Timeout 300
SendBufferSize 4096
RateLimit app 3/1h charge-on=404 block=1h
EOF
    return { httpd => $httpd, mpm => $mpm, number => $hosts++,
        name => $mpm . ($redis_counts ? ', counted in Redis' : ', counted by the host') };
}

*answer = \&Backend::answer;
*rest   = \&Backend::rest;

# The address of a client. Each host has its own addresses.
sub from { my ($host, $client) = @_; return "127.5.$host->{number}." . ord $client }

# Reads until the text matches.
sub read_until {
    my ($socket, $pattern) = @_;
    my $text = '';
    Process::wait_until(sub {
        return 1 if $text =~ $pattern;
        IO::Select->new($socket)->can_read(1) or return 0;
        $socket->sysread($text, 65_536, length $text) or die "ended after: $text\n";
        return $text =~ $pattern;
    }, what => $pattern);
    return $text;
}

# Sends a request that the backend receives and begins to answer.
sub request {
    my ($host, $client, %opt) = @_;
    my $here = Client->connect(port => $host->{httpd}->port, from => from($host, $client));
    my $upgrade = $opt{upgrade} ? "Upgrade: websocket\r\nConnection: Upgrade\r\n" : "Connection: close\r\n";
    $here->syswrite("GET /app HTTP/1.1\r\nHost: a\r\n$upgrade\r\n");
    my $there = there($here);
    $there->syswrite($opt{begins}) if $opt{begins};
    read_until($here, $opt{until}) if $opt{until};
    return { here => $here, there => $there };
}

sub there {
    my ($here) = @_;
    return $backend->accept($here) // die 'not let in: ' . ($here ? rest($here) : '') . "\n";
}

sub stream {
    my ($host, $client) = @_;
    return request($host, $client, until => qr/data: 1\r?\n/,
        begins => "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\ndata: 1\n\n");
}

sub websocket {
    my ($host, $client) = @_;
    return request($host, $client, upgrade => 1, until => qr{^HTTP/1\.1 101 .*hello}s,
        begins => "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\nhello");
}

# A client that reads no more than the beginning of a large file.
sub download {
    my ($host, $client) = @_;
    my $here = Client->connect(port => $host->{httpd}->port, from => from($host, $client));
    $here->syswrite("GET /big HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    my ($body) = read_until($here, qr/\r\n\r\nx/) =~ /\r\n\r\n(x+)/;
    return { here => $here, got => length $body };
}

# What a client gets: the status, the units left, the seconds to wait.
sub outcome {
    my ($host, $client, $path) = @_;
    my $answer = $host->{httpd}->get($path // '/hello.txt', from => from($host, $client));
    my $wait = $answer->header('Retry-After') // 0;
    return join ' ', $answer->status, $answer->header('X-RateLimit-Remaining') // '-',
        $wait > 3000 ? 'an hour' : $wait;
}

# The same, after requests that have just ended are settled.
sub outcome_soon {
    my ($host, $client, $want, $what) = @_;
    my $said = '';
    eval { Process::wait_until(sub { ($said = outcome($host, $client)) eq $want }, within => 20, what => '') };
    is $said, $want, $what;
}

sub begin {
    my ($host) = @_;
    $host->{streams}   = [stream($host, 'a'), stream($host, 'a'), websocket($host, 'a')];
    $host->{refused}   = [map { request($host, 'b') } 1, 2];
    $host->{downloads} = [map { download($host, 'c') } 1 .. 3];
    $host->{gone}      = [map { request($host, 'd') } 1 .. 3];
    close delete $_->{here} for @{ $host->{gone} };
    return if $host->{mpm} eq 'prefork';
    $host->{http2} = Http2->new(port => $host->{httpd}->port, from => from($host, 'e'));
    $host->{http2}->ask(path => '/app') for 1 .. 3;
    $host->{http2_there} = [map { there() } 1 .. 3];
}

sub check {
    my ($host) = @_;
    for (['a', 'event streams and a WebSocket'], ['c', 'downloads'], ['d', 'requests whose client has disconnected'],
        $host->{http2} ? ['e', 'HTTP/2 streams'] : ()) {
        my ($client, $what) = @$_;
        is outcome($host, $client), '429 0 1', "$what are still pending, and may end soon";
    }
    is outcome($host, 'b'), '200 0 0', 'two requests that will fail are pending, and not charged yet';

    $_->{there}->syswrite("data: 2\n\n") for @{ $host->{streams} };
    like read_until($_->{here}, qr/data: 2/), qr/data: 2/,
        'the streams were open all the time' for @{ $host->{streams} };
    close $_->{there} for @{ $host->{streams} };
    rest(delete $_->{here}) for @{ $host->{streams} };
    outcome_soon($host, 'a', '200 2 0', 'they end with 200 and 101, and nothing is charged');
    is $_->{got} + length(rest($_->{here})), BIG, 'a download is complete' for @{ $host->{downloads} };
    outcome_soon($host, 'c', '200 2 0', 'and is not charged');
    answer($_->{there}, 200) for @{ $host->{gone} };
    outcome_soon($host, 'd', '200 2 0', 'a request whose client disconnected before a 200 is not charged');
    if ($host->{http2}) {
        delete $host->{http2};
        answer($_, 200) for @{ $host->{http2_there} };
        outcome_soon($host, 'e', '200 2 0', 'nor are the streams of a closed HTTP/2 connection');
    }
    for my $request (@{ $host->{refused} }) {
        answer($request->{there}, 404);
        like rest($request->{here}), qr{^HTTP/1\.1 404 }, 'a request fails';
    }
    outcome_soon($host, 'b', '200 0 0', 'both failures are charged');
    # The last request of outcome_soon() may still be pending, and deny this one.
    ok eval { Process::wait_until(sub { outcome($host, 'b', '/nothing') =~ /^404 / }, what => 'a 404') },
        'a third failure';
    outcome_soon($host, 'b', '429 0 an hour', 'uses the quota up');
    my @odd = $host->{httpd}->error_log_lines(qr/ratelimit.*(?:failed|error|lost)/i);
    is "@odd", '', 'no failure is logged';
}

my @living = map { my $mpm = $_; map { host($mpm, $_, $mpm eq 'prefork' ? (children => 24) : ()) } 0, 1 }
    qw(event prefork);
my @killed = (map({ host('event', $_, children => 1) } 0, 1), host('prefork', 1, children => 6));

begin($_) for @living;
for my $host (@killed) {
    $host->{requests} = [map { request($host, 'a') } 1 .. 3];
    kill KILL => $host->{httpd}->children;
    rest($_->{here}) for @{ $host->{requests} };
}
my $began = time;
sleep 1 until time > $began + PERIOD;
$_->{httpd}->graceful(old => 0) for @living;
sleep 1 until time > $began + PERIODS * PERIOD;

for my $host (@living) {
    subtest "slow responses stay pending and are then settled ($host->{name})" => sub { check($host) };
}
for my $host (@killed) {
    subtest "the pending requests of a killed child are charged ($host->{name})" => sub {
        is outcome($host, 'a'), '429 0 an hour', 'the quota is used up and the client is blocked';
    };
}

# A process that sends requests until it is stopped.
sub load {
    my ($host) = @_;
    my $pid = fork // die "fork: $!\n";
    return Process::adopt($pid, 'load') if $pid;
    POSIX::setpgid(0, 0);
    eval { Client->flood(targets => [$host->{httpd}->port], connections => 12, requests => 1e6, path => '/hello.txt',
        from => from($host, 'z')) };
    POSIX::_exit(0);
}

# The module's own thread must not keep a child from ending, whichever thread the signal arrives at.
for my $end (qw(TERM WINCH)) {
    subtest "prefork ends on SIG$end under load" => sub {
        my $host = host('prefork', 1, children => 24);
        my @slow = map { request($host, 'a') } 1 .. 3;
        my $load = load($host);
        sleep 1.5 * PERIOD;    # long enough for each child to prolong its pending units
        kill KILL => (grep { $_ != $host->{httpd}->pid } $host->{httpd}->children)[0 .. 3];
        kill $end => $host->{httpd}->pid;
        answer($_->{there}, 200) for $end eq 'WINCH' ? @slow : ();
        ok eval { Process::wait_until(sub { defined Process::ended($host->{httpd}->pid) }, within => 9, what => '') },
            'httpd ends in time';
        Process::stop($load, signal => 'KILL');
        is_deeply [$host->{httpd}->crashes], [], 'no child crashes';
        is_deeply [$host->{httpd}->error_log_lines(qr/AH0004[56]/)], [], 'no child has to be killed';
    };
}

done_testing;
