-- A receipt names the entity, the version and position of its last event, and the handler's reply; also when nothing was persisted.
SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute WHERE attrelid = 'cqrs.receipt'::regclass ORDER BY attnum;

CREATE SCHEMA receipt_test;
CREATE FUNCTION receipt_test.decide(state jsonb, command cqrs.command) RETURNS cqrs.effect LANGUAGE sql AS $$
    SELECT CASE (command).command_type
        WHEN 'Persist' THEN cqrs.persist('Done', (command).data, (command).data -> 'reply')
        WHEN 'PersistTwo' THEN cqrs.persist_all(ARRAY[cqrs.new_event('Done', '{}'), cqrs.new_event('Done', '{}')], '"two"')
        WHEN 'Nothing' THEN cqrs.persist_all('{}', '"nothing"')
        WHEN 'Reply' THEN cqrs.reply(state)
    END
$$;
REVOKE EXECUTE ON FUNCTION receipt_test.decide(jsonb, cqrs.command) FROM PUBLIC;
SELECT cqrs.create_entity('Receipt', '{"initial": true}');
SELECT cqrs.on_command('Receipt', '*', 'receipt_test.decide');
SELECT cqrs.on_event('Receipt', '*', 'cqrs.merge');
-- The position is shown as the version that stands there.
CREATE FUNCTION pg_temp.shown(r cqrs.receipt, OUT entity_id text, OUT version bigint, OUT at_position bigint, OUT reply jsonb) LANGUAGE sql AS $$
    SELECT (r).entity_id, (r).version,
        CASE (r).position WHEN 0 THEN 0 ELSE (SELECT version FROM cqrs.journal WHERE position = (r).position AND entity_id = (r).entity_id) END,
        (r).reply
$$;
-- Before there are events.
SELECT * FROM pg_temp.shown(cqrs.send('Receipt', 'r', 'Reply'));
SELECT * FROM pg_temp.shown(cqrs.send('Receipt', 'r', 'Nothing'));
SELECT * FROM cqrs.send('Receipt', 'r', 'Reply');
-- With events.
SELECT cqrs.send('Receipt', 'r', 'Persist', '{"reply": {"ok": 1}}') AS r \gset
SELECT * FROM pg_temp.shown(:'r');
SELECT cqrs.send('Receipt', 'r', 'PersistTwo') AS r \gset
SELECT * FROM pg_temp.shown(:'r');
SELECT cqrs.send('Receipt', 'r', 'Persist', '{"no": "reply"}') AS r \gset
SELECT * FROM pg_temp.shown(:'r');
SELECT cqrs.send('Receipt', 'r', 'Persist', '{"reply": null}') AS r \gset
SELECT * FROM pg_temp.shown(:'r');
-- Nothing persisted: the last event's.
SELECT * FROM pg_temp.shown(cqrs.send('Receipt', 'r', 'Reply'));
SELECT * FROM pg_temp.shown(cqrs.send('Receipt', 'r', 'Nothing', expected_version => 5));
SELECT cqrs.append('Receipt', 'r', ARRAY[cqrs.new_event('Done', '{}')]) AS r \gset
SELECT * FROM pg_temp.shown(:'r');
-- The first receipt again, with what it was then.
SELECT cqrs.send('Receipt', 'r', 'Persist', '{"reply": [1]}', command_id => '00000000-0000-4000-8000-000000000001') AS r \gset
SELECT cqrs.send('Receipt', 'r', 'Reply', command_id => '00000000-0000-4000-8000-000000000002') AS s \gset
SELECT version FROM cqrs.append('Receipt', 'r', ARRAY[cqrs.new_event('Done', '{"more": 1}')]);
SELECT cqrs.send('Receipt', 'r', 'Persist', '{"reply": [1]}', command_id => '00000000-0000-4000-8000-000000000001')::text = :'r' AS same;
SELECT cqrs.send('Receipt', 'r', 'Reply', command_id => '00000000-0000-4000-8000-000000000002')::text = :'s' AS same;
SELECT * FROM pg_temp.shown(:'s');
SELECT count(*) FROM cqrs.history('Receipt', 'r');
-- A receipt for an identifier that was issued names it.
SELECT cqrs.send('Receipt', NULL, 'Persist') AS r \gset
SELECT version, at_position, entity_id = (SELECT entity_id FROM cqrs.journal ORDER BY position DESC LIMIT 1) AS right_id FROM pg_temp.shown(:'r');
SELECT entity_id, version FROM cqrs.send('Receipt', NULL, 'Persist', command_id => '00000000-0000-4000-8000-000000000003');
SELECT entity_id, version FROM cqrs.send('Receipt', NULL, 'Persist', command_id => '00000000-0000-4000-8000-000000000003');

SELECT cqrs.drop_entity('Receipt');
DROP SCHEMA receipt_test CASCADE;
