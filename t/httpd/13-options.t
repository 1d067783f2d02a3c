#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
# Options of a rule choose the requests that it applies to, what they cost, and which clients have another
# quota. If the expression of an option fails while a request is served, the rule applies as if the option
# were not there, the log reports it once, and no client gets an error. Everything is shown with counts kept
# by this host and by Redis.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";

use Client qw(fresh_address);
use Httpd;
use JSON::PP;
use Process;
use RedisServer;
use Status;
use Test::More;
use Time::HiRes qw(sleep);

my $config = <<'EOF';
RateLimitHeaders draft-11
RateLimitNotes all
Header always set X-Verdict %{RATELIMIT_VERDICT}e
Header always set X-Rule %{RATELIMIT_RULE}e
RateLimit items 2/1d path=/Shop/*/items
RateLimit deep 2/1d path=/deep/**
<Location /posts>
    RateLimit posts 2/1d methods=POST,put
</Location>
<Location /gets>
    RateLimit gets 2/1d methods=GET
</Location>
<Location /when>
    RateLimit when 1/1d when="%{HTTP:X-Plan} == 'free' && %{QUERY_STRING} != 'a b'"
</Location>
<Location /unless>
    RateLimit unless 1/1d "unless=%{REMOTE_ADDR} -ipmatch '127.0.99.0/24'"
</Location>
<Location /both>
    RateLimit both 1/1d when="-n %{HTTP:X-When}" unless="-n %{HTTP:X-Unless}" methods=GET path=/both/**
</Location>
<Location /three>
    RateLimit three 10/1d cost=3
</Location>
<Location /cost>
    RateLimit cost 10/1d cost=%{HTTP:X-Cost}
</Location>
<Location /bytes>
    RateLimit bytes 1000/1d cost=%{HTTP:Content-Length}
</Location>
<Location /zero>
    RateLimit zero 0/1d cost=5
</Location>
<Location /tier>
    RateLimit tier 2/1d tier=%{HTTP:X-Plan}
    RateLimitTier tier gold 4
    RateLimitTier tier barred 0
    RateLimitTier tier partner unlimited
</Location>
<Location /beside>
    RateLimit tier 2/1d tier=%{HTTP:X-Plan}
    RateLimitTier tier partner unlimited
    RateLimit wide 3/1d
</Location>
<Location /bucket>
    RateLimitHeaders draft-11 x-ratelimit draft-03
    RateLimit bucket 2/1d algorithm=token-bucket burst=3 tier=%{HTTP:X-Plan}
    RateLimitTier bucket gold 2 burst=5
    RateLimitTier bucket plain 4
</Location>
<Location /day>
    RateLimit short 2/1s algorithm=fixed-window
    RateLimit day 5/1d
</Location>
<Location /shadow>
    RateLimit dry 2/1d shadow
    RateLimit live 4/1d
</Location>
<Location /unvetoed>
    RateLimit tight 2/1d
    RateLimit watching 5/1d shadow
</Location>
<Location /server-status>
    SetHandler server-status
    RateLimit off
</Location>
<Location /closed-shadow>
    RateLimit never 0/1d shadow
</Location>
<Location /fails/when>
    RateLimit fails-when 1/1d when="-n @NESTED@ && false"
</Location>
<Location /fails/unless>
    RateLimit fails-unless 1/1d unless="-n @NESTED@ || true"
</Location>
<Location /fails/cost>
    RateLimit fails-cost 2/1d cost=@NESTED@
</Location>
<Location /fails/tier>
    RateLimit fails-tier 2/1d tier=@NESTED@
    RateLimitTier fails-tier gold 100
</Location>
<Location /fails/key>
    RateLimit fails-key 2/1d key=@NESTED@
</Location>
EOF

# Nested deeper than httpd evaluates: the expression parses, and fails when it is evaluated.
my %vars = (NESTED => '%{tolower:' x 40 . '%{HTTP:X-Cost}' . '}' x 40);

my $client = 1;

# Request options for a client of a plan.
sub of_plan { my ($name) = @_; return (headers => { 'X-Plan' => $name }) }

sub check {
    my ($httpd) = @_;
    # What is left of the quota after a request.
    my $left = sub {
        my ($path, $from, @opt) = @_;
        my $answer = $httpd->get($path, from => $from, @opt);
        my ($n) = ($answer->header('RateLimit') // '') =~ /;r=(\d+)/;
        return $answer->status == 429 ? 'denied' : $n // 'uncounted';
    };

    subtest 'path=' => sub {
        my @from = (from => fresh_address());
        is $httpd->statuses('/shop/1/items', 1, @from), '404', 'the glob matches in another case';
        is $httpd->statuses('/shop/2/Items/?q', 2, @from), '404 429', 'all matching paths share one count';
        is $httpd->statuses('/shop/2/items/3', 3, @from), '404 404 404', 'a longer path does not match';
        is $httpd->statuses('/shop/items', 3, @from), '404 404 404', 'a shorter path does not match';
        is $httpd->statuses('//shop/./2/%69tems;v=1', 1, @from), '429', 'no other spelling gets around the rule';
        @from = (from => fresh_address());
        is $httpd->statuses('/deep', 1, @from) . ' ' . $httpd->statuses('/deep/a/b', 2, @from), '404 404 429',
            '/** matches the path itself and everything below it';
        is $httpd->statuses('/deeper', 2, @from), '404 404', 'and nothing else';
    };

    subtest 'methods=' => sub {
        my @from = (from => fresh_address());
        is $httpd->statuses('/posts', 3, @from), '404 404 404', 'GET is not counted';
        is $httpd->statuses('/posts', 1, @from, method => 'POST'), '404', 'the first POST passes';
        is $httpd->statuses('/posts', 2, @from, method => 'PUT'), '405 429', 'PUT shares the count of POST';
        is $httpd->statuses('/posts', 1, @from, method => 'post'), '429',
            'a method in lower case does not get around the rule';
        is $httpd->statuses('/posts', 1, @from), '404', 'GET still is not counted';
        is $httpd->statuses('/posts', 1, @from, method => 'DELETE',
            headers => { 'X-HTTP-Method-Override' => 'POST' }), '405', 'X-HTTP-Method-Override is ignored';
        @from = (from => fresh_address());
        is $httpd->statuses('/gets', 2, @from), '404 404', 'two GET pass';
        is $httpd->statuses('/gets', 1, @from, method => 'HEAD'), '429', 'HEAD counts as GET';
        is $httpd->statuses('/gets', 1, @from, method => 'POST'), '404', 'POST does not';
    };

    subtest 'when= and unless=' => sub {
        my @from = (from => fresh_address());
        my @free = (@from, of_plan('free'));
        is $httpd->statuses('/when', 2, @from), '404 404', 'the rule does not apply where when= is false';
        is $httpd->get('/when', @from)->header('RateLimit'), undef, 'and is not in the headers';
        is $httpd->statuses('/when', 2, @free), '404 429', 'the rule applies where when= is true';
        is $httpd->statuses('/when?a%20b', 1, @free), '429', 'blanks inside quotes belong to the expression';
        is $httpd->statuses('/unless', 3, from => '127.0.99.' . ++$client), '404 404 404',
            'the rule does not apply where unless= is true';
        is $httpd->statuses('/unless', 2, from => fresh_address()), '404 429',
            'the rule applies where unless= is false';
        @from = (from => fresh_address());
        my @with = (@from, headers => { 'X-When' => 1 });
        is $httpd->statuses('/both/x', 2, @from), '404 404', 'of four conditions: when= is false';
        is $httpd->statuses('/both/x', 2, @from, headers => { 'X-When' => 1, 'X-Unless' => 1 }), '404 404',
            'unless= is true';
        is $httpd->statuses('/both/x', 2, @with, method => 'POST'), '404 404', 'methods= does not match';
        is $httpd->statuses('/both/x', 2, @with), '404 429', 'all four are met, and the rule applies';
    };

    my $cost = sub { my ($from, $n) = @_; $left->('/cost', $from, headers => { 'X-Cost' => $n }) };

    subtest 'cost=' => sub {
        my $from = fresh_address();
        is join(' ', map { $left->('/three', $from) } 1 .. 4), '7 4 1 denied', 'a constant cost';
        $from = fresh_address();
        is $cost->($from, 4), 6, 'the cost is the value of an expression';
        is $cost->($from, 7), 'denied', 'a cost that does not fit is denied';
        is $cost->($from, 6), 0, 'a denied request costs nothing: a cheaper one that fits passes';
        is $cost->($from, 0), 'uncounted', 'cost 0 is not counted, and passes when nothing is left';
        is $cost->($from, 1), 'denied', 'cost 1 does not pass then';
        is $cost->($from, '00'), 'uncounted', '00 is cost 0';
        for my $odd ('x', '-1', '-0', '+2', '1.5', '0x10', '1e3', '2 3', '1;2', "\xd9\xa3") {
            is $cost->(fresh_address(), $odd), 9, "'$odd' costs 1";
        }
        is $left->('/cost', fresh_address()), 9, 'a missing value costs 1';
        for my $huge ('11', '1000000000', '1000000001', '9223372036854775808', '9' x 200) {
            my $answer = $httpd->get('/cost', from => fresh_address(), headers => { 'X-Cost' => $huge });
            is $answer->status, 429, 'a cost above the quota is denied: ' . substr $huge, 0, 30;
            is $answer->header('Retry-After'), undef, 'without Retry-After, because it never fits';
            ok !exists decode_json($answer->body)->{retry_after}, 'nor retry_after in the body';
        }
        is $httpd->statuses('/zero', 2, from => fresh_address()), '429 429', 'a quota of 0 denies at any cost';
    };

    subtest 'cost by Content-Length' => sub {
        my @post = (method => 'POST');
        my $from = fresh_address();
        is $left->('/bytes', $from, @post, body => 'x' x 600), 400, '600 bytes of 1,000 are charged';
        is $left->('/bytes', $from, @post, body => 'x' x 401), 'denied', 'another 401 bytes do not fit';
        is $left->('/bytes', $from, @post, body => 'x' x 400), 0, 'another 400 do';
        my $big = Client->request(port => $httpd->port, from => fresh_address(), timeout => 10,
            raw => "POST /bytes HTTP/1.1\r\nHost: a\r\nContent-Length: 5000000000\r\n\r\n");
        is $big->status, 429, 'a request that announces more than the quota is denied before it sends a body';
    };

    subtest 'tier=' => sub {
        is $httpd->statuses('/tier', 3, from => fresh_address()), '404 404 429',
            'a client without a tier has the quota of the rule';
        is $httpd->statuses('/tier', 3, from => fresh_address(), of_plan($_)), '404 404 429',
            "so has one with the unknown tier '" . substr($_, 0, 20) . "'"
            for 'nosuch', 'Gold', 'gold 4', 'gold 1000000000 ', '"', '{}', 'x' x 3000;
        is $httpd->statuses('/tier', 5, from => fresh_address(), of_plan('gold')), '404 404 404 404 429',
            'tier gold has a quota of 4';
        my $barred = $httpd->get('/tier', from => fresh_address(), of_plan('barred'));
        is $barred->status, 429, 'a tier with a quota of 0 is denied';
        is $barred->header('Retry-After'), undef, 'without Retry-After';
        my @from = (from => fresh_address());
        is $httpd->statuses('/tier', 6, @from, of_plan('partner')), '404 404 404 404 404 404',
            'an unlimited tier always passes';
        my $partner = $httpd->get('/tier', @from, of_plan('partner'));
        is $partner->header('X-Verdict'), 'exempt', 'its verdict is "exempt"';
        is $partner->header('X-Rule'), 'tier', 'by the rule of the tier';
        is $partner->header('RateLimit'), undef, 'without a RateLimit header';
        is $httpd->statuses('/tier', 3, @from), '404 404 429', 'an unlimited tier is not charged';
        is $httpd->statuses('/tier', 3, @from, of_plan('gold')), '404 404 429',
            'after the quota of the rule is spent, a larger tier has its remainder';
        is $httpd->statuses('/beside', 4, from => fresh_address(), of_plan('partner')), '404 404 404 429',
            'a rule beside an unlimited tier still applies';
    };

    subtest 'tiers of a bucket' => sub {
        is $httpd->statuses('/bucket', 4, from => fresh_address()), '404 404 404 429',
            'without a tier, the burst of the rule';
        is $httpd->statuses('/bucket', 6, from => fresh_address(), of_plan('gold')), '404 404 404 404 404 429',
            'the burst of the tier';
        is $httpd->statuses('/bucket', 5, from => fresh_address(), of_plan('plain')), '404 404 404 404 429',
            'a tier without burst= has its quota as burst';
        my $answer = $httpd->get('/bucket', from => fresh_address(), of_plan('gold'));
        is $answer->header('X-RateLimit-Limit'), 5, 'X-RateLimit-Limit is the burst';
        is $answer->header('X-RateLimit-Remaining'), 4, 'X-RateLimit-Remaining is one less';
        is $answer->header('RateLimit-Limit'), 5, 'RateLimit-Limit is the burst too';
        is $answer->header('RateLimit-Policy'), '"bucket";q=2;w=86400', 'RateLimit-Policy is the rate';
    };

    subtest 'a short and a long rule together' => sub {
        my @from = (from => fresh_address());
        my ($passed, $by_short, $denied) = (0, 0);
        for (1 .. 200) {
            my $answer = $httpd->get('/day', @from);
            if ($answer->status != 429) { $passed++; next }
            $denied = decode_json($answer->body);
            my $by = "@{ $denied->{'violated-policies'} }";
            last if $by =~ /day/;
            is $by, 'short', 'the short rule denies first' if !$by_short++;
            cmp_ok $denied->{retry_after_ms}, '<=', 1000, 'for at most its own window';
            sleep $denied->{retry_after_ms} / 1000;
        }
        is $passed, 5, 'the long rule denies after five: the requests that the short one denied cost nothing';
        ok $by_short, 'both rules have denied';
        cmp_ok $denied->{retry_after}, '>', 3, 'Retry-After is that of the long rule';
    };

    subtest 'a shadow rule beside a live one' => sub {
        my @from = (from => fresh_address());
        my @answers = map { $httpd->get('/shadow', @from) } 1 .. 5;
        is join(' ', map { $_->status } @answers), '404 404 404 404 429', 'the shadow rule denies nothing';
        is join(' ', map { $_->header('X-Verdict') } @answers), 'pass pass shadow shadow deny',
            'the notes show when it would have denied';
        is join(' ', map { $_->header('X-Rule') } @answers), 'live live dry dry live',
            'and which rule the verdict is from';
        is $answers[2]->header('RateLimit-Policy'), '"live";q=4;w=86400',
            'RateLimit-Policy leaves the shadow rule out';
        is $httpd->statuses('/closed-shadow', 3, from => fresh_address()), '404 404 404',
            'a shadow rule with a quota of 0 denies nothing';
    };

    subtest 'a shadow rule beside one that denies already' => sub {
        is $httpd->statuses('/unvetoed', 7, from => fresh_address()), '404 404 429 429 429 429 429',
            'one rule denies';
        my $watching = Status->of($httpd)->rule('watching');
        is $watching->{Passed}, 5, 'the shadow rule goes on counting as if it were alone';
        is $watching->{Shadowed}, 2, 'and reports when it would deny';
    };

    subtest 'expressions that fail while requests are served' => sub {
        my @from = (from => fresh_address());
        is $httpd->statuses('/fails/when', 2, @from), '404 429', 'when=: the rule applies';
        is $httpd->statuses('/fails/unless', 2, @from), '404 429', 'unless=: the rule applies';
        is $httpd->statuses('/fails/cost', 3, @from), '404 404 429', 'cost=: the request costs 1';
        is $httpd->statuses('/fails/tier', 3, @from), '404 404 429', 'tier=: the quota of the rule is used';
        is $httpd->statuses('/fails/key', 3, @from), '404 404 429', 'key=: the address is the key';
        is $httpd->statuses('/fails/key', 2, from => fresh_address()), '404 404',
            'and each address has its own count';
        $httpd->statuses("/fails/$_", 5, @from) for qw(when unless cost tier key);
        my @lines = $httpd->error_log_lines(qr/ratelimit: expression ".*" failed: /);
        # cost=, tier= and key= are the same expression here
        is scalar(@lines), 3, 'each expression is logged once' or diag join "\n", @lines;
        my @costs = $httpd->error_log_lines(qr/rule=cost: cost=%\{HTTP:X-Cost\} is not a whole number; charging 1/);
        is scalar(@costs), 1, 'costs that are not numbers are logged once' or diag join "\n", @costs;
        unlike $httpd->error_log, qr/0x10|1e3|1;2/, 'the log does not repeat what clients sent';
    };

    my @broken = grep { !/^(?:\[|ratelimit: RateLimit ")/ } split /\n/, $httpd->error_log;
    is "@broken", '', 'every line of the log is whole';
}

my $shared = "RateLimitRedis \@REDIS\@\nRateLimitRedisTimeout 10s connect=10s\n";
my $redis  = RedisServer->start;

subtest 'by this host' => sub {
    check(Httpd->start(modules => ['headers', 'status'], vars => \%vars, config => $config));
};

subtest 'by Redis' => sub {
    check(Httpd->start(modules => ['headers', 'status'], vars => \%vars, redis => $redis,
        config => $shared . $config));
};

my $scopes = <<'EOF';
RateLimit login 1/1d
<VirtualHost *:@PORT2@>
    RateLimitScope shop
</VirtualHost>
<VirtualHost *:@PORT3@>
    RateLimitScope forum
</VirtualHost>
<VirtualHost *:@PORT4@>
    RateLimitScope shop
    RateLimit login 2/1d
</VirtualHost>
EOF

for my $where ('by this host', 'by Redis') {
    subtest "RateLimitScope, $where" => sub {
        my $httpd = Httpd->start(redis => $redis, ports => 4,
            config => ($where eq 'by Redis' ? $shared : '') . $scopes);
        my @from = (from => fresh_address());
        my $at = sub { $httpd->get('/hello.txt', @from, port => $httpd->port($_[0]))->status };
        is join(' ', map { $at->($_) } 0, 0, 1, 1, 2, 2), '200 429 200 429 200 429',
            'each scope counts for itself';
        is join(' ', map { $at->(3) } 1, 2), '200 429', 'virtual hosts of one scope share a count';
        return if $where ne 'by Redis';
        my @keys = map { "rl:{ip:$from[1]}:${_}login:sliding-window:1d" } 'forum/', '', 'shop/';
        is_deeply [sort @{ $redis->cmd('KEYS', "rl:{ip:$from[1]}:*") }], \@keys, 'keys in Redis contain the scope';
    };
}

subtest 'RateLimitScope of the main server' => sub {
    my $httpd = Httpd->start(redis => $redis, ports => 2, config => $shared . <<'EOF');
RateLimitScope main
RateLimit login 2/1d
<VirtualHost *:@PORT2@>
</VirtualHost>
EOF
    my @from = (from => fresh_address());
    is join(' ', map { $httpd->get('/hello.txt', @from, port => $httpd->port($_))->status } 0, 1, 0),
        '200 200 429', 'virtual hosts inherit it';
    is $redis->cmd('EXISTS', "rl:{ip:$from[1]}:main/login:sliding-window:1d"), 1, 'and the key in Redis contains it';
};

done_testing;
