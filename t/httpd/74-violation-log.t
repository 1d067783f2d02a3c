#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
# The violation log has a line for the first denial of a client and then one per interval with the number of
# denials, even after the client has gone away. It goes to a file or a program, as CustomLog does, and stays
# valid whatever clients send.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";

use Client;
use Httpd;
use JSON::PP ();
use Metrics;
use Process;
use RedisServer;
use Status;
use Test::More;
use Time::HiRes qw(sleep time);

my $json = JSON::PP->new->utf8;

sub host {
    my ($config, %opt) = @_;
    return Httpd->start(modules => ['status'], %opt, config => "$config\n" . Status::CONFIG);
}

# The lines of a JSON log, as hashes. Dies of an invalid line.
sub lines {
    my ($host, $name) = @_;
    return map { $json->decode($_) } split /\n/, $host->text($name || 'v.log');
}

# The same for a text log.
sub texts {
    my ($host, $name) = @_;
    return map { { line => $_, map { split /=/, $_, 2 } /(?<= )([a-z-]+=\S*)/g } }
        split /\n/, $host->text($name);
}

sub sum { my $sum = 0; $sum += $_->{denials} for @_; return $sum }

subtest 'a line has client, rule, reason and severity' => sub {
    my $host = host(<<'EOT', modules => [qw(status unique_id)]);
RateLimitLog v.log
<Location /hello.txt>
    RateLimit one 2/1h
</Location>
<Location /page.html>
    RateLimit quiet 1/500ms algorithm=fixed-window shadow key=path
    RateLimit nobody 0/1m
</Location>
EOT
    my $before = time;
    $host->get('/Hello.txt/../hello.txt?secret=1', from => '127.0.0.2') for 1 .. 2;
    is scalar(lines($host)), 0, 'requests that pass are not logged';
    my $denied = $host->get('/hello.txt?secret=1', from => '127.0.0.2', host => 'www.example.org');
    is $denied->status, 429, 'the third is denied';
    my ($line, @more) = lines($host);
    is scalar(@more), 0, 'one denial is one line';
    my ($time, $wait, $id) = delete @$line{qw(time retry_after_ms request_id)};
    is_deeply $line, {
        verdict => 'deny', rule => 'one', algorithm => 'sliding-window', limit => 2,
        window_ms => 3600000, source => 'local', severity => 'low', denials => 1,
        address => '127.0.0.2', identity => 'ip:127.0.0.2', method => 'GET',
        host => 'www.example.org', path => '/hello.txt',
    }, 'the fields are right';
    like $time, qr/^20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/, 'the time is in UTC with milliseconds';
    is int(($wait + 999) / 1000), $denied->header('Retry-After'), 'the wait is that of Retry-After';
    like $id, qr/^[\w@-]{20,}$/, 'the request id is that of mod_unique_id';
    unlike $host->text('v.log'), qr/secret/, 'the query string is not logged';
    is_deeply [$host->error_log_lines(qr/ratelimit: denied/)], [], 'the denial is not in the error log';

    $host->get('/page.html', from => '127.0.0.3') for 1 .. 2;
    my %by_rule = map { $_->{rule} => $_ } lines($host);
    is $by_rule{quiet}{verdict}, 'shadow', 'the verdict of a shadow rule is "shadow"' if $by_rule{quiet};
    is $by_rule{nobody}{retry_after_ms}, undef, 'a quota of 0 has no wait';
    is $by_rule{nobody}{limit}, 0, 'and the limit 0';
};

subtest 'the log can be text' => sub {
    my $host = host(<<'EOT');
RateLimitLog v.txt text every=60s
RateLimit one 0/1h key=path
EOT
    $host->get('/a%20b');
    my ($line) = texts($host, 'v.txt');
    like $line->{line}, qr/^20\d\d-\d\d-\d\dT[\d:.]+Z verdict=deny rule=one algorithm=sliding-window limit=0 window-ms=3600000 source=local severity=medium denials=1 retry-after-ms=- address=127\.0\.0\.1 identity=[0-9a-f]{32} request-id=- method=GET host=localhost path=\/a%20b$/,
        'a line consists of names and values without blanks';
};

subtest 'a flood of denials is logged at its start and once per interval' => sub {
    for my $mpm (qw(event prefork)) {
        my $host = host("RateLimitLog v.log every=2s\nRateLimit one 5/1h", mpm => $mpm);
        my $start = time;
        my $denied = 0;
        while (time - $start < 3.5) {
            $denied += Client->flood(targets => [$host->port], connections => 8, requests => 200,
                path => '/hello.txt')->{status}{429};
            sleep 0.1;
        }
        my $lasted = time - $start;
        Process::wait_until(sub { sum(lines($host)) == $denied }, within => 40,
            what => "all $denied denials to be in the log");
        my @lines = lines($host);
        pass "$mpm: after the flood the rest is written without a further request";
        cmp_ok scalar(@lines), '<=', 2 + $lasted / 2, 'at most one line per interval: ' . @lines;
        cmp_ok scalar(@lines), '>=', 2, 'there are at least two lines';
        is $lines[0]{denials}, 1, 'the first line is for the first denial';
        is $lines[0]{severity}, 'low', 'with low severity';
        my ($worst) = sort { $b->{denials} <=> $a->{denials} } @lines;
        is $worst->{severity}, $worst->{denials} >= 500 ? 'critical' : 'high',
            'the severity of the largest count is high';
        is $lines[-1]{method}, undef, 'the last line has no request';
        is $lines[-1]{identity}, 'ip:127.0.0.1', 'but the identity';
    }
};

