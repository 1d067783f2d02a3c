#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
# Every file of conf/examples is loaded as it is into a real httpd, gets traffic,
# and denies where its comments promise it: here those about logins and about hosts
# that share a load balancer, in 82 to 84 the others. The files that a2enmod links are
# tried in the same way.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";

use Certificates;
use Client;
use Digest::SHA qw(sha1_base64 sha256_hex);
use Examples;
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

# A login here answers a good password with 303 and shows its form again for a bad one,
# as most do. The password stands in the query, where httpd can see it.
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

# A response is counted when it has been sent, which the client may be ahead of: what
# is asked for again until the denial is a block, and not for what is still under way.
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

    is_deeply statuses($host, 30, @good), { 303 => 30 }, 'good logins cost nothing';
    is_deeply statuses($host, 10, @guess), { 200 => 10 }, 'ten wrong passwords are heard';
    my $denied = until_blocked($host, @guess);
    my $wait   = $denied->header('Retry-After');
    # until one of ten fits again: late in a window sooner than early in it
    ok $wait > 880 && $wait <= 990, "then the address waits a quarter of an hour ($wait s)";
    is $denied->header('X-RateLimit-Limit'), undef, 'and is not told how many tries there are';
    like $denied->body, qr/"detail":"Too many requests\. Try again in \d+ seconds\."/,
        'but when to come back';
    like $denied->body, qr/"violated-policies":\[\]/, 'and not by which rule';
    is $host->request(@good)->status, 429, 'a right password does not show';

    for my $spelling ('/Login', '/login/', '//login', '/login;x=1', '/login.php', '/log%69n',
        '/./login', '/x/../login', '/login?x=1', '/index.php/login', '/app/Login/', '/login.php/x',
        '/x%2Flogin', '/x%2F..%2flogin', '/x/..;/login', '/%256cogin', 'http://localhost/login')
    {
        is $host->request(@guess, path => $spelling)->status, 429, "$spelling is the same form";
    }
    is $host->get('/login')->status, 200, 'the form still shows';
    no_way_around_by_a_front_controller($file);
    is $host->request(@good, from => '127.0.0.2')->status, 303, 'others may log in';

    my $together = Examples::at_once($host, 60, 30, @guess, from => '127.0.0.3');
    is $together->{200}, 10, 'of guesses sent at once ten are heard';
    is $together->{429}, 50, 'and no more';

    Windows::time_left(25, 60);
    my %passed;
    for (1 .. 10) {    # 700 guesses, ten from each address
        my $flood = Examples::at_once($host, 70, 70, @guess,
            from => [map { "127.0.1.$_" } 1 .. 70]);
        $passed{$_} += $flood->{$_} for keys %$flood;
    }
    is_deeply \%passed, { 200 => 700 }, 'guesses from many addresses pass: nobody is locked out';
    my ($line) = $host->wait_for_log(qr/rule=login-flood/);
    like $line, qr/would deny \(shadow\)/, 'and are logged';

    my $redis = RedisServer->start;
    my @hosts = map {
        login_host($file, redis => $redis, before => "RateLimitRedis \@REDIS\@\n$timeout")
    } 1, 2;
    my %seen;
    $seen{ $hosts[$_ % 2]->request(@guess)->status }++ for 1 .. 12;
    is_deeply \%seen, { 200 => 10, 429 => 2 }, 'with Redis two hosts hear ten tries together';
    until_blocked($hosts[0], @guess);
    is $hosts[1]->request(@good)->status, 429, 'and both keep to a block';
}

