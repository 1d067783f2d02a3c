#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
# Keys can be client certificates. Each certificate has its own count, both where a whole virtual host
# requires one and where only a section does: there mod_ssl asks for it after phase=access, by
# renegotiation or after the handshake.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";

use Certificates;
use Httpd;
use Process;
use Test::More;

my $ca = Certificates->new;
my %of = map { $_ => $ca->issue($_, "DNS:$_.test") } qw(server ann bob eve guy);

my $httpd = Httpd->start(modules => [qw(ssl socache_shmcb setenvif)], ports => 3,
    vars => { CA => $ca->file, CERT => $of{server}{cert}, KEY => $of{server}{key} },
    files => { map { ("$_/x" => 'x') } qw(certified env tier when cost access early) }, config => <<'EOF');
SSLSessionCache shmcb:@DIR@/run/ssl_scache(512000)
<VirtualHost 127.0.0.1:@PORT2@>
    SSLEngine on
    SSLCertificateFile @CERT@
    SSLCertificateKeyFile @KEY@
    SSLCACertificateFile @CA@
    <Location /certified>
        SSLVerifyClient require
        RateLimit certified 2/1d "key=%{SSL_CLIENT_S_DN}"
    </Location>
    <Location /env>
        SSLVerifyClient require
        SSLOptions +StdEnvVars
        RateLimit env 2/1d key=env:SSL_CLIENT_S_DN_CN
    </Location>
    <Location /tier>
        SSLVerifyClient require
        RateLimit tier 2/1d key=ip "tier=%{SSL_CLIENT_S_DN_CN}"
        RateLimitTier tier bob unlimited
    </Location>
    <Location /when>
        SSLVerifyClient require
        RateLimit when 0/1d "when=%{SSL_CLIENT_S_DN_CN} in {'bob', 'guy'}"
    </Location>
    <Location /cost>
        SSLVerifyClient require
        RateLimit cost 4/1d key=server "cost=%{SSL_CLIENT_M_VERSION}"
    </Location>
</VirtualHost>
<VirtualHost 127.0.0.1:@PORT3@>
    SSLEngine on
    SSLCertificateFile @CERT@
    SSLCertificateKeyFile @KEY@
    SSLCACertificateFile @CA@
    SSLVerifyClient require
    RateLimit access 2/1d "key=%{SSL_CLIENT_S_DN}" phase=access path=/access/**
    RateLimit early 2/1d "key=%{SSL_CLIENT_S_DN}" phase=early path=/early/**
</VirtualHost>
EOF

# The status that a client with a certificate gets under a version of TLS.
sub asked {
    my ($version, $name, $path, $port) = @_;
    my $certificate = $of{$name};
    my @command = ('openssl', 's_client', '-quiet', "-$version", $version eq 'tls1_3' ? '-enable_pha' : (),
        -connect => '127.0.0.1:' . $httpd->port($port),
        $certificate ? (-cert => $certificate->{cert}, -key => $certificate->{key}) : ());
    my $request = $httpd->file("$httpd->{dir}/request", "GET $path HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    my $answer = $httpd->file("$httpd->{dir}/answer", '');
    my $pid = Process::spawn(name => 'openssl', log => $answer,
        command => ['sh', '-c', 'exec "$@" < "$0"', $request, @command]);
    my $status;
    Process::wait_until(sub {
        open my $in, '<', $answer or die "$answer: $!\n";
        local $/;
        ($status) = <$in> =~ m{^HTTP/1\.1 (\d+)}m;
        return $status || defined Process::ended($pid);
    }, what => "an answer to $name");
    Process::stop($pid);
    return $status // 'none';
}

sub thrice { my (@how) = @_; return join ' ', map { asked(@how) } 1 .. 3 }

for (['tls1_2', qw(ann bob)], ['tls1_3', qw(eve guy)]) {
    my ($version, $one, $other) = @$_;
    subtest "a section requires a certificate, $version" => sub {
        for my $path ('/certified', '/env') {
            is thrice($version, $one, "$path/x", 1), '200 200 429', "$path: a certificate has a quota";
            is thrice($version, $other, "$path/x", 1), '200 200 429', 'another at the same address has its own';
        }
        like asked($version, 'nobody', '/certified/x', 1), qr/^(?:403|none)$/,
            'a client without a certificate is refused';
        is asked($version, $one, '/when/x', 1), '200', 'when= is false for one certificate';
        is asked($version, $other, '/when/x', 1), '429', 'and true for another';
    };
    subtest "a virtual host requires a certificate, $version" => sub {
        for my $path ('/access', '/early') {
            is thrice($version, $one, "$path/x", 2), '200 200 429', "phase=$path: a certificate has a quota";
            is thrice($version, $other, "$path/x", 2), '200 200 429', 'another at the same address has its own';
        }
    };
}

subtest 'tier= and cost= can read the certificate' => sub {
    is thrice('tls1_2', 'bob', '/tier/x', 1), '200 200 200', 'the tier of a certificate is unlimited';
    is thrice('tls1_2', 'ann', '/tier/x', 1), '200 200 429', 'another certificate has the quota of the rule';
    is asked('tls1_2', 'ann', '/cost/x', 1), '200', 'the first request passes';
    is asked('tls1_2', 'ann', '/cost/x', 1), '429', 'the second does not: its cost is more than 1';
};

done_testing;
