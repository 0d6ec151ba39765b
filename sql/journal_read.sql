-- cqrs.history gives one entity's events in order; cqrs.read_events gives all in the order of positions, each exactly
-- once to a reader that keeps the last position it got, and only to who may read the journal.
\set SHOW_CONTEXT never

SELECT cqrs.create_journal();
SELECT cqrs.last_position() AS start \gset
SELECT sum(r.version)
FROM (VALUES ('ReadA', '1'), ('ReadB', '1'), ('ReadA', '2'), ('ReadA', '1'), ('ReadB', '2')) e (type, id)
CROSS JOIN LATERAL cqrs.append(type, id, ARRAY[cqrs.new_event('X', '{"of": 1}'), cqrs.new_event('Y', '{"of": 2}', '{"m": 1}')]) r;


-- One entity's events: all, or those after a version.
SELECT entity_type, entity_id, version, event_type, schema_version, data, metadata, slice = cqrs.slice(entity_type, entity_id) AS right_slice
FROM cqrs.history('ReadA', '1');
SELECT version FROM cqrs.history('ReadA', '1', 2);
SELECT version FROM cqrs.history('ReadA', '1', after_version => 4);
SELECT version FROM cqrs.history('ReadA', '1', 5);
SELECT version FROM cqrs.history('ReadA', '1', -1);
SELECT count(*) FROM cqrs.history('ReadA', '3');
SELECT count(*) FROM cqrs.history('Read', 'A1');
SELECT count(*) FROM cqrs.history('', '');
SELECT count(*) FROM cqrs.history('ReadA', repeat('x', 100000));
SELECT h.* FROM cqrs.history('ReadA', '1') h EXCEPT SELECT j.* FROM cqrs.journal j;
-- It may be joined to, and sees what the transaction appended itself.
SELECT id, count(version), max(version) FROM unnest(ARRAY['1', '2', '3']) id LEFT JOIN LATERAL cqrs.history('ReadA', id) ON true GROUP BY id ORDER BY id;
BEGIN;
SELECT version FROM cqrs.append('ReadA', '2', ARRAY[cqrs.new_event('Z', '{}')]);
SELECT version, event_type FROM cqrs.history('ReadA', '2', 1);
ROLLBACK;
-- A parallel worker may run it.
SELECT set_config(name, 'on', false) AS parallel FROM pg_settings WHERE name IN ('force_parallel_mode', 'debug_parallel_query');
SELECT version FROM cqrs.history('ReadA', '1', 1);
SELECT set_config(name, 'off', false) AS parallel FROM pg_settings WHERE name IN ('force_parallel_mode', 'debug_parallel_query');
SELECT count(*) FROM cqrs.history(NULL, '1');
SELECT count(*) FROM cqrs.history('ReadA', NULL);
SELECT count(*) FROM cqrs.history('ReadA', '1', NULL);
\echo :LAST_ERROR_SQLSTATE


-- Everything in order. Positions are shown as the how-manieth since the beginning of this test.
CREATE FUNCTION pg_temp.nth(at bigint) RETURNS bigint LANGUAGE sql STABLE AS $$
    SELECT count(*) FROM cqrs.journal WHERE entity_type IN ('ReadA', 'ReadB') AND position <= at
$$;
SELECT pg_temp.nth(position) AS nth, entity_type, entity_id, version, event_type, data, metadata FROM cqrs.read_events(:start);
SELECT e.* FROM cqrs.read_events(:start) e EXCEPT SELECT j.* FROM cqrs.journal j;
SELECT min(position) FILTER (WHERE n = 3) AS third, min(position) FILTER (WHERE n = 7) AS seventh, max(position) AS last
FROM (SELECT position, row_number() OVER (ORDER BY position) AS n FROM cqrs.journal WHERE position > :start) e \gset
SELECT cqrs.high_water_mark() = cqrs.last_position() AS all_are_read;
-- A page at a time.
SELECT pg_temp.nth(position) AS nth FROM cqrs.read_events(:start, 1);
SELECT pg_temp.nth(position) AS nth FROM cqrs.read_events(:third, 2);
SELECT pg_temp.nth(position) AS nth FROM cqrs.read_events(:seventh, max_events => 2147483647);
SELECT count(*) FROM cqrs.read_events(:last);
DO $$
DECLARE
    after bigint := (SELECT min(position) - 1 FROM cqrs.journal WHERE entity_type = 'ReadA');
    got bigint[] := '{}';
    page bigint[];
