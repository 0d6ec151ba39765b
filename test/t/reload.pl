# A worker that runs takes the new value of each setting that can be reloaded.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/..";
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Stub;
use Test::More;

my %test = (
	'cqrs.command_timeout'        => \&reloads_command_timeout,
	'cqrs.outbox_concurrency'     => \&reloads_concurrency,
	'cqrs.outbox_retry_delay'     => \&reloads_outbox_retry_delay,
	'cqrs.outbox_max_retry_delay' => \&reloads_max_retry_delay,
	'cqrs.outbox_retention'       => \&reloads_retention,
	'cqrs.retry_delay'            => \&reloads_retry_delay,
	'cqrs.store_mark'             => \&reloads_store_mark,
	'cqrs.workers'                => \&reloads_workers);

my $stub = Stub->new;
my $node = PostgreSQL::Test::Cluster->new('reload');
$node->init;
$node->append_conf('postgresql.conf', "cqrs.retry_delay = '30 s'\ncqrs.outbox_retry_delay = '1 h'\nmax_worker_processes = 16");
$node->start;
query(<<"SQL");
CREATE EXTENSION pg_cqrs;
CREATE SERVER s FOREIGN DATA WRAPPER cqrs_http OPTIONS (url '${\$stub->url}', allow_http 'true', breaker 'off');
CREATE SERVER hanging FOREIGN DATA WRAPPER cqrs_http OPTIONS (url '${\$stub->url}', allow_http 'true', call_timeout '1h');
CREATE FUNCTION ignore(event cqrs.event) RETURNS void LANGUAGE sql AS 'SELECT';
CREATE FUNCTION fail(event cqrs.event) RETURNS void LANGUAGE plpgsql AS \$\$ BEGIN RAISE 'no'; END \$\$;
CREATE FUNCTION sleep(state jsonb, command cqrs.command) RETURNS cqrs.effect LANGUAGE sql AS \$\$ SELECT cqrs.reply(to_jsonb(pg_sleep(1000))) \$\$;
SELECT cqrs.create_entity('Entity'), cqrs.on_command('Entity', 'Sleep', 'sleep');
SELECT cqrs.create_projection('split', 'ignore', partitions => 4);
SQL

is(query(q(SELECT string_agg(name, ' ' ORDER BY name) FROM pg_settings WHERE name LIKE 'cqrs.%' AND context = 'sighup')),
	join(' ', sort keys %test), 'each setting of the configuration file is tested');
$test{$_}->() foreach sort keys %test;
reloads_projection_workers();

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
	diag(query('SELECT path, state, attempt, last_error FROM cqrs.outbox_status'), query('SELECT name, state FROM cqrs.projection_status'));
	die "not so: $what";
}

sub set
{
	my ($name, $value) = @_;
	query("ALTER SYSTEM SET $name = '$value'");
	$node->reload;
	return;
}

sub workers
{
	my ($kind) = @_;
	return "count(*) FROM pg_stat_activity WHERE backend_type = 'pg_cqrs $kind worker'";
}

sub reloads_command_timeout
{
	my $waiting = query(q(SELECT cqrs.schedule(now() + interval '1 day', 'Entity', 'e', 'Sleep')));
	becomes('1 = ' . workers('timer'), 'a worker waits with a timer');
	set('cqrs.command_timeout', '100 ms');
	my $id = query(q(SELECT cqrs.schedule(now(), 'Entity', 'e', 'Sleep')));
	becomes("last_error IS NOT NULL AND clock_timestamp() - created_at < '30 s' FROM cqrs.timer_status WHERE id = '$id'", 'a command may take less time');
	query("SELECT cqrs.cancel_scheduled('$waiting'), cqrs.cancel_scheduled('$id')");
	return;
}

sub reloads_concurrency
{
	set('cqrs.outbox_concurrency', 2);
	query(q(SELECT cqrs.enqueue('hanging', 'POST', '/hang') FROM generate_series(1, 9)));
	becomes("count(*) = 2 FROM cqrs.outbox WHERE state = 'claimed'", 'so many deliveries are under way as there may be');
	set('cqrs.outbox_concurrency', 5);
	becomes("count(*) = 5 FROM cqrs.outbox WHERE state = 'claimed'", 'more, when there may be more, though none has ended');
	return;
}

