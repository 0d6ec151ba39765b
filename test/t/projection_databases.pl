# Workers find the databases that have projections by themselves, and are in
# nobody's way: a command that needs a database for itself neither fails nor
# waits because of one. Where there are too few slots for workers all databases
# take turns, and people are told. An idle worker does nothing at all.
use strict;
use warnings;
use Time::HiRes qw(time);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $workers = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'pg_cqrs projection worker'";
my $node = PostgreSQL::Test::Cluster->new('projection_databases');
$node->init;
$node->append_conf('postgresql.conf', <<'CONF');
max_worker_processes = 12
autovacuum = off
CONF
$node->start;
create($_) for 'one', 'two', 'three';
$node->safe_psql('postgres', 'CREATE DATABASE bare');
$node->safe_psql('bare', 'CREATE EXTENSION pg_cqrs');

# Found after a restart.
$node->restart;
ok($node->poll_query_until('postgres', "$workers AND datname = 'one'", '1'), 'a worker comes after a restart') or BAIL_OUT('no worker');
follows($_) for 'one', 'two', 'three';
is($node->safe_psql('postgres', "$workers AND datname IN ('one', 'two', 'three')"), '3', 'one in each database that has a projection');
ok($node->poll_query_until('postgres', $workers, '3'), 'and none in others');

# Idle: no statement, no wake-up, no processor time. Events elsewhere do not wake it.
{
	my $pid = settled_worker('two');
	my @before = idle_figures('two', $pid);

	append('one', 20) for 1 .. 10;
	follows('one');
	is(join(' ', idle_figures('two', $pid)), join(' ', @before), 'an idle worker does nothing');
	is($node->safe_psql('postgres', "SELECT state FROM pg_stat_activity WHERE pid = $pid"), 'idle', 'and says so');
	follows('two');
	is(worker('two'), $pid, 'then it goes on');
}

# Commands that need a database for themselves.
at_once('two', 'ALTER DATABASE two RENAME TO second');
follows('second');
at_once('second', 'CREATE DATABASE copy TEMPLATE second');
follows('second');
is($node->safe_psql('copy', 'SELECT DISTINCT state FROM cqrs.projection_status'), 'held', 'the copy is held');
is($node->safe_psql('postgres', "$workers AND datname = 'copy'"), '0', 'and has no worker');
$node->safe_psql('copy', 'SELECT cqrs.adopt()');
follows('copy');
mkdir my $tablespace = PostgreSQL::Test::Utils::tempdir_short() . '/space';
$node->safe_psql('postgres', "CREATE TABLESPACE space LOCATION '$tablespace'");
at_once('copy', 'ALTER DATABASE copy SET TABLESPACE space');
follows('copy');
at_once('copy', 'ALTER DATABASE copy WITH ALLOW_CONNECTIONS false');
is($node->safe_psql('postgres', "$workers AND datname = 'copy'"), '0', 'no worker where nobody may connect');
at_once('copy', 'ALTER DATABASE copy WITH ALLOW_CONNECTIONS true');
follows('copy');
at_once('copy', 'DROP DATABASE copy');

# No worker stays in a template; it comes back when it is none any more.
at_once('second', 'ALTER DATABASE second IS_TEMPLATE true');
append('second', 1);
at_once('second', 'CREATE DATABASE copy TEMPLATE second');
is($node->safe_psql('postgres', "$workers AND datname = 'second'"), '0', 'no worker in a template');
at_once('second', 'ALTER DATABASE second IS_TEMPLATE false');
follows('second');
at_once('copy', 'DROP DATABASE copy');

