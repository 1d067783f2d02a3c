#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
# Behind Sentinel the limit follows the primary: when it dies, hangs or hands over
# under load nobody gets an error, the hosts find the new one by themselves, and
# what passes beyond the quota on the way is less than one quota more.

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

# A page beside the tested limits that says who decided.
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

# Requests by 32 clients, and what happens after so many responses.
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
    is_deeply [grep { !/^(?:200|429)$/ } keys %$status], [], 'nobody gets an error'
        or diag explain $status;
    is +($status->{200} // 0) + ($status->{429} // 0), $requests, 'everybody gets an answer';
}

sub source { my ($host) = @_; return $host->get('/noted')->header('X-Source') }

# Waits until Redis decides everything again, in every child: a load that keeps all of them busy
# falls back no more. (A breaker that closes lets a growing share of eight through.)
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

# Waits until no child asks a server that lives any more.
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
            cmp_ok $passed, '>=', 300, 'the quota passes';
            cmp_ok $passed, '<=', 600, 'and at most one quota more';
            diag "$passed of a quota of 300 passed in all";
            $sum = load($host, 1500, from => '127.0.0.3');
            is_deeply $sum->{status}, { 200 => 300, 429 => 1200 }, 'then the limit is exact again';
            my $new = $site->primary;
            delete $new->{link};    # a server that changes its role closes its connections
            ok $new->cmd('EXISTS', 'rl:{ip:127.0.0.3}:one:fixed-window:1h'), 'counted by the new primary';
            is scalar($host->error_log_lines(qr/notice\].*resuming normal/)), 1, 'without a restart';
        };
    }
}

subtest 'a primary that hangs while nobody asks' => sub {
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
        'the sentinels told of the new one before anybody had to wait';
};

subtest 'sentinels that are dead, dumb or wrong' => sub {
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
            mpm => $mpm, children => $mpm eq 'event' ? 5 : 10, wait => '10s connect=300ms');
        my $sum = load($host, 1000, from => "127.0.0." . length $mpm);
        is_deeply $sum->{status}, { 200 => 200, 429 => 800 }, "one that is right is enough ($mpm)";
    }
    ok $wrong->connections && $deaf->connections, 'the others were asked as well';
    my $host = host($url->($dead, $wrong, $deaf), 'RateLimit one 200/1h', wait => '10s connect=300ms');
    my $sum = load($host, 1000, from => '127.0.0.9');
    is_deeply $sum->{status}, { 200 => 200, 429 => 800 }, 'with none that is right each host counts alone';
    isnt source($host), 'redis', 'without a replica';
    is +(Status->of($host))->{RedisFailedLate}, 0, 'without waiting';
    $dead->restart;
    recovered($host);
    pass 'until one is back';
};

subtest 'a database and a name with a dot' => sub {
    my $site = RedisSentinel->start(replicas => 0, sentinels => 1);
    my $host = host($site->url('/3'), 'RateLimit one 5/1h');
    is $host->get('/hello.txt')->status, $_, "a $_" for (200) x 5, 429;
    my $primary = $site->primary;
    is scalar(@{ $primary->cmd('KEYS', '*:one:*') }), 0, 'database 0 holds nothing';
    $primary->cmd('SELECT', 3);
    is scalar(@{ $primary->cmd('KEYS', '*:one:*') }), 1, 'database 3 does';
};

# Writes a file with a password, which only root may read.
sub secret {
    my ($text) = @_;
    my $file = Process::tempdir('secret') . '/sentinel';
    open my $out, '>', $file or die "$file: $!\n";
    print $out "$text\n";
    close $out or die "$file: $!\n";
    chmod 0600, $file or die "chmod: $!\n";
    return $file;
}

subtest 'sentinels that want to know who asks' => sub {
    my $site = RedisSentinel->start(replicas => 1, auth => 'Zq7-s3cret');
    for my $sentinel ($site->sentinels) {    # what OPERATING.md says a user needs there
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
        is source($host), 'redis', 'and the new primary after a failover';
    }
    my $host = host($site->url, "RateLimitRedisAuth sentinel=file:@{[secret('wrong')]}\n"
        . 'RateLimit one 1000000/1h');
    Status->wait_until($host, sub { $host->get('/hello.txt'); $_[0]{RedisBreakerOpen} },
        what => 'the breaker to open');
    my ($line) = $host->error_log_lines(qr/breaker open/);
    like $line, qr/no sentinel names a primary.*does not accept the user or the password/,
        'with a wrong one the log says why not';
    unlike $host->error_log, qr/Zq|s3cret/, 'and shows none';
};

# Threads and descriptors of all children of a server.
sub held_by {
    my ($host) = @_;
    my ($threads, $files) = (0, 0);
    for my $pid ($host->children) {
        $threads += () = glob "/proc/$pid/task/*";
        $files   += () = glob "/proc/$pid/fd/*";
    }
    return ($threads, $files);
}

for my $mpm (qw(event prefork)) {
    subtest "sentinels by names whose DNS hangs ($mpm)" => sub {
        my $fault = Fault->new('a name whose resolver hangs');
        plan skip_all => $fault->{skip} if $fault->{skip};
        $fault->begin;
        my $url = 'sentinel://' . join(',', map { "s$_.test" } 1 .. 6) . '/limits';
        my $host = host($url, "RateLimitBreaker retry=50ms..100ms\nRateLimit one 1000/1h",
            mpm => $mpm, children => 1, threads => 4, wait => '25ms connect=50ms',
            $fault->host_options);
        is $host->get('/hello.txt')->status, 200, 'a request passes';
        my ($threads, $files) = held_by($host);
        my ($until, $most_threads, $most_files) = (time + 4, 0, 0);
        while (time < $until) {    # each sentinel is tried many times
            my @held = ($host->get('/hello.txt') && held_by($host));
            $most_threads = $held[0] if $held[0] > $most_threads;
            $most_files   = $held[1] if $held[1] > $most_files;
        }
        cmp_ok $most_threads, '<=', $threads + 6, 'a thread for each name, not for each attempt';
        cmp_ok $most_files, '<=', $files + 15, 'with a descriptor of ours and a socket of the resolver';
    };
}

done_testing;
