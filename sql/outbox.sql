-- An order is checked when it is given and takes place with its transaction; nothing here reaches the network, since the breaker is held open.
\set SHOW_CONTEXT never
\set VERBOSITY terse
CREATE ROLE regress_outbox;
CREATE SERVER s FOREIGN DATA WRAPPER cqrs_http OPTIONS (url 'https://s.invalid/api', breaker 'forced_open');
CREATE FUNCTION outbox_handle(state jsonb, command cqrs.command) RETURNS cqrs.effect LANGUAGE sql AS $$ SELECT cqrs.persist('Done', command.data) $$;
SELECT cqrs.create_entity('outbox.Order');
SELECT cqrs.on_command('outbox.Order', 'Confirm', 'outbox_handle'), cqrs.on_event('outbox.Order', '*', 'cqrs.merge');
-- Waits until no row is claimed, and the first of each service was tried, and gives the states.
CREATE FUNCTION states() RETURNS TABLE (method text, state text, attempt integer, last_error text) LANGUAGE plpgsql AS $$
BEGIN
    FOR i IN 1 .. 1000 LOOP
        RETURN QUERY SELECT o.method, o.state::text, o.attempt, o.last_error FROM cqrs.outbox_status o
            WHERE NOT EXISTS (SELECT FROM cqrs.outbox c WHERE c.state = 'claimed' OR (c.state = 'pending' AND c.last_error IS NULL
                AND NOT EXISTS (SELECT FROM cqrs.outbox b WHERE b.service = c.service AND b.number < c.number))) ORDER BY o.created_at;
        EXIT WHEN FOUND;
        PERFORM pg_sleep(0.01);
    END LOOP;
END
$$;

-- The arguments are those of a call.
SELECT cqrs.enqueue(NULL, 'POST');
SELECT cqrs.enqueue('s', NULL);
SELECT cqrs.enqueue('s', 'POST', NULL);
SELECT cqrs.enqueue('nobody', 'POST');
SELECT cqrs.enqueue('s', 'TRACE');
SELECT cqrs.enqueue('s', 'POST', '/../a');
SELECT cqrs.enqueue('s', 'POST', '/..;x/a');
SELECT cqrs.enqueue('s', 'POST', 'a/%2e%2e;');
SELECT cqrs.enqueue('s', 'GET', body => '1');
SELECT cqrs.enqueue('s', 'POST', body => '1', body_text => '1');
SELECT cqrs.enqueue('s', 'POST', headers => '{"X-A": "a\r\nX-B: b"}');
SELECT cqrs.enqueue('s', 'POST', headers => '{"Idempotency-Key": "mine"}');
SELECT cqrs.enqueue('s', 'POST', max_attempts => 0);
SELECT cqrs.enqueue('s', 'POST', ordering_key => repeat('x', 1025));
-- A reply names an entity and a command that it handles.
SELECT cqrs.enqueue('s', 'POST', reply_command => 'Confirm');
SELECT cqrs.enqueue('s', 'POST', reply_entity_type => 'outbox.Order', reply_entity_id => 'o-1');
SELECT cqrs.enqueue('s', 'POST', reply_entity_type => 'outbox.Nobody', reply_entity_id => 'o-1', reply_command => 'Confirm');
\echo :SQLSTATE
SELECT cqrs.enqueue('s', 'POST', reply_entity_type => 'outbox.Order', reply_entity_id => 'o-1', failure_command => 'Unknown');
\echo :SQLSTATE
SELECT count(*) FROM cqrs.outbox;

-- An event is a body, whose headers and ordering key come with it.
CREATE FUNCTION outbox_event(entity_id text, event_type text DEFAULT 'Done') RETURNS cqrs.event LANGUAGE sql AS $$
    SELECT ROW(7, 1, 'outbox.Order', entity_id, 2, event_type, 3, '{"amount": 5}', '{"secret": 1}', '2026-01-02 03:04:05.6+00')::cqrs.event $$;
