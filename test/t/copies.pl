# Of a database that is in use, with workers that look for work all the time, copies are made in every way that PostgreSQL knows. Until
# cqrs.adopt() a copy projects, delivers and fires nothing. Then it does what the original had not done yet, each thing once; versions and
# positions go on behind the last event that came along. If CQRS_INSTALLATIONS names folders of several releases of PostgreSQL, the way is
# pg_upgrade, from each to the next.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/..";
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Stub;
use Test::More;

my @installations = split / /, $ENV{CQRS_INSTALLATIONS} // '';
my $stub = Stub->new;
my $dump = PostgreSQL::Test::Utils::tempdir();
my $node = cluster('original', $installations[0], @installations ? () : (allows_streaming => 'logical'));
$node->start;

my $definitions = <<"SQL";
CREATE SCHEMA app;
CREATE TABLE app.seen (projection text, entity_id text, version bigint, PRIMARY KEY (projection, entity_id, version));
-- An event that is projected twice violates the key, and stops the projection.
CREATE FUNCTION app.note(projection text, event cqrs.event) RETURNS void LANGUAGE sql AS
	\$\$ INSERT INTO app.seen VALUES (projection, event.entity_id, event.version) \$\$;
CREATE FUNCTION app.note_async(event cqrs.event) RETURNS void LANGUAGE sql AS \$\$ SELECT app.note('async', event) \$\$;
CREATE FUNCTION app.note_sync(event cqrs.event) RETURNS void LANGUAGE sql AS \$\$ SELECT app.note('sync', event) \$\$;
CREATE FUNCTION app.note_late(event cqrs.event) RETURNS void LANGUAGE sql AS \$\$ SELECT app.note('late', event) \$\$;
CREATE FUNCTION app.change(state jsonb, command cqrs.command) RETURNS cqrs.effect LANGUAGE sql AS
	\$\$ SELECT cqrs.persist(command.command_type, command.data, state) \$\$;
SQL
my $neighbour = "CREATE SERVER neighbour FOREIGN DATA WRAPPER cqrs_http OPTIONS (url '${\$stub->url}', allow_http 'true', breaker 'forced_open')";
my $registrations = <<"SQL";
SELECT cqrs.create_entity('Order', snapshot_every => 3), cqrs.on_command('Order', '*', 'app.change'), cqrs.on_event('Order', '*', 'cqrs.merge');
SELECT cqrs.create_projection('async', 'app.note_async', partitions => 2, on_failure => 'stop');
SELECT cqrs.create_projection('late', 'app.note_late', on_failure => 'stop');
SQL
query($node, 'postgres', 'CREATE DATABASE original');
query($node, 'original', "CREATE EXTENSION pg_cqrs; $definitions $registrations"
	  . "SELECT cqrs.create_projection('sync', 'app.note_sync', mode => 'sync'); $neighbour");
send_commands($node, 'original', 4);
query($node, 'original', "SELECT cqrs.wait_for_projection(p, timeout => '60 s') FROM unnest('{async,late}'::text[]) p");
leave_undone($node);

my %contents = (
	events => 'SELECT count(*), md5(string_agg(j::text, chr(10) ORDER BY position)) FROM cqrs.journal j',
	seen => 'SELECT projection, count(*) FROM app.seen GROUP BY 1 ORDER BY 1',
	offsets => 'SELECT projection, slice, position, parked, skipped FROM cqrs.projection_offset ORDER BY 1, 2',
	outbox => 'SELECT id, path, attempt FROM cqrs.outbox ORDER BY 1',
	timers => 'SELECT id, due_at, attempts FROM cqrs.timer ORDER BY 1',
	states => q{SELECT n, cqrs.state('Order', n::text) FROM generate_series(1, 5) n});
my %expected = map { $_ => query($node, 'original', $contents{$_}) } keys %contents;

if (@installations)
{
	upgrade($_) foreach 1 .. $#installations;
}
else
{
	dumps();
	base_backup();
	subscription();
	is(query($node, 'original', $contents{$_}), $expected{$_}, "the $_ of the original are as they were") for qw(outbox timers);
	is(query($node, 'original', 'SELECT cqrs.is_held()'), 'f', 'which is not held');
}
$node->stop;
$stub->stop;
done_testing();

