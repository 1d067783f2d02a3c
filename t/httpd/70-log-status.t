#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
# The error log has a line for the first denial of a client and then a count of further ones. The status page
# has the same numbers for each rule as the clients.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";

use Digest::SHA qw(sha256_hex);
use Httpd;
use Process;
use RedisServer;
use Status;
use Test::More;
use Time::HiRes qw(sleep time);

my $redis  = RedisServer->start;
my $shared = "RateLimitRedis \@REDIS\@\nRateLimitRedisTimeout 10s connect=10s\n";

sub host {
    my ($config, %opt) = @_;
    return Httpd->start(redis => $redis, modules => ['status'], %opt,
        config => "$config\n" . Status::CONFIG);
}

# The lines about denials, as hashes of their fields.
sub denials {
    my ($host) = @_;
    return map { { line => $_, map { split /=/, $_, 2 } /(?<= )([a-z-]+=\S*)/g } }
        $host->error_log_lines(qr/ratelimit: (?:denied|would deny)/);
}

subtest 'a denial is logged with client, rule and reason' => sub {
    my ($host, $other) = map { host($_) } (<<'EOT' . $shared) x 2;
<Location /hello.txt>
    RateLimit one 2/1h
</Location>
<Location /page.html>
    RateLimit quiet 1/1m algorithm=fixed-window shadow sync=local key=path
</Location>
EOT
    $host->get('/hello.txt?secret=1', from => '127.0.0.2') for 1 .. 2;
    is scalar(denials($host)), 0, 'requests that pass are not logged';
    my $denied = $host->get('/hello.txt?secret=1', from => '127.0.0.2', method => 'HEAD');
    is $denied->status, 429, 'the third is denied';
    my ($said, @more) = denials($host);
    is scalar(@more), 0, 'one denial is one line';
    like $said->{line}, qr/\[ratelimit_redis:warn\].*\[client 127\.0\.0\.2:\d+\].* ratelimit: denied /,
        'the line is a warning of the module, with the client';
    is_deeply { map { $_ => $said->{$_} } qw(rule limit algorithm identity source denials method path) },
        { rule => 'one', limit => '2/1h', algorithm => 'sliding-window', identity => 'ip:127.0.0.2',
          source => 'local', denials => 1, method => 'HEAD', path => '/hello.txt' },
        'its fields are right; the source is local, as the reply to the second request left nothing';
    my ($wait) = $said->{'retry-after'} =~ /^(\d+)ms$/;
    is int(($wait + 999) / 1000), $denied->header('Retry-After'), 'the line has the same wait as Retry-After';

    is $other->get('/hello.txt', from => '127.0.0.2')->status, 429, 'another host denies, too';
    is((denials($other))[0]{source}, 'redis', 'by the decision of Redis');

    is $host->get('/page.html')->status, 200, 'a shadow rule denies nothing' for 1 .. 2;
    (undef, $said) = denials($host);
    like $said->{line}, qr/would deny \(shadow\) rule=quiet limit=1\/1m algorithm=fixed-window/,
        'a denial that it would have made is logged';
    is $said->{identity}, 'path:/page.html', 'with the key that it counts';
    is $said->{source}, 'local', 'decided by this host';
};

subtest 'a flood of denials is not a flood of lines' => sub {
    my $host = host('RateLimit one 5/1h');
    my $start = time;
    is $host->flood(1005)->{status}{429}, 1000, '1,000 requests are denied';
    my @lines = denials($host);
    my $total = 1000;
    if (time - $start < 9) {
        is scalar(@lines), 1, 'one line is logged';
        is $lines[0]{denials}, 1, 'for the first denial';
    }
    is $host->flood(10, from => '127.0.0.2')->{status}{429}, 5, 'another client is denied';
    is scalar(grep { $_->{identity} eq 'ip:127.0.0.2' } denials($host)), 1, 'and logged in another line';
    my @mine;
    Process::wait_until(sub {
        @mine = grep { $_->{identity} eq 'ip:127.0.0.1' } denials($host);
        return 1 if @mine > 1;
        $total++ if $host->get('/hello.txt')->status == 429;
        sleep 0.1;
        return 0;
    }, what => 'the second line', within => 20);
    is scalar(@mine), 2, 'a second line follows later';
    # one more denial may have come while the line was written
    is $mine[0]{denials} + $mine[1]{denials} + ($total - $mine[0]{denials} - $mine[1]{denials} == 1),
        $total, 'with the number of denials since the first';
};

subtest 'a client that was never admitted is logged once, too' => sub {
    my $host = host("RateLimit one 1000/1h\nRateLimit nope 0/1h");
    my $start = time;
    is $host->get('/hello.txt')->status, 429, 'a request is denied' for 1 .. 20;
    my @lines = denials($host);
    is_deeply [map { "$_->{rule} $_->{denials}" } @lines], ['nope 1'], 'one line is logged'
        if time - $start < 9;
};

