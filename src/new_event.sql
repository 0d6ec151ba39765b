CREATE TYPE cqrs.new_event AS (
    event_type text,
    data jsonb,
    metadata jsonb
);
COMMENT ON TYPE cqrs.new_event IS
    'An event to be written: its type, its data (not NULL, not JSON null), and metadata of its own (a JSON object or NULL; keys that begin with $ are reserved).';

CREATE FUNCTION cqrs.new_event(event_type text, data jsonb, metadata jsonb DEFAULT NULL) RETURNS cqrs.new_event
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS 'SELECT ROW($1, $2, $3)::cqrs.new_event';
COMMENT ON FUNCTION cqrs.new_event(text, jsonb, jsonb) IS
    'Builds an event for cqrs.append or cqrs.persist_all.';
