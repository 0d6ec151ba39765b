# What is known in shared memory about a projection is about that projection:
# not about one of the same name before the extension was made anew or restored,
# nor kept where nobody needs it, nor left behind by a session that is gone.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $dump = PostgreSQL::Test::Utils::tempdir() . '/dump';
my $node = PostgreSQL::Test::Cluster->new('projection_progress');
$node->init;
$node->append_conf('postgresql.conf', 'cqrs.max_projection_partitions = 16');
$node->start;

anew();
terminated();
restored();
dropped();

$node->stop;
done_testing();

# The same name, the same revision, positions that were reached before.
sub anew
{
	query(install());
	append(20);
	is(project(), '20', 'events are projected');
	my $revision = query('SELECT revision FROM cqrs.projection');
	# At once, so that no worker sees that there is none.
	query('BEGIN; DROP TABLE cqrs.journal CASCADE; DROP EXTENSION pg_cqrs CASCADE; DROP TABLE counted;' . install() . 'COMMIT');
	is(query('SELECT revision FROM cqrs.projection'), $revision, 'an extension that is made anew gives the same revision');
	append(10);
	is(project(), '10', 'and has its events projected');
	append(20);
	is(project(), '30', 'those that come then, too');
	is(query('SELECT count(*) FROM cqrs.projection_status'), '1', 'what was before is not shown');
	return;
}

# Who waits to change a projection has a rebuild give way, as long as he waits.
sub terminated
{
	my $holder = $node->background_psql('postgres', on_error_stop => 1);
	my $waiter = $node->background_psql('postgres', on_error_die => 0);

	$holder->query_safe('BEGIN; SELECT FROM cqrs.projection_offset FOR UPDATE');
	$waiter->query_until(qr/waits/, "\\echo waits\nSELECT cqrs.pause_projection('counter');\n");
	my $waits = "FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%pause_projection%'";
	ok($node->poll_query_until('postgres', "SELECT count(*) = 1 $waits"), 'a session waits to change a projection');
	query("SELECT pg_terminate_backend(pid, 60000) $waits");
	$holder->query_safe('ROLLBACK');
	$holder->quit;
	$waiter->{run}->finish;
	query("SELECT cqrs.rebuild_projection('counter')");
	is(project(), '30', 'it is terminated, and the projection can be rebuilt');
	return;
}

# Names, revisions and offsets come from the dump.
sub restored
{
	$node->command_ok([ 'pg_dump', '-Fc', '-d', $node->connstr('postgres'), '-f', $dump ], 'a dump');
	append(10);
	is(project(), '40', 'the projection goes on');
	query("SELECT cqrs.pause_projection('counter')");
	ok($node->poll_query_until('postgres', worker(), '0'), 'and has no worker any more');
	$node->command_ok([ 'pg_restore', '--clean', '--if-exists', '-1', '-d', $node->connstr('postgres'), $dump ], 'the dump is restored in place');
	is(query('SELECT events FROM counted'), '30', 'read models are as they were');
	is(query('SELECT cqrs.is_held()'), 't', 'it is held');
	query('SELECT cqrs.adopt()');
	ok($node->poll_query_until('postgres', worker(), '1'), 'a worker comes by itself');
	append(10);
	is(project(), '40', 'and projects the events that come then');
	return;
}

# There is room for 16.
sub dropped
{
	query("SELECT cqrs.drop_projection('counter')");
	query("SELECT cqrs.create_projection('old' || n, 'count_event') FROM generate_series(1, 10) n");
	reached('old', 10);
	query("SELECT cqrs.drop_projection('old' || n) FROM generate_series(1, 10) n");
	query("SELECT cqrs.create_projection('new' || n, 'count_event') FROM generate_series(1, 10) n");
	reached('new', 10);
	query("BEGIN; SELECT cqrs.drop_projection('new' || n) FROM generate_series(1, 10) n;"
		  . "SELECT cqrs.create_projection('other' || n, 'count_event') FROM generate_series(1, 10) n; COMMIT");
	reached('other', 10);
	query("SELECT cqrs.drop_projection('other' || n) FROM generate_series(1, 10) n");
	ok($node->poll_query_until('postgres', 'SELECT count(*) FROM cqrs.projection_progress()', '0'), 'in the end there is none, and nothing known');
	unlike(slurp_file($node->logfile), qr/too many partitions/, 'there was always room');
	return;
}

sub reached
{
	my ($name, $projections) = @_;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	is(query("SELECT bool_and(cqrs.wait_for_projection('$name' || n, timeout => '60 s') > 0) FROM generate_series(1, $projections) n"), 't', "$projections projections: $name");
	return;
}

sub install
{
	return <<'SQL';
CREATE EXTENSION pg_cqrs;
SELECT cqrs.create_journal();
CREATE TABLE counted (events integer);
INSERT INTO counted VALUES (0);
CREATE OR REPLACE FUNCTION begin_counting() RETURNS void LANGUAGE sql AS $$ INSERT INTO public.counted SELECT 0 WHERE NOT EXISTS (SELECT FROM public.counted) $$;
CREATE FUNCTION count_event(event cqrs.event) RETURNS void LANGUAGE sql AS $$ UPDATE public.counted SET events = events + 1 $$;
SELECT cqrs.create_projection('counter', 'count_event', tables => '{counted}', prepare => 'begin_counting');
SQL
}

sub append
{
	my ($events) = @_;

	query("SELECT cqrs.append('Account', n::text, ARRAY[cqrs.new_event('Changed', '1')]) FROM generate_series(1, $events) AS n");
	return;
}

# Has all events projected, and says how many there were.
sub project
{
	query("SELECT cqrs.wait_for_projection('counter', timeout => '60 s')");
	return query('SELECT events FROM counted');
}

sub worker
{
	return "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'pg_cqrs projection worker'";
}

sub query
{
	my ($sql) = @_;

	return $node->safe_psql('postgres', $sql);
}