subtest 'no path that a client sends breaks a line' => sub {
    my $host = host("RateLimit one 0/1h key=path\nRateLimit two 0/1h key=ip");
    my @paths = ('/a%0Ab', '/a%0D%0A[Mon%20Jan]%20fake', '/a%22b', '/a%1B[31m', '/a%7F%80%FF', "/a\\b");
    for my $path (@paths) {
        is $host->get($path)->status, 429, "$path is denied";
    }
    my @lines = split /\n/, $host->error_log;
    is scalar(grep { !/^\[\w+ \w+ +\d+ [\d:.]+ \d+\] \[/ } @lines), 0, 'every line begins with a timestamp';
    is scalar(grep { /[^\x20-\x7e]/ } @lines), 0, 'every byte is printable ASCII';
    is scalar(grep { /^\[Mon Jan\]/ } @lines), 0, 'no line is forged';
    like $host->error_log, qr/path=\/a\\nb$/m, 'other bytes are escaped';
    my @identities = map { $_->{identity} } grep { $_->{rule} eq 'one' } denials($host);
    is scalar(grep { !/^(?:path:[\x21\x23-\x7e]+|[0-9a-f]{32})$/ } @identities), 0,
        'identities are plain text or a digest';
};

subtest 'no secret is in the log, in Redis or on the status page' => sub {
    my $host = host(<<'EOT' . $shared);
RateLimit all 100000/1h
<Location /hello.txt>
    RateLimit key 0/1h key=header:X-Api-Key
</Location>
<Location /page.html>
    RateLimit session 0/1h key=cookie:sid+ip
</Location>
EOT
    my %headers = ('X-Api-Key' => 'sekrit-1', Cookie => 'sid=sekrit-2', Authorization => 'Basic sekrit3');
    is $host->get($_, headers => \%headers)->status, 429, "$_ is denied" for qw(/hello.txt /page.html);
    unlike $host->error_log, qr/sekrit/, 'no secret is in the log';
    my ($key, $session) = denials($host);
    is $key->{identity}, substr(sha256_hex('header:x-api-key:sekrit-1'), 0, 32),
        'a header is shown as a digest that an operator can compute';
    is $session->{identity}, substr(sha256_hex('cookie:sid:sekrit-2'), 0, 32) . '+ip:127.0.0.1',
        'a cookie as well';
    is_deeply [grep { /sekrit/ } @{ $redis->cmd('KEYS', '*') }], [], 'no secret is in a key of Redis';
    my $page = $host->get('/server-status');
    unlike $page->body, qr/sekrit/, 'no secret is on the status page';
};

subtest 'the status page has the numbers that clients count' => sub {
    my $host = host(<<'EOT' . $shared);
<Location /hello.txt>
    RateLimit one 100/1h
</Location>
<Location /page.html>
    RateLimit two 30/1h sync=local
    RateLimit three 10/1h sync=local shadow
</Location>
EOT
    my $at_start = Status->of($host);
    is_deeply [$at_start->rules], [qw(one three two)], 'each rule has a row';
    is $at_start->{Requests}, 0, 'all counters are 0 at the start';
    is_deeply $host->flood(500, from => '127.0.0.3')->{status}, { 200 => 100, 429 => 400 },
        'the quota of one is used up';
    is_deeply $host->flood(200, path => '/page.html')->{status}, { 200 => 30, 429 => 170 },
        'the quota of two is used up';
    my $status = Status->of($host);
    my ($one, $two, $three) = map { $status->rule($_) } qw(one two three);
    is_deeply [@$one{qw(Requests Passed Denied Shadowed)}], [500, 100, 400, 0], 'the row of one is right';
    is_deeply [@$two{qw(Requests Passed Denied Shadowed)}], [200, 30, 170, 0], 'the row of two is right';
    is $three->{Requests}, 200, 'the row of the shadow rule has all requests';
    is $three->{Shadowed}, 190, 'and those that it would have denied';
    is $one->{Asked} + $one->{FromMemory}, 500, 'Redis or memory decided every request under one';
    cmp_ok $one->{FromMemory}, '>', 0, 'some of them from memory';
    is $one->{Asked}, $status->{RedisAnswered}, 'Redis answered each call';
    is $two->{FromMemory}, 200, 'memory decided every request under two';
    for my $name (qw(Requests Passed Denied Shadowed Exempt FromMemory Leased Asked Fallback)) {
        is $status->{$name}, $one->{$name} + $two->{$name} + $three->{$name},
            "the total of $name is the sum of the rules";
    }
    is $status->redis_failures, 0, 'no call failed';
    cmp_ok $status->{RedisWaitP999Us}, '>=', $status->{RedisWaitP50Us}, 'the quantiles of waits are in order';
    cmp_ok $status->{LocalEntries}, '>=', 3, 'the table has entries';

    my $page = $host->get('/server-status')->body;
    like $page, qr{<h2 id="ratelimit">Rate limits</h2>}, 'the HTML page has a section';
    my ($row) = $page =~ m{(<tr[^>]*><td title="Rule">one</td>.*)};
    my %cell = $row =~ m{title="([^"]+)">([^<]*)<}g;
    is_deeply { map { $_ => $cell{$_} } 'Requests', 'Passed', 'Denied', 'From memory', 'Asked Redis',
            'Denied, last minute' },
        { Requests => 500, Passed => 100, Denied => 400, 'From memory' => $one->{FromMemory},
          'Asked Redis' => $one->{Asked}, 'Denied, last minute' => 400 }, 'its row has the same numbers';
    like $page, qr/Redis at 127\.0\.0\.1:\d+ is well/, 'it shows the state of Redis';
    like $page, qr{<b>570 denials</b> in the last minute, most by the rule <b>one</b>},
        'it shows the denials of the last minute';
    my @denying = map { $page =~ m{<td title="Rule">\Q$_\E</td>} ? $-[0] : -1 } qw(one three two);
    is_deeply [sort { $a <=> $b } @denying], \@denying, 'rules are sorted by denials';

    $host->graceful;
    my $after = Status->of($host);
    is_deeply $after->rule($_), $status->rule($_), "a graceful restart keeps the row of $_"
        for qw(one two three);
    is $host->get('/hello.txt', from => '127.0.0.3')->status, 429, 'and the counts of Redis';
    is $host->get('/page.html')->status, 429, 'and of this host';
    is +(Status->of($host))->rule('one')->{Denied}, 401, 'the row continues';
};

