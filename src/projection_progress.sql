CREATE FUNCTION cqrs.projection_progress(
    OUT projection text, OUT slice integer, OUT worker integer, OUT revision bigint, OUT reached bigint,
    OUT events bigint, OUT batches bigint, OUT events_per_second double precision, OUT retries bigint,
    OUT attempts integer, OUT retry_at timestamptz, OUT error text, OUT sqlstate text, OUT failed_at timestamptz,
    OUT first_failed_at timestamptz, OUT rebuild_started_at timestamptz, OUT rebuild_events bigint,
    OUT rebuild_position bigint, OUT rebuild_target bigint
) RETURNS SETOF record
    LANGUAGE c VOLATILE
    AS 'MODULE_PATHNAME', 'cqrs_projection_progress';
COMMENT ON FUNCTION cqrs.projection_progress() IS
    'What workers have noted about the partitions of projections in shared memory, since the server was started; the views show it.';
