-- A rebuild makes the tables of a projection anew from the journal: readers see the old contents until it is done, and keep them if
-- it fails; what was a side effect of an event is none again.
\set SHOW_CONTEXT never
CREATE SCHEMA rebuild_test;
SET search_path = rebuild_test;
SELECT cqrs.create_journal();
CREATE FUNCTION put(entity_type text, entity_id text, VARIADIC types text[]) RETURNS bigint LANGUAGE sql AS $$
    SELECT (cqrs.append($1, $2, array_agg(cqrs.new_event(t, '{}')))).version FROM unnest($3) t
$$;
CREATE TABLE total (entity_id text PRIMARY KEY, events bigint);
CREATE TABLE log (position bigint PRIMARY KEY, event_type text, round integer);
CREATE TABLE bad (event_type text);
CREATE SEQUENCE round;
CREATE SEQUENCE prepared MINVALUE 0;
CREATE FUNCTION count_event(event cqrs.event) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT FROM bad WHERE event_type = (event).event_type) THEN
        RAISE 'cannot project %', (event).event_type USING ERRCODE = 'XY001';
    END IF;
    INSERT INTO total VALUES ((event).entity_id, 1) ON CONFLICT (entity_id) DO UPDATE SET events = total.events + 1;
    INSERT INTO log SELECT (event).position, (event).event_type, last_value FROM round;
END
$$;
CREATE FUNCTION prepare() RETURNS void LANGUAGE sql AS $$ INSERT INTO total VALUES ('prepared', nextval('prepared')) $$;
CREATE FUNCTION differences() RETURNS bigint LANGUAGE sql AS $$
    SELECT count(*) FROM (SELECT entity_id, count(*) AS events FROM cqrs.journal WHERE entity_type = 'Rebuild' GROUP BY 1) j
    FULL JOIN (SELECT * FROM total WHERE entity_id <> 'prepared') t USING (entity_id, events) WHERE j.entity_id IS NULL OR t.entity_id IS NULL
$$;
CREATE VIEW status AS
    SELECT state, parked, skipped, last_sqlstate, last_error FROM cqrs.projection_status WHERE name LIKE 'rebuild%' ORDER BY name, slices;
CREATE VIEW parked AS
    SELECT entity_id, event_type, waiting, sqlstate, attempts, retry FROM cqrs.parked_event WHERE projection LIKE 'rebuild%' ORDER BY position;

SELECT count(put('Rebuild', (i % 7)::text, 'X', 'Y')) FROM generate_series(1, 100) i;
SELECT cqrs.create_projection('rebuild', 'count_event', entity_types => '{Rebuild}', tables => '{total, log}', batch_size => 30, max_retries => 0, prepare => 'prepare');
SELECT cqrs.wait_for_projection('rebuild') > 0;
SELECT differences(), (SELECT events FROM total WHERE entity_id = 'prepared') AS prepared;
-- Contents are replaced: what was wrong in them is right again, and prepare was called once more.
UPDATE total SET events = -1 WHERE entity_id = '3';
DELETE FROM total WHERE entity_id = '4';
INSERT INTO total VALUES ('unheard of', 1);
SELECT differences();
SELECT nextval('round');
SELECT nextval('round');
SELECT cqrs.rebuild_projection('rebuild');
SELECT cqrs.wait_for_projection('rebuild') > 0;
SELECT differences(), (SELECT events FROM total WHERE entity_id = 'prepared') AS prepared, (SELECT array_agg(DISTINCT round) FROM log) AS rounds;
SELECT rebuild FROM cqrs.projection WHERE name = 'rebuild';
SELECT * FROM status;
-- What comes then comes once.
SELECT put('Rebuild', '1', 'X');
SELECT cqrs.wait_for_projection('rebuild') > 0;
SELECT differences();
-- Asked for twice it may be done once; asked for and undone, not at all.
BEGIN;
SELECT cqrs.rebuild_projection('rebuild');
ROLLBACK;
SELECT rebuild FROM cqrs.projection WHERE name = 'rebuild';

