-- What is deleted is gone everywhere, leaves an event that says so, and neither versions nor states nor read models suffer by it.
ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;
CREATE SCHEMA retention_test;
SET search_path = retention_test;
\set SHOW_CONTEXT never
CREATE FUNCTION add(state jsonb, command cqrs.command) RETURNS cqrs.effect LANGUAGE sql
    AS $$ SELECT cqrs.persist('Added', command.data, reply => jsonb_build_object('state', state, 'version', command.version)) $$;
CREATE FUNCTION added(state jsonb, event cqrs.event) RETURNS jsonb LANGUAGE sql
    AS $$ SELECT jsonb_build_object('sum', (state ->> 'sum')::int + (event.data ->> 'by')::int) $$;
SELECT cqrs.create_entity(name, initial_state => '{"sum": 0}', snapshot_every => 4, after_forget => after)
FROM (VALUES ('retention.Once', 'refuse'), ('retention.Again', 'follow')) t (name, after);
SELECT cqrs.on_command(name, '*', 'add'), cqrs.on_event(name, 'Added', 'added') FROM unnest('{retention.Once, retention.Again}'::text[]) name;
CREATE FUNCTION events(entity_type text, entity_id text) RETURNS TABLE (version bigint, event_type text, data jsonb, sender boolean) LANGUAGE sql
    AS $$ SELECT version, event_type, data, metadata ->> '$sender' = session_user FROM cqrs.history($1, $2) $$;
CREATE FUNCTION count_rows(entity_id text) RETURNS TABLE (snapshots bigint, answers bigint, timers bigint, deliveries bigint) LANGUAGE sql
    AS $$ SELECT (SELECT count(*) FROM cqrs.snapshot s WHERE s.entity_type = 'retention.Once' AND s.entity_id = $1),
        (SELECT count(*) FROM cqrs.command_log l WHERE l.entity_type = 'retention.Once' AND l.entity_id = $1),
        (SELECT count(*) FROM cqrs.timer t WHERE t.entity_type = 'retention.Once' AND t.entity_id = $1),
        (SELECT count(*) FROM cqrs.outbox o WHERE o.reply_entity_type = 'retention.Once' AND o.reply_entity_id = $1) $$;

-- Forgetting: events, snapshots, answers and timers are gone; the tombstone has the next version, and the entity does not exist.
SELECT version FROM generate_series(1, 5) n, cqrs.send('retention.Once', 'once', 'Add', '{"by": 1}', command_id => ('00000000-0000-4000-8000-00000000000' || n)::uuid);
SELECT cqrs.schedule(now() + '1 day', 'retention.Once', 'once', 'Add', '{"by": 100}') IS NOT NULL AS scheduled;
SELECT version FROM cqrs.send('retention.Once', 'other', 'Add', '{"by": 7}');
SELECT * FROM count_rows('once');
SELECT last_value AS before FROM cqrs.journal_position_seq \gset
SELECT cqrs.forget('retention.Once', 'once');
SELECT * FROM events('retention.Once', 'once');
SELECT * FROM count_rows('once');
SELECT cqrs.state('retention.Once', 'once') IS NULL AS now, cqrs.state('retention.Once', 'once', 6) IS NULL AS tombstone,
    cqrs.state('retention.Once', 'once', 0) AS initial, cqrs.state('retention.Once', 'once', at => now()) IS NULL AS at;
SELECT cqrs.state('retention.Once', 'once', 3);
\echo :SQLSTATE
SELECT cqrs.state('retention.Once', 'other');
-- Its position is a new one, and a reader that has read all before gets it.
SELECT version, event_type FROM cqrs.read_events(:before);
-- Nothing follows; not even what was answered before.
SELECT cqrs.send('retention.Once', 'once', 'Add', '{"by": 1}');
\echo :SQLSTATE
SELECT cqrs.send('retention.Once', 'once', 'Add', '{"by": 1}', command_id => '00000000-0000-4000-8000-000000000005');
SELECT cqrs.append('retention.Once', 'once', ARRAY[cqrs.new_event('Added', '{"by": 1}')]);
\echo :SQLSTATE
-- Once more changes nothing; who was never there is not forgotten.
SELECT cqrs.forget('retention.Once', 'once'), cqrs.forget('retention.Once', 'nobody') IS NULL AS nobody;
SELECT count(*) FROM cqrs.history('retention.Once', 'once');
SELECT cqrs.take_snapshot('retention.Once', 'once');
SELECT cqrs.send('retention.Once', 'once', 'Add', '{"by": 1}');

