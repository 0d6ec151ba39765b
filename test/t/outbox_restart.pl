# At whatever step of a delivery its worker or the server is killed, its request is sent at least once, always with the same key, and
# the command that follows exactly once. A copy of the database delivers nothing until it is adopted, and a worker that has given
# its slot to another database comes back when there is something to do.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/..";
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Stub;
use Test::More;

my ($stub, $slow) = map { Stub->new } 1, 2;
my $node = PostgreSQL::Test::Cluster->new('restart');
my %worker = map { $_ => "pg_stat_activity WHERE backend_type = 'pg_cqrs $_ worker' AND datname = current_database()" } 'outbox', 'outbox reply';
$node->init;
$node->append_conf('postgresql.conf', <<'CONF');
restart_after_crash = on
cqrs.outbox_retry_delay = '20 ms'
cqrs.outbox_max_retry_delay = '1 s'
cqrs.outbox_max_attempts = 1000
CONF
$node->start;
$node->safe_psql('postgres', <<"SQL");
CREATE EXTENSION pg_cqrs;
CREATE SERVER a FOREIGN DATA WRAPPER cqrs_http OPTIONS (url '${\$stub->url}', allow_http 'true', call_timeout '1h', breaker 'off');
CREATE SERVER slow FOREIGN DATA WRAPPER cqrs_http OPTIONS (url '${\$slow->url}', allow_http 'true', call_timeout '1h', breaker 'off');
-- Flags: the handlers wait, or fail, until they are set.
CREATE TABLE flag (name text);
CREATE FUNCTION set(flag text) RETURNS bool LANGUAGE sql AS \$\$ SELECT EXISTS (SELECT FROM public.flag WHERE name = \$1) \$\$;
CREATE FUNCTION handle(state jsonb, command cqrs.command) RETURNS cqrs.effect LANGUAGE plpgsql AS \$\$
BEGIN
	IF command.command_type = 'Fail' AND NOT public.set('go') THEN
		RAISE 'not yet';
	END IF;
	WHILE command.command_type = 'Hold' AND NOT public.set('go') LOOP
		PERFORM pg_sleep(0.01);
	END LOOP;
	RETURN cqrs.persist(command.command_type, command.data);
END
\$\$;
SELECT cqrs.create_entity('Order'), cqrs.on_event('Order', '*', 'cqrs.merge'), cqrs.on_command('Order', '*', 'handle');
SQL

survives($_) foreach 'terminate', 'kill', 'stop';
restored();
rests();

$node->stop;
$_->stop foreach $stub, $slow;
done_testing();