SELECT cqrs.enqueue('s', 'POST', body => '1', event => outbox_event('o-1'));
SELECT cqrs.enqueue('s', 'POST', headers => '{"X-A": "1", "Ce-Id": "8"}', event => outbox_event('o-1'));
SELECT cqrs.enqueue('s', 'POST', headers => '[]', event => outbox_event('o-1'));
SELECT cqrs.enqueue('s', 'GET', event => outbox_event('o-1'));
SELECT cqrs.enqueue('s', 'POST', event => outbox_event(NULL));
BEGIN;
SELECT cqrs.enqueue('s', 'POST', event => outbox_event('o-1')) IS NOT NULL;
SELECT cqrs.enqueue('s', 'POST', headers => '{"X-A": "1"}', ordering_key => 'mine', event => outbox_event('100% "o"', 'Ge' || U&'\00e4' || 'ndert')) IS NOT NULL;
SELECT cqrs.enqueue('s', 'POST', event => outbox_event(repeat('x', 2000))) IS NOT NULL;
SELECT ordering_key, jsonb_pretty(headers - CASE WHEN length(ordering_key) > 20 THEN 'ce-subject' ELSE '' END) AS headers, content_type, convert_from(body, 'UTF8') AS body
    FROM cqrs.outbox ORDER BY number;
ROLLBACK;

-- It takes EXECUTE on the function, USAGE on the server, and the right to send the commands.
SET ROLE regress_outbox;
SELECT cqrs.enqueue('s', 'POST');
RESET ROLE;
GRANT EXECUTE ON FUNCTION cqrs.enqueue, cqrs.retry_outbox, cqrs.discard_outbox TO regress_outbox;
SET ROLE regress_outbox;
SELECT cqrs.enqueue('s', 'POST');
RESET ROLE;
GRANT USAGE ON FOREIGN SERVER s TO regress_outbox;
REVOKE EXECUTE ON FUNCTION outbox_handle FROM PUBLIC;
SET ROLE regress_outbox;
SELECT cqrs.enqueue('s', 'POST', reply_entity_type => 'outbox.Order', reply_entity_id => 'o-1', reply_command => 'Confirm');
SELECT count(*) FROM cqrs.outbox;
RESET ROLE;

-- Not in an event handler.
CREATE FUNCTION outbox_enqueues(state jsonb, event cqrs.event) RETURNS jsonb LANGUAGE sql AS $$ SELECT to_jsonb(cqrs.enqueue('s', 'GET')) $$;
SELECT cqrs.on_event('outbox.Order', 'Enqueues', 'outbox_enqueues');
SELECT version FROM cqrs.append('outbox.Order', 'o-2', ARRAY[cqrs.new_event('Enqueues', '{}')]);
SELECT cqrs.state('outbox.Order', 'o-2');
\echo :SQLSTATE

-- Nor in a projection that replays events: nothing is asked of others a second time. At first some of it is another error, or none.
CREATE SERVER r FOREIGN DATA WRAPPER cqrs_http OPTIONS (url 'https://r.invalid', breaker 'forced_open');
CREATE TABLE said (n integer GENERATED ALWAYS AS IDENTITY, statement text, sqlstate text);
CREATE FUNCTION outbox_ask(event cqrs.event) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    statement text;
BEGIN
    FOREACH statement IN ARRAY ARRAY['enqueue(''r'', ''GET'')', 'schedule(now(), ''outbox.Nobody'', ''1'', ''X'')', 'call(''r'', ''GET'')', 'begin_call(''r'')'] LOOP
        BEGIN
            EXECUTE 'SELECT cqrs.' || statement;
            INSERT INTO said (statement) VALUES (statement);
        EXCEPTION WHEN OTHERS THEN
            INSERT INTO said (statement, sqlstate) VALUES (statement, SQLSTATE);
        END;
    END LOOP;
END
$$;
SELECT cqrs.create_projection('outbox', 'outbox_ask', entity_types => '{outbox.Asked}', start_position => NULL);
SELECT position - 1 AS before FROM cqrs.append('outbox.Asked', 'a', ARRAY[cqrs.new_event('X', '{}')]) \gset
SELECT cqrs.wait_for_projection('outbox') > 0;
SELECT cqrs.reset_projection('outbox', :before);
SELECT cqrs.wait_for_projection('outbox') > 0;
SELECT statement, sqlstate FROM said ORDER BY n;
SELECT count(*) FROM cqrs.outbox;
SELECT cqrs.drop_projection('outbox');
DELETE FROM cqrs.outbox;
DROP TABLE said;
DROP SERVER r;

-- What was enqueued in a part that is rolled back is not; what a command handler enqueues is.
BEGIN;
SELECT cqrs.enqueue('s', 'PUT') IS NOT NULL;
SAVEPOINT a;
SELECT cqrs.enqueue('s', 'DELETE') IS NOT NULL;
ROLLBACK TO a;
COMMIT;
CREATE FUNCTION outbox_charge(state jsonb, command cqrs.command) RETURNS cqrs.effect LANGUAGE sql AS $$
    SELECT cqrs.persist('Charged', to_jsonb(cqrs.enqueue('s', 'POST', '/charges', body => command.data, query => '{"a": [1, 2]}', headers => '{"X-A": "1"}',
        ordering_key => command.entity_id, reply_entity_type => 'outbox.Order', reply_entity_id => command.entity_id, reply_command => 'Confirm'))) $$;
