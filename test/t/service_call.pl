# What cqrs.call sends arrives as it was meant, what a service answers is returned whatever it is, an answer that does not come or
# cannot be is an error that says whether the request may have arrived, and no call goes where it should not.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/..";
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Stub;
use Test::More;

my $stub = Stub->new(tls => 1);
my $node = PostgreSQL::Test::Cluster->new('service');
$node->init(extra => [ '--encoding=UTF8', '--locale=C' ]);
# What the environment says of proxies must not matter.
$ENV{$_} = 'http://127.0.0.1:1/' for qw(http_proxy https_proxy all_proxy HTTPS_PROXY ALL_PROXY);
$node->start;
$node->safe_psql('postgres', <<"SQL");
CREATE EXTENSION pg_cqrs;
CREATE SERVER s FOREIGN DATA WRAPPER cqrs_http OPTIONS (url '${\$stub->url}', allow_http 'true', call_timeout '60s', breaker 'off');
CREATE ROLE app;
GRANT USAGE ON FOREIGN SERVER s TO app;
GRANT EXECUTE ON FUNCTION cqrs.call TO app;
CREATE USER MAPPING FOR app SERVER s OPTIONS (bearer_token 'of-app', header_x_tenant 'blue');
CREATE USER MAPPING FOR PUBLIC SERVER s OPTIONS (user 'everybody', password 'pass');
-- The SQLSTATE and message of a call that fails, or its status.
CREATE FUNCTION try(service text, path text, method text = 'GET', key text = NULL, timeout interval = NULL) RETURNS text LANGUAGE plpgsql AS \$\$
DECLARE
	detail text;
BEGIN
	RETURN (SELECT status FROM cqrs.call(service, method, path, idempotency_key => key, timeout => timeout));
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL;
	RETURN concat_ws(' | ', SQLSTATE, SQLERRM, detail);
END
\$\$;
SQL

sends();
answers();
fails();
secrets();
connections();
addresses();
secure();

$node->stop;
$stub->stop;
done_testing();

sub query
{
	my ($sql) = @_;
	return $node->safe_psql('postgres', $sql);
}

