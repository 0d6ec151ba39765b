-- What a low role has made to be called by others is not called with others' rights by anything that the extension does for them: casts,
-- domains, defaults, checks, rules, and what an event trigger finds in the search_path.
\set SHOW_CONTEXT never
SET client_min_messages = warning;
CREATE ROLE regress_cqrs_low;
CREATE ROLE regress_cqrs_low_journal;
SELECT session_user AS super \gset
SELECT current_database() AS main \gset
CREATE DATABASE regress_cqrs_objects TEMPLATE template0;
\c regress_cqrs_objects
SET client_min_messages = warning;
CREATE EXTENSION pg_cqrs;
CREATE SCHEMA hostile AUTHORIZATION regress_cqrs_low;
SET SESSION AUTHORIZATION regress_cqrs_low;
CREATE TABLE hostile.loot (way text, who name DEFAULT current_user);
GRANT INSERT ON hostile.loot TO PUBLIC;
GRANT USAGE ON SCHEMA hostile TO PUBLIC;
CREATE FUNCTION hostile.take_loot(way text) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN INSERT INTO hostile.loot VALUES (way); RETURN true; END $$;
CREATE FUNCTION hostile.spring() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO hostile.loot VALUES (TG_ARGV[0]); RETURN NULL; END $$;
CREATE FUNCTION hostile.fire() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO hostile.loot VALUES (TG_EVENT); END $$;
RESET SESSION AUTHORIZATION;

-- Event triggers. A low role makes none; and one of a superuser's that calls what it finds in the search_path finds nothing of the low
-- role's, when that has the extension make the journal or a trigger.
SET SESSION AUTHORIZATION regress_cqrs_low;
\set VERBOSITY sqlstate
CREATE EVENT TRIGGER hostile ON ddl_command_end EXECUTE FUNCTION hostile.fire();
\set VERBOSITY default
CREATE FUNCTION hostile.audit(tag text) RETURNS void LANGUAGE sql AS $$ SELECT hostile.take_loot('audit ' || tag) $$;
RESET SESSION AUTHORIZATION;
CREATE TABLE audited (tag text, who name);
CREATE FUNCTION audit(tag text) RETURNS void LANGUAGE sql AS $$ INSERT INTO public.audited VALUES (tag, current_user) $$;
CREATE FUNCTION on_command() RETURNS event_trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM audit(TG_TAG);
EXCEPTION WHEN undefined_function THEN
    PERFORM public.audit('not found: ' || TG_TAG);
END
$$;
GRANT INSERT ON audited TO PUBLIC;
GRANT EXECUTE ON FUNCTION cqrs.append, cqrs.create_entity, cqrs.alter_entity, cqrs.on_command, cqrs.on_event, cqrs.create_projection, cqrs.drop_projection
    TO regress_cqrs_low;
CREATE EVENT TRIGGER careless ON ddl_command_end EXECUTE FUNCTION on_command();
SET SESSION AUTHORIZATION regress_cqrs_low;
SET search_path = hostile, pg_temp, pg_catalog;
SELECT version FROM cqrs.append('objects.First', 'f', ARRAY[cqrs.new_event('E', '{}')]);
RESET SESSION AUTHORIZATION;
-- The trap works on a superuser who has this search_path.
GRANT SELECT ON cqrs.journal TO regress_cqrs_low;
SELECT way, who = :'super' AS as_super FROM hostile.loot;
DELETE FROM hostile.loot;
SET SESSION AUTHORIZATION regress_cqrs_low;
CREATE FUNCTION hostile.project(event cqrs.event) RETURNS void LANGUAGE sql AS '';
SELECT cqrs.create_projection('objects', 'hostile.project', mode => 'sync', entity_types => '{objects.None}');
SELECT cqrs.drop_projection('objects');
RESET SESSION AUTHORIZATION;
DROP EVENT TRIGGER careless;
RESET search_path;
SELECT DISTINCT way, who FROM hostile.loot;
SELECT DISTINCT tag, who = :'super' AS as_super FROM audited WHERE tag ~ 'CREATE TABLE|TRIGGER' ORDER BY tag;

