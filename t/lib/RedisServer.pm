# SPDX-License-Identifier: Apache-2.0
package RedisServer;

# A real redis-server, without persistence, on loopback and on a Unix socket.
#
#   my $redis = RedisServer->start(conf => ['maxmemory 10mb']);
#   is $redis->cmd(qw(SET a 1)), 'OK';
#   $redis->pause;      # the kernel still accepts connections; Redis answers none
#   $redis->resume;
#   $redis->kill9;      # connections are refused
#   $redis->restart;    # the same port and socket, no data
#   $redis->tell(qw(DEBUG SLEEP 2));    # does not wait for the reply
#
# When start() returns, Redis answers. It ends with the test. Options: conf (lines of
# redis.conf), args (command-line arguments, as --sentinel), auth (the password it
# requires; cmd sends it), address (127.0.0.1), port. RL_REDIS_SERVER names another
# program, as valkey-server.
#
# cmd() sends one command over a connection it keeps, and returns the reply: text, a
# number, undef for nil, or an array reference. It dies on an error reply and if there
# is none within 10 s. A forked child must not call it: the connection is its parent's.
#
#   RedisServer::units($redis->cmd('GET', 'rl:{ip:127.0.0.1}:login:sliding-window:1m'))

use strict;
use warnings;

use IO::Select;
use IO::Socket::INET;
use Ports;
use Process;
use Time::HiRes qw(time);

sub start {
    my ($class, %opt) = @_;
    my $self = bless {
        args => [], conf => [], address => '127.0.0.1', port => Ports::free(), %opt,
        dir => Process::tempdir('redis'), owner => $$,
    }, $class;
    $self->_write_config;
    $self->restart;
    return $self;
}

sub port     { $_[0]{port} }
sub pid      { $_[0]{pid} }
sub dir      { $_[0]{dir} }
sub url      { "redis://$_[0]{address}:$_[0]{port}" }
sub socket   { "$_[0]{dir}/redis.sock" }
sub unix_url { 'unix://' . $_[0]->socket }

# Redis's log as text.
sub log {
    my ($self) = @_;
    open my $in, '<', "$self->{dir}/redis.log" or return '';
    local $/;
    return scalar(<$in>) // '';
}

sub pause {
    my ($self) = @_;
    kill STOP => $self->{pid} or die "no Redis to pause\n";
    Process::wait_until(sub { $self->_state eq 'T' }, what => 'Redis to pause');
}

sub resume {
    my ($self) = @_;
    kill CONT => $self->{pid} or die "no Redis to resume\n";
    Process::wait_until(sub { $self->_state ne 'T' }, what => 'Redis to resume');
}

# Ends it as a crash would, with SIGKILL.
sub kill9 {
    my ($self) = @_;
    delete $self->{link};
    my $pid = delete $self->{pid} or return;
    Process::stop($pid, signal => 'KILL');
}

# Ends it with SIGTERM, even if it is paused.
sub stop {
    my ($self) = @_;
    delete $self->{link};
    my $pid = delete $self->{pid} or return;
    Process::stop($pid);
}

# Starts it on the same port and socket; stops it first if it runs.
sub restart {
    my ($self) = @_;
    $self->stop;
    $self->{pid} = Process::spawn(
        name    => "redis-server on port $self->{port}",
        death   => 'KILL',
        command => [
            $ENV{RL_REDIS_SERVER} || 'redis-server', "$self->{dir}/redis.conf", @{ $self->{args} }
        ],
        log => "$self->{dir}/redis.log",
    );
    Process::wait_until(sub { $self->_answers }, what => 'Redis to answer');
}

# Restarts it at another address of this host.
sub restart_at {
    my ($self, $address) = @_;
    $self->{address} = $address;
    $self->_write_config;
    $self->restart;
}

sub cmd {
    my ($self, @words) = @_;
    my $reply = eval { $self->_send(@words); $self->_reply(time + 10) };
    if ($@) {
        delete $self->{link};    # a late reply must not answer the next command
        die "redis, @words: $@";
    }
    die "redis, @words: $$reply\n" if ref $reply eq 'SCALAR';
    return $reply;
}

