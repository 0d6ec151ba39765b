-- Who may do what, and that a handler gives nobody more rights than its owner has.
--
-- What is promised, and where it is tested; without a file, below. "Attacks" are those of the low role's handlers.
--   Handlers run as the owner of the entity or projection, which is kept by name     attacks; projection_step, projection_sync, projection_failure
--   They belong to that role or to the extension, whenever they are called           attacks; handler, entity, projection
--   In a backend: a restricted operation with other rights than the caller's         attacks: triggers, cursors, temporary objects, SET ROLE,
--                                                                                    SECURITY DEFINER in either direction, caught errors
--   ... none where the caller is the owner, and settings go back                     attacks
--   search_path as at registration, pg_temp last; functions, operators, types, casts the other way round; handler, privileges_objects
--   In a worker: as the owner until after the commit, then all is discarded          projection_step, privileges_workers (timers, commands
--                                                                                    that follow deliveries, parked events, rebuilds)
--   Our own SQL: as the journal's owner, with a path of its own                      journal, projection_step, privileges_objects (event triggers,
--                                                                                    defaults, checks, rules, indexes)
--   To send: EXECUTE on the handler, when it is sent; a warning where PUBLIC has it  may send; entity, timer, outbox, privileges_workers
--   To append: EXECUTE on cqrs.append. To read: SELECT on the journal, its row       may append, may read, row security; journal_read
--   security included, where it applies past cache and snapshots; not for send
--   Only the owner inserts, and nobody changes or deletes but forget, delete_events  may append; journal, retention
--   To register: EXECUTE, and the owner alone                                        may register; projection
--   Nothing of the schema cqrs is writable to PUBLIC                                 below; schema
CREATE ROLE regress_cqrs_owner;
CREATE ROLE regress_cqrs_other;
CREATE ROLE regress_cqrs_sender;
CREATE ROLE regress_cqrs_reader;

-- Default privileges of the installing role open nothing: neither what the extension brings, nor the journal but for reading.
SELECT current_database() AS main \gset
CREATE DATABASE regress_cqrs_privileges TEMPLATE template0;
\c regress_cqrs_privileges
ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO PUBLIC, regress_cqrs_other;
ALTER DEFAULT PRIVILEGES GRANT ALL ON SEQUENCES TO PUBLIC, regress_cqrs_other;
ALTER DEFAULT PRIVILEGES GRANT ALL ON FUNCTIONS TO regress_cqrs_other;
ALTER DEFAULT PRIVILEGES GRANT ALL ON SCHEMAS TO PUBLIC, regress_cqrs_other;
CREATE EXTENSION pg_cqrs;
SELECT version FROM cqrs.append('privileges.Default', 'd', ARRAY[cqrs.new_event('E', '{}')]);
SELECT relname, privilege FROM pg_class c, unnest('{SELECT, INSERT, UPDATE, DELETE, TRUNCATE, TRIGGER, REFERENCES}'::text[]) privilege
WHERE c.relnamespace = 'cqrs'::regnamespace AND c.relkind IN ('r', 'v') AND has_table_privilege('regress_cqrs_other', c.oid, privilege) ORDER BY 1, 2;
SELECT relname, privilege FROM pg_class c, unnest('{USAGE, SELECT, UPDATE}'::text[]) privilege
WHERE c.relnamespace = 'cqrs'::regnamespace AND c.relkind = 'S' AND has_sequence_privilege('regress_cqrs_other', c.oid, privilege);
SELECT count(*) AS functions_not_of_public FROM pg_proc p
WHERE p.pronamespace = 'cqrs'::regnamespace AND has_function_privilege('regress_cqrs_other', p.oid, 'EXECUTE')
    AND NOT has_function_privilege('regress_cqrs_sender', p.oid, 'EXECUTE');
SELECT has_schema_privilege('regress_cqrs_other', 'cqrs', 'USAGE') AS usage, has_schema_privilege('regress_cqrs_other', 'cqrs', 'CREATE') AS "create";
\c :main
DROP DATABASE regress_cqrs_privileges;

CREATE SCHEMA privileges_test;
GRANT CREATE, USAGE ON SCHEMA privileges_test TO regress_cqrs_owner, regress_cqrs_other;
GRANT USAGE ON SCHEMA privileges_test TO regress_cqrs_sender, regress_cqrs_reader;
SET search_path = privileges_test;
SELECT session_user AS super \gset
\set SHOW_CONTEXT never

-- Without a grant, PUBLIC has send, state, history, read_events, what builds effects, events and commands, and what views need.
SELECT p.proname FROM pg_proc p
WHERE pronamespace = 'cqrs'::regnamespace AND has_function_privilege('regress_cqrs_sender', p.oid, 'EXECUTE') ORDER BY 1;
SELECT has_schema_privilege('regress_cqrs_sender', 'cqrs', 'USAGE') AS usage, has_schema_privilege('regress_cqrs_sender', 'cqrs', 'CREATE') AS "create";
-- And no right to any table of the extension or to the journal.
SELECT cqrs.create_entity('privileges.Unused');
SELECT cqrs.drop_entity('privileges.Unused');
SELECT count(*) FROM pg_class c, unnest('{SELECT, INSERT, UPDATE, DELETE, TRUNCATE, TRIGGER, REFERENCES}'::text[]) privilege
WHERE c.relnamespace = 'cqrs'::regnamespace AND c.relkind = 'r' AND has_table_privilege('regress_cqrs_sender', c.oid, privilege);

