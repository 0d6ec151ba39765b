# The short form of test/fuzz, always the same statements: none of them breaks anything, or has an error of a kind that it may not have.
use strict;
use warnings;
use FindBin;
use Test::More;

plan(skip_all => 'Debian\'s python3-psycopg2 is not there')
  if system('/usr/bin/python3 -c "import psycopg2" 2>/dev/null') != 0;
exec "$FindBin::Bin/../fuzz/run", '1000', 'seed=1' or die "cannot run test/fuzz/run: $!\n";
