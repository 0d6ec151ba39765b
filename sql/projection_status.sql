-- The views show how projections stand to who may watch the server, and to nobody else.
\set SHOW_CONTEXT never
CREATE SCHEMA status_test;
SET search_path = status_test;
\getenv folder PG_ABS_SRCDIR
\set wait_until :folder '/test/wait_until.sql'
\i :wait_until
SELECT cqrs.create_journal();
CREATE FUNCTION put(entity_type text, entity_id text, VARIADIC types text[]) RETURNS bigint LANGUAGE sql AS $$
    SELECT (cqrs.append($1, $2, array_agg(cqrs.new_event(t, '{}')))).version FROM unnest($3) t
$$;
CREATE FUNCTION handler(event cqrs.event) RETURNS void LANGUAGE plpgsql AS $$ BEGIN IF (event).event_type = 'Bad' THEN RAISE 'bad' USING ERRCODE = 'XY001'; END IF; END $$;
SELECT attrelid::regclass AS view, string_agg(attname || ' ' || atttypid::regtype, ', ' ORDER BY attnum) AS columns
FROM pg_attribute WHERE attnum > 0
    AND attrelid IN ('cqrs.projection_status'::regclass, 'cqrs.parked_event'::regclass, 'cqrs.stat_progress_rebuild'::regclass, 'cqrs.stat_appending'::regclass)
GROUP BY 1 ORDER BY attrelid::regclass::text;

-- A row for each partition, with what it has done since the server was started.
SELECT cqrs.create_projection('status', 'handler', entity_types => '{Status}', partitions => 2, start_position => NULL, max_retries => 1);
SELECT cqrs.create_projection('status sync', 'handler', entity_types => '{StatusSync}', mode => 'sync', start_position => NULL);
SELECT count(put('Status', i::text, 'X', 'X')) FROM generate_series(1, 20) i;
SELECT cqrs.wait_for_projection('status') > 0;
-- The worker counts when it has committed.
SELECT wait_until($$ (SELECT sum(events) FROM cqrs.projection_status WHERE name = 'status') = 40 $$);
SELECT name, owner = session_user AS owner, mode, state, slices, position = high_water_mark AS at_the_end, lag_events, lag_time, events_per_second > 0 AS rate,
    batches > 0 AS batches, retries, parked, skipped, last_error, last_sqlstate, last_error_at FROM cqrs.projection_status WHERE name LIKE 'status%' ORDER BY name, slices;
SELECT sum(events) FROM cqrs.projection_status WHERE name = 'status';
SELECT put('Status', '1', 'Bad', 'X');
SELECT cqrs.wait_for_projection('status') > 0;
SELECT sum(retries) AS retries, sum(parked) AS parked, max(last_error) AS last_error, max(last_sqlstate) AS last_sqlstate, max(last_error_at) <= clock_timestamp() AS time
FROM cqrs.projection_status WHERE name = 'status';
SELECT entity_type, entity_id, event_type, waiting, sqlstate, error, attempts, last_failed_at >= first_failed_at AS times, retry FROM cqrs.parked_event WHERE projection = 'status';
-- Lag: while it is paused.
SELECT cqrs.pause_projection('status');
SELECT put('Status', '2', 'X', 'X');
SELECT DISTINCT state, lag_events > 0 AS lags, lag_time > '0' AS since FROM cqrs.projection_status WHERE name = 'status';
SELECT cqrs.drop_projection('status'), cqrs.drop_projection('status sync');

-- While it is at work: the worker's pid is that of a process; so is a rebuild's.
CREATE TABLE made (n integer);
CREATE FUNCTION blocked(event cqrs.event) RETURNS void LANGUAGE sql AS $$ SELECT pg_advisory_xact_lock(1000002 + (event).version % 2) $$;
SELECT cqrs.create_projection('status busy', 'blocked', entity_types => '{StatusBusy}', start_position => NULL, tables => '{made}', batch_size => 1);
SELECT put('StatusBusy', '1', 'X', 'X');
SELECT cqrs.wait_for_projection('status busy') > 0;
SELECT pg_advisory_lock(1000003);
SELECT put('StatusBusy', '1', 'X');
SELECT wait_until($$ EXISTS (SELECT FROM cqrs.projection_status s JOIN pg_stat_activity a ON a.pid = s.worker
    WHERE s.name = 'status busy' AND a.backend_type LIKE 'pg_cqrs projection%' AND a.state = 'active' AND s.lag_events = 1) $$);
