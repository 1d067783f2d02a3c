#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
# Every recipe in conf/examples/seeing.conf does what its comment says. In conf/examples/monitoring every
# query uses metrics that exist, and Prometheus and fail2ban accept their files.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";

use Client;
use Examples;
use Httpd;
use JSON::PP ();
use Metrics;
use Process;
use RedisServer;
use Test::More;

my $examples   = "$Examples::CONF/examples";
my $monitoring = "$examples/monitoring";

*slurp = \&Examples::slurp;

sub has { my ($program) = @_; return grep { -x "$_/$program" } split /:/, $ENV{PATH} }

sub host {
    my ($config, %opt) = @_;
    my $host = Httpd->start(modules => [qw(status headers include mime filter)], %opt, config => <<"EOT");
Define APACHE_LOG_DIR \@DIR\@
Define RATELIMIT_ERRORS \@DOCROOT\@/errors
Include $examples/seeing.conf
$config
EOT
    $host->file('errors/slow-down.html', slurp("$examples/slow-down.html"));
    return $host;
}

sub log_lines { my ($host, $name) = @_; return split /\n/, $host->text($name) }

my $rules = <<'EOT';
<Location /hello.txt>
    RateLimit one 1/1h
</Location>
<Location /login.html>
    RateLimit login 1/1h
</Location>
<Location /page.html>
    RateLimit trial 1/1h shadow
</Location>
Alias /comments @DOCROOT@/hello.txt
EOT

sub log_by_notes {
    my $host = host($rules);
    $host->get('/hello.txt') for 1 .. 3;
    $host->get('/page.html') for 1 .. 2;
    # several processes write lines after the responses, so they come late and in any order
    my @lines;
    Process::wait_until(sub { (@lines = log_lines($host, 'ratelimit-requests.log')) >= 3 },
        what => 'three lines');
    @lines = sort { $b =~ /hello/ <=> $a =~ /hello/ } @lines;
    is scalar(@lines), 3, 'only requests that were denied, or would have been, are logged';
    like $lines[$_], qr{^\[[^\]]+\] 127\.0\.0\.1 "GET /hello\.txt HTTP/1\.1" 429 deny one local 0$},
        'a denial is logged with its notes' for 0, 1;
    like $lines[2], qr{"GET /page\.html HTTP/1\.1" 200 shadow trial local 0$}, 'so is a denial by a shadow rule';
    my ($denial) = map { JSON::PP->new->decode($_) } log_lines($host, 'ratelimit.log');
    is $denial->{rule}, 'one', 'the violation log has a line, too';
}

sub header_by_notes {
    my $host = host($rules);
    is $host->get('/hello.txt')->header('X-RateLimit-Verdict'), undef, 'a request that passes has no verdict';
    is_deeply [$host->get('/hello.txt')->header_all('X-RateLimit-Verdict')], ['deny by one'],
        'a denial has one verdict in its headers';
    $host->get('/page.html');
    is_deeply [$host->get('/page.html')->header_all('X-RateLimit-Verdict')], ['shadow by trial'],
        'so has a request that a shadow rule would have denied';
}

sub error_page_by_variables {
    my $host = host($rules);
    $host->get($_) for '/hello.txt', '/login.html';
    my $denied = $host->get('/hello.txt');
    is $denied->status, 429, 'the second request is denied';
    like $denied->body, qr{<p>Too many requests \(one, 0 left\)\.</p>}, 'the page shows the rule and the units left';
    like $denied->header('Retry-After'), qr/^\d+$/, 'Retry-After is set';
    is $denied->header('X-Hint'), undef, 'there is no header of another rule';
    $denied = $host->get('/login.html');
    like $denied->body, qr{<p>Too many attempts to log in\.</p>}, 'a denial by another rule has another text';
    like $denied->header('X-Hint'), qr/forgotten/, 'and a header by <If>';
    unlike $denied->body, qr/<!--#/, 'all SSI elements are evaluated';
}

sub expression_decides {
    my $host = host($rules);
    my %post = (method => 'POST', body => 'text');
    is $host->get('/comments', %post)->status, 200, 'five comments are accepted' for 1 .. 5;
    is $host->get('/comments', %post)->status, 403, 'the sixth is refused';
    is $host->get($_, %post)->status, 403, "$_ is refused as well" for '/comments/', '//comments';
    is $host->get('/comments')->status, 200, 'comments can still be read';
    is $host->get('/comments', %post, from => '127.0.0.2')->status, 200, 'other clients can still write';
}

Examples::run('seeing.conf' => sub {
    subtest 'a separate log uses the notes'        => \&log_by_notes;
    subtest 'a response header uses the notes'     => \&header_by_notes;
    subtest 'an error page uses the variables'     => \&error_page_by_variables;
    subtest 'an expression uses the verdict'       => \&expression_decides;
});