sub sends
{
	is(query("SELECT body ->> 'method', body ->> 'target' FROM cqrs.call('s', 'get', '/echo')"), 'GET|/api/echo', 'a request to a path');
	is(query("SELECT body ->> 'target' FROM cqrs.call('s', 'GET', 'echo?a=1', query => '{\"b c\": [\"x&y\", 2], \"d\": true, \"e\": null, \"f\": \"\\u00e4\"}')"),
		'/api/echo?a=1&d=true&f=%C3%A4&b%20c=x%26y&b%20c=2', 'a query is added and escaped');
	$stub->requests;
	query("SELECT cqrs.call('s', 'GET', '$_')") for '//other.invalid/a', '@other.invalid', ':80/', '/%252e%252e', '?x=/../y';
	is(join(' ', map { $_->[2] } $stub->requests), '/api//other.invalid/a /api/@other.invalid /api/:80/ /api/%252e%252e /api?x=/../y',
		'a path stays below the base of the URL');
	for my $method (qw(POST PUT PATCH DELETE))
	{
		is( query("SELECT body ->> 'method', body ->> 'body', body -> 'headers' ->> 'content-type'"
				  . " FROM cqrs.call('s', '$method', '/echo', body => '{\"amount\": 5}')"),
			"$method|{\"amount\": 5}|application/json", "$method with JSON");
	}
	is(query("SELECT status, length(content), headers ->> 'content-length' FROM cqrs.call('s', 'HEAD', '/huge?3')"),
		'200|0|3145728', 'HEAD has no body');
	is(query("SELECT body ->> 'body', body -> 'headers' ->> 'content-type' FROM cqrs.call('s', 'POST', '/echo', body_text => E'caf\\u00e9')"),
		"caf\xc3\xa9|text/plain; charset=utf-8", 'text');
	is(query("SELECT body -> 'headers' ->> 'content-length', body -> 'headers' ->> 'content-type' FROM cqrs.call('s', 'POST', '/echo', body_bytes => '\\x010203')"),
		'3|application/octet-stream', 'bytes');
	is(query("SELECT length(body ->> 'body') FROM cqrs.call('s', 'POST', '/echo', body_text => repeat('x', 500000))"), '500000', 'much text');
	is(query("SELECT method, body -> 'headers' ->> 'content-length', body -> 'headers' ? 'content-type'"
			  . " FROM unnest(ARRAY['POST', 'PUT', 'PATCH', 'DELETE', 'GET']) method, cqrs.call('s', method, '/echo')"),
		"POST|0|f\nPUT|0|f\nPATCH|0|f\nDELETE||f\nGET||f", 'without a body');
	is(query("SELECT body -> 'headers' ->> 'x-a', body -> 'headers' ->> 'accept', body -> 'headers' ->> 'content-type', body -> 'headers' ->> 'x-empty'"
			  . " FROM cqrs.call('s', 'POST', '/echo', body => '1', headers => '{\"X-A\": \"b\", \"Accept\": \"text/html\", \"Content-Type\": \"application/x\", \"X-Empty\": \"\"}')"),
		'b|text/html|application/x|', 'headers of the caller');
	is(query("SET cqrs.traceparent = '00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01';"
			  . " SELECT body -> 'headers' ->> 'traceparent' FROM cqrs.call('s', 'GET', '/echo')"),
		'00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01', 'the trace context is passed on');
	is(query("SELECT body -> 'headers' ->> 'idempotency-key', body -> 'headers' ? 'expect' FROM cqrs.call('s', 'POST', '/echo', body => '1', idempotency_key => 'c-1')"),
		'c-1|f', 'an idempotency key');
	is(query("SELECT body -> 'headers' ->> 'authorization' FROM cqrs.call('s', 'GET', '/echo')"),
		'Basic ZXZlcnlib2R5OnBhc3M=', 'credentials of PUBLIC');
	is(query("SET ROLE app; SELECT body -> 'headers' ->> 'authorization', body -> 'headers' ->> 'x-tenant' FROM cqrs.call('s', 'GET', '/echo')"),
		'Bearer of-app|blue', 'credentials of the role');
	query("CREATE SERVER named FOREIGN DATA WRAPPER cqrs_http OPTIONS (url '${\$stub->url}', allow_http 'true', call_timeout '60s');"
		  . " CREATE USER MAPPING FOR PUBLIC SERVER named OPTIONS (header_content_type 'application/x', header_user_agent 'shop', header_traceparent 'of-mapping')");
	my $traced = "SET cqrs.traceparent = '00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01'";
	is(query("$traced; SELECT body -> 'headers' ->> 'content-type', body -> 'headers' ->> 'user-agent', body -> 'headers' ->> 'traceparent'"
			  . " FROM cqrs.call('named', 'POST', '/echo', body => '1')"),
		'application/x|shop|of-mapping', 'headers of the mapping are sent, and once');
	my $id = query("$traced; SELECT cqrs.enqueue('named', 'POST', '/echo', body => '1')");
	ok($node->poll_query_until('postgres', "SELECT state = 'delivered' FROM cqrs.outbox WHERE id = '$id'"), 'also where the context is of the session that enqueued');
	(undef, my $out, my $error) = $node->psql('postgres', "ALTER USER MAPPING FOR PUBLIC SERVER named OPTIONS (ADD header_idempotency_key 'k');"
			  . " SELECT cqrs.call('named', 'POST', '/echo', idempotency_key => 'c-1')");
	like($error, qr/there are two idempotency keys/, 'nor two idempotency keys');
	is(query("CREATE FUNCTION definer() RETURNS text LANGUAGE sql SECURITY DEFINER AS \$\$ SELECT body -> 'headers' ->> 'authorization' FROM cqrs.call('s', 'GET', '/echo') \$\$;"
			  . " ALTER FUNCTION definer OWNER TO app; SELECT definer()"), 'Bearer of-app', 'the effective role counts');
	return;
}

