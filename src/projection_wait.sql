CREATE FUNCTION cqrs.wait_for_projection(name text, up_to bigint DEFAULT NULL, timeout interval DEFAULT '10 s') RETURNS bigint
    LANGUAGE c VOLATILE
    AS 'MODULE_PATHNAME', 'cqrs_wait_for_projection';
COMMENT ON FUNCTION cqrs.wait_for_projection(text, bigint, interval) IS
    'Waits until a projection has projected everything up to a position, for instance that of a receipt (NULL: all that is committed now), and until a rebuild that was asked for is done; returns the position. Parked entities are not waited for. The result is visible to the next statement. Errors: QR020 when the time is over, 55000 if the projection does not run, in a transaction that has appended or with a snapshot of its own, 22023 for a position never given, 42704.';
