# SPDX-License-Identifier: Apache-2.0
package Pulse;

# Measures how late this machine schedules processes: a process sleeps for 10 ms at a time and notes how much
# longer the longest of these sleeps took.
#
#   my $pulse = Pulse->start;
#   ...                           # what is measured
#   cmp_ok $took_ms, '<', 200 + $pulse->late_ms, 'within 200 ms';
#
# On an idle machine late_ms is 0 to 2. On a busy one it is a lower bound for the time that a process may wait
# for a processor. The process ends with the object.

use strict;
use warnings;

use POSIX ();
use Process;
use Time::HiRes qw(clock_gettime sleep CLOCK_MONOTONIC);

use constant NAP => 0.01;

sub start {
    my ($class) = @_;
    my $self = bless { file => Process::tempdir('pulse') . '/late', owner => $$ }, $class;
    my $pid = fork;
    die "fork: $!\n" unless defined $pid;
    _beat($self->{file}, $self->{owner}) if $pid == 0;
    POSIX::setpgid($pid, $pid);
    $self->{pid} = Process::adopt($pid, 'pulse');
    return $self;
}

# The longest delay since the start, in ms.
sub late_ms {
    my ($self) = @_;
    open my $in, '<', $self->{file} or return 0;
    return scalar(<$in>) // 0;
}

# The sleeping process. Never returns; exits when its parent is gone.
sub _beat {
    my ($file, $parent) = @_;
    POSIX::setpgid(0, 0);
    $SIG{$_} = 'DEFAULT' for qw(INT TERM HUP ALRM);
    open my $out, '>', $file or POSIX::_exit(1);
    my ($latest, $before) = (0, clock_gettime(CLOCK_MONOTONIC));
    while (getppid == $parent) {
        sleep NAP;
        my $now  = clock_gettime(CLOCK_MONOTONIC);
        my $late = int(($now - $before - NAP) * 1000);
        $before = $now;
        next if $late <= $latest;
        $latest = $late;
        sysseek $out, 0, 0;
        syswrite $out, "$late\n";
    }
    POSIX::_exit(0);
}

sub DESTROY {
    my ($self) = @_;
    return if ${^GLOBAL_PHASE} eq 'DESTRUCT' || $self->{owner} != $$;
    local ($?, $@);
    Process::stop($self->{pid}, signal => 'KILL');
}

1;
