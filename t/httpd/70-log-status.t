#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
# What an operator sees: who was denied, in the error log, once and then by
# number; and on the status page how often each rule did what, equal to what
# clients counted.

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

# The lines about denials, each as a hash of its fields.
sub denials {
    my ($host) = @_;
    return map { { line => $_, map { split /=/, $_, 2 } /(?<= )([a-z-]+=\S*)/g } }
        $host->error_log_lines(qr/ratelimit: (?:denied|would deny)/);
}

subtest 'a denial is a line that says who, what and why' => sub {
    my ($host, $other) = map { host($_) } (<<'EOT' . $shared) x 2;
<Location /hello.txt>
    RateLimit one 2/1h
</Location>
<Location /page.html>
    RateLimit quiet 1/1m algorithm=fixed-window shadow sync=local key=path
</Location>
EOT
    $host->get('/hello.txt?secret=1', from => '127.0.0.2') for 1 .. 2;
    is scalar(denials($host)), 0, 'who passes is not in the log';
    my $denied = $host->get('/hello.txt?secret=1', from => '127.0.0.2', method => 'HEAD');
    is $denied->status, 429, 'the third is denied';
    my ($said, @more) = denials($host);
    is scalar(@more), 0, 'one denial, one line';
    like $said->{line}, qr/\[ratelimit_redis:warn\].*\[client 127\.0\.0\.2:\d+\].* ratelimit: denied /,
        'a warning of the module, with the client';
    is_deeply { map { $_ => $said->{$_} } qw(rule limit algorithm identity source denials method path) },
        { rule => 'one', limit => '2/1h', algorithm => 'sliding-window', identity => 'ip:127.0.0.2',
          source => 'local', denials => 1, method => 'HEAD', path => '/hello.txt' },
        'has its fields: memory denies, as the reply to the second left nothing';
    my ($wait) = $said->{'retry-after'} =~ /^(\d+)ms$/;
    is int(($wait + 999) / 1000), $denied->header('Retry-After'), 'and the wait that the client was told';

    is $other->get('/hello.txt', from => '127.0.0.2')->status, 429, 'another host denies as well';
    is((denials($other))[0]{source}, 'redis', 'because Redis said so');

    is $host->get('/page.html')->status, 200, 'a shadow rule denies nobody' for 1 .. 2;
    (undef, $said) = denials($host);
    like $said->{line}, qr/would deny \(shadow\) rule=quiet limit=1\/1m algorithm=fixed-window/,
        'but the log says whom it would';
    is $said->{identity}, 'path:/page.html', 'by the key it counts';
    is $said->{source}, 'local', 'and that this host decided';
};

subtest 'a flood of denials is not a flood of lines' => sub {
    my $host = host('RateLimit one 5/1h');
    my $start = time;
    is $host->flood(1005)->{status}{429}, 1000, '1,000 denials';
    my @lines = denials($host);
    my $total = 1000;
    if (time - $start < 9) {
        is scalar(@lines), 1, 'one line';
        is $lines[0]{denials}, 1, 'for the first of them';
    }
    is $host->flood(10, from => '127.0.0.2')->{status}{429}, 5, 'another client is denied';
    is scalar(grep { $_->{identity} eq 'ip:127.0.0.2' } denials($host)), 1, 'and has a line of its own';
    my @mine;
    Process::wait_until(sub {
        @mine = grep { $_->{identity} eq 'ip:127.0.0.1' } denials($host);
        return 1 if @mine > 1;
        $total++ if $host->get('/hello.txt')->status == 429;
        sleep 0.1;
        return 0;
    }, what => 'the second line', within => 20);
    is scalar(@mine), 2, 'later there is a second line';
    # One more may have come while the line was written.
    is $mine[0]{denials} + $mine[1]{denials} + ($total - $mine[0]{denials} - $mine[1]{denials} == 1),
        $total, 'with the number of denials since';
};

