-- cqrs.new_event builds what cqrs.append and cqrs.persist_all take, and it arrives unchanged, however it is stored meanwhile.
SELECT * FROM cqrs.new_event('Happened', '{"a": 1}');
SELECT * FROM cqrs.new_event('Happened', '{"a": 1}', '{"by": "me"}');
SELECT * FROM cqrs.new_event(metadata => '{"by": "me"}', data => '[]', event_type => 'Happened');
SELECT pg_typeof(cqrs.new_event('Happened', '{}')), cqrs.new_event('A', '{"a": "\"x\", y"}') = ROW('A', '{"a": "\"x\", y"}', NULL)::cqrs.new_event AS same;
-- It only builds; who writes it checks.
SELECT * FROM cqrs.new_event(NULL, NULL);
SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute WHERE attrelid = 'cqrs.new_event'::regclass ORDER BY attnum;

-- All kinds of JSON, in the order of the array, whatever its bounds.
CREATE TEMPORARY TABLE sent (n integer, event cqrs.new_event);
INSERT INTO sent VALUES
    (1, cqrs.new_event('Empty', '{}')),
    (2, cqrs.new_event('Nested', '{"a": {"b": [1, {"c": null}, [], {}]}, "z": true}', '{"m": {"n": [1, 2]}}')),
    (3, cqrs.new_event('Array', '[1, 2, 3]', '{}')),
    (4, cqrs.new_event('Text', '"a\nb\t\"c\" \u00e4 雄一郎"')),
    (5, cqrs.new_event('Number', '12345678901234567890.123456789e-5')),
    (6, cqrs.new_event('True', 'true')),
    (7, cqrs.new_event('Ereignis 雄一郎 '' " \ $', '{"$key": "is data", "": ""}'));
SELECT version FROM cqrs.append('NewEvent', 'kinds', (SELECT array_agg(event ORDER BY n) FROM sent));
SELECT h.version, h.event_type, h.data, h.metadata,
    (h.event_type, h.data, h.metadata) IS NOT DISTINCT FROM ((event).event_type, (event).data, (event).metadata) AS unchanged
FROM cqrs.history('NewEvent', 'kinds') h FULL JOIN sent ON n = h.version ORDER BY 1;
SELECT version FROM cqrs.append('NewEvent', 'bounds', '[5:6]={"(A,{},)","(B,{},)"}'::cqrs.new_event[]);
SELECT version, event_type FROM cqrs.history('NewEvent', 'bounds');

-- Large ones come from tables: compressed, out of line, one by one or as an array.
CREATE TEMPORARY TABLE large (n integer, data jsonb, event cqrs.new_event);
INSERT INTO large SELECT n, data, cqrs.new_event('Large', data, jsonb_build_object('again', data))
FROM (SELECT n, jsonb_build_object('n', n, 'noise', (SELECT string_agg(md5((n * i)::text), '') FROM generate_series(1, 500) i), 'same', repeat('x', 20000)) AS data
      FROM generate_series(1, 3) n) d;
CREATE TEMPORARY TABLE larger AS SELECT array_agg(event ORDER BY n) AS events FROM large;
SELECT version FROM cqrs.append('NewEvent', 'large', (SELECT events FROM larger));
SELECT version FROM cqrs.append('NewEvent', 'large', (SELECT array_agg(event ORDER BY n) FROM large));
SELECT version FROM cqrs.append('NewEvent', 'large', (SELECT array_agg(cqrs.new_event('Large', data, jsonb_build_object('again', data)) ORDER BY n) FROM large));
SELECT r.version FROM larger CROSS JOIN LATERAL cqrs.append('NewEvent', 'large', events, 9, '00000000-0000-4000-8000-000000000001') r;
SELECT r.version FROM larger CROSS JOIN LATERAL cqrs.append('NewEvent', 'large', events, 9, '00000000-0000-4000-8000-000000000001') r;
SELECT count(*), count(DISTINCT h.data), bool_and(h.data = l.data AND h.metadata -> 'again' = l.data) AS unchanged
FROM cqrs.history('NewEvent', 'large') h JOIN large l ON l.n = (h.version - 1) % 3 + 1;
