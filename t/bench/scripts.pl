#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
# The cost of a decision for Redis, by algorithm. See scripts.c.

use strict;
use warnings;

use FindBin;

my $build = $ENV{RL_BUILD} || "$FindBin::Bin/../../build";
print "Scripts: pipelined calls, as a ratio of an empty script\n";
exec "$build/t/bench/scripts" or die "$build/t/bench/scripts: $!; make bench builds it\n";
