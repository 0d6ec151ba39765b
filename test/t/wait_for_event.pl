# Who waits for events is woken by the commit that brings one, not by a timer;
# waits on while only earlier transactions end; and can be cancelled.
use strict;
use warnings;
use IPC::Run qw(start);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $rounds = 9;
my $node = PostgreSQL::Test::Cluster->new('wait');
$node->init;
$node->start;
$node->safe_psql('postgres', <<'SQL');
CREATE EXTENSION pg_cqrs;
CREATE TABLE woken (n int, mark bigint, at timestamptz);
CREATE PROCEDURE wait_often(rounds int) LANGUAGE plpgsql AS $$
DECLARE
	mark bigint := cqrs.last_position();
BEGIN
	FOR n IN 1 .. rounds LOOP
		mark := cqrs.wait_for_event(mark, '3 min');
		INSERT INTO woken VALUES (n, mark, clock_timestamp());
		COMMIT;
	END LOOP;
END
$$;
SQL
append();

my $error = '';
my $waiter = wait_often($rounds);
for my $round (1 .. $rounds)
{
	wait_until_waiting($round);
	append();
}
ok($waiter->finish, 'every wait ends');

# A timer would take most of a second. Half of them may be late on a machine that is busy.
is( $node->safe_psql('postgres', 'SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY w.at - j.created_at)'
		  . " < interval '500 ms' FROM woken AS w JOIN cqrs.journal AS j ON j.position = w.mark"),
	't', 'a commit wakes who waits for it');
is($node->safe_psql('postgres', 'SELECT count(DISTINCT mark) FROM woken'), $rounds, 'each wait ended with another event');

# What comes after a position that is still open does not end the wait.
$node->safe_psql('postgres', 'TRUNCATE woken');
append("PREPARE TRANSACTION 'first'");
$waiter = wait_often(1);
wait_until_waiting(1);
append();
append();
is($node->safe_psql('postgres', 'SELECT count(*) FROM woken'), '0', 'later events do not end it');
$node->safe_psql('postgres', "ROLLBACK PREPARED 'first'");
ok($waiter->finish, 'the end of the prepared transaction does');
is($node->safe_psql('postgres', 'SELECT mark = cqrs.last_position() FROM woken'), 't', 'and the mark is at the end');

# A cancel ends it at once.
$node->safe_psql('postgres', 'TRUNCATE woken');
$error = '';
$waiter = wait_often(1);
wait_until_waiting(1);
$node->safe_psql('postgres', "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE application_name = 'waiter'");
ok(!$waiter->finish, 'a wait can be cancelled');
like($error, qr/canceling statement due to user request/, 'as any statement');

$node->stop;
done_testing();

sub wait_often
{
	my ($times) = @_;

	return start(
		[ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-d', $node->connstr('postgres') . ' application_name=waiter',
			'-c', "CALL wait_often($times)" ],
		'2>', \$error, IPC::Run::timeout($PostgreSQL::Test::Utils::timeout_default));
}

sub wait_until_waiting
{
	my ($round) = @_;

	$node->poll_query_until('postgres', "SELECT wait_event_type = 'Extension' AND (SELECT count(*) FROM woken) = $round - 1"
		  . " FROM pg_stat_activity WHERE application_name = 'waiter'") or die 'nobody waits';
	return;
}

sub append
{
	my ($then) = @_;

	$node->safe_psql('postgres', "BEGIN; SELECT cqrs.append('Account', gen_random_uuid()::text,"
		  . " ARRAY[cqrs.new_event('Changed', '1')]); " . ($then // 'COMMIT'));
	return;
}
