# Whatever fails around a delivery, and whatever takes long, concerns that delivery alone: the others go on, nothing is sent
# again that was answered, nothing is lost, and what has to wait does so without being tried in vain.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/..";
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Stub;
use Test::More;

my $stub = Stub->new;
my $node = PostgreSQL::Test::Cluster->new('failure');
my $worker = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'pg_cqrs outbox worker'";
my $replier = "SELECT wait_event FROM pg_stat_activity WHERE backend_type = 'pg_cqrs outbox reply worker'";
my $down = PostgreSQL::Test::Cluster::get_free_port();
$node->init;
$node->append_conf('postgresql.conf', <<'CONF');
cqrs.outbox_retry_delay = '20 ms'
cqrs.outbox_max_retry_delay = '1 s'
cqrs.outbox_max_attempts = 1000
CONF
$node->start;
$node->safe_psql('postgres', <<"SQL");
CREATE EXTENSION pg_cqrs;
CREATE SERVER a FOREIGN DATA WRAPPER cqrs_http OPTIONS (url '${\$stub->url}', allow_http 'true', call_timeout '1h', breaker 'off');
CREATE SERVER large FOREIGN DATA WRAPPER cqrs_http OPTIONS (url '${\$stub->url}', allow_http 'true', call_timeout '1h', max_response_size '100MB');
CREATE SERVER down FOREIGN DATA WRAPPER cqrs_http OPTIONS (url 'http://127.0.0.1:$down/api', allow_http 'true', breaker 'off');
CREATE SERVER shut FOREIGN DATA WRAPPER cqrs_http OPTIONS (url '${\$stub->url}', allow_http 'true', breaker 'forced_open');
CREATE SERVER ordered FOREIGN DATA WRAPPER cqrs_http OPTIONS (url '${\$stub->url}', allow_http 'true', call_timeout '1h');
CREATE SERVER tripped FOREIGN DATA WRAPPER cqrs_http
	OPTIONS (url '${\$stub->url}', allow_http 'true', max_failures '1', reset_timeout '1h');
CREATE SERVER busy FOREIGN DATA WRAPPER cqrs_http OPTIONS (url '${\$stub->url}', allow_http 'true', call_timeout '1h', max_concurrency '1');
-- Flags that every snapshot sees.
CREATE SEQUENCE go;
CREATE SEQUENCE refused;
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS \$\$
BEGIN
	PERFORM nextval('public.refused');
	RAISE 'no room';
END
\$\$;
CREATE TABLE slow (id text);
CREATE FUNCTION wait_long() RETURNS trigger LANGUAGE plpgsql AS \$\$ BEGIN PERFORM pg_sleep(3600); RETURN NULL; END \$\$;
CREATE CONSTRAINT TRIGGER slow AFTER INSERT ON slow DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION wait_long();
CREATE FUNCTION handle(state jsonb, command cqrs.command) RETURNS cqrs.effect LANGUAGE plpgsql AS \$\$
BEGIN
	WHILE command.command_type = 'Hold' AND NOT (SELECT is_called FROM public.go) LOOP
		PERFORM pg_sleep(0.01);
	END LOOP;
	IF command.command_type = 'Defer' THEN
		INSERT INTO public.slow VALUES (command.entity_id);
	END IF;
	RETURN cqrs.persist(command.command_type, command.data);
END
\$\$;
SELECT cqrs.create_entity('Order'), cqrs.on_event('Order', '*', 'cqrs.merge'), cqrs.on_command('Order', '*', 'handle');
SQL

my @shut = shuts();
settles_later();
sends_commands_aside();
ends_long_commands();
large_answers();
asks_for_time();
is_down();
stays_shut(@shut);
passes_over_locks();
discards_by_old_snapshot();
cleans();

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
	diag(query('SELECT service, state, attempt, reply_attempt, last_error, count(*) FROM cqrs.outbox_status GROUP BY 1, 2, 3, 4, 5'));
	die "not so: $what";
}