sub cluster
{
	my ($name, $installation, %options) = @_;
	# The settings say where the extension is, unless it is where the release is.
	local $ENV{TEMP_CONFIG} = $installation ? "$FindBin::Bin/../postgresql.conf" : $ENV{TEMP_CONFIG};
	my $server = PostgreSQL::Test::Cluster->new($name, install_path => $installation);

	$server->init(%options);
	$server->append_conf('postgresql.conf', "cqrs.outbox_retry_delay = '20 ms'");
	return $server;
}

sub query
{
	my ($server, $database, $sql) = @_;
	return $server->safe_psql($database, $sql);
}

sub send_commands
{
	my ($server, $database, $each) = @_;

	query($server, $database, "SELECT cqrs.send('Order', (n % 5 + 1)::text, 'Changed', jsonb_build_object('n', n)) FROM generate_series(1, 5 * $each) n");
	return;
}

# What a copy has to do: a projection is behind, deliveries are not made, a timer is not due.
sub leave_undone
{
	my ($server) = @_;

	query($server, 'original', "SELECT cqrs.pause_projection('late'); ALTER SERVER neighbour OPTIONS (SET breaker 'forced_open')");
	send_commands($server, 'original', 3);
	query($server, 'original', "SELECT cqrs.enqueue('neighbour', 'POST', '/copy?' || n) FROM generate_series(1, 3) n");
	query($server, 'original', "SELECT cqrs.schedule(now() + '1 day', 'Order', 'timed', 'Remind')");
	query($server, 'original', "SELECT cqrs.wait_for_projection('async', timeout => '60 s')");
	return;
}

sub becomes
{
	my ($server, $database, $condition, $what) = @_;

	return pass($what) if $server->poll_query_until($database, "SELECT $condition");
	diag(query($server, $database, 'SELECT name, state, last_error FROM cqrs.projection_status'));
	die "not so: $what";
}

sub dumps
{
	my @restore = ('--exit-on-error', '-d');
	my $original = $node->connstr('original');

	run_ok('pg_dump', '-d', $original, '-f', "$dump/plain");
	run_ok('pg_dump', '-Fc', '-d', $original, '-f', "$dump/custom");
	run_ok('pg_dump', '-Fd', '-j3', '-d', $original, '-f', "$dump/directory");
	run_ok('pg_dump', '-Fc', '-n', 'app', '-n', 'cqrs', '-e', 'pg_cqrs', '-d', $original, '-f', "$dump/schemas");

	restored('plain', ['psql', '-Xq', '-v', 'ON_ERROR_STOP=1', '-o', '/dev/null', '-f', "$dump/plain", '-d']);
	restored('custom', ['pg_restore', "$dump/custom", @restore]);
	restored('jobs', ['pg_restore', '-j3', "$dump/directory", @restore]);
	restored('data', ['pg_restore', '--schema-only', "$dump/custom", @restore],
		['pg_restore', '--data-only', '--disable-triggers', "$dump/custom", @restore]);
	restored('schemas', ['pg_restore', "$dump/schemas", @restore]);
	return;
}

sub run_ok
{
	my (@command) = @_;

	$node->command_ok(\@command, "@command[0 .. $#command - 1]");
	return;
}

sub restored
{
	my ($copy, @commands) = @_;

	query($node, 'postgres', "CREATE DATABASE $copy TEMPLATE template0");
	run_ok(@$_, $node->connstr($copy)) foreach @commands;
	# A server is in no schema.
	query($node, $copy, $neighbour) if $copy eq 'schemas';
	holds_still($node, $copy, $copy);
	goes_on($node, $copy, $copy);
	query($node, 'postgres', "DROP DATABASE $copy");
	return;
}

# The same system, so it is held by nothing but the setting that says so.
sub base_backup
{
	my $clone = PostgreSQL::Test::Cluster->new('clone');

	$node->backup('base');
	$clone->init_from_backup($node, 'base');
	$clone->append_conf('postgresql.conf', 'cqrs.workers = off');
	$clone->start;
	has_come($clone, 'original', 'a base backup');
	is(query($clone, 'original', 'SELECT cqrs.is_held()'), 'f', 'a base backup is the same database');
	make_due($clone, 'original');
	no_worker($clone, 'original', 'and without cqrs.workers');
	$clone->append_conf('postgresql.conf', 'cqrs.workers = on');
	goes_on($clone, 'original', 'a base backup');
	$clone->stop;
	return;
}

