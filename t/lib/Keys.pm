# SPDX-License-Identifier: Apache-2.0
package Keys;

# Clients that choose their address, tenant and user, for tests of keys.
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
# @CLIENT@ takes the address from X-Client and the variable TENANT from X-Tenant. @LOGIN@ is the login of a
# section that accepts any name. @SHARED@ has rules of one name in two sections, /shared/two and
# /shared/three, which Keys::shares() tries.

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

# The header with the login of a user.
sub basic { my ($user) = @_; return (Authorization => 'Basic ' . encode_base64("$user:x", '')) }

# Checks that rules of one name count together, each with its own quota. The function requests a path as a
# client without earlier requests and returns the status.
sub shares {
    my ($ask) = @_;
    my $said = sub { my ($path, $times) = @_; return join ' ', map { $ask->($path) } 1 .. $times };
    is $said->('/shared/two', 3),   '404 404 429', 'the quota of two passes';
    is $said->('/shared/three', 2), '404 429',     'one unit of the quota of three is left';
    is $said->('/shared/two', 1),   '429',         'it counts under the quota of two';
    return $said;
}

1;