-- Casts. A low role makes none between types that are not its own, and those of its own are not used by anything here.
SET SESSION AUTHORIZATION regress_cqrs_low;
CREATE TYPE hostile.evil AS (t text);
CREATE FUNCTION hostile.to_jsonb(e hostile.evil) RETURNS pg_catalog.jsonb LANGUAGE sql AS $$ SELECT pg_catalog.to_jsonb(hostile.take_loot('cast to jsonb')) $$;
CREATE FUNCTION hostile.to_json(e hostile.evil) RETURNS pg_catalog.json LANGUAGE sql AS $$ SELECT pg_catalog.to_json(hostile.take_loot('cast to json')) $$;
CREATE FUNCTION hostile.from_jsonb(j pg_catalog.jsonb) RETURNS hostile.evil LANGUAGE sql AS $$ SELECT ROW(hostile.take_loot('cast from jsonb')::text)::hostile.evil $$;
CREATE FUNCTION hostile.from_text(t pg_catalog.text) RETURNS hostile.evil LANGUAGE sql AS $$ SELECT ROW(hostile.take_loot('cast from text')::text)::hostile.evil $$;
CREATE FUNCTION hostile.from_event(e cqrs.event) RETURNS pg_catalog.jsonb LANGUAGE sql AS $$ SELECT pg_catalog.to_jsonb(hostile.take_loot('cast of an event')) $$;
CREATE CAST (hostile.evil AS jsonb) WITH FUNCTION hostile.to_jsonb AS IMPLICIT;
CREATE CAST (hostile.evil AS json) WITH FUNCTION hostile.to_json AS IMPLICIT;
CREATE CAST (jsonb AS hostile.evil) WITH FUNCTION hostile.from_jsonb AS IMPLICIT;
CREATE CAST (text AS hostile.evil) WITH FUNCTION hostile.from_text AS IMPLICIT;
\set VERBOSITY sqlstate
CREATE CAST (cqrs.event AS jsonb) WITH FUNCTION hostile.from_event AS IMPLICIT;
CREATE CAST (text AS jsonb) WITH INOUT AS IMPLICIT;
\set VERBOSITY default
-- Types of the names that everybody writes into casts, whose values call a function.
CREATE DOMAIN hostile.jsonb AS pg_catalog.jsonb CHECK (hostile.take_loot('jsonb'));
CREATE DOMAIN hostile.text AS pg_catalog.text CHECK (hostile.take_loot('text'));
CREATE DOMAIN hostile.int8 AS pg_catalog.int8 CHECK (hostile.take_loot('int8'));
CREATE DOMAIN hostile.uuid AS pg_catalog.uuid CHECK (hostile.take_loot('uuid'));
CREATE DOMAIN hostile.name AS pg_catalog.name CHECK (hostile.take_loot('name'));
CREATE FUNCTION hostile.jsonb_build_object(pg_catalog.text, pg_catalog.jsonb) RETURNS pg_catalog.jsonb LANGUAGE sql AS
    $$ SELECT pg_catalog.to_jsonb(hostile.take_loot('jsonb_build_object')) $$;
RESET SESSION AUTHORIZATION;
CREATE FUNCTION decide(state jsonb, command cqrs.command) RETURNS cqrs.effect LANGUAGE plpgsql AS $$
BEGIN
    RETURN cqrs.persist('Cast', jsonb_build_object('data', command.data), ('{"a": ' || '1'::int8 || '}')::jsonb);
END
$$;
CREATE FUNCTION evolve(state jsonb, event cqrs.event) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
    RETURN state || ('{"n": 1}'::text)::jsonb || to_jsonb(event);
END
$$;
CREATE FUNCTION upcast(event cqrs.event) RETURNS cqrs.event LANGUAGE plpgsql AS $$
BEGIN
    event.data = (event.data::text)::jsonb;
    event.schema_version = 2;
    RETURN event;
END
$$;
REVOKE EXECUTE ON FUNCTION decide FROM PUBLIC;
GRANT EXECUTE ON FUNCTION decide TO regress_cqrs_low;
SELECT cqrs.create_entity('objects.Cast', snapshot_every => 2);
SELECT cqrs.on_command('objects.Cast', '*', 'decide'), cqrs.on_event('objects.Cast', '*', 'evolve'), cqrs.on_upcast('objects.Cast', 'Cast', 1, 'upcast');
SET search_path = hostile, pg_catalog, public;
-- The traps work on the unwary: a superuser who casts with this search_path, or who casts what is the low role's.
SELECT '{}'::jsonb, to_json(ROW('x')::hostile.evil);
SELECT DISTINCT way, who = :'super' AS as_super FROM hostile.loot;
DELETE FROM hostile.loot;
SELECT count(cqrs.send('objects.Cast', 'super', 'Do', '{"x": 1}')) FROM generate_series(1, 3);
SET cqrs.state_cache_size = 0;
SELECT reply, version FROM cqrs.send('objects.Cast', 'super', 'Do', '{"x": 1}', command_id => 'c0000000-0000-4000-8000-000000000001');
SELECT reply, version FROM cqrs.send('objects.Cast', 'super', 'Do', '{"x": 1}', command_id => 'c0000000-0000-4000-8000-000000000001');
SELECT cqrs.state('objects.Cast', 'super') OPERATOR(pg_catalog.->) 'n' AS n, (SELECT pg_catalog.count(*) FROM cqrs.history('objects.Cast', 'super')) AS history,
    (SELECT pg_catalog.count(*) FROM cqrs.read_events(entity_types => '{objects.Cast}')) AS read;
