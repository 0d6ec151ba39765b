CREATE FUNCTION cqrs.create_entity(
    entity_type text,
    initial_state jsonb DEFAULT '{}',
    snapshot_every integer DEFAULT 100,
    keep_snapshots integer DEFAULT 2,
    after_forget text DEFAULT 'refuse'
) RETURNS void
    LANGUAGE c VOLATILE
    AS 'MODULE_PATHNAME', 'cqrs_create_entity';
COMMENT ON FUNCTION cqrs.create_entity(text, jsonb, integer, integer, text) IS
    'Creates an entity type, owned by the current role: the state of a new entity, after how many events a snapshot is taken (0: never), how many snapshots an entity keeps, and whether what comes after cqrs.forget is refused (refuse) or follows on (follow). Errors: 42710 if it exists, 42501 if the journal has events of the type and you may not read them, 22004, 22023 for settings, 54000 for a name that is too long.';

CREATE FUNCTION cqrs.alter_entity(
    entity_type text,
    initial_state jsonb DEFAULT NULL,
    snapshot_every integer DEFAULT NULL,
    keep_snapshots integer DEFAULT NULL,
    after_forget text DEFAULT NULL,
    owner name DEFAULT NULL
) RETURNS void
    LANGUAGE c VOLATILE
    AS 'MODULE_PATHNAME', 'cqrs_alter_entity';
COMMENT ON FUNCTION cqrs.alter_entity(text, jsonb, integer, integer, text, name) IS
    'Changes the settings of an entity type; NULL leaves one as it is. For its owner, who can give it to a role he is a member of. Errors: QR003, 42501, 22023.';

CREATE FUNCTION cqrs.drop_entity(entity_type text) RETURNS void
    LANGUAGE c VOLATILE
    AS 'MODULE_PATHNAME', 'cqrs_drop_entity';
COMMENT ON FUNCTION cqrs.drop_entity(text) IS
    'Drops an entity type with its handlers and snapshots; its events stay in the journal. For its owner. Errors: QR003, 42501.';

CREATE FUNCTION cqrs.on_command(entity_type text, command_type text, handler text) RETURNS void
    LANGUAGE c VOLATILE
    AS 'MODULE_PATHNAME', 'cqrs_on_command';
COMMENT ON FUNCTION cqrs.on_command(text, text, text) IS
    'Registers the function f(state jsonb, command cqrs.command) returning cqrs.effect that decides on a command type, or on all others (*). It runs as the owner of the entity type, whose function it must be, with the search_path of now; EXECUTE on it is the right to send the command. A handler of NULL takes it back. Errors: QR003, 42883 no such function, 42804 it does not fit, 42501, 42704 nothing to take back.';

CREATE FUNCTION cqrs.on_event(entity_type text, event_type text, handler text) RETURNS void
    LANGUAGE c VOLATILE
    AS 'MODULE_PATHNAME', 'cqrs_on_event';
COMMENT ON FUNCTION cqrs.on_event(text, text, text) IS
    'Registers the function f(state jsonb, event cqrs.event) returning jsonb that gives the state after an event type, or after all others (*). Snapshots made by another handler are not used any more. A handler of NULL takes it back. Errors: QR003, 42883 no such function, 42804 it does not fit, 42501, 42704 nothing to take back.';

CREATE FUNCTION cqrs.on_upcast(entity_type text, event_type text, from_version integer, handler text) RETURNS void
    LANGUAGE c VOLATILE
    AS 'MODULE_PATHNAME', 'cqrs_on_upcast';
COMMENT ON FUNCTION cqrs.on_upcast(text, text, integer, text) IS
    'Registers the function f(cqrs.event) returning cqrs.event that turns stored events of a schema version into the next one (its event_type, schema_version, data and metadata are taken), or drops them from the state (NULL). New events of the type get the schema version after the highest that is upcast. A handler of NULL takes it back. Errors: QR003, 42883 no such function, 42804 it does not fit, 42501, 42704 nothing to take back.';
