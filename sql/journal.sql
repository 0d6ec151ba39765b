-- cqrs.journal is a plain table that belongs to the user: made on first use, no member of the extension, append-only
-- for everybody; what is kept about a journal dies with it.
\set SHOW_CONTEXT never

-- Made once; a second call finds it.
SELECT cqrs.create_journal();
SELECT version FROM cqrs.append('Journal', 'a', ARRAY[cqrs.new_event('A', '{"n": 1}'), cqrs.new_event('B', '{"n": 2}')]);
SELECT cqrs.create_journal();
SELECT count(*) FROM cqrs.history('Journal', 'a');

-- A table of cqrs.event, of which only metadata may be NULL; an event is one row and two index entries.
SELECT relkind, reloftype::regtype, relpersistence, relrowsecurity,
    relowner = (SELECT extowner FROM pg_extension WHERE extname = 'pg_cqrs') AS owned_like_extension,
    obj_description(oid, 'pg_class') IS NOT NULL AS has_comment
FROM pg_class WHERE oid = 'cqrs.journal'::regclass;
SELECT attname, format_type(atttypid, atttypmod) AS type, nullif(attcollation, 0)::regcollation AS collation, attnotnull, atthasdef
FROM pg_attribute WHERE attrelid = 'cqrs.journal'::regclass AND attnum > 0 ORDER BY attnum;
SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint
WHERE conrelid = 'cqrs.journal'::regclass AND contype <> 'n' ORDER BY conname;
SELECT indexrelid::regclass::text AS index FROM pg_index WHERE indrelid = 'cqrs.journal'::regclass ORDER BY 1;
SELECT tgname, tgenabled, pg_get_triggerdef(oid) FROM pg_trigger
WHERE tgrelid = 'cqrs.journal'::regclass AND NOT tgisinternal ORDER BY tgname;
SELECT pg_get_serial_sequence('cqrs.journal', 'position') AS positions_from,
    obj_description('cqrs.journal_position_seq'::regclass, 'pg_class') IS NOT NULL AS has_comment;
SELECT seqstart, seqincrement, seqmin, seqmax, seqcache, seqcycle FROM pg_sequence WHERE seqrelid = 'cqrs.journal_position_seq'::regclass;
-- pg_dump takes it for the user's own.
SELECT count(*) AS members FROM pg_depend
WHERE deptype = 'e' AND objid IN (SELECT oid FROM pg_class WHERE relnamespace = 'cqrs'::regnamespace AND relname LIKE 'journal%' AND relkind <> 'v');
-- Nobody is granted anything.
SELECT relname, a.* FROM pg_class, aclexplode(relacl) a
WHERE oid IN ('cqrs.journal'::regclass, 'cqrs.journal_position_seq'::regclass) AND a.grantee <> relowner;


-- UPDATE, DELETE and TRUNCATE are refused to everybody, with rows or without, in every disguise.
UPDATE cqrs.journal SET data = '{}' WHERE entity_type = 'Journal';
UPDATE cqrs.journal SET data = '{}' WHERE false;
DELETE FROM cqrs.journal WHERE entity_type = 'Journal';
DELETE FROM cqrs.journal WHERE false;
TRUNCATE cqrs.journal;
TRUNCATE cqrs.journal RESTART IDENTITY CASCADE;
INSERT INTO cqrs.journal SELECT * FROM cqrs.history('Journal', 'a') ON CONFLICT (position) DO UPDATE SET data = '{}';
MERGE INTO cqrs.journal j USING (VALUES (1)) v ON j.entity_type = 'Journal' WHEN MATCHED THEN DELETE;
WITH d AS (DELETE FROM cqrs.journal RETURNING 1) SELECT count(*) FROM d;
\echo :LAST_ERROR_SQLSTATE
SET session_replication_role = replica;
UPDATE cqrs.journal SET data = '{}' WHERE entity_type = 'Journal';
DELETE FROM cqrs.journal WHERE entity_type = 'Journal';
TRUNCATE cqrs.journal;
RESET session_replication_role;
SELECT version, event_type, data FROM cqrs.history('Journal', 'a');
-- Repairs by hand: a superuser says so first.
BEGIN;
SET LOCAL cqrs.allow_journal_changes = on;
UPDATE cqrs.journal SET data = '{"repaired": true}' WHERE entity_type = 'Journal' AND version = 1;
DELETE FROM cqrs.journal WHERE entity_type = 'Journal' AND version = 2;
SELECT version, event_type, data FROM cqrs.history('Journal', 'a');
TRUNCATE cqrs.journal;
SELECT count(*) FROM cqrs.journal;
ROLLBACK;
DELETE FROM cqrs.journal WHERE entity_type = 'Journal';
SELECT version, event_type, data FROM cqrs.history('Journal', 'a');

