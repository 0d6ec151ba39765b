-- Handlers: which functions may be one, how they are found, and how they are called, also inside each other.
ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;
CREATE ROLE regress_cqrs_stranger;
CREATE SCHEMA handler_test;
CREATE SCHEMA handler_far;
SET search_path = handler_test;
SET client_min_messages = warning;
SELECT cqrs.create_entity('handler.E');
CREATE VIEW registered AS
    SELECT kind, name, from_version, handler, search_path FROM cqrs.entity_handler WHERE entity_type = 'handler.E' ORDER BY 1, 2, 3;

-- A name is looked up with the signature of its kind: bare, with a schema, or as a full signature. What is stored has all names qualified.
CREATE FUNCTION handle(state jsonb, command cqrs.command) RETURNS cqrs.effect LANGUAGE sql AS $$ SELECT cqrs.reply('"command"') $$;
CREATE FUNCTION handle(state jsonb, event cqrs.event) RETURNS jsonb LANGUAGE sql AS $$ SELECT state $$;
CREATE FUNCTION handle(event cqrs.event) RETURNS cqrs.event LANGUAGE sql AS $$ SELECT event $$;
CREATE FUNCTION handle(state json, command cqrs.command) RETURNS cqrs.effect LANGUAGE sql AS $$ SELECT cqrs.reply('"json"') $$;
CREATE FUNCTION handler_far.handle(state jsonb, command cqrs.command) RETURNS cqrs.effect LANGUAGE sql AS $$ SELECT cqrs.reply('"far"') $$;
CREATE FUNCTION "Odd, name(" (state jsonb, command cqrs.command) RETURNS cqrs.effect LANGUAGE sql AS $$ SELECT cqrs.reply('"odd"') $$;
SELECT cqrs.on_command('handler.E', 'Bare', 'handle');
SELECT cqrs.on_event('handler.E', 'E', 'handle');
SELECT cqrs.on_upcast('handler.E', 'E', 1, 'handle');
SELECT cqrs.on_command('handler.E', 'Schema', 'handler_far.handle');
SELECT cqrs.on_command('handler.E', 'Signature', 'handler_far.handle(jsonb, cqrs.command)');
SELECT cqrs.on_command('handler.E', 'BareSignature', 'handle ( jsonb ,cqrs.command)');
SELECT cqrs.on_command('handler.E', 'Odd', '"Odd, name("(jsonb, cqrs.command)');
SELECT * FROM registered;
SELECT c, (cqrs.send('handler.E', 'names', c)).reply FROM unnest('{Bare, Schema, Signature, BareSignature, Odd}'::text[]) c;

