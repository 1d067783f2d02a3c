#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
# The documents are true. Every example passes httpd -t. DIRECTIVES.md has every directive, option, algorithm,
# key component and phase that the module accepts, and no other; its defaults and contexts, the effect of its
# examples, and the lines that it calls refused are tried. Every link has a target.

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

# check() puts these files in place of those in the examples: a password and an authority.
my ($out, $secret) = tempfile(UNLINK => 1);
print $out "password\n";
close $out or die "$secret: $!\n";
my $ca = Certificates->new->file;

# The modules of httpd that the examples use.
my @modules = qw(status remoteip setenvif headers proxy proxy_http cache ssl);

# --- Documents -----------------------------------------------------------------

subtest 'every link has a target' => sub {
    my %anchors = map { $_->path => $_->anchors } Documents::all();
    for my $document (Documents::all()) {
        my @broken;
        for my $link (grep { !m{^https?://} } $document->links) {
            my ($file, $anchor) = split /#/, $link, 2;
            my $path = $file eq '' ? $document->path : $document->beside($file);
            my $is_there = -e "$Documents::ROOT/$path";
            push @broken, $link unless $is_there && (!defined $anchor || $anchors{$path}{$anchor});
        }
        is_deeply \@broken, [], 'all links of ' . $document->path . ' have a target';
    }
};

subtest 'lists of contents are complete' => sub {
    cmp_ok +(my @lines = split /\n/, $readme->text), '<=', 300, 'README.md has at most 300 lines';
    for my $document ($readme, $manual, $operating) {
        my ($head) = $document->text =~ /\A(.*?)^## (?!Contents)/ms;
        my @headings = grep { $_ ne 'Contents' } map { $document->headings($_) }
            2, $document == $readme ? () : 3;
        my @missing = grep { index($head, "(#$_)") < 0 } map { Documents::slug($_) } @headings;
        is_deeply \@missing, [], 'the list of ' . $document->path . ' is complete';
    }
};

subtest 'examples in documents are valid configurations' => sub {
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

subtest 'the README lists conf/examples' => sub {
    my %linked = map { $_ => 1 } $readme->text =~ m{\(conf/examples/([\w-]+\.conf)\)}g;
    is_deeply [sort keys %linked], [Examples::names()], 'it links to every file, and to no other';
};

subtest "the operator's card agrees with the runbook" => sub {
    my @commands = $readme->section("The operator's card") =~ /`(redis-cli [^`]+)`/g;
    ok @commands >= 2, 'the card has ' . @commands . ' commands';
    my $runbook = $operating->section('Runbook');
    is_deeply [grep { index($runbook, $_) < 0 } @commands], [], 'all of them are in the runbook';
};

subtest 't/README.md lists the directories of t and the files of t/lib' => sub {
    my $tests = Documents->read('t/README.md');
    my @there = map { s{.*/}{}r } grep { -d } glob "$Documents::ROOT/t/*";
    my %named = map { $_ => 1 } named($tests, 'Kinds of tests');
    is_deeply [grep { !$named{$_} && $_ ne 'lib' } @there], [], 'every directory is listed';
    is_deeply [sort(named($tests, 'Files in t/lib'))],
        [sort map { s{.*/}{}r } glob "$Documents::ROOT/t/lib/*"], 'every file of t/lib is listed';
};

subtest 'the test in t/README.md works' => sub {
    my ($example) = Documents->read('t/README.md')->examples('perl');
    my ($script, $file) = tempfile(SUFFIX => '.t', UNLINK => 1);
    print $script $example->[1] =~ s{\$FindBin::Bin/\.\./lib}{$FindBin::Bin/../lib}r;
    close $script or die "$file: $!\n";
    my $said = qx{"$^X" "$file" 2>&1};
    is $?, 0, 'it passes' or diag $said;
};

subtest 'targets of make exist and are documented' => sub {
    my $makefile = Examples::slurp("$Documents::ROOT/Makefile");
    my ($phony) = $makefile =~ /^\.PHONY: (.*)/m;
    my %there = map { $_ => 1 } split ' ', $phony;
    my @named = map { $_->text =~ m{(?:`|^)make ([a-z][\w-]+)\b(?!/)}mg } Documents::all();
    is_deeply [grep { !$there{$_} } @named], [], 'every target that a document names exists';
    my $taken = Documents->read('.github/CONTRIBUTING.md')->section('How a change is taken');
    my @run = Examples::slurp("$Documents::ROOT/.ci/run") =~ /^(?:stage )?make ([\w-]+)/mg;
    is_deeply [grep { index($taken, "`make $_`") < 0 } @run], [],
        'CONTRIBUTING.md names every target that .ci/run runs';
    my %listed = map { /^make ([\w-]+)/ ? ($1 => 1) : () } named($readme, 'Build and test');
    is_deeply [grep { !$listed{$_} } $makefile =~ /^#   make ([\w-]+) +\w/mg], [],
        'the README lists every target that the Makefile lists';
};

