-- Projections: created, altered and dropped by their owners, with functions of their own; what does not fit is refused.
\set SHOW_CONTEXT never
ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;
CREATE ROLE regress_cqrs_projection;
CREATE ROLE regress_cqrs_projection_other;
CREATE ROLE regress_cqrs_projection_member IN ROLE regress_cqrs_projection;
CREATE SCHEMA projection_test;
GRANT ALL ON SCHEMA projection_test TO regress_cqrs_projection, regress_cqrs_projection_other;
SET search_path = projection_test;
SELECT cqrs.create_journal();
CREATE TABLE seen (entity_id text, version bigint);
CREATE VIEW projections AS
    SELECT name, owner = session_user AS mine, handler, search_path, prepare, mode, entity_types, event_types, tables
    FROM cqrs.projection WHERE name LIKE 'projection.%' ORDER BY name;
CREATE VIEW settings AS
    SELECT name, batch_size, partitions, handler_timeout, replay_side_effects, on_failure, max_retries, max_parked, state
    FROM cqrs.projection WHERE name LIKE 'projection.%' ORDER BY name;
CREATE FUNCTION by_row(event cqrs.event) RETURNS void LANGUAGE sql AS $$ INSERT INTO seen VALUES ((event).entity_id, (event).version) $$;
CREATE FUNCTION by_set(events cqrs.event[]) RETURNS void LANGUAGE sql AS $$ INSERT INTO seen SELECT entity_id, version FROM unnest(events) $$;
CREATE FUNCTION either(event cqrs.event) RETURNS void LANGUAGE sql AS '';
CREATE FUNCTION either(events cqrs.event[]) RETURNS void LANGUAGE sql AS '';
CREATE FUNCTION gives(event cqrs.event) RETURNS integer LANGUAGE sql AS 'SELECT 1';
CREATE FUNCTION set_of(event cqrs.event) RETURNS SETOF void LANGUAGE sql AS '';
CREATE FUNCTION two(event cqrs.event, other integer) RETURNS void LANGUAGE sql AS '';
CREATE PROCEDURE proc(event cqrs.event) LANGUAGE sql AS '';
CREATE FUNCTION prepare() RETURNS void LANGUAGE sql AS $$ INSERT INTO seen VALUES ('prepared', 0) $$;
CREATE FUNCTION prepare_badly() RETURNS void LANGUAGE plpgsql AS $$ BEGIN RAISE 'not now' USING ERRCODE = 'XY001'; END $$;
CREATE FUNCTION prepare_odd() RETURNS integer LANGUAGE sql AS 'SELECT 1';


-- Created with defaults, or with each setting given; owned by the current role, with the search_path of now.
SELECT cqrs.create_projection('projection.plain', 'by_row');
SELECT cqrs.create_projection('projection.set', 'projection_test.by_set', entity_types => '{A, "b, C"}', event_types => '{X}',
    tables => '{seen}', batch_size => 10000, partitions => 3, on_failure => 'stop', max_retries => 0, max_parked => 0,
    handler_timeout => '1 h', replay_side_effects => true, start_position => NULL, prepare => 'prepare');
SELECT cqrs.create_projection('projection."Odd", name', 'either(cqrs.event[])');
SELECT * FROM projections;
SELECT * FROM settings;
SELECT projection, slice, next_slice FROM cqrs.projection_offset WHERE projection LIKE 'projection.%' ORDER BY 1, 2;
SELECT * FROM seen WHERE version = 0;

-- A name is taken once, and is free again after a rollback.
SELECT cqrs.create_projection('projection.plain', 'by_row');
\echo :SQLSTATE
SELECT cqrs.create_projection('projection.Plain', 'by_row');
SELECT cqrs.drop_projection('projection.Plain');
BEGIN;
SELECT cqrs.create_projection('projection.undone', 'by_row');
ROLLBACK;
SELECT cqrs.create_projection('projection.undone', 'by_row');
SELECT cqrs.drop_projection('projection.undone');

-- Names: none, empty, as long as possible, too long.
SELECT cqrs.create_projection(NULL, 'by_row');
\echo :SQLSTATE
SELECT cqrs.create_projection('', 'by_row');
\echo :SQLSTATE
SELECT cqrs.create_projection(rpad('projection.', 52, 'x'), 'by_row', '{none}', mode => 'sync');
SELECT tgname, length(tgname) FROM pg_trigger WHERE tgname LIKE 'projection_projection.x%';
SELECT cqrs.drop_projection(rpad('projection.', 52, 'x'));
SELECT tgname FROM pg_trigger WHERE tgname LIKE 'projection_projection.x%';
SELECT cqrs.create_projection(rpad('projection.', 53, 'x'), 'by_row');
\echo :SQLSTATE

