# SPDX-License-Identifier: Apache-2.0
package Examples;

# What the tests of conf/examples share.
#
#   use Examples;
#   Examples::run(
#       'login.conf' => sub { my ($file) = @_; ... Httpd->start(config => "Include $file") },
#   );
#
# Each story starts the file as it stands and sends it what its comments speak of.

use strict;
use warnings;

use Client;
use Cwd qw(abs_path);
use File::Basename qw(basename dirname);
use Process;
use Test::More;

our $CONF = abs_path(dirname(__FILE__) . '/../../conf');

# A busy machine is no reason to count alone: these tests are about the examples.
our $LONG_TIMEOUT = 'RateLimitRedisTimeout 10s connect=10s';

# A subtest for each story, in the order of their names.
sub run {
    my (%stories) = @_;
    for my $name (sort keys %stories) {
        subtest $name => sub { $stories{$name}->("$CONF/examples/$name") };
    }
}

# The examples there are.
sub names { return map { basename($_) } glob "$CONF/examples/*.conf" }

# The statuses of so many requests, as { 200 => 10, 429 => 1 }.
sub statuses {
    my ($httpd, $times, @request) = @_;
    my %seen;
    $seen{ $httpd->request(@request)->status }++ for 1 .. $times;
    return \%seen;
}

# The same of requests sent at once, or nearly: over so many connections.
sub at_once {
    my ($httpd, $times, $connections, @request) = @_;
    my $flood = Client->flood(
        targets => [$httpd->port], requests => $times, connections => $connections, @request
    );
    return $flood->{status};
}

# Sends 16 requests at once to a bucket that lets in at_once of them and then one in
# unit seconds: at least `admits` must pass, those that have to wait included, and no
# more than the bucket drains until the last of them is answered.
sub is_bucket {
    my ($httpd, $name, %opt) = @_;
    my ($at_once, $admits, $unit) = delete @opt{qw(at_once admits unit)};
    my $flood = Client->flood(
        targets => [$httpd->port], requests => 16, connections => 16, %opt
    );
    my $passed = $flood->{status}{200} || 0;
    my $most   = $at_once + int($flood->{seconds} / $unit + 0.1);
    ok $passed >= $admits && $passed <= $most, $name
        or diag "$passed passed in $flood->{seconds} s, not $admits to $most";
    return $flood->{status};
}

sub slurp {
    my ($file) = @_;
    open my $in, '<', $file or die "$file: $!\n";
    local $/;
    return scalar <$in>;
}

1;