-- May register: who has EXECUTE on create_entity, and then he alone, with functions of his own.
SET SESSION AUTHORIZATION regress_cqrs_owner;
SELECT cqrs.create_entity('privileges.Account');
\echo :SQLSTATE
RESET SESSION AUTHORIZATION;
GRANT EXECUTE ON FUNCTION
    cqrs.create_entity(text, jsonb, integer, integer, text), cqrs.alter_entity(text, jsonb, integer, integer, text, name),
    cqrs.drop_entity(text), cqrs.on_command(text, text, text), cqrs.on_event(text, text, text), cqrs.on_upcast(text, text, integer, text),
    cqrs.take_snapshot(text, text), cqrs.drop_snapshots(text, text)
    TO regress_cqrs_owner, regress_cqrs_other;

SET SESSION AUTHORIZATION regress_cqrs_owner;
ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;
CREATE FUNCTION deposit(state jsonb, command cqrs.command) RETURNS cqrs.effect
    LANGUAGE sql
    AS $$ SELECT cqrs.persist('Deposited', command.data, jsonb_build_object('handler_runs_as', current_user, 'sender', command.sender)) $$;
CREATE FUNCTION deposited(state jsonb, event cqrs.event) RETURNS jsonb
    LANGUAGE sql
    AS $$ SELECT state || jsonb_build_object('balance', coalesce((state ->> 'balance')::int, 0) + (event.data ->> 'amount')::int, 'folded_as', current_user) $$;
CREATE FUNCTION same(event cqrs.event) RETURNS cqrs.event LANGUAGE sql AS $$ SELECT event $$;
SELECT cqrs.create_entity('privileges.Account');
SELECT cqrs.on_command('privileges.Account', 'Deposit', 'deposit');
SELECT cqrs.on_event('privileges.Account', 'Deposited', 'deposited');
-- The owner has EXECUTE on his function, so he may send; $sender and the handler's role are the same then.
SELECT version, reply FROM cqrs.send('privileges.Account', 'a', 'Deposit', '{"amount": 1}');

SET SESSION AUTHORIZATION regress_cqrs_other;
CREATE FUNCTION deposit_other(state jsonb, command cqrs.command) RETURNS cqrs.effect LANGUAGE sql AS $$ SELECT cqrs.reply('"other"') $$;
REVOKE EXECUTE ON FUNCTION deposit_other FROM PUBLIC;
CREATE FUNCTION same_other(event cqrs.event) RETURNS cqrs.event LANGUAGE sql AS $$ SELECT event $$;
SELECT cqrs.create_entity('privileges.Account');
SELECT cqrs.on_command('privileges.Account', 'Steal', 'deposit_other');
\echo :SQLSTATE
SELECT cqrs.on_event('privileges.Account', '*', 'cqrs.merge');
SELECT cqrs.on_upcast('privileges.Account', 'Deposited', 1, 'same_other');
SELECT cqrs.on_command('privileges.Account', 'Deposit', NULL);
SELECT cqrs.alter_entity('privileges.Account', initial_state => '{"balance": 1000000}');
SELECT cqrs.alter_entity('privileges.Account', owner => 'regress_cqrs_other');
SELECT cqrs.take_snapshot('privileges.Account', 'a');
SELECT cqrs.drop_snapshots('privileges.Account');
SELECT cqrs.drop_entity('privileges.Account');
\echo :SQLSTATE
-- Nor with a function of somebody else's for an entity of one's own.
SELECT cqrs.create_entity('privileges.Other');
SELECT cqrs.on_command('privileges.Other', 'Deposit', 'deposit');
\echo :SQLSTATE
-- An entity type cannot be given to a role that one does not belong to.
\set VERBOSITY sqlstate
SELECT cqrs.alter_entity('privileges.Other', owner => 'regress_cqrs_owner');
\set VERBOSITY default
\echo :SQLSTATE

-- May send: who has EXECUTE on the command's handler. Events carry who sent, while the handler runs as its owner.
SET SESSION AUTHORIZATION regress_cqrs_sender;
SELECT cqrs.send('privileges.Account', 'a', 'Deposit', '{"amount": 2}');
\echo :SQLSTATE
RESET SESSION AUTHORIZATION;
GRANT EXECUTE ON FUNCTION deposit TO regress_cqrs_sender;
SET SESSION AUTHORIZATION regress_cqrs_sender;
SELECT version, reply FROM cqrs.send('privileges.Account', 'a', 'Deposit', '{"amount": 2}');
-- Nothing more: no event handler, no raw append, no reading, no writing by hand.
SELECT cqrs.append('privileges.Account', 'a', ARRAY[cqrs.new_event('Deposited', '{"amount": 1000}')]);
\echo :SQLSTATE
SELECT cqrs.state('privileges.Account', 'a');
\echo :SQLSTATE
SELECT * FROM cqrs.history('privileges.Account', 'a');
\echo :SQLSTATE
SELECT * FROM cqrs.read_events();
\echo :SQLSTATE
INSERT INTO cqrs.journal SELECT * FROM cqrs.journal;
UPDATE cqrs.journal SET data = '{}';
DELETE FROM cqrs.journal;
TRUNCATE cqrs.journal;
SELECT nextval('cqrs.journal_position_seq');
INSERT INTO cqrs.snapshot DEFAULT VALUES;
UPDATE cqrs.entity SET owner = 'regress_cqrs_sender';
DELETE FROM cqrs.command_log;
SET cqrs.allow_journal_changes = on;
SET cqrs.command_retention = '1 s';
SELECT cqrs.take_snapshot('privileges.Account', 'a');
-- By a role that was set, too: what counts is the effective role.
RESET SESSION AUTHORIZATION;
SET ROLE regress_cqrs_other;
SELECT cqrs.send('privileges.Account', 'a', 'Deposit', '{"amount": 4}');
SET ROLE regress_cqrs_sender;
SELECT version, reply ->> 'sender' AS sender FROM cqrs.send('privileges.Account', 'a', 'Deposit', '{"amount": 4}');
RESET ROLE;
SELECT version, data, metadata ->> '$sender' AS sender FROM cqrs.history('privileges.Account', 'a');
SELECT cqrs.state('privileges.Account', 'a');

