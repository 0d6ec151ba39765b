CREATE TYPE cqrs.receipt AS (
    entity_id text,
    version bigint,
    position bigint,
    reply jsonb
);
COMMENT ON TYPE cqrs.receipt IS
    'The answer to a command or an append: version and position of the entity''s last event (0: it has none), and the reply of the command handler.';