-- A rebuild that fails keeps the old contents, and the projection stops; resumed, the rebuild is tried again.
SELECT cqrs.alter_projection('rebuild', on_failure => 'stop');
INSERT INTO bad VALUES ('Y');
UPDATE total SET events = -1 WHERE entity_id = '3';
SELECT cqrs.rebuild_projection('rebuild');
SELECT cqrs.wait_for_projection('rebuild');
\echo :SQLSTATE
SELECT * FROM status;
SELECT differences(), (SELECT count(*) FROM log WHERE event_type = 'Y') AS y;
DELETE FROM bad;
SELECT cqrs.resume_projection('rebuild');
SELECT cqrs.wait_for_projection('rebuild') > 0;
SELECT differences();
-- So does one that cannot begin.
ALTER TABLE log RENAME TO renamed;
SELECT cqrs.rebuild_projection('rebuild');
SELECT cqrs.wait_for_projection('rebuild');
SELECT * FROM status;
ALTER TABLE renamed RENAME TO log;
SELECT cqrs.resume_projection('rebuild');
SELECT cqrs.wait_for_projection('rebuild') > 0;
SELECT differences();

-- Parked and skipped events: each event has one attempt, all others are projected.
SELECT cqrs.alter_projection('rebuild', on_failure => 'skip');
SELECT put('Rebuild', '2', 'Bad', 'X', 'Bad');
SELECT cqrs.wait_for_projection('rebuild') > 0;
INSERT INTO bad VALUES ('Bad');
SELECT cqrs.rebuild_projection('rebuild');
SELECT cqrs.wait_for_projection('rebuild') > 0;
SELECT * FROM status;
SELECT differences(), (SELECT events FROM total WHERE entity_id = '2') - (SELECT count(*) FROM cqrs.journal WHERE entity_type = 'Rebuild' AND entity_id = '2') AS missing;
SELECT cqrs.alter_projection('rebuild', on_failure => 'park');
SELECT cqrs.rebuild_projection('rebuild');
SELECT cqrs.wait_for_projection('rebuild') > 0;
SELECT * FROM parked;
SELECT differences(), (SELECT events FROM total WHERE entity_id = '2') - (SELECT count(*) FROM cqrs.journal WHERE entity_type = 'Rebuild' AND entity_id = '2') AS missing;
-- Entities that were parked are replayed after the rebuild; one that fails then stays parked where it does.
CREATE FUNCTION wait_for_retry() RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    FOR i IN 1 .. 3000 LOOP
        IF NOT EXISTS (SELECT FROM cqrs.parked_entity k WHERE k.projection LIKE 'rebuild%' AND k.retry) THEN
            RETURN 'retried';
        END IF;
        PERFORM pg_sleep(0.01);
    END LOOP;
    RETURN 'still not retried';
END
$$;
SELECT cqrs.rebuild_projection('rebuild');
SELECT cqrs.wait_for_projection('rebuild') > 0, wait_for_retry();
SELECT * FROM parked;
-- An earlier event of a parked entity may fail in a rebuild.
SELECT put('Rebuild', 'late', 'Early', 'X', 'Bad');
SELECT cqrs.wait_for_projection('rebuild') > 0;
INSERT INTO bad VALUES ('Early');
SELECT cqrs.rebuild_projection('rebuild');
SELECT cqrs.wait_for_projection('rebuild') > 0, wait_for_retry();
SELECT * FROM parked;
SELECT * FROM status;
DELETE FROM bad;
SELECT cqrs.rebuild_projection('rebuild');
SELECT cqrs.wait_for_projection('rebuild') > 0, wait_for_retry(), cqrs.wait_for_projection('rebuild') > 0;
SELECT differences(), (SELECT count(*) FROM parked) AS parked;
SELECT * FROM status;
-- The fuse: too much to be parked, and the rebuild is undone.
INSERT INTO bad VALUES ('Y');
SELECT cqrs.alter_projection('rebuild', max_parked => 2);
SELECT cqrs.rebuild_projection('rebuild');
SELECT cqrs.wait_for_projection('rebuild') > 0;
SELECT * FROM status;
SELECT differences(), (SELECT count(*) FROM parked) AS parked;
DELETE FROM bad;
SELECT cqrs.resume_projection('rebuild');
SELECT cqrs.wait_for_projection('rebuild') > 0;

