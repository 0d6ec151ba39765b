-- cqrs.send: a command goes in, events and a reply come out, all of it or nothing.
ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;
CREATE SCHEMA command_test;
SET search_path = command_test;

-- RegisterUser(name: "Yuichiro") becomes UserRegistered, then state.user.name; the reply is the identifier that was issued.
CREATE FUNCTION register_user(state jsonb, command cqrs.command) RETURNS cqrs.effect
    LANGUAGE sql
    AS $$
    SELECT CASE
        WHEN state ? 'user' THEN cqrs.reject('this user is registered', 'registered', state)
        ELSE cqrs.persist('UserRegistered', jsonb_build_object('name', command.data -> 'name'),
                          reply => jsonb_build_object('id', command.entity_id))
    END
    $$;
CREATE FUNCTION user_registered(state jsonb, event cqrs.event) RETURNS jsonb
    LANGUAGE sql
    AS $$ SELECT state || jsonb_build_object('user', jsonb_build_object('name', event.data -> 'name')) $$;
SELECT cqrs.create_entity('command.User');
SELECT cqrs.on_command('command.User', 'RegisterUser', 'register_user');
SELECT cqrs.on_event('command.User', 'UserRegistered', 'user_registered');

SELECT entity_id AS user_id, version, reply ->> 'id' = entity_id AS reply_is_id
FROM cqrs.send('command.User', NULL, 'RegisterUser', '{"name": "Yuichiro"}') \gset
SELECT :version AS version, :'reply_is_id' AS reply_is_id;
SELECT cqrs.state('command.User', :'user_id');
SELECT version, event_type, schema_version, data, metadata = jsonb_build_object('$sender', current_user) AS only_sender
FROM cqrs.history('command.User', :'user_id');

-- An issued identifier is a UUID of version 7: its first 48 bits are the time in milliseconds. No two are the same.
SELECT :'user_id' ~ '^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$' AS is_v7,
       abs(('x' || left(replace(:'user_id', '-', ''), 12))::bit(48)::bigint
           - extract(epoch FROM clock_timestamp()) * 1000) < 3600000 AS is_of_now;
SELECT count(DISTINCT entity_id)
FROM generate_series(1, 20) n, cqrs.send('command.User', NULL, 'RegisterUser', jsonb_build_object('name', n));

-- Where there is a command_id it is the identifier, so that a retry finds the same entity.
SELECT entity_id, version, reply
FROM cqrs.send('command.User', NULL, 'RegisterUser', '{"name": "Retry"}', command_id => 'c0000000-0000-4000-8000-000000000001');
SELECT entity_id, version, reply
FROM cqrs.send('command.User', NULL, 'RegisterUser', '{"name": "Retry"}', command_id => 'c0000000-0000-4000-8000-000000000001');
SELECT count(*) FROM cqrs.history('command.User', 'c0000000-0000-4000-8000-000000000001');

-- A rejected command leaves nothing behind: message, DETAIL with code and detail, QR002.
SELECT cqrs.send('command.User', 'c0000000-0000-4000-8000-000000000001', 'RegisterUser', '{"name": "Again"}');
\echo :SQLSTATE
SELECT version, data FROM cqrs.history('command.User', 'c0000000-0000-4000-8000-000000000001');

-- A counter that does what the command says, for all that follows.
CREATE FUNCTION change(state jsonb, command cqrs.command) RETURNS cqrs.effect
    LANGUAGE plpgsql
    AS $$
BEGIN
    RETURN CASE command.command_type
        WHEN 'Add' THEN cqrs.persist('Added', command.data, jsonb_build_object('before', state -> 'sum', 'version', command.version))
        WHEN 'AddEach' THEN cqrs.persist_all(ARRAY(
            SELECT cqrs.new_event('Added', jsonb_build_object('by', by)) FROM jsonb_array_elements(command.data) by), state)
        WHEN 'Get' THEN cqrs.reply(state)
        WHEN 'Marked' THEN cqrs.persist_all(ARRAY[cqrs.new_event('Added', '{"by": 0}', command.data)])
        WHEN 'Do' THEN cqrs.persist(command.data ->> 'event', command.data)
        WHEN 'Show' THEN cqrs.reply(to_jsonb(command) - 'sender' || jsonb_build_object('sent_by_me', command.sender = session_user))
    END;
END
$$;
CREATE FUNCTION fail(state jsonb, command cqrs.command) RETURNS cqrs.effect
    LANGUAGE plpgsql
    AS $$
BEGIN
    RAISE division_by_zero USING MESSAGE = 'the handler failed';
