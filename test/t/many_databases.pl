# Each database of a server has a journal of its own, with positions and a
# high-water mark of its own: nothing that happens in one moves or holds back
# another. A database that takes the name, or the place in shared memory, of
# one that was dropped begins anew.
use strict;
use warnings;
use IPC::Run qw(start);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('many');
$node->init;
$node->start;
create('one');
create('two');

append('one', 'a') for 1 .. 3;
append('two', 'a');
is(status('one'), '3|3|0', 'one has its positions');
is(status('two'), '1|1|0', 'two has others');

# What is open in one holds back one: in a session ...
my ($in, $out) = ("BEGIN; SELECT position FROM cqrs.append('Account', 'open', ARRAY[cqrs.new_event('Changed', '1')]);\n", '');
my $session = start([ 'psql', '-X', '-A', '-t', '-q', '-d', $node->connstr('two') ],
	'<', \$in, '>', \$out, IPC::Run::timeout($PostgreSQL::Test::Utils::timeout_default));
$session->pump until $out =~ /\d/;
append('one', 'a');
is(status('one'), '4|4|0', 'an open transaction holds back no other database');
is(status('two'), '2|1|1', 'but its own');
$in .= "ROLLBACK;\n";
$session->finish;
is(status('two'), '2|2|0', 'until it ends');

# ... and when it is prepared.
append('one', 'slow', "PREPARE TRANSACTION 'one'");
append('one', 'a');
append('two', 'a');
is(status('one'), '6|4|1', 'a prepared transaction holds its own database back');
is(status('two'), '3|3|0', 'and no other');
$node->stop('fast');
$node->start;
is(status('two'), '3|3|0', 'not after a restart either');
is(status('one'), '6|4|1', 'while its own is held back still');
is($node->safe_psql('two', "SELECT count(*) FROM cqrs.open_positions()"), '0', 'nor is it seen there');
append('two', 'a');
is(append('two', 'a'), '4|5', 'the same entity is another one in another database');
is(append('one', 'b'), '1|7', 'and positions go on in each');

# A database that cannot be dropped while something is prepared in it.
my ($code, undef, $error) = $node->psql('postgres', 'DROP DATABASE one');
like($error, qr/prepared transaction/, 'a database with a prepared transaction cannot be dropped');
$node->safe_psql('one', "COMMIT PREPARED 'one'");
is(status('one'), '7|7|0', 'after it was committed the mark moves');

# One of the same name begins with position 1, and knows no offset of the old one.
$node->safe_psql('postgres', 'DROP DATABASE one');
create('one');
is(status('one'), '0|0|0', 'a new database of the same name has no journal');
is(append('one', 'a'), '1|1', 'and begins with position 1');
is(status('one'), '1|1|0', 'which can be read at once');
(undef, undef, $error) = $node->psql('one', "\\set VERBOSITY verbose\nSELECT * FROM cqrs.read_events(7)");
like($error, qr/22023: no position 7 was ever given/, 'an offset of the old one is an error');

# So does a journal that was dropped, also in a session that has used it, and
# one that is rolled back was never there.
is( $node->safe_psql('one', <<'SQL'), "2|2\n1|1\n1|1\n1|1|0\n1|1\n2|2|0", 'a new journal begins with position 1');
SELECT version, position FROM cqrs.append('Account', 'a', ARRAY[cqrs.new_event('Changed', '1')]);
DROP TABLE cqrs.journal;
SELECT version, position FROM cqrs.append('Account', 'a', ARRAY[cqrs.new_event('Changed', '1')]);
SELECT position, version FROM cqrs.read_events();
SELECT last_position, high_water_mark, open_transactions FROM cqrs.journal_status;
BEGIN;
DROP TABLE cqrs.journal;
SELECT version, position FROM cqrs.append('Account', 'b', ARRAY[cqrs.new_event('Changed', '1')]);
ROLLBACK;
DO $$BEGIN PERFORM cqrs.append('Account', 'a', ARRAY[cqrs.new_event('Changed', '1')]); END$$;
SELECT last_position, high_water_mark, open_transactions FROM cqrs.journal_status;
SQL
is(append('one', 'a'), '3|3', 'and other sessions see the same');

# Databases come and go: a journal's place in shared memory is given again.
for my $round (1 .. 5)
{
	$node->safe_psql('postgres', "CREATE DATABASE passing TEMPLATE template0");
	$node->safe_psql('passing', 'CREATE EXTENSION pg_cqrs');
	append('passing', 'a') for 1 .. $round % 3 + 1;
	$node->safe_psql('postgres', "DROP DATABASE passing");
}
$node->safe_psql('postgres', "CREATE DATABASE passing");
$node->safe_psql('passing', 'CREATE EXTENSION pg_cqrs');
is(append('passing', 'a'), '1|1', 'the sixth of a name begins with position 1');
is(status('two'), '5|5|0', 'and all that has not touched another');

# A renamed database is the same one.
$node->safe_psql('postgres', 'ALTER DATABASE two RENAME TO three');
is($node->safe_psql('three', 'SELECT cqrs.is_held()'), 'f', 'a renamed database is not held');
is(append('three', 'a'), '5|6', 'and goes on');

$node->stop;
done_testing();

sub create
{
	my ($database) = @_;

	$node->safe_psql('postgres', "CREATE DATABASE $database");
	$node->safe_psql($database, 'CREATE EXTENSION pg_cqrs');
	return;
}

sub append
{
	my ($database, $entity, $then) = @_;

	return $node->safe_psql($database, "BEGIN; SELECT version, position FROM"
		  . " cqrs.append('Account', '$entity', ARRAY[cqrs.new_event('Changed', '1')]); " . ($then // 'COMMIT'));
}

sub status
{
	my ($database) = @_;

	return $node->safe_psql($database, 'SELECT last_position, high_water_mark, open_transactions FROM cqrs.journal_status');
}
