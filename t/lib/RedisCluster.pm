# SPDX-License-Identifier: Apache-2.0
package RedisCluster;

# A real Redis Cluster on loopback: primaries with replicas, without persistence.
#
#   my $cluster = RedisCluster->start(primaries => 3, replicas => 1);
#   ... RateLimitRedis with $cluster->url
#   my $node = $cluster->primary_of('rl:{ip:127.0.0.1}:login:fixed-window:1h');
#   is $cluster->cmd_at($key, 'GET', $key), ...;
#   $cluster->move_slots($from, $to, 100, on_slot => sub { ... });
#   $cluster->replace_nodes_after(1500);
#   $node->kill9;
#   $cluster->wait_for_failover($node);
#
# When start() returns, every node reports cluster_state:ok and every replica is in sync with its primary. Nodes
# are RedisServer objects and end with the test. No node is replaced before replace_nodes_after(): until then a
# node may be late by a minute, as on a busy machine. Options: primaries (3), replicas (1 each), conf (lines of
# redis.conf), assign (sub: slot number to index of a primary), tls (lines that name certificates: nodes use TLS
# among each other and url is for TLS, but tests can still connect without it).

use strict;
use warnings;

use Ports;
use Process;
use RedisServer;

use constant SLOTS => 16384;

sub start {
    my ($class, %opt) = @_;
    my $self = bless { primaries => 3, replicas => 1, conf => [], %opt }, $class;
    my $count = $self->{primaries} * (1 + $self->{replicas});
    $self->{nodes} = [map { $self->_node } 1 .. $count];
    $self->_assign;
    $self->_meet;
    $self->_replicate;
    $self->wait_until_ok;
    return $self;
}

sub nodes { @{ $_[0]{nodes} } }