# A form behind a front controller, in the ways to send every path there: ten wrong
# passwords are heard, whichever spelling brings them, and then none by any.
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
        my @heard = map { $guess->($spellings[$_ % @spellings]) } 0 .. 9;
        ok !(grep { $_ == 429 } @heard), "$by: ten tries are heard (@heard)";
        Process::wait_until(sub { $guess->('/login') == 429 }, what => 'a denial');
        is $guess->($_), 429, "$by: and then none by $_" for @spellings;
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

    is_deeply statuses($host, 70, @page),  { 401 => 70 }, 'to be asked for a password is no guess';
    is_deeply statuses($host, 70, @right), { 200 => 70 }, 'the right one costs nothing';
    is_deeply statuses($host, 50, @wrong), { 401 => 50 }, 'fifty wrong ones are heard';
    until_blocked($host, @wrong);
    is $host->request(@right)->status, 429, 'then no password is looked at any more';
    is $host->request(@right, from => '127.0.0.2')->status, 200, 'but that of others';
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

    is_deeply [$host->error_log_lines(qr/RateLimit "/)], [], 'no warning about its keys';

    my $first = $host->request(@mine);
    is $first->body, "items\n", 'a request reaches the backend';
    is_deeply [$first->header_all('RateLimit-Policy')], ['"api-key";q=100;w=60, "api-ip";q=300;w=60'],
        'and hears of both limits';
    my ($tightest, @more) = $first->header_all('RateLimit');
    like $tightest, qr/^"api-key";r=99;t=\d+$/, 'and what is left of the tighter';
    is_deeply \@more, [], 'once: what the backend says of that is dropped';
    is $first->header('X-RateLimit-Limit'), undef, 'other headers are not sent';

    my %seen;
    $seen{ $hosts[$_ % 2]->request(@mine)->status }++ for 1 .. 101;
    is_deeply \%seen, { 200 => 99, 429 => 2 }, 'a key has 100 requests on both hosts together';
    my $denied = $host->request(@mine);
    is $denied->header('Content-Type'), 'application/problem+json', 'a program can read the denial';
    like $denied->body, qr/"violated-policies":\["api-key"\]/, 'which names the rule';

    my $digest = substr sha256_hex('header:x-api-key:key of mine'), 0, 32;
    is $redis->cmd('EXISTS', "rl:{$digest}:api-key:sliding-window:1m"), 1,
        'the key stands in Redis as its digest';
    is_deeply [grep { /mine/ } @{ $redis->cmd('KEYS', '*') }, $host->error_log], [],
        'and nowhere as it is';

    sub_quota_of_search($host);
    no_way_around_the_address($host);

    is_deeply statuses($host, 320, path => '/api/health'), { 200 => 320 },
        'the load balancer is never denied';
    is $host->get('/api%2Fsearch')->status, 404, 'what the section does not match is not proxied';
    my @log = split /\n/, do { local (@ARGV, $/) = ($host->dir . '/access.log'); <> };
    like $log[0], qr/^200 pass api-key redis 99$/, 'the notes tell of each verdict';
}

sub sub_quota_of_search {
    my ($host) = @_;
    my %search = (path => '/api/search', headers =>
            { 'X-Api-Key' => 'searcher', 'X-Forwarded-For' => '203.0.113.8' });

    is_deeply statuses($host, 12, %search), { 200 => 10, 429 => 2 }, 'ten searches pass';
    is $host->request(%search, path => $_)->status, 429, "nor does $_"
        for qw(/api/Search /api/search;x=1 /api//search /api/x/..;/search /api/search/all
            /api/x%2F..%2Fsearch /api/health/..;/search /api/health/..%2Fsearch);
    is $host->request(%search, path => '/api/items')->status, 200, 'after that, the rest still does';
    my $keys = Client->flood(
        targets => [$host->port], requests => 40, connections => 4, path => '/api/search',
        headers => sub { return { 'X-Api-Key' => "s $_[0]", 'X-Forwarded-For' => '203.0.113.8' } },
    );
    is_deeply $keys->{status}, { 200 => 20, 429 => 20 }, 'with other keys, up to thirty';
}

sub no_way_around_the_address {
    my ($host) = @_;
    my %fresh = (targets => [$host->port], requests => 310, connections => 8, path => '/api/items');

    my $keys = Client->flood(%fresh, headers => sub {
        return { 'X-Api-Key' => "invented $_[0]", 'X-Forwarded-For' => '203.0.113.9' };
    });
    is_deeply $keys->{status}, { 200 => 300, 429 => 10 }, 'a new key each time ends at 300';
    my $spoofed = Client->flood(%fresh, from => '127.0.0.66', headers => sub {
        return { 'X-Api-Key' => "spoofed $_[0]", 'X-Forwarded-For' => "198.51.100.$_[0]" };
    });
    is_deeply $spoofed->{status}, { 200 => 300, 429 => 10 },
        'and who is not the load balancer cannot choose an address';
    my $keyless = Client->flood(%fresh, headers => { 'X-Forwarded-For' => '203.0.113.10' });
    is_deeply $keyless->{status}, { 200 => 100, 429 => 210 }, 'without a key there are 100';
}

# The load balancer is whoever connects from 127.0.0.1.
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
        'a2enmod finds the module where make install puts it';
    my ($code, $said) =
        Httpd->config_test(modules => ['status'], config => "Include $conf/ratelimit_redis.conf");
    is $code, 0, 'the configuration loads' or diag $said;

    # What is commented out is there to be uncommented; some of it needs a Redis.
    my @lines = Examples::slurp("$conf/ratelimit_redis.conf") =~ /^ *#(RateLimit.*)$/mg;
    ok @lines > 5, 'it shows settings';
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
    is_deeply statuses($httpd, 5, path => '/'), { 200 => 3, 429 => 2 }, 'a site is limited';
    is_deeply statuses($httpd, 5, path => '/server-status?auto'), { 200 => 5 },
        'its status is not';
    is_deeply statuses($httpd, 5, path => '/ratelimit-metrics'), { 200 => 5 }, 'nor are its metrics';
}

# The stunnel.conf in the comments is used as it stands there, but for places and names.
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
    is $host->get('/hello.txt')->status, 429, 'up to the quota';
    is scalar(@{ $redis->cmd('KEYS', '*:one:*') }), 1, 'where its count is';
    $redis->kill9;
    is $host->get('/hello.txt', from => '127.0.0.2')->status, 200, 'without Redis requests pass';
    $redis->restart;
    Process::wait_until(sub {
        $host->get('/hello.txt', from => '127.0.0.' . (3 + int rand 250))->header('X-Source') eq 'redis'
    }, what => 'Redis to decide again', within => 30);
    pass 'and it decides again when it is back';
}