sub enqueue
{
	my ($service, $path, $more) = @_;
	return query("SELECT cqrs.enqueue('$service', 'POST', '$path'" . ($more ? ", $more" : '') . ')');
}

sub replying
{
	my ($entity, $command) = @_;
	return "reply_entity_type => 'Order', reply_entity_id => '$entity', reply_command => '$command'";
}

# Services that take no call: see stays_shut().
sub shuts
{
	my @ids = (enqueue('shut', '/status/200'), enqueue('tripped', '/status/503'));

	enqueue('shut', '/status/200');
	query("SELECT cqrs.enqueue('shut', 'POST', '/status/200') FROM generate_series(1, 20)");
	becomes("last_error LIKE '%breaker%' AND state = 'pending' FROM cqrs.outbox WHERE id = '$_'", 'a service whose breaker is open') foreach @ids;
	return (@ids, query("SELECT string_agg(xmin::text, ',' ORDER BY number) FROM cqrs.outbox"));
}

# An error of a transaction of the worker's own, such as a trigger's that somebody has put on the table.
sub settles_later
{
	my $trigger = sub {
		my ($state) = @_;
		return "CREATE TRIGGER refuse BEFORE UPDATE ON cqrs.outbox FOR EACH ROW WHEN (NEW.path = '/status/200?bad' AND NEW.state = '$state')"
		  . " EXECUTE FUNCTION refuse(); SELECT setval('refused', 1, false)";
	};
	$stub->mode('/wait');
	query("SELECT cqrs.enqueue('a', 'POST', '/mode') FROM generate_series(1, 5)");
	becomes("count(*) = 5 FROM cqrs.outbox WHERE state = 'claimed'", 'requests are under way');
	my $pid = query($worker);
	$stub->requests;
	query($trigger->('delivered'));
	my $bad = enqueue('a', '/status/200?bad');
	becomes('last_value >= 3 FROM refused', 'a result that cannot be stored is tried again');
	my $good = enqueue('a', '/status/200?good');
	becomes("state = 'delivered' FROM cqrs.outbox WHERE id = '$good'", 'others go on');
	is(query("SELECT state, attempt FROM cqrs.outbox WHERE id = '$bad'"), 'claimed|1', 'it is not lost');
	query('DROP TRIGGER refuse ON cqrs.outbox');
	becomes("state = 'delivered' AND attempt = 1 FROM cqrs.outbox WHERE id = '$bad'", 'and is stored when it can be');
	is(join(' ', map { $_->[2] } $stub->requests), '/api/status/200?bad /api/status/200?good', 'without another request');

	# So it is with what cannot be claimed, but that keeps the others of the outbox from being claimed.
	query($trigger->('claimed'));
	$bad = enqueue('a', '/status/200?bad');
	becomes('last_value >= 3 FROM refused', 'what cannot be claimed is tried again');
	$stub->mode('/status/200');
	becomes("count(*) = 5 AND max(attempt) = 1 FROM cqrs.outbox WHERE path = '/mode' AND state = 'delivered'", 'meanwhile requests end');
	query('DROP TRIGGER refuse ON cqrs.outbox');
	becomes("state = 'delivered' AND attempt = 1 FROM cqrs.outbox WHERE id = '$bad'", 'and it is sent when it can be');
	is(query($worker), $pid, 'all by one worker');
	return;
}

# A command whose handler takes long delays no request.
sub sends_commands_aside
{
	my $held = enqueue('a', '/status/200', replying('h-1', 'Hold'));

	ok($node->poll_query_until('postgres', $replier, 'PgSleep'), 'a command is being sent');
	my $other = enqueue('a', '/status/200', replying('h-2', 'Confirm'));
	query("SELECT cqrs.enqueue('a', 'POST', '/status/200?beside') FROM generate_series(1, 50)");
	becomes("count(*) = 50 FROM cqrs.outbox WHERE path = '/status/200?beside' AND state = 'delivered'", 'requests go on');
	becomes("state = 'answered' FROM cqrs.outbox WHERE id = '$other'", 'other commands wait for it');
	query("SELECT nextval('go')");
	becomes("count(*) = 2 FROM cqrs.outbox WHERE id IN ('$held', '$other') AND state = 'delivered'", 'and are sent after it');
	return;
}

