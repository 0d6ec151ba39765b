# What goes to a service whose user mapping has a signing_secret is signed as Standard Webhooks has it, all attempts under one id; an
# event is sent as a CloudEvent, and a whole stream of them in the order of each entity; nobody can put other headers in the place of
# these, and the secret is seen nowhere.
use strict;
use warnings;
use utf8;
use FindBin;
use lib "$FindBin::Bin/..";
use HTTP::Tiny;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Stub;
use Test::More;

# The specification's own example.
my %example = (
	secret    => 'whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw',
	id        => 'msg_p5jXN8AQM9LWM0D4loKWxJek',
	timestamp => '1614265330',
	body      => '{"test": 2432232314}',
	signature => 'v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=');
my $other = 'whsec_' . ('QUJD' x 16);

my $stub = Stub->new;
my $node = PostgreSQL::Test::Cluster->new('webhooks');
$node->init(extra => [ '--encoding=UTF8', '--locale=C' ]);
$node->append_conf('postgresql.conf', "cqrs.outbox_retry_delay = '20 ms'\ncqrs.outbox_max_attempts = 1000\nlog_statement = none\nlog_min_messages = debug1");
$node->start;
$node->safe_psql('postgres', <<"SQL");
CREATE EXTENSION pg_cqrs;
CREATE SERVER s FOREIGN DATA WRAPPER cqrs_http OPTIONS (url '${\$stub->url}', allow_http 'true', breaker 'off');
CREATE SERVER plain FOREIGN DATA WRAPPER cqrs_http OPTIONS (url '${\$stub->url}', allow_http 'true', breaker 'off', event_source 'https://shop.example/a%20b');
CREATE USER MAPPING FOR PUBLIC SERVER s OPTIONS (signing_secret '$example{secret}');
CREATE ROLE nobody;
SQL

signs();
signs_deliveries();
cannot_be_forged();
sends_events();
sends_streams();
keeps_secrets();

$node->stop;
$stub->stop;
done_testing();

sub query
{
	my ($sql) = @_;
	utf8::encode($sql);
	return $node->safe_psql('postgres', $sql);
}

sub becomes
{
	my ($condition, $what) = @_;
	return pass($what) if $node->poll_query_until('postgres', "SELECT $condition");
	diag(query('SELECT service, state, attempt, last_status, last_error, count(*) FROM cqrs.outbox_status GROUP BY 1, 2, 3, 4, 5'));
	die "not so: $what";
}

# The SQLSTATE and message of a statement that fails.
sub error_of
{
	my ($sql) = @_;
	my ($rc, $out, $error) = $node->psql('postgres', $sql, extra_params => [ '-v', 'VERBOSITY=verbose' ]);
	return $error =~ /ERROR:  (.*)/ ? $1 : 'accepted';
}

sub signs
{
	my %headers = map { ("webhook-$_" => $example{$_}) } qw(id timestamp signature);
	my $answer = sub { HTTP::Tiny->new->post($stub->url . '/signed', { headers => \%headers, content => $_[0] })->{status} };

	$stub->secret($example{secret});
	is($answer->($example{body}), 200, q(the stub's check accepts the specification's example));
	is($answer->('{"test": 2432232315}'), 401, 'and no other body');

	my %body = (json => "body => '{\"a\": \"ä\"}'", text => "body_text => 'ä'", bytes => "body_bytes => '\\x00ff2e00'", 'an empty text' => "body_text => ''");
	foreach my $what (sort keys %body)
	{
		is(query("SELECT status FROM cqrs.call('s', 'POST', '/signed', $body{$what})"), 200, "a call with $what is signed");
	}
	is(query("SELECT status FROM cqrs.call('s', 'GET', '/signed')"), 200, 'so is one without a body');
	is(query("SELECT status FROM cqrs.call('plain', 'POST', '/signed', body => '1')"), 401, 'where there is no secret nothing is');
	$stub->requests;
	query("SELECT cqrs.call('s', 'POST', '/signed', body => '1', idempotency_key => 'k-1')");
	query("SELECT cqrs.call('s', 'POST', '/signed', body => '1') FROM generate_series(1, 2)");
	my @id = map { $_->[4] } $stub->requests;
	is($id[0], 'k-1', 'the idempotency key is the id');
	isnt($id[1], $id[2], 'calls without one have ids of their own');
	like($id[1], qr/^[0-9a-f-]{36}$/, 'which are UUIDs');

	$stub->secret($other);
	is(query("SELECT status FROM cqrs.call('s', 'POST', '/signed', body => '1')"), 401, 'a service with another secret refuses');
	query("ALTER USER MAPPING FOR PUBLIC SERVER s OPTIONS (SET signing_secret '$example{secret} $other')");
	foreach my $secret ($example{secret}, $other)
	{
		$stub->secret($secret);
		is(query("SELECT status FROM cqrs.call('s', 'POST', '/signed', body => '1')"), 200, 'with two secrets either will do');
	}
	return;
}

