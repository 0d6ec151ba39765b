-- The same command again, under the same command_id, gives the first answer and changes nothing.
ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;
CREATE SCHEMA command_log_test;
SET search_path = command_log_test;

CREATE FUNCTION handle(state jsonb, command cqrs.command) RETURNS cqrs.effect
    LANGUAGE plpgsql
    AS $$
BEGIN
    RAISE NOTICE 'handling %', command.command_type;
    RETURN CASE command.command_type
        WHEN 'Add' THEN cqrs.persist('Added', command.data, reply => jsonb_build_object('at', command.version + 1))
        WHEN 'Mute' THEN cqrs.persist('Added', command.data)
        WHEN 'Get' THEN cqrs.reply(state)
        WHEN 'Refuse' THEN cqrs.reject('refused')
    END;
END
$$;
CREATE FUNCTION added(state jsonb, event cqrs.event) RETURNS jsonb
    LANGUAGE sql
    AS $$ SELECT jsonb_build_object('sum', coalesce((state ->> 'sum')::int, 0) + (event.data ->> 'by')::int) $$;
SELECT cqrs.create_entity('log.Sum');
SELECT cqrs.on_command('log.Sum', '*', 'handle');
SELECT cqrs.on_event('log.Sum', '*', 'added');
CREATE VIEW kept AS
    SELECT entity_id, right(command_id::text, 2) AS id, version, reply FROM cqrs.command_log WHERE entity_type = 'log.Sum' ORDER BY 1, 2;
\set id1 '''10900000-0000-4000-8000-000000000001'''
\set id2 '''10900000-0000-4000-8000-000000000002'''
\set id3 '''10900000-0000-4000-8000-000000000003'''
\set id4 '''10900000-0000-4000-8000-000000000004'''

-- The handler runs once; the second receipt is the first one, in all four fields, whatever has happened to the entity since.
SELECT entity_id, version, position, reply FROM cqrs.send('log.Sum', 'a', 'Add', '{"by": 1}', command_id => :id1) \gset first_
SELECT version FROM cqrs.send('log.Sum', 'a', 'Add', '{"by": 10}');
SELECT entity_id, version, position = :first_position AS same_position, reply, reply = :'first_reply' AS same_reply
FROM cqrs.send('log.Sum', 'a', 'Add', '{"by": 1}', command_id => :id1);
SELECT version, data, metadata ->> '$command_id' AS command_id FROM cqrs.history('log.Sum', 'a');
SELECT * FROM kept;
-- It is looked up before the version is checked; and metadata is not part of what makes a command the same.
SELECT version, reply FROM cqrs.send('log.Sum', 'a', 'Add', '{"by": 1}', command_id => :id1, expected_version => 0, metadata => '{"retry": 1}');
SELECT cqrs.send('log.Sum', 'a', 'Add', '{"by": 1}', command_id => :id2, expected_version => 0);
\echo :SQLSTATE
-- Also within one transaction, and one statement.
BEGIN;
SELECT version FROM cqrs.send('log.Sum', 'tx', 'Add', '{"by": 1}', command_id => :id1);
SELECT version FROM cqrs.send('log.Sum', 'tx', 'Add', '{"by": 1}', command_id => :id1);
COMMIT;
SELECT n, r.version FROM generate_series(1, 3) n, cqrs.send('log.Sum', 'tx', 'Add', jsonb_build_object('by', n - n), command_id => :id2) r;

-- Another type or other data under the same id is another command. The order of keys in JSON is not.
SELECT cqrs.send('log.Sum', 'a', 'Add', '{"by": 2}', command_id => :id1);
\echo :SQLSTATE
SELECT cqrs.send('log.Sum', 'a', 'Mute', '{"by": 1}', command_id => :id1);
\echo :SQLSTATE
SELECT version FROM cqrs.send('log.Sum', 'keys', 'Add', '{"by": 1, "x": 2}', command_id => :id1);
SELECT version FROM cqrs.send('log.Sum', 'keys', 'Add', '{ "x":2, "by":1 }', command_id => :id1);

