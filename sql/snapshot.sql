-- Snapshots: taken every so many events, used only while they fit handlers and journal, and never more than a saving.
ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;
CREATE SCHEMA snapshot_test;
SET search_path = snapshot_test;
SET client_min_messages = warning;
-- States kept by this session would hide what is loaded from snapshots.
SET cqrs.state_cache_size = 0;

CREATE FUNCTION add_each(state jsonb, command cqrs.command) RETURNS cqrs.effect
    LANGUAGE sql
    AS $$
    SELECT cqrs.persist_all(ARRAY(
        SELECT cqrs.new_event('Added', jsonb_build_object('by', by)) FROM jsonb_array_elements(command.data) by))
    $$;
-- Tells what is folded: from which state, by which event.
CREATE FUNCTION added(state jsonb, event cqrs.event) RETURNS jsonb
    LANGUAGE plpgsql
    AS $$
BEGIN
    RAISE NOTICE 'version % on top of %', event.version, state;
    RETURN jsonb_build_object('sum', (state ->> 'sum')::int + (event.data ->> 'by')::int);
END
$$;
CREATE VIEW kept AS
    SELECT entity_id, version, state FROM cqrs.snapshot WHERE entity_type = 'snapshot.Sum' ORDER BY entity_id, version;

-- Every three events, and one command that passes the number takes its snapshot after all of its events. Two are kept.
SELECT cqrs.create_entity('snapshot.Sum', initial_state => '{"sum": 0}', snapshot_every => 3, keep_snapshots => 2);
SELECT cqrs.on_command('snapshot.Sum', 'AddEach', 'add_each');
SELECT cqrs.on_event('snapshot.Sum', 'Added', 'added');
SELECT version FROM cqrs.send('snapshot.Sum', 'a', 'AddEach', '[1]');
SELECT version FROM cqrs.send('snapshot.Sum', 'a', 'AddEach', '[1]');
SELECT * FROM kept;
SELECT version FROM cqrs.send('snapshot.Sum', 'a', 'AddEach', '[1]');
SELECT * FROM kept;
SELECT version FROM cqrs.send('snapshot.Sum', 'a', 'AddEach', '[1, 1, 1, 1, 1]');
SELECT * FROM kept;
SELECT version FROM cqrs.send('snapshot.Sum', 'a', 'AddEach', '[1]');
SELECT * FROM kept;
-- A command without events takes none.
SELECT version FROM cqrs.send('snapshot.Sum', 'a', 'AddEach', '[]');
SELECT * FROM kept;
-- A snapshot fits the journal: the position of its version, in the slice of its entity.
SELECT count(*) AS fitting FROM cqrs.snapshot s JOIN cqrs.journal j USING (entity_type, entity_id, version, position, slice)
WHERE entity_type = 'snapshot.Sum';

-- Loading begins at the newest snapshot at or below what is wanted.
SET client_min_messages = notice;
SELECT version FROM cqrs.send('snapshot.Sum', 'a', 'AddEach', '[1, 1]');
SELECT cqrs.state('snapshot.Sum', 'a');
SELECT cqrs.state('snapshot.Sum', 'a', version => 10);
SELECT cqrs.state('snapshot.Sum', 'a', version => 9);
SELECT cqrs.state('snapshot.Sum', 'a', version => 2);
SET client_min_messages = warning;

-- Whatever snapshots there are, the state after each version is the fold of all events up to it.
CREATE AGGREGATE sum_of(cqrs.event) (sfunc = added, stype = jsonb, initcond = '{"sum": 0}');
SELECT n AS version, cqrs.state('snapshot.Sum', 'a', version => n) AS state,
       cqrs.state('snapshot.Sum', 'a', version => n) =
       (SELECT sum_of(e ORDER BY e.version) FROM cqrs.history('snapshot.Sum', 'a') e WHERE e.version <= n) AS is_fold
FROM generate_series(0, 11) n;

-- take_snapshot takes one now; NULL where there is no such entity.
SELECT cqrs.take_snapshot('snapshot.Sum', 'a');
SELECT * FROM kept;
SELECT cqrs.take_snapshot('snapshot.Sum', 'a');
SELECT * FROM kept;
SELECT cqrs.take_snapshot('snapshot.Sum', 'nobody');
SELECT cqrs.take_snapshot('snapshot.None', 'a');
\echo :SQLSTATE
SELECT cqrs.take_snapshot('snapshot.Sum', NULL);
SELECT cqrs.take_snapshot(NULL, 'a');

-- A snapshot goes with the transaction that took it.
BEGIN;
-- Two events after the last one: due because they pass 12, the next number.
SELECT version FROM cqrs.send('snapshot.Sum', 'a', 'AddEach', '[1, 1]');
SELECT * FROM kept;
ROLLBACK;
SELECT * FROM kept;
SELECT cqrs.state('snapshot.Sum', 'a');

