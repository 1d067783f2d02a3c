#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
# make demo: the module at work, on real servers.
#
# Starts a Redis and two httpd hosts on free ports of the loopback, sends requests
# through both until the limit they share denies, and shows what a client, an
# operator and Redis see of it; then takes Redis away; then shows the module alone.
# What is promised on the way is checked: the exit status tells. Nothing is left
# running, also after Ctrl-C (lib/Process.pm).

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use Client;
use Httpd;
use Process;
use RedisServer;

use constant { KEY => 's3cret-of-a-customer', QUOTA => 6 };

$| = 1;
my $colours = -t STDOUT && !$ENV{NO_COLOR};
my $broken  = 0;

my $rules = <<'EOC';
<Location "/api">
    RateLimit api-key 6/1m  key=header:X-Api-Key|ip
    RateLimit api-ip  100/1m
    RateLimitHeaders x-ratelimit draft-11
</Location>
EOC

my $status = <<'EOC';
<Location "/server-status">
    SetHandler server-status
    Require local
</Location>
EOC

wait_for_a_fresh_minute();
my $redis  = RedisServer->start;
my $shared = 'RateLimitRedis ' . $redis->url . "\n"
    . "RateLimitRedisTimeout 1s connect=2s\nRateLimitOnFailure local nodes=2\n";
my %host = map { $_ => start_host($shared) } qw(A B);

one_limit();
inside_redis();
for_operators();
without_redis_for_a_while();
alone();
title($broken ? "Not as promised: $broken of the checks above." : 'All as promised.');
exit($broken ? 1 : 0);

# A minute that turns while we watch would make the figures harder to read.
sub wait_for_a_fresh_minute {
    my $left = 60 - time % 60;
    return if $left > 10;
    say_("Waiting $left s for the minute to turn.");
    Process::wait_until(sub { time % 60 < 50 }, what => 'the next minute');
}

sub start_host {
    my ($more) = @_;
    return Httpd->start(
        modules => ['status'],
        files   => { api => "{\"hello\":\"world\"}\n" },
        config  => "RateLimitLog \@DIR\@/ratelimit.log json\n$more$rules$status",
    );
}

