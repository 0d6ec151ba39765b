-- A projection can be paused, resumed and set to another position; what was projected before is then projected for a second time.
\set SHOW_CONTEXT never
CREATE SCHEMA control_test;
SET search_path = control_test;
\getenv folder PG_ABS_SRCDIR
\set wait_until :folder '/test/wait_until.sql'
\i :wait_until
SELECT cqrs.create_journal();
CREATE FUNCTION put(entity_type text, entity_id text, VARIADIC types text[]) RETURNS bigint LANGUAGE sql AS $$
    SELECT (cqrs.append($1, $2, array_agg(cqrs.new_event(t, '{}')))).version FROM unnest($3) t
$$;
CREATE TABLE seen (n integer GENERATED ALWAYS AS IDENTITY, entity_id text, version bigint);
CREATE FUNCTION handler(event cqrs.event) RETURNS void LANGUAGE sql AS $$ INSERT INTO seen (entity_id, version) VALUES ((event).entity_id, (event).version) $$;
CREATE VIEW status AS SELECT state, position = high_water_mark AS at_the_end, lag_events > 0 AS lags, lag_time > '0' AS lags_in_time FROM cqrs.projection_status WHERE name = 'control';

SELECT cqrs.create_projection('control', 'handler', entity_types => '{Control}', start_position => NULL);
SELECT put('Control', '1', 'X');
SELECT cqrs.wait_for_projection('control') > 0;
SELECT * FROM status;

-- Paused it does nothing, nor does it after it was altered; resumed it goes on where it was.
SELECT cqrs.pause_projection('control');
SELECT cqrs.pause_projection('control');
SELECT put('Control', '1', 'X');
SELECT * FROM status;
SELECT cqrs.alter_projection('control', batch_size => 1);
SELECT * FROM status;
SELECT cqrs.wait_for_projection('control');
\echo :SQLSTATE
SELECT entity_id, version FROM seen ORDER BY n;
SELECT cqrs.resume_projection('control');
SELECT cqrs.resume_projection('control');
SELECT cqrs.wait_for_projection('control') > 0;
SELECT entity_id, version FROM seen ORDER BY n;
SELECT * FROM status;
-- What is undone has no effect.
BEGIN;
SELECT cqrs.pause_projection('control');
SELECT state FROM status;
ROLLBACK;
SELECT state FROM status;

-- Reset: to the beginning, to a position in between, to the end; NULL, negative, or never given is none.
SELECT position AS first FROM cqrs.journal WHERE entity_type = 'Control' AND version = 1 \gset
SELECT cqrs.reset_projection('control', 0);
SELECT cqrs.wait_for_projection('control') > 0;
SELECT entity_id, version FROM seen ORDER BY n;
SELECT cqrs.reset_projection('control', :first);
SELECT cqrs.wait_for_projection('control') > 0;
SELECT entity_id, version FROM seen ORDER BY n;
SELECT cqrs.pause_projection('control');
SELECT put('Control', '1', 'X');
SELECT cqrs.reset_projection('control', cqrs.last_position());
SELECT cqrs.resume_projection('control');
SELECT put('Control', '1', 'X');
SELECT cqrs.wait_for_projection('control') > 0;
SELECT entity_id, version FROM seen ORDER BY n;
\set VERBOSITY sqlstate
SELECT cqrs.reset_projection('control', NULL);
SELECT cqrs.reset_projection('control', -1);
SELECT cqrs.reset_projection('control', cqrs.last_position() + 1);
\set VERBOSITY default
SELECT cqrs.reset_projection('control none', 0);
\echo :SQLSTATE
SELECT cqrs.pause_projection('control none');
\echo :SQLSTATE
SELECT cqrs.resume_projection(NULL);
\echo :SQLSTATE
-- Only what was projected before counts as a replay: the events after it may have side effects.
CREATE FUNCTION react(event cqrs.event) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM cqrs.append('ControlEffect', (event).entity_id, ARRAY[cqrs.new_event('Reacted', '{}')]);
END
$$;
SELECT cqrs.alter_projection('control', 'react', on_failure => 'skip', max_retries => 0);
SELECT put('Control', '2', 'X');
SELECT cqrs.wait_for_projection('control') > 0;
SELECT count(*) FROM cqrs.journal WHERE entity_type = 'ControlEffect';
SELECT cqrs.pause_projection('control');
SELECT put('Control', '3', 'X', 'X');
SELECT cqrs.reset_projection('control', :first);
SELECT cqrs.resume_projection('control');
SELECT cqrs.wait_for_projection('control') > 0;
SELECT entity_id, count(*) FROM cqrs.journal WHERE entity_type = 'ControlEffect' GROUP BY 1 ORDER BY 1;
SELECT skipped FROM cqrs.projection_status WHERE name = 'control';

