-- Entity types: created, altered and dropped with their handlers, by their owners.
ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;
CREATE ROLE regress_cqrs_entity;
CREATE SCHEMA entity_test;
GRANT ALL ON SCHEMA entity_test TO regress_cqrs_entity;
SET search_path = entity_test;
CREATE VIEW types AS
    SELECT entity_type, owner = session_user AS mine, initial_state, snapshot_every, keep_snapshots, after_forget
    FROM cqrs.entity WHERE entity_type LIKE 'entity.%' ORDER BY entity_type;
CREATE VIEW handlers AS
    SELECT kind, name, from_version, handler FROM cqrs.entity_handler WHERE entity_type LIKE 'entity.%' ORDER BY entity_type, kind, name, from_version;

-- Created with defaults, or with each setting given; owned by the current role.
SELECT cqrs.create_entity('entity.Plain');
SELECT cqrs.create_entity('entity.Set', initial_state => '[1, {"a": 2}]', snapshot_every => 0, keep_snapshots => 7, after_forget => 'refuse');
SELECT cqrs.create_entity('entity."Odd", name', '"x"', 2147483647, 1);
SELECT * FROM types;

-- A name is taken once; the same in another case, or with a blank, is another.
SELECT cqrs.create_entity('entity.Plain');
\echo :SQLSTATE
SELECT cqrs.create_entity('entity.plain');
SELECT cqrs.create_entity('entity.Plain ');
SELECT entity_type FROM types WHERE lower(trim(entity_type)) = 'entity.plain';
SELECT cqrs.drop_entity('entity.plain'), cqrs.drop_entity('entity.Plain ');
BEGIN;
SELECT cqrs.create_entity('entity.Undone');
ROLLBACK;
SELECT cqrs.create_entity('entity.Undone');
SELECT cqrs.drop_entity('entity.Undone');

-- What cannot be is refused.
SELECT cqrs.create_entity(NULL);
\echo :SQLSTATE
SELECT cqrs.create_entity('');
\echo :SQLSTATE
SELECT cqrs.create_entity('entity.Bad', initial_state => NULL);
\echo :SQLSTATE
SELECT cqrs.create_entity('entity.Bad', snapshot_every => NULL);
SELECT cqrs.create_entity('entity.Bad', keep_snapshots => NULL);
SELECT cqrs.create_entity('entity.Bad', after_forget => NULL);
SELECT cqrs.create_entity('entity.Bad', snapshot_every => -1);
\echo :SQLSTATE
SELECT cqrs.create_entity('entity.Bad', keep_snapshots => 0);
\echo :SQLSTATE
SELECT cqrs.create_entity('entity.Bad', after_forget => 'forget');
\echo :SQLSTATE
SELECT cqrs.create_entity(repeat('x', 2000));
\echo :SQLSTATE
SELECT count(*) FROM cqrs.entity WHERE entity_type IN ('entity.Bad', '') OR length(entity_type) > 1000;

-- The initial state may be any JSON, and is the state of version 0.
SELECT cqrs.create_entity('entity.Null', initial_state => 'null');
SELECT version FROM cqrs.append('entity.Null', 'n', ARRAY[cqrs.new_event('E', '{}')]);
SELECT cqrs.state('entity.Null', 'n', 0);
SELECT cqrs.drop_entity('entity.Null');

-- alter_entity changes what it is given and leaves the rest.
SELECT cqrs.alter_entity('entity.Plain', snapshot_every => 5);
SELECT cqrs.alter_entity('entity.Plain', initial_state => '{"n": 0}', keep_snapshots => 3);
SELECT cqrs.alter_entity('entity.Plain');
SELECT * FROM types WHERE entity_type = 'entity.Plain';
SELECT cqrs.alter_entity('entity.Plain', snapshot_every => -5);
\echo :SQLSTATE
SELECT cqrs.alter_entity('entity.Plain', keep_snapshots => 0);
\echo :SQLSTATE
SELECT cqrs.alter_entity('entity.Plain', after_forget => 'never');
\echo :SQLSTATE
SELECT cqrs.alter_entity('entity.Plain', owner => 'regress_cqrs_nobody');
\echo :SQLSTATE
SELECT cqrs.alter_entity('entity.None', snapshot_every => 5);
\echo :SQLSTATE
SELECT cqrs.alter_entity(NULL, snapshot_every => 5);
SELECT * FROM types WHERE entity_type = 'entity.Plain';

