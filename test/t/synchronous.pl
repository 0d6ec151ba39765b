# What workers do that others act on waits for a standby as a session's commit does: the command of a timer, what a projection
# has appended, the claim of a delivery. Else a failover takes back what was seen, or delivers it again under another key.
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
$node->start;
query(<<"SQL");
CREATE EXTENSION pg_cqrs;
CREATE SERVER a FOREIGN DATA WRAPPER cqrs_http OPTIONS (url '${\$stub->url}', allow_http 'true');
CREATE FUNCTION note(state jsonb, command cqrs.command) RETURNS cqrs.effect LANGUAGE sql AS
	\$\$ SELECT cqrs.persist('Noted', command.data) \$\$;
CREATE FUNCTION note(event cqrs.event) RETURNS void LANGUAGE sql AS \$\$ SELECT cqrs.send('Note', 'projected', 'Note') \$\$;
SELECT cqrs.create_entity('Note'), cqrs.on_event('Note', '*', 'cqrs.merge'), cqrs.on_command('Note', '*', 'note');
SELECT cqrs.create_projection('notes', 'note', entity_types => '{Start}');
SQL

# Commits wait for a standby that there is not; our own do not.
query("ALTER SYSTEM SET synchronous_standby_names = 'nobody'");
$node->reload;
my $waits = $node->background_psql('postgres');
$waits->query_until(qr//, "CREATE TABLE waits ();\n");
ok($node->poll_query_until('postgres', "SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'client backend' AND wait_event = 'SyncRep'"),
	'a session waits for the standby');
query(<<'SQL');
SET synchronous_commit = local;
SELECT cqrs.schedule(now(), 'Note', 'scheduled', 'Note');
SELECT cqrs.append('Start', '1', ARRAY[cqrs.new_event('Started', '1')]);
SELECT cqrs.enqueue('a', 'POST', '/status/200', reply_entity_type => 'Note', reply_entity_id => 'delivered', reply_command => 'Note');
SQL
foreach my $kind ('timer', 'projection', 'outbox')
{
	ok($node->poll_query_until('postgres',
			"SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'pg_cqrs $kind worker' AND wait_event = 'SyncRep'"),
		"the $kind worker waits for the standby");
}
is(query("SELECT count(*) FROM cqrs.journal WHERE entity_type = 'Note'"), 0, 'nobody sees what they have written');
is(scalar($stub->requests), 0, 'nothing has been delivered');

query('ALTER SYSTEM RESET synchronous_standby_names');
$node->reload;
ok($node->poll_query_until('postgres', "SELECT count(*) = 3 FROM cqrs.journal WHERE entity_type = 'Note'"), 'afterwards everything is there');
is(scalar($stub->requests), 1, 'and delivered once');

$waits->quit;
$node->stop;
$stub->stop;
done_testing();

sub query
{
	my ($sql) = @_;
	return $node->safe_psql('postgres', $sql);
}
