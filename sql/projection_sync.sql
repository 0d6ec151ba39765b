-- A sync projection is a plain trigger on the journal: it projects in the writer's transaction what is appended, as its owner, all
-- or nothing, and nothing else that gets into the table. It catches up with an existing journal first, and leaves no event out.
\set SHOW_CONTEXT never
CREATE ROLE regress_cqrs_sync_owner;
CREATE ROLE regress_cqrs_sync_writer;
GRANT SELECT ON cqrs.journal TO regress_cqrs_sync_owner;
GRANT EXECUTE ON FUNCTION cqrs.create_projection, cqrs.alter_projection, cqrs.drop_projection TO regress_cqrs_sync_owner;
GRANT EXECUTE ON FUNCTION cqrs.append TO regress_cqrs_sync_writer, regress_cqrs_sync_owner;
CREATE SCHEMA sync_test;
GRANT ALL ON SCHEMA sync_test TO regress_cqrs_sync_owner;
SET search_path = sync_test;
CREATE TABLE by_row (entity_type text, entity_id text, version bigint, event_type text, data jsonb, who name DEFAULT current_user, path text DEFAULT current_setting('search_path'));
CREATE TABLE by_set (entity_type text, entity_id text, version bigint, event_type text, call integer);
CREATE SEQUENCE calls;
GRANT ALL ON by_row, by_set, calls TO regress_cqrs_sync_owner;
-- The events of this test, and no others.
CREATE FUNCTION put(entity_type text, entity_id text, VARIADIC types text[]) RETURNS bigint LANGUAGE sql SET search_path = sync_test AS $$
    SELECT (cqrs.append($1, $2, array_agg(cqrs.new_event(t, '{}')))).version FROM unnest($3) t
$$;
CREATE VIEW triggers AS
    SELECT tgname, replace(pg_get_triggerdef(oid), 'EXECUTE', E'\n    EXECUTE') AS definition FROM pg_trigger
    WHERE tgrelid = 'cqrs.journal'::regclass AND tgname LIKE 'projection_sync%' ORDER BY tgname;
CREATE VIEW projections AS SELECT name, mode, has_trigger FROM cqrs.projection WHERE name LIKE 'sync%' ORDER BY name;

SET SESSION AUTHORIZATION regress_cqrs_sync_owner;
SET search_path = sync_test;
CREATE FUNCTION row_handler(event cqrs.event) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF (event).event_type = 'Fail' THEN
        RAISE 'this event cannot be projected' USING ERRCODE = 'XY001', DETAIL = 'It never can.';
    END IF;
    INSERT INTO by_row SELECT (event).entity_type, (event).entity_id, (event).version, (event).event_type, (event).data;
END
$$;
CREATE FUNCTION set_handler(events cqrs.event[]) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    this integer := nextval('calls');
BEGIN
    INSERT INTO by_set SELECT entity_type, entity_id, version, event_type, this FROM unnest(events);
END
$$;

-- Row and set handlers, on what is not there yet: the trigger is made at once.
SELECT cqrs.create_projection('sync row', 'row_handler', entity_types => '{SyncA, "Sync ''B"}', mode => 'sync', tables => '{by_row}');
SELECT cqrs.create_projection('sync set', 'set_handler', entity_types => '{SyncA, "Sync ''B"}', event_types => '{X, Y}', mode => 'sync', tables => '{by_set}');
RESET SESSION AUTHORIZATION;
SELECT * FROM triggers;
SELECT * FROM projections;
SET SESSION AUTHORIZATION regress_cqrs_sync_writer;
SELECT version FROM cqrs.append('SyncA', '1', ARRAY[cqrs.new_event('X', '{"a": 1}'), cqrs.new_event('Z', '{}'), cqrs.new_event('Y', '{}')]);
SELECT version FROM cqrs.append('Sync ''B', '1', ARRAY[cqrs.new_event('X', '{}')]);
SELECT version FROM cqrs.append('SyncC', '1', ARRAY[cqrs.new_event('X', '{}')]);
SELECT version FROM cqrs.append('SyncA', '1', ARRAY[cqrs.new_event('Z', '{}')]);
RESET SESSION AUTHORIZATION;
SELECT * FROM by_row;
SELECT * FROM by_set;
SELECT cqrs.wait_for_projection('sync row') > 0 AS nothing_to_wait_for;

-- It is part of the writer's transaction, and he sees it at once, whatever the isolation level.
TRUNCATE by_row, by_set;
BEGIN ISOLATION LEVEL SERIALIZABLE;
SELECT put('SyncA', '2', 'X');
SELECT put('SyncA', '2', 'X');
SELECT count(*) FROM by_row;
SAVEPOINT s;
SELECT put('SyncA', '2', 'X');
ROLLBACK TO s;
SELECT count(*), (SELECT count(*) FROM by_set) AS by_set FROM by_row;
ROLLBACK;
SELECT count(*), (SELECT count(*) FROM by_set) AS by_set FROM by_row;

