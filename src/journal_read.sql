CREATE FUNCTION cqrs.history(entity_type text, entity_id text, after_version bigint DEFAULT 0) RETURNS SETOF cqrs.event
    LANGUAGE c STABLE PARALLEL SAFE ROWS 20
    AS 'MODULE_PATHNAME', 'cqrs_history';
COMMENT ON FUNCTION cqrs.history(text, text, bigint) IS
    'The events of one entity in order, as they are stored, from the version after after_version on. Needs SELECT on cqrs.journal, whose row security applies. Errors: 22004.';

CREATE FUNCTION cqrs.read_events(
    after_position bigint DEFAULT 0,
    max_events integer DEFAULT 1000,
    entity_types text[] DEFAULT NULL,
    event_types text[] DEFAULT NULL,
    up_to bigint DEFAULT NULL,
    slices int4range DEFAULT NULL
) RETURNS SETOF cqrs.event
    LANGUAGE c VOLATILE ROWS 1000
    AS 'MODULE_PATHNAME', 'cqrs_read_events';
COMMENT ON FUNCTION cqrs.read_events(bigint, integer, text[], text[], bigint, int4range) IS
    'The journal in the order of positions, never past the high-water mark and only what is durable, also on the standbys that synchronous_commit has a commit of yours wait for: a reader that passes the last position it got as after_position misses nothing and gets nothing twice. Filters: entity types, event types, positions at most up_to, slices. On a standby, which may be behind where the offset was kept, nothing comes until it is not. Needs SELECT on cqrs.journal. Errors: 22023 for a position never given, as far as the server knows, 55000 where the database is held, 0A000 on a standby without cqrs.store_mark.';

CREATE FUNCTION cqrs.wait_for_event(after_position bigint, timeout interval) RETURNS bigint
    LANGUAGE c VOLATILE
    AS 'MODULE_PATHNAME', 'cqrs_wait_for_event';
COMMENT ON FUNCTION cqrs.wait_for_event(bigint, interval) IS
    'Waits until the high-water mark is past after_position and returns it: a long poll before cqrs.read_events. The mark also passes positions of transactions that were rolled back, so there may be nothing to read: keep the mark as the next after_position then. Errors: QR020 when the time is over, 55000 in a transaction that has appended, 22023 for a position never given.';
