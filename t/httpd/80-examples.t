#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
# Every file of conf/examples is loaded unchanged into a real httpd, gets traffic, and denies where its
# comments say so. This test has the examples about logins and about hosts behind a load balancer, and the
# files that a2enmod links; 82 to 86 have the other examples.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";

use Certificates;
use Client;
use Digest::SHA qw(sha1_base64 sha256_hex);
use Examples;
use Fallback;
use Httpd;
use IO::Socket::INET;
use Ports;
use Process;
use RedisServer;
use Test::More;
use Windows;

my $conf    = $Examples::CONF;
my $timeout = $Examples::LONG_TIMEOUT;

*statuses = \&Examples::statuses;

my $tests = join '', map { Examples::slurp($_) } glob "$FindBin::Bin/8*.t";
ok $tests =~ /'\Q$_\E' *=>/, "$_ has a test" for Examples::names();

Examples::run(
    'login.conf'            => \&login_slows_guessing_down,
    'basic-auth.conf'       => \&basic_auth_counts_wrong_passwords,
    'api-behind-proxy.conf' => \&api_counts_keys_and_addresses,
    'redis-over-stunnel.conf' => \&redis_is_asked_through_stunnel,
);
subtest 'ratelimit_redis.conf' => \&shipped_configuration_lets_the_admin_in;
done_testing;

# A login that answers a right password with 303 and a wrong one with its form, as most do. The password is
# in the query string, where httpd can see it.
sub login_host {
    my ($file, %opt) = @_;
    my %page = (modules => ['rewrite'], files => { login => "<form>\n" });
    return Httpd->start(%opt, %page, config => <<"EOC");
$opt{before}
Include $file
<Directory \@DOCROOT\@>
    RewriteEngine on
    RewriteCond %{REQUEST_METHOD} =POST
    RewriteCond %{QUERY_STRING} =good
    RewriteRule (?i)^login /welcome [R=303,QSD,L]
    RewriteCond %{REQUEST_METHOD} =POST
    RewriteRule (?i)^login login [END]
</Directory>
EOC
}

# Repeats a denied request until the denial is a block. Responses are counted after they are sent, so the
# first denials can be for requests that are still pending.
sub until_blocked {
    my ($host, @request) = @_;
    my $denied;
    Process::wait_until(
        sub {
            $denied = $host->request(@request);
            die 'not denied but ' . $denied->status . "\n" if $denied->status != 429;
            return $denied->header('Retry-After') > 1;
        },
        what => 'a block', within => 30,
    );
    return $denied;
}

sub login_slows_guessing_down {
    my ($file) = @_;
    my $host = login_host($file, before => '');
    Windows::time_left(25, 900);
    my @good  = (path => '/login?good', method => 'POST', body => 'password=right');
    my @guess = (path => '/login', method => 'POST', body => 'password=guess');

    is_deeply statuses($host, 30, @good), { 303 => 30 }, 'successful logins cost nothing';
    is_deeply statuses($host, 10, @guess), { 200 => 10 }, 'ten wrong passwords are checked';
    my $denied = until_blocked($host, @guess);
    my $wait   = $denied->header('Retry-After');
    # the block, or the time until one of ten fits again, which is less later in the window
    ok $wait > 880 && $wait <= 990, "then the address waits a quarter of an hour ($wait s)";
    is $denied->header('X-RateLimit-Limit'), undef, 'the number of tries is not shown';
    like $denied->body, qr/"detail":"Too many requests\. Try again in \d+ seconds\."/,
        'the body says when to come back';
    like $denied->body, qr/"violated-policies":\[\]/, 'and does not name the rule';
    is $host->request(@good)->status, 429, 'the right password is denied as well';

    for my $spelling ('/Login', '/login/', '//login', '/login;x=1', '/login.php', '/log%69n',
        '/./login', '/x/../login', '/login?x=1', '/index.php/login', '/app/Login/', '/login.php/x',
        '/x%2Flogin', '/x%2F..%2flogin', '/x/..;/login', '/%256cogin', 'http://localhost/login')
    {
        is $host->request(@guess, path => $spelling)->status, 429, "$spelling is denied as well";
    }
    is $host->get('/login')->status, 200, 'the form itself is served';
    no_way_around_by_a_front_controller($file);
    is $host->request(@good, from => '127.0.0.2')->status, 303, 'other clients can log in';

    my $together = Examples::at_once($host, 60, 30, @guess, from => '127.0.0.3');
    is $together->{200}, 10, 'ten of 60 concurrent guesses are checked';
    is $together->{429}, 50, 'the others are denied';

    Windows::time_left(25, 60);
    my %passed;
    for (1 .. 10) {    # 700 guesses, ten from each address
        my $flood = Examples::at_once($host, 70, 70, @guess,
            from => [map { "127.0.1.$_" } 1 .. 70]);
        $passed{$_} += $flood->{$_} for keys %$flood;
    }
    is_deeply \%passed, { 200 => 700 }, 'guesses from many addresses pass, so no user is locked out';
    my ($line) = $host->wait_for_log(qr/rule=login-flood/);
    like $line, qr/would deny \(shadow\)/, 'but are logged';

    my $redis = RedisServer->start;
    my @hosts = map {
        login_host($file, redis => $redis, before => "RateLimitRedis \@REDIS\@\n$timeout")
    } 1, 2;
    my %seen;
    $seen{ $hosts[$_ % 2]->request(@guess)->status }++ for 1 .. 12;
    is_deeply \%seen, { 200 => 10, 429 => 2 }, 'with Redis two hosts together check ten passwords';
    until_blocked($hosts[0], @guess);
    is $hosts[1]->request(@good)->status, 429, 'a block is valid on both';
}

