-- A handler has its owner's rights and no others, in a worker, which is a superuser's session, and in the session of whoever
-- appends: nothing that it does or leaves behind is carried out as anybody else.
\set SHOW_CONTEXT never
CREATE ROLE regress_cqrs_attacker;
CREATE ROLE regress_cqrs_victim;
SELECT cqrs.create_journal();
GRANT SELECT ON cqrs.journal TO regress_cqrs_attacker;
GRANT EXECUTE ON FUNCTION cqrs.create_projection TO regress_cqrs_attacker;
GRANT EXECUTE ON FUNCTION cqrs.append TO regress_cqrs_victim;
CREATE SCHEMA step_test AUTHORIZATION regress_cqrs_attacker;
GRANT TEMPORARY ON DATABASE :DBNAME TO regress_cqrs_attacker;
SET SESSION AUTHORIZATION regress_cqrs_attacker;
SET search_path = step_test;
-- What the attacker wants: a row that somebody else has written.
CREATE TABLE loot (how text, who name DEFAULT current_user);
GRANT INSERT ON loot TO PUBLIC;
GRANT USAGE ON SCHEMA step_test TO PUBLIC;
CREATE FUNCTION take_loot(how text) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN INSERT INTO step_test.loot VALUES (how); RETURN true; END $$;
CREATE FUNCTION trap() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO step_test.loot VALUES (TG_ARGV[0]); RETURN NULL; END $$;
CREATE TABLE deferred (a integer);
CREATE CONSTRAINT TRIGGER deferred AFTER INSERT ON deferred DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION trap('deferred trigger');
CREATE FUNCTION text_eq(a text, b text) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN INSERT INTO step_test.loot VALUES ('operator'); RETURN true; END $$;
CREATE FUNCTION text_lt(a text, b text) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN INSERT INTO step_test.loot VALUES ('operator'); RETURN true; END $$;
CREATE FUNCTION int8_gt(a bigint, b bigint) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN INSERT INTO step_test.loot VALUES ('operator'); RETURN true; END $$;
CREATE OPERATOR = (FUNCTION = text_eq, LEFTARG = text, RIGHTARG = text);
CREATE OPERATOR < (FUNCTION = text_lt, LEFTARG = text, RIGHTARG = text);
CREATE OPERATOR > (FUNCTION = int8_gt, LEFTARG = bigint, RIGHTARG = bigint);
CREATE FUNCTION count(text) RETURNS bigint LANGUAGE sql AS $$ SELECT step_test.take_loot('function')::integer::bigint $$;
-- What became of each attack, and what the next handler finds in its session.
CREATE TABLE attack (n integer GENERATED ALWAYS AS IDENTITY, mode text, sql text, code text, message text);
CREATE TABLE found (mode text, who name, path text, work_mem text, temp_schema boolean, prepared bigint, cursors bigint, locks bigint, pid integer);
CREATE FUNCTION handler(event cqrs.event) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO step_test.found SELECT (event).entity_type, current_user, current_setting('search_path'), current_setting('work_mem'),
        pg_my_temp_schema() OPERATOR(pg_catalog.<>) 0 AND EXISTS (SELECT FROM pg_class WHERE relnamespace OPERATOR(pg_catalog.=) pg_my_temp_schema()),
        (SELECT pg_catalog.count(*) FROM pg_prepared_statements), (SELECT pg_catalog.count(*) FROM pg_cursors WHERE is_holdable),
        (SELECT pg_catalog.count(*) FROM pg_locks WHERE locktype OPERATOR(pg_catalog.=) 'advisory' AND objid OPERATOR(pg_catalog.=) 1000200 AND pid OPERATOR(pg_catalog.=) pg_backend_pid()), pg_backend_pid();
    BEGIN
        EXECUTE (event).data ->> 'sql';
        INSERT INTO step_test.attack (mode, sql) VALUES ((event).entity_type, (event).data ->> 'sql');
    EXCEPTION WHEN OTHERS THEN
        INSERT INTO step_test.attack (mode, sql, code, message) VALUES ((event).entity_type, (event).data ->> 'sql', SQLSTATE, SQLERRM);
    END;
