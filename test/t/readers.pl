# Whoever reads the journal in the order of positions and goes on from the last
# one gets every committed event exactly once and in order, while writers
# commit late, roll back, roll back to savepoints, are killed and leave
# transactions prepared.
use strict;
use warnings;
use IPC::Run qw(start);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $enough_events = 2500;
my $enough_kills = 12;
my $scripts = 0;

my $node = PostgreSQL::Test::Cluster->new('readers');
$node->init;
$node->start;
$node->safe_psql('postgres', <<'SQL');
CREATE EXTENSION pg_cqrs;
SELECT cqrs.create_journal();

-- Flags that every snapshot sees: a sequence is not transactional.
CREATE SEQUENCE writing_over;
CREATE SEQUENCE reading_over;
CREATE FUNCTION is_set(flag regclass) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
	is_called boolean;
BEGIN
	EXECUTE format('SELECT is_called FROM %s', flag) INTO is_called;
	RETURN is_called;
END
$$;

CREATE FUNCTION some_events() RETURNS cqrs.new_event[] LANGUAGE sql AS
	$$SELECT array_agg(cqrs.new_event('Changed', to_jsonb(n))) FROM generate_series(1, 1 + (random() * 2)::int) AS n$$;

CREATE PROCEDURE write_events() LANGUAGE plpgsql AS $$
DECLARE
	entity int;
BEGIN
	WHILE NOT is_set('writing_over') LOOP
		PERFORM set_config('synchronous_commit', CASE WHEN random() < 0.5 THEN 'on' ELSE 'off' END, true);
		entity := 0;
		FOR i IN 0 .. (random() * 2)::int LOOP
			entity := entity + 1 + (random() * 4)::int;		-- in one order, so that there are no deadlocks
			IF random() < 0.25 THEN
				BEGIN
					PERFORM cqrs.append('Account', entity::text, some_events());
					RAISE EXCEPTION SQLSTATE 'XX999';
				EXCEPTION WHEN SQLSTATE 'XX999' THEN
					NULL;
				END;
			ELSE
				PERFORM cqrs.append('Account', entity::text, some_events());
			END IF;
			IF random() < 0.3 THEN
				PERFORM pg_sleep(random() * 0.02);
			END IF;
		END LOOP;
		IF random() < 0.15 THEN
			ROLLBACK;
		ELSE
			COMMIT;
		END IF;
	END LOOP;
END
$$;

CREATE TABLE seen (n bigserial, reader text, batch int, position bigint, entity_id text, version bigint);

CREATE FUNCTION read_batch(who text, batch int, INOUT "at" bigint, max_events int, among int4range) LANGUAGE plpgsql AS $$
BEGIN
	WITH written AS (
		INSERT INTO seen (reader, batch, position, entity_id, version)
		SELECT who, read_batch.batch, e.position, e.entity_id, e.version
		  FROM cqrs.read_events("at", max_events, slices => among) AS e
		RETURNING position)
	SELECT coalesce(max(position), "at") INTO "at" FROM written;
END
$$;

CREATE PROCEDURE follow(who text, max_events int, among int4range) LANGUAGE plpgsql AS $$
DECLARE
	reached bigint := 0;
	before bigint;
	batch int := 0;
	last_round boolean;
BEGIN
	LOOP
		batch := batch + 1;
		before := reached;
		last_round := is_set('reading_over');
		reached := read_batch(who, batch, reached, max_events, among);
		EXIT WHEN last_round AND reached = before;
		IF who = 'waiting' AND NOT last_round THEN
			BEGIN
				PERFORM cqrs.wait_for_event(reached, '100 ms');
			EXCEPTION WHEN SQLSTATE 'QR020' THEN
				NULL;
			END;
		ELSIF reached = before THEN
			PERFORM pg_sleep(0.002);
		END IF;
		IF who <> 'one transaction' THEN
			COMMIT;
		END IF;
	END LOOP;
END
$$;
SQL

my %readers = (
	'one by one' => "CALL follow('one by one', 1, NULL)",
	'a few at a time' => "CALL follow('a few at a time', 7, NULL)",
	'many at a time' => "CALL follow('many at a time', 10000, NULL)",
	'waiting' => "CALL follow('waiting', 100, NULL)",
	'lower slices' => "CALL follow('lower slices', 100, '[0,512)')",
	'upper slices' => "CALL follow('upper slices', 100, '[512,1024)')",
	'one transaction' => "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM cqrs.journal; "
	  . "CALL follow('one transaction', 50, NULL); COMMIT");
my @reading = map { psql($_, $readers{$_}) } sort keys %readers;

