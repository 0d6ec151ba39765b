-- cqrs.merge gives what state || data gives, however many events are merged at once.
SET cqrs.state_cache_size = 0;
CREATE FUNCTION merge_slowly(state jsonb, event cqrs.event) RETURNS jsonb LANGUAGE sql RETURN state || event.data;
CREATE FUNCTION add_seen(state jsonb, event cqrs.event) RETURNS jsonb LANGUAGE sql RETURN state || jsonb_build_object('seen', event.version, 'keys', (SELECT count(*) FROM jsonb_object_keys(state)));
CREATE FUNCTION merge_upcast(event cqrs.event) RETURNS cqrs.event LANGUAGE plpgsql AS $$
BEGIN
    event.data := event.data || '{"upcast": true}';
    RETURN event;
END
$$;
SELECT cqrs.create_entity(name, initial, snapshot_every => 0)
FROM (VALUES ('merge.Object', jsonb '{"a": 0, "z": {"y": [1]}}'), ('merge.Array', '[1]'), ('merge.Scalar', '7')) types (name, initial);
-- Handlers of the same type that are not cqrs.merge make it a jsonb in between.
SELECT count(cqrs.on_event(name, event_type, handler))
FROM unnest(ARRAY['merge.Object', 'merge.Array', 'merge.Scalar']) name,
    (VALUES ('Set', 'cqrs.merge'), ('Old', 'cqrs.merge'), ('Other', 'merge_slowly'), ('Count', 'add_seen')) handlers (event_type, handler);
-- Keys and values of all kinds, from a generator that gives the same each time.
CREATE FUNCTION some_event(i int) RETURNS cqrs.new_event LANGUAGE sql AS $$
    SELECT cqrs.new_event((ARRAY['Set', 'Set', 'Set', 'Set', 'Set', 'Other', 'Count'])[1 + abs(hashint4(i)::bigint) % 7],
        CASE abs(hashint4(i * 31)::bigint) % 9
            WHEN 0 THEN '{}'
            WHEN 1 THEN jsonb_build_object('', i, repeat('k', i % 40), i)
            WHEN 2 THEN jsonb_build_object('a', jsonb_build_object('b', jsonb_build_array(i, NULL, jsonb_build_object('c', i))))
            WHEN 3 THEN jsonb_build_object('a', NULL, 'n', i * 1.5, 't', i % 2 = 0)
            WHEN 4 THEN jsonb_build_object('k' || i % 50, repeat('v', i % 300))
            WHEN 5 THEN jsonb_build_object('鍵' || i % 5, '値', 'z', '[]'::jsonb)
            ELSE (SELECT jsonb_object_agg('m' || (i * j) % 60, i) FROM generate_series(1, i % 20 + 1) j)
        END)
$$;
SELECT max((cqrs.append('merge.Object', 'e', ARRAY(SELECT some_event(i) FROM generate_series(n * 100, n * 100 + 99) i))).version)
FROM generate_series(0, 2) n;
SELECT event_type, count(*) FROM cqrs.history('merge.Object', 'e') GROUP BY 1 ORDER BY 1;

-- The fold by SQL, to each version.
CREATE FUNCTION fold_slowly(of_type text, of_entity text, initial jsonb) RETURNS TABLE (version bigint, state jsonb) LANGUAGE plpgsql AS $$
DECLARE
    event cqrs.event;
BEGIN
    state := initial;
    FOR event IN SELECT (j).* FROM cqrs.journal j WHERE entity_type = of_type AND entity_id = of_entity ORDER BY j.version LOOP
        state := CASE event.event_type WHEN 'Count' THEN add_seen(state, event)
            WHEN 'Old' THEN merge_slowly(state, merge_upcast(event)) ELSE merge_slowly(state, event) END;
        version := event.version;
        RETURN NEXT;
    END LOOP;
