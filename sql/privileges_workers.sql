-- What workers do for somebody gives him no more rights than he has: timers, commands that follow deliveries, parked events that are
-- tried again, rebuilds. A worker is a superuser's session, which others use next, so nothing may stay in it either.
\set SHOW_CONTEXT never
CREATE ROLE regress_cqrs_low;
CREATE SCHEMA workers_test AUTHORIZATION regress_cqrs_low;
SET search_path = workers_test;
\getenv folder PG_ABS_SRCDIR
\set wait_until :folder '/test/wait_until.sql'
\i :wait_until
SELECT session_user AS super \gset
SELECT cqrs.create_journal();
GRANT TEMPORARY ON DATABASE :DBNAME TO regress_cqrs_low;
GRANT SELECT ON cqrs.journal TO regress_cqrs_low;
GRANT EXECUTE ON FUNCTION cqrs.create_entity, cqrs.on_command, cqrs.schedule, cqrs.enqueue, cqrs.create_projection TO regress_cqrs_low;
CREATE SERVER workers FOREIGN DATA WRAPPER cqrs_http OPTIONS (url 'https://workers.invalid', breaker 'forced_open');

-- A command of a superuser's, and what the low role wants: to have it run, or a row that somebody else has written.
CREATE FUNCTION high(state jsonb, command cqrs.command) RETURNS cqrs.effect LANGUAGE sql AS $$ SELECT cqrs.persist('Done', jsonb_build_object('sender', command.sender)) $$;
REVOKE EXECUTE ON FUNCTION high FROM PUBLIC;
SELECT cqrs.create_entity('workers.High');
SELECT cqrs.on_command('workers.High', '*', 'high'), cqrs.on_event('workers.High', '*', 'cqrs.merge');
SET SESSION AUTHORIZATION regress_cqrs_low;
CREATE TABLE loot (way text, who name DEFAULT current_user);
GRANT INSERT ON loot TO PUBLIC;
GRANT USAGE ON SCHEMA workers_test TO PUBLIC;
CREATE FUNCTION take_loot(way text) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN INSERT INTO workers_test.loot VALUES (way); RETURN true; END $$;
CREATE FUNCTION spring() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO workers_test.loot VALUES (TG_ARGV[0]); RETURN NULL; END $$;
CREATE TABLE trap (a integer);
CREATE CONSTRAINT TRIGGER spring AFTER INSERT ON trap DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION spring('deferred trigger');
CREATE TABLE defaults (a integer, b boolean DEFAULT take_loot('default'), c boolean CHECK (take_loot('check')));
CREATE VIEW rules AS SELECT 1 AS a;
CREATE RULE rules AS ON INSERT TO rules DO INSTEAD SELECT take_loot('rule');
RESET SESSION AUTHORIZATION;
CREATE TABLE attack (n integer PRIMARY KEY, sql text);
INSERT INTO attack SELECT row_number() OVER (), replace(s, '@super', quote_ident(session_user)) FROM unnest(ARRAY[
    'INSERT INTO workers_test.trap VALUES (1)',
    'DECLARE c CURSOR WITH HOLD FOR SELECT workers_test.take_loot(''cursor'')',
    'INSERT INTO workers_test.defaults VALUES (1)',
    'INSERT INTO workers_test.rules VALUES (1)',
    'CREATE TEMPORARY TABLE timer (a integer)',
    'CREATE DOMAIN pg_temp.jsonb AS pg_catalog.jsonb CHECK (workers_test.take_loot(''domain''))',
    'CREATE FUNCTION pg_temp.now() RETURNS timestamptz LANGUAGE sql AS ''SELECT workers_test.take_loot(''''function'''')::text::timestamptz''',
    'PREPARE p AS SELECT workers_test.take_loot(''prepared'')',
    'SELECT pg_advisory_lock(1000300)',
    'SELECT set_config(''search_path'', ''workers_test, pg_catalog'', false), set_config(''work_mem'', ''123kB'', false)',
    'SET ROLE @super',
    'RESET ROLE',
    'SET LOCAL ROLE NONE',
    'RESET SESSION AUTHORIZATION',
    'SET cqrs.allow_journal_changes = on',
    'CREATE EVENT TRIGGER e ON ddl_command_end EXECUTE FUNCTION workers_test.spring()',
    'CREATE FUNCTION workers_test.as_super() RETURNS boolean LANGUAGE plpgsql SET role = @super AS ''BEGIN RETURN workers_test.take_loot(''''SET role''''); END''',
    'ALTER ROLE regress_cqrs_low SUPERUSER',
    'SELECT cqrs.send(''workers.High'', ''h'', ''Do'')',
    'SELECT cqrs.schedule(now(), ''workers.High'', ''h'', ''Do'')',
    'SELECT cqrs.enqueue(''workers'', ''GET'', reply_entity_type => ''workers.High'', reply_entity_id => ''h'', reply_command => ''Do'')',
    'INSERT INTO cqrs.timer SELECT (json_populate_record(t, ''{"role": "@super"}'')).* FROM cqrs.timer t',
    'UPDATE cqrs.timer SET role = session_user',
    'UPDATE cqrs.outbox SET role = session_user, reply_entity_type = ''workers.High''',
    'UPDATE cqrs.parked_entity SET retry = true',
    'COMMIT',
    'SELECT 1'
]) s;
GRANT SELECT ON attack TO regress_cqrs_low;

