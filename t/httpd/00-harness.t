#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
# The test library works, shown without the module: servers start, answer, pause and come back, and no
# process is left behind however a test ends.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";

use Client;
use FakeRedis;
use Httpd;
use Process;
use RedisServer;
use Test::More;
use Time::HiRes qw(time);

for my $mpm (qw(event worker prefork)) {
    subtest "httpd with the $mpm MPM" => sub { httpd_works($mpm) };
}

sub httpd_works {
    my ($mpm) = @_;
    my $httpd = Httpd->start(mpm => $mpm, module => 0, modules => ['headers'], ports => 2,
        config => <<'EOF');
Header always add X-Twice one
Header always add X-Twice two
Redirect 429 /denied
<If "%{REMOTE_ADDR} == '127.0.0.7'">
    Require all denied
</If>
EOF
    my $page = $httpd->get('/hello.txt');
    is $page->status, 200, 'httpd answers';
    is $page->body, "hello\n", 'the body is the page';
    is_deeply [$page->header_all('x-twice')], [qw(one two)], 'a header that is sent twice is read twice';
    is $httpd->get('/denied', method => 'HEAD')->status, 429, 'a response to HEAD is read without waiting for a body';
    is $httpd->get('/', from => '127.0.0.7')->status, 403, 'a client sends from the address that the test chose';

    my $kept = Client->new(port => $httpd->port(1));
    is $kept->request(path => '/page.html')->body, "<p>page\n", 'a kept connection on the second port answers'
        for 1 .. 3;
    $kept->disconnect;

    my @ports = map { $httpd->port($_) } 0, 1;
    my $sum = Client->flood(targets => \@ports, requests => 200, path => '/hello.txt');
    is_deeply $sum->{status}, { 200 => 200 }, 'a flood counts each request once';
    my $both = 0;
    $both += $sum->{target}{$_}{200} for @ports;
    is $both, 200, 'and under the port that it went to';

    my @before = $httpd->children;
    $httpd->graceful;
    is $httpd->get('/')->status, 200, 'httpd serves after a graceful restart';
    my %now = map { $_ => 1 } $httpd->children;
    is scalar(grep { $now{$_} } @before), 0, 'with new children';

    my $pid = $httpd->pid;
    ok $httpd->stop, 'httpd stops';
    is scalar(Process::group($pid)), 0, 'and leaves no process behind';
}

subtest 'a flood survives a server that closes kept connections' => sub {
    my $httpd = Httpd->start(module => 0, config => 'MaxKeepAliveRequests 3');
    my $sum   = Client->flood(targets => [$httpd->port], requests => 200, connections => 16);
    is_deeply $sum->{status}, { 200 => 200 }, 'each request is answered once';
};

subtest 'a flood counts connections that nothing accepts' => sub {
    my $port = Ports::free();
    my $sum  = Client->flood(targets => [$port], requests => 5, connections => 2);
    is_deeply $sum->{status}, { refused => 5 }, 'they are counted as refused';
};

subtest 'a bad configuration is reported' => sub {
    my ($status, $said) = Httpd->config_test(module => 0, config => "NoSuchThing on\n");
    isnt $status, 0, 'the configuration test fails';
    like $said, qr/NoSuchThing/, 'and prints why';
    is +(Httpd->config_test(module => 0))[0], 0, 'a good configuration passes';
    ok !eval { Httpd->start(module => 0, config => "NoSuchThing on\n") }, 'httpd does not start with a bad one';
    like $@, qr/NoSuchThing/, 'and the test is given the reason';
    ok !eval { Httpd->start(module => 0, config => '@NOSUCH@') }, 'an unknown @NAME@ in a configuration is refused';
};

subtest 'Redis' => sub {
    my $redis = RedisServer->start;
    is $redis->cmd(qw(SET key value)), 'OK', 'Redis stores a value';
    is $redis->cmd(qw(GET key)), 'value', 'and returns it';
    is $redis->cmd(qw(GET other)), undef, 'nil is read as undef';
    is_deeply $redis->cmd('EVAL', 'return {1,{"two",false},""}', 0), [1, ['two', undef], ''],
        'nested arrays are read';
    ok !eval { $redis->cmd('NOSUCH') }, 'an error reply throws';
    like $@, qr/unknown command/, 'with the text of the error';

    $redis->pause;
    my $deaf = Client->connect(port => $redis->port);
    $deaf->syswrite("PING\r\n");
    ok !IO::Select->new($deaf)->can_read(0.3), 'a paused Redis accepts connections and does not answer';
    $redis->resume;
    ok +IO::Select->new($deaf)->can_read(10), 'a resumed one answers';

    my $port = $redis->port;
    $redis->kill9;
    ok !eval { Client->connect(port => $port) }, 'a killed one refuses connections';
    $redis->restart;
    is $redis->port, $port, 'a restarted one has the same port';
    is $redis->cmd(qw(GET key)), undef, 'no data';
    ok -S $redis->socket, 'and its Unix socket again';
    my $pid = $redis->pid;
    $redis->pause;
    $redis->stop;
    is scalar(Process::group($pid)), 0, 'one that is stopped while paused leaves no process behind';
};

