# A prepared transaction that has appended holds the high-water mark back
# through a restart and through a crash, until it is resolved: no reader gets
# what is behind it before, and everything comes exactly once after.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('prepared');
$node->init;
$node->start;
$node->safe_psql('postgres', 'CREATE EXTENSION pg_cqrs; SELECT cqrs.create_journal(); CREATE TABLE other (n int)');

for my $restart ('fast', 'immediate')
{
	for my $resolve ('COMMIT', 'ROLLBACK')
	{
		survives($restart, $resolve);
	}
}

# Several at once, resolved out of order, over two restarts; one has not appended.
append('p1', "PREPARE TRANSACTION 'p1'");
append('between');
append('p2', "PREPARE TRANSACTION 'p2'");
$node->safe_psql('postgres', "BEGIN; INSERT INTO other VALUES (1); PREPARE TRANSACTION 'unrelated'");
my $before = mark();
$node->stop('fast');
$node->start;
append('p3', "PREPARE TRANSACTION 'p3'");
append('after');
$node->stop('immediate');
$node->start;
is(mark(), $before, 'the first of three prepared transactions holds the mark back');
is($node->safe_psql('postgres', 'SELECT count(*) FROM cqrs.open_positions()'), '3',
	'who has not appended holds nothing back');
$node->safe_psql('postgres', "COMMIT PREPARED 'p2'");
is(mark(), $before, 'committing the second moves nothing');
$node->safe_psql('postgres', "ROLLBACK PREPARED 'p1'");
is(names($before), 'between p2', 'then everything up to the third can be read');
$node->safe_psql('postgres', "COMMIT PREPARED 'p3'");
is(names($before), 'between p2 p3 after', 'and at last the rest');
is(mark(), last_position(), 'the mark is at the end');
$node->safe_psql('postgres', "ROLLBACK PREPARED 'unrelated'");

# The lock that carries the position is on its own: nobody else's tag matters.
$node->safe_psql('postgres', "BEGIN; SELECT pg_advisory_xact_lock(1, 17234); SELECT pg_advisory_xact_lock(3); PREPARE TRANSACTION 'locks'");
$node->stop('fast');
$node->start;
append('later');
is(mark(), last_position(), 'locks of others hold nothing back');
$node->safe_psql('postgres', "COMMIT PREPARED 'locks'");

$node->stop;
done_testing();

# One prepared transaction between other events and a restart in between.
sub survives
{
	my ($restart, $resolve) = @_;
	my $what = "$restart restart, $resolve PREPARED";
	my ($offset, $seen);

	append('early');
	append('prepared', "PREPARE TRANSACTION 'waits'");
	append('late');
	$offset = mark();
	$seen = names(0);
	cmp_ok($offset, '<', last_position() - 1, "$what: the mark is below before");
	$node->stop($restart);
	$node->start;
	is(mark(), $offset, "$what: the mark is where it was");
	is(names(0), $seen, "$what: readers get what they got before");
	is($node->safe_psql('postgres', 'SELECT first_position FROM cqrs.open_positions() JOIN pg_prepared_xacts USING (transaction)'),
		$offset + 1, "$what: it is seen who holds the mark back");
	append('latest');
	is(names($offset), '', "$what: nothing behind it is read");

	# The entity is locked, too.
	my ($code, undef, $error) = $node->psql('postgres',
		"SET lock_timeout = '10 ms'; SELECT cqrs.append('Account', 'prepared', ARRAY[cqrs.new_event('Changed', '1')])");
	like($error, qr/lock timeout/, "$what: the entity waits for it");

	$node->safe_psql('postgres', "$resolve PREPARED 'waits'");
	is(names($offset), ($resolve eq 'COMMIT' ? 'prepared late latest' : 'late latest'),
		"$what: what follows comes when it is resolved");
	is(mark(), last_position(), "$what: the mark is at the end");
	append('prepared');
	is($node->safe_psql('postgres', "SELECT count(*) = max(version) FROM cqrs.history('Account', 'prepared')"),
		't', "$what: versions have no hole");
	return;
}

sub append
{
	my ($entity, $then) = @_;

	$node->safe_psql('postgres', 'BEGIN; SELECT cqrs.append(\'Account\', \'' . $entity
		  . '\', ARRAY[cqrs.new_event(\'Changed\', \'1\')]); ' . ($then // 'COMMIT'));
	return;
}

sub mark
{
	return $node->safe_psql('postgres', 'SELECT cqrs.high_water_mark()');
}

sub last_position
{
	return $node->safe_psql('postgres', 'SELECT cqrs.last_position()');
}

# The entities of the events after a position, in the order they are read.
sub names
{
	my ($after) = @_;

	return $node->safe_psql('postgres', "SELECT string_agg(entity_id, ' ' ORDER BY place)"
		  . " FROM cqrs.read_events($after) WITH ORDINALITY AS e (position, slice, entity_type, entity_id, version,"
		  . " event_type, schema_version, data, metadata, created_at, place)");
}
