# On a standby no worker runs and nothing is written: what the primary has
# projected is there, and that is all. After a promotion workers start by
# themselves and go on exactly where the primary's were, with one partition and
# with several; sync projections go on, too.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $workers = "SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'pg_cqrs%'";
my $primary = PostgreSQL::Test::Cluster->new('projection_primary');
$primary->init(allows_streaming => 1);
$primary->append_conf('postgresql.conf', 'cqrs.projection_workers = 2');
$primary->start;
$primary->safe_psql('postgres', <<'SQL');
CREATE EXTENSION pg_cqrs;
CREATE TABLE counted (projection text, entity_id text, events int, PRIMARY KEY (projection, entity_id));
CREATE FUNCTION count_event(projection text, event cqrs.event) RETURNS void LANGUAGE sql AS $$
	INSERT INTO counted VALUES (projection, event.entity_id, 1)
	ON CONFLICT ON CONSTRAINT counted_pkey DO UPDATE SET events = counted.events + 1
$$;
CREATE FUNCTION count_one(event cqrs.event) RETURNS void LANGUAGE sql AS $$SELECT count_event('one', event)$$;
CREATE FUNCTION count_four(event cqrs.event) RETURNS void LANGUAGE sql AS $$SELECT count_event('four', event)$$;
CREATE FUNCTION count_sync(event cqrs.event) RETURNS void LANGUAGE sql AS $$SELECT count_event('sync', event)$$;
CREATE FUNCTION count_rare(event cqrs.event) RETURNS void LANGUAGE sql AS $$SELECT count_event('rare', event)$$;
SELECT cqrs.create_projection('one', 'count_one'), cqrs.create_projection('four', 'count_four', partitions => 4);
SELECT cqrs.create_projection('sync', 'count_sync', mode => 'sync');
SELECT cqrs.create_projection('rare', 'count_rare', event_types => '{Rare}');
SQL
$primary->backup('base');
my $standby = PostgreSQL::Test::Cluster->new('projection_standby');
$standby->init_from_backup($primary, 'base', has_streaming => 1);
$standby->start;

append($primary, 100);
wait_for($primary, 'one', 'four', 'sync', 'rare');
$primary->wait_for_catchup($standby);
is(projected($standby), projected($primary), 'the standby has what the primary has projected');
exact($standby, 'one', 'four', 'sync');
is($standby->safe_psql('postgres', $workers), '0', 'nobody works on the standby');
is($standby->safe_psql('postgres', 'SELECT count(*), sum(parked) FROM cqrs.projection_status'), '7|0', 'the status can be looked at');
for my $call ("wait_for_projection('one', timeout => '1 s')", "pause_projection('one')", "rebuild_projection('one')")
{
	my (undef, undef, $error) = $standby->psql('postgres', "\\set VERBOSITY verbose\nSELECT cqrs.$call;");

	like($error, qr/ERROR:  (25006|0A000|55000): /, "cqrs.$call is refused");
}

# What is not projected on the primary is not on the standby either.
$primary->safe_psql('postgres', "SELECT cqrs.pause_projection(p) FROM unnest('{one,four}'::text[]) AS p");
append($primary, 50);
$primary->safe_psql('postgres', "BEGIN; SELECT cqrs.append('Account', 'prepared', ARRAY[cqrs.new_event('Changed', '1')]); PREPARE TRANSACTION 'one'");
append($primary, 10);
$primary->safe_psql('postgres', "SELECT cqrs.resume_projection('four')");
$primary->safe_psql('postgres', "SELECT cqrs.wait_for_projection('four', up_to => cqrs.high_water_mark(), timeout => '60 s')");
$primary->wait_for_catchup($standby);
is(projected($standby), projected($primary), 'it follows, and does nothing of its own');
$standby->restart;
is($standby->safe_psql('postgres', $workers), '0', 'nor after a restart');

$primary->stop('immediate');
my $before = projected($standby);
$standby->promote;
$standby->safe_psql('postgres', "SELECT cqrs.wait_for_projection('four', up_to => cqrs.high_water_mark(), timeout => '60 s')");
is($standby->safe_psql('postgres', "SELECT DISTINCT name, state FROM cqrs.projection_status ORDER BY 1"),
	"four|running\none|paused\nrare|running\nsync|running", 'the projections are as they were');
is(projected($standby), $before, 'nothing is projected again');
$standby->safe_psql('postgres', "SELECT cqrs.resume_projection('one')");
append($standby, 20);
$standby->safe_psql('postgres', "SELECT cqrs.append('Account', 'rare', ARRAY[cqrs.new_event('Rare', '1')]); COMMIT PREPARED 'one'");
wait_for($standby, 'one', 'four', 'sync', 'rare');
exact($standby, 'one', 'four');
is($standby->safe_psql('postgres', "SELECT string_agg(entity_id || events, ' ') FROM counted WHERE projection = 'rare'"), 'rare1', 'one that matches little too');
is( $standby->safe_psql('postgres', "SELECT sum(events) = (SELECT count(*) FROM cqrs.journal) FROM counted WHERE projection = 'sync'"),
	't', 'a sync one goes on with each append');
is($standby->safe_psql('postgres', "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'pg_cqrs projection worker'"), '2', 'as many workers as are wanted');

$standby->stop;
done_testing();

sub append
{
	my ($node, $events) = @_;

	$node->safe_psql('postgres', "SELECT cqrs.append('Account', (n % 7)::text, ARRAY[cqrs.new_event('Changed', '1')]) FROM generate_series(1, $events) AS n");
	return;
}

sub wait_for
{
	my ($node, @projections) = @_;

	$node->safe_psql('postgres', "SELECT cqrs.wait_for_projection('$_', timeout => '60 s')") for @projections;
	return;
}

sub projected
{
	my ($node) = @_;

	return $node->safe_psql('postgres', "SELECT string_agg(c::text, ' ' ORDER BY c::text) FROM counted AS c");
}

sub exact
{
	my ($node, @projections) = @_;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	for my $projection (@projections)
	{
		is( $node->safe_psql('postgres', "SELECT entity_id, events FROM counted WHERE projection = '$projection' ORDER BY 1"),
			$node->safe_psql('postgres', 'SELECT entity_id, count(*) FROM cqrs.journal GROUP BY 1 ORDER BY 1'),
			"$projection equals the journal");
	}
	return;
}
