#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
# A Redis that wants to know who asks: with a password, or as a user who may do
# just what is needed. Secrets stay out of logs, pages and process titles, and
# whom Redis does not let in is told so once, in words an administrator can use.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";

use Documents;
use Httpd;
use Process;
use RedisServer;
use Status;
use Test::More;

use constant SECRET => 'Zq7-s3cret!';

# What OPERATING.md says a user needs.
my @rights = do {
    my ($line) = Documents->read('conf/OPERATING.md')->section('Access to Redis')
        =~ /ACL SETUSER limiter on '>PASSWORD' (.*?)\n```/s or die "no ACL SETUSER\n";
    $line =~ s/['\\\n]//g;
    split ' ', $line;
};

my $config = <<'EOT' . Status::CONFIG;
RateLimitRedis @URL@
RateLimitRedisAuth file:@DIR@/secret
RateLimitRedisTimeout 1s connect=1s
RateLimitNotes all
<Location /hello.txt>
    RateLimit one 3/1h
    Header always set X-Source %{RATELIMIT_SOURCE}e
</Location>
EOT

# As programs that rotate secrets do: another file takes the place of the one that is there.
sub write_secret {
    my ($dir, $secret) = @_;
    open my $out, '>', "$dir/new" or die "$dir/new: $!\n";
    print $out "$secret\n";
    close $out or die "$dir/new: $!\n";
    chmod 0600, "$dir/new" or die "chmod: $!\n";    # root's: children cannot read it
    rename "$dir/new", "$dir/secret" or die "$dir/secret: $!\n";
}

sub host {
    my ($redis, $secret, %opt) = @_;
    my $url = $opt{url} // $redis->url;
    my $dir = $opt{dir} // Process::tempdir('auth');
    write_secret($dir, $secret);
    (my $text = $config) =~ s/\@DIR\@/$dir/;
    return Httpd->start(config => ($opt{more} // '') . $text, vars => { URL => $url }, modules => [qw(status headers)],
        mpm => $opt{mpm} // 'event', log_level => 'trace8', children => 2);
}

sub limits {
    my ($host, $how) = @_;
    my @seen = map { my $r = $host->get('/hello.txt'); [$r->status, $r->header('X-Source')] } 1 .. 4;
    is_deeply \@seen, [([200, 'redis']) x 3, [429, $seen[3][1]]], "$how: Redis decides";
}

# Nothing that a server shows holds the secret.
sub is_kept {
    my ($host) = @_;
    my $shown = $host->error_log . $host->get('/server-status')->body
        . $host->get('/server-status?auto')->body;
    for my $pid ($host->pid, $host->children) {
        for my $file ('cmdline', 'environ') {
            open my $in, '<', "/proc/$pid/$file" or next;
            local $/;
            $shown .= <$in> // '';
        }
    }
    is index($shown, SECRET), -1, 'and the password is nowhere to be seen';
}

sub let_in_user {
    my ($redis) = @_;
    $redis->cmd('ACL', 'SETUSER', 'limiter', 'on', '>' . SECRET, @rights);
}

for my $mpm (qw(event prefork)) {
    subtest "a password ($mpm)" => sub {
        my $redis = RedisServer->start(auth => SECRET);
        my $host = host($redis, SECRET, mpm => $mpm);
        limits($host, 'with the password of requirepass');
        is_kept($host);
    };
}

subtest 'a user' => sub {
    my $redis = RedisServer->start;
    let_in_user($redis);
    my $host = host($redis, 'limiter ' . SECRET);
    limits($host, 'named in the file');
    is_kept($host);
    $redis->cmd('DEL', 'rl:{ip:127.0.0.1}:one:sliding-window:1h');
    (my $url = $redis->url) =~ s{//}{//limiter\@};
    $host = host($redis, SECRET, url => "$url/3");
    limits($host, 'named in the URL, with a database');
    is_kept($host);
    $redis->cmd('SELECT', 3);
    is $redis->cmd('EXISTS', 'rl:{ip:127.0.0.1}:one:sliding-window:1h'), 1, 'which holds the keys';
};

subtest 'a password with blanks and quotes, and a token of 64 KB' => sub {
    my $redis = RedisServer->start;
    my $token = 'tok-' . 'Zq7' x 21_844;
    my $odd = 'Zq7 "s3cret" \\ !';
    (my $quoted = $odd) =~ s/(["\\])/\\$1/g;
    for (['stands in quotes', $odd, qq{limiter "$quoted"}],
         ['is taken whole', $token, "limiter $token"]) {
        my ($how, $password, $line) = @$_;
        $redis->cmd(qw(FLUSHALL));
        $redis->cmd(qw(ACL SETUSER limiter reset on), ">$password", @rights);
        limits(host($redis, $line), $how);
    }
};

subtest 'whose connection it is' => sub {
    my $redis = RedisServer->start;
    let_in_user($redis);
    my $host = host($redis, 'limiter ' . SECRET);
    limits($host, 'a user who may say so');
    my @names = sort $redis->cmd(qw(CLIENT LIST)) =~ / name=(ratelimit:\S+) /g;
    my @pids = sort map { /:(\d+)$/ } @names;
    is_deeply \@pids, [sort $host->children], 'each child has a name with its pid in it'
        or diag explain \@names;
    $redis->cmd(qw(ACL SETUSER limiter -client|setname -client));
    $redis->cmd(qw(FLUSHALL));
    limits(host($redis, 'limiter ' . SECRET), 'a user who may not');
};

# Each: how Redis is, what the file says, what the log says.
my %refused = (
    'a wrong password' => [sub { }, 'wrong', qr/does not accept the user or the password/],
    'a user whom Redis does not know' =>
        [sub { }, 'nobody ' . SECRET, qr/does not accept the user or the password/],
    'a user who may not run scripts' => [sub {
        $_[0]->cmd(qw(ACL SETUSER limiter on), '>' . SECRET, qw(resetkeys ~rl:* -@all +get));
    }, 'limiter ' . SECRET, qr/its user may not run what is needed/],
    'a user who may not use the keys' => [sub {
        let_in_user($_[0]);
        $_[0]->cmd(qw(ACL SETUSER limiter resetkeys ~other:*));
    }, 'limiter ' . SECRET, qr/its user may not run what is needed, or not on these keys/],
    'a user who may not write' => [sub {
        let_in_user($_[0]);
        $_[0]->cmd(qw(ACL SETUSER limiter -set -psetex));
    }, 'limiter ' . SECRET, qr/its user may not run what is needed/],
);

for my $name (sort keys %refused) {
    subtest $name => sub {
        my ($prepare, $secret, $says) = @{ $refused{$name} };
        my $redis = RedisServer->start(auth => SECRET);
        $prepare->($redis);
        my $host = host($redis, $secret);
        my @status = map { $host->get('/hello.txt')->status } 1 .. 5;
        is "@status", '200 200 200 429 429', 'this host counts by itself';
        Status->wait_until($host, sub { $host->get('/hello.txt'); $_[0]{RedisBreakerOpen} },
            what => 'the breaker to open');
        is scalar($host->error_log_lines($says)), 1, 'one line says why';
        is_kept($host);
    };
}

subtest 'a user who may not read overrides' => sub {
    my $redis = RedisServer->start(auth => SECRET);
    let_in_user($redis);
    $redis->cmd(qw(ACL SETUSER limiter -hget));
    my $host = host($redis, 'limiter ' . SECRET, more => "RateLimitOverrides on\n");
    $redis->cmd(qw(HSET rl:override:{ip:127.0.0.1} one 0));
    limits($host, 'by the rule, without its overrides');
    $host->get('/hello.txt', from => "127.0.0.$_") for 2 .. 9;
    my @lines = $host->error_log_lines(qr/overrides are ignored: Redis refuses.* \+hget/);
    ok @lines > 0 && @lines < 4, 'and a line says what to do, not one for each request'
        or diag scalar(@lines);
};

subtest 'a password that is changed' => sub {
    my $redis = RedisServer->start(auth => SECRET);
    my $host = host($redis, SECRET);
    limits($host, 'at first');
    $redis->cmd(qw(CONFIG SET requirepass other));
    $redis->cmd(qw(CLIENT KILL TYPE normal SKIPME yes));
    Status->wait_until($host, sub { $host->get('/hello.txt', from => '127.0.0.2');
        $_[0]{RedisBreakerOpen} }, what => 'the breaker to open');
    is $host->get('/hello.txt', from => '127.0.0.3')->status, 200, 'requests pass without Redis';
    $redis->cmd('CONFIG', 'SET', 'requirepass', SECRET);
    Process::wait_until(sub { $host->get('/hello.txt', from => '127.0.0.4')->header('X-Source')
        =~ /redis|local/ }, what => 'Redis to decide again');
    pass 'it is tried again';
    is_kept($host);
};

# httpd's parent looks at the file every ten seconds.
sub rotates {
    my ($mpm) = @_;
    my ($redis, $dir) = (RedisServer->start, Process::tempdir('auth'));
    let_in_user($redis);
    my $host = host($redis, 'limiter ' . SECRET, dir => $dir, mpm => $mpm);
    limits($host, 'at first');
    my @children = sort $host->children;
    write_secret($dir, 'limiter "half a line');
    my ($line) = $host->wait_for_log(qr/stays in use/, within => 60);
    like $line, qr/secret has a double quote that is not closed/, 'what is wrong is said';
    $redis->cmd(qw(CLIENT KILL TYPE normal SKIPME yes));
    Process::wait_until(sub { $host->get('/hello.txt', from => '127.0.0.2')->header('X-Source')
        eq 'redis' }, what => 'Redis to decide', within => 60);
    pass 'and what was there before lets new connections in';
    $redis->cmd(qw(ACL SETUSER limiter resetpass), '>rotated-' . SECRET);
    write_secret($dir, 'limiter rotated-' . SECRET);
    $host->wait_for_log(qr/secret has changed/, within => 60);
    $redis->cmd(qw(CLIENT KILL TYPE normal SKIPME yes));
    Process::wait_until(sub { $host->get('/hello.txt', from => '127.0.0.' . (3 + int rand 250))
        ->header('X-Source') eq 'redis' }, what => 'Redis to decide', within => 60);
    pass 'the new one lets them in as well';
    is_deeply [sort $host->children], \@children, 'in the same children, without a reload';
    is_kept($host);
    $redis->cmd(qw(ACL SETUSER limiter resetpass), '>again-' . SECRET);
    write_secret($dir, 'limiter again-' . SECRET);
    $host->graceful;
    Process::wait_until(sub { $host->get('/hello.txt', from => '127.0.0.' . (3 + int rand 250))
        ->header('X-Source') eq 'redis' }, what => 'Redis to decide', within => 60);
    pass 'and a reload takes the next one at once';
}

subtest "a password that changes every hour ($_)" => sub { rotates($_) } for qw(event prefork);

done_testing;
