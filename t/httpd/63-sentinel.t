#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
# With Sentinel the limit follows the primary. When the primary dies, hangs or hands over under load, no
# client gets an error, each host finds the new primary without a reload, and at most one quota more passes
# meanwhile.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";

use Client;
use FakeRedis;
use Fault;
use Httpd;
use Process;
use RedisSentinel;
use Status;
use Test::More;
use Time::HiRes qw(time);

use constant CLIENTS => 32;

# A page under another rule, whose responses show whether Redis decided.
my $noted = <<'EOT' . Status::CONFIG;
Alias /noted @DOCROOT@/hello.txt
<Location /noted>
    RateLimit one off
    RateLimit noted 1000000/1h
    RateLimitNotes all
    Header always set X-Source %{RATELIMIT_SOURCE}e
</Location>
EOT

sub host {
    my ($url, $config, %opt) = @_;
    my $mpm  = $opt{mpm} // 'event';
    my $wait = delete $opt{wait} // '500ms connect=500ms';
    my @size = $mpm eq 'prefork' ? (children => CLIENTS + 2) : (threads => 40);
    return Httpd->start(mpm => $mpm, modules => [qw(status headers)], @size, %opt,
        vars => { URL => $url },
        config => "RateLimitRedis \@URL\@\nRateLimitRedisTimeout $wait\n$config\n$noted");
}

# Requests over 32 connections. `at` gives functions to call after a number of responses.
sub load {
    my ($host, $requests, %opt) = @_;
    my ($seen, $at) = (0, delete $opt{at} || {});
    return Client->flood(targets => [$host->port], connections => CLIENTS,
        requests => $requests, path => '/hello.txt', %opt,
        on_response => sub { my $now = $at->{ ++$seen }; $now->() if $now });
}

