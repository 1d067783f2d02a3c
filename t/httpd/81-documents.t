#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
# The documents say what is so. Every example passes httpd -t. DIRECTIVES.md has each directive,
# option, algorithm, key component and phase that the module takes, and no other; its defaults and
# contexts, the effect of its examples, and what it says is refused are tried. Every link leads
# somewhere.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";

use Certificates;
use Documents;
use Examples;
use File::Find qw(find);
use File::Temp qw(tempfile);
use Httpd;
use Metrics;
use RedisServer;
use Status;
use Test::More;

my $readme    = Documents->read('README.md');
my $manual    = Documents->read('conf/DIRECTIVES.md');
my $operating = Documents->read('conf/OPERATING.md');

# In place of the files of a password and of certificates; check() has others.
my ($out, $secret) = tempfile(UNLINK => 1);
print $out "password\n";
close $out or die "$secret: $!\n";
my $ca = Certificates->new->file;

# What the examples use beside the module.
my @modules = qw(status remoteip setenvif headers proxy proxy_http cache ssl);

# --- Documents -----------------------------------------------------------------

subtest 'links' => sub {
    my %anchors = map { $_->path => $_->anchors } Documents::all();
    for my $document (Documents::all()) {
        my @broken;
        for my $link (grep { !m{^https?://} } $document->links) {
            my ($file, $anchor) = split /#/, $link, 2;
            my $path = $file eq '' ? $document->path : $document->beside($file);
            my $is_there = -e "$Documents::ROOT/$path";
            push @broken, $link unless $is_there && (!defined $anchor || $anchors{$path}{$anchor});
        }
        is_deeply \@broken, [], 'all links of ' . $document->path . ' lead somewhere';
    }
};

subtest 'lists of contents' => sub {
    cmp_ok +(my @lines = split /\n/, $readme->text), '<=', 300, 'README.md is short';
    for my $document ($readme, $manual, $operating) {
        my ($head) = $document->text =~ /\A(.*?)^## (?!Contents)/ms;
        my @headings = grep { $_ ne 'Contents' } map { $document->headings($_) }
            2, $document == $readme ? () : 3;
        my @missing = grep { index($head, "(#$_)") < 0 } map { Documents::slug($_) } @headings;
        is_deeply \@missing, [], 'that of ' . $document->path . ' is complete';
    }
};

subtest 'examples are good configurations' => sub {
    for my $document (Documents::all()) {
        for my $example ($document->examples('apache')) {
            my ($heading, $text) = @$example;
            my ($code, $said) = check($text);
            my $name = $document->path . ", $heading";
            if ($text =~ /rediss:|RateLimitRedisTLS/ && $said =~ /TLS needs hiredis/) {
                pass "$name: refused, since hiredis is too old here";
                next;
            }
            is $code, 0, $name or diag $said;
            unlike $said, qr/ratelimit:/, 'without a warning' or diag $text;
        }
    }
};

subtest 'examples that are files' => sub {
    my %linked = map { $_ => 1 } $readme->text =~ m{\(conf/examples/([\w-]+\.conf)\)}g;
    is_deeply [sort keys %linked], [Examples::names()], 'each is named, and there';
};

subtest "the operator's card" => sub {
    my @commands = $readme->section("The operator's card") =~ /`(redis-cli [^`]+)`/g;
    ok @commands >= 2, scalar(@commands) . ' commands';
    my $runbook = $operating->section('Runbook');
    is_deeply [grep { index($runbook, $_) < 0 } @commands], [], 'are those of the runbook';
};

subtest 'directories of t, and files of t/lib' => sub {
    my $tests = Documents->read('t/README.md');
    my @there = map { s{.*/}{}r } grep { -d } glob "$Documents::ROOT/t/*";
    my %named = map { $_ => 1 } named($tests, 'Kinds of tests');
    is_deeply [grep { !$named{$_} && $_ ne 'lib' } @there], [], 'each directory is in t/README.md';
    is_deeply [sort(named($tests, 'Files in t/lib'))],
        [sort map { s{.*/}{}r } glob "$Documents::ROOT/t/lib/*"], 'and each file';
};

subtest 'the test that t/README.md shows' => sub {
    my ($example) = Documents->read('t/README.md')->examples('perl');
    my ($script, $file) = tempfile(SUFFIX => '.t', UNLINK => 1);
    print $script $example->[1] =~ s{\$FindBin::Bin/\.\./lib}{$FindBin::Bin/../lib}r;
    close $script or die "$file: $!\n";
    my $said = qx{"$^X" "$file" 2>&1};
    is $?, 0, 'passes' or diag $said;
};

subtest 'targets of make' => sub {
    my $makefile = Examples::slurp("$Documents::ROOT/Makefile");
    my ($phony) = $makefile =~ /^\.PHONY: (.*)/m;
    my %there = map { $_ => 1 } split ' ', $phony;
    my @named = map { $_->text =~ m{(?:`|^)make ([a-z][\w-]+)\b(?!/)}mg } Documents::all();
    is_deeply [grep { !$there{$_} } @named], [], 'all that are named are there';
    my $taken = Documents->read('.github/CONTRIBUTING.md')->section('How a change is taken');
    my @run = Examples::slurp("$Documents::ROOT/.ci/run") =~ /^(?:stage )?make ([\w-]+)/mg;
    is_deeply [grep { index($taken, "`make $_`") < 0 } @run], [], 'and all that .ci/run runs';
    my %listed = map { /^make ([\w-]+)/ ? ($1 => 1) : () } named($readme, 'Build and test');
    is_deeply [grep { !$listed{$_} } $makefile =~ /^#   make ([\w-]+) +\w/mg], [],
        'and the README lists those that the Makefile does';
};