-- Each attack is made by all handlers of the low role: what became of it, and what the handler has found in its session before.
SET SESSION AUTHORIZATION regress_cqrs_low;
CREATE TABLE outcome (way text, n integer, code text);
CREATE TABLE found (way text, who name, path text, work_mem text, temp_types bigint, prepared bigint, cursors bigint, locks bigint);
CREATE FUNCTION make(way text, n integer) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO workers_test.found VALUES (way, current_user, current_setting('search_path'), current_setting('work_mem'),
        (SELECT count(*) FROM pg_type WHERE typnamespace = pg_my_temp_schema()), (SELECT count(*) FROM pg_prepared_statements),
        (SELECT count(*) FROM pg_cursors WHERE is_holdable), (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = 1000300));
    EXECUTE (SELECT sql FROM workers_test.attack a WHERE a.n = make.n);
    INSERT INTO workers_test.outcome VALUES (way, n, 'done');
EXCEPTION WHEN OTHERS THEN
    INSERT INTO workers_test.outcome VALUES (way, n, SQLSTATE);
END
$$;
CREATE FUNCTION low(state jsonb, command cqrs.command) RETURNS cqrs.effect LANGUAGE plpgsql AS $$
BEGIN
    PERFORM workers_test.make(command.command_type, command.entity_id::integer);
    RETURN cqrs.reply('1');
END
$$;
REVOKE EXECUTE ON FUNCTION low FROM PUBLIC;
SELECT cqrs.create_entity('workers.Low');
SELECT cqrs.on_command('workers.Low', '*', 'low');

-- Timers: those of the low role, and those of a superuser to an entity of the low role.
SELECT count(cqrs.schedule(now(), 'workers.Low', n::text, 'own timer')) FROM attack;
RESET SESSION AUTHORIZATION;
SELECT count(cqrs.schedule(now(), 'workers.Low', n::text, 'superuser''s timer')) FROM attack;
SELECT wait_until('NOT EXISTS (SELECT FROM cqrs.timer)');

-- Commands that follow deliveries: here those that were given up, since their service is gone.
CREATE SERVER gone FOREIGN DATA WRAPPER cqrs_http OPTIONS (url 'https://gone.invalid');
GRANT USAGE ON FOREIGN SERVER gone, workers TO regress_cqrs_low;
BEGIN;
SET LOCAL SESSION AUTHORIZATION regress_cqrs_low;
SELECT count(cqrs.enqueue('gone', 'GET', reply_entity_type => 'workers.Low', reply_entity_id => n::text, failure_command => 'own delivery')) FROM attack;
SET LOCAL SESSION AUTHORIZATION DEFAULT;
SELECT count(cqrs.enqueue('gone', 'GET', reply_entity_type => 'workers.Low', reply_entity_id => n::text, failure_command => 'superuser''s delivery')) FROM attack;
SET client_min_messages = warning;
DROP SERVER gone CASCADE;
RESET client_min_messages;
COMMIT;
SELECT wait_until($$NOT EXISTS (SELECT FROM cqrs.outbox WHERE state <> 'dead')$$);
DELETE FROM cqrs.outbox;

-- Parked events that a superuser has tried again; then a rebuild of the same, which prepares and empties tables.
SET SESSION AUTHORIZATION regress_cqrs_low;
CREATE TABLE unripe ();
CREATE TABLE emptied (a integer);
CREATE TRIGGER emptied AFTER DELETE OR TRUNCATE ON emptied FOR EACH STATEMENT EXECUTE FUNCTION spring('emptied');
CREATE FUNCTION project(event cqrs.event) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF to_regclass('workers_test.unripe') IS NOT NULL THEN
        RAISE 'not yet';
    END IF;
    PERFORM workers_test.make((event).event_type, ((event).data)::integer);
END
$$;
-- It is called in this session as well, when the projection is created; that is its owner's own.
CREATE FUNCTION prepare() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF to_regclass('workers_test.unripe') IS NULL THEN
        PERFORM workers_test.make('prepare', n) FROM workers_test.attack;
    END IF;
