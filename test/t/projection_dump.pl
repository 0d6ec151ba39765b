# A dump carries projections with their offsets, read tables and triggers.
# Nothing is projected while it is restored, in whatever order and by however
# many processes; the copy is held until cqrs.adopt(), and then goes on behind
# the last event that was projected in the original, none twice, none left out.
# What is paused, parked or stopped there is so here.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $dump = PostgreSQL::Test::Utils::tempdir();
my $node = PostgreSQL::Test::Cluster->new('projection_dump');
$node->init;
$node->append_conf('postgresql.conf', 'cqrs.retry_delay = 1ms');
$node->start;
$node->safe_psql('postgres', 'CREATE DATABASE original');
$node->safe_psql('original', <<'SQL');
CREATE EXTENSION pg_cqrs;
CREATE TABLE counted (projection text, entity_id text, events int, PRIMARY KEY (projection, entity_id));
CREATE FUNCTION count_event(projection text, event cqrs.event) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	IF event.event_type = 'Poison' THEN
		RAISE EXCEPTION 'poison';
	END IF;
	INSERT INTO counted VALUES (projection, event.entity_id, 1)
	ON CONFLICT ON CONSTRAINT counted_pkey DO UPDATE SET events = counted.events + 1;
END
$$;
CREATE FUNCTION count_one(event cqrs.event) RETURNS void LANGUAGE sql AS $$SELECT count_event('one', event)$$;
CREATE FUNCTION count_four(event cqrs.event) RETURNS void LANGUAGE sql AS $$SELECT count_event('four', event)$$;
CREATE FUNCTION count_sync(event cqrs.event) RETURNS void LANGUAGE sql AS $$SELECT count_event('sync', event)$$;
CREATE FUNCTION count_all_sync(events cqrs.event[]) RETURNS void LANGUAGE sql AS
	$$SELECT count_event('all sync', e) FROM unnest(events) AS e$$;
CREATE FUNCTION count_paused(event cqrs.event) RETURNS void LANGUAGE sql AS $$SELECT count_event('paused', event)$$;
CREATE FUNCTION count_stopped(event cqrs.event) RETURNS void LANGUAGE sql AS $$SELECT count_event('stopped', event)$$;
SELECT cqrs.create_projection('one', 'count_one', max_retries => 1), cqrs.create_projection('four', 'count_four', partitions => 4, max_retries => 1);
SELECT cqrs.create_projection('sync', 'count_sync', '{Account}', mode => 'sync');
SELECT cqrs.create_projection('all sync', 'count_all_sync', '{Account}', mode => 'sync');
SELECT cqrs.create_projection('paused', 'count_paused'), cqrs.create_projection('stopped', 'count_stopped', on_failure => 'stop', max_retries => 0);
SQL
append('original', 100);
wait_for('original', 'one', 'four', 'paused', 'stopped');
$node->safe_psql('original', "SELECT cqrs.pause_projection('paused')");
$node->safe_psql('original', "SELECT cqrs.append('Job', 'sick', ARRAY[cqrs.new_event('Poison', '1'), cqrs.new_event('Changed', '1')])");
append('original', 50);
wait_for('original', 'one', 'four');
ok($node->poll_query_until('original', "SELECT state = 'stopped' FROM cqrs.projection_status WHERE name = 'stopped'"), 'one has stopped');
# And some that are written, but projected by none but the sync ones.
$node->safe_psql('original', "SELECT cqrs.pause_projection(p) FROM unnest('{one,four}'::text[]) AS p");
append('original', 30);
$node->safe_psql('original', "SELECT cqrs.resume_projection(p) FROM unnest('{one}'::text[]) AS p");
wait_for('original', 'one');

my $counted = "SELECT string_agg(c::text, ' ' ORDER BY c::text) FROM counted AS c";
my $expected = $node->safe_psql('original', $counted);
my $offsets = 'SELECT projection, slice, position, parked, skipped FROM cqrs.projection_offset ORDER BY 1, 2';
my $expected_offsets = $node->safe_psql('original', $offsets);

$node->command_ok([ 'pg_dump', '-d', $node->connstr('original'), '-f', "$dump/plain.sql" ], 'pg_dump');
$node->command_ok([ 'pg_dump', '-Fc', '-d', $node->connstr('original'), '-f', "$dump/custom" ], 'pg_dump -Fc');

