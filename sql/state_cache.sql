-- The states that a session keeps: they save folding, and are never a state that the journal does not have.
ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;
CREATE SCHEMA state_cache_test;
SET search_path = state_cache_test;
SET client_min_messages = warning;

CREATE FUNCTION add(state jsonb, command cqrs.command) RETURNS cqrs.effect
    LANGUAGE sql
    AS $$ SELECT cqrs.persist('Added', command.data, reply => state) $$;
CREATE FUNCTION added(state jsonb, event cqrs.event) RETURNS jsonb
    LANGUAGE sql
    AS $$ SELECT jsonb_build_object('sum', (state ->> 'sum')::int + (event.data ->> 'by')::int) $$;
-- No snapshots, which would save folding as well.
SELECT cqrs.create_entity('cache.Sum', initial_state => '{"sum": 0}', snapshot_every => 0);
SELECT cqrs.on_command('cache.Sum', 'Add', 'add');
SELECT cqrs.on_event('cache.Sum', 'Added', 'added');

-- The counters since they were last looked at.
CREATE TEMP TABLE seen AS SELECT * FROM cqrs.state_cache;
CREATE PROCEDURE counted() LANGUAGE plpgsql AS $$
DECLARE
    now_seen seen;
    before seen;
BEGIN
    SELECT * INTO before FROM seen;
    SELECT * INTO now_seen FROM cqrs.state_cache;
    RAISE WARNING 'hits %, misses %, evictions %',
        now_seen.hits - before.hits, now_seen.misses - before.misses, now_seen.evictions - before.evictions;
    UPDATE seen SET hits = now_seen.hits, misses = now_seen.misses, evictions = now_seen.evictions;
END
$$;
\set SHOW_CONTEXT never

-- A new entity has nothing to load; the second command finds the state that the first one left, and so does a reader.
SELECT version FROM cqrs.send('cache.Sum', 'a', 'Add', '{"by": 1}');
CALL counted();
SELECT version, reply FROM cqrs.send('cache.Sum', 'a', 'Add', '{"by": 2}');
CALL counted();
SELECT cqrs.state('cache.Sum', 'a');
CALL counted();
-- Something is kept, and it has a size.
SELECT entries > 0 AS entries, bytes > 0 AS bytes FROM cqrs.state_cache;

-- Another version than the last is no hit, and does not push the last one out.
SELECT cqrs.state('cache.Sum', 'a', 1);
CALL counted();
SELECT cqrs.state('cache.Sum', 'a');
CALL counted();

-- A raw append in between is folded on top of what was kept.
SELECT version FROM cqrs.append('cache.Sum', 'a', ARRAY[cqrs.new_event('Added', '{"by": 4}')]);
SELECT version, reply FROM cqrs.send('cache.Sum', 'a', 'Add', '{"by": 8}');
CALL counted();
SELECT cqrs.state('cache.Sum', 'a');
CALL counted();

-- What a rolled-back transaction or savepoint left is not used, even where the same version was written again.
BEGIN;
SELECT version, reply FROM cqrs.send('cache.Sum', 'a', 'Add', '{"by": 100}');
SELECT cqrs.state('cache.Sum', 'a');
ROLLBACK;
SELECT cqrs.state('cache.Sum', 'a');
BEGIN;
SAVEPOINT s;
SELECT version FROM cqrs.send('cache.Sum', 'a', 'Add', '{"by": 200}');
ROLLBACK TO s;
SELECT cqrs.state('cache.Sum', 'a');
SELECT version, reply FROM cqrs.send('cache.Sum', 'a', 'Add', '{"by": 16}');
SAVEPOINT s;
SELECT version FROM cqrs.send('cache.Sum', 'a', 'Add', '{"by": 400}');
ROLLBACK TO s;
COMMIT;
SELECT cqrs.state('cache.Sum', 'a');
BEGIN;
SELECT version FROM cqrs.send('cache.Sum', 'a', 'Add', '{"by": 800}');
ROLLBACK;
SELECT version FROM cqrs.append('cache.Sum', 'a', ARRAY[cqrs.new_event('Added', '{"by": 32}')]);
SELECT cqrs.state('cache.Sum', 'a');
-- An entity that a rolled-back transaction had begun is new again.
BEGIN;
SELECT version FROM cqrs.send('cache.Sum', 'gone', 'Add', '{"by": 1000}');
ROLLBACK;
SELECT cqrs.state('cache.Sum', 'gone') IS NULL AS gone;
SELECT version, reply FROM cqrs.send('cache.Sum', 'gone', 'Add', '{"by": 1}');

