-- An async projection gets each event that it wants once, in the order of positions, and moves its offset in the same transaction.
\set SHOW_CONTEXT never
CREATE SCHEMA forward_test;
SET search_path = forward_test;
SELECT cqrs.create_journal();
CREATE TABLE seen (n integer GENERATED ALWAYS AS IDENTITY, projection text, entity_type text, entity_id text, version bigint, event_type text, position bigint, events integer);
CREATE FUNCTION put(entity_type text, entity_id text, VARIADIC types text[]) RETURNS bigint LANGUAGE sql AS $$
    SELECT (cqrs.append($1, $2, array_agg(cqrs.new_event(t, '{}')))).version FROM unnest($3) t
$$;
CREATE FUNCTION by_row(event cqrs.event) RETURNS void LANGUAGE sql AS $$
    INSERT INTO seen (projection, entity_type, entity_id, version, event_type, position, events)
    SELECT 'row', (event).entity_type, (event).entity_id, (event).version, (event).event_type, (event).position, 1 $$;
CREATE FUNCTION by_set(events cqrs.event[]) RETURNS void LANGUAGE sql AS $$
    INSERT INTO seen (projection, entity_type, entity_id, version, event_type, position, events)
    SELECT 'set', entity_type, entity_id, version, event_type, position, cardinality(events) FROM unnest(events) $$;
CREATE FUNCTION wanted(projection text, entity_types text[], event_types text[]) RETURNS text LANGUAGE sql AS $$
    SELECT CASE WHEN count(*) = 0 THEN 'exact' ELSE count(*) || ' differ' END
    FROM (SELECT row_number() OVER (ORDER BY position) AS place, entity_type, entity_id, version, position FROM cqrs.journal
          WHERE entity_type = ANY ($2) AND ($3 IS NULL OR event_type = ANY ($3))) j
    FULL JOIN (SELECT row_number() OVER (ORDER BY n) AS place, entity_type, entity_id, version, position FROM seen
               WHERE seen.projection = $1) s USING (place, entity_type, entity_id, version, position)
    WHERE j.place IS NULL OR s.place IS NULL
$$;

-- What is there when it is created, and what comes later; in batches of 4.
SELECT count(put('Fwd' || i % 3, (i % 5)::text, 'X', 'Y')) FROM generate_series(1, 30) i;
SELECT cqrs.create_projection('forward row', 'by_row', entity_types => '{Fwd0, Fwd1, Fwd2}', batch_size => 4);
SELECT cqrs.create_projection('forward set', 'by_set', entity_types => '{Fwd1, Fwd2}', event_types => '{Y, Z}', batch_size => 4);
SELECT count(put('Fwd' || i % 3, (i % 5)::text, 'X', 'Y', 'Z')) FROM generate_series(1, 30) i;
SELECT cqrs.wait_for_projection('forward row') = cqrs.last_position(), cqrs.wait_for_projection('forward set') = cqrs.last_position();
SELECT wanted('row', '{Fwd0, Fwd1, Fwd2}', NULL), wanted('set', '{Fwd1, Fwd2}', '{Y, Z}');
SELECT max(events) AS at_most FROM seen WHERE projection = 'set';

