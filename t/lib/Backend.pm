# SPDX-License-Identifier: Apache-2.0
package Backend;

# A backend of mod_proxy that answers when the test does, so that requests can be pending.
#
#   my $backend = Backend->new;
#   my $httpd = Httpd->start(modules => [qw(proxy proxy_http)], vars => { BACKEND => $backend->port },
#       config => "ProxyPass /app http://127.0.0.1:\@BACKEND\@/ retry=0 disablereuse=on\n");
#   my $client = Client->connect(port => $httpd->port);
#   $client->syswrite("GET /app HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
#   my $there = $backend->accept($client);    # undef if httpd answers the request itself
#   Backend::answer($there, 404);
#   like Backend::rest($client), qr{^HTTP/1\.1 404 };

use strict;
use warnings;

use IO::Select;
use IO::Socket::INET;
use Ports;

sub new {
    my ($class) = @_;
    my $listener = IO::Socket::INET->new(LocalAddr => '127.0.0.1', LocalPort => Ports::free(), Listen => 50,
        ReuseAddr => 1) or die "listen: $!\n";
    return bless { listener => $listener }, $class;
}

sub port { $_[0]{listener}->sockport }

# Waits for a connection of httpd and reads the head of its request; returns the connection. Returns undef
# if the client gets a response first, or after 20 s.
sub accept {
    my ($self, $client) = @_;
    my ($ready) = IO::Select->new($self->{listener}, $client // ())->can_read(20);
    return undef if !$ready || $ready != $self->{listener};
    my ($there, $head) = ($self->{listener}->accept, '');
    until ($head =~ /\r\n\r\n/) {
        $there->sysread($head, 65_536, length $head) or die "the request ended after: $head\n";
    }
    return $there;
}

# Sends a response and closes the connection.
sub answer {
    my ($there, $status) = @_;
    $there->syswrite("HTTP/1.1 $status x\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi");
    close $there;
}

# Everything that a socket still sends.
sub rest { my ($socket) = @_; local $/; return scalar(<$socket>) // '' }

1;
