CREATE TYPE cqrs.command AS (
    entity_type text,
    entity_id text,
    version bigint,
    command_type text,
    data jsonb,
    metadata jsonb,
    command_id uuid,
    sender name
);
COMMENT ON TYPE cqrs.command IS
    'A command as its handler gets it: version is the entity''s current one (0 for a new entity), sender the role that sent the command.';

CREATE TYPE cqrs.effect AS (
    kind text,
    events cqrs.new_event[],
    reply jsonb,
    reason text,
    code text,
    detail jsonb
);
COMMENT ON TYPE cqrs.effect IS
    'What a command handler decides. Built by cqrs.persist, cqrs.persist_all, cqrs.reply and cqrs.reject.';

CREATE FUNCTION cqrs.new_command(
    entity_type text,
    entity_id text,
    command_type text,
    data jsonb DEFAULT '{}',
    version bigint DEFAULT 0,
    metadata jsonb DEFAULT NULL,
    command_id uuid DEFAULT NULL,
    sender name DEFAULT CURRENT_USER
) RETURNS cqrs.command
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS 'SELECT ROW($1, $2, $5, $3, $4, $6, $7, $8)::cqrs.command';
COMMENT ON FUNCTION cqrs.new_command(text, text, text, jsonb, bigint, jsonb, uuid, name) IS
    'Builds a command, to test a command handler by calling it.';

CREATE FUNCTION cqrs.persist(event_type text, data jsonb, reply jsonb DEFAULT NULL) RETURNS cqrs.effect
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS 'SELECT ROW(''persist'', ARRAY[ROW($1, $2, NULL)::cqrs.new_event], $3, NULL, NULL, NULL)::cqrs.effect';
COMMENT ON FUNCTION cqrs.persist(text, jsonb, jsonb) IS
    'The effect of a command: one event, and a reply to the sender.';

CREATE FUNCTION cqrs.persist_all(events cqrs.new_event[], reply jsonb DEFAULT NULL) RETURNS cqrs.effect
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS 'SELECT ROW(''persist'', $1, $2, NULL, NULL, NULL)::cqrs.effect';
COMMENT ON FUNCTION cqrs.persist_all(cqrs.new_event[], jsonb) IS
    'The effect of a command: all of the events or none, in order, and a reply. An empty array is a reply alone.';

CREATE FUNCTION cqrs.reply(reply jsonb) RETURNS cqrs.effect
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS 'SELECT ROW(''persist'', NULL, $1, NULL, NULL, NULL)::cqrs.effect';
COMMENT ON FUNCTION cqrs.reply(jsonb) IS
    'The effect of a command: nothing to persist, only a reply.';

CREATE FUNCTION cqrs.reject(reason text, code text DEFAULT NULL, detail jsonb DEFAULT NULL) RETURNS cqrs.effect
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS 'SELECT ROW(''reject'', NULL, NULL, $1, $2, $3)::cqrs.effect';
COMMENT ON FUNCTION cqrs.reject(text, text, jsonb) IS
    'The effect of a command: it is refused and the transaction fails with QR002; reason is the message, code and detail are in DETAIL.';