subtest 'so it is where nothing was ever admitted' => sub {
    my $host = host("RateLimit one 1000/1h\nRateLimit nope 0/1h");
    my $start = time;
    is $host->get('/hello.txt')->status, 429, 'a denial' for 1 .. 20;
    my @lines = denials($host);
    is_deeply [map { "$_->{rule} $_->{denials}" } @lines], ['nope 1'], 'one line for all of them'
        if time - $start < 9;
};

subtest 'nothing a client sends breaks a line' => sub {
    my $host = host("RateLimit one 0/1h key=path\nRateLimit two 0/1h key=ip");
    my @paths = ('/a%0Ab', '/a%0D%0A[Mon%20Jan]%20fake', '/a%22b', '/a%1B[31m', '/a%7F%80%FF', "/a\\b");
    for my $path (@paths) {
        is $host->get($path)->status, 429, "$path is denied";
    }
    my @lines = split /\n/, $host->error_log;
    is scalar(grep { !/^\[\w+ \w+ +\d+ [\d:.]+ \d+\] \[/ } @lines), 0, 'each line begins as a line of the log';
    is scalar(grep { /[^\x20-\x7e]/ } @lines), 0, 'no control byte and nothing beyond ASCII is in it';
    is scalar(grep { /^\[Mon Jan\]/ } @lines), 0, 'no line is forged';
    like $host->error_log, qr/path=\/a\\nb$/m, 'bytes are shown escaped';
    my @identities = map { $_->{identity} } grep { $_->{rule} eq 'one' } denials($host);
    is scalar(grep { !/^(?:path:[\x21\x23-\x7e]+|[0-9a-f]{32})$/ } @identities), 0,
        'identities are plain, or a digest';
};

subtest 'no secret is in the log' => sub {
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
    unlike $host->error_log, qr/sekrit/, 'the log holds none';
    my ($key, $session) = denials($host);
    is $key->{identity}, substr(sha256_hex('header:x-api-key:sekrit-1'), 0, 32),
        'but a digest that an operator can compute';
    is $session->{identity}, substr(sha256_hex('cookie:sid:sekrit-2'), 0, 32) . '+ip:127.0.0.1',
        'of a cookie too';
    is_deeply [grep { /sekrit/ } @{ $redis->cmd('KEYS', '*') }], [], 'nor does Redis';
    my $page = $host->get('/server-status');
    unlike $page->body, qr/sekrit/, 'nor the status page';
};

subtest 'the status page counts what clients count' => sub {
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
    is_deeply [$at_start->rules], [qw(one three two)], 'each rule has its row';
    is $at_start->{Requests}, 0, 'nothing is counted yet';
    is_deeply $host->flood(500, from => '127.0.0.3')->{status}, { 200 => 100, 429 => 400 }, 'one is used up';
    is_deeply $host->flood(200, path => '/page.html')->{status}, { 200 => 30, 429 => 170 }, 'two as well';
    my $status = Status->of($host);
    my ($one, $two, $three) = map { $status->rule($_) } qw(one two three);
    is_deeply [@$one{qw(Requests Passed Denied Shadowed)}], [500, 100, 400, 0], 'the row of one';
    is_deeply [@$two{qw(Requests Passed Denied Shadowed)}], [200, 30, 170, 0], 'the row of two';
    is $three->{Requests}, 200, 'the row of a shadow rule';
    is $three->{Shadowed}, 190, 'has what it would have denied';
    is $one->{Asked} + $one->{FromMemory}, 500, 'Redis or memory decided on one';
    cmp_ok $one->{FromMemory}, '>', 0, 'memory a part of it';
    is $one->{Asked}, $status->{RedisAnswered}, 'Redis answered each question';
    is $two->{FromMemory}, 200, 'memory alone decided on two';
    for my $name (qw(Requests Passed Denied Shadowed Exempt FromMemory Asked Fallback)) {
        is $status->{$name}, $one->{$name} + $two->{$name} + $three->{$name}, "the total of $name";
    }
    is $status->redis_failures, 0, 'no failure';
    cmp_ok $status->{RedisWaitP999Us}, '>=', $status->{RedisWaitP50Us}, 'waits have their quantiles';
    cmp_ok $status->{LocalEntries}, '>=', 3, 'the table has entries';

    my $page = $host->get('/server-status')->body;
    like $page, qr{<h2 id="ratelimit">Rate limits</h2>}, 'people get a section';
    my ($row) = $page =~ m{(<tr[^>]*><td title="Rule">one</td>.*)};
    my %cell = $row =~ m{title="([^"]+)">([^<]*)<}g;
    is_deeply { map { $_ => $cell{$_} } 'Requests', 'Passed', 'Denied', 'From memory', 'Asked Redis',
            'Denied, last minute' },
        { Requests => 500, Passed => 100, Denied => 400, 'From memory' => $one->{FromMemory},
          'Asked Redis' => $one->{Asked}, 'Denied, last minute' => 400 }, 'with the same numbers';
    like $page, qr/Redis at 127\.0\.0\.1:\d+ is well/, 'and how Redis is';
    like $page, qr{<b>570 denials</b> in the last minute, most by the rule <b>one</b>},
        'it begins with what matters';
    my @denying = map { $page =~ m{<td title="Rule">\Q$_\E</td>} ? $-[0] : -1 } qw(one three two);
    is_deeply [sort { $a <=> $b } @denying], \@denying, 'rules that deny more stand first';

    $host->graceful;
    my $after = Status->of($host);
    is_deeply $after->rule($_), $status->rule($_), "a graceful restart keeps the numbers of $_"
        for qw(one two three);
    is $host->get('/hello.txt', from => '127.0.0.3')->status, 429, 'and the counts';
    is $host->get('/page.html')->status, 429, 'of this host too';
    is +(Status->of($host))->rule('one')->{Denied}, 401, 'it goes on from there';
};

