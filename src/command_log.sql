CREATE TABLE cqrs.command_log (
    slice integer NOT NULL,
    entity_type text COLLATE "C" NOT NULL,
    entity_id text COLLATE "C" NOT NULL,
    command_id uuid NOT NULL,
    fingerprint bigint NOT NULL,
    version bigint NOT NULL,
    position bigint NOT NULL,
    reply jsonb,
    created_at timestamptz NOT NULL,
    PRIMARY KEY (entity_type, entity_id, command_id)
);
CREATE INDEX command_log_created_at_idx ON cqrs.command_log (created_at);
SELECT pg_catalog.pg_extension_config_dump('cqrs.command_log', '');
COMMENT ON TABLE cqrs.command_log IS
    'The answers to commands that came with a command_id, kept for cqrs.command_retention.';