-- Following on: from the initial state, at the next version. Expected versions: there is no such entity, or it is at the tombstone's.
SELECT version FROM generate_series(1, 3) n, cqrs.send('retention.Again', 'again', 'Add', '{"by": 1}', command_id => '00000000-0000-4000-8000-000000000001');
SELECT cqrs.forget('retention.Again', 'again');
SELECT cqrs.state('retention.Again', 'again') IS NULL AS forgotten;
SELECT cqrs.send('retention.Again', 'again', 'Add', '{"by": 2}', expected_version => -4);
\echo :SQLSTATE
SELECT cqrs.send('retention.Again', 'again', 'Add', '{"by": 2}', expected_version => 1);
SELECT version, reply FROM cqrs.send('retention.Again', 'again', 'Add', '{"by": 2}', expected_version => 0, command_id => '00000000-0000-4000-8000-000000000001');
SELECT version, reply FROM cqrs.send('retention.Again', 'again', 'Add', '{"by": 3}', expected_version => 3);
SELECT cqrs.state('retention.Again', 'again'), cqrs.state('retention.Again', 'again', 3);
SET cqrs.state_cache_size = 0;
SELECT cqrs.state('retention.Again', 'again');
RESET cqrs.state_cache_size;
SELECT version FROM cqrs.append('retention.Again', 'again', ARRAY[cqrs.new_event('Added', '{"by": 4}')], 4);
SELECT cqrs.forget('retention.Again', 'again');
SELECT version FROM cqrs.append('retention.Again', 'again', ARRAY[cqrs.new_event('Added', '{"by": 5}')], 0);
SELECT * FROM events('retention.Again', 'again');
SELECT cqrs.state('retention.Again', 'again');
-- What a type says can be changed.
SELECT cqrs.alter_entity('retention.Once', after_forget => 'follow');
SELECT version FROM cqrs.send('retention.Once', 'once', 'Add', '{"by": 1}');
SELECT cqrs.alter_entity('retention.Once', after_forget => 'refuse');
SELECT version FROM cqrs.send('retention.Once', 'once', 'Add', '{"by": 1}');

-- A rollback brings everything back.
BEGIN;
SELECT cqrs.forget('retention.Once', 'other');
SELECT cqrs.state('retention.Once', 'other') IS NULL AS forgotten;
SELECT cqrs.send('retention.Once', 'other', 'Add', '{"by": 1}');
ROLLBACK;
SELECT version FROM cqrs.send('retention.Once', 'other', 'Add', '{"by": 7}');
SELECT cqrs.state('retention.Once', 'other');

-- States kept by sessions go as well.
SELECT entries > 0 AS kept FROM cqrs.state_cache;
SELECT cqrs.forget('retention.Once', 'other');
SELECT cqrs.state('retention.Again', 'nobody') IS NULL AS nobody, cqrs.take_snapshot('retention.Again', 'nobody') IS NULL AS none;
SELECT cqrs.state('retention.Again', 'again', 7) AS looked_up;
SELECT entries AS kept FROM cqrs.state_cache;

-- Old events: the last that goes is replaced by the state after it, at its position; what follows is folded from there.
SELECT version FROM generate_series(1, 10) n, cqrs.send('retention.Once', 'old', 'Add', jsonb_build_object('by', n));
CREATE TABLE was AS SELECT version, position, created_at FROM cqrs.journal WHERE entity_id = 'old';
CREATE TABLE states AS SELECT n, cqrs.state('retention.Once', 'old', n) FROM generate_series(1, 10) n;
SELECT cqrs.delete_events('retention.Once', 'old', 8);
SELECT * FROM events('retention.Once', 'old');
SELECT count(*) AS in_place FROM cqrs.journal j JOIN was USING (version, position, created_at) WHERE entity_id = 'old';
SELECT version FROM cqrs.snapshot WHERE entity_id = 'old' ORDER BY 1;
SELECT cqrs.state('retention.Once', 'old');
SET cqrs.state_cache_size = 0;
SELECT cqrs.drop_snapshots('retention.Once', 'old') > 0 AS dropped;
SELECT cqrs.state('retention.Once', 'old');
SELECT bool_and(cqrs.state('retention.Once', 'old', n) = state) AS same FROM states WHERE n >= 7;
SELECT cqrs.state('retention.Once', 'old', 6);
\echo :SQLSTATE
-- Also when another handler is registered: it sees what is left.
CREATE FUNCTION added_twice(state jsonb, event cqrs.event) RETURNS jsonb LANGUAGE sql
    AS $$ SELECT jsonb_build_object('sum', (state ->> 'sum')::int + 2 * (event.data ->> 'by')::int) $$;
