# SPDX-License-Identifier: Apache-2.0
package Documents;

# The documents of the project, for tests that compare them with the code.
#
#   my $manual = Documents->read('conf/DIRECTIVES.md');
#   $manual->section('Directives');            # the text under that heading
#   $manual->headings(3, 'Directives');        # the headings of that level under it
#   $manual->examples('apache');               # ([heading, text], ...), of fenced blocks
#   $manual->table('Refused combinations');    # ([cell, ...], ...), of all tables there
#   $manual->anchors;                          # { slug => 1 }, as GitHub makes them
#   $manual->links;                            # the targets of all links
#   $manual->beside('OPERATING.md');           # a target as a path from the root
#   Documents::all()                           # every document
#
# Headings and links in fenced blocks, and links in code, do not count.

use strict;
use warnings;

use Cwd qw(abs_path);
use File::Basename qw(dirname);

our $ROOT = abs_path(dirname(__FILE__) . '/../..');

sub all {
    my @files = grep { -f } map { glob "$ROOT/$_" } qw(*.md conf/*.md src/*.md t/*.md .github/*.md);
    return map { Documents->read(s{^\Q$ROOT\E/}{}r) } @files;
}

sub read {
    my ($class, $path) = @_;
    open my $in, '<', "$ROOT/$path" or die "$path: $!\n";
    local $/;
    return bless { path => $path, text => scalar <$in> }, $class;
}

sub path { $_[0]{path} }
sub text { $_[0]{text} }

# The text with fenced blocks blanked, so that offsets stay the same.
sub _prose {
    my ($self) = @_;
    return $self->{prose} //= $self->{text} =~ s/^(```.*?^```)$/$1 =~ s{[^\n]}{ }gr/gmser;
}

# The headings in order: [level, title, offset of the heading, offset of its text].
sub _headings {
    my ($self) = @_;
    my @found;
    my $prose = $self->_prose;
    push @found, [length $1, $2, $-[0], $+[0]] while $prose =~ /^(#+) (.+)$/mg;
    return @found;
}

# The offsets where the text under a heading begins and ends.
sub _extent {
    my ($self, $title) = @_;
    my ($found, @after);
    for my $heading ($self->_headings) {
        push @after, $heading if $found && $heading->[0] <= $found->[0];
        $found //= $heading if $heading->[1] eq $title;
    }
    die "$self->{path} has no section $title\n" unless $found;
    return ($found->[3], @after ? $after[0][2] : length $self->{text});
}

sub section {
    my ($self, $title) = @_;
    my ($from, $to) = $self->_extent($title);
    return substr $self->{text}, $from, $to - $from;
}

sub headings {
    my ($self, $level, $under) = @_;
    my ($from, $to) = $under ? $self->_extent($under) : (0, length $self->{text});
    my @within = grep { $_->[2] >= $from && $_->[2] < $to } $self->_headings;
    return map { $_->[1] } grep { $_->[0] == $level } @within;
}

# The path of the target of a link, which is relative to the directory of this document.
sub beside {
    my ($self, $link) = @_;
    my @parts = grep { $_ ne '.' } split m{/}, $self->{path};
    pop @parts;
    $_ eq '..' ? pop @parts : push @parts, $_ for grep { $_ ne '.' } split m{/}, $link;
    return join '/', @parts;
}

sub examples {
    my ($self, $language) = @_;
    my @found;
    my @headings = $self->_headings;
    while ($self->{text} =~ /^```\Q$language\E\n(.*?)^```$/msg) {
        my ($at, $text) = ($-[0], $1);
        my ($over) = reverse grep { $_->[2] < $at } @headings;
        push @found, [$over->[1], $text];
    }
    return @found;
}

# A bar in a cell is written \|.
sub table {
    my ($self, $title) = @_;
    my @rows;
    for my $row ($self->section($title) =~ /^\|(.*)\|$/mg) {
        my @cells = map { s/^\s+|\s+$//gr =~ s/\\\|/|/gr } split /(?<!\\)\|/, $row, -1;
        push @rows, \@cells unless $cells[0] =~ /^:?-+:?$/;
    }
    return @rows;
}

sub anchors {
    my ($self) = @_;
    my %anchors;
    for my $heading ($self->_headings) {
        my $slug = slug($heading->[1]);
        $slug .= "-$anchors{$slug}" if $anchors{$slug}++;
        $anchors{$slug} ||= 1;
    }
    return \%anchors;
}

# The anchor of a heading.
sub slug {
    my ($title) = @_;
    $title =~ s/\[([^\]]*)\]\([^)]*\)/$1/g;
    (my $slug = lc $title) =~ s/[^\w\- ]//g;
    return $slug =~ tr/ /-/r;
}

sub links {
    my ($self) = @_;
    my $prose = $self->_prose =~ s/^    .*$//gmr;
    $prose =~ s/`[^`\n]*`/code/g;
    return $prose =~ /\]\(([^)\s]+)\)/g;
}

1;
