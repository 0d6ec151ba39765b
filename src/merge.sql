CREATE FUNCTION cqrs.merge(state jsonb, event cqrs.event) RETURNS jsonb
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE
    AS 'MODULE_PATHNAME', 'cqrs_merge';
COMMENT ON FUNCTION cqrs.merge(jsonb, cqrs.event) IS
    'An event handler for cqrs.on_event: the state with the top-level keys of the event''s data put into it (state || data).';
