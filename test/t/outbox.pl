# What was enqueued is delivered at least once if its transaction was committed, always with the same key and in the order of its
# ordering key, whatever fails or is killed; the command that follows is sent exactly once; a service that hangs delays no other.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/..";
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Stub;
use Test::More;

my $stub = Stub->new;
my $node = PostgreSQL::Test::Cluster->new('outbox');
my $worker = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'pg_cqrs outbox worker'";
$node->init;
$node->append_conf('postgresql.conf', "restart_after_crash = on\ncqrs.outbox_retry_delay = '20 ms'\ncqrs.outbox_max_attempts = 1000");
$node->start;
$node->safe_psql('postgres', <<"SQL");
CREATE EXTENSION pg_cqrs;
CREATE SERVER a FOREIGN DATA WRAPPER cqrs_http OPTIONS (url '${\$stub->url}', allow_http 'true', call_timeout '1h', breaker 'off');
CREATE SERVER hanging FOREIGN DATA WRAPPER cqrs_http OPTIONS (url '${\$stub->url}', allow_http 'true', call_timeout '1h');
CREATE SERVER guarded FOREIGN DATA WRAPPER cqrs_http
	OPTIONS (url '${\$stub->url}', allow_http 'true', max_failures '2', reset_timeout '1h');
CREATE FUNCTION confirm(state jsonb, command cqrs.command) RETURNS cqrs.effect LANGUAGE sql AS
	\$\$ SELECT cqrs.persist(command.command_type, command.data) \$\$;
CREATE FUNCTION refuse(state jsonb, command cqrs.command) RETURNS cqrs.effect LANGUAGE sql AS \$\$ SELECT cqrs.reject('no') \$\$;
CREATE FUNCTION fail(state jsonb, command cqrs.command) RETURNS cqrs.effect LANGUAGE plpgsql AS
	\$\$ BEGIN RAISE 'not yet'; END \$\$;
SELECT cqrs.create_entity('Order'), cqrs.on_event('Order', '*', 'cqrs.merge'), cqrs.on_command('Order', 'Confirm', 'confirm'),
	cqrs.on_command('Order', 'Fail', 'confirm'), cqrs.on_command('Order', 'Refuse', 'refuse'), cqrs.on_command('Order', 'Break', 'fail');
SQL

delivers();
keeps_order();
is_fair();
waits_for_breaker();
replies();
out_of_the_way();
gives_up();
survives();
survives_under_load();
is_off();

$node->stop;
$stub->stop;
done_testing();

sub query
{
	my ($sql) = @_;
	return $node->safe_psql('postgres', $sql);
}

sub becomes
{
	my ($condition, $what) = @_;
	return pass($what) if $node->poll_query_until('postgres', "SELECT $condition");
	diag(query('SELECT service, state, attempt, last_error, count(*) FROM cqrs.outbox_status GROUP BY 1, 2, 3, 4'));
	die "not so: $what";
}

sub clear
{
	query('DELETE FROM cqrs.outbox');
	$stub->requests;
	return;
}