END
$$;
CREATE FUNCTION added(state jsonb, event cqrs.event) RETURNS jsonb
    LANGUAGE plpgsql
    AS $$
BEGIN
    IF event.data ->> 'by' = '13' THEN
        RAISE EXCEPTION 'thirteen is not added' USING ERRCODE = 'check_violation', DETAIL = 'It never was.', HINT = 'Add 12.';
    END IF;
    RETURN jsonb_build_object('sum', (state ->> 'sum')::int + (event.data ->> 'by')::int);
END
$$;
CREATE FUNCTION nothing(state jsonb, event cqrs.event) RETURNS jsonb LANGUAGE sql AS $$ SELECT NULL::jsonb $$;
SELECT cqrs.create_entity('command.Sum', initial_state => '{"sum": 0}');
SELECT cqrs.on_command('command.Sum', '*', 'change');
SELECT cqrs.on_command('command.Sum', 'Fail', 'fail');
SELECT cqrs.on_event('command.Sum', 'Added', 'added');
SELECT cqrs.on_event('command.Sum', 'Vanished', 'nothing');

-- A receipt has the version and position of the entity's last event, also when nothing was persisted.
SELECT entity_id, version, reply FROM cqrs.send('command.Sum', 'receipt', 'Add', '{"by": 1}');
SELECT version AS receipt_version, position AS receipt_position FROM cqrs.send('command.Sum', 'receipt', 'Add', '{"by": 2}') \gset
SELECT version, position AS last_position FROM cqrs.history('command.Sum', 'receipt') ORDER BY version DESC LIMIT 1 \gset
SELECT :receipt_version AS receipt_version, :version = :receipt_version AND :last_position = :receipt_position AS receipt_is_right;
SELECT r.entity_id, r.version, r.position = :last_position AS is_last, r.reply FROM cqrs.send('command.Sum', 'receipt', 'Get') r;
SELECT r.version, r.position, r.reply FROM cqrs.send('command.Sum', 'never', 'Get') r;
SELECT cqrs.state('command.Sum', 'never') IS NULL AS still_not_there;

-- Several events from one command are all or none, in order, with versions and positions without holes between them, and one time.
SELECT r.version, r.position - :last_position >= 3 AS positions_went_on, r.reply
FROM cqrs.send('command.Sum', 'receipt', 'AddEach', '[10, 20, 30]') r;
SELECT version, data, position - min(position) OVER () AS distance, count(*) OVER (PARTITION BY created_at) AS at_that_time
FROM cqrs.history('command.Sum', 'receipt', 2) ORDER BY version;
SELECT cqrs.state('command.Sum', 'receipt');
SELECT version, reply FROM cqrs.send('command.Sum', 'receipt', 'AddEach', '[]');
SELECT cqrs.send('command.Sum', 'receipt', 'AddEach', '[40, 13, 50]');
SELECT version FROM cqrs.send('command.Sum', 'receipt', 'Get');

-- What the handler gets as its command: the version before it, data, metadata as they were sent, and the sender.
SELECT reply FROM cqrs.send('command.Sum', 'receipt', 'Show', '{"a": [1]}', 5, 'c0000000-0000-4000-8000-000000000002', '{"trace": 7}');
SELECT reply FROM cqrs.send('command.Sum', 'fresh', 'Show');

-- expected_version: NULL any, 0 must not exist, n exactly n, -4 must exist.
SELECT version FROM cqrs.send('command.Sum', 'expected', 'Add', '{"by": 1}', expected_version => 0);
SELECT version FROM cqrs.send('command.Sum', 'expected', 'Add', '{"by": 1}', expected_version => 1);
SELECT version FROM cqrs.send('command.Sum', 'expected', 'Add', '{"by": 1}', expected_version => -4);
SELECT cqrs.send('command.Sum', 'expected', 'Add', '{"by": 1}', expected_version => 2);
\echo :SQLSTATE
SELECT cqrs.send('command.Sum', 'expected', 'Add', '{"by": 1}', expected_version => 4);
\echo :SQLSTATE
SELECT cqrs.send('command.Sum', 'expected', 'Get', expected_version => 0);
\echo :SQLSTATE
SELECT cqrs.send('command.Sum', 'never', 'Add', '{"by": 1}', expected_version => -4);
\echo :SQLSTATE
SELECT cqrs.send('command.Sum', 'expected', 'Add', '{"by": 1}', expected_version => -1);
\echo :SQLSTATE
SELECT cqrs.state('command.Sum', 'expected'), cqrs.state('command.Sum', 'never');

