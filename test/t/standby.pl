# On a standby entities can be looked at, but not the journal in order: which
# writers are under way is known to the primary alone, so that is refused and
# says why. After a promotion sends go on, nothing is lost or skipped, and a
# transaction that was prepared on the old primary still holds the mark back.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $primary = PostgreSQL::Test::Cluster->new('primary');
$primary->init(allows_streaming => 1);
$primary->start;
$primary->safe_psql('postgres', <<'SQL');
CREATE EXTENSION pg_cqrs;
CREATE FUNCTION change(state jsonb, command cqrs.command) RETURNS cqrs.effect LANGUAGE sql AS
	$$SELECT cqrs.persist('Changed', command.data, state)$$;
REVOKE EXECUTE ON FUNCTION change FROM PUBLIC;
SELECT cqrs.create_entity('Thing', snapshot_every => 3);
SELECT cqrs.on_command('Thing', 'Change', 'change');
SELECT cqrs.on_event('Thing', '*', 'cqrs.merge');
SELECT cqrs.send('Thing', 'a', 'Change', jsonb_build_object('n', n)) FROM generate_series(1, 8) AS n;
SQL
$primary->backup('base');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($primary, 'base', has_streaming => 1);
$standby->start;

send_to($primary, 'a', 9, 'first');
$primary->safe_psql('postgres', q{BEGIN; SELECT cqrs.send('Thing', 'b', 'Change', '{"n": 1}'); PREPARE TRANSACTION 'b'});
send_to($primary, 'c', 1, 'second');
my $mark = $primary->safe_psql('postgres', 'SELECT cqrs.high_water_mark()');
$primary->wait_for_catchup($standby);

# One entity at a time.
for my $query (
	q{SELECT cqrs.state('Thing', 'a')},
	q{SELECT cqrs.state('Thing', 'a', 4), cqrs.state('Thing', 'b'), cqrs.state('Thing', 'c')},
	q{SELECT version, position, data, metadata FROM cqrs.history('Thing', 'a')},
	q{SELECT count(*), max(position) FROM cqrs.journal})
{
	is($standby->safe_psql('postgres', $query), $primary->safe_psql('postgres', $query), "the same on the standby: $query");
}
send_to($primary, 'a', 10, 'third');
$primary->wait_for_catchup($standby);
is($standby->safe_psql('postgres', q{SELECT cqrs.state('Thing', 'a')}), '{"n": 10}', 'a state follows the primary');

# What is deleted on the primary is deleted on the standby, also to a session there that has kept the states.
my $look = join ' UNION ALL ',
	map { ("SELECT cqrs.state('Thing', '$_')::text", "SELECT concat_ws(' ', version, position, event_type, data) FROM cqrs.history('Thing', '$_')") } 'a', 'gone';
send_to($primary, 'gone', $_, 'deleted') for 1 .. 4;
$primary->wait_for_catchup($standby);
my $session = $standby->background_psql('postgres', on_error_stop => 1);
is($session->query_safe($look), $primary->safe_psql('postgres', $look), 'all is the same before');
$primary->safe_psql('postgres', "SELECT cqrs.delete_events('Thing', 'a', 8), cqrs.forget('Thing', 'gone')");
$primary->wait_for_catchup($standby);
my $deleted = $primary->safe_psql('postgres', $look);
like($deleted, qr/^7 .*snapshot.*\n.*^5 .*forgotten/sm, 'events are deleted');
is($session->query_safe($look), $deleted, 'and are on the standby, in a session that knew the states');
is($standby->safe_psql('postgres', $look), $deleted, 'as in one that did not');
$session->quit;

# Not in order.
for my $call ('high_water_mark()', 'read_events()', "wait_for_event(0, '1 s')")
{
	my (undef, undef, $error) = $standby->psql('postgres', "\\set VERBOSITY verbose\nSELECT cqrs.$call;");

	like($error, qr/ERROR:  0A000: .*standby.*HINT: /s, "cqrs.$call is refused and says what to do");
}
for my $write (q{cqrs.send('Thing', 'a', 'Change', '{}')}, q{cqrs.append('Thing', 'a', ARRAY[cqrs.new_event('Changed', '{}')])},
	q{cqrs.take_snapshot('Thing', 'a')}, 'cqrs.adopt()')
{
	my (undef, undef, $error) = $standby->psql('postgres', "\\set VERBOSITY verbose\nSELECT $write;");

	like($error, qr/ERROR:  (25006|0A000|55000): /, "$write is refused");
}

# Promotion: the primary is gone.
$primary->stop('immediate');
$standby->promote;
is($standby->safe_psql('postgres', 'SELECT cqrs.is_held()'), 'f', 'who is promoted is not held: it is the same system');
is($standby->safe_psql('postgres', 'SELECT high_water_mark, open_transactions FROM cqrs.journal_status'),
	"$mark|1", 'what was prepared holds the mark back');
is($standby->safe_psql('postgres', "SELECT count(*) FROM cqrs.read_events($mark)"), '0', 'and nothing behind it is read');
is(send_to($standby, 'a', 11, 'fourth'), '{"n": 10}', 'a command finds the state');
is($standby->safe_psql('postgres', "SELECT count(*) FROM cqrs.read_events($mark)"), '0', 'and is not read yet');
is($standby->safe_psql('postgres', q{SELECT version FROM cqrs.send('Thing', 'c', 'Change', '{"n": 1}',
	command_id => '00000000-0000-0000-0000-000000000001')}), '2', 'a command_id takes place');
is($standby->safe_psql('postgres', q{SELECT version FROM cqrs.send('Thing', 'c', 'Change', '{"n": 1}',
	command_id => '00000000-0000-0000-0000-000000000001')}), '2', 'once');
$standby->safe_psql('postgres', "COMMIT PREPARED 'b'");
is( $standby->safe_psql('postgres', "SELECT string_agg(entity_id || version, ' ' ORDER BY position) FROM cqrs.read_events($mark)"),
	'b1 c1 a10 a11 gone5 a12 c2', 'when it is committed everything comes in order');
is($standby->safe_psql('postgres', 'SELECT high_water_mark = last_position FROM cqrs.journal_status'), 't', 'and the mark is at the end');
is($standby->safe_psql('postgres', 'SELECT count(*), count(DISTINCT position) FROM cqrs.read_events()'), '10|10', 'positions go on');

$standby->stop;
done_testing();

# Sends a command with a number and returns the state it found.
sub send_to
{
	my ($node, $entity, $n, $note) = @_;

	return $node->safe_psql('postgres', "SELECT reply FROM cqrs.send('Thing', '$entity', 'Change',"
		  . " jsonb_build_object('n', $n), metadata => '{\"note\": \"$note\"}')");
}