-- What does not exist, does not fit, or is somebody else's is refused, and nothing is registered.
CREATE FUNCTION wrong_result(state jsonb, command cqrs.command) RETURNS jsonb LANGUAGE sql AS $$ SELECT state $$;
CREATE FUNCTION wrong_arguments(state text, command cqrs.command) RETURNS cqrs.effect LANGUAGE sql AS $$ SELECT cqrs.reply('1') $$;
CREATE FUNCTION too_many(state jsonb, command cqrs.command, more int DEFAULT 1) RETURNS cqrs.effect LANGUAGE sql AS $$ SELECT cqrs.reply('1') $$;
CREATE PROCEDURE a_procedure(state jsonb, command cqrs.command) LANGUAGE sql AS $$ SELECT 1 $$;
CREATE FUNCTION a_set(state jsonb, command cqrs.command) RETURNS SETOF cqrs.effect LANGUAGE sql AS $$ SELECT cqrs.reply('1') $$;
CREATE FUNCTION next_event(state jsonb, event cqrs.event) RETURNS jsonb LANGUAGE sql AS $$ SELECT state $$;
CREATE FUNCTION final(state jsonb) RETURNS cqrs.effect LANGUAGE sql AS $$ SELECT cqrs.reply('1') $$;
CREATE AGGREGATE an_aggregate(cqrs.event) (sfunc = next_event, stype = jsonb);
CREATE FUNCTION trans(s cqrs.effect, state jsonb, command cqrs.command) RETURNS cqrs.effect LANGUAGE sql AS $$ SELECT s $$;
CREATE AGGREGATE two_argument_aggregate(jsonb, cqrs.command) (sfunc = trans, stype = cqrs.effect);
CREATE FUNCTION variadic_one(state jsonb, VARIADIC commands cqrs.command[]) RETURNS cqrs.effect LANGUAGE sql AS $$ SELECT cqrs.reply('1') $$;
CREATE FUNCTION poly(state anyelement, command cqrs.command) RETURNS cqrs.effect LANGUAGE sql AS $$ SELECT cqrs.reply('1') $$;
CREATE FUNCTION strangers(state jsonb, command cqrs.command) RETURNS cqrs.effect LANGUAGE sql AS $$ SELECT cqrs.reply('1') $$;
ALTER FUNCTION strangers OWNER TO regress_cqrs_stranger;
SELECT cqrs.on_command('handler.E', 'Bad', 'nothing_of_that_name');
\echo :SQLSTATE
SELECT cqrs.on_command('handler.E', 'Bad', 'nowhere.handle');
\echo :SQLSTATE
SELECT cqrs.on_command('handler.E', 'Bad', 'handle(jsonb, cqrs.receipt)');
\echo :SQLSTATE
SELECT cqrs.on_command('handler.E', 'Bad', 'wrong_result');
\echo :SQLSTATE
SELECT cqrs.on_command('handler.E', 'Bad', 'wrong_arguments');
\echo :SQLSTATE
SELECT cqrs.on_command('handler.E', 'Bad', 'wrong_arguments(text, cqrs.command)');
\echo :SQLSTATE
SELECT cqrs.on_command('handler.E', 'Bad', 'too_many');
\echo :SQLSTATE
SELECT cqrs.on_command('handler.E', 'Bad', 'handle(jsonb, cqrs.event)');
\echo :SQLSTATE
SELECT cqrs.on_command('handler.E', 'Bad', 'a_procedure');
\echo :SQLSTATE
SELECT cqrs.on_command('handler.E', 'Bad', 'a_set');
\echo :SQLSTATE
SELECT cqrs.on_event('handler.E', 'Bad', 'an_aggregate');
\echo :SQLSTATE
SELECT cqrs.on_command('handler.E', 'Bad', 'two_argument_aggregate');
\echo :SQLSTATE
SELECT cqrs.on_command('handler.E', 'Bad', 'variadic_one');
\echo :SQLSTATE
SELECT cqrs.on_command('handler.E', 'Bad', 'poly');
\echo :SQLSTATE
SELECT cqrs.on_command('handler.E', 'Bad', '');
SELECT cqrs.on_command('handler.E', 'Bad', 'a.b.c.d');
SELECT cqrs.on_event('handler.E', 'Bad', 'handle(jsonb, cqrs.command)');
\echo :SQLSTATE
SELECT cqrs.on_upcast('handler.E', 'Bad', 1, 'next_event');
\echo :SQLSTATE
\set VERBOSITY sqlstate
SELECT cqrs.on_command('handler.E', 'Bad', 'strangers');
\set VERBOSITY default
-- A temporary function is none: its name means nothing in another session.
CREATE FUNCTION pg_temp.temporary(state jsonb, command cqrs.command) RETURNS cqrs.effect LANGUAGE sql AS $$ SELECT cqrs.reply('1') $$;
SELECT cqrs.on_command('handler.E', 'Bad', 'temporary');
\echo :SQLSTATE
SELECT cqrs.on_command('handler.E', 'Bad', 'pg_temp.temporary');
\echo :SQLSTATE
SELECT cqrs.on_command('handler.E', 'Bad', 'pg_temp.temporary(jsonb, cqrs.command)');
\echo :SQLSTATE
DROP FUNCTION pg_temp.temporary;
SELECT count(*) FROM registered WHERE name = 'Bad';
-- A function of this extension is everybody's.
SELECT cqrs.on_event('handler.E', 'Merged', 'cqrs.merge');
SELECT handler FROM registered WHERE name = 'Merged';

