-- The number of partitions of a projection can be changed while it runs: each event is projected once, those of an entity in order.
\set SHOW_CONTEXT never
CREATE SCHEMA split_test;
SET search_path = split_test;
SELECT cqrs.create_journal();
CREATE FUNCTION put(entity_type text, entity_id text, VARIADIC types text[]) RETURNS bigint LANGUAGE sql AS $$
    SELECT (cqrs.append($1, $2, array_agg(cqrs.new_event(t, '{}')))).version FROM unnest($3) t
$$;
-- Each event is one version further: the handler fails otherwise.
CREATE TABLE last (entity_id text PRIMARY KEY, version bigint, events bigint);
CREATE FUNCTION next(event cqrs.event) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF (event).event_type = 'Bad' THEN
        RAISE 'bad';
    END IF;
    INSERT INTO last VALUES ((event).entity_id, (event).version, 1)
        ON CONFLICT (entity_id) DO UPDATE SET version = excluded.version, events = last.events + 1 WHERE last.version = excluded.version - 1;
    IF NOT FOUND THEN
        RAISE 'not the next one';
    END IF;
END
$$;
CREATE FUNCTION differences() RETURNS bigint LANGUAGE sql AS $$
    SELECT count(*) FROM (SELECT entity_id, max(version) AS version, count(*) AS events FROM cqrs.journal WHERE entity_type = 'Split' GROUP BY 1) j
    FULL JOIN last t USING (entity_id, version, events) WHERE j.entity_id IS NULL OR t.entity_id IS NULL
$$;
CREATE VIEW offsets AS SELECT slice, next_slice, parked, skipped FROM cqrs.projection_offset WHERE projection = 'split' ORDER BY slice;
CREATE FUNCTION wait_for_partitions(wanted integer) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    FOR i IN 1 .. 3000 LOOP
        IF (SELECT barrier IS NULL FROM cqrs.projection WHERE name = 'split') AND (SELECT count(*) FROM offsets) = wanted THEN
            RETURN 'split';
        END IF;
        PERFORM pg_sleep(0.01);
    END LOOP;
    RETURN 'still not split';
END
$$;

SELECT count(put('Split', (i % 40)::text, 'X', 'X')) FROM generate_series(1, 400) i;
SELECT cqrs.create_projection('split', 'next', entity_types => '{Split}', batch_size => 7, max_retries => 0);
SELECT cqrs.alter_projection('split', partitions => 4);
SELECT count(put('Split', (i % 40)::text, 'X', 'X')) FROM generate_series(1, 100) i;
SELECT cqrs.alter_projection('split', partitions => 2);
SELECT count(put('Split', (i % 40)::text, 'X', 'X')) FROM generate_series(1, 100) i;
SELECT cqrs.alter_projection('split', partitions => 64);
SELECT count(put('Split', (i % 40)::text, 'X', 'X')) FROM generate_series(1, 100) i;
SELECT wait_for_partitions(64);
SELECT cqrs.wait_for_projection('split', timeout => '1 min') = cqrs.last_position() AS done;
SELECT differences();
SELECT count(*), sum(next_slice - slice), min(next_slice - slice), max(next_slice - slice) FROM offsets;
SELECT cqrs.alter_projection('split', partitions => 3);
SELECT wait_for_partitions(3);
SELECT slice, next_slice FROM offsets;
SELECT put('Split', '1', 'X');
SELECT cqrs.wait_for_projection('split') > 0;
SELECT differences();

-- What is parked and counted goes along.
SELECT cqrs.alter_projection('split', on_failure => 'skip');
SELECT put('Split', 'skipped', 'X', 'Bad');
SELECT cqrs.wait_for_projection('split') > 0;
SELECT cqrs.alter_projection('split', on_failure => 'park');
SELECT put('Split', i::text, 'X', 'Bad', 'X') IS NULL AS failed FROM generate_series(1, 5) i;
SELECT cqrs.wait_for_projection('split') > 0;
SELECT sum(parked) AS parked, sum(skipped) AS skipped FROM offsets;
SELECT cqrs.alter_projection('split', partitions => 1);
SELECT wait_for_partitions(1);
SELECT * FROM offsets;
SELECT cqrs.alter_projection('split', partitions => 16);
SELECT wait_for_partitions(16);
SELECT sum(parked) AS parked, sum(skipped) AS skipped FROM offsets;
SELECT (SELECT parked FROM offsets WHERE slice <= k.slice AND next_slice > k.slice) > 0 AS in_its_partition FROM cqrs.parked_entity k WHERE projection = 'split';
SELECT cqrs.discard_parked('split');
SELECT cqrs.wait_for_projection('split') > 0;