-- With partitions.
SELECT cqrs.alter_projection('rebuild', partitions => 4, max_parked => 100);
SELECT cqrs.wait_for_projection('rebuild') > 0;
UPDATE total SET events = -1 WHERE entity_id IN ('1', '3', '5');
INSERT INTO bad VALUES ('Early');
SELECT cqrs.rebuild_projection('rebuild');
SELECT cqrs.wait_for_projection('rebuild') > 0;
SELECT * FROM parked;
SELECT sum(parked) AS parked, count(*) FROM status;
DELETE FROM bad;
SELECT cqrs.retry_parked('rebuild');
SELECT wait_for_retry(), cqrs.wait_for_projection('rebuild') > 0;
SELECT differences();
SELECT put('Rebuild', i::text, 'X') > 0 FROM generate_series(1, 3) i;
SELECT cqrs.wait_for_projection('rebuild') > 0;
SELECT differences();

-- Refused: without tables, paused, unknown, of somebody else (see projection).
SELECT cqrs.alter_projection('rebuild', tables => '{}');
SELECT cqrs.rebuild_projection('rebuild');
\echo :SQLSTATE
SELECT cqrs.alter_projection('rebuild', tables => '{total, log}');
SELECT cqrs.pause_projection('rebuild');
SELECT cqrs.rebuild_projection('rebuild');
\echo :SQLSTATE
SELECT cqrs.rebuild_projection('rebuild none');
\echo :SQLSTATE
SELECT cqrs.drop_projection('rebuild');

-- From its start position on.
DELETE FROM total;
DELETE FROM log;
SELECT max(position) AS start FROM cqrs.journal WHERE entity_type = 'Rebuild' \gset
SELECT cqrs.create_projection('rebuild late', 'count_event', entity_types => '{Rebuild}', tables => '{total, log}', start_position => :start);
SELECT put('Rebuild', 'after', 'X', 'X');
SELECT cqrs.rebuild_projection('rebuild late');
SELECT cqrs.wait_for_projection('rebuild late') > 0;
SELECT * FROM total;
SELECT cqrs.drop_projection('rebuild late');

-- A sync projection loses its trigger until the worker has caught up.
CREATE FUNCTION wait_for_trigger() RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    FOR i IN 1 .. 3000 LOOP
        IF EXISTS (SELECT FROM pg_trigger WHERE tgname = 'projection_rebuild sync') THEN
            RETURN 'attached';
        END IF;
        PERFORM pg_sleep(0.01);
    END LOOP;
    RETURN 'still not attached';
END
$$;
DELETE FROM total;
DELETE FROM log;
SELECT cqrs.create_projection('rebuild sync', 'count_event', entity_types => '{Rebuild}', tables => '{total, log}', mode => 'sync');
SELECT wait_for_trigger();
UPDATE total SET events = -1 WHERE entity_id IN ('1', '3', '5');
BEGIN;
SELECT cqrs.rebuild_projection('rebuild sync');
SELECT count(*) AS triggers FROM pg_trigger WHERE tgname = 'projection_rebuild sync';
SELECT put('Rebuild', '1', 'X');
COMMIT;
SELECT wait_for_trigger();
SELECT put('Rebuild', '1', 'X');
SELECT differences();
SELECT cqrs.drop_projection('rebuild sync');

-- Side effects are refused, unless the projection wants them again.
CREATE FUNCTION react(event cqrs.event) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO total VALUES ((event).entity_id, 1);
    PERFORM cqrs.append('RebuildEffect', (event).entity_id, ARRAY[cqrs.new_event('Reacted', '{}')]);