# --- The manual ----------------------------------------------------------------

my @source;
find(sub { push @source, Examples::slurp($_) if /\.c$/ }, "$Documents::ROOT/src");
my @directives = sort map { /AP_INIT_\w+\("(RateLimit\w*)"/g } @source;

# A valid line of each directive that has no default.
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

subtest 'every directive is described' => sub {
    is_deeply [$manual->headings(3, 'Directives')], \@directives, 'the headings are the directives, in order';
    for my $name (@directives) {
        my %row = rows($name);
        is_deeply [grep { !$row{$_} } qw(Description Syntax Default Context Status Module)], [],
            "$name has all its rows";
        like $row{Compatibility}, qr/^since \d+\.\d+/, 'Compatibility names a version';
        like $row{Syntax}, qr/^`$name /, 'the syntax begins with its name';
        my ($default) = $row{Default} =~ /^`([^`]*)`$/;
        is +(check($default))[0], 0, "the default is accepted: $default" if $default;
        is_deeply [contexts($line{$name} || $default)], [split /, /, $row{Context}], 'the contexts are right';
    }
};

# A valid value of each option that needs one and has no default.
my %value = (
    'burst=' => 20, 'path=' => '/x', 'methods=' => 'GET', 'when=' => 'true', 'unless=' => 'false',
    'tier=' => 'x', 'charge-on=' => 404, 'block=' => '1m', 'on-failure=' => 'open',
    'phase=' => 'access',
);
# Options that need another one beside them.
my %with = ('burst=' => 'algorithm=token-bucket', 'delay=' => 'algorithm=leaky-bucket');

subtest 'every option is described' => sub {
    my ($known) = rule('no-such-option') =~ /; expected one of: (.*)/;
    my @known    = split /, /, $known;
    my @headings = grep { !/ / } $manual->headings(3, 'Options of RateLimit');
    is_deeply [sort @headings], [sort @known], 'the headings are the options';
    is_deeply [named($readme, 'First limits')], \@headings,
        'the table of the README has them all';
    for my $name (@headings) {
        my %row = rows($name);
        is_deeply [grep { !$row{$_} } qw(Description Syntax Default Context Compatibility)], [],
            "$name has all its rows";
        like $row{Compatibility}, qr/^since \d+\.\d+/, 'Compatibility names a version';
        my ($default) = $row{Default} =~ /^`([^`]*)`$/;
        my $option = $default // $name . ($value{$name} // '');
        my $needs  = $with{$name} // '';
        like $row{Syntax}, qr/^`\Q$name\E/, 'the syntax begins with its name';
        like rule("$option $needs"), qr/Syntax OK/, "a rule accepts it: $option";
        my ($context, $early) = split /; `early`: /, $row{Context};
        is_deeply [contexts("RateLimit x 10/1m $option $needs")], [split /, /, $context],
            'the contexts are right';
        is_deeply [contexts('RateLimit x 10/1m phase=early')], [split /, /, $early],
            'the contexts of phase=early are right'
            if $early;
    }
};

subtest 'every algorithm is described' => sub {
    my ($known) = rule('algorithm=x') =~ /: expected (.*), for example/;
    my @known = split /, | and | or /, $known;
    is_deeply [$manual->headings(3, 'Algorithms')], \@known, 'the headings are the algorithms';
    is_deeply [named($manual, 'Algorithms')], \@known, 'the table has them all';
};

subtest 'every phase is described' => sub {
    my ($known) = rule('phase=x') =~ /: expected (.*), for example/;
    my @known = split /, | and | or /, $known;
    is_deeply [$manual->headings(3, 'Phases')], \@known, 'the headings are the phases';
};

subtest 'every component of a key is described' => sub {
    my ($known) = rule('key=x') =~ /: expected (.*), for example/;
    my @known    = split /, | and | or /, $known;
    my @headings = map { /^key=(.+)/ } $manual->headings(3, 'Key components');
    is_deeply [sort(@headings, '%{...}')], [sort @known], 'the headings are the components';
    is_deeply [sort(named($manual, 'Key components'))], [sort @known], 'the table has them all';
};

my %text;
$text{ $_->[0] } .= $_->[1] for $manual->examples('apache');

subtest 'every description has an example' => sub {
    for my $under ('Directives', 'Options of RateLimit', 'Algorithms', 'Key components', 'Phases') {
        for my $heading (grep { !/ / } $manual->headings(3, $under)) {
            my $what = $heading =~ s/^key=(?=.)//r =~ s/(?<=[:\/])N(?:AME)?$//r;
            like $text{$heading} // '', qr/\Q$what\E/, $heading;
        }
    }
};

# One server with a virtual host for each example that has a rule. The request to it is one to which the
# first rule of the example applies. Directives for the server config stand outside.
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
    is_deeply [$httpd->error_log_lines(qr/ratelimit:/)], [], 'no warning is logged';
};