# --- The manual ----------------------------------------------------------------

my @source;
find(sub { push @source, Examples::slurp($_) if /\.c$/ }, "$Documents::ROOT/src");
my @directives = sort map { /AP_INIT_\w+\("(RateLimit\w*)"/g } @source;

# A good line of each directive whose default is not one.
my %line = (
    RateLimit => 'RateLimit x 10/1m', RateLimitAdaptive => 'RateLimitAdaptive 70 0.5',
    RateLimitLog => 'RateLimitLog logs/x', RateLimitRedis => 'RateLimitRedis redis://127.0.0.1',
    RateLimitRedisAuth => "RateLimitRedisAuth file:$secret",
    RateLimitRedisTLS => "RateLimitRedisTLS ca=$ca", RateLimitScope => 'RateLimitScope x',
    RateLimitTier => "RateLimit x 10/1m tier=%{env:X}\nRateLimitTier x y 20",
);
my %context = (
    'server config' => '%s', 'virtual host' => "<VirtualHost *:1>\n%s\n</VirtualHost>",
    directory => "<Location /x>\n%s\n</Location>",
);

subtest 'directives' => sub {
    is_deeply [$manual->headings(3, 'Directives')], \@directives, 'all of them are there, in order';
    for my $name (@directives) {
        my %row = rows($name);
        is_deeply [grep { !$row{$_} } qw(Description Syntax Default Context Status Module)], [],
            "$name has all its rows";
        like $row{Compatibility}, qr/^since \d+\.\d+/, 'since when it is there';
        like $row{Syntax}, qr/^`$name /, 'its syntax begins with its name';
        my ($default) = $row{Default} =~ /^`([^`]*)`$/;
        is +(check($default))[0], 0, "its default is taken: $default" if $default;
        is_deeply [contexts($line{$name} || $default)], [split /, /, $row{Context}], 'its context';
    }
};

# A good value of each option that takes one, if its default is not one.
my %value = (
    'burst=' => 20, 'path=' => '/x', 'methods=' => 'GET', 'when=' => 'true', 'unless=' => 'false',
    'tier=' => 'x', 'charge-on=' => 404, 'block=' => '1m', 'on-failure=' => 'open',
    'phase=' => 'access',
);
# What an option needs beside it.
my %with = ('burst=' => 'algorithm=token-bucket', 'delay=' => 'algorithm=leaky-bucket');

subtest 'options' => sub {
    my ($known) = rule('no-such-option') =~ /; expected one of: (.*)/;
    my @known    = split /, /, $known;
    my @headings = grep { !/ / } $manual->headings(3, 'Options of RateLimit');
    is_deeply [sort @headings], [sort @known], 'all of them are there';
    is_deeply [named($readme, 'First limits')], \@headings,
        'and in the table of the README';
    for my $name (@headings) {
        my %row = rows($name);
        is_deeply [grep { !$row{$_} } qw(Description Syntax Default Context Compatibility)], [],
            "$name has all its rows";
        like $row{Compatibility}, qr/^since \d+\.\d+/, 'since when it is there';
        my ($default) = $row{Default} =~ /^`([^`]*)`$/;
        my $option = $default // $name . ($value{$name} // '');
        my $needs  = $with{$name} // '';
        like $row{Syntax}, qr/^`\Q$name\E/, 'its syntax begins with its name';
        like rule("$option $needs"), qr/Syntax OK/, "a rule takes it: $option";
        my ($context, $early) = split /; `early`: /, $row{Context};
        is_deeply [contexts("RateLimit x 10/1m $option $needs")], [split /, /, $context],
            'its context';
        is_deeply [contexts('RateLimit x 10/1m phase=early')], [split /, /, $early], 'and of early'
            if $early;
    }
};

subtest 'algorithms' => sub {
    my ($known) = rule('algorithm=x') =~ /: expected (.*), for example/;
    my @known = split /, | and | or /, $known;
    is_deeply [$manual->headings(3, 'Algorithms')], \@known, 'all are there';
    is_deeply [named($manual, 'Algorithms')], \@known, 'and in the table';
};

subtest 'phases' => sub {
    my ($known) = rule('phase=x') =~ /: expected (.*), for example/;
    my @known = split /, | and | or /, $known;
    is_deeply [$manual->headings(3, 'Phases')], \@known, 'all are there';
};

subtest 'components of keys' => sub {
    my ($known) = rule('key=x') =~ /: expected (.*), for example/;
    my @known    = split /, | and | or /, $known;
    my @headings = map { /^key=(.+)/ } $manual->headings(3, 'Key components');
    is_deeply [sort(@headings, '%{...}')], [sort @known], 'all are there';
    is_deeply [sort(named($manual, 'Key components'))], [sort @known], 'and in the table';
};

my %text;
$text{ $_->[0] } .= $_->[1] for $manual->examples('apache');

subtest 'each has an example of its own' => sub {
    for my $under ('Directives', 'Options of RateLimit', 'Algorithms', 'Key components', 'Phases') {
        for my $heading (grep { !/ / } $manual->headings(3, $under)) {
            my $what = $heading =~ s/^key=(?=.)//r =~ s/(?<=[:\/])N(?:AME)?$//r;
            like $text{$heading} // '', qr/\Q$what\E/, $heading;
        }
    }
};

# One server, with a virtual host for each example with a rule. The request is one that the first
# rule of the example is about. Directives for the server config stand outside.
subtest 'examples apply to the requests that they are about' => sub {
    my $config = "Define APACHE_LOG_DIR \@DIR\@\n"
        . "RateLimitRedis \@REDIS\@\nRateLimitRedisTimeout 10s connect=10s\n"
        . "RateLimitAdaptive 80 0.25\nRateLimitNotes all\n"
        . qq{Header always set X-Decision "%{RATELIMIT_VERDICT}e %{RATELIMIT_RULE}e"\n};
    my %row = map { my %rows = rows($_); $_ => \%rows } @directives;
    my $server_wide = join '|', grep { $row{$_}{Context} eq 'server config' } @directives;
    my %host;
    for my $under ('Directives', 'Options of RateLimit', 'Algorithms', 'Key components', 'Phases') {
        for my $heading (grep { !/ / || /^key=/ } $manual->headings(3, $under)) {
            my $name = 'e' . keys(%host) . '.test';
            next if $text{$heading} =~ /<VirtualHost/ || $text{$heading} !~ /^RateLimit \S+ \d/m;
            $host{$name} = [$heading, $text{$heading}];
            $config .= "<VirtualHost *>\nServerName $name\nRateLimitScope $name\n"
                . $text{$heading} =~ s/^(?:$server_wide) .*\n//mgr . "</VirtualHost>\n";
        }
    }
    my $redis = RedisServer->start;
    my $httpd = Httpd->start(redis => $redis, modules => \@modules, config => $config);
    for my $name (sort keys %host) {
        my ($heading, $example) = @{ $host{$name} };
        my ($rule, $options) = $example =~ /^\s*RateLimit (\S+) \d+\S*(.*)/m;
        my ($glob)   = $options =~ /path=(\S+)/;
        my ($method) = $options =~ /methods=(\w+)/;
        my $decision = $httpd->request(
            method => $method // 'GET', path => $glob ? path_of($glob) : '/hello.txt',
            headers => { Host => $name, 'User-Agent' => 'a crawler' },
        )->header('X-Decision') // '';
        like $decision, qr/^pass \S/, "$heading: a rule applies" or diag $example;
    }
    is_deeply [$httpd->error_log_lines(qr/ratelimit:/)], [], 'nothing is complained of';
};

subtest 'what is refused' => sub {
    for my $row (tries('Refused combinations')) {
        my ($code, $said) = check($row);
        ok $code && $said =~ /RateLimit "x"/, $row or diag $said;
    }
};

subtest 'what gets a warning' => sub {
    for my $row (tries('Combinations with a warning')) {
        my ($code, $said) = check($row);
        ok !$code && $said =~ /ratelimit: RateLimit "x"/, $row or diag $said;
    }
};

# --- What is shown -------------------------------------------------------------

my $shown = Httpd->start(modules => ['status'], config => Metrics::CONFIG . Status::CONFIG . <<'EOT');
RateLimitRedis redis://127.0.0.1:1
RateLimit x 10/1m
EOT

subtest 'metrics' => sub {
    my $metrics = Metrics->of($shown);
    is_deeply [sort(named($operating, 'Metrics'))], [$metrics->families], 'all are there';
    my %kinds = map { $_ => 1 } map { /\bkind=(\w+)/ } keys %{ $metrics->series };
    is_deeply [sort(named($operating, 'Why Redis did not decide'))], [sort keys %kinds],
        'and all reasons';
};

subtest 'lines of server-status' => sub {
    is_deeply [sort map { s/^RateLimit//r } named($operating, 'server-status')],
        [sort grep { $_ ne 'rules' } keys %{ Status->of($shown) }], 'all are there';
};

done_testing;

# --- Helpers -------------------------------------------------------------------

sub check {
    my ($config) = @_;
    $config =~ s{file:/etc/\S+}{file:$secret};
    $config =~ s{ca=/etc/\S+}{ca=$ca};
    $config =~ s{logs/}{run/};
    $config =~ s{/usr/bin/rotatelogs}{/bin/cat};
    return Httpd->config_test(modules => \@modules,
        config => "Define APACHE_LOG_DIR \@DIR\@\n$config");
}

sub rule { return (check("RateLimit x 10/1m $_[0]"))[1] }

# The rows of the table under a heading: Description => '...'.
sub rows {
    my ($title) = @_;
    return map { $_->[0] =~ /^(\w+):$/ ? ($1 => $_->[1]) : () } $manual->table($title);
}

# Where a directive is taken, in the order of the manual.
sub contexts {
    my ($line) = @_;
    my @taken;
    for my $where ('server config', 'virtual host', 'directory') {
        my ($code, $said) = check(sprintf $context{$where}, $line);
        push @taken, $where
            unless $said =~ /cannot occur within|not allowed in|is allowed only outside of sections/;
    }
    return @taken;
}

# A path that a glob matches.
sub path_of {
    my ($glob) = @_;
    return $glob =~ s{/\*\*(?=/)}{}gr =~ s{\*+}{x}gr;
}

# What stands as code in the first column of a table.
sub named {
    my ($document, $title) = @_;
    return map { $_->[0] =~ /`([^`]+)`/g } $document->table($title);
}

# The configurations in the first column of a table.
sub tries { return map { $_->[0] =~ /^`(RateLimit .*)`$/ } $manual->table($_[0]) }
