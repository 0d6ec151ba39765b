CREATE FUNCTION cqrs.retry_outbox(id uuid) RETURNS void
    LANGUAGE c STRICT VOLATILE
    AS 'MODULE_PATHNAME', 'cqrs_retry_outbox';
COMMENT ON FUNCTION cqrs.retry_outbox(uuid) IS
    'Tries a delivery again: one that was given up (dead), if no failure_command was sent, with all its attempts anew; one whose command could not be sent (reply_failed), the command alone; one that waits for its next attempt, now. For the role that enqueued it. Errors: 02000 no such delivery, 55000 in another state, 42501.';

CREATE FUNCTION cqrs.discard_outbox(id uuid) RETURNS void
    LANGUAGE c STRICT VOLATILE
    AS 'MODULE_PATHNAME', 'cqrs_discard_outbox';
COMMENT ON FUNCTION cqrs.discard_outbox(uuid) IS
    'Removes a delivery, whatever its state, unless its request is under way; no command follows any more. For the role that enqueued it. Errors: 02000 no such delivery, 55006 under way, 42501.';
