# What workers do that others act on waits for a standby as a session's commit does: the command of a timer, what a projection
# has appended, the claim of a delivery. Else a failover takes back what was seen, or delivers it again under another key.
# So do consumers, for what was committed asynchronously, and for what was rolled back, whose positions would be given again.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/..";
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Stub;
use Test::More;

my $stub = Stub->new;
my $node = PostgreSQL::Test::Cluster->new('synchronous');
$node->init(allows_streaming => 1);
$node->append_conf('postgresql.conf', "cqrs.command_timeout = '1 s'\nmax_prepared_transactions = 2");
$node->start;
query(<<"SQL");
CREATE EXTENSION pg_cqrs;
CREATE SERVER a FOREIGN DATA WRAPPER cqrs_http OPTIONS (url '${\$stub->url}', allow_http 'true');
CREATE FUNCTION note(state jsonb, command cqrs.command) RETURNS cqrs.effect LANGUAGE sql AS
	\$\$ SELECT cqrs.persist('Noted', command.data) \$\$;
CREATE FUNCTION note(event cqrs.event) RETURNS void LANGUAGE sql AS \$\$ SELECT cqrs.send('Note', 'projected', 'Note') \$\$;
SELECT cqrs.create_entity('Note'), cqrs.on_event('Note', '*', 'cqrs.merge'), cqrs.on_command('Note', '*', 'note');
SELECT cqrs.create_projection('notes', 'note', entity_types => '{Start}');
SELECT cqrs.schedule('2100-01-01', 'Note', 'never', 'Note');	-- its worker is there, and need not be started by one that waits
SQL

# Commits wait for a standby that there is not; our own do not.
query("ALTER SYSTEM SET synchronous_standby_names = 'nobody'");
$node->reload;
my $writes = waiting('CREATE TABLE written ()', 1);
query("SET synchronous_commit = local; SELECT cqrs.append('Thing', '1', ARRAY[cqrs.new_event('Made', '1')])");
my $reads = waiting('SELECT position FROM cqrs.read_events()', 2);
query("BEGIN; SELECT cqrs.append('Thing', '1', array_agg(cqrs.new_event('Made', '1'))) FROM generate_series(1, 40); ROLLBACK");
my $keeps = waiting("SELECT cqrs.wait_for_event(1, '60 s')", 3);
is(query('SELECT cqrs.high_water_mark()'), 41, 'who asks how far this server is does not wait');
is(query('SET synchronous_commit = local; SELECT position FROM cqrs.read_events()'), 1, 'nor who does not want to');

# Who is tired of waiting gets nothing that is not safe.
foreach my $sql ('SELECT position FROM cqrs.read_events()', "SELECT cqrs.wait_for_event(0, '60 s')")
{
	my ($code, $out, $error) = $node->psql('postgres', "SET statement_timeout = '1 s'; $sql");
	is($out, '', "no result: $sql");
	like($error, qr/ERROR:  canceling the wait for a synchronous standby/, 'but an error');
}

# The workers, also for longer than a command may take. The timer's is the last, since its position holds the mark back.
my %work = (
	outbox => "cqrs.enqueue('a', 'POST', '/status/200', reply_entity_type => 'Note', reply_entity_id => 'delivered', reply_command => 'Note')",
	timer => "cqrs.schedule(now(), 'Note', 'scheduled', 'Note')",
	projection => "cqrs.append('Start', '1', ARRAY[cqrs.new_event('Started', '1')])");
foreach my $kind ('outbox', 'projection', 'timer')
{
	query("SET synchronous_commit = local; SELECT $work{$kind}");
	ok($node->poll_query_until('postgres',
			"SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'pg_cqrs $kind worker' AND wait_event = 'SyncRep'"),
		"the $kind worker waits for the standby");
}
my $by_then = query("SELECT now() + '2 s'");
$node->poll_query_until('postgres', "SELECT now() > '$by_then'");
is(query("SELECT count(*) FROM cqrs.journal WHERE entity_type = 'Note'"), 0, 'nobody sees what they have written');
is(scalar($stub->requests), 0, 'nothing has been delivered');

query('ALTER SYSTEM RESET synchronous_standby_names');
$node->reload;
ok($node->poll_query_until('postgres', "SELECT count(*) = 3 FROM cqrs.journal WHERE entity_type = 'Note'"), 'afterwards everything is there');
is(scalar($stub->requests), 1, 'and delivered once');

like($reads->query_until(qr/\d\n/, "\n"), qr/^1$/m, 'a consumer has its event');
like($keeps->query_until(qr/\d\n/, "\n"), qr/^41$/m, 'and another its mark');

$_->quit foreach ($writes, $reads, $keeps);
$node->stop;
$stub->stop;
done_testing();

# Starts a statement in a session of its own, which is then the nth to wait.
sub waiting
{
	my ($sql, $n) = @_;
	my $session = $node->background_psql('postgres');
	$session->query_until(qr//, "$sql;\n");
	ok($node->poll_query_until('postgres',
			"SELECT count(*) = $n FROM pg_stat_activity WHERE backend_type = 'client backend' AND wait_event = 'SyncRep'"),
		"waits for the standby: $sql");
	return $session;
}

sub query
{
	my ($sql) = @_;
	return $node->safe_psql('postgres', $sql);
}
