-- What a call cannot be is refused before anything is sent: nothing here reaches the network or a circuit breaker.
\set SHOW_CONTEXT never
\set VERBOSITY terse
CREATE ROLE regress_service;
CREATE SERVER s FOREIGN DATA WRAPPER cqrs_http OPTIONS (url 'https://s.invalid/api');
CREATE USER MAPPING FOR PUBLIC SERVER s OPTIONS (bearer_token 'top-secret', header_x_api_key 'top-secret');
CREATE FUNCTION try(path text DEFAULT '', headers jsonb DEFAULT NULL, query jsonb DEFAULT NULL, idempotency_key text DEFAULT NULL) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    RETURN cqrs.call('s', 'POST', path, headers => headers, query => query, idempotency_key => idempotency_key);
EXCEPTION WHEN OTHERS THEN
    RETURN SQLSTATE || ': ' || SQLERRM;
END
$$;

-- The path stays below the base, and is percent-encoded.
SELECT path, try(path) FROM unnest(ARRAY['..', '/..', '/../admin', '/a/../b', '/.', '/a/.', '/%2e%2e/x', '/%2E./x', '/a%2f..%2fb', '/a%5c..%5cb', '/..%00',
    '\..\x', '/a b', '/ä', E'/a\r\nHost: evil', E'/a\tb', '/a#b', E'/\x01', '/%00']) path;
SELECT cqrs.call('s', 'GET', NULL);
-- What looks like it and does not lead out is let through, so that the breaker is asked, which is held open here.
SELECT cqrs.force_open('s');
SELECT path, try(path) FROM unnest(ARRAY['', '/', 'a', '/...', '/..a', '/a..', '/a.b', '?x=/../y', '/a?x=..', '//other.invalid/a', '@other.invalid', ':80/', '/a%20b', '/%252e%252e']) path;
SELECT cqrs.reset_breaker('s');
-- Neither a header's name nor its value ends the line; what frames the message and what the user mapping sets is not the caller's.
SELECT headers, try(headers => headers) FROM unnest(ARRAY['[]', '"x"', '{"X-A": {"b": 1}}', '{"X A": "1"}', '{"": "1"}', '{"X:": "1"}', '{"X-A": "a\r\nX-B: b"}',
    '{"X-A": "a\nb"}', '{"X-A\r\nX-B": "b"}', '{"X-A": ["ok", "a\u0001"]}', '{"Host": "evil"}', '{"content-length": 3}', '{"Transfer-Encoding": "chunked"}',
    '{"CONNECTION": "close"}', '{"authorization": "Bearer other"}', '{"X-Api-Key": "other"}']::jsonb[]) headers;
SELECT try(query => '[]'), try(query => '{"a": {"b": 1}}'), try(query => '{"a": [{"b": 1}]}');
SELECT try(idempotency_key => E'a\nb'), try(idempotency_key => 'a', headers => '{"Idempotency-Key": "b"}');
-- One body at most, and none where HTTP has none.
SELECT cqrs.call('s', 'POST', body => '1', body_text => '1');
SELECT cqrs.call('s', 'POST', body_text => '1', body_bytes => '1');
SELECT cqrs.call('s', 'GET', body => '1');
SELECT cqrs.call('s', 'head', body_text => '');
SELECT cqrs.call('s', 'TRACE'), cqrs.call('s', 'GET');
SELECT cqrs.call('s', E'GET / HTTP/1.1\nX: ');
SELECT cqrs.call(NULL, 'GET');
SELECT cqrs.call('s', NULL);
SELECT cqrs.call('s', 'GET', timeout => '0');
SELECT cqrs.call('s', 'GET', timeout => '-1 s');

-- A trace context has the form that W3C gives it.
SET cqrs.traceparent = '00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01';
SET cqrs.traceparent = '00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01';
SET cqrs.traceparent = '00-00000000000000000000000000000000-00f067aa0ba902b7-01';
SET cqrs.traceparent = '00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01';
SET cqrs.traceparent = 'ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01';
SET cqrs.traceparent = '00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7';
SET cqrs.traceparent = E'00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0\n';
RESET cqrs.traceparent;

-- It takes USAGE on the server, and EXECUTE on the function.
SET ROLE regress_service;
SELECT cqrs.call('s', 'GET');
RESET ROLE;
GRANT EXECUTE ON FUNCTION cqrs.call TO regress_service;
SET ROLE regress_service;
SELECT cqrs.call('s', 'GET');
RESET ROLE;
SELECT cqrs.call('nobody', 'GET');

-- Not in a transaction that has appended, which all readers would wait for, nor in an event handler.
BEGIN;
SELECT version FROM cqrs.append('service.A', 'a', ARRAY[cqrs.new_event('E', '{}')]);
\set VERBOSITY default
SELECT cqrs.call('s', 'GET');
\echo :SQLSTATE
\set VERBOSITY terse
ROLLBACK;
CREATE FUNCTION calls(state jsonb, event cqrs.event) RETURNS jsonb LANGUAGE sql AS $$ SELECT to_jsonb(cqrs.call('s', 'GET')) $$;
CREATE FUNCTION begins(state jsonb, event cqrs.event) RETURNS jsonb LANGUAGE sql AS $$ SELECT to_jsonb(cqrs.begin_call('s')) $$;
SELECT cqrs.create_entity('service.A');
SELECT cqrs.on_event('service.A', 'Calls', 'calls'), cqrs.on_event('service.A', 'Begins', 'begins');
SELECT version FROM cqrs.append('service.A', 'calls', ARRAY[cqrs.new_event('Calls', '{}')]);
SELECT version FROM cqrs.append('service.A', 'begins', ARRAY[cqrs.new_event('Begins', '{}')]);
SELECT cqrs.state('service.A', 'calls');
\echo :SQLSTATE
SELECT cqrs.state('service.A', 'begins');
SELECT cqrs.drop_entity('service.A');

-- A breaker that is held open rejects a call without a look at the network. None of the above has been counted.
SELECT calls, rejected FROM cqrs.breaker('s');
SELECT cqrs.force_open('s');
SELECT cqrs.call('s', 'GET');
\echo :SQLSTATE
SELECT calls, rejected FROM cqrs.breaker('s');

DROP FUNCTION try, calls, begins;
DROP SERVER s CASCADE;
DROP OWNED BY regress_service;
DROP ROLE regress_service;
