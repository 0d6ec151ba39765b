CREATE FUNCTION cqrs.slice(entity_type text, entity_id text) RETURNS integer
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE
    AS 'MODULE_PATHNAME', 'cqrs_slice';
COMMENT ON FUNCTION cqrs.slice(text, text) IS
    'The slice of the journal, 0 to 1023, that an entity belongs to: a hash of the UTF-8 form of type and id, the same on every platform, encoding and release.';
