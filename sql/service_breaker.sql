-- A circuit breaker opens after so many failures in a row, rejects calls without trying them until its time is over, lets one
-- call through then, and closes or opens again by its outcome. No network is needed: begin_call and end_call are the calls.
\set SHOW_CONTEXT never
\set VERBOSITY terse
CREATE SERVER b FOREIGN DATA WRAPPER cqrs_http OPTIONS (url 'https://b', max_failures '3', reset_timeout '10min', call_timeout '5min');
CREATE FUNCTION succeed() RETURNS void LANGUAGE sql AS $$ SELECT cqrs.end_call(cqrs.begin_call('b'), 'success') $$;
CREATE FUNCTION fail(how text DEFAULT 'failure', error text DEFAULT NULL) RETURNS void LANGUAGE sql AS $$ SELECT cqrs.end_call(cqrs.begin_call('b'), how, error) $$;
-- The rest of the time is in minutes, rounded up, so that it does not matter how long the test takes.
CREATE VIEW b AS SELECT state, consecutive_failures AS failures, ceil(extract(epoch FROM retry_in) / 60) AS retry_in_min, probe_pid = pg_backend_pid() AS my_probe,
    in_flight FROM cqrs.breaker_status WHERE service = 'b';
CREATE VIEW counted AS SELECT calls, successes, failures, timeouts, rejected, opened, last_error FROM cqrs.breaker_status WHERE service = 'b';

-- Closed: calls pass, failures in a row are counted, a success sets the count to 0, and what says nothing leaves it.
SELECT * FROM b;
SELECT fail(), fail('timeout');
SELECT * FROM b;
SELECT fail('neutral');
SELECT * FROM b;
SELECT succeed();
SELECT * FROM b;
SELECT fail(), fail();
SELECT state FROM b;
-- The failure that reaches the limit opens it, before its caller goes on.
SELECT fail(error => 'no answer');
SELECT * FROM b;
SELECT succeed();
\echo :SQLSTATE
SELECT fail();
\echo :SQLSTATE
SELECT * FROM b;
SELECT * FROM counted;

-- Open until the time is over, and the rejection says when that is.
SET cqrs.breaker_clock_offset = '9min';
SELECT * FROM b;
DO $$
BEGIN
    PERFORM cqrs.begin_call('b');
EXCEPTION WHEN SQLSTATE 'QR010' THEN
    DECLARE
        detail text;
    BEGIN
        GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL;
        RAISE NOTICE '%', regexp_replace(detail, '\m[0-9]{5} ms', '(less than 100 seconds)');
    END;
END
$$;

-- Half-open: one call is let through, and the others are rejected while it is under way.
SET cqrs.breaker_clock_offset = '10min';
SELECT * FROM b;
BEGIN;
SELECT cqrs.begin_call('b') AS probe \gset
SELECT * FROM b;
SAVEPOINT s;
SELECT succeed();
ROLLBACK TO s;
SELECT cqrs.end_call(:probe, 'success');
COMMIT;
SELECT * FROM b;
SELECT succeed();

-- A failure of the probe opens it again, a success closes it: whatever the limit is.
SELECT fail(), fail(), fail();
SET cqrs.breaker_clock_offset = '20min';
SELECT fail();
SELECT * FROM b;
SELECT succeed();
SET cqrs.breaker_clock_offset = '30min';
SELECT fail('timeout');
SELECT * FROM b;
SET cqrs.breaker_clock_offset = '40min';

-- A probe that says nothing changes nothing, however it ends, and the next call is the probe.
SELECT fail('neutral');
SELECT * FROM b;
BEGIN;
SELECT cqrs.begin_call('b') IS NOT NULL AS probe;
ROLLBACK;
SELECT * FROM b;
BEGIN;
SELECT cqrs.begin_call('b') IS NOT NULL AS probe;
COMMIT;
SELECT * FROM b;
BEGIN;
SELECT cqrs.begin_call('b') IS NOT NULL AS probe;
SELECT 1 / 0;
ROLLBACK;
SELECT * FROM b;
-- A ticket lasts through the rollback of a savepoint, so that the handler of an exception can tell.
DO $$
DECLARE
    ticket bigint := cqrs.begin_call('b');
BEGIN
    BEGIN
        RAISE EXCEPTION 'no answer';
    EXCEPTION WHEN OTHERS THEN
        PERFORM cqrs.end_call(ticket, 'failure', SQLERRM);
    END;
END
$$;
SELECT * FROM b;
SELECT last_error FROM counted;

