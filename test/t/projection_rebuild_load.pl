# While events are written, a projection is rebuilt again and again: a reader
# never sees its tables with less than they had before. It is split anew under
# load, into more and into fewer partitions, and stays exact; also if it is
# paused and its offset set meanwhile. CQRS_STRESS=5 is five times as much.
use strict;
use warnings;
use IPC::Run qw(start);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $rounds = $ENV{CQRS_STRESS} || 1;
my $node = PostgreSQL::Test::Cluster->new('projection_rebuild_load');
$node->init;
$node->append_conf('postgresql.conf', "cqrs.projection_workers = 4");
$node->start;
$node->safe_psql('postgres', <<'SQL');
CREATE EXTENSION pg_cqrs;
CREATE TABLE counted (entity_id text PRIMARY KEY, events int NOT NULL, checksum numeric NOT NULL);
CREATE TABLE logged (place bigserial, position bigint, entity_id text, version bigint);
CREATE FUNCTION count_events(events cqrs.event[]) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO counted SELECT entity_id, count(*), sum(position) FROM unnest(events) GROUP BY 1
	ON CONFLICT (entity_id) DO UPDATE SET events = counted.events + excluded.events, checksum = counted.checksum + excluded.checksum;
	INSERT INTO logged (position, entity_id, version) SELECT position, entity_id, version FROM unnest(events);
END
$$;
SELECT cqrs.create_projection('counts', 'count_events', tables => '{counted,logged}', batch_size => 50);

CREATE SEQUENCE writing_over;		-- flags that every snapshot sees
CREATE SEQUENCE reading_over;
CREATE PROCEDURE write_events() LANGUAGE plpgsql AS $$
BEGIN
	WHILE NOT (SELECT is_called FROM writing_over) LOOP
		PERFORM cqrs.append('Account', (random() * 50)::int::text, array_agg(cqrs.new_event('Changed', to_jsonb(n))))
		   FROM generate_series(1, 1 + (random() * 3)::int) AS n;
		IF random() < 0.2 THEN
			ROLLBACK;
		ELSE
			COMMIT;
		END IF;
		PERFORM pg_sleep(random() * 0.02);
	END LOOP;
END
$$;
CREATE TABLE readings (rounds int, grown int);
CREATE PROCEDURE read_counts() LANGUAGE plpgsql AS $$
DECLARE
	before record;
	now record;
	rounds int := 0;
	grown int := 0;
BEGIN
	SELECT 0::bigint AS events, 0::bigint AS logged, 0::bigint AS entities INTO before;
	WHILE NOT (SELECT is_called FROM reading_over) LOOP
		SELECT coalesce(sum(events), 0) AS events, (SELECT count(*) FROM logged) AS logged, count(*) AS entities INTO now FROM counted;
		IF now.events < before.events OR now.logged < before.logged OR now.entities < before.entities OR now.events <> now.logged THEN
			RAISE EXCEPTION 'after % came %', before, now;
		END IF;
		rounds := rounds + 1;
		grown := grown + (now.events > before.events)::int;
		before := now;
		COMMIT;
	END LOOP;
	INSERT INTO readings VALUES (rounds, grown);
END
$$;
SQL

my @writers = map { psql('CALL write_events()') } 1 .. 3;
my @readers = map { psql('CALL read_counts()') } 1 .. 2;
goes_on('at first');

for my $round (1 .. $rounds)
{
	for my $partitions (1, 4, 2)
	{
		$node->safe_psql('postgres', "SELECT cqrs.alter_projection('counts', partitions => $partitions)");
		goes_on("round $round, $partitions partitions are wanted");
		# Also while it is being split.
		$node->safe_psql('postgres', "SELECT cqrs.rebuild_projection('counts')") for 1 .. 2;
		goes_on("round $round, rebuilt");
		ok($node->poll_query_until('postgres', "SELECT count(*) FROM cqrs.projection_offset WHERE projection = 'counts'", $partitions),
			"round $round: it has $partitions partitions");
	}
	# One after the other, without waiting.
	$node->safe_psql('postgres', "SELECT cqrs.alter_projection('counts', partitions => $_)") for 3, 5, 1, 4;
	$node->safe_psql('postgres', "SELECT cqrs.pause_projection('counts')");
	$node->safe_psql('postgres', "SELECT cqrs.alter_projection('counts', partitions => 3)");
	$node->safe_psql('postgres', "SELECT cqrs.resume_projection('counts')");
	goes_on("round $round, split many times");
	ok($node->poll_query_until('postgres', "SELECT count(*) FROM cqrs.projection_offset WHERE projection = 'counts'", '3'),
		"round $round: the last number of partitions holds");
}