# Writers, one of whom prepares; whoever is killed comes again.
my @writing = map { psql('writer', 'CALL write_events()') } 1 .. 8;
my @preparing = (psql('preparer', prepared_transactions()));
my $kills = 0;
my $last = 0;
while ($kills < $enough_kills || $last < $enough_events)
{
	my $target = $last + 150;
	$node->poll_query_until('postgres', "SELECT cqrs.last_position() >= $target")
	  or BAIL_OUT('the writers do not get on');
	$last = $node->safe_psql('postgres', 'SELECT cqrs.last_position()');
	$kills += $node->safe_psql('postgres', <<'SQL');
SELECT count(pg_terminate_backend(pid)) FROM (
	SELECT pid FROM pg_stat_activity WHERE application_name = 'writer' AND xact_start IS NOT NULL ORDER BY random() LIMIT 1) AS victim
SQL
	for my $writer (@writing)
	{
		next if runs($writer);
		$writer->{run}->finish;
		$writer = psql('writer', 'CALL write_events()');
	}
	push @preparing, psql('preparer', prepared_transactions()) if !runs($preparing[-1]);
}
$node->safe_psql('postgres', "SELECT nextval('writing_over')");
$_->{run}->finish for @writing;
ended_well('who prepared transactions', @preparing);
is($node->safe_psql('postgres', 'SELECT count(*) FROM pg_prepared_xacts'), '0', 'nothing is left prepared');
is( $node->safe_psql('postgres', 'SELECT high_water_mark = last_position, open_transactions FROM cqrs.journal_status'),
	't|0', 'whoever ended, even killed, holds nothing back');
$node->safe_psql('postgres', "SELECT nextval('reading_over')");
ended_well("reader $_->{name}", $_) for @reading;

# The load was what it is meant to be.
my ($events, $drawn) = split /\|/, $node->safe_psql('postgres', 'SELECT count(*), cqrs.last_position() FROM cqrs.journal');
note("$events events of $drawn positions, $kills kills");
cmp_ok($events, '>', $enough_events / 3, 'many events were written');
cmp_ok($events, '<', $drawn, 'some were rolled back');

is( $node->safe_psql('postgres', <<'SQL'), '0|0', 'versions have no holes, and are in the order of positions');
SELECT count(*) FILTER (WHERE version <> place), count(*) FILTER (WHERE position <= before)
  FROM (SELECT version, position, row_number() OVER entity AS place, lag(position) OVER entity AS before
          FROM cqrs.journal WINDOW entity AS (PARTITION BY entity_type, entity_id ORDER BY version)) AS e
SQL

my %slices = ('lower slices' => 'slice < 512', 'upper slices' => 'slice >= 512');
for my $reader (sort keys %readers)
{
	my $wanted = "SELECT position, entity_id, version FROM cqrs.journal WHERE " . ($slices{$reader} // 'true');
	my $got = "SELECT position, entity_id, version FROM seen WHERE reader = '$reader'";

	is($node->safe_psql('postgres', "$wanted EXCEPT ALL ($got) ORDER BY 1"), '', "$reader: nothing is skipped");
	is($node->safe_psql('postgres', "$got EXCEPT ALL ($wanted) ORDER BY 1"), '', "$reader: nothing comes twice");
	is( $node->safe_psql('postgres', "SELECT count(*) FROM (SELECT position, lag(position) OVER (ORDER BY n) AS before"
			  . " FROM seen WHERE reader = '$reader') AS s WHERE position <= before"),
		'0', "$reader: in order");
	cmp_ok($node->safe_psql('postgres', "SELECT count(DISTINCT batch) FROM seen WHERE reader = '$reader'"),
		'>', 20, "$reader: while they were written");
}

$node->stop;
done_testing();

# Starts psql with a script; returns the running process and what it says.
sub psql
{
	my ($name, $script) = @_;
	my %psql = (name => $name, out => '', err => '');

	# From a file: IPC::Run feeds a process only while somebody waits for it.
	my $file = PostgreSQL::Test::Utils::tempdir() . '/' . ++$scripts . '.sql';
	append_to_file($file, "SET application_name = '$name';\n$script;\n");
	$psql{run} = start(
		[ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-d', $node->connstr('postgres'), '-f', $file ],
		'>', \$psql{out}, '2>', \$psql{err},
		IPC::Run::timeout($PostgreSQL::Test::Utils::timeout_default));
	return \%psql;
}

sub runs
{
	my ($psql) = @_;

	$psql->{run}->pump_nb if $psql->{run}->pumpable;
	return $psql->{run}->pumpable;
}

sub ended_well
{
	my ($who, @psqls) = @_;
	my @failed = grep { !$_->{run}->finish } @psqls;

	is(join('', map { $_->{err} } @failed), '', "$who met no error");
	is(scalar @failed, 0, "$who came to the end");
	return;
}

# Transactions that are prepared, up to three at a time, and resolved in any order.
sub prepared_transactions
{
	my @open;
	my $script = '';

	for my $round (1 .. 40)
	{
		$script .= "BEGIN; SELECT cqrs.append('Account', 'p$round', some_events()); PREPARE TRANSACTION 'p$round';\n";
		push @open, "p$round";
		while (@open && (@open == 3 || $round == 40 || rand() < 0.6))
		{
			my $gid = splice(@open, int(rand(@open)), 1);

			$script .= (rand() < 0.7 ? 'COMMIT' : 'ROLLBACK') . " PREPARED '$gid';\n";
			$script .= "SELECT pg_sleep(random() * 0.02);\n";
		}
	}
	return $script;
}