-- While it is paused, with partitions at different positions, the number may be changed again and again, and the offset be reset.
SELECT cqrs.drop_projection('split');
DELETE FROM last;
SET cqrs.allow_journal_changes = on;
DELETE FROM cqrs.journal WHERE entity_type = 'Split';
RESET cqrs.allow_journal_changes;
SELECT cqrs.create_projection('split', 'next', entity_types => '{Split}', partitions => 8, start_position => NULL);
SELECT count(put('Split', i::text, 'X')) FROM generate_series(1, 3) i;
SELECT cqrs.wait_for_projection('split') > 0;
SELECT cqrs.pause_projection('split');
-- As if it had not read so far; it has no event there.
UPDATE cqrs.projection_offset SET position = position - 1
    WHERE projection = 'split' AND NOT int4range(slice, next_slice) @> cqrs.slice('Split', '3') AND slice = (SELECT min(slice) FROM cqrs.projection_offset
    WHERE projection = 'split' AND NOT int4range(slice, next_slice) @> cqrs.slice('Split', '3'));
SELECT count(DISTINCT position) > 1 AS at_different_positions FROM cqrs.projection_offset WHERE projection = 'split';
SELECT cqrs.alter_projection('split', partitions => 4);
SELECT cqrs.alter_projection('split', partitions => 2);
SELECT count(*) AS not_yet FROM offsets;
SELECT cqrs.resume_projection('split');
SELECT wait_for_partitions(2);
SELECT count(put('Split', i::text, 'X')) FROM generate_series(1, 3) i;
SELECT cqrs.wait_for_projection('split') > 0;
SELECT differences();
SELECT put('Split', '1', 'X');
SELECT cqrs.wait_for_projection('split') > 0;
SELECT cqrs.pause_projection('split');
-- As if it had not read so far; it has no event there.
UPDATE cqrs.projection_offset SET position = position - 1
    WHERE projection = 'split' AND NOT int4range(slice, next_slice) @> cqrs.slice('Split', '1') AND slice = (SELECT min(slice) FROM cqrs.projection_offset
    WHERE projection = 'split' AND NOT int4range(slice, next_slice) @> cqrs.slice('Split', '1'));
SELECT count(DISTINCT position) > 1 AS at_different_positions FROM cqrs.projection_offset WHERE projection = 'split';
SELECT cqrs.alter_projection('split', partitions => 5);
SELECT count(put('Split', i::text, 'X')) FROM generate_series(1, 3) i;
UPDATE last SET version = version + 1, events = events + 1;
SELECT cqrs.reset_projection('split', cqrs.last_position());
SELECT cqrs.resume_projection('split');
SELECT wait_for_partitions(5);
SELECT put('Split', '1', 'X');
SELECT cqrs.wait_for_projection('split') > 0;
SELECT differences();
-- Backwards, too.
SELECT put('Split', '2', 'X');
SELECT cqrs.wait_for_projection('split') > 0;
SELECT cqrs.pause_projection('split');
SELECT cqrs.alter_projection('split', partitions => 3);
SELECT cqrs.reset_projection('split', (SELECT min(position) - 1 FROM cqrs.journal WHERE entity_type = 'Split'));
DELETE FROM last;
SELECT cqrs.resume_projection('split');
SELECT wait_for_partitions(3);
SELECT cqrs.wait_for_projection('split') > 0;
SELECT differences();

-- To a sync one: only with one partition.
SELECT cqrs.alter_projection('split', mode => 'sync');
\echo :SQLSTATE
SELECT cqrs.alter_projection('split', mode => 'sync', partitions => 1);
DO $$
BEGIN
    FOR i IN 1 .. 3000 LOOP
        EXIT WHEN (SELECT has_trigger FROM cqrs.projection WHERE name = 'split');
        PERFORM pg_sleep(0.01);
    END LOOP;
END
$$;
SELECT * FROM offsets;
SELECT put('Split', '2', 'X');
SELECT differences();
SELECT cqrs.alter_projection('split', partitions => 2);
\echo :SQLSTATE
SELECT cqrs.drop_projection('split');
SET client_min_messages = warning;
DROP SCHEMA split_test CASCADE;