sub answers
{
	is(query("SELECT string_agg(status::text, ',') FROM unnest(ARRAY[200, 201, 301, 404, 418, 500, 503]) n, cqrs.call('s', 'GET', '/status/' || n)"),
		'200,201,301,404,418,500,503', 'any status is an answer');
	is(query("SELECT status, headers ->> 'location' FROM cqrs.call('s', 'GET', '/redirect')"), '302|http://127.0.0.1:1/', 'a redirect is not followed');
	is(query("SELECT headers ->> 'retry-after' FROM cqrs.call('s', 'GET', '/retry_after/7')"), '7', 'Retry-After is there');
	is(query("SELECT headers - 'content-length' FROM cqrs.call('s', 'GET', '/headers')"),
		'{"x-one": "1", "x-high": "caf?", "x-empty": "", "set-cookie": ["a=1", "b=2"]}', 'headers of all kinds');
	is(query("SELECT convert_from(content, 'UTF8'), body IS NULL FROM cqrs.call('s', 'GET', '/gzip')"), 'unpacked|t', 'gzip is unpacked');
	is(query("SELECT string_agg(concat_ws(':', kind, coalesce(body::text, 'NULL')), ' ') FROM unnest(ARRAY['number', 'problem', 'broken', 'nul', 'utf8', 'latin1', 'empty', 'deep']) kind,"
			  . " LATERAL cqrs.call('s', 'GET', '/json/' || kind)"),
		"number:42 problem:{\"title\": \"bad\"} broken:NULL nul:NULL utf8:\"caf\xc3\xa9\" latin1:NULL empty:NULL deep:NULL", 'the body is jsonb where it is JSON');
	is(query("SELECT encode(content, 'escape') FROM cqrs.call('s', 'GET', '/json/latin1')"), '"caf\351"', 'and as it came in any case');
	return;
}

sub fails
{
	my $start = time;

	like(query("SELECT try('s', '/hang', timeout => '300 ms')"), qr/^QR011 \| call of service "s" timed out, its outcome is unknown/, 'a timeout');
	like(query("SELECT try('s', '/hang', 'POST', 'key-7', '300 ms')"), qr/^QR011.*Idempotency key: key-7/, 'tells the idempotency key');
	like(query("SELECT try('s', '/drip', timeout => '300 ms')"), qr/^QR011.*timed out/, 'a drip does not keep it alive');
	query("ALTER SERVER s OPTIONS (SET call_timeout '300ms')");
	like(query("SELECT try('s', '/hang', timeout => '1 h')"), qr/^QR011/, 'the caller cannot go beyond the timeout of the server');
	query("ALTER SERVER s OPTIONS (SET call_timeout '60s')");
	cmp_ok(time - $start, '<', 50, 'all in time');
	like(query("SELECT try('s', '$_', 'POST')"), qr/^QR011 \| call of service "s" broke off, its outcome is unknown/, "broke off: $_")
	  for '/reset', '/close', '/cut', map { "/malformed/$_" } 0 .. 5;
	like(query("SELECT try('s', '$_')"), qr/^54000 \| the answer of service "s" is too large/, "too large: $_") for '/huge?2', '/bomb?300', '/many_headers';
	is(query("ALTER SERVER s OPTIONS (ADD max_response_size '3MB'); SELECT length(content) FROM cqrs.call('s', 'GET', '/bomb?3')"), 3 * 1024 * 1024, 'up to the limit');
	like(query("SELECT try('s', '/bomb?4')"), qr/^54000/, 'and not beyond');

	query("CREATE SERVER down FOREIGN DATA WRAPPER cqrs_http OPTIONS (url 'http://127.0.0.1:1', allow_http 'true', breaker 'off')");
	like(query("SELECT try('down', '/', 'POST')"), qr/^QR012 \| service "down" was not reached/, 'a refused connection');
	query("CREATE SERVER nowhere FOREIGN DATA WRAPPER cqrs_http OPTIONS (url 'https://nowhere.invalid', breaker 'off')");
	like(query("SELECT try('nowhere', '/')"), qr/^QR012 \| service "nowhere" was not reached/, 'a name that is none');

	my ($rc, $out, $err) = $node->psql('postgres', "BEGIN; SELECT cqrs.append('A', 'a', ARRAY[cqrs.new_event('E', '{}')]); SELECT status FROM cqrs.call('s', 'GET', '/echo')");
	like($err, qr/cannot call a service in a transaction that has appended/, 'no call after an append');
	is(query("SET cqrs.allow_call_after_append = on; BEGIN; SELECT version FROM cqrs.append('A', 'a', ARRAY[cqrs.new_event('E', '{}')]);"
			  . " SELECT status FROM cqrs.call('s', 'GET', '/echo'); COMMIT"), "1\n200", 'unless a superuser allows it');
	return;
}