# What fails, or is not allowed, changes nothing.
{
	my $pid = settled_worker('one');
	$node->safe_psql('postgres', 'CREATE ROLE somebody LOGIN CREATEDB');

	for my $command ('DROP DATABASE one', 'ALTER DATABASE one RENAME TO other', 'CREATE DATABASE copy TEMPLATE one',
		'ALTER DATABASE one SET work_mem = 1000', 'ALTER DATABASE one IS_TEMPLATE true')
	{
		my ($code) = $node->psql('postgres', "SET ROLE somebody; $command", on_error_stop => 1);

		isnt($code, 0, "somebody may not: $command");
		is(worker('one'), $pid, "and disturbs no worker: $command");
	}
	for my $command ('DROP EXTENSION pg_cqrs', 'ALTER EXTENSION pg_cqrs UPDATE')
	{
		$node->psql('one', "SET ROLE somebody; $command");
		is(worker('one'), $pid, "nor: $command");
	}
}
$node->psql('postgres', 'BEGIN; DROP DATABASE one; ROLLBACK');
follows('one');
$node->psql('postgres', 'ALTER DATABASE one RENAME TO second');
follows('one');
is(($node->psql('one', 'DROP EXTENSION pg_cqrs'))[0], 3, 'DROP EXTENSION fails while there is a journal');
follows('one');
at_once('one', 'ALTER EXTENSION pg_cqrs UPDATE', 'one');
follows('one');
$node->safe_psql('one', "BEGIN; ALTER EXTENSION pg_cqrs UPDATE; ROLLBACK");
follows('one');

# A handler that is at work is stopped for it, and its batch undone.
$node->safe_psql('three', <<'SQL');
CREATE FUNCTION tarry(event cqrs.event) RETURNS void LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(1000); END';
SELECT cqrs.create_projection('slow', 'tarry');
SQL
$node->poll_query_until('postgres', "SELECT wait_event = 'PgSleep' FROM pg_stat_activity WHERE backend_type = 'pg_cqrs projection worker' AND datname = 'three'")
  or BAIL_OUT('the handler does not run');
at_once('three', 'ALTER DATABASE three RENAME TO third');
ok($node->poll_query_until('postgres', "SELECT wait_event = 'PgSleep' FROM pg_stat_activity WHERE backend_type = 'pg_cqrs projection worker' AND datname = 'third'"),
	'it is called again');
at_once('third', 'DROP DATABASE third');

# drop_projection and DROP EXTENSION.
$node->safe_psql('second', "SELECT cqrs.drop_projection('p')");
ok($node->poll_query_until('postgres', "$workers AND datname = 'second'", '0'), 'without a projection the worker leaves');
$node->safe_psql('second', "SELECT cqrs.create_projection('p', 'note', start_position => NULL)");
$node->safe_psql('second', 'TRUNCATE noted');
$node->safe_psql('second', "SELECT cqrs.append('Account', 'z', ARRAY[cqrs.new_event('Changed', '1')])");
ok($node->poll_query_until('second', 'SELECT count(*) FROM noted', '1'), 'another one brings it back');
at_once('second', 'DROP TABLE cqrs.journal; DROP EXTENSION pg_cqrs CASCADE', 'second');
ok($node->poll_query_until('postgres', "$workers AND datname = 'second'", '0'), 'without the extension there is no worker');
at_once('second', 'CREATE EXTENSION pg_cqrs', 'second');
at_once('second', 'DROP DATABASE second');

# Several workers, and one again.
$node->safe_psql('postgres', 'ALTER DATABASE one SET cqrs.projection_workers = 3');
$node->safe_psql('one', "SELECT cqrs.alter_projection('p', partitions => 4)");
ok($node->poll_query_until('postgres', "$workers AND datname = 'one'", '3'), 'ALTER DATABASE ... SET cqrs.projection_workers takes effect');
follows('one');
$node->safe_psql('one', "SELECT cqrs.alter_projection('p', partitions => 2)");
ok($node->poll_query_until('postgres', "$workers AND datname = 'one'", '2'), 'no more workers than partitions');
follows('one');
$node->safe_psql('one', "SELECT cqrs.pause_projection('p')");
ok($node->poll_query_until('postgres', "$workers AND datname = 'one'", '0'), 'none for a projection that is paused');
$node->safe_psql('one', "SELECT cqrs.resume_projection('p')");
follows('one');
$node->safe_psql('postgres', 'ALTER DATABASE one RESET cqrs.projection_workers');
ok($node->poll_query_until('postgres', "$workers AND datname = 'one'", '1'), 'nor more than wanted');
follows('one');