-- The owner alone can write a row; all other columns than metadata are needed.
CREATE ROLE regress_journal;
GRANT SELECT ON cqrs.journal TO regress_journal;
SET ROLE regress_journal;
INSERT INTO cqrs.journal SELECT position + 1, slice, entity_type, entity_id, version + 2, event_type, schema_version, data, metadata, created_at FROM cqrs.journal WHERE entity_type = 'Journal';
DELETE FROM cqrs.journal;
TRUNCATE cqrs.journal;
SELECT nextval('cqrs.journal_position_seq');
SET cqrs.allow_journal_changes = on;
RESET ROLE;
-- Rights on the table do not get around the guard.
GRANT ALL ON cqrs.journal TO regress_journal;
SET ROLE regress_journal;
DELETE FROM cqrs.journal;
TRUNCATE cqrs.journal;
RESET ROLE;
DROP OWNED BY regress_journal;
DROP ROLE regress_journal;
SELECT column_name, is_nullable FROM information_schema.columns
WHERE table_schema = 'cqrs' AND table_name = 'journal' AND is_nullable = 'YES';
INSERT INTO cqrs.journal (position) VALUES (1);


-- People add what they like. A statement trigger fires once an append, with all of its events, as they are stored.
BEGIN;
CREATE TABLE pg_temp.seen (event_types text, versions text, complete boolean);
CREATE FUNCTION pg_temp.see() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO pg_temp.seen
    SELECT string_agg(event_type, ' ' ORDER BY position), string_agg(version::text, ' ' ORDER BY position),
        bool_and(slice = cqrs.slice(entity_type, entity_id) AND created_at IS NOT NULL AND schema_version = 1)
    FROM appended;
    RETURN NULL;
END
$$;
CREATE TRIGGER see AFTER INSERT ON cqrs.journal REFERENCING NEW TABLE AS appended FOR EACH STATEMENT EXECUTE FUNCTION pg_temp.see();
SELECT version FROM cqrs.append('Journal', 'seen', ARRAY[cqrs.new_event('A', '{}'), cqrs.new_event('B', '{}'), cqrs.new_event('C', '{}')]);
SELECT version FROM cqrs.append('Journal', 'seen', ARRAY[cqrs.new_event('D', '{}')]);
SELECT * FROM pg_temp.seen ORDER BY versions;
ROLLBACK;
-- What a trigger refuses takes the whole append along.
BEGIN;
CREATE FUNCTION pg_temp.refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'no % here', NEW.event_type;
END
$$;
CREATE TRIGGER refuse BEFORE INSERT ON cqrs.journal FOR EACH ROW WHEN (NEW.event_type = 'Third') EXECUTE FUNCTION pg_temp.refuse();
SAVEPOINT s;
SELECT version FROM cqrs.append('Journal', 'refused', ARRAY[cqrs.new_event('First', '{}'), cqrs.new_event('Second', '{}'), cqrs.new_event('Third', '{}')]);
ROLLBACK TO s;
SELECT count(*) FROM cqrs.history('Journal', 'refused');
SELECT version FROM cqrs.append('Journal', 'refused', ARRAY[cqrs.new_event('First', '{}')], 0);
ROLLBACK;
-- A trigger that swallows an event silently is an error: no receipt for what is not stored.
BEGIN;
CREATE FUNCTION pg_temp.swallow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
CREATE TRIGGER swallow BEFORE INSERT ON cqrs.journal FOR EACH ROW WHEN (NEW.event_type = 'Third') EXECUTE FUNCTION pg_temp.swallow();
SAVEPOINT s;
SELECT version FROM cqrs.append('Journal', 'swallowed', ARRAY[cqrs.new_event('Third', '{}')]);
\echo :LAST_ERROR_SQLSTATE
ROLLBACK TO s;
SELECT version FROM cqrs.append('Journal', 'swallowed', ARRAY[cqrs.new_event('First', '{}'), cqrs.new_event('Third', '{}')]);
\echo :LAST_ERROR_SQLSTATE
ROLLBACK TO s;
SELECT version FROM cqrs.append('Journal', 'swallowed', ARRAY[cqrs.new_event('First', '{}')]);
SELECT count(*) FROM cqrs.history('Journal', 'swallowed');
ROLLBACK;
-- An index is theirs too, and a constraint.
BEGIN;
CREATE INDEX ON cqrs.journal ((data->>'n'));
SELECT version FROM cqrs.append('Journal', 'a', ARRAY[cqrs.new_event('A', '{"n": 3}'), cqrs.new_event('A', '{"n": 4}')]);
ALTER TABLE cqrs.journal ADD CONSTRAINT n_is_low CHECK ((data->>'n')::integer < 5) NOT VALID;
SELECT version FROM cqrs.append('Journal', 'a', ARRAY[cqrs.new_event('A', '{"n": 4}')]);
SAVEPOINT s;
\set VERBOSITY terse
SELECT version FROM cqrs.append('Journal', 'a', ARRAY[cqrs.new_event('A', '{"n": 4}'), cqrs.new_event('A', '{"n": 5}')]);
\set VERBOSITY default
ROLLBACK TO s;
SELECT version, data FROM cqrs.history('Journal', 'a', 2);
ROLLBACK;