-- May append: who has EXECUTE on cqrs.append. A superuser's UPDATE is stopped by the guard; an owner of handlers gains nothing by them.
GRANT EXECUTE ON FUNCTION cqrs.append TO regress_cqrs_sender;
SET SESSION AUTHORIZATION regress_cqrs_sender;
SELECT version FROM cqrs.append('privileges.Account', 'a', ARRAY[cqrs.new_event('Deposited', '{"amount": 8}')]);
RESET SESSION AUTHORIZATION;
REVOKE EXECUTE ON FUNCTION cqrs.append FROM regress_cqrs_sender;
UPDATE cqrs.journal SET data = '{}';
DELETE FROM cqrs.journal;
TRUNCATE cqrs.journal;
\echo :SQLSTATE

-- May read: who has SELECT on cqrs.journal, and the event handlers' owner folds for him.
GRANT SELECT ON cqrs.journal TO regress_cqrs_reader;
SET SESSION AUTHORIZATION regress_cqrs_reader;
SELECT cqrs.state('privileges.Account', 'a');
SELECT version, data FROM cqrs.history('privileges.Account', 'a');
SELECT cqrs.send('privileges.Account', 'a', 'Deposit', '{"amount": 16}');
\echo :SQLSTATE
RESET SESSION AUTHORIZATION;

-- A journal that has events of a type is not read through a new entity type: that takes SELECT.
SELECT version FROM cqrs.append('privileges.Secret', 's', ARRAY[cqrs.new_event('Told', '{"secret": 42}')]);
SET SESSION AUTHORIZATION regress_cqrs_other;
SELECT cqrs.create_entity('privileges.Secret');
\echo :SQLSTATE
RESET SESSION AUTHORIZATION;
GRANT SELECT ON cqrs.journal TO regress_cqrs_other;
SET SESSION AUTHORIZATION regress_cqrs_other;
SELECT cqrs.create_entity('privileges.Secret');
SELECT cqrs.drop_entity('privileges.Secret');
RESET SESSION AUTHORIZATION;
REVOKE SELECT ON cqrs.journal FROM regress_cqrs_other;

-- Row security of the journal applies to readers, in each session role anew, and not to commands. Kept states do not leak past it.
SELECT version FROM cqrs.append('privileges.Account', 'hidden', ARRAY[cqrs.new_event('Deposited', '{"amount": 99}')]);
SELECT version FROM cqrs.append('privileges.Account', 'partly',
    ARRAY[cqrs.new_event('Deposited', '{"amount": 1}'), cqrs.new_event('Deposited', '{"amount": 10, "hide": true}')]);
SELECT cqrs.take_snapshot('privileges.Account', 'hidden'), cqrs.take_snapshot('privileges.Account', 'partly');
ALTER TABLE cqrs.journal ENABLE ROW LEVEL SECURITY;
CREATE POLICY visible ON cqrs.journal FOR SELECT TO regress_cqrs_reader USING (entity_id <> 'hidden' AND NOT coalesce((data ->> 'hide')::boolean, false));
SELECT cqrs.state('privileges.Account', 'hidden') -> 'balance' AS hidden, cqrs.state('privileges.Account', 'partly') -> 'balance' AS partly;
SET SESSION AUTHORIZATION regress_cqrs_reader;
SELECT cqrs.state('privileges.Account', 'hidden') -> 'balance' AS hidden, cqrs.state('privileges.Account', 'partly') -> 'balance' AS partly;
SELECT cqrs.state('privileges.Account', 'a') -> 'balance' AS a;
SELECT cqrs.state('privileges.Account', 'partly', 2);
\echo :SQLSTATE
SELECT count(*) FROM cqrs.history('privileges.Account', 'hidden');
SELECT version FROM cqrs.history('privileges.Account', 'partly');
SELECT count(*) FROM cqrs.read_events(max_events => 1000000, entity_types => '{privileges.Account}') WHERE entity_id = 'hidden';
RESET SESSION AUTHORIZATION;
SELECT cqrs.state('privileges.Account', 'hidden') -> 'balance' AS hidden, cqrs.state('privileges.Account', 'partly') -> 'balance' AS partly;
-- The other way round: what a reader who sees less folded is not served to who sees all, nor to a command.
SET SESSION AUTHORIZATION regress_cqrs_sender;
SELECT version FROM cqrs.send('privileges.Account', 'hidden', 'Deposit', '{"amount": 1}');
SELECT version FROM cqrs.send('privileges.Account', 'partly', 'Deposit', '{"amount": 100}');
RESET SESSION AUTHORIZATION;
SELECT cqrs.state('privileges.Account', 'hidden') -> 'balance' AS hidden, cqrs.state('privileges.Account', 'partly') -> 'balance' AS partly;
SET SESSION AUTHORIZATION regress_cqrs_reader;
SELECT cqrs.state('privileges.Account', 'hidden') -> 'balance' AS hidden, cqrs.state('privileges.Account', 'partly') -> 'balance' AS partly;
RESET SESSION AUTHORIZATION;
SELECT cqrs.state('privileges.Account', 'partly') -> 'balance' AS partly;
SET SESSION AUTHORIZATION regress_cqrs_reader;
SET row_security = off;
SELECT cqrs.state('privileges.Account', 'a');
\echo :SQLSTATE
RESET row_security;
-- With no policy for a role there is nothing to see.
RESET SESSION AUTHORIZATION;
GRANT SELECT ON cqrs.journal TO regress_cqrs_owner;
SET SESSION AUTHORIZATION regress_cqrs_owner;
SELECT cqrs.state('privileges.Account', 'a') IS NULL AS nothing_to_see;
-- But his handlers see the events of commands, as handlers of his entity.
SELECT version, reply FROM cqrs.send('privileges.Account', 'a', 'Deposit', '{"amount": 0}');
RESET SESSION AUTHORIZATION;
REVOKE SELECT ON cqrs.journal FROM regress_cqrs_owner;
-- Whoever does not see all events cannot claim a type that has some.
GRANT SELECT ON cqrs.journal TO regress_cqrs_other;
SET SESSION AUTHORIZATION regress_cqrs_other;
SELECT cqrs.create_entity('privileges.Secret');
\echo :SQLSTATE
RESET SESSION AUTHORIZATION;
REVOKE SELECT ON cqrs.journal FROM regress_cqrs_other;
DROP POLICY visible ON cqrs.journal;
ALTER TABLE cqrs.journal DISABLE ROW LEVEL SECURITY;

