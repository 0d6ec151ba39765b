# One circuit breaker of a service serves all sessions: when it is half-open exactly one of many calls goes, whoever loses that call
# does not lose the breaker, and what a session is told has happened to the breaker before.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/..";
use IPC::Run qw(start);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Stub;
use Test::More;

my $stub = Stub->new;
my $node = PostgreSQL::Test::Cluster->new('breaker');
$node->init;
$node->append_conf('postgresql.conf', "max_connections = 120\nrestart_after_crash = on");
$node->start;
$node->safe_psql('postgres', <<"SQL");
CREATE EXTENSION pg_cqrs;
CREATE SERVER b FOREIGN DATA WRAPPER cqrs_http OPTIONS (url '${\$stub->url}', allow_http 'true', call_timeout '3min', max_failures '3', reset_timeout '1h');
CREATE TABLE outcome (outcome text);
-- A status, or a SQLSTATE with the state of the breaker as the caller finds it then.
CREATE FUNCTION try(path text DEFAULT '/mode', timeout interval DEFAULT NULL) RETURNS text LANGUAGE plpgsql AS \$\$
BEGIN
	RETURN (SELECT status FROM cqrs.call('b', 'GET', path, timeout => timeout));
EXCEPTION WHEN SQLSTATE 'QR010' OR SQLSTATE 'QR011' OR SQLSTATE 'QR012' THEN
	RETURN SQLSTATE || ' ' || (SELECT state FROM cqrs.breaker('b'));
END
\$\$;
SQL

decides();
probes();
many();
under_stress();
loses();
late();
crashes();
reclaims();

$node->stop;
$stub->stop;
done_testing();

sub query
{
	my ($sql) = @_;
	return $node->safe_psql('postgres', $sql);
}

sub state { return query("SELECT state FROM cqrs.breaker('b')") }

# Opens it, and has its time be over at once.
sub half_open { return half_open_by('/status/503') }

sub half_open_by
{
	my ($path) = @_;

	query("ALTER SERVER b OPTIONS (SET reset_timeout '1h'); SELECT cqrs.reset_breaker('b')");
	query("SELECT try('$path') FROM generate_series(1, 3)");
	is(state(), 'open', 'it opens');
	query("ALTER SERVER b OPTIONS (SET reset_timeout '1ms')");
	is(state(), 'half_open', 'and is half-open after its time');
	$stub->requests;
	return;
}

sub caller_of
{
	my ($sql) = @_;
	return start([ 'psql', '-X', '-q', '-A', '-t', '-d', $node->connstr('postgres') . ' application_name=caller', '-c', $sql ],
		'>', '/dev/null', '2>', '/dev/null', IPC::Run::timeout($PostgreSQL::Test::Utils::timeout_default));
}

sub until_under_way
{
	my ($calls) = @_;
	$node->poll_query_until('postgres', "SELECT in_flight = $calls FROM cqrs.breaker('b')") or die "no $calls calls under way";
	return;
}

# Which outcomes are failures, and that the third in a row opens it before its caller is told.
sub decides
{
	for my $status (200, 204, 302, 400, 404, 409, 501 .. 503, 408, 429)
	{
		my $failed = $status >= 500 || $status == 408 || $status == 429;

		query("SELECT cqrs.reset_breaker('b'); SELECT try('/status/$status')");
		is(query("SELECT consecutive_failures, successes, failures FROM cqrs.breaker('b')"), $failed ? '1|0|1' : '0|1|0', "status $status");
	}
	query("ALTER SERVER b OPTIONS (ADD failure_statuses '404,5xx')");
	is(query("SELECT cqrs.reset_breaker('b'); SELECT try('/status/404'), try('/status/429'), try('/status/404');"
			  . " SELECT consecutive_failures FROM cqrs.breaker('b')"), "\n404|429|404\n1", 'statuses by choice');
	query("ALTER SERVER b OPTIONS (DROP failure_statuses)");

	is(query("SELECT cqrs.reset_breaker('b'); SELECT try('/hang', '10 ms'); SELECT try('/reset'); SELECT try('/hang', '10 ms'); SELECT try('/status/200')"),
		"\nQR011 closed\nQR011 closed\nQR011 open\nQR010 open", 'the breaker is open before the failing caller returns');
	is(query("SELECT calls, failures, timeouts, rejected, opened FROM cqrs.breaker('b')"), '3|3|2|1|1', 'all of it is counted');
	is(query("SELECT cqrs.reset_breaker('b'); ALTER SERVER b OPTIONS (SET url 'http://127.0.0.1:1'); SELECT try(); ALTER SERVER b OPTIONS (SET url '${\$stub->url}');"
			  . " SELECT try('/status/200')"), "\nQR012 closed\n200", 'ALTER SERVER counts from the next call on');
	my ($rc, $out, $error) = $node->psql('postgres', "SELECT cqrs.reset_breaker('b'); SELECT cqrs.call('b', 'GET', '/bomb?20')");
	like($error, qr/too large/, 'an answer too large');
	is(query("SELECT calls, successes, failures FROM cqrs.breaker('b')"), '1|0|0', 'says nothing about the service');
	return;
}

