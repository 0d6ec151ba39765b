-- A database has a worker when there is something for it to do, and as long; one that ends is started anew and nothing is lost.
\set SHOW_CONTEXT never
CREATE SCHEMA worker_test;
SET search_path = worker_test;
SELECT cqrs.create_journal();
CREATE TABLE seen (version bigint);
CREATE FUNCTION handler(event cqrs.event) RETURNS void LANGUAGE sql AS $$ INSERT INTO worker_test.seen VALUES ((event).version) $$;
CREATE VIEW workers AS SELECT backend_type, usename IS NULL OR usename = session_user AS super, count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND backend_type LIKE 'pg_cqrs%' GROUP BY 1, 2;
\getenv folder PG_ABS_SRCDIR
\set wait_until :folder '/test/wait_until.sql'
\i :wait_until
CREATE FUNCTION put() RETURNS bigint LANGUAGE sql AS $$ SELECT (cqrs.append('Worker', '1', ARRAY[cqrs.new_event('X', '{}')])).version $$;

-- One launcher for all databases; no worker stays where there is no projection, or only a sync one.
SELECT backend_type, datname, count(*) FROM pg_stat_activity WHERE backend_type = 'pg_cqrs launcher' GROUP BY 1, 2;
SELECT wait_until('NOT EXISTS (SELECT FROM workers)');
SELECT cqrs.create_projection('worker sync', 'handler', entity_types => '{Worker}', mode => 'sync');
SELECT cqrs.drop_projection('worker sync');
SELECT wait_until('NOT EXISTS (SELECT FROM workers)');
SELECT cqrs.create_projection('worker', 'handler', entity_types => '{Worker}');
SELECT wait_until($$ cqrs.worker_state() = 'running' $$);
SELECT put();
SELECT cqrs.wait_for_projection('worker', timeout => '1 min') > 0;
SELECT * FROM workers;
SELECT state FROM cqrs.projection_status WHERE name = 'worker';

-- More of them for a database, as many as there are partitions at most.
SELECT current_database() AS database \gset
ALTER DATABASE :database SET cqrs.projection_workers = 3;
SELECT cqrs.alter_projection('worker', partitions => 2);
SELECT wait_until('(SELECT count FROM workers) = 2');
ALTER DATABASE :database RESET cqrs.projection_workers;
SELECT cqrs.alter_projection('worker', partitions => 1);
SELECT wait_until('(SELECT count FROM workers) = 1');

-- Ended, it comes back; what was written meanwhile is projected once. It may be gone before it is ended.
SET client_min_messages = error;
DO $$
BEGIN
    FOR i IN 1 .. 5 LOOP
        PERFORM worker_test.put();
        PERFORM pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND backend_type LIKE 'pg_cqrs%';
        COMMIT;
    END LOOP;
END
$$;
RESET client_min_messages;
SELECT cqrs.wait_for_projection('worker', timeout => '1 min') > 0;
SELECT version, count(*) FROM seen GROUP BY 1 ORDER BY 1;
-- A batch that is cancelled is no handler's fault.
CREATE FUNCTION slow(event cqrs.event) RETURNS void LANGUAGE sql AS $$ SELECT pg_advisory_xact_lock(1000004) $$;
SELECT cqrs.create_projection('worker slow', 'slow', entity_types => '{Worker}', start_position => NULL, max_retries => 0, on_failure => 'skip');
SELECT pg_advisory_lock(1000004);
SELECT put();
SELECT wait_until($$ EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND objid = 1000004 AND NOT granted) $$);
SELECT count(pg_cancel_backend(pid)) FROM pg_locks WHERE locktype = 'advisory' AND objid = 1000004 AND NOT granted;
SELECT wait_until($$ (SELECT retries FROM cqrs.projection_status WHERE name = 'worker slow') > 0 $$);
SELECT pg_advisory_unlock(1000004);
SELECT cqrs.wait_for_projection('worker slow', timeout => '1 min') > 0;
SELECT last_sqlstate, skipped FROM cqrs.projection_status WHERE name = 'worker slow';
SELECT cqrs.drop_projection('worker slow');
-- While it is busy for long, others are started all the same.
SELECT cqrs.create_projection('worker busy', 'slow', entity_types => '{Worker}', start_position => NULL, handler_timeout => '1 h');
SELECT pg_advisory_lock(1000004);
SELECT put();
SELECT wait_until($$ EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND objid = 1000004 AND NOT granted) $$);
CREATE FUNCTION tick(state jsonb, command cqrs.command) RETURNS cqrs.effect LANGUAGE sql AS $$ SELECT cqrs.persist('Ticked', '{}') $$;
SELECT cqrs.create_entity('Clock'), cqrs.on_command('Clock', '*', 'tick'), cqrs.on_event('Clock', '*', 'cqrs.merge');
SELECT cqrs.schedule(now(), 'Clock', '1', 'Tick') IS NOT NULL;
SELECT wait_until($$ EXISTS (SELECT FROM cqrs.history('Clock', '1')) $$);
SELECT pg_advisory_unlock(1000004);
SELECT cqrs.drop_projection('worker busy');
SELECT cqrs.drop_entity('Clock');