-- Languages: C (cqrs.merge), SQL, SQL with a parsed body, PL/pgSQL; each is called with what is registered.
CREATE FUNCTION parsed(state jsonb, event cqrs.event) RETURNS jsonb
    LANGUAGE sql
    BEGIN ATOMIC
        SELECT state || jsonb_build_object('parsed', event.data -> 'n');
    END;
CREATE FUNCTION parsed_returns(state jsonb, command cqrs.command) RETURNS cqrs.effect
    LANGUAGE sql
    RETURN cqrs.persist_all(ARRAY[cqrs.new_event('Merged', command.data), cqrs.new_event('Parsed', command.data), cqrs.new_event('Sql', command.data),
        cqrs.new_event('Plpgsql', command.data)]);
CREATE FUNCTION in_sql(state jsonb, event cqrs.event) RETURNS jsonb LANGUAGE sql AS $$ SELECT state || jsonb_build_object('sql', event.data -> 'n') $$;
CREATE FUNCTION in_plpgsql(state jsonb, event cqrs.event) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
    RETURN state || jsonb_build_object('plpgsql', event.data -> 'n');
END
$$;
SELECT cqrs.on_command('handler.E', 'All', 'parsed_returns');
SELECT cqrs.on_event('handler.E', 'Parsed', 'parsed');
SELECT cqrs.on_event('handler.E', 'Sql', 'in_sql');
SELECT cqrs.on_event('handler.E', 'Plpgsql', 'in_plpgsql');
SELECT version FROM cqrs.send('handler.E', 'languages', 'All', '{"n": 1}');
SELECT version FROM cqrs.send('handler.E', 'languages', 'All', '{"n": 2}');
SELECT cqrs.state('handler.E', 'languages'), cqrs.state('handler.E', 'languages', 5);

-- A function whose result is its OUT parameter fits as well.
CREATE FUNCTION by_out(state jsonb, command cqrs.command, OUT effect cqrs.effect) LANGUAGE plpgsql AS $$
BEGIN
    effect := cqrs.reply(command.data);
END
$$;
SELECT cqrs.on_command('handler.E', 'Out', 'by_out');
SELECT reply FROM cqrs.send('handler.E', 'out', 'Out', '"by OUT"');

-- '*' takes what has no handler of its own, and what is registered under a name comes first.
CREATE FUNCTION other(state jsonb, command cqrs.command) RETURNS cqrs.effect
    LANGUAGE sql
    AS $$ SELECT cqrs.persist('Other', jsonb_build_object('was', command.command_type), '"other"') $$;
CREATE FUNCTION other(state jsonb, event cqrs.event) RETURNS jsonb
    LANGUAGE sql
    AS $$ SELECT state || jsonb_build_object('other', event.event_type) $$;
SELECT cqrs.on_command('handler.E', '*', 'other');
SELECT cqrs.on_event('handler.E', '*', 'other');
SELECT reply FROM cqrs.send('handler.E', 'star', 'Anything');
SELECT reply FROM cqrs.send('handler.E', 'star', 'Bare');
SELECT version FROM cqrs.send('handler.E', 'star', 'All', '{"n": 3}');
SELECT cqrs.state('handler.E', 'star');
SELECT cqrs.on_command('handler.E', 'Bare', NULL);
SELECT reply FROM cqrs.send('handler.E', 'star', 'Bare');
SELECT cqrs.on_command('handler.E', '*', NULL);
SELECT cqrs.send('handler.E', 'star', 'Bare');
\echo :SQLSTATE

-- The search_path is pinned when the handler is registered: it finds its table whatever the sender's path is.
CREATE TABLE handler_far.notes (note text);
CREATE FUNCTION handler_far.note(state jsonb, command cqrs.command) RETURNS cqrs.effect
    LANGUAGE plpgsql
    AS $$
BEGIN
    INSERT INTO notes VALUES (command.data ->> 'note');
    RETURN cqrs.reply(to_jsonb(current_setting('search_path')));
END
$$;
CREATE FUNCTION handler_far.count_notes(state jsonb, command cqrs.command) RETURNS cqrs.effect
    LANGUAGE sql
    SET search_path = handler_far
    AS $$ SELECT cqrs.reply(to_jsonb(count(*))) FROM notes $$;