-- A probe is a lease: when it is over, another one goes, and what the first one says decides nothing.
SET cqrs.breaker_clock_offset = '50min';
BEGIN;
SELECT cqrs.begin_call('b') AS first \gset
SET LOCAL cqrs.breaker_clock_offset = '54min';
SAVEPOINT s;
SELECT cqrs.begin_call('b');
ROLLBACK TO s;
SET LOCAL cqrs.breaker_clock_offset = '56min';
SELECT cqrs.begin_call('b') AS second \gset
SELECT cqrs.end_call(:first, 'success');
SELECT * FROM b;
SELECT cqrs.end_call(:second, 'success');
SELECT * FROM b;
COMMIT;

-- The outcome of a call that began before the breaker opened decides nothing: no late success closes it, no late failure counts.
RESET cqrs.breaker_clock_offset;
SELECT cqrs.reset_breaker('b');
BEGIN;
SELECT cqrs.begin_call('b') AS late1, cqrs.begin_call('b') AS late2, cqrs.begin_call('b') AS late3 \gset
SELECT fail(), fail(), fail();
SELECT cqrs.end_call(:late1, 'success');
SELECT * FROM b;
SET LOCAL cqrs.breaker_clock_offset = '10min';
SELECT cqrs.begin_call('b') AS probe \gset
SELECT cqrs.end_call(:late2, 'failure');
SELECT * FROM b;
SELECT cqrs.end_call(:probe, 'success');
SELECT cqrs.end_call(:late3, 'failure');
SELECT * FROM b;
COMMIT;
SELECT * FROM counted;

-- The reset timeout grows with each failed probe to its maximum exactly; closing sets it back.
ALTER SERVER b OPTIONS (ADD backoff_factor '2', ADD max_reset_timeout '36min');
CREATE PROCEDURE grow(times int) LANGUAGE plpgsql AS $$
DECLARE
    passed int := 0;
BEGIN
    PERFORM cqrs.reset_breaker('b'), set_config('cqrs.breaker_clock_offset', '0', false);
    PERFORM fail(), fail(), fail();
    FOR n IN 1 .. times LOOP
        RAISE NOTICE 'opening %: % min', n, (SELECT retry_in_min FROM b);
        passed := passed + (SELECT retry_in_min FROM b) ;
        PERFORM set_config('cqrs.breaker_clock_offset', passed || 'min', false);
        IF n < times THEN
            PERFORM fail();
        END IF;
    END LOOP;
    PERFORM succeed();
    PERFORM fail(), fail(), fail();
    RAISE NOTICE 'after closing: % min', (SELECT retry_in_min FROM b);
END
$$;
CALL grow(5);
-- An exponent without bound does not overflow.
ALTER SERVER b OPTIONS (SET backoff_factor '1000', SET max_reset_timeout '20d');
DO $$
BEGIN
    PERFORM cqrs.reset_breaker('b'), set_config('cqrs.breaker_clock_offset', '0', false);
    PERFORM fail(), fail(), fail();
END
$$;
SET cqrs.breaker_clock_offset = '10min';
SELECT fail();
SELECT retry_in_min FROM b;
SET cqrs.breaker_clock_offset = '7d';
SELECT fail();
SELECT retry_in_min FROM b;
RESET cqrs.breaker_clock_offset;
-- ALTER SERVER counts at once, for a breaker that is open too.
SELECT cqrs.reset_breaker('b');
SELECT fail(), fail(), fail();
SELECT * FROM b;
ALTER SERVER b OPTIONS (SET reset_timeout '60min');
SELECT * FROM b;
ALTER SERVER b OPTIONS (SET max_reset_timeout '30min', SET reset_timeout '20min');
SELECT * FROM b;
ALTER SERVER b OPTIONS (SET reset_timeout '1ms', SET backoff_factor '1');
SET cqrs.breaker_clock_offset = '1s';
SELECT succeed();
SELECT * FROM b;
RESET cqrs.breaker_clock_offset;
ALTER SERVER b OPTIONS (SET reset_timeout '10min', SET max_failures '1');
SELECT fail();
SELECT state FROM b;

-- Jitter lengthens each opening by its own share, and neither builds up nor goes beyond the maximum.
ALTER SERVER b OPTIONS (ADD jitter '0.5', SET max_reset_timeout '14min', SET reset_timeout '10min');
CREATE FUNCTION openings(times int) RETURNS SETOF numeric LANGUAGE plpgsql AS $$
BEGIN
    FOR n IN 1 .. times LOOP
        PERFORM cqrs.reset_breaker('b');
        PERFORM fail();
        RETURN NEXT (SELECT extract(epoch FROM retry_in) / 60 FROM cqrs.breaker('b'));
    END LOOP;