sub query
{
	my ($sql, $database) = @_;
	return $node->safe_psql($database // 'postgres', $sql);
}

sub becomes
{
	my ($condition, $what, $database) = @_;
	return pass($what) if $node->poll_query_until($database // 'postgres', "SELECT $condition");
	diag(query('SELECT service, path, state, attempt, reply_attempt, last_error FROM cqrs.outbox_status', $database));
	die "not so: $what";
}

# Enqueues one that is followed by a command to the entity of its name.
sub enqueue
{
	my ($name, $path, $command, $more, $service) = @_;
	$service //= 'a';
	return query("SELECT cqrs.enqueue('$service', 'POST', '$path?$name', reply_entity_type => 'Order', reply_entity_id => '$name', reply_command => '$command'"
		  . ($more // '') . ')');
}

sub is_at
{
	my ($id, $state, $what, $more) = @_;
	return becomes("state = '$state' AND attempt = 1" . ($more // '') . " FROM cqrs.outbox WHERE id = '$id'", $what);
}

sub end
{
	my ($how) = @_;

	if ($how eq 'stop') { $node->stop('immediate'); $node->start }
	elsif ($how eq 'terminate') { query("SELECT pg_terminate_backend(pid) FROM $_") foreach values %worker }
	else { kill KILL => query("SELECT pid FROM $worker{outbox}"); $node->poll_query_until('postgres', 'SELECT true') or die 'no server any more' }
	return;
}

# One delivery at each step, and one behind each; then the worker, or the server, is ended.
sub survives
{
	my ($how) = @_;
	my %id;

	$_->mode('/wait') foreach $stub, $slow;
	# Settled.
	$id{settled} = enqueue("$how-settled", '/status/200', 'Confirm');
	is_at($id{settled}, 'delivered', "$how: one is settled");
	# Its answer is stored; its command has failed, and will.
	$id{answered} = enqueue("$how-answered", '/status/200', 'Fail', ", ordering_key => '$how-answered', max_attempts => 1000000");
	is_at($id{answered}, 'answered', 'of one the answer is stored', ' AND reply_attempt > 0');
	# Its command is being sent.
	$id{sending} = enqueue("$how-sending", '/status/200', 'Hold', ", ordering_key => '$how-sending'");
	ok($node->poll_query_until('postgres', "SELECT wait_event FROM $worker{'outbox reply'}", 'PgSleep'), 'of one the command is being sent');
	is_at($id{sending}, 'answered', 'and not committed');
	# Sent, and not answered.
	$id{sent} = enqueue("$how-sent", '/mode', 'Confirm', ", ordering_key => '$how-sent'", 'slow');
	is_at($id{sent}, 'claimed', 'one is sent');
	# Answered by the service, but that cannot be stored.
	$id{unstored} = enqueue("$how-unstored", '/mode', 'Confirm', ", ordering_key => '$how-unstored'");
	is_at($id{unstored}, 'claimed', 'one is sent');
	my $row = $node->background_psql('postgres', on_error_stop => 0);
	$row->query_safe("BEGIN; SELECT FROM cqrs.outbox WHERE id = '$id{unstored}' FOR UPDATE");
	$stub->mode('/status/200');
	becomes("in_flight = 0 FROM cqrs.breaker('a')", 'and answered');
	is_at($id{unstored}, 'claimed', 'but that is not stored');
	# Behind all of them, where there is an order.
	enqueue("$how-behind-$_", '/status/200', 'Confirm', ", ordering_key => '$how-$_'", $_ eq 'sent' ? 'slow' : 'a')
	  foreach qw(answered sending sent unstored);
	# Claimed: what is needed to send it cannot be read.
	query("ALTER SERVER a OPTIONS (SET url '${\$stub->url}')");
	my $catalog = $node->background_psql('postgres', on_error_stop => 0);
	my $claiming = $node->background_psql('postgres', on_error_stop => 0);
	$id{claimed} = $claiming->query_safe("BEGIN; SELECT cqrs.enqueue('a', 'POST', '/status/200?$how-claimed', ordering_key => '$how-claimed',"
		  . " reply_entity_type => 'Order', reply_entity_id => '$how-claimed', reply_command => 'Confirm')");
	$catalog->query_safe('BEGIN; LOCK TABLE pg_foreign_server IN ACCESS EXCLUSIVE MODE');
	$claiming->query_safe('COMMIT');
	ok($node->poll_query_until('postgres', "SELECT wait_event_type FROM $worker{outbox}", 'Lock'), 'one is claimed');
	is_at($id{claimed}, 'claimed', 'and not sent');
	my @before = map { $_->requests } $stub, $slow;
	is(scalar(grep { $_->[2] =~ /claimed/ } @before), 0, 'so the service has not got it');

	end($how);
	if ($how eq 'terminate') { $_->query_safe('ROLLBACK') foreach $row, $catalog }
	$slow->mode('/status/200');
	query("INSERT INTO flag VALUES ('go')");
	becomes("count(*) = 10 FROM cqrs.outbox WHERE state = 'delivered'", 'all are delivered afterwards');

	my %key = map { $_->[2] =~ /\?$how-(.*)/; $1 => $_->[3] } @before;
	my %sent;
	foreach my $request (map { $_->requests } $stub, $slow)
	{
		my ($name) = $request->[2] =~ /\?$how-(.*)/;
		$sent{$name}++;
		is($request->[3], $key{$name}, "$name is sent again with the same key") if exists $key{$name};
	}
	is(join(' ', map { "$_:" . ($sent{$_} // 0) } sort keys %id), 'answered:0 claimed:1 sending:0 sent:1 settled:0 unstored:1',
		'sent again is what had no answer stored');
	is(query("SELECT count(*), count(DISTINCT entity_id) FROM cqrs.journal WHERE entity_id LIKE '$how-%'"), '10|10', 'each command was sent once');
	is(query('SELECT count(*) FROM cqrs.outbox WHERE id::text NOT IN (' . join(',', map { "'$_'" } values %id) . ')'
			  . " AND settled_at < (SELECT settled_at FROM cqrs.outbox f WHERE f.ordering_key = outbox.ordering_key AND f.id <> outbox.id)"), 0,
		'in the order of each key');
	query('DELETE FROM cqrs.outbox; DELETE FROM flag');
	return;
}

# A dump has the deliveries, at whatever step they were; the copy delivers none of them, since the original does, until it is adopted.
sub restored
{
	my $dump = PostgreSQL::Test::Utils::tempdir() . '/dump';

	$stub->mode('/wait');
	query("ALTER SERVER a OPTIONS (ADD max_concurrency '1')");
	my $answered = enqueue('copied-answered', '/status/200', 'Fail', ', max_attempts => 1000000');
	is_at($answered, 'answered', 'one is answered', ' AND reply_attempt > 0');
	my $sent = enqueue('copied-sent', '/mode', 'Confirm', ", ordering_key => 'copied'");
	is_at($sent, 'claimed', 'one is sent');
	enqueue('copied-behind', '/mode', 'Confirm', ", ordering_key => 'copied'");
	enqueue('copied-waiting', '/mode', 'Confirm');
	$node->command_ok([ 'pg_dump', '-f', $dump, $node->connstr('postgres') ], 'dump');
	query('CREATE DATABASE copy');
	$node->command_ok([ 'psql', '-Xq', '-v', 'ON_ERROR_STOP=1', '-o', '/dev/null', '-d', $node->connstr('copy'), '-f', $dump ], 'restore');
	my %key = map { split /\|/ } split /\n/, query("SELECT '/api' || path, id FROM cqrs.outbox");

	# The original goes on.
	$stub->mode('/status/200');
	query("INSERT INTO flag VALUES ('go')");
	becomes("count(*) = 4 FROM cqrs.outbox WHERE state = 'delivered'", 'the original delivers');
	$stub->requests;
	query("INSERT INTO flag VALUES ('go')", 'copy');
	is(query('SELECT string_agg(DISTINCT state, $$ $$) FROM cqrs.outbox_status', 'copy'), 'held', 'the copy holds what it has');
	query("SELECT cqrs.enqueue('a', 'POST', '/mode?in-the-copy')", 'copy');
	becomes("NOT EXISTS (SELECT FROM pg_stat_activity WHERE backend_type LIKE 'pg_cqrs outbox%' AND datname = 'copy')", 'it has no worker', 'copy');
	is(scalar($stub->requests), 0, 'and delivers nothing');
	query('SELECT cqrs.adopt()', 'copy');
	becomes("count(*) = 5 FROM cqrs.outbox WHERE state = 'delivered'", 'until it is adopted', 'copy');
	my @requests = $stub->requests;
	is(join(' ', sort map { $_->[2] } @requests), join(' ', map { "/api/mode?$_" } qw(copied-behind copied-sent copied-waiting in-the-copy)), 'each once');
	is(scalar(grep { exists $key{ $_->[2] } && $_->[3] ne $key{ $_->[2] } } @requests), 0, 'with the key that it had');
	is(query("SELECT count(*) FROM cqrs.journal WHERE entity_id LIKE 'copied-%'", 'copy'), 4, 'and each command once');
	query('DROP DATABASE copy');
	query('DELETE FROM cqrs.outbox; ALTER SERVER a OPTIONS (DROP max_concurrency)');
	return;
}

# With one slot for two databases an idle worker gives it back; enqueue brings it back.
sub rests
{
	my @databases = qw(one two);

	$node->append_conf('postgresql.conf', 'max_worker_processes = 3		# two are taken by launchers');
	$node->restart;
	foreach my $database (@databases)
	{
		query("CREATE DATABASE $database");
		query("CREATE EXTENSION pg_cqrs", $database);
		query("CREATE SERVER a FOREIGN DATA WRAPPER cqrs_http OPTIONS (url '${\$stub->url}', allow_http 'true')", $database);
	}
	foreach my $round (1, 2)
	{
		foreach my $database (@databases)
		{
			my $id = query("SELECT cqrs.enqueue('a', 'POST', '/status/200')", $database);
			becomes("state = 'delivered' FROM cqrs.outbox WHERE id = '$id'", "$database delivers", $database);
		}
	}
	becomes("cqrs.worker_state() = 'resting'", 'one has given its slot back', 'one');
	my $id = query("SELECT cqrs.enqueue('a', 'POST', '/status/200')", 'one');
	becomes("state = 'delivered' FROM cqrs.outbox WHERE id = '$id'", 'and delivers again when there is something to do', 'one');
	return;
}
