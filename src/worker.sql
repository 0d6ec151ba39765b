CREATE FUNCTION cqrs.worker_state() RETURNS text
    LANGUAGE c VOLATILE
    AS 'MODULE_PATHNAME', 'cqrs_worker_state';
COMMENT ON FUNCTION cqrs.worker_state() IS
    'How this database stands with its background workers: running, resting (idle, its slot is lent to others), waiting for a slot, restarting (after a failure), barred (by a command that needs the database for itself), starting, none (there is nothing to do), off (cqrs.workers).';