sub signs_deliveries
{
	$stub->requests;
	$stub->mode('/status/503');
	my $id = query("SELECT cqrs.enqueue('s', 'POST', '/mode', body => '{\"a\": 1}')");
	my @requests;
	for (1 .. 1800)
	{
		push @requests, $stub->requests;
		last if @requests && $requests[-1][5] ne $requests[0][5];
		select(undef, undef, undef, 0.1);
	}
	cmp_ok($requests[-1][5], '>', $requests[0][5], q(a signature's time is that of the attempt));
	cmp_ok(abs($requests[-1][5] - time), '<', 60, 'which is now');
	$stub->mode('/signed');
	becomes("state = 'delivered' FROM cqrs.outbox WHERE id = '$id'", 'the service accepts the signature of a later attempt');
	is(scalar(grep { $_->[3] ne $id || $_->[4] ne $id } @requests, $stub->requests), 0, 'the id is that of the delivery, with each attempt');
	return;
}

sub cannot_be_forged
{
	foreach my $name (qw(webhook-id Webhook-Timestamp WEBHOOK-SIGNATURE))
	{
		my $headers = "headers => '{\"$name\": \"x\"}'";
		my $error = "22023: header \"$name\" is set by the user mapping";
		is(error_of("SELECT cqrs.call('s', 'POST', '/signed', $headers)"), $error, "a caller cannot give $name");
		is(error_of("SELECT cqrs.enqueue('s', 'POST', '/signed', $headers)"), $error, 'nor who enqueues');
	}
	is(error_of("SELECT cqrs.call('s', 'POST', '/signed', idempotency_key => 'a.1')"),
		'22023: the idempotency key of a signed request has a full stop', 'nor an id that could be read as another text');
	is(query("SELECT status FROM cqrs.call('plain', 'POST', '/status/200', headers => '{\"webhook-id\": \"x\"}', idempotency_key => 'a.1')"), 200,
		'where nothing is signed, both may be');

	# Allowed when it was enqueued; then the requests of the role are signed.
	$stub->mode('/status/503');
	my $id = query("SELECT cqrs.enqueue('plain', 'POST', '/mode', headers => '{\"webhook-id\": \"x\"}')");
	query("CREATE USER MAPPING FOR PUBLIC SERVER plain OPTIONS (signing_secret '$other')");
	becomes("state = 'dead' AND last_error LIKE '%\"webhook-id\" is set by the user mapping%' FROM cqrs.outbox WHERE id = '$id'",
		'nor is one sent that was given before there was a secret');
	query('DROP USER MAPPING FOR PUBLIC SERVER plain');
	is(error_of("CREATE USER MAPPING FOR PUBLIC SERVER plain OPTIONS (signing_secret '$other', header_webhook_id 'x')"),
		'22023: option "signing_secret" and the header "webhook-id" exclude each other', 'a mapping cannot have both');
	return;
}

sub sends_events
{
	query(<<"SQL");
CREATE FUNCTION keep(state jsonb, command cqrs.command) RETURNS cqrs.effect LANGUAGE sql AS
	\$\$ SELECT cqrs.persist('Kept', command.data) \$\$;
SELECT cqrs.create_entity('Echo'), cqrs.on_command('Echo', 'Keep', 'keep'), cqrs.on_event('Echo', '*', 'cqrs.merge');
SELECT cqrs.append('Konto ä', '雄一郎"', ARRAY[cqrs.new_event('Opened', '{}'), cqrs.new_event('100% "naïve"', '{"name": "雄"}', '{"secret": 1}')]);
SELECT cqrs.append('Konto', repeat('x', 1500), ARRAY[cqrs.new_event('Opened', '{}')]);
SELECT cqrs.enqueue('plain', 'POST', '/echo', event => e, reply_entity_type => 'Echo', reply_entity_id => 'e', reply_command => 'Keep')
	FROM cqrs.journal e WHERE entity_type LIKE 'Konto%' AND version = 2;
SQL
	becomes("cqrs.state('Echo', 'e') IS NOT NULL", 'an event is delivered');
	my $echo = "FROM jsonb_path_query(cqrs.state('Echo', 'e'), '\$.body') b";
	is(query("SELECT convert_to(b ->> 'body', 'UTF8') = convert_to('{\"name\": \"雄\"}', 'UTF8'), b -> 'headers' ->> 'content-type' $echo"),
		't|application/json', 'its data is the body');
	my %sent = map { split /\|/ } split /\n/, query("SELECT key, value $echo, jsonb_each_text(b -> 'headers') WHERE key LIKE 'ce-%'");
	my ($position, $time) = split /\|/,
	  query(q(SELECT position, to_char(created_at, 'YYYY-MM-DD"T"HH24:MI:SS.') FROM cqrs.journal WHERE entity_type LIKE 'Konto%' AND version = 2));
	like(delete $sent{'ce-time'}, qr/^\Q$time\E\d{1,6}\+00:00$/, 'the time is that of RFC 3339');
	is_deeply(\%sent, {
		'ce-specversion'   => '1.0',
		'ce-id'            => $position,
		'ce-source'        => 'https://shop.example/a%2520b',
		'ce-type'          => '100%25%20%22na%C3%AFve%22',
		'ce-subject'       => 'Konto%20%C3%A4/%E9%9B%84%E4%B8%80%E9%83%8E%22',
		'ce-entityversion' => '2',
		'ce-schemaversion' => '1'
	}, 'the rest is in headers, percent-encoded');

	is(error_of("SELECT cqrs.enqueue('plain', 'POST', headers => '{\"$_\": \"x\"}', event => e) FROM cqrs.journal e LIMIT 1"),
		"22023: header \"$_\" is set by the event", "nobody else gives $_") foreach qw(ce-id CE-Other);
	query("SELECT cqrs.enqueue('plain', 'POST', '/status/200', event => e) FROM cqrs.journal e WHERE entity_id LIKE 'xxx%'");
	becomes("count(*) = 1 FROM cqrs.outbox WHERE length(ordering_key) = 32 AND state = 'delivered'", 'however long its entity is named');
	return;
}

# Each event arrives, those of an entity in order, though the service fails now and then.
sub sends_streams
{
	my $sent = sub { return map { $_->[2] =~ /\?(.*)/ } $stub->requests };

	$stub->secret($example{secret});
	$stub->mode('/status/503');
	$stub->requests;
	query(<<'SQL');
CREATE FUNCTION send_webhook(event cqrs.event) RETURNS void LANGUAGE sql AS $$
	SELECT cqrs.enqueue('s', 'POST', '/mode?' || event.entity_id || '-' || lpad(event.version::text, 3, '0'), event => event)
$$;
SELECT cqrs.create_projection('webhooks', 'send_webhook', entity_types => '{Streamed}');
SELECT cqrs.append('Streamed', (i % 3)::text, ARRAY[cqrs.new_event('Happened', '{}')]) FROM generate_series(1, 60) i;
SELECT cqrs.wait_for_projection('webhooks');
SQL
	becomes("count(*) >= 3 FROM cqrs.outbox WHERE state <> 'delivered' AND attempt > 1", 'the service fails');
	is(query('SELECT string_agg(DISTINCT ordering_key, $$ $$) FROM cqrs.outbox WHERE ordering_key LIKE $$Streamed%$$'), 'Streamed/0 Streamed/1 Streamed/2',
		'the entity is the ordering key');
	$stub->mode('/signed');
	becomes("count(*) = 60 FROM cqrs.outbox WHERE ordering_key LIKE 'Streamed/%' AND state = 'delivered'", 'all arrive, and are signed');
	my @all = $sent->();
	my %seen;
	@all = grep { !$seen{$_}++ } @all;
	foreach my $entity (0 .. 2)
	{
		is_deeply([ grep { /^$entity-/ } @all ], [ map { sprintf '%d-%03d', $entity, $_ } 1 .. 20 ], "those of entity $entity in their order");
	}
	return;
}

sub keeps_secrets
{
	my $secrets = join '|', map { quotemeta s/^whsec_//r } $example{secret}, $other;

	# The statements that set them are not logged; those of the tests above that failed with one in it are.
	my $log = join "\n", grep { !/STATEMENT:/ } split /\n/, slurp_file($node->logfile);
	unlike($log, qr/$secrets/, 'the secret is not in the log');
	unlike(query('SELECT string_agg(o::text, $$ $$) FROM cqrs.outbox o'), qr/$secrets/, 'nor in the table of the outbox');
	unlike(query("SELECT cqrs.call('s', 'POST', '/echo', body => '1')::text"), qr/$secrets/, 'nor in what is sent');
	is(query('SET ROLE nobody; SELECT count(umoptions) FROM pg_user_mappings'), 0, 'other roles do not see it in the mapping');
	return;
}
