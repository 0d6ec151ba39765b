CREATE TYPE cqrs.event AS (
    position bigint,
    slice integer,
    entity_type text COLLATE "C",
    entity_id text COLLATE "C",
    version bigint,
    event_type text COLLATE "C",
    schema_version integer,
    data jsonb,
    metadata jsonb,
    created_at timestamptz
);
COMMENT ON TYPE cqrs.event IS
    'An event as it is stored, and as handlers get it: position is its place in the global order, version its place in its entity (1, 2, 3, without holes).';

-- Not a member of the extension, so that pg_dump carries it whole and DROP EXTENSION cannot destroy it.
CREATE FUNCTION cqrs.create_journal() RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    -- The first sender's settings shall not decide where the journal is.
    SET default_tablespace = '' SET default_table_access_method = heap
    AS $$
BEGIN
    IF to_regclass('cqrs.journal') IS NOT NULL THEN
        RETURN;
    END IF;
    -- Sessions that find no journal at the same time make it one after the other.
    LOCK TABLE cqrs.identity IN SHARE ROW EXCLUSIVE MODE;
    IF to_regclass('cqrs.journal') IS NOT NULL THEN
        RETURN;
    END IF;

    -- What was kept about a journal that somebody dropped.
    TRUNCATE cqrs.snapshot, cqrs.command_log, cqrs.parked_entity;
    UPDATE cqrs.projection SET start_position = 0, barrier = NULL, has_trigger = false, revision = nextval('cqrs.revision_seq');
    UPDATE cqrs.projection_offset o SET position = 0, replay_until = 0, parked = 0, revision = p.revision
    FROM cqrs.projection p WHERE p.name = o.projection;
    PERFORM cqrs.projections_changed();
    CREATE SEQUENCE cqrs.journal_position_seq;
    CREATE TABLE cqrs.journal OF cqrs.event (
        position WITH OPTIONS NOT NULL,
        slice WITH OPTIONS NOT NULL,
        entity_type WITH OPTIONS NOT NULL,
        entity_id WITH OPTIONS NOT NULL,
        version WITH OPTIONS NOT NULL,
        event_type WITH OPTIONS NOT NULL,
        schema_version WITH OPTIONS NOT NULL,
        data WITH OPTIONS NOT NULL,
        created_at WITH OPTIONS NOT NULL,
        CONSTRAINT journal_pkey PRIMARY KEY (entity_type, entity_id, version),
        CONSTRAINT journal_position_key UNIQUE (position)
    );
    ALTER SEQUENCE cqrs.journal_position_seq OWNED BY cqrs.journal.position;
    CREATE TRIGGER guard_journal BEFORE UPDATE OR DELETE OR TRUNCATE ON cqrs.journal
        FOR EACH STATEMENT EXECUTE FUNCTION cqrs.guard_journal();
    ALTER TABLE cqrs.journal ENABLE ALWAYS TRIGGER guard_journal;
    -- SELECT may come from ALTER DEFAULT PRIVILEGES, nothing else.
    PERFORM cqrs.close_relation('cqrs.journal', keep_select => true);
    PERFORM cqrs.close_relation('cqrs.journal_position_seq');
    COMMENT ON TABLE cqrs.journal IS
        'The store of record: all events, append-only. Written by cqrs.append and cqrs.send alone; SELECT on it is the right to read events.';
    COMMENT ON SEQUENCE cqrs.journal_position_seq IS
        'Positions of cqrs.journal. Must not be set back or cached.';

    -- Only a journal that was made here is known to be whole; a restored one waits for cqrs.adopt().
    IF NOT EXISTS (SELECT FROM cqrs.identity) THEN
        PERFORM cqrs.record_identity();
    ELSE
        UPDATE cqrs.identity SET has_first_events = true;
        PERFORM cqrs.identity_changed();
    END IF;
END
$$;
COMMENT ON FUNCTION cqrs.create_journal() IS
    'Makes the table cqrs.journal, owned by the owner of the extension, if it is not there. Called by cqrs.append, cqrs.send and cqrs.create_entity on first use.';

CREATE FUNCTION cqrs.high_water_mark() RETURNS bigint
    LANGUAGE c VOLATILE
    AS 'MODULE_PATHNAME', 'cqrs_high_water_mark';
COMMENT ON FUNCTION cqrs.high_water_mark() IS
    'The position up to which a snapshot taken after this call sees every event there will ever be. Call it in a statement before the one that reads the journal, never in the same one; cqrs.read_events does both. 0A000 on a standby without cqrs.store_mark.';
