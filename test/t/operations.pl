# The queries of README.md's chapter on watching give rows exactly when something is wrong, to a role that may only watch, and what the
# next chapter says to do about it mends it.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/..";
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Stub;
use Test::More;

my $readme = slurp_file("$FindBin::Bin/../../README.md");
my ($watching) = $readme =~ /^### Watching\n(.*?)^### /ms;
my @alerts = map { s/\[|\]\(.*?\)//gr } $watching =~ /^\| (.*?\?) \| `SELECT .*` \|$/mg;
my %alert;
@alert{@alerts} = $watching =~ /^\| .*?\? \| `(SELECT .*)` \|$/mg;

my $stub = Stub->new;
my $node = PostgreSQL::Test::Cluster->new('operations');
$node->init;
$node->append_conf('postgresql.conf', "cqrs.outbox_retry_delay = '20 ms'\ncqrs.outbox_max_retry_delay = '1 s'");
$node->start;
query(<<"SQL");
CREATE EXTENSION pg_cqrs;
CREATE ROLE app;
CREATE ROLE watcher;
GRANT pg_monitor TO watcher;
CREATE SERVER s FOREIGN DATA WRAPPER cqrs_http OPTIONS (url '${\$stub->url}', allow_http 'true', max_failures '2', reset_timeout '1h');
CREATE FUNCTION do_it(state jsonb, command cqrs.command) RETURNS cqrs.effect LANGUAGE sql AS \$\$ SELECT cqrs.persist('Done', '{}') \$\$;
CREATE FUNCTION fail(state jsonb, command cqrs.command) RETURNS cqrs.effect LANGUAGE plpgsql AS \$\$ BEGIN RAISE 'no'; END \$\$;
CREATE FUNCTION ignore(event cqrs.event) RETURNS void LANGUAGE sql AS '';
SELECT cqrs.create_entity('Thing'), cqrs.on_command('Thing', 'Do', 'do_it'), cqrs.on_command('Thing', 'Late', 'fail'), cqrs.on_event('Thing', '*', 'cqrs.merge');
SELECT cqrs.create_projection('parks', 'ignore', max_retries => 0), cqrs.create_projection('stops', 'ignore', on_failure => 'stop', max_retries => 0);
SELECT cqrs.send('Thing', 't-1', 'Do');
SELECT cqrs.wait_for_projection('parks'), cqrs.wait_for_projection('stops');
SQL

is(scalar(@alerts), 9, 'there are queries');
alerts_are();
projection_fails();
mark_is_held();
breaker_opens();
outbox_gives_up();
timer_fails();
others();

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
	die "not so: $what";
}

# Exactly the queries with these words in their question have rows, from a moment on.
sub alerts_are
{
	my @words = @_;

	foreach my $question (@alerts)
	{
		my $wanted = grep { $question =~ /\Q$_\E/ } @words;
		becomes(($wanted ? '' : 'NOT ') . "EXISTS ($alert{$question})", ($wanted ? 'yes: ' : 'no: ') . $question);
		query("SET ROLE watcher; $alert{$question}");
	}
	return;
}

# What README.md says under a heading.
sub follow
{
	my ($heading) = @_;
	my ($chapter) = $readme =~ /^#### \Q$heading\E\n(.*?)^##/ms or die "no chapter: $heading";

	query($_) foreach $chapter =~ /^```sql\n(.*?)^```/msg;
	return;
}

sub projection_fails
{
	query(q(CREATE OR REPLACE FUNCTION ignore(event cqrs.event) RETURNS void LANGUAGE plpgsql AS 'BEGIN RAISE ''no''; END'));
	query(q(SELECT cqrs.send('Thing', 't-1', 'Do')));
	becomes("EXISTS ($alert{'Is anything parked?'})", 'an event is parked');
	becomes("EXISTS ($alert{'Is a projection stopped, or short of workers?'})", 'a projection has stopped');
	query(q(CREATE OR REPLACE FUNCTION ignore(event cqrs.event) RETURNS void LANGUAGE sql AS ''));
	follow('A projection has parked events, or has stopped');
	alerts_are();
	return;
}

