-- A command for later is sent once, at its time, as who has scheduled it; what is rolled back or canceled is never sent.
\set SHOW_CONTEXT never
CREATE SCHEMA timer_test;
SET search_path = timer_test;
CREATE FUNCTION note(state jsonb, command cqrs.command) RETURNS cqrs.effect LANGUAGE plpgsql AS $$
BEGIN
    RETURN CASE command.command_type
        WHEN 'Note' THEN cqrs.persist('Noted', jsonb_build_object('data', command.data, 'sender', command.sender, 'id', command.command_id))
        WHEN 'Refuse' THEN cqrs.reject('not today', 'today')
        WHEN 'Divide' THEN cqrs.persist('Noted', jsonb_build_object('data', 1 / (command.data ->> 'by')::int))
    END;
END
$$;
REVOKE EXECUTE ON FUNCTION note FROM PUBLIC;
SELECT cqrs.create_entity('Timer');
SELECT cqrs.on_command('Timer', c, 'note') FROM unnest('{Note, Refuse, Divide}'::text[]) c;
SELECT cqrs.on_event('Timer', '*', 'cqrs.merge');
\getenv folder PG_ABS_SRCDIR
\set wait_until :folder '/test/wait_until.sql'
\i :wait_until
CREATE VIEW timers AS SELECT entity_id, state, command_type, attempts > 0 AS tried, last_sqlstate, last_error FROM cqrs.timer_status ORDER BY entity_id;
CREATE VIEW workers AS SELECT backend_type FROM pg_stat_activity WHERE datname = current_database() AND backend_type = 'pg_cqrs timer worker';

-- One that is due is sent at once, under its id; the event says why, and nothing is left.
SELECT cqrs.schedule(now() - interval '1 h', 'Timer', 'once', 'Note', '{"a": 1}') AS id \gset
SELECT wait_until($$NOT EXISTS (SELECT FROM cqrs.timer)$$);
SELECT version, data -> 'data' AS data, data ->> 'sender' = current_user AS as_me, data ->> 'id' = :'id' AS under_its_id,
       metadata -> '$causation' = jsonb_build_object('timer', :'id') AS caused, metadata ->> '$command_id' = :'id' AS command_id
FROM cqrs.history('Timer', 'once');
SELECT * FROM cqrs.cancel_scheduled(:'id');
SELECT version FROM cqrs.send('Timer', 'once', 'Note', '{"a": 1}', command_id => :'id');
SELECT cqrs.cancel_scheduled(gen_random_uuid()), cqrs.retry_scheduled(gen_random_uuid()), cqrs.cancel_scheduled(NULL) IS NULL AS nothing;

-- Without an entity id the timer's is the entity's, as with cqrs.send.
SELECT cqrs.schedule(now(), 'Timer', NULL, 'Note') AS id \gset
SELECT wait_until($$NOT EXISTS (SELECT FROM cqrs.timer)$$);
SELECT count(*) FROM cqrs.history('Timer', :'id');

-- Not before its time; canceled, it never is.
SELECT cqrs.schedule(now() + interval '1 h', 'Timer', 'later', 'Note') AS id \gset
SELECT * FROM timers;
SELECT due_at > now() AS later, due_at = next_attempt_at AS then, attempts, role = current_user AS mine FROM cqrs.timer_status;
SELECT wait_until('EXISTS (SELECT FROM workers)');
SELECT cqrs.cancel_scheduled(:'id'), cqrs.cancel_scheduled(:'id');
SELECT cqrs.schedule('294276-12-31', 'Timer', 'much later', 'Note') AS id \gset
SELECT cqrs.schedule(now(), 'Timer', 'now', 'Note') IS NOT NULL;
SELECT wait_until($$EXISTS (SELECT FROM cqrs.history('Timer', 'now'))$$);
SELECT * FROM timers;
SELECT cqrs.cancel_scheduled(:'id');

