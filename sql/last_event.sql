-- What is known of the last events of entities saves looking for them, and is never wrong.
\set VERBOSITY terse
CREATE TYPE looked AS (version bigint, look_ups bigint);
-- Appends, and counts how often an entity was looked for in the index.
CREATE FUNCTION append(entity_id text, expected bigint DEFAULT NULL, entity_type text DEFAULT 'Last') RETURNS looked LANGUAGE plpgsql AS $$
DECLARE
    result looked;
BEGIN
    result.look_ups := -pg_stat_get_xact_numscans('cqrs.journal_pkey'::regclass);
    result.version := (cqrs.append(entity_type, entity_id, ARRAY[cqrs.new_event('Counted', '{}')], expected)).version;
    result.look_ups := result.look_ups + pg_stat_get_xact_numscans('cqrs.journal_pkey'::regclass);
    RETURN result;
END
$$;
SET client_min_messages = warning;
DROP TABLE IF EXISTS cqrs.journal;
RESET client_min_messages;
SELECT cqrs.create_journal();

-- The first writer looks, the next one knows, in another backend as well.
SELECT * FROM append('a', 0);
SELECT * FROM append('a');
SELECT * FROM append('a', 2);
\c
SELECT * FROM append('a', 3);
SELECT * FROM append('a', -4);
SELECT * FROM append('a', 4);
SELECT * FROM append('a', 0);
SELECT * FROM append('a', 5);

-- So is what nobody looked for, when it turns out to be there: cqrs.adopt() makes all unknown.
SELECT cqrs.adopt() > 0 AS adopted;
\set VERBOSITY default
SELECT * FROM append('a', 0);
\set VERBOSITY terse
\echo :LAST_ERROR_SQLSTATE
SELECT * FROM append('a', 0);
SELECT * FROM append('a', 6);
SELECT cqrs.adopt() > 0 AS adopted;
BEGIN;
SAVEPOINT part;
SELECT version FROM cqrs.append('Last', 'a', array_fill(cqrs.new_event('Counted', '{}'), '{100}'), 0);
ROLLBACK TO part;
SELECT * FROM append('a');
COMMIT;
SELECT has_first_events FROM cqrs.identity;

-- What is rolled back was never known, be it a part of the transaction.
BEGIN;
SELECT * FROM append('a');
SELECT * FROM append('a');
ROLLBACK;
SELECT * FROM append('a');
SELECT * FROM append('a');
BEGIN;
SELECT * FROM append('a');
SAVEPOINT part;
SELECT * FROM append('a');
SELECT * FROM append('b');
ROLLBACK TO part;
SELECT * FROM append('a');
SAVEPOINT part;
SELECT * FROM append('a');
SAVEPOINT inner_part;
SELECT * FROM append('a');
RELEASE inner_part;
ROLLBACK TO part;
SELECT * FROM append('a');
RELEASE part;
SELECT * FROM append('b');
COMMIT;
SELECT * FROM append('a');
SELECT * FROM append('b');
SELECT string_agg(version::text, ' ' ORDER BY position) AS versions FROM cqrs.history('Last', 'a');

-- What is prepared may come to nothing.
BEGIN;
SELECT * FROM append('a');
PREPARE TRANSACTION 'last event';
ROLLBACK PREPARED 'last event';
SELECT * FROM append('a');
BEGIN;
SELECT * FROM append('a');
PREPARE TRANSACTION 'last event';
COMMIT PREPARED 'last event';
SELECT * FROM append('a');

-- Neither is kept: a long name, and what a transaction writes to more than a few entities.
SELECT * FROM append(repeat('x', 77 - length('Last')));
SELECT * FROM append(repeat('x', 77 - length('Last')));
SELECT * FROM append(repeat('x', 78 - length('Last')));
SELECT * FROM append(repeat('x', 78 - length('Last')));
-- The same bytes are another entity where type and id are divided elsewhere.
SELECT * FROM append('ab', entity_type => 'L');
SELECT * FROM append('b', entity_type => 'La');
SELECT * FROM append('ab', entity_type => 'L');
SELECT max((append('many' || i)).version) FROM generate_series(1, 33) i;
SELECT * FROM append('many1');
SELECT * FROM append('many1');
SELECT max((append('few' || i)).version) FROM generate_series(1, 32) i, generate_series(1, 2);
SELECT * FROM append('few1');

-- Who holds too many entities looks, and leaves nothing known of what it wrote.
BEGIN;
SET LOCAL cqrs.max_entity_locks = 1;
SELECT * FROM append('many1');
SELECT * FROM append('a');
SELECT * FROM append('a');
SELECT * FROM append('many1');
COMMIT;
SELECT * FROM append('a');
SELECT * FROM append('a');