END
$$;
DELETE FROM total;
SELECT cqrs.create_projection('rebuild react', 'react', entity_types => '{RebuildCause}', tables => '{total}', on_failure => 'stop', max_retries => 0);
SELECT put('RebuildCause', '1', 'X'), put('RebuildCause', '2', 'X');
SELECT cqrs.wait_for_projection('rebuild react') > 0;
SELECT count(*) FROM cqrs.journal WHERE entity_type = 'RebuildEffect';
SELECT cqrs.rebuild_projection('rebuild react');
SELECT cqrs.wait_for_projection('rebuild react');
SELECT * FROM status;
SELECT (SELECT count(*) FROM total) AS total, count(*) FROM cqrs.journal WHERE entity_type = 'RebuildEffect';
-- Nor are they made up for when what was parked because of that is tried again.
SELECT cqrs.alter_projection('rebuild react', on_failure => 'park');
SELECT cqrs.resume_projection('rebuild react');
SELECT cqrs.wait_for_projection('rebuild react') > 0;
SELECT * FROM parked;
SELECT cqrs.retry_parked('rebuild react');
SELECT wait_for_retry();
SELECT * FROM parked;
SELECT count(*) FROM cqrs.journal WHERE entity_type = 'RebuildEffect';
SELECT cqrs.alter_projection('rebuild react', replay_side_effects => true);
SELECT cqrs.retry_parked('rebuild react');
SELECT wait_for_retry();
SELECT * FROM parked;
SELECT (SELECT count(*) FROM total) AS total, count(*) FROM cqrs.journal WHERE entity_type = 'RebuildEffect';
SELECT cqrs.rebuild_projection('rebuild react');
SELECT cqrs.wait_for_projection('rebuild react') > 0;
SELECT (SELECT count(*) FROM total) AS total, count(*) FROM cqrs.journal WHERE entity_type = 'RebuildEffect';
SELECT cqrs.drop_projection('rebuild react');

-- It begins where the projection was set back to, if that is before its start.
CREATE TABLE later (entity_id text);
CREATE FUNCTION note_later(event cqrs.event) RETURNS void LANGUAGE sql AS $$ INSERT INTO rebuild_test.later VALUES ((event).entity_id) $$;
SELECT cqrs.append('RebuildLater', '1', ARRAY[cqrs.new_event('X', '{}')]) IS NOT NULL AS appended;
SELECT cqrs.create_projection('rebuild later', 'note_later', entity_types => '{RebuildLater}', tables => '{later}', start_position => NULL);
SELECT cqrs.append('RebuildLater', '2', ARRAY[cqrs.new_event('X', '{}')]) IS NOT NULL AS appended;
SELECT cqrs.wait_for_projection('rebuild later') > 0;
SELECT cqrs.rebuild_projection('rebuild later');
SELECT cqrs.wait_for_projection('rebuild later') > 0;
SELECT * FROM later ORDER BY 1;
SELECT cqrs.reset_projection('rebuild later', 0);
SELECT cqrs.wait_for_projection('rebuild later') > 0;
SELECT cqrs.rebuild_projection('rebuild later');
SELECT cqrs.wait_for_projection('rebuild later') > 0;
SELECT * FROM later ORDER BY 1;
SELECT cqrs.drop_projection('rebuild later');

-- What prepares it repeats no side effect either.
CREATE FUNCTION announce() RETURNS void LANGUAGE sql AS $$ SELECT cqrs.append('RebuildAnnounced', '1', ARRAY[cqrs.new_event('X', '{}')]) $$;
SELECT cqrs.create_projection('rebuild announced', 'note_later', entity_types => '{RebuildLater}', tables => '{later}', prepare => 'announce');
SELECT cqrs.wait_for_projection('rebuild announced') > 0;
SELECT cqrs.rebuild_projection('rebuild announced');
SELECT cqrs.wait_for_projection('rebuild announced');
SELECT state, last_sqlstate FROM status;
SELECT count(*) FROM cqrs.journal WHERE entity_type = 'RebuildAnnounced';
SELECT cqrs.drop_projection('rebuild announced');