-- Nor is the state of a prepared transaction, unless that commits.
BEGIN;
SELECT version FROM cqrs.send('cache.Sum', 'prepared', 'Add', '{"by": 1}');
PREPARE TRANSACTION 'cqrs_state_cache';
SELECT cqrs.state('cache.Sum', 'prepared') IS NULL AS not_there;
ROLLBACK PREPARED 'cqrs_state_cache';
SELECT version, reply FROM cqrs.send('cache.Sum', 'prepared', 'Add', '{"by": 2}');
BEGIN;
SELECT version FROM cqrs.send('cache.Sum', 'prepared', 'Add', '{"by": 4}');
PREPARE TRANSACTION 'cqrs_state_cache';
SELECT cqrs.state('cache.Sum', 'prepared');
COMMIT PREPARED 'cqrs_state_cache';
SELECT version, reply FROM cqrs.send('cache.Sum', 'prepared', 'Add', '{"by": 8}');

-- A statement that sends reads the state that its snapshot sees, and the next one the newer state.
SELECT r.version, r.reply, cqrs.state('cache.Sum', 'gone')
FROM generate_series(1, 2) n, cqrs.send('cache.Sum', 'gone', 'Add', jsonb_build_object('by', n * 10)) r;
SELECT cqrs.state('cache.Sum', 'gone');

-- Changed handlers are not served states that the old ones made: replaced, registered anew, another initial state, an upcaster.
SELECT cqrs.state('cache.Sum', 'a');
CREATE OR REPLACE FUNCTION added(state jsonb, event cqrs.event) RETURNS jsonb
    LANGUAGE sql
    AS $$ SELECT jsonb_build_object('sum', (state ->> 'sum')::int - (event.data ->> 'by')::int) $$;
SELECT cqrs.state('cache.Sum', 'a') AS replaced;
SELECT version, reply FROM cqrs.send('cache.Sum', 'a', 'Add', '{"by": -64}');
CREATE FUNCTION count_them(state jsonb, event cqrs.event) RETURNS jsonb
    LANGUAGE sql
    AS $$ SELECT jsonb_build_object('sum', (state ->> 'sum')::int + 1) $$;
SELECT cqrs.on_event('cache.Sum', 'Added', 'count_them');
SELECT cqrs.state('cache.Sum', 'a') AS registered;
SELECT cqrs.alter_entity('cache.Sum', initial_state => '{"sum": 1000}');
SELECT cqrs.state('cache.Sum', 'a') AS initial_state;
CREATE FUNCTION drop_big(event cqrs.event) RETURNS cqrs.event
    LANGUAGE plpgsql
    AS $$
BEGIN
    RETURN CASE WHEN (event.data ->> 'by')::int < 10 THEN event END;
END
$$;
SELECT cqrs.on_upcast('cache.Sum', 'Added', 1, 'drop_big');
SELECT cqrs.state('cache.Sum', 'a') AS upcast;
-- A registration that was rolled back has left nothing.
BEGIN;
SELECT cqrs.on_upcast('cache.Sum', 'Added', 1, NULL);
SELECT cqrs.state('cache.Sum', 'a') AS inside;
ROLLBACK;
SELECT cqrs.state('cache.Sum', 'a') AS upcast_again;
SELECT cqrs.on_upcast('cache.Sum', 'Added', 1, NULL);
SELECT cqrs.on_event('cache.Sum', 'Added', 'added');
SELECT cqrs.alter_entity('cache.Sum', initial_state => '{"sum": 0}');
CREATE OR REPLACE FUNCTION added(state jsonb, event cqrs.event) RETURNS jsonb
    LANGUAGE sql
    AS $$ SELECT jsonb_build_object('sum', (state ->> 'sum')::int + (event.data ->> 'by')::int) $$;