-- An id belongs to one entity: another one may have the same.
SELECT version, reply FROM cqrs.send('log.Sum', 'b', 'Add', '{"by": 5}', command_id => :id1);
SELECT * FROM kept WHERE id = '01';

-- Answers without a reply, and commands without events, are kept as well.
SELECT version, reply IS NULL AS no_reply FROM cqrs.send('log.Sum', 'c', 'Mute', '{"by": 1}', command_id => :id1);
SELECT version, reply IS NULL AS no_reply FROM cqrs.send('log.Sum', 'c', 'Mute', '{"by": 1}', command_id => :id1);
SELECT version, reply FROM cqrs.send('log.Sum', 'c', 'Get', command_id => :id2);
SELECT version FROM cqrs.send('log.Sum', 'c', 'Add', '{"by": 1}');
SELECT version, reply FROM cqrs.send('log.Sum', 'c', 'Get', command_id => :id2);
SELECT version, position, reply FROM cqrs.send('log.Sum', 'none', 'Get', command_id => :id2);
SELECT version, position, reply FROM cqrs.send('log.Sum', 'none', 'Get', command_id => :id2);

-- A rejected command is not kept, nor one that was rolled back: sent again, it is handled again.
SELECT cqrs.send('log.Sum', 'd', 'Refuse', command_id => :id1);
\echo :SQLSTATE
SELECT cqrs.send('log.Sum', 'd', 'Refuse', command_id => :id1);
SELECT version FROM cqrs.send('log.Sum', 'd', 'Add', '{"by": 1}', command_id => :id1);
BEGIN;
SELECT version FROM cqrs.send('log.Sum', 'd', 'Add', '{"by": 1}', command_id => :id2);
ROLLBACK;
SELECT version FROM cqrs.send('log.Sum', 'd', 'Add', '{"by": 2}', command_id => :id2);
BEGIN;
SAVEPOINT s;
SELECT version FROM cqrs.send('log.Sum', 'd', 'Add', '{"by": 1}', command_id => :id3);
ROLLBACK TO s;
SELECT version FROM cqrs.send('log.Sum', 'd', 'Add', '{"by": 3}', command_id => :id3);
COMMIT;
SELECT * FROM kept WHERE entity_id = 'd';

-- In a transaction with an old snapshot the answer is the first one, too.
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT version FROM cqrs.send('log.Sum', 'd', 'Add', '{"by": 3}', command_id => :id3);
SELECT version FROM cqrs.send('log.Sum', 'd', 'Add', '{"by": 4}', command_id => :id4);
SELECT version FROM cqrs.send('log.Sum', 'd', 'Add', '{"by": 4}', command_id => :id4);
COMMIT;

-- cqrs.append has the same, over the events it was given, metadata included.
SELECT version FROM cqrs.append('log.Sum', 'e', ARRAY[cqrs.new_event('Added', '{"by": 1}', '{"m": 1}'), cqrs.new_event('Added', '{"by": 2}')], command_id => :id1);
SELECT version FROM cqrs.append('log.Sum', 'e', ARRAY[cqrs.new_event('Added', '{"by": 1}')]);
SELECT version, reply IS NULL AS no_reply
FROM cqrs.append('log.Sum', 'e', ARRAY[cqrs.new_event('Added', '{"by": 1}', '{"m": 1}'), cqrs.new_event('Added', '{"by": 2}')], 0, :id1);
SELECT cqrs.append('log.Sum', 'e', ARRAY[cqrs.new_event('Added', '{"by": 1}', '{"m": 1}')], command_id => :id1);
\echo :SQLSTATE
SELECT cqrs.append('log.Sum', 'e', ARRAY[cqrs.new_event('Added', '{"by": 1}', '{"m": 2}'), cqrs.new_event('Added', '{"by": 2}')], command_id => :id1);
\echo :SQLSTATE
SELECT cqrs.append('log.Sum', 'e', ARRAY[cqrs.new_event('Added', '{"by": 1}'), cqrs.new_event('Added', '{"by": 2}', '{"m": 1}')], command_id => :id1);
\echo :SQLSTATE
-- A command and an append share the ids of an entity.
SELECT cqrs.send('log.Sum', 'e', 'Add', '{"by": 1}', command_id => :id1);
\echo :SQLSTATE
SELECT version, metadata ->> '$command_id' AS command_id FROM cqrs.history('log.Sum', 'e');

