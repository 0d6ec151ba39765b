CREATE TYPE cqrs.response AS (
    status integer,
    headers jsonb,
    body jsonb,
    content bytea
);
COMMENT ON TYPE cqrs.response IS
    'What a service answered: the status; the headers, names in lower case, one that came more than once as an array; the body as jsonb, NULL unless it is JSON; and as it came.';

CREATE FUNCTION cqrs.call(
    service text,
    method text,
    path text DEFAULT '',
    body jsonb DEFAULT NULL,
    body_text text DEFAULT NULL,
    body_bytes bytea DEFAULT NULL,
    query jsonb DEFAULT NULL,
    headers jsonb DEFAULT NULL,
    idempotency_key text DEFAULT NULL,
    timeout interval DEFAULT NULL
) RETURNS cqrs.response
    LANGUAGE c VOLATILE COST 100000
    AS 'MODULE_PATHNAME', 'cqrs_call';
COMMENT ON FUNCTION cqrs.call(text, text, text, jsonb, text, bytea, jsonb, jsonb, text, interval) IS
    'Calls a service, a foreign server of cqrs_http, and returns its answer, whatever the status. method: GET, HEAD, POST, PUT, PATCH, DELETE. path is put behind the URL of the server, percent-encoded. One of body, body_text, body_bytes is sent, as application/json, text/plain or application/octet-stream unless headers say otherwise; query and headers are objects of texts, or of arrays of texts. idempotency_key goes into the header Idempotency-Key, and lets the request be repeated on a kept connection. timeout shortens the call_timeout of the server. Needs USAGE on the server; credentials are of the user mapping of the current role, else of PUBLIC. Errors: QR010 the circuit breaker is open, QR011 no answer, outcome unknown, QR012 not delivered, 53400 too many calls, 54000 the answer is too large, 55000 in a transaction that has appended, 2F003 in an event handler, 22023, 22004, 42501, 42704.';
