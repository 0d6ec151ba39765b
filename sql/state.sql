-- cqrs.state: the fold of an entity's events, now, at a version or at a time, whatever was kept on the way.
ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;
CREATE SCHEMA state_test;
SET search_path = state_test;
SET client_min_messages = warning;

CREATE FUNCTION renamed(state jsonb, event cqrs.event) RETURNS jsonb
    LANGUAGE sql
    AS $$ SELECT state || jsonb_build_object('name', event.data -> 'name', 'names', (state ->> 'names')::int + 1) $$;
CREATE FUNCTION tagged(state jsonb, event cqrs.event) RETURNS jsonb
    LANGUAGE sql
    AS $$ SELECT state || jsonb_build_object('tags', coalesce(state -> 'tags', '[]') || (event.data -> 'tag')) $$;
SELECT cqrs.create_entity('state.Doc', initial_state => '{"names": 0}', snapshot_every => 2);
SELECT cqrs.on_event('state.Doc', 'Renamed', 'renamed');
SELECT cqrs.on_event('state.Doc', 'Tagged', 'tagged');
-- Four events, each in a transaction of its own, so that each has a time of its own.
SELECT version FROM cqrs.append('state.Doc', 'd', ARRAY[cqrs.new_event('Renamed', '{"name": "a"}')]);
SELECT version FROM cqrs.append('state.Doc', 'd', ARRAY[cqrs.new_event('Tagged', '{"tag": 1}')]);
SELECT version FROM cqrs.append('state.Doc', 'd', ARRAY[cqrs.new_event('Renamed', '{"name": "b"}')]);
SELECT version FROM cqrs.append('state.Doc', 'd', ARRAY[cqrs.new_event('Tagged', '{"tag": 2}')]);

-- Now, and after each version; 0 is the initial state; NULL is as if it were not given.
SELECT cqrs.state('state.Doc', 'd');
SELECT n, cqrs.state('state.Doc', 'd', n) FROM generate_series(0, 4) n;
SELECT cqrs.state('state.Doc', 'd', NULL, NULL) = cqrs.state('state.Doc', 'd') AS same;
-- Beyond the last there is none.
SELECT cqrs.state('state.Doc', 'd', 5);
\echo :SQLSTATE
SELECT cqrs.state('state.Doc', 'd', 9223372036854775807);
\echo :SQLSTATE
SELECT cqrs.state('state.Doc', 'd', -1);
\echo :SQLSTATE

-- At a time: what was there by then, NULL before the first event.
SELECT e.version,
       cqrs.state('state.Doc', 'd', at => e.created_at) = cqrs.state('state.Doc', 'd', e.version) AS at_its_time,
       cqrs.state('state.Doc', 'd', at => e.created_at - interval '1 microsecond')
           IS NOT DISTINCT FROM CASE WHEN e.version > 1 THEN cqrs.state('state.Doc', 'd', e.version - 1) END AS just_before
FROM cqrs.history('state.Doc', 'd') e ORDER BY e.version;
SELECT cqrs.state('state.Doc', 'd', at => 'infinity') = cqrs.state('state.Doc', 'd') AS later_is_now,
       cqrs.state('state.Doc', 'd', at => '-infinity') IS NULL AS before_there_was_any;
-- Events of one append have one time: there is no state between them.
SELECT version FROM cqrs.append('state.Doc', 'two', ARRAY[cqrs.new_event('Tagged', '{"tag": 1}'), cqrs.new_event('Tagged', '{"tag": 2}')]);
SELECT e.version, cqrs.state('state.Doc', 'two', at => e.created_at) FROM cqrs.history('state.Doc', 'two') e ORDER BY e.version;
SELECT cqrs.state('state.Doc', 'd', 1, now());
\echo :SQLSTATE

-- Where there is no such entity the state is NULL, at any version and time; an unknown type is an error.
SELECT cqrs.state('state.Doc', 'none'), cqrs.state('state.Doc', 'none', 0), cqrs.state('state.Doc', 'none', 7), cqrs.state('state.Doc', 'none', at => now());
SELECT cqrs.state('state.None', 'd');
\echo :SQLSTATE
SELECT cqrs.state(NULL, 'd');
SELECT cqrs.state('state.Doc', NULL);

-- A statement sees one state: the one of its snapshot, whatever it sends on the way.
CREATE FUNCTION rename(state jsonb, command cqrs.command) RETURNS cqrs.effect
    LANGUAGE sql
    AS $$ SELECT cqrs.persist('Renamed', command.data, reply => state) $$;
SELECT cqrs.on_command('state.Doc', 'Rename', 'rename');
SELECT r.version, cqrs.state('state.Doc', 'd') ->> 'name' AS name
FROM generate_series(1, 2) n, cqrs.send('state.Doc', 'd', 'Rename', jsonb_build_object('name', 'c' || n)) r;
SELECT cqrs.state('state.Doc', 'd');
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT cqrs.state('state.Doc', 'd') ->> 'name' AS name;
SELECT version FROM cqrs.send('state.Doc', 'd', 'Rename', '{"name": "e"}');
SELECT cqrs.state('state.Doc', 'd') ->> 'name' AS name;
ROLLBACK;
SELECT cqrs.state('state.Doc', 'd') ->> 'name' AS name;

