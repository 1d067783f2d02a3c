# SPDX-License-Identifier: Apache-2.0
package Fault;

# A table of what can go wrong with Redis: how to cause each fault, how to end it, and what
# to expect while it lasts. Tests and benches run through all its rows.
#
#   for my $name (Fault::names()) {
#       my $fault = Fault->new($name);     # Redis runs, in order
#       next if $fault->{skip};            # the reason why this machine cannot cause it
#       my $host = Fallback::host(url => $fault->url, config => $fault->config,
#           $fault->host_options);
#       $fault->begin;
#       $fault->end;                       # when this returns, Redis can answer again
#   }
#
# A row has begin and end, functions called with the fault. Or it has mode: httpd then
# reaches Redis through a relay, which from begin to end mangles replies in that way (see
# %mode).
#
#   answers   which requests Redis decides during the fault: none (the default), some,
#             or all (the fault goes unnoticed)
#   forgets   Redis comes back without its counts
#   first     the fault begins before httpd starts
#   lasts     the least duration, in seconds
#   often     begin may be called many times
#   says      the reason the error log gives for opening the breaker
#   prefork   prefork, which has no I/O thread, handles the fault in code of its own
#   conf      lines of redis.conf
#   password  the password Redis requires
#   named     the URL has a host name, whose address the fault changes

use strict;
use warnings;

use FakeRedis;
use IO::Select;
use IO::Socket::INET;
use Ports;
use Process;
use RedisServer;
use Socket qw(SOL_SOCKET SO_LINGER);
use Time::HiRes qw(sleep);

my @table = (
    'refused port' => {
        first => 1, forgets => 1,
        begin => sub { $_[0]{redis}->kill9 }, end => sub { $_[0]{redis}->restart },
    },
    'full listen backlog' => {
        prefork => 1, forgets => 1, begin => \&_fill_backlog, end => \&_free_backlog,
    },
    'SIGSTOP' => {
        prefork => 1, lasts => 10,
        begin => sub { $_[0]{redis}->pause }, end => sub { $_[0]{redis}->resume },
    },
    'SIGKILL and restart' => {
        prefork => 1, forgets => 1,
        begin => sub { $_[0]{redis}->kill9 }, end => sub { $_[0]{redis}->restart },
    },
    'SCRIPT FLUSH' => {
        answers => 'all', often => 1, prefork => 1,
        begin => sub { $_[0]->_redis(qw(SCRIPT FLUSH)) }, end => sub { },
    },
    'CLIENT PAUSE' => {
        answers => 'some',
        begin => sub { $_[0]->_redis(qw(CLIENT PAUSE 2000)) }, end => \&_wait_for_answer,
    },
    'DEBUG SLEEP' => {
        answers => 'some', conf => ['enable-debug-command yes'],
        begin => sub { $_[0]{redis}->tell(qw(DEBUG SLEEP 2)) }, end => \&_wait_for_answer,
    },
    'a script that never ends' => {
        says  => "busy with another client's script",
        conf  => ['lua-time-limit 1'],
        begin => sub { $_[0]{redis}->tell('EVAL', 'while true do end', 0) },
        end   => sub { $_[0]->_redis(qw(SCRIPT KILL)); _wait_for_answer($_[0]) },
    },
    'maxmemory' => {
        says  => 'memory is full: raise maxmemory',
        begin => sub { $_[0]->_config(maxmemory => 1) },
        end   => sub { $_[0]->_config(maxmemory => 0) },
    },
    'READONLY: a replica' => {
        says  => 'replica that takes no writes',
        begin => sub { $_[0]->_redis('REPLICAOF', '127.0.0.1', Ports::free()) },
        end   => sub { $_[0]->_redis(qw(REPLICAOF NO ONE)) },
    },
    'MASTERDOWN: a replica without its primary' => {
        says  => 'replica that has lost its primary',
        conf  => ['replica-serve-stale-data no'],
        begin => sub { $_[0]->_redis('REPLICAOF', '127.0.0.1', Ports::free()) },
        end   => sub { $_[0]->_redis(qw(REPLICAOF NO ONE)) },
    },
    'NOREPLICAS: too few replicas' => {
        says  => 'too few good replicas',
        begin => sub { $_[0]->_config('min-replicas-to-write' => 1) },
        end   => sub { $_[0]->_config('min-replicas-to-write' => 0) },
    },
    'NOAUTH: no password' => {
        says  => 'wants a password: see RateLimitRedisAuth',
        begin => sub { $_[0]->_password('another') }, end => sub { $_[0]->_password('') },
    },
    'WRONGPASS: the wrong password' => {
        says  => 'does not accept the user or the password', password => 'right',
        begin => sub { $_[0]->_password('wrong') }, end => sub { $_[0]->_password('right') },
    },
    'NOPERM: an ACL forbids the script' => {
        says  => 'its user may not run what is needed',
        begin => sub { $_[0]->_redis(qw(ACL SETUSER default -evalsha)) },
        end   => sub { $_[0]->_redis(qw(ACL SETUSER default +evalsha)) },
    },
    'LOADING' => {
        answers => 'some',
        conf  => ['enable-debug-command yes', 'key-load-delay 2000',
            'loading-process-events-interval-bytes 1024', 'rdbcompression no'],
        begin => \&_reload, end => \&_wait_for_answer,
    },
    'too many clients' => {
        says  => 'no room for more clients: raise maxclients',
        begin => sub {
            $_[0]->_config(maxclients => 1);
            $_[0]->_redis(qw(CLIENT KILL TYPE normal SKIPME yes));
        },
        end => sub { $_[0]->_config(maxclients => 1000) },
    },
    'replies by the byte'        => { mode => 'drip', prefork => 1 },
    'replies cut in the middle'  => { mode => 'cut', prefork => 1 },
    'garbage'                    => { mode => 'garbage', prefork => 1 },
    'a huge bulk'                => { mode => 'huge', prefork => 1 },
    'late replies'               => { mode => 'late', prefork => 1 },
    'reset in the middle of a pipeline' => { mode => 'reset', prefork => 1 },
    'a name that stops resolving' => {
        named => 1, prefork => 1, forgets => 1,
        begin => sub { $_[0]->_move(undef); $_[0]{redis}->kill9 },
        end   => sub { $_[0]{redis}->restart_at('127.0.0.2'); $_[0]->_move('127.0.0.2') },
    },
    'a name whose resolver hangs' => {
        named => 1, prefork => 1, forgets => 1,
        begin => sub { $_[0]->_move('hangs'); $_[0]{redis}->kill9 },
        end   => sub { $_[0]{redis}->restart; $_[0]->_move('127.0.0.1') },
    },
);
my %row = @table;