-- Handlers: unknown, of another shape, ambiguous, temporary.
SELECT cqrs.create_projection('projection.bad', NULL);
\echo :SQLSTATE
SELECT cqrs.create_projection('projection.bad', 'nothing');
\echo :SQLSTATE
SELECT cqrs.create_projection('projection.bad', 'nowhere.by_row');
\echo :SQLSTATE
SELECT cqrs.create_projection('projection.bad', 'two');
\echo :SQLSTATE
SELECT cqrs.create_projection('projection.bad', 'gives');
\echo :SQLSTATE
SELECT cqrs.create_projection('projection.bad', 'set_of');
SELECT cqrs.create_projection('projection.bad', 'two(cqrs.event, integer)');
SELECT cqrs.create_projection('projection.bad', 'proc(cqrs.event)');
\echo :SQLSTATE
SELECT cqrs.create_projection('projection.bad', 'either');
\echo :SQLSTATE
SELECT cqrs.create_projection('projection.bad', 'by_row(');
\echo :SQLSTATE
CREATE FUNCTION pg_temp.by_row(event cqrs.event) RETURNS void LANGUAGE sql AS '';
SELECT cqrs.create_projection('projection.bad', 'pg_temp.by_row');
\echo :SQLSTATE
-- prepare: unknown, of another shape; if it fails there is no projection.
SELECT cqrs.create_projection('projection.bad', 'by_row', prepare => 'nothing');
\echo :SQLSTATE
SELECT cqrs.create_projection('projection.bad', 'by_row', prepare => 'prepare_odd');
\echo :SQLSTATE
SELECT cqrs.create_projection('projection.bad', 'by_row', prepare => 'prepare_badly');
\echo :SQLSTATE
-- Tables: unknown, no table, temporary.
CREATE TEMPORARY TABLE seen_temp ();
SELECT cqrs.create_projection('projection.bad', 'by_row', tables => '{nothing}');
\echo :SQLSTATE
SELECT cqrs.create_projection('projection.bad', 'by_row', tables => '{projections}');
\echo :SQLSTATE
SELECT cqrs.create_projection('projection.bad', 'by_row', tables => '{seen_temp}');
\echo :SQLSTATE
SELECT cqrs.create_projection('projection.bad', 'by_row', tables => '{seen, NULL}');
\echo :SQLSTATE
SELECT cqrs.create_projection('projection.bad', 'by_row', tables => '{seen, ""}');
\echo :SQLSTATE
-- Settings: NULL, out of range, unknown.
SELECT cqrs.create_projection('projection.bad', 'by_row', mode => NULL);
\echo :SQLSTATE
SELECT cqrs.create_projection('projection.bad', 'by_row', mode => 'Sync');
\echo :SQLSTATE
SELECT cqrs.create_projection('projection.bad', 'by_row', on_failure => 'panic');
\echo :SQLSTATE
SELECT cqrs.create_projection('projection.bad', 'by_row', batch_size => 0);
\echo :SQLSTATE
SELECT cqrs.create_projection('projection.bad', 'by_row', batch_size => 10001);
SELECT cqrs.create_projection('projection.bad', 'by_row', partitions => 0);
SELECT cqrs.create_projection('projection.bad', 'by_row', partitions => 65);
SELECT cqrs.create_projection('projection.bad', 'by_row', max_retries => -1);
SELECT cqrs.create_projection('projection.bad', 'by_row', max_parked => -1);
SELECT cqrs.create_projection('projection.bad', 'by_row', handler_timeout => '-1 s');
\echo :SQLSTATE
SELECT cqrs.create_projection('projection.bad', 'by_row', handler_timeout => '1 month');
SELECT cqrs.create_projection('projection.bad', 'by_row', entity_types => '{A, NULL}');
\echo :SQLSTATE
SELECT cqrs.create_projection('projection.bad', 'by_row', event_types => '{""}');
\echo :SQLSTATE
-- Writers run a sync projection, so it has no partitions.
SELECT cqrs.create_projection('projection.bad', 'by_row', mode => 'sync', partitions => 2);
\echo :SQLSTATE
SELECT count(*) FROM cqrs.projection WHERE name = 'projection.bad';
-- A position that was never given.
\set VERBOSITY sqlstate
SELECT cqrs.create_projection('projection.bad', 'by_row', start_position => cqrs.last_position() + 1);
SELECT cqrs.create_projection('projection.bad', 'by_row', start_position => -1);
\set VERBOSITY default
-- There is room for so many partitions on the server.
DO $$
BEGIN
    FOR i IN 1 .. 100 LOOP
        PERFORM cqrs.create_projection('projection.many' || i, 'by_row', '{none}', partitions => 64);
    END LOOP;
    RAISE 'there is no limit';