-- A change by hand makes everything unknown, in the transaction that makes it as well.
BEGIN;
SELECT * FROM append('b');
SET LOCAL cqrs.allow_journal_changes = on;
DELETE FROM cqrs.journal WHERE entity_type = 'Last' AND entity_id = 'b' AND version >= 3;
SELECT mode FROM pg_locks WHERE relation = 'cqrs.journal'::regclass AND pid = pg_backend_pid() AND mode LIKE 'Share%';
SELECT * FROM append('b');
COMMIT;
SELECT * FROM append('b');
SELECT * FROM append('b');
SELECT * FROM append('a');
-- Nor is it assumed any more that who has no version 1 is new, until somebody has looked at all.
SELECT has_first_events FROM cqrs.identity;
SELECT * FROM append('c', 0);
SELECT cqrs.adopt() > 0 AS adopted;
SELECT has_first_events FROM cqrs.identity;
SELECT * FROM append('d', 0);
-- Events that somebody puts into the journal by hand are found by the key.
SELECT * FROM append('b');
INSERT INTO cqrs.journal
SELECT nextval('cqrs.journal_position_seq'), slice, entity_type, entity_id, version + 1, event_type, schema_version, data, metadata, created_at
FROM cqrs.history('Last', 'b') ORDER BY version DESC LIMIT 1;
SELECT * FROM append('b');
\echo :LAST_ERROR_SQLSTATE
SELECT * FROM append('b');
-- So they are by who expects them.
INSERT INTO cqrs.journal
SELECT nextval('cqrs.journal_position_seq'), slice, entity_type, entity_id, version + 1, event_type, schema_version, data, metadata, created_at
FROM cqrs.history('Last', 'b') ORDER BY version DESC LIMIT 1;
SELECT * FROM append('b', 9);
-- Without its guard the journal is looked into always; with another one, nothing is known at first.
BEGIN;
ALTER TABLE cqrs.journal DISABLE TRIGGER guard_journal;
SELECT * FROM append('b');
SELECT * FROM append('b');
ROLLBACK;
BEGIN;
DROP TRIGGER guard_journal ON cqrs.journal;
DELETE FROM cqrs.journal WHERE entity_type = 'Last' AND entity_id = 'b' AND version > 5;
CREATE TRIGGER guard_journal BEFORE UPDATE OR DELETE OR TRUNCATE ON cqrs.journal FOR EACH STATEMENT EXECUTE FUNCTION cqrs.guard_journal();
ALTER TABLE cqrs.journal ENABLE ALWAYS TRIGGER guard_journal;
COMMIT;
SELECT * FROM append('b');
SELECT * FROM append('b');

-- Nobody knows what was done while the guard was off, or was another one.
CREATE FUNCTION delete_last(entity text) RETURNS SETOF bigint LANGUAGE sql AS $$
    DELETE FROM cqrs.journal WHERE entity_type = 'Last' AND entity_id = entity
        AND version = (SELECT max(version) FROM cqrs.journal WHERE entity_type = 'Last' AND entity_id = entity) RETURNING version
$$;
SELECT cqrs.adopt() > 0 AS adopted;
SELECT * FROM append('b');
SELECT * FROM append('b');
ALTER TABLE cqrs.journal DISABLE TRIGGER guard_journal;
SELECT delete_last('b');
ALTER TABLE cqrs.journal ENABLE ALWAYS TRIGGER guard_journal;
SELECT has_first_events FROM cqrs.identity;
SELECT * FROM append('b');
SELECT * FROM append('b');
SELECT cqrs.adopt() > 0 AS adopted;
SELECT * FROM append('b');
ALTER TABLE cqrs.journal ENABLE TRIGGER guard_journal;
SET session_replication_role = replica;
SELECT delete_last('b');
RESET session_replication_role;
SELECT * FROM append('b');
ALTER TABLE cqrs.journal ENABLE ALWAYS TRIGGER guard_journal;
SELECT has_first_events FROM cqrs.identity;
SELECT * FROM append('b');
SELECT * FROM append('b');
SELECT cqrs.adopt() > 0 AS adopted;
SELECT * FROM append('b');
CREATE FUNCTION let_pass() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
CREATE OR REPLACE TRIGGER guard_journal BEFORE UPDATE OR DELETE OR TRUNCATE ON cqrs.journal FOR EACH STATEMENT EXECUTE FUNCTION let_pass();
SELECT has_first_events FROM cqrs.identity;
SELECT delete_last('b');
SELECT * FROM append('b');
SELECT * FROM append('e', 0);
CREATE OR REPLACE TRIGGER guard_journal BEFORE UPDATE OR DELETE OR TRUNCATE ON cqrs.journal FOR EACH STATEMENT EXECUTE FUNCTION cqrs.guard_journal();
ALTER TABLE cqrs.journal ENABLE ALWAYS TRIGGER guard_journal;
DROP FUNCTION let_pass();
SELECT * FROM append('b');
SELECT cqrs.adopt() > 0 AS adopted;
-- The primary key is asked first, whatever other indexes there are.
CREATE UNIQUE INDEX own ON cqrs.journal (entity_id, entity_type, version);
REINDEX INDEX CONCURRENTLY cqrs.journal_pkey;
SELECT cqrs.adopt() > 0 AS adopted;
SELECT * FROM append('d', 0);
\echo :LAST_ERROR_SQLSTATE
SELECT * FROM append('f', 0);
DROP INDEX cqrs.own;