sub no_error {
    my ($sum, $requests) = @_;
    my $status = $sum->{status};
    is_deeply [grep { !/^(?:200|429)$/ } keys %$status], [], 'no client gets an error'
        or diag explain $status;
    is +($status->{200} // 0) + ($status->{429} // 0), $requests, 'every request is answered';
}

sub source { my ($host) = @_; return $host->get('/noted')->header('X-Source') }

# Waits until Redis decides everything again in every child: a load that keeps all of them busy has no
# fallback any more. (A breaker that closes admits a growing share of calls.)
sub recovered {
    my ($host) = @_;
    my $fallen = sub { return Status->of($host)->rule('noted')->{Fallback} };
    return Process::wait_until(
        sub {
            return 0 if source($host) ne 'redis';
            my $before = $fallen->();
            load($host, 10 * CLIENTS, path => '/noted');
            return $fallen->() == $before;
        },
        what => 'Redis to decide again', within => 60
    );
}

# Waits until no child has a connection to a server that is still running.
sub all_left {
    my ($server) = @_;
    Process::wait_until(
        sub { (eval { $server->cmd(qw(CLIENT LIST)) } // 'cmd=evalsha') !~ /cmd=(?:evalsha|script)/ },
        what => 'every child to leave'
    );
}

my %trouble = (
    'the primary is killed' => sub { $_[1]->kill9 },
    'the primary hangs'     => sub { $_[1]->pause },
    'the primary hands over' => sub {
        $_[0]->{sentinel}[0]->cmd(qw(SENTINEL FAILOVER), RedisSentinel::NAME);
    },
);

for my $case (['event', sort keys %trouble], ['prefork', 'the primary is killed']) {
    my ($mpm, @names) = @$case;
    for my $name (@names) {
        subtest "$name under load ($mpm)" => sub {
            my $site = RedisSentinel->start;
            my $host = host($site->url, "RateLimit one 300/1h algorithm=fixed-window\n"
                . 'RateLimit busy 1000000/1h key=server', mpm => $mpm);
            my $old = $site->primary;
            my ($began, $passed) = (0, 0);
            my $sum = load($host, 3000, from => '127.0.0.2',
                at => { 150 => sub { $began = time; $trouble{$name}->($site, $old) } });
            no_error($sum, 3000);
            $passed += $sum->{status}{200};
            $site->wait_for_failover($old);
            recovered($host);
            all_left($old) if $name =~ /hands over/;
            diag sprintf '%s (%s): exact again after %.1f s', $name, $mpm, time - $began;
            $sum = load($host, 1000, from => '127.0.0.2');
            no_error($sum, 1000);
            $passed += $sum->{status}{200} // 0;
            cmp_ok $passed, '>=', 300, 'at least the quota passes';
            cmp_ok $passed, '<=', 600, 'and at most twice the quota';
            diag "$passed of a quota of 300 passed in all";
            $sum = load($host, 1500, from => '127.0.0.3');
            is_deeply $sum->{status}, { 200 => 300, 429 => 1200 }, 'then the limit is exact again';
            my $new = $site->primary;
            delete $new->{link};    # a server closes its connections when its role changes
            ok $new->cmd('EXISTS', 'rl:{ip:127.0.0.3}:one:fixed-window:1h'), 'the new primary has the count';
            is scalar($host->error_log_lines(qr/notice\].*resuming normal/)), 1, 'httpd was not restarted';
        };
    }
}

subtest 'a failover without requests is noticed before the next one' => sub {
    my $site = RedisSentinel->start;
    my $host = host($site->url, 'RateLimit one 1000/1h', log_level => 'notice', children => 1);
    recovered($host);
    my $before = Status->of($host);
    my $old = $site->primary;
    $old->pause;
    $site->wait_for_failover($old);
    $host->wait_for_log(qr/the primary of limits is now/);
    recovered($host);
    is +(Status->of($host))->{RedisFailedLate}, $before->{RedisFailedLate},
        'the sentinels announced the new primary, so no request had to wait';
};

subtest 'one working sentinel among broken ones is enough' => sub {
    my $site = RedisSentinel->start(replicas => 1);
    my ($dead, $dumb, $good) = $site->sentinels;
    my ($primary, $replica) = $site->servers;
    my $wrong = FakeRedis->start(sub {
        my ($conn) = @_;
        while (my $words = $conn->command) {
            my $port = $replica->port;
            $conn->send($words->[0] eq 'SENTINEL' ? "*2\r\n\$9\r\n127.0.0.1\r\n\$5\r\n$port\r\n"
                : "*3\r\n\$9\r\nsubscribe\r\n\$14\r\n+switch-master\r\n:1\r\n");
        }
    });
    my $deaf = FakeRedis->start(sub {
        my ($conn) = @_;
        while ($conn->command) { $conn->send("*-1\r\n") }
    });
    $dead->kill9;
    $dumb->pause;
    my $url = sub { 'sentinel://' . join(',', map { 'localhost:' . $_->port } @_) . '/limits' };
    for my $mpm (qw(event prefork)) {
        my $host = host($url->($dead, $dumb, $wrong, $deaf, $good), 'RateLimit one 200/1h',
            mpm => $mpm, children => $mpm eq 'event' ? 5 : 10, wait => '10s connect=3s');
        my $sum = load($host, 1000, from => "127.0.0." . length $mpm);
        is_deeply $sum->{status}, { 200 => 200, 429 => 800 }, "the quota is exact with one that works ($mpm)";
    }
    ok $wrong->connections && $deaf->connections, 'the broken ones were asked as well';
    my $host = host($url->($dead, $wrong, $deaf), 'RateLimit one 200/1h', wait => '10s connect=300ms');
    my $sum = load($host, 1000, from => '127.0.0.9');
    is_deeply $sum->{status}, { 200 => 200, 429 => 800 }, 'without a working sentinel the host counts alone';
    isnt source($host), 'redis', 'a replica does not decide';
    is +(Status->of($host))->{RedisFailedLate}, 0, 'no request waits';
    $dead->restart;
    recovered($host);
    pass 'Redis decides again when a sentinel is back';
};

subtest 'a sentinel URL can name a database' => sub {
    my $site = RedisSentinel->start(replicas => 0, sentinels => 1);
    my $host = host($site->url('/3'), 'RateLimit one 5/1h');
    is $host->get('/hello.txt')->status, $_, "the status is $_" for (200) x 5, 429;
    my $primary = $site->primary;
    is scalar(@{ $primary->cmd('KEYS', '*:one:*') }), 0, 'the key is not in database 0';
    $primary->cmd('SELECT', 3);
    is scalar(@{ $primary->cmd('KEYS', '*:one:*') }), 1, 'it is in database 3';
};

# Writes a file with a password that only root may read.
sub secret {
    my ($text) = @_;
    my $file = Process::tempdir('secret') . '/sentinel';
    open my $out, '>', $file or die "$file: $!\n";
    print $out "$text\n";
    close $out or die "$file: $!\n";
    chmod 0600, $file or die "chmod: $!\n";
    return $file;
}

subtest 'sentinels can require a password or a user' => sub {
    my $site = RedisSentinel->start(replicas => 1, auth => 'Zq7-s3cret');
    for my $sentinel ($site->sentinels) {    # the rights that OPERATING.md gives for a user of sentinels
        $sentinel->cmd(qw(ACL SETUSER watcher on >Zq8-s3cret resetchannels &+switch-master -@all),
            qw(+client|setname +sentinel|get-master-addr-by-name +subscribe));
    }
    for my $line ('Zq7-s3cret', 'watcher Zq8-s3cret') {
        my $host = host($site->url, "RateLimitRedisAuth sentinel=file:@{[secret($line)]}\n"
            . 'RateLimit one 1000000/1h');
        recovered($host);
        is source($host), 'redis', 'with the right password Redis decides';
        $site->fail_over;
        recovered($host);
        is source($host), 'redis', 'the new primary decides after a failover';
    }
    my $host = host($site->url, "RateLimitRedisAuth sentinel=file:@{[secret('wrong')]}\n"
        . 'RateLimit one 1000000/1h');
    Status->wait_for_breaker($host);
    my ($line) = $host->error_log_lines(qr/breaker open/);
    like $line, qr/no sentinel names a primary.*does not accept the user or the password/,
        'with a wrong password the log has the reason';
    unlike $host->error_log, qr/Zq|s3cret/, 'no password is logged';
};

# The numbers of threads and descriptors of all children of a server.
sub threads_and_files {
    my ($host) = @_;
    my ($threads, $files) = (0, 0);
    for my $pid ($host->children) {
        $threads += () = glob "/proc/$pid/task/*";
        $files   += () = glob "/proc/$pid/fd/*";
    }
    return ($threads, $files);
}

for my $mpm (qw(event prefork)) {
    subtest "names of sentinels whose DNS hangs use few threads and descriptors ($mpm)" => sub {
        my $fault = Fault->new('a name whose resolver hangs');
        plan skip_all => $fault->{skip} if $fault->{skip};
        $fault->begin;
        my $url = 'sentinel://' . join(',', map { "s$_.test" } 1 .. 6) . '/limits';
        my $host = host($url, "RateLimitBreaker retry=50ms..100ms\nRateLimit one 1000/1h",
            mpm => $mpm, children => 1, threads => 4, wait => '25ms connect=50ms',
            $fault->host_options);
        is $host->get('/hello.txt')->status, 200, 'a request passes';
        my ($threads, $files) = threads_and_files($host);
        my ($until, $most_threads, $most_files) = (time + 4, 0, 0);
        while (time < $until) {    # each sentinel is tried many times
            my @now = ($host->get('/hello.txt') && threads_and_files($host));
            $most_threads = $now[0] if $now[0] > $most_threads;
            $most_files   = $now[1] if $now[1] > $most_files;
        }
        cmp_ok $most_threads, '<=', $threads + 6, 'there is a thread for each name, not for each attempt';
        cmp_ok $most_files, '<=', $files + 15,
            'with one descriptor of the module and one socket of the resolver each';
    };
}

done_testing;