EXCEPTION WHEN configuration_limit_exceeded THEN
    RAISE NOTICE '%', SQLERRM;
END
$$;
SELECT count(*) FROM projections WHERE name LIKE 'projection.many%';


-- alter_projection changes what it is given and leaves the rest; an empty array takes a filter away.
SELECT cqrs.alter_projection('projection.set', batch_size => 7, max_retries => 3);
SELECT cqrs.alter_projection('projection.set', entity_types => '{}', on_failure => 'skip', handler_timeout => '0', replay_side_effects => false);
SELECT cqrs.alter_projection('projection.set', event_types => '{Y, Z}', tables => '{}', max_parked => 5);
SET search_path = projection_test, public;
SELECT cqrs.alter_projection('projection.set', 'either(cqrs.event)');
SET search_path = projection_test;
SELECT * FROM projections WHERE name = 'projection.set';
SELECT * FROM settings WHERE name = 'projection.set';
SELECT cqrs.alter_projection('projection.set');
SELECT count(*) FROM projections WHERE name = 'projection.set';
-- A filter that is empty from the beginning is none either.
SELECT cqrs.create_projection('projection.empty', 'by_row', entity_types => '{}', event_types => '{}', start_position => NULL);
SELECT entity_types, event_types FROM projections WHERE name = 'projection.empty';
SELECT cqrs.drop_projection('projection.empty');
-- What cannot be is refused, and changes nothing.
SELECT cqrs.alter_projection('projection.set', 'nothing');
\echo :SQLSTATE
SELECT cqrs.alter_projection('projection.set', batch_size => 0);
\echo :SQLSTATE
SELECT cqrs.alter_projection('projection.set', mode => 'never');
\echo :SQLSTATE
SELECT cqrs.alter_projection('projection.set', on_failure => '');
\echo :SQLSTATE
SELECT cqrs.alter_projection('projection.set', tables => '{nothing}');
\echo :SQLSTATE
SELECT cqrs.alter_projection('projection.set', mode => 'sync');
\echo :SQLSTATE
SELECT cqrs.alter_projection('projection.set', owner => 'regress_cqrs_nobody');
\echo :SQLSTATE
SELECT cqrs.alter_projection('projection.none', batch_size => 1);
\echo :SQLSTATE
SELECT cqrs.drop_projection('projection.none');
\echo :SQLSTATE
SELECT cqrs.drop_projection(NULL);
\echo :SQLSTATE
SELECT cqrs.drop_projection(repeat('x', 100));
\echo :SQLSTATE
SELECT * FROM settings WHERE name = 'projection.set';
SELECT cqrs.drop_projection('projection.set'), cqrs.drop_projection('projection.plain'), cqrs.drop_projection('projection."Odd", name');
SELECT count(*) FROM projections;
SELECT count(*) FROM cqrs.projection_offset WHERE projection LIKE 'projection.%';


-- Rights: EXECUTE on create_projection, SELECT on the journal without row security, functions and tables of one's own.
SET SESSION AUTHORIZATION regress_cqrs_projection;
CREATE FUNCTION own(event cqrs.event) RETURNS void LANGUAGE sql AS '';
CREATE FUNCTION own_prepare() RETURNS void LANGUAGE sql AS '';
CREATE TABLE own_seen ();
SELECT cqrs.create_projection('projection.own', 'own');
\echo :SQLSTATE
RESET SESSION AUTHORIZATION;
GRANT EXECUTE ON FUNCTION cqrs.create_projection, cqrs.alter_projection, cqrs.drop_projection, cqrs.pause_projection, cqrs.resume_projection,
    cqrs.reset_projection, cqrs.rebuild_projection, cqrs.retry_parked, cqrs.discard_parked
    TO regress_cqrs_projection, regress_cqrs_projection_other, regress_cqrs_projection_member;