# What a user mapping has is in no message, in no view that others see, and in the log only where the statements are that set it.
sub secrets
{
	my $secret = qr/of-app|everybody:|ZXZlcnlib2R5|Bearer/;
	my $messages = '';

	$node->append_conf('postgresql.conf', "log_min_messages = debug1\nlog_statement = none");
	$node->restart;
	my $before = -s $node->logfile;
	foreach my $path ('/status/503', '/reset', '/malformed/1', '/huge?2', '/cut')
	{
		(undef, my $out, my $error) = $node->psql('postgres', "SET client_min_messages = debug5; SET ROLE app; SELECT cqrs.call('s', 'GET', '$path')");
		$messages .= "$out\n$error\n";
	}
	(undef, my $out, my $error) = $node->psql('postgres', "SET ROLE app; SELECT cqrs.call('s', 'GET', '/echo', headers => '{\"Authorization\": \"x\"}')");
	like($error, qr/header "Authorization" is set by the user mapping/, 'credentials are not replaced');
	my $caller = $node->background_psql('postgres', on_error_stop => 0);
	$caller->query_until(qr/asked/, "SET ROLE app;\n\\echo asked\nSELECT cqrs.call('s', 'GET', '/hang');\n");
	$node->poll_query_until('postgres', "SELECT in_flight = 1 FROM cqrs.breaker('s')") or die 'nobody calls';
	query("GRANT EXECUTE ON FUNCTION cqrs.enqueue TO app; SET ROLE app; SELECT cqrs.enqueue('s', 'POST', '/hang')");
	$node->poll_query_until('postgres', "SELECT in_flight = 2 FROM cqrs.breaker('s')") or die 'nothing is delivered';
	$messages .= query('SELECT * FROM pg_stat_activity; SELECT * FROM cqrs.breaker_status; SELECT * FROM cqrs.outbox; SELECT * FROM cqrs.outbox_status');
	query("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE '%/hang%' AND pid <> pg_backend_pid()");
	unlike($messages, $secret, 'no credentials in messages and views');
	unlike(substr(slurp_file($node->logfile), $before), $secret, 'nor in the log');
	return;
}

# Connections are kept, and a request that may not arrive twice never goes over one that may be closed.
sub connections
{
	my %connections;

	$stub->requests;
	query(join '', map { "SELECT status FROM cqrs.call('s', 'GET', '/status/200'); " } 1 .. 20);
	$connections{ $_->[0] }++ for $stub->requests;
	is(join(',', values %connections), '20', 'twenty requests, one connection');

	# libcurl repeats what got no answer on a kept connection.
	my $statements = "SELECT try('s', '/status/200', 'PUT'); SELECT try('s', '/close_kept', '%s', %s)";
	is(query(sprintf $statements, 'PUT', 'NULL'), "200\n200", 'a repeatable request is sent again');
	is(scalar(grep { $_->[2] eq '/api/close_kept' } $stub->requests), 2, 'so it arrives twice');
	is(query(sprintf $statements, 'POST', "'k'"), "200\n200", 'and one that has a key');
	is(join(',', map { $_->[3] } grep { $_->[2] eq '/api/close_kept' } $stub->requests), 'k,k', 'with the same key');
	is(query(sprintf $statements, 'POST', 'NULL'), "200\n200", 'one that has none gets a new connection');
	is(scalar(grep { $_->[2] eq '/api/close_kept' } $stub->requests), 1, 'and arrives once');
	return;
}

