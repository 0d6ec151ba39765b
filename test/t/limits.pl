# What README.md says of sizes, on a smaller scale: large events, long entities, many types, projections and services, and transactions
# that append to many entities work, and nothing that is done for one of them looks at all the others.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my ($types, $projections, $services, $entities) = (1000, 300, 300, 2000);
my $node = PostgreSQL::Test::Cluster->new('limits');
$node->init;
$node->append_conf('postgresql.conf', "cqrs.max_services = $services\ncqrs.max_projection_partitions = 400\nmax_connections = 120\nautovacuum = off");
$node->start;
query(<<'SQL');
CREATE EXTENSION pg_cqrs;
CREATE FUNCTION change(state jsonb, command cqrs.command) RETURNS cqrs.effect LANGUAGE sql AS
	$$ SELECT cqrs.persist('Changed', command.data, reply => to_jsonb(command.version)) $$;
REVOKE EXECUTE ON FUNCTION change FROM PUBLIC;
CREATE FUNCTION make_type(name text, snapshot_every integer) RETURNS void LANGUAGE sql AS $$
	SELECT cqrs.create_entity(name, snapshot_every => snapshot_every), cqrs.on_command(name, '*', 'change'), cqrs.on_event(name, '*', 'cqrs.merge') $$;
-- Rows of a table that this transaction has fetched by indexes, and how often it has looked there.
CREATE FUNCTION fetched(name text) RETURNS bigint LANGUAGE sql AS $$ SELECT coalesce(max(idx_tup_fetch), 0) FROM pg_stat_xact_all_tables WHERE relid = name::regclass $$;
CREATE FUNCTION scans(name text) RETURNS bigint LANGUAGE sql AS $$ SELECT coalesce(max(seq_scan + idx_scan), 0) FROM pg_stat_xact_all_tables WHERE relid = name::regclass $$;
SQL

large_event();
long_entity();
many_types();
many_projections();
many_services();
many_entities();
many_connections();
$node->stop;
done_testing();

sub query
{
	my ($sql) = @_;
	return $node->safe_psql('postgres', $sql);
}

# 10 MB that hardly compress, as a command, an event, a state, a snapshot, and to a projection.
sub large_event
{
	query(<<'SQL');
SELECT make_type('Large', 1);
CREATE TABLE seen (version bigint, md5 text);
CREATE FUNCTION note(event cqrs.event) RETURNS void LANGUAGE sql AS $$ INSERT INTO seen VALUES (event.version, md5(event.data ->> 'noise')) $$;
SELECT cqrs.create_projection('large', 'note', entity_types => '{Large}');
CREATE TABLE noise AS SELECT string_agg(md5(i::text), '') AS noise FROM generate_series(1, 327680) i;
SQL
	is(query("SELECT version, length(noise) FROM noise, cqrs.send('Large', 'l', 'Change', jsonb_build_object('noise', noise))"), '1|10485760', 'an event of 10 MB');
	is(query("SELECT version FROM cqrs.append('Large', 'l', ARRAY[cqrs.new_event('Changed', '{}')])"), 2, 'and one after it');
	my $md5 = query('SELECT md5(noise) FROM noise');
	is(query("SELECT md5(data ->> 'noise') FROM cqrs.history('Large', 'l') WHERE version = 1"), $md5, 'is read as it was');
	is(query("SELECT md5(data ->> 'noise') FROM cqrs.read_events(entity_types => '{Large}', max_events => 1)"), $md5, 'in order, too');
	is(query("SELECT md5(cqrs.state('Large', 'l') ->> 'noise')"), $md5, 'as a state');
	is(query("SELECT md5(state ->> 'noise') FROM cqrs.snapshot WHERE entity_type = 'Large'"), $md5, 'as a snapshot');
	query("SELECT cqrs.wait_for_projection('large', timeout => '60 s')");
	is(query('SELECT md5 FROM seen ORDER BY version LIMIT 1'), $md5, 'and by a projection');
	query("SELECT cqrs.drop_projection('large')");
	return;
}

# With snapshots a command reads the events since the last one, however many there are.
sub long_entity
{
	query("SELECT make_type('Long', 100), make_type('Bare', 0)");
	query("SELECT cqrs.append(type, 'e', (SELECT array_agg(cqrs.new_event('Changed', jsonb_build_object('n', n))) FROM generate_series(1, 10000) n))"
		  . " FROM unnest('{Long, Bare}'::text[]) type, generate_series(1, 2)");
	is(query("SELECT version, cqrs.state('Long', 'e') FROM cqrs.send('Long', 'e', 'Change')"), '20001|{"n": 10000}', 'an entity of 20,000 events');
	cmp_ok(events_read('Long'), '<', 5, 'a command to it reads few of them');
	query("SELECT cqrs.append('Long', 'e', ARRAY[cqrs.new_event('Changed', '{}')]) FROM generate_series(1, 60)");
	my $read = events_read('Long');
	ok($read > 60 && $read < 70, 'those since the last snapshot');
	cmp_ok(events_read('Bare'), '>', 20000, 'which it would not without snapshots');
	return;
}

# By a command, in a session that has kept nothing.
sub events_read
{
	my ($type) = @_;
	my @lines = split /\n/, query("BEGIN; SELECT version FROM cqrs.send('$type', 'e', 'Change'); SELECT fetched('cqrs.journal'); COMMIT");

	return $lines[1];
}