BEGIN
    LOOP
        SELECT array_agg(position) INTO page FROM cqrs.read_events(after, 3);
        EXIT WHEN page IS NULL;
        got := got || page;
        after := page[cardinality(page)];
    END LOOP;
    RAISE NOTICE '% events, complete: %', cardinality(got),
        got = (SELECT array_agg(position ORDER BY position) FROM cqrs.journal WHERE position >= got[1]);
END
$$;
-- From the beginning, by default; and 1000 at most, by default.
SELECT min(position) = (SELECT min(position) FROM cqrs.journal) AS from_beginning FROM cqrs.read_events();
SELECT version FROM cqrs.append('ReadMany', 'm', (SELECT array_agg(cqrs.new_event('M', '{}')) FROM generate_series(1, 1001)));
SELECT count(*), min(version), max(version) FROM cqrs.read_events(:last);
SELECT count(*), min(version), max(version) FROM cqrs.read_events(:last, 1001);
-- Up to a position, which may lie ahead.
SELECT pg_temp.nth(position) AS nth FROM cqrs.read_events(:start, up_to => :third);
SELECT pg_temp.nth(position) AS nth FROM cqrs.read_events(:third, up_to => :seventh);
SELECT count(*) FROM cqrs.read_events(:third, up_to => :third);
SELECT count(*) FROM cqrs.read_events(:third, up_to => :start);
SELECT count(*) FROM cqrs.read_events(:third, up_to => -1);
SELECT count(*) FROM cqrs.read_events(:start, 2000, up_to => 9223372036854775807);
-- Filters: entity types, event types, slices, all together. None of the kind is not the same as any.
SELECT pg_temp.nth(position) AS nth, entity_type FROM cqrs.read_events(:start, entity_types => '{ReadB}');
SELECT count(*) FROM cqrs.read_events(:start, 2000, entity_types => '{ReadB,ReadA,Other}');
SELECT count(*) FROM cqrs.read_events(:start, entity_types => '{readb}');
SELECT count(*) FROM cqrs.read_events(:start, entity_types => '{}');
SELECT count(*) FROM cqrs.read_events(:start, entity_types => '{NULL,ReadB}');
SELECT pg_temp.nth(position) AS nth, event_type FROM cqrs.read_events(:start, event_types => '{Y}');
SELECT pg_temp.nth(position) AS nth FROM cqrs.read_events(:start, 2, entity_types => '{ReadA}', event_types => '{Y,Z}');
SELECT pg_temp.nth(position) AS nth FROM cqrs.read_events(:third, 2, '{ReadA}', '{Y,Z}', :seventh);
SELECT count(*) FROM cqrs.read_events(:start, event_types => '{}');
SELECT pg_temp.nth(position) AS nth, entity_type, entity_id
FROM cqrs.read_events(:start, slices => int4range(cqrs.slice('ReadB', '2'), cqrs.slice('ReadB', '2'), '[]'));
SELECT count(*) = count(DISTINCT position) AS once, count(*)
FROM generate_series(0, 1023, 256) first CROSS JOIN LATERAL cqrs.read_events(:start, 2000, slices => int4range(first, first + 256));
SELECT count(*) FROM cqrs.read_events(:start, 2000, slices => '(,)');
SELECT count(*) FROM cqrs.read_events(:start, 2000, slices => '[0,1024)');
SELECT count(*) FROM cqrs.read_events(:start, 2000, slices => '[1024,)');
SELECT count(*) FROM cqrs.read_events(:start, 2000, slices => 'empty');