-- It may get another owner, as whom it is written then. Row security that hides events from that owner is an error:
-- versions could not be followed.
BEGIN;
CREATE ROLE regress_journal;
ALTER TABLE cqrs.journal OWNER TO regress_journal;
SELECT version FROM cqrs.append('Journal', 'a', ARRAY[cqrs.new_event('C', '{}')], 2);
SELECT version FROM cqrs.append('Journal', 'a', ARRAY[cqrs.new_event('D', '{}'), cqrs.new_event('E', '{}')], 3, '00000000-0000-4000-8000-000000000001');
ALTER TABLE cqrs.journal ENABLE ROW LEVEL SECURITY;
SELECT version FROM cqrs.append('Journal', 'a', ARRAY[cqrs.new_event('F', '{}')], 5);
ALTER TABLE cqrs.journal FORCE ROW LEVEL SECURITY;
SAVEPOINT s;
SELECT version FROM cqrs.append('Journal', 'a', ARRAY[cqrs.new_event('G', '{}')]);
\echo :LAST_ERROR_SQLSTATE
ROLLBACK TO s;
ALTER TABLE cqrs.journal NO FORCE ROW LEVEL SECURITY;
SELECT version FROM cqrs.append('Journal', 'a', ARRAY[cqrs.new_event('G', '{}')], 6);
SET ROLE regress_journal;
DELETE FROM cqrs.journal;
ROLLBACK;
SELECT count(*) FROM cqrs.history('Journal', 'a');


-- The rest needs a database of its own, in which nothing else depends on the extension.
SELECT current_database() AS database \gset
CREATE DATABASE regress_journal TEMPLATE template0;
\c regress_journal
CREATE EXTENSION pg_cqrs;
-- Before there is a journal, there is none to read, and nobody has events.
SELECT to_regclass('cqrs.journal');
SELECT count(*) FROM cqrs.history('A', 'a');
SELECT count(*) FROM cqrs.read_events();
SELECT cqrs.high_water_mark(), cqrs.last_position(), cqrs.is_held();
SELECT * FROM cqrs.journal_status;
SELECT count(*) FROM cqrs.identity;
SELECT cqrs.wait_for_event(0, '1 ms');
\echo :LAST_ERROR_SQLSTATE
-- What made it and rolled back made nothing.
BEGIN;
SELECT version FROM cqrs.append('A', 'a', ARRAY[cqrs.new_event('First', '{"life": 0}')]);
SELECT to_regclass('cqrs.journal');
ROLLBACK;
SELECT to_regclass('cqrs.journal');
SELECT count(*) FROM cqrs.identity;
SELECT cqrs.last_position();
-- A low role makes it too, by its first append; it is not its owner.
CREATE ROLE regress_journal;
GRANT EXECUTE ON FUNCTION cqrs.append(text, text, cqrs.new_event[], bigint, uuid) TO regress_journal;
SET ROLE regress_journal;
SELECT version, position FROM cqrs.append('A', 'a', ARRAY[cqrs.new_event('First', '{"life": 1}')], 0, '00000000-0000-4000-8000-000000000001');
RESET ROLE;
SELECT relowner = (SELECT extowner FROM pg_extension WHERE extname = 'pg_cqrs') AS owned_like_extension
FROM pg_class WHERE oid = 'cqrs.journal'::regclass;
SELECT count(*) FROM cqrs.identity;
SELECT has_journal, held, last_position, high_water_mark, open_transactions FROM cqrs.journal_status;

-- The extension cannot go, nor its schema, while there is a journal.
DROP EXTENSION pg_cqrs;
DROP SCHEMA cqrs CASCADE;
DROP TYPE cqrs.event CASCADE;
ALTER TYPE cqrs.event ADD ATTRIBUTE more text;
SELECT count(*) FROM cqrs.history('A', 'a');