-- A right to some columns is none to a state, which is made of all of them, kept or not.
SELECT cqrs.state('privileges.Account', 'hidden') -> 'balance' AS hidden;
GRANT SELECT (position, entity_type, entity_id, version, created_at) ON cqrs.journal TO regress_cqrs_other;
SET SESSION AUTHORIZATION regress_cqrs_other;
SELECT version FROM cqrs.journal WHERE entity_type = 'privileges.Account' AND entity_id = 'hidden' ORDER BY version;
SELECT cqrs.state('privileges.Account', 'hidden');
\echo :SQLSTATE
SELECT cqrs.state('privileges.Account', 'hidden', 1);
\echo :SQLSTATE
SELECT cqrs.create_entity('privileges.Secret');
\echo :SQLSTATE
RESET SESSION AUTHORIZATION;
REVOKE SELECT (position, entity_type, entity_id, version, created_at) ON cqrs.journal FROM regress_cqrs_other;

-- The journal may be given to another role: commands go on as before. But row security that is forced upon that role would hide
-- the last version from the extension itself, so there nothing is written.
BEGIN;
ALTER TABLE cqrs.journal OWNER TO regress_cqrs_other;
ALTER TABLE cqrs.journal ENABLE ROW LEVEL SECURITY;
SET LOCAL SESSION AUTHORIZATION regress_cqrs_sender;
SELECT version FROM cqrs.send('privileges.Account', 'owned', 'Deposit', '{"amount": 1}');
SELECT version FROM cqrs.send('privileges.Account', 'owned', 'Deposit', '{"amount": 1}');
SET LOCAL SESSION AUTHORIZATION DEFAULT;
ALTER TABLE cqrs.journal FORCE ROW LEVEL SECURITY;
CREATE POLICY nothing ON cqrs.journal USING (false) WITH CHECK (true);
\set VERBOSITY sqlstate
SELECT version AS forced FROM cqrs.send('privileges.Account', 'owned', 'Deposit', '{"amount": 1}');
\set VERBOSITY default
ROLLBACK;

-- A low role's handler, run by a superuser's command, tries to keep his rights. Each attempt fails and leaves nothing behind.
CREATE TABLE loot (who name, what text);
GRANT INSERT, SELECT ON loot TO regress_cqrs_owner;
SET SESSION AUTHORIZATION regress_cqrs_owner;
CREATE TABLE trap (n int);
CREATE FUNCTION spring() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO privileges_test.loot VALUES (current_user, 'trigger');
    RETURN NULL;
END
$$;
CREATE CONSTRAINT TRIGGER spring AFTER INSERT ON trap DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION spring();
CREATE FUNCTION take_loot(how text) RETURNS int LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO privileges_test.loot VALUES (current_user, how);
    RETURN 1;
END
$$;
GRANT EXECUTE ON FUNCTION take_loot TO PUBLIC;
CREATE FUNCTION attack(state jsonb, command cqrs.command) RETURNS cqrs.effect LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE command.data ->> 'sql';
    RETURN cqrs.persist('Attacked', command.data, jsonb_build_object('as', current_user));
END
$$;
CREATE FUNCTION attacked(state jsonb, event cqrs.event) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
    IF event.data ? 'fold' THEN
        EXECUTE event.data ->> 'fold';
    END IF;
    RETURN state || jsonb_build_object('as', current_user);