# Rebuilding has not got in the way of anything.
$node->safe_psql('postgres', "SELECT nextval('reading_over')");
ended_well('a reader', $_) for @readers;
$node->safe_psql('postgres', "SELECT nextval('writing_over')");
ended_well('a writer', $_) for @writers;
cmp_ok($node->safe_psql('postgres', 'SELECT min(grown) FROM readings'), '>', 10, 'readers saw it grow');
exact('at the end');
$node->safe_psql('postgres', "SELECT cqrs.rebuild_projection('counts')");
exact('rebuilt');
is($node->safe_psql('postgres', 'SELECT count(*) FROM cqrs.stat_progress_rebuild'), '0', 'no rebuild is under way');
is( $node->safe_psql('postgres', 'SELECT DISTINCT state, lag_events, parked, skipped, last_error FROM cqrs.projection_status'),
	'running|0|0|0|', 'nothing has failed');

# A split that waits for its partitions, and an offset that is set beyond the barrier.
$node->safe_psql('postgres', <<'SQL');
SELECT cqrs.pause_projection('counts');
SELECT cqrs.append('Account', n::text, ARRAY[cqrs.new_event('Changed', '1')]) FROM generate_series(1, 100) AS n;
UPDATE cqrs.projection_offset SET position = position - 1 WHERE projection = 'counts' AND slice = 0;		-- as if it were behind
SELECT cqrs.alter_projection('counts', partitions => 2);
SELECT cqrs.reset_projection('counts', cqrs.last_position());
SELECT cqrs.resume_projection('counts');
SQL
$node->safe_psql('postgres', "SELECT cqrs.append('Account', 'last', ARRAY[cqrs.new_event('Changed', '1')])");
is(waited(), '', 'a projection that was set beyond a barrier goes on');
is($node->safe_psql('postgres', "SELECT count(*) FROM counted WHERE entity_id = 'last'"), '1', 'with what comes next');
is($node->safe_psql('postgres', "SELECT count(*) FROM cqrs.projection_offset WHERE projection = 'counts'"), '2', 'and is split');

$node->stop;
done_testing();

# More events come, and are projected.
sub goes_on
{
	my ($what) = @_;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $target = $node->safe_psql('postgres', 'SELECT cqrs.last_position()') + 50;
	ok($node->poll_query_until('postgres', "SELECT max(position) >= $target FROM logged"), "$what: it goes on")
	  or diag($node->safe_psql('postgres', 'TABLE cqrs.projection_status; TABLE cqrs.projection; TABLE cqrs.projection_offset'));
	return;
}

sub waited
{
	my (undef, undef, $error) = $node->psql('postgres', "SELECT cqrs.wait_for_projection('counts', timeout => '20 s')");

	return $error;
}

sub exact
{
	my ($what) = @_;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	is(waited(), '', "$what: all is projected");
	my $wanted = 'SELECT entity_id::text, count(*)::int AS events, sum(position) AS checksum FROM cqrs.journal GROUP BY 1';
	is($node->safe_psql('postgres', "$wanted EXCEPT ALL SELECT * FROM counted"), '', "$what: nothing is missing");
	is($node->safe_psql('postgres', "SELECT * FROM counted EXCEPT ALL ($wanted)"), '', "$what: nothing is too much");
	is( $node->safe_psql('postgres', 'SELECT count(*) FROM (SELECT version <> row_number() OVER (PARTITION BY entity_id ORDER BY place) AS wrong'
			  . ' FROM logged) AS l WHERE wrong'),
		'0', "$what: each entity in the order of versions");
	return;
}

sub psql
{
	my ($script) = @_;
	my %psql = (err => '');

	$psql{run} = start([ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-d', $node->connstr('postgres'), '-c', $script ],
		'>', '/dev/null', '2>', \$psql{err}, IPC::Run::timeout($PostgreSQL::Test::Utils::timeout_default));
	return \%psql;
}

sub ended_well
{
	my ($who, $psql) = @_;

	ok($psql->{run}->finish, "$who came to the end") or diag($psql->{err});
	return;
}
