#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
# Without Redis a host is a limiter of its own: all its children share one table,
# so the quota passes exactly, whatever serves, and whatever happens to children
# meanwhile.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";

use Httpd;
use Process;
use Status;
use Test::More;
use Time::HiRes qw(sleep time);

# A host with so many children, and a process for each client under prefork.
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
        ok keys %pid > 1, 'from more than one child';
        my $status = Status->of($host);
        is $status->rule('narrow')->{Passed}, 250, 'the status page counts the same';
    };

    subtest "counts outlive a graceful restart under load ($mpm)" => sub {
        my $host   = host($mpm, 'RateLimit one 1000/1h');
        my %before = map { $_ => 1 } $host->children;
        my $seen   = 0;
        my $sum = $host->flood(2000, connections => 64, on_response => sub { kill USR1 => $host->pid if ++$seen == 400 });
        my $passed = $sum->{status}{200};
        is $sum->{status}{broken}, undef, 'no response is broken off';
        cmp_ok $passed, '<=', 1000, 'the quota is not refilled';
        cmp_ok $passed, '>=', 1000 - $sum->{retried}, 'nor does anybody lose a part of it';
        Process::wait_until(sub { !grep { $before{$_} } $host->children },
            what => 'the end of the old children');
        is $host->flood(200, connections => 64)->{status}{429}, 200, 'the new children know that it is used up';
    };

    subtest "children killed at any instruction do no harm ($mpm)" => sub {
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
            - ($sum->{status}{refused} // 0), 'and only requests that died are missing';
        is_deeply [grep { !/^(?:200|429|broken)$/ } keys %{ $sum->{status} }], [], 'nobody got an error';
        is $host->flood(200, connections => 64)->{status}{429}, 200, 'afterwards the limit holds';
        is $host->get('/hello.txt', from => '127.0.0.9')->status, 200, 'and others are served';
    };
}

subtest 'a table of the smallest size limits as exactly' => sub {
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
    is_deeply $sum->{status}, { 200 => $names }, 'clients with ever new names pass elsewhere';
    my $status = Status->of($host);
    cmp_ok $status->{LocalEvictions}, '>', 0, 'and the table had to forget some';
    cmp_ok $status->{LocalEntries}, '<=', $status->{LocalCapacity}, 'being full';
    is $host->flood(100, connections => 64)->{status}{429}, 100, 'but not the client that is denied';
};

done_testing;
