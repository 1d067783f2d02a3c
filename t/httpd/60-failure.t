#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
# While Redis is away each host counts alone, from the last state that it got from Redis and as on-failure=
# demands, and no client gets an error. When Redis is back the shared limit is exact again. 61-faults.t goes
# through the ways in which Redis can fail.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";

use Fallback;
use Httpd;
use Process;
use RedisServer;
use Socket qw(AF_INET AF_INET6 SOCK_STREAM getaddrinfo);
use Status;
use Test::More;
use Time::HiRes qw(sleep time);

*load = \&Fallback::load;

sub host { my ($redis, $config) = @_; return Fallback::host(redis => $redis, config => $config) }

subtest 'repeated restarts of Redis under load cause no errors' => sub {
    my $redis = RedisServer->start;
    my $host = host($redis, 'RateLimit one 1000000/1h');
    my %at = map { 600 * $_ => sub { $redis->kill9; $redis->restart } } 1 .. 5;
    Fallback::no_error(load($host, 4000, at => \%at), 4000);
    Fallback::bounded_wait(Fallback::recovered($host));
};

subtest 'each host enforces limits while Redis is away, and the shared limit is exact afterwards' => sub {
    my $redis = RedisServer->start;
    my @hosts = map { host($redis, "RateLimitOnFailure local nodes=2\nRateLimit one 100/1h") } 1, 2;
    is load($hosts[0], 40, from => '127.0.0.2', connections => 1)->{status}{200}, 40,
        'a client uses 40 of 100 units';
    $redis->pause;
    for my $host (@hosts) {
        load($host, 200, from => '127.0.0.9');    # opens the breaker
        is load($host, 500, from => '127.0.0.3')->{status}{200}, 50,
            'a new client has half of its quota on each host';
    }
    is load($hosts[0], 500, from => '127.0.0.2')->{status}{200}, 30,
        'a client known to have used 40 has its half, 50, less half of these';
    $redis->resume;
    Fallback::recovered($_) for @hosts;
    # Redis may have charged a request when it resumed that had given up waiting before, so another client
    my $sum = load(\@hosts, 1000, from => '127.0.0.4');
    is_deeply $sum->{status}, { 200 => 100, 429 => 900 }, 'then both hosts share one limit again';
    is load(\@hosts, 500, from => '127.0.0.2')->{status}{200}, 60,
        'and Redis still has the counts from before';
};

subtest 'on-failure=open admits everything, closed nothing' => sub {
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
    is $host->get('/hello.txt')->status, 200, 'the first rule admits its quota while Redis is there' for 1, 2;
    is $host->get('/hello.txt')->status, 429, 'and denies the next request';
    is $host->get('/page.html')->status, 200, 'the second rule admits as well';
    $redis->kill9;
    my %open = %{ load($host, 300, from => '127.0.0.2')->{status} };
    is_deeply \%open, { 200 => 300 }, 'without Redis open admits all requests';
    my %closed = %{ load($host, 300, path => '/page.html')->{status} };
    is_deeply \%closed, { 503 => 300 }, 'closed denies all with 503';
    my ($one, $two) = map { Status->of($host)->rule($_) } qw(one two);
    is_deeply [@$two{qw(Fallback Denied FromMemory)}], [300, 300, 0],
        'all denials by closed are counted as fallback, and none as denied from memory';
    is $one->{Fallback}, 300, 'all requests admitted by open are counted as fallback';
    $redis->restart;
    Process::wait_until(sub { $host->get('/page.html')->status == 200 }, what => 'closed to admit again');
    is +(Status->of($host))->{RedisBreakerOpen}, 0, 'the breaker is closed when Redis is back';
};