-- Offsets go past what does not match, without a write for each.
SELECT xmin AS offset_row FROM cqrs.projection_offset WHERE projection = 'forward set' \gset
SELECT count(put('FwdOther', i::text, 'Y')) FROM generate_series(1, 50) i;
SELECT cqrs.wait_for_projection('forward set') = cqrs.last_position() AS passed;
SELECT xmin::text = :'offset_row' AS not_written FROM cqrs.projection_offset WHERE projection = 'forward set';
SELECT position = high_water_mark AS at_the_end, lag_events FROM cqrs.projection_status WHERE name = 'forward set';
-- What rolls back is not projected; what comes after it is.
BEGIN;
SELECT put('Fwd1', 'undone', 'Y');
ROLLBACK;
SELECT put('Fwd1', 'done', 'Y');
SELECT cqrs.wait_for_projection('forward row') > 0, cqrs.wait_for_projection('forward set') > 0;
SELECT wanted('row', '{Fwd0, Fwd1, Fwd2}', NULL), wanted('set', '{Fwd1, Fwd2}', '{Y, Z}');
SELECT count(*) FROM seen WHERE entity_id = 'undone';
-- Filters that change hold for what comes then.
SELECT cqrs.alter_projection('forward set', entity_types => '{FwdOther}', event_types => '{}');
SELECT put('FwdOther', 'new', 'A'), put('Fwd1', 'new', 'Y');
SELECT cqrs.wait_for_projection('forward set') > 0;
SELECT entity_type, entity_id, version, event_type FROM seen WHERE projection = 'set' AND entity_id = 'new';
-- Another handler, too.
SELECT cqrs.alter_projection('forward set', 'by_row', entity_types => '{FwdAnother}');
SELECT put('FwdAnother', '1', 'A', 'B');
SELECT cqrs.wait_for_projection('forward set') > 0;
SELECT projection, event_type FROM seen WHERE entity_type = 'FwdAnother' ORDER BY n;
-- From now on, and from a position on.
SELECT cqrs.drop_projection('forward set');
SELECT cqrs.create_projection('forward now', 'by_set', entity_types => '{FwdAnother}', start_position => NULL);
SELECT put('FwdAnother', '2', 'A', 'B');
SELECT position AS from FROM cqrs.journal WHERE entity_type = 'FwdAnother' AND entity_id = '1' AND version = 1 \gset
SELECT cqrs.wait_for_projection('forward now') > 0;
SELECT entity_id, version FROM seen WHERE entity_type = 'FwdAnother' AND projection = 'set' ORDER BY n;
DELETE FROM seen;
SELECT cqrs.create_projection('forward from', 'by_set', entity_types => '{FwdAnother}', start_position => :from);
SELECT cqrs.wait_for_projection('forward from') > 0;
SELECT entity_id, version FROM seen WHERE entity_type = 'FwdAnother' AND projection = 'set' ORDER BY n;
SELECT cqrs.drop_projection('forward now'), cqrs.drop_projection('forward from'), cqrs.drop_projection('forward row');

-- An event larger than a batch may be, and names that must be quoted.
CREATE TABLE large (bytes bigint, type text);
CREATE FUNCTION large(events cqrs.event[]) RETURNS void LANGUAGE sql AS $$ INSERT INTO large SELECT sum(length(data ->> 'x')), min(event_type) FROM unnest(events) $$;
SELECT cqrs.create_projection('forward "large"', 'large', entity_types => '{"Fwd\"L''arge, {}"}', start_position => NULL);
SELECT version FROM cqrs.append('Fwd"L''arge, {}', '1', ARRAY[cqrs.new_event('A', '{"x": "1"}'), cqrs.new_event('B', jsonb_build_object('x', repeat('x', 17000000))), cqrs.new_event('C', '{"x": "1"}')]);
SELECT cqrs.wait_for_projection('forward "large"') > 0;
SELECT count(*) > 1 AS more_than_one, sum(bytes) FROM large;
SELECT cqrs.drop_projection('forward "large"');

-- What is deferred is done within the batch, and seen by what comes next.
CREATE TABLE deferred (id text PRIMARY KEY DEFERRABLE INITIALLY DEFERRED, checked boolean DEFAULT false);
CREATE FUNCTION check_it() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN UPDATE forward_test.deferred SET checked = true WHERE id = NEW.id; RETURN NULL; END $$;
CREATE CONSTRAINT TRIGGER check_it AFTER INSERT ON deferred DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION check_it();
CREATE FUNCTION deferred(event cqrs.event) RETURNS void LANGUAGE sql AS $$ INSERT INTO deferred VALUES ((event).entity_id) $$;
SELECT cqrs.create_projection('forward deferred', 'deferred', entity_types => '{FwdDeferred}', event_types => '{X}', max_retries => 0);
SELECT put('FwdDeferred', '1', 'X'), put('FwdDeferred', '2', 'X', 'X'), put('FwdDeferred', '3', 'X');
SELECT cqrs.wait_for_projection('forward deferred') > 0;
SELECT * FROM deferred ORDER BY id;
SELECT entity_id, sqlstate, error FROM cqrs.parked_event WHERE projection = 'forward deferred';
SELECT cqrs.drop_projection('forward deferred');


-- A process manager: an order is paid for by a command to the payment, and confirmed by one to the order, each once; events tell
-- what has caused them.
CREATE FUNCTION decide(state jsonb, command cqrs.command) RETURNS cqrs.effect LANGUAGE sql AS $$ SELECT cqrs.persist((command).data ->> 'event', '{}') $$;
SELECT cqrs.create_entity('FwdOrder'), cqrs.create_entity('FwdPayment');
SET client_min_messages = error;
SELECT cqrs.on_command('FwdOrder', '*', 'decide'), cqrs.on_command('FwdPayment', '*', 'decide'),
    cqrs.on_event('FwdOrder', '*', 'cqrs.merge'), cqrs.on_event('FwdPayment', '*', 'cqrs.merge');