# A probe is judged as any call is: by its status, and by whether there is an answer.
sub probes
{
	for my $probe ([ "'/status/404'", '404 closed' ], [ "'/status/429'", '429 half_open' ], [ "'/hang', '10 ms'", 'QR011 half_open' ],
		[ "'/bomb?20'", 'too large half_open' ])
	{
		my ($call, $expected) = @$probe;

		half_open();
		my ($rc, $out, $error) = $node->psql('postgres', "SELECT try($call)");
		is((($out || $error) =~ /(^\d+|^QR\w+|too large)/)[0] . ' ' . state(), $expected, "a probe of $call");
	}
	query("ALTER SERVER b OPTIONS (ADD failure_statuses '404')");
	half_open_by('/status/404');
	is(query("SELECT try('/status/503')") . ' ' . state(), '503 closed', 'or as the option failure_statuses says');
	query("ALTER SERVER b OPTIONS (DROP failure_statuses)");
	return;
}

# Starts so many sessions at once that run a statement so many times each.
sub pgbench
{
	my ($statement, $sessions, $times) = @_;
	my $script = PostgreSQL::Test::Utils::tempdir() . '/call.sql';

	append_to_file($script, "$statement;\n");
	return start([ 'pgbench', '-n', '-c', $sessions, '-j', '2', '-t', $times, '-f', $script, $node->connstr('postgres') ],
		'>', '/dev/null', '2>&1', IPC::Run::timeout($PostgreSQL::Test::Utils::timeout_default));
}

sub many
{
	my $pgbench = sub { return pgbench('INSERT INTO outcome SELECT try()', 50, 1) };
	my $all_answered = sub {
		query('TRUNCATE outcome');
		ok($pgbench->()->finish, 'fifty sessions call a service that is well');
		is(query('SELECT outcome, count(*) FROM outcome GROUP BY 1'), '200|50', 'and all are answered');
		return;
	};

	query("SELECT cqrs.reset_breaker('b')");
	$stub->mode('/status/200');
	$all_answered->();

	for my $end ([ '/status/200', '200', 'closed' ], [ '/status/503', '503', 'half_open' ])
	{
		my ($mode, $answer, $state) = @$end;

		half_open();
		query('TRUNCATE outcome');
		$stub->mode('/wait');
		my $run = $pgbench->();
		$node->poll_query_until('postgres', 'SELECT count(*) = 49 FROM outcome') or die 'they wait';
		is(query('SELECT outcome, count(*) FROM outcome GROUP BY 1'), 'QR010 half_open|49', 'all but one are rejected while the probe is under way');
		is(scalar($stub->requests), 1, 'and exactly one has gone to the service');
		is(query("SELECT state, in_flight, probe_pid IS NOT NULL FROM cqrs.breaker('b')"), 'half_open|1|t', 'as the breaker knows');
		$stub->mode($mode);
		ok($run->finish, 'the probe ends');
		is(query("SELECT outcome FROM outcome WHERE outcome NOT LIKE 'QR%'"), $answer, 'with the answer');
		is(query("SELECT state, in_flight, opened FROM cqrs.breaker('b')"), "$state|0|" . ($state eq 'closed' ? 1 : 2), 'which decides');
		$all_answered->() if $state eq 'closed';
	}
	return;
}