sub mark_is_held
{
	my $session = $node->background_psql('postgres');
	$session->query(q(BEGIN; SELECT cqrs.send('Thing', 't-2', 'Do')));
	becomes("EXISTS ($alert{'Who holds all readers and projections back?'})", 'a transaction holds the mark back');
	follow('The high-water mark is held back');
	alerts_are();
	is(query(q(SELECT setconfig FROM pg_db_role_setting WHERE setrole = 'app'::regrole)), '{"idle_in_transaction_session_timeout=30 s"}', 'and will not again');
	eval { $session->quit };
	return;
}

sub breaker_opens
{
	$stub->mode('/status/503');
	query(q(SELECT cqrs.enqueue('s', 'POST', '/mode')));
	becomes("state = 'open' FROM cqrs.breaker('s')", 'the breaker opens');
	alerts_are('circuit breaker');
	$stub->mode('/status/200');
	follow('A circuit breaker is open');
	becomes("count(*) = 0 FROM cqrs.outbox WHERE state <> 'delivered'", 'what has waited is delivered');
	alerts_are();
	return;
}

sub outbox_gives_up
{
	$stub->mode('/status/404');
	my @ids = map { query($_) } (
		q(SELECT cqrs.enqueue('s', 'POST', '/mode')),
		q(SELECT cqrs.enqueue('s', 'POST', '/mode', reply_entity_type => 'Thing', reply_entity_id => 't-3', failure_command => 'Do')),
		q(SELECT cqrs.enqueue('s', 'POST', '/status/200', max_attempts => 1, reply_entity_type => 'Thing', reply_entity_id => 't-4', reply_command => 'Late')));
	becomes("count(*) = 3 FROM cqrs.outbox WHERE state IN ('dead', 'reply_failed')", 'deliveries are given up');
	alerts_are('not delivered');
	$stub->mode('/status/200');
	query(q(CREATE OR REPLACE FUNCTION fail(state jsonb, command cqrs.command) RETURNS cqrs.effect LANGUAGE sql AS $$ SELECT cqrs.persist('Done', '{}') $$));
	follow('The outbox has dead letters');
	becomes("count(*) = 0 FROM cqrs.outbox WHERE id <> '$ids[1]' AND state <> 'delivered'", 'those that can be are delivered');
	is(query("SELECT state FROM cqrs.outbox WHERE id = '$ids[1]'"), 'dead', 'one whose entity was told of the failure is left alone');
	query("SELECT cqrs.discard_outbox('$ids[1]')");
	alerts_are();
	return;
}

sub timer_fails
{
	query(q(CREATE OR REPLACE FUNCTION fail(state jsonb, command cqrs.command) RETURNS cqrs.effect LANGUAGE plpgsql AS 'BEGIN RAISE ''no''; END'));
	query(q(SELECT cqrs.schedule(now(), 'Thing', 't-5', 'Late')));
	becomes("state = 'failed' FROM cqrs.timer_status", 'a timer fails');
	alerts_are('timer');
	query(q(CREATE OR REPLACE FUNCTION fail(state jsonb, command cqrs.command) RETURNS cqrs.effect LANGUAGE sql AS $$ SELECT cqrs.persist('Done', '{}') $$));
	follow('A timer has failed');
	becomes("cqrs.state('Thing', 't-5') IS NOT NULL", 'its command is sent');
	alerts_are();
	return;
}

sub others
{
	$stub->mode('/status/503');
	query(q(ALTER SERVER s OPTIONS (ADD breaker 'off')));
	query(q(SELECT cqrs.enqueue('s', 'POST', '/mode', max_attempts => 1000)));
	query(q(UPDATE cqrs.outbox SET created_at = now() - interval '6 min' WHERE state <> 'delivered'));
	alerts_are('outbox behind');
	query(q(DELETE FROM cqrs.outbox));
	follow('The disk fills');
	follow('The primary is lost');

	query(q(CREATE DATABASE copy TEMPLATE postgres));
	is($node->safe_psql('copy', $alert{'Is the database held?'}), 't', 'a copy is held');
	return;
}
