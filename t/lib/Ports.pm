# SPDX-License-Identifier: Apache-2.0
package Ports;

# Free loopback TCP ports.
#
#   my $port = Ports::free();
#
# Nothing listens on the port now, and no other process gets it from here while this one lives. The claim is a
# bound socket in the abstract Unix namespace, which the kernel drops with the process, so concurrent tests
# never share a port. Ports are below the kernel's ephemeral range, so an outgoing connection of a flood cannot
# take one before the server binds it.

use strict;
use warnings;

use IO::Socket::INET;
use IO::Socket::UNIX;
use Socket qw(SOCK_DGRAM);

use constant { LOWEST => 12_000, HIGHEST => 31_999 };

my %claims;    # port => the socket that holds the claim

sub free {
    for (1 .. 500) {
        my $port = LOWEST + int rand(HIGHEST - LOWEST + 1);
        next if $claims{$port} || !_unused($port);
        my $claim = _claim($port) or next;
        $claims{$port} = $claim;
        return $port;
    }
    die "no free loopback port between " . LOWEST . " and " . HIGHEST . "\n";
}

sub _unused {
    my ($port) = @_;
    return IO::Socket::INET->new(
        LocalAddr => '127.0.0.1',
        LocalPort => $port,
        Listen    => 1,
        ReuseAddr => 1,
    );
}

sub _claim {
    my ($port) = @_;
    return IO::Socket::UNIX->new(
        Type  => SOCK_DGRAM,
        Local => "\0ratelimit-test-port-$port",
    );
}

1;
