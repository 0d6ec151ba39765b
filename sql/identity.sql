-- A database with the journal of another one, restored or copied, is held: commands and appends work and warn once,
-- but nothing is read in order until cqrs.adopt() says that the journal is whole and belongs here.
SELECT version FROM cqrs.append('Identity', 'a', ARRAY[cqrs.new_event('A', '{"n": 1}')]);
SELECT cqrs.is_held();
SELECT only_row, system_identifier = (SELECT system_identifier FROM pg_control_system()) AS this_server,
    database = (SELECT oid::bigint FROM pg_database WHERE datname = current_database()) AS this_database
FROM cqrs.identity;
SELECT cqrs.create_entity('Identity');
SELECT cqrs.on_event('Identity', '*', 'cqrs.merge');
CREATE SCHEMA identity_test;
CREATE FUNCTION identity_test.decide(state jsonb, command cqrs.command) RETURNS cqrs.effect LANGUAGE sql
    AS $$SELECT cqrs.persist((command).command_type, (command).data, state)$$;
REVOKE EXECUTE ON FUNCTION identity_test.decide(jsonb, cqrs.command) FROM PUBLIC;
SELECT cqrs.on_command('Identity', '*', 'identity_test.decide');

-- As a clone has it: what was recorded is another server's.
UPDATE cqrs.identity SET system_identifier = system_identifier + 1;
\c -
SELECT cqrs.is_held();
SELECT held FROM cqrs.journal_status;
SELECT count(*) FROM cqrs.read_events();
SELECT cqrs.wait_for_event(0, '1 ms');
\echo :LAST_ERROR_SQLSTATE
-- Writers go on, and are told so once in a session.
SELECT version FROM cqrs.append('Identity', 'a', ARRAY[cqrs.new_event('A', '{"n": 2}')], 1);
SELECT version FROM cqrs.append('Identity', 'a', ARRAY[cqrs.new_event('A', '{"n": 3}')], 2);
SELECT version, reply FROM cqrs.send('Identity', 'a', 'Do', '{"done": true}', 3);
-- So does whoever reads one entity.
SELECT version, event_type FROM cqrs.history('Identity', 'a');
SELECT cqrs.state('Identity', 'a');
\c -
SELECT version, reply FROM cqrs.send('Identity', 'a', 'Do', '{"again": true}', 4);
SELECT version FROM cqrs.append('Identity', 'a', ARRAY[cqrs.new_event('A', '{"n": 4}')], 5);
-- An adopt() that is rolled back was none.
BEGIN;
SELECT cqrs.adopt() = cqrs.last_position() AS adopted;
SELECT cqrs.is_held();
SELECT count(*) > 0 AS readable FROM cqrs.read_events();
ROLLBACK;
SELECT cqrs.is_held();
SELECT count(*) FROM cqrs.read_events();
-- It waits for open appends, prepared ones too.
BEGIN;
SELECT version FROM cqrs.append('Identity', 'b', ARRAY[cqrs.new_event('A', '{}')]);
PREPARE TRANSACTION 'regress_identity';
SET lock_timeout = '10 ms';
\set VERBOSITY sqlstate
SELECT cqrs.adopt();
\set VERBOSITY default
RESET lock_timeout;
COMMIT PREPARED 'regress_identity';
SELECT cqrs.is_held();
-- Whoever may not run it cannot help themselves.
CREATE ROLE regress_identity;
SET ROLE regress_identity;
SELECT cqrs.adopt();
SELECT cqrs.record_identity();
SELECT cqrs.identity_changed();
SELECT cqrs.raise_position();
SELECT cqrs.is_held();
UPDATE cqrs.identity SET system_identifier = 0;
DELETE FROM cqrs.identity;
RESET ROLE;
DROP ROLE regress_identity;
-- It gives the position up to which it raised the sequence; and all is well, here and in new sessions.
SELECT cqrs.adopt() = cqrs.last_position() AS adopted;
SELECT cqrs.is_held();
SELECT held FROM cqrs.journal_status;
SELECT max(position) = cqrs.high_water_mark() AS readable FROM cqrs.read_events(0, 2147483647);
SELECT version FROM cqrs.append('Identity', 'a', ARRAY[cqrs.new_event('A', '{"n": 5}')], 6);
\c -
SELECT cqrs.is_held();
SELECT version FROM cqrs.append('Identity', 'a', ARRAY[cqrs.new_event('A', '{"n": 6}')], 7);
-- A second time it changes nothing.
SELECT cqrs.adopt() = cqrs.last_position() AS adopted;
SELECT count(*), bool_and(database = (SELECT oid::bigint FROM pg_database WHERE datname = current_database())) AS this_database FROM cqrs.identity;

-- A copy on the same server is told by the database; a journal that came without identity is held too.
UPDATE cqrs.identity SET database = database + 1;
\c -
SELECT cqrs.is_held();
SELECT cqrs.adopt() = cqrs.last_position() AS adopted;
SELECT cqrs.is_held();
DELETE FROM cqrs.identity;
\c -
SELECT cqrs.is_held();
SELECT count(*) FROM cqrs.read_events();
SELECT cqrs.create_journal();
SELECT cqrs.is_held();
SELECT cqrs.adopt() = cqrs.last_position() AS adopted;
SELECT cqrs.is_held();
-- Two identities there cannot be.
INSERT INTO cqrs.identity VALUES (false, 1, 1, 1, true);
INSERT INTO cqrs.identity VALUES (true, 1, 1, 1, true);

-- A session that found the identity right is told by a message when it changes.
SELECT cqrs.is_held();
UPDATE cqrs.identity SET system_identifier = system_identifier + 1;
SELECT cqrs.identity_changed();
SELECT cqrs.is_held();
SELECT count(*) FROM cqrs.read_events();
SELECT version FROM cqrs.append('Identity', 'a', ARRAY[cqrs.new_event('A', '{"n": 7}')], 8);
SELECT version FROM cqrs.append('Identity', 'a', ARRAY[cqrs.new_event('A', '{"n": 8}')], 9);
SELECT cqrs.adopt() = cqrs.last_position() AS adopted;
SELECT cqrs.is_held();
BEGIN;
UPDATE cqrs.identity SET system_identifier = system_identifier + 1;
SELECT cqrs.identity_changed();
SELECT cqrs.is_held();
ROLLBACK;
SELECT cqrs.is_held();
SELECT version, data FROM cqrs.history('Identity', 'a', 6);

-- A restored journal whose sequence lags behind gets positions after its own.
UPDATE cqrs.identity SET system_identifier = system_identifier + 1;
SELECT setval('cqrs.journal_position_seq', 1);
\c -
SELECT cqrs.adopt() = (SELECT max(position) FROM cqrs.journal) AS raised;
SELECT last_value = (SELECT max(position) FROM cqrs.journal) AS raised FROM cqrs.journal_position_seq;
SELECT cqrs.last_position() AS before \gset
SELECT version, position > :before AS later FROM cqrs.append('Identity', 'a', ARRAY[cqrs.new_event('A', '{"n": 9}')], 10);

SELECT cqrs.drop_entity('Identity');
DROP SCHEMA identity_test CASCADE;