-- A handler that fails fails the append, all of it, with the projection and the event named.
\set SHOW_CONTEXT errors
DO $$
DECLARE
    context text;
BEGIN
    PERFORM sync_test.put('SyncA', '3', 'X', 'Fail', 'X');
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS context = PG_EXCEPTION_CONTEXT;
    RAISE NOTICE '% % %', SQLSTATE, SQLERRM, regexp_replace((regexp_match(context, 'projection "[^\n]*'))[1], '\d+', 'N');
END
$$;
\set SHOW_CONTEXT never
SELECT count(*) FROM by_row;
SELECT count(*) FROM cqrs.journal WHERE entity_type = 'SyncA' AND entity_id = '3';
-- The set one saw the whole append.
SELECT put('SyncA', '3', 'X', 'Y', 'Z');
SELECT count(DISTINCT call) AS calls, count(*) FROM by_set;

-- Two set projections of one append both see all of it.
CREATE TABLE second (entity_id text, version bigint);
CREATE FUNCTION second(events cqrs.event[]) RETURNS void LANGUAGE sql AS $$ INSERT INTO second SELECT entity_id, version FROM unnest(events) $$;
SELECT cqrs.create_projection('sync set too', 'second', entity_types => '{SyncA}', mode => 'sync', start_position => NULL);
TRUNCATE by_row, by_set;
SELECT put('SyncA', '4', 'X', 'Y', 'X');
SELECT (SELECT count(*) FROM by_set) AS first, (SELECT count(*) FROM second) AS second;
-- Beside somebody's own trigger that looks at them.
CREATE TABLE third (version bigint);
CREATE FUNCTION third() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO sync_test.third SELECT version FROM rows WHERE entity_type = 'SyncA'; RETURN NULL; END $$;
CREATE TRIGGER "projection_sync other" AFTER INSERT ON cqrs.journal REFERENCING NEW TABLE AS rows FOR EACH STATEMENT EXECUTE FUNCTION third();
SELECT put('SyncA', '4', 'X', 'Y', 'X');
SELECT (SELECT count(*) FROM by_set) AS first, (SELECT count(*) FROM second) AS second, (SELECT count(*) FROM third) AS third;
DROP TRIGGER "projection_sync other" ON cqrs.journal;
SELECT cqrs.drop_projection('sync set too');

-- The handler runs as the owner, and with his search_path, not as the writer; the writer keeps his own.
TRUNCATE by_row;
SET SESSION AUTHORIZATION regress_cqrs_sync_writer;
SET search_path = public;
SELECT version FROM cqrs.append('SyncA', '5', ARRAY[cqrs.new_event('X', '{}')]);
SHOW search_path;
SELECT current_user;
RESET SESSION AUTHORIZATION;
SET search_path = sync_test;
SELECT who, path FROM by_row;

-- What gets into the table by other ways is not projected: by hand, by COPY, as replicated rows, as a replica.
TRUNCATE by_row, by_set;
INSERT INTO cqrs.journal SELECT nextval('cqrs.journal_position_seq'), slice, entity_type, entity_id, 100, event_type, 1, data, metadata, created_at
FROM cqrs.journal WHERE entity_type = 'SyncA' AND entity_id = '5';
COPY cqrs.journal (position, slice, entity_type, entity_id, version, event_type, schema_version, data, created_at) FROM stdin;
-1	0	SyncA	copied	1	X	1	{}	2020-01-01
\.
SET session_replication_role = replica;
SELECT put('SyncA', '6', 'X');
RESET session_replication_role;
SELECT (SELECT count(*) FROM by_row) AS by_row, (SELECT count(*) FROM by_set) AS by_set;
SET cqrs.allow_journal_changes = on;
DELETE FROM cqrs.journal WHERE entity_type = 'SyncA' AND (version >= 100 OR entity_id IN ('copied', '6'));
RESET cqrs.allow_journal_changes;
SELECT put('SyncA', '6', 'X');
SELECT (SELECT count(*) FROM by_row) AS by_row, (SELECT count(*) FROM by_set) AS by_set;
-- The function is of no use elsewhere.
SELECT cqrs.project();
\echo :SQLSTATE
CREATE TABLE elsewhere OF cqrs.event;
CREATE TRIGGER elsewhere AFTER INSERT ON elsewhere FOR EACH ROW EXECUTE FUNCTION cqrs.project('sync row');
INSERT INTO elsewhere SELECT * FROM cqrs.journal WHERE entity_type = 'SyncA';
SELECT count(*) FROM by_row;
CREATE TRIGGER before BEFORE INSERT ON elsewhere FOR EACH ROW EXECUTE FUNCTION cqrs.project('sync row');
INSERT INTO elsewhere SELECT * FROM cqrs.journal WHERE entity_type = 'SyncA';
\echo :SQLSTATE
DROP TABLE elsewhere;


