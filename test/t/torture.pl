# The short form of test/torture: nothing is lost, doubled or misplaced while servers and workers are killed and a standby takes over.
use strict;
use warnings;
use FindBin;
use Test::More;

plan(skip_all => 'Debian\'s python3-psycopg2 is not there')
  if system('/usr/bin/python3 -c "import psycopg2" 2>/dev/null') != 0;
exec "$FindBin::Bin/../torture/run", '20s', 'seed=1' or die "cannot run test/torture/run: $!\n";
