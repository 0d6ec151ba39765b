CREATE FUNCTION cqrs.state(
    entity_type text,
    entity_id text,
    version bigint DEFAULT NULL,
    at timestamptz DEFAULT NULL
) RETURNS jsonb
    LANGUAGE c STABLE COST 1000 -- not parallel: it calls the users' functions
    AS 'MODULE_PATHNAME', 'cqrs_state';
COMMENT ON FUNCTION cqrs.state(text, text, bigint, timestamptz) IS
    'The state of an entity: now, after the event of a version (0: the initial state), or at a time; NULL where there is no such entity, or was none by then. Needs SELECT on cqrs.journal, whose row security applies: who sees only some of the events gets the fold of these, or NULL where the last one is hidden. Errors: QR003, QR001 for a version beyond the last, QR005 if an event cannot be handled, 22023 for a version and a time both.';

CREATE FUNCTION cqrs.take_snapshot(entity_type text, entity_id text) RETURNS bigint
    LANGUAGE c VOLATILE
    AS 'MODULE_PATHNAME', 'cqrs_take_snapshot';
COMMENT ON FUNCTION cqrs.take_snapshot(text, text) IS
    'Takes a snapshot of an entity now and returns its version; NULL where there is no such entity. For the owner of the entity type. Errors: QR003, QR005, 42501.';