# The time of a command is not over before what it has deferred until the commit.
sub ends_long_commands
{
	$node->append_conf('postgresql.conf', "cqrs.command_timeout = '200 ms'");
	$node->reload;
	my $id = enqueue('a', '/status/200', replying('d-1', 'Defer') . ', max_attempts => 2');
	becomes("state = 'reply_failed' AND reply_attempt = 2 FROM cqrs.outbox WHERE id = '$id'", 'a deferred trigger that takes too long');
	is(query("SELECT last_error FROM cqrs.outbox WHERE id = '$id'"), 'canceling statement due to statement timeout', 'is ended');
	is(query("SELECT (SELECT count(*) FROM slow), (SELECT count(*) FROM cqrs.history('Order', 'd-1'))"), '0|0', 'and leaves nothing');
	$node->append_conf('postgresql.conf', "cqrs.command_timeout = '1 min'");
	$node->reload;
	return;
}

# The request was carried out, so it is delivered, whatever was answered; what is too large for the command, unpacked, is left out.
sub large_answers
{
	my @ids = (enqueue('a', '/huge?2', replying('l-1', 'Confirm')), enqueue('large', '/bomb?65', replying('l-2', 'Confirm')));

	becomes("count(*) = 2 AND max(attempt) = 1 FROM cqrs.outbox WHERE id IN ('$ids[0]', '$ids[1]') AND state = 'delivered'", 'large answers');
	my $answer = "SELECT data ->> 'status', data -> 'body', data ->> 'error', data -> 'headers' ->> 'content-encoding' FROM cqrs.history('Order', '%s')";
	is(query(sprintf $answer, 'l-1'), '200|null|the answer is too large|', 'more than max_response_size');
	is(query(sprintf $answer, 'l-2'), '200|null||gzip', 'more than 64 MB');
	return;
}

# A service may ask for time, in seconds or until then, and gets it up to the maximum.
sub asks_for_time
{
	$node->append_conf('postgresql.conf', "cqrs.outbox_max_retry_delay = '2 h'");
	$node->reload;
	my %within = ('/retry_after/3600' => [ '59 min', '60 min' ], '/retry_after_date/3600' => [ '59 min', '60 min' ],
		'/retry_after/1000000' => [ '119 min', '120 min' ], '/retry_after_date/0' => [ '-1 min', '1 min' ]);
	my %id = map { $_ => enqueue('a', $_) } keys %within;

	foreach my $path (sort keys %id)
	{
		my ($lowest, $highest) = @{ $within{$path} };
		becomes("state = 'pending' AND last_status = 503 AND next_attempt_at BETWEEN now() + interval '$lowest' AND now() + interval '$highest'"
			  . " FROM cqrs.outbox WHERE id = '$id{$path}'", $path);
	}
	query("SELECT cqrs.retry_outbox('$id{'/retry_after/3600'}')");
	becomes("attempt = 1 AND state = 'pending' AND next_attempt_at > now() + interval '59 min' FROM cqrs.outbox WHERE id = '$id{'/retry_after/3600'}'",
		'by hand it is tried at once');
	is(scalar(grep { $_->[2] eq '/api/retry_after/3600' } $stub->requests), 2, 'as it was');
	query("DELETE FROM cqrs.outbox WHERE path LIKE '/retry_after%'");
	$node->append_conf('postgresql.conf', "cqrs.outbox_max_retry_delay = '1 s'");
	$node->reload;
	return;
}