-- Handlers: a WARNING says that everybody may send, where PUBLIC has EXECUTE, as it has by default.
CREATE FUNCTION decide(state jsonb, command cqrs.command) RETURNS cqrs.effect
    LANGUAGE sql
    AS $$ SELECT cqrs.persist('Counted', '{}', state) $$;
CREATE FUNCTION decide_otherwise(state jsonb, command cqrs.command) RETURNS cqrs.effect
    LANGUAGE sql
    AS $$ SELECT cqrs.reply('"otherwise"') $$;
CREATE FUNCTION counted(state jsonb, event cqrs.event) RETURNS jsonb
    LANGUAGE sql
    AS $$ SELECT jsonb_build_object('n', (state ->> 'n')::int + 1) $$;
CREATE FUNCTION same(event cqrs.event) RETURNS cqrs.event LANGUAGE sql AS $$ SELECT event $$;
SELECT cqrs.on_command('entity.Plain', 'Count', 'decide');
GRANT EXECUTE ON FUNCTION decide TO PUBLIC;
SELECT cqrs.on_command('entity.Plain', 'Count', 'decide');
REVOKE EXECUTE ON FUNCTION decide FROM PUBLIC;
GRANT EXECUTE ON FUNCTION counted TO PUBLIC;
SELECT cqrs.on_event('entity.Plain', 'Counted', 'counted');
SELECT cqrs.on_upcast('entity.Plain', 'Counted', 1, 'same');
SELECT cqrs.on_upcast('entity.Plain', 'Counted', 2, 'same');
SELECT * FROM handlers;
SELECT version, reply FROM cqrs.send('entity.Plain', 'p', 'Count');

-- Registered again it is replaced; registered with NULL it is taken back; what is not there cannot be.
SELECT cqrs.on_command('entity.Plain', 'Count', 'decide_otherwise');
SELECT version, reply FROM cqrs.send('entity.Plain', 'p', 'Count');
SELECT cqrs.on_command('entity.Plain', 'Count', NULL);
SELECT cqrs.send('entity.Plain', 'p', 'Count');
\echo :SQLSTATE
SELECT cqrs.on_command('entity.Plain', 'Count', NULL);
\echo :SQLSTATE
SELECT cqrs.on_upcast('entity.Plain', 'Counted', 1, NULL);
SELECT cqrs.on_upcast('entity.Plain', 'Counted', 1, NULL);
SELECT cqrs.on_upcast('entity.Plain', 'Counted', 2, NULL);
SELECT cqrs.on_event('entity.Plain', 'Counted', NULL);
SELECT cqrs.on_event('entity.Plain', 'Counted', NULL);
SELECT count(*) FROM handlers;
SELECT cqrs.state('entity.Plain', 'p');
\echo :SQLSTATE
SELECT cqrs.on_event('entity.Plain', 'Counted', 'counted');
SELECT cqrs.on_command('entity.Plain', 'Count', 'decide');
SELECT version, reply FROM cqrs.send('entity.Plain', 'p', 'Count');
-- A registration that is rolled back never was; one in a transaction counts in it at once.
BEGIN;
SELECT cqrs.on_command('entity.Plain', 'Count', 'decide_otherwise');
SELECT version, reply FROM cqrs.send('entity.Plain', 'p', 'Count');
SAVEPOINT s;
SELECT cqrs.on_command('entity.Plain', 'Count', NULL);
ROLLBACK TO s;
SELECT version, reply FROM cqrs.send('entity.Plain', 'p', 'Count');
ROLLBACK;
SELECT version, reply FROM cqrs.send('entity.Plain', 'p', 'Count');

-- Bad names and versions.
SELECT cqrs.on_command('entity.None', 'Count', 'decide');
\echo :SQLSTATE
SELECT cqrs.on_command('entity.None', 'Count', NULL);
\echo :SQLSTATE
SELECT cqrs.on_command(NULL, 'Count', 'decide');
SELECT cqrs.on_command('entity.Plain', NULL, 'decide');
SELECT cqrs.on_command('entity.Plain', '', 'decide');
SELECT cqrs.on_event('entity.Plain', NULL, 'counted');
SELECT cqrs.on_event('entity.Plain', '', 'counted');
SELECT cqrs.on_upcast('entity.Plain', '', 1, 'same');
SELECT cqrs.on_upcast('entity.Plain', 'Counted', 0, 'same');
\echo :SQLSTATE
SELECT cqrs.on_upcast('entity.Plain', 'Counted', NULL, 'same');
SELECT cqrs.on_upcast('entity.Plain', 'Counted', 2147483647, 'same');