SELECT cqrs.state('cache.Sum', 'a');

-- The least recently used go first when there is no more room. A state is 10 kB here, and there is room for three.
CREATE FUNCTION filled(state jsonb, event cqrs.event) RETURNS jsonb
    LANGUAGE sql
    AS $$ SELECT jsonb_build_object('filling', repeat('x', 10000)) $$;
SELECT cqrs.create_entity('cache.Big', snapshot_every => 0);
SELECT cqrs.on_event('cache.Big', '*', 'filled');
SELECT version FROM unnest('{a, b, c, d}'::text[]) id, cqrs.append('cache.Big', id, ARRAY[cqrs.new_event('E', '{}')]);
SET cqrs.state_cache_size = 0;
SELECT length(cqrs.state('cache.Big', 'a') ->> 'filling') AS nothing_kept;
SET cqrs.state_cache_size = '32kB';
CREATE FUNCTION load(ids text[]) RETURNS void
    LANGUAGE plpgsql
    AS $$
DECLARE
    id text;
BEGIN
    FOREACH id IN ARRAY ids LOOP
        IF length(cqrs.state('cache.Big', id) ->> 'filling') <> 10000 THEN
            RAISE EXCEPTION 'wrong state of %', id;
        END IF;
    END LOOP;
END
$$;
SELECT load('{a, b, c}');
UPDATE seen SET hits = s.hits, misses = s.misses, evictions = s.evictions FROM cqrs.state_cache s;
SELECT load('{a, b, c}');
CALL counted();
-- a is used, so b is the one that makes room for d.
SELECT load('{a, c, a, d}');
CALL counted();
SELECT load('{a, c, d}');
CALL counted();
SELECT load('{b}');
CALL counted();
SELECT load('{a}');
CALL counted();

-- A state that is larger than all the room is not kept, and pushes nothing out.
SET cqrs.state_cache_size = '8kB';
SELECT cqrs.state('cache.Sum', 'gone');
SELECT load('{a}');
UPDATE seen SET hits = s.hits, misses = s.misses, evictions = s.evictions FROM cqrs.state_cache s;
SELECT load('{a, a, a}');
CALL counted();
SELECT cqrs.state('cache.Sum', 'gone');
CALL counted();

-- 0 turns it off: each state is folded, and is right.
SET cqrs.state_cache_size = 0;
SELECT version, reply FROM cqrs.send('cache.Sum', 'off', 'Add', '{"by": 1}');
SELECT version, reply FROM cqrs.send('cache.Sum', 'off', 'Add', '{"by": 2}');
UPDATE seen SET hits = s.hits, misses = s.misses, evictions = s.evictions FROM cqrs.state_cache s;
SELECT version, reply FROM cqrs.send('cache.Sum', 'off', 'Add', '{"by": 4}');
SELECT cqrs.state('cache.Sum', 'off');
CALL counted();
RESET cqrs.state_cache_size;
SELECT cqrs.state('cache.Sum', 'off');
SELECT cqrs.state('cache.Sum', 'off');
CALL counted();

-- An entity type that was dropped and made again has states of its own.
SELECT cqrs.state('cache.Sum', 'a');
SELECT cqrs.drop_entity('cache.Sum');
SELECT cqrs.create_entity('cache.Sum', initial_state => '{"sum": 5000}', snapshot_every => 0);
SELECT cqrs.on_event('cache.Sum', 'Added', 'added');
SELECT cqrs.state('cache.Sum', 'a');

SELECT cqrs.drop_entity(t) FROM unnest('{cache.Sum, cache.Big}'::text[]) t;
DROP TABLE seen;
DROP SCHEMA state_cache_test CASCADE;
ALTER DEFAULT PRIVILEGES GRANT EXECUTE ON FUNCTIONS TO PUBLIC;
