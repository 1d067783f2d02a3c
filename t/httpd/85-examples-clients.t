#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
# The files of conf/examples that distinguish clients by more than their address do what their comments say:
# by country and network, by the folder that is requested, by a trap; and so does the translation of mod_qos.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";

use Examples;
use Httpd;
use Process;
use RedisServer;
use Test::More;
use Windows;

*statuses = \&Examples::statuses;
*at_once  = \&Examples::at_once;

Examples::run(
    'asn-and-country.conf'   => \&countries_and_networks_have_quotas,
    'tiers-by-htaccess.conf' => \&folders_choose_a_quota,
    'trap.conf'              => \&a_trap_keeps_a_client_out,
    'from-mod_qos.conf'      => \&lines_of_mod_qos,
);
done_testing;

# mod_maxminddb is not in Debian. Here mod_setenvif sets the same variables in the same hook of httpd.
sub countries_and_networks_have_quotas {
    my ($file) = @_;
    my $host = Httpd->start(modules => ['setenvif'], config => <<"EOC");
SetEnvIf Remote_Addr "^127\\.0\\.1\\." COUNTRY=AQ
SetEnvIf Remote_Addr "^127\\.0\\.2\\." COUNTRY=BV
SetEnvIf Remote_Addr "^127\\.0\\.[34]\\." COUNTRY=NO
SetEnvIf Remote_Addr "^127\\.0\\.3\\." ASN=64496
SetEnvIf Remote_Addr "^127\\.0\\.4\\." ASN=64500
Include $file
EOC
    Windows::time_left(30, 60);
    is_deeply at_once($host, 130, 4, from => '127.0.0.2'), { 200 => 120, 429 => 10 },
        'an address of no listed country has 120';
    is_deeply at_once($host, 40, 4, from => '127.0.1.2'), { 200 => 30, 429 => 10 },
        'an address of a listed country has its quota';
    is $host->get('/', from => '127.0.1.3')->status, 200, 'another address of this country has its own';
    is $host->get('/', from => '127.0.2.2')->status, 429, 'a country with a quota of 0 is denied';
    my @rented = map { "127.0.3.$_" } 1 .. 100;
    is_deeply at_once($host, 400, 40, from => \@rented), { 200 => 300, 429 => 100 },
        'all addresses of a listed network have 300 together';
    is_deeply at_once($host, 400, 40, from => [map { "127.0.4.$_" } 1 .. 100]), { 200 => 400 },
        'other networks are not counted';
    is $host->request(from => '127.0.1.2', headers => { COUNTRY => 'NO', ASN => 1 })->status, 429,
        'a header of a client sets no country';
}

sub folders_choose_a_quota {
    my ($file) = @_;
    my $host = Httpd->start(
        modules => ['setenvif'],
        config  => "Define FOLDERS \@DOCROOT\@\nInclude $file",
        files   => {
            'shop/.htaccess' => "SetEnvIf Request_URI . RATE=busy\nSetEnvIf Request_URI \"\\.pdf\$\" RATE=strict\n",
            'own/.htaccess'  => "SetEnvIf Request_URI . RATE=unlimited\n",
            'rule/.htaccess' => "RateLimit pages off\n",
            map { ($_ => 'x') } qw(shop/page.html shop/list.pdf own/page.html rule/page.html),
        },
    );
    Windows::time_left(40, 60);
    my $limit = sub { $host->get($_[0], from => '127.0.0.2')->header('X-RateLimit-Limit') };
    is $limit->('/hello.txt'), 120, 'a folder without a setting has 120';
    is $limit->('/shop/page.html'), 600, 'a folder can choose 600';
    is $limit->('/shop/list.pdf'), 12, 'or 12 for some files';
    is $limit->('/own/page.html'), 120, 'an unknown tier is ignored';
    is $host->get('/rule/page.html')->status, 500, 'a folder cannot have its own rules';
    is_deeply at_once($host, 30, 4, from => '127.0.0.3', path => '/shop/list.pdf'),
        { 200 => 12, 429 => 18 }, '12 of these files pass, and no more';
    is_deeply at_once($host, 130, 4, from => '127.0.0.3', path => '/shop/page.html'), { 200 => 130 },
        'other files of the folder still pass';
    is $host->get('/hello.txt', from => '127.0.0.3')->status, 429, 'other folders do not: it is one count';
    is_deeply at_once($host, 1300, 8, from => [('127.0.0.4')], path => '/shop/page.html'),
        { 200 => 600, 429 => 700 }, 'no client has more than the tier';
}