# By whatever name, an address that no service has is not connected to.
sub addresses
{
	my $port = $stub->port;
	my $n = 0;

	for my $host ('169.254.169.254', '0xa9fea9fe', '2852039166', '0251.0376.0251.0376', '[::ffff:169.254.169.254]', '[::ffff:a9fe:a9fe]', '[64:ff9b::a9fe:a9fe]',
		'[2002:a9fe:a9fe::1]', '[fe80::1]', '[fd00:ec2::254]', '[ff02::1]', '0.0.0.0', '0', '[::]', '100.100.100.200', '224.0.0.1', '255.255.255.255')
	{
		$n++;
		query("CREATE SERVER refused$n FOREIGN DATA WRAPPER cqrs_http OPTIONS (url 'http://$host:$port', allow_http 'true', call_timeout '1s')");
		like(query("SELECT try('refused$n', '/')"), qr/^QR012 \| service "refused$n" is at an address that is not called/, "refused: $host");
		is(query("SELECT failures FROM cqrs.breaker('refused$n')"), '0', 'which is no failure of the service');
	}
	for my $host ('127.0.0.1', '0x7f.1', '2130706433', '127.1', '[::ffff:127.0.0.1]', 'localhost')
	{
		$n++;
		query("CREATE SERVER loopback$n FOREIGN DATA WRAPPER cqrs_http OPTIONS (url 'http://$host:$port', allow_http 'true', call_timeout '10s')");
		is(query("SELECT try('loopback$n', '/status/200')"), '200', "loopback is allowed: $host");
	}
	$stub->requests;
	is(query("SET cqrs.allow_link_local_addresses = on; SELECT try('refused12', '/status/200')"), '200', 'a superuser can allow the others');
	is(scalar($stub->requests), 1, 'and only then are they called');
	return;
}

sub secure
{
	my $port = $stub->tls_port;
	my $ca = $stub->file('ca.crt');

	query("CREATE SERVER t FOREIGN DATA WRAPPER cqrs_http OPTIONS (url 'https://localhost:$port', breaker 'off', call_timeout '60s')");
	like(query("SELECT try('t', '/echo')"), qr/^QR012.*certificate/, 'an unknown authority');
	query("ALTER SERVER t OPTIONS (ADD sslrootcert '$ca')");
	is(query("SELECT body ->> 'method', body ->> 'client' IS NULL FROM cqrs.call('t', 'GET', '/echo')"), 'GET|t', 'a known one');
	query("CREATE USER MAPPING FOR CURRENT_USER SERVER t OPTIONS (sslcert '${\$stub->file('client.crt')}', sslkey '${\$stub->file('client.key')}')");
	is(query("SELECT body ->> 'client' FROM cqrs.call('t', 'GET', '/echo')"), 'client', 'with a certificate of the client');
	query("ALTER SERVER t OPTIONS (SET url 'https://127.0.0.2:$port')");
	like(query("SELECT try('t', '/echo')"), qr/^QR012/, 'another name than the certificate has');
	query("ALTER SERVER t OPTIONS (SET url 'https://127.0.0.1:${\$stub->port}')");
	like(query("SELECT try('t', '/echo')"), qr/^QR012/, 'no TLS at all');
	query("ALTER SERVER t OPTIONS (SET url 'https://127.0.0.1:$port', SET sslrootcert '/nowhere')");
	like(query("SELECT try('t', '/echo')"), qr/^QR012/, 'no file of authorities');
	return;
}
