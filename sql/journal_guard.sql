-- Who changes events, or could have, ends what is known about them; nobody does that with the rights of others.
\set VERBOSITY terse
SET client_min_messages = warning;
DROP TABLE IF EXISTS cqrs.journal;
RESET client_min_messages;
SELECT cqrs.create_journal();
SELECT cqrs.create_entity('Guard', snapshot_every => 0);
SELECT cqrs.on_event('Guard', '*', 'cqrs.merge');
CREATE FUNCTION ap(entity text, expected bigint DEFAULT NULL) RETURNS bigint LANGUAGE sql
    AS $$ SELECT version FROM cqrs.append('Guard', entity, ARRAY[cqrs.new_event('E', '{}')], expected) $$;
CREATE FUNCTION put_by_hand(entity text, of_version bigint) RETURNS void LANGUAGE sql AS $$
    INSERT INTO cqrs.journal VALUES (nextval('cqrs.journal_position_seq'), cqrs.slice('Guard', entity), 'Guard', entity, of_version, 'E', 1, '{}', NULL, now())
$$;
SELECT cqrs.guard_journal();
SELECT ap('a', 0), ap('a'), ap('a');
SELECT cqrs.adopt() > 0 AS adopted;

-- Deletions of nothing are none.
SELECT cqrs.forget('Guard', 'nobody');
SELECT has_first_events FROM cqrs.identity;

-- Rows that are put into it by hand: what they are is not known.
EXPLAIN (COSTS OFF) SELECT * FROM cqrs.journal WHERE position < 0;
SELECT has_first_events FROM cqrs.identity;
SELECT put_by_hand('b', 5);
SELECT has_first_events FROM cqrs.identity;
SELECT ap('b', 0);
\echo :LAST_ERROR_SQLSTATE
SELECT ap('b', 5);
BEGIN;
SET LOCAL cqrs.allow_journal_changes = on;
DELETE FROM cqrs.journal WHERE entity_type = 'Guard' AND entity_id = 'b';
COMMIT;
SELECT cqrs.adopt() > 0 AS adopted;
SELECT has_first_events FROM cqrs.identity;
COPY cqrs.journal FROM stdin;
\.
SELECT has_first_events FROM cqrs.identity;
SELECT cqrs.adopt() > 0 AS adopted;
PREPARE by_hand AS SELECT put_by_hand('c', $1);
EXECUTE by_hand(1);
SELECT has_first_events FROM cqrs.identity;
SELECT cqrs.adopt() > 0 AS adopted;
EXECUTE by_hand(2);
SELECT has_first_events FROM cqrs.identity;
SELECT cqrs.adopt() > 0 AS adopted;
-- What is appended by statement, for a trigger's sake, is not by hand.
CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
CREATE TRIGGER nothing AFTER INSERT ON cqrs.journal FOR EACH STATEMENT EXECUTE FUNCTION nothing();
SELECT ap('d', 0), ap('d');
DROP TRIGGER nothing ON cqrs.journal;
SELECT has_first_events FROM cqrs.identity;

-- What is known and too low is found out, with old snapshots, too.
SELECT ap('e', 0), ap('e');
SELECT put_by_hand('e', 3);
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT ap('e');
COMMIT;
SELECT put_by_hand('e', 5);
SELECT cqrs.delete_events('Guard', 'e', 5);
SELECT ap('e');
SELECT put_by_hand('e', 8);
SELECT cqrs.take_snapshot('Guard', 'e');
SELECT version, event_type FROM cqrs.history('Guard', 'e');

-- The permission of retention is for its own statements, not for what triggers do then.
SELECT ap('f', 0), ap('g', 0), ap('g');
CREATE FUNCTION delete_more() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM cqrs.journal WHERE entity_id = 'g';
    RETURN NULL;