END
$$;
SELECT cqrs.create_projection('step worker', 'handler', entity_types => '{StepWorker}', batch_size => 1, start_position => NULL, tables => '{attack}');
SELECT cqrs.create_projection('step trigger', 'handler', entity_types => '{StepTrigger}', mode => 'sync', start_position => NULL);
RESET SESSION AUTHORIZATION;
SET search_path = public;
SELECT session_user AS super \gset

CREATE FUNCTION attack(entity_type text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    sql text;
BEGIN
    FOREACH sql IN ARRAY ARRAY[
        'INSERT INTO step_test.deferred VALUES (1)',
        'SET CONSTRAINTS ALL DEFERRED; INSERT INTO step_test.deferred VALUES (1)',
        'DECLARE c CURSOR WITH HOLD FOR SELECT step_test.take_loot(''cursor'')',
        'DECLARE c CURSOR WITH HOLD FOR SELECT set_config(''search_path'', ''step_test, pg_catalog, pg_temp'', false), set_config(''work_mem'', ''123kB'', false)',
        'DECLARE c CURSOR WITH HOLD FOR SELECT set_config(''default_transaction_read_only'', ''on'', false)',
        'SET ROLE ' || session_user,
        'RESET ROLE',
        'SET SESSION AUTHORIZATION DEFAULT',
        'RESET SESSION AUTHORIZATION',
        'SELECT set_config(''role'', ''none'', false)',
        'SELECT set_config(''session_authorization'', session_user, false)',
        'RESET ALL',
        'SELECT set_config(''search_path'', ''step_test, pg_temp, pg_catalog'', false), set_config(''work_mem'', ''123kB'', false)',
        'SET search_path = step_test, pg_temp, pg_catalog; SET work_mem = ''123kB''',
        'CREATE TEMPORARY TABLE journal AS SELECT 1 AS position',
        'CREATE TEMPORARY TABLE projection_offset (LIKE step_test.deferred); CREATE TRIGGER t AFTER INSERT ON pg_temp.projection_offset EXECUTE FUNCTION step_test.trap(''temporary table'')',
        'CREATE FUNCTION pg_temp.now() RETURNS timestamptz LANGUAGE sql AS ''SELECT step_test.take_loot(''''temporary function'''')::text::timestamptz''',
        'PREPARE trap AS SELECT step_test.take_loot(''prepared statement'')',
        'SELECT pg_advisory_lock(1000200)',
        'ALTER ROLE regress_cqrs_attacker SUPERUSER',
        'UPDATE cqrs.projection SET owner = session_user',
        'INSERT INTO cqrs.journal SELECT * FROM cqrs.journal LIMIT 1',
        'SET session_replication_role = replica',
        'SET cqrs.allow_journal_changes = on',
        'COMMIT',
        'SELECT 1'
    ]
    LOOP
        PERFORM cqrs.append(entity_type, '1', ARRAY[cqrs.new_event('Attack', jsonb_build_object('sql', sql))]);
    END LOOP;
END
$$;

-- In a worker. What is refused is refused; what is done is the owner's doing, and nothing of it is there for the next.
SELECT attack('StepWorker');
SELECT cqrs.wait_for_projection('step worker', timeout => '1 min') > 0;
SELECT replace(sql, :'super', 'super') AS sql, code FROM step_test.attack WHERE mode = 'StepWorker' ORDER BY n;
SELECT how, who, count(*) FROM step_test.loot GROUP BY 1, 2 ORDER BY 1, 2;
SELECT who, path, work_mem, temp_schema, prepared, cursors, locks, count(DISTINCT pid) AS sessions FROM step_test.found WHERE mode = 'StepWorker' GROUP BY 1, 2, 3, 4, 5, 6, 7;
-- Nor in a rebuild, which is one transaction for all of them.
DELETE FROM step_test.found;
SELECT cqrs.rebuild_projection('step worker');
SELECT cqrs.wait_for_projection('step worker', timeout => '1 min') > 0;
SELECT count(*) FROM step_test.attack WHERE mode = 'StepWorker';
SELECT how, who, count(*) > 1 AS again FROM step_test.loot GROUP BY 1, 2 ORDER BY 1, 2;
SELECT attack('StepWorker');
SELECT cqrs.wait_for_projection('step worker', timeout => '1 min') > 0;
SELECT count(*) FROM step_test.loot WHERE who <> 'regress_cqrs_attacker';

-- Who owns the journal makes indexes, and what they call is planned with; it is not the worker that calls it.
DELETE FROM step_test.loot;
ALTER TABLE cqrs.journal OWNER TO regress_cqrs_attacker;
GRANT CREATE ON SCHEMA cqrs TO regress_cqrs_attacker;
SET SESSION AUTHORIZATION regress_cqrs_attacker;
CREATE FUNCTION step_test.volatile_inside(integer) RETURNS boolean LANGUAGE sql IMMUTABLE AS $$ SELECT step_test.take_loot('index') $$;
CREATE INDEX trap ON cqrs.journal (created_at) WHERE step_test.volatile_inside(1);
RESET SESSION AUTHORIZATION;
SELECT cqrs.append('StepWorker', '1', ARRAY[cqrs.new_event('X', '{"sql": "SELECT 1"}')]) IS NOT NULL AS appended;
SELECT cqrs.wait_for_projection('step worker', timeout => '1 min') > 0;
SELECT who, count(*) > 0 FROM step_test.loot GROUP BY 1;
DROP INDEX cqrs.trap;
REVOKE CREATE ON SCHEMA cqrs FROM regress_cqrs_attacker;
ALTER TABLE cqrs.journal OWNER TO CURRENT_USER;
GRANT SELECT ON cqrs.journal TO regress_cqrs_attacker;

-- Who may not read the journal any more has nothing projected any more.
SELECT cqrs.alter_projection('step worker', max_retries => 0);
REVOKE SELECT ON cqrs.journal FROM regress_cqrs_attacker;
SELECT cqrs.append('StepWorker', '1', ARRAY[cqrs.new_event('X', '{"sql": "SELECT 1"}')]) IS NOT NULL AS appended;
SELECT cqrs.wait_for_projection('step worker', timeout => '1 min');
SELECT state, last_sqlstate FROM cqrs.projection_status WHERE name = 'step worker';
\set VERBOSITY sqlstate
SELECT cqrs.append('StepTrigger', '1', ARRAY[cqrs.new_event('X', '{"sql": "SELECT 1"}')]);
\set VERBOSITY default
GRANT SELECT ON cqrs.journal TO regress_cqrs_attacker;
SELECT cqrs.resume_projection('step worker');
SELECT cqrs.wait_for_projection('step worker', timeout => '1 min') > 0;

-- In the session of a superuser, and in that of somebody else.
DELETE FROM step_test.loot;
SELECT attack('StepTrigger');
SELECT replace(sql, :'super', 'super') AS sql, code FROM step_test.attack WHERE mode = 'StepTrigger' ORDER BY n;
SELECT how, who, count(*) FROM step_test.loot GROUP BY 1, 2 ORDER BY 1, 2;
SELECT who, path, work_mem, temp_schema, prepared, cursors, count(DISTINCT pid) AS sessions FROM step_test.found WHERE mode = 'StepTrigger' GROUP BY 1, 2, 3, 4, 5, 6;
SELECT current_user = session_user AS same, current_setting('search_path') AS path, current_setting('work_mem') AS work_mem,
    (SELECT count(*) FROM pg_prepared_statements) AS prepared, (SELECT count(*) FROM pg_cursors WHERE is_holdable) AS cursors, to_regclass('pg_temp.journal') AS journal;
-- Session-level advisory locks are the one thing that stays.
SELECT pg_advisory_unlock(1000200);
GRANT SELECT ON step_test.loot TO regress_cqrs_victim;
SET SESSION AUTHORIZATION regress_cqrs_victim;
SELECT attack('StepTrigger');
SELECT count(*) FROM step_test.loot WHERE who <> 'regress_cqrs_attacker';
SELECT pg_advisory_unlock(1000200);
RESET SESSION AUTHORIZATION;
SELECT rolsuper FROM pg_roles WHERE rolname = 'regress_cqrs_attacker';
SELECT cqrs.drop_projection('step worker'), cqrs.drop_projection('step trigger');
DROP FUNCTION attack(text);
SET client_min_messages = warning;
DROP SCHEMA step_test CASCADE;
DROP OWNED BY regress_cqrs_attacker, regress_cqrs_victim;
DROP ROLE regress_cqrs_attacker, regress_cqrs_victim;