# Another server, which has the same schema, gets the events while they are written, in the order of commits.
sub subscription
{
	my $schema = "$dump/schema.sql";
	my $other = cluster('other');

	$other->start;
	query($node, 'original', 'CREATE PUBLICATION events FOR TABLE cqrs.journal');
	run_ok('pg_dump', '--schema-only', '--no-publications', '-f', $schema, '-d', $node->connstr('original'));
	query($other, 'postgres', 'CREATE DATABASE copy TEMPLATE template0');
	$other->command_ok([ 'psql', '-Xq', '-v', 'ON_ERROR_STOP=1', '-o', '/dev/null', '-f', $schema, '-d', $other->connstr('copy') ], 'a schema is restored');
	query($other, 'copy', "DROP TRIGGER projection_sync ON cqrs.journal; $registrations");
	query($other, 'copy', "CREATE SUBSCRIPTION copy CONNECTION \$\$" . $node->connstr('original') . '$$ PUBLICATION events');
	# The first copy waits for all transactions that write.
	becomes($other, 'copy', "bool_and(srsubstate = 'r') FROM pg_subscription_rel", 'what there is has been copied');
	# A transaction whose positions are below those of one that commits before it.
	my $late = $node->background_psql('original', on_error_stop => 1);
	$late->query_safe("BEGIN; SELECT cqrs.send('Order', 'late', 'Changed', '{}')");
	send_commands($node, 'original', 2);
	becomes($other, 'copy', 'count(*) = 45 FROM cqrs.journal', 'a subscription brings the events');
	is(query($other, 'copy', "SELECT cqrs.state('Order', '1')"), query($node, 'original', "SELECT cqrs.state('Order', '1')"), 'which make the same states');
	deleted_on_both($other);
	$other->restart;
	is(query($other, 'copy', 'SELECT cqrs.is_held()'), 't', 'the subscriber is held');
	no_worker($other, 'copy', 'so that it skips nothing');
	$late->query_safe('COMMIT');
	$late->quit;
	becomes($other, 'copy', "count(*) = 1 FROM cqrs.history('Order', 'late')", 'what commits later comes later');

	# The change of servers.
	query($other, 'copy', 'DROP SUBSCRIPTION copy');
	goes_on($other, 'copy', 'a subscription');
	subscription_of_own_journal($other);
	$other->stop;
	return;
}