-- What is known of the journal goes with it: states kept in the session, snapshots and command ids,
-- although the next journal gives the same versions and positions again.
SELECT cqrs.create_entity('A');
SELECT cqrs.on_event('A', '*', 'cqrs.merge');
CREATE FUNCTION decide(state jsonb, command cqrs.command) RETURNS cqrs.effect LANGUAGE sql
    AS $$SELECT cqrs.persist('Decided', (command).data, state)$$;
SELECT cqrs.on_command('A', '*', 'decide');
SELECT cqrs.state('A', 'a');
SELECT cqrs.state('A', 'a');
SELECT cqrs.take_snapshot('A', 'a');
BEGIN;
DROP TABLE cqrs.journal;
SELECT cqrs.state('A', 'a');
SELECT count(*) FROM cqrs.history('A', 'a');
SELECT version, position FROM cqrs.append('A', 'a', ARRAY[cqrs.new_event('First', '{"life": 2}')], 0, '00000000-0000-4000-8000-000000000001');
SELECT cqrs.state('A', 'a');
SELECT position, version, data FROM cqrs.history('A', 'a');
ROLLBACK;
SELECT cqrs.state('A', 'a');
SELECT position, version, data FROM cqrs.history('A', 'a');
SELECT version, position, reply FROM cqrs.send('A', 'a', 'Decide', '{"by": "one"}', 1);
SELECT version, position FROM cqrs.append('A', 'a', ARRAY[cqrs.new_event('First', '{"life": 1}')], 0, '00000000-0000-4000-8000-000000000001');
-- The same by a savepoint.
BEGIN;
SAVEPOINT s;
DROP TABLE cqrs.journal;
SELECT version, position FROM cqrs.append('A', 'a', ARRAY[cqrs.new_event('First', '{"life": 3}'), cqrs.new_event('Second', '{"more": 3}')], 0);
SELECT cqrs.state('A', 'a');
ROLLBACK TO s;
SELECT cqrs.state('A', 'a');
SELECT version, reply FROM cqrs.send('A', 'a', 'Decide', '{"by": "two"}', 2);
COMMIT;
SELECT cqrs.state('A', 'a');
SELECT count(*) FROM cqrs.read_events();
-- And for good.
DROP TABLE cqrs.journal;
SELECT to_regclass('cqrs.journal_position_seq');
SELECT cqrs.state('A', 'a');
SELECT version, position FROM cqrs.append('A', 'a', ARRAY[cqrs.new_event('First', '{"life": 4}'), cqrs.new_event('Second', '{"more": 4}')], 0, '00000000-0000-4000-8000-000000000001');
SELECT cqrs.state('A', 'a');
SELECT version, position, reply FROM cqrs.send('A', 'a', 'Decide', '{"by": "four"}', 2);
SELECT position, version, event_type, data FROM cqrs.read_events();
SELECT cqrs.state('A', 'a', 1), cqrs.state('A', 'a', 2), cqrs.state('A', 'a', 3);
SELECT cqrs.is_held();

-- A journal whose sequence is gone says so, to writers and to readers in order.
BEGIN;
DROP SEQUENCE cqrs.journal_position_seq;
SAVEPOINT s;
SELECT version FROM cqrs.append('A', 'a', ARRAY[cqrs.new_event('A', '{}')]);
\echo :LAST_ERROR_SQLSTATE
ROLLBACK TO s;
SELECT count(*) FROM cqrs.read_events();
ROLLBACK TO s;
SELECT cqrs.high_water_mark();
ROLLBACK TO s;
SELECT cqrs.adopt();
ROLLBACK TO s;
SELECT count(*) FROM cqrs.history('A', 'a');
ROLLBACK;
SELECT count(*) FROM cqrs.read_events();

-- Dropped and made again in the same session, the extension works.
DROP TABLE cqrs.journal;
DROP FUNCTION decide;
DROP EXTENSION pg_cqrs;
SELECT cqrs.state('A', 'a');
SELECT to_regnamespace('cqrs');
CREATE EXTENSION pg_cqrs;
SELECT count(*) FROM cqrs.entity;
SELECT cqrs.state('A', 'a');
SELECT version, position FROM cqrs.append('A', 'a', ARRAY[cqrs.new_event('First', '{"life": 5}')], 0);
SELECT version, position FROM cqrs.append('A', 'a', ARRAY[cqrs.new_event('Second', '{"more": 5}'), cqrs.new_event('Third', '{}')], 1);
SELECT cqrs.create_entity('A');
SELECT cqrs.on_event('A', '*', 'cqrs.merge');
SELECT cqrs.state('A', 'a');
SELECT position, version, event_type, data FROM cqrs.read_events();
SELECT cqrs.is_held();

\c :database
DROP DATABASE regress_journal;
DROP ROLE regress_journal;
