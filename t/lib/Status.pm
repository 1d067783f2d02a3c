# SPDX-License-Identifier: Apache-2.0
package Status;

# The numbers of the module in server-status?auto.
#
#   my $status = Status->of($httpd);                 # needs modules => ['status']
#   is $status->rule('login')->{Denied}, 12;         # RateLimit[login]Denied
#   is $status->{RedisBreakerOpen}, 0;               # RateLimitRedisBreakerOpen
#   Status->wait_until($httpd, sub { !$_[0]{RedisBreakerOpen} }, what => '...');
#   Status->wait_for_breaker($httpd);                # sends requests until it is open
#
# Status::CONFIG is the section that serves the page and does not limit it. Dies if a line of the module is not
# `Name: whole number` or is there twice.

use strict;
use warnings;

use Process;

use constant CONFIG => <<'EOT';
<Location /server-status>
    SetHandler server-status
    RateLimit off
</Location>
EOT

sub of {
    my ($class, $httpd) = @_;
    my $page = $httpd->get('/server-status?auto');
    die 'server-status answers ' . $page->status . "\n" unless $page->status == 200;
    return $class->parse($page->body);
}

sub parse {
    my ($class, $text) = @_;
    my $self = bless { rules => {} }, $class;
    for my $line (grep { /^RateLimit/ } split /\n/, $text) {
        my ($rule, $name, $number) = $line =~ /^RateLimit(?:\[([^\]]+)\])?([A-Z][A-Za-z0-9]*): (\d+)$/
            or die "not a name and a number: $line\n";
        my $place = defined $rule ? $self->{rules}{$rule} ||= {} : $self;
        die "twice: $line\n" if exists $place->{$name};
        $place->{$name} = $number;
    }
    return $self;
}

# The row of a rule, and the names of all rules.
sub rule  { my ($self, $name) = @_; return $self->{rules}{$name} }
sub rules { my ($self) = @_; return sort keys %{ $self->{rules} } }

# The number of calls to Redis that failed for any reason.
sub redis_failures {
    my ($self) = @_;
    my $sum = 0;
    $sum += $self->{$_} for grep { /^RedisFailed/ } keys %$self;
    return $sum;
}

sub wait_until {
    my ($class, $httpd, $condition, %opt) = @_;
    my $status;
    Process::wait_until(sub { $condition->($status = $class->of($httpd)) }, %opt);
    return $status;
}

# Sends requests until the breaker is open: those of the function, or for /hello.txt. Returns the status.
sub wait_for_breaker {
    my ($class, $httpd, $request) = @_;
    $request //= sub { $httpd->get('/hello.txt') };
    return $class->wait_until($httpd, sub {
        return 1 if $_[0]{RedisBreakerOpen};
        $request->();
        return 0;
    }, what => 'the breaker to open', within => 30);
}

1;