-- Answers are kept for cqrs.command_retention, then go by themselves while others send; younger ones stay.
SET client_min_messages = warning;
SET cqrs.command_retention = '1 h';
SELECT count(*) FROM generate_series(1, 300) n,
    cqrs.send('log.Sum', 'old-' || n, 'Get', command_id => ('10900000-0000-4000-8000-' || lpad(n::text, 12, '0'))::uuid);
UPDATE cqrs.command_log SET created_at = created_at - CASE WHEN entity_id > 'old-1999' THEN interval '90 min' ELSE interval '30 min' END
WHERE entity_type = 'log.Sum' AND entity_id LIKE 'old-%';
SELECT count(*) FILTER (WHERE entity_id > 'old-1999') AS old, count(*) FILTER (WHERE entity_id < 'old-1999') AS young
FROM cqrs.command_log WHERE entity_type = 'log.Sum' AND entity_id LIKE 'old-%';
-- Not under an old snapshot, where it could be an error.
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT count(*) FROM generate_series(1, 64) n, cqrs.send('log.Sum', 'rr', 'Get', command_id => ('10900000-0000-4000-8000-' || lpad(n::text, 12, '0'))::uuid);
COMMIT;
SELECT count(*) FROM cqrs.command_log WHERE entity_type = 'log.Sum' AND entity_id LIKE 'old-%' AND entity_id > 'old-1999';
-- One that is late to go is still honoured.
SELECT reply FROM cqrs.send('log.Sum', 'old-3', 'Get', command_id => '10900000-0000-4000-8000-000000000003');
SELECT cqrs.send('log.Sum', 'old-3', 'Add', '{"by": 1}', command_id => '10900000-0000-4000-8000-000000000003');
\echo :SQLSTATE
-- 64 answers are the most it takes, then the old ones are gone.
SELECT count(*) FROM generate_series(1, 64) n, cqrs.send('log.Sum', 'rc', 'Get', command_id => ('10900000-0000-4000-8000-' || lpad(n::text, 12, '0'))::uuid);
SELECT count(*) FILTER (WHERE entity_id > 'old-1999') AS old, count(*) FILTER (WHERE entity_id < 'old-1999') AS young
FROM cqrs.command_log WHERE entity_type = 'log.Sum' AND entity_id LIKE 'old-%';
SELECT count(*) FROM cqrs.command_log WHERE entity_type = 'log.Sum' AND entity_id IN ('rr', 'rc');
-- What is forgotten is handled again.
SELECT version FROM cqrs.send('log.Sum', 'old-3', 'Add', '{"by": 1}', command_id => '10900000-0000-4000-8000-000000000003');
-- Commands without an id clean nothing and keep nothing.
SELECT count(*) AS before FROM cqrs.command_log \gset
SELECT count(*) FROM generate_series(1, 100) n, cqrs.send('log.Sum', 'without-' || n, 'Get');
SELECT count(*) = :before AS same FROM cqrs.command_log;
RESET cqrs.command_retention;

-- Answers outlive the entity type: made again, it still knows them.
SELECT cqrs.drop_entity('log.Sum');
SELECT cqrs.create_entity('log.Sum');
SELECT cqrs.on_command('log.Sum', '*', 'handle');
SELECT version, reply FROM cqrs.send('log.Sum', 'a', 'Add', '{"by": 1}', command_id => :id1);

SELECT cqrs.drop_entity('log.Sum');
DELETE FROM cqrs.command_log WHERE entity_type = 'log.Sum';
DROP SCHEMA command_log_test CASCADE;
ALTER DEFAULT PRIVILEGES GRANT EXECUTE ON FUNCTIONS TO PUBLIC;
