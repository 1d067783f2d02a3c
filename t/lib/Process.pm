# SPDX-License-Identifier: Apache-2.0
package Process;

# Processes that a test starts, and their end.
#
#   my $pid = Process::spawn(command => [...], log => $file, name => 'redis');
#   Process::wait_until(sub { ... }, what => 'the server answers');
#   Process::stop($pid);
#
# Promises: whatever was spawned here is gone when the test ends, however it
# ends: in order, by die, by INT, TERM or HUP, by its own watchdog, and by KILL
# (then the kernel sends the parent-death signal). Each spawned process leads a
# process group of its own, so a server's children go with it. Only processes
# started here are signalled, by pid. A forked copy of the test never cleans up
# for its parent.
#
# RL_KEEP=1 keeps the temporary directories; RL_TEST_TIMEOUT is the watchdog's
# patience in seconds.

use strict;
use warnings;

use File::Spec ();
use File::Temp ();
use POSIX qw(WNOHANG);
use Time::HiRes qw(sleep time);

my %running;       # pid => { owner, name }
my %status;        # pid => wait status of what has ended
my @complaints;    # what must fail the test although no check saw it

my $patience = $ENV{RL_TEST_TIMEOUT} || 600;

$SIG{PIPE} = 'IGNORE';
$SIG{INT}  = sub { exit 130 };
$SIG{TERM} = sub { exit 143 };
$SIG{HUP}  = sub { exit 129 };
$SIG{ALRM} = sub {
    print STDERR "# $0 ran longer than $patience seconds\n";
    exit 1;
};
alarm $patience;

# A directory that servers running as another user can enter; it is removed
# when the test ends.
sub tempdir {
    my ($name) = @_;
    my $dir = File::Temp::tempdir("rl-$name-XXXXXX", TMPDIR => 1, CLEANUP => !$ENV{RL_KEEP});
    chmod 0755, $dir or die "chmod $dir: $!\n";
    return $dir;
}

# Where directories for temporary files lie in memory, or else where they lie anyway.
sub memory_dir { return -d '/dev/shm' && -w _ ? '/dev/shm' : File::Spec->tmpdir }

# Starts command (a list), its output appended to log; returns the pid.
# death: the signal it gets should the test be killed, TERM by default.
sub spawn {
    my (%opt) = @_;
    my @command = ('setpriv', '--pdeathsig', $opt{death} || 'TERM', '--', @{ $opt{command} });
    my $pid = fork;
    die "fork: $!\n" unless defined $pid;
    _become(\@command, $opt{log} || '/dev/null') if $pid == 0;
    POSIX::setpgid($pid, $pid);
    return adopt($pid, $opt{name} || $opt{command}[0]);
}

sub _become {
    my ($command, $log) = @_;
    POSIX::setpgid(0, 0);
    $SIG{$_} = 'DEFAULT' for qw(PIPE INT TERM HUP ALRM);
    open STDIN,  '<',  '/dev/null';
    open STDOUT, '>>', $log;
    open STDERR, '>&', \*STDOUT;
    { no warnings 'exec'; exec { $command->[0] } @$command }
    print STDERR "cannot run $command->[0]: $!\n";
    POSIX::_exit(127);
}

# Takes a forked child that leads its own group under the same care.
sub adopt {
    my ($pid, $name) = @_;
    $running{$pid} = { owner => $$, name => $name };
    delete $status{$pid};
    return $pid;
}

# The wait status of a process spawned here if it has ended, undef otherwise.
sub ended {
    my ($pid) = @_;
    return $status{$pid} if exists $status{$pid};
    return undef unless waitpid($pid, WNOHANG) == $pid;
    $status{$pid} = $?;
    return $status{$pid};
}

# Waits for the end of a process that ends by itself; its wait status.
sub finish {
    my ($pid, %opt) = @_;
    wait_until(
        sub { defined ended($pid) },
        within => $opt{within} || 60,
        what   => "the end of $running{$pid}{name}"
    );
    _sweep($pid);
    return $status{$pid};
}

# Signals the process, waits, kills its whole group after `within` seconds.
# Returns true if it went without being killed.
sub stop {
    my ($pid, %opt) = @_;
    my $mine = $running{$pid};
    return 1 unless $mine && $mine->{owner} == $$;
    if (!defined ended($pid)) {
        kill $opt{signal} || 'TERM', $pid;
        kill CONT => $pid;    # a paused process hears nothing else
    }
    my $went = eval {
        wait_until(sub { defined ended($pid) }, within => $opt{within} || 15, what => '');
    };
    kill KILL => -$pid;       # children that outlived it, or all of them
    eval { wait_until(sub { defined ended($pid) }, within => 10, what => '') };
    _sweep($pid);
    return $went ? 1 : 0;
}

sub _sweep {
    my ($pid) = @_;
    kill KILL => -$pid;
    eval { wait_until(sub { !group($pid) }, within => 10, what => '') };
    delete $running{$pid};
}

# Polls until the condition is true and returns its value; dies after `within`.
sub wait_until {
    my ($condition, %opt) = @_;
    my $within = $opt{within} || 20;
    my $until  = time + $within;
    while (1) {
        my $value = $condition->();
        return $value if $value;
        die "waited $within s in vain for $opt{what}\n" if time > $until;
        sleep 0.01;
    }
}

# Living processes (zombies are not) whose parent, or whose group, is pid.
sub children { my ($pid) = @_; return _living(3, $pid) }
sub group    { my ($pid) = @_; return _living(4, $pid) }

sub _living {
    my ($field, $value) = @_;
    my @found;
    for my $file (glob '/proc/[0-9]*/stat') {
        open my $in, '<', $file or next;
        my $line = <$in> // next;
        # pid (command) state parent group: the command may hold anything
        my ($pid, $rest) = $line =~ /^(\d+) \(.*\) (.*)/s or next;
        my @stat = ($pid, undef, split ' ', $rest);
        push @found, $pid if $stat[2] ne 'Z' && $stat[$field] == $value;
    }
    return @found;
}

# Makes the test fail at its end whatever its checks said.
sub complain { push @complaints, @_ }

END {
    my $code = $?;
    for my $pid (sort { $b <=> $a } keys %running) {
        stop($pid, within => 10) if $running{$pid}{owner} == $$;
    }
    if (@complaints) {
        print STDERR map { "# $_\n" } @complaints;
        $code ||= 1;
    }
    $? = $code;
}

1;
