# SPDX-License-Identifier: Apache-2.0
package RedisSentinel;

# A real Redis Sentinel deployment on loopback: one primary, replicas, sentinels.
#
#   my $site = RedisSentinel->start;
#   ... RateLimitRedis with $site->url
#   my $old = $site->primary;
#   $old->kill9;
#   my $new = $site->wait_for_failover($old);
#   $site->fail_over;          # an orderly failover: the old primary becomes a replica
#
# Failovers are waited for long: a sentinel that a busy machine stops for two seconds does nothing for thirty.
#
# When start() returns, the replicas are in sync, and all sentinels know each other and agree on the primary.
# Servers and sentinels are RedisServer objects and end with the test. Options: replicas (2), sentinels (3),
# down_after (ms, 1000: how long a primary must be silent), conf (lines for the servers), auth (a password that
# sentinels require), tls (lines that name certificates: all use TLS among each other and url is for TLS, but
# tests can still connect without it).

use strict;
use warnings;

use Ports;
use Process;
use RedisServer;

use constant NAME => 'limits';

sub start {
    my ($class, %opt) = @_;
    my $self = bless { replicas => 2, sentinels => 3, down_after => 1000, conf => [], %opt }, $class;
    $self->{scheme} = $self->{tls} ? 'sentinel+tls' : 'sentinel';
    # sentinels, and servers that rewrite their configuration, do not answer while a slow disk syncs
    local $ENV{TMPDIR} = Process::memory_dir();
    my @common = ('repl-diskless-sync-delay 0', 'repl-ping-replica-period 1', @{ $self->{conf} });
    my $primary = $self->_server(conf => [@common]);
    $self->{servers} = [$primary, map {
        $self->_server(conf => [@common, 'replicaof 127.0.0.1 ' . public_port($primary)])
    } 1 .. $self->{replicas}];
    Process::wait_until(
        sub {
            return !grep { $_->cmd(qw(INFO replication)) !~ /master_link_status:up/ }
                @{ $self->{servers} }[1 .. $self->{replicas}];
        },
        within => 60, what => 'the replicas to be in sync'
    );
    $self->{sentinel} = [map { $self->_sentinel($primary) } 1 .. $self->{sentinels}];
    $self->wait_until_ok;
    return $self;
}

sub servers   { @{ $_[0]{servers} } }
sub sentinels { @{ $_[0]{sentinel} } }

sub url {
    my ($self, $rest) = @_;
    return "$self->{scheme}://" . join(',', map { '127.0.0.1:' . public_port($_) } $self->sentinels)
        . '/' . NAME . ($rest // '');
}

# The primary by the sentinels that run; undef while they do not agree.
sub primary {
    my ($self) = @_;
    my %said = map { ($_->cmd(qw(SENTINEL get-master-addr-by-name), NAME)->[1] => 1) } $self->_watching;
    my ($server) = grep { $said{ public_port($_) } } $self->servers;
    return keys %said == 1 ? $server : undef;
}

# Waits until the sentinels agree on another primary and its role is master; returns it.
sub wait_for_failover {
    my ($self, $old) = @_;
    return Process::wait_until(
        sub {
            my $new = $self->primary;
            return undef if !$new || $new == $old;
            # a server closes its connections when its role changes
            return (eval { $new->cmd('ROLE') } // [''])->[0] eq 'master' ? $new : undef;
        },
        within => 240, what => 'the sentinels to choose a new primary'
    );
}

# Makes another server the primary while the old one runs, and returns it. Sentinels refuse for a while after
# an earlier failover, so this tries again.
sub fail_over {
    my ($self) = @_;
    my $old = $self->primary;
    Process::wait_until(
        sub { eval { ($self->_watching)[0]->cmd(qw(SENTINEL FAILOVER), NAME); 1 } },
        within => 240, what => 'a sentinel to begin a failover'
    );
    return $self->wait_for_failover($old);
}

# Waits until every sentinel knows all others and all replicas.
sub wait_until_ok {
    my ($self) = @_;
    Process::wait_until(
        sub {
            for my $sentinel ($self->_watching) {
                my %is = @{ $sentinel->cmd(qw(SENTINEL MASTER), NAME) };
                return 0 if $is{'num-slaves'} < $self->{replicas} || $is{flags} ne 'master'
                    || $is{'num-other-sentinels'} < $self->{sentinels} - 1;
            }
            return 1;
        },
        within => 60, what => 'the sentinels to know each other'
    );
}

sub stop { my ($self) = @_; $_->stop for $self->sentinels, $self->servers }

# The port under which the others know a server or sentinel.
sub public_port { my ($server) = @_; return $server->{tls_port} // $server->port }

sub _server {
    my ($self, %opt) = @_;
    return RedisServer->start(%opt) unless $self->{tls};
    my $port = Ports::free();
    return RedisServer->start(%opt, tls_port => $port, conf => [@{ $opt{conf} },
        "tls-port $port", 'tls-replication yes', 'tls-auth-clients no', @{ $self->{tls} }]);
}

sub _watching { my ($self) = @_; return grep { $_->pid } $self->sentinels }

sub _sentinel {
    my ($self, $primary) = @_;
    my $quorum = int($self->{sentinels} / 2) + 1;
    my $auth = $self->{auth};
    return $self->_server(args => ['--sentinel'], sentinel => 1, auth => $auth, conf => [
        ($auth ? "sentinel sentinel-pass $auth" : ()),
        'sentinel monitor ' . NAME . ' 127.0.0.1 ' . public_port($primary) . " $quorum",
        'sentinel down-after-milliseconds ' . NAME . " $self->{down_after}",
        'sentinel failover-timeout ' . NAME . ' 3000',
        'sentinel parallel-syncs ' . NAME . ' 2',
        'sentinel announce-ip 127.0.0.1',
    ]);
}

1;
