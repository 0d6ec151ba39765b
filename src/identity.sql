-- One row, or none before there is a journal. It is dumped and restored, which is how a copy is told from the original.
CREATE TABLE cqrs.identity (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    system_identifier bigint NOT NULL,
    database bigint NOT NULL,
    installation bigint NOT NULL,   -- OID of this table, which another one has after a restore into the same database
    has_first_events boolean NOT NULL   -- version 1 of each entity is in the journal: nobody has deleted any
);
SELECT pg_catalog.pg_extension_config_dump('cqrs.identity', '');
COMMENT ON TABLE cqrs.identity IS 'The server and database that the journal was written in, and whether each entity has its first event there.';

CREATE FUNCTION cqrs.is_held() RETURNS boolean
    LANGUAGE c VOLATILE
    AS 'MODULE_PATHNAME', 'cqrs_is_held';
COMMENT ON FUNCTION cqrs.is_held() IS
    'Whether the database holds the journal of another one (restored, copied or subscribed to) and waits for cqrs.adopt(). Commands and appends work meanwhile.';

CREATE FUNCTION cqrs.raise_position() RETURNS bigint
    LANGUAGE c VOLATILE
    AS 'MODULE_PATHNAME', 'cqrs_raise_position';
COMMENT ON FUNCTION cqrs.raise_position() IS
    'Internal, for cqrs.adopt: raises the sequence to all positions ever in use, and returns the last.';

CREATE FUNCTION cqrs.identity_changed() RETURNS void
    LANGUAGE c VOLATILE
    AS 'MODULE_PATHNAME', 'cqrs_identity_changed';
COMMENT ON FUNCTION cqrs.identity_changed() IS 'Internal: tells all sessions that cqrs.identity has changed.';

CREATE FUNCTION cqrs.record_identity() RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    DELETE FROM cqrs.identity;
    INSERT INTO cqrs.identity (system_identifier, database, installation, has_first_events)
    SELECT s.system_identifier, d.oid::bigint, 'cqrs.identity'::regclass::oid::bigint,
        NOT EXISTS (SELECT FROM cqrs.journal GROUP BY entity_type, entity_id HAVING min(version) > 1)
    FROM pg_control_system() s, pg_database d
    WHERE d.datname = current_database();
    PERFORM cqrs.identity_changed();
END
$$;
COMMENT ON FUNCTION cqrs.record_identity() IS 'Internal: writes down that the journal belongs to this database.';

CREATE FUNCTION cqrs.adopt() RETURNS bigint
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    raised bigint;
BEGIN
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION 'cqrs.adopt() cannot run in a transaction that is %', upper(current_setting('transaction_isolation'))
            USING ERRCODE = 'invalid_transaction_state',
                  DETAIL = 'It has to see what has been committed since the transaction began.',
                  HINT = 'Call it in one that is READ COMMITTED.';
    END IF;
    PERFORM cqrs.create_journal();
    -- Waits for open appends and for a COPY of pg_restore, and keeps new ones out until this commits.
    LOCK TABLE cqrs.journal IN SHARE ROW EXCLUSIVE MODE;
    IF EXISTS (SELECT FROM pg_subscription_rel WHERE srrelid = 'cqrs.journal'::regclass) THEN
        RAISE EXCEPTION 'the journal cannot be adopted: it gets its events by a subscription'
            USING ERRCODE = 'object_not_in_prerequisite_state',
                  HINT = 'Wait until everything has come, drop the subscription, and run SELECT cqrs.adopt() then.';
    END IF;
    -- pg_restore --disable-triggers leaves it so that it does not always fire.
    IF EXISTS (SELECT FROM pg_trigger WHERE tgrelid = 'cqrs.journal'::regclass AND tgname = 'guard_journal' AND tgenabled = 'O') THEN
        ALTER TABLE cqrs.journal ENABLE ALWAYS TRIGGER guard_journal;
    END IF;
    raised := cqrs.raise_position();
    PERFORM cqrs.record_identity();
    RETURN raised;
END
$$;
COMMENT ON FUNCTION cqrs.adopt() IS
    'Declares that the journal belongs to this database: after a restore or copy, when everything is loaded and the original will deliver nothing any more. Waits for open writers, raises the sequence of positions to at least max(position), which it returns, looks whether each entity has its first event (about 0.3 s for a million events), and records the identity. 55000 while a subscription brings its events; 25000 in REPEATABLE READ and SERIALIZABLE transactions.';