# The keys of the requests, by what they asked for; each must have been sent with one key only.
sub keys_of
{
	my %key;
	foreach my $request ($stub->requests)
	{
		my (undef, undef, $target, $key) = @$request;
		fail("$target has the keys $key{$target} and $key") if ($key{$target} //= $key) ne $key;
	}
	return %key;
}

sub delivers
{
	$stub->mode('/status/503');
	is(query("BEGIN; SELECT cqrs.enqueue('a', 'POST', '/mode?no') IS NOT NULL; ROLLBACK; SELECT count(*) FROM cqrs.outbox"), "t\n0",
		'a rollback leaves nothing');
	my $id = query("SELECT cqrs.enqueue('a', 'POST', '/mode?1', body => '{\"a\": 1}')");
	becomes("attempt >= 3 AND last_status = 503 FROM cqrs.outbox WHERE id = '$id'", 'a failure is tried again');
	$stub->mode('/echo');
	becomes("state = 'delivered' FROM cqrs.outbox WHERE id = '$id'", 'until it is delivered');
	my @requests = $stub->requests;
	is(scalar(grep { $_->[3] ne $id || $_->[2] ne '/api/mode?1' } @requests), 0, 'all attempts had the same key, the id of the delivery');
	cmp_ok(scalar(@requests), '==', query("SELECT attempt FROM cqrs.outbox WHERE id = '$id'"), 'and each was counted');
	is(query("SELECT last_status, last_error IS NULL, settled_at IS NOT NULL FROM cqrs.outbox_status WHERE id = '$id'"), '200|t|t',
		'as the status says');

	query("BEGIN; SELECT cqrs.enqueue('a', 'POST', '/mode?2'); PREPARE TRANSACTION 'p'");
	query("COMMIT PREPARED 'p'");
	becomes("count(*) = 2 FROM cqrs.outbox WHERE state = 'delivered'", 'a prepared one too');
	clear();
	return;
}

sub keeps_order
{
	my $n = 20;

	$stub->mode('/status/503');
	query("SELECT cqrs.enqueue('a', 'POST', '/mode?' || i % 3 || '-' || lpad(i::text, 4, '0'), ordering_key => (i % 3)::text)"
		  . " FROM generate_series(1, 3 * $n) i");
	becomes("count(*) = 3 AND min(attempt) >= 2 FROM cqrs.outbox WHERE attempt > 0", 'only the first of each key is attempted');
	$stub->mode('/status/200');
	becomes("count(*) = 3 * $n FROM cqrs.outbox WHERE state = 'delivered'", 'all are delivered');
	my %last;
	my $wrong = 0;
	foreach my $request ($stub->requests)
	{
		my ($key, $number) = $request->[2] =~ /\?(\d)-(\d+)$/;
		$wrong++ if $number < ($last{$key} // 0);
		$last{$key} = $number;
	}
	is($wrong, 0, 'in the order of each key, although requests failed');

	# One that is given up, or discarded, lets the next one through.
	$stub->mode('/status/503');
	my $first = query("SELECT cqrs.enqueue('a', 'POST', '/mode?a', ordering_key => 'k')");
	query("SELECT cqrs.enqueue('a', 'POST', '/status/400', ordering_key => 'k')");
	my $third = query("SELECT cqrs.enqueue('a', 'POST', '/status/204', ordering_key => 'k')");
	becomes("attempt > 1 FROM cqrs.outbox WHERE id = '$first'", 'the first fails');
	is(query("SELECT sum(attempt) FROM cqrs.outbox WHERE ordering_key = 'k' AND id <> '$first'"), 0, 'the others wait');
	# It is claimed now and then.
	my $discarded = sub { my ($rc) = $node->psql('postgres', "SELECT cqrs.discard_outbox('$first')"); return $rc == 0 };
	1 until $discarded->();
	becomes("state = 'delivered' FROM cqrs.outbox WHERE id = '$third'", 'and go when it is discarded, past one that is given up');

	# One that was given up and is tried again waits for what is under way, and goes before what is not.
	$stub->mode('/status/400');
	my $early = query("SELECT cqrs.enqueue('a', 'POST', '/mode?early', ordering_key => 'j')");
	becomes("state = 'dead' FROM cqrs.outbox WHERE id = '$early'", 'one is given up');
	$stub->mode('/wait');
	query("SELECT cqrs.enqueue('a', 'POST', '/mode?late', ordering_key => 'j')");
	becomes("state = 'claimed' FROM cqrs.outbox WHERE path = '/mode?late'", 'a later one is under way');
	query("SELECT cqrs.enqueue('a', 'POST', '/mode?last', ordering_key => 'j'); SELECT cqrs.retry_outbox('$early')");
	becomes("behind FROM cqrs.outbox WHERE id = '$early'", 'the first one, tried again, waits for it');
	$stub->requests;
	$stub->mode('/status/200');
	becomes("count(*) = 3 FROM cqrs.outbox WHERE ordering_key = 'j' AND state = 'delivered'", 'and is delivered');
	is(join(' ', map { $_->[2] } $stub->requests), '/api/mode?early /api/mode?last', 'before the next one');
	clear();
	return;
}

sub is_fair
{
	$stub->mode('/wait');
	query("SELECT cqrs.enqueue(CASE WHEN i % 5 = 0 THEN 'a' ELSE 'hanging' END, 'GET', CASE WHEN i % 5 = 0 THEN '/status/200' ELSE '/mode' END)"
		  . ' FROM generate_series(1, 10000) i');
	becomes("count(*) = 2000 FROM cqrs.outbox WHERE state = 'delivered'", 'of 10,000 those to a fast service are not delayed by one that hangs');
	is(query("SELECT state, max(attempt), count(*) FROM cqrs.outbox WHERE service = 'hanging' GROUP BY 1 ORDER BY 1"),
		"claimed|1|16\npending|0|7984", 'which has as many requests as it may');
	query("DELETE FROM cqrs.outbox WHERE service = 'hanging' AND state = 'pending'");
	query("ALTER SERVER a OPTIONS (ADD max_concurrency '2')");
	query("SELECT cqrs.enqueue('a', 'POST', '/mode?a') FROM generate_series(1, 50)");
	becomes("count(*) = 2 FROM cqrs.outbox WHERE service = 'a' AND state = 'claimed'", 'or as its option max_concurrency says');
	is(query("SELECT in_flight FROM cqrs.breaker('a')"), 2, 'so many are under way');
	is(query("SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'pg_cqrs outbox worker' AND xact_start IS NULL AND backend_xmin IS NULL"), 1,
		'and the worker has no transaction meanwhile');
	query("ALTER SERVER a OPTIONS (DROP max_concurrency)");
	$stub->mode('/status/200');
	becomes("count(*) = 0 FROM cqrs.outbox WHERE state <> 'delivered'", 'all are delivered in the end');
	clear();
	return;
}

sub waits_for_breaker
{
	$stub->mode('/status/503');
	my $id = query("SELECT cqrs.enqueue('guarded', 'POST', '/mode', max_attempts => 3)");
	becomes("attempt = 2 AND last_error LIKE '%breaker%' FROM cqrs.outbox WHERE id = '$id'", 'an open breaker postpones it');
	$stub->mode('/status/200');
	query("ALTER SERVER guarded OPTIONS (SET reset_timeout '1ms')");
	becomes("state = 'delivered' AND attempt = 3 FROM cqrs.outbox WHERE id = '$id'", 'without an attempt');
	clear();
	return;
}

sub reply
{
	my ($path, $entity, $reply, $failure) = @_;
	return query("SELECT cqrs.enqueue('a', 'POST', '$path', reply_entity_type => 'Order', reply_entity_id => '$entity',"
		  . " reply_command => '$reply', failure_command => " . ($failure ? "'$failure'" : 'NULL') . ', max_attempts => 2)');
}

sub replies
{
	my $id = reply('/json/object', 'r-1', 'Confirm', 'Fail');
	becomes("state = 'delivered' FROM cqrs.outbox WHERE id = '$id'", 'delivered with a reply');
	is(query("SELECT event_type, data ->> 'status', data -> 'body', data ->> 'delivery' = '$id', metadata ->> '\$command_id' = '$id',"
			  . " metadata -> '\$causation' ->> 'delivery' = '$id', metadata ->> '\$sender' FROM cqrs.history('Order', 'r-1')"),
		'Confirm|200|{"a": 1}|t|t|t|' . query('SELECT current_user'), 'the command has the answer, and says where it comes from');
	$id = reply('/status/404', 'r-2', 'Confirm', 'Fail');
	becomes("state = 'dead' FROM cqrs.outbox WHERE id = '$id'", 'given up at once for a status of 404');
	is(query("SELECT event_type, data ->> 'status', data ->> 'error', data ->> 'attempts' FROM cqrs.history('Order', 'r-2')"),
		'Fail|404|status 404|1', 'and the entity learns it');
	$id = reply('/reset', 'r-3', 'Confirm', 'Fail');
	becomes("state = 'dead' FROM cqrs.outbox WHERE id = '$id'", 'given up after its attempts');
	is(query("SELECT event_type, data ->> 'attempts', data ? 'status' FROM cqrs.history('Order', 'r-3')"), 'Fail|2|f', 'as the entity learns');
	my ($rc, undef, $error) = $node->psql('postgres', "SELECT cqrs.retry_outbox('$id')");
	like($error, qr/a delivery that is dead is not tried again/, 'it is not tried again then');

	$id = reply('/status/200', 'r-4', 'Refuse');
	becomes("state = 'rejected' AND last_error = 'no' FROM cqrs.outbox WHERE id = '$id'", 'the entity may reject the command');
	$id = reply('/status/200', 'r-5', 'Break');
	becomes("state = 'reply_failed' AND last_error = 'not yet' AND reply_attempt = 2 FROM cqrs.outbox WHERE id = '$id'", 'a command that fails');
	$stub->requests;
	query("SELECT cqrs.on_command('Order', 'Break', 'confirm'); SELECT cqrs.retry_outbox('$id')");
	becomes("state = 'delivered' FROM cqrs.outbox WHERE id = '$id'", 'is tried again');
	is(scalar($stub->requests), 0, 'without a request');
	is(query("SELECT count(*) FROM cqrs.history('Order', 'r-5')"), 1, 'and goes through once');
	clear();
	return;
}

# With the rights that the role has then.
# A command to an entity that somebody has locked does not hold back others, uses no attempt, and is sent when it can be.
sub out_of_the_way
{
	my $psql = $node->background_psql('postgres', on_error_stop => 0);
	$psql->query_safe("BEGIN; SELECT cqrs.send('Order', 'w-1', 'Confirm')");
	my $id = reply('/status/200', 'w-1', 'Confirm');
	my $discarded = reply('/status/200', 'w-1', 'Confirm');
	becomes("count(*) = 2 FROM cqrs.outbox WHERE state = 'answered' AND last_error IS NOT NULL AND reply_attempt = 0",
		'commands that wait for a lock are put off');
	my $other = reply('/status/200', 'w-2', 'Confirm');
	becomes("state = 'delivered' FROM cqrs.outbox WHERE id = '$other'", 'others are sent meanwhile');
	$psql->query_safe("SELECT cqrs.discard_outbox('$discarded')");
	$other = reply('/status/200', 'w-3', 'Confirm');
	becomes("state = 'delivered' FROM cqrs.outbox WHERE id = '$other'", 'also while somebody discards one');
	$psql->query_safe('COMMIT');
	becomes("state = 'delivered' AND reply_attempt = 1 FROM cqrs.outbox WHERE id = '$id'", 'it is sent when the lock is gone');
	is(query("SELECT count(*) FROM cqrs.history('Order', 'w-1')"), 2, 'and the discarded one is not');
	$psql->quit;
	clear();
	return;
}

sub gives_up
{
	query("CREATE ROLE one; CREATE ROLE two; GRANT USAGE ON FOREIGN SERVER a TO one, two; GRANT EXECUTE ON FUNCTION cqrs.enqueue, cqrs.retry_outbox TO one, two");
	$stub->mode('/status/503');
	my $one = query("SET ROLE one; SELECT cqrs.enqueue('a', 'POST', '/mode')");
	my $two = query("SET ROLE two; SELECT cqrs.enqueue('a', 'POST', '/mode')");
	becomes("min(attempt) > 0 FROM cqrs.outbox", 'two roles have theirs attempted');
	# At once, so that nothing is attempted when the right is lost and the role not yet gone.
	query("BEGIN; REVOKE USAGE ON FOREIGN SERVER a FROM one, two; REVOKE EXECUTE ON FUNCTION cqrs.enqueue, cqrs.retry_outbox FROM two; DROP ROLE two; COMMIT");
	becomes("count(*) = 2 FROM cqrs.outbox WHERE state = 'dead'", 'who has lost the right, or is gone, is not served');
	is(query("SELECT last_error FROM cqrs.outbox WHERE id IN ('$one', '$two') ORDER BY last_error"),
		"permission denied for foreign server a\nrole \"two\" does not exist", 'and the reason is kept');
	query("GRANT USAGE ON FOREIGN SERVER a TO one; SET ROLE one; SELECT cqrs.retry_outbox('$one')");
	$stub->mode('/status/200');
	becomes("state = 'delivered' FROM cqrs.outbox WHERE id = '$one'", 'until the right is given back and it is tried again');
	query('DROP OWNED BY one; DROP ROLE one');
	clear();
	return;
}

sub kill_worker
{
	my ($how) = @_;
	my $pid = query($worker);

	if ($how eq 'restart') { $node->stop('immediate'); $node->start }
	elsif ($how eq 'terminate') { query("SELECT pg_terminate_backend($pid)") }
	else
	{
		kill KILL => $pid;
		$node->poll_query_until('postgres', 'SELECT true') or die 'no server any more';
	}
	return;
}

# At each step of a delivery.
sub survives
{
	foreach my $how ('terminate', 'restart', 'kill')
	{
		my $n = 10;
		my $prefix = "$how-";

		$stub->mode('/wait');
		query("SELECT cqrs.enqueue('a', 'POST', '/mode?$prefix' || i, reply_entity_type => 'Order', reply_entity_id => '$prefix' || i,"
			  . " reply_command => 'Confirm', ordering_key => 'key' || i % 5) FROM generate_series(1, $n) i");
		becomes("count(*) = 5 FROM cqrs.outbox WHERE state = 'claimed'", "$how: requests are under way");
		kill_worker($how);
		becomes("count(*) = 5 AND min(attempt) = 2 FROM cqrs.outbox WHERE state = 'claimed'", 'they are sent again at once');
		$stub->mode('/status/200');
		becomes("count(*) = $n FROM cqrs.outbox WHERE state = 'delivered'", 'all are delivered');
		is(query("SELECT count(*), count(DISTINCT entity_id) FROM cqrs.journal WHERE entity_id LIKE '$prefix%'"), "$n|$n", 'each has one reply');
		my %keys = keys_of();
		is(scalar(keys %keys), $n, 'each has one key');
		clear();
	}
	return;
}

# Wherever it happens to be.
sub survives_under_load
{
	my $n = 400;

	$stub->mode('/status/200');
	query("SELECT cqrs.enqueue('a', 'POST', '/mode?' || i, reply_entity_type => 'Order', reply_entity_id => 'l-' || i,"
		  . " reply_command => 'Confirm') FROM generate_series(1, $n) i");
	foreach my $done (map { 40 * $_ } 1 .. 8)
	{
		$node->poll_query_until('postgres', "SELECT count(*) >= $done FROM cqrs.outbox WHERE state = 'delivered'") or die "no $done";
		my $pid = query($worker);
		next if $pid eq '';
		$done % 160 == 0 ? kill_worker('restart') : $done % 80 == 0 ? kill_worker('kill') : kill_worker('terminate');
	}
	becomes("count(*) = $n FROM cqrs.outbox WHERE state = 'delivered'", 'killed again and again, it delivers all');
	is(query("SELECT count(*), count(DISTINCT entity_id) FROM cqrs.journal WHERE entity_id LIKE 'l-%'"), "$n|$n", 'with one reply each');
	my %keys = keys_of();
	is(scalar(keys %keys), $n, 'and one key each');
	clear();
	return;
}

sub is_off
{
	$node->append_conf('postgresql.conf', 'cqrs.workers = off');
	$node->restart;
	query("SELECT cqrs.enqueue('a', 'POST', '/status/200')");
	is(query('SELECT cqrs.worker_state()'), 'off', 'there are no workers');
	is(query('SELECT state FROM cqrs.outbox'), 'pending', 'and nothing is delivered');
	$node->append_conf('postgresql.conf', 'cqrs.workers = on');
	$node->restart;
	becomes("count(*) = 1 FROM cqrs.outbox WHERE state = 'delivered'", 'a restart delivers what is left');
	query("ALTER SYSTEM SET cqrs.outbox_retention = 0");
	$node->restart;
	query("SELECT cqrs.enqueue('a', 'POST', '/status/200')");
	becomes("count(*) <= 1 FROM cqrs.outbox", 'what was delivered before is removed');
	return;
}
