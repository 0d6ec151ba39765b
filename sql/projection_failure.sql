-- A projection that fails holds up as little as it was told to: an event that fails is tried again, then parked with its entity,
-- passed over, or the projection stops there; all others go through once and in order.
\set SHOW_CONTEXT never
CREATE SCHEMA failure_test;
SET search_path = failure_test;
SELECT cqrs.create_journal();
CREATE TABLE seen (n integer GENERATED ALWAYS AS IDENTITY, projection text, entity_id text, version bigint, event_type text);
CREATE TABLE bad (event_type text PRIMARY KEY);
INSERT INTO bad VALUES ('Bad');
CREATE SEQUENCE attempts;
CREATE FUNCTION put(entity_type text, entity_id text, VARIADIC types text[]) RETURNS bigint LANGUAGE sql AS $$
    SELECT (cqrs.append($1, $2, array_agg(cqrs.new_event(t, '{}')))).version FROM unnest($3) t
$$;
CREATE FUNCTION by_row(event cqrs.event) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT FROM bad b WHERE b.event_type = (event).event_type) THEN
        PERFORM nextval('attempts');
        RAISE 'cannot project %', (event).event_type USING ERRCODE = 'XY001';
    END IF;
    INSERT INTO seen (projection, entity_id, version, event_type) VALUES ((event).entity_type, (event).entity_id, (event).version, (event).event_type);
END
$$;
CREATE FUNCTION by_set(events cqrs.event[]) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO seen (projection, entity_id, version, event_type) SELECT entity_type, entity_id, version, event_type FROM unnest(events);
    IF EXISTS (SELECT FROM bad b JOIN unnest(events) e ON b.event_type = e.event_type) THEN
        RAISE 'cannot project this batch' USING ERRCODE = 'XY002';
    END IF;
END
$$;
CREATE VIEW parked AS
    SELECT projection, entity_type, entity_id, event_type, waiting, sqlstate, error, attempts, first_failed_at <= last_failed_at AS times, retry
    FROM cqrs.parked_event WHERE projection LIKE 'failure%' ORDER BY projection, position;
CREATE VIEW status AS
    SELECT name, state, parked, skipped, last_sqlstate, last_error FROM cqrs.projection_status WHERE name LIKE 'failure%' ORDER BY name;