END
$$;
CREATE TRIGGER delete_more AFTER DELETE ON cqrs.journal FOR EACH STATEMENT EXECUTE FUNCTION delete_more();
SELECT cqrs.forget('Guard', 'f');
\echo :LAST_ERROR_SQLSTATE
DROP TRIGGER delete_more ON cqrs.journal;
SELECT cqrs.forget('Guard', 'f');
SELECT ap('g');

-- A row that becomes another one while it is stored is not known.
CREATE FUNCTION later() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.created_at := NEW.created_at + interval '1 hour';
    RETURN NEW;
END
$$;
CREATE TRIGGER later BEFORE INSERT ON cqrs.journal FOR EACH ROW EXECUTE FUNCTION later();
SELECT ap('g');
DROP TRIGGER later ON cqrs.journal;
SELECT ap('g');
SELECT bool_and(sorted) AS sorted FROM (SELECT created_at >= lag(created_at) OVER (ORDER BY version) AS sorted FROM cqrs.history('Guard', 'g')) s;

-- A journal that has another name for a while is guarded by the same trigger.
SELECT ap('h', 0), ap('h');
ALTER TABLE cqrs.journal RENAME TO renamed;
ALTER TABLE cqrs.renamed DISABLE TRIGGER guard_journal;
DELETE FROM cqrs.renamed WHERE entity_id = 'h' AND version = 2;
ALTER TABLE cqrs.renamed ENABLE ALWAYS TRIGGER guard_journal;
ALTER TABLE cqrs.renamed RENAME TO journal;
SELECT ap('h');

-- A database without the extension may have tables of these names: nothing is done to them, with whoever's rights.
CREATE ROLE regress_guard;
CREATE DATABASE regress_guard TEMPLATE template0;
SELECT current_database() AS this \gset
\c regress_guard
CREATE SCHEMA cqrs;
GRANT ALL ON SCHEMA cqrs TO regress_guard;
SET ROLE regress_guard;
CREATE TABLE cqrs.journal (a int);
CREATE TABLE cqrs.identity (has_first_events boolean);
INSERT INTO cqrs.identity VALUES (true);
CREATE FUNCTION cqrs.climb() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN ALTER ROLE regress_guard SUPERUSER; RETURN NEW; END';
CREATE TRIGGER climb BEFORE UPDATE ON cqrs.identity FOR EACH ROW EXECUTE FUNCTION cqrs.climb();
CREATE FUNCTION cqrs.guard_journal() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
CREATE TRIGGER guard_journal BEFORE UPDATE ON cqrs.journal EXECUTE FUNCTION cqrs.guard_journal();
ALTER TABLE cqrs.journal ENABLE ALWAYS TRIGGER guard_journal;
INSERT INTO cqrs.journal VALUES (1);
SELECT has_first_events FROM cqrs.identity;
SELECT rolsuper FROM pg_roles WHERE rolname = 'regress_guard';
RESET ROLE;
DROP TABLE cqrs.identity;
SET client_min_messages = error;
CREATE SUBSCRIPTION nowhere CONNECTION 'dbname=nowhere' PUBLICATION nothing WITH (connect = false, slot_name = NONE);
DROP SUBSCRIPTION nowhere;
\c :this
DROP DATABASE regress_guard;
DROP ROLE regress_guard;

-- One that is made here ends it, and so does one that is dropped.
BEGIN;
SET LOCAL cqrs.allow_journal_changes = on;
TRUNCATE cqrs.journal;
SELECT cqrs.adopt() > 0 AS adopted;
SELECT has_first_events FROM cqrs.identity;
SET LOCAL client_min_messages = error;
CREATE SUBSCRIPTION nowhere CONNECTION 'dbname=nowhere' PUBLICATION nothing WITH (connect = false, slot_name = NONE);
SELECT has_first_events FROM cqrs.identity;
SELECT cqrs.adopt() > 0 AS adopted;
DROP SUBSCRIPTION nowhere;
SELECT has_first_events FROM cqrs.identity;
ROLLBACK;

SELECT cqrs.drop_entity('Guard');
DROP FUNCTION ap(text, bigint), put_by_hand(text, bigint), nothing(), delete_more(), later();