-- What cannot be meant is refused; a position never given belongs to another journal.
SELECT count(*) FROM cqrs.read_events(NULL);
SELECT count(*) FROM cqrs.read_events(:start, NULL);
\echo :LAST_ERROR_SQLSTATE
SELECT count(*) FROM cqrs.read_events(:start, 0);
SELECT count(*) FROM cqrs.read_events(:start, -1);
\echo :LAST_ERROR_SQLSTATE
\set VERBOSITY terse
SELECT count(*) FROM cqrs.read_events(-1);
SELECT count(*) FROM cqrs.read_events(9223372036854775807);
\set VERBOSITY default
\echo :LAST_ERROR_SQLSTATE
SELECT count(*) FROM cqrs.read_events(cqrs.last_position());
DO $$
BEGIN
    PERFORM count(*) FROM cqrs.read_events(cqrs.last_position() + 1);
EXCEPTION WHEN invalid_parameter_value THEN
    RAISE NOTICE 'refused';
END
$$;


-- A transaction's own events are not there for readers in order before it commits, whatever else is.
SELECT cqrs.last_position() AS before \gset
BEGIN;
SELECT version FROM cqrs.append('ReadOwn', 'o', ARRAY[cqrs.new_event('A', '{}')]);
SELECT count(*) FROM cqrs.read_events(:before);
SELECT cqrs.high_water_mark() = :before AS mark_stays;
SELECT version FROM cqrs.append('ReadOwn', 'o', ARRAY[cqrs.new_event('B', '{}')]);
SELECT count(*) FROM cqrs.read_events(:before);
COMMIT;
SELECT version, event_type FROM cqrs.read_events(:before);
-- Nor after it has rolled back; a savepoint holds the mark too.
SELECT cqrs.last_position() AS before \gset
BEGIN;
SAVEPOINT s;
SELECT version FROM cqrs.append('ReadOwn', 'o', ARRAY[cqrs.new_event('C', '{}')]);
ROLLBACK TO s;
SELECT count(*) FROM cqrs.read_events(:before);
SELECT cqrs.high_water_mark() = :before AS mark_stays;
ROLLBACK;
SELECT count(*) FROM cqrs.read_events(:before);
SELECT cqrs.high_water_mark() > :before AS mark_moves;
-- Reading works in any transaction.
BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;
SELECT version, event_type FROM cqrs.read_events(:before - 2);
SELECT count(*) FROM cqrs.history('ReadOwn', 'o');
COMMIT;
BEGIN ISOLATION LEVEL SERIALIZABLE READ ONLY DEFERRABLE;
SELECT version, event_type FROM cqrs.read_events(:before - 2);
COMMIT;


-- Waiting for an event: at once when it is there, QR020 when the time is over.
SELECT cqrs.last_position() AS last \gset
SELECT cqrs.wait_for_event(:last - 1, '1 h') = :last AS at_once;
SELECT cqrs.wait_for_event(0, '0 s') = :last AS at_once;
SELECT cqrs.wait_for_event(0, '-1 s') = :last AS at_once;
\set VERBOSITY terse
SELECT cqrs.wait_for_event(-1, '1 ms');
SELECT cqrs.wait_for_event(9223372036854775807, '1 ms');
\echo :LAST_ERROR_SQLSTATE
\set VERBOSITY default
DO $$
DECLARE
    after bigint := cqrs.last_position();
    message text;
    detail text;
    hint text;
    duration interval;
BEGIN
    FOREACH duration IN ARRAY ARRAY['0 s', '-1 h', '20 ms']::interval[] LOOP
        BEGIN
            PERFORM cqrs.wait_for_event(after, duration);
        EXCEPTION WHEN SQLSTATE 'QR020' THEN
            GET STACKED DIAGNOSTICS message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
            RAISE NOTICE '%', replace(concat_ws(E'\n', message, detail, hint), after::text, 'N');
        END;
    END LOOP;