SET SESSION AUTHORIZATION regress_cqrs_projection;
SELECT cqrs.create_projection('projection.own', 'own');
\echo :SQLSTATE
RESET SESSION AUTHORIZATION;
GRANT SELECT ON cqrs.journal TO regress_cqrs_projection;
ALTER TABLE cqrs.journal ENABLE ROW LEVEL SECURITY;
SET SESSION AUTHORIZATION regress_cqrs_projection;
SELECT cqrs.create_projection('projection.own', 'own');
\echo :SQLSTATE
RESET SESSION AUTHORIZATION;
ALTER TABLE cqrs.journal DISABLE ROW LEVEL SECURITY;
SET SESSION AUTHORIZATION regress_cqrs_projection;
SELECT cqrs.create_projection('projection.own', 'by_row');
\echo :SQLSTATE
SELECT cqrs.create_projection('projection.own', 'own', prepare => 'prepare');
\echo :SQLSTATE
SELECT cqrs.create_projection('projection.own', 'own', tables => '{seen}');
\echo :SQLSTATE
SELECT cqrs.create_projection('projection.own', 'own', entity_types => '{projection.None}', tables => '{own_seen}', prepare => 'own_prepare', start_position => NULL);
-- Then he alone changes it, and who is a member of him.
SET SESSION AUTHORIZATION regress_cqrs_projection_other;
SELECT cqrs.alter_projection('projection.own', batch_size => 1);
\echo :SQLSTATE
SELECT cqrs.drop_projection('projection.own');
SELECT cqrs.pause_projection('projection.own');
SELECT cqrs.resume_projection('projection.own');
SELECT cqrs.reset_projection('projection.own', 0);
SELECT cqrs.rebuild_projection('projection.own');
SELECT cqrs.retry_parked('projection.own');
SELECT cqrs.discard_parked('projection.own');
\echo :SQLSTATE
SET SESSION AUTHORIZATION regress_cqrs_projection_member;
SELECT cqrs.alter_projection('projection.own', batch_size => 2);
-- A function is looked for with the owner's eyes: it must be his.
SET search_path = projection_test;
SELECT cqrs.alter_projection('projection.own', 'by_set');
\echo :SQLSTATE
-- He can give it to a role that he is a member of, and that may do all that.
SET SESSION AUTHORIZATION regress_cqrs_projection;
\set VERBOSITY sqlstate
SELECT cqrs.alter_projection('projection.own', owner => 'regress_cqrs_projection_other');
\set VERBOSITY default
\echo :SQLSTATE
RESET SESSION AUTHORIZATION;
SET search_path = projection_test;
GRANT regress_cqrs_projection_other TO regress_cqrs_projection;
SET SESSION AUTHORIZATION regress_cqrs_projection;
SELECT cqrs.alter_projection('projection.own', owner => 'regress_cqrs_projection_other');
\echo :SQLSTATE
RESET SESSION AUTHORIZATION;
GRANT SELECT ON cqrs.journal TO regress_cqrs_projection_other;
SET SESSION AUTHORIZATION regress_cqrs_projection;
SELECT cqrs.alter_projection('projection.own', owner => 'regress_cqrs_projection_other');
\echo :SQLSTATE
RESET SESSION AUTHORIZATION;
ALTER FUNCTION projection_test.own OWNER TO regress_cqrs_projection_other;
ALTER FUNCTION projection_test.own_prepare OWNER TO regress_cqrs_projection_other;
SELECT cqrs.alter_projection('projection.own', owner => 'regress_cqrs_projection_other');
\echo :SQLSTATE
ALTER TABLE projection_test.own_seen OWNER TO regress_cqrs_projection_other;
SELECT cqrs.alter_projection('projection.own', owner => 'regress_cqrs_projection_other');
SELECT owner FROM cqrs.projection WHERE name = 'projection.own';
SET SESSION AUTHORIZATION regress_cqrs_projection_other;
SELECT cqrs.drop_projection('projection.own');
RESET SESSION AUTHORIZATION;

SELECT count(*) FROM cqrs.projection WHERE name LIKE 'projection.%';
DROP OWNED BY regress_cqrs_projection, regress_cqrs_projection_other, regress_cqrs_projection_member;
DROP ROLE regress_cqrs_projection, regress_cqrs_projection_other, regress_cqrs_projection_member;
ALTER DEFAULT PRIVILEGES GRANT EXECUTE ON FUNCTIONS TO PUBLIC;
SET client_min_messages = warning;
DROP SCHEMA projection_test CASCADE;