sub a_trap_keeps_a_client_out {
    my ($file) = @_;
    my $redis = RedisServer->start;
    for my $by ('by this host', 'by Redis') {
        my $host = Httpd->start(
            redis  => $redis,
            config => ($by eq 'by Redis' ? "RateLimitRedis \@REDIS\@\n$Examples::LONG_TIMEOUT\n" : '') . "Include $file",
        );
        is_deeply at_once($host, 500, 8), { 200 => 500 }, "$by: clients pass";
        $host->get('/trap');
        Process::wait_until(sub { $host->get('/')->status == 403 }, what => 'a block');
        my $denied = $host->get('/hello.txt');
        is $denied->status, 403, 'a client that requested the trap is denied the whole site';
        cmp_ok $denied->header('Retry-After'), '>', 86_000, 'for about a day';
        is $host->get('/', from => '127.0.0.2')->status, 200, 'other clients are not';
        $host->get('/Trap/;x', from => '127.0.0.3');    # its first request
        $host->get('/', from => '127.0.0.3');
        is $host->get('/', from => '127.0.0.3')->status, 403, 'another spelling of the trap denies, too';
        next if $by eq 'by this host';
        my ($let_out) = map { [map { s/^'|'$//gr =~ s/203\.0\.113\.7/127.0.0.1/r } split] }
            Examples::slurp($file) =~ /^#     redis-cli (.*)$/mg;
        is $redis->cmd(@$let_out), 1, 'the command in the file ends the block';
        Process::wait_until(sub { $host->get('/')->status == 200 }, what => 'an end', within => 20);
    }
}

sub lines_of_mod_qos {
    my ($file) = @_;
    # a quarter of its 100 workers may delay requests, enough for 16
    my $host = Httpd->start(mpm => 'event', threads => 50, modules => ['setenvif'], config => "Include $file",
        files => { map { ($_ => 'x') } qw(login search api/items) });
    Windows::time_left(30, 300);
    is_deeply statuses($host, 25, path => '/login'), { 200 => 19, 429 => 6 }, '19 of 20 logins pass';

    my @lost = (path => '/nowhere', from => '127.0.0.2');
    is_deeply statuses($host, 50, @lost), { 404 => 50 }, 'fifty errors are answered';
    Process::wait_until(sub { ($host->request(@lost)->header('Retry-After') // 0) > 1 }, what => 'a block');
    my $blocked = $host->get('/hello.txt', from => '127.0.0.2');
    is $blocked->status, 429, 'then the client is blocked';
    cmp_ok $blocked->header('Retry-After'), '>', 200, 'for five minutes';

    Examples::is_bucket($host, 'searches are delayed', path => '/search', from => '127.0.0.3',
        at_once => 10, admits => 16, unit => 0.01);
    my %crawler = (path => '/hello.txt', headers => { 'User-Agent' => 'Crawler/1.0' });
    Examples::is_bucket($host, 'crawlers share five a second', %crawler,
        at_once => 5, admits => 16, unit => 0.2, from => [map { "127.0.1.$_" } 1 .. 16]);
    Examples::is_bucket($host, 'each client has ten a second', path => '/api/items', from => '127.0.0.4',
        at_once => 10, admits => 16, unit => 0.1);
}
