# SPDX-License-Identifier: Apache-2.0
package Keys;

# Clients that say who they are, for tests of keys.
#
#   my $httpd = Httpd->start(modules => [Keys::MODULES], vars => {Keys::VARS}, config => <<'EOF');
#   @CLIENT@
#   <Location /user>
#       @LOGIN@
#       RateLimit user 1/1d key=user
#   </Location>
#   @SHARED@
#   EOF
#   $httpd->get('/user', headers => {'X-Client' => '203.0.113.7', Keys::basic('alice')});
#
# @CLIENT@ makes X-Client the address and X-Tenant the variable TENANT; @LOGIN@ is
# a section's login that takes any name; @SHARED@ has rules of one name in two
# sections, /shared/two and /shared/three, which Keys::shares() tries.

use strict;
use warnings;

use MIME::Base64 qw(encode_base64);
use Test::More;

use constant MODULES => qw(remoteip setenvif auth_basic authn_anon authz_user);

use constant VARS => (
    CLIENT => <<'EOT',
RemoteIPHeader X-Client
RemoteIPInternalProxy 127.0.0.1
SetEnvIf X-Tenant "^(.+)$" TENANT=$1
EOT
    LOGIN => <<'EOT',
    AuthType Basic
    AuthName test
    AuthBasicProvider anon
    Anonymous *
    Anonymous_MustGiveEmail off
    Anonymous_VerifyEmail off
    Require valid-user
EOT
    SHARED => <<'EOT',
<Location /shared/two>
    RateLimit shared 2/1d
</Location>
<Location /shared/three>
    RateLimit shared 3/1d
</Location>
EOT
);

# The header of a user who logs in.
sub basic { my ($user) = @_; return (Authorization => 'Basic ' . encode_base64("$user:x", '')) }

# Checks that the rules of one name count together, each with its quota. The
# function asks for a path, as a client of whom nothing was counted yet, and
# returns the status.
sub shares {
    my ($ask) = @_;
    my $said = sub { my ($path, $times) = @_; return join ' ', map { $ask->($path) } 1 .. $times };
    is $said->('/shared/two', 3),   '404 404 429', 'two of two';
    is $said->('/shared/three', 2), '404 429',     'leave one of three elsewhere';
    is $said->('/shared/two', 1),   '429',         'which counts here';
    return $said;
}

1;