-- Turned off, nothing is projected; turned on again, it goes on.
ALTER SYSTEM SET cqrs.workers = off;
SELECT pg_reload_conf();
SELECT wait_until('NOT EXISTS (SELECT FROM workers)');
\c
SET search_path = worker_test;
SELECT cqrs.worker_state();
SELECT put();
SELECT state FROM cqrs.projection_status WHERE name = 'worker';
ALTER SYSTEM RESET cqrs.workers;
SELECT pg_reload_conf();
SELECT cqrs.wait_for_projection('worker', timeout => '1 min') > 0;
SELECT count(*) = max(version) AS all_of_them FROM seen;

-- It leaves when there is nothing to do any more: paused, dropped, in a database that has the extension no more.
SELECT cqrs.pause_projection('worker');
SELECT wait_until('NOT EXISTS (SELECT FROM workers)');
SELECT cqrs.resume_projection('worker');
SELECT wait_until($$ cqrs.worker_state() = 'running' $$);
SELECT cqrs.drop_projection('worker');
SELECT wait_until('NOT EXISTS (SELECT FROM workers)');
CREATE DATABASE regress_cqrs_worker TEMPLATE template0;
\c regress_cqrs_worker
CREATE EXTENSION pg_cqrs;
SELECT cqrs.create_journal();
CREATE FUNCTION handler(event cqrs.event) RETURNS void LANGUAGE sql AS '';
SELECT cqrs.create_projection('worker', 'handler');
SELECT version FROM cqrs.append('Worker', '1', ARRAY[cqrs.new_event('X', '{}')]);
SELECT cqrs.wait_for_projection('worker', timeout => '1 min');
-- Commands that need the database for themselves have the worker leave first.
\c :database
ALTER DATABASE regress_cqrs_worker RENAME TO regress_cqrs_worker2;
CREATE DATABASE regress_cqrs_worker TEMPLATE regress_cqrs_worker2;
DROP DATABASE regress_cqrs_worker;
\c regress_cqrs_worker2
SELECT version FROM cqrs.append('Worker', '1', ARRAY[cqrs.new_event('X', '{}')]);
SELECT cqrs.wait_for_projection('worker', timeout => '1 min');
BEGIN;
DROP TABLE cqrs.journal;
DROP EXTENSION pg_cqrs CASCADE;
ROLLBACK;
SELECT version FROM cqrs.append('Worker', '1', ARRAY[cqrs.new_event('X', '{}')]);
SELECT cqrs.wait_for_projection('worker', timeout => '1 min');
-- A journal that is made anew is projected from its beginning.
DROP TABLE cqrs.journal;
SELECT version FROM cqrs.append('Worker', '1', ARRAY[cqrs.new_event('X', '{}')]);
SELECT cqrs.wait_for_projection('worker', timeout => '1 min');
DROP TABLE cqrs.journal;
DROP EXTENSION pg_cqrs CASCADE;
\c :database
SELECT worker_test.wait_until($$ NOT EXISTS (SELECT FROM pg_stat_activity
    WHERE datname = 'regress_cqrs_worker2' AND backend_type LIKE 'pg_cqrs%') $$);
DROP DATABASE regress_cqrs_worker2;
SET client_min_messages = warning;
DROP SCHEMA worker_test CASCADE;
