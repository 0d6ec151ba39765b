-- cqrs.append writes all of its events or none, gives an entity's events the versions 1, 2, 3 without holes,
-- and refuses what does not fit before anything is written.

-- What a command fails with, or what it gave; either way it leaves nothing behind.
CREATE FUNCTION pg_temp.outcome(command text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    result text;
    message text;
    detail text;
    hint text;
BEGIN
    EXECUTE command INTO result;
    RAISE EXCEPTION 'worked: %', result USING ERRCODE = '00001';
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
    IF SQLSTATE = '00001' THEN
        RETURN message;
    END IF;
    RETURN concat_ws(E'\n', SQLSTATE || ': ' || message, 'DETAIL: ' || nullif(detail, ''), 'HINT: ' || nullif(hint, ''));
END
$$;

-- Events to append: as many as asked for, numbered from 1.
CREATE FUNCTION pg_temp.events(n integer) RETURNS cqrs.new_event[] LANGUAGE sql AS $$
    SELECT array_agg(cqrs.new_event('Happened', jsonb_build_object('n', i)) ORDER BY i) FROM generate_series(1, n) i
$$;


-- The receipt names the last of the events. They are stored in order, with rising positions, one time and the entity's slice.
SELECT entity_id, version, reply FROM cqrs.append('Append', 'first', pg_temp.events(2));
SELECT entity_id, version, reply FROM cqrs.append('Append', 'first', ARRAY[cqrs.new_event('Ended', '[1, "two"]', '{"by": "me"}')]);
SELECT version, event_type, schema_version, data, metadata,
    slice = cqrs.slice('Append', 'first') AS right_slice,
    position > lag(position) OVER (ORDER BY version) AS later,
    created_at >= lag(created_at) OVER (ORDER BY version) AS not_earlier,
    created_at > now() - interval '1 h' AND created_at <= clock_timestamp() AS of_now
FROM cqrs.journal WHERE entity_type = 'Append' AND entity_id = 'first' ORDER BY version;
SELECT (cqrs.append('Append', 'receipt', pg_temp.events(3))).position AS position \gset
SELECT version FROM cqrs.journal WHERE position = :position AND entity_type = 'Append' AND entity_id = 'receipt';

-- Types and ids are told apart byte by byte, whatever is in them.
SELECT id, (cqrs.append('Append', id, pg_temp.events(1))).version
FROM unnest(ARRAY['Id', 'id', ' id', 'id ', 'Ä', E'A\u0308', '雄一郎', E'a\nb', '''; DROP TABLE cqrs.journal; --']) id;


-- expected_version: NULL any, 0 must not exist, n exactly n, -4 must exist; against no entity, and one at version 5.
SELECT version FROM cqrs.append('Append', 'five', pg_temp.events(5));
\pset format unaligned
SELECT format('%s, expected %s', entity_id, coalesce(expected::text, 'NULL')) AS "case",
    pg_temp.outcome(format('SELECT version FROM cqrs.append(''Append'', %L, pg_temp.events(2), %s)', entity_id, coalesce(expected::text, 'NULL'))) AS outcome
FROM unnest(ARRAY['none', 'five']) WITH ORDINALITY e (entity_id, a), unnest(ARRAY[NULL, 0, 4, 5, 6, -4]) WITH ORDINALITY v (expected, b)
ORDER BY a, b;
-- Other negative numbers mean something elsewhere, and are refused whether there is such an entity or not.
SELECT format('%s, expected %s', entity_id, expected) AS "case",
    pg_temp.outcome(format('SELECT version FROM cqrs.append(''Append'', %L, pg_temp.events(2), %s)', entity_id, expected)) AS outcome
FROM unnest(ARRAY['none', 'five']) WITH ORDINALITY e (entity_id, a), unnest(ARRAY[-1, -2, -3, -5, -9223372036854775808]) WITH ORDINALITY v (expected, b)
ORDER BY a, b;
\pset format aligned
SELECT entity_id, count(*), max(version) FROM cqrs.journal
WHERE entity_type = 'Append' AND entity_id IN ('none', 'five') GROUP BY entity_id;
-- And each of the good ones for real.
SELECT version FROM cqrs.append('Append', 'expected', pg_temp.events(1), 0);
SELECT version FROM cqrs.append('Append', 'expected', pg_temp.events(1), expected_version => 1);
SELECT version FROM cqrs.append('Append', 'expected', pg_temp.events(1), -4);
SELECT version FROM cqrs.append('Append', 'expected', pg_temp.events(1), NULL);
SELECT array_agg(version ORDER BY position) AS versions FROM cqrs.journal WHERE entity_type = 'Append' AND entity_id = 'expected';


-- Appends in one transaction go on from each other; what a savepoint takes back leaves no hole in the versions.
BEGIN;
SELECT version FROM cqrs.append('Append', 'saved-a', pg_temp.events(2), 0);
SELECT version FROM cqrs.append('Append', 'saved-a', pg_temp.events(1), 2);
SAVEPOINT one;
SELECT version FROM cqrs.append('Append', 'saved-a', pg_temp.events(2), 3);
SELECT version FROM cqrs.append('Append', 'saved-b', pg_temp.events(2), 0);
SAVEPOINT two;
SELECT version FROM cqrs.append('Append', 'saved-b', pg_temp.events(1), 2);
ROLLBACK TO two;
SELECT version FROM cqrs.append('Append', 'saved-b', ARRAY[cqrs.new_event('Instead', '{}')], 2);
ROLLBACK TO one;
SELECT version FROM cqrs.append('Append', 'saved-b', ARRAY[cqrs.new_event('Again', '{}')], 0);
SAVEPOINT three;
SELECT version FROM cqrs.append('Append', 'saved-a', ARRAY[cqrs.new_event('Again', '{}')], 3);
RELEASE three;
-- An error inside is taken back like anything else.
SAVEPOINT four;
SELECT version FROM cqrs.append('Append', 'saved-a', pg_temp.events(1), 3);
ROLLBACK TO four;
SELECT version FROM cqrs.append('Append', 'saved-a', ARRAY[cqrs.new_event('Last', '{}')], 4);
COMMIT;
SELECT entity_id, version, event_type, row_number() OVER (ORDER BY position) AS nth
FROM cqrs.journal WHERE entity_type = 'Append' AND entity_id IN ('saved-a', 'saved-b') ORDER BY entity_id, version;
-- A transaction that rolls back was never there.
BEGIN;
SELECT version FROM cqrs.append('Append', 'saved-a', pg_temp.events(3));
ROLLBACK;
SELECT version FROM cqrs.append('Append', 'saved-a', pg_temp.events(1));


-- Transactions with one snapshot append too, and see what they appended.
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT count(*) FROM cqrs.history('Append', 'snapshot');
SELECT version FROM cqrs.append('Append', 'snapshot', pg_temp.events(2), 0);
SELECT version FROM cqrs.append('Append', 'snapshot', pg_temp.events(1), 2);
SELECT count(*) FROM cqrs.history('Append', 'snapshot');
SAVEPOINT s;
SELECT version FROM cqrs.append('Append', 'snapshot', pg_temp.events(1), 3);
ROLLBACK TO s;
SELECT version FROM cqrs.append('Append', 'snapshot', pg_temp.events(1), 3);
COMMIT;
BEGIN ISOLATION LEVEL SERIALIZABLE;
SELECT version FROM cqrs.append('Append', 'snapshot', pg_temp.events(1), 4);
SELECT version FROM cqrs.append('Append', 'snapshot', pg_temp.events(1), 5);
COMMIT;
SELECT array_agg(version ORDER BY position) AS versions FROM cqrs.journal WHERE entity_type = 'Append' AND entity_id = 'snapshot';


-- Many entities in one statement; more than cqrs.max_entity_locks in one transaction.
SELECT count(*), min(version), max(version), count(DISTINCT position)
FROM generate_series(1, 300) i CROSS JOIN LATERAL cqrs.append('AppendMany', i::text, pg_temp.events(2), 0) r;
SELECT count(*), min((r).version), max((r).version), count(DISTINCT (r).entity_id)
FROM (SELECT cqrs.append('AppendMany', i::text, pg_temp.events(1), 2) AS r FROM generate_series(1, 300) i OFFSET 0) s;
SELECT count(*), count(DISTINCT entity_id), max(version) FROM cqrs.journal WHERE entity_type = 'AppendMany';
SELECT array_agg(r.version) AS versions
FROM generate_series(1, 3) i CROSS JOIN LATERAL cqrs.append('AppendMany', 'same', ARRAY[cqrs.new_event('N', to_jsonb(i))]) r;
CREATE FUNCTION pg_temp.entity_locks() RETURNS bigint LANGUAGE sql AS $$
    SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid() AND objsubid = x'4351'::integer
$$;
BEGIN;
SET LOCAL cqrs.max_entity_locks = 2;
SELECT sum((cqrs.append('AppendLocks', (i % 10)::text, pg_temp.events(1))).version) FROM generate_series(0, 29) i;
SELECT pg_temp.entity_locks();
COMMIT;
SELECT pg_temp.entity_locks();
BEGIN;
SET LOCAL cqrs.max_entity_locks = 0;
SELECT sum((cqrs.append('AppendLocks', (i % 10)::text, pg_temp.events(1), 3)).version) FROM generate_series(0, 9) i;
SELECT pg_temp.entity_locks();
COMMIT;
BEGIN;
-- An entity has one lock, however often it is appended to.
SELECT sum((cqrs.append('AppendLocks', (i % 5)::text, pg_temp.events(1))).version) FROM generate_series(0, 9) i;
SELECT pg_temp.entity_locks();
COMMIT;
-- Locks that a savepoint gives back do not count; those of a released one belong to the transaction.
BEGIN;
SET LOCAL cqrs.max_entity_locks = 4;
SELECT version FROM cqrs.append('AppendLocks', 'first', pg_temp.events(1));
SAVEPOINT a;
SAVEPOINT b;
SELECT sum((cqrs.append('AppendLocks', i::text, pg_temp.events(1))).version) FROM generate_series(0, 5) i;
SELECT pg_temp.entity_locks();
RELEASE b;
SELECT pg_temp.entity_locks();
ROLLBACK TO a;
SELECT pg_temp.entity_locks();
SAVEPOINT c;
SELECT version FROM cqrs.append('AppendLocks', 'second', pg_temp.events(1));
RELEASE c;
SELECT pg_temp.entity_locks();
SELECT sum((cqrs.append('AppendLocks', i::text, pg_temp.events(1))).version) FROM generate_series(0, 5) i;
SELECT pg_temp.entity_locks();
ROLLBACK;
SELECT count(*), min(n), max(n), bool_and(n = m) AS no_holes
FROM (SELECT count(*) AS n, max(version) AS m FROM cqrs.journal WHERE entity_type = 'AppendLocks' GROUP BY entity_id) e;


-- The same command_id again gives the first receipt and changes nothing, whatever version is expected by then.
SELECT version, position FROM cqrs.append('Append', 'command', pg_temp.events(2), 0, '00000000-0000-4000-8000-000000000001') \gset first_
SELECT version FROM cqrs.append('Append', 'command', pg_temp.events(1));
SELECT entity_id, version = :first_version AS same_version, position = :first_position AS same_position, reply
FROM cqrs.append('Append', 'command', pg_temp.events(2), 0, '00000000-0000-4000-8000-000000000001');
SELECT version, position = :first_position AS same_position
FROM cqrs.append('Append', 'command', pg_temp.events(2), command_id => '00000000-0000-4000-8000-000000000001');
SELECT version, event_type, metadata FROM cqrs.history('Append', 'command');
-- Other events under the same id are refused: another number of them, type, data or metadata.
\pset format unaligned
SELECT pg_temp.outcome(format('SELECT version FROM cqrs.append(''Append'', ''command'', %s, command_id => ''00000000-0000-4000-8000-000000000001'')', events)) AS outcome
FROM unnest(ARRAY[
    'pg_temp.events(2)',
    'pg_temp.events(1)',
    'pg_temp.events(3)',
    'ARRAY[cqrs.new_event(''Happened'', ''{"n": 1}''), cqrs.new_event(''Other'', ''{"n": 2}'')]',
    'ARRAY[cqrs.new_event(''Happened'', ''{"n": 1}''), cqrs.new_event(''Happened'', ''{"n": 3}'')]',
    'ARRAY[cqrs.new_event(''Happened'', ''{"n": 1}''), cqrs.new_event(''Happened'', ''{"n": 2}'', ''{}'')]'
]) events;
\pset format aligned
-- The id belongs to the entity; and to what was committed.
SELECT version FROM cqrs.append('Append', 'command-2', pg_temp.events(1), 0, '00000000-0000-4000-8000-000000000001');
BEGIN;
SELECT version FROM cqrs.append('Append', 'command-2', pg_temp.events(1), 1, '00000000-0000-4000-8000-000000000002');
ROLLBACK;
SELECT version FROM cqrs.append('Append', 'command-2', pg_temp.events(3), 1, '00000000-0000-4000-8000-000000000002');
-- A failed append uses no id up. Twice in one transaction is the same as in two.
BEGIN;
SAVEPOINT s;
SELECT version FROM cqrs.append('Append', 'command-2', pg_temp.events(1), 1, '00000000-0000-4000-8000-000000000003');
ROLLBACK TO s;
SELECT version FROM cqrs.append('Append', 'command-2', pg_temp.events(1), 4, '00000000-0000-4000-8000-000000000003');
SELECT version FROM cqrs.append('Append', 'command-2', pg_temp.events(1), 4, '00000000-0000-4000-8000-000000000003');
COMMIT;
-- Metadata of the event's own stays beside the id.
SELECT version FROM cqrs.append('Append', 'command-3', ARRAY[cqrs.new_event('A', '{}', '{"by": "me"}')], command_id => '00000000-0000-4000-8000-000000000004');
SELECT metadata FROM cqrs.history('Append', 'command-3');
SELECT entity_id, command_id, version, reply, slice = cqrs.slice(entity_type, entity_id) AS right_slice
FROM cqrs.command_log WHERE entity_type = 'Append' ORDER BY command_id, entity_id;


-- A new event is one schema version after the highest that is upcast from.
CREATE SCHEMA append_test;
CREATE FUNCTION append_test.same(event cqrs.event) RETURNS cqrs.event LANGUAGE sql AS 'SELECT event';
SELECT cqrs.create_entity('AppendUpcast');
SELECT version FROM cqrs.append('AppendUpcast', 'u', ARRAY[cqrs.new_event('Old', '{}'), cqrs.new_event('Plain', '{}')]);
SELECT cqrs.on_upcast('AppendUpcast', 'Old', 1, 'append_test.same(cqrs.event)');
SELECT version FROM cqrs.append('AppendUpcast', 'u', ARRAY[cqrs.new_event('Old', '{}'), cqrs.new_event('Plain', '{}')]);
SELECT cqrs.on_upcast('AppendUpcast', 'Old', 2, 'append_test.same(cqrs.event)');
SELECT version FROM cqrs.append('AppendUpcast', 'u', ARRAY[cqrs.new_event('Old', '{}'), cqrs.new_event('Plain', '{}')]);
SELECT version, event_type, schema_version FROM cqrs.history('AppendUpcast', 'u');
SELECT cqrs.drop_entity('AppendUpcast');
DROP SCHEMA append_test CASCADE;


-- What cannot be appended is refused with its reason, and draws no position.
SELECT cqrs.last_position() AS before \gset
\pset format unaligned
SELECT command, pg_temp.outcome('SELECT version FROM cqrs.append(' || command || ')') AS outcome
FROM unnest(ARRAY[
    $$NULL, 'bad', pg_temp.events(1)$$,
    $$'', 'bad', pg_temp.events(1)$$,
    $$'Append', NULL, pg_temp.events(1)$$,
    $$'Append', '', pg_temp.events(1)$$,
    $$'Append', 'bad', NULL$$,
    $$'Append', 'bad', '{}'$$,
    $$'Append', 'bad', ARRAY[cqrs.new_event('A', '{}'), NULL]$$,
    $$'Append', 'bad', ARRAY[cqrs.new_event('A', '{}'), NULL, cqrs.new_event('A', '{}')]$$,
    $$'Append', 'bad', ARRAY[ROW(NULL, NULL, NULL)::cqrs.new_event]$$,
    $$'Append', 'bad', ARRAY[cqrs.new_event(NULL, '{}')]$$,
    $$'Append', 'bad', ARRAY[cqrs.new_event('', '{}')]$$,
    $$'Append', 'bad', ARRAY[cqrs.new_event('A', '{}'), cqrs.new_event('B', NULL)]$$,
    $$'Append', 'bad', ARRAY[cqrs.new_event('A', 'null')]$$,
    $$'Append', 'bad', ARRAY[ARRAY[cqrs.new_event('A', '{}')], ARRAY[cqrs.new_event('B', '{}')]]$$,
    $$'Append', 'bad', ARRAY[cqrs.new_event('A', '{}', '[]')]$$,
    $$'Append', 'bad', ARRAY[cqrs.new_event('A', '{}', '[{"a": 1}]')]$$,
    $$'Append', 'bad', ARRAY[cqrs.new_event('A', '{}', '"text"')]$$,
    $$'Append', 'bad', ARRAY[cqrs.new_event('A', '{}', 'null')]$$,
    $$'Append', 'bad', ARRAY[cqrs.new_event('A', '{}', '{"a": 1, "$sender": "root"}')]$$,
    $$'Append', 'bad', ARRAY[cqrs.new_event('A', '{}', '{"a": {"deep": [1, {"x": 2}]}, "$": 1}')]$$,
    $$'Append', repeat('x', 10240), pg_temp.events(1)$$,
    $$repeat('x', 10240), 'bad', pg_temp.events(1)$$,
    $$'Append', 'bad', ARRAY[cqrs.new_event('A', '{"a": "\u0000"}')]$$,
    $$'Append', 'bad', pg_temp.events(1), command_id => '123'$$
]) command;
\pset format aligned
SELECT cqrs.last_position() - :before AS drawn;
SELECT count(*) FROM cqrs.journal WHERE entity_type IN ('Append', '', repeat('x', 10240)) AND entity_id IN ('bad', '', repeat('x', 10240));
-- What looks like it, but is right: keys with $ further inside or further on, scalars as data.
SELECT version FROM cqrs.append('Append', 'odd', ARRAY[cqrs.new_event('A', '"null"', '{"a": {"$b": 1}, "c$": 2, "": 3}'),
    cqrs.new_event('A', 'false', '{}'), cqrs.new_event('A', '0'), cqrs.new_event('A', '""'), cqrs.new_event('A', '[null]')]);
SELECT data, metadata FROM cqrs.history('Append', 'odd');


-- Type and id together have a limit in bytes, which an append, a command_id and a snapshot all can take.
SELECT string_agg(sha512(i::text::bytea)::text, '') AS noise FROM generate_series(1, 30) i \gset
SELECT cqrs.create_entity('AppendLimit');
SELECT cqrs.on_event('AppendLimit', '*', 'cqrs.merge');
SELECT version FROM cqrs.append('AppendLimit', left(:'noise', 2600 - 11), pg_temp.events(1), 0, '00000000-0000-4000-8000-000000000005');
SELECT version FROM cqrs.append('AppendLimit', left(:'noise', 2600 - 11), pg_temp.events(1), 0, '00000000-0000-4000-8000-000000000005');
SELECT cqrs.take_snapshot('AppendLimit', left(:'noise', 2600 - 11));
SELECT cqrs.state('AppendLimit', left(:'noise', 2600 - 11));
SELECT version, octet_length(entity_id) FROM cqrs.history('AppendLimit', left(:'noise', 2600 - 11));
SELECT version FROM cqrs.append('AppendLimit', left(:'noise', 2601 - 11), pg_temp.events(1));
-- Bytes, not characters; an id of characters of three bytes each.
SELECT version FROM cqrs.append('AppendLimit', repeat('雄', 863), pg_temp.events(1));
SELECT version FROM cqrs.append('AppendLimit', repeat('雄', 864), pg_temp.events(1));
SELECT cqrs.drop_entity('AppendLimit');


-- Many events at once, and large ones.
SELECT version FROM cqrs.append('Append', 'many', pg_temp.events(10000), 0);
SELECT count(*), min(version), max(version), bool_and(data->>'n' = version::text) AS in_order, bool_and(later) AS rising
FROM (SELECT version, data, coalesce(position > lag(position) OVER (ORDER BY version), true) AS later
      FROM cqrs.journal WHERE entity_type = 'Append' AND entity_id = 'many') e;
SELECT version FROM cqrs.append('Append', 'large', ARRAY[cqrs.new_event('Large', to_jsonb(repeat('0123456789abcdef', 65536)))]);
SELECT version FROM cqrs.append('Append', 'large', ARRAY[cqrs.new_event(repeat('T', 100000), '{}'),
    cqrs.new_event('Large', jsonb_build_object('noise', (SELECT string_agg(md5(i::text), '') FROM generate_series(1, 32768) i)))]);
SELECT version, length(event_type), length(data::text), md5(data::text) FROM cqrs.history('Append', 'large');


-- A transaction that may not write does not.
BEGIN READ ONLY;
SELECT version FROM cqrs.append('Append', 'read-only', pg_temp.events(1));
ROLLBACK;
SELECT count(*) FROM cqrs.history('Append', 'read-only');


-- EXECUTE on the function is the right to append, and all that it takes.
CREATE ROLE regress_append_reader;
CREATE ROLE regress_append_writer;
GRANT SELECT ON cqrs.journal TO regress_append_reader;
GRANT EXECUTE ON FUNCTION cqrs.append(text, text, cqrs.new_event[], bigint, uuid) TO regress_append_writer;
SET ROLE regress_append_reader;
SELECT version FROM cqrs.append('Append', 'role', ARRAY[cqrs.new_event('A', '{}')]);
SET ROLE regress_append_writer;
SELECT version FROM cqrs.append('Append', 'role', ARRAY[cqrs.new_event('A', '{}')], 0);
SELECT version FROM cqrs.append('Append', 'role', ARRAY[cqrs.new_event('A', '{}'), cqrs.new_event('A', '{}')], 1, '00000000-0000-4000-8000-000000000006');
SELECT version FROM cqrs.append('Append', 'role', ARRAY[cqrs.new_event('A', '{}'), cqrs.new_event('A', '{}')], 1, '00000000-0000-4000-8000-000000000006');
SELECT count(*) FROM cqrs.journal;
SELECT count(*) FROM cqrs.command_log;
RESET ROLE;
SELECT version, metadata FROM cqrs.history('Append', 'role');
DROP OWNED BY regress_append_reader, regress_append_writer;
DROP ROLE regress_append_reader, regress_append_writer;


-- A sequence that was set back is noticed before anything is written, and repaired by cqrs.adopt().
SELECT cqrs.last_position() AS before \gset
SELECT setval('cqrs.journal_position_seq', 1);
\pset format unaligned
SELECT regexp_replace(pg_temp.outcome($$SELECT version FROM cqrs.append('Append', 'set-back', pg_temp.events(1))$$), 'after \d+', 'after N') AS outcome;
SELECT regexp_replace(pg_temp.outcome($$SELECT version FROM cqrs.append('Append', 'set-back', pg_temp.events(3), 0)$$), 'after \d+', 'after N') AS outcome;
\pset format aligned
SELECT count(*) FROM cqrs.history('Append', 'set-back');
SELECT cqrs.last_position() = :before AS nothing_drawn;
SELECT cqrs.adopt() = :before AS raised;
SELECT version, position > :before AS later FROM cqrs.append('Append', 'set-back', pg_temp.events(1));
-- So is one that counts downwards.
SELECT cqrs.last_position() AS before \gset
ALTER SEQUENCE cqrs.journal_position_seq INCREMENT BY -1;
\pset format unaligned
SELECT regexp_replace(pg_temp.outcome($$SELECT version FROM cqrs.append('Append', 'set-back', pg_temp.events(1))$$), '\d+ was drawn after \d+', 'N was drawn after M') AS outcome;
\pset format aligned
ALTER SEQUENCE cqrs.journal_position_seq INCREMENT BY 1;
SELECT cqrs.adopt() = :before AS raised;
SELECT version, position > :before AS later FROM cqrs.append('Append', 'set-back', pg_temp.events(1));
-- Other steps only leave gaps, and so does a cache as long as one session alone writes.
SELECT cqrs.last_position() AS before \gset
ALTER SEQUENCE cqrs.journal_position_seq INCREMENT BY 7 CACHE 10;
SELECT version, position > :before AS later FROM cqrs.append('Append', 'set-back', pg_temp.events(20));
ALTER SEQUENCE cqrs.journal_position_seq INCREMENT BY 1 CACHE 1;
SELECT cqrs.adopt() > :before AS raised;
SELECT version FROM cqrs.append('Append', 'set-back', pg_temp.events(2));
-- A position that is taken, by a row written by hand, is told the same way.
BEGIN;
INSERT INTO cqrs.journal (position, slice, entity_type, entity_id, version, event_type, schema_version, data, created_at)
SELECT cqrs.last_position() + 1, cqrs.slice('Append', 'by-hand'), 'Append', 'by-hand', 1, 'A', 1, '{}', now();
\pset format unaligned
SELECT pg_temp.outcome($$SELECT version FROM cqrs.append('Append', 'set-back', pg_temp.events(1))$$) AS outcome;
\pset format aligned
ROLLBACK;
SELECT version, rising FROM (
    SELECT version, position > lag(position) OVER (ORDER BY version) AS rising
    FROM cqrs.journal WHERE entity_type = 'Append' AND entity_id = 'set-back') e
WHERE rising IS NOT TRUE;
SELECT max(version), count(*) FROM cqrs.history('Append', 'set-back');
