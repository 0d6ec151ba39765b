-- What is registered. Whoever changes a row that a worker must not miss locks the projection's offsets first and gives them
-- the new revision: a worker that holds an offset holds a definition of that revision.
CREATE SEQUENCE cqrs.revision_seq;
SELECT pg_catalog.pg_extension_config_dump('cqrs.revision_seq', '');
COMMENT ON SEQUENCE cqrs.revision_seq IS
    'Revisions of projections: none is given twice, so that what is noted about one is never taken for another of the same name.';

CREATE TABLE cqrs.projection (
    name text COLLATE "C" PRIMARY KEY,
    owner name NOT NULL,
    revision bigint NOT NULL DEFAULT pg_catalog.nextval('cqrs.revision_seq'),
    -- What it does
    handler text NOT NULL,
    search_path text NOT NULL,
    prepare text,
    mode text NOT NULL CHECK (mode IN ('async', 'sync')),
    entity_types text[],
    event_types text[],
    tables text[] NOT NULL,
    batch_size integer NOT NULL CHECK (batch_size BETWEEN 1 AND 10000),
    partitions integer NOT NULL CHECK (partitions BETWEEN 1 AND 64),
    handler_timeout interval NOT NULL,
    start_position bigint NOT NULL CHECK (start_position >= 0),
    replay_side_effects boolean NOT NULL,
    -- What happens when it fails
    on_failure text NOT NULL CHECK (on_failure IN ('park', 'stop', 'skip')),
    max_retries integer NOT NULL CHECK (max_retries >= 0),
    max_parked integer NOT NULL CHECK (max_parked >= 0),
    -- How it stands
    state text NOT NULL DEFAULT 'running' CHECK (state IN ('running', 'paused', 'stopped')),
    has_trigger boolean NOT NULL DEFAULT false,
    rebuild boolean NOT NULL DEFAULT false,
    barrier bigint,
    last_error text,
    last_sqlstate text,
    stopped_at timestamptz
);
SELECT pg_catalog.pg_extension_config_dump('cqrs.projection', '');
COMMENT ON TABLE cqrs.projection IS
    'The projections. state: running, paused by somebody, or stopped by last_error; has_trigger: a sync one whose trigger exists, while any other is run by a worker; rebuild: one was asked for; barrier: up to where all partitions run before they are split anew. Changed by cqrs.create_projection and its like alone.';

CREATE FUNCTION cqrs.projections_changed() RETURNS void
    LANGUAGE c VOLATILE
    AS 'MODULE_PATHNAME', 'cqrs_projections_changed';
COMMENT ON FUNCTION cqrs.projections_changed() IS
    'Internal: tells sessions and workers that the definitions of projections have changed.';
-- A restore in one transaction brings projections that nobody creates.
SELECT cqrs.projections_changed();