# Under prefork there is no I/O thread, so nothing probes Redis while no request comes.
subtest 'the first request after a quiet time finds that Redis is back (prefork)' => sub {
    my $redis = RedisServer->start;
    my $host = Fallback::host(redis => $redis, mpm => 'prefork', children => 4, config => <<'EOT');
RateLimitRedisTimeout 2s connect=2s
RateLimitBreaker failures=5 retry=50ms..300ms
RateLimitOnFailure closed
RateLimit base 1000000/1h
EOT
    my $ask = sub { my $r = $host->get('/noted'); $r->status . ' ' . ($r->header('X-Source') // '') };
    is $ask->(), '200 redis', 'Redis decides';
    $redis->kill9;
    Status->wait_for_breaker($host, $ask);
    is $ask->(), '503 fallback', 'closed denies, and the source is "fallback"';
    $redis->restart;
    sleep 1.5;    # longer than two of the longest pauses between probes
    is $ask->(), '200 redis', 'Redis decides each request again' for 1 .. 3;
    is scalar($host->error_log_lines(qr/answers again: breaker closed/)), 1, 'the log reports it once';
    $redis->kill9;
    Status->wait_for_breaker($host, $ask);
    sleep 1.5;
    is $ask->(), '503 fallback', 'a request is denied while Redis is still away' for 1 .. 3;
};

subtest 'a client that Redis denied stays denied without it, even with on-failure=open' => sub {
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
        is $host->request(%$next)->status, 200, 'another client passes' if $denied < 0.3;
        last if time > $end + 5;
        sleep 0.05;
    }
    cmp_ok $denied, '>', 5, 'without Redis it stays denied, longer than a denial is valid without revalidation';
    cmp_ok $since + $denied, '>', $end - 1, 'until the end of the window';
    cmp_ok $since + $denied, '<', $end + 3, 'not longer';
    is $host->request(%$first)->status, 200, 'then open admits it' for 1 .. 5;
};

subtest 'a denial by an override keeps its limit while it cannot be revalidated' => sub {
    my $redis = RedisServer->start;
    my $host = host($redis, "RateLimitOverrides on\nRateLimit one 100/1h algorithm=fixed-window");
    my $get = sub { $host->get('/hello.txt', from => '127.0.0.2') };
    $redis->cmd(qw(HSET rl:override:{ip:127.0.0.2} one 2));
    $get->() for 1 .. 2;
    is $get->()->status, 429, 'the override denies';
    $redis->kill9;
    my $renewed = time + 4;    # long enough for four requests that try to revalidate it
    my %said;
    while (time < $renewed) {
        my $denied = $get->();
        $said{ join ' ', $denied->status, $denied->header('X-RateLimit-Limit') }++;
        $said{'too soon'}++ if ($denied->header('Retry-After') // 0) < 2;
        sleep 0.05;
    }
    is_deeply [keys %said], ['429 2'], 'every response has the limit of the override and a Retry-After';
};

subtest 'a state from Redis that is too old is not used' => sub {
    my $redis = RedisServer->start;
    my %path = (sliding => '/hello.txt', log => '/page.html', bucket => '/bucket');
    my $host = host($redis, <<'EOT');
<Location /hello.txt>
    RateLimit sliding 3/1s
</Location>
<Location /page.html>
    RateLimit log 3/1s algorithm=sliding-log
</Location>
<Location /bucket>
    RateLimit bucket 3/1s algorithm=token-bucket
</Location>
EOT
    for my $path (values %path) {
        for (1 .. 100) {
            last if $host->get($path, from => '127.0.0.2')->status == 429;
        }
    }
    sleep 2.5;    # two windows
    $redis->kill9;
    for my $name (sort keys %path) {
        isnt $host->get($path{$name}, from => '127.0.0.2')->status, 429,
            "$name: a host that counts alone starts without the denial of an earlier window";
    }
};

subtest 'a key with another value is replaced' => sub {
    my $redis = RedisServer->start;
    my $host  = host($redis, 'RateLimit one 5/1h');
    my $key = 'rl:{ip:127.0.0.2}:one:sliding-window:1h';
    for my $garbage (['RPUSH', $key, 'x'], ['SET', $key, 'short'], ['SET', $key, "\xff" x 15]) {
        $redis->cmd('DEL', $key);
        $redis->cmd(@$garbage);
        sleep 1.1;    # the denial of the round before is remembered for a second
        my @status = map { $host->get('/hello.txt', from => '127.0.0.2')->status } 1 .. 6;
        is "@status", '200 200 200 200 200 429', "$garbage->[0]: the value is ignored, and the quota is counted";
        is +(Status->of($host))->redis_failures, 0, 'without a failure';
    }
};

# Whether localhost has an address of both families.
sub has_both {
    my ($error, @found) = getaddrinfo('localhost', 0, { socktype => SOCK_STREAM });
    my %families = map { $_->{family} => 1 } @found;
    return $families{ +AF_INET } && $families{ +AF_INET6 };
}

# Runs a command with ::1 as a second address of localhost, in a separate mount namespace.
my @with_both = ('unshare', '-m', 'sh', '-c',
    'hosts=$(mktemp); { echo "::1 localhost"; cat /etc/hosts; } >$hosts && chmod 644 $hosts'
    . ' && mount --bind $hosts /etc/hosts && rm $hosts && exec "$@"', 'sh');

subtest 'a name with two addresses works if one of them answers' => sub {
    my @wrapper = has_both() ? () : (wrapper => \@with_both);
    plan skip_all => 'localhost has no ::1 here'
        if !-e '/proc/net/if_inet6'
        || (@wrapper && system("@with_both[0, 1] mount --bind /etc/hosts /etc/hosts 2>/dev/null"));
    my $redis = RedisServer->start;
    my $host = Fallback::host(url => 'redis://localhost:' . $redis->port, @wrapper,
        config => "RateLimitRedisTimeout 10s connect=10s\nRateLimit one 3/1h");
    is $host->get('/noted')->header('X-Source'), 'redis', 'Redis decides' for 1 .. 3;
    is $host->get('/hello.txt')->status, $_, 'it decides about the limit too' for 200, 200, 200, 429;
    is scalar(@{ $redis->cmd('KEYS', '*:one:*') }), 1, 'the count is in Redis';
    my $status = Status->of($host);
    is $status->{RedisBreakerOpen} + $status->redis_failures, 0, 'nothing failed';
    is_deeply [$host->error_log_lines(qr/breaker/)], [], 'the log does not mention a breaker';
};

done_testing;
