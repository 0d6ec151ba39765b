-- cqrs.wait_for_projection returns when a projection has come to a position, and fails at once where that would be of no use.
\set SHOW_CONTEXT never
CREATE SCHEMA wait_test;
SET search_path = wait_test;
SELECT cqrs.create_journal();
CREATE TABLE seen (entity_id text, version bigint);
CREATE FUNCTION handler(event cqrs.event) RETURNS void LANGUAGE sql AS $$ INSERT INTO seen VALUES ((event).entity_id, (event).version) $$;
SELECT cqrs.create_projection('wait', 'handler', entity_types => '{Wait}', start_position => NULL);
CREATE FUNCTION put(entity_type text, entity_id text) RETURNS bigint LANGUAGE sql AS $$ SELECT (cqrs.append($1, $2, ARRAY[cqrs.new_event('X', '{}')])).position $$;

-- For the position of a receipt; the next statement sees the result.
SELECT put('Wait', '1') AS position \gset
SELECT cqrs.wait_for_projection('wait', :position) = :position AS position;
SELECT * FROM seen;
SELECT cqrs.wait_for_projection('wait', up_to => 0);
-- For what is committed now.
SELECT put('Wait', '2') AS position \gset
SELECT cqrs.wait_for_projection('wait') = :position AS position;
SELECT count(*) FROM seen;
-- For a position that the projection does not want.
SELECT put('WaitOther', '1') AS position \gset
SELECT cqrs.wait_for_projection('wait', :position) = :position AS position;
SELECT cqrs.wait_for_projection('wait') = :position AS position;
-- Each of many.
CREATE PROCEDURE put_and_wait(INOUT missed integer) LANGUAGE plpgsql AS $$
DECLARE
    place bigint;
BEGIN
    missed := 0;
    FOR i IN 1 .. 100 LOOP
        place := wait_test.put('Wait', 'many');
        COMMIT;
        PERFORM cqrs.wait_for_projection('wait', place);
        missed := missed + (SELECT (count(*) = 0)::integer FROM wait_test.seen WHERE entity_id = 'many' AND version = i);
    END LOOP;
END
$$;
CALL put_and_wait(0);

-- The time is over.
CREATE FUNCTION slow(event cqrs.event) RETURNS void LANGUAGE sql AS $$ SELECT pg_advisory_xact_lock(1000001) $$;
SELECT cqrs.create_projection('wait slow', 'slow', entity_types => '{WaitSlow}', start_position => NULL);
SELECT pg_advisory_lock(1000001);
SELECT put('WaitSlow', '1') AS position \gset
\set VERBOSITY sqlstate
SELECT cqrs.wait_for_projection('wait slow', timeout => '10 ms');
SELECT cqrs.wait_for_projection('wait slow', :position, '0');
SELECT cqrs.wait_for_projection('wait slow', :position, '-1 s');
\set VERBOSITY default
SELECT pg_advisory_unlock(1000001);
SELECT cqrs.wait_for_projection('wait slow', :position, '1000000 years') = :position AS done;
SELECT cqrs.wait_for_projection('wait slow', :position, '0') = :position AS done;
-- A statement's own timeout ends it as well.
SELECT pg_advisory_lock(1000001);
SELECT put('WaitSlow', '1') AS position \gset
SET statement_timeout = '20 ms';
SELECT cqrs.wait_for_projection('wait slow', timeout => '1 h');
\echo :SQLSTATE
RESET statement_timeout;
SELECT pg_advisory_unlock(1000001);
SELECT cqrs.wait_for_projection('wait slow') > 0;

-- In vain: in the transaction that has written it, with a snapshot that cannot see the result, for one that does not run.
BEGIN;
SELECT put('Wait', '3') > 0;
SELECT cqrs.wait_for_projection('wait');
\echo :SQLSTATE
ROLLBACK;
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT cqrs.wait_for_projection('wait');
\echo :SQLSTATE
ROLLBACK;
BEGIN ISOLATION LEVEL SERIALIZABLE;
SELECT cqrs.wait_for_projection('wait', 0);
\echo :SQLSTATE
ROLLBACK;
BEGIN;
SELECT cqrs.wait_for_projection('wait') > 0 AS in_a_transaction;
COMMIT;
SELECT cqrs.pause_projection('wait');
SELECT cqrs.wait_for_projection('wait');
\echo :SQLSTATE
SELECT cqrs.resume_projection('wait');
SELECT cqrs.wait_for_projection('wait') > 0;
-- What cannot be meant.
SELECT cqrs.wait_for_projection(NULL);
\echo :SQLSTATE
SELECT cqrs.wait_for_projection('wait', timeout => NULL);
\echo :SQLSTATE
SELECT cqrs.wait_for_projection('wait none');
\echo :SQLSTATE
SELECT cqrs.wait_for_projection('');
\echo :SQLSTATE
\set VERBOSITY sqlstate
SELECT cqrs.wait_for_projection('wait', -1);
SELECT cqrs.wait_for_projection('wait', cqrs.last_position() + 1);
\set VERBOSITY default
-- Everybody may wait.
CREATE ROLE regress_cqrs_wait;
SET ROLE regress_cqrs_wait;
SELECT cqrs.wait_for_projection('wait') > 0;
RESET ROLE;
DROP ROLE regress_cqrs_wait;
SELECT cqrs.drop_projection('wait'), cqrs.drop_projection('wait slow');
SET client_min_messages = warning;
DROP SCHEMA wait_test CASCADE;