subtest 'the row of a leased rule tells leases from calls' => sub {
    my $host = host("RateLimit leased 100000/10s sync=lease\nRateLimit asked 100000/10s\n$shared");
    is $host->flood(2000, from => '127.0.0.5')->{status}{200}, 2000, 'all requests pass';
    my $status = Status->of($host);
    my ($leased, $asked) = map { $status->rule($_) } qw(leased asked);
    cmp_ok $leased->{Leased}, '>', 1000, 'most of them by a lease';
    is $leased->{Leased} + $leased->{Asked} + $leased->{Fallback}, 2000, 'Redis decided the others';
    is $asked->{Leased}, 0, 'a rule with sync=request has no leases';
    is $status->{LeaseUnitsSpent}, $leased->{Leased}, 'each of them spent a unit';
    cmp_ok $status->{LeaseRefills}, '>', 0, 'leases were refilled';
    cmp_ok $status->{LeaseUnitsDebited}, '>=', $status->{LeaseUnitsSpent} + $status->{LeaseUnitsLost},
        'Redis had debited the units';
    my ($shown) = $host->get('/server-status')->body =~ m{>leased</td>.*<td title="Leased">([\d,]+)<};
    is $shown =~ tr/,//dr, $leased->{Leased}, 'the HTML page has the column';
};

subtest 'the rows of several rules agree' => sub {
    my $host = host("RateLimit one 1/1h\nRateLimit trial 1000/1h shadow\n"
        . "RateLimit other 1000/1h\n$shared");
    my @from = (from => '127.0.0.4');
    is $host->get('/hello.txt', @from)->status, 200, 'the first request passes';
    is $host->get('/hello.txt', @from)->status, 429, 'then one rule denies' for 1 .. 20;
    my ($one, $trial, $other) = map { Status->of($host)->rule($_) } qw(one trial other);
    is $one->{Denied}, 20, 'the denying rule counts the denials';
    cmp_ok $one->{FromMemory}, '>', 0, 'some of them from memory';
    is $trial->{Passed}, 21, 'a shadow rule counts all requests as passed';
    is $other->{Passed}, 1, 'another rule counts only charged requests as passed';
    is $other->{Requests}, 21, 'but all as requests';
};

subtest 'the status page works without Redis' => sub {
    my $alone = host('RateLimit one 5/1h');
    $alone->flood(20);
    my $status = Status->of($alone);
    is $status->rule('one')->{Denied}, 15, 'a host without Redis counts denials';
    is scalar(grep { /Redis/ } keys %$status), 0, 'without lines about Redis';
    like $alone->get('/server-status')->body, qr/No Redis/, 'the HTML page says that there is no Redis';

    my $gone = RedisServer->start;
    my $host = Httpd->start(redis => $gone, modules => ['status'],
        config => "RateLimitRedis \@REDIS\@\nRateLimit one 5/1h\n" . Status::CONFIG);
    $gone->pause;
    is $host->flood(100)->{status}{429}, 95, 'a host whose Redis hangs still limits';
    my $page = $host->get('/server-status?auto');
    is $page->status, 200, 'its status page is served';
    cmp_ok(Status->parse($page->body)->rule('one')->{Fallback}, '>', 0, 'and shows the fallbacks');
};

done_testing;
