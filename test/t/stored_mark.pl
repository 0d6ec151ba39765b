# With cqrs.store_mark the journal can be read in order on a standby: never past
# what the primary vouches for, nothing missed, and all of it in the end, also by who
# comes from the primary and is ahead. No projection is needed for it or holds it up, and a
# promoted standby goes by its own mark.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $primary = PostgreSQL::Test::Cluster->new('primary');
$primary->init(allows_streaming => 1);
$primary->append_conf('postgresql.conf', 'cqrs.store_mark = on');
$primary->start;
$primary->safe_psql('postgres', 'CREATE EXTENSION pg_cqrs');
$primary->backup('base');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($primary, 'base', has_streaming => 1);
$standby->start;

my (undef, undef, $error) = $standby->psql('postgres', "\\set VERBOSITY verbose\nSELECT cqrs.high_water_mark()");
like($error, qr/0A000: .*HINT: .*cqrs.store_mark/s, 'before anything is stored the standby says what to do');

append('a', 3);
ok($standby->poll_query_until('postgres', 'SELECT count(*) = 3 FROM cqrs.read_events()'), 'events can be read on the standby');
is($standby->safe_psql('postgres', "SELECT cqrs.wait_for_event(0, '10 s')"), '3', 'and waited for');
(undef, undef, $error) = $standby->psql('postgres', "\\set VERBOSITY verbose\nSELECT * FROM cqrs.read_events(-1)");
like($error, qr/22023: no position -1/, 'an offset that cannot be is an error');

# Who comes from the primary may be ahead: there is nothing for him yet, and nothing twice.
$standby->safe_psql('postgres', 'SELECT pg_wal_replay_pause()');
$standby->poll_query_until('postgres', "SELECT pg_get_wal_replay_pause_state() = 'paused'") or die 'not paused';
append('ahead', 2);
my $ahead = $primary->safe_psql('postgres', 'SELECT max(position) FROM cqrs.read_events()');
is($standby->safe_psql('postgres', "SELECT count(*) FROM cqrs.read_events($ahead)"), '0', 'an offset from the primary is taken before its event is here');
(undef, undef, $error) = $standby->psql('postgres', "\\set VERBOSITY verbose\nSELECT cqrs.wait_for_event($ahead, '0')");
like($error, qr/QR020: .*HINT: .*standby is behind/s, 'a wait says that the standby is behind');
append('next', 1);
$standby->safe_psql('postgres', 'SELECT pg_wal_replay_resume()');
is($standby->safe_psql('postgres', "SELECT cqrs.wait_for_event($ahead, '60 s') > $ahead"), 't', 'what comes after it is waited for');
is($standby->safe_psql('postgres', "SELECT string_agg(entity_id, ' ') FROM cqrs.read_events($ahead)"), 'next', 'and read, and nothing else');

# What is open holds the standby's mark back as it does the primary's.
$primary->safe_psql('postgres', "BEGIN; SELECT cqrs.append('Thing', 'late', ARRAY[cqrs.new_event('A', '1')]); PREPARE TRANSACTION 'late'");
append('b', 2);
$primary->wait_for_catchup($standby);
is($standby->safe_psql('postgres', "SELECT count(*) FROM cqrs.journal WHERE entity_id = 'b'"), '2', 'later events are there');
is($standby->safe_psql('postgres', 'SELECT max(position) FROM cqrs.read_events()'), '6', 'but not read before the one that may come');
$primary->safe_psql('postgres', "COMMIT PREPARED 'late'");
ok($standby->poll_query_until('postgres', 'SELECT count(*) = 9 FROM cqrs.read_events()'), 'then all are');
is( $standby->safe_psql('postgres', "SELECT string_agg(entity_id, '' ORDER BY position) FROM cqrs.read_events($ahead + 1)"),
	'latebb', 'in order');

# A rollback leaves a gap that the mark passes.
$primary->safe_psql('postgres', "BEGIN; SELECT cqrs.append('Thing', 'gone', ARRAY[cqrs.new_event('A', '1')]); ROLLBACK");
append('c', 1);
ok($standby->poll_query_until('postgres', 'SELECT max(position) = 11 FROM cqrs.read_events(9)'), 'gaps are passed');

# A projection that takes its time does not hold it up.
$primary->safe_psql('postgres', 'CREATE FUNCTION take_time(event cqrs.event) RETURNS void LANGUAGE sql AS $$ SELECT pg_advisory_xact_lock(1) $$;'
	  . "SELECT cqrs.create_projection('slow', 'take_time', start_position => NULL)");
my $slow = $primary->background_psql('postgres');
$slow->query_safe('SELECT pg_advisory_lock(1)');
append('slow', 1);
ok($primary->poll_query_until('postgres', 'SELECT count(*) = 1 FROM pg_locks WHERE NOT granted'), 'a handler takes its time');
append('beside', 1);
ok($standby->poll_query_until('postgres', "SELECT count(*) = 1 FROM cqrs.read_events(11) WHERE entity_id = 'beside'"), 'meanwhile the mark moves');
$slow->quit;

$primary->stop('immediate');
$standby->promote;
is($standby->safe_psql('postgres', 'SELECT cqrs.high_water_mark() >= 13'), 't', 'the mark of who is promoted does not go back');
is( $standby->safe_psql('postgres', "SELECT position > 13 FROM cqrs.append('Thing', 'd', ARRAY[cqrs.new_event('A', '1')])"),
	't', 'and goes on');
is($standby->safe_psql('postgres', 'SELECT count(*) FROM cqrs.read_events(13)'), '1', 'by its own');
ok($standby->poll_query_until('postgres', 'SELECT position > 13 FROM cqrs.stored_mark'), 'which it stores');

$standby->stop;
done_testing();

sub append
{
	my ($entity, $count) = @_;

	$primary->safe_psql('postgres',
		"SELECT cqrs.append('Thing', '$entity', ARRAY[cqrs.new_event('A', '1')]) FROM generate_series(1, $count)");
	return;
}