-- What the end of a batch's transaction is put off to is put off to the end of each batch of a rebuild, too.
CREATE TABLE parent (id text PRIMARY KEY);
CREATE TABLE child (id text REFERENCES parent DEFERRABLE INITIALLY DEFERRED);
CREATE FUNCTION child_first(event cqrs.event) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF (event).event_type = 'Child' THEN
        INSERT INTO rebuild_test.child VALUES ((event).entity_id);
    ELSE
        INSERT INTO rebuild_test.parent VALUES ((event).entity_id);
    END IF;
END
$$;
SELECT count(put('RebuildDeferred', i::text, 'Child', 'Parent')) FROM generate_series(1, 10) i;
SELECT cqrs.create_projection('rebuild deferred', 'child_first', entity_types => '{RebuildDeferred}', tables => '{parent, child}', batch_size => 4, on_failure => 'skip', max_retries => 0);
SELECT cqrs.wait_for_projection('rebuild deferred') > 0;
SELECT count(*) AS parents, (SELECT count(*) FROM child) AS children FROM parent;
SELECT cqrs.rebuild_projection('rebuild deferred');
SELECT cqrs.wait_for_projection('rebuild deferred') > 0;
SELECT count(*) AS parents, (SELECT count(*) FROM child) AS children FROM parent;
SELECT * FROM status;
-- Where that fails nothing of the batch stays.
SELECT put('RebuildDeferred', 'orphan', 'Child'), put('RebuildDeferred', 'last', 'Child', 'Parent');
SELECT cqrs.wait_for_projection('rebuild deferred') > 0;
SELECT cqrs.rebuild_projection('rebuild deferred');
SELECT cqrs.wait_for_projection('rebuild deferred') > 0;
SELECT count(*) AS orphans FROM child WHERE id NOT IN (SELECT id FROM parent);
SELECT state, last_sqlstate FROM status;
SELECT cqrs.drop_projection('rebuild deferred');

-- As its owner: rows that row security hides from him are an error, and stay.
CREATE ROLE regress_cqrs_rebuild;
GRANT ALL ON SCHEMA rebuild_test TO regress_cqrs_rebuild;
GRANT SELECT ON cqrs.journal TO regress_cqrs_rebuild;
GRANT ALL ON total TO regress_cqrs_rebuild;
CREATE FUNCTION count_owned(event cqrs.event) RETURNS void LANGUAGE sql AS $$ INSERT INTO rebuild_test.total VALUES (current_user || (event).entity_id, 1) $$;
SELECT cqrs.create_projection('rebuild owned', 'count_owned', entity_types => '{RebuildCause}', tables => '{total}');
SELECT cqrs.wait_for_projection('rebuild owned') > 0;
ALTER FUNCTION count_owned OWNER TO regress_cqrs_rebuild;
SELECT cqrs.alter_projection('rebuild owned', owner => 'regress_cqrs_rebuild');
SELECT cqrs.rebuild_projection('rebuild owned');
SELECT cqrs.wait_for_projection('rebuild owned') > 0;
SELECT * FROM total ORDER BY 1;
ALTER TABLE total ENABLE ROW LEVEL SECURITY;
CREATE POLICY one ON total USING (entity_id LIKE '%1');
SELECT cqrs.rebuild_projection('rebuild owned');
SELECT cqrs.wait_for_projection('rebuild owned');
SELECT state, last_sqlstate, last_error FROM status;
SELECT * FROM total ORDER BY 1;
SELECT cqrs.drop_projection('rebuild owned');
SET client_min_messages = warning;
DROP SCHEMA rebuild_test CASCADE;
DROP OWNED BY regress_cqrs_rebuild;
DROP ROLE regress_cqrs_rebuild;
