# SPDX-License-Identifier: Apache-2.0
package Examples;

# Functions that the tests of conf/examples share.
#
#   use Examples;
#   Examples::run(
#       'login.conf' => sub { my ($file) = @_; ... Httpd->start(config => "Include $file") },
#   );
#
# Each function starts httpd with the unchanged file and tries what its comments say.

use strict;
use warnings;

use Client;
use Cwd qw(abs_path);
use File::Basename qw(basename dirname);
use Process;
use Test::More;

our $CONF = abs_path(dirname(__FILE__) . '/../../conf');

# A busy machine must not make hosts count alone here: these tests are about the examples.
our $LONG_TIMEOUT = 'RateLimitRedisTimeout 10s connect=10s';

# Runs each function in a subtest, in the order of the names.
sub run {
    my (%tests) = @_;
    for my $name (sort keys %tests) {
        subtest $name => sub { $tests{$name}->("$CONF/examples/$name") };
    }
}

# The names of all examples.
sub names { return map { basename($_) } glob "$CONF/examples/*.conf" }

# Sends requests one after the other and counts their statuses: { 200 => 10, 429 => 1 }.
sub statuses {
    my ($httpd, $times, @request) = @_;
    my %seen;
    $seen{ $httpd->request(@request)->status }++ for 1 .. $times;
    return \%seen;
}

# The same for requests over several connections at once.
sub at_once {
    my ($httpd, $times, $connections, @request) = @_;
    my $flood = Client->flood(
        targets => [$httpd->port], requests => $times, connections => $connections, @request
    );
    return $flood->{status};
}

# Sends 16 requests at once to a bucket that admits `at_once` of them and then one every `unit` seconds. At
# least `admits` must pass, including delayed ones, and at most as many as the bucket drains until the last
# response.
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
