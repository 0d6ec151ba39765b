CREATE TABLE cqrs.snapshot (
    slice integer NOT NULL,
    entity_type text COLLATE "C" NOT NULL,
    entity_id text COLLATE "C" NOT NULL,
    version bigint NOT NULL CHECK (version >= 1),
    position bigint NOT NULL,
    generation bigint NOT NULL,
    state jsonb NOT NULL,
    created_at timestamptz NOT NULL,
    PRIMARY KEY (entity_type, entity_id, version)
);
SELECT pg_catalog.pg_extension_config_dump('cqrs.snapshot', '');
COMMENT ON TABLE cqrs.snapshot IS
    'States of entities after the event of that version. Used only while the handlers that made them (generation) are registered; may be deleted at any time.';

CREATE FUNCTION cqrs.drop_snapshots(entity_type text, entity_id text DEFAULT NULL) RETURNS bigint
    LANGUAGE c VOLATILE
    AS 'MODULE_PATHNAME', 'cqrs_drop_snapshots';
COMMENT ON FUNCTION cqrs.drop_snapshots(text, text) IS
    'Drops the snapshots of one entity, or of all entities of a type, and returns their number. For a whole type the states in the caches of all sessions go too, and everything is folded from the events again: to be called when something changed that the handlers'' own definitions do not show (a function that they call, a table that they read, a C library). For the owner of the entity type. Errors: QR003, 22004, 42501.';