END
$$;
SELECT min(m) > 9 AND max(m) <= 14 AS within, count(DISTINCT round(m, 1)) > 5 AS differ, max(m) > 13 AS reaches_the_maximum FROM openings(300) m;
ALTER SERVER b OPTIONS (DROP jitter, SET max_failures '3');

-- By hand: held open, out of the way, and closed with the counters at 0.
SELECT cqrs.reset_breaker('b');
SELECT cqrs.force_open('b');
SELECT * FROM b;
SELECT succeed();
SET cqrs.breaker_clock_offset = '1d';
SELECT succeed();
RESET cqrs.breaker_clock_offset;
SELECT cqrs.disable_breaker('b');
SELECT fail(), fail(), fail(), fail();
SELECT * FROM b;
SELECT * FROM counted;
SELECT cqrs.reset_breaker('b');
SELECT * FROM b;
SELECT * FROM counted;
-- An order reaches calls under way: they decide nothing after it.
BEGIN;
SELECT fail(), fail();
SELECT cqrs.begin_call('b') AS before_reset \gset
SELECT cqrs.reset_breaker('b');
SELECT fail(), fail();
SELECT cqrs.end_call(:before_reset, 'failure');
SELECT * FROM b;
COMMIT;
-- By option, which outlasts a reset.
ALTER SERVER b OPTIONS (ADD breaker 'forced_open');
SELECT cqrs.reset_breaker('b');
SELECT * FROM b;
SELECT succeed();
ALTER SERVER b OPTIONS (SET breaker 'off');
SELECT fail(), fail(), fail(), fail();
SELECT * FROM b;
ALTER SERVER b OPTIONS (SET breaker 'on');
SELECT * FROM b;

-- max_concurrency is no failure of the service, and nothing that has ended counts.
SELECT cqrs.reset_breaker('b');
ALTER SERVER b OPTIONS (ADD max_concurrency '2');
BEGIN;
SELECT cqrs.begin_call('b') AS one, cqrs.begin_call('b') AS two \gset
SAVEPOINT s;
SELECT cqrs.begin_call('b');
\echo :SQLSTATE
ROLLBACK TO s;
SELECT cqrs.end_call(:one, 'success');
SELECT succeed();
SELECT * FROM b;
ROLLBACK;
SELECT * FROM b;
ALTER SERVER b OPTIONS (DROP max_concurrency);

-- A ticket is good for once, and for its transaction.
SELECT cqrs.end_call(NULL, 'success');
SELECT cqrs.begin_call('b') AS ticket \gset
SELECT cqrs.end_call(:ticket, 'success');
BEGIN;
SELECT cqrs.begin_call('b') AS ticket \gset
SAVEPOINT s;
SELECT cqrs.end_call(:ticket, 'perhaps');
ROLLBACK TO s;
SELECT cqrs.end_call(:ticket, NULL);
ROLLBACK TO s;
SELECT cqrs.end_call(:ticket, 'success');
SELECT cqrs.end_call(:ticket, 'success');
ROLLBACK;
-- A prepared transaction has no calls under way.
BEGIN;
SELECT cqrs.begin_call('b') IS NOT NULL AS under_way;
PREPARE TRANSACTION 'cqrs_service_breaker';
SELECT in_flight FROM b;
ROLLBACK PREPARED 'cqrs_service_breaker';

-- Latencies: quantiles of the calls that ended, by the clock of breakers.
SELECT cqrs.reset_breaker('b');
SELECT p50_ms, p95_ms, p99_ms FROM cqrs.breaker('b');
CREATE PROCEDURE take(latency text, times int) LANGUAGE plpgsql AS $$
DECLARE
    tickets bigint[];
BEGIN
    PERFORM set_config('cqrs.breaker_clock_offset', '0', true);
    tickets := ARRAY(SELECT cqrs.begin_call('b') FROM generate_series(1, times));
    PERFORM set_config('cqrs.breaker_clock_offset', latency, true);
    PERFORM cqrs.end_call(ticket, 'success') FROM unnest(tickets) ticket;
END
$$;
CALL take('100s', 90);
CALL take('1000s', 8);
CALL take('20000s', 2);
SELECT p50_ms / 1000 BETWEEN 90 AND 130 AS p50, p95_ms / 1000 BETWEEN 900 AND 1100 AS p95, p99_ms / 1000 BETWEEN 18000 AND 22000 AS p99 FROM cqrs.breaker('b');
-- They are those of the last thousands: of as many before, each counts for less.
CALL take('100s', 10000);
CALL take('1000s', 10000);
SELECT p50_ms / 1000 BETWEEN 900 AND 1100 AS p50 FROM cqrs.breaker('b');

