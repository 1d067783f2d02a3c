# SPDX-License-Identifier: Apache-2.0
package Flood;

# Many concurrent keep-alive clients in one select loop of this process.
#
#   my $sum = Client->flood(
#       targets     => [$one->port, $two->port],  # connections alternate
#       connections => 64,
#       requests    => 2000,
#       path        => '/',          # or sub { my ($number) = @_; ... }
#       headers     => { ... },      # or such a sub
#       from        => ['127.0.0.2', '127.0.0.3'],   # source addresses in turn
#   );
#   $sum->{status}{200}           how many requests had this status
#   $sum->{target}{$port}{429}    the same for each target
#   $sum->{retried}               requests that were sent again
#   $sum->{seconds}
#
# Each request is counted exactly once: with the status of its response, as `broken` (the connection ended
# inside a response, or ten times without one), or as `refused` (ten times no connection). A request is sent
# again only if its connection ended before the first byte of the response, as when a server closes an idle
# connection. The server may have served it anyway, so a test of exact counts adds `retried` to what may have
# been charged. Dies after `timeout` seconds (120). on_response => sub ($number, $response, $port) is called
# for each response; its `elapsed` is the time in seconds since the request was first sent.

use strict;
use warnings;

use Client;
use Errno qw(EAGAIN EINPROGRESS EINTR EWOULDBLOCK);
use IO::Socket::INET;
use Time::HiRes qw(time);

use constant TRIES => 10;

sub run {
    my $flood = bless {
        connections => 64, requests => 2000, timeout => 120, method => 'GET',
        @_, next => 0, done => 0, status => {}, target => {}, retried => 0,
    }, __PACKAGE__;
    my $start = time;
    my @lines = map { $flood->_line($_) } 0 .. $flood->{connections} - 1;
    $flood->_assign($_) for @lines;
    while ($flood->{done} < $flood->{requests}) {
        die sprintf "flood: %d of %d answered after %d s\n",
            @$flood{qw(done requests timeout)}
            if time - $start > $flood->{timeout};
        $flood->_turn(grep { $_->{socket} } @lines);
    }
    return { (map { $_ => $flood->{$_} } qw(status target retried)), seconds => time - $start };
}

# One client: its target, its source address and its current request.
sub _line {
    my ($flood, $index) = @_;
    my $ports = $flood->{targets};
    my $from  = ref $flood->{from} ? $flood->{from} : [$flood->{from}];
    return { port => $ports->[$index % @$ports], from => $from->[$index % @$from] };
}

# Sends the next request of a client, or disconnects it after the last one.
sub _assign {
    my ($flood, $line) = @_;
    if ($flood->{next} >= $flood->{requests}) {
        delete $line->{socket};
        return;
    }
    $line->{number} = $flood->{next}++;
    $line->{tries}  = 0;
    $line->{since}  = time;
    $flood->_send($line);
}

sub _send {
    my ($flood, $line) = @_;
    my %opt = map { $_ => ref $flood->{$_} eq 'CODE' ? $flood->{$_}->($line->{number}) : $flood->{$_} }
        qw(method path headers host body);
    @$line{qw(in out sent)} = ('', Client::bytes(\%opt), 0);
    $line->{socket} ||= _open($line);
}

sub _open {
    my ($line) = @_;
    my $socket = IO::Socket::INET->new(
        PeerAddr => '127.0.0.1',
        PeerPort => $line->{port},
        Blocking => 0,
        $line->{from} ? (LocalAddr => $line->{from}) : (),
    );
    die "flood: no socket: $!\n" unless $socket || $!{ECONNREFUSED};
    return $socket || IO::Socket::INET->new(Proto => 'tcp');    # fails when written to
}

# Waits until a socket is ready and handles it.
sub _turn {
    my ($flood, @lines) = @_;
    my ($read, $write) = ('', '');
    for my $line (@lines) {
        my $fd = fileno $line->{socket};
        vec($read, $fd, 1) = 1;
        vec($write, $fd, 1) = 1 if $line->{out} ne '';
    }
    return if select($read, $write, undef, 1) <= 0;
    for my $line (@lines) {
        my $fd = fileno $line->{socket};
        $flood->_write($line) if $line->{out} ne '' && vec($write, $fd, 1);
        $flood->_read($line) if $line->{sent} && vec($read, $fd, 1);
    }
}

sub _write {
    my ($flood, $line) = @_;
    my $sent = syswrite $line->{socket}, $line->{out};
    if (defined $sent) {
        substr $line->{out}, 0, $sent, '';
        $line->{sent} += $sent;
        return;
    }
    $flood->_lost($line) unless $!{EAGAIN} || $!{EWOULDBLOCK} || $!{EINTR} || $!{EINPROGRESS};
}

sub _read {
    my ($flood, $line) = @_;
    my $got = sysread $line->{socket}, $line->{in}, 65_536, length $line->{in};
    return if !defined $got && ($!{EAGAIN} || $!{EWOULDBLOCK} || $!{EINTR});
    my $answer = Client::parse(\$line->{in}, $flood->{method}, !$got);
    if ($answer) {
        # a response before the request was all sent leaves the rest unsendable
        delete $line->{socket} if !$got || $answer->{last} || $line->{out} ne '';
        $answer->{elapsed} = time - $line->{since};
        $flood->{on_response}->($line->{number}, $answer, $line->{port}) if $flood->{on_response};
        $flood->_count($line, $answer->status);
    }
    elsif (!$got) {
        $flood->_lost($line);
    }
}

# The connection ended without a whole response.
sub _lost {
    my ($flood, $line) = @_;
    delete $line->{socket};
    if ($line->{in} eq '' && ++$line->{tries} < TRIES) {
        $flood->{retried}++ if $line->{sent};
        return $flood->_send($line);
    }
    $flood->_count($line, $line->{sent} ? 'broken' : 'refused');
}

sub _count {
    my ($flood, $line, $status) = @_;
    $flood->{status}{$status}++;
    $flood->{target}{ $line->{port} }{$status}++;
    $flood->{done}++;
    $flood->_assign($line);
}

1;