SELECT cqrs.on_event('retention.Once', 'Added', 'added_twice');
SELECT cqrs.state('retention.Once', 'old');
SELECT cqrs.on_event('retention.Once', 'Added', 'added');
RESET cqrs.state_cache_size;
-- Commands and expected versions go on from the $deleted.
SELECT version, reply FROM cqrs.send('retention.Once', 'old', 'Add', '{"by": 1}', expected_version => 11);
-- Again, as far as there is anything to go; nothing is no event.
SELECT cqrs.delete_events('retention.Once', 'old', 8), cqrs.delete_events('retention.Once', 'old', 1), cqrs.delete_events('retention.Once', 'old', 3);
SELECT cqrs.delete_events('retention.Once', 'old', 12);
SELECT * FROM events('retention.Once', 'old');
SELECT cqrs.state('retention.Once', 'old');
SELECT cqrs.delete_events('retention.Once', 'old', 14);
\echo :SQLSTATE
SELECT cqrs.delete_events('retention.Once', 'old', 0);
SELECT cqrs.delete_events('retention.Once', 'old', NULL);
SELECT cqrs.delete_events('retention.Once', 'nobody', 1);
SELECT cqrs.delete_events('retention.Again', 'again', 7), cqrs.delete_events('retention.Again', 'again', 6);
-- And it can be forgotten then.
SELECT cqrs.forget('retention.Once', 'old');
SELECT * FROM events('retention.Once', 'old');

-- The journal is append-only to everybody else, before and after.
BEGIN;
SELECT cqrs.forget('retention.Again', 'again');
SAVEPOINT s;
DELETE FROM cqrs.journal WHERE entity_id = 'again';
\echo :SQLSTATE
ROLLBACK TO s;
UPDATE cqrs.journal SET data = '{}' WHERE entity_id = 'again';
ROLLBACK TO s;
TRUNCATE cqrs.journal;
ROLLBACK;
SHOW cqrs.allow_journal_changes;
-- A trigger that keeps events makes it fail as a whole.
CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
BEGIN;
CREATE TRIGGER keep BEFORE DELETE ON cqrs.journal FOR EACH ROW WHEN (old.event_type = '$forgotten') EXECUTE FUNCTION keep();
SELECT cqrs.forget('retention.Again', 'again');
\echo :SQLSTATE
ROLLBACK;

-- Events of ours are nobody else's to write or to handle.
SELECT cqrs.append('retention.Once', 'x', ARRAY[cqrs.new_event('$forgotten', '{}')]);
\echo :SQLSTATE
CREATE FUNCTION forge(state jsonb, command cqrs.command) RETURNS cqrs.effect LANGUAGE sql AS $$ SELECT cqrs.persist('$snapshot', '{"sum": 1000}') $$;
SELECT cqrs.on_command('retention.Once', 'Forge', 'forge');
SELECT cqrs.send('retention.Once', 'x', 'Forge');
SELECT cqrs.on_event('retention.Once', '$forgotten', 'added');
CREATE FUNCTION same(event cqrs.event) RETURNS cqrs.event LANGUAGE sql AS $$ SELECT event $$;
SELECT cqrs.on_upcast('retention.Once', '$forgotten', 1, 'same');

