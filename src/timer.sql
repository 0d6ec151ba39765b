CREATE FUNCTION cqrs.schedule(
    at timestamptz,
    entity_type text,
    entity_id text,
    command_type text,
    data jsonb DEFAULT '{}'
) RETURNS uuid
    LANGUAGE c VOLATILE
    AS 'MODULE_PATHNAME', 'cqrs_schedule';
COMMENT ON FUNCTION cqrs.schedule(timestamptz, text, text, text, jsonb) IS
    'Has a command sent to an entity at a time, by a background worker as the current role, once; returns the id of the timer, which is also the command_id of the command and, where entity_id is NULL, the id of the entity. Part of the transaction: a rollback leaves nothing. A time that is past is now. A rejection (QR002) is logged; after an error it is tried again, see cqrs.timer_status. Needs EXECUTE on the command''s handler, now and then. Errors: QR003 unknown entity type, QR004 command not handled, 2F003 in an event handler, 22004, 22023 for what cannot be sent or a time that is infinite, 42501, 54000 for names that are too long.';

CREATE FUNCTION cqrs.cancel_scheduled(id uuid) RETURNS boolean
    LANGUAGE c STRICT VOLATILE
    AS 'MODULE_PATHNAME', 'cqrs_cancel_scheduled';
COMMENT ON FUNCTION cqrs.cancel_scheduled(uuid) IS
    'Cancels a timer of cqrs.schedule, also one that has failed: true if its command will not be sent, false if it was sent or there is no such timer. Waits for a command that is being sent. For the role that scheduled it. Errors: 42501, 2F003 in an event handler.';

CREATE FUNCTION cqrs.retry_scheduled(id uuid) RETURNS boolean
    LANGUAGE c STRICT VOLATILE
    AS 'MODULE_PATHNAME', 'cqrs_retry_scheduled';
COMMENT ON FUNCTION cqrs.retry_scheduled(uuid) IS
    'Has a timer that has failed, or waits to be tried again, tried at once and as often as a new one: false if there is no such timer. For the role that scheduled it. Errors: 42501, 2F003 in an event handler.';

CREATE VIEW cqrs.timer_status AS
    SELECT t.id,
           t.due_at,
           CASE WHEN t.state = 'failed' THEN 'failed'
                WHEN m.held THEN 'held'
                WHEN t.next_attempt_at <= clock_timestamp() AND m.worker <> 'running' THEN m.worker
                WHEN t.attempts > 0 THEN 'retrying'
                WHEN t.next_attempt_at <= clock_timestamp() THEN 'due'
                ELSE 'waiting'
           END AS state,
           t.role,
           t.entity_type,
           t.entity_id,
           t.command_type,
           t.created_at,
           CASE WHEN t.state = 'waiting' THEN t.next_attempt_at END AS next_attempt_at,
           t.attempts,
           t.last_error,
           t.last_sqlstate
    FROM cqrs.timer t
    CROSS JOIN (SELECT cqrs.is_held() AS held, cqrs.worker_state() AS worker) m;
COMMENT ON VIEW cqrs.timer_status IS
    'The timers of cqrs.schedule whose commands were not sent yet. state: waiting, due (about to be sent), retrying (after last_error), failed (not tried again until cqrs.retry_scheduled), held (cqrs.adopt), or why no worker sends what is due: off, resting, waiting for a slot, restarting, barred, starting. role: who sends it; attempts: how many have failed.';