# The names of all metrics, with Redis.
my $redis = RedisServer->start;
my $host  = host("RateLimitRedis \@REDIS\@\n$rules", redis => $redis);
$host->get('/hello.txt') for 1 .. 2;
my %is_metric = map { $_ => 1 } Metrics->of($host)->names;

# The names of metrics in a query.
sub metrics_in { return $_[0] =~ /\b(apache_ratelimit_\w+)/g }

subtest 'the dashboard uses metrics that exist' => sub {
    my $board = JSON::PP->new->decode(slurp("$monitoring/grafana.json"));
    my @queries;
    for my $panel (@{ $board->{panels} }) {
        ok @{ $panel->{targets} } && $panel->{title}, 'a panel: ' . ($panel->{title} // '?');
        push @queries, map { $_->{expr} } @{ $panel->{targets} };
    }
    push @queries, map { $_->{definition} // () } @{ $board->{templating}{list} };
    my %asked = map { $_ => 1 } map { metrics_in($_) } @queries;
    is_deeply [grep { !$is_metric{$_} } sort keys %asked], [], scalar(keys %asked) . ' metrics exist';
    is_deeply [grep { !metrics_in($_) } @queries], [], 'every query has a metric';
};

subtest 'alerts use metrics that exist' => sub {
    my $text = slurp("$monitoring/ratelimit.rules.yml");
    my %asked = map { $_ => 1 } grep { !/^apache_ratelimit_denials$/ } metrics_in($text);
    is_deeply [grep { !$is_metric{$_} } sort keys %asked], [], 'all their metrics exist';
    my @alerts = $text =~ /alert: (\w+)/g;
    my %tested = map { $_ => 1 } slurp("$monitoring/ratelimit.rules.test.yml") =~ /alertname: (\w+)/g;
    is_deeply [grep { !$tested{$_} } @alerts], [], 'each of ' . @alerts . ' alerts is tested';
  SKIP: {
        skip 'promtool is not installed', 2 unless has('promtool');
        for my $check ('check config prometheus.yml', 'check rules ratelimit.rules.yml',
            'test rules ratelimit.rules.test.yml')
        {
            my $said = `cd $monitoring && promtool $check 2>&1`;
            is $?, 0, "promtool $check" or diag $said;
        }
    }
};

subtest 'fail2ban bans the clients in the logs and no others' => sub {
    plan skip_all => 'fail2ban-regex is not installed' unless has('fail2ban-regex');
    my $denying = Httpd->start(ports => 2, config => <<'EOT');
RateLimitLog v.json json
RateLimit no 0/1h key=path
RateLimit trial 0/1h shadow
<VirtualHost *:@PORT2@>
    RateLimitLog v.txt text
    RateLimit no2 0/1h
</VirtualHost>
EOT
    my $plain = Httpd->start(config => "RateLimit no 0/1h\nRateLimit trial 0/1h shadow");
    # paths that try to look like a line about another client
    my @forged = ('/","address":"9.9.9.9","x":"', '/%0A%7B%22time%22:%222026-01-01T00:00:00.000Z%22,%22verdict%22:%22deny%22',
        '/x%20address=9.9.9.9%20', '/%0A2026-01-01T00:00:00.000Z%20verdict=deny%20address=9.9.9.9', '/]%20[client%209.9.9.9]');
    for my $path ('/a', @forged) {
        $denying->get($path, from => '127.0.0.7');
        Client->request(port => $denying->port(1), path => $path, from => '127.0.0.8');
        $plain->get($path, from => '127.0.0.9');
    }
    # the line that httpd's parent writes after the last denial has the client, too
    $plain->wait_for_log(qr/denied .* address=127\.0\.0\.9, and none since/, within => 60);
    my %log = ($denying->dir . '/v.json' => '127.0.0.7', $denying->dir . '/v.txt' => '127.0.0.8',
        $plain->dir . '/error.log' => '127.0.0.9');
    for my $log (sort keys %log) {
        my $file = "$log.copy";    # httpd goes on writing to the log itself
        $denying->file($file, slurp($log));
        my $said = `fail2ban-regex -o id $file $monitoring/fail2ban-filter.conf 2>&1`;
        my %banned = map { $_ => 1 } grep { /\S/ } split /\n/, $said;
        is_deeply [sort keys %banned], [$log{$log}], "$log: the client is found, and no other";
        my $summary = `fail2ban-regex $file $monitoring/fail2ban-filter.conf 2>&1`;
        my ($matched) = $summary =~ /(\d+) matched/;
        my $lines = grep { /verdict=?"?:?"?deny|ratelimit: denied/ } split /\n/, slurp($file);
        is $matched, $lines, "all $lines denials match, and no shadow denial";
    }
};

done_testing;
