# SPDX-License-Identifier: Apache-2.0
package Certificates;

# Certificates for tests: an authority and the certificates that it signs.
#
#   my $ca = Certificates->new;
#   my $server = $ca->issue('server', 'DNS:redis.test,IP:127.0.0.1');
#   ... $ca->file, $server->{cert}, $server->{key}
#
# All files are in a directory that is removed with the test. They are valid for a day and readable by every
# user.

use strict;
use warnings;

use POSIX ();
use Process;

sub new {
    my ($class) = @_;
    my $self = bless { dir => Process::tempdir('certificates') }, $class;
    $self->_openssl(qw(req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=authority),
        -keyout => "$self->{dir}/ca.key", -out => $self->file);
    return $self;
}

sub file { "$_[0]{dir}/ca.pem" }

# A key and its certificate for these names, as { key, cert }.
sub issue {
    my ($self, $name, $names) = @_;
    my ($key, $cert, $request, $extensions)
        = map { "$self->{dir}/$name.$_" } qw(key pem request extensions);
    open my $out, '>', $extensions or die "$extensions: $!\n";
    print $out "subjectAltName=$names\n";
    close $out or die "$extensions: $!\n";
    $self->_openssl(qw(req -newkey rsa:2048 -nodes), -subj => "/CN=$name", -keyout => $key,
        -out => $request);
    $self->_openssl(qw(x509 -req -days 1 -CAcreateserial), -in => $request, -CA => $self->file,
        -CAkey => "$self->{dir}/ca.key", -extfile => $extensions, -out => $cert);
    chmod 0644, $key or die "chmod $key: $!\n";
    return { key => $key, cert => $cert };
}

sub _openssl {
    my ($self, @words) = @_;
    my $log = "$self->{dir}/log";
    my $pid = fork // die "fork: $!\n";
    if ($pid == 0) {
        open STDOUT, '>>', $log;
        open STDERR, '>>', $log;
        exec 'openssl', @words or POSIX::_exit(127);
    }
    waitpid $pid, 0;
    return if $? == 0;
    open my $in, '<', $log;
    die "openssl @words:\n", $in ? <$in> : '';
}

1;
