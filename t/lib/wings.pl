#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
# Holds the wings of src to their order by their include lines: a wing includes itself and those below
# it, the pure wings include no header of httpd, and no rooms include each other in a circle.
#
#   t/lib/wings.pl [DIR]
#
# A room is a header and the C file of its name; a C file without a header of its name belongs to the
# room whose header it includes first. Prints the counts and each line that breaks a rule; fails if
# there is one.

use strict;
use warnings;

my @wings = qw(core rule shm redis httpd config decide response observe); # from below
my @pure  = @wings[0 .. 3];
my %level = map { $wings[$_] => $_ } 0 .. $#wings;
my %inside = ('shm/local_table' => 'shm/local'); # headers that only their room's C files include

# What apache2-dev installs and APR does not.
my $of_httpd = qr/^(?:ap_|http|mod_|util_|mpm_|scoreboard\.h|unixd\.h)/;

chdir($ARGV[0] // '.') or die "$ARGV[0]: $!\n";
my @files = glob 'src/*/*.[ch]';
my (%includes, %room, %arrows, @broken);
for my $path (@files) {
    open my $in, '<', $path or die "$path: $!\n";
    $includes{$path} = [map { /^\s*#\s*include\s+["<](.*?)[">]/ ? $1 : () } <$in>];
}

for my $path (@files) {
    my ($name) = $path =~ m{^src/(.*)\.[ch]$};
    ($name) = map { m{^(.*/.*)\.h$} ? $1 : () } @{ $includes{$path} } unless -e "src/$name.h";
    $room{$path} = $inside{$name // ''} // $name // die "$path: no header of its name, and it includes none\n";
}

for my $path (@files) {
    my ($wing) = $path =~ m{^src/(\w+)/};
    push @broken, "$path: $wing is no wing; known are @wings" if !defined $level{$wing};
    for my $header (@{ $includes{$path} }) {
        push @broken, "$path: the wing $wing includes no header of httpd, but $header"
            if $header =~ $of_httpd && grep { $_ eq $wing } @pure;
        my $to = $room{"src/$header"} // next;
        my ($below) = $to =~ m{^(\w+)/};
        push @broken, "$path: $wing may not include $header, which is above it"
            if $level{$below} > $level{$wing};
        $arrows{ $room{$path} }{$to} = 1 if $to ne $room{$path};
    }
}

# Rooms from which one comes back to where one began, by the includes of all that can be reached.
my %reached;
for my $from (keys %arrows) {
    my @todo = keys %{ $arrows{$from} };
    while (defined(my $room = pop @todo)) {
        push @todo, keys %{ $arrows{$room} } unless $reached{$from}{$room}++;
    }
}
my %in_circle = map { my $room = $_; $reached{$room}{$room} ? ($room => 1) : () } keys %reached;
my $circles = 0;
for my $room (sort keys %in_circle) {
    next unless delete $in_circle{$room};
    my @with = grep { $reached{$room}{$_} && $reached{$_}{$room} } sort keys %in_circle;
    delete @in_circle{@with};
    push @broken, "a circle: @{[join ', ', $room, @with]}";
    $circles++;
}

my %rooms = map { $_ => 1 } values %room;
my $arrows = 0;
$arrows += keys %$_ for values %arrows;
my $upward = grep { /above it/ } @broken;
print "$_\n" for @broken;
printf "%d wings, %d rooms, %d arrows, %d circles, %d includes upward\n", scalar @wings, scalar keys %rooms,
    $arrows, $circles, $upward;
exit(@broken ? 1 : 0);
