#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
# The files of conf/examples for APIs and applications do what their comments say: plans, users, costs,
# uploads, webhooks and busy keys.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";

use Client;
use Digest::SHA qw(sha1_base64);
use Examples;
use Httpd;
use MIME::Base64 qw(encode_base64);
use RedisServer;
use Status;
use Test::More;
use Windows;

*statuses = \&Examples::statuses;
*at_once  = \&Examples::at_once;

Examples::run(
    'api-plans.conf' => \&plans_have_quotas,
    'api-keys.conf'  => \&keys_have_plans,
    'per-user.conf'  => \&users_have_quotas_and_so_do_addresses,
    'costs.conf'     => \&expensive_requests_cost_more,
    'uploads.conf'   => \&bytes_are_counted,
    'hot-keys.conf'  => \&busy_keys_are_leased,
    'webhooks.conf'  => \&deliveries_queue,
);
done_testing;

# Users whose passwords are their names, and the headers that they send.
sub users { return join '', map { "$_:{SHA}" . sha1_base64($_) . "=\n" } @_ }

sub as {
    my ($user, %more) = @_;
    return (headers => { Authorization => 'Basic ' . encode_base64("$user:$user", ''), %more });
}

# The claims are set at the same time as by mod_auth_openidc: when the user is known.
sub plans_have_quotas {
    my ($file) = @_;
    my $redis = RedisServer->start;
    my $host  = Httpd->start(
        redis   => $redis,
        modules => [qw(auth_basic authn_file authz_user rewrite)],
        files   => { 'api/items' => "items\n", '../users' => users(qw(bob sue guy eve)) },
        config  => <<"EOC");
RateLimitRedis \@REDIS\@
$Examples::LONG_TIMEOUT
Include $file
<Location "/api/">
    AuthType Basic
    AuthName api
    AuthUserFile \@DIR\@/users
    Require valid-user
</Location>
<Directory \@DOCROOT\@>
    RewriteEngine on
    RewriteCond %{REMOTE_USER} =sue
    RewriteRule ^ - [E=OIDC_CLAIM_plan:silver]
    RewriteCond %{REMOTE_USER} =guy
    RewriteRule ^ - [E=OIDC_CLAIM_plan:gold]
    RewriteCond %{REMOTE_USER} =eve
    RewriteRule ^ - [E=OIDC_CLAIM_plan:closed]
</Directory>
EOC
    Windows::time_left(30, 60);
    my %api  = (path => '/api/items');
    my $none = $host->request(%api, as('bob'));
    is $none->header('X-RateLimit-Limit'), 20, 'without a plan a user has 20 a minute';
    is $none->header('RateLimit-Policy'), '"minute";q=20;w=60, "day";q=1000;w=86400',
        'and 1000 a day';
    is_deeply statuses($host, 20, %api, as('bob')), { 200 => 19, 429 => 1 }, 'and not more';
    is $host->request(%api, as('bob', OIDC_CLAIM_plan => 'gold', 'OIDC-CLAIM-plan' => 'gold'))->status,
        429, 'a header of a client sets no plan';

    my $silver = $host->request(%api, as('sue'));
    is $silver->header('RateLimit-Policy'), '"minute";q=100;w=60, "day";q=20000;w=86400',
        'silver has 100 a minute and 20000 a day';
    is_deeply at_once($host, 105, 4, %api, as('sue')), { 200 => 99, 429 => 6 }, 'and not more';
    my $gold = $host->request(%api, as('guy'));
    is $gold->header('RateLimit-Policy'), '"minute";q=500;w=60', 'gold has 500 a minute and no limit a day';
    is $redis->cmd('EXISTS', 'rl:{user:guy}:day:sliding-window:1d'), 0, 'and is not counted by day';

    my $closed = $host->request(%api, as('eve'));
    is $closed->status, 429, 'a closed plan is denied';
    is $closed->header('Retry-After'), undef, 'without Retry-After';

    my $strangers = at_once($host, 610, 4, %api, from => '127.0.0.2');
    is_deeply $strangers, { 401 => 600, 429 => 10 }, 'clients without a login are counted by address';
    is $host->get('/index.php/Api/items', from => '127.0.0.2')->status, 429, 'in any spelling of the path';
}

