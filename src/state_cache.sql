CREATE FUNCTION cqrs.state_cache_counters(OUT hits bigint, OUT misses bigint, OUT evictions bigint, OUT entries bigint, OUT bytes bigint)
    LANGUAGE c VOLATILE PARALLEL RESTRICTED
    AS 'MODULE_PATHNAME', 'cqrs_state_cache_counters';
COMMENT ON FUNCTION cqrs.state_cache_counters() IS
    'Sums over all backends since the server started: hits (a state was used as it was kept), misses (events were folded), evictions; and entries and bytes kept now.';

CREATE VIEW cqrs.state_cache AS
    SELECT hits, misses, evictions, entries, bytes FROM cqrs.state_cache_counters();
COMMENT ON VIEW cqrs.state_cache IS
    'How often the states kept by the backends (cqrs.state_cache_size) saved folding events.';
