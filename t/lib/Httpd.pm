# SPDX-License-Identifier: Apache-2.0
package Httpd;

# Starts the distribution's httpd with a configuration written by the test.
#
#   my $httpd = Httpd->start(redis => $redis, config => <<'EOF');
#   RateLimitRedis @REDIS@
#   RateLimit login 3/1m
#   EOF
#   is $httpd->get('/')->status, 200;
#
# When start() returns, the server listens with its configuration in effect. No
# request has been sent to it yet, so nothing has been charged. If httpd does not
# come up, start() dies with httpd's messages. The server ends with the test
# (Process.pm); a crash of a child or a sanitizer's report fails the test.
#
# Most tests count in windows of an hour, a day or a week. So that no window ends during
# a test, start() waits if an hour (UTC) ends within the next `lasts` seconds, unless the
# test has another httpd running. Tests of shorter windows call Windows::time_left.
#
# Options, with their defaults:
#
#   config                text appended to the generated httpd.conf
#   mpm                   RL_MPM, or event
#   module                path: RL_MODULE, or build/mod_ratelimit_redis.so; 0 for none
#   modules               further modules, as [qw(status headers)]; BASE is always loaded
#   children, threads     2 and 25; under prefork 12 children
#   ports                 number of ports to listen on: 1
#   files                 { path below the document root => content }
#   vars                  { NAME => replacement of @NAME@ in config }
#   redis                 a RedisServer, for @REDIS@ and @REDIS_UNIX@ in config
#   log_level             warn; startup notices are always logged
#   env                   { variable => value }
#   lasts                 120 (s)
#   single                runs httpd -X: off
#   wrapper               command in front of httpd, as ['valgrind', '--vgdb=no'];
#                         implies single, unless single => 0
#   patience              seconds to wait for a start or stop: 30, longer under a
#                         wrapper or a sanitizer
#
# config may also hold @PORT@, @PORT2@ ..., @DIR@ (writable by the server) and
# @DOCROOT@; an unknown name dies. The document root holds index.html, page.html,
# login.html, hello.txt, dir/index.html, dir/page.html.
#
# RL_LD_PRELOAD names a library to preload into httpd: a sanitizer's runtime, for a
# sanitized module.

use strict;
use warnings;

use Client;
use Cwd qw(abs_path);
use File::Basename qw(dirname);
use File::Path qw(make_path);
use Ports;
use Process;
use Windows;

use constant BASE => qw(authn_core authz_core authz_host alias dir);

my $root = abs_path(dirname(__FILE__) . '/../..');
$ENV{PATH} .= ':/usr/sbin:/sbin';    # httpd's directory, not in every user's PATH

my %running;                         # by pid

my %pages = (
    'index.html'     => "<p>index\n",
    'page.html'      => "<p>page\n",
    'login.html'     => "<p>login\n",
    'hello.txt'      => "hello\n",
    'dir/index.html' => "<p>dir index\n",
    'dir/page.html'  => "<p>dir page\n",
);

sub start {
    my ($class, %opt) = @_;
    my $self = $class->_prepare(%opt);
    Windows::time_left($self->{lasts}, Windows::HOUR) if !%running;
    $self->{pid} = Process::spawn(
        name    => "httpd in $self->{dir}",
        command => [$self->_command($self->{single} ? '-X' : '-DFOREGROUND')],
        log     => "$self->{dir}/console",
    );
    $running{ $self->{pid} } = 1;
    eval { $self->_wait_for_start(1); 1 } or $self->_give_up($@);
    return $self;
}

# Runs httpd -t with the options of start(); returns (exit code, output).
sub config_test {
    my ($class, %opt) = @_;
    my $self = $class->_prepare(%opt);
    my $pid  = Process::spawn(
        name    => 'httpd -t',
        command => [$self->_command('-t')],
        log     => "$self->{dir}/console",
    );
    my $status = Process::finish($pid);
    return ($status & 127 ? 128 + ($status & 127) : $status >> 8, _slurp("$self->{dir}/console"));
}

