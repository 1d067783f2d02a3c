#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
# A reload never ends the server, even if memory or a log file is no longer available: the module goes on
# with what it can get and logs what is missing. A start that cannot open a log or get any memory stops, as
# httpd does for its own logs, and httpd -t reports the problem before.

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

# The beginning of a configuration that enables the module, as a2enmod does.
my $load = "LoadModule ratelimit_redis_module $module\n" . Status::CONFIG;

# A server without the module.
sub without_module { return Httpd->start(module => 0, modules => ['status'], @_) }

# As many requests as the quota pass, and the next one is denied.
sub passes {
    my ($host, $quota, $what, %opt) = @_;
    my @got = map { $host->get('/hello.txt', %opt)->status } 1 .. $quota + 1;
    is "@got", join(' ', (200) x $quota, 429), $what;
}

# The bytes of shared memory that a process maps.
sub shared_bytes {
    my ($pid) = @_;
    my $sum = 0;
    no warnings 'portable';    # addresses have more than 32 bits
    open my $in, '<', "/proc/$pid/maps" or return 0;
    /^(\w+)-(\w+) rw-s .*zero/ and $sum += hex($2) - hex $1 while <$in>;
    return $sum;
}

subtest 'a reload enables the module although its log cannot be opened' => sub {
    for my $target ('no/such/dir/v.log', '|/no/such/program', '/dev/null/v.log') {
        my $host = without_module();
        $host->graceful(config => $load . "RateLimitLog \"$target\"\nRateLimit one 2/1d\n");
        passes($host, 2, "$target: the server goes on and limits");
        like $host->error_log, qr/denials go to the error log where a RateLimitLog could not be opened/,
            'the error log names what is missing';
        is scalar($host->error_log_lines(qr/ratelimit: denied/)), 1, 'denials are logged in the error log';
    }
};

subtest 'httpd -t checks the targets of RateLimitLog' => sub {
    my %wrong = (
        'no/such/dir/v.log'      => qr{v\.log: \S+/no/such/dir/ does not exist},
        'run'                    => qr{run is a directory},
        '|/no/such/program -x'   => qr{/no/such/program does not exist},
        '||/no/such/program'     => qr{/no/such/program does not exist},
    );
    for my $target (sort keys %wrong) {
        my ($code, $said) = Httpd->config_test(config => "RateLimitLog \"$target\"");
        isnt $code, 0, "$target is refused";
        like $said, $wrong{$target}, 'with the reason';
    }
    for my $target ('v.log', 'run/v.log', '|/bin/cat', '|$ cat >/dev/null', '|cat', '/dev/null') {
        is +(Httpd->config_test(config => "RateLimitLog \"$target\""))[0], 0, "$target is accepted";
    }
};

subtest 'a server does not start without a log, as with its own' => sub {
    for my $target ('no/such/dir/v.log', '|/no/such/program') {
        my $error = eval { Httpd->start(config => "RateLimitLog \"$target\""); '' } // $@;
        like $error, qr/httpd did not start/, $target;
    }
};

SKIP: {
    skip 'a sanitizer needs to be preloaded alone', 1 if $ENV{RL_LD_PRELOAD};
    subtest 'the server copes with a lack of shared memory' => \&no_memory;
}

# A preloaded library limits the size of a piece of shared memory to the number in a file.
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

    subtest 'a reload uses a smaller size' => sub {
        my $host = without_module(@scarce);
        $most->(5 << 20);
        $host->graceful(config => $load . "RateLimitSharedMemory 16M\nRateLimit one 2/1d\n");
        passes($host, 2, 'the server goes on and limits');
        like $host->error_log, qr/no shared memory of 16777216 bytes \(RateLimitSharedMemory\): 4194304 bytes are/,
            'the error log names the size in use';
        like $host->get('/server-status', from => '127.0.0.9')->body,
            qr/did not give the 16,777,216 bytes .* 4,194,304 are in use/s, 'the status page shows it';
        $host->graceful;
        is $host->get('/hello.txt')->status, 429, 'another reload keeps the counts';
        unlink "$dir/most";
        $host->graceful;
        unlike $host->get('/server-status', from => '127.0.0.9')->body, qr/did not give/,
            'a reload takes the configured size as soon as there is enough memory';
        is $host->get('/hello.txt')->status, 429, 'and keeps the counts';
    };

    subtest 'a reload that cannot get more keeps what it has' => sub {
        unlink "$dir/most";
        my $host = without_module(@scarce);
        $host->graceful(config => $load . "RateLimitSharedMemory 4M\nRateLimit one 2/1d\n");
        passes($host, 2, 'a server limits');
        $most->(3 << 20);
        $host->graceful(config => $load . "RateLimitSharedMemory 16M\nRateLimit one 2/1d\n");
        like $host->error_log, qr/no shared memory of 16777216 bytes .*: what is there stays in use/,
            'the error log reports it';
        is $host->get('/hello.txt')->status, 429, 'the client is still denied';
    };

    subtest 'a reload without any memory limits nothing' => sub {
        unlink "$dir/most";
        my $host = without_module(@scarce);
        $most->(8192);
        $host->graceful(config => $load . "RateLimit one 2/1d\n<Location /metrics>\n"
            . "SetHandler ratelimit-metrics\n</Location>\n");
        is $host->get('/hello.txt')->status, 200, 'the server goes on' for 1 .. 3;
        like $host->error_log, qr/:crit\].*no shared memory of \d+ bytes: nothing can be limited/,
            'the error log reports it';
        like $host->get('/server-status')->body, qr/Nothing is limited/, 'the status page shows it';
        is(Status->of($host)->{LocalCapacity}, 0, 'so does its form for programs');
        is $host->get('/metrics')->status, 503, 'there are no metrics';
        unlink "$dir/most";
        $host->graceful;
        passes($host, 2, 'a reload limits again as soon as there is memory');
    };

    $most->(3 << 20);
    my $host = Httpd->start(@scarce, config => 'RateLimit one 2/1d');
    passes($host, 2, 'a starting server uses a smaller size, too');
    my ($code, $said) = Httpd->config_test(@scarce);
    is $code, 0, 'httpd -t accepts that';
    like $said, qr/no shared memory of 16777216 bytes now; the server will use less/, 'with a warning';
    $most->(8192);
    my $error = eval { Httpd->start(@scarce, config => 'RateLimit one 2/1d'); '' } // $@;
    like $error, qr/nothing can be limited/, 'a server does not start without any memory';
}