subtest 'combinations that the manual calls refused are refused' => sub {
    for my $row (tries('Refused combinations')) {
        my ($code, $said) = check($row);
        ok $code && $said =~ /RateLimit "x"/, $row or diag $said;
    }
};

subtest 'combinations that the manual says get a warning do' => sub {
    for my $row (tries('Combinations with a warning')) {
        my ($code, $said) = check($row);
        ok !$code && $said =~ /ratelimit: RateLimit "x"/, $row or diag $said;
    }
};

# --- Status and metrics -------------------------------------------------------------

my $shown = Httpd->start(modules => ['status'], config => Metrics::CONFIG . Status::CONFIG . <<'EOT');
RateLimitRedis redis://127.0.0.1:1
RateLimit x 10/1m
EOT

subtest 'every metric is described' => sub {
    my $metrics = Metrics->of($shown);
    is_deeply [sort(named($operating, 'Metrics'))], [$metrics->families], 'the table has the metrics';
    my %kinds = map { $_ => 1 } map { /\bkind=(\w+)/ } keys %{ $metrics->series };
    is_deeply [sort(named($operating, 'Why Redis did not decide'))], [sort keys %kinds],
        'and the reasons of failures';
};

subtest 'every line of server-status is described' => sub {
    is_deeply [sort map { s/^RateLimit//r } named($operating, 'server-status')],
        [sort grep { $_ ne 'rules' } keys %{ Status->of($shown) }], 'the table has the lines';
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

# The contexts in which a directive is accepted, in the order of the manual.
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
# The code in the first column of a table.
sub named {
    my ($document, $title) = @_;
    return map { $_->[0] =~ /`([^`]+)`/g } $document->table($title);
}

# The configurations in the first column of a table.
sub tries { return map { $_->[0] =~ /^`(RateLimit .*)`$/ } $manual->table($_[0]) }