# Sends a command that takes Redis long, over a new connection, and never reads the reply.
sub tell {
    my ($self, @words) = @_;
    my $link = IO::Socket::INET->new(PeerAddr => $self->{address}, PeerPort => $self->{port})
        or die "cannot connect: $@\n";
    $link->syswrite(_bytes(@words)) // die "$!\n";
    push @{ $self->{told} }, $link;
}

# The units in the value of a window's key, of the current window and of the one before; 0 without a value.
# The opening of src/redis/decide.lua describes the format.
sub units {
    my ($value) = @_;
    my ($before, $current) = unpack 'x6 V V', $value // return 0;
    return $before + $current;
}

sub DESTROY {
    my ($self) = @_;
    return if ${^GLOBAL_PHASE} eq 'DESTRUCT' || $self->{owner} != $$;
    local ($?, $@);
    $self->stop;
}

sub _write_config {
    my ($self) = @_;
    open my $out, '>', "$self->{dir}/redis.conf" or die "redis.conf: $!\n";
    print $out map { "$_\n" } (
        "port $self->{port}", "bind $self->{address}", 'protected-mode no',
        'unixsocket ' . $self->socket, 'unixsocketperm 777',
        'save ""', 'appendonly no', 'daemonize no', "dir $self->{dir}",
        ($self->{auth} ? "requirepass $self->{auth}" : ()),
        @{ $self->{conf} },
    );
    close $out or die "redis.conf: $!\n";
}

sub _answers {
    my ($self) = @_;
    die "redis-server ended:\n" . $self->log if defined Process::ended($self->{pid});
    my $pong = eval { $self->cmd('PING') };
    return 1 if $pong;
    # an error shows that Redis runs: an ACL of the test may forbid PING
    return $@ =~ /NOAUTH|NOPERM|DENIED/;
}

sub _state {
    my ($self) = @_;
    open my $in, '<', "/proc/$self->{pid}/stat" or die "Redis is gone\n";
    my ($state) = <$in> =~ /.*\) (\S)/s;
    return $state;
}

sub _send {
    my ($self, @words) = @_;
    if (!$self->{link}) {
        $self->{link} = IO::Socket::INET->new(PeerAddr => $self->{address}, PeerPort => $self->{port})
            or die "cannot connect: $@\n";
        $self->{input} = '';
        $self->cmd('AUTH', $self->{auth}) if $self->{auth};
    }
    $self->{link}->syswrite(_bytes(@words)) // die "$!\n";
}

sub _bytes {
    my (@words) = @_;
    return join '', '*' . @words . "\r\n", map { '$' . length($_) . "\r\n$_\r\n" } @words;
}

# Reads one RESP2 reply; an error becomes a reference to its text.
sub _reply {
    my ($self, $deadline) = @_;
    my ($type, $rest) = $self->_take($deadline, sub { $_[0] =~ s/^(.)(.*?)\r\n//s ? ($1, $2) : () });
    return $rest      if $type eq '+';
    return $rest + 0  if $type eq ':';
    return \"$rest"   if $type eq '-';
    return undef      if $rest < 0;
    return [map { $self->_reply($deadline) } 1 .. $rest] if $type eq '*';
    die "not a reply: $type$rest\n" if $type ne '$';
    my ($text) = $self->_take($deadline, sub {
        return () if length $_[0] < $rest + 2;
        return substr substr($_[0], 0, $rest + 2, ''), 0, $rest;
    });
    return $text;
}

# Reads until the function takes something off the input.
sub _take {
    my ($self, $deadline, $function) = @_;
    while (1) {
        my @taken = $function->($self->{input});
        return @taken if @taken;
        my $left = $deadline - time;
        die "no reply\n" if $left <= 0 || !IO::Select->new($self->{link})->can_read($left);
        sysread($self->{link}, $self->{input}, 65_536, length $self->{input})
            or die "Redis closed the connection\n";
    }
}

1;
