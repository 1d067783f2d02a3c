#!/usr/bin/perl
# Redis stops, dies, comes back, while 32 clients ask: nobody gets an error,
# nobody waits longer than the deadline, a dead Redis soon costs nothing, each
# host limits for itself meanwhile, and the shared limit is exact again after.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";

use Client;
use Httpd;
use JSON::PP;
use Process;
use RedisServer;
use Socket qw(AF_INET AF_INET6 SOCK_STREAM getaddrinfo);
use Status;
use Test::More;
use Time::HiRes qw(sleep time);

use constant { DEADLINE_MS => 100, CLIENTS => 32 };

my $common = "RateLimitRedisTimeout @{[DEADLINE_MS]}ms connect=250ms\n" . Status::CONFIG;

sub host {
    my ($redis, $config, %opt) = @_;
    my $mpm  = $opt{mpm} // 'event';
    my @size = $mpm eq 'prefork' ? (children => CLIENTS + 2) : (threads => 40);
    return Httpd->start(redis => $redis, mpm => $mpm, modules => ['status'], @size, %opt,
        config => "RateLimitRedis \@REDIS\@\n$common$config");
}

# Requests by 32 clients, and what happens after so many responses.
sub load {
    my ($host, $requests, %opt) = @_;
    my ($seen, $at) = (0, delete $opt{at} || {});
    return Client->flood(targets => [$host->port], connections => CLIENTS,
        requests => $requests, path => '/hello.txt', %opt,
        on_response => sub { my $now = $at->{ ++$seen }; $now->() if $now });
}

# Waits until Redis decides everything again. A breaker that closes lets a growing
# share of eight through, so sixteen in a row are the end of that.
sub recovered {
    my ($host) = @_;
    Process::wait_until(sub {
        for (1 .. 16) {
            return 0 if $host->get('/noted')->header('X-Source') ne 'redis';
        }
        return 1;
    }, what => 'Redis to decide again', within => 30);
    my $status = Status->of($host);
    is $status->{RedisBreakerOpen}, 0, 'the breaker is closed again';
    return $status;
}

# A page beside the tested limits that says who decided.
my $noted = <<'EOT';
Alias /noted @DOCROOT@/hello.txt
<Location /noted>
    RateLimit one off
    RateLimit noted 1000000/1h
    RateLimitNotes all
    Header always set X-Source %{RATELIMIT_SOURCE}e
</Location>
EOT

