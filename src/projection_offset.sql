-- One row a partition; no foreign key: pg_restore --jobs loads the tables of an extension in any order. Room is left in its
-- pages for HOT updates: there is one a batch.
CREATE TABLE cqrs.projection_offset (
    projection text COLLATE "C" NOT NULL,
    slice integer NOT NULL,
    next_slice integer NOT NULL,
    position bigint NOT NULL,
    replay_until bigint NOT NULL DEFAULT 0,
    revision bigint NOT NULL,
    parked integer NOT NULL DEFAULT 0,
    skipped bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (slice, projection),
    CHECK (slice BETWEEN 0 AND 1023 AND next_slice BETWEEN slice + 1 AND 1024)
) WITH (fillfactor = 40, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_scale_factor = 0);
SELECT pg_catalog.pg_extension_config_dump('cqrs.projection_offset', '');
COMMENT ON TABLE cqrs.projection_offset IS
    'How far the projections are, a row for each partition, which has the slices from slice up to but without next_slice: all events up to position were projected, those up to replay_until for a second time; parked: how many of its entities are; skipped: how many events were passed over because they failed.';

CREATE TABLE cqrs.parked_entity (
    projection text COLLATE "C" NOT NULL,
    slice integer NOT NULL,
    entity_type text COLLATE "C" NOT NULL,
    entity_id text COLLATE "C" NOT NULL,
    position bigint NOT NULL,
    replay_until bigint NOT NULL,
    sqlstate text NOT NULL,
    error text NOT NULL,
    attempts integer NOT NULL,
    first_failed_at timestamptz NOT NULL,
    last_failed_at timestamptz NOT NULL,
    retry boolean NOT NULL DEFAULT false,
    PRIMARY KEY (slice, projection, entity_type, entity_id)
);
SELECT pg_catalog.pg_extension_config_dump('cqrs.parked_entity', '');
COMMENT ON TABLE cqrs.parked_entity IS
    'Entities whose events a projection holds back from position on, because the event there failed; replay_until: up to here its events were projected before; retry: somebody wants them replayed.';