-- A new event's schema version is one more than the highest that is upcast, per event type.
CREATE FUNCTION three(state jsonb, command cqrs.command) RETURNS cqrs.effect
    LANGUAGE sql
    AS $$ SELECT cqrs.persist_all(ARRAY[cqrs.new_event('A', '{}'), cqrs.new_event('AB', '{}'), cqrs.new_event('B', '{}')]) $$;
SELECT cqrs.on_command('entity.Set', 'Three', 'three');
SELECT cqrs.on_event('entity.Set', '*', 'cqrs.merge');
SELECT cqrs.on_upcast('entity.Set', 'AB', 1, 'same');
SELECT cqrs.on_upcast('entity.Set', 'AB', 4, 'same');
SELECT cqrs.on_upcast('entity.Set', 'B', 1, 'same');
SELECT version FROM cqrs.send('entity.Set', 's', 'Three');
SELECT event_type, schema_version FROM cqrs.history('entity.Set', 's') ORDER BY version;

-- An owner's rights, and those of nobody else.
SELECT cqrs.alter_entity('entity.Set', owner => 'regress_cqrs_entity');
SELECT entity_type, mine FROM types;
GRANT EXECUTE ON FUNCTION cqrs.alter_entity(text, jsonb, integer, integer, text, name), cqrs.drop_entity(text), cqrs.on_event(text, text, text)
    TO regress_cqrs_entity;
SET ROLE regress_cqrs_entity;
\set VERBOSITY terse
SELECT cqrs.alter_entity('entity.Set', keep_snapshots => 1);
SELECT cqrs.alter_entity('entity.Plain', keep_snapshots => 1);
\echo :SQLSTATE
SELECT cqrs.on_event('entity.Set', 'Own', 'cqrs.merge');
SELECT cqrs.on_event('entity.Plain', 'Own', 'cqrs.merge');
SELECT cqrs.on_event('entity.Plain', 'Counted', NULL);
SELECT cqrs.drop_entity('entity.Plain');
\echo :SQLSTATE
SELECT cqrs.drop_entity('entity.Set');
\set VERBOSITY default
RESET ROLE;
SELECT entity_type FROM types;

-- drop_entity takes handlers and snapshots along, and leaves the events, which another type of the name finds again.
SELECT cqrs.take_snapshot('entity.Plain', 'p');
SELECT cqrs.drop_entity('entity.Plain');
SELECT cqrs.drop_entity('entity.Plain');
\echo :SQLSTATE
SELECT (SELECT count(*) FROM handlers) AS handlers, (SELECT count(*) FROM cqrs.snapshot WHERE entity_type = 'entity.Plain') AS snapshots,
       (SELECT count(*) FROM cqrs.journal WHERE entity_type = 'entity.Plain') AS events;
SELECT cqrs.state('entity.Plain', 'p');
\echo :SQLSTATE
SELECT count(*) FROM cqrs.history('entity.Plain', 'p');
SELECT cqrs.create_entity('entity.Plain', initial_state => '{"n": 100}');
SELECT cqrs.on_event('entity.Plain', 'Counted', 'counted');
SELECT cqrs.state('entity.Plain', 'p');
BEGIN;
SELECT cqrs.drop_entity('entity.Plain');
ROLLBACK;
SELECT cqrs.state('entity.Plain', 'p');

-- Nothing is left.
SELECT cqrs.drop_entity('entity.Plain'), cqrs.drop_entity('entity."Odd", name');
SELECT count(*) FROM types;
SET client_min_messages = warning;
DROP OWNED BY regress_cqrs_entity;
DROP ROLE regress_cqrs_entity;
DROP SCHEMA entity_test CASCADE;
ALTER DEFAULT PRIVILEGES GRANT EXECUTE ON FUNCTIONS TO PUBLIC;