sub keys_have_plans {
    my ($file) = @_;
    my $host = Httpd->start(
        modules => ['rewrite'],
        files   => { 'api/items' => "items\n", '../keys' => <<'EOK' },
k1  acme/gold
k2  acme/gold
k3  globex/silver
k4  initech/bronze
EOK
        config => "Define API_KEYS \@DIR\@/keys\nInclude $file\n");
    Windows::time_left(30, 60);
    my %api = (path => '/api/items');
    my $key = sub { return (headers => { 'X-Api-Key' => $_[0] }) };

    my $first = $host->request(%api, $key->('k1'));
    is $first->header('X-RateLimit-Limit'), 500, 'gold has 500';
    is $host->request(%api, $key->('k2'))->header('X-RateLimit-Remaining'), 498,
        'all keys of a customer share the quota';
    is_deeply at_once($host, 105, 4, %api, $key->('k3')), { 200 => 100, 429 => 5 },
        'silver has 100';
    is_deeply at_once($host, 25, 4, %api, $key->('k4')), { 200 => 20, 429 => 5 },
        'a plan without a line has 20';
    is $host->request(%api, $key->('k1'), from => '127.0.0.2')->status, 200,
        'a customer can use any address';

    my $made_up = at_once($host, 30, 4, %api, from => '127.0.0.3',
        headers => sub { return { 'X-Api-Key' => "k1$_[0]" } });
    is_deeply $made_up, { 200 => 20, 429 => 10 }, 'unknown keys are counted by address';
    my @tricks = ('k1|k3', '${api-keys:k1}', 'acme/gold', ' ', '%1', "k5|acme/gold");
    is_deeply [map { $host->request(%api, $key->($_), from => '127.0.0.3')->status } @tricks],
        [map { 429 } @tricks], 'whatever they look like';
    is $host->get($_, $key->('k5'), from => '127.0.0.3')->status, 429, "$_ is denied as well"
        for qw(/API/items /index.php/api/items /x/..;/api/items);
    isnt $host->get('/other', from => '127.0.0.3')->status, 429, 'another path of the site is not';
}

sub users_have_quotas_and_so_do_addresses {
    my ($file) = @_;
    my $host = Httpd->start(
        modules => [qw(auth_basic authn_file authz_user)],
        files   => { 'app/page.html' => "page\n", '../users' => users(qw(ann bob)) },
        config  => "Define USERS \@DIR\@/users\nInclude $file\n",
    );
    Windows::time_left(30, 60);
    my %app  = (path => '/app/page.html');
    my @from = map { "127.0.2.$_" } 1 .. 4;
    is_deeply at_once($host, 70, 4, %app, as('ann'), from => \@from), { 200 => 60, 429 => 10 },
        'a user has 60 from all addresses together';
    is $host->request(%app, as('bob'), from => $from[0])->status, 200, 'another user has another 60';
    is_deeply at_once($host, 310, 8, %app, as('ann'), from => '127.0.0.9'), { 429 => 310 },
        'a user without units left is denied from any address';
    is $host->request(%app, as('bob'), from => '127.0.0.9')->status, 200,
        'these denials cost the address nothing';

    my $flood = at_once($host, 310, 8, %app, as('nobody'), from => '127.0.0.8');
    is_deeply $flood, { 401 => 300, 429 => 10 }, 'an address has 300 failed logins';
    is $host->request(%app, as('bob'), from => '127.0.0.8')->status, 429, 'then the right password is denied, too';
}

