-- A fold is what an aggregate over the events would give: an event handler is an aggregate's transition function.
ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;
CREATE SCHEMA fold_test;
SET search_path = fold_test;
SET client_min_messages = warning;

CREATE FUNCTION spell(state jsonb, command cqrs.command) RETURNS cqrs.effect
    LANGUAGE sql
    AS $$
    SELECT cqrs.persist_all(ARRAY(
        SELECT cqrs.new_event('Spelled', jsonb_build_object('letter', letter))
        FROM regexp_split_to_table(command.data ->> 'word', '') letter))
    $$;
CREATE FUNCTION spelled(state jsonb, event cqrs.event) RETURNS jsonb
    LANGUAGE sql
    AS $$ SELECT to_jsonb((state #>> '{}') || (event.data ->> 'letter')) $$;
CREATE AGGREGATE word(cqrs.event) (sfunc = spelled, stype = jsonb, initcond = '""');

-- Any JSON but null is a state, and order is everything.
SELECT cqrs.create_entity('fold.Word', initial_state => '""', snapshot_every => 4);
SELECT cqrs.on_command('fold.Word', 'Spell', 'spell');
SELECT cqrs.on_event('fold.Word', 'Spelled', 'spelled');
SELECT version FROM cqrs.send('fold.Word', 'w', 'Spell', '{"word": "event"}');
SELECT version FROM cqrs.send('fold.Word', 'w', 'Spell', '{"word": "sourcing"}');
SELECT cqrs.state('fold.Word', 'w');
SELECT word(e ORDER BY e.version) FROM cqrs.history('fold.Word', 'w') e;
SELECT word(e ORDER BY e.version) = cqrs.state('fold.Word', 'w') AS same FROM cqrs.history('fold.Word', 'w') e;
-- As a window function, the aggregate gives the states of all versions.
SELECT e.version, word(e) OVER (ORDER BY e.version) AS state, word(e) OVER (ORDER BY e.version) = cqrs.state('fold.Word', 'w', e.version) AS same
FROM cqrs.history('fold.Word', 'w') e;
-- Over many entities it is a read model in one query.
SELECT version FROM cqrs.send('fold.Word', 'x', 'Spell', '{"word": "fold"}');
SELECT j.entity_id, word(ROW(position, slice, entity_type, entity_id, version, event_type, schema_version, data, metadata, created_at)::cqrs.event
    ORDER BY version)
FROM cqrs.journal j WHERE entity_type = 'fold.Word' GROUP BY j.entity_id ORDER BY 1;

-- 2,000 events are read in chunks and folded to the same, from the beginning, from a snapshot, at and around chunks' ends.
CREATE FUNCTION digest(state jsonb, event cqrs.event) RETURNS jsonb
    LANGUAGE sql
    AS $$ SELECT jsonb_build_object('n', (state ->> 'n')::int + 1, 'md5', md5(state ->> 'md5' || (event.data ->> 'i') || event.version)) $$;
CREATE AGGREGATE digest_of(cqrs.event) (sfunc = digest, stype = jsonb, initcond = '{"n": 0, "md5": ""}');
SELECT cqrs.create_entity('fold.Long', initial_state => '{"n": 0, "md5": ""}');
SELECT cqrs.on_event('fold.Long', '*', 'digest');
SELECT version FROM cqrs.append('fold.Long', 'l', (SELECT array_agg(cqrs.new_event('E', jsonb_build_object('i', i)) ORDER BY i) FROM generate_series(1, 2000) i));
SET cqrs.state_cache_size = 0;
SELECT cqrs.state('fold.Long', 'l') = digest_of(e ORDER BY e.version) AS same, cqrs.state('fold.Long', 'l') -> 'n' AS folded FROM cqrs.history('fold.Long', 'l') e;
SELECT count(*), bool_and(state = cqrs.state('fold.Long', 'l', version)) AS same
FROM (SELECT e.version, digest_of(e) OVER (ORDER BY e.version) AS state FROM cqrs.history('fold.Long', 'l') e) versions
WHERE version % 200 IN (199, 0, 1) OR version < 3;
SELECT cqrs.take_snapshot('fold.Long', 'l');
SELECT version FROM cqrs.append('fold.Long', 'l', (SELECT array_agg(cqrs.new_event('E', jsonb_build_object('i', i)) ORDER BY i) FROM generate_series(2001, 2600) i));
SELECT cqrs.state('fold.Long', 'l') = digest_of(e ORDER BY e.version) AS same, cqrs.state('fold.Long', 'l') -> 'n' AS folded FROM cqrs.history('fold.Long', 'l') e;
RESET cqrs.state_cache_size;

-- One command may be as long, and its events are folded as they are written.
SELECT cqrs.alter_entity('fold.Word', snapshot_every => 0);
SELECT version FROM cqrs.send('fold.Word', 'long', 'Spell', jsonb_build_object('word', repeat('abcde', 300)));
SELECT cqrs.state('fold.Word', 'long') = to_jsonb(repeat('abcde', 300)) AS same;
SET cqrs.state_cache_size = 0;
SELECT cqrs.state('fold.Word', 'long') = to_jsonb(repeat('abcde', 300)) AS same;
RESET cqrs.state_cache_size;

-- A state larger than a page (and compressed on disk) comes back whole from a snapshot.
CREATE FUNCTION grow(state jsonb, event cqrs.event) RETURNS jsonb
    LANGUAGE sql
    AS $$ SELECT state || (SELECT jsonb_object_agg(event.version || '-' || i, md5(i::text)) FROM generate_series(1, 300) i) $$;
SELECT cqrs.create_entity('fold.Big', snapshot_every => 1);
SELECT cqrs.on_event('fold.Big', '*', 'grow');
SELECT version FROM cqrs.append('fold.Big', 'b', ARRAY[cqrs.new_event('E', '{}'), cqrs.new_event('E', '{}')]);
SELECT cqrs.take_snapshot('fold.Big', 'b');
SET cqrs.state_cache_size = 0;
SELECT count(*), cqrs.state('fold.Big', 'b') = s.state AS same FROM cqrs.snapshot s, jsonb_object_keys(cqrs.state('fold.Big', 'b'))
WHERE s.entity_type = 'fold.Big' GROUP BY s.state;
RESET cqrs.state_cache_size;

-- The error of an event names it, wherever in the fold it is.
CREATE FUNCTION refuse(state jsonb, event cqrs.event) RETURNS jsonb
    LANGUAGE plpgsql
    AS $$
BEGIN
    IF event.version = 555 THEN
        RAISE EXCEPTION 'not this one';
    END IF;
    RETURN state;
END
$$;
SELECT cqrs.on_event('fold.Long', 'E', 'refuse');
SELECT cqrs.state('fold.Long', 'l');
SELECT cqrs.state('fold.Long', 'l', 554);

SELECT cqrs.drop_entity(t) FROM unnest('{fold.Word, fold.Long, fold.Big}'::text[]) t;
DROP SCHEMA fold_test CASCADE;
ALTER DEFAULT PRIVILEGES GRANT EXECUTE ON FUNCTIONS TO PUBLIC;