# What is deleted on the publisher is deleted on the subscriber, and neither a session nor a snapshot there knows better.
sub deleted_on_both
{
	my ($other) = @_;
	my $look = join ' UNION ALL ',
		map { ("SELECT '$_' || cqrs.state('Order', '$_')::text", "SELECT concat_ws(' ', '$_', version, position, event_type, data) FROM cqrs.history('Order', '$_')") } 3 .. 5;
	my $session = $other->background_psql('copy', on_error_stop => 1);

	# States are kept in a session and in snapshots.
	is(query($other, 'copy', "SELECT count(cqrs.take_snapshot('Order', n::text)) FROM generate_series(3, 5) n"), 3, 'a subscriber takes snapshots of its own');
	is($session->query_safe("SET client_min_messages = error; $look"), query($node, 'original', $look), 'all is the same before');
	query($node, 'original', "SELECT cqrs.alter_entity('Order', after_forget => 'follow')");
	query($node, 'original', "SELECT cqrs.delete_events('Order', '3', 9), cqrs.delete_events('Order', '4', 4), cqrs.forget('Order', '5')");
	$node->wait_for_catchup('copy');
	my $now = query($node, 'original', $look);
	like($now, qr/^3 8 \d+ .snapshot/m, 'events are deleted');
	is($session->query_safe($look), $now, 'and are on the subscriber, in a session that knew the states');
	is(query($other, 'copy', $look), $now, 'as in one that did not');
	for my $state ("'5'", "'4', 3", "'4', 2", "'3', 8", "'3', 5")
	{
		my @errors = map { ($_->[0]->psql($_->[1], "SELECT cqrs.state('Order', $state)"))[2] =~ s/^psql:.*?: //r } [ $node, 'original' ], [ $other, 'copy' ];
		is($errors[1], $errors[0], "the same for the state of $state");
	}
	query($node, 'original', "SELECT cqrs.send('Order', n::text, 'Changed', jsonb_build_object('n', n)) FROM generate_series(3, 5) n");
	$node->wait_for_catchup('copy');
	$now = query($node, 'original', $look);
	is($session->query_safe($look), $now, 'what follows comes there as well');
	is(query($other, 'copy', $look), $now, 'to all sessions');
	$session->quit;

	# What the subscriber has kept itself.
	query($node, 'original', "SELECT cqrs.forget('Order', '5')");
	$node->wait_for_catchup('copy');
	my $events = query($other, 'copy', $contents{events});
	is(query($other, 'copy', "SELECT count(*) FROM cqrs.snapshot WHERE entity_id = '5'"), 1, 'a snapshot that a subscriber has taken stays');
	query($other, 'copy', "SELECT cqrs.forget('Order', '5')");
	is(query($other, 'copy', "SELECT count(*) FROM cqrs.snapshot WHERE entity_id = '5'"), 0, 'until the subscriber forgets as well');
	is(query($other, 'copy', $contents{events}), $events, 'for which it adds no event');
	return;
}

# A journal that was made where it is now, and gets another one's events.
sub subscription_of_own_journal
{
	my ($other) = @_;

	query($other, 'postgres', 'CREATE DATABASE own TEMPLATE template0');
	query($other, 'own', "CREATE EXTENSION pg_cqrs; SELECT cqrs.create_journal(); $definitions $registrations $neighbour");
	my $session = $other->background_psql('own', on_error_stop => 1);
	is($session->query_safe('SELECT cqrs.is_held()'), 'f', 'a journal that was made here is not held');
	query($other, 'own', "CREATE SUBSCRIPTION own CONNECTION \$\$" . $node->connstr('original') . '$$ PUBLICATION events');
	becomes($other, 'own', "bool_and(srsubstate = 'r') FROM pg_subscription_rel", 'it gets what there is');
	is($session->query_safe('SELECT cqrs.is_held()'), 't', 'it is while it subscribes');
	$session->quit;
	send_commands($node, 'original', 1);
	$node->wait_for_catchup('own');
	is(query($other, 'own', $contents{events}), query($node, 'original', $contents{events}), 'the events come');
	$other->restart;
	no_worker($other, 'own', 'after a restart');
	for my $statement ('SELECT * FROM cqrs.read_events()', 'SELECT cqrs.adopt()')
	{
		my (undef, undef, $error) = $other->psql('own', "\\set VERBOSITY verbose\n$statement;");
		like($error, qr/ERROR:  55000: .*HINT: /s, "$statement is refused");
	}
	query($other, 'own', 'DROP SUBSCRIPTION own');
	is(query($other, 'own', 'SELECT has_first_events FROM cqrs.identity'), 'f', 'nobody says that each entity has its first event');
	goes_on($other, 'own', 'a journal of its own');
	return;
}

# To the next release, and from there on.
sub upgrade
{
	my ($n) = @_;
	my ($old, $new) = @installations[ $n - 1, $n ];
	my $how = 'pg_upgrade to ' . ($new =~ s{.*/}{}r);
	my $next = cluster("release_$n", $new, extra => [ $new =~ /1[5-7]$/ ? () : '--no-data-checksums' ]);

	take_versions_away() if !has_versions($next);
	$node->stop;
	chdir($dump) or die "cannot change to $dump: $!";
	$next->command_ok([ "$new/bin/pg_upgrade", '-b', "$old/bin", '-B', "$new/bin", '-d', $node->data_dir, '-D', $next->data_dir,
		'-s', $next->host, '-p', $node->port, '-P', $next->port ], $how);
	# Where it succeeds it removes these.
	my @logs = map { substr(slurp_file($_), -2000) } glob($next->data_dir . '/pg_upgrade_output.d/*/log/*.log');
	die join("\n", "$how has failed", @logs) if @logs;
	$next->start;
	holds_still($next, 'original', $how);
	goes_on($next, 'original', $how);
	$node = $next;
	leave_undone($node);
	%expected = map { $_ => query($node, 'original', $contents{$_}) } keys %contents;
	return;
}

# PostgreSQL 15.20 and 17.12 keep versions of columns among their options. 18.6 does not, and its pg_upgrade fails on any table that
# has some.
sub has_versions
{
	my ($server) = @_;

	$server->start;
	my $has = query($server, 'postgres', "SELECT EXISTS (SELECT FROM pg_attribute WHERE attoptions::text LIKE '%pg_attver%')");
	$server->stop;
	return $has eq 't';
}

sub take_versions_away
{
	query($node, 'original', "SET allow_system_table_mods = on; UPDATE pg_attribute SET attoptions = NULL WHERE attoptions::text LIKE '{pg_attver=%}'");
	return;
}

sub has_come
{
	my ($server, $database, $how) = @_;

	is(query($server, $database, $contents{$_}), $expected{$_}, "$how: the $_ have come") for sort keys %contents;
	return;
}

sub make_due
{
	my ($server, $database) = @_;

	query($server, $database, "ALTER SERVER neighbour OPTIONS (SET breaker 'off'); SELECT cqrs.resume_projection('late');"
		  . 'UPDATE cqrs.timer SET due_at = now(); SELECT cqrs.retry_scheduled(id) FROM cqrs.timer');
	return;
}

# The launcher looks at all databases in turn: when it has seen another one, it has seen this one.
sub no_worker
{
	my ($server, $database, $how) = @_;
	my $probe = "probe_$database";

	query($server, 'postgres', "CREATE DATABASE $probe");
	query($server, $probe, "CREATE EXTENSION pg_cqrs; CREATE SCHEMA app; CREATE FUNCTION app.nothing(event cqrs.event) RETURNS void LANGUAGE sql AS '';"
		  . "SELECT cqrs.create_projection('probe', 'app.nothing'); SELECT cqrs.append('Probe', 'p', ARRAY[cqrs.new_event('Probed', '{}')])");
	query($server, $probe, "SELECT cqrs.wait_for_projection('probe', timeout => '60 s')") if $how !~ /without/;
	is(query($server, 'postgres', "SELECT count(*) FROM pg_stat_activity WHERE backend_type ~ '^pg_cqrs.*worker' AND datname = '$database'"),
		'0', "$how no worker runs");
	query($server, 'postgres', "DROP DATABASE $probe");
	return;
}

sub holds_still
{
	my ($server, $database, $how) = @_;

	has_come($server, $database, $how);
	is(query($server, $database, 'SELECT cqrs.is_held()'), 't', "$how: it is held");
	make_due($server, $database);
	no_worker($server, $database, "$how:");
	is(query($server, $database, $contents{$_}), $expected{$_}, "$how: the $_ are as they were") for qw(events seen offsets outbox);
	return;
}

# It is adopted, and everything that the original has left is done once.
sub goes_on
{
	my ($server, $database, $how) = @_;
	my $last = query($server, $database, 'SELECT max(position) FROM cqrs.journal');
	my $timers = query($server, $database, 'SELECT count(*) FROM cqrs.timer');
	my $deliveries = query($server, $database, "SELECT count(*) FROM cqrs.outbox WHERE state <> 'delivered'");
	my $next = query($server, $database, "SELECT max(version) + 1, cqrs.state('Order', '2') FROM cqrs.history('Order', '2')");

	is(query($server, $database, 'SELECT cqrs.adopt()'), $last, "$how: it is adopted");
	is(query($server, $database, "SELECT tgenabled FROM pg_trigger WHERE tgrelid = 'cqrs.journal'::regclass AND tgname = 'guard_journal'"),
		'A', "$how: the guard of the journal always fires");
	is( query($server, $database, 'SELECT has_first_events FROM cqrs.identity'),
		query($server, $database, 'SELECT NOT EXISTS (SELECT FROM cqrs.journal GROUP BY entity_type, entity_id HAVING min(version) > 1)'),
		"$how: whether each entity has its first event is known");
	$server->reload;
	is(query($server, $database, "SELECT version, reply FROM cqrs.send('Order', '2', 'Changed', '{\"n\": 99}')"), $next, "$how: the version goes on");
	becomes($server, $database, "count(*) = $timers FROM cqrs.journal WHERE entity_id = 'timed' AND position > $last", "$how: timers fire");
	is(query($server, $database, "SELECT count(*), bool_and(entity_id IN ('2', 'timed')), min(position) = $last + 1 FROM cqrs.journal WHERE position > $last"),
		1 + $timers . '|t|t', "$how: once, and positions go on");
	becomes($server, $database, "NOT EXISTS (SELECT FROM cqrs.outbox WHERE state <> 'delivered')", "$how: deliveries are made");
	is(scalar($stub->requests), $deliveries, "$how: once");
	query($server, $database, "SELECT cqrs.wait_for_projection(name, timeout => '60 s') FROM cqrs.projection WHERE mode = 'async'");
	for my $projection (split /\n/, query($server, $database, 'SELECT name FROM cqrs.projection'))
	{
		is( query($server, $database, "SELECT entity_id, version FROM app.seen WHERE projection = '$projection' ORDER BY 1, 2"),
			query($server, $database, 'SELECT entity_id, version FROM cqrs.journal ORDER BY 1, 2'), "$how: $projection has each event once");
	}
	return;
}