END
$$;
SELECT cqrs.create_entity('privileges.Attack');
SELECT cqrs.on_command('privileges.Attack', '*', 'attack');
SELECT cqrs.on_event('privileges.Attack', '*', 'attacked');
RESET SESSION AUTHORIZATION;
-- The tool works: what the handler does, it does as its owner.
SELECT reply FROM cqrs.send('privileges.Attack', 'x', 'Do', '{"sql": "SELECT privileges_test.take_loot(''control'')"}');
SELECT * FROM loot;
DELETE FROM loot;
-- From here on SQLSTATEs only: the words are PostgreSQL's and change.
\set VERBOSITY sqlstate
-- A deferred trigger, which would fire at commit, as whoever commits.
SELECT cqrs.send('privileges.Attack', 'x', 'Do', '{"sql": "INSERT INTO privileges_test.trap VALUES (1)"}');
SELECT cqrs.send('privileges.Attack', 'x', 'Do', '{"sql": "SELECT", "fold": "INSERT INTO privileges_test.trap VALUES (1)"}');
-- A cursor WITH HOLD, which would be run at commit.
SELECT cqrs.send('privileges.Attack', 'x', 'Do', '{"sql": "DECLARE c CURSOR WITH HOLD FOR SELECT privileges_test.take_loot(''cursor'')"}');
-- A temporary table, view or type, in the superuser's own schema, where names are looked up first.
SELECT cqrs.send('privileges.Attack', 'x', 'Do', '{"sql": "CREATE TEMP TABLE pg_class (n int)"}');
SELECT cqrs.send('privileges.Attack', 'x', 'Do', '{"sql": "CREATE TEMP VIEW v AS SELECT 1"}');
SELECT cqrs.send('privileges.Attack', 'x', 'Do', '{"sql": "CREATE TYPE pg_temp.jsonb AS (n int)"}');
SELECT '{}'::jsonb;
-- Types of other kinds there, which not every release of PostgreSQL refuses.
SELECT cqrs.send('privileges.Attack', 'x', 'Do', '{"sql": "CREATE DOMAIN pg_temp.jsonb AS pg_catalog.jsonb CHECK (privileges_test.take_loot(''domain'') = 1)"}');
SELECT cqrs.send('privileges.Attack', 'x', 'Do', '{"sql": "SET search_path = pg_temp; CREATE DOMAIN text AS pg_catalog.text CHECK (privileges_test.take_loot(''domain'') = 1)"}');
SELECT cqrs.send('privileges.Attack', 'x', 'Do', '{"sql": "CREATE TYPE pg_temp.int4 AS ENUM (''1'')"}');
SELECT cqrs.send('privileges.Attack', 'x', 'Do', '{"sql": "CREATE TYPE pg_temp.int8range AS RANGE (subtype = int8)"}');
SELECT cqrs.send('privileges.Attack', 'x', 'Do', '{"sql": "SELECT", "fold": "CREATE DOMAIN pg_temp.jsonb AS pg_catalog.jsonb CHECK (privileges_test.take_loot(''domain'') = 1)"}');
SELECT '{}'::jsonb, '1'::int4, 'x'::text;
SELECT count(*) FROM pg_type WHERE typnamespace = pg_my_temp_schema();
-- A prepared statement instead of one of the superuser's, a subscription, a cursor closed, the session's memory discarded.
SELECT cqrs.send('privileges.Attack', 'x', 'Do', '{"sql": "PREPARE p AS SELECT privileges_test.take_loot(''prepared'')"}');
SELECT cqrs.send('privileges.Attack', 'x', 'Do', '{"sql": "DEALLOCATE ALL"}');
SELECT cqrs.send('privileges.Attack', 'x', 'Do', '{"sql": "LISTEN secrets"}');
SELECT cqrs.send('privileges.Attack', 'x', 'Do', '{"sql": "CLOSE ALL"}');
SELECT cqrs.send('privileges.Attack', 'x', 'Do', '{"sql": "DISCARD ALL"}');
-- Another role.
SELECT cqrs.send('privileges.Attack', 'x', 'Do', jsonb_build_object('sql', format('SET ROLE %I', :'super')));
SELECT cqrs.send('privileges.Attack', 'x', 'Do', '{"sql": "RESET ROLE"}');
SELECT cqrs.send('privileges.Attack', 'x', 'Do', '{"sql": "SET SESSION AUTHORIZATION DEFAULT"}');
SELECT cqrs.send('privileges.Attack', 'x', 'Do', '{"sql": "SELECT set_config(''role'', ''regress_cqrs_other'', false)"}');
SELECT cqrs.send('privileges.Attack', 'x', 'Do', '{"sql": "SELECT set_config(''session_authorization'', ''regress_cqrs_other'', false)"}');
SELECT cqrs.send('privileges.Attack', 'x', 'Do', '{"sql": "SELECT", "fold": "RESET ROLE"}');
-- The same from an event that is folded to be read, or for a snapshot.
SELECT version FROM cqrs.append('privileges.Attack', 'fold', ARRAY[cqrs.new_event('Attacked', '{"fold": "INSERT INTO privileges_test.trap VALUES (1)"}')]);
SELECT cqrs.state('privileges.Attack', 'fold');
SELECT cqrs.take_snapshot('privileges.Attack', 'fold');
SELECT cqrs.send('privileges.Attack', 'fold', 'Do', '{"sql": "SELECT"}');
-- The same from a handler that is SECURITY DEFINER itself.
ALTER FUNCTION attack(jsonb, cqrs.command) SECURITY DEFINER;
SELECT cqrs.send('privileges.Attack', 'x', 'Do', '{"sql": "INSERT INTO privileges_test.trap VALUES (1)"}');
SELECT cqrs.send('privileges.Attack', 'x', 'Do', '{"sql": "RESET ROLE"}');
ALTER FUNCTION attack(jsonb, cqrs.command) SECURITY INVOKER;
-- The same in a transaction that a handler's EXCEPTION block goes on with: the error takes the block back, not the restriction.
SELECT reply FROM cqrs.send('privileges.Attack', 'x', 'Do', '{"sql": "DO $do$ BEGIN RESET ROLE; EXCEPTION WHEN OTHERS THEN PERFORM privileges_test.take_loot(''caught''); END $do$"}');
SELECT cqrs.send('privileges.Attack', 'x', 'Do', '{"sql": "DO $do$ BEGIN BEGIN RESET ROLE; EXCEPTION WHEN OTHERS THEN NULL; END; INSERT INTO privileges_test.trap VALUES (1); END $do$"}');
SELECT * FROM loot;
DELETE FROM loot;
-- A function of a superuser's that runs as its caller: the caller is the handler's owner.
CREATE FUNCTION who() RETURNS name LANGUAGE sql AS $$ SELECT current_user $$;
SELECT cqrs.send('privileges.Attack', 'x', 'Do', '{"sql": "INSERT INTO privileges_test.loot VALUES (privileges_test.who(), ''who'')"}') IS NOT NULL AS sent;
SELECT * FROM loot;
DELETE FROM loot;
-- Nothing came of it, at commit or later.
SELECT * FROM loot;
SELECT count(*) AS trapped FROM trap;
SELECT current_user = :'super' AS still_me, session_user = :'super' AS still_my_session;
SELECT count(*) FROM pg_class WHERE relnamespace = pg_my_temp_schema();
SELECT version, data -> 'sql' AS sql FROM cqrs.history('privileges.Attack', 'x');