CREATE FUNCTION wait_for_stop(projection text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    FOR i IN 1 .. 3000 LOOP
        IF (SELECT state FROM cqrs.projection_status WHERE name = projection) = 'stopped' THEN
            RETURN 'stopped';
        END IF;
        PERFORM pg_sleep(0.01);
    END LOOP;
    RETURN 'still not stopped';
END
$$;
CREATE FUNCTION wait_for_retry(wanted text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    FOR i IN 1 .. 3000 LOOP
        IF NOT EXISTS (SELECT FROM cqrs.parked_entity k WHERE k.projection = wanted AND k.retry) THEN
            RETURN 'retried';
        END IF;
        PERFORM pg_sleep(0.01);
    END LOOP;
    RETURN 'still not retried';
END
$$;

-- Park: the event and all later ones of its entity wait, everything else flows; each good event was seen once.
SELECT cqrs.create_projection('failure row', 'by_row', entity_types => '{FailRow}', max_retries => 2);
SELECT cqrs.create_projection('failure set', 'by_set', entity_types => '{FailSet}', max_retries => 1);
CREATE FUNCTION put_many(entity_type text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    FOR i IN 1 .. 40 LOOP
        PERFORM put(entity_type, (i % 10)::text, CASE WHEN i IN (13, 27) THEN 'Bad' ELSE 'Good' END, 'Good');
    END LOOP;
END
$$;
SELECT put_many('FailRow'), put_many('FailSet');
SELECT cqrs.wait_for_projection('failure row') > 0, cqrs.wait_for_projection('failure set') > 0;
SELECT * FROM parked;
SELECT * FROM status;
SELECT last_value AS attempts FROM attempts;
CREATE VIEW per_entity AS
    SELECT projection, entity_id, string_agg(version || left(event_type, 1), ' ' ORDER BY n) AS events FROM seen GROUP BY 1, 2 ORDER BY 1, 2;
SELECT * FROM per_entity;
-- Later events of these entities wait; one that is retried in vain stays where it is.
SELECT put('FailRow', '3', 'Good'), put('FailRow', '4', 'Good');
SELECT cqrs.wait_for_projection('failure row') > 0;
SELECT cqrs.retry_parked('failure row', 'FailRow', '3');
SELECT wait_for_retry('failure row');
SELECT * FROM parked WHERE projection = 'failure row';
-- Mended, they are replayed in order: one, all.
DELETE FROM bad;
SELECT cqrs.retry_parked('failure row', entity_id => '3');
SELECT wait_for_retry('failure row');
SELECT * FROM parked WHERE projection = 'failure row';
SELECT cqrs.retry_parked('failure row', 'FailRow'), cqrs.retry_parked('failure set'), cqrs.retry_parked('failure set', 'FailRow');
SELECT wait_for_retry('failure row'), wait_for_retry('failure set');
SELECT count(*) FROM parked;
SELECT * FROM status;
SELECT * FROM per_entity WHERE entity_id IN ('3', '7');
-- What comes then comes as usual.
SELECT put('FailRow', '3', 'Good'), put('FailSet', '3', 'Good');
SELECT cqrs.wait_for_projection('failure row') > 0, cqrs.wait_for_projection('failure set') > 0;
SELECT projection, max(version), count(*), count(DISTINCT version) FROM seen WHERE entity_id = '3' GROUP BY 1 ORDER BY 1;
-- Discarded, the event is passed over and counted, and what has waited comes; a second bad one parks again, further on.
INSERT INTO bad VALUES ('Bad');
SELECT put('FailRow', 'd', 'Good', 'Bad', 'Good', 'Bad', 'Good');
SELECT cqrs.wait_for_projection('failure row') > 0;
SELECT * FROM parked;
SELECT cqrs.discard_parked('failure row', 'FailRow', 'd');
SELECT wait_for_retry('failure row'), cqrs.wait_for_projection('failure row') > 0;
SELECT * FROM parked;
SELECT cqrs.discard_parked('failure row');
SELECT wait_for_retry('failure row'), cqrs.wait_for_projection('failure row') > 0;
SELECT * FROM status WHERE name = 'failure row';
SELECT events FROM per_entity WHERE entity_id = 'd';
SELECT cqrs.discard_parked('failure row'), cqrs.retry_parked('failure row');
-- A batch of a replay that fails is taken apart like any other.
SELECT put('FailSet', 'd', 'Good', 'Bad', 'Good', 'Good', 'Worse', 'Good');
SELECT cqrs.wait_for_projection('failure set') > 0;
DELETE FROM bad;
INSERT INTO bad VALUES ('Worse');
SELECT cqrs.retry_parked('failure set');
SELECT wait_for_retry('failure set'), cqrs.wait_for_projection('failure set') > 0;
SELECT * FROM parked;
SELECT events FROM per_entity WHERE projection = 'FailSet' AND entity_id = 'd';
SELECT cqrs.discard_parked('failure set');
SELECT wait_for_retry('failure set'), cqrs.wait_for_projection('failure set') > 0;
SELECT events FROM per_entity WHERE projection = 'FailSet' AND entity_id = 'd';
-- An entity that is parked may fail earlier when its events come once more.
INSERT INTO bad VALUES ('Bad');
SELECT put('FailRow', 'e', 'Early', 'Good', 'Bad', 'Good');
SELECT cqrs.wait_for_projection('failure row') > 0;
INSERT INTO bad VALUES ('Early');
SELECT cqrs.reset_projection('failure row', (SELECT position - 1 FROM cqrs.journal WHERE entity_type = 'FailRow' AND entity_id = 'e' AND version = 1));
SELECT put('FailRow', 'f', 'Good');
SELECT cqrs.wait_for_projection('failure row') > 0;
SELECT * FROM parked;
SELECT parked FROM status WHERE name = 'failure row';
DELETE FROM bad;
SELECT cqrs.retry_parked('failure row');
SELECT wait_for_retry('failure row'), cqrs.wait_for_projection('failure row') > 0;
SELECT events FROM per_entity WHERE projection = 'FailRow' AND entity_id IN ('e', 'f');
SELECT parked FROM status WHERE name = 'failure row';
-- Dropped, nothing of it is left.
INSERT INTO bad VALUES ('Bad');
SELECT put('FailRow', 'g', 'Bad');
SELECT cqrs.wait_for_projection('failure row') > 0;
SELECT cqrs.drop_projection('failure row'), cqrs.drop_projection('failure set');
SELECT count(*) FROM cqrs.parked_entity WHERE projection LIKE 'failure%';

-- Skip: it is passed over and counted.
TRUNCATE seen;
SELECT cqrs.create_projection('failure skip', 'by_row', entity_types => '{FailSkip}', on_failure => 'skip', max_retries => 0);
SELECT put('FailSkip', '1', 'Good', 'Bad', 'Good', 'Bad', 'Good'), put('FailSkip', '2', 'Bad');
SELECT cqrs.wait_for_projection('failure skip') > 0;
SELECT * FROM status;
SELECT * FROM per_entity;
SELECT cqrs.drop_projection('failure skip');

-- Stop: nothing more until it is resumed, at the event that has failed.
SELECT setval('attempts', 1, false);
SELECT cqrs.create_projection('failure stop', 'by_row', entity_types => '{FailStop}', on_failure => 'stop', max_retries => 2);
SELECT put('FailStop', '1', 'Good', 'Bad', 'Good'), put('FailStop', '2', 'Good');
SELECT cqrs.wait_for_projection('failure stop');
\echo :SQLSTATE
SELECT * FROM status;
SELECT last_error_at IS NOT NULL AS time FROM cqrs.projection_status WHERE name = 'failure stop';
SELECT last_value FROM attempts;
SELECT * FROM per_entity WHERE projection = 'FailStop';
SELECT cqrs.resume_projection('failure stop');
SELECT cqrs.wait_for_projection('failure stop');
SELECT last_value FROM attempts;
DELETE FROM bad;
SELECT cqrs.resume_projection('failure stop');
SELECT cqrs.wait_for_projection('failure stop') > 0;
SELECT * FROM per_entity WHERE projection = 'FailStop';
SELECT name, state FROM status;
SELECT cqrs.drop_projection('failure stop');

-- The fuse: with max_parked entities parked it stops; also when 10 were parked one after the other, and anew after it was resumed.
INSERT INTO bad VALUES ('Bad');
SELECT cqrs.create_projection('failure fuse', 'by_row', entity_types => '{FailFuse}', max_retries => 0, max_parked => 2);
SELECT put('FailFuse', '1', 'Bad'), put('FailFuse', '2', 'Good'), put('FailFuse', '3', 'Bad'), put('FailFuse', '4', 'Bad', 'Good'), put('FailFuse', '5', 'Good');
SELECT wait_for_stop('failure fuse');
SELECT * FROM status;
SELECT entity_id FROM parked;
SELECT * FROM per_entity WHERE projection = 'FailFuse';
SELECT cqrs.alter_projection('failure fuse', max_parked => 100);
SELECT cqrs.resume_projection('failure fuse');
SELECT cqrs.wait_for_projection('failure fuse') > 0;
SELECT entity_id FROM parked;
SELECT * FROM per_entity WHERE projection = 'FailFuse';
SELECT count(put('FailFuse', 'x' || i, 'Bad')) FROM generate_series(1, 12) i;
SELECT wait_for_stop('failure fuse');
SELECT * FROM status;
SELECT count(put('FailFuse', 'y' || i, 'Bad')) FROM generate_series(1, 4) i;
SELECT cqrs.resume_projection('failure fuse');
SELECT cqrs.wait_for_projection('failure fuse') > 0;
SELECT * FROM status;
SELECT cqrs.drop_projection('failure fuse');
-- With max_parked 0 nothing is parked.
SELECT cqrs.create_projection('failure fuse', 'by_row', entity_types => '{FailFuse}', event_types => '{Bad}', max_retries => 0, max_parked => 0);
SELECT wait_for_stop('failure fuse');
SELECT * FROM status;
SELECT cqrs.drop_projection('failure fuse');

-- What the system is to blame for is tried again for as long as it takes, and never counted.
CREATE SEQUENCE lost;
CREATE FUNCTION lose(event cqrs.event) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF nextval('lost') < 10 THEN
        RAISE 'not now' USING ERRCODE = (ARRAY['08006', '25006', '40P01', '53100', '55P03', '57014', '58030', 'XX001', 'XX002'])[currval('lost')];
    END IF;
END
$$;
SELECT cqrs.create_projection('failure lost', 'lose', entity_types => '{FailLost}', max_retries => 0, on_failure => 'stop');
SELECT put('FailLost', '1', 'X');
SELECT cqrs.wait_for_projection('failure lost', timeout => '1 min') > 0;
SELECT name, state, parked, skipped FROM status;
SELECT retries FROM cqrs.projection_status WHERE name = 'failure lost';
SELECT last_value FROM lost;
SELECT cqrs.drop_projection('failure lost');

-- A handler that takes too long is to blame itself.
CREATE FUNCTION slow(event cqrs.event) RETURNS void LANGUAGE sql AS $$ SELECT pg_sleep(CASE (event).event_type WHEN 'Slow' THEN 600 ELSE 0 END) $$;
SELECT cqrs.create_projection('failure slow', 'slow', entity_types => '{FailSlow}', max_retries => 0, handler_timeout => '50 ms');
SELECT put('FailSlow', '1', 'X', 'Slow', 'X'), put('FailSlow', '2', 'X');
SELECT cqrs.wait_for_projection('failure slow', timeout => '1 min') > 0;
SELECT * FROM parked;
SELECT cqrs.drop_projection('failure slow');

-- A projection whose handler is gone, or is not its owner's any more, or whose owner is gone, stops.
CREATE ROLE regress_cqrs_failure;
GRANT SELECT ON cqrs.journal TO regress_cqrs_failure;
GRANT USAGE ON SCHEMA failure_test TO regress_cqrs_failure;
CREATE FUNCTION gone(event cqrs.event) RETURNS void LANGUAGE sql AS '';
SELECT cqrs.create_projection('failure gone', 'gone', entity_types => '{FailGone}', max_retries => 1);
ALTER FUNCTION gone OWNER TO regress_cqrs_failure;
SELECT put('FailGone', '1', 'X');
SELECT wait_for_stop('failure gone');
SELECT * FROM status;
SELECT cqrs.alter_projection('failure gone', owner => 'regress_cqrs_failure');
SELECT cqrs.resume_projection('failure gone');
SELECT cqrs.wait_for_projection('failure gone') > 0;
SELECT put('FailGone', '1', 'X');
SELECT cqrs.wait_for_projection('failure gone') > 0;
DROP FUNCTION gone;
SELECT put('FailGone', '1', 'X');
SELECT wait_for_stop('failure gone');
SELECT * FROM status;
CREATE FUNCTION gone(event cqrs.event) RETURNS void LANGUAGE sql AS '';
ALTER FUNCTION gone OWNER TO regress_cqrs_failure;
SELECT cqrs.resume_projection('failure gone');
SELECT cqrs.wait_for_projection('failure gone') > 0;
REASSIGN OWNED BY regress_cqrs_failure TO CURRENT_USER;
DROP OWNED BY regress_cqrs_failure;
DROP ROLE regress_cqrs_failure;
SELECT put('FailGone', '1', 'X');
SELECT wait_for_stop('failure gone');
SELECT * FROM status;
SELECT cqrs.alter_projection('failure gone', owner => current_user::name);
SELECT cqrs.resume_projection('failure gone');
SELECT cqrs.wait_for_projection('failure gone') > 0;
SELECT cqrs.drop_projection('failure gone');

-- A sync projection that fails while it catches up stops, since a trigger could hold nothing back; skip passes over.
SELECT put('FailSync', '1', 'Good', 'Bad', 'Good');
TRUNCATE seen;
SELECT cqrs.create_projection('failure sync', 'by_row', entity_types => '{FailSync}', mode => 'sync', max_retries => 0);
SELECT wait_for_stop('failure sync');
SELECT * FROM status;
SELECT cqrs.alter_projection('failure sync', on_failure => 'skip');
SELECT cqrs.resume_projection('failure sync');
DO $$
BEGIN
    FOR i IN 1 .. 3000 LOOP
        EXIT WHEN (SELECT has_trigger FROM cqrs.projection WHERE name = 'failure sync');
        PERFORM pg_sleep(0.01);
    END LOOP;
END
$$;
SELECT * FROM status;
SELECT * FROM per_entity;
SELECT cqrs.drop_projection('failure sync');

-- An event is passed over once, however often that is asked for before a worker comes to it.
TRUNCATE seen;
SELECT put('FailTwice', '1', 'Good', 'Bad', 'Good', 'Good');
SELECT cqrs.create_projection('failure twice', 'by_row', entity_types => '{FailTwice}', max_retries => 0);
SELECT cqrs.wait_for_projection('failure twice') > 0;
BEGIN;
SELECT cqrs.discard_parked('failure twice');
SELECT cqrs.discard_parked('failure twice');
COMMIT;
SELECT wait_for_retry('failure twice'), cqrs.wait_for_projection('failure twice') > 0;
SELECT version, event_type FROM seen ORDER BY version;
SELECT parked, skipped FROM status WHERE name = 'failure twice';
SELECT cqrs.drop_projection('failure twice');

SET client_min_messages = warning;
DROP SCHEMA failure_test CASCADE;