# Off and on.
$node->append_conf('postgresql.conf', 'cqrs.workers = off');
$node->reload;
ok($node->poll_query_until('postgres', $workers, '0'), 'cqrs.workers = off has the workers leave');
is($node->safe_psql('one', 'SELECT DISTINCT state FROM cqrs.projection_status'), 'off', 'and the status says so');
append('one', 1);
$node->restart;
is($node->safe_psql('one', "SELECT state, count(*) FROM cqrs.projection_status WHERE lag_events > 0 GROUP BY 1"), 'off|2', 'after a restart too');
$node->append_conf('postgresql.conf', 'cqrs.workers = on');
$node->reload;
follows('one');

# So fast that the launcher sees but the last of it.
{
	my $launcher = $node->safe_psql('postgres', "SELECT pid FROM pg_stat_activity WHERE backend_type = 'pg_cqrs launcher'");

	kill STOP => $launcher;
	$node->append_conf('postgresql.conf', 'cqrs.workers = off');
	$node->reload;
	ok($node->poll_query_until('postgres', $workers, '0'), 'the workers leave');
	$node->append_conf('postgresql.conf', 'cqrs.workers = on');
	$node->reload;
	kill CONT => $launcher;
	follows('one');
}

# Somebody terminates the launcher.
$node->safe_psql('postgres', "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'pg_cqrs launcher'");
create('four');
follows('four');
follows('one');

# Fast shutdown with a handler at work, and with idle workers.
$node->safe_psql('four', <<'SQL');
CREATE FUNCTION tarry(event cqrs.event) RETURNS void LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(1000); END';
SELECT cqrs.create_projection('slow', 'tarry');
SQL
$node->poll_query_until('postgres', "SELECT wait_event = 'PgSleep' FROM pg_stat_activity WHERE backend_type = 'pg_cqrs projection worker' AND datname = 'four'")
  or BAIL_OUT('the handler does not run');
my $start = time();
$node->stop('fast');
cmp_ok(time() - $start, '<', 10, 'a fast shutdown is fast');

# Too few slots: besides the two launchers there is room for one worker.
$node->append_conf('postgresql.conf', 'max_worker_processes = 3');
my $log = -s $node->logfile;
$node->start;
$node->safe_psql('four', "SELECT cqrs.drop_projection('slow')");
create($_) for 'five', 'six';
for my $round (1 .. 2)
{
	append($_, 1) for 'one', 'four', 'five', 'six';
	caught_up($_) for 'one', 'four', 'five', 'six';
}

# One that has much to do is not alone with the slot.
for my $database ('one', 'four')
{
	$node->safe_psql($database, <<'SQL');
CREATE FUNCTION dawdle(event cqrs.event) RETURNS void LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(0.05); END';
SELECT cqrs.create_projection('busy', 'dawdle', batch_size => 5);
DO $$BEGIN FOR i IN 1 .. 20 LOOP PERFORM cqrs.append('Account', 'b', array_agg(cqrs.new_event('Changed', '1'))) FROM generate_series(1, 100); END LOOP; END$$;
SQL
}
append($_, 1) for 'five', 'six';
ok( $node->poll_query_until('postgres', "SELECT count(*) > 0 FROM pg_stat_activity WHERE backend_type = 'pg_cqrs projection worker' AND datname IN ('one', 'four')"),
	'a busy worker has the slot');
for my $database ('five', 'six')
{
	caught_up($database);
}
my $waiting = 'SELECT state FROM cqrs.projection_status WHERE name = \'busy\'';
ok($node->poll_query_until('one', $waiting, 'waiting for a slot'), 'one waits for a slot');
ok($node->poll_query_until('four', $waiting, 'waiting for a slot'), 'then the other');
for my $database ('one', 'four')
{
	my $reached = $node->safe_psql($database, "SELECT position FROM cqrs.projection_status WHERE name = 'busy'");

	ok($node->poll_query_until($database, "SELECT position > $reached FROM cqrs.projection_status WHERE name = 'busy'"), "$database gets on");
}
at_once('one', 'DROP DATABASE one');
at_once('four', 'DROP DATABASE four');