sub names { return map { $table[2 * $_] } 0 .. $#table / 2 }
sub row   { return $row{ $_[0] } }

sub new {
    my ($class, $name) = @_;
    my $self = bless {
        answers => 'none', conf => [], begin => \&_turn, end => \&_turn_back,
        %{ $row{$name} || die "no fault is called $name\n" }, name => $name,
    }, $class;
    $self->{skip} = $self->{named} ? _no_names() : undef;
    return $self if $self->{skip};
    $self->{redis} = RedisServer->start(conf => $self->{conf}, auth => $self->{password});
    $self->_start_relay if $self->{mode};
    $self->_start_names if $self->{named};
    return $self;
}

sub redis { $_[0]{redis} }

sub url {
    my ($self) = @_;
    return $self->{relay}->url if $self->{relay};
    return 'redis://' . ($self->{named} ? 'redis.test' : '127.0.0.1') . ':' . $self->{redis}->port;
}

# Options of Httpd->start for a host on which redis.test resolves to these addresses, in
# this order; none where that is not possible.
sub named {
    my ($class, @addresses) = @_;
    return if _no_names();
    my $dir = _name_files();
    _write("$dir/hosts", join '', map { "$_ redis.test\n" } @addresses);
    return (wrapper => [_in_namespace($dir)], single => 0);
}

# Directives the httpd needs beside the URL.
sub config {
    my ($self) = @_;
    return "RateLimitRedisTimeout 10s connect=10s\n" if $self->{answers} eq 'all'; # nothing is to be late
    return '' unless $self->{password};
    my $file = Process::tempdir('secret') . '/password';
    _write($file, "$self->{password}\n");
    return "RateLimitRedisAuth file:$file\n";
}

# Options of Httpd->start that the fault needs.
sub host_options {
    my ($self) = @_;
    return $self->{named} ? (wrapper => $self->{wrapper}, single => 0) : ();
}

sub begin { my ($self) = @_; $self->{begin}->($self) }
sub end   { my ($self) = @_; $self->{end}->($self) }

# --- A real Redis --------------------------------------------------------------

sub _redis  { my ($self, @words) = @_; return $self->{redis}->cmd(@words) }
sub _config { my ($self, $name, $value) = @_; return $self->_redis('CONFIG', 'SET', $name, $value) }

sub _wait_for_answer {
    my ($self) = @_;
    Process::wait_until(sub { eval { $self->_redis(qw(DBSIZE)); 1 } }, what => 'Redis to answer',
        within => 30);
}

# Open connections stay authenticated, so they are closed.
sub _password {
    my ($self, $password) = @_;
    $self->_config(requirepass => $password);
    $self->_redis(qw(CLIENT KILL TYPE normal SKIPME yes));
}

# Makes Redis load 1,000 keys; key-load-delay makes each take 2 ms.
sub _reload {
    my ($self) = @_;
    $self->_redis('EVAL', 'for i = 1, 1000 do redis.call("SET", "k" .. i, ("v"):rep(100)) end', 0);
    $self->{redis}->tell(qw(DEBUG RELOAD));
}

# Fills the listen queue: the kernel drops further connection attempts.
sub _fill_backlog {
    my ($self) = @_;
    my $port = $self->{redis}->port;
    $self->{redis}->kill9;
    my $listener = IO::Socket::INET->new(LocalAddr => '127.0.0.1', LocalPort => $port,
        Listen => 1, ReuseAddr => 1) or die "listen: $!\n";
    $self->{queue} = [$listener, map {
        IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $port, Blocking => 0)
    } 1 .. 8];
}

