#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
# The harness itself, without the module: servers come up, answer, pause,
# return, and leave no process behind however a test ends.

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
    is $page->status, 200, 'it answers';
    is $page->body, "hello\n", 'with the page';
    is_deeply [$page->header_all('x-twice')], [qw(one two)], 'a doubled header is seen twice';
    is $httpd->get('/denied', method => 'HEAD')->status, 429, 'the answer to a HEAD is whole';
    is $httpd->get('/', from => '127.0.0.7')->status, 403, 'a client has the address it takes';

    my $kept = Client->new(port => $httpd->port(1));
    is $kept->request(path => '/page.html')->body, "<p>page\n", 'kept alive, second port'
        for 1 .. 3;
    $kept->disconnect;

    my @ports = map { $httpd->port($_) } 0, 1;
    my $sum = Client->flood(targets => \@ports, requests => 200, path => '/hello.txt');
    is_deeply $sum->{status}, { 200 => 200 }, 'each request of a flood counts once';
    my $both = 0;
    $both += $sum->{target}{$_}{200} for @ports;
    is $both, 200, 'and at the port it went to';

    my @before = $httpd->children;
    $httpd->graceful;
    is $httpd->get('/')->status, 200, 'it serves after a graceful restart';
    my %now = map { $_ => 1 } $httpd->children;
    is scalar(grep { $now{$_} } @before), 0, 'with new children';

    my $pid = $httpd->pid;
    ok $httpd->stop, 'it stops when told to';
    is scalar(Process::group($pid)), 0, 'and leaves no process';
}

subtest 'a flood survives a server that closes kept connections' => sub {
    my $httpd = Httpd->start(module => 0, config => 'MaxKeepAliveRequests 3');
    my $sum   = Client->flood(targets => [$httpd->port], requests => 200, connections => 16);
    is_deeply $sum->{status}, { 200 => 200 }, 'each request is answered once';
};

subtest 'a flood counts what nobody answers' => sub {
    my $port = Ports::free();
    my $sum  = Client->flood(targets => [$port], requests => 5, connections => 2);
    is_deeply $sum->{status}, { refused => 5 }, 'as refused';
};

subtest 'a bad configuration' => sub {
    my ($status, $said) = Httpd->config_test(module => 0, config => "NoSuchThing on\n");
    isnt $status, 0, 'fails the configuration test';
    like $said, qr/NoSuchThing/, 'which says why';
    is +(Httpd->config_test(module => 0))[0], 0, 'a good one passes it';
    ok !eval { Httpd->start(module => 0, config => "NoSuchThing on\n") }, 'it does not start';
    like $@, qr/NoSuchThing/, 'and the test hears why';
    ok !eval { Httpd->start(module => 0, config => '@NOSUCH@') }, 'an unknown name is refused';
};

subtest 'Redis' => sub {
    my $redis = RedisServer->start;
    is $redis->cmd(qw(SET key value)), 'OK', 'it takes a value';
    is $redis->cmd(qw(GET key)), 'value', 'and gives it back';
    is $redis->cmd(qw(GET other)), undef, 'nil is undef';
    is_deeply $redis->cmd('EVAL', 'return {1,{"two",false},""}', 0), [1, ['two', undef], ''],
        'arrays nest';
    ok !eval { $redis->cmd('NOSUCH') }, 'an error reply dies';
    like $@, qr/unknown command/, 'with its text';

    $redis->pause;
    my $deaf = Client->connect(port => $redis->port);
    $deaf->syswrite("PING\r\n");
    ok !IO::Select->new($deaf)->can_read(0.3), 'paused, it accepts and says nothing';
    $redis->resume;
    ok +IO::Select->new($deaf)->can_read(10), 'resumed, it answers';

    my $port = $redis->port;
    $redis->kill9;
    ok !eval { Client->connect(port => $port) }, 'killed, it refuses';
    $redis->restart;
    is $redis->port, $port, 'restarted, it has the same port';
    is $redis->cmd(qw(GET key)), undef, 'and no data';
    ok -S $redis->socket, 'and its Unix socket';
    my $pid = $redis->pid;
    $redis->pause;
    $redis->stop;
    is scalar(Process::group($pid)), 0, 'stopped while paused, it leaves no process';
};

subtest 'the same time everywhere' => sub {
    my $redis = RedisServer->start;
    my $httpd = Httpd->start(module => 0, modules => ['headers'], config => 'Header set X-Received %t');
    my $before = time;
    my ($received) = $httpd->get('/')->header('X-Received') =~ /^t=(\d+)$/;
    my ($seconds, $us) = @{ $redis->cmd('TIME') };
    my $after = time;
    for (['httpd', $received / 1e6], ['Redis', $seconds + $us / 1e6]) {
        my ($who, $time) = @$_;
        ok $time > $before - 0.01 && $time < $after + 0.01, "$who has it, faked or not"
            or diag "$before, $time, $after";
    }
};

subtest 'Redis with a password' => sub {
    my $redis = RedisServer->start(auth => 'secret');
    is $redis->cmd('PING'), 'PONG', 'the client knows it';
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
    is scalar(<$socket>), "+PONG\r\n", 'it drips a reply';
    $socket->syswrite("*2\r\n\$3\r\nGET\r\n\$1\r\nk\r\n");
    is do { local $/; <$socket> }, "\$10\r\nhalf", 'it breaks off inside another';
    is $fake->connections, 1, 'it counts connections';
    is_deeply [$fake->commands], ['PING', 'GET k'], 'and commands';
    my $pid = $fake->pid;
    my $open = Client->connect(port => $fake->port);
    Process::wait_until(sub { $fake->connections == 2 }, what => 'the second connection');
    $fake->stop;
    is scalar(Process::group($pid)), 0, 'with a client connected, it leaves no process';
};

# A test that starts all three, says their pids, and ends as told.
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
    subtest "a test that ends by $end leaves no process" => sub {
        local $ENV{TMPDIR} = Process::tempdir("doomed");    # KILL leaves its files
        my $pid = open my $out, '-|', $^X, "-I$FindBin::Bin/../lib", '-e',
            'open STDERR, ">", "/dev/null"; my $code = shift; eval "$code; 1" or die $@', $doomed, $end;
        my @pids = split ' ', scalar(<$out>) // '';
        is scalar(@pids), 3, 'three servers run';
        kill $end => $pid unless $end eq 'die';
        my $gone = eval {
            Process::wait_until(sub { !grep { Process::group($_) } @pids },
                what => 'their end', within => 15);
        };
        ok $gone, 'none is left';
        close $out;
    };
}

# What lib/deps.sh would install for a group, on a machine that has only a shell: it asks `id` who
# it is, and is told that it is not root.
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
    ok $demo->{$_}, $_ for qw(gcc apache2-dev libhiredis-dev redis-server);
    ok !$demo->{$_}, "not $_" for qw(stunnel4 fail2ban prometheus libapache2-mpm-itk);
    ok $test->{$_}, "make test installs $_ too" for qw(stunnel4 fail2ban prometheus), keys %$demo;
};

done_testing;