-- A rollback leaves nothing, to a savepoint too; a rollback of the cancellation leaves the timer.
BEGIN;
SELECT cqrs.schedule(now(), 'Timer', 'undone', 'Note') IS NOT NULL;
SAVEPOINT s;
SELECT cqrs.schedule(now(), 'Timer', 'undone', 'Note') IS NOT NULL;
ROLLBACK TO s;
SELECT count(*) FROM cqrs.timer;
ROLLBACK;
SELECT cqrs.schedule(now() + interval '1 h', 'Timer', 'kept', 'Note') AS id \gset
BEGIN;
SELECT cqrs.cancel_scheduled(:'id');
ROLLBACK;
SELECT * FROM timers;
SELECT cqrs.cancel_scheduled(:'id');
-- What is scheduled and canceled in one transaction was never there.
BEGIN;
SELECT cqrs.cancel_scheduled(cqrs.schedule(now(), 'Timer', 'undone', 'Note'));
COMMIT;
BEGIN;
SELECT cqrs.schedule(now(), 'Timer', 'prepared', 'Note') IS NOT NULL;
PREPARE TRANSACTION 'timer';
COMMIT PREPARED 'timer';
SELECT wait_until($$EXISTS (SELECT FROM cqrs.history('Timer', 'prepared'))$$);
SELECT count(*) FROM cqrs.history('Timer', 'undone');

-- In the order of their times; those of one time in the order in which they were scheduled.
BEGIN;
SELECT count(cqrs.schedule(now() - n * interval '1 s', 'Timer', 'order', 'Note', to_jsonb(n))) FROM generate_series(1, 50) n;
SELECT count(cqrs.schedule('2000-01-01', 'Timer', 'same time', 'Note', to_jsonb(n))) FROM generate_series(1, 50) n;
COMMIT;
SELECT wait_until($$NOT EXISTS (SELECT FROM cqrs.timer)$$);
SELECT entity_id, count(*), string_agg(data ->> 'data', ' ' ORDER BY version) FROM cqrs.journal WHERE entity_id IN ('order', 'same time') GROUP BY 1 ORDER BY 1;

-- A rejection is an answer: the timer is gone, and nothing has happened.
SELECT cqrs.schedule(now(), 'Timer', 'refused', 'Refuse') IS NOT NULL;
SELECT wait_until($$NOT EXISTS (SELECT FROM cqrs.timer)$$);
SELECT count(*) FROM cqrs.history('Timer', 'refused');

-- One that fails is tried again, holds no other one back, and is given up after a while; repaired, it is sent.
SELECT cqrs.schedule(now(), 'Timer', 'failing', 'Divide', '{"by": 0}') AS id \gset
SELECT wait_until($$EXISTS (SELECT FROM timers WHERE tried)$$);
SELECT cqrs.schedule(now(), 'Timer', 'not failing', 'Note') IS NOT NULL;
SELECT wait_until($$EXISTS (SELECT FROM cqrs.history('Timer', 'not failing'))$$);
SELECT wait_until($$EXISTS (SELECT FROM timers WHERE state = 'failed')$$);
SELECT * FROM timers;
SELECT attempts, next_attempt_at FROM cqrs.timer_status;
CREATE FUNCTION divide(state jsonb, command cqrs.command) RETURNS cqrs.effect LANGUAGE sql AS $$ SELECT cqrs.persist('Noted', '{"divided": true}') $$;
REVOKE EXECUTE ON FUNCTION divide FROM PUBLIC;
SELECT cqrs.on_command('Timer', 'Divide', 'divide');
SELECT cqrs.retry_scheduled(:'id');
SELECT wait_until($$NOT EXISTS (SELECT FROM cqrs.timer)$$);
SELECT version, data FROM cqrs.history('Timer', 'failing');

-- Errors of the system's are tried again for as long as it takes.
CREATE FUNCTION lose(state jsonb, command cqrs.command) RETURNS cqrs.effect LANGUAGE plpgsql AS $$
BEGIN
    IF nextval('timer_test.tries') < 11 THEN
        RAISE serialization_failure;
    END IF;
    RETURN cqrs.persist('Noted', '{}');
END
$$;
REVOKE EXECUTE ON FUNCTION lose FROM PUBLIC;
CREATE SEQUENCE tries;
SELECT cqrs.on_command('Timer', 'Lose', 'lose');
SELECT cqrs.schedule(now(), 'Timer', 'losing', 'Lose') IS NOT NULL;
SELECT wait_until($$NOT EXISTS (SELECT FROM cqrs.timer)$$);
SELECT count(*), (SELECT last_value FROM tries) AS tries FROM cqrs.history('Timer', 'losing');

