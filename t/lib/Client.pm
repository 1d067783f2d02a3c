# SPDX-License-Identifier: Apache-2.0
package Client;

# A raw HTTP/1.1 client: response headers stay a list, with duplicates and in order,
# and a test may give the exact bytes to send.
#
#   my $r = Client->request(port => $port, path => '/login', method => 'POST',
#                           headers => { 'X-Api-Key' => 'k' }, body => 'a=b');
#   is $r->status, 429;
#   is $r->header('Retry-After'), 7;      # the first of that name, or undef
#   is_deeply [$r->header_all('X')], [];  # every one
#
#   my $c = Client->new(port => $port);   # one connection, kept alive
#   $c->request(path => '/') for 1 .. 3;
#
#   my $sum = Client->flood(targets => [$a, $b], requests => 2000);  # Flood.pm
#
# Options of a request, with their defaults:
#
#   port
#   method, path     GET, /
#   headers          { name => value } or [name, value, ...]
#   host             Host header: localhost
#   body             sent with a Content-Length, unless headers give another framing
#   raw              the bytes of the whole request; replaces all of the above but port
#   from             source address: 127.0.0.7 is another client than 127.0.0.1
#   timeout          30 s, from connecting to the last byte
#
# Client->request sends Connection: close. An object keeps its connection; if the server
# has closed it between two requests, the object connects and sends once more. Dies if
# the response is late or malformed. A response also has reason, version, headers (a list
# of [name, value]), body, and elapsed: the seconds since before connecting.

use strict;
use warnings;

use Exporter qw(import);
use IO::Select;
use IO::Socket::INET;
use Time::HiRes qw(time);

our @EXPORT_OK = qw(fresh_address);
my $addresses = 0;

# A loopback address this test has not used yet, so a client with its full quota.
sub fresh_address { $addresses++; return sprintf '127.64.%d.%d', $addresses / 200, 1 + $addresses % 200 }

sub new {
    my ($class, %opt) = @_;
    return bless {%opt}, $class;
}

sub request {
    my ($self, %opt) = @_;
    $self = $self->new(close => 1) unless ref $self;
    %opt = (timeout => 30, %$self, %opt);
    my $reused = $self->{socket} ? 1 : 0;
    my $start  = time;
    my $answer = $self->_exchange(\%opt, $start + $opt{timeout});
    $answer //= $self->_exchange(\%opt, $start + $opt{timeout}) if $reused;
    die "no response to " . ($opt{method} || 'GET') . ' ' . ($opt{path} || '/') . "\n"
        unless $answer;
    $answer->{elapsed} = time - $start;
    return $answer;
}

sub flood {
    my ($class, %opt) = @_;
    require Flood;
    return Flood::run(%opt);
}

# A plain connected socket, for tests that write the protocol themselves.
sub connect {
    my ($class, %opt) = @_;
    return IO::Socket::INET->new(
        PeerAddr => '127.0.0.1',
        PeerPort => $opt{port},
        Timeout  => 10,
        $opt{from} ? (LocalAddr => $opt{from}) : (),
    ) || die "cannot connect to port $opt{port}: $@\n";
}

# Closes the connection of an object.
sub disconnect { my ($self) = @_; delete $self->{socket} }

# Sends one request and returns its response; undef if the server closed the connection
# without sending a byte.
sub _exchange {
    my ($self, $opt, $deadline) = @_;
    my $socket = $self->{socket} ||= Client->connect(%$opt);
    my ($buffer, $eof) = ('', 0);
    $socket->syswrite(bytes($opt));    # if it fails, so will the read below
    while (1) {
        my $answer = parse(\$buffer, $opt->{method} || 'GET', $eof);
        if ($answer) {
            $self->disconnect if $answer->{last} || $eof || $opt->{close};
            return $answer;
        }
        if ($eof) {
            $self->disconnect;
            return undef if $buffer eq '';
            die "broken response: $buffer\n";
        }
        my $left = $deadline - time;
        if ($left <= 0 || !IO::Select->new($socket)->can_read($left)) {
            $self->disconnect;
            die "no whole response in $opt->{timeout} s, got: $buffer\n";
        }
        $eof = !$socket->sysread($buffer, 65_536, length $buffer);
    }
}