SET search_path = handler_far, "$user", public, handler_test;
SELECT cqrs.on_command('handler.E', 'Note', 'note');
SET search_path = handler_test;
SELECT reply FROM cqrs.send('handler.E', 'notes', 'Note', '{"note": "one"}');
SET search_path = '';
SELECT reply FROM cqrs.send('handler.E', 'notes', 'Note', '{"note": "two"}');
SET search_path = handler_test;
-- A path of the function's own goes over it.
SELECT cqrs.on_command('handler.E', 'Count', 'handler_far.count_notes');
SELECT reply FROM cqrs.send('handler.E', 'notes', 'Count');
-- Registered again with another path, it is that one.
SELECT cqrs.on_command('handler.E', 'Note', 'handler_far.note');
\set SHOW_CONTEXT never
SELECT cqrs.send('handler.E', 'notes', 'Note', '{"note": "three"}');
\set SHOW_CONTEXT errors

-- A handler that was replaced is the new one at once; one that was dropped is missed when it is needed, until it is there again.
CREATE FUNCTION changing(state jsonb, command cqrs.command) RETURNS cqrs.effect LANGUAGE sql AS $$ SELECT cqrs.reply('1') $$;
SELECT cqrs.on_command('handler.E', 'Change', 'changing');
SELECT reply FROM cqrs.send('handler.E', 'c', 'Change');
CREATE OR REPLACE FUNCTION changing(state jsonb, command cqrs.command) RETURNS cqrs.effect LANGUAGE sql AS $$ SELECT cqrs.reply('2') $$;
SELECT reply FROM cqrs.send('handler.E', 'c', 'Change');
CREATE OR REPLACE FUNCTION changing(state jsonb, command cqrs.command) RETURNS cqrs.effect LANGUAGE plpgsql AS $$ BEGIN RETURN cqrs.reply('3'); END $$;
SELECT reply FROM cqrs.send('handler.E', 'c', 'Change');
ALTER FUNCTION changing RENAME TO renamed;
SELECT cqrs.send('handler.E', 'c', 'Change');
\echo :SQLSTATE
DROP FUNCTION renamed;
SELECT cqrs.send('handler.E', 'c', 'Change');
CREATE FUNCTION changing(state jsonb, command cqrs.command) RETURNS jsonb LANGUAGE sql AS $$ SELECT state $$;
SELECT cqrs.send('handler.E', 'c', 'Change');
\echo :SQLSTATE
DROP FUNCTION changing;
CREATE FUNCTION changing(state jsonb, command cqrs.command) RETURNS cqrs.effect LANGUAGE sql AS $$ SELECT cqrs.reply('4') $$;
SELECT reply FROM cqrs.send('handler.E', 'c', 'Change');
-- Its owner is looked at again, too: a role that it was given to cannot have it run as the entity's owner.
ALTER FUNCTION changing OWNER TO regress_cqrs_stranger;
\set VERBOSITY sqlstate
SELECT cqrs.send('handler.E', 'c', 'Change');
\set VERBOSITY default
ALTER FUNCTION changing OWNER TO CURRENT_USER;
SELECT reply FROM cqrs.send('handler.E', 'c', 'Change');
-- An event handler that is gone stops what would need it, and only that.
DROP FUNCTION in_sql;
SET cqrs.state_cache_size = 0;
SELECT cqrs.state('handler.E', 'languages', 2);
SELECT cqrs.state('handler.E', 'languages');
\echo :SQLSTATE
RESET cqrs.state_cache_size;
SELECT cqrs.on_event('handler.E', 'Sql', NULL);
SELECT cqrs.state('handler.E', 'languages');

-- A handler may send: to another type, to its own type by the same handler while that runs, many deep, in SQL and in PL/pgSQL.
CREATE FUNCTION deeper_sql(state jsonb, command cqrs.command) RETURNS cqrs.effect
    LANGUAGE sql
    AS $$
    SELECT cqrs.persist('Deep', command.data, jsonb_build_array(command.entity_id) || coalesce(below.reply, '[]'))
    FROM (SELECT CASE WHEN (command.data ->> 'levels')::int > 1 THEN
        (cqrs.send(command.entity_type, 'level-' || (command.data ->> 'levels')::int - 1, command.command_type,
            jsonb_build_object('levels', (command.data ->> 'levels')::int - 1))).reply END AS reply) below
    $$;
