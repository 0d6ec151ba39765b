# Each event is projected exactly once, whatever happens to who projects it:
# workers are terminated and killed, and the server crashes, while four clients
# write. A read table that counts (and would show each event that is projected
# twice or not at all) equals a count over the journal, with one partition and
# with several; and a process manager, whose handlers send commands, makes
# exactly one step for each order.
#
# CQRS_STRESS=5 is five times as much: 50 ends of a worker, 15 crashes.
use strict;
use warnings;
use IPC::Run qw(start);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $stress = $ENV{CQRS_STRESS} || 1;
my $terminations = 7 * $stress;
my $kills = 3 * $stress;
my $crashes = 3 * $stress;
my $scripts = 0;

my $node = PostgreSQL::Test::Cluster->new('projection_crash');
$node->init;
$node->append_conf('postgresql.conf', <<'CONF');
restart_after_crash = on
cqrs.projection_workers = 3
wal_writer_delay = 10s			# so that asynchronous commits are lost indeed
wal_writer_flush_after = 1GB
autovacuum = off
CONF
$node->start;
$node->safe_psql('postgres', <<'SQL');
CREATE EXTENSION pg_cqrs;

-- What counts is not idempotent.
CREATE TABLE one_by_one (entity_type text, entity_id text, events int, checksum numeric, PRIMARY KEY (entity_type, entity_id));
CREATE TABLE in_batches (LIKE one_by_one INCLUDING ALL);
CREATE FUNCTION count_event(event cqrs.event) RETURNS void LANGUAGE sql AS $$
	INSERT INTO one_by_one VALUES (event.entity_type, event.entity_id, 1, event.position)
	ON CONFLICT (entity_type, entity_id) DO UPDATE SET events = one_by_one.events + 1, checksum = one_by_one.checksum + excluded.checksum
$$;
CREATE FUNCTION count_events(events cqrs.event[]) RETURNS void LANGUAGE sql AS $$
	INSERT INTO in_batches SELECT entity_type, entity_id, count(*), sum(position) FROM unnest(events) GROUP BY 1, 2
	ON CONFLICT (entity_type, entity_id) DO UPDATE SET events = in_batches.events + excluded.events, checksum = in_batches.checksum + excluded.checksum
$$;
SELECT cqrs.create_projection('one by one', 'count_event', batch_size => 20);
SELECT cqrs.create_projection('in batches', 'count_events', batch_size => 50, partitions => 4);

-- order, payment, confirmation: what is sent twice is done twice.
CREATE FUNCTION place(state jsonb, command cqrs.command) RETURNS cqrs.effect LANGUAGE sql AS $$SELECT cqrs.persist('Placed', '{}')$$;
CREATE FUNCTION confirm(state jsonb, command cqrs.command) RETURNS cqrs.effect LANGUAGE sql AS $$SELECT cqrs.persist('Confirmed', '{}')$$;
CREATE FUNCTION pay(state jsonb, command cqrs.command) RETURNS cqrs.effect LANGUAGE sql AS $$SELECT cqrs.persist('Paid', '{}')$$;
REVOKE EXECUTE ON FUNCTION place, confirm, pay FROM PUBLIC;
SELECT cqrs.create_entity('Order'), cqrs.create_entity('Payment');
SELECT cqrs.on_command('Order', 'Place', 'place'), cqrs.on_command('Order', 'Confirm', 'confirm'), cqrs.on_command('Payment', 'Pay', 'pay');
SELECT cqrs.on_event('Order', '*', 'cqrs.merge'), cqrs.on_event('Payment', '*', 'cqrs.merge');
CREATE FUNCTION demand_payment(event cqrs.event) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	PERFORM cqrs.send('Payment', event.entity_id, 'Pay');
END
$$;
CREATE FUNCTION confirm_order(event cqrs.event) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	PERFORM cqrs.send('Order', event.entity_id, 'Confirm');
END
$$;
SELECT cqrs.create_projection('payments', 'demand_payment', '{Order}', '{Placed}', batch_size => 10);
SELECT cqrs.create_projection('confirmations', 'confirm_order', '{Payment}', '{Paid}', batch_size => 10, partitions => 2);

CREATE SEQUENCE writing_over;		-- a flag that every snapshot sees
CREATE PROCEDURE write_events() LANGUAGE plpgsql AS $$
BEGIN
	WHILE NOT (SELECT is_called FROM writing_over) LOOP
		PERFORM set_config('synchronous_commit', CASE WHEN random() < 0.5 THEN 'on' ELSE 'off' END, true);
		FOR i IN 1 .. (random() * 3)::int LOOP
			PERFORM cqrs.append('Account', (i * 10 + random() * 9)::int::text, array_agg(cqrs.new_event('Changed', to_jsonb(n))))
			   FROM generate_series(1, 1 + (random() * 2)::int) AS n;
		END LOOP;
		PERFORM cqrs.send('Order', gen_random_uuid()::text, 'Place');
		IF random() < 0.2 THEN
			ROLLBACK;
		ELSE
			COMMIT;
		END IF;
		PERFORM pg_sleep(random() * 0.03);
		COMMIT;
	END LOOP;