sub expensive_requests_cost_more {
    my ($file) = @_;
    my $host = Httpd->start(config => "Include $file",
        files => { map { ("api/$_" => $_) } qw(items search report) });
    # a few units come back meanwhile, fewer than a report costs
    my $left = sub { return $host->get($_[0])->header('X-RateLimit-Remaining') };

    is $left->('/api/items'), 99, 'a plain request costs one of 100';
    my $after = $left->('/api/search');
    ok $after >= 94 && $after < 100, "a search costs five ($after are left)";
    $after = $host->get('/api/report');
    is $after->status, 200, 'a report passes';
    is $after->header('X-RateLimit-Limit'), 100,
        'the limit in the headers is the burst';
    is_deeply [map { $host->get('/api/report', from => '127.0.0.2')->status } 1 .. 3],
        [200, 200, 429], 'the third of three reports in a row does not fit';
    is $host->get('/api/items', from => '127.0.0.2')->status, 200, 'a plain request still does';
    is $host->get($_, from => '127.0.0.2')->status, 429, "$_ costs as much as a report"
        for qw(/api/Report /api/report;x /api//report/ /api/x/..;/report /index.php/api/report);

    my $denied = $host->get('/api/report', from => '127.0.0.2');
    my $wait   = $denied->header('Retry-After');
    ok $wait >= 1 && $wait <= 13, "Retry-After is the time until a report fits ($wait s)";
}

sub bytes_are_counted {
    my ($file) = @_;
    my $host = Httpd->start(config => "Include $file", files => { upload => "form\n" });
    Windows::time_left(30, 3600);
    my $post = sub {
        my ($from, $length, $body) = @_;
        return $host->request(path => '/upload', method => 'POST', from => $from,
            headers => { 'Content-Length' => $length }, body => $body);
    };
    # the requests announce a length and send less: a denial does not wait for a body
    my $mega = 'x' x 1_000_000;

    my $small = $host->request(path => '/upload', method => 'POST', body => $mega);
    isnt $small->status, 429, 'a megabyte passes';
    is $small->header('X-RateLimit-Limit'), 20, 'a client has 20 uploads';
    my $huge = $post->('127.0.0.2', 60_000_000, '');
    is $huge->status, 429, 'an upload above the quota is denied';
    is $huge->header('Retry-After'), undef, 'without Retry-After';
    is $huge->header('Connection'), 'close', 'and its body is not waited for';

    my $chunked = sub {
        return $host->request(path => '/upload', method => 'POST', from => $_[0],
            headers => { 'Transfer-Encoding' => 'chunked', @_[1 .. $#_] },
            body    => "1\r\nx\r\n0\r\n\r\n");
    };
    my @passed = grep { $chunked->('127.0.0.3')->status != 429 } 1 .. 8;
    is @passed, 5, 'uploads without a length cost 50 MB, so five pass';
    @passed = grep { $chunked->('127.0.0.4', 'Content-Length' => 1)->status != 429 } 1 .. 8;
    is @passed, 5, 'also if they send a length that is not used';

    my %tiny = (path => '/upload', method => 'PUT', body => 'x', from => '127.0.0.5');
    my $many = statuses($host, 22, %tiny);
    is $many->{429}, 2, '20 small uploads pass';
    is $host->request(%tiny, path => $_)->status, 429, "$_ is denied as well"
        for qw(/Upload/ /index.php/upload /upload;x=y /upload/file);
    is_deeply statuses($host, 30, path => '/upload', from => '127.0.0.5'), { 200 => 30 },
        'requests for the form cost nothing';
    is_deeply [$host->error_log_lines(qr/not a whole number/)], [], 'every cost was a number';
}

sub deliveries_queue {
    my ($file) = @_;
    my $host = Httpd->start(mpm => 'event', config => "Define SENDERS 127.0.3.0/24\nInclude $file",
        files => { 'hooks/payments' => "ok\n", 'hooks/mail' => "ok\n" });
    Windows::time_left(30, 60);
    my %deliver = (path => '/hooks/payments', from => '127.0.3.1');

    my $heap = Client->flood(targets => [$host->port], requests => 40, connections => 20, %deliver);
    my $most = 20 + int($heap->{seconds} + 0.1);
    my $came = $heap->{status}{200};
    ok $came >= 25 && $came <= $most, "of 40 deliveries 20 pass at once, and at least 5 after a delay ($came)"
        or diag "at most $most in $heap->{seconds} s";
    is $heap->{status}{503}, 40 - $came, 'the others get 503';
    is $host->get('/hooks/mail', from => '127.0.3.1')->status, 200,
        'the same sender has another count for another hook';

    my $stranger = at_once($host, 15, 4, path => '/hooks/mail', from => '127.0.0.2');
    is_deeply $stranger, { 200 => 10, 429 => 5 }, 'an unknown sender has ten';
    my $denied = $host->get('/hooks/mail', from => '127.0.0.2');
    is $denied->status, 429, 'then it is denied';
    is $host->get($_, from => '127.0.0.2')->status, 429,
        "$_ is denied as well" for qw(/Hooks/mail /index.php/hooks/mail);
    is $host->get('/hooks/mail', from => '127.0.3.2')->status, 200, 'the count of known senders is not affected';
    is_deeply statuses($host, 12, path => '/hooks/other', from => '127.0.0.4'),
        { 404 => 10, 429 => 2 }, 'another path is counted by address only';
}

# A customer's key is limited over both hosts, although few requests ask Redis.
sub busy_keys_are_leased {
    my ($file) = @_;
    my $redis = RedisServer->start;
    my @hosts = map {
        Httpd->start(redis => $redis, modules => ['status'], files => { 'api/items' => "items\n" },
            config => "RateLimitRedis \@REDIS\@\n$Examples::LONG_TIMEOUT\nInclude $file\n" . Status::CONFIG)
    } 1, 2;
    for my $host (@hosts) {
        is_deeply at_once($host, 2000, 32, path => '/api/items', headers => { 'X-Api-Key' => 'acme' }),
            { 200 => 2000 }, 'the requests of a busy key pass';
        my $status = Status->of($host);
        cmp_ok $status->rule($_)->{Leased}, '>', 1000, "most by leases of $_" for qw(api-total api-key api-ip);
        cmp_ok $status->{RedisAnswered}, '<', 1000, 'without asking Redis';
    }
    my $reply = $hosts[0]->get('/api/items');
    is $reply->header('X-RateLimit-Limit'), 20000, 'a client without a key is counted by its address'
        or diag $reply->status;
}