CREATE FUNCTION deeper_plpgsql(state jsonb, command cqrs.command) RETURNS cqrs.effect
    LANGUAGE plpgsql
    AS $$
DECLARE
    levels int := command.data -> 'levels';
    below jsonb := '[]';
BEGIN
    IF levels > 1 THEN
        below := (cqrs.send(command.entity_type, 'level-' || levels - 1, command.command_type, jsonb_build_object('levels', levels - 1))).reply;
    END IF;
    RETURN cqrs.persist('Deep', command.data, jsonb_build_array(command.entity_id) || below);
END
$$;
SELECT cqrs.on_command('handler.E', 'DeeperSql', 'deeper_sql');
SELECT cqrs.on_command('handler.E', 'DeeperPlpgsql', 'deeper_plpgsql');
SELECT version, reply FROM cqrs.send('handler.E', 'level-5', 'DeeperSql', '{"levels": 5}');
SELECT version, reply FROM cqrs.send('handler.E', 'level-5', 'DeeperSql', '{"levels": 5}');
SELECT version, reply FROM cqrs.send('handler.E', 'level-5', 'DeeperPlpgsql', '{"levels": 5}');
SELECT entity_id, cqrs.state('handler.E', entity_id), count(*)
FROM cqrs.journal WHERE entity_type = 'handler.E' AND entity_id LIKE 'level-%' GROUP BY entity_id ORDER BY entity_id;
-- To its own entity it may not, neither directly nor by way of another: those writes are its effect.
CREATE FUNCTION circle(state jsonb, command cqrs.command) RETURNS cqrs.effect
    LANGUAGE plpgsql
    AS $$
BEGIN
    IF command.data ? 'append' THEN
        PERFORM cqrs.append(command.entity_type, command.data ->> 'append', ARRAY[cqrs.new_event('Deep', '1')]);
    ELSIF command.data ? 'snapshot' THEN
        PERFORM cqrs.take_snapshot(command.entity_type, command.data ->> 'snapshot');
    ELSIF command.data ? 'via' THEN
        PERFORM cqrs.send(command.entity_type, command.data ->> 'via', command.command_type, command.data - 'via');
    ELSIF command.data ? 'to' THEN
        PERFORM cqrs.send(command.entity_type, command.data ->> 'to', command.command_type);
    END IF;
    RETURN cqrs.persist('Deep', '1', state);
END
$$;
SELECT cqrs.on_command('handler.E', 'Circle', 'circle');
SELECT cqrs.send('handler.E', 'self', 'Circle', '{"to": "self"}');
\echo :SQLSTATE
SELECT cqrs.send('handler.E', 'self', 'Circle', '{"append": "self"}');
\echo :SQLSTATE
SELECT cqrs.send('handler.E', 'self', 'Circle', '{"snapshot": "self"}');
\echo :SQLSTATE
\set SHOW_CONTEXT never
SELECT cqrs.send('handler.E', 'self', 'Circle', '{"via": "other", "to": "self"}');
\echo :SQLSTATE
SELECT cqrs.state('handler.E', 'self') IS NULL AS nothing, cqrs.state('handler.E', 'other') IS NULL AS nor_here;
SELECT version FROM cqrs.send('handler.E', 'self', 'Circle', '{"via": "other", "to": "third"}');
SELECT id, cqrs.state('handler.E', id) FROM unnest('{self, other, third}'::text[]) id;
-- It may read it: what it has not written yet is not there.
CREATE FUNCTION reads(state jsonb, command cqrs.command) RETURNS cqrs.effect
    LANGUAGE sql
    AS $$ SELECT cqrs.persist('Deep', '1', jsonb_build_object('read', cqrs.state(command.entity_type, command.entity_id), 'given', state)) $$;
SELECT cqrs.on_command('handler.E', 'Read', 'reads');
SELECT version, reply FROM cqrs.send('handler.E', 'reads', 'Read');
SELECT version, reply FROM cqrs.send('handler.E', 'reads', 'Read');

