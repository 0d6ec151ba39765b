CREATE FUNCTION cqrs.pause_projection(name text) RETURNS void
    LANGUAGE c VOLATILE
    AS 'MODULE_PATHNAME', 'cqrs_pause_projection';
COMMENT ON FUNCTION cqrs.pause_projection(text) IS
    'Pauses an async projection: once this is committed nothing is projected until cqrs.resume_projection, also after a restart of the server. For its owner. Errors: 42704, 42501, 0A000 for a sync projection.';

CREATE FUNCTION cqrs.resume_projection(name text) RETURNS void
    LANGUAGE c VOLATILE
    AS 'MODULE_PATHNAME', 'cqrs_resume_projection';
COMMENT ON FUNCTION cqrs.resume_projection(text) IS
    'Resumes a projection that was paused, or stopped by an error, at the event after its offset. For its owner. Errors: 42704, 42501.';

CREATE FUNCTION cqrs.reset_projection(name text, to_position bigint) RETURNS void
    LANGUAGE c VOLATILE
    AS 'MODULE_PATHNAME', 'cqrs_reset_projection';
COMMENT ON FUNCTION cqrs.reset_projection(text, bigint) IS
    'Sets the offset of an async projection: the events after to_position are projected next, those it has projected before for a second time, without side effects unless it has replay_side_effects. Its tables stay as they are. For its owner. Errors: 42704, 42501, 22023 for a position never given, 0A000 for a sync projection.';

CREATE FUNCTION cqrs.rebuild_projection(name text) RETURNS void
    LANGUAGE c VOLATILE
    AS 'MODULE_PATHNAME', 'cqrs_rebuild_projection';
COMMENT ON FUNCTION cqrs.rebuild_projection(text) IS
    'Has a worker make the projection''s tables anew: in one transaction it deletes their contents and projects all events up to the offset again. Readers see the old contents until it commits. cqrs.stat_progress_rebuild shows how far it is; cqrs.wait_for_projection waits for it. Parked entities are replayed afterwards. A sync projection is run by a worker until it has caught up. For its owner. Errors: 42704, 42501, 55000 if it has no tables or is paused.';

CREATE FUNCTION cqrs.retry_parked(name text, entity_type text DEFAULT NULL, entity_id text DEFAULT NULL) RETURNS bigint
    LANGUAGE c VOLATILE
    AS 'MODULE_PATHNAME', 'cqrs_retry_parked';
COMMENT ON FUNCTION cqrs.retry_parked(text, text, text) IS
    'Has a worker project the events of parked entities (NULL: of all) from the one that failed on, in order; returns how many entities. One that fails again stays parked. For the owner of the projection. Errors: 42704, 42501.';

CREATE FUNCTION cqrs.discard_parked(name text, entity_type text DEFAULT NULL, entity_id text DEFAULT NULL) RETURNS bigint
    LANGUAGE c VOLATILE
    AS 'MODULE_PATHNAME', 'cqrs_discard_parked';
COMMENT ON FUNCTION cqrs.discard_parked(text, text, text) IS
    'Passes over the event that failed, of parked entities (NULL: of all), counts it as skipped, and has a worker project what has waited behind it; returns how many entities, without those whose event was passed over already. For the owner of the projection. Errors: 42704, 42501.';