# A session reads what is registered once, and of each type what it needs.
sub many_types
{
	my $round = "SELECT count(cqrs.send('Type' || n, 'e', 'Change')) FROM generate_series(1, $types) n";
	my $scans = "SELECT scans('cqrs.entity') + scans('cqrs.entity_handler')";

	query("SELECT make_type('Type' || n, 100) FROM generate_series(1, $types) n");
	my ($first, $after_first, $second, $after_second) = split /\n/, query("BEGIN; $round; $scans; $round; $scans; COMMIT");
	is("$first $second", "$types $types", "commands to $types types");
	is($after_second, $after_first, 'for which the registry is read once');
	is(query("SELECT count(*), count(DISTINCT entity_type), max(version) FROM cqrs.journal WHERE entity_type LIKE 'Type%'"), 2 * $types . "|$types|2", 'are carried out');
	return;
}

sub many_projections
{
	query('CREATE TABLE projected (name text); CREATE FUNCTION project(event cqrs.event) RETURNS void LANGUAGE sql AS '
		  . q($$ INSERT INTO projected SELECT event.data ->> 'by' $$));
	query("SELECT cqrs.create_projection('p' || n, 'project', entity_types => '{Projected}', start_position => NULL) FROM generate_series(1, $projections) n");
	my $position = query("SELECT position FROM cqrs.append('Projected', 'e', ARRAY[cqrs.new_event('Changed', '{}')])");
	is(query("SELECT count(*), bool_and(cqrs.wait_for_projection('p' || n, $position, '60 s') >= $position) FROM generate_series(1, $projections) n"),
		"$projections|t", "$projections projections get to an event");
	is(query('SELECT count(*) FROM projected'), $projections, 'each once');
	query("SELECT cqrs.drop_projection('p' || n) FROM generate_series(1, $projections) n");
	return;
}

# Each has a breaker of its own.
sub many_services
{
	query("DO \$\$ BEGIN FOR n IN 1 .. $services + 1 LOOP EXECUTE format('CREATE SERVER s%s FOREIGN DATA WRAPPER cqrs_http OPTIONS (url ''https://s.invalid'','"
		  . " || ' max_failures %L, reset_timeout ''1 h'')', n, CASE WHEN n % 3 = 0 THEN 1 ELSE 5 END); END LOOP; END \$\$");
	query("SELECT cqrs.end_call(cqrs.begin_call('s' || n), CASE WHEN n % 3 = 2 THEN 'success' ELSE 'failure' END) FROM generate_series(1, $services) n");
	is( query("SELECT state, calls, successes, failures, count(*) FROM cqrs.breaker_status WHERE service <> 's' || $services + 1 GROUP BY 1, 2, 3, 4 ORDER BY 1, 3"),
		join("\n", map { "$_|" . $services / 3 } 'closed|1|0|1', 'closed|1|1|0', 'open|1|0|1'), "breakers of $services services");
	my (undef, undef, $error) = $node->psql('postgres', "\\set VERBOSITY verbose\nSELECT cqrs.begin_call('s' || $services + 1)");
	like($error, qr/ERROR:  53400: /, 'and no more than there is room for');
	return;
}

# Beyond cqrs.max_entity_locks a transaction takes no more locks, so that it leaves some for others.
sub many_entities
{
	my $psql = $node->background_psql('postgres', on_error_stop => 1);
	my $append = sub { my ($prefix, $n) = @_; return "SELECT sum((cqrs.append('Many', '$prefix' || n, ARRAY[cqrs.new_event('Changed', '{}')])).version) FROM generate_series(1, $n) n" };

	$psql->query_safe('BEGIN');
	is($psql->query_safe($append->('a', $entities)), $entities, "a transaction appends to $entities entities");
	my $locks = query('SELECT count(*) FROM pg_locks WHERE pid = ' . $psql->query_safe('SELECT pg_backend_pid()'));
	cmp_ok($locks, '<', query('SHOW cqrs.max_entity_locks') + 30, 'and has no more locks than it may');
	is(query($append->('b', 1001)), 1001, 'another one appends to 1,001 meanwhile');
	is(query("SELECT version FROM cqrs.send('Long', 'm', 'Change')"), 1, 'and a third one sends');
	is($psql->query_safe($append->('a', $entities)), 2 * $entities, 'the first goes on');
	$psql->query_safe('COMMIT');
	$psql->quit;
	is(query("SELECT count(*), count(DISTINCT (entity_id, version)), count(DISTINCT position) FROM cqrs.read_events(0, 10000, entity_types => '{Many}')"),
		join('|', (2 * $entities + 1001) x 3), 'and all is there');
	return;
}

# All of them send to the same few entities.
sub many_connections
{
	my $script = PostgreSQL::Test::Utils::tempdir() . '/send.sql';

	append_to_file($script, "\\set n random(1, 10)\nSELECT cqrs.send('Long', 'c' || :n, 'Change');\n");
	$node->command_ok([ 'pgbench', '-n', '-c', 100, '-j', 2, '-t', 10, '-f', $script, '-h', $node->host, '-p', $node->port, 'postgres' ], '100 connections');
	is(query("SELECT sum(events), sum(last) FROM (SELECT count(*) AS events, max(version) AS last FROM cqrs.journal"
			  . " WHERE entity_type = 'Long' AND entity_id LIKE 'c%' GROUP BY entity_id) e"), '1000|1000', 'send each command once, without holes');
	return;
}