-- A handler may schedule; it is the entity's owner who sends then. An event handler may not.
CREATE FUNCTION remind(state jsonb, command cqrs.command) RETURNS cqrs.effect LANGUAGE plpgsql AS $$
BEGIN
    PERFORM cqrs.schedule(now(), 'Timer', command.entity_id, 'Note', '"reminded"');
    RETURN cqrs.persist('Reminding', '{}');
END
$$;
CREATE FUNCTION bad_event(state jsonb, event cqrs.event) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
    CASE event.data ->> 'do'
        WHEN 'schedule' THEN PERFORM cqrs.schedule(now(), 'Timer', 'x', 'Note');
        WHEN 'cancel' THEN PERFORM cqrs.cancel_scheduled(gen_random_uuid());
        WHEN 'retry' THEN PERFORM cqrs.retry_scheduled(gen_random_uuid());
    END CASE;
    RETURN state;
END
$$;
REVOKE EXECUTE ON FUNCTION remind FROM PUBLIC;
SELECT cqrs.on_command('Timer', 'Remind', 'remind');
SELECT version FROM cqrs.send('Timer', 'reminded', 'Remind');
SELECT wait_until($$NOT EXISTS (SELECT FROM cqrs.timer)$$);
SELECT version, event_type, data -> 'data' AS data FROM cqrs.history('Timer', 'reminded');
SELECT cqrs.on_event('Timer', 'Bad', 'bad_event');
\set VERBOSITY sqlstate
SELECT cqrs.append('Timer', d, ARRAY[cqrs.new_event('Bad', jsonb_build_object('do', d))]) IS NOT NULL FROM unnest('{schedule, cancel, retry}'::text[]) d;
SELECT cqrs.state('Timer', 'schedule');
SELECT cqrs.state('Timer', 'cancel');
SELECT cqrs.state('Timer', 'retry');
\set VERBOSITY default

-- What could not be sent is refused at once.
SELECT cqrs.schedule(NULL, 'Timer', 'x', 'Note');
\echo :SQLSTATE
SELECT cqrs.schedule('infinity', 'Timer', 'x', 'Note');
\echo :SQLSTATE
SELECT cqrs.schedule('-infinity', 'Timer', 'x', 'Note');
\set VERBOSITY terse
SELECT cqrs.schedule(now(), 'Nothing', 'x', 'Note');
\echo :SQLSTATE
SELECT cqrs.schedule(now(), 'Timer', 'x', 'Unheard');
\echo :SQLSTATE
SELECT cqrs.schedule(now(), NULL, 'x', 'Note');
\echo :SQLSTATE
SELECT cqrs.schedule(now(), 'Timer', '', 'Note');
\echo :SQLSTATE
SELECT cqrs.schedule(now(), 'Timer', 'x', NULL);
SELECT cqrs.schedule(now(), 'Timer', 'x', 'Note', NULL);
SELECT cqrs.schedule(now(), 'Timer', 'x', 'Note', 'null');
SELECT cqrs.schedule(now(), 'Timer', repeat('x', 3000), 'Note');
BEGIN READ ONLY;
SELECT cqrs.schedule(now(), 'Timer', 'x', 'Note');
ROLLBACK;
SELECT count(*) FROM cqrs.timer;

