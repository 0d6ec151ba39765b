# A command for later is sent exactly once, at its time or when the server is there again, whatever happens to the worker and to the
# server around that time; a copy of the database sends none until it is adopted; and what is scheduled later may be due sooner.
use strict;
use warnings;
use IPC::Run qw(start);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my $worker = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'pg_cqrs timer worker' AND datname = current_database()";
my $node = PostgreSQL::Test::Cluster->new('timer');
$node->init;
$node->append_conf('postgresql.conf', <<'CONF');
restart_after_crash = on
autovacuum = off
wal_writer_delay = 10s			# so that asynchronous commits are lost indeed
wal_writer_flush_after = 1GB
CONF
$node->start;
$node->safe_psql('postgres', <<'SQL');
CREATE EXTENSION pg_cqrs;
CREATE TABLE fired (id uuid, at timestamptz DEFAULT clock_timestamp());
CREATE SEQUENCE hold;		-- a flag that every snapshot sees: handlers wait until it is called
CREATE FUNCTION fire(state jsonb, command cqrs.command) RETURNS cqrs.effect LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO fired VALUES (command.command_id);
	WHILE command.command_type = 'Hold' AND NOT (SELECT is_called FROM hold) LOOP
		PERFORM pg_sleep(0.01);
	END LOOP;
	RETURN CASE command.command_type WHEN 'Quiet' THEN cqrs.reply('1') ELSE cqrs.persist('Fired', '{}') END;
END
$$;
REVOKE EXECUTE ON FUNCTION fire FROM PUBLIC;
SELECT cqrs.create_entity('Timer');
SELECT cqrs.on_command('Timer', '*', 'fire'), cqrs.on_event('Timer', '*', 'cqrs.merge');
SQL

at_its_time();
canceled();
out_of_the_way();
restarted();
held();
killed();
short_of_workers();

$node->stop;
done_testing();

