# SPDX-License-Identifier: Apache-2.0
package Metrics;

# The metrics page, parsed as strictly as the formats allow.
#
#   my $metrics = Metrics->of($httpd);               # 0.0.4
#   my $open = Metrics->of($httpd, open => 1);       # OpenMetrics
#   is $metrics->value('apache_ratelimit_requests_total', rule => 'login', verdict => 'deny'), 12;
#
# value() sums all samples of that name with these labels. Metrics::CONFIG is the section that serves the
# page. parse() dies if the text breaks a rule of its format: a sample without a family, a family twice or in
# parts, a series twice, a histogram that falls, a counter without _total, a missing end.

use strict;
use warnings;

use constant CONFIG => <<'EOT';
<Location /ratelimit-metrics>
    SetHandler ratelimit-metrics
    RateLimit off
</Location>
EOT

use constant OPEN => 'application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3';

sub of {
    my ($class, $httpd, %opt) = @_;
    my $page = $httpd->get('/ratelimit-metrics', $opt{open} ? (headers => { Accept => OPEN }) : ());
    die 'ratelimit-metrics answers ' . $page->status . "\n" unless $page->status == 200;
    return $class->parse($page->body, $opt{open});
}

sub parse {
    my ($class, $text, $open) = @_;
    my $self = bless { text => $text, open => $open, samples => [], families => {} }, $class;
    die "no newline at the end\n" unless $text =~ /\n\z/;
    die "no # EOF at the end\n" if $open && $text !~ s/^# EOF\n\z//m;
    my $family;
    for my $line (split /\n/, $text, -1) {
        next if $line eq '';
        if ($line =~ /^# (HELP|TYPE|UNIT) (\S+) (.+)/) { $family = $self->_header($family, $1, $2, $3) }
        elsif ($line =~ /^#/)                          { die "not a sample, HELP, TYPE or UNIT: $line\n" }
        else                                           { $self->_sample($family, $line) }
    }
    $self->_check_histograms;
    return $self;
}

sub text     { $_[0]{text} }
sub families { my ($self) = @_; return sort keys %{ $self->{families} } }
sub family   { my ($self, $name) = @_; return $self->{families}{$name} }

# The names of all samples, as queries use them.
sub names {
    my ($self) = @_;
    my %names = map { $_->{name} => 1 } @{ $self->{samples} };
    return sort keys %names;
}

sub value {
    my ($self, $name, %labels) = @_;
    my @found = grep {
        my $sample = $_;
        $sample->{name} eq $name && !grep { ($sample->{labels}{$_} // '') ne $labels{$_} } keys %labels;
    } @{ $self->{samples} };
    die "no sample $name\n" unless @found;
    my $sum = 0;
    $sum += $_->{value} for @found;
    return $sum;
}

# All series and their values.
sub series {
    my ($self) = @_;
    return { map { $_->{series} => $_->{value} } @{ $self->{samples} } };
}

sub _header {
    my ($self, $family, $word, $name, $text) = @_;
    if (!$family || $family->{name} ne $name) {
        die "the family $name is there twice, or in parts\n" if $self->{families}{$name};
        $family = $self->{families}{$name} = { name => $name };
    }
    die "$word of $name is there twice\n" if exists $family->{$word};
    die "$word of $name comes after its samples\n" if $family->{samples};
    $family->{$word} = $text;
    die "not a valid name: $name\n" unless $name =~ /^[a-z_][a-z0-9_]*$/;
    die "the name $name does not end with its unit, $text\n" if $word eq 'UNIT' && $name !~ /_\Q$text\E$/;
    return $family;
}

sub _sample {
    my ($self, $family, $line) = @_;
    my ($name, $labels, $value) = $line =~ /^([a-z_][a-z0-9_]*)(?:\{(.*)\})? (\d+(?:\.\d+)?)$/
        or die "not a valid sample: $line\n";
    my $base = $family->{name} // die "a sample without a family: $line\n";
    my $type = $family->{TYPE} // die "$base has no type\n";
    die "$base has no help\n" unless $family->{HELP};
    my $suffix = $type eq 'histogram' ? '_(?:bucket|sum|count)'
        : $type eq 'counter' && $self->{open} ? '_total' : '';
    die "$name does not belong to $base\n" unless $name =~ /^\Q$base\E$suffix$/;
    die "the counter $name does not end with _total\n" if $type eq 'counter' && $name !~ /_total$/;
    my %labels;
    while (length($labels // '')) {
        $labels =~ s/^([a-z_]+)="((?:[^"\\\n]|\\[\\"n])*)"(?:,(?=.)|$)// or die "not valid labels: $line\n";
        die "the label $1 is there twice: $line\n" if exists $labels{$1};
        $labels{$1} = $2;
    }
    my $series = join ',', $name, map { "$_=$labels{$_}" } sort keys %labels;
    die "the series $series is there twice\n" if $self->{seen}{$series}++;
    $family->{samples}++;
    push @{ $self->{samples} },
        { name => $name, labels => \%labels, value => $value, series => $series };
}

sub _check_histograms {
    my ($self) = @_;
    for my $name (grep { $self->{families}{$_}{TYPE} eq 'histogram' } $self->families) {
        my @buckets = grep { $_->{name} eq "${name}_bucket" } @{ $self->{samples} };
        my ($bound, $value) = (-1, 0);
        for my $bucket (@buckets) {
            my $le = $bucket->{labels}{le} eq '+Inf' ? 9**99 : $bucket->{labels}{le};
            die "the buckets of $name are out of order\n" if $le <= $bound || $bucket->{value} < $value;
            ($bound, $value) = ($le, $bucket->{value});
        }
        die "$name has no bucket +Inf\n" unless @buckets && $bound == 9**99;
        die "the count of $name is not its last bucket\n" unless $self->value("${name}_count") == $value;
    }
}

1;