# Who is idle keeps the slot as long as nobody wants it, and no longer.
for my $round (1 .. 3)
{
	follows('five');
	follows('six');
}
my $holder = settled_worker('six');
follows('six');
is(worker('six'), $holder, 'an idle worker stays where nobody needs the slot');
is($node->safe_psql('five', 'SELECT state FROM cqrs.projection_status'), 'running', 'who rests is not in need of one');
my @warnings = slurp_file($node->logfile, $log) =~ /WARNING:  there are too few background workers for pg_cqrs\n.*\n.*HINT:  .*max_worker_processes/g;
is(scalar @warnings, 1, 'the log says once that slots are short');

$node->stop;
done_testing();

sub create
{
	my ($database) = @_;

	$node->safe_psql('postgres', "CREATE DATABASE $database TEMPLATE template0");
	$node->safe_psql($database, <<'SQL');
CREATE EXTENSION pg_cqrs;
CREATE TABLE noted (position bigint PRIMARY KEY);
CREATE FUNCTION note(event cqrs.event) RETURNS void LANGUAGE sql AS 'INSERT INTO noted VALUES (event.position)';
SELECT cqrs.create_projection('p', 'note');
SELECT cqrs.append('Account', 'a', ARRAY[cqrs.new_event('Changed', '1')]);
SQL
	return;
}

sub append
{
	my ($database, $events) = @_;

	$node->safe_psql($database, "SELECT cqrs.append('Account', 'a', array_agg(cqrs.new_event('Changed', '1'))) FROM generate_series(1, $events)");
	return;
}

# A worker projects what is written.
sub follows
{
	my ($database) = @_;

	append($database, 1);
	caught_up($database);
	return;
}

# The table's primary key sees to it that nothing comes twice.
sub caught_up
{
	my ($database) = @_;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	ok( $node->poll_query_until($database,
			q{SELECT NOT EXISTS (SELECT position FROM cqrs.journal EXCEPT ALL SELECT position FROM noted) FROM cqrs.projection_status
				WHERE name = 'p' AND last_error IS NULL LIMIT 1}),
		"$database gets what is written") or diag($node->safe_psql($database, 'TABLE cqrs.projection_status'));
	return;
}

sub worker
{
	my ($database) = @_;

	return $node->safe_psql('postgres', "SELECT string_agg(pid::text, ' ') FROM pg_stat_activity"
		  . " WHERE backend_type = 'pg_cqrs projection worker' AND datname = '$database'");
}

# The worker of a database that has nothing to do and has gone to sleep.
sub settled_worker
{
	my ($database) = @_;

	follows($database);
	$node->poll_query_until('postgres', "SELECT state = 'idle' AND wait_event IS NOT NULL FROM pg_stat_activity"
		  . " WHERE backend_type = 'pg_cqrs projection worker' AND datname = '$database'") or BAIL_OUT('the worker does not get idle');
	return worker($database);
}

# What an idle worker must not raise: transactions, wake-ups, processor time.
sub idle_figures
{
	my ($database, $pid) = @_;
	my @figures = $node->safe_psql('postgres', "SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = '$database'");

	if (-r "/proc/$pid/status")
	{
		push @figures, (split ' ', slurp_file("/proc/$pid/stat"))[ 13, 14 ];
		push @figures, slurp_file("/proc/$pid/status") =~ /^voluntary_ctxt_switches:\s*(\d+)/m;
	}
	return @figures;
}

# A command on a database whose worker is there, or is about to come.
sub at_once
{
	my ($database, $command, $in) = @_;
	my $start = time();
	my ($code, undef, $error) = $node->psql($in // 'postgres', $command, on_error_stop => 1);

	is($code, 0, $command) or diag($error);
	# An idle worker would have made it fail after five seconds.
	cmp_ok(time() - $start, '<', 4, "$command: at once");
	return;
}