-- drop_snapshots drops those of one entity, or of all of a type, and says how many; the states stay what they were.
SELECT version FROM cqrs.send('snapshot.Sum', 'b', 'AddEach', '[1, 2, 3]');
SELECT version FROM cqrs.send('snapshot.Sum', 'c', 'AddEach', '[1, 2, 3]');
SELECT cqrs.drop_snapshots('snapshot.Sum', 'b');
SELECT * FROM kept;
SELECT cqrs.drop_snapshots('snapshot.Sum', 'b');
SELECT cqrs.drop_snapshots('snapshot.Sum');
SELECT * FROM kept;
SELECT cqrs.state('snapshot.Sum', 'a'), cqrs.state('snapshot.Sum', 'b');
SELECT cqrs.drop_snapshots('snapshot.None');
\echo :SQLSTATE

-- Where a snapshot was due but is missing, the next command takes it.
SELECT version FROM cqrs.send('snapshot.Sum', 'a', 'AddEach', '[1]');
SELECT * FROM kept;

-- keep_snapshots => 1 keeps one; snapshot_every => 0 takes none.
SELECT cqrs.alter_entity('snapshot.Sum', keep_snapshots => 1);
SELECT version FROM cqrs.send('snapshot.Sum', 'a', 'AddEach', '[1, 1, 1]');
SELECT * FROM kept;
SELECT cqrs.alter_entity('snapshot.Sum', snapshot_every => 0);
SELECT version FROM cqrs.send('snapshot.Sum', 'a', 'AddEach', '[1, 1, 1, 1, 1, 1]');
SELECT * FROM kept;
SELECT cqrs.alter_entity('snapshot.Sum', snapshot_every => 1, keep_snapshots => 2);
SELECT version FROM cqrs.send('snapshot.Sum', 'd', 'AddEach', '[1]');
SELECT version FROM cqrs.send('snapshot.Sum', 'd', 'AddEach', '[1]');
SELECT version FROM cqrs.send('snapshot.Sum', 'd', 'AddEach', '[1]');
SELECT * FROM kept WHERE entity_id = 'd';

-- A snapshot made by other handlers is not used: replaced in place, another function, another initial state, an upcaster.
-- Each snapshot has a lie put into it, so that a state shows whether one was used.
SELECT cqrs.alter_entity('snapshot.Sum', snapshot_every => 100);
SELECT cqrs.drop_snapshots('snapshot.Sum');
SELECT cqrs.take_snapshot('snapshot.Sum', 'd');
UPDATE cqrs.snapshot SET state = '{"sum": 1000}' WHERE entity_type = 'snapshot.Sum';
SELECT cqrs.state('snapshot.Sum', 'd') AS used;
CREATE OR REPLACE FUNCTION added(state jsonb, event cqrs.event) RETURNS jsonb
    LANGUAGE sql
    AS $$ SELECT jsonb_build_object('sum', (state ->> 'sum')::int + (event.data ->> 'by')::int) $$;
SELECT cqrs.state('snapshot.Sum', 'd') AS replaced;

SELECT cqrs.take_snapshot('snapshot.Sum', 'd');
UPDATE cqrs.snapshot SET state = '{"sum": 1000}' WHERE entity_type = 'snapshot.Sum';
SELECT cqrs.state('snapshot.Sum', 'd') AS used;
ALTER FUNCTION added SET work_mem = '1MB';
SELECT cqrs.state('snapshot.Sum', 'd') AS settings_changed;
ALTER FUNCTION added RESET work_mem;
SELECT cqrs.state('snapshot.Sum', 'd') AS as_before;

CREATE FUNCTION added_twice(state jsonb, event cqrs.event) RETURNS jsonb
    LANGUAGE sql
    AS $$ SELECT jsonb_build_object('sum', (state ->> 'sum')::int + 2 * (event.data ->> 'by')::int) $$;
SELECT cqrs.on_event('snapshot.Sum', 'Added', 'added_twice');
SELECT cqrs.state('snapshot.Sum', 'd') AS other_function;
SELECT cqrs.on_event('snapshot.Sum', 'Added', 'added');
SELECT cqrs.state('snapshot.Sum', 'd') AS as_before;

-- Registered with another search_path, by which it might find something else.
SET search_path = snapshot_test, public;
SELECT cqrs.on_event('snapshot.Sum', 'Added', 'added');
SELECT cqrs.state('snapshot.Sum', 'd') AS other_search_path;
SET search_path = snapshot_test;
SELECT cqrs.on_event('snapshot.Sum', 'Added', 'added');
SELECT cqrs.state('snapshot.Sum', 'd') AS as_before;

SELECT cqrs.alter_entity('snapshot.Sum', initial_state => '{"sum": 50}');
SELECT cqrs.state('snapshot.Sum', 'd') AS other_initial_state;
SELECT cqrs.alter_entity('snapshot.Sum', initial_state => '{"sum": 0}');
SELECT cqrs.state('snapshot.Sum', 'd') AS as_before;

CREATE FUNCTION in_cents(event cqrs.event) RETURNS cqrs.event
    LANGUAGE plpgsql
    AS $$
BEGIN
    event.data := jsonb_build_object('by', (event.data ->> 'by')::int * 100);
    RETURN event;