SELECT pg_advisory_unlock(1000003);
SELECT cqrs.wait_for_projection('status busy') > 0;
SELECT pg_advisory_lock(1000002);
SELECT cqrs.rebuild_projection('status busy');
SELECT wait_until($$ EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND objid = 1000002 AND NOT granted) $$);
SELECT state FROM cqrs.projection_status WHERE name = 'status busy';
SELECT pid IN (SELECT worker FROM cqrs.projection_status) AS pid, projection, started_at <= clock_timestamp() AS started_at, events, position < up_to AS position,
    percent > 0 AS percent FROM cqrs.stat_progress_rebuild;
SELECT pg_advisory_unlock(1000002);
SELECT cqrs.wait_for_projection('status busy') > 0;
SELECT wait_until('NOT EXISTS (SELECT FROM cqrs.stat_progress_rebuild)');
SELECT cqrs.drop_projection('status busy');

-- Who holds the high-water mark back.
BEGIN;
SELECT put('StatusOther', '1', 'X');
SELECT pid = pg_backend_pid() AS me, prepared, role = session_user AS role, application_name, state, since = now() AS since, age > '0' AS age,
    first_position <= cqrs.last_position() AS first_position, holds_back, query LIKE 'SELECT pid%' AS query FROM cqrs.stat_appending;
PREPARE TRANSACTION 'regress status';
SELECT pid, prepared, role = session_user AS role, application_name, state, age > '0' AS age, holds_back, query FROM cqrs.stat_appending;
ROLLBACK PREPARED 'regress status';
SELECT count(*) FROM cqrs.stat_appending;

-- pg_monitor may look, others may not.
CREATE ROLE regress_cqrs_status;
CREATE ROLE regress_cqrs_status_monitor IN ROLE pg_monitor;
SET ROLE regress_cqrs_status;
SELECT count(*) FROM cqrs.projection_status;
SELECT count(*) FROM cqrs.parked_event;
SELECT count(*) FROM cqrs.stat_progress_rebuild;
SELECT count(*) FROM cqrs.stat_appending;
SELECT count(*) FROM cqrs.projection;
SELECT cqrs.worker_state();
SELECT cqrs.list_parked();
SELECT cqrs.projections_changed();
SET ROLE regress_cqrs_status_monitor;
SELECT count(*) FROM cqrs.projection_status WHERE name LIKE 'status%';
SELECT count(*) FROM cqrs.parked_event WHERE projection LIKE 'status%';
SELECT count(*) FROM cqrs.stat_progress_rebuild;
SELECT count(*) FROM cqrs.stat_appending;
SELECT count(*) FROM cqrs.projection;
SELECT count(*) FROM cqrs.parked_entity;
RESET ROLE;
DROP ROLE regress_cqrs_status, regress_cqrs_status_monitor;

-- They are empty, and not an error, where there is no journal yet.
SELECT current_database() AS database \gset
CREATE DATABASE regress_cqrs_status TEMPLATE template0;
\c regress_cqrs_status
CREATE EXTENSION pg_cqrs;
SELECT (SELECT count(*) FROM cqrs.projection_status) AS status, (SELECT count(*) FROM cqrs.parked_event) AS parked,
    (SELECT count(*) FROM cqrs.stat_progress_rebuild) AS rebuild, (SELECT count(*) FROM cqrs.stat_appending) AS appending;
-- A database has workers when it has something for them to do, and can be dropped all the same.
SELECT cqrs.create_journal();
CREATE FUNCTION handler(event cqrs.event) RETURNS void LANGUAGE sql AS '';
SELECT cqrs.create_projection('status', 'handler');
SELECT version FROM cqrs.append('Status', '1', ARRAY[cqrs.new_event('X', '{}')]);
SELECT cqrs.wait_for_projection('status');
SELECT cqrs.worker_state();
SELECT state FROM cqrs.projection_status;
\c :database
DROP DATABASE regress_cqrs_status;
SET client_min_messages = warning;
DROP SCHEMA status_test CASCADE;
