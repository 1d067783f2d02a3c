#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
# Without Redis a host counts alone: all its children share one table, so exactly the quota passes under
# every MPM, even if children are replaced or killed meanwhile.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";

use Httpd;
use Process;
use Status;
use Test::More;
use Time::HiRes qw(sleep time);

# A host with several children. Under prefork it has a process for each client.
sub host {
    my ($mpm, $config) = @_;
    my @size = $mpm eq 'prefork' ? (children => 66) : (children => 3, threads => 30);
    return Httpd->start(mpm => $mpm, modules => ['status'], @size, config => "$config\n" . Status::CONFIG);
}

for my $mpm (qw(event worker prefork)) {
    subtest "all children of a host share the limit ($mpm)" => sub {
        my $host = host($mpm, "RateLimit wide 250/1h key=server\nRateLimit narrow 100/1h\n");
        for my $case (['127.0.0.2', 100], ['127.0.0.3', 100], ['127.0.0.4', 50]) {
            my ($address, $passes) = @$case;
            my $sum = $host->flood(2000, connections => 64, from => $address);
            is_deeply $sum->{status}, { 200 => $passes, 429 => 2000 - $passes },
                "exactly $passes pass: all rules admit or none is charged";
        }
        my %pid = map { $_ => 1 } $host->children;
        ok keys %pid > 1, 'more than one child serves';
        my $status = Status->of($host);
        is $status->rule('narrow')->{Passed}, 250, 'the status page counts the same';
    };

    subtest "counts outlive a graceful restart under load ($mpm)" => sub {
        my $host   = host($mpm, 'RateLimit one 1000/1h');
        my %before = map { $_ => 1 } $host->children;
        my $seen   = 0;
        my $sum = $host->flood(2000, connections => 64,
            on_response => sub { kill USR1 => $host->pid if ++$seen == 400 });
        my $passed = $sum->{status}{200};
        is $sum->{status}{broken}, undef, 'no response is broken off';
        cmp_ok $passed, '<=', 1000, 'the quota is not refilled';
        cmp_ok $passed, '>=', 1000 - $sum->{retried}, 'no part of the quota is lost';
        Process::wait_until(sub { !grep { $before{$_} } $host->children },
            what => 'the end of the old children');
        is $host->flood(200, connections => 64)->{status}{429}, 200, 'the new children deny, too';
    };

    subtest "killed children do not change the count ($mpm)" => sub {
        my $host = host($mpm, 'RateLimit one 1000/1h');
        my ($seen, $killed) = (0, 0);
        my $sum = $host->flood(2000, connections => 64, on_response => sub {
            return if ++$seen % 100 || $seen > 900;
            my ($victim) = $host->children or return;
            $killed += kill KILL => $victim;
        });
        my $passed = $sum->{status}{200};
        ok $killed > 3, 'children were killed while requests were admitted';
        cmp_ok $passed, '<=', 1000, 'the quota is not exceeded';
        cmp_ok $passed, '>=', 1000 - $sum->{retried} - ($sum->{status}{broken} // 0)
            - ($sum->{status}{refused} // 0), 'no more of it is lost than requests broke off';
        is_deeply [grep { !/^(?:200|429|broken)$/ } keys %{ $sum->{status} }], [], 'no client got an error';
        is $host->flood(200, connections => 64)->{status}{429}, 200, 'afterwards the client is denied';
        is $host->get('/hello.txt', from => '127.0.0.9')->status, 200, 'another client is served';
    };
}

subtest 'a table of the smallest size is exact' => sub {
    my $host = host('event', <<'EOT');
RateLimitSharedMemory 64K
<Location /hello.txt>
    RateLimit one 100/1h
</Location>
<Location /page.html>
    RateLimit crowd 1000/1h key=header:X-Name
    RateLimit all 1000000/1h key=server
</Location>
EOT
    my $sum = $host->flood(2000, connections => 64);
    is_deeply $sum->{status}, { 200 => 100, 429 => 1900 }, 'exactly the quota passes';
    my $names = 3 * Status->of($host)->{LocalCapacity};
    $sum = $host->flood($names, connections => 64, path => '/page.html', headers => sub { { 'X-Name' => $_[0] } });
    is_deeply $sum->{status}, { 200 => $names }, 'many clients with new names pass elsewhere';
    my $status = Status->of($host);
    cmp_ok $status->{LocalEvictions}, '>', 0, 'the table had to forget some';
    cmp_ok $status->{LocalEntries}, '<=', $status->{LocalCapacity}, 'and is not overfull';
    is $host->flood(100, connections => 64)->{status}{429}, 100, 'the denied client is not forgotten';
};

done_testing;