# A service that is not there for long gets all in the end, in the order of each key, and is not asked more often than promised.
sub is_down
{
	query(<<'SQL');
CREATE TABLE attempt (id uuid, attempt integer, failed_at timestamptz, again_at timestamptz, claimed_at timestamptz);
CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	IF NEW.state = 'pending' THEN
		INSERT INTO public.attempt VALUES (NEW.id, NEW.attempt, clock_timestamp(), NEW.next_attempt_at);
	ELSE
		UPDATE public.attempt a SET claimed_at = clock_timestamp() WHERE a.id = NEW.id AND a.attempt = NEW.attempt - 1;
	END IF;
	RETURN NULL;
END
$$;
CREATE TRIGGER note AFTER UPDATE ON cqrs.outbox FOR EACH ROW
	WHEN (NEW.service = 'down' AND NEW.state IN ('pending', 'claimed') AND NEW.state <> OLD.state) EXECUTE FUNCTION note();
SELECT cqrs.enqueue('down', 'POST', '/status/200?' || i, ordering_key => CASE WHEN i > 10 THEN (i % 2)::text END) FROM generate_series(1, 20) i;
SQL
	becomes("count(*) = 12 FROM cqrs.outbox WHERE service = 'down' AND attempt >= 8", 'a service that is down');
	is(query("SELECT count(*) FROM cqrs.outbox WHERE service = 'down' AND (state NOT IN ('pending', 'claimed') OR last_error NOT LIKE '%onnect%')"
			  . ' AND attempt > 0'), 0, 'is found so again and again');
	is(query("SELECT count(*), min(again_at - failed_at) >= '-1 s', max(again_at - failed_at) > '300 ms' FROM attempt"
			  . " WHERE again_at - failed_at > least(interval '20 ms' * 2 ^ (attempt - 1), '1 s') OR claimed_at < again_at OR attempt = 8"),
		query('SELECT count(*) FROM attempt WHERE attempt = 8') . '|t|t', 'at intervals that grow up to the maximum');
	my $up = Stub->new(port => $down);
	becomes("count(*) = 20 FROM cqrs.outbox WHERE service = 'down' AND state = 'delivered'", 'and gets all when it is up');
	my @numbers = map { $_->[2] =~ /(\d+)$/ } $up->requests;
	is(join(',', sort { $a <=> $b } @numbers), join(',', 1 .. 20), 'each once');
	foreach my $key (0, 1)
	{
		my @of_key = grep { $_ > 10 && $_ % 2 == $key } @numbers;
		is("@of_key", join(' ', sort { $a <=> $b } @of_key), 'in the order of each key');
	}
	query('DROP TRIGGER note ON cqrs.outbox');
	$up->stop;
	return;
}