sub reloads_outbox_retry_delay
{
	my $first = query(q(SELECT cqrs.enqueue('s', 'POST', '/status/503')));
	becomes("attempt = 1 AND state = 'pending' FROM cqrs.outbox WHERE id = '$first'", 'a delivery waits for a long time');
	set('cqrs.outbox_retry_delay', '1 ms');
	my $second = query(q(SELECT cqrs.enqueue('s', 'POST', '/status/503', max_attempts => 4)));
	becomes("state = 'dead' FROM cqrs.outbox WHERE id = '$second'", 'the next one for a short time');
	return;
}

sub reloads_max_retry_delay
{
	set('cqrs.outbox_max_retry_delay', '1 s');
	my $id = query(q(SELECT cqrs.enqueue('s', 'POST', '/status/503', max_attempts => 3)));
	becomes("state = 'dead' FROM cqrs.outbox WHERE id = '$id'", 'the longest time is another one');
	set('cqrs.outbox_max_retry_delay', '1 h');
	return;
}

sub reloads_retention
{
	query(q(SELECT cqrs.enqueue('s', 'POST', '/status/200')));
	becomes("count(*) = 1 FROM cqrs.outbox WHERE state = 'delivered'", 'what was delivered is kept');
	set('cqrs.outbox_retention', 0);
	becomes("count(*) = 0 FROM cqrs.outbox WHERE state = 'delivered'", 'and goes at once when it shall not be');
	return;
}

sub reloads_retry_delay
{
	query(q(SELECT cqrs.create_projection('slow', 'fail', max_retries => 2)));
	query(q(SELECT cqrs.append('Entity', 'e', ARRAY[cqrs.new_event('Happened', '{}')])));
	becomes("state = 'retrying' FROM cqrs.projection_status WHERE name = 'slow'", 'a projection waits for a long time');
	set('cqrs.retry_delay', '1 ms');
	query(q(SELECT cqrs.create_projection('quick', 'fail', max_retries => 2)));
	becomes("count(*) = 1 FROM cqrs.parked_event WHERE projection = 'quick'", 'the next one fails as often as it may');
	is(query(q(SELECT last_failed_at - first_failed_at < '15 s' FROM cqrs.parked_event WHERE projection = 'quick')), 't', 'in a short time');
	query(q(SELECT cqrs.drop_projection('slow'), cqrs.drop_projection('quick')));
	return;
}

sub reloads_store_mark
{
	set('cqrs.store_mark', 'on');
	becomes('position > 0 FROM cqrs.stored_mark', 'the mark is stored');
	set('cqrs.store_mark', 'off');
	becomes(q(count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'pg_cqrs mark worker'), 'its worker leaves');
	my $position = query(q(SELECT position FROM cqrs.append('Entity', 'e', ARRAY[cqrs.new_event('Happened', '{}')])));
	query("SELECT cqrs.wait_for_projection('split', up_to => $position, timeout => '60 s')");
	is(query("SELECT position < $position FROM cqrs.stored_mark"), 't', 'and not any more');
	return;
}

sub reloads_workers
{
	set('cqrs.workers', 'off');
	becomes(q(count(*) = 0 FROM pg_stat_activity WHERE backend_type LIKE 'pg\_cqrs % worker'), 'the workers leave, one with requests under way too');
	my $position = query(q(SELECT position FROM cqrs.append('Entity', 'e', ARRAY[cqrs.new_event('Happened', '{}')])));
	becomes(q(bool_and(state = 'off') FROM cqrs.projection_status), 'the status says so');
	set('cqrs.workers', 'on');
	becomes("min(position) >= $position FROM cqrs.projection_status", 'they come back and go on');
	return;
}

sub reloads_projection_workers
{
	set('cqrs.projection_workers', 3);
	becomes('3 = ' . workers('projection'), 'a database has more workers, by the configuration file');
	set('cqrs.projection_workers', 1);
	becomes('1 = ' . workers('projection'), 'and fewer');
	query('ALTER SYSTEM RESET cqrs.projection_workers; ALTER DATABASE postgres SET cqrs.projection_workers = 2');
	becomes('2 = ' . workers('projection'), 'or its own setting');
	return;
}