-- A handler that fails, is caught, and is called again in the same transaction works, in any language; so does one that fails below itself.
CREATE FUNCTION fails_sql(state jsonb, command cqrs.command) RETURNS cqrs.effect
    LANGUAGE sql
    AS $$ SELECT cqrs.persist('Deep', command.data, to_jsonb(100 / (command.data ->> 'by')::int)) FROM generate_series(1, 1) $$;
CREATE FUNCTION fails_plpgsql(state jsonb, command cqrs.command) RETURNS cqrs.effect
    LANGUAGE plpgsql
    AS $$
DECLARE
    divisor int := command.data -> 'by';
BEGIN
    IF command.data ? 'below' THEN
        BEGIN
            PERFORM cqrs.send(command.entity_type, command.entity_id || '-below', command.command_type, command.data -> 'below');
        EXCEPTION WHEN division_by_zero THEN
            NULL;
        END;
    END IF;
    RETURN cqrs.persist('Deep', command.data, to_jsonb(100 / divisor));
END
$$;
CREATE FUNCTION fails_event(state jsonb, event cqrs.event) RETURNS jsonb
    LANGUAGE sql
    AS $$ SELECT to_jsonb(100 / (event.data ->> 'by')::int) FROM generate_series(1, 1) $$;
SELECT cqrs.create_entity('handler.F');
SELECT cqrs.on_command('handler.F', 'Sql', 'fails_sql');
SELECT cqrs.on_command('handler.F', 'Plpgsql', 'fails_plpgsql');
SELECT cqrs.on_event('handler.F', '*', 'cqrs.merge');
CREATE FUNCTION try(id text, type text, data jsonb) RETURNS jsonb
    LANGUAGE plpgsql
    AS $$
BEGIN
    RETURN (cqrs.send('handler.F', id, type, data)).reply;
EXCEPTION WHEN division_by_zero THEN
    RETURN '"caught"';
END
$$;
SELECT type, try(type, type, '{"by": 5}') AS good, try(type, type, '{"by": 0}') AS bad, try(type, type, '{"by": 0}') AS bad_again, try(type, type, '{"by": 4}') AS good_again
FROM unnest('{Sql, Plpgsql}'::text[]) type;
SELECT try('Plpgsql', 'Plpgsql', '{"by": 2, "below": {"by": 0}}') AS bad_below,
       try('Plpgsql', 'Plpgsql', '{"by": 0, "below": {"by": 1}}') AS bad_above,
       try('Plpgsql', 'Plpgsql', '{"by": 1, "below": {"by": 1, "below": {"by": 0}}}') AS bad_further_below,
       try('Plpgsql', 'Plpgsql', '{"by": 1}') AS good;
SELECT entity_id, version, data FROM cqrs.journal WHERE entity_type = 'handler.F' ORDER BY 1, 2;
SELECT cqrs.on_event('handler.F', '*', 'fails_event');
SELECT try('g', 'Sql', '{"by": 5}') AS good;
CREATE FUNCTION fold(data jsonb) RETURNS text
    LANGUAGE plpgsql
    AS $$
BEGIN
    PERFORM cqrs.append('handler.F', 'folded', ARRAY[cqrs.new_event('Deep', data)]);
    RETURN cqrs.state('handler.F', 'folded');
EXCEPTION WHEN division_by_zero THEN
    RETURN 'caught';
END
$$;
SELECT fold('{"by": 5}'), fold('{"by": 0}'), fold('{"by": 4}'), fold('{"by": 0}'), fold('{"by": 2}');
-- After an error that nobody caught, the session goes on as well.
SELECT cqrs.send('handler.F', 'x', 'Sql', '{"by": 0}');
SELECT reply FROM cqrs.send('handler.F', 'x', 'Sql', '{"by": 10}');

-- A handler without end comes to an end, and a handler cannot end the transaction; the session goes on.
CREATE FUNCTION endless(state jsonb, command cqrs.command) RETURNS cqrs.effect
    LANGUAGE plpgsql
    AS $$
BEGIN
    RETURN cqrs.reply((cqrs.send(command.entity_type, (command.entity_id::int + 1)::text, command.command_type)).reply);
