#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
# A reload never ends the server, whatever the system no longer gives: the module goes on with
# the memory and the logs there are, and says what is missing. A start that cannot have what it
# was told stops, as httpd does for its own logs, and httpd -t notices before that.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";

use Client;
use Cwd qw(abs_path);
use Httpd;
use Process;
use Status;
use Test::More;

my $module = abs_path($ENV{RL_MODULE} || "$FindBin::Bin/../../build/mod_ratelimit_redis.so");

# What is written behind this enables the module, as a2enmod does.
my $load = "LoadModule ratelimit_redis_module $module\n" . Status::CONFIG;

# A server that has never heard of the module.
sub stranger { return Httpd->start(module => 0, modules => ['status'], @_) }

# So many requests pass, and the next one is denied.
sub passes {
    my ($host, $quota, $what, %opt) = @_;
    my @got = map { $host->get('/hello.txt', %opt)->status } 1 .. $quota + 1;
    is "@got", join(' ', (200) x $quota, 429), $what;
}

# Bytes of shared memory that a process maps.
sub shared_bytes {
    my ($pid) = @_;
    my $sum = 0;
    no warnings 'portable';    # addresses have more than 32 bits
    open my $in, '<', "/proc/$pid/maps" or return 0;
    /^(\w+)-(\w+) rw-s .*zero/ and $sum += hex($2) - hex $1 while <$in>;
    return $sum;
}

subtest 'enabled by a reload, with a log that cannot be opened' => sub {
    for my $target ('no/such/dir/v.log', '|/no/such/program', '/dev/null/v.log') {
        my $host = stranger();
        $host->graceful(config => $load . "RateLimitLog \"$target\"\nRateLimit one 2/1d\n");
        passes($host, 2, "$target: the server goes on, and limits");
        like $host->error_log, qr/denials go to the error log where a RateLimitLog could not be opened/,
            'says what is missing';
        is scalar($host->error_log_lines(qr/ratelimit: denied/)), 1, 'and logs denials in the error log';
    }
};

subtest 'what httpd -t finds out about logs' => sub {
    my %wrong = (
        'no/such/dir/v.log'      => qr{v\.log: there is no \S+/no/such/dir},
        'run'                    => qr{run is a directory},
        '|/no/such/program -x'   => qr{there is no /no/such/program},
        '||/no/such/program'     => qr{there is no /no/such/program},
    );
    for my $target (sort keys %wrong) {
        my ($code, $said) = Httpd->config_test(config => "RateLimitLog \"$target\"");
        isnt $code, 0, "$target is wrong";
        like $said, $wrong{$target}, 'and said';
    }
    for my $target ('v.log', 'run/v.log', '|/bin/cat', '|$ cat >/dev/null', '|cat', '/dev/null') {
        is +(Httpd->config_test(config => "RateLimitLog \"$target\""))[0], 0, "$target is good";
    }
};

subtest 'a server that starts stops for a log, as it does for its own' => sub {
    for my $target ('no/such/dir/v.log', '|/no/such/program') {
        my $error = eval { Httpd->start(config => "RateLimitLog \"$target\""); '' } // $@;
        like $error, qr/httpd did not start/, $target;
    }
};

SKIP: {
    skip 'a sanitizer needs to be preloaded alone', 1 if $ENV{RL_LD_PRELOAD};
    subtest 'shared memory that cannot be had' => \&no_memory;
}