RESET client_min_messages;
CREATE FUNCTION manage(event cqrs.event) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    CASE (event).event_type
        WHEN 'OrderPlaced' THEN PERFORM cqrs.send('FwdPayment', (event).entity_id, 'Pay', '{"event": "Paid"}');
        WHEN 'Paid' THEN PERFORM cqrs.send('FwdOrder', (event).entity_id, 'Confirm', '{"event": "OrderConfirmed"}', metadata => '{"of": "us"}');
        ELSE NULL;
    END CASE;
END
$$;
SELECT cqrs.create_projection('forward process', 'manage', entity_types => '{FwdOrder, FwdPayment}');
SELECT count(cqrs.send('FwdOrder', i::text, 'Place', '{"event": "OrderPlaced"}')) FROM generate_series(1, 20) i;
CREATE FUNCTION wait_for_confirmed(wanted integer) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    FOR i IN 1 .. 3000 LOOP
        IF (SELECT count(*) FROM cqrs.journal WHERE entity_type = 'FwdOrder' AND event_type = 'OrderConfirmed') >= wanted THEN
            RETURN 'confirmed';
        END IF;
        PERFORM pg_sleep(0.01);
    END LOOP;
    RETURN 'still not confirmed';
END
$$;
SELECT wait_for_confirmed(20);
SELECT cqrs.wait_for_projection('forward process') > 0;
SELECT entity_type, event_type, version, count(*), count(DISTINCT entity_id) FROM cqrs.journal WHERE entity_type IN ('FwdOrder', 'FwdPayment') GROUP BY 1, 2, 3 ORDER BY 1, 3;
SELECT j.entity_type, j.event_type, j.metadata - '$causation' - '$sender' AS metadata, j.metadata -> '$causation' ->> 'projection' AS projection,
    c.event_type AS caused_by, j.metadata ->> '$sender' = session_user AS by_owner
FROM cqrs.journal j LEFT JOIN cqrs.journal c ON c.position = (j.metadata -> '$causation' ->> 'position')::bigint
WHERE j.entity_type IN ('FwdOrder', 'FwdPayment') AND j.entity_id = '7' ORDER BY j.position;
-- Replayed, it may not send again; unless it was told to.
SELECT cqrs.alter_projection('forward process', on_failure => 'stop', max_retries => 0);
SELECT cqrs.reset_projection('forward process', :from);
SELECT cqrs.wait_for_projection('forward process') > 0;
SELECT state, last_sqlstate, last_error FROM cqrs.projection_status WHERE name = 'forward process';
SELECT count(*) FROM cqrs.journal WHERE entity_type IN ('FwdOrder', 'FwdPayment');
SELECT cqrs.alter_projection('forward process', replay_side_effects => true);
SELECT cqrs.resume_projection('forward process');
SELECT wait_for_confirmed(60);
SELECT entity_type, event_type, count(*) FROM cqrs.journal WHERE entity_type IN ('FwdOrder', 'FwdPayment') GROUP BY 1, 2 ORDER BY 1, 2;
SELECT cqrs.drop_projection('forward process');
SELECT cqrs.drop_entity('FwdOrder'), cqrs.drop_entity('FwdPayment');

-- Events that row security hides from the journal's owner are an error, and are not passed over.
CREATE ROLE regress_cqrs_forward;
SELECT rolname AS owner FROM pg_roles WHERE oid = (SELECT relowner FROM pg_class WHERE oid = 'cqrs.journal'::regclass) \gset
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
TRUNCATE seen;
SELECT cqrs.create_projection('forward hidden', 'by_row', entity_types => '{FwdHidden}', start_position => NULL, max_retries => 0);
SELECT cqrs.pause_projection('forward hidden');
SELECT put('FwdHidden', '1', 'X', 'Y');
ALTER TABLE cqrs.journal OWNER TO regress_cqrs_forward;
ALTER TABLE cqrs.journal ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
SELECT cqrs.resume_projection('forward hidden');
SELECT wait_for_stop('forward hidden');
SELECT last_sqlstate, last_error FROM cqrs.projection_status WHERE name = 'forward hidden';
ALTER TABLE cqrs.journal DISABLE ROW LEVEL SECURITY, NO FORCE ROW LEVEL SECURITY;
SELECT cqrs.resume_projection('forward hidden');
SELECT cqrs.wait_for_projection('forward hidden') > 0;
SELECT event_type FROM seen ORDER BY position;
SELECT cqrs.drop_projection('forward hidden');
ALTER TABLE cqrs.journal OWNER TO :"owner";
DROP ROLE regress_cqrs_forward;

SET client_min_messages = warning;
DROP SCHEMA forward_test CASCADE;