# A form behind a front controller, with the usual ways to send every path there: ten wrong passwords are
# checked, over all spellings of the path together, and then none.
sub no_way_around_by_a_front_controller {
    my ($file) = @_;
    my $folder = sub { return "<Directory \@DOCROOT\@>\n$_[0]\n</Directory>" };
    my %front = (
        'FallbackResource'         => $folder->('FallbackResource /page.html'),
        'RewriteRule in a folder'  => $folder->("RewriteEngine on\nRewriteRule ^ /page.html [END]"),
        'RewriteRule'              => "RewriteEngine on\nRewriteRule ^ /page.html [L]",
        'RewriteRule [PT]'         => "RewriteEngine on\nRewriteRule ^ /page.html [PT]",
        'AliasMatch and NoDecode'  => "AllowEncodedSlashes NoDecode\nAliasMatch ^ \@DOCROOT\@/page.html",
    );
    for my $by (sort keys %front) {
        my $host = Httpd->start(modules => ['rewrite'], config =>
                "Define LOGIN_FAILED 200,404\nInclude $file\n$front{$by}\nAcceptPathInfo On\n");
        my $guess = sub { $host->request(path => $_[0], method => 'POST', body => 'x')->status };
        my @spellings = qw(/login /page.html/login /Login/ /login;a=b /index.php/login// /api/login.php);
        push @spellings, '/api%2Flogin' if $by =~ /NoDecode/;
        my @statuses = map { $guess->($spellings[$_ % @spellings]) } 0 .. 9;
        ok !(grep { $_ == 429 } @statuses), "$by: ten tries are checked (@statuses)";
        Process::wait_until(sub { $guess->('/login') == 429 }, what => 'a denial');
        is $guess->($_), 429, "$by: then $_ is denied" for @spellings;
    }
}

sub basic_auth_counts_wrong_passwords {
    my ($file) = @_;
    my $host = Httpd->start(
        modules => [qw(auth_basic authn_file authz_user)],
        files   => { 'private/page.html' => "secret\n",
            '../users' => 'ann:{SHA}' . sha1_base64('right') . "=\n" },
        config  => "Define USERS \@DIR\@/users\nInclude $file\n",
    );
    Windows::time_left(25, 600);
    my @page  = (path => '/private/page.html');
    my @right = (@page, headers => { Authorization => 'Basic YW5uOnJpZ2h0' });    # ann:right
    my @wrong = (@page, headers => { Authorization => 'Basic YW5uOndyb25n' });    # ann:wrong

    is_deeply statuses($host, 70, @page),  { 401 => 70 }, 'requests without a password cost nothing';
    is_deeply statuses($host, 70, @right), { 200 => 70 }, 'the right password costs nothing';
    is_deeply statuses($host, 50, @wrong), { 401 => 50 }, 'fifty wrong passwords are checked';
    until_blocked($host, @wrong);
    is $host->request(@right)->status, 429, 'then no password is checked';
    is $host->request(@right, from => '127.0.0.2')->status, 200, 'the password of another client is';
}

sub api_counts_keys_and_addresses {
    my ($file) = @_;
    my $redis   = RedisServer->start;
    my $backend = Httpd->start(mpm => 'event', module => 0, modules => ['headers'], config => <<'EOC', files => {
Header set RateLimit "\"backend\";r=1"
EOC
        'api/items' => "items\n", 'api/search' => "found\n", 'api/health' => "fine\n" });
    my @hosts = map { api_host($file, $redis, $backend) } 1, 2;
    my $host  = $hosts[0];
    Windows::time_left(25, 60);
    my @mine  = (path => '/api/items', headers =>
            { 'X-Api-Key' => 'key of mine', 'X-Forwarded-For' => '203.0.113.7' });

    is_deeply [$host->error_log_lines(qr/RateLimit "/)], [], 'there is no warning about the keys';

    my $first = $host->request(@mine);
    is $first->body, "items\n", 'a request reaches the backend';
    is_deeply [$first->header_all('RateLimit-Policy')], ['"api-key";q=100;w=60, "api-ip";q=300;w=60'],
        'the response has the policies of both limits';
    my ($tightest, @more) = $first->header_all('RateLimit');
    like $tightest, qr/^"api-key";r=99;t=\d+$/, 'and what is left of the tighter one';
    is_deeply \@more, [], 'once: the header of the backend is dropped';
    is $first->header('X-RateLimit-Limit'), undef, 'other headers are not sent';

    my %seen;
    $seen{ $hosts[$_ % 2]->request(@mine)->status }++ for 1 .. 101;
    is_deeply \%seen, { 200 => 99, 429 => 2 }, 'a key has 100 requests on both hosts together';
    my $denied = $host->request(@mine);
    is $denied->header('Content-Type'), 'application/problem+json', 'the denial is a problem document';
    like $denied->body, qr/"violated-policies":\["api-key"\]/, 'that names the rule';

    my $digest = substr sha256_hex('header:x-api-key:key of mine'), 0, 32;
    is $redis->cmd('EXISTS', "rl:{$digest}:api-key:sliding-window:1m"), 1,
        'the key is in Redis as a digest';
    is_deeply [grep { /mine/ } @{ $redis->cmd('KEYS', '*') }, $host->error_log], [],
        'and nowhere in clear text';

    sub_quota_of_search($host);
    no_way_around_the_address($host);

    is_deeply statuses($host, 320, path => '/api/health'), { 200 => 320 },
        'health checks of the load balancer are never denied';
    is $host->get('/api%2Fsearch')->status, 404, 'a path that the section does not match is not proxied';
    my @log = split /\n/, $host->text('access.log');
    like $log[0], qr/^200 pass api-key redis 99$/, 'the access log has the notes of each verdict';
}

sub sub_quota_of_search {
    my ($host) = @_;
    my %search = (path => '/api/search', headers =>
            { 'X-Api-Key' => 'searcher', 'X-Forwarded-For' => '203.0.113.8' });

    is_deeply statuses($host, 12, %search), { 200 => 10, 429 => 2 }, 'ten searches pass';
    is $host->request(%search, path => $_)->status, 429, "$_ is denied as well"
        for qw(/api/Search /api/search;x=1 /api//search /api/x/..;/search /api/search/all
            /api/x%2F..%2Fsearch /api/health/..;/search /api/health/..%2Fsearch);
    is $host->request(%search, path => '/api/items')->status, 200, 'other paths still pass';
    my $keys = Client->flood(
        targets => [$host->port], requests => 40, connections => 4, path => '/api/search',
        headers => sub { return { 'X-Api-Key' => "s $_[0]", 'X-Forwarded-For' => '203.0.113.8' } },
    );
    is_deeply $keys->{status}, { 200 => 20, 429 => 20 }, 'with other keys an address has thirty searches';
}

sub no_way_around_the_address {
    my ($host) = @_;
    my %fresh = (targets => [$host->port], requests => 310, connections => 8, path => '/api/items');

    my $keys = Client->flood(%fresh, headers => sub {
        return { 'X-Api-Key' => "invented $_[0]", 'X-Forwarded-For' => '203.0.113.9' };
    });
    is_deeply $keys->{status}, { 200 => 300, 429 => 10 }, 'with ever new keys an address has 300 requests';
    my $spoofed = Client->flood(%fresh, from => '127.0.0.66', headers => sub {
        return { 'X-Api-Key' => "spoofed $_[0]", 'X-Forwarded-For' => "198.51.100.$_[0]" };
    });
    is_deeply $spoofed->{status}, { 200 => 300, 429 => 10 },
        'a client that is not the load balancer cannot choose its address';
    my $keyless = Client->flood(%fresh, headers => { 'X-Forwarded-For' => '203.0.113.10' });
    is_deeply $keyless->{status}, { 200 => 100, 429 => 210 }, 'without a key an address has 100';
}

# Every client at 127.0.0.1 is the load balancer.
sub api_host {
    my ($file, $redis, $backend) = @_;
    return Httpd->start(
        modules => [qw(proxy proxy_http remoteip)],
        redis   => $redis,
        vars    => { BACKEND => 'http://127.0.0.1:' . $backend->port },
        config  => <<"EOC");
Define BACKEND \@BACKEND\@
Define REDIS \@REDIS\@
$timeout
Define LOAD_BALANCER 127.0.0.1
AllowEncodedSlashes NoDecode
Include $file
CustomLog \@DIR\@/access.log "%>s %{RATELIMIT_VERDICT}n %{RATELIMIT_RULE}n %{RATELIMIT_SOURCE}n %{RATELIMIT_REMAINING}n"
EOC
}

sub shipped_configuration_lets_the_admin_in {
    is Examples::slurp("$conf/ratelimit_redis.load"),
        "LoadModule ratelimit_redis_module /usr/lib/apache2/modules/mod_ratelimit_redis.so\n",
        'the module is loaded from where make install puts it';
    my ($code, $said) =
        Httpd->config_test(modules => ['status'], config => "Include $conf/ratelimit_redis.conf");
    is $code, 0, 'the configuration loads' or diag $said;

    # lines that are commented out must be valid, some of them with a Redis
    my @lines = Examples::slurp("$conf/ratelimit_redis.conf") =~ /^ *#(RateLimit.*)$/mg;
    ok @lines > 5, 'it has settings that are commented out';
    for my $line (@lines) {
        my $redis = $line =~ /^RateLimitRedis / ? '' : 'RateLimitRedis redis://127.0.0.1:6379';
        is +(Httpd->config_test(config => "$redis\n$line"))[0], 0, $line;
    }

    my $httpd = Httpd->start(modules => ['status'], config => <<"EOC");
RateLimit all 3/1h
Include $conf/ratelimit_redis.conf
<Location "/server-status">
    SetHandler server-status
</Location>
EOC
    is_deeply statuses($httpd, 5, path => '/'), { 200 => 3, 429 => 2 }, 'the site is limited';
    is_deeply statuses($httpd, 5, path => '/server-status?auto'), { 200 => 5 },
        'its status page is not';
    is_deeply statuses($httpd, 5, path => '/ratelimit-metrics'), { 200 => 5 }, 'its metrics are not';
}

# The stunnel.conf in the comments is used unchanged except for paths, addresses and names.
sub redis_is_asked_through_stunnel {
    my ($file) = @_;
    my $ca     = Certificates->new;
    my $server = $ca->issue('redis', 'DNS:localhost');
    my ($tls, $port) = (Ports::free(), Ports::free());
    my $redis = RedisServer->start(conf => ["tls-port $tls", 'tls-auth-clients no',
        "tls-cert-file $server->{cert}", "tls-key-file $server->{key}",
        'tls-ca-cert-file ' . $ca->file]);
    my $dir = Process::tempdir('stunnel');
    open my $in, '<', $file or die "$file: $!\n";
    my $conf = join '', map { /^#     (\w.* =.*\n|\[.*\n)/ ? $1 : () } <$in>;
    $conf =~ s/127\.0\.0\.1:6378/127.0.0.1:$port/ or die "no accept in $file\n";
    $conf =~ s/^connect = .*/connect = 127.0.0.1:$tls/m or die "no connect in $file\n";
    $conf =~ s/^checkHost = .*/checkHost = localhost/m or die "no checkHost in $file\n";
    $conf =~ s/^CAfile = .*/'CAfile = ' . $ca->file/me or die "no CAfile in $file\n";
    open my $out, '>', "$dir/redis.conf" or die "$dir/redis.conf: $!\n";
    print $out $conf;
    close $out or die "$dir/redis.conf: $!\n";
    Process::spawn(command => ['stunnel4', "$dir/redis.conf"], log => "$dir/log", name => 'stunnel');
    Process::wait_until(sub { IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $port) },
        what => 'stunnel to listen');
    my $host = Httpd->start(modules => ['headers'], config => <<"EOC");
Define STUNNEL 127.0.0.1:$port
$timeout
Include $file
<Location /hello.txt>
    RateLimit one 3/1h
    RateLimitNotes all
    Header always set X-Source %{RATELIMIT_SOURCE}e
</Location>
EOC
    is $host->get('/hello.txt')->header('X-Source'), 'redis', 'Redis decides' for 1 .. 3;
    is $host->get('/hello.txt')->status, 429, 'and denies beyond the quota';
    is scalar(@{ $redis->cmd('KEYS', '*:one:*') }), 1, 'the count is in Redis';
    $redis->kill9;
    is $host->get('/hello.txt', from => '127.0.0.2')->status, 200, 'without Redis requests pass';
    $redis->restart;
    Fallback::wait_for_verdict($host);
    pass 'Redis decides again when it is back';
}