-- An event's metadata is the command's under the new event's, plus $command_id and $sender.
SELECT version FROM cqrs.send('command.Sum', 'meta', 'Marked', '{"b": "event", "c": "event"}', metadata => '{"a": "command", "b": "command"}',
    command_id => 'c0000000-0000-4000-8000-000000000003');
SELECT version FROM cqrs.send('command.Sum', 'meta', 'Add', '{"by": 0}', metadata => '{"a": {"deep": 1}}');
SELECT version, metadata - '$sender' AS metadata, metadata ->> '$sender' = current_user AS sent_by_me FROM cqrs.history('command.Sum', 'meta');
SELECT cqrs.send('command.Sum', 'meta', 'Get', metadata => '{"a": 1, "$sender": "somebody"}');
\echo :SQLSTATE
SELECT cqrs.send('command.Sum', 'meta', 'Get', metadata => '[]');
\echo :SQLSTATE
SELECT cqrs.send('command.Sum', 'meta', 'Marked', '{"$causation": "nothing"}');
\echo :SQLSTATE
SELECT max(version) FROM cqrs.history('command.Sum', 'meta');

-- What cannot be a command is refused, each with a message of its own.
SELECT cqrs.send(NULL, 'x', 'Get');
SELECT cqrs.send('', 'x', 'Get');
SELECT cqrs.send('command.Sum', '', 'Get');
SELECT cqrs.send('command.Sum', 'x', NULL);
SELECT cqrs.send('command.Sum', 'x', '');
SELECT cqrs.send('command.Sum', 'x', 'Get', NULL);
SELECT cqrs.send('command.Sum', 'x', 'Get', 'null');
SELECT cqrs.send('command.Sum', repeat('x', 3000), 'Get');
\echo :SQLSTATE

-- An unknown entity type, a command without a handler, an event without one, a handler that gives NULL: each has a code of its own.
SELECT cqrs.send('command.None', 'x', 'Get');
\echo :SQLSTATE
SELECT cqrs.send('command.User', 'x', 'Get');
\echo :SQLSTATE
SELECT cqrs.send('command.Sum', 'codes', 'Do', '{"event": "Unheard"}');
\echo :SQLSTATE
SELECT cqrs.send('command.Sum', 'codes', 'Do', '{"event": "Vanished"}');
\echo :SQLSTATE
SELECT cqrs.send('command.Sum', 'codes', 'Unknown');
\echo :SQLSTATE
SELECT count(*) FROM cqrs.history('command.Sum', 'codes');

-- An error in a handler keeps its SQLSTATE, and its context names handler, command and entity, or event and version.
SELECT cqrs.send('command.Sum', 'ctx', 'Fail');
\echo :SQLSTATE
SELECT version FROM cqrs.send('command.Sum', 'ctx', 'Add', '{"by": 1}');
SELECT cqrs.send('command.Sum', 'ctx', 'Add', '{"by": 13}');
\echo :SQLSTATE
SELECT version, reply FROM cqrs.send('command.Sum', 'ctx', 'Get');

-- Events are folded before they are written: where an event handler fails, no trigger of the journal has fired. And several
-- events are one statement: a statement trigger sees all of them at once.
CREATE FUNCTION tell() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE NOTICE 'written: %', (SELECT jsonb_agg(data -> 'by' ORDER BY version) FROM written);
    RETURN NULL;
END
$$;
BEGIN;
CREATE TRIGGER tell AFTER INSERT ON cqrs.journal REFERENCING NEW TABLE AS written FOR EACH STATEMENT EXECUTE FUNCTION tell();
SELECT version FROM cqrs.send('command.Sum', 'order', 'AddEach', '[1, 2, 3]');
SELECT version FROM cqrs.send('command.Sum', 'order', 'Get');
SAVEPOINT s;
\set SHOW_CONTEXT never
SELECT cqrs.send('command.Sum', 'order', 'AddEach', '[4, 13]');
ROLLBACK TO s;
SELECT version, reply FROM cqrs.send('command.Sum', 'order', 'Get');
ROLLBACK;
SELECT cqrs.state('command.Sum', 'order') IS NULL AS rolled_back;