-- Also where events of both kinds have waited behind one that failed.
SELECT cqrs.create_projection('control mixed', 'react', entity_types => '{ControlMixed}', start_position => NULL, max_retries => 0);
SELECT position - 1 AS before FROM cqrs.append('ControlMixed', 'm', ARRAY[cqrs.new_event('X', '{}')]) \gset
SELECT cqrs.wait_for_projection('control mixed') > 0;
SELECT cqrs.reset_projection('control mixed', :before);
SELECT cqrs.wait_for_projection('control mixed') > 0;
SELECT put('ControlMixed', 'm', 'X'), put('ControlMixed', 'n', 'X');
SELECT cqrs.wait_for_projection('control mixed') > 0;
SELECT entity_id, waiting, sqlstate FROM cqrs.parked_event WHERE projection = 'control mixed';
SELECT cqrs.retry_parked('control mixed');
SELECT wait_until('NOT EXISTS (SELECT FROM cqrs.parked_entity WHERE retry)');
SELECT entity_id, waiting, sqlstate FROM cqrs.parked_event WHERE projection = 'control mixed';
SELECT entity_id, count(*) FROM cqrs.journal WHERE entity_type = 'ControlEffect' AND entity_id IN ('m', 'n') GROUP BY 1 ORDER BY 1;
SELECT cqrs.discard_parked('control mixed');
SELECT wait_until('NOT EXISTS (SELECT FROM cqrs.parked_entity WHERE retry)');
SELECT entity_id, waiting, sqlstate FROM cqrs.parked_event WHERE projection = 'control mixed';
SELECT entity_id, count(*) FROM cqrs.journal WHERE entity_type = 'ControlEffect' AND entity_id IN ('m', 'n') GROUP BY 1 ORDER BY 1;
SELECT cqrs.drop_projection('control mixed');

-- What was held back is no replay, also if it is asked for together with one.
CREATE TABLE broken (entity_id text);
INSERT INTO broken VALUES ('b');
CREATE FUNCTION react_unless_broken(event cqrs.event) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT FROM broken b WHERE b.entity_id = (event).entity_id) THEN
        RAISE 'broken';
    END IF;
    IF (event).entity_id = 'b' THEN
        PERFORM cqrs.append('ControlEffect', 'held', ARRAY[cqrs.new_event('Effect', '{}')]);
    END IF;
END
$$;
SELECT cqrs.create_projection('control held', 'react_unless_broken', entity_types => '{ControlHeld}', start_position => NULL, max_retries => 0);
SELECT position - 1 AS before FROM cqrs.append('ControlHeld', 'a', ARRAY[cqrs.new_event('X', '{}')]) \gset
SELECT put('ControlHeld', 'b', 'X'), put('ControlHeld', 'c', 'X'), put('ControlHeld', 'b', 'X');
SELECT cqrs.wait_for_projection('control held') > 0;
DELETE FROM broken;
BEGIN;
SELECT cqrs.reset_projection('control held', :before);
SELECT cqrs.retry_parked('control held');
COMMIT;
SELECT cqrs.wait_for_projection('control held') > 0;
SELECT wait_until('NOT EXISTS (SELECT FROM cqrs.parked_entity WHERE retry)');
SELECT cqrs.wait_for_projection('control held') > 0;
SELECT count(*) FROM cqrs.parked_event WHERE projection = 'control held';
SELECT count(*) FROM cqrs.journal WHERE entity_type = 'ControlEffect' AND entity_id = 'held';
SELECT cqrs.drop_projection('control held');

-- A sync projection is part of every append: it can be neither paused nor reset, while it has its trigger.
SELECT cqrs.create_projection('control sync', 'handler', entity_types => '{ControlSync}', mode => 'sync');
SELECT cqrs.pause_projection('control sync');
\echo :SQLSTATE
SELECT cqrs.reset_projection('control sync', 0);
\echo :SQLSTATE
SELECT cqrs.resume_projection('control sync');
SELECT state FROM cqrs.projection_status WHERE name = 'control sync';
-- A paused one cannot become one.
SELECT cqrs.pause_projection('control');
SELECT cqrs.alter_projection('control', mode => 'sync');
\echo :SQLSTATE
SELECT cqrs.drop_projection('control'), cqrs.drop_projection('control sync');
SET client_min_messages = warning;
DROP SCHEMA control_test CASCADE;