# Since shuts() nothing was written about a service whose breaker was open, though there was other work all the time; what ends that,
# an order or another setting, is heeded at once.
sub stays_shut
{
	my ($shut, $tripped, $before) = @_;

	becomes("NOT EXISTS (SELECT FROM pg_stat_activity WHERE backend_type = 'pg_cqrs outbox reply worker')",
		'who sends commands leaves when there is none for a while');
	is(query("SELECT string_agg(xmin::text, ',' ORDER BY number) FROM cqrs.outbox WHERE service IN ('shut', 'tripped')"), $before,
		'a service whose breaker is open is left alone');
	is(query("SELECT rejected FROM cqrs.breaker('$_')"), 1, 'after one call was rejected') foreach qw(shut tripped);
	my $start = time;
	query("ALTER SERVER shut OPTIONS (SET breaker 'on')");
	becomes("count(*) = 22 FROM cqrs.outbox WHERE service = 'shut' AND state = 'delivered'", 'until another setting lets calls through');
	query("UPDATE cqrs.outbox SET path = '/status/200' WHERE id = '$tripped'; SELECT cqrs.reset_breaker('tripped')");
	becomes("state = 'delivered' FROM cqrs.outbox WHERE id = '$tripped'", 'or an order');
	cmp_ok(time - $start, '<', 50, 'at once');

	# Nor is a service asked for more than it takes.
	my $psql = $node->background_psql('postgres', on_error_stop => 0);
	my $ticket = $psql->query_safe("BEGIN; SELECT cqrs.begin_call('busy')");
	my $id = enqueue('busy', '/status/200');
	becomes("last_error LIKE 'too many%' AND state = 'pending' AND attempt = 0 FROM cqrs.outbox WHERE id = '$id'", 'a service that is busy');
	$before = query("SELECT xmin FROM cqrs.outbox WHERE id = '$id'");
	query("SELECT cqrs.enqueue('a', 'POST', '/slow/300?busy')");
	becomes("state = 'delivered' FROM cqrs.outbox WHERE path = '/slow/300?busy'", 'others go on');
	is(query("SELECT xmin FROM cqrs.outbox WHERE id = '$id'"), $before, 'it is left alone');
	$psql->query_safe("COMMIT");
	becomes("state = 'delivered' FROM cqrs.outbox WHERE id = '$id'", 'until there is room');
	$psql->quit;
	return;
}

# What a session has locked is passed over, by a worker that starts, too.
sub passes_over_locks
{
	query("ALTER SERVER ordered OPTIONS (ADD breaker 'forced_open')");
	my ($behind, $claimed) = map { enqueue('ordered', '/status/200', "ordering_key => '$_'") } 'k', 'l';
	becomes("count(*) = 1 FROM cqrs.outbox WHERE service = 'ordered' AND last_error LIKE '%breaker%'", 'a key waits');
	query("UPDATE cqrs.outbox SET behind = true WHERE id = '$behind'; UPDATE cqrs.outbox SET state = 'claimed', attempt = 1 WHERE id = '$claimed'");
	my $psql = $node->background_psql('postgres', on_error_stop => 0);
	$psql->query_safe("BEGIN; SELECT FROM cqrs.outbox WHERE id IN ('$behind', '$claimed') FOR UPDATE");
	my $pid = query($worker);
	query("SELECT pg_terminate_backend($pid)");
	my $id = enqueue('a', '/status/200');
	becomes("state = 'delivered' FROM cqrs.outbox WHERE id = '$id'", 'a worker that starts waits for no lock');
	query("ALTER SERVER ordered OPTIONS (DROP breaker)");
	$psql->query_safe('ROLLBACK');
	becomes("count(*) = 2 FROM cqrs.outbox WHERE id IN ('$behind', '$claimed') AND state = 'delivered'", 'and takes what was locked afterwards');

	# The next one of a key, locked when it is its turn.
	my $next;
	$stub->mode('/wait');
	query("SELECT cqrs.enqueue('a', 'POST', '/mode', ordering_key => 'm', " . replying('m', 'Confirm') . ') FROM generate_series(1, 2)');
	$next = enqueue('a', '/mode', "ordering_key => 'm'");
	becomes("behind FROM cqrs.outbox WHERE id = '$next'", 'one is behind');
	$psql->query_safe("BEGIN; SELECT FROM cqrs.outbox WHERE ordering_key = 'm' AND state = 'pending' FOR UPDATE");
	$stub->mode('/status/200');
	becomes("last_error LIKE '%lock%' FROM cqrs.outbox WHERE ordering_key = 'm' AND state = 'answered' AND reply_attempt = 0", 'a command is put off');
	$id = enqueue('a', '/status/200', replying('n', 'Confirm'));
	becomes("state = 'delivered' FROM cqrs.outbox WHERE id = '$id'", 'others are sent');
	$psql->query_safe('ROLLBACK');
	becomes("count(*) = 3 FROM cqrs.outbox WHERE ordering_key = 'm' AND state = 'delivered'", 'it is sent when the next one is free');
	is(query("SELECT count(*) FROM cqrs.history('Order', 'm')"), 2, 'once');

	# DDL keeps the worker from the table for a while.
	$stub->mode('/wait');
	$id = enqueue('a', '/mode');
	becomes("state = 'claimed' FROM cqrs.outbox WHERE id = '$id'", 'a request is under way');
	$psql->query_safe('BEGIN; LOCK TABLE cqrs.outbox IN SHARE MODE');
	my $log = -s $node->logfile;
	$stub->mode('/status/200');
	$node->wait_for_log(qr/canceling statement due to lock timeout/, $log);
	$psql->query_safe('COMMIT');
	becomes("state = 'delivered' AND attempt = 1 FROM cqrs.outbox WHERE id = '$id'", 'its result is stored when the table is free');

	# So is a command sent that could be neither sent nor put off.
	$psql->query_safe("BEGIN; SELECT cqrs.send('Order', 'p', 'Confirm', '{}')");
	$id = enqueue('a', '/status/200', replying('p', 'Confirm'));
	becomes("state = 'answered' AND last_error LIKE '%lock%' FROM cqrs.outbox WHERE id = '$id'", 'a command waits for its entity');
	$psql->query_safe('LOCK TABLE cqrs.outbox IN SHARE MODE');
	$log = -s $node->logfile;
	$node->wait_for_log(qr/follows delivery $id could not be sent.*ERROR:  canceling statement due to lock timeout/s, $log);
	$psql->query_safe('ROLLBACK');
	becomes("state = 'delivered' AND reply_attempt = 1 FROM cqrs.outbox WHERE id = '$id'", 'it is sent when the table is free');
	is(query("SELECT count(*) FROM cqrs.history('Order', 'p')"), 1, 'once');
	$psql->quit;
	return;
}