subtest 'the rest is written when httpd stops' => sub {
    my $host = host("RateLimitLog v.log every=1d\nRateLimit one 5/1h");
    my $denied = Client->flood(targets => [$host->port], connections => 8, requests => 100,
        path => '/hello.txt')->{status}{429};
    is sum(lines($host)), 1, 'one line is written at first';
    $host->graceful;
    is sum(lines($host)), 1, 'a graceful restart writes nothing';
    $host->stop;
    is sum(lines($host)), $denied, 'after the stop all denials are in the log';
};

subtest 'the rest is written to the error log, too' => sub {
    my $host = host('RateLimit one 5/1h');
    Client->flood(targets => [$host->port], connections => 8, requests => 100, path => '/hello.txt');
    $host->stop;
    my @lines = $host->error_log_lines(qr/ratelimit: denied/);
    is scalar(@lines), 2, 'there is a line at the start and one at the end';
    like $lines[1], qr/ rule=one .* identity=ip:127\.0\.0\.1 .* denials=94 address=127\.0\.0\.1, and none since/,
        'the last line has the number of denials';
};

subtest 'a virtual host has its own log or that of the server' => sub {
    my $host = host(<<'EOT', ports => 3);
RateLimitLog server.log
RateLimit one 0/1h
<VirtualHost *:@PORT2@>
    RateLimitLog own.log text
</VirtualHost>
<VirtualHost *:@PORT3@>
    ServerName third
</VirtualHost>
EOT
    is(Client->request(port => $host->port($_), path => '/hello.txt', from => "127.0.0.2$_")->status, 429,
        "server $_ denies") for 0 .. 2;
    is_deeply [map { $_->{address} } lines($host, 'server.log')], ['127.0.0.20', '127.0.0.22'],
        'the log of the server has the denials of virtual hosts without a log';
    is_deeply [map { $_->{address} } texts($host, 'own.log')], ['127.0.0.21'],
        'the log of a virtual host has its denials';
};

subtest 'a file is rotated by a graceful restart' => sub {
    my $host = host("RateLimitLog v.log\nRateLimit one 0/1h");
    $host->get('/hello.txt', from => '127.0.0.2');
    rename $host->dir . '/v.log', $host->dir . '/v.log.1';
    $host->get('/hello.txt', from => '127.0.0.3');
    is scalar(lines($host, 'v.log.1')), 2, 'children go on writing to the renamed file';
    $host->graceful;
    $host->get('/hello.txt', from => '127.0.0.4');
    is_deeply [map { $_->{address} } lines($host)], ['127.0.0.4'], 'after the restart they write to a new one';
    is scalar(lines($host, 'v.log.1')), 2, 'and no longer to the old one';
};

subtest 'a log can be a program' => sub {
    for my $mpm (qw(event prefork)) {
        my $host = host(qq(RateLimitLog "|\$/bin/cat >>\@DIR\@/piped.log"\nRateLimit one 0/1h), mpm => $mpm);
        my $sum = Client->flood(targets => [$host->port], connections => 16, requests => 100,
            path => '/hello.txt', from => [map { "127.0.2.$_" } 1 .. 16]);
        Process::wait_until(sub { lines($host, 'piped.log') == 16 }, what => 'sixteen lines');
        $host->graceful;
        $host->get('/hello.txt', from => '127.0.3.1');
        Process::wait_until(sub { lines($host, 'piped.log') >= 17 }, what => 'one more');
        pass "$mpm: it gets a line for each client, also over a graceful restart";
        $host->stop;
    }
};

subtest 'a program that does not read delays no request' => sub {
    my $host = host(<<'EOT' . Metrics::CONFIG);
RateLimitLog "|/bin/sleep 600"
RateLimit one 0/1h
EOT
    my $sum = Client->flood(targets => [$host->port], connections => 250, requests => 500,
        path => '/hello.txt', from => [map { "127.0.4.$_" } 1 .. 250]);
    $sum = Client->flood(targets => [$host->port], connections => 250, requests => 500,
        path => '/hello.txt', from => [map { "127.0.5.$_" } 1 .. 250]);
    is_deeply $sum->{status}, { 429 => 500 }, 'every request is answered';
    my $metrics = Metrics->of($host);
    my ($lost, $written) = map { $metrics->value('apache_ratelimit_log_lines_total', fate => $_) }
        qw(lost written);
    cmp_ok $lost, '>', 0, 'lines that do not fit in the pipe are lost';
    is $lost + $written, 500, 'lost lines are counted';
    like $host->get('/server-status')->body, qr/lines of the violation log were lost/, 'and shown on the status page';
};