-- Several commands in one transaction see each other; a savepoint takes its own back and no more.
BEGIN;
SELECT version, reply FROM cqrs.send('command.Sum', 'tx', 'Add', '{"by": 1}');
SAVEPOINT a;
SELECT version, reply FROM cqrs.send('command.Sum', 'tx', 'Add', '{"by": 2}');
SELECT version, reply FROM cqrs.send('command.Sum', 'tx2', 'Add', '{"by": 2}');
SELECT cqrs.state('command.Sum', 'tx') AS inside;
ROLLBACK TO a;
SELECT cqrs.state('command.Sum', 'tx') AS after_rollback, cqrs.state('command.Sum', 'tx2') IS NULL AS tx2_gone;
SELECT version, reply FROM cqrs.send('command.Sum', 'tx', 'Add', '{"by": 4}', expected_version => 1);
SAVEPOINT b;
SELECT cqrs.send('command.Sum', 'tx', 'Add', '{"by": 13}');
ROLLBACK TO b;
SELECT version, reply FROM cqrs.send('command.Sum', 'tx', 'Add', '{"by": 8}');
RELEASE a;
COMMIT;
SELECT cqrs.state('command.Sum', 'tx');
SELECT version, data FROM cqrs.history('command.Sum', 'tx');
BEGIN;
SELECT version FROM cqrs.send('command.Sum', 'tx', 'Add', '{"by": 100}');
ROLLBACK;
SELECT version, reply FROM cqrs.send('command.Sum', 'tx', 'Get');

-- A procedure may commit between its commands.
CREATE PROCEDURE step_by_step() LANGUAGE plpgsql AS $$
DECLARE
    version bigint;
BEGIN
    FOR i IN 1..2 LOOP
        version := (cqrs.send('command.Sum', 'steps', 'Add', '{"by": 1}')).version;
        COMMIT;
        RAISE NOTICE 'committed %', version;
    END LOOP;
    version := (cqrs.send('command.Sum', 'steps', 'Add', '{"by": 10}')).version;
    ROLLBACK;
    RAISE NOTICE 'rolled back %', version;
    version := (cqrs.send('command.Sum', 'steps', 'Add', '{"by": 1}')).version;
    RAISE NOTICE 'at the end %', version;
END
$$;
CALL step_by_step();
SELECT cqrs.state('command.Sum', 'steps');

-- One entity many times in one transaction and one statement.
SELECT count(*), max(version), max((reply ->> 'before')::int)
FROM generate_series(1, 300) n, cqrs.send('command.Sum', 'often', 'Add', jsonb_build_object('by', n - n + 1));
SELECT cqrs.state('command.Sum', 'often');

-- Many entities in one SELECT, and one command for each row of a table.
SELECT count(*), sum(version), count(DISTINCT entity_id)
FROM generate_series(1, 200) n, cqrs.send('command.Sum', 'many-' || n, 'Add', jsonb_build_object('by', n * 100));
SELECT sum((cqrs.state('command.Sum', 'many-' || n) ->> 'sum')::int) FROM generate_series(1, 200) n;

-- More entities in one transaction than cqrs.max_entity_locks: the journal's key alone guards the others.
BEGIN;
SET LOCAL cqrs.max_entity_locks = 5;
SELECT count(*), sum(version) FROM generate_series(1, 50) n, cqrs.send('command.Sum', 'many-' || n, 'Add', '{"by": 1}');
SELECT count(*) AS locks FROM pg_locks WHERE locktype = 'advisory' AND objsubid = x'4351'::int AND pid = pg_backend_pid();
COMMIT;
SELECT version FROM cqrs.send('command.Sum', 'many-50', 'Get');

-- Locks that a savepoint gave back do not count.
BEGIN;
SET LOCAL cqrs.max_entity_locks = 3;
SAVEPOINT s;
SELECT count(*) FROM generate_series(1, 3) n, cqrs.send('command.Sum', 'many-' || n, 'Add', '{"by": 1}');
SELECT count(*) AS locks FROM pg_locks WHERE locktype = 'advisory' AND objsubid = x'4351'::int AND pid = pg_backend_pid();
ROLLBACK TO s;
SELECT count(*) AS locks FROM pg_locks WHERE locktype = 'advisory' AND objsubid = x'4351'::int AND pid = pg_backend_pid();
SELECT count(*) FROM generate_series(4, 7) n, cqrs.send('command.Sum', 'many-' || n, 'Add', '{"by": 1}');
SELECT count(*) AS locks FROM pg_locks WHERE locktype = 'advisory' AND objsubid = x'4351'::int AND pid = pg_backend_pid();
ROLLBACK;