sub query
{
	my ($sql, $database) = @_;
	return $node->safe_psql($database // 'postgres', $sql);
}

sub ok_soon
{
	my ($condition, $name, $database) = @_;
	return ok($node->poll_query_until($database // 'postgres', "SELECT $condition"), $name);
}

sub schedule
{
	my ($in, $entity, $command) = @_;
	return query("SELECT cqrs.schedule(clock_timestamp() + interval '$in', 'Timer', '$entity', '" . ($command // 'Fire') . "')");
}

# The worker sleeps until the next is due, and nothing but an earlier one wakes it.
sub at_its_time
{
	my $late = schedule('1 h', 'late');

	ok_soon("EXISTS ($worker AND state = 'idle' AND wait_event IS NOT NULL)", 'a timer brings a worker, which sleeps');
	my $pid = query($worker);
	my $before = switches($pid);
	query("SELECT cqrs.append('Other', 'x', ARRAY[cqrs.new_event('X', '{}')]) FROM generate_series(1, 20)") for 1 .. 5;
	is(switches($pid), $before, 'events do not wake it');
	my ($id, $due) = split /\|/, query("SELECT cqrs.schedule(at, 'Timer', 'early', 'Fire'), at FROM (SELECT clock_timestamp() + interval '700 ms') t (at)");
	ok_soon("EXISTS (SELECT FROM fired WHERE id = '$id')", 'an earlier one does, and is sent');
	is(query("SELECT at >= '$due', at < timestamptz '$due' + interval '10 s' FROM fired"), 't|t', 'not before it is due');
	is(query($worker), $pid, 'by the same worker');
	is(query('SELECT count(*) FROM cqrs.timer'), '1', 'the other one waits');
	is(query("SELECT cqrs.cancel_scheduled('$late')"), 't', 'and can be canceled');
	return;
}

# Who cancels a timer whose command is being sent waits, and learns that it was.
sub canceled
{
	my $id = schedule('0', 'canceled', 'Hold');
	my $out = '';

	ok($node->poll_query_until('postgres', "SELECT wait_event = 'PgSleep' FROM pg_stat_activity WHERE backend_type = 'pg_cqrs timer worker'"),
		'a command is being sent');
	my $canceling = start([ 'psql', '-XAtq', '-d', $node->connstr('postgres'), '-c', "SELECT cqrs.cancel_scheduled('$id')" ],
		'>', \$out, IPC::Run::timeout($PostgreSQL::Test::Utils::timeout_default));
	ok_soon("EXISTS (SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%cancel_scheduled%')", 'who cancels it waits');
	query("SELECT nextval('hold')");
	$canceling->finish;
	is($out, "f\n", 'and learns that it was sent');
	is(query("SELECT count(*) FROM cqrs.history('Timer', 'canceled')"), '1', 'which is so');

	# With a snapshot from before it was sent, he is told that it changed.
	my $psql = $node->background_psql('postgres', on_error_stop => 0);
	query("SELECT setval('hold', 1, false)");
	$id = schedule('0', 'changed', 'Hold');
	ok($node->poll_query_until('postgres', "SELECT wait_event = 'PgSleep' FROM pg_stat_activity WHERE backend_type = 'pg_cqrs timer worker'"),
		'another command is being sent');
	$psql->query_safe('\\set VERBOSITY verbose');
	$psql->query_safe('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM cqrs.timer');
	query("SELECT nextval('hold')");
	ok_soon("NOT EXISTS (SELECT FROM cqrs.timer WHERE id = '$id')", 'it is sent');
	$psql->query("SELECT cqrs.cancel_scheduled('$id')");
	like($psql->{stderr}, qr/ERROR:  40001/, 'a snapshot from before says so');
	$psql->{stderr} = '';
	$psql->query_safe('ROLLBACK');

	# The other way round: one that is being canceled is left alone, and sent if that is undone.
	query("SELECT setval('hold', 1, false)");
	schedule('0', 'before', 'Hold');
	$node->poll_query_until('postgres', "SELECT wait_event = 'PgSleep' FROM pg_stat_activity WHERE backend_type = 'pg_cqrs timer worker'");
	$id = schedule('0', 'kept');
	$psql->query_safe("BEGIN; SELECT cqrs.cancel_scheduled('$id')");
	schedule('0', 'beside');
	query("SELECT nextval('hold')");
	ok_soon("EXISTS (SELECT FROM cqrs.history('Timer', 'beside'))", 'one that is being canceled holds no other one back');
	is(query("SELECT count(*) FROM cqrs.history('Timer', 'kept')"), '0', 'and is not sent');
	$psql->query_safe('ROLLBACK');
	ok_soon("EXISTS (SELECT FROM cqrs.history('Timer', 'kept'))", 'until the cancellation is undone');
	$psql->quit;
	return;
}

# A command to an entity that somebody has locked does not hold back others, and is sent when it can be.
sub out_of_the_way
{
	my $psql = $node->background_psql('postgres', on_error_stop => 0);

	$psql->query_safe("BEGIN; SELECT cqrs.send('Timer', 'locked', 'Fire')");
	schedule('0', 'locked');
	ok_soon("EXISTS (SELECT FROM cqrs.timer_status WHERE last_sqlstate = '55P03' AND state = 'retrying')", 'a command that waits for a lock is put off');
	schedule('0', 'free');
	ok_soon("EXISTS (SELECT FROM cqrs.history('Timer', 'free'))", 'others are sent meanwhile');
	$psql->query_safe('COMMIT');
	ok_soon("count(*) = 2 FROM cqrs.history('Timer', 'locked')", 'and it is when the lock is gone');

	# Who holds the lock may cancel, and it is the worker that gives way.
	$psql->query_safe("BEGIN; SELECT cqrs.send('Timer', 'locked', 'Fire')");
	my $id = schedule('0', 'locked');
	ok_soon("EXISTS (SELECT FROM pg_stat_activity WHERE backend_type = 'pg_cqrs timer worker' AND wait_event_type = 'Lock')", 'the worker waits');
	is($psql->query_safe("SELECT cqrs.cancel_scheduled('$id')"), 't', 'and gives way to who cancels the timer');
	schedule('0', 'free too');
	ok_soon("EXISTS (SELECT FROM cqrs.history('Timer', 'free too'))", 'others are sent meanwhile');
	$psql->query_safe('COMMIT');
	is(query('SELECT count(*) FROM cqrs.timer'), '0', 'it is gone');
	$psql->quit;
	return;
}

# Due while the server is down, or when it comes up: sent then.
sub restarted
{
	schedule('300 ms', 'down');
	schedule('1 h', 'never');
	my $due = time + 0.4;
	$node->stop;
	select(undef, undef, undef, 0.01) while time < $due;
	$node->start;
	ok_soon("count(*) = 1 FROM cqrs.history('Timer', 'down')", 'what became due during a downtime is sent after it');
	schedule('1 s', 'restart');
	$node->restart;
	ok_soon("count(*) = 1 FROM cqrs.history('Timer', 'restart')", 'a timer outlives a restart');
	$node->append_conf('postgresql.conf', 'cqrs.workers = off');
	$node->reload;
	ok_soon("NOT EXISTS ($worker)", 'with cqrs.workers = off there is no worker');
	schedule('0', 'off');
	ok_soon("state = 'off' FROM cqrs.timer_status WHERE entity_id = 'off'", 'and the status says so');
	$node->append_conf('postgresql.conf', 'cqrs.workers = on');
	$node->reload;
	ok_soon("count(*) = 1 FROM cqrs.history('Timer', 'off')", 'on again, it is sent');
	is(query("SELECT count(*) FROM cqrs.history('Timer', 'never')"), '0', 'and nothing else is');
	query('SELECT cqrs.cancel_scheduled(id) FROM cqrs.timer');
	return;
}

# A restored database has the timers and sends none, since the original does.
sub held
{
	my $dump = PostgreSQL::Test::Utils::tempdir() . '/dump';

	my $make_due = 'UPDATE cqrs.timer SET due_at = now(); SELECT cqrs.retry_scheduled(id) FROM cqrs.timer';

	schedule('1 h', 'copied');
	$node->command_ok([ 'pg_dump', '-f', $dump, $node->connstr('postgres') ], 'dump');
	query('CREATE DATABASE copy');
	$node->command_ok([ 'psql', '-Xq', '-v', 'ON_ERROR_STOP=1', '-o', '/dev/null', '-d', $node->connstr('copy'), '-f', $dump ], 'restore');
	query($make_due);
	query($make_due, 'copy');
	ok_soon("count(*) = 1 FROM cqrs.history('Timer', 'copied')", 'the original sends what is due');
	is(query("SELECT entity_id, state, attempts FROM cqrs.timer_status", 'copy'), 'copied|held|0', 'in the copy it is held');
	query("SELECT cqrs.schedule(now(), 'Timer', 'scheduled in the copy', 'Fire')", 'copy');
	ok_soon("NOT EXISTS ($worker)", 'the copy has no worker', 'copy');
	is(query("SELECT count(*) FROM cqrs.timer_status WHERE state = 'held'", 'copy'), '2', 'nothing is sent there');
	query('SELECT cqrs.adopt()', 'copy');
	ok_soon("count(*) = 2 FROM cqrs.journal WHERE entity_id IN ('copied', 'scheduled in the copy')", 'until it is adopted', 'copy');
	query('DROP DATABASE copy');
	return;
}

# Many timers that become due while the worker is killed and the server crashes: each is sent once, also those that append nothing.
sub killed
{
	query('TRUNCATE fired');
	query(<<'SQL');
		SELECT cqrs.schedule(clock_timestamp() + n * interval '10 ms', 'Timer', 'killed-' || n % 20, CASE WHEN n % 2 = 0 THEN 'Fire' ELSE 'Quiet' END)
		FROM generate_series(1, 400) n;
SQL
	for my $round (1 .. 6)
	{
		my $goal = 50 * $round;

		$node->poll_query_until('postgres', "SELECT count(*) >= $goal FROM fired") or BAIL_OUT('no timers are sent');
		if ($round % 3 == 0)
		{
			$node->stop('immediate');
			$node->start;
		}
		else
		{
			my $pid = query($worker);

			kill $round % 3 == 1 ? 'TERM' : 'KILL', $pid if $pid =~ /^\d+$/;
		}
		wait_for_server();
	}
	$node->poll_query_until('postgres', 'SELECT NOT EXISTS (SELECT FROM cqrs.timer)') or BAIL_OUT('timers are left');
	is(query('SELECT count(*), count(DISTINCT id) FROM fired'), '400|400', 'each was sent exactly once');
	is(query("SELECT count(*), count(DISTINCT metadata #>> '{\$causation,timer}') FROM cqrs.journal WHERE entity_id LIKE 'killed-%'"),
		'200|200', 'and its events are there once');
	return;
}

# Workers that are too few take turns: an idle projection does not keep the timers of its database waiting for ever.
sub short_of_workers
{
	$node->append_conf('postgresql.conf', 'max_worker_processes = 3		# two are taken by launchers');
	$node->restart;
	query('CREATE DATABASE other');
	for my $database ('postgres', 'other')
	{
		query('CREATE EXTENSION IF NOT EXISTS pg_cqrs', $database);
		query('SELECT cqrs.create_journal()', $database);
		query('CREATE FUNCTION ignore(event cqrs.event) RETURNS void LANGUAGE plpgsql AS $$ BEGIN END $$', $database);
		query("SELECT cqrs.create_projection('p', 'ignore')", $database);
	}
	query("SELECT cqrs.wait_for_projection('p', timeout => '60 s')") for 1 .. 2;
	query("SELECT cqrs.wait_for_projection('p', timeout => '60 s')", 'other');
	my $id = schedule('1 s', 'short');
	ok_soon("count(*) = 1 FROM cqrs.history('Timer', 'short')", 'with too few workers a timer fires');
	query("SELECT cqrs.wait_for_projection('p', timeout => '60 s')");
	query("SELECT cqrs.append('Other', 'x', ARRAY[cqrs.new_event('X', '{}')])", 'other');
	query("SELECT cqrs.wait_for_projection('p', timeout => '60 s')", 'other');
	pass('and projections go on');
	return;
}

# After a crash it takes a moment.
sub wait_for_server
{
	my $until = time + $PostgreSQL::Test::Utils::timeout_default;

	until (($node->psql('postgres', 'SELECT 1', stdout => \my $ignored, stderr => \my $ignored_too))[0] == 0)
	{
		BAIL_OUT('the server does not come back') if time > $until;
		select(undef, undef, undef, 0.05);
	}
	return;
}

# How often a process has been woken; on other systems than Linux nothing is compared.
sub switches
{
	my ($pid) = @_;

	return '' unless -r "/proc/$pid/status";
	my ($number) = slurp_file("/proc/$pid/status") =~ /^voluntary_ctxt_switches:\s*(\d+)/m;
	return $number;
}