sub no_error {
    my ($sum, $requests) = @_;
    my $status = $sum->{status};
    is_deeply [grep { !/^(?:200|429)$/ } keys %$status], [], 'nobody gets an error'
        or diag explain $status;
    is +($status->{200} // 0) + ($status->{429} // 0), $requests, 'everybody gets an answer';
}

sub bounded_wait {
    my ($status) = @_;
    # the histogram knows a wait to 1/8: its buckets around 100 ms end at 98.3 and 114.7 ms
    cmp_ok $status->{RedisWaitP999Us}, '<', (DEADLINE_MS + 15) * 1000,
        'nobody waits longer than the deadline';
}

my %trouble = (
    'Redis is killed' => {
        begin => sub { $_[0]->kill9 }, end => sub { $_[0]->restart },
    },
    'Redis is stopped and says nothing' => {
        begin => sub { $_[0]->pause }, end => sub { $_[0]->resume },
    },
);

for my $mpm (qw(event prefork)) {
    for my $name (sort keys %trouble) {
        subtest "$name under load ($mpm)" => sub {
            my $redis = RedisServer->start;
            my $host = host($redis, "RateLimit one 1000000/1h\n$noted", mpm => $mpm,
                modules => [qw(status headers)]);
            my $sum = load($host, 4000, at => { 1000 => sub { $trouble{$name}{begin}->($redis) } });
            no_error($sum, 4000);
            my $dead = Status->wait_until($host, sub {
                $host->get('/hello.txt') for 1 .. 4;
                return $_[0]{RedisBreakerOpen};
            }, what => 'the breaker to open');
            cmp_ok $dead->{RedisFailedLate}, '<=', 6 * CLIENTS, 'few requests waited in vain';
            $dead = Status->of($host);
            $sum = load($host, 2000);
            no_error($sum, 2000);
            my $still = Status->of($host);
            is $still->{RedisFailedLate}, $dead->{RedisFailedLate}, 'then none does';
            cmp_ok $still->{RedisFailedOpen}, '>=', $dead->{RedisFailedOpen} + 2000,
                'they do not even ask';
            $trouble{$name}{end}->($redis);
            my $after = recovered($host);
            bounded_wait($after);
            my $again = Status->of($host);
            no_error(load($host, 500), 500);
            my $end = Status->of($host);
            is $end->{RedisAnswered} - $again->{RedisAnswered}, 500, 'afterwards Redis decides all'
                or diag explain [$again, $end];
            my @lines = $host->error_log_lines(qr/breaker/);
            is scalar(grep { /breaker open/ } @lines), 1, 'the log says once that Redis is gone';
            is scalar(grep { /breaker closed/ } @lines), 1, 'and once that it is back';
        };
    }
}

subtest 'Redis restarted again and again under load' => sub {
    my $redis = RedisServer->start;
    my $host = host($redis, "RateLimit one 1000000/1h\n$noted", modules => [qw(status headers)]);
    my %at = map { 600 * $_ => sub { $redis->kill9; $redis->restart } } 1 .. 5;
    no_error(load($host, 4000, at => \%at), 4000);
    bounded_wait(recovered($host));
};

subtest 'limits hold on each host while Redis is away, and are exact after' => sub {
    my $redis = RedisServer->start;
    my @hosts = map {
        host($redis, "RateLimitOnFailure local nodes=2\nRateLimit one 100/1h\n$noted",
            modules => [qw(status headers)])
    } 1, 2;
    is load($hosts[0], 40, from => '127.0.0.2', connections => 1)->{status}{200}, 40,
        'one client has used 40 of 100';
    $redis->pause;
    for my $host (@hosts) {
        load($host, 200, from => '127.0.0.9');    # opens the breaker
        is load($host, 500, from => '127.0.0.3')->{status}{200}, 50,
            'a new client has half of its quota on each host';
    }
    is load($hosts[0], 500, from => '127.0.0.2')->{status}{200}, 30,
        'one that was known to have used 40 has 50 less its share of these';
    $redis->resume;
    recovered($_) for @hosts;
    # a request that gave up waiting when Redis stopped may have been charged when it resumed
    my $sum = Client->flood(targets => [map { $_->port } @hosts], requests => 1000,
        connections => CLIENTS, path => '/hello.txt', from => '127.0.0.4');
    is_deeply $sum->{status}, { 200 => 100, 429 => 900 }, 'then the two share one limit again';
    $sum = Client->flood(targets => [map { $_->port } @hosts], requests => 500,
        connections => CLIENTS, path => '/hello.txt', from => '127.0.0.2');
    is $sum->{status}{200}, 60, 'and Redis still knows what it had admitted';
};

subtest 'on-failure=open and closed' => sub {
    my $redis = RedisServer->start;
    my $host = host($redis, <<'EOT');
RateLimit base 1000000/1h
<Location /hello.txt>
    RateLimit one 2/1h on-failure=open
</Location>
<Location /page.html>
    RateLimit two 1000/1h on-failure=closed
</Location>
EOT
    is $host->get('/hello.txt')->status, 200, 'both pass while Redis is there' for 1, 2;
    is $host->get('/hello.txt')->status, 429, 'one up to its quota';
    is $host->get('/page.html')->status, 200, 'two as well';
    $redis->kill9;
    my %open = %{ load($host, 300, from => '127.0.0.2')->{status} };
    is_deeply \%open, { 200 => 300 }, 'without Redis open lets everybody pass';
    my %closed = %{ load($host, 300, path => '/page.html')->{status} };
    is_deeply \%closed, { 503 => 300 }, 'and closed nobody: 503, not 429 and not 500';
    $redis->restart;
    Process::wait_until(sub { $host->get('/page.html')->status == 200 }, what => 'closed to pass again');
    is +(Status->of($host))->{RedisBreakerOpen}, 0, 'when Redis is back';
};

subtest 'whom Redis denied stays denied without it, on-failure=open or not' => sub {
    my $redis = RedisServer->start;
    my $host = host($redis, 'RateLimit one 2/12s algorithm=fixed-window on-failure=open');
    my ($first, $next) = map { { from => "127.0.0.$_", path => '/hello.txt' } } 2, 3;
    Process::wait_until(sub { time - 12 * int(time / 12) < 2 }, what => 'a window', within => 20);
    my $end = 12 * int(time / 12) + 12;
    is $host->request(%$first)->status, 200, 'Redis admits two' for 1, 2;
    is $host->request(%$first)->status, 429, 'and denies the third';
    $redis->kill9;
    my ($denied, $since) = (0, time);
    while ($host->request(%$first)->status == 429) {
        $denied = time - $since;
        is $host->request(%$next)->status, 200, 'another passes' if $denied < 0.3;
        last if time > $end + 5;
        sleep 0.05;
    }
    cmp_ok $denied, '>', 5, 'without Redis it stays denied, longer than a renewal takes';
    cmp_ok $since + $denied, '>', $end - 1, 'to the end of its window';
    cmp_ok $since + $denied, '<', $end + 3, 'and no longer';
    is $host->request(%$first)->status, 200, 'then open lets it pass' for 1 .. 5;
};

subtest 'Redis forgets its scripts under load' => sub {
    my $redis = RedisServer->start;
    my $host  = host($redis, 'RateLimit one 500/1h');
    my %at = map { 100 * $_ => sub { $redis->cmd(qw(SCRIPT FLUSH)) } } 1 .. 15;
    my $sum = load($host, 2000, at => \%at);
    is_deeply $sum->{status}, { 200 => 500, 429 => 1500 }, 'exactly the quota passes';
    is +(Status->of($host))->redis_failures, 0, 'and nobody notices';
};

subtest 'a key that holds something else' => sub {
    my $redis = RedisServer->start;
    my $host  = host($redis, 'RateLimit one 5/1h');
    my $key = 'rl:{ip:127.0.0.2}:one:sliding-window:1h';
    for my $garbage (['RPUSH', $key, 'x'], ['SET', $key, 'short'], ['SET', $key, "\xff" x 15]) {
        $redis->cmd('DEL', $key);
        $redis->cmd(@$garbage);
        sleep 1.1;    # what is remembered of the round before serves for a second
        my @status = map { $host->get('/hello.txt', from => '127.0.0.2')->status } 1 .. 6;
        is "@status", '200 200 200 200 200 429', "$garbage->[0]: it is taken for nothing, then it counts";
        is +(Status->of($host))->redis_failures, 0, 'without a failure';
    }
};

subtest 'Redis is out of memory' => sub {
    my $redis = RedisServer->start(conf => ['maxmemory-policy noeviction']);
    my $host  = host($redis, "RateLimit one 100/1h\n$noted", modules => [qw(status headers)]);
    is $host->get('/hello.txt')->status, 200, 'at first it is not';
    $redis->cmd(qw(CONFIG SET maxmemory 1));
    my $start = time;
    no_error(load($host, 1000, from => '127.0.0.2'), 1000);
    my $status = Status->of($host);
    is $status->{RedisBreakerOpen}, 1, 'the breaker opens';
    cmp_ok $status->{RedisFailedRefused}, '<=', 2 * CLIENTS, 'at the first errors';
    is $status->{RedisFailedLate}, 0, 'nobody waits';
    my @lines = $host->error_log_lines(qr/memory is full/);
    is scalar(@lines), 1, 'one line says why';
    like $lines[0] // '', qr/raise maxmemory/, 'and what to do';
    Process::wait_until(sub {
        $host->get('/hello.txt', from => '127.0.0.3');
        return time - $start > 5;
    }, what => '5 s');
    is scalar($host->error_log_lines(qr/memory is full/)), 1, 'as long as it lasts';
    $redis->cmd(qw(CONFIG SET maxmemory 0));
    recovered($host);
    is load($host, 500, from => '127.0.0.5')->{status}{200}, 100, 'then Redis counts again';
};

# Whether the name has an address of either family, ::1 first or not.
sub has_both {
    my ($error, @found) = getaddrinfo('localhost', 0, { socktype => SOCK_STREAM });
    my %families = map { $_->{family} => 1 } @found;
    return $families{ +AF_INET } && $families{ +AF_INET6 };
}

# Runs a command with a second address for localhost, which only it sees.
my @with_both = ('unshare', '-m', 'sh', '-c',
    'hosts=$(mktemp); { echo "::1 localhost"; cat /etc/hosts; } >$hosts && chmod 644 $hosts'
    . ' && mount --bind $hosts /etc/hosts && rm $hosts && exec "$@"', 'sh');

subtest 'a name with two addresses, of which one answers' => sub {
    my @wrapper = has_both() ? () : (wrapper => \@with_both);
    plan skip_all => 'localhost has no ::1 here'
        if !-e '/proc/net/if_inet6'
        || (@wrapper && system("@with_both[0, 1] mount --bind /etc/hosts /etc/hosts 2>/dev/null"));
    my $redis = RedisServer->start;
    my $host = Httpd->start(modules => [qw(status headers)], vars => { PORT_OF_REDIS => $redis->port },
        @wrapper, config => <<"EOT");
RateLimitRedis redis://localhost:\@PORT_OF_REDIS\@
RateLimitRedisTimeout 10s connect=10s
RateLimit one 3/1h
@{[Status::CONFIG]}$noted
EOT
    is $host->get('/noted')->header('X-Source'), 'redis', 'Redis decides' for 1 .. 3;
    is $host->get('/hello.txt')->status, $_, 'on the limit too' for 200, 200, 200, 429;
    is scalar(@{ $redis->cmd('KEYS', '*:one:*') }), 1, 'where its count is';
    my $status = Status->of($host);
    is $status->{RedisBreakerOpen} + $status->redis_failures, 0, 'nothing failed';
    is_deeply [$host->error_log_lines(qr/breaker/)], [], 'and the log says nothing of a breaker';
};

done_testing;
