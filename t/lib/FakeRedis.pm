# SPDX-License-Identifier: Apache-2.0
package FakeRedis;

# A server that misbehaves in ways a real Redis cannot be made to: it sends byte by byte,
# sends garbage, stops inside a reply, or accepts a connection and never answers.
#
#   my $fake = FakeRedis->start(sub {
#       my ($conn) = @_;
#       while (my $words = $conn->command) {        # ['PING'], ...
#           $conn->drip("+PONG\r\n", 0.2);
#       }
#   });
#   ... RateLimitRedis redis://127.0.0.1:PORT, as $fake->url says
#   is $fake->connections, 1;
#
# A Redis that completes the handshake of a client and then answers decisions:
#
#   FakeRedis->start(FakeRedis::after_handshake(sub {
#       my ($conn, $words) = @_;                    # an EVALSHA
#       return $conn->send(FakeRedis::verdict(1, 5));
#   }));
#
# For each connection the function runs in a new process, so it cannot change variables
# of the test; the connection closes when it returns. When start() returns, the port
# accepts connections. All processes end with the test, or at stop().

use strict;
use warnings;

use IO::Socket::INET;
use POSIX ();
use Ports;
use Process;
use Time::HiRes qw(time);

sub start {
    my ($class, $function, %opt) = @_;
    my $self = bless {
        port => Ports::free(), %opt, dir => Process::tempdir('fake-redis'), owner => $$,
    }, $class;
    my $listener = IO::Socket::INET->new(
        LocalAddr => '127.0.0.1', LocalPort => $self->{port}, Listen => 128, ReuseAddr => 1,
    ) or die "fake redis: $@\n";
    my $pid = fork;
    die "fork: $!\n" unless defined $pid;
    $self->_serve($listener, $function) if $pid == 0;
    POSIX::setpgid($pid, $pid);
    $self->{pid} = Process::adopt($pid, "fake redis on port $self->{port}");
    return $self;
}

# A bulk string of 40 bytes, which the client accepts as a reply to any command of its handshake.
use constant WELCOME => '$40' . "\r\n" . 'a' x 40 . "\r\n";

# A function for start(): answers each EVALSHA by the given function, which returns false to close the
# connection, and everything else with WELCOME.
sub after_handshake {
    my ($answer) = @_;
    return sub {
        my ($conn) = @_;
        while (my $words = $conn->command) {
            if ($words->[0] eq 'EVALSHA') { $answer->($conn, $words) or return }
            else                          { $conn->send(WELCOME) }
        }
    };
}

# The reply of decide.lua for one rule with a window: whether everything was charged, the time, and the
# units of the window before and of the current one, as they were before the charge.
sub verdict {
    my ($charged, $units) = @_;
    my $text = $charged . substr(pack('Q<', 1000 * time), 0, 7) . pack 'L< L<', 0, $units;
    return '$' . length($text) . "\r\n$text\r\n";
}

sub port { $_[0]{port} }
sub pid  { $_[0]{pid} }
sub url  { "redis://127.0.0.1:$_[0]{port}" }

# The number of connections accepted so far, and the commands read on all of them in order
# of arrival, each as its words joined by blanks.
sub connections { my ($self) = @_; return -s "$self->{dir}/connections" || 0 }

sub commands {
    my ($self) = @_;
    open my $in, '<', "$self->{dir}/commands" or return;
    chomp(my @lines = <$in>);
    return @lines;
}

sub stop {
    my ($self) = @_;
    my $pid = delete $self->{pid} or return;
    Process::stop($pid, signal => 'KILL');
}

sub DESTROY {
    my ($self) = @_;
    return if ${^GLOBAL_PHASE} eq 'DESTRUCT' || $self->{owner} != $$;
    local ($?, $@);
    $self->stop;
}

# The accepting process. Never returns; exits when its parent is gone.
sub _serve {
    my ($self, $listener, $function) = @_;
    my $parent = $self->{owner};
    POSIX::setpgid(0, 0);
    $SIG{$_} = 'DEFAULT' for qw(INT TERM HUP ALRM);
    $SIG{CHLD} = 'IGNORE';
    $listener->timeout(1);
    while (getppid == $parent) {
        my $socket = $listener->accept or next;
        _append("$self->{dir}/connections", '.');
        my $number = -s "$self->{dir}/connections";
        my $pid = fork // last;
        next if $pid;
        close $listener;
        eval {
            $function->(FakeRedis::Connection->new($socket, $number, "$self->{dir}/commands"));
            1;
        } or print STDERR "# fake redis: $@";
        close $socket;
        POSIX::_exit(0);
    }
    kill KILL => -$$;    # ends the processes of open connections, too
    POSIX::_exit(0);
}

sub _append {
    my ($file, $text) = @_;
    open my $out, '>>', $file or die "$file: $!\n";
    syswrite $out, $text;
}

package FakeRedis::Connection;

use Time::HiRes qw(sleep);

sub new {
    my ($class, $socket, $number, $log) = @_;
    return bless { socket => $socket, number => $number, log => $log }, $class;
}

sub socket { $_[0]{socket} }
sub number { $_[0]{number} }    # 1 for the first connection

# The next command as an array reference of its words; undef when the peer closes.
sub command {
    my ($self) = @_;
    my $socket = $self->{socket};
    my $head   = <$socket> // return undef;
    my ($count) = $head =~ /^\*(\d+)\r\n/ or return undef;
    my @words;
    for (1 .. $count) {
        my ($length) = (<$socket> // '') =~ /^\$(\d+)\r\n/ or return undef;
        (read($socket, my $word, $length + 2) // 0) == $length + 2 or return undef;
        push @words, substr $word, 0, $length;
    }
    (my $line = "@words") =~ s/[\r\n]/ /g;
    FakeRedis::_append($self->{log}, "$line\n");
    return \@words;
}

# Sends the bytes in one write; false if the peer is gone.
sub send {
    my ($self, $bytes) = @_;
    return defined syswrite $self->{socket}, $bytes;
}

# Sends one byte every `interval` seconds; false if the peer is gone.
sub drip {
    my ($self, $bytes, $interval) = @_;
    for my $byte (split //, $bytes) {
        $self->send($byte) or return 0;
        sleep $interval;
    }
    return 1;
}

# Reads and discards everything, without answering, until the peer closes.
sub silence {
    my ($self) = @_;
    while (sysread $self->{socket}, my $ignored, 65_536) { }
}

1;