END
$$;
SELECT cqrs.wait_for_event(NULL, '1 ms');
SELECT cqrs.wait_for_event(0, NULL);
\echo :LAST_ERROR_SQLSTATE
-- A time that no clock reaches is a long one.
SET statement_timeout = '20 ms';
SELECT cqrs.wait_for_event(cqrs.high_water_mark(), '1000000 years');
SELECT cqrs.wait_for_event(cqrs.high_water_mark(), '178000000 years');
RESET statement_timeout;
-- The positions of a transaction that rolled back are passed too.
BEGIN;
SELECT version FROM cqrs.append('ReadOwn', 'o', ARRAY[cqrs.new_event('C', '{}')]);
ROLLBACK;
SELECT cqrs.wait_for_event(:last, '1 h') > :last AS at_once;
-- A transaction that has appended would wait for itself; what is past anyway it gets.
BEGIN;
SELECT version FROM cqrs.append('ReadOwn', 'o', ARRAY[cqrs.new_event('C', '{}')]);
SELECT cqrs.wait_for_event(:last - 1, '1 h') >= :last AS at_once;
SELECT cqrs.wait_for_event(cqrs.high_water_mark(), '1 h');
\echo :LAST_ERROR_SQLSTATE
ROLLBACK;
BEGIN;
SAVEPOINT s;
SELECT version FROM cqrs.append('ReadOwn', 'o', ARRAY[cqrs.new_event('C', '{}')]);
ROLLBACK TO s;
SELECT cqrs.wait_for_event(cqrs.high_water_mark(), '1 h');
ROLLBACK;


-- SELECT on the journal is the right to read; its row security applies, each time to who is asking.
CREATE ROLE regress_read_all;
CREATE ROLE regress_read_some;
CREATE ROLE regress_read_none;
GRANT SELECT ON cqrs.journal TO regress_read_all, regress_read_some;
GRANT EXECUTE ON FUNCTION cqrs.append(text, text, cqrs.new_event[], bigint, uuid) TO regress_read_some;
ALTER TABLE cqrs.journal ENABLE ROW LEVEL SECURITY;
CREATE POLICY read_all ON cqrs.journal FOR SELECT TO regress_read_all USING (true);
CREATE POLICY read_some ON cqrs.journal FOR SELECT TO regress_read_some USING (entity_type = 'ReadB' AND event_type <> 'Y');
CREATE FUNCTION pg_temp.seen(OUT entities text, OUT n bigint) LANGUAGE sql AS $$
    SELECT string_agg(DISTINCT entity_type || ' ' || event_type, ', '), count(*)
    FROM cqrs.read_events(0, 2147483647, entity_types => '{ReadA,ReadB}')
$$;
GRANT EXECUTE ON FUNCTION pg_temp.seen() TO PUBLIC;
SELECT * FROM pg_temp.seen();
SELECT count(*) FROM cqrs.history('ReadA', '1');
SELECT version, event_type FROM cqrs.history('ReadB', '1');
SET ROLE regress_read_some;
SELECT * FROM pg_temp.seen();
SELECT count(*) FROM cqrs.history('ReadA', '1');
SELECT version, event_type FROM cqrs.history('ReadB', '1');
-- The appended event is not seen, but it counts.
SELECT version FROM cqrs.append('ReadA', '2', ARRAY[cqrs.new_event('Z', '{}')], 2);
SELECT version FROM cqrs.append('ReadA', '2', ARRAY[cqrs.new_event('Z', '{}')], 0);
SELECT count(*) FROM cqrs.history('ReadA', '2');
SET ROLE regress_read_all;
SELECT * FROM pg_temp.seen();
SELECT count(*) FROM cqrs.history('ReadA', '1');
SET ROLE regress_read_none;
SELECT * FROM pg_temp.seen();
SELECT count(*) FROM cqrs.history('ReadA', '1');
\echo :LAST_ERROR_SQLSTATE
SELECT count(*) FROM cqrs.history('Nothing', 'here');
SET ROLE regress_read_some;
SELECT * FROM pg_temp.seen();
RESET ROLE;
SELECT * FROM pg_temp.seen();
-- A role that a policy gives nothing sees nothing, and a function that runs as its owner reads as that owner.
DROP POLICY read_all ON cqrs.journal;
CREATE SCHEMA read_test AUTHORIZATION regress_read_some;
GRANT USAGE ON SCHEMA read_test TO PUBLIC;
SET ROLE regress_read_some;
CREATE FUNCTION read_test.lend() RETURNS bigint LANGUAGE sql SECURITY DEFINER AS $$SELECT count(*) FROM cqrs.history('ReadB', '1')$$;
SET ROLE regress_read_all;
SELECT * FROM pg_temp.seen();
SELECT count(*) FROM cqrs.history('ReadB', '1');
SELECT read_test.lend();
RESET ROLE;
SET row_security = off;
SELECT * FROM pg_temp.seen();
SET ROLE regress_read_some;
SELECT count(*) FROM cqrs.history('ReadB', '1');
RESET ROLE;
RESET row_security;
ALTER TABLE cqrs.journal DISABLE ROW LEVEL SECURITY;
SET ROLE regress_read_some;
SELECT * FROM pg_temp.seen();
RESET ROLE;
-- Some columns are not enough.
REVOKE SELECT ON cqrs.journal FROM regress_read_all;
GRANT SELECT (position, entity_type, entity_id, version) ON cqrs.journal TO regress_read_all;
SET ROLE regress_read_all;
SELECT count(*) FROM cqrs.history('ReadB', '1');
RESET ROLE;
DROP OWNED BY regress_read_all, regress_read_some, regress_read_none;
DROP ROLE regress_read_all, regress_read_some, regress_read_none;
SELECT polname FROM pg_policy WHERE polrelid = 'cqrs.journal'::regclass;