subtest 'each rule has the requests that it saw' => sub {
    my $host = host("RateLimit one 1/1h\nRateLimit trial 1000/1h shadow\n"
        . "RateLimit other 1000/1h\n$shared");
    my @from = (from => '127.0.0.4');
    is $host->get('/hello.txt', @from)->status, 200, 'one passes';
    is $host->get('/hello.txt', @from)->status, 429, 'then memory denies' for 1 .. 20;
    my ($one, $trial, $other) = map { Status->of($host)->rule($_) } qw(one trial other);
    is $one->{Denied}, 20, 'one rule denies';
    cmp_ok $one->{FromMemory}, '>', 0, 'from memory';
    is $trial->{Passed}, 21, 'a shadow rule is asked all the same, and lets all pass';
    is $other->{Passed}, 1, 'a live one lets pass what is charged, and no more';
    is $other->{Requests}, 21, 'of all the requests that came';
};

subtest 'the status page needs no Redis' => sub {
    my $alone = host('RateLimit one 5/1h');
    $alone->flood(20);
    my $status = Status->of($alone);
    is $status->rule('one')->{Denied}, 15, 'a host alone has one';
    is scalar(grep { /Redis/ } keys %$status), 0, 'that does not speak of Redis';
    like $alone->get('/server-status')->body, qr/No Redis/, 'but to say that there is none';

    my $gone = RedisServer->start;
    my $host = Httpd->start(redis => $gone, modules => ['status'],
        config => "RateLimitRedis \@REDIS\@\nRateLimit one 5/1h\n" . Status::CONFIG);
    $gone->pause;
    is $host->flood(100)->{status}{429}, 95, 'one whose Redis says nothing limits';
    my $page = $host->get('/server-status?auto');
    is $page->status, 200, 'and shows its page';
    cmp_ok(Status->parse($page->body)->rule('one')->{Fallback}, '>', 0, 'which tells');
};

done_testing;
