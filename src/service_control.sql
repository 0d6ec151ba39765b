CREATE FUNCTION cqrs.breaker(
    service text,
    OUT state text,
    OUT consecutive_failures integer,
    OUT retry_in interval,
    OUT probe_pid integer,
    OUT in_flight integer,
    OUT calls bigint,
    OUT successes bigint,
    OUT failures bigint,
    OUT timeouts bigint,
    OUT rejected bigint,
    OUT opened bigint,
    OUT p50_ms double precision,
    OUT p95_ms double precision,
    OUT p99_ms double precision,
    OUT last_error text,
    OUT last_error_at timestamptz
)
    LANGUAGE c STRICT VOLATILE PARALLEL SAFE
    AS 'MODULE_PATHNAME', 'cqrs_breaker';
COMMENT ON FUNCTION cqrs.breaker(text) IS
    'The circuit breaker of a service: its state (closed, open, half_open, forced_open, disabled), failures in a row, time until an open one lets a call through, who runs the trial call, calls under way, counters since the server started or the breaker was reset, quantiles of the latency of the last thousands of calls, and the last error. Errors: 42704.';

CREATE FUNCTION cqrs.force_open(service text) RETURNS void
    LANGUAGE c STRICT VOLATILE
    AS 'MODULE_PATHNAME', 'cqrs_force_open';
COMMENT ON FUNCTION cqrs.force_open(text) IS
    'Holds the circuit breaker of a service open, so that all calls fail with QR010, until cqrs.reset_breaker or a restart. For the owner of the server. Errors: 42704, 42501.';

CREATE FUNCTION cqrs.disable_breaker(service text) RETURNS void
    LANGUAGE c STRICT VOLATILE
    AS 'MODULE_PATHNAME', 'cqrs_disable_breaker';
COMMENT ON FUNCTION cqrs.disable_breaker(text) IS
    'Lets all calls to a service through, whatever their outcome, until cqrs.reset_breaker or a restart; they are counted. For the owner of the server. Errors: 42704, 42501.';

CREATE FUNCTION cqrs.reset_breaker(service text) RETURNS void
    LANGUAGE c STRICT VOLATILE
    AS 'MODULE_PATHNAME', 'cqrs_reset_breaker';
COMMENT ON FUNCTION cqrs.reset_breaker(text) IS
    'Closes the circuit breaker of a service, ends what cqrs.force_open or cqrs.disable_breaker ordered, and sets its counters to 0. For the owner of the server. Errors: 42704, 42501.';

CREATE FUNCTION cqrs.begin_call(service text) RETURNS bigint
    LANGUAGE c STRICT VOLATILE
    AS 'MODULE_PATHNAME', 'cqrs_begin_call';
COMMENT ON FUNCTION cqrs.begin_call(text) IS
    'Asks the circuit breaker of a service for leave to call it by other means than cqrs.call. Returns a ticket for cqrs.end_call; without that, the call is over at the end of the transaction and counts as neither success nor failure. Needs USAGE on the server. Errors: QR010 the breaker is open, 53400 too many calls, 2F003 in an event handler, 42501, 42704.';

CREATE FUNCTION cqrs.end_call(ticket bigint, outcome text, error text DEFAULT NULL) RETURNS void
    LANGUAGE c VOLATILE
    AS 'MODULE_PATHNAME', 'cqrs_end_call';
COMMENT ON FUNCTION cqrs.end_call(bigint, text, text) IS
    'Tells the circuit breaker how a call ended that cqrs.begin_call has begun: success, failure, timeout, or neutral (nothing is known about the service), and what the error was. Errors: 22023.';

CREATE VIEW cqrs.breaker_status AS
    SELECT s.srvname AS service, b.state, b.consecutive_failures, b.retry_in, b.probe_pid, b.in_flight, b.calls, b.successes, b.failures,
           b.timeouts, b.rejected, b.opened, b.p50_ms, b.p95_ms, b.p99_ms, b.last_error, b.last_error_at
    FROM pg_foreign_server s
    JOIN pg_foreign_data_wrapper w ON w.oid = s.srvfdw AND w.fdwname = 'cqrs_http',
    LATERAL cqrs.breaker(s.srvname::text) b;
COMMENT ON VIEW cqrs.breaker_status IS
    'The circuit breakers of all services of this database; see cqrs.breaker for the columns.';