# The system gives no more shared memory at once than the file says.
sub no_memory {
    my $dir  = Process::tempdir('memory');
    my $shim = "$dir/no_memory.so";
    system($ENV{CC} || 'cc', '-shared', '-fPIC', '-o', $shim, "$FindBin::Bin/../lib/no_memory.c", '-ldl') == 0
        or die "cc failed\n";
    chmod 0755, $dir;
    my $most = sub {
        my ($bytes) = @_;
        open my $out, '>', "$dir/most" or die "$dir/most: $!\n";
        print $out $bytes;
        close $out or die "$dir/most: $!\n";
    };
    my @scarce = (env => { LD_PRELOAD => join(' ', grep { $_ } $ENV{LD_PRELOAD}, $shim), NO_MEMORY => "$dir/most" });

    subtest 'a smaller size is used' => sub {
        my $host = stranger(@scarce);
        $most->(5 << 20);
        $host->graceful(config => $load . "RateLimitSharedMemory 16M\nRateLimit one 2/1d\n");
        passes($host, 2, 'the server goes on, and limits');
        like $host->error_log, qr/no shared memory of 16777216 bytes \(RateLimitSharedMemory\): 4194304 bytes are/,
            'says how much there is';
        like $host->get('/server-status', from => '127.0.0.9')->body,
            qr/did not give the 16,777,216 bytes .* 4,194,304 are in use/s, 'and shows it';
        $host->graceful;
        is $host->get('/hello.txt')->status, 429, 'another reload keeps that';
        unlink "$dir/most";
        $host->graceful;
        unlike $host->get('/server-status', from => '127.0.0.9')->body, qr/did not give/,
            'and takes what was asked for once it is there';
        is $host->get('/hello.txt')->status, 429, 'with its counts';
    };

    subtest 'what there is stays in use' => sub {
        unlink "$dir/most";
        my $host = stranger(@scarce);
        $host->graceful(config => $load . "RateLimitSharedMemory 4M\nRateLimit one 2/1d\n");
        passes($host, 2, 'a server limits');
        $most->(3 << 20);
        $host->graceful(config => $load . "RateLimitSharedMemory 16M\nRateLimit one 2/1d\n");
        like $host->error_log, qr/no shared memory of 16777216 bytes .*: what is there stays in use/,
            'it cannot have more';
        is $host->get('/hello.txt')->status, 429, 'and goes on with what it has';
    };

    subtest 'none at all' => sub {
        unlink "$dir/most";
        my $host = stranger(@scarce);
        $most->(8192);
        $host->graceful(config => $load . "RateLimit one 2/1d\n<Location /metrics>\n"
            . "SetHandler ratelimit-metrics\n</Location>\n");
        is $host->get('/hello.txt')->status, 200, 'the server goes on' for 1 .. 3;
        like $host->error_log, qr/:crit\].*no shared memory of \d+ bytes: nothing can be limited/, 'says so';
        like $host->get('/server-status')->body, qr/Nothing is limited/, 'shows so';
        is(Status->of($host)->{LocalCapacity}, 0, 'also to programs');
        is $host->get('/metrics')->status, 503, 'and has no metrics';
        unlink "$dir/most";
        $host->graceful;
        passes($host, 2, 'it limits as soon as there is memory');
    };

    $most->(3 << 20);
    my $host = Httpd->start(@scarce, config => 'RateLimit one 2/1d');
    passes($host, 2, 'a server that starts uses what it can have, too');
    my ($code, $said) = Httpd->config_test(@scarce);
    is $code, 0, 'httpd -t lets it';
    like $said, qr/no shared memory of 16777216 bytes now; the server will use less/, 'but warns';
    $most->(8192);
    my $error = eval { Httpd->start(@scarce, config => 'RateLimit one 2/1d'); '' } // $@;
    like $error, qr/nothing can be limited/, 'with none at all it stops';
}

# Rules that differ in name alone, from..to.
sub rules {
    my ($from, $to) = @_;
    return join '', map { "RateLimit rule-$_ 9/1d path=/$_\n" } $from .. $to;
}

subtest 'more rules than the statistics tell apart' => sub {
    is +(Httpd->config_test(config => rules(1, 255)))[1] =~ /others/, '', '255 names are no matter';
    my $scopes = join '', map { "<VirtualHost *:80>\n" . rules(1, 200) . "</VirtualHost>\n" } 1, 2;
    unlike +(Httpd->config_test(config => $scopes))[1], qr/others/, 'nor is the same name in many places';
    my ($code, $said) = Httpd->config_test(config => rules(1, 256));
    is $code, 0, '256 are good';
    like $said, qr/1 of 256 names of rules share the row "\(others\)" .* rows for 255 names/, 'but some share a row, which is said';

    my $host = Httpd->start(modules => ['status'], config => rules(1, 200) . Status::CONFIG);
    unlike $host->error_log, qr/others/, 'a server has room for 200';
    $host->graceful(config => rules(150, 300) . Status::CONFIG);
    my ($line) = $host->error_log_lines(qr/others/);
    like $line, qr/45 of 151 names of rules share the row "\(others\)"/, 'a reload says what has no row left'
        or diag $host->error_log;
    $host->get('/300');
    is(Status->of($host)->rule('(others)')->{Passed}, 1, 'and counts it there');
};

subtest 'reloads with other sizes' => sub {
    my $rules = "RateLimit one 2/1d\nRateLimit page 1/1d block=1d path=/page.html\n";
    my $size  = sub { return (modules => ['status'], config => "RateLimitSharedMemory $_[0]\n$rules") };
    my $host  = Httpd->start($size->('4M'));
    my @many  = map { "127.0.$_.7" } 1 .. 100;
    $host->get('/hello.txt', from => $_) for @many, $many[0];
    $host->get('/page.html', from => '127.0.0.2') for 1 .. 2;
    my $before = shared_bytes($host->pid);
    cmp_ok $before, '>', 4 << 20, 'the parent maps what is shared';
    for my $other (qw(64M 16M 32M 8M 64M 4M)) {
        $host->graceful($size->($other));
        my $line = ($host->error_log_lines(qr/RateLimitSharedMemory is/))[-1];
        like $line, qr/:notice\].* (\d+) of \1 counts, blocks and denials of this host go on/, "to $other";
    }
    is shared_bytes($host->pid), $before, 'it maps no more after six';
    is $host->get('/hello.txt', from => $many[0])->status, 429, 'the client that was denied still is';
    is $host->get('/page.html', from => '127.0.0.2')->status, 429, 'so is one that is blocked';
    my @got = map { my $from = $_; map { $host->get('/hello.txt', from => $from)->status } 1, 2 } @many[1 .. 99];
    is "@got", join(' ', ('200 429') x 99), 'and what others have left is what it was';
    is shared_bytes($_), $before, 'nor do its children' for $host->children;
    $host->graceful($size->('1M'));
    $host->graceful($size->('2M'));
    like +($host->error_log_lines(qr/RateLimitSharedMemory is/))[-1], qr/ 0 of \d+ counts/,
        'a table of less than 2M hands on nothing, and that is said';
};

done_testing;