END
$$;
SELECT cqrs.on_upcast('snapshot.Sum', 'Added', 1, 'in_cents');
SELECT cqrs.state('snapshot.Sum', 'd') AS upcast;
SELECT cqrs.on_upcast('snapshot.Sum', 'Added', 1, NULL);
SELECT cqrs.state('snapshot.Sum', 'd') AS as_before;

-- A function with a parsed body has no text, and is told apart by that body.
CREATE FUNCTION parsed(state jsonb, event cqrs.event) RETURNS jsonb
    LANGUAGE sql
    BEGIN ATOMIC
        SELECT jsonb_build_object('sum', (state ->> 'sum')::int + 10);
    END;
SELECT cqrs.on_event('snapshot.Sum', 'Added', 'parsed');
SELECT cqrs.take_snapshot('snapshot.Sum', 'd');
SELECT cqrs.state('snapshot.Sum', 'd') AS parsed;
CREATE OR REPLACE FUNCTION parsed(state jsonb, event cqrs.event) RETURNS jsonb
    LANGUAGE sql
    BEGIN ATOMIC
        SELECT jsonb_build_object('sum', (state ->> 'sum')::int + 11);
    END;
SELECT cqrs.state('snapshot.Sum', 'd') AS parsed_anew;
SELECT cqrs.on_event('snapshot.Sum', 'Added', 'added');
SELECT cqrs.take_snapshot('snapshot.Sum', 'd');
UPDATE cqrs.snapshot SET state = '{"sum": 1000}' WHERE entity_type = 'snapshot.Sum';

-- A handler for commands has no say in the state.
CREATE OR REPLACE FUNCTION add_each(state jsonb, command cqrs.command) RETURNS cqrs.effect
    LANGUAGE sql
    AS $$ SELECT cqrs.reply(state) $$;
SELECT cqrs.state('snapshot.Sum', 'd') AS command_handler_replaced;
SELECT reply FROM cqrs.send('snapshot.Sum', 'd', 'AddEach', '[]');

-- A snapshot that does not fit the journal is not used: another position, another version, one from the future.
UPDATE cqrs.snapshot SET position = position + 1 WHERE entity_type = 'snapshot.Sum';
SELECT cqrs.state('snapshot.Sum', 'd') AS other_position;
SELECT reply FROM cqrs.send('snapshot.Sum', 'd', 'AddEach', '[]');
UPDATE cqrs.snapshot SET position = position - 1, version = 2 WHERE entity_type = 'snapshot.Sum';
SELECT cqrs.state('snapshot.Sum', 'd') AS other_version, cqrs.state('snapshot.Sum', 'd', version => 2) AS at_2;
SELECT reply FROM cqrs.send('snapshot.Sum', 'd', 'AddEach', '[]');
UPDATE cqrs.snapshot SET version = 1000 WHERE entity_type = 'snapshot.Sum';
SELECT cqrs.state('snapshot.Sum', 'd') AS from_the_future;
-- One of no version cannot be written at all.
\set VERBOSITY terse
UPDATE cqrs.snapshot SET version = 0 WHERE entity_type = 'snapshot.Sum';
\set VERBOSITY default
-- Nor one that is made of an event that was rolled back.
BEGIN;
SELECT version FROM cqrs.append('snapshot.Sum', 'd', ARRAY[cqrs.new_event('Added', '{"by": 40}')]);
ROLLBACK;
UPDATE cqrs.snapshot SET version = 3, position = (SELECT last_value FROM cqrs.journal_position_seq) WHERE entity_type = 'snapshot.Sum';
SELECT cqrs.state('snapshot.Sum', 'd') AS of_no_event;
-- take_snapshot mends it. One that was taken by hand is used also where none is taken by number.
SELECT cqrs.take_snapshot('snapshot.Sum', 'd');
SELECT * FROM kept;
SELECT cqrs.alter_entity('snapshot.Sum', snapshot_every => 0);
UPDATE cqrs.snapshot SET state = '{"sum": 1000}' WHERE entity_type = 'snapshot.Sum';
SELECT cqrs.state('snapshot.Sum', 'd') AS taken_by_hand;
SELECT cqrs.alter_entity('snapshot.Sum', snapshot_every => 2);
UPDATE cqrs.snapshot SET state = '{"sum": 3}' WHERE entity_type = 'snapshot.Sum';

-- An event that was appended without handlers is folded on top of a snapshot.
SELECT version FROM cqrs.append('snapshot.Sum', 'd', ARRAY[cqrs.new_event('Added', '{"by": 40}')]);
SELECT cqrs.state('snapshot.Sum', 'd');

-- Snapshots go with their entity type; the events stay.
SELECT cqrs.drop_entity('snapshot.Sum');
SELECT count(*) FROM cqrs.snapshot WHERE entity_type = 'snapshot.Sum';
SELECT count(*) > 0 AS events_stay FROM cqrs.journal WHERE entity_type = 'snapshot.Sum';
RESET cqrs.state_cache_size;
DROP SCHEMA snapshot_test CASCADE;
ALTER DEFAULT PRIVILEGES GRANT EXECUTE ON FUNCTIONS TO PUBLIC;