\set VERBOSITY default
-- Settings that a handler changes end with it: search_path and others.
SELECT reply FROM cqrs.send('privileges.Attack', 'y', 'Do', '{"sql": "SELECT set_config(''search_path'', ''public'', false), set_config(''work_mem'', ''123kB'', false), set_config(''cqrs.state_cache_size'', ''1MB'', false)"}');
SELECT reply FROM cqrs.send('privileges.Attack', 'y', 'Do', '{"sql": "SET search_path = public"}');
SELECT reply FROM cqrs.send('privileges.Attack', 'y', 'Do', '{"sql": "SELECT", "fold": "SET search_path = public"}');
SHOW search_path;
SELECT current_setting('work_mem') <> '123kB' AS work_mem, current_setting('cqrs.state_cache_size') <> '1MB' AS cache_size;
-- Also where an event is folded to be read.
SELECT cqrs.state('privileges.Attack', 'y', 3);
SET cqrs.state_cache_size = 0;
SELECT cqrs.state('privileges.Attack', 'y');
SHOW search_path;
RESET cqrs.state_cache_size;
-- Also where an error ends it, and in the rest of the transaction.
BEGIN;
SAVEPOINT s;
SELECT cqrs.send('privileges.Attack', 'y', 'Do', '{"sql": "DO $$BEGIN SET search_path = public; PERFORM 1 / 0; END$$"}');
ROLLBACK TO s;
SELECT current_user = :'super' AS still_me;
SHOW search_path;
SELECT who() = :'super' AS still_me;
COMMIT;

-- The owner may do all that himself, in his own session: it is he.
SET SESSION AUTHORIZATION regress_cqrs_owner;
SELECT reply FROM cqrs.send('privileges.Attack', 'z', 'Do', '{"sql": "INSERT INTO privileges_test.trap VALUES (1)"}');
RESET SESSION AUTHORIZATION;
SELECT * FROM loot;
DELETE FROM loot;

\set VERBOSITY sqlstate
-- Inside a SECURITY DEFINER function of a superuser's the same: neither the definer's nor the session's rights are to be had.
CREATE FUNCTION send_for_all(sql text) RETURNS jsonb LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$ SELECT (cqrs.send('privileges.Attack', 'definer', 'Do', jsonb_build_object('sql', sql))).reply $$;
GRANT EXECUTE ON FUNCTION send_for_all TO regress_cqrs_owner;
SET SESSION AUTHORIZATION regress_cqrs_owner;
SELECT send_for_all('SELECT privileges_test.take_loot(''definer'')');
SELECT send_for_all('INSERT INTO privileges_test.trap VALUES (2)');
SELECT send_for_all('RESET ROLE');
SELECT * FROM loot;
RESET SESSION AUTHORIZATION;
SELECT metadata ->> '$sender' = :'super' AS sender_is_definer FROM cqrs.history('privileges.Attack', 'definer');
DELETE FROM loot;
-- A handler's own SECURITY DEFINER function is its owner's, and no way out.
SET SESSION AUTHORIZATION regress_cqrs_owner;
CREATE FUNCTION definer() RETURNS int LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    INSERT INTO privileges_test.trap VALUES (3);
    RETURN 1;
END
$$;
RESET SESSION AUTHORIZATION;
SELECT cqrs.send('privileges.Attack', 'x', 'Do', '{"sql": "SELECT privileges_test.definer()"}');

\set VERBOSITY default
-- A handler that calls back sends as its owner, who must have the right.
CREATE FUNCTION root_only(state jsonb, command cqrs.command) RETURNS cqrs.effect LANGUAGE sql AS $$ SELECT cqrs.reply(to_jsonb(current_user)) $$;
REVOKE EXECUTE ON FUNCTION root_only FROM PUBLIC;
SELECT cqrs.create_entity('privileges.Root');
SELECT cqrs.on_command('privileges.Root', '*', 'root_only');
SELECT cqrs.send('privileges.Attack', 'x', 'Do', '{"sql": "SELECT cqrs.send(''privileges.Root'', ''r'', ''Any'')"}');
\echo :SQLSTATE
SELECT cqrs.send('privileges.Attack', 'x', 'Do', '{"sql": "SELECT cqrs.append(''privileges.Account'', ''a'', ''{}'')"}');
\echo :SQLSTATE
\set VERBOSITY terse
SELECT cqrs.send('privileges.Attack', 'x', 'Do', '{"sql": "SELECT cqrs.alter_entity(''privileges.Root'', owner => ''regress_cqrs_owner'')"}');
\echo :SQLSTATE
SELECT cqrs.send('privileges.Attack', 'x', 'Do', '{"sql": "SELECT cqrs.state(''privileges.Account'', ''a'')"}');
\echo :SQLSTATE
\set VERBOSITY default
GRANT EXECUTE ON FUNCTION root_only TO regress_cqrs_owner;
SELECT reply FROM cqrs.send('privileges.Attack', 'w', 'Do', '{"sql": "INSERT INTO privileges_test.loot SELECT (cqrs.send(''privileges.Root'', ''r'', ''Any'')).reply #>> ''{}'', ''nested''"}');
SELECT who = :'super' AS ran_as_super, what FROM loot;
SELECT current_user = :'super' AS still_me;
DELETE FROM loot;