-- Altered: filters and the kind of the handler change the trigger.
SELECT cqrs.alter_projection('sync row', event_types => '{W}');
SELECT cqrs.alter_projection('sync set', 'row_handler', entity_types => '{}');
SELECT * FROM triggers;
TRUNCATE by_row, by_set;
SELECT put('SyncA', '7', 'X', 'W', 'Z');
SELECT version, event_type, count(*) FROM by_row GROUP BY 1, 2 ORDER BY 1;
SELECT cqrs.alter_projection('sync set', 'set_handler', entity_types => '{SyncA}', event_types => '{}');
SELECT cqrs.alter_projection('sync row', event_types => '{}');

-- To async and back: each event once. The trigger comes back when a worker has caught up.
TRUNCATE by_row, by_set;
SELECT cqrs.alter_projection('sync row', mode => 'async');
SELECT cqrs.alter_projection('sync set', mode => 'async');
SELECT * FROM triggers;
SELECT put('SyncA', '8', 'X', 'Y'), put('SyncA', '9', 'X');
SELECT cqrs.wait_for_projection('sync row') > 0, cqrs.wait_for_projection('sync set') > 0;
SELECT entity_id, version FROM by_row ORDER BY 1, 2;
SELECT entity_id, version FROM by_set ORDER BY 1, 2;
SELECT cqrs.alter_projection('sync row', mode => 'sync');
SELECT cqrs.alter_projection('sync set', mode => 'sync');
CREATE FUNCTION wait_for_triggers(wanted integer) RETURNS text LANGUAGE plpgsql SET search_path = sync_test AS $$
BEGIN
    FOR i IN 1 .. 3000 LOOP
        IF (SELECT count(*) FROM triggers) = wanted THEN
            RETURN 'attached';
        END IF;
        PERFORM pg_sleep(0.01);
    END LOOP;
    RETURN 'still not attached';
END
$$;
SELECT wait_for_triggers(2);
SELECT * FROM projections;
SELECT put('SyncA', '8', 'X', 'Y'), put('SyncA', '9', 'X');
SELECT entity_id, version FROM by_row ORDER BY 1, 2;
SELECT entity_id, version FROM by_set ORDER BY 1, 2;
-- Both in one transaction, with events in between that it writes itself.
TRUNCATE by_row;
BEGIN;
SELECT put('SyncA', '10', 'X');
SELECT cqrs.alter_projection('sync row', mode => 'async');
SELECT put('SyncA', '10', 'Y');
SELECT cqrs.alter_projection('sync row', mode => 'sync');
SELECT put('SyncA', '10', 'Z');
COMMIT;
SELECT wait_for_triggers(2);
SELECT put('SyncA', '10', 'W');
SELECT version, event_type FROM by_row ORDER BY 1;

-- A journal that has events is caught up with first.
SELECT cqrs.drop_projection('sync row'), cqrs.drop_projection('sync set');
SELECT * FROM triggers;
SELECT count(*) FROM projections;
TRUNCATE by_row, by_set;
SELECT put('SyncA', '10', 'V');
SELECT count(*) FROM by_row;
TRUNCATE second;
SELECT cqrs.create_projection('sync late', 'second', entity_types => '{SyncA}', mode => 'sync', batch_size => 3);
SELECT wait_for_triggers(1);
SELECT put('SyncA', '11', 'X', 'Y');
SELECT (SELECT count(*) FROM second) = count(*) AS all_of_them FROM cqrs.journal WHERE entity_type = 'SyncA';
-- From now on, and from a position on.
TRUNCATE by_row;
CREATE FUNCTION row_handler_of_ours(event cqrs.event) RETURNS void LANGUAGE sql AS $$
    INSERT INTO sync_test.by_row SELECT (event).entity_type, (event).entity_id, (event).version, (event).event_type, (event).data $$;
SELECT cqrs.create_projection('sync now', 'row_handler_of_ours', entity_types => '{SyncA}', mode => 'sync', start_position => NULL);
SELECT * FROM projections;
SELECT put('SyncA', '12', 'X');
SELECT entity_id, version FROM by_row;
SELECT cqrs.drop_projection('sync late'), cqrs.drop_projection('sync now');