-- Who may: EXECUTE on the function and on the handler, now and when it is sent. Who has scheduled may cancel, and nobody else but a superuser.
CREATE ROLE regress_cqrs_early;
CREATE ROLE regress_cqrs_late;
GRANT USAGE ON SCHEMA timer_test TO regress_cqrs_early, regress_cqrs_late;
SET ROLE regress_cqrs_early;
SELECT cqrs.schedule(now(), 'Timer', 'x', 'Note');
SELECT count(*) FROM cqrs.timer_status;
SELECT count(*) FROM cqrs.timer;
RESET ROLE;
GRANT EXECUTE ON FUNCTION cqrs.schedule, cqrs.cancel_scheduled, cqrs.retry_scheduled TO regress_cqrs_early, regress_cqrs_late;
SET ROLE regress_cqrs_early;
SELECT cqrs.schedule(now(), 'Timer', 'x', 'Note');
\echo :SQLSTATE
RESET ROLE;
GRANT EXECUTE ON FUNCTION note TO regress_cqrs_early;
SET ROLE regress_cqrs_early;
SELECT cqrs.schedule(now(), 'Timer', 'early', 'Note') IS NOT NULL;
SELECT cqrs.schedule(now() + interval '1 h', 'Timer', 'early too', 'Note') AS id \gset
SET ROLE regress_cqrs_late;
\set VERBOSITY sqlstate
SELECT cqrs.cancel_scheduled(:'id');
SELECT cqrs.retry_scheduled(:'id');
\set VERBOSITY terse
RESET ROLE;
SELECT wait_until($$EXISTS (SELECT FROM cqrs.history('Timer', 'early'))$$);
SELECT data ->> 'sender' AS sender, metadata ->> '$sender' AS also FROM cqrs.history('Timer', 'early');
SET ROLE regress_cqrs_early;
SELECT cqrs.cancel_scheduled(:'id');
SELECT cqrs.schedule(now() + interval '1 h', 'Timer', 'early', 'Note') AS id \gset
RESET ROLE;
SELECT cqrs.cancel_scheduled(:'id');
-- The right was taken away before the time came.
SET ROLE regress_cqrs_early;
SELECT cqrs.schedule(now() + interval '1 h', 'Timer', 'withdrawn', 'Note') AS id \gset
RESET ROLE;
REVOKE EXECUTE ON FUNCTION note FROM regress_cqrs_early;
UPDATE cqrs.timer SET due_at = now();
SELECT cqrs.retry_scheduled(:'id');
SELECT wait_until($$EXISTS (SELECT FROM timers WHERE tried)$$);
SELECT entity_id, last_sqlstate, last_error FROM timers;
SELECT cqrs.cancel_scheduled(:'id');
-- The role is gone: there is nobody to send it.
GRANT EXECUTE ON FUNCTION note TO regress_cqrs_early;
SET ROLE regress_cqrs_early;
SELECT cqrs.schedule(now() + interval '1 h', 'Timer', 'orphan', 'Note') AS id \gset
RESET ROLE;
DROP OWNED BY regress_cqrs_early;
DROP ROLE regress_cqrs_early;
SET ROLE regress_cqrs_late;
\set VERBOSITY sqlstate
SELECT cqrs.cancel_scheduled(:'id');
\set VERBOSITY default
RESET ROLE;
UPDATE cqrs.timer SET due_at = now();
SELECT cqrs.retry_scheduled(:'id');
SELECT wait_until($$EXISTS (SELECT FROM timers WHERE state = 'failed')$$);
SELECT entity_id, state, last_sqlstate, replace(last_error, :'id', 'ID') AS last_error FROM timers;
SELECT cqrs.cancel_scheduled(:'id');
SELECT count(*) FROM cqrs.history('Timer', 'orphan');

-- A handler leaves nothing in the session of the worker.
CREATE FUNCTION leave(state jsonb, command cqrs.command) RETURNS cqrs.effect LANGUAGE plpgsql AS $$
BEGIN
    PERFORM set_config('timer_test.left', 'yes', false), pg_advisory_lock(42);
    RETURN cqrs.persist('Noted', jsonb_build_object('left', current_setting('timer_test.left', true)));
END
$$;
CREATE FUNCTION find(state jsonb, command cqrs.command) RETURNS cqrs.effect LANGUAGE sql AS $$
    SELECT cqrs.persist('Noted', jsonb_build_object('left', current_setting('timer_test.left', true), 'locks',
        (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = 42)))
$$;
REVOKE EXECUTE ON FUNCTION leave, find FROM PUBLIC;
SELECT cqrs.on_command('Timer', 'Leave', 'leave'), cqrs.on_command('Timer', 'Find', 'find');
SELECT cqrs.schedule('2000-01-01', 'Timer', 'leave', 'Leave') IS NOT NULL, cqrs.schedule('2000-01-02', 'Timer', 'leave', 'Find') IS NOT NULL;
SELECT wait_until($$NOT EXISTS (SELECT FROM cqrs.timer)$$);
SELECT data FROM cqrs.history('Timer', 'leave');

-- Without timers there is soon no worker.
SELECT wait_until('NOT EXISTS (SELECT FROM workers)');
REVOKE ALL ON FUNCTION cqrs.schedule, cqrs.cancel_scheduled, cqrs.retry_scheduled FROM regress_cqrs_late;
SELECT cqrs.drop_entity('Timer');
SET client_min_messages = warning;
DROP OWNED BY regress_cqrs_late;
DROP ROLE regress_cqrs_late;
DROP SCHEMA timer_test CASCADE;