-- cqrs.merge puts the top-level keys of an event's data into the state.
SELECT cqrs.merge('{"a": 1, "b": {"x": 1}}', ROW(1, 1, 't', 'i', 1, 'e', 1, '{"b": {"y": 2}, "c": 3}', NULL, now())::cqrs.event);
SELECT cqrs.merge('{"a": 1}', ROW(1, 1, 't', 'i', 1, 'e', 1, NULL, NULL, now())::cqrs.event), cqrs.merge(NULL, NULL) IS NULL AS strict;
SELECT cqrs.create_entity('state.Merged');
SELECT cqrs.on_event('state.Merged', '*', 'cqrs.merge');
SELECT version FROM cqrs.append('state.Merged', 'm', ARRAY[cqrs.new_event('A', '{"a": 1, "b": 1}'), cqrs.new_event('B', '{"b": 2}')]);
SELECT cqrs.state('state.Merged', 'm');

-- An event that nobody handles, or whose handler gives NULL, cannot be folded; what is before it can.
SELECT version FROM cqrs.append('state.Doc', 'bad', ARRAY[cqrs.new_event('Renamed', '{"name": "a"}'), cqrs.new_event('Unheard', '{}')]);
SELECT cqrs.state('state.Doc', 'bad', 1);
SELECT cqrs.state('state.Doc', 'bad');
\echo :SQLSTATE
CREATE FUNCTION nothing(state jsonb, event cqrs.event) RETURNS jsonb LANGUAGE sql AS $$ SELECT NULL::jsonb $$;
SELECT cqrs.on_event('state.Doc', 'Unheard', 'nothing');
SELECT cqrs.state('state.Doc', 'bad');
\echo :SQLSTATE
-- A STRICT handler is called: neither state nor event is ever NULL.
CREATE OR REPLACE FUNCTION nothing(state jsonb, event cqrs.event) RETURNS jsonb LANGUAGE sql STRICT AS $$ SELECT state || '{"heard": true}' $$;
SELECT cqrs.state('state.Doc', 'bad');

-- Upcasters: each brings an event from a schema version to the next; state sees the result, history what is stored.
CREATE FUNCTION to_2(event cqrs.event) RETURNS cqrs.event
    LANGUAGE sql
    AS $$ SELECT ROW(0, 0, 'not', 'taken', 99, event.event_type, 2, jsonb_build_object('name', event.data -> 'n'), NULL, NULL)::cqrs.event $$;
CREATE FUNCTION to_3(event cqrs.event) RETURNS cqrs.event
    LANGUAGE plpgsql
    AS $$
BEGIN
    event.data := event.data || jsonb_build_object('full', event.data ->> 'name' || ' of ' || event.entity_id || ' at ' || event.version);
    event.schema_version := NULL;
    RETURN event;
END
$$;
SELECT cqrs.create_entity('state.Old');
SELECT cqrs.on_event('state.Old', '*', 'cqrs.merge');
SELECT version FROM cqrs.append('state.Old', 'o', ARRAY[cqrs.new_event('Named', '{"n": "first"}', '{"by": "me"}')]);
SELECT cqrs.state('state.Old', 'o');
SELECT cqrs.on_upcast('state.Old', 'Named', 1, 'to_2');
SELECT cqrs.state('state.Old', 'o');
SELECT version FROM cqrs.append('state.Old', 'o2', ARRAY[cqrs.new_event('Named', '{"name": "second"}')]);
SELECT cqrs.on_upcast('state.Old', 'Named', 2, 'to_3');
SELECT version FROM cqrs.append('state.Old', 'o3', ARRAY[cqrs.new_event('Named', '{"name": "third", "full": "x"}')]);
SELECT id, cqrs.state('state.Old', id), schema_version, data, metadata
FROM unnest('{o, o2, o3}'::text[]) id, cqrs.history('state.Old', id);
-- Commands store the newest schema version, too.
CREATE FUNCTION name(state jsonb, command cqrs.command) RETURNS cqrs.effect
    LANGUAGE sql
    AS $$ SELECT cqrs.persist('Named', command.data) $$;
SELECT cqrs.on_command('state.Old', 'Name', 'name');
SELECT version FROM cqrs.send('state.Old', 'o', 'Name', '{"name": "fourth"}');
SELECT cqrs.state('state.Old', 'o'), h.schema_version FROM cqrs.history('state.Old', 'o', 1) h;

-- An upcaster may rename an event, whose schema versions then are counted anew, or drop it from the state: its version still counts.
CREATE FUNCTION rename_it(event cqrs.event) RETURNS cqrs.event
    LANGUAGE plpgsql
    AS $$
BEGIN
    event.event_type := 'Titled';
    event.schema_version := 1;
    RETURN event;
