# What the event processor projects has no gap against the journal and no event
# twice, and is in order: by position, and with several partitions by version
# in each entity. It waits for who commits late, in a session or prepared, also
# through a restart, goes on by itself when he is done, and is not held up by
# what was rolled back.
use strict;
use warnings;
use IPC::Run qw(start);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $enough_events = 3000;
my $scripts = 0;
my $node = PostgreSQL::Test::Cluster->new('projection_ordering');
$node->init;
$node->append_conf('postgresql.conf', "cqrs.projection_workers = 3\nautovacuum = off");
$node->start;
$node->safe_psql('postgres', <<'SQL');
CREATE EXTENSION pg_cqrs;
-- Places are given in the order of projection; a number that was drawn by what was undone is left out.
CREATE TABLE single (place bigserial, position bigint, entity_id text, version bigint);
CREATE TABLE batch (LIKE single INCLUDING ALL);
CREATE TABLE split (LIKE single INCLUDING ALL);
CREATE FUNCTION log_single(event cqrs.event) RETURNS void LANGUAGE sql AS
	'INSERT INTO single (position, entity_id, version) VALUES (event.position, event.entity_id, event.version)';
CREATE FUNCTION log_batch(events cqrs.event[]) RETURNS void LANGUAGE sql AS
	'INSERT INTO batch (position, entity_id, version) SELECT position, entity_id, version FROM unnest(events)';
CREATE FUNCTION log_split(event cqrs.event) RETURNS void LANGUAGE sql AS
	'INSERT INTO split (position, entity_id, version) VALUES (event.position, event.entity_id, event.version)';
SELECT cqrs.create_projection('single', 'log_single', batch_size => 7);
SELECT cqrs.create_projection('batch', 'log_batch', batch_size => 100);
SELECT cqrs.create_projection('split', 'log_split', batch_size => 10, partitions => 4);

CREATE FUNCTION some_events() RETURNS cqrs.new_event[] LANGUAGE sql AS
	$$SELECT array_agg(cqrs.new_event('Changed', to_jsonb(n))) FROM generate_series(1, 1 + (random() * 2)::int) AS n$$;
CREATE SEQUENCE writing_over;		-- a flag that every snapshot sees
CREATE PROCEDURE write_events() LANGUAGE plpgsql AS $$
DECLARE
	entity int;
BEGIN
	WHILE NOT (SELECT is_called FROM writing_over) LOOP
		PERFORM set_config('synchronous_commit', CASE WHEN random() < 0.5 THEN 'on' ELSE 'off' END, true);
		entity := 0;
		FOR i IN 0 .. (random() * 3)::int LOOP
			entity := entity + 1 + (random() * 4)::int;		-- in one order, so that there are no deadlocks
			BEGIN
				PERFORM cqrs.append('Account', entity::text, some_events());
				IF random() < 0.3 THEN
					RAISE EXCEPTION SQLSTATE 'XX999';
				END IF;
			EXCEPTION WHEN SQLSTATE 'XX999' THEN
				NULL;
			END;
			IF random() < 0.3 THEN
				PERFORM pg_sleep(random() * 0.02);
			END IF;
		END LOOP;
		IF random() < 0.4 THEN
			ROLLBACK;
		ELSE
			COMMIT;
		END IF;
	END LOOP;
END
$$;
SQL
my @logs = ('single', 'batch', 'split');

# A writer that commits late, below many others.
my ($in, $out) = ('', '');
my $late = start([ 'psql', '-X', '-A', '-t', '-q', '-d', $node->connstr('postgres') ],
	'<', \$in, '>', \$out, IPC::Run::timeout($PostgreSQL::Test::Utils::timeout_default));
append('early');
$in .= "BEGIN; SELECT position FROM cqrs.append('Account', 'late', ARRAY[cqrs.new_event('Changed', '1')]);\n";
$late->pump until $out =~ /^(\d+)\n/;
my ($position) = $out =~ /^(\d+)/;
append("behind $_") for 1 .. 5;
is(reached($position - 1), '', 'what is before a late writer is projected');
is(behind($position), '0', 'nothing behind it');
is(timed_out($position), 'QR020', 'who waits for it is told that it takes too long');
$in .= "COMMIT;\n\\echo committed\n";
$late->pump until $out =~ /committed/;
all_projected('a late commit');
$in .= "BEGIN; SELECT cqrs.append('Account', 'undone', ARRAY[cqrs.new_event('Changed', '1')]);\n\\echo appended\n";
$late->pump until $out =~ /appended/;
append('after it');
$in .= "ROLLBACK;\n\\q\n";
$late->finish;
all_projected('a late rollback');

# A storm of rollbacks: positions that never come are nothing to wait for.
$node->safe_psql('postgres', <<'SQL');
DO $$BEGIN
	FOR i IN 1 .. 1000 LOOP
		PERFORM cqrs.append('Account', (i % 10)::text, some_events());
		ROLLBACK;
	END LOOP;
END$$;
SQL
is(reached('cqrs.last_position()'), '', 'positions that were rolled back are passed');
append('after the storm');
all_projected('a storm of rollbacks');