sub pid     { $_[0]{pid} }
sub dir     { $_[0]{dir} }
sub docroot { "$_[0]{dir}/htdocs" }

# The first port the server listens on, or the one at that index, from 0.
sub port { my ($self, $index) = @_; return $self->{ports}[$index || 0] }

sub url {
    my ($self, $path) = @_;
    return 'http://127.0.0.1:' . $self->port . ($path // '/');
}

# Send a request with the options of Client.pm; get takes the path as its first argument.
sub request { my ($self, %opt) = @_; return Client->request(port => $self->port, %opt) }
sub get     { my ($self, $path, %opt) = @_; return $self->request(path => $path, %opt) }

# Sends a number of requests in a row; returns their statuses as text: "200 200 429".
sub statuses {
    my ($self, $path, $times, @opt) = @_;
    return join ' ', map { $self->get($path, @opt)->status } 1 .. $times;
}

# Sends a number of requests, 16 at a time; returns what Client->flood does.
sub flood {
    my ($self, $requests, @opt) = @_;
    return Client->flood(targets => [$self->port], connections => 16, requests => $requests,
        path => '/hello.txt', @opt);
}

# Puts a file below the document root, or elsewhere below dir.
sub file {
    my ($self, $path, $content) = @_;
    my $file = $path =~ m{^/} ? $path : $self->docroot . "/$path";
    make_path(dirname($file));
    open my $out, '>', $file or die "$file: $!\n";
    print $out $content;
    close $out or die "$file: $!\n";
    return $file;
}

# The text of a file in dir, such as a log; empty if there is none.
sub text { my ($self, $name) = @_; return _slurp("$self->{dir}/$name") }

# The main error log as text, and its lines that match a pattern.
sub error_log { my ($self) = @_; return $self->text('error.log') }

sub error_log_lines {
    my ($self, $pattern) = @_;
    return grep { $_ =~ $pattern } split /\n/, $self->error_log;
}

# Waits until a line of the error log matches; returns the matching lines.
sub wait_for_log {
    my ($self, $pattern, %opt) = @_;
    Process::wait_until(
        sub { scalar $self->error_log_lines($pattern) },
        what => "$pattern in the error log", %opt
    );
    return $self->error_log_lines($pattern);
}

# The pids of the server's current children.
sub children { my ($self) = @_; return Process::children($self->{pid}) }

# Restarts the server gracefully, with another configuration if one is given. Returns
# when the new generation serves and the old children are gone; with `old => 0`, for
# tests that hold a request open, it does not wait for the old children. `meanwhile`
# is called right after the signal is sent.
sub graceful {
    my ($self, %opt) = @_;
    my @old  = $self->children;
    my $seen = $self->_starts;
    $self->_write_config($opt{config}) if defined $opt{config};
    kill USR1 => $self->{pid};
    $opt{meanwhile}->() if $opt{meanwhile};
    $self->_wait_for_start($seen + 1);
    return if exists $opt{old} && !$opt{old};
    Process::wait_until(
        sub {
            my %now = map { $_ => 1 } $self->children;
            return !grep { $now{$_} } @old;
        },
        within => $self->{patience},
        what   => 'the end of the old generation'
    );
}

# Ends the server; true if it stopped on the signal and did not have to be killed.
sub stop {
    my ($self) = @_;
    my $pid = delete $self->{pid} or return 1;
    delete $running{$pid};
    $self->_settle($pid) unless defined Process::ended($pid);
    my $went = Process::stop($pid, within => $self->{patience});
    Process::complain($self->crashes);
    return $went;
}

# The lines of the logs that report a crash or a sanitizer's finding.
sub crashes {
    my ($self) = @_;
    my $bad = qr/exit signal (?!Killed|Terminated)|\w+Sanitizer:|runtime error:|Assertion.*failed/;
    return grep { $_ =~ $bad } split /\n/, _slurp("$self->{dir}/console") . $self->error_log;
}

sub DESTROY {
    my ($self) = @_;
    return if ${^GLOBAL_PHASE} eq 'DESTRUCT' || $self->{owner} != $$;
    local ($?, $@);
    $self->stop;
}

# Waits up to six seconds until httpd has closed the connections that clients closed,
# and no thread of a child runs. On a stop signal the event MPM aborts the sockets of its
# workers, and may crash in apr_os_sock_get() if a worker closes its socket at the same
# moment: the socket is gone then, but the worker still destroys its pool.
sub _settle {
    my ($self, $pid) = @_;
    my $ports = join '|', map { sprintf '%04X', $_ } @{ $self->{ports} };
    my $closing = sub {    # state 08 is CLOSE_WAIT; index() is fast on the long file a flood leaves
        open my $in, '<', '/proc/net/tcp' or return 0;
        return grep { index($_, ' 08 ') > 0 && /^ *\d+: \w+:(?:$ports) \w+:\w+ 08 / } <$in>;
    };
    my $quiet = 0;    # samples in a row
    my $settled = sub {
        $quiet = $closing->() || _is_any_running(Process::children($pid)) ? 0 : $quiet + 1;
        return $quiet >= 3;
    };
    eval { Process::wait_until($settled, within => 6, what => '') };
}

# Whether a thread of these processes runs, is about to, or is in the kernel for a moment.
sub _is_any_running {
    for my $path (map { glob "/proc/$_/task/*/stat" } @_) {
        open my $in, '<', $path or next;
        return 1 if (<$in> // '') =~ /\) [RD] /;
    }
    return 0;
}

# Makes the object and its files; does not start the server.
sub _prepare {
    my ($class, %opt) = @_;
    my $mpm  = $opt{mpm} || $ENV{RL_MPM} || 'event';
    my $self = bless {
        children => $mpm eq 'prefork' ? 12 : 2,
        threads  => 25,
        lasts    => 120,
        patience => $opt{wrapper} ? 180 : $ENV{RL_LD_PRELOAD} ? 60 : 30,
        module   => $ENV{RL_MODULE} || "$root/build/mod_ratelimit_redis.so",
        %opt,
        mpm    => $mpm,
        single => $opt{single} // $opt{wrapper},
        dir    => Process::tempdir('httpd'),
        ports  => [map { Ports::free() } 1 .. $opt{ports} || 1],
        owner  => $$,
    }, $class;
    $self->{module} = abs_path($self->{module}) || $self->{module} if $self->{module};
    my %files = (%pages, %{ $opt{files} || {} });
    $self->file($_, $files{$_}) for keys %files;
    # logs and sockets are written here as root and as the server's user
    mkdir "$self->{dir}/run";
    chmod 0777, $self->{dir}, "$self->{dir}/run";
    $self->_write_config($opt{config} // '');
    return $self;
}

sub _command {
    my ($self, @arguments) = @_;
    my %env = %{ $self->{env} || {} };
    $env{LD_PRELOAD} = $ENV{RL_LD_PRELOAD} if $ENV{RL_LD_PRELOAD};
    return ((%env ? ('env', map { "$_=$env{$_}" } sort keys %env) : ()),
        @{ $self->{wrapper} || [] }, 'apache2', @arguments, '-f', "$self->{dir}/httpd.conf");
}

# How many times the server has started to serve, counting restarts. This is read from
# the log: a trial request would be charged. Under -X httpd logs no such line, so its
# pid file is looked at, which it writes once it listens.
sub _starts {
    my ($self) = @_;
    return -s "$self->{dir}/httpd.pid" ? 1 : 0 if $self->{single};
    return scalar $self->error_log_lines(qr/resuming normal operations/);
}

sub _wait_for_start {
    my ($self, $times) = @_;
    Process::wait_until(
        sub {
            die "httpd ended\n" if defined Process::ended($self->{pid});
            return $self->_starts >= $times;
        },
        within => $self->{patience},
        what   => 'httpd to serve'
    );
}

sub _give_up {
    my ($self, $why) = @_;
    my @said = split /\n/, _slurp("$self->{dir}/console") . $self->error_log;
    splice @said, 0, @said - 30 if @said > 30;
    $self->stop;
    die join "\n", "httpd did not start: $why", @said, '';
}

sub _write_config {
    my ($self, $config) = @_;
    my $libexec = _libexecdir();
    my %seen;
    my @lines = (
        "ServerRoot $self->{dir}",
        "DefaultRuntimeDir $self->{dir}/run",
        "PidFile $self->{dir}/httpd.pid",
        "ErrorLog $self->{dir}/error.log",
        'ServerName localhost',
        (map { "Listen 127.0.0.1:$_" } @{ $self->{ports} }),
        "LoadModule mpm_$self->{mpm}_module $libexec/mod_mpm_$self->{mpm}.so",
        (map { "LoadModule ${_}_module $libexec/mod_$_.so" }
                grep { !$seen{$_}++ } BASE, @{ $self->{modules} || [] }),
        ($self->{module} ? "LoadModule ratelimit_redis_module $self->{module}" : ()),
        'LogLevel ' . ($self->{log_level} || 'warn') . " mpm_$self->{mpm}:notice",
        ($> == 0 ? ('User www-data', 'Group www-data') : ()),
        $self->_sizes,
        'Timeout 60', 'KeepAliveTimeout 15', 'MaxKeepAliveRequests 0',
        'DocumentRoot ' . $self->docroot,
        '<Directory ' . $self->docroot . '>', 'Require all granted', '</Directory>',
        '<IfModule mime_module>', 'TypesConfig /dev/null', 'AddType text/html .html',
        '</IfModule>',
    );
    $self->file("$self->{dir}/httpd.conf", join("\n", @lines) . "\n" . $self->_fill($config));
}

# A fixed number of children, so none is added or retired while a test counts.
sub _sizes {
    my ($self) = @_;
    my ($children, $threads) = @$self{qw(children threads)};
    my @spare = $self->{mpm} eq 'prefork'
        ? ('MinSpareServers 1', "MaxSpareServers $children")
        : ("ThreadLimit $threads", "ThreadsPerChild $threads", 'MinSpareThreads 1',
           'MaxSpareThreads ' . ($children + 1) * $threads);
    my $workers = $self->{mpm} eq 'prefork' ? $children : $children * $threads;
    return ('ServerLimit ' . 3 * $children, "StartServers $children", @spare,
        "MaxRequestWorkers $workers");
}

sub _fill {
    my ($self, $config) = @_;
    my $ports = $self->{ports};
    my %vars = (
        DIR => $self->{dir}, DOCROOT => $self->docroot,
        PORT => $ports->[0], (map { 'PORT' . ($_ + 1) => $ports->[$_] } 1 .. $#$ports),
        ($self->{redis} ? (REDIS => $self->{redis}->url, REDIS_UNIX => $self->{redis}->unix_url) : ()),
        %{ $self->{vars} || {} },
    );
    $config =~ s/\@([A-Z][A-Z0-9_]*)\@/$vars{$1} \/\/ die "unknown name \@$1\@ in a config\n"/ge;
    return $config . "\n";
}

my $libexecdir;

sub _libexecdir {
    $libexecdir ||= do { my $said = `apxs -q LIBEXECDIR`; chomp $said; $said }
        || die "apxs does not know where httpd's modules are\n";
    return $libexecdir;
}

sub _slurp {
    my ($file) = @_;
    open my $in, '<:raw', $file or return '';
    local $/;
    return scalar(<$in>) // '';
}

1;