SELECT cqrs.on_command('outbox.Order', 'Charge', 'outbox_charge');
SET cqrs.traceparent = '00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01';
SELECT version FROM cqrs.send('outbox.Order', 'o-3', 'Charge', '{"amount": 5}');
RESET cqrs.traceparent;
SELECT number IS NOT NULL AS numbered, service, role = current_user AS mine, method, path, query, headers, content_type, convert_from(body, 'UTF8') AS body,
    ordering_key, reply_entity_type, reply_entity_id, reply_command, failure_command, max_attempts FROM cqrs.outbox ORDER BY number;
-- An open breaker postpones them, without an attempt; the second one is not even claimed.
SELECT * FROM states();

-- Who enqueued may have it tried again, or no more.
SELECT id FROM cqrs.outbox WHERE method = 'POST' \gset
SET ROLE regress_outbox;
\set VERBOSITY sqlstate
SELECT cqrs.discard_outbox(:'id');
SELECT cqrs.retry_outbox(:'id');
\set VERBOSITY terse
SELECT cqrs.retry_outbox('00000000-0000-0000-0000-000000000000');
\echo :SQLSTATE
SELECT count(*) FROM cqrs.outbox_status;
RESET ROLE;
GRANT pg_monitor TO regress_outbox;
SET ROLE regress_outbox;
SELECT count(*) FROM cqrs.outbox_status;
SELECT cqrs.enqueue('s', 'PATCH') AS own \gset
RESET ROLE;
SELECT * FROM states();
-- The worker may have it for a moment.
CREATE PROCEDURE discard(id uuid) LANGUAGE plpgsql AS $$
BEGIN
    LOOP
        BEGIN
            PERFORM cqrs.discard_outbox(id);
            RETURN;
        EXCEPTION WHEN object_in_use THEN
        END;
        COMMIT;
    END LOOP;
END
$$;
SET ROLE regress_outbox;
CALL discard(:'own');
RESET ROLE;
CALL discard(:'id');
SELECT * FROM states();

-- A service that is gone when it is due: given up, with the reason, until somebody has it tried again.
CREATE SERVER t FOREIGN DATA WRAPPER cqrs_http OPTIONS (url 'https://t.invalid/api');
BEGIN;
SELECT cqrs.enqueue('t', 'DELETE') AS gone \gset
DROP SERVER t;
COMMIT;
SELECT * FROM states();
SELECT state, attempt, succeeded, last_status, settled_at IS NOT NULL AS settled FROM cqrs.outbox WHERE id = :'gone';
CREATE SERVER t FOREIGN DATA WRAPPER cqrs_http OPTIONS (url 'https://t.invalid/api', breaker 'forced_open');
UPDATE cqrs.outbox SET last_error = NULL WHERE id = :'gone';
SELECT cqrs.retry_outbox(:'gone');
SELECT * FROM states();
CALL discard(:'gone');

-- One that was delivered is not tried again; what a dump has of the extension has the outbox.
INSERT INTO cqrs.outbox (id, service, role, method, path, max_attempts, state, next_attempt_at, created_at, settled_at)
VALUES ('00000000-0000-4000-8000-000000000001', 's', current_user, 'POST', '', 1, 'delivered', now(), now(), now());
SELECT cqrs.retry_outbox('00000000-0000-4000-8000-000000000001');
\echo :SQLSTATE
SELECT cqrs.discard_outbox('00000000-0000-4000-8000-000000000001');
SELECT relname FROM pg_extension, unnest(extconfig) config JOIN pg_class c ON c.oid = config WHERE extname = 'pg_cqrs' AND relname LIKE 'outbox%' ORDER BY 1;

DELETE FROM cqrs.outbox;
DROP SERVER s;
DROP SERVER t;
SELECT cqrs.drop_entity('outbox.Order');
DROP FUNCTION outbox_handle, outbox_enqueues, outbox_charge, outbox_ask, states;
DROP PROCEDURE discard;
REVOKE EXECUTE ON FUNCTION cqrs.enqueue, cqrs.retry_outbox, cqrs.discard_outbox FROM regress_outbox;
DROP ROLE regress_outbox;