END
$$;
SELECT count(*), count(*) FILTER (WHERE cqrs.state('merge.Object', 'e', version) IS DISTINCT FROM state) AS differ
FROM fold_slowly('merge.Object', 'e', '{"a": 0, "z": {"y": [1]}}');
-- Not only equal, but stored in the same way.
SELECT count(*) FILTER (WHERE jsonb_send(cqrs.state('merge.Object', 'e', version)) <> jsonb_send(state)
    OR pg_column_size(cqrs.state('merge.Object', 'e', version)) <> pg_column_size(state)) AS differ
FROM fold_slowly('merge.Object', 'e', '{"a": 0, "z": {"y": [1]}}') WHERE version % 30 = 0;

-- What is no object is left to the operator.
SELECT max((cqrs.append(name, 'x', ARRAY[cqrs.new_event('Set', '{"a": 1}'), cqrs.new_event('Set', '{"b": 2}'), cqrs.new_event('Set', '[3]'),
    cqrs.new_event('Set', '{"c": 4}'), cqrs.new_event('Set', '5')])).version) FROM unnest(ARRAY['merge.Array', 'merge.Object']) name;
SELECT cqrs.state(name, 'x', 2), cqrs.state(name, 'x') FROM unnest(ARRAY['merge.Array', 'merge.Object']) name;
SELECT max((cqrs.append('merge.Scalar', 'x', ARRAY[cqrs.new_event('Set', '[3]'), cqrs.new_event('Set', '[4]')])).version);
SELECT cqrs.state('merge.Scalar', 'x');
SELECT max((cqrs.append('merge.Scalar', 'y', ARRAY[cqrs.new_event('Set', '{"a": 1}'), cqrs.new_event('Set', '{"b": 1}')])).version);
SELECT cqrs.state('merge.Scalar', 'y');

-- Upcasters come first; data that is stored out of line, and more of it than is kept at a time.
SELECT max((cqrs.append('merge.Object', 'upcast', ARRAY[cqrs.new_event('Set', '{"a": 1}'), cqrs.new_event('Set', '{"b": 1}'),
    cqrs.new_event('Old', '{"c": 1}'), cqrs.new_event('Old', '{"d": 1}')])).version);
SELECT cqrs.state('merge.Object', 'upcast');
SELECT cqrs.on_upcast('merge.Object', 'Old', 1, 'merge_upcast');
SELECT cqrs.state('merge.Object', 'upcast');
SELECT max((cqrs.append('merge.Object', 'big', ARRAY(SELECT cqrs.new_event('Set',
        jsonb_build_object('k' || i % 7, (SELECT string_agg(md5((i * j)::text), '') FROM generate_series(1, 3000) j))) FROM generate_series(1, 40) i))).version);
SELECT pg_column_size(cqrs.state('merge.Object', 'big')) > 500000 AS big,
    cqrs.state('merge.Object', 'big') = (SELECT state FROM fold_slowly('merge.Object', 'big', '{"a": 0, "z": {"y": [1]}}') ORDER BY version DESC LIMIT 1) AS same;

-- Events of ours begin it anew.
SELECT max((cqrs.append('merge.Object', 'less', ARRAY(SELECT cqrs.new_event('Set', jsonb_build_object('k' || i, i)) FROM generate_series(1, 9) i))).version);
SELECT cqrs.delete_events('merge.Object', 'less', 5);
SELECT version, event_type FROM cqrs.history('merge.Object', 'less');
SELECT cqrs.state('merge.Object', 'less');
SELECT cqrs.alter_entity('merge.Object', after_forget => 'follow');
SELECT cqrs.forget('merge.Object', 'less');
SELECT max((cqrs.append('merge.Object', 'less', ARRAY[cqrs.new_event('Set', '{"new": 1}'), cqrs.new_event('Set', '{"newer": 2}')])).version);
SELECT cqrs.state('merge.Object', 'less');

SELECT cqrs.drop_entity(name) FROM unnest(ARRAY['merge.Object', 'merge.Array', 'merge.Scalar']) name;
DROP FUNCTION merge_slowly(jsonb, cqrs.event), add_seen(jsonb, cqrs.event), merge_upcast(cqrs.event), some_event(int), fold_slowly(text, text, jsonb);
RESET cqrs.state_cache_size;
