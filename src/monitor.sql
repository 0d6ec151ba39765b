CREATE FUNCTION cqrs.last_position() RETURNS bigint
    LANGUAGE c VOLATILE
    AS 'MODULE_PATHNAME', 'cqrs_last_position';
COMMENT ON FUNCTION cqrs.last_position() IS 'The last position ever drawn in this database; 0 where there is no journal.';

CREATE VIEW cqrs.journal_status AS
    SELECT to_regclass('cqrs.journal') IS NOT NULL AS has_journal,
           cqrs.is_held() AS held,
           CASE WHEN NOT pg_is_in_recovery() THEN cqrs.last_position() END AS last_position,
           CASE WHEN NOT pg_is_in_recovery() THEN cqrs.high_water_mark() END AS high_water_mark,
           CASE WHEN NOT pg_is_in_recovery() THEN (SELECT count(*) FROM cqrs.open_positions()) END AS open_transactions;
COMMENT ON VIEW cqrs.journal_status IS
    'The journal at a glance: whether it exists, whether the database is held (cqrs.adopt), and on a primary the last position drawn, the high-water mark, and how many transactions hold it back (cqrs.open_positions).';
