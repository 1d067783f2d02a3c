# SPDX-License-Identifier: Apache-2.0
package Planted;

# A copy of files with one planted fault.
#
#   my $planted = Planted->new;
#   my $copy = $planted->copy([glob 'src/*/*.[ch]'], 'src/shm/local.c', $text, $replacement);
#   ... build from $copy, a directory that is gone when $planted is
#
# Paths are relative to the root of the project, where the test runs, and to the copy. Dies if the file does not
# have the text exactly once.

use strict;
use warnings;

use File::Basename qw(dirname);
use File::Copy ();
use File::Path qw(make_path);
use File::Temp;

sub new { my ($class) = @_; return bless { dir => File::Temp->newdir, copies => 0 }, $class }

sub dir { my ($self) = @_; return "$self->{dir}" }

sub copy {
    my ($self, $paths, $file, $from, $to) = @_;
    my $copy = "$self->{dir}/" . $self->{copies}++;
    for my $path (@$paths) {
        make_path(dirname("$copy/$path"));
        File::Copy::copy($path, "$copy/$path") or die "$path: $!\n";
    }
    my $text = _slurp("$copy/$file");
    my $at = index $text, $from;
    die "$file has not exactly one: $from" if $at < 0 || index($text, $from, $at + 1) >= 0;
    substr $text, $at, length $from, $to;
    open my $out, '>', "$copy/$file" or die "$copy/$file: $!\n";
    print $out $text;
    close $out or die "$copy/$file: $!\n";
    return $copy;
}

sub _slurp {
    my ($path) = @_;
    open my $in, '<', $path or die "$path: $!\n";
    local $/;
    return <$in>;
}

1;