END
$$;
SQL

my @writers = map { writer() } 1 .. 4;
my @ends = shuffle((('terminate') x $terminations, ('kill') x $kills, ('crash') x $crashes));
my $reached = 0;
my $last = 0;

for my $end (@ends)
{
	$_->{run}->pump_nb for grep { $_->{run}->pumpable } @writers;
	@writers = map { $_->{run}->pumpable ? $_ : again($_) } @writers;
	# Something must have been written and projected since the last end.
	$last = max_position() + 100;
	$node->poll_query_until('postgres', <<"SQL") or BAIL_OUT('nothing is projected any more');
SELECT max(position) >= $last AND (SELECT min(position) FROM cqrs.projection_status WHERE name IN ('one by one', 'in batches')) > $reached
  FROM cqrs.journal
SQL
	$reached = $node->safe_psql('postgres', "SELECT min(position) FROM cqrs.projection_status WHERE name IN ('one by one', 'in batches')");
	if ($end eq 'crash')
	{
		$node->stop('immediate');
		$node->start;
	}
	elsif ($end eq 'kill')
	{
		my $pid = worker();

		kill KILL => $pid if $pid;
		$node->poll_query_until('postgres', "SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $pid)") if $pid;
	}
	else
	{
		$node->safe_psql('postgres', "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
			  . " WHERE backend_type = 'pg_cqrs projection worker' ORDER BY random() LIMIT 2");
	}
	# A crash takes back what was committed asynchronously.
	$reached = 0 if $end ne 'terminate';
}
$node->poll_query_until('postgres', "SELECT nextval('writing_over') > 0") or BAIL_OUT('the server does not come back');
$_->{run}->finish for @writers;

# The process manager writes events that the others project.
$node->safe_psql('postgres', "SELECT cqrs.wait_for_projection(p, timeout => '120 s') FROM unnest('{payments,confirmations,one by one,in batches}'::text[]) AS p");
$node->safe_psql('postgres', "SELECT cqrs.wait_for_projection(p, timeout => '120 s') FROM unnest('{payments,confirmations,one by one,in batches}'::text[]) AS p");

my ($events, $orders) = split /\|/, $node->safe_psql('postgres',
	"SELECT count(*), count(*) FILTER (WHERE event_type = 'Placed') FROM cqrs.journal");
note("$events events, $orders orders, $terminations terminations, $kills kills, $crashes crashes");
cmp_ok($orders, '>', 100, 'orders were placed');

for my $table ('one_by_one', 'in_batches')
{
	my $wanted = 'SELECT entity_type::text, entity_id::text, count(*)::int AS events, sum(position) AS checksum FROM cqrs.journal GROUP BY 1, 2';

	is($node->safe_psql('postgres', "$wanted EXCEPT ALL SELECT * FROM $table LIMIT 5"), '', "$table: nothing is missing");
	is($node->safe_psql('postgres', "SELECT * FROM $table EXCEPT ALL ($wanted) LIMIT 5"), '', "$table: nothing is too much");
}
is( $node->safe_psql('postgres', <<'SQL'), "$orders|$orders|$orders|0", 'each order is paid for once and confirmed once');
SELECT count(*), sum(paid), sum(confirmed), count(*) FILTER (WHERE placed <> 1 OR paid <> 1 OR confirmed <> 1)
  FROM (SELECT count(*) FILTER (WHERE event_type = 'Placed') AS placed, count(*) FILTER (WHERE event_type = 'Paid') AS paid,
               count(*) FILTER (WHERE event_type = 'Confirmed') AS confirmed
          FROM cqrs.journal WHERE entity_type IN ('Order', 'Payment') GROUP BY entity_id) AS o
SQL
is( $node->safe_psql('postgres', q{SELECT DISTINCT state, lag_events, parked, skipped FROM cqrs.projection_status}),
	'running|0|0|0', 'nothing lags behind, is parked or was skipped');

$node->stop;
done_testing();

sub writer
{
	my %psql;

	$psql{run} = start([ 'psql', '-X', '-q', '-d', $node->connstr('postgres'), '-c', 'CALL write_events()' ],
		'>', '/dev/null', '2>', '/dev/null', IPC::Run::timeout($PostgreSQL::Test::Utils::timeout_default));
	return \%psql;
}

# Who was thrown out by a crash comes again.
sub again
{
	my ($writer) = @_;

	$writer->{run}->finish;
	return writer();
}

sub worker
{
	return $node->safe_psql('postgres', "SELECT pid FROM pg_stat_activity"
		  . " WHERE backend_type = 'pg_cqrs projection worker' ORDER BY random() LIMIT 1");
}

sub max_position
{
	return $node->safe_psql('postgres', 'SELECT coalesce(max(position), 0) FROM cqrs.journal');
}

sub shuffle
{
	my @list = @_;

	for my $i (reverse 1 .. $#list)
	{
		my $j = int(rand($i + 1));

		@list[ $i, $j ] = @list[ $j, $i ];
	}
	return @list;
}
