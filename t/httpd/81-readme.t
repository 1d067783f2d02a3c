#!/usr/bin/perl
# The README says what is so: each of its examples passes httpd -t, and its tables
# hold every directive and option that works in this version, and no other.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";

use File::Temp qw(tempfile);
use Httpd;
use Test::More;

my $root   = "$FindBin::Bin/../..";
my $readme = slurp("$root/README.md");

# In place of the file of a password.
my ($out, $secret) = tempfile(UNLINK => 1);
print $out "password\n";
close $out or die "$secret: $!\n";

# What the examples use beside the module.
my @modules = qw(status remoteip proxy proxy_http);

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
        slurp("$root/src/config.c") =~ /(?:AP_INIT_\w+|LATER)\("(RateLimit\w*)"/g
    );
    is_deeply [sort(table('Directives'))], $working, 'those that work are in the table';
    is_deeply [sort grep { /^RateLimit/ } words('Not in this version')], $refused,
        'those that do not are in the list';
};

# A good value of each option that takes a special one.
my %value = (
    'key=' => 'ip', 'algorithm=' => 'fixed-window', 'status=' => 429, 'on-failure=' => 'open',
    'sync=' => 'local', 'phase=' => 'access', 'headers=' => 'off', 'delay=' => '1s', 'block=' => '1s',
    'when=' => 'true', 'unless=' => 'true', 'charge-on=' => 401,
);

subtest 'options' => sub {
    my ($known) = rule('no-such-option') =~ /known are (.*)/;
    my ($working, $refused) = ([], []);
    for my $option (sort split /, /, $known) {
        my $said = rule($option . ($option =~ /=$/ ? $value{$option} // 1 : ''));
        my $list = $said =~ /option \Q$option\E is not supported in this version/ ? $refused : $working;
        push @$list, $option;
        like $said, qr/Syntax OK/, "$option is taken" if $list == $working;
    }
    is_deeply [sort(table('Options'))], $working, 'those that work are in the table';
    my %listed = map { $_ => 1 } words('Not in this version');
    is_deeply [grep { !$listed{$_} } @$refused], [], 'those that do not are in the list';
    is_deeply [grep { $listed{$_} } @$working], [], 'and none that does';
};

subtest 'what is refused by value' => sub {
    my @values = grep { /\w=\w/ } words('Not in this version');
    ok @values >= 3, "@values";
    for my $value (@values, map { "algorithm=$_" } qw(token-bucket leaky-bucket)) {
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

sub slurp {
    my ($file) = @_;
    open my $in, '<', $file or die "$file: $!\n";
    local $/;
    return scalar <$in>;
}
