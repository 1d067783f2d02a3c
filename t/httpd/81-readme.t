#!/usr/bin/perl
# The README says what is so: each of its examples passes httpd -t, and its tables
# hold every directive and option that works in this version, and no other.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";

use File::Temp qw(tempfile);
use Examples;
use Httpd;
use Test::More;

my $root   = "$FindBin::Bin/../..";
my $readme = Examples::slurp("$root/README.md");

# In place of the file of a password.
my ($out, $secret) = tempfile(UNLINK => 1);
print $out "password\n";
close $out or die "$secret: $!\n";

# What the examples use beside the module.
my @modules = qw(status remoteip proxy proxy_http headers cache);

subtest 'examples are good configurations' => sub {
    my @examples = $readme =~ /^```apache\n(.*?)^```$/msg;
    ok @examples >= 4, scalar(@examples) . ' examples';
    for my $example (@examples) {
        $example =~ s{file:/etc/\S+}{file:$secret};
        my ($code, $said) = check("Define APACHE_LOG_DIR \@DIR\@\n$example");
        is $code, 0, (split /\n/, $example)[0] or diag $said;
        unlike $said, qr/ratelimit:/, 'without a warning';
    }
};

subtest 'directives' => sub {
    my ($working, $refused) = in_two(
        Examples::slurp("$root/src/config.c") =~ /(?:AP_INIT_\w+|LATER)\("(RateLimit\w*)"/g
    );
    is_deeply [sort(table('Directives'))], $working, 'those that work are in the table';
    is_deeply [sort grep { /^RateLimit/ } words('Not in this version')], $refused,
        'those that do not are in the list';
};

# A good value of each option that takes a special one, with what else it needs.
my %value = (
    'key=' => 'ip', 'algorithm=' => 'fixed-window', 'status=' => 429, 'on-failure=' => 'open',
    'sync=' => 'local', 'phase=' => 'access', 'headers=' => 'off', 'block=' => '1s',
    'delay=' => '1s algorithm=leaky-bucket', 'burst=' => '5 algorithm=token-bucket',
    'when=' => 'true', 'unless=' => 'true', 'charge-on=' => 401, 'path=' => '/a/**',
    'methods=' => 'GET', 'tier=' => '%{ENV:PLAN}',
);

subtest 'options' => sub {
    my ($known) = rule('no-such-option') =~ /known are (.*)/;
    my @known = sort split /, /, $known;
    like rule($_ . (/=$/ ? $value{$_} // 1 : '')), qr/Syntax OK/, "$_ is taken" for @known;
    is_deeply [sort(table('Options'))], \@known, 'all of them are in the table';
};

subtest 'algorithms' => sub {
    my ($known) = rule('algorithm=x') =~ /is none of (.*)/;
    is_deeply [sort(table('Algorithms'))], [sort split /, | and /, $known], 'all are in the table';
};

subtest 'examples that are files' => sub {
    my %linked = map { $_ => 1 } $readme =~ m{\(conf/examples/([\w-]+\.conf)\)}g;
    is_deeply [sort keys %linked], [Examples::names()], 'each is named, and there';
};

subtest 'what is refused by value' => sub {
    for my $value (grep { /\w=\w/ } words('Not in this version')) {
        like rule($value), qr/\Q$value\E is not supported in this version/, $value;
    }
    for my $url (grep { m{://$} } words('Not in this version')) {
        like +(check("RateLimitRedis ${url}127.0.0.1:6379"))[1], qr/not supported in this version/,
            $url;
    }
};

done_testing;

# The names that httpd takes, and those it refuses as not supported in this version.
sub in_two {
    my (@working, @refused);
    for my $name (sort @_) {
        my $refused = (check("$name x"))[1] =~ /\Q$name\E is not supported in this version/;
        push @{ $refused ? \@refused : \@working }, $name;
    }
    return (\@working, \@refused);
}

sub check { return Httpd->config_test(modules => \@modules, config => $_[0]) }
sub rule  { return (check("RateLimit x 10/1m $_[0]"))[1] }

# The text under a heading, up to the next one.
sub section {
    my ($title) = @_;
    my ($text) = $readme =~ /^#+ \Q$title\E\n(.*?)(?=^#|\z)/ms or die "no section $title\n";
    return $text;
}

# The first word of each row of the table there.
sub table { return section($_[0]) =~ /^\| `([\w-]+=?)/mg }

# All that stands there as code.
sub words { return map { split ' ' } section($_[0]) =~ /`([^`]+)`/g }