-- Names cannot be caught by somebody's own operators or functions.
CREATE SCHEMA read_test;
CREATE FUNCTION read_test.wrong(a text, b text) RETURNS boolean LANGUAGE sql AS 'SELECT true';
CREATE OPERATOR read_test.= (LEFTARG = text, RIGHTARG = text, FUNCTION = read_test.wrong);
SET search_path = read_test, pg_catalog;
SELECT count(*) FROM cqrs.history('ReadB', '1');
SELECT count(*) FROM cqrs.history('ReadB', '3');
SHOW search_path;
RESET search_path;
DROP OPERATOR read_test.= (text, text);
DROP FUNCTION read_test.wrong;
DROP SCHEMA read_test;


-- A large journal is read by its indexes, though it was empty when it was analyzed and when the plans were made.
SELECT current_database() AS database \gset
CREATE DATABASE regress_read TEMPLATE template0;
\c regress_read
CREATE EXTENSION pg_cqrs;
SELECT cqrs.create_journal();
ANALYZE cqrs.journal;
SELECT count(*) FROM cqrs.history('Large', '1');
SELECT count(*) FROM cqrs.read_events();
SELECT count(*) FROM cqrs.append('Large', '0', ARRAY[cqrs.new_event('A', '{}')]);
SELECT count(*) FROM generate_series(1, 20) i
CROSS JOIN LATERAL cqrs.append('Large', (i % 10)::text, (SELECT array_agg(cqrs.new_event('A', '{}')) FROM generate_series(1, 1000))) r;
-- Rows that scans have touched since last time: of the table from end to end, and by its indexes.
CREATE FUNCTION pg_temp.scanned(OUT sequential_scans bigint, OUT index_entries bigint) LANGUAGE sql AS $$
    SELECT t.seq_scan, sum(i.idx_tup_read)
    FROM pg_stat_user_tables t JOIN pg_stat_user_indexes i USING (relid)
    WHERE t.relid = 'cqrs.journal'::regclass GROUP BY t.seq_scan
$$;
SELECT FROM pg_stat_force_next_flush();
SELECT * FROM pg_temp.scanned() \gset before_
-- 50 events are asked for.
SELECT count(*) FROM cqrs.history('Large', '1', 1990);
SELECT count(*) FROM cqrs.history('Large', 'nobody');
SELECT count(*) FROM cqrs.read_events(0, 10);
SELECT count(*) FROM cqrs.read_events(19990);
SELECT count(*) FROM cqrs.read_events(10000, up_to => 10010);
SELECT count(*) FROM cqrs.read_events(10000, 10, entity_types => '{Large}', slices => '[0,1024)');
SELECT version FROM cqrs.append('Large', '1', ARRAY[cqrs.new_event('A', '{}')]);
SELECT version FROM cqrs.append('Large', '2', ARRAY[cqrs.new_event('A', '{}'), cqrs.new_event('B', '{}')], 2000);
SELECT FROM pg_stat_force_next_flush();
SELECT sequential_scans - :before_sequential_scans AS sequential_scans, index_entries - :before_index_entries BETWEEN 50 AND 100 AS few_index_entries
FROM pg_temp.scanned();
\c :database
DROP DATABASE regress_read;