-- For the owner of the type, who needs EXECUTE, too; not in a handler of the entity, nor in an event handler.
CREATE ROLE regress_cqrs_retainer;
CREATE ROLE regress_cqrs_nobody;
GRANT USAGE ON SCHEMA retention_test TO regress_cqrs_retainer, regress_cqrs_nobody;
SET SESSION AUTHORIZATION regress_cqrs_nobody;
SELECT cqrs.forget('retention.Again', 'again');
\echo :SQLSTATE
RESET SESSION AUTHORIZATION;
GRANT EXECUTE ON FUNCTION cqrs.forget, cqrs.delete_events, cqrs.create_entity TO regress_cqrs_retainer, regress_cqrs_nobody;
SET SESSION AUTHORIZATION regress_cqrs_nobody;
SELECT cqrs.forget('retention.Again', 'again');
SELECT cqrs.delete_events('retention.Again', 'again', 6);
\echo :SQLSTATE
SET SESSION AUTHORIZATION regress_cqrs_retainer;
SELECT cqrs.create_entity('retention.Theirs');
RESET SESSION AUTHORIZATION;
SELECT version FROM cqrs.append('retention.Theirs', 't', ARRAY[cqrs.new_event('Any', '{}')]);
SET SESSION AUTHORIZATION regress_cqrs_retainer;
SELECT cqrs.forget('retention.Theirs', 't');
DELETE FROM cqrs.journal WHERE entity_type = 'retention.Theirs';
RESET SESSION AUTHORIZATION;
SELECT version, event_type, metadata FROM cqrs.history('retention.Theirs', 't');
SELECT cqrs.drop_entity('retention.Theirs');
SELECT cqrs.forget('retention.Theirs', 't');
\echo :SQLSTATE
CREATE FUNCTION forget_self(state jsonb, command cqrs.command) RETURNS cqrs.effect LANGUAGE plpgsql AS $$
BEGIN
    PERFORM cqrs.forget(command.entity_type, command.data ->> 'id');
    RETURN cqrs.reply('"done"');
END
$$;
SELECT cqrs.on_command('retention.Once', 'Forget', 'forget_self');
SELECT cqrs.send('retention.Once', 'self', 'Forget', '{"id": "self"}');
\echo :SQLSTATE
SELECT reply FROM cqrs.send('retention.Once', 'self', 'Forget', '{"id": "nobody"}');
CREATE FUNCTION forget_in_fold(state jsonb, event cqrs.event) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
    PERFORM cqrs.forget('retention.Once', 'old');
    RETURN state;
END
$$;
SELECT cqrs.on_event('retention.Once', 'Added', 'forget_in_fold');
SELECT cqrs.send('retention.Once', 'self', 'Add', '{"by": 1}');
\echo :SQLSTATE
SELECT cqrs.on_event('retention.Once', 'Added', 'added');

-- Deliveries that will send a command to the entity have to be settled first, and then go with it.
CREATE SERVER retention_service FOREIGN DATA WRAPPER cqrs_http OPTIONS (url 'http://127.0.0.1:1', allow_http 'true');
CREATE USER MAPPING FOR CURRENT_USER SERVER retention_service;
SELECT version FROM cqrs.send('retention.Once', 'd', 'Add', '{"by": 1}');
BEGIN;
SELECT cqrs.enqueue('retention_service', 'POST', '/', reply_entity_type => 'retention.Once', reply_entity_id => 'd', reply_command => 'Add') IS NOT NULL AS enqueued;
SAVEPOINT s;
SELECT cqrs.forget('retention.Once', 'd');
\echo :SQLSTATE
ROLLBACK TO s;
UPDATE cqrs.outbox SET state = 'dead' WHERE reply_entity_id = 'd';
SELECT cqrs.forget('retention.Once', 'd');
SELECT * FROM count_rows('d');
ROLLBACK;
-- All of it is found by an index, whatever the statistics said, also after the session's search_path has come to mean something else
-- by its first temporary table; of deliveries that are not settled, all are looked at.
ANALYZE cqrs.snapshot, cqrs.parked_entity, cqrs.command_log, cqrs.timer, cqrs.outbox;
SELECT cqrs.forget('retention.Once', 'nobody') IS NULL AS planned;
BEGIN;
SELECT count(cqrs.schedule(now() + '1 day', 'retention.Again', n::text, 'Add')) FROM generate_series(1, 300) n;
SELECT count(cqrs.enqueue('retention_service', 'POST', '/', reply_entity_type => 'retention.Again', reply_entity_id => n::text, reply_command => 'Add'))
FROM generate_series(1, 300) n;
UPDATE cqrs.outbox SET state = 'delivered', settled_at = now() WHERE reply_entity_id::int > 7;
UPDATE cqrs.outbox SET state = 'claimed' WHERE reply_entity_id = '6';
UPDATE cqrs.outbox SET ordering_key = 'x', behind = true WHERE reply_entity_id = '7';
CREATE FUNCTION scans() RETURNS TABLE (name name, whole_tables bigint, fetched bigint) LANGUAGE sql AS $$
    SELECT relname, seq_scan, idx_tup_fetch FROM pg_stat_xact_all_tables WHERE schemaname = 'cqrs' $$;
