#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
# The module is built with the hardening flags of Debian packages, so that a memory error in it is harder
# to exploit.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";

use Test::More;

plan skip_all => 'a module built with sanitizers has no hardening' if $ENV{RL_LD_PRELOAD};
plan skip_all => 'readelf is not installed' if system 'readelf --version >/dev/null 2>&1';

my $module = $ENV{RL_MODULE} || "$FindBin::Bin/../../build/mod_ratelimit_redis.so";
my $said = `readelf -W --dynamic --program-headers --dyn-syms $module`;
is $?, 0, 'the module is an ELF file' or BAIL_OUT($said);

like $said, qr/\bGNU_RELRO\b/, 'relocations are read-only after loading (RELRO)';
like $said, qr/\bFLAGS\b.*\bBIND_NOW\b/, 'all of them, because symbols are bound at start-up (BIND_NOW)';
like $said, qr/\bGNU_STACK\b.* RW /, 'the stack is not executable';
like $said, qr/\b__stack_chk_fail\b/, 'functions check for an overwritten stack (stack protector)';

done_testing;
