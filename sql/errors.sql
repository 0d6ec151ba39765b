-- Each error that a client tells apart has its SQLSTATE of class QR, a message that names what it is about,
-- the facts in DETAIL and, where there is something to do, a HINT. PostgreSQL's own codes are used for all others.

CREATE SCHEMA errors_test;
-- What a command raises, as a client sees it. It leaves nothing behind.
CREATE FUNCTION errors_test.raised(command text, OUT code text, OUT message text, OUT detail text, OUT hint text) LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE command;
    RAISE EXCEPTION 'nothing' USING ERRCODE = '00001';
EXCEPTION WHEN OTHERS THEN
    code := SQLSTATE;
    GET STACKED DIAGNOSTICS message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
END
$$;
CREATE FUNCTION errors_test.decide(state jsonb, command cqrs.command) RETURNS cqrs.effect LANGUAGE plpgsql AS $$
BEGIN
    RETURN CASE (command).command_type
        WHEN 'Persist' THEN cqrs.persist('Done', (command).data)
        WHEN 'PersistUnknown' THEN cqrs.persist('Unknown', '{}')
        WHEN 'PersistNull' THEN cqrs.persist('Void', '{}')
        WHEN 'Reject' THEN cqrs.reject('account is closed')
        WHEN 'RejectWithCode' THEN cqrs.reject('account is closed', 'closed')
        WHEN 'RejectWithDetail' THEN cqrs.reject('account is closed', 'closed', '{"since": "2020-01-01"}')
        WHEN 'SendToSelf' THEN cqrs.reply(to_jsonb((cqrs.send('Errors', (command).entity_id, 'Persist')).version))
        WHEN 'AppendToSelf' THEN cqrs.reply(to_jsonb((cqrs.append('Errors', (command).entity_id, ARRAY[cqrs.new_event('Done', '{}')])).version))
    END;
END
$$;
CREATE FUNCTION errors_test.done(state jsonb, event cqrs.event) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
    IF (event).data ? 'send' THEN
        PERFORM cqrs.send('Errors', 'other', 'Persist');
    ELSIF (event).data ? 'append' THEN
        PERFORM cqrs.append('Errors', 'other', ARRAY[cqrs.new_event('Done', '{}')]);
    END IF;
    RETURN state || (event).data;
END
$$;
CREATE FUNCTION errors_test.void(state jsonb, event cqrs.event) RETURNS jsonb LANGUAGE sql AS 'SELECT NULL::jsonb';
REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA errors_test FROM PUBLIC;
SELECT cqrs.create_entity('Errors');
SELECT cqrs.create_entity('ErrorsBare');
SELECT count(*) FROM unnest(ARRAY['Persist', 'PersistUnknown', 'PersistNull', 'Reject', 'RejectWithCode', 'RejectWithDetail', 'Nothing', 'SendToSelf', 'AppendToSelf']) c,
    LATERAL (SELECT cqrs.on_command('Errors', c, 'errors_test.decide')) r;
SELECT cqrs.on_event('Errors', 'Done', 'errors_test.done');
SELECT cqrs.on_event('Errors', 'Void', 'errors_test.void');
SELECT version FROM cqrs.send('Errors', 'five', 'Persist', '{"n": 1}', 0, '00000000-0000-4000-8000-000000000001');
SELECT version FROM cqrs.append('Errors', 'five', ARRAY[cqrs.new_event('Done', '{}'), cqrs.new_event('Done', '{}'), cqrs.new_event('Done', '{}'), cqrs.new_event('Done', '{}')], 1, '00000000-0000-4000-8000-000000000002');
SELECT version FROM cqrs.append('Errors', 'unknown', ARRAY[cqrs.new_event('Unknown', '{}')]);
SELECT version FROM cqrs.append('ErrorsBare', 'bare', ARRAY[cqrs.new_event('Any', '{}')]);