sub _free_backlog {
    my ($self) = @_;
    delete $self->{queue};
    $self->{redis}->restart;
}

# --- A relay -------------------------------------------------------------------

sub _start_relay {
    my ($self) = @_;
    $self->{sign} = Process::tempdir('relay') . '/hostile';
    my ($port, $sign, $mode) = ($self->{redis}->port, $self->{sign}, $self->{mode});
    $self->{relay} = FakeRedis->start(sub { _relay($_[0], $port, $mode, $sign) });
}

sub _turn {
    my ($self) = @_;
    open my $out, '>', $self->{sign} or die "$self->{sign}: $!\n";
}

sub _turn_back { my ($self) = @_; unlink $self->{sign} }

# Passes bytes from Redis on, in the manner of a mode; false ends the connection.
my %mode = (
    drip    => sub { my ($conn, $bytes) = @_; return $conn->drip($bytes, 0.05) },
    cut     => sub { my ($conn, $bytes) = @_; $conn->send(substr $bytes, 0, 9); return 0 },
    garbage => sub { my ($conn) = @_; return $conn->send("\0\xff\r\n?!\r\n") },
    late    => sub { my ($conn, $bytes) = @_; sleep 1.2; return $conn->send($bytes) },
    huge    => sub {
        my ($conn) = @_;
        $conn->send("\$500000000\r\n");
        1 while $conn->send('x' x 65_536);
        return 0;
    },
    reset   => sub {
        my ($conn, $bytes) = @_;
        $conn->send(substr $bytes, 0, length($bytes) - 1);
        setsockopt $conn->socket, SOL_SOCKET, SO_LINGER, pack 'ii', 1, 0;
        return 0;
    },
);

# Relays one connection. While the file $sign exists, replies pass through $mode{$mode}.
sub _relay {
    my ($conn, $port, $mode, $sign) = @_;
    my $client = $conn->socket;
    my $redis = IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $port) or return;
    my $select = IO::Select->new($client, $redis);
    while (1) {
        for my $ready ($select->can_read) {
            sysread($ready, my $bytes, 65_536) or return;
            if    ($ready == $client) { syswrite($redis, $bytes) or return }
            elsif (-e $sign)          { $mode{$mode}->($conn, $bytes) or return }
            else                      { $conn->send($bytes) or return }
        }
    }
}

# --- Names ---------------------------------------------------------------------

# A mount namespace with its own /etc/hosts, resolv.conf and nsswitch.conf. The only DNS
# server in it is a loopback address at which nothing ever answers, a different one for each
# test process.
my $dns = sprintf '127.83.%d.%d', unpack 'CC', pack 'n', Ports::free();
my @namespace = ('unshare', '--mount', '--propagation', 'private', 'sh', '-c', <<'EOT');
cd "$0" || exit 1
for file in hosts resolv.conf nsswitch.conf; do
    mount --bind "$file" "$(readlink -f "/etc/$file")" || exit 1
done
exec "$@"
EOT

sub _no_names {
    my $dir = _name_files();
    return 'no mount namespace here' if system("@namespace[0 .. 3] true 2>/dev/null");
    return 'names cannot be replaced here' if system { $namespace[0] } _in_namespace($dir, 'true');
    return undef;
}

sub _in_namespace {
    my ($dir, @command) = @_;
    return (@namespace, $dir, @command);
}

sub _name_files {
    my $dir = Process::tempdir('names');
    _write("$dir/hosts", '');
    _write("$dir/resolv.conf", "nameserver $dns\noptions timeout:5 attempts:2\n");
    _write("$dir/nsswitch.conf", "hosts: files\n");
    return $dir;
}

# Rewrites the file in place: a new file of that name would not be the mounted one.
sub _write {
    my ($file, $text) = @_;
    open my $out, -e $file ? '+<' : '>', $file or die "$file: $!\n";
    truncate $out, 0;
    syswrite $out, $text;
}

sub _start_names {
    my ($self) = @_;
    $self->{dir} = _name_files();
    $self->{wrapper} = [_in_namespace($self->{dir})];
    $self->_move('127.0.0.1');
}

# Gives redis.test another address. undef: the name does not resolve; 'hangs': its DNS
# server never answers.
sub _move {
    my ($self, $address) = @_;
    my $hangs = ($address // '') eq 'hangs';
    delete $self->{deaf};
    $self->{deaf} = IO::Socket::INET->new(LocalAddr => $dns, LocalPort => 53, Proto => 'udp')
        || die "port 53: $!\n" if $hangs;
    _write("$self->{dir}/nsswitch.conf", $hangs ? "hosts: files dns\n" : "hosts: files\n");
    _write("$self->{dir}/hosts", $address && !$hangs ? "$address redis.test\n" : '');
}

1;