# The bytes of a request.
sub bytes {
    my ($opt) = @_;
    return $opt->{raw} if defined $opt->{raw};
    my @headers = ref $opt->{headers} eq 'HASH' ? %{ $opt->{headers} } : @{ $opt->{headers} || [] };
    my $text    = sprintf "%s %s HTTP/1.1\r\n", $opt->{method} || 'GET', $opt->{path} || '/';
    my %given;
    while (my ($name, $value) = splice @headers, 0, 2) {
        $text .= "$name: $value\r\n";
        $given{ lc $name } = 1;
    }
    $text .= 'Host: ' . ($opt->{host} || 'localhost') . "\r\n" unless $given{host};
    $text .= "Connection: close\r\n" if $opt->{close} && !$given{connection};
    if (defined $opt->{body} && !$given{'content-length'} && !$given{'transfer-encoding'}) {
        $text .= 'Content-Length: ' . length($opt->{body}) . "\r\n";
    }
    return $text . "\r\n" . ($opt->{body} // '');
}

# Takes one complete response off the front of the buffer; undef while it is
# incomplete. Skips interim responses (1xx).
sub parse {
    my ($buffer, $method, $eof) = @_;
    my $end = index $$buffer, "\r\n\r\n";
    return undef if $end < 0;
    my ($first, @lines) = split /\r\n/, substr $$buffer, 0, $end;
    my ($version, $status, $reason) = $first =~ m{^HTTP/(\d\.\d) (\d\d\d) ?(.*)}
        or die "not a response: $first\n";
    if ($status =~ /^1/ && $status != 101) {
        substr $$buffer, 0, $end + 4, '';
        return parse($buffer, $method, $eof);
    }
    my $answer = bless {
        version => $version,
        status  => $status + 0,
        reason  => $reason,
        headers => [map { [split /:[ \t]*/, $_, 2] } @lines],
    }, 'Client::Response';
    my $after = _body($answer, $buffer, $end + 4, $method, $eof) // return undef;
    substr $$buffer, 0, $after, '';
    $answer->{last} ||= lc($answer->header('Connection') // '') eq 'close'
        || $version eq '1.0';
    return $answer;
}

# Sets the body (RFC 9112 section 6.3); returns the offset of its end in the buffer,
# undef while it is incomplete.
sub _body {
    my ($answer, $buffer, $from, $method, $eof) = @_;
    $answer->{body} = '';
    return $from if $method eq 'HEAD' || $answer->{status} =~ /^(?:1..|204|304)$/;
    return _chunks($answer, $buffer, $from)
        if lc($answer->header('Transfer-Encoding') // '') eq 'chunked';
    my $length = $answer->header('Content-Length');
    if (!defined $length) {
        return undef unless $eof;
        $answer->{last} = 1;
        $length = length($$buffer) - $from;
    }
    return undef if length($$buffer) < $from + $length;
    $answer->{body} = substr $$buffer, $from, $length;
    return $from + $length;
}

sub _chunks {
    my ($answer, $buffer, $at) = @_;
    while (1) {
        my $end = index $$buffer, "\r\n", $at;
        return undef if $end < 0;
        my ($hex) = substr($$buffer, $at, $end - $at) =~ /^([0-9a-fA-F]+)/
            or die "bad chunk in a response\n";
        my $size = hex $hex;
        $at = $end + 2;
        last if $size == 0;
        return undef if length($$buffer) < $at + $size + 2;
        $answer->{body} .= substr $$buffer, $at, $size;
        $at += $size + 2;
    }
    while ((my $end = index $$buffer, "\r\n", $at) >= 0) {    # trailers
        return $end + 2 if $end == $at;
        $at = $end + 2;
    }
    return undef;
}

package Client::Response;

sub status  { $_[0]{status} }
sub reason  { $_[0]{reason} }
sub version { $_[0]{version} }
sub headers { $_[0]{headers} }
sub body    { $_[0]{body} }
sub elapsed { $_[0]{elapsed} }

sub header_all {
    my ($self, $name) = @_;
    return map { $_->[1] } grep { lc $_->[0] eq lc $name } @{ $self->{headers} };
}

sub header {
    my ($self, $name) = @_;
    my ($first) = $self->header_all($name);
    return $first;
}

1;
