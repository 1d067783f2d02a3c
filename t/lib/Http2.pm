# SPDX-License-Identifier: Apache-2.0
package Http2;

# One cleartext HTTP/2 connection with prior knowledge: the part of RFC 9113 that sends concurrent requests and
# reads status and body.
#
#   my $h2 = Http2->new(port => $httpd->port, from => '127.0.0.7');
#   my @ids     = map { $h2->ask(path => '/') } 1 .. 3;    # does not wait
#   my $answers = $h2->answers(@ids);                      # { id => { status, body } }
#   $h2->ask(method => 'POST', path => '/', open => 1);    # never sends the body
#
# answers() waits until all of the streams have ended, in any order, and dies after 30 s. The client allows
# no dynamic table of headers, so the first field of a response, its status, is literal or in the static table
# (RFC 7541).

use strict;
use warnings;

use Client;
use IO::Select;
use Time::HiRes qw(time);

use constant { DATA => 0, HEADERS => 1, RST_STREAM => 3, SETTINGS => 4, PING => 6, GOAWAY => 7 };
use constant { END_STREAM => 1, ACK => 1, END_HEADERS => 4 };

my @status = (200, 204, 206, 304, 400, 404, 500);    # entries 8 to 14 of the static table

sub new {
    my ($class, %opt) = @_;
    my $self = bless { socket => Client->connect(%opt), input => '', next => 1, streams => {} }, $class;
    $self->{socket}->syswrite("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    $self->_send(SETTINGS, 0, 0, pack 'nN', 1, 0);
    return $self;
}

# Sends a request and returns the id of its stream.
sub ask {
    my ($self, %opt) = @_;
    my $id = $self->{next};
    $self->{next} += 2;
    my $method = $opt{method} || 'GET';
    my $block  = join '', _field(2, $method), _field(4, $opt{path}), _field(6, 'http'),
        _field(1, 'localhost');
    $self->{streams}{$id} = { body => '' };
    $self->_send(HEADERS, END_HEADERS | ($opt{open} ? 0 : END_STREAM), $id, $block);
    return $id;
}

sub answers {
    my ($self, @ids) = @_;
    my $deadline = time + 30;
    while (grep { !$self->{streams}{$_}{ended} } @ids) {
        my $left = $deadline - time;
        die "HTTP/2: no answer\n" if $left <= 0 || !IO::Select->new($self->{socket})->can_read($left);
        $self->{socket}->sysread($self->{input}, 65_536, length $self->{input})
            or die "HTTP/2: the connection ended\n";
        1 while $self->_frame;
    }
    return { map { $_ => $self->{streams}{$_} } @ids };
}

# A literal field whose name is an index into the static table.
sub _field { my ($name, $value) = @_; return pack 'CC/a*', $name, $value }

sub _send {
    my ($self, $type, $flags, $id, $payload) = @_;
    $self->{socket}->syswrite(pack('CnCCN', 0, length $payload, $type, $flags, $id) . $payload);
}

# Removes one whole frame from the input and handles it. Returns false if there is none.
sub _frame {
    my ($self) = @_;
    return 0 if length $self->{input} < 9;
    my ($high, $low, $type, $flags, $id) = unpack 'CnCCN', $self->{input};
    my $length = $high << 16 | $low;
    return 0 if length $self->{input} < 9 + $length;
    my $payload = substr substr($self->{input}, 0, 9 + $length, ''), 9;
    die "HTTP/2: the server goes away\n" if $type == GOAWAY;
    $self->_send($type, ACK, 0, $type == PING ? $payload : '')
        if ($type == SETTINGS || $type == PING) && !($flags & ACK);
    my $stream = $self->{streams}{$id} or return 1;
    $stream->{status} = _status($payload) if $type == HEADERS && !$stream->{status};
    $stream->{body} .= $payload if $type == DATA;
    $stream->{ended} = 1 if $type == RST_STREAM || ($type <= HEADERS && $flags & END_STREAM);
    return 1;
}

# The status at the front of a block of headers.
sub _status {
    my ($block) = @_;
    $block =~ s/^[\x20-\x3f]+//;    # updates of the size of the dynamic table
    my ($first, $length) = unpack 'CC', $block;
    return $status[$first - 0x88] if $first >= 0x88 && $first <= 0x8e;
    die "HTTP/2: not a status: " . unpack('H*', $block) . "\n" if ($first & 0x0f) != 8;
    my $text = substr $block, 2, $length & 0x7f;
    return $text unless $length & 0x80;
    my $bits = unpack 'B*', $text;
    my $digits = '';                # 0 to 2 have codes of five bits, 3 to 9 of six
    while (length $digits < 3) {
        $digits .= $bits =~ s/^000(\d\d)// ? oct "0b$1"
            : $bits =~ s/^(\d{6})// ? oct("0b$1") - 22 : '?';
    }
    return $digits;
}

1;
