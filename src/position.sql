CREATE FUNCTION cqrs.open_positions(OUT first_position bigint, OUT pid integer, OUT transaction xid) RETURNS SETOF record
    LANGUAGE c VOLATILE PARALLEL RESTRICTED
    AS 'MODULE_PATHNAME', 'cqrs_open_positions';
COMMENT ON FUNCTION cqrs.open_positions() IS
    'The transactions under way that have appended and so hold the high-water mark back below their first_position: the pid of their backend, or their transaction id if they are prepared (see pg_prepared_xacts).';