# What was delivered is removed when its time is over, though there is nothing else to do, and after a restart.
# Who discards the first delivery of a key need not see the second one.
sub discards_by_old_snapshot
{
	$stub->mode('/retry_after/3600');
	query("ALTER SYSTEM SET cqrs.outbox_max_retry_delay = '1 h'");
	query('SELECT pg_reload_conf()');
	foreach my $level ('REPEATABLE READ', 'SERIALIZABLE')
	{
		my $first = enqueue('a', '/mode?first', "ordering_key => '$level'");
		becomes("next_attempt_at > now() + interval '1 min' FROM cqrs.outbox WHERE id = '$first'", 'the first of a key waits for its next attempt');
		my $session = $node->background_psql('postgres');
		$session->query_safe("BEGIN ISOLATION LEVEL $level; SELECT count(*) FROM cqrs.outbox");
		my $second = enqueue('a', '/status/200?second', "ordering_key => '$level'");
		becomes("behind FROM cqrs.outbox WHERE id = '$second'", 'the second one is behind it');
		$session->query_safe("SELECT cqrs.discard_outbox('$first'); COMMIT");
		$session->quit;
		becomes("state = 'delivered' FROM cqrs.outbox WHERE id = '$second'", "and sent when that is discarded in $level");
	}
	query('ALTER SYSTEM RESET ALL');
	query('SELECT pg_reload_conf()');
	return;
}

sub cleans
{
	becomes("count(*) = count(*) FILTER (WHERE state = 'delivered') FROM cqrs.outbox WHERE state <> 'reply_failed'", 'all is delivered');
	$node->append_conf('postgresql.conf', "cqrs.outbox_retention = '1 s'");
	$node->restart;
	becomes("count(*) = 0 FROM cqrs.outbox WHERE state = 'delivered'", 'it is removed after a restart');
	my $id = enqueue('a', '/status/200');
	becomes("count(*) = 0 FROM cqrs.outbox WHERE id = '$id'", 'and while the worker sleeps');
	is(query('SELECT state FROM cqrs.outbox'), 'reply_failed', 'nothing else is');
	return;
}