SELECT cqrs.take_snapshot('objects.Cast', 'super');
RESET cqrs.state_cache_size;
-- Nothing of the superuser's statements, but what these wrote out themselves; the same when the low role sends.
SELECT DISTINCT way, who FROM hostile.loot;
SET SESSION AUTHORIZATION regress_cqrs_low;
SELECT count(cqrs.send('objects.Cast', 'low', 'Do', '{"x": 1}')) FROM generate_series(1, 3);
RESET SESSION AUTHORIZATION;
SELECT DISTINCT way, who FROM hostile.loot;
RESET search_path;
SELECT count(*) FROM cqrs.history('objects.Cast', 'low');

-- Defaults and what else a table calls when something is inserted: where the journal was given to a low role, as that role.
GRANT USAGE, CREATE ON SCHEMA hostile TO regress_cqrs_low_journal;
GRANT USAGE, CREATE ON SCHEMA cqrs TO regress_cqrs_low_journal;
ALTER TABLE cqrs.journal OWNER TO regress_cqrs_low_journal;
DELETE FROM hostile.loot;
CREATE FUNCTION plain(state jsonb, command cqrs.command) RETURNS cqrs.effect LANGUAGE sql AS $$ SELECT cqrs.persist('Plain', '{}') $$;
REVOKE EXECUTE ON FUNCTION plain FROM PUBLIC;
SELECT cqrs.create_entity('objects.Plain');
SELECT cqrs.on_command('objects.Plain', '*', 'plain'), cqrs.on_event('objects.Plain', '*', 'cqrs.merge');
SET SESSION AUTHORIZATION regress_cqrs_low_journal;
ALTER TABLE cqrs.journal NOT OF;
ALTER TABLE cqrs.journal ADD COLUMN extra boolean DEFAULT hostile.take_loot('default');
ALTER TABLE cqrs.journal ADD CONSTRAINT extra CHECK (hostile.take_loot('check')) NOT VALID;
CREATE TRIGGER extra AFTER INSERT ON cqrs.journal FOR EACH ROW EXECUTE FUNCTION hostile.spring('trigger');
CREATE RULE extra AS ON INSERT TO cqrs.journal DO ALSO SELECT hostile.take_loot('rule');
CREATE FUNCTION hostile.immutable(entity_id text) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN RETURN hostile.take_loot('index'); END $$;
CREATE INDEX extra ON cqrs.journal (hostile.immutable(entity_id));

RESET SESSION AUTHORIZATION;
DELETE FROM hostile.loot;
SELECT version FROM cqrs.send('objects.Plain', 'p', 'Do', '{}');
SELECT version FROM cqrs.append('objects.Plain', 'p', ARRAY[cqrs.new_event('Plain', '{}'), cqrs.new_event('Plain', '{}')]);
SELECT cqrs.state('objects.Plain', 'p'), (SELECT count(*) FROM cqrs.history('objects.Plain', 'p')) AS history;
SELECT DISTINCT way, who FROM hostile.loot ORDER BY way;
-- What it would have done at the commit, when nobody knows any more who is meant, is refused.
SET SESSION AUTHORIZATION regress_cqrs_low_journal;
CREATE CONSTRAINT TRIGGER deferred AFTER INSERT ON cqrs.journal DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION hostile.spring('deferred trigger');
RESET SESSION AUTHORIZATION;
\set VERBOSITY sqlstate
SELECT version FROM cqrs.send('objects.Plain', 'p', 'Do', '{}');
\set VERBOSITY default
SELECT count(*) FROM hostile.loot WHERE way = 'deferred trigger' OR who <> 'regress_cqrs_low_journal';

\c :main
DROP DATABASE regress_cqrs_objects;
DROP ROLE regress_cqrs_low, regress_cqrs_low_journal;