\pset format unaligned
\pset tuples_only on
SELECT concat_ws(E'\n    ', what, code || ': ' || message, 'DETAIL: ' || nullif(detail, ''), 'HINT: ' || nullif(hint, ''))
FROM (VALUES
    -- QR001: another version
    ($$cqrs.append('Errors', 'five', ARRAY[cqrs.new_event('Done', '{}')], 4)$$),
    ($$cqrs.append('Errors', 'five', ARRAY[cqrs.new_event('Done', '{}')], 0)$$),
    ($$cqrs.append('Errors', 'none', ARRAY[cqrs.new_event('Done', '{}')], -4)$$),
    ($$cqrs.send('Errors', 'five', 'Persist', expected_version => 6)$$),
    ($$cqrs.send('Errors', 'none', 'Persist', expected_version => -4)$$),
    ($$cqrs.state('Errors', 'five', 6)$$),
    -- QR002: rejected
    ($$cqrs.send('Errors', 'five', 'Reject')$$),
    ($$cqrs.send('Errors', 'five', 'RejectWithCode')$$),
    ($$cqrs.send('Errors', 'five', 'RejectWithDetail')$$),
    -- QR003: unknown entity type
    ($$cqrs.send('Unheard', 'one', 'Persist')$$),
    ($$cqrs.state('Unheard', 'one')$$),
    ($$cqrs.take_snapshot('Unheard', 'one')$$),
    ($$cqrs.drop_snapshots('Unheard')$$),
    ($$cqrs.alter_entity('Unheard', '{}')$$),
    ($$cqrs.drop_entity('Unheard')$$),
    ($$cqrs.on_command('Unheard', '*', 'errors_test.decide')$$),
    ($$cqrs.on_event('Unheard', '*', 'cqrs.merge')$$),
    ($$cqrs.on_upcast('Unheard', 'Done', 1, NULL)$$),
    -- QR004: command not handled
    ($$cqrs.send('Errors', 'five', 'Unheard')$$),
    ($$cqrs.send('ErrorsBare', 'bare', 'Persist')$$),
    -- QR005: event not handled, or handled to NULL
    ($$cqrs.send('Errors', 'none', 'PersistUnknown')$$),
    ($$cqrs.send('Errors', 'none', 'PersistNull')$$),
    ($$cqrs.send('Errors', 'unknown', 'Persist')$$),
    ($$cqrs.state('Errors', 'unknown')$$),
    ($$cqrs.state('ErrorsBare', 'bare')$$),
    ($$cqrs.take_snapshot('Errors', 'unknown')$$),
    -- QR006: command_id used for another command
    ($$cqrs.send('Errors', 'five', 'Persist', '{"n": 2}', command_id => '00000000-0000-4000-8000-000000000001')$$),
    ($$cqrs.send('Errors', 'five', 'Reject', '{"n": 1}', command_id => '00000000-0000-4000-8000-000000000001')$$),
    ($$cqrs.append('Errors', 'five', ARRAY[cqrs.new_event('Done', '{}')], command_id => '00000000-0000-4000-8000-000000000002')$$),
    ($$cqrs.append('Errors', 'five', ARRAY[cqrs.new_event('Persist', '{"n": 1}')], command_id => '00000000-0000-4000-8000-000000000001')$$),
    -- 55006: the entity is handling a command
    ($$cqrs.send('Errors', 'five', 'SendToSelf')$$),
    ($$cqrs.send('Errors', 'five', 'AppendToSelf')$$),
    -- 2F003: an event handler only computes
    ($$cqrs.send('Errors', 'five', 'Persist', '{"send": 1}')$$),
    ($$cqrs.send('Errors', 'five', 'Persist', '{"append": 1}')$$),
    -- 22004, 22023, 54000: what cannot be meant
    ($$cqrs.send('Errors', 'five', 'Nothing')$$),
    ($$cqrs.send(NULL, 'five', 'Persist')$$),
    ($$cqrs.send('Errors', '', 'Persist')$$),
    ($$cqrs.send('Errors', 'five', NULL)$$),
    ($$cqrs.send('Errors', 'five', 'Persist', expected_version => -1)$$),
    ($$cqrs.send('Errors', 'five', 'Persist', metadata => '{"$sender": 1}')$$),
    ($$cqrs.send('Errors', repeat('x', 3000), 'Persist')$$),
    ($$cqrs.append('Errors', 'five', NULL)$$)
) v (what), LATERAL errors_test.raised('SELECT ' || what) r;
-- QR020: the time is over
SELECT concat_ws(E'\n    ', code || ': ' || replace(message, last, 'N'), 'DETAIL: ' || replace(detail, last, 'N'), 'HINT: ' || hint)
FROM (SELECT cqrs.last_position()::text AS last) p, LATERAL errors_test.raised(format('SELECT cqrs.wait_for_event(%s, ''1 ms'')', last)) r;
BEGIN;
CREATE FUNCTION errors_test.project(event cqrs.event) RETURNS void LANGUAGE sql AS '';
DO $$ BEGIN PERFORM cqrs.create_projection('errors', 'errors_test.project'); END $$;
SELECT concat_ws(E'\n    ', code || ': ' || regexp_replace(message, '[0-9]+', 'N'), 'DETAIL: ' || regexp_replace(detail, '[0-9]+', 'N', 'g'), 'HINT: ' || hint)
FROM errors_test.raised('SELECT cqrs.wait_for_projection(''errors'', timeout => ''1 ms'')') r;
-- 55000, 42704: it would be in vain
SELECT concat_ws(E'\n    ', what, code || ': ' || message, 'DETAIL: ' || nullif(detail, ''), 'HINT: ' || nullif(hint, ''))
FROM unnest('{errors, unheard}'::text[]) name, LATERAL (VALUES (format('cqrs.wait_for_projection(%L)', name)), (format('cqrs.rebuild_projection(%L)', name))) v (what),
    LATERAL errors_test.raised(format(CASE WHEN what LIKE 'cqrs.wait%' AND name = 'errors' THEN 'SELECT cqrs.pause_projection(''errors''), %s' ELSE 'SELECT %s' END, what)) r;
ROLLBACK;
\pset tuples_only off
\pset format aligned

-- None of them has left anything.
SELECT entity_type, entity_id, count(*) FROM cqrs.journal WHERE entity_type LIKE 'Errors%' GROUP BY 1, 2 ORDER BY 1, 2;
SELECT count(*) FROM cqrs.command_log WHERE entity_type LIKE 'Errors%';

SELECT cqrs.drop_entity('Errors'), cqrs.drop_entity('ErrorsBare');
SELECT count(*) FROM cqrs.entity WHERE entity_type = 'Unheard';
\set SHOW_CONTEXT never
SET client_min_messages = warning;
DROP SCHEMA errors_test CASCADE;