# The URL with the given number of nodes as seeds, by default all.
sub url {
    my ($self, $seeds) = @_;
    my @ports = map { $_->{tls_port} // $_->port } $self->nodes;
    splice @ports, $seeds if $seeds;
    return ($self->{tls} ? 'cluster+tls://' : 'cluster://') . join ',', map { "127.0.0.1:$_" } @ports;
}

# The slot of a key by the specification of Redis Cluster: CRC16 of the key or of its hash tag.
my @crc = map {
    my $crc = $_ << 8;
    $crc = ($crc << 1 ^ ($crc & 0x8000 ? 0x1021 : 0)) & 0xffff for 1 .. 8;
    $crc;
} 0 .. 255;

sub slot {
    my ($self, $key) = @_;
    my $tag = $key =~ /^[^{]*\{([^}]+)\}/ ? $1 : $key;
    my $crc = 0;
    $crc = ($crc << 8 & 0xffff) ^ $crc[$crc >> 8 ^ $_] for unpack 'C*', $tag;
    return $crc % SLOTS;
}

# The node that owns the slot of a key, and the node that owns a slot.
sub primary_of {
    my ($self, $key) = @_;
    return $self->owner($self->slot($key));
}

sub owner {
    my ($self, $slot) = @_;
    for my $range (@{ ($self->_living)[0]->cmd(qw(CLUSTER SLOTS)) }) {
        my ($first, $last, $node) = @$range;
        next if $slot < $first || $slot > $last;
        return $self->by_port($node->[1]);
    }
    die "no node owns slot $slot\n";
}

sub by_port {
    my ($self, $port) = @_;
    my ($node) = grep { $_->port == $port } $self->nodes;
    return $node // die "no node on port $port\n";
}

# Runs a command on the node that owns the slot of a key.
sub cmd_at {
    my ($self, $key, @words) = @_;
    return $self->primary_of($key)->cmd(@words);
}

# All keys on all primaries that match.
sub keys_like {
    my ($self, $pattern) = @_;
    return sort map { @{ $_->cmd('KEYS', $pattern) } } $self->primaries;
}

# The running nodes whose role is master.
sub primaries {
    my ($self) = @_;
    return grep { $_->cmd('ROLE')->[0] eq 'master' } $self->_living;
}

# The slots that a node reports as its own.
sub slots_of {
    my ($self, $node) = @_;
    return map { $_->[2][1] == $node->port ? $_->[0] .. $_->[1] : () }
        @{ $node->cmd(qw(CLUSTER SLOTS)) };
}

# Moves the first `count` slots (or the slots in an array) of one primary to another with their keys, one after
# the other, as redis-cli --cluster reshard does. on_slot => sub ($slot, $when) is called with 'open', when both
# nodes know of the move and no key has moved, and with 'moved'.
sub move_slots {
    my ($self, $from, $to, $slots, %opt) = @_;
    my @slots = ref $slots ? @$slots : ($self->slots_of($from))[0 .. $slots - 1];
    $self->move_slot($from, $to, $_, %opt) for @slots;
    return @slots;
}

sub move_slot {
    my ($self, $from, $to, $slot, %opt) = @_;
    $self->open_slot($from, $to, $slot);
    $opt{on_slot}->($slot, 'open') if $opt{on_slot};
    $self->move_keys($from, $to, $slot);
    $self->close_slot($from, $to, $slot);
    $opt{on_slot}->($slot, 'moved') if $opt{on_slot};
}

# The steps of a move, for tests of unfinished moves.
sub open_slot {
    my ($self, $from, $to, $slot) = @_;
    $to->cmd(qw(CLUSTER SETSLOT), $slot, 'IMPORTING', id($from));
    $from->cmd(qw(CLUSTER SETSLOT), $slot, 'MIGRATING', id($to));
}

sub move_keys {
    my ($self, $from, $to, $slot) = @_;
    while (my @keys = @{ $from->cmd(qw(CLUSTER GETKEYSINSLOT), $slot, 100) }) {
        $from->cmd('MIGRATE', '127.0.0.1', $to->port, '', 0, 5000, 'KEYS', @keys);
    }
}

# Dies if a key was written since move_keys: Redis refuses to give away a slot that still has keys.
sub close_slot {
    my ($self, $from, $to, $slot) = @_;
    $to->cmd(qw(CLUSTER SETSLOT), $slot, 'NODE', id($to));
    $from->cmd(qw(CLUSTER SETSLOT), $slot, 'NODE', id($to));
}

# Waits until all running nodes report cluster_state:ok. A node that was killed must have been replaced.
sub wait_until_ok {
    my ($self) = @_;
    Process::wait_until(
        sub {
            for my $node ($self->_living) {
                return 0 if ($node->cmd(qw(CLUSTER INFO)) // '') !~ /^cluster_state:ok/m;
            }
            return 1;
        },
        within => 60, what => 'cluster_state:ok on all nodes'
    );
}

# From now on a node that does not answer for so many ms is replaced.
sub replace_nodes_after {
    my ($self, $ms) = @_;
    $_->cmd(qw(CONFIG SET cluster-node-timeout), $ms) for $self->_living;
}

# Waits until the slots a dead primary had are served by another node.
sub wait_for_failover {
    my ($self, $dead) = @_;
    Process::wait_until(
        sub {
            return !grep { $_->[2][1] == $dead->port } map { @{ $_->cmd(qw(CLUSTER SLOTS)) } } $self->_living;
        },
        within => 60, what => 'a replica to take over'
    );
    $self->wait_until_ok;
}

sub id {
    my ($node) = @_;
    return $node->{cluster_id} //= $node->cmd(qw(CLUSTER MYID));
}

sub stop { my ($self) = @_; $_->stop for $self->nodes }

sub _living { my ($self) = @_; return grep { $_->pid } $self->nodes }

sub _node {
    my ($self) = @_;
    my ($port, $bus) = (Ports::free(), Ports::free());
    local $ENV{TMPDIR} = Process::memory_dir();    # nodes sync what they know of each other to disk
    my $tls_port = $self->{tls} ? Ports::free() : undef;
    my @tls = $self->{tls} ? ("tls-port $tls_port", "cluster-announce-tls-port $tls_port",
        'tls-cluster yes', 'tls-replication yes', 'tls-auth-clients no', @{ $self->{tls} }) : ();
    return RedisServer->start(port => $port, tls_port => $tls_port, conf => [@tls,
        'cluster-enabled yes', "cluster-port $bus", 'cluster-announce-ip 127.0.0.1',
        "cluster-announce-port $port", "cluster-announce-bus-port $bus",
        "cluster-config-file nodes-$port.conf", 'cluster-node-timeout 60000',
        'cluster-replica-validity-factor 0', 'repl-diskless-sync-delay 0', @{ $self->{conf} },
    ]);
}

# Consecutive slots, in equal shares, or as `assign` says.
sub _assign {
    my ($self) = @_;
    my $n = $self->{primaries};
    my $assign = $self->{assign} || sub { int($_[0] * $n / SLOTS) };
    my @ranges = map { [] } 1 .. $n;
    my $first = 0;
    for my $slot (1 .. SLOTS) {
        next if $slot < SLOTS && $assign->($slot) == $assign->($first);
        push @{ $ranges[$assign->($first)] }, $first, $slot - 1;
        $first = $slot;
    }
    $self->{nodes}[$_]->cmd(qw(CLUSTER ADDSLOTSRANGE), @{ $ranges[$_] }) for 0 .. $n - 1;
}

sub _meet {
    my ($self) = @_;
    my @nodes = $self->nodes;
    my $epoch = 1;
    $_->cmd(qw(CLUSTER SET-CONFIG-EPOCH), $epoch++) for @nodes;
    for my $node (@nodes[1 .. $#nodes]) {
        my ($bus) = map { /cluster-port (\d+)/ ? $1 : () } @{ $node->{conf} };
        $nodes[0]->cmd(qw(CLUSTER MEET), '127.0.0.1', $node->port, $bus);
    }
    Process::wait_until(
        sub {
            my @views = map { $_->cmd(qw(CLUSTER NODES)) } @nodes;
            return !grep { /handshake/ || tr/\n// != @nodes } @views;
        },
        within => 60, what => 'all nodes to know each other'
    );
}

sub _replicate {
    my ($self) = @_;
    my @nodes = $self->nodes;
    my @replicas = @nodes[$self->{primaries} .. $#nodes];
    $replicas[$_]->cmd(qw(CLUSTER REPLICATE), id($nodes[$_ % $self->{primaries}])) for 0 .. $#replicas;
    Process::wait_until(
        sub { return !grep { $_->cmd(qw(INFO replication)) !~ /master_link_status:up/ } @replicas },
        within => 60, what => 'the replicas to be in sync'
    );
}

1;
