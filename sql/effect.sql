-- Effects: what a command handler may decide, and what becomes of a decision that is none.
ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;
CREATE SCHEMA effect_test;
SET search_path = effect_test;

-- Each constructor builds a value, to be looked at without sending anything.
SELECT * FROM cqrs.persist('Happened', '{"a": 1}');
SELECT * FROM cqrs.persist('Happened', '{"a": 1}', reply => '"done"');
SELECT * FROM cqrs.persist_all(ARRAY[cqrs.new_event('A', '1'), cqrs.new_event('B', '[]', '{"m": true}')], '{"n": 2}');
SELECT * FROM cqrs.reply('null');
SELECT * FROM cqrs.reply(NULL);
SELECT * FROM cqrs.reject('no');
SELECT * FROM cqrs.reject('no', 'why', '{"because": "so"}');
-- They are inlined: a plan has the rows that they build, not their calls.
CREATE FUNCTION plan(query text) RETURNS SETOF text LANGUAGE plpgsql AS $$
BEGIN
    RETURN QUERY EXECUTE 'EXPLAIN (VERBOSE, COSTS OFF) ' || query;
END
$$;
SELECT count(*) FILTER (WHERE line LIKE '%::cqrs.effect%') > 0 AS rows, count(*) FILTER (WHERE line ~ 'cqrs\.[a-z_]+\(') AS calls
FROM plan($$SELECT cqrs.persist('E', d, reply => d), cqrs.persist_all(ARRAY[cqrs.new_event(t, d)]), cqrs.reply(d), cqrs.reject(t, detail => d)
    FROM (SELECT reltype::text AS t, to_jsonb(relname) AS d FROM pg_class) c$$) line;

-- A command handler is tested by hand: cqrs.new_command builds what it gets.
CREATE FUNCTION withdraw(state jsonb, command cqrs.command) RETURNS cqrs.effect
    LANGUAGE sql
    AS $$
    SELECT CASE
        WHEN (state ->> 'balance')::int >= (command.data ->> 'amount')::int
        THEN cqrs.persist('Withdrawn', command.data, reply => to_jsonb((state ->> 'balance')::int - (command.data ->> 'amount')::int))
        ELSE cqrs.reject('the balance is too low', code => 'balance', detail => jsonb_build_object('balance', state -> 'balance', 'version', command.version))
    END
    $$;
SELECT * FROM withdraw('{"balance": 10}', cqrs.new_command('effect.Account', 'a', 'Withdraw', '{"amount": 4}'));
SELECT * FROM withdraw('{"balance": 1}', cqrs.new_command('effect.Account', 'a', 'Withdraw', '{"amount": 4}', version => 7));
SELECT entity_type, entity_id, version, command_type, data, metadata, command_id, sender = current_user AS sent_by_me
FROM cqrs.new_command('effect.Account', 'a', 'Withdraw');
SELECT * FROM cqrs.new_command('T', 'i', 'C', '{"d": 1}', 3, '{"m": 1}', 'e0000000-0000-4000-8000-000000000001', 'somebody');

-- A handler in SQL or PL/pgSQL returns any effect; here the command names it, so that each can be sent.
CREATE FUNCTION in_sql(state jsonb, command cqrs.command) RETURNS cqrs.effect
    LANGUAGE sql
    AS $$
    SELECT CASE command.data ->> 'effect'
        WHEN 'persist' THEN cqrs.persist('One', command.data, '"persisted"')
        WHEN 'persist_all' THEN cqrs.persist_all(ARRAY[cqrs.new_event('One', '1'), cqrs.new_event('Two', '2', '{"m": 1}')], '"persisted all"')
        WHEN 'nothing' THEN cqrs.persist_all('{}', '"persisted nothing"')
        WHEN 'null array' THEN cqrs.persist_all(NULL, '"persisted no array"')
        WHEN 'reply' THEN cqrs.reply(state)
        WHEN 'no reply' THEN cqrs.reply(NULL)
        WHEN 'null reply' THEN cqrs.reply('null')
        WHEN 'reject' THEN cqrs.reject('rejected')
        WHEN 'reject code' THEN cqrs.reject('rejected with 100 %', 'code')
        WHEN 'reject detail' THEN cqrs.reject('rejected', detail => '{"d": [1, "100 %"]}')
        WHEN 'reject all' THEN cqrs.reject('rejected', 'code', '"detail"')
        WHEN 'reject null' THEN cqrs.reject(NULL)
        WHEN 'null effect' THEN NULL
        WHEN 'null row' THEN ROW(NULL, NULL, NULL, NULL, NULL, NULL)::cqrs.effect
        WHEN 'unknown kind' THEN ROW('Persist', NULL, NULL, NULL, NULL, NULL)::cqrs.effect
        WHEN 'null data' THEN cqrs.persist('One', NULL)
        WHEN 'json null data' THEN cqrs.persist('One', 'null')
        WHEN 'null type' THEN cqrs.persist(NULL, '{}')
        WHEN 'empty type' THEN cqrs.persist('', '{}')
        WHEN 'null element' THEN cqrs.persist_all(ARRAY[cqrs.new_event('One', '1'), NULL])
        WHEN 'second bad' THEN cqrs.persist_all(ARRAY[cqrs.new_event('One', '1'), cqrs.new_event('Two', NULL)])
        WHEN 'two dimensions' THEN cqrs.persist_all(ARRAY[ARRAY[cqrs.new_event('One', '1')], ARRAY[cqrs.new_event('Two', '1')]])
        WHEN 'metadata' THEN cqrs.persist_all(ARRAY[cqrs.new_event('One', '1', '"text"')])
        WHEN 'reserved' THEN cqrs.persist_all(ARRAY[cqrs.new_event('One', '1', '{"$command_id": 1}')])
        WHEN 'reject with events' THEN ROW('reject', ARRAY[cqrs.new_event('One', '1')], NULL, 'rejected all the same', NULL, NULL)::cqrs.effect
    END
    $$;