# Whatever the times are: a call is answered, times out or is rejected, and no more is under way when all have ended.
sub under_stress
{
	query("TRUNCATE outcome; ALTER SERVER b OPTIONS (SET reset_timeout '5ms'); SELECT cqrs.reset_breaker('b')");
	ok(pgbench("INSERT INTO outcome SELECT split_part(try('/slow/' || (random() * 60)::int, '30 ms'), ' ', 1)", 20, 25)->finish,
		'twenty sessions call a service that is slow at times');
	is(query("SELECT count(*), count(*) FILTER (WHERE outcome NOT IN ('200', 'QR010', 'QR011', 'QR012')) FROM outcome"), '500|0', 'with no other outcome than these');
	is(query("SELECT b.in_flight, b.calls + b.rejected, b.probe_pid IS NULL, b.successes = (SELECT count(*) FROM outcome WHERE outcome = '200'),"
			  . " b.timeouts = (SELECT count(*) FROM outcome WHERE outcome IN ('QR011', 'QR012')) FROM cqrs.breaker('b') b"), '0|500|t|t|t', 'all of it is counted');
	return;
}

# Whoever runs the probe may be canceled or terminated.
sub loses
{
	for my $how ('pg_cancel_backend', 'pg_terminate_backend')
	{
		half_open();
		my $probe = caller_of("SELECT try('/hang')");
		until_under_way(1);
		is(query("SELECT try('/status/200')"), 'QR010 half_open', 'another call is rejected');
		query("SELECT $how(probe_pid) FROM cqrs.breaker('b')");
		$probe->finish;
		until_under_way(0);
		is(query("SELECT state, probe_pid, opened FROM cqrs.breaker('b')"), 'half_open||1', "$how: nothing is decided");
		is(query("SELECT try('/status/200')"), '200', 'the next call is the probe');
		is(state(), 'closed', 'and closes it');
	}
	return;
}

# A call that began before it opened, and succeeds after.
sub late
{
	query("ALTER SERVER b OPTIONS (SET reset_timeout '1h'); SELECT cqrs.reset_breaker('b')");
	$stub->mode('/wait');
	my $late = caller_of("SELECT try('/mode')");
	until_under_way(1);
	query("SELECT try('/status/503') FROM generate_series(1, 3)");
	$stub->mode('/status/200');
	ok($late->finish, 'a call that began before is answered');
	is(query("SELECT state, successes, in_flight FROM cqrs.breaker('b')"), 'open|1|0', 'and does not close what has opened since');
	return;
}

# A crash ends all sessions, and the breakers with them.
sub crashes
{
	half_open();
	my $probe = caller_of("SELECT try('/hang')");
	until_under_way(1);
	kill KILL => query("SELECT probe_pid FROM cqrs.breaker('b')");
	$probe->finish;
	$node->poll_query_until('postgres', 'SELECT true') or BAIL_OUT('the server does not come back');
	is(query("SELECT state, in_flight, calls FROM cqrs.breaker('b')"), 'closed|0|0', 'after a crash it begins anew');
	is(query("SELECT try('/status/200')"), '200', 'and lets calls through');
	return;
}

# Where there is room for two breakers, a third one takes the place of one whose database or server is gone.
sub reclaims
{
	my $call = "SELECT cqrs.end_call(cqrs.begin_call('%s'), 'success')";
	my $server = "CREATE SERVER %s FOREIGN DATA WRAPPER cqrs_http OPTIONS (url 'https://%s')";

	$node->append_conf('postgresql.conf', 'cqrs.max_services = 2');
	$node->restart;
	query('CREATE DATABASE other');
	$node->safe_psql('other', "CREATE EXTENSION pg_cqrs; " . sprintf("$server; $call", 'there', 'there', 'there'));
	query(sprintf $call, 'b');
	query(sprintf $server, 'c', 'c');
	my ($rc, $out, $error) = $node->psql('postgres', sprintf $call, 'c');
	like($error, qr/there is no room for the circuit breaker of another service/, 'a table that is full');
	query('DROP DATABASE other');
	is(query(sprintf "$call; SELECT calls FROM cqrs.breaker('c')", 'c'), "\n1", 'has room when a database is gone');
	query(sprintf "DROP SERVER c; $server", 'd', 'd');
	is(query(sprintf "$call; SELECT calls FROM cqrs.breaker('b'); SELECT calls FROM cqrs.breaker('d')", 'd'), "\n1\n1", 'and when a server is');
	return;
}
