#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
# Redis can require a password, or a user with no more rights than needed. Secrets do not appear in logs,
# pages or process titles. If Redis refuses the module, the log names the reason once, in words that an
# administrator can act on.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";

use Documents;
use Fallback;
use Httpd;
use Process;
use RedisServer;
use Status;
use Test::More;

use constant SECRET => 'Zq7-s3cret!';

# The rights that OPERATING.md gives for the user.
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

# Replaces the file by another one, as programs that rotate secrets do.
sub write_secret {
    my ($dir, $secret) = @_;
    open my $out, '>', "$dir/new" or die "$dir/new: $!\n";
    print $out "$secret\n";
    close $out or die "$dir/new: $!\n";
    chmod 0600, "$dir/new" or die "chmod: $!\n";    # it belongs to root: children cannot read it
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

# The secret is in nothing that a server shows.
sub keeps_the_secret {
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
    is index($shown, SECRET), -1, 'the password is not in logs, pages or process titles';
}

sub let_in_user {
    my ($redis) = @_;
    $redis->cmd('ACL', 'SETUSER', 'limiter', 'on', '>' . SECRET, @rights);
}

for my $mpm (qw(event prefork)) {
    subtest "Redis requires a password ($mpm)" => sub {
        my $redis = RedisServer->start(auth => SECRET);
        my $host = host($redis, SECRET, mpm => $mpm);
        limits($host, 'with the password of requirepass');
        keeps_the_secret($host);
    };
}

subtest 'Redis requires a user' => sub {
    my $redis = RedisServer->start;
    let_in_user($redis);
    my $host = host($redis, 'limiter ' . SECRET);
    limits($host, 'named in the file');
    keeps_the_secret($host);
    $redis->cmd('DEL', 'rl:{ip:127.0.0.1}:one:sliding-window:1h');
    (my $url = $redis->url) =~ s{//}{//limiter\@};
    $host = host($redis, SECRET, url => "$url/3");
    limits($host, 'named in the URL, with a database');
    keeps_the_secret($host);
    $redis->cmd('SELECT', 3);
    is $redis->cmd('EXISTS', 'rl:{ip:127.0.0.1}:one:sliding-window:1h'), 1, 'the key is in this database';
};

subtest 'a password can have blanks, quotes and 64 KB' => sub {
    my $redis = RedisServer->start;
    my $token = 'tok-' . 'Zq7' x 21_844;
    my $odd = 'Zq7 "s3cret" \\ !';
    (my $quoted = $odd) =~ s/(["\\])/\\$1/g;
    for (['in quotes', $odd, qq{limiter "$quoted"}],
         ['a long token', $token, "limiter $token"]) {
        my ($how, $password, $line) = @$_;
        $redis->cmd(qw(FLUSHALL));
        $redis->cmd(qw(ACL SETUSER limiter reset on), ">$password", @rights);
        limits(host($redis, $line), $how);
    }
};

subtest 'connections have names in CLIENT LIST if the user may set them' => sub {
    my $redis = RedisServer->start;
    let_in_user($redis);
    my $host = host($redis, 'limiter ' . SECRET);
    limits($host, 'a user that may set names');
    my @names;
    Process::wait_until(sub {
        @names = sort $redis->cmd(qw(CLIENT LIST)) =~ / name=(ratelimit:\S+) /g;
        return @names >= $host->children;
    }, what => 'each child to connect');
    my @pids = sort map { /:(\d+)$/ } @names;
    is_deeply \@pids, [sort $host->children], 'the connection of each child is named after its pid'
        or diag explain \@names;
    $redis->cmd(qw(ACL SETUSER limiter -client|setname -client));
    $redis->cmd(qw(FLUSHALL));
    limits(host($redis, 'limiter ' . SECRET), 'a user that may not');
};

# For each case: preparation of Redis, content of the file, expected line of the log.
my %refused = (
    'a wrong password' => [sub { }, 'wrong', qr/does not accept the user or the password/],
    'an unknown user' =>
        [sub { }, 'nobody ' . SECRET, qr/does not accept the user or the password/],
    'a user that may not run scripts' => [sub {
        $_[0]->cmd(qw(ACL SETUSER limiter on), '>' . SECRET, qw(resetkeys ~rl:* -@all +get));
    }, 'limiter ' . SECRET, qr/its user may not run what is needed/],
    'a user that may not use the keys' => [sub {
        let_in_user($_[0]);
        $_[0]->cmd(qw(ACL SETUSER limiter resetkeys ~other:*));
    }, 'limiter ' . SECRET, qr/its user may not run what is needed, or not on these keys/],
    'a user that may not write' => [sub {
        let_in_user($_[0]);
        $_[0]->cmd(qw(ACL SETUSER limiter -set -psetex));
    }, 'limiter ' . SECRET, qr/its user may not run what is needed/],
);

for my $name (sort keys %refused) {
    subtest "Redis refuses $name" => sub {
        my ($prepare, $secret, $says) = @{ $refused{$name} };
        my $redis = RedisServer->start(auth => SECRET);
        $prepare->($redis);
        my $host = host($redis, $secret);
        my @status = map { $host->get('/hello.txt')->status } 1 .. 5;
        is "@status", '200 200 200 429 429', 'this host counts alone';
        Status->wait_for_breaker($host);
        is scalar($host->error_log_lines($says)), 1, 'one line of the log has the reason';
        keeps_the_secret($host);
    };
}

subtest 'without the right to read overrides limits are still decided by Redis' => sub {
    my $redis = RedisServer->start(auth => SECRET);
    let_in_user($redis);
    $redis->cmd(qw(ACL SETUSER limiter -hget));
    my $host = host($redis, 'limiter ' . SECRET, more => "RateLimitOverrides on\n");
    $redis->cmd(qw(HSET rl:override:{ip:127.0.0.1} one 0));
    limits($host, 'the override is ignored');
    $host->get('/hello.txt', from => "127.0.0.$_") for 2 .. 9;
    my @lines = $host->error_log_lines(qr/overrides are ignored: Redis refuses.* \+hget/);
    ok @lines > 0 && @lines < 4, 'the log names the missing right, not once for each request'
        or diag scalar(@lines);
};

subtest 'Redis is tried again after its password has changed' => sub {
    my $redis = RedisServer->start(auth => SECRET);
    my $host = host($redis, SECRET);
    limits($host, 'at the start');
    $redis->cmd(qw(CONFIG SET requirepass other));
    $redis->cmd(qw(CLIENT KILL TYPE normal SKIPME yes));
    Status->wait_for_breaker($host, sub { $host->get('/hello.txt', from => '127.0.0.2') });
    is $host->get('/hello.txt', from => '127.0.0.3')->status, 200, 'requests pass without Redis';
    $redis->cmd('CONFIG', 'SET', 'requirepass', SECRET);
    Process::wait_until(sub { $host->get('/hello.txt', from => '127.0.0.4')->header('X-Source')
        =~ /redis|local/ }, what => 'Redis to decide again');
    pass 'Redis decides again with the old password';
    keeps_the_secret($host);
};

# httpd's parent checks the file every ten seconds.
sub rotates {
    my ($mpm) = @_;
    my ($redis, $dir) = (RedisServer->start, Process::tempdir('auth'));
    let_in_user($redis);
    my $host = host($redis, 'limiter ' . SECRET, dir => $dir, mpm => $mpm);
    limits($host, 'at the start');
    my @children = sort $host->children;
    write_secret($dir, 'limiter "half a line');
    my ($line) = $host->wait_for_log(qr/stay in use/, within => 60);
    like $line, qr/secret has a double quote that is not closed/, 'a mistake in the new file is logged';
    $redis->cmd(qw(CLIENT KILL TYPE normal SKIPME yes));
    Fallback::wait_for_verdict($host);
    pass 'new connections use the old password';
    $redis->cmd(qw(ACL SETUSER limiter resetpass), '>rotated-' . SECRET);
    write_secret($dir, 'limiter rotated-' . SECRET);
    $host->wait_for_log(qr/secret has changed/, within => 60);
    $redis->cmd(qw(CLIENT KILL TYPE normal SKIPME yes));
    Fallback::wait_for_verdict($host);
    pass 'a valid new file is used';
    is_deeply [sort $host->children], \@children, 'by the same children, without a reload';
    keeps_the_secret($host);
    $redis->cmd(qw(ACL SETUSER limiter resetpass), '>again-' . SECRET);
    write_secret($dir, 'limiter again-' . SECRET);
    $host->graceful;
    Fallback::wait_for_verdict($host);
    pass 'a reload uses a new file at once';
}

subtest "the password file is read again while httpd runs ($_)" => sub { rotates($_) } for qw(event prefork);

done_testing;