CREATE TEMPORARY TABLE scanned AS SELECT * FROM scans();
SELECT version FROM cqrs.append('retention.Once', 'f', ARRAY[cqrs.new_event('Added', '{"by": 1}')]);
SELECT cqrs.forget('retention.Once', 'f');
SELECT name, now.whole_tables - coalesce(before.whole_tables, 0) AS whole_tables, now.fetched - coalesce(before.fetched, 0) AS fetched
FROM scans() now LEFT JOIN scanned before USING (name)
WHERE name IN ('journal', 'snapshot', 'command_log', 'parked_entity', 'timer', 'outbox') ORDER BY name;
DO $$
BEGIN
    FOR n IN 5 .. 7 LOOP
        PERFORM cqrs.append('retention.Again', n::text, ARRAY[cqrs.new_event('Added', '{"by": 1}')]);
        BEGIN
            PERFORM cqrs.forget('retention.Again', n::text);
        EXCEPTION WHEN object_in_use THEN
            RAISE NOTICE '%: %', (SELECT state || CASE WHEN behind THEN ', behind' ELSE '' END FROM cqrs.outbox WHERE reply_entity_id = n::text), SQLERRM;
        END;
    END LOOP;
END
$$;
ROLLBACK;
DROP SERVER retention_service CASCADE;

-- Projections: a sync one gets the events in the same transaction, an async one in their order; one that comes later gets the state
-- and the tombstone, and none of what was deleted.
CREATE TABLE seen (n integer GENERATED ALWAYS AS IDENTITY, projection text, entity_id text, version bigint, event_type text, data jsonb);
CREATE FUNCTION seen(projection text) RETURNS TABLE (entity_id text, version bigint, event_type text, data jsonb) LANGUAGE sql
    AS $$ SELECT entity_id, version, event_type, data FROM seen WHERE projection = $1 ORDER BY n $$;
CREATE FUNCTION project_sync(event cqrs.event) RETURNS void LANGUAGE sql AS $$
    INSERT INTO retention_test.seen (projection, entity_id, version, event_type, data) VALUES ('sync', event.entity_id, event.version, event.event_type, event.data) $$;
CREATE FUNCTION project_async(events cqrs.event[]) RETURNS void LANGUAGE sql AS $$
    INSERT INTO retention_test.seen (projection, entity_id, version, event_type, data)
    SELECT 'async', entity_id, version, event_type, data FROM unnest(events) $$;
CREATE FUNCTION project_late(event cqrs.event) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF event.data ->> 'by' = '13' THEN
        RAISE 'unlucky: %', event.data;
    END IF;
    INSERT INTO retention_test.seen (projection, entity_id, version, event_type, data) VALUES ('late', event.entity_id, event.version, event.event_type, event.data);
