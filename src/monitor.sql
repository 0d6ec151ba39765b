CREATE FUNCTION cqrs.last_position() RETURNS bigint
    LANGUAGE c VOLATILE
    AS 'MODULE_PATHNAME', 'cqrs_last_position';
COMMENT ON FUNCTION cqrs.last_position() IS 'The last position ever drawn in this database; 0 where there is no journal.';

CREATE VIEW cqrs.journal_status AS
    SELECT to_regclass('cqrs.journal') IS NOT NULL AS has_journal,
           cqrs.is_held() AS held,
           cqrs.last_position() AS last_position,
           cqrs.high_water_mark() AS high_water_mark,
           (SELECT count(*) FROM cqrs.open_positions()) AS open_transactions;
COMMENT ON VIEW cqrs.journal_status IS
    'The journal at a glance: whether it exists, whether the database is held (cqrs.adopt), the last position drawn, the high-water mark, and how many transactions hold it back (cqrs.open_positions).';

REVOKE EXECUTE ON FUNCTION cqrs.last_position() FROM PUBLIC;

-- Whoever may watch the server may watch the journal.
GRANT SELECT ON cqrs.journal_status TO pg_monitor;
GRANT EXECUTE ON FUNCTION cqrs.is_held(), cqrs.last_position(), cqrs.high_water_mark(), cqrs.open_positions() TO pg_monitor;