-- Each service has its own, found again after it was renamed; a new service of the name begins anew.
CREATE SERVER b2 FOREIGN DATA WRAPPER cqrs_http OPTIONS (url 'https://b2', max_failures '1');
SELECT cqrs.end_call(cqrs.begin_call('b2'), 'failure');
SELECT service, state FROM cqrs.breaker_status ORDER BY service;
ALTER SERVER b2 RENAME TO b3;
SELECT service, state FROM cqrs.breaker_status ORDER BY service;
DROP SERVER b3;
CREATE SERVER b3 FOREIGN DATA WRAPPER cqrs_http OPTIONS (url 'https://b2');
SELECT service, state FROM cqrs.breaker_status ORDER BY service;
-- There is room for 256; those of servers that were dropped are taken again, and a full one is told.
DO $$
BEGIN
    FOR n IN 1 .. 300 LOOP
        EXECUTE 'CREATE SERVER many FOREIGN DATA WRAPPER cqrs_http OPTIONS (url ''https://many'')';
        PERFORM cqrs.end_call(cqrs.begin_call('many'), 'success');
        EXECUTE 'DROP SERVER many';
    END LOOP;
END
$$;
SELECT calls FROM cqrs.breaker('b');
CREATE PROCEDURE fill() LANGUAGE plpgsql AS $$
BEGIN
    FOR n IN 1 .. 300 LOOP
        EXECUTE format('CREATE SERVER many%s FOREIGN DATA WRAPPER cqrs_http OPTIONS (url ''https://many'')', n);
        PERFORM cqrs.end_call(cqrs.begin_call(format('many%s', n)), 'success');
    END LOOP;
END
$$;
\set VERBOSITY default
CALL fill();
SET cqrs.allow_unguarded_calls = on;
CALL fill();
SELECT state, calls FROM cqrs.breaker('many300');
SELECT cqrs.force_open('many300');
SELECT calls FROM cqrs.breaker('many1');
SET client_min_messages = warning;
DO $$
BEGIN
    EXECUTE (SELECT 'DROP SERVER ' || string_agg(srvname, ', ') FROM pg_foreign_server WHERE srvname LIKE 'many%');
END
$$;
RESET client_min_messages;
RESET cqrs.allow_unguarded_calls;
SELECT cqrs.end_call(cqrs.begin_call('b3'), 'success');

-- Orders are for the owner of the server, calls for whoever has USAGE, the view for monitors.
CREATE ROLE regress_breaker;
GRANT EXECUTE ON FUNCTION cqrs.force_open, cqrs.disable_breaker, cqrs.reset_breaker, cqrs.begin_call, cqrs.end_call TO regress_breaker;
SET ROLE regress_breaker;
SELECT count(*) FROM cqrs.breaker_status;
SELECT cqrs.begin_call('b');
SELECT cqrs.force_open('b');
SELECT cqrs.disable_breaker('b');
SELECT cqrs.reset_breaker('b');
RESET ROLE;
GRANT pg_monitor TO regress_breaker;
GRANT USAGE ON FOREIGN SERVER b TO regress_breaker;
SET ROLE regress_breaker;
SELECT count(*) FROM cqrs.breaker_status;
SELECT cqrs.end_call(cqrs.begin_call('b'), 'success');
SELECT cqrs.force_open('b');
RESET ROLE;
GRANT USAGE ON FOREIGN DATA WRAPPER cqrs_http TO regress_breaker;
ALTER SERVER b OWNER TO regress_breaker;
SET ROLE regress_breaker;
SELECT cqrs.force_open('b'), cqrs.disable_breaker('b'), cqrs.reset_breaker('b');
RESET ROLE;
-- What is no service has no breaker.
SELECT cqrs.begin_call('nobody');
CREATE FOREIGN DATA WRAPPER regress_other;
CREATE SERVER regress_other FOREIGN DATA WRAPPER regress_other;
SELECT cqrs.begin_call('regress_other');
SELECT cqrs.begin_call(NULL) IS NULL;
DROP FOREIGN DATA WRAPPER regress_other CASCADE;

DROP VIEW b, counted;
DROP PROCEDURE grow, take, fill;
DROP FUNCTION succeed, fail, openings;
DROP SERVER b, b3;
DROP OWNED BY regress_breaker;
DROP ROLE regress_breaker;