sub one_limit {
    title('One limit, two hosts');
    say_('Two httpd and one Redis on this machine, each httpd with these lines:', '');
    shown($shared . $rules);
    say_('', "GET /api with X-Api-Key: @{[KEY]}, to A and B in turn:", '');
    my %seen;
    for my $number (1 .. QUOTA + 2) {
        my $name   = $number % 2 ? 'A' : 'B';
        my $answer = call($host{$name});
        $seen{ $answer->status }++;
        shown(sprintf '%2d  %s  %d %-17s  X-RateLimit-Remaining: %s',
            $number, $name, $answer->status, $answer->reason,
            $answer->header('X-RateLimit-Remaining') // '?');
    }
    promise('six pass, on both hosts together, and no more',
        ($seen{200} || 0) == QUOTA && ($seen{429} || 0) == 2);

    say_('', 'A denial, whole, as host B sends it:', '');
    my $denied = call($host{B});
    shown(sprintf 'HTTP/%s %d %s', $denied->version, $denied->status, $denied->reason);
    shown("$_->[0]: $_->[1]")
        for grep { $_->[0] !~ /^(?:Date|Server|Connection)$/ } @{ $denied->headers };
    say_('');
    shown(folded($denied->body));
    promise('a client hears when to come back: Retry-After, RateLimit, problem+json',
        $denied->header('Retry-After') && $denied->header('RateLimit')
            && $denied->header('Content-Type') eq 'application/problem+json');
    promise('another key passes',
        call($host{B}, headers => { 'X-Api-Key' => 'other' })->status == 200);
}

sub inside_redis {
    title('What Redis holds');
    my @keys = sort @{ $redis->cmd('KEYS', 'rl:*') };
    for my $key (@keys) {
        my ($before, $now) = (unpack 'x6 V V', $redis->cmd('GET', $key));
        shown($key, sprintf('    this window %d, the one before %d, expires in %d s', $now, $before,
                $redis->cmd('PTTL', $key) / 1000));
    }
    promise('a key for each rule and client, and no secret in clear',
        @keys == 3 && !grep { index($_, KEY) >= 0 } @keys);
}

sub for_operators {
    title('What an operator sees');
    for my $name (qw(A B)) {
        say_("Host $name, RateLimitLog:", '');
        open my $log, '<', $host{$name}->dir . '/ratelimit.log' or die "no log: $!\n";
        my @lines = map { chomp; $_ } <$log>;
        shown(folded($_)) for @lines;
        promise('one line for a client that is denied again and again', @lines == 1);
        say_('');
    }
    say_('"redis": Redis was asked. "local": what it last said was enough.', '',
        'Host A, /server-status?auto, in part:', '');
    my $auto = status_of($host{A});
    shown($auto =~ /^(RateLimit(?:\[api-key\](?:Requests|Passed|Denied)|RedisAnswered).*)$/mg);
    promise('its counters tell the same story',
        $auto =~ /^RateLimit\[api-key\]Denied: 1$/m && $auto =~ /^RateLimit\[api-key\]Passed: 3$/m);
}

sub without_redis_for_a_while {
    title('Redis dies');
    $redis->kill9;
    say_('kill -9 of Redis. Another client, without a key:', '');
    my %seen;
    for my $number (1 .. QUOTA + 2) {
        my $name   = $number % 2 ? 'A' : 'B';
        my $answer = call($host{$name}, from => '127.0.0.2', headers => {});
        $seen{$name}{ $answer->status }++;
        shown(sprintf '%2d  %s  %d %-17s  in %.1f ms', $number, $name, $answer->status,
            $answer->reason, 1000 * $answer->elapsed);
    }
    promise('each host goes on alone, with its half of the quota',
        2 == grep { ($_->{200} || 0) == 3 && ($_->{429} || 0) == 1 } values %seen);
    promise('and its status counts that: RateLimit[api-key]Fallback: 4',
        status_of($host{A}) =~ /^RateLimit\[api-key\]Fallback: 4$/m);
}

sub alone {
    title('The same module without Redis');
    my $single = start_host('');
    my @statuses = map { call($single)->status } 1 .. QUOTA + 1;
    say_('A third httpd, with the same rules and no RateLimitRedis:', '');
    shown("@statuses");
    promise('it is a limiter of its own', "@statuses" eq join ' ', (200) x QUOTA, 429);
}

sub call {
    my ($host, %opt) = @_;
    return $host->request(path => '/api', headers => { 'X-Api-Key' => KEY }, %opt);
}

sub status_of { my ($host) = @_; return $host->get('/server-status?auto')->body }

# --- On the screen ---------------------------------------------------------------

sub title { print "\n", paint('1', $_[0]), "\n\n" }
sub say_  { print map { "$_\n" } @_ }
sub shown { print map { "    $_\n" } map { split /\n/ } @_ }

sub promise {
    my ($text, $kept) = @_;
    $broken++ unless $kept;
    print "\n", $kept ? paint('32', "  kept: $text") : paint('31', "  NOT KEPT: $text"), "\n";
}

sub paint { my ($code, $text) = @_; return $colours ? "\e[${code}m$text\e[0m" : $text }

# Long lines, broken between words, or between the members of JSON.
sub folded {
    my ($text) = @_;
    my @lines = '';
    for my $piece ($text =~ /(?:"[^"]*"|[^ ,"]+)+[ ,]*/g) {
        push @lines, '  ' if $lines[-1] =~ /\S/ && length($lines[-1] . $piece) > 92;
        $lines[-1] .= $piece;
    }
    return join "\n", map { s/\s+\z//r } @lines;
}