-- A handler may send and append; what that writes is projected as well.
CREATE TABLE nested (entity_type text, entity_id text, event_type text, causation text);
CREATE FUNCTION nested(event cqrs.event) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO sync_test.nested VALUES ((event).entity_type, (event).entity_id, (event).event_type, (event).metadata -> '$causation' ->> 'projection');
    IF (event).event_type = 'Asked' THEN
        PERFORM cqrs.append('SyncAnswer', (event).entity_id, ARRAY[cqrs.new_event('Answered', '{}'), cqrs.new_event('Closed', '{}')]);
        INSERT INTO sync_test.nested VALUES ('after', (event).entity_id, (event).event_type);
    END IF;
END
$$;
SELECT cqrs.create_projection('sync nested', 'nested', entity_types => '{SyncAsk, SyncAnswer}', mode => 'sync');
SELECT put('SyncAsk', '1', 'Asked', 'Asked');
SELECT * FROM nested;
SELECT entity_type, version, event_type, metadata -> '$causation' ->> 'projection' AS projection,
    (metadata -> '$causation' ->> 'position')::bigint = (SELECT position FROM cqrs.history('SyncAsk', '1') WHERE version = (j.version + 1) / 2) AS position
FROM cqrs.journal j WHERE entity_type = 'SyncAnswer' ORDER BY version;
SELECT put('SyncAsk', '2', 'Quiet');
SELECT metadata FROM cqrs.history('SyncAsk', '2');
-- A cycle ends by the stack's depth, and nothing of it stays.
CREATE FUNCTION endless(event cqrs.event) RETURNS void LANGUAGE sql AS $$ SELECT cqrs.append('SyncLoop', ((event).entity_id::integer + 1)::text, ARRAY[cqrs.new_event('X', '{}')]) $$;
SELECT cqrs.create_projection('sync loop', 'endless', entity_types => '{SyncLoop}', mode => 'sync');
\set VERBOSITY sqlstate
SELECT put('SyncLoop', '1', 'X');
\set VERBOSITY default
SELECT count(*) FROM cqrs.journal WHERE entity_type = 'SyncLoop';
SELECT cqrs.drop_projection('sync loop'), cqrs.drop_projection('sync nested');

-- It cannot write to the entity whose events it is given: the next of them may be on its way.
CREATE FUNCTION own(event cqrs.event) RETURNS void LANGUAGE sql AS $$ SELECT cqrs.append((event).entity_type, (event).entity_id, ARRAY[cqrs.new_event('Y', '{}')]) $$;
SELECT cqrs.create_projection('sync own', 'own', entity_types => '{SyncOwn}', mode => 'sync');
SELECT put('SyncOwn', '1', 'X');
\echo :SQLSTATE
SELECT cqrs.drop_projection('sync own');

-- What is parked cannot be left to a trigger, which would go past it.
CREATE FUNCTION bad(event cqrs.event) RETURNS void LANGUAGE plpgsql AS $$ BEGIN RAISE 'bad'; END $$;
SELECT cqrs.create_projection('sync parked', 'bad', entity_types => '{SyncParked}', max_retries => 0);
SELECT put('SyncParked', '1', 'X');
SELECT cqrs.wait_for_projection('sync parked') > 0;
SELECT cqrs.alter_projection('sync parked', mode => 'sync');
\echo :SQLSTATE
SELECT cqrs.drop_projection('sync parked');

-- A projection whose handler or owner is gone fails what it should have projected.
CREATE FUNCTION gone(event cqrs.event) RETURNS void LANGUAGE sql AS '';
SELECT cqrs.create_projection('sync gone', 'gone', entity_types => '{SyncGone}', mode => 'sync');
DROP FUNCTION gone(cqrs.event);
SELECT put('SyncGone', '1', 'X');
\echo :SQLSTATE
CREATE FUNCTION gone(event cqrs.event) RETURNS void LANGUAGE sql AS '';
SELECT put('SyncGone', '1', 'X');
ALTER FUNCTION gone(cqrs.event) OWNER TO regress_cqrs_sync_owner;
\set VERBOSITY sqlstate
SELECT put('SyncGone', '1', 'X');
\set VERBOSITY default
-- It can be dropped also if somebody has dropped its trigger.
DROP TRIGGER "projection_sync gone" ON cqrs.journal;
SELECT state FROM cqrs.projection_status WHERE name = 'sync gone';
SELECT cqrs.drop_projection('sync gone');

SELECT count(*) FROM projections;
SELECT * FROM triggers;
DROP OWNED BY regress_cqrs_sync_owner, regress_cqrs_sync_writer;
DROP ROLE regress_cqrs_sync_owner, regress_cqrs_sync_writer;
SET client_min_messages = warning;
DROP SCHEMA sync_test CASCADE;