END
$$;
CREATE FUNCTION endless_event(state jsonb, event cqrs.event) RETURNS jsonb
    LANGUAGE plpgsql
    AS $$
BEGIN
    RETURN state || cqrs.state(event.entity_type, event.entity_id);
END
$$;
CREATE FUNCTION commits(state jsonb, command cqrs.command) RETURNS cqrs.effect
    LANGUAGE plpgsql
    AS $$
BEGIN
    COMMIT;
    RETURN cqrs.reply('1');
END
$$;
SELECT cqrs.on_command('handler.F', 'Endless', 'endless');
SELECT cqrs.on_command('handler.F', 'Commit', 'commits');
SELECT cqrs.on_event('handler.F', 'Endless', 'endless_event');
SELECT version FROM cqrs.append('handler.F', 'endless', ARRAY[cqrs.new_event('Endless', '{}')]);
\set VERBOSITY sqlstate
SELECT cqrs.send('handler.F', '1', 'Endless');
SELECT cqrs.state('handler.F', 'endless');
SELECT cqrs.send('handler.F', '1', 'Commit');
\set VERBOSITY default
SELECT reply FROM cqrs.send('handler.F', 'x', 'Sql', '{"by": 20}');

-- A handler that registers itself anew while it runs goes on as it was; the next command gets the new one.
CREATE FUNCTION molt(state jsonb, command cqrs.command) RETURNS cqrs.effect
    LANGUAGE plpgsql
    AS $$
BEGIN
    PERFORM cqrs.on_command(command.entity_type, command.command_type, 'handler_test.molted');
    EXECUTE 'CREATE OR REPLACE FUNCTION handler_test.molt(state jsonb, command cqrs.command) RETURNS cqrs.effect LANGUAGE sql AS ''SELECT NULL::cqrs.effect''';
    RETURN cqrs.persist('Deep', '{"by": 1}', '"old"');
END
$$;
CREATE FUNCTION molted(state jsonb, command cqrs.command) RETURNS cqrs.effect LANGUAGE sql AS $$ SELECT cqrs.reply('"new"') $$;
SELECT cqrs.on_command('handler.F', 'Molt', 'molt');
SELECT version, reply FROM cqrs.send('handler.F', 'molt', 'Molt');
SELECT version, reply FROM cqrs.send('handler.F', 'molt', 'Molt');
-- Also its whole entity type: a command under way ends in what it began with.
CREATE FUNCTION drops(state jsonb, command cqrs.command) RETURNS cqrs.effect
    LANGUAGE plpgsql
    AS $$
BEGIN
    PERFORM cqrs.drop_entity('handler.F');
    RETURN cqrs.persist('Deep', '{"by": 1}', '"dropped"');
END
$$;
SELECT cqrs.on_command('handler.F', 'Drop', 'drops');
SELECT version, reply FROM cqrs.send('handler.F', 'drop', 'Drop');
SELECT cqrs.send('handler.F', 'drop', 'Drop');
\echo :SQLSTATE

-- A STRICT handler is called, since it never gets NULL; and a handler sees what was written before it in the same statement.
CREATE FUNCTION strictly(state jsonb, command cqrs.command) RETURNS cqrs.effect LANGUAGE sql STRICT AS $$ SELECT cqrs.reply('"called"') $$;
SELECT cqrs.on_command('handler.E', 'Strict', 'strictly');
SELECT reply FROM cqrs.send('handler.E', 's', 'Strict');
SET search_path = handler_far, handler_test;
SELECT cqrs.on_command('handler.E', 'Note', 'note');
SET search_path = handler_test;
SELECT (cqrs.send('handler.E', 'notes', 'Note', jsonb_build_object('note', n))).version, (cqrs.send('handler.E', 'notes', 'Count', jsonb_build_object('n', n))).reply
FROM generate_series(1, 3) n;

SELECT cqrs.drop_entity('handler.E');
DROP SCHEMA handler_test, handler_far CASCADE;
DROP ROLE regress_cqrs_stranger;
ALTER DEFAULT PRIVILEGES GRANT EXECUTE ON FUNCTIONS TO PUBLIC;
