#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
# The module is built with the protections that Debian builds its packages with, so that
# a mistake in it is harder to turn into an attack.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";

use Test::More;

plan skip_all => 'a sanitized module does without' if $ENV{RL_LD_PRELOAD};
plan skip_all => 'no readelf here' if system 'readelf --version >/dev/null 2>&1';

my $module = $ENV{RL_MODULE} || "$FindBin::Bin/../../build/mod_ratelimit_redis.so";
my $said = `readelf -W --dynamic --program-headers --dyn-syms $module`;
is $?, 0, 'the module is an ELF file' or BAIL_OUT($said);

like $said, qr/\bGNU_RELRO\b/, 'what the loader has written is made read-only';
like $said, qr/\bFLAGS\b.*\bBIND_NOW\b/, 'all of it, for all symbols are bound at the start';
like $said, qr/\bGNU_STACK\b.* RW /, 'the stack holds no code';
like $said, qr/\b__stack_chk_fail\b/, 'functions notice that their stack was overwritten';

done_testing;
