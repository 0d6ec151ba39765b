CREATE FUNCTION cqrs.create_projection(
    name text,
    handler text,
    entity_types text[] DEFAULT NULL,
    event_types text[] DEFAULT NULL,
    mode text DEFAULT 'async',
    tables text[] DEFAULT NULL,
    batch_size integer DEFAULT 500,
    partitions integer DEFAULT 1,
    on_failure text DEFAULT 'park',
    max_retries integer DEFAULT 5,
    max_parked integer DEFAULT 100,
    handler_timeout interval DEFAULT '60 s',
    replay_side_effects boolean DEFAULT false,
    start_position bigint DEFAULT 0,
    prepare text DEFAULT NULL
) RETURNS void
    LANGUAGE c VOLATILE
    AS 'MODULE_PATHNAME', 'cqrs_create_projection';
COMMENT ON FUNCTION cqrs.create_projection(text, text, text[], text[], text, text[], integer, integer, text, integer, integer, interval, boolean, bigint, text) IS
    'Creates a projection, owned by the current role: handler, f(cqrs.event) or f(cqrs.event[]) returning void, is called for the events of entity_types and event_types (NULL: all) after start_position (NULL: from now on), as the owner, with the search_path of now; mode async: by a background worker, which moves the offset in the same transaction; sync: by a trigger on cqrs.journal, in the writer''s transaction. tables: what it fills, for cqrs.rebuild_projection. batch_size: events in a transaction. partitions: how many workers may run it beside each other. on_failure: park the event and all later ones of its entity, stop, or skip, after max_retries repetitions; with max_parked entities parked it stops. handler_timeout: for a batch (0: none). replay_side_effects: whether send, append and the like are allowed when events are projected again. prepare: f() returning void, called now and when a rebuild has emptied the tables. Errors: 42710 if it exists, 42883 no such function, 42725 two of them, 42804 it does not fit, 42501 it is not yours or you may not read cqrs.journal, 42P01, 42809 for tables, 22004, 22023, 0A000 for settings, 42622 the name is too long, 53400 too many partitions.';

CREATE FUNCTION cqrs.alter_projection(
    name text,
    handler text DEFAULT NULL,
    entity_types text[] DEFAULT NULL,
    event_types text[] DEFAULT NULL,
    mode text DEFAULT NULL,
    tables text[] DEFAULT NULL,
    batch_size integer DEFAULT NULL,
    partitions integer DEFAULT NULL,
    on_failure text DEFAULT NULL,
    max_retries integer DEFAULT NULL,
    max_parked integer DEFAULT NULL,
    handler_timeout interval DEFAULT NULL,
    replay_side_effects boolean DEFAULT NULL,
    owner name DEFAULT NULL
) RETURNS void
    LANGUAGE c VOLATILE
    AS 'MODULE_PATHNAME', 'cqrs_alter_projection';
COMMENT ON FUNCTION cqrs.alter_projection(text, text, text[], text[], text, text[], integer, integer, text, integer, integer, interval, boolean, name) IS
    'Changes a projection; NULL leaves a setting as it is, an empty array takes a filter away. Waits for the batch that is being projected. Events after the offset are projected by the new settings. Another number of partitions takes effect when all partitions have come to the same position. For its owner, who can give it to a role he is a member of and that owns the handler. Errors: 42704 no such projection, 42501, and those of cqrs.create_projection.';

CREATE FUNCTION cqrs.drop_projection(name text) RETURNS void
    LANGUAGE c VOLATILE
    AS 'MODULE_PATHNAME', 'cqrs_drop_projection';
COMMENT ON FUNCTION cqrs.drop_projection(text) IS
    'Drops a projection with its offsets and what it has parked; its tables stay. Waits for the batch that is being projected. For its owner. Errors: 42704, 42501.';