CREATE FUNCTION in_plpgsql(state jsonb, command cqrs.command) RETURNS cqrs.effect
    LANGUAGE plpgsql
    AS $$
DECLARE
    effect cqrs.effect;
BEGIN
    effect := in_sql(state, command);
    RETURN effect;
END
$$;
CREATE FUNCTION last(state jsonb, event cqrs.event) RETURNS jsonb
    LANGUAGE sql
    AS $$ SELECT jsonb_build_object('last', event.event_type, 'version', event.version) $$;
SELECT cqrs.create_entity('effect.Any', initial_state => '{"new": true}');
SELECT cqrs.on_command('effect.Any', 'Sql', 'in_sql');
SELECT cqrs.on_command('effect.Any', 'Plpgsql', 'in_plpgsql');
SELECT cqrs.on_event('effect.Any', '*', 'last');

SELECT effect, sql.version, sql.reply, plpgsql.version, plpgsql.reply
FROM unnest('{reply, persist, persist_all, nothing, null array, reply, no reply, null reply}'::text[]) effect,
     cqrs.send('effect.Any', 'sql', 'Sql', jsonb_build_object('effect', effect)) sql,
     cqrs.send('effect.Any', 'plpgsql', 'Plpgsql', jsonb_build_object('effect', effect)) plpgsql;
SELECT version, event_type, data, metadata - '$sender' AS metadata FROM cqrs.history('effect.Any', 'sql');

-- A rejection has SQLSTATE QR002, the reason as its message, and code and detail in DETAIL; it has no context of its own.
SELECT cqrs.send('effect.Any', 'sql', 'Sql', '{"effect": "reject"}');
\echo :SQLSTATE
SELECT cqrs.send('effect.Any', 'sql', 'Sql', '{"effect": "reject code"}');
SELECT cqrs.send('effect.Any', 'sql', 'Sql', '{"effect": "reject detail"}');
SELECT cqrs.send('effect.Any', 'sql', 'Sql', '{"effect": "reject all"}');
SELECT cqrs.send('effect.Any', 'sql', 'Sql', '{"effect": "reject null"}');
SELECT cqrs.send('effect.Any', 'sql', 'Sql', '{"effect": "reject with events"}');
\echo :SQLSTATE
-- A program takes it apart.
DO $$
DECLARE
    detail text;
BEGIN
    PERFORM cqrs.send('effect.Any', 'sql', 'Sql', '{"effect": "reject all"}');
EXCEPTION WHEN SQLSTATE 'QR002' THEN
    GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL;
    RAISE NOTICE 'caught: % (%)', sqlerrm, detail;
END
$$;

-- What is no effect is an error that says what is wrong with it.
\set SHOW_CONTEXT never
SELECT cqrs.send('effect.Any', 'bad', 'Sql', '{"effect": "null effect"}');
\echo :SQLSTATE
SELECT cqrs.send('effect.Any', 'bad', 'Plpgsql', '{"effect": "null effect"}');
\echo :SQLSTATE
SELECT cqrs.send('effect.Any', 'bad', 'Sql', '{"effect": "null row"}');
\echo :SQLSTATE
SELECT cqrs.send('effect.Any', 'bad', 'Sql', '{"effect": "unknown kind"}');
\echo :SQLSTATE
SELECT cqrs.send('effect.Any', 'bad', 'Sql', '{"effect": "null data"}');
\echo :SQLSTATE
SELECT cqrs.send('effect.Any', 'bad', 'Sql', '{"effect": "json null data"}');
\echo :SQLSTATE
SELECT cqrs.send('effect.Any', 'bad', 'Sql', '{"effect": "null type"}');
\echo :SQLSTATE
SELECT cqrs.send('effect.Any', 'bad', 'Sql', '{"effect": "empty type"}');
\echo :SQLSTATE
SELECT cqrs.send('effect.Any', 'bad', 'Sql', '{"effect": "null element"}');
\echo :SQLSTATE
SELECT cqrs.send('effect.Any', 'bad', 'Sql', '{"effect": "second bad"}');
\echo :SQLSTATE
SELECT cqrs.send('effect.Any', 'bad', 'Sql', '{"effect": "two dimensions"}');
\echo :SQLSTATE
SELECT cqrs.send('effect.Any', 'bad', 'Sql', '{"effect": "metadata"}');
\echo :SQLSTATE
SELECT cqrs.send('effect.Any', 'bad', 'Sql', '{"effect": "reserved"}');
\echo :SQLSTATE
-- And nothing of it was written.
SELECT count(*) FROM cqrs.history('effect.Any', 'bad');
SELECT version, reply FROM cqrs.send('effect.Any', 'bad', 'Sql', '{"effect": "reply"}');

SET client_min_messages = warning;
SELECT cqrs.drop_entity('effect.Any');
DROP SCHEMA effect_test CASCADE;
ALTER DEFAULT PRIVILEGES GRANT EXECUTE ON FUNCTIONS TO PUBLIC;