# Prepared, over many batches, and over restarts; then the worker wakes by itself.
for my $restart (undef, 'fast', 'immediate')
{
	for my $resolve ('COMMIT', 'ROLLBACK')
	{
		my $what = ($restart ? "$restart restart, " : '') . "$resolve PREPARED";

		append('before');
		$node->safe_psql('postgres', "BEGIN; SELECT cqrs.append('Account', 'prepared', some_events()); PREPARE TRANSACTION 'one'");
		my $first = $node->safe_psql('postgres', 'SELECT min(first_position) FROM cqrs.open_positions()');
		append('behind', 50);
		is(reached($first - 1), '', "$what: what is before a prepared transaction is projected");
		if ($restart)
		{
			$node->stop($restart);
			$node->start;
			is(reached($first - 1), '', "$what: it is known after the restart");
		}
		append('behind', 10);
		is(behind($first), '0', "$what: nothing behind it");
		$node->safe_psql('postgres', "$resolve PREPARED 'one'");
		all_projected($what);
	}
}

# All of it at once: several writers, late, rolled back, prepared.
my @writers = map { psql('CALL write_events()') } 1 .. 4;
push @writers, psql(prepared_transactions(20));
my $target = $node->safe_psql('postgres', 'SELECT cqrs.last_position()') + $enough_events;
$node->poll_query_until('postgres', "SELECT cqrs.last_position() >= $target") or BAIL_OUT('the writers do not get on');
$node->safe_psql('postgres', "SELECT nextval('writing_over')");
for my $writer (@writers)
{
	$writer->{run}->finish;
	is($writer->{err}, '', 'a writer met no error');
}
cmp_ok($node->safe_psql('postgres', "SELECT min(batches) FROM cqrs.projection_status WHERE name <> 'split'"), '>', 5,
	'there were several batches');
all_projected('several writers');

for my $log ('single', 'batch')
{
	is( $node->safe_psql('postgres', "SELECT count(*) FROM (SELECT position <= lag(position) OVER (ORDER BY place) AS back FROM $log) AS l WHERE back"),
		'0', "$log: in the order of positions");
}
is( $node->safe_psql('postgres', <<'SQL'), '0', 'split: in the order of versions in each entity');
SELECT count(*) FROM (SELECT version <> row_number() OVER (PARTITION BY entity_id ORDER BY place) AS wrong FROM split) AS l WHERE wrong
SQL
is($node->safe_psql('postgres', 'SELECT count(*) FROM pg_prepared_xacts'), '0', 'nothing is left prepared');

$node->stop;
done_testing();

sub append
{
	my ($entity, $times) = @_;

	$node->safe_psql('postgres', "SELECT cqrs.append('Account', '$entity', some_events()) FROM generate_series(1, " . ($times // 1) . ')');
	return;
}

# Waits for all projections; returns what it met.
sub reached
{
	my ($up_to) = @_;
	my (undef, undef, $error) = $node->psql('postgres',
		"SELECT cqrs.wait_for_projection(p, up_to => $up_to, timeout => '30 s') FROM unnest('{single,batch,split}'::text[]) AS p");

	return $error;
}

sub timed_out
{
	my ($up_to) = @_;
	my (undef, undef, $error) = $node->psql('postgres',
		"\\set VERBOSITY sqlstate\nSELECT cqrs.wait_for_projection('single', up_to => $up_to, timeout => '100 ms');");

	return $error =~ /ERROR:\s+(\w+)/ ? $1 : $error;
}

# How many events of a position, or behind it, are projected.
sub behind
{
	my ($from) = @_;

	return $node->safe_psql('postgres', 'SELECT count(*) FROM (' . join(' UNION ALL ', map { "SELECT position FROM $_" } @logs)
		  . ") AS l WHERE position >= $from");
}

# Waits without touching the worker, then compares with the journal.
sub all_projected
{
	my ($what) = @_;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	for my $log (@logs)
	{
		ok($node->poll_query_until('postgres', "SELECT NOT EXISTS (SELECT position FROM cqrs.journal EXCEPT SELECT position FROM $log)"),
			"$what: $log skips nothing") or diag($node->safe_psql('postgres', 'TABLE cqrs.projection_status'));
		is($node->safe_psql('postgres', "SELECT position, entity_id, version FROM $log EXCEPT ALL SELECT position, entity_id, version FROM cqrs.journal"),
			'', "$what: $log has nothing twice");
	}
	return;
}

sub psql
{
	my ($script) = @_;
	my %psql = (err => '');

	# From a file: IPC::Run feeds a process only while somebody waits for it.
	my $file = PostgreSQL::Test::Utils::tempdir() . '/' . ++$scripts . '.sql';
	append_to_file($file, "$script;\n");
	$psql{run} = start([ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-d', $node->connstr('postgres'), '-f', $file ],
		'>', '/dev/null', '2>', \$psql{err}, IPC::Run::timeout($PostgreSQL::Test::Utils::timeout_default));
	return \%psql;
}

# Up to three at a time, resolved in any order.
sub prepared_transactions
{
	my ($rounds) = @_;
	my @open;
	my $script = '';

	for my $round (1 .. $rounds)
	{
		$script .= "BEGIN; SELECT cqrs.append('Account', 'p$round', some_events()); PREPARE TRANSACTION 'p$round';\n";
		push @open, "p$round";
		while (@open && (@open == 3 || $round == $rounds || rand() < 0.6))
		{
			my $gid = splice(@open, int(rand(@open)), 1);

			$script .= 'SELECT pg_sleep(random() * 0.05); ' . (rand() < 0.7 ? 'COMMIT' : 'ROLLBACK') . " PREPARED '$gid';\n";
		}
	}
	return $script;
}
