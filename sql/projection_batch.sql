-- A handler of batches may do with the array that it is given what it likes, in whatever language and form: what is tried again,
-- parked or recorded is what the journal has.
CREATE SCHEMA batch_test;
SET search_path = batch_test, public;
SELECT cqrs.create_journal();
CREATE TABLE seen (how text, first bigint, count integer, sliced integer, as_json text);
-- It destroys its array before it fails.
CREATE FUNCTION destroy(events cqrs.event[]) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    given cqrs.event[] := events;
BEGIN
    FOR i IN 1 .. cardinality(events) LOOP
        events[i].data := '{"destroyed": true}';
    END LOOP;
    events := events || events[1] || NULL::cqrs.event;
    IF EXISTS (SELECT FROM unnest(given) WHERE data ? 'bad') THEN
        RAISE EXCEPTION 'bad event among %', cardinality(given);
    END IF;
    INSERT INTO seen VALUES ('plpgsql', given[1].version, cardinality(given), cardinality(given[2:]), to_jsonb(given) -> 0 ->> 'data'),
        ('destroyed', events[1].version, cardinality(events), cardinality(events[2:]), to_jsonb(events) -> 0 ->> 'data');
END $$;
CREATE FUNCTION pass_on(events cqrs.event[]) RETURNS void LANGUAGE sql AS $$
    INSERT INTO seen SELECT 'sql', events[1].version, array_length(events, 1), cardinality(events[2:]), to_jsonb(events) -> 0 ->> 'data';
$$;
SELECT (cqrs.append('Batch', id, ARRAY(SELECT cqrs.new_event('Happened', data::jsonb) FROM unnest(data) data))).version
FROM (VALUES ('good', '{"{\"n\": 1}", "{\"n\": 2}", "{\"n\": 3}"}'::text[]), ('bad', '{"{\"bad\": 1}", "{\"n\": 2}"}')) AS e (id, data);
SELECT cqrs.create_projection('batch destroy', 'destroy', entity_types => '{Batch}', max_retries => 1),
       cqrs.create_projection('batch pass on', 'pass_on', entity_types => '{Batch}');
SELECT cqrs.wait_for_projection('batch destroy', timeout => '1 min') > 0, cqrs.wait_for_projection('batch pass on', timeout => '1 min') > 0;
-- How the good ones come, among others, depends on how the batch was narrowed.
SELECT how, sum(count), min(as_json) FROM seen WHERE how <> 'destroyed' GROUP BY how ORDER BY how;
SELECT entity_id, data, waiting, error FROM cqrs.parked_event JOIN cqrs.journal USING (entity_type, entity_id, position) WHERE projection = 'batch destroy';
-- The same, with all in one array.
SELECT cqrs.discard_parked('batch destroy');
DO $$
BEGIN
    FOR i IN 1 .. 3000 LOOP
        EXIT WHEN NOT EXISTS (SELECT FROM cqrs.parked_event WHERE projection = 'batch destroy');
        PERFORM pg_sleep(0.01);
    END LOOP;
END
$$;
SELECT how, first, count, sliced, as_json FROM seen WHERE as_json = '{"n": 2}' AND how = 'plpgsql' AND sliced = 0;
TRUNCATE seen;
SELECT (cqrs.append('Batch', 'good', ARRAY[cqrs.new_event('Happened', '{"n": 4}'), cqrs.new_event('Happened', '{"n": 5}')])).version;
SELECT cqrs.wait_for_projection('batch destroy', timeout => '1 min') > 0, cqrs.wait_for_projection('batch pass on', timeout => '1 min') > 0;
SELECT * FROM seen ORDER BY how;
SELECT cqrs.drop_projection('batch destroy'), cqrs.drop_projection('batch pass on');
-- By a trigger.
TRUNCATE seen;
SELECT cqrs.create_projection('batch sync', 'destroy', entity_types => '{Batch}', mode => 'sync', start_position => NULL),
       cqrs.create_projection('batch sync sql', 'pass_on', entity_types => '{Batch}', mode => 'sync', start_position => NULL);
SELECT (cqrs.append('Batch', 'good', ARRAY[cqrs.new_event('Happened', '{"n": 6}'), cqrs.new_event('Happened', '{"n": 7}')])).version;
SELECT * FROM seen ORDER BY how;
SELECT data FROM cqrs.history('Batch', 'good') WHERE data ? 'destroyed';
SELECT cqrs.drop_projection('batch sync'), cqrs.drop_projection('batch sync sql');
SET client_min_messages = warning;
DROP SCHEMA batch_test CASCADE;