-- A handler whose function was given to another role is not run any more, and neither is one of an entity that was.
ALTER FUNCTION attacked(jsonb, cqrs.event) OWNER TO regress_cqrs_other;
SELECT cqrs.send('privileges.Attack', 'v', 'Do', '{"sql": "SELECT"}');
\echo :SQLSTATE
SET cqrs.state_cache_size = 0;
SELECT cqrs.state('privileges.Attack', 'x');
\echo :SQLSTATE
RESET cqrs.state_cache_size;
ALTER FUNCTION attacked(jsonb, cqrs.event) OWNER TO regress_cqrs_owner;
ALTER FUNCTION attack(jsonb, cqrs.command) OWNER TO CURRENT_USER;
SELECT cqrs.send('privileges.Attack', 'v', 'Do', '{"sql": "SELECT"}');
ALTER FUNCTION attack(jsonb, cqrs.command) OWNER TO regress_cqrs_owner;
SELECT reply FROM cqrs.send('privileges.Attack', 'v', 'Do', '{"sql": "SELECT"}');
SELECT cqrs.alter_entity('privileges.Attack', owner => 'regress_cqrs_other');
SELECT cqrs.send('privileges.Attack', 'v', 'Do', '{"sql": "SELECT"}');
\echo :SQLSTATE
SELECT cqrs.alter_entity('privileges.Attack', owner => 'regress_cqrs_owner');

-- The other way round: a low role calls a superuser's entity with a hostile search_path, hostile objects in it, and hostile settings.
CREATE SCHEMA privileges_hostile AUTHORIZATION regress_cqrs_sender;
CREATE TABLE ledger (entry text);
CREATE FUNCTION book(state jsonb, command cqrs.command) RETURNS cqrs.effect LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO ledger VALUES (lower(command.data ->> 'entry') || '!');
    RETURN cqrs.persist('Booked', command.data, jsonb_build_object('as_super', (SELECT usesuper FROM pg_user WHERE usename = current_user),
        'one', abs(-1), 'equal', 1 = 1, 'path', current_setting('search_path')));
END
$$;
REVOKE EXECUTE ON FUNCTION book FROM PUBLIC;
GRANT EXECUTE ON FUNCTION book TO regress_cqrs_sender;
CREATE FUNCTION booked(state jsonb, event cqrs.event) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
    RETURN state || jsonb_build_object('entry', lower(event.data ->> 'entry'), 'ledger', (SELECT count(*) FROM ledger));
