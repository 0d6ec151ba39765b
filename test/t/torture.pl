# The short form of test/torture: nothing is lost, doubled or misplaced while servers and workers are killed
# and a standby takes over.
use strict;
use warnings;
use FindBin;

exec "$FindBin::Bin/../torture/run", '30s' or die "cannot run test/torture/run: $!\n";