# Rules with numbered names.
sub rules {
    my ($from, $to) = @_;
    return join '', map { "RateLimit rule-$_ 9/1d path=/$_\n" } $from .. $to;
}

subtest 'rules beyond the 255th name share a row of the statistics' => sub {
    is +(Httpd->config_test(config => rules(1, 255)))[1] =~ /others/, '', '255 names have no warning';
    my $scopes = join '', map { "<VirtualHost *:80>\n" . rules(1, 200) . "</VirtualHost>\n" } 1, 2;
    unlike +(Httpd->config_test(config => $scopes))[1], qr/others/, 'nor has the same name in several places';
    my ($code, $said) = Httpd->config_test(config => rules(1, 256));
    is $code, 0, '256 names are accepted';
    like $said, qr/1 of 256 names of rules share the row "\(others\)" .* rows for 255 names/,
        'with a warning that some share a row';

    my $host = Httpd->start(modules => ['status'], config => rules(1, 200) . Status::CONFIG);
    unlike $host->error_log, qr/others/, 'a server has rows for 200 names';
    $host->graceful(config => rules(150, 300) . Status::CONFIG);
    my ($line) = $host->error_log_lines(qr/others/);
    like $line, qr/45 of 151 names of rules share the row "\(others\)"/, 'a reload reports how many names share a row'
        or diag $host->error_log;
    $host->get('/300');
    is(Status->of($host)->rule('(others)')->{Passed}, 1, 'and counts them there');
};

subtest 'reloads with another size of memory keep counts and leak nothing' => sub {
    my $rules = "RateLimit one 2/1d\nRateLimit page 1/1d block=1d path=/page.html\n";
    my $size  = sub { return (modules => ['status'], config => "RateLimitSharedMemory $_[0]\n$rules") };
    my $host  = Httpd->start($size->('4M'));
    my @many  = map { "127.0.$_.7" } 1 .. 100;
    $host->get('/hello.txt', from => $_) for @many, $many[0];
    $host->get('/page.html', from => '127.0.0.2') for 1 .. 2;
    my $before = shared_bytes($host->pid);
    cmp_ok $before, '>', 4 << 20, 'the parent maps the shared memory';
    for my $other (qw(64M 16M 32M 8M 64M 4M)) {
        $host->graceful($size->($other));
        my $line = ($host->error_log_lines(qr/RateLimitSharedMemory is/))[-1];
        like $line, qr/:notice\].* (\d+) of \1 counts, blocks and denials of this host were kept/,
            "the error log reports that all counts are kept in $other";
    }
    is shared_bytes($host->pid), $before, 'the parent maps no more after six reloads';
    is $host->get('/hello.txt', from => $many[0])->status, 429, 'a denied client is still denied';
    is $host->get('/page.html', from => '127.0.0.2')->status, 429, 'so is a blocked client';
    my @got = map { my $from = $_; map { $host->get('/hello.txt', from => $from)->status } 1, 2 } @many[1 .. 99];
    is "@got", join(' ', ('200 429') x 99), 'other clients have left what they had';
    is shared_bytes($_), $before, 'the children map no more either' for $host->children;
    $host->graceful($size->('1M'));
    $host->graceful($size->('2M'));
    like +($host->error_log_lines(qr/RateLimitSharedMemory is/))[-1], qr/ 0 of \d+ counts/,
        'a table of less than 2M hands nothing on, and the error log reports it';
};

done_testing;