END
$$;
SELECT cqrs.create_entity('privileges.Ledger', snapshot_every => 1);
SELECT cqrs.on_command('privileges.Ledger', '*', 'book');
SELECT cqrs.on_event('privileges.Ledger', '*', 'booked');
SET SESSION AUTHORIZATION regress_cqrs_sender;
CREATE FUNCTION privileges_hostile.evil(what text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% was taken by % in the name of %', what, session_user, current_user;
END
$$;
CREATE FUNCTION privileges_hostile.lower(text) RETURNS text LANGUAGE plpgsql AS $$ BEGIN PERFORM privileges_hostile.evil('lower'); RETURN ''; END $$;
CREATE FUNCTION privileges_hostile.abs(int) RETURNS int LANGUAGE plpgsql AS $$ BEGIN PERFORM privileges_hostile.evil('abs'); RETURN 0; END $$;
CREATE FUNCTION privileges_hostile.eq(int, int) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN PERFORM privileges_hostile.evil('='); RETURN false; END $$;
CREATE OPERATOR privileges_hostile.= (leftarg = int, rightarg = int, function = privileges_hostile.eq);
CREATE FUNCTION privileges_hostile.eq(text, text) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN PERFORM privileges_hostile.evil('='); RETURN false; END $$;
CREATE OPERATOR privileges_hostile.= (leftarg = text, rightarg = text, function = privileges_hostile.eq);
CREATE FUNCTION privileges_hostile.ge(bigint, bigint) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN PERFORM privileges_hostile.evil('>='); RETURN false; END $$;
CREATE OPERATOR privileges_hostile.>= (leftarg = bigint, rightarg = bigint, function = privileges_hostile.ge);
CREATE OPERATOR privileges_hostile.<= (leftarg = bigint, rightarg = bigint, function = privileges_hostile.ge);
CREATE OPERATOR privileges_hostile.> (leftarg = bigint, rightarg = bigint, function = privileges_hostile.ge);
CREATE FUNCTION privileges_hostile.unnest(cqrs.event[]) RETURNS SETOF cqrs.event LANGUAGE plpgsql AS $$ BEGIN PERFORM privileges_hostile.evil('unnest'); END $$;
CREATE TABLE privileges_hostile.ledger (entry text);
CREATE TEMP TABLE ledger (entry text);
CREATE TEMP TABLE journal (entry text);
CREATE TEMP TABLE pg_class (relname name);
CREATE TYPE pg_temp.jsonb AS (x int);
GRANT ALL ON SCHEMA privileges_hostile TO PUBLIC;
SET search_path = privileges_hostile, pg_temp, pg_catalog, privileges_test;
-- The trap works on the unwary.
SELECT lower('X');
SELECT version, reply FROM cqrs.send('privileges.Ledger', 'l', 'Book', '{"entry": "A"}');
SELECT version, reply -> 'one' AS one FROM cqrs.send('privileges.Ledger', 'l', 'Book', '{"entry": "B"}', command_id => 'b0000000-0000-4000-8000-000000000001',
    expected_version => 1);
SELECT version, reply -> 'one' AS one FROM cqrs.send('privileges.Ledger', 'l', 'Book', '{"entry": "B"}', command_id => 'b0000000-0000-4000-8000-000000000001');
SET cqrs.state_cache_size = 0;
SELECT version FROM cqrs.send('privileges.Ledger', 'l', 'Book', '{"entry": "C"}');
SET pg_catalog.search_path = '';
SELECT version FROM cqrs.send('privileges.Ledger', 'l', 'Book', '{"entry": "D"}');
SET search_path = privileges_hostile, pg_temp, pg_catalog, privileges_test;
SET pg_catalog.default_transaction_isolation = 'read committed';
SET enable_indexscan = off;
SET enable_indexonlyscan = off;
SET check_function_bodies = off;
SELECT version FROM cqrs.send('privileges.Ledger', 'l', 'Book', '{"entry": "E"}');
RESET SESSION AUTHORIZATION;
SET search_path = privileges_hostile, pg_temp, pg_catalog, privileges_test;
SELECT cqrs.state('privileges.Ledger', 'l');
SELECT count(*) FROM cqrs.history('privileges.Ledger', 'l');
SELECT cqrs.create_entity('privileges.Hostile');
SELECT cqrs.alter_entity('privileges.Hostile', snapshot_every => 3);
SELECT cqrs.drop_entity('privileges.Hostile');
SELECT cqrs.take_snapshot('privileges.Ledger', 'l'), cqrs.drop_snapshots('privileges.Ledger', 'l');
RESET ALL;
SET search_path = privileges_test;
SELECT * FROM privileges_test.ledger;
SELECT count(*) AS hostile_ledger FROM privileges_hostile.ledger;
SELECT count(*) AS temp_ledger FROM pg_temp.ledger;
DROP TABLE pg_temp.ledger, pg_temp.journal, pg_temp.pg_class;
DROP TYPE pg_temp.jsonb;

-- A path that was pinned at registration has pg_temp last, and no schema of the sender's.
SELECT DISTINCT search_path FROM cqrs.entity_handler WHERE entity_type LIKE 'privileges.%' ORDER BY 1;
-- A handler in the sender's temporary schema is not found by a bare name.
SET SESSION AUTHORIZATION regress_cqrs_owner;
CREATE FUNCTION pg_temp.in_temp(state jsonb, command cqrs.command) RETURNS cqrs.effect LANGUAGE sql AS $$ SELECT cqrs.reply('1') $$;
SELECT cqrs.on_command('privileges.Attack', 'Temp', 'in_temp');
\echo :SQLSTATE
DROP FUNCTION pg_temp.in_temp(jsonb, cqrs.command);

-- Whoever is a member of the owning role may register, with functions of that role.
RESET SESSION AUTHORIZATION;
GRANT regress_cqrs_owner TO regress_cqrs_other;
SET SESSION AUTHORIZATION regress_cqrs_other;
SELECT cqrs.on_upcast('privileges.Account', 'Deposited', 1, 'same');
SELECT cqrs.on_upcast('privileges.Account', 'Deposited', 1, 'same_other');
\echo :SQLSTATE
SELECT cqrs.on_upcast('privileges.Account', 'Deposited', 1, NULL);
SELECT cqrs.alter_entity('privileges.Other', owner => 'regress_cqrs_owner');
RESET SESSION AUTHORIZATION;
REVOKE regress_cqrs_owner FROM regress_cqrs_other;

-- An entity type whose owner is gone is nobody's, until a superuser gives it to somebody.
SELECT cqrs.alter_entity('privileges.Other', owner => 'regress_cqrs_other');
SET SESSION AUTHORIZATION regress_cqrs_other;
SELECT cqrs.on_command('privileges.Other', '*', 'deposit_other');
RESET SESSION AUTHORIZATION;
SET client_min_messages = warning;
DROP OWNED BY regress_cqrs_other;
DROP ROLE regress_cqrs_other;
SELECT cqrs.send('privileges.Other', 'o', 'Any');
SET SESSION AUTHORIZATION regress_cqrs_owner;
SELECT cqrs.drop_entity('privileges.Other');
\echo :SQLSTATE
RESET SESSION AUTHORIZATION;
SELECT cqrs.alter_entity('privileges.Other', owner => 'regress_cqrs_owner');
SET SESSION AUTHORIZATION regress_cqrs_owner;
SELECT cqrs.drop_entity(t) FROM unnest('{privileges.Other, privileges.Attack, privileges.Account}'::text[]) t;
RESET SESSION AUTHORIZATION;

SELECT cqrs.drop_entity(t) FROM unnest('{privileges.Root, privileges.Ledger}'::text[]) t;
DROP SCHEMA privileges_test, privileges_hostile CASCADE;
DROP OWNED BY regress_cqrs_owner, regress_cqrs_sender, regress_cqrs_reader;
DROP ROLE regress_cqrs_owner, regress_cqrs_sender, regress_cqrs_reader;