$node->safe_psql('postgres', 'CREATE DATABASE plain TEMPLATE template0');
$node->command_ok([ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-d', $node->connstr('plain'), '-f', "$dump/plain.sql" ], 'restored by psql');
check_copy('plain', 'psql');

$node->safe_psql('postgres', 'CREATE DATABASE parallel TEMPLATE template0');
$node->command_ok([ 'pg_restore', '-j3', '--exit-on-error', '-d', $node->connstr('parallel'), "$dump/custom" ], 'pg_restore -j3');
# Found by itself, but held.
$node->restart;
check_copy('parallel', 'pg_restore -j3');

# The data into a schema that is there, triggers and all.
$node->safe_psql('postgres', 'CREATE DATABASE data TEMPLATE template0');
$node->command_ok([ 'pg_restore', '--schema-only', '--exit-on-error', '-d', $node->connstr('data'), "$dump/custom" ], 'pg_restore --schema-only');
is($node->safe_psql('data', 'SELECT count(*) FROM cqrs.projection'), '0', 'a schema has no projections');
is($node->safe_psql('data', "SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'projection\\_%'"), '2', 'but their triggers');
$node->command_ok([ 'pg_restore', '--data-only', '--exit-on-error', '-d', $node->connstr('data'), "$dump/custom" ], 'pg_restore --data-only');
check_copy('data', 'pg_restore --data-only');

# The original has not noticed.
is($node->safe_psql('original', $counted), $expected, 'the original is as it was');
append('original', 1);
wait_for('original', 'one');
is($node->safe_psql('original', 'SELECT DISTINCT state FROM cqrs.projection_status ORDER BY 1'), "paused\nrunning\nstopped", 'and goes on');

$node->stop;
done_testing();

sub check_copy
{
	my ($copy, $how) = @_;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	is($node->safe_psql($copy, $counted), $expected, "$how: nothing was projected");
	is($node->safe_psql($copy, $offsets), $expected_offsets, "$how: the offsets are as they were");
	is($node->safe_psql($copy, 'SELECT DISTINCT state FROM cqrs.projection_status'), 'held', "$how: the copy is held, and says so");
	# Commands work; a sync projection is part of them.
	append($copy, 7);
	is(sum($copy, 'sync'), sum('original', 'sync') + 7, "$how: the trigger fires while it is held");
	is(sum($copy, 'all sync'), sum('original', 'all sync') + 7, "$how: the one for all rows too");
	is($node->safe_psql($copy, "SELECT sum(events) FROM counted WHERE projection NOT LIKE '%sync'"),
		$node->safe_psql('original', "SELECT sum(events) FROM counted WHERE projection NOT LIKE '%sync'"), "$how: no worker does anything");
	is($node->safe_psql('postgres', "SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'pg_cqrs%' AND datname = '$copy'"),
		'0', "$how: there is none");

	$node->safe_psql($copy, 'SELECT cqrs.adopt()');
	wait_for($copy, 'one');
	is($node->safe_psql($copy, 'SELECT name, state FROM cqrs.projection_status GROUP BY 1, 2 ORDER BY 1'),
		"all sync|running\nfour|paused\none|running\npaused|paused\nstopped|stopped\nsync|running", "$how: each is as it was");
	$node->safe_psql($copy, "SELECT cqrs.resume_projection(p) FROM unnest('{four,paused}'::text[]) AS p");
	append($copy, 5);
	wait_for($copy, 'one', 'four');
	for my $projection ('one', 'four', 'sync', 'all sync')
	{
		is( $node->safe_psql($copy, "SELECT entity_id, events FROM counted WHERE projection = '$projection' ORDER BY 1"),
			$node->safe_psql($copy, "SELECT entity_id, count(*) FROM cqrs.journal WHERE entity_type = 'Account' GROUP BY 1 ORDER BY 1"),
			"$how: $projection equals the journal");
	}
	is( $node->safe_psql($copy, "SELECT projection, entity_id, event_type, waiting FROM cqrs.parked_event WHERE projection IN ('one', 'four') ORDER BY 1"),
		"four|sick|Poison|1\none|sick|Poison|1", "$how: who is parked still is");
	$node->safe_psql($copy, "SELECT cqrs.discard_parked('one')");
	ok($node->poll_query_until($copy, "SELECT events = 1 FROM counted WHERE projection = 'one' AND entity_id = 'sick'"),
		"$how: until that is discarded");
	return;
}

sub append
{
	my ($database, $events) = @_;

	$node->safe_psql($database, "SELECT cqrs.append('Account', (n % 7)::text, ARRAY[cqrs.new_event('Changed', '1')]) FROM generate_series(1, $events) AS n");
	return;
}

sub wait_for
{
	my ($database, @projections) = @_;

	$node->safe_psql($database, "SELECT cqrs.wait_for_projection('$_', timeout => '30 s')") for @projections;
	return;
}

sub sum
{
	my ($database, $projection) = @_;

	return $node->safe_psql($database, "SELECT sum(events) FROM counted WHERE projection = '$projection'");
}