subtest 'the test, httpd and Redis read the same clock' => sub {
    my $redis = RedisServer->start;
    my $httpd = Httpd->start(module => 0, modules => ['headers'], config => 'Header set X-Received %t');
    my $before = time;
    my ($received) = $httpd->get('/')->header('X-Received') =~ /^t=(\d+)$/;
    my ($seconds, $us) = @{ $redis->cmd('TIME') };
    my $after = time;
    for (['httpd', $received / 1e6], ['Redis', $seconds + $us / 1e6]) {
        my ($server, $time) = @$_;
        ok $time > $before - 0.01 && $time < $after + 0.01, "$server has the time of the test, faked or not"
            or diag "$before, $time, $after";
    }
};

subtest 'Redis with a password' => sub {
    my $redis = RedisServer->start(auth => 'secret');
    is $redis->cmd('PING'), 'PONG', 'RedisServer sends it';
};

subtest 'a fake Redis' => sub {
    my $fake = FakeRedis->start(sub {
        my ($conn) = @_;
        $conn->command or return;
        $conn->drip("+PONG\r\n", 0.02);
        $conn->command;
        $conn->send('$10' . "\r\nhalf");
    });
    my $socket = Client->connect(port => $fake->port);
    $socket->syswrite("*1\r\n\$4\r\nPING\r\n");
    is scalar(<$socket>), "+PONG\r\n", 'it sends a reply byte by byte';
    $socket->syswrite("*2\r\n\$3\r\nGET\r\n\$1\r\nk\r\n");
    is do { local $/; <$socket> }, "\$10\r\nhalf", 'it ends the connection in the middle of another';
    is $fake->connections, 1, 'it counts connections';
    is_deeply [$fake->commands], ['PING', 'GET k'], 'and commands';
    my $pid = $fake->pid;
    my $open = Client->connect(port => $fake->port);
    Process::wait_until(sub { $fake->connections == 2 }, what => 'the second connection');
    $fake->stop;
    is scalar(Process::group($pid)), 0, 'it leaves no process behind, even with a client connected';
};

# A test that starts all three servers, prints their pids and ends as its argument says.
my $doomed = <<'EOF';
use Httpd; use RedisServer; use FakeRedis;
$| = 1;
my $redis = RedisServer->start;
my $httpd = Httpd->start(module => 0);
my $fake  = FakeRedis->start(sub { $_[0]->silence });
print join(' ', map { $_->pid } $redis, $httpd, $fake), "\n";
if ($ARGV[0] eq 'die') { die "as planned\n" }
sleep 60;
EOF

for my $end (qw(die TERM INT KILL)) {
    subtest "a test that ends by $end leaves no process behind" => sub {
        local $ENV{TMPDIR} = Process::tempdir("doomed");    # after KILL the files stay
        my $pid = open my $out, '-|', $^X, "-I$FindBin::Bin/../lib", '-e',
            'open STDERR, ">", "/dev/null"; my $code = shift; eval "$code; 1" or die $@', $doomed, $end;
        my @pids = split ' ', scalar(<$out>) // '';
        is scalar(@pids), 3, 'three servers are running';
        kill $end => $pid unless $end eq 'die';
        my $gone = eval {
            Process::wait_until(sub { !grep { Process::group($_) } @pids },
                what => 'their end', within => 15);
        };
        ok $gone, 'none of them is left';
        close $out;
    };
}

# Returns the packages that lib/deps.sh would install for a group on a machine that has nothing but a
# shell. A fake `id` makes it print the command instead of running it as root.
sub missing {
    my ($group) = @_;
    my $bin = Process::tempdir('bare');
    symlink "/bin/$_", "$bin/$_" for qw(sh test);
    for my $fake (['id', 'echo 1000'], ['apt-get', 'exit 1']) {
        open my $out, '>', "$bin/$fake->[0]" or die "$bin: $!\n";
        print $out "#!/bin/sh\n$fake->[1]\n";
        close $out;
        chmod 0755, "$bin/$fake->[0]";
    }
    local $ENV{PATH} = $bin;
    my $said = qx{/bin/sh $FindBin::Bin/../lib/deps.sh $group 2>&1};
    return { map { $_ => 1 } $said =~ /install -y \S+ (.*)/ ? split ' ', $1 : () };
}

subtest 'make demo installs what a demo needs' => sub {
    my ($demo, $test) = (missing('demo'), missing('test'));
    ok $demo->{$_}, "make demo installs $_" for qw(gcc apache2-dev libhiredis-dev redis-server);
    ok !$demo->{$_}, "make demo does not install $_" for qw(stunnel4 fail2ban prometheus libapache2-mpm-itk);
    ok $test->{$_}, "make test installs $_ too" for qw(stunnel4 fail2ban prometheus), keys %$demo;
};

done_testing;