END
$$;
SELECT cqrs.create_projection('workers', 'project', entity_types => '{workers.Parked}', max_retries => 0, batch_size => 1, tables => '{emptied}', prepare => 'prepare');
RESET SESSION AUTHORIZATION;
SELECT count(cqrs.append('workers.Parked', 'p', ARRAY[cqrs.new_event('parked', to_jsonb(n))])) FROM attack;
SELECT cqrs.wait_for_projection('workers', timeout => '1 min') > 0;
SELECT waiting, error FROM cqrs.parked_event WHERE projection = 'workers';
DROP TABLE unripe;
SELECT cqrs.retry_parked('workers');
SELECT wait_until($$NOT EXISTS (SELECT FROM cqrs.parked_entity WHERE projection = 'workers')$$);
SELECT count(*) AS parked FROM outcome WHERE way = 'parked';
-- Nothing was there for the next.
SELECT DISTINCT who, path, work_mem, temp_types, prepared, cursors, locks FROM found;
DELETE FROM found;
SELECT cqrs.rebuild_projection('workers');
SELECT wait_until($$NOT (SELECT rebuild FROM cqrs.projection WHERE name = 'workers')$$);
SELECT (cqrs.append('workers.Parked', 'q', ARRAY[cqrs.new_event('next', to_jsonb(max(n)))])).version FROM attack;
SELECT cqrs.wait_for_projection('workers', timeout => '1 min') > 0;
SELECT DISTINCT who, path, work_mem, temp_types, prepared, cursors, locks FROM found WHERE way = 'next';
SELECT cqrs.drop_projection('workers');

-- What became of the attacks. With its own rights the low role may defer things to the commit, and make temporary ones; with others', not.
SELECT replace(sql, :'super', '@super') AS attack, max(code) FILTER (WHERE way = 'own timer') AS "own timer",
    max(code) FILTER (WHERE way = 'superuser''s timer') AS "superuser's", max(code) FILTER (WHERE way = 'own delivery') AS "own delivery",
    max(code) FILTER (WHERE way = 'superuser''s delivery') AS "superuser's", max(code) FILTER (WHERE way = 'parked') AS parked,
    max(code) FILTER (WHERE way = 'prepare') AS prepare
FROM outcome JOIN attack USING (n) GROUP BY n, sql ORDER BY n;
SELECT way, count(*), count(DISTINCT n) FROM outcome GROUP BY 1 ORDER BY 1;
-- All that was done was done as the low role, whose own it was.
SELECT way, who, count(*) > 0 AS done FROM loot GROUP BY 1, 2 ORDER BY 1, 2;
SELECT count(*) FROM cqrs.history('workers.High', 'h');
SELECT count(*) FROM cqrs.timer;
SELECT count(*) FROM cqrs.outbox;
SELECT rolsuper FROM pg_roles WHERE rolname = 'regress_cqrs_low';

-- A command is sent with the rights of when it is sent: here one that was allowed when it was ordered, and no more when it is due.
GRANT EXECUTE ON FUNCTION high TO regress_cqrs_low;
CREATE SERVER gone FOREIGN DATA WRAPPER cqrs_http OPTIONS (url 'https://gone.invalid');
GRANT USAGE ON FOREIGN SERVER gone TO regress_cqrs_low;
BEGIN;
SET LOCAL SESSION AUTHORIZATION regress_cqrs_low;
SELECT cqrs.enqueue('gone', 'GET', reply_entity_type => 'workers.High', reply_entity_id => 'h', failure_command => 'Do', max_attempts => 1) IS NOT NULL;
SET LOCAL SESSION AUTHORIZATION DEFAULT;
REVOKE EXECUTE ON FUNCTION high FROM regress_cqrs_low;
SET client_min_messages = warning;
DROP SERVER gone CASCADE;
RESET client_min_messages;
COMMIT;
SELECT wait_until($$EXISTS (SELECT FROM cqrs.outbox WHERE state = 'reply_failed')$$);
SELECT last_error FROM cqrs.outbox;
SELECT count(*) FROM cqrs.history('workers.High', 'h');
DELETE FROM cqrs.outbox;
-- As a control, with the right it is sent.
GRANT EXECUTE ON FUNCTION high TO regress_cqrs_low;
SET SESSION AUTHORIZATION regress_cqrs_low;
SELECT cqrs.schedule(now(), 'workers.High', 'h', 'Do') IS NOT NULL;
RESET SESSION AUTHORIZATION;
SELECT wait_until($$EXISTS (SELECT FROM cqrs.history('workers.High', 'h'))$$);
SELECT data FROM cqrs.history('workers.High', 'h');

SELECT cqrs.drop_entity('workers.Low'), cqrs.drop_entity('workers.High');
SET client_min_messages = warning;
DROP SERVER workers CASCADE;
DROP SCHEMA workers_test CASCADE;
DROP OWNED BY regress_cqrs_low;
DROP ROLE regress_cqrs_low;
