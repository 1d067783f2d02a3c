# SPDX-License-Identifier: Apache-2.0
package Windows;

# Windows of time, for tests that count within one.
#
#   Windows::time_left(60, Windows::HOUR);    # no hour ends within the next minute
#
# Windows begin at whole multiples of their length since 1970, in UTC: an hour at the full hour, a day at
# midnight, a week on Thursday at midnight. A test that would fail if a window ended between two of its
# requests calls time_left before the first, with more time than it needs on a busy machine.

use strict;
use warnings;

use Process;
use Time::HiRes qw(time);

use constant { MINUTE => 60, HOUR => 3600, DAY => 86_400, WEEK => 7 * 86_400 };

# Waits until the current window has so many seconds left.
sub time_left {
    my ($seconds, $window) = @_;
    Process::wait_until(
        sub { ends($window) - time > $seconds },
        within => $seconds + 10, what => "$seconds s left in a window of $window s"
    );
}

# The end of the current window, in seconds since 1970.
sub ends { my ($window) = @_; my $now = int time; return $now - $now % $window + $window }

1;