subtest 'a log that cannot be opened stops a start, but not a reload' => sub {
    my $error = eval { host("RateLimitLog no/such/dir/v.log\nRateLimit one 0/1h"); '' } // $@;
    like $error, qr/RateLimitLog \S+no\/such\/dir\/v\.log cannot be opened/, 'the start fails with the reason';
    my $config = "RateLimitLog dir/v.log\nRateLimit one 0/1h\n" . Status::CONFIG;
    my $host = host('RateLimit one 0/1h');
    $host->graceful(config => $config);
    is $host->get('/hello.txt')->status, 429, 'after a reload the server goes on';
    like $host->error_log, qr/denials go to the error log where a RateLimitLog could not be opened/,
        'the error log reports it';
    is scalar($host->error_log_lines(qr/ratelimit: denied/)), 1, 'denials are logged in the error log';
};

subtest 'whatever clients send, every line is valid' => sub {
    my $host = host(<<'EOT', modules => [qw(status unique_id)]);
<VirtualHost *:@PORT@>
    RateLimitLog v.txt text
    ServerName text
    RateLimit one 0/1h key=path
</VirtualHost>
<VirtualHost *:@PORT@>
    RateLimitLog w.log json
    ServerName json
    RateLimit two 0/1h key=path
</VirtualHost>
EOT
    my @bytes = map { sprintf '%%%02X', $_ } 1 .. 0x2e, 0x30 .. 255;
    my @paths = (map({ "/x${_}y" } @bytes), '/' . '%22' x 3000, '/' . '%C3%A9' x 2000, '/' . '%FF' x 2500,
        '/%F0%9F%98%80', '/%ED%A0%80', '/%C0%AF', '/%F5%80%80%80', '/%E2%80%AE', '/%C2%85');
    for my $name (qw(text json)) {
        for my $path (@paths) {
            my $answer = $host->get($path, host => $name);
            die "$path: " . $answer->status unless $answer->status =~ /^4/;
        }
    }
    my $raw = $host->text('w.log');
    my @lines = eval { lines($host, 'w.log') };
    is $@, '', 'every line is valid JSON';
    cmp_ok scalar(@lines), '>', 220, scalar(@lines) . ' lines';
    unlike $raw, qr/[^\x20-\x7e\n]/, 'every byte is printable ASCII';
    cmp_ok length((sort { length $b <=> length $a } split /\n/, $raw)[0]), '<', 4096, 'no line is too long';
    my %path = map { $_->{path} => 1 } @lines;
    ok $path{$_}, 'the log has the path ' . JSON::PP->new->ascii->allow_nonref->encode($_)
        for '/x"y', "/x\ny", '/x%FFy', "/\x{1F600}", "/%ED%A0%80", "/%C0%AF", "/\x{202e}", "/x<y", "/x\x7fy";
    my @texts = split /\n/, $host->text('v.txt');
    is scalar(grep { !/^\S+Z( [a-z-]+=[\x21-\x7e]+){15}$/ } @texts), 0, 'every line of the text log is valid';
    is scalar(@texts), scalar(@lines), 'the text log has as many lines';
};

my %wrong = (
    '' => qr/takes one, two or three arguments/,
    'v.log v.log2 json' => qr/invalid value "v\.log2": expected json or text, and every=T, each once, for example RateLimitLog/,
    'v.log json text' => qr/invalid value "text": expected/,
    'v.log json json' => qr/invalid value "json": expected/,
    'v.log every=1s every=2s' => qr/invalid value "every=2s": expected/,
    'v.log every=0s' => qr/invalid value "every=0s": expected a time from 1s to 1d, for example RateLimitLog/,
    'v.log every=500ms' => qr/expected a time from 1s to 1d/,
    'v.log every=2d' => qr/expected a time from 1s to 1d/,
    'v.log every=soon' => qr/expected a time from 1s to 1d/,
    'v.log json every=1s more' => qr/takes one, two or three arguments/,
    '"|"' => qr/invalid value "\|": expected a file or "\|program", for example RateLimitLog/,
    '"| "' => qr/invalid value .*: expected a file/,
    "v.log\nRateLimitLog w.log" => qr/RateLimitLog is given twice for one server/,
);

subtest 'httpd -t refuses mistakes' => sub {
    for my $line (sort keys %wrong) {
        my ($code, $said) = Httpd->config_test(config => "RateLimitLog $line");
        isnt $code, 0, "refused: RateLimitLog $line";
        like $said, $wrong{$line}, 'with the reason';
    }
    my ($code, $said) = Httpd->config_test(config => "<Location />\nRateLimitLog v.log\n</Location>");
    like $said, qr/RateLimitLog not allowed/, 'RateLimitLog is refused in a section';
    ($code) = Httpd->config_test(config => 'RateLimitLog v.log every=1m TEXT');
    is $code, 0, 'options are accepted in any order and case';
};

done_testing;