-- Within an entity time does not go back, whatever the clock does.
BEGIN;
SET LOCAL cqrs.allow_journal_changes = on;
UPDATE cqrs.journal SET created_at = created_at + interval '1 day' WHERE entity_type = 'command.Sum' AND entity_id = 'tx';
SET LOCAL cqrs.allow_journal_changes = off;
SELECT version FROM cqrs.send('command.Sum', 'tx', 'Add', '{"by": 1}');
SELECT version FROM cqrs.append('command.Sum', 'tx', ARRAY[cqrs.new_event('Added', '{"by": 1}')]);
SELECT version, created_at >= lag(created_at) OVER (ORDER BY version) AS not_before, created_at > now() + interval '23 h' AS ahead
FROM cqrs.history('command.Sum', 'tx') ORDER BY version;
ROLLBACK;

-- REPEATABLE READ and SERIALIZABLE: a transaction sees its own events, and commands to entities nobody else changed work.
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT version, reply FROM cqrs.send('command.Sum', 'rr', 'Add', '{"by": 1}');
SELECT version, reply FROM cqrs.send('command.Sum', 'rr', 'Add', '{"by": 1}');
SELECT version, reply FROM cqrs.send('command.Sum', 'tx', 'Add', '{"by": 1}');
SELECT cqrs.state('command.Sum', 'rr');
COMMIT;
BEGIN ISOLATION LEVEL SERIALIZABLE;
SELECT version, reply FROM cqrs.send('command.Sum', 'rr', 'Add', '{"by": 1}');
SAVEPOINT s;
SELECT version, reply FROM cqrs.send('command.Sum', 'rr', 'Add', '{"by": 1}');
ROLLBACK TO s;
SELECT version, reply FROM cqrs.send('command.Sum', 'rr', 'Add', '{"by": 5}');
COMMIT;
SELECT cqrs.state('command.Sum', 'rr');

-- A read-only transaction cannot write, and says so.
BEGIN READ ONLY;
SELECT cqrs.send('command.Sum', 'rr', 'Add', '{"by": 1}');
\echo :SQLSTATE
ROLLBACK;
SELECT version FROM cqrs.send('command.Sum', 'rr', 'Get');

-- An event handler or upcaster only computes: it can neither send nor append nor take a snapshot, whoever runs it.
CREATE FUNCTION writes(state jsonb, event cqrs.event) RETURNS jsonb
    LANGUAGE plpgsql
    AS $$
BEGIN
    CASE event.data ->> 'how'
        WHEN 'send' THEN PERFORM cqrs.send('command.Sum', 'elsewhere', 'Add', '{"by": 1}');
        WHEN 'append' THEN PERFORM cqrs.append('command.Sum', 'elsewhere', ARRAY[cqrs.new_event('Added', '{"by": 1}')]);
        WHEN 'take_snapshot' THEN PERFORM cqrs.take_snapshot('command.Sum', 'tx');
    END CASE;
    RETURN state;
END
$$;
SELECT cqrs.on_event('command.Sum', 'Wrote', 'writes');
SELECT cqrs.send('command.Sum', 'writes', 'Do', '{"event": "Wrote", "how": "send"}');
\echo :SQLSTATE
SELECT cqrs.send('command.Sum', 'writes', 'Do', '{"event": "Wrote", "how": "append"}');
\echo :SQLSTATE
SELECT cqrs.send('command.Sum', 'writes', 'Do', '{"event": "Wrote", "how": "take_snapshot"}');
\echo :SQLSTATE
SELECT version FROM cqrs.append('command.Sum', 'writes', ARRAY[cqrs.new_event('Wrote', '{"how": "send"}')]);
SELECT cqrs.state('command.Sum', 'writes');
\echo :SQLSTATE
SELECT cqrs.take_snapshot('command.Sum', 'writes');
\echo :SQLSTATE
SELECT cqrs.state('command.Sum', 'elsewhere') IS NULL AS nothing_written;
-- It does not stay so: the session sends again.
SELECT version FROM cqrs.send('command.Sum', 'tx', 'Add', '{"by": 0}');

-- An entity that has not been handled by its own commands alone: raw appends count.
SELECT version FROM cqrs.append('command.Sum', 'raw', ARRAY[cqrs.new_event('Added', '{"by": 3}'), cqrs.new_event('Added', '{"by": 4}')]);
SELECT version, reply FROM cqrs.send('command.Sum', 'raw', 'Add', '{"by": 1}', expected_version => 2);

SELECT cqrs.drop_entity('command.User'), cqrs.drop_entity('command.Sum');
SET client_min_messages = warning;
DROP SCHEMA command_test CASCADE;
ALTER DEFAULT PRIVILEGES GRANT EXECUTE ON FUNCTIONS TO PUBLIC;