-- Who has to see what others have done cannot do it with an old snapshot.
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT cqrs.adopt();
\echo :LAST_ERROR_SQLSTATE
ROLLBACK;

-- A lock that went with a cursor leaves nothing known.
CREATE FUNCTION append_once(i int) RETURNS bigint LANGUAGE plpgsql AS $$
BEGIN
    IF i > 1 THEN
        RAISE 'not twice';
    END IF;
    RETURN (append('g')).version;
END
$$;
BEGIN;
DECLARE c CURSOR FOR SELECT append_once(i) FROM generate_series(1, 2) i;
FETCH c;
SAVEPOINT part;
FETCH c;
ROLLBACK TO part;
SELECT count(*) AS locks FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid();
COMMIT;
SELECT * FROM append('g');

-- Old snapshots compare with what they see.
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT version FROM append('b') \gset
SELECT * FROM append('b', :version);
COMMIT;

-- Time never goes back within an entity, though its last event was not read.
BEGIN;
SET LOCAL cqrs.allow_journal_changes = on;
UPDATE cqrs.journal SET created_at = 'tomorrow' WHERE entity_type = 'Last' AND entity_id = 'b' AND version > :version;
COMMIT;
SELECT * FROM append('b');
SELECT * FROM append('b');
SELECT count(DISTINCT created_at) FROM cqrs.history('Last', 'b') WHERE version > :version;

-- A command goes by what is known, and by what is forgotten.
CREATE FUNCTION count_up(state jsonb, command cqrs.command) RETURNS cqrs.effect LANGUAGE sql
    RETURN cqrs.persist('Counted', '{}');
CREATE FUNCTION counted(state jsonb, event cqrs.event) RETURNS jsonb LANGUAGE sql
    RETURN jsonb_build_object('count', (state->>'count')::int + 1);
REVOKE EXECUTE ON FUNCTION count_up(jsonb, cqrs.command) FROM PUBLIC;
SELECT cqrs.create_entity('Last', '{"count": 0}');
SELECT cqrs.on_command('Last', 'CountUp', 'count_up(jsonb, cqrs.command)');
SELECT cqrs.on_event('Last', 'Counted', 'counted(jsonb, cqrs.event)');
SELECT (cqrs.send('Last', 'a', 'CountUp', '{}')).version AS sent \gset
SELECT (cqrs.state('Last', 'a')->>'count')::int - :sent AS difference;
BEGIN;
SELECT pg_stat_get_xact_numscans('cqrs.journal_pkey'::regclass) AS before \gset
SELECT (cqrs.send('Last', 'a', 'CountUp', '{}')).version > 1 AS followed;
SELECT pg_stat_get_xact_numscans('cqrs.journal_pkey'::regclass) - :before AS look_ups;
COMMIT;
-- Nor is one looked for whose id was issued just now.
BEGIN;
SELECT pg_stat_get_xact_numscans('cqrs.journal_pkey'::regclass) AS before \gset
SELECT version FROM cqrs.send('Last', NULL, 'CountUp', '{}');
SELECT pg_stat_get_xact_numscans('cqrs.journal_pkey'::regclass) - :before AS look_ups;
COMMIT;
SELECT cqrs.forget('Last', 'a') > 1 AS forgotten;
SELECT has_first_events FROM cqrs.identity;
SELECT * FROM append('a', 0);
\echo :LAST_ERROR_SQLSTATE
SELECT * FROM append('h', 0);
SELECT cqrs.adopt() > 0 AS adopted;
SELECT has_first_events FROM cqrs.identity;
SELECT cqrs.send('Last', 'a', 'CountUp', '{}');
\echo :LAST_ERROR_SQLSTATE
SELECT cqrs.alter_entity('Last', after_forget => 'follow');
SELECT (cqrs.send('Last', 'a', 'CountUp', '{}')).version > :sent AS followed;
SELECT version - lag(version) OVER (ORDER BY version) AS difference, event_type FROM cqrs.history('Last', 'a');
SELECT cqrs.state('Last', 'a');

-- No version is missing, none was given twice.
SELECT entity_id FROM cqrs.journal WHERE entity_type = 'Last' AND entity_id <> 'a'
GROUP BY entity_id HAVING count(*) <> max(version) OR min(version) <> 1;

SELECT cqrs.drop_entity('Last');
DROP FUNCTION count_up(jsonb, cqrs.command), counted(jsonb, cqrs.event), append(text, bigint, text), delete_last(text),
    append_once(int);
DROP TYPE looked;
