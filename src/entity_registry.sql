CREATE SEQUENCE cqrs.entity_revision_seq;
SELECT pg_catalog.pg_extension_config_dump('cqrs.entity_revision_seq', '');
COMMENT ON SEQUENCE cqrs.entity_revision_seq IS 'Revisions of entity types, so that a name that is used again never has one that it had before.';

CREATE TABLE cqrs.entity (
    entity_type text COLLATE "C" PRIMARY KEY,
    owner name NOT NULL,
    initial_state jsonb NOT NULL,
    snapshot_every integer NOT NULL CHECK (snapshot_every >= 0),
    keep_snapshots integer NOT NULL CHECK (keep_snapshots >= 1),
    after_forget text NOT NULL CHECK (after_forget IN ('refuse', 'follow')),
    revision bigint NOT NULL DEFAULT pg_catalog.nextval('cqrs.entity_revision_seq')
);
SELECT pg_catalog.pg_extension_config_dump('cqrs.entity', '');
COMMENT ON TABLE cqrs.entity IS
    'The entity types; revision changes with each call of cqrs.drop_snapshots for the whole type. Changed by cqrs.create_entity, cqrs.alter_entity, cqrs.drop_entity and cqrs.drop_snapshots alone.';

-- No foreign key: pg_restore --jobs loads the tables of an extension in any order.
CREATE TABLE cqrs.entity_handler (
    entity_type text COLLATE "C" NOT NULL,
    kind text NOT NULL CHECK (kind IN ('command', 'event', 'upcast')),
    name text COLLATE "C" NOT NULL,
    from_version integer NOT NULL CHECK (from_version >= 0),
    handler text NOT NULL,
    search_path text NOT NULL,
    PRIMARY KEY (entity_type, kind, name, from_version)
);
SELECT pg_catalog.pg_extension_config_dump('cqrs.entity_handler', '');
COMMENT ON TABLE cqrs.entity_handler IS
    'The handlers of entity types: name is a command or event type or *, handler a signature. Changed by cqrs.on_command, cqrs.on_event and cqrs.on_upcast alone.';
