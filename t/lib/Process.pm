# SPDX-License-Identifier: Apache-2.0
package Process;

# Starts processes for a test and makes sure that none outlives it.
#
#   my $pid = Process::spawn(command => [...], log => $file, name => 'redis');
#   Process::wait_until(sub { ... }, what => 'the server answers');
#   Process::stop($pid);
#
# Every process spawned here ends with the test, whether the test returns, dies, is
# stopped by INT, TERM, HUP or its watchdog, or is killed: then the kernel sends the
# parent-death signal. Each spawned process leads its own process group, so a server's
# children end with it. Only processes started here are signalled, by pid. A forked
# copy of the test leaves its parent's processes alone.
#
# RL_KEEP=1 keeps the temporary directories. RL_TEST_TIMEOUT sets the watchdog, which
# ends a test after 1200 seconds.

use strict;
use warnings;

use File::Spec ();
use File::Temp ();
use POSIX qw(WNOHANG);
use Time::HiRes qw(sleep time);

use constant PATIENCE => 5;

my %running;       # pid => { owner, name }
my %status;        # pid => wait status of what has ended
my @complaints;    # problems that fail the test although all its checks passed

my $patience = $ENV{RL_TEST_TIMEOUT} || 1200;

$SIG{PIPE} = 'IGNORE';
$SIG{INT}  = sub { exit 130 };
$SIG{TERM} = sub { exit 143 };
$SIG{HUP}  = sub { exit 129 };
$SIG{ALRM} = sub {
    print STDERR "# $0 ran longer than $patience seconds\n";
    exit 1;
};
alarm $patience;

# Makes a directory that servers running as another user can enter. It is removed when
# the test ends.
sub tempdir {
    my ($name) = @_;
    my $dir = File::Temp::tempdir("rl-$name-XXXXXX", TMPDIR => 1, CLEANUP => !$ENV{RL_KEEP});
    chmod 0755, $dir or die "chmod $dir: $!\n";
    return $dir;
}

# A directory in memory for temporary files, or the usual one if there is none in memory.
sub memory_dir { return -d '/dev/shm' && -w _ ? '/dev/shm' : File::Spec->tmpdir }

# Starts command (a list) with its output appended to log; returns the pid. If the test
# is killed, the process gets the signal named by `death` (TERM).
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

# Treats a child forked elsewhere, which must lead its own group, like a spawned process.
sub adopt {
    my ($pid, $name) = @_;
    $running{$pid} = { owner => $$, name => $name };
    delete $status{$pid};
    return $pid;
}

# The wait status of a process spawned here, undef while it runs.
sub ended {
    my ($pid) = @_;
    return $status{$pid} if exists $status{$pid};
    return undef unless waitpid($pid, WNOHANG) == $pid;
    $status{$pid} = $?;
    return $status{$pid};
}

# Waits for a process to end by itself; returns its wait status.
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

# Signals the process and waits `within` seconds for it to end, then kills what is left
# of its group. True if the process ended without being killed.
sub stop {
    my ($pid, %opt) = @_;
    my $mine = $running{$pid};
    return 1 unless $mine && $mine->{owner} == $$;
    if (!defined ended($pid)) {
        kill $opt{signal} || 'TERM', $pid;
        kill CONT => $pid;    # a paused process handles the signal once it continues
    }
    my $went = eval {
        wait_until(sub { defined ended($pid) }, within => $opt{within} || 15, what => '');
    };
    kill KILL => -$pid;       # its remaining children, and itself if it did not end
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

# Polls until the condition is true and returns its value; dies after a multiple of `within` seconds, because the
# machine may be busy. A caller that goes on if it dies gives an empty `what`; for it `within` is exact.
sub wait_until {
    my ($condition, %opt) = @_;
    my $within = ($opt{within} || 20) * ($opt{what} ? PATIENCE : 1);
    my $until  = time + $within;
    while (1) {
        my $value = $condition->();
        return $value if $value;
        die "waited $within s in vain for $opt{what}\n" if time > $until;
        sleep 0.01;
    }
}

# The pids of processes, without zombies, whose parent or whose group is pid.
sub children { my ($pid) = @_; return _living(3, $pid) }
sub group    { my ($pid) = @_; return _living(4, $pid) }

sub _living {
    my ($field, $value) = @_;
    my @found;
    for my $file (glob '/proc/[0-9]*/stat') {
        open my $in, '<', $file or next;
        my $line = <$in> // next;
        # pid (command) state parent group; the command may contain blanks and brackets
        my ($pid, $rest) = $line =~ /^(\d+) \(.*\) (.*)/s or next;
        my @stat = ($pid, undef, split ' ', $rest);
        push @found, $pid if $stat[2] ne 'Z' && $stat[$field] == $value;
    }
    return @found;
}

# Notes problems that fail the test at its end, even if all its checks pass.
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