END
$$;
SELECT cqrs.create_entity('retention.Read', initial_state => '{"sum": 0}', after_forget => 'follow');
SELECT cqrs.on_event('retention.Read', 'Added', 'added');
SELECT cqrs.create_projection('retention sync', 'project_sync', entity_types => '{retention.Read}', mode => 'sync', tables => '{}');
SELECT cqrs.wait_for_projection('retention sync') > 0 AS waited;
SELECT cqrs.create_projection('retention async', 'project_async', entity_types => '{retention.Read}');
SELECT version FROM generate_series(1, 4) n, cqrs.append('retention.Read', 'a', ARRAY[cqrs.new_event('Added', jsonb_build_object('by', n))]);
SELECT cqrs.wait_for_projection('retention async') > 0 AS waited;
SELECT cqrs.delete_events('retention.Read', 'a', 3);
SELECT cqrs.wait_for_projection('retention async') > 0 AS waited;
SELECT * FROM seen('sync') EXCEPT SELECT * FROM seen('async');
SELECT * FROM seen('async');
SELECT cqrs.create_projection('retention late', 'project_late', entity_types => '{retention.Read}', max_retries => 0);
SELECT cqrs.wait_for_projection('retention late') > 0 AS waited;
SELECT * FROM seen('late');
-- A projection that is behind does not get what was deleted before it came there.
SELECT cqrs.pause_projection('retention async');
SELECT version FROM cqrs.append('retention.Read', 'a', ARRAY[cqrs.new_event('Added', '{"by": 5}')]);
SELECT version FROM cqrs.append('retention.Read', 'b', ARRAY[cqrs.new_event('Added', '{"by": 6}'), cqrs.new_event('Added', '{"by": 7}')]);
SELECT cqrs.forget('retention.Read', 'a'), cqrs.delete_events('retention.Read', 'b', 2);
SELECT cqrs.forget('retention.Read', 'b');
DELETE FROM seen WHERE projection = 'async';
SELECT cqrs.resume_projection('retention async');
SELECT cqrs.wait_for_projection('retention async') > 0 AS waited;
SELECT * FROM seen('async');
SELECT * FROM seen('sync');
-- Only who wants our events has to know them.
SELECT cqrs.create_projection('retention filter', 'project_async', entity_types => '{retention.Read}', event_types => '{Added, $forgotten}');
SELECT cqrs.wait_for_projection('retention filter') > 0 AS waited;
-- A rebuilt one has what is left.
SELECT cqrs.drop_projection(name) FROM unnest('{retention sync, retention filter}'::text[]) name;
SELECT cqrs.alter_projection('retention async', tables => '{seen}');
SELECT cqrs.rebuild_projection('retention async');
SELECT cqrs.wait_for_projection('retention async') > 0 AS waited;
SELECT * FROM seen('async');

-- What is parked is released by the tombstone, which comes through; errors that may quote the entity's data are cleared.
SELECT version FROM cqrs.append('retention.Read', 'c', ARRAY[cqrs.new_event('Added', '{"by": 13}'), cqrs.new_event('Added', '{"by": 1}')]);
SELECT cqrs.wait_for_projection('retention late') > 0 AS waited;
SELECT entity_id, event_type, waiting, error FROM cqrs.parked_event WHERE projection = 'retention late';
DELETE FROM seen;
SELECT cqrs.pause_projection('retention late');
SELECT cqrs.forget('retention.Read', 'c');
SELECT entity_id, event_type, waiting, error FROM cqrs.parked_event WHERE projection = 'retention late';
SELECT version FROM cqrs.append('retention.Read', 'c', ARRAY[cqrs.new_event('Added', '{"by": 2}')]);
SELECT cqrs.resume_projection('retention late');
SELECT cqrs.wait_for_projection('retention late') > 0 AS waited;
SELECT * FROM seen('late');
SELECT count(*) AS parked FROM cqrs.parked_event WHERE projection = 'retention late';
SELECT parked FROM cqrs.projection_status WHERE name = 'retention late';
-- Where the events before the parked one are deleted it stays parked, and is replayed from the state.
SELECT version FROM cqrs.append('retention.Read', 'e', ARRAY[cqrs.new_event('Added', '{"by": 13}'), cqrs.new_event('Added', '{"by": 1}'), cqrs.new_event('Added', '{"by": 2}')]);
SELECT cqrs.wait_for_projection('retention late') > 0 AS waited;
SELECT cqrs.delete_events('retention.Read', 'e', 3);
SELECT cqrs.wait_for_projection('retention late') > 0 AS waited;
SELECT entity_id, event_type, waiting FROM cqrs.parked_event WHERE projection = 'retention late';
DELETE FROM seen;
SELECT cqrs.retry_parked('retention late');
SELECT cqrs.wait_for_projection('retention late') > 0 AS waited;
DO $$ BEGIN FOR i IN 1 .. 3000 LOOP EXIT WHEN NOT EXISTS (SELECT FROM cqrs.parked_event WHERE projection = 'retention late'); PERFORM pg_sleep(0.01); END LOOP; END $$;
SELECT * FROM seen('late');

SELECT cqrs.drop_projection(name) FROM cqrs.projection WHERE name LIKE 'retention %';
SELECT cqrs.drop_entity(t) FROM unnest('{retention.Once, retention.Again, retention.Read}'::text[]) t;
SET client_min_messages = warning;
DROP SCHEMA retention_test CASCADE;
DROP OWNED BY regress_cqrs_retainer, regress_cqrs_nobody;
DROP ROLE regress_cqrs_retainer, regress_cqrs_nobody;
ALTER DEFAULT PRIVILEGES GRANT EXECUTE ON FUNCTIONS TO PUBLIC;