END
$$;
CREATE FUNCTION drop_it(event cqrs.event) RETURNS cqrs.event LANGUAGE sql AS $$ SELECT NULL::cqrs.event $$;
CREATE FUNCTION titled(state jsonb, event cqrs.event) RETURNS jsonb
    LANGUAGE sql
    AS $$ SELECT state || jsonb_build_object('title', event.data, 'type', event.event_type, 'schema', event.schema_version, 'version', event.version) $$;
SELECT cqrs.create_entity('state.Renamed');
SELECT cqrs.on_event('state.Renamed', 'Titled', 'titled');
SELECT version FROM cqrs.append('state.Renamed', 'r', ARRAY[cqrs.new_event('Called', '{"c": 1}'), cqrs.new_event('Titled', '{"t": 1}'),
    cqrs.new_event('Noise', '{}')]);
SELECT cqrs.on_upcast('state.Renamed', 'Called', 1, 'rename_it');
SELECT cqrs.on_upcast('state.Renamed', 'Noise', 1, 'drop_it');
SELECT n, cqrs.state('state.Renamed', 'r', n) FROM generate_series(1, 3) n;
SELECT version FROM cqrs.append('state.Renamed', 'r', ARRAY[cqrs.new_event('Titled', '{"t": 2}')], 3);
SELECT cqrs.state('state.Renamed', 'r');
-- A renamed event goes through the upcasters of its new name.
SELECT cqrs.on_upcast('state.Renamed', 'Titled', 1, 'to_2');
SELECT cqrs.state('state.Renamed', 'r', 1);

-- Upcasters that go round in a circle, fail, or return what is no event, are errors that name the event.
CREATE FUNCTION rename_back(event cqrs.event) RETURNS cqrs.event
    LANGUAGE plpgsql
    AS $$
BEGIN
    event.event_type := 'Called';
    event.schema_version := 1;
    RETURN event;
END
$$;
SELECT cqrs.on_upcast('state.Renamed', 'Titled', 1, 'rename_back');
SELECT cqrs.state('state.Renamed', 'r');
\echo :SQLSTATE
CREATE OR REPLACE FUNCTION rename_back(event cqrs.event) RETURNS cqrs.event LANGUAGE plpgsql AS $$
BEGIN
    event.data := NULL;
    RETURN event;
END
$$;
SELECT cqrs.state('state.Renamed', 'r');
\echo :SQLSTATE
CREATE OR REPLACE FUNCTION rename_back(event cqrs.event) RETURNS cqrs.event LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'cannot be upcast';
END
$$;
SELECT cqrs.state('state.Renamed', 'r');
\echo :SQLSTATE
SELECT cqrs.on_upcast('state.Renamed', 'Titled', 1, NULL);
SELECT cqrs.state('state.Renamed', 'r') -> 'version' AS version;

-- A hole in the versions, which only a repair by hand can make, is not folded over.
BEGIN;
SET LOCAL cqrs.state_cache_size = 0;
SET LOCAL cqrs.allow_journal_changes = on;
DELETE FROM cqrs.journal WHERE entity_type = 'state.Doc' AND entity_id = 'd' AND version = 3;
SELECT cqrs.state('state.Doc', 'd', 2) ->> 'name' AS name;
SAVEPOINT s;
SELECT cqrs.state('state.Doc', 'd', 4);
\echo :SQLSTATE
ROLLBACK TO s;
SELECT cqrs.drop_snapshots('state.Doc', 'd') >= 0 AS dropped;
SELECT cqrs.state('state.Doc', 'd');
\echo :SQLSTATE
ROLLBACK;
SELECT cqrs.state('state.Doc', 'd') ->> 'name' AS name;

-- Parallel queries: cqrs.history may run in a worker, a query with cqrs.state is none; both give what they give otherwise.
SELECT set_config(name, 'on', false) FROM pg_settings WHERE name IN ('force_parallel_mode', 'debug_parallel_query');
SET cqrs.state_cache_size = 0;
-- What is registered is read anew, by the query itself.
ALTER FUNCTION renamed STABLE;
SELECT count(*), max(version) FROM cqrs.history('state.Doc', 'd');
SELECT cqrs.state('state.Doc', 'd') ->> 'name' AS name;
ALTER FUNCTION renamed IMMUTABLE;
SELECT e.entity_id, cqrs.state('state.Doc', e.entity_id, 1)
FROM cqrs.journal e WHERE e.entity_type = 'state.Doc' AND e.version = 1 ORDER BY 1;
RESET ALL;
SET search_path = state_test;
SET client_min_messages = warning;

SELECT cqrs.drop_entity(t) FROM unnest('{state.Doc, state.Merged, state.Old, state.Renamed}'::text[]) t;
SELECT cqrs.state('state.Doc', 'd');
\echo :SQLSTATE
DROP SCHEMA state_test CASCADE;
ALTER DEFAULT PRIVILEGES GRANT EXECUTE ON FUNCTIONS TO PUBLIC;
