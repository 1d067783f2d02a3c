#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
# Checks the include lines of src: a wing may include only itself and the wings below it, the pure wings no
# header of httpd, and no rooms may include each other in a circle.
#
#   t/lib/wings.pl [DIR]
#
# A room is a header with the C file of the same name. A C file without such a header belongs to the room whose
# header it includes first. Prints every include that breaks a rule, and the counts; exits with 1 if a rule is
# broken.

use strict;
use warnings;

my @wings = qw(core rule shm redis httpd config decide response observe); # from the lowest
my @pure  = @wings[0 .. 3];
my %level = map { $wings[$_] => $_ } 0 .. $#wings;
# Headers that belong to another room.
my %inside = ('shm/local_table' => 'shm/local', 'redis/node_state' => 'redis/node');

# Headers of httpd itself, not of APR.
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
    $room{$path} = $inside{$name // ''} // $name
        // die "$path: has no header of its name and includes no header of src\n";
}

for my $path (@files) {
    my ($wing) = $path =~ m{^src/(\w+)/};
    push @broken, "$path: $wing is not a wing; expected one of: @wings" if !defined $level{$wing};
    for my $header (@{ $includes{$path} }) {
        push @broken, "$path: $wing may not include $header, a header of httpd"
            if $header =~ $of_httpd && grep { $_ eq $wing } @pure;
        my $to = $room{"src/$header"} // next;
        my ($below) = $to =~ m{^(\w+)/};
        push @broken, "$path: $wing may not include $header, which is in a higher wing"
            if $level{$below} > $level{$wing};
        $arrows{ $room{$path} }{$to} = 1 if $to ne $room{$path};
    }
}

# The rooms that can be reached from each room over any number of includes. A room in a circle reaches itself.
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
    push @broken, "these rooms include each other in a circle: @{[join ', ', $room, @with]}";
    $circles++;
}

my %rooms = map { $_ => 1 } values %room;
my $arrows = 0;
$arrows += keys %$_ for values %arrows;
my $upward = grep { /in a higher wing/ } @broken;
print "$_\n" for @broken;
printf "%d wings, %d rooms, %d arrows, %d circles, %d includes upward\n", scalar @wings, scalar keys %rooms,
    $arrows, $circles, $upward;
exit(@broken ? 1 : 0);
