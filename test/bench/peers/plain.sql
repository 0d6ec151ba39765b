-- An event store as it is written by hand in PL/pgSQL, with care for speed. It
-- leaves the hole open that most such stores have: see the case "missed".
\ir limit.sql
\ir ../account.sql

-- One event. An expected version is left to the primary key to check.
CREATE FUNCTION append(p_type text, p_id text, expected bigint, p_event text, p_data jsonb, p_metadata jsonb)
RETURNS bigint LANGUAGE plpgsql AS $$
BEGIN
    IF expected IS NULL THEN
        SELECT version INTO expected FROM journal WHERE entity_type = p_type AND entity_id = p_id
        ORDER BY version DESC LIMIT 1;
        expected := coalesce(expected, 0);
    END IF;
    INSERT INTO journal (slice, entity_type, entity_id, version, event_type, schema_version, data, metadata)
    VALUES (1, p_type, p_id, expected + 1, p_event, 1, p_data, p_metadata);
    RETURN expected + 1;
END $$;

-- Any number of events.
CREATE FUNCTION append(p_type text, p_id text, expected bigint, p_events new_event[]) RETURNS bigint
LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO journal (slice, entity_type, entity_id, version, event_type, schema_version, data, metadata)
    SELECT 1, p_type, p_id, expected + n, e.event_type, 1, e.data, e.metadata
    FROM unnest(p_events) WITH ORDINALITY AS e(event_type, data, metadata, n);
    RETURN expected + cardinality(p_events);
END $$;

CREATE FUNCTION load(p_type text, p_id text) RETURNS loaded LANGUAGE plpgsql STABLE AS $$
DECLARE
    e record;
    l loaded := (0, '{}');
BEGIN
    FOR e IN SELECT version, event_type, data FROM journal
             WHERE entity_type = p_type AND entity_id = p_id ORDER BY version LOOP
        l.state := evolve(l.state, e.event_type, e.data);
        l.version := e.version;
    END LOOP;
    RETURN l;
END $$;

CREATE FUNCTION handle(p_type text, p_id text, command_type text, data jsonb, metadata jsonb) RETURNS bigint
LANGUAGE plpgsql AS $$
DECLARE
    l loaded := load(p_type, p_id);
BEGIN
    RETURN append(p_type, p_id, l.version, decide(l.state, command_type, data, metadata));
END $$;

-- The other way to do it: every command locks the entity's state and updates it.
CREATE TABLE state (
    entity_type text COLLATE "C",
    entity_id text COLLATE "C",
    version bigint NOT NULL,
    state jsonb NOT NULL,
    PRIMARY KEY (entity_type, entity_id)
) WITH (fillfactor = 80);

INSERT INTO state SELECT 'account', id, (l).version, (l).state
FROM (SELECT id, load('account', id) AS l FROM (SELECT DISTINCT entity_id AS id FROM seed) s OFFSET 0) s;

CREATE FUNCTION handle_by_state(p_type text, p_id text, command_type text, data jsonb, metadata jsonb)
RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    l loaded;
    events new_event[];
    e new_event;
BEGIN
    SELECT s.version, s.state INTO l FROM state s WHERE s.entity_type = p_type AND s.entity_id = p_id FOR UPDATE;
    events := decide(l.state, command_type, data, metadata);
    FOREACH e IN ARRAY events LOOP
        l.state := evolve(l.state, e.event_type, e.data);
    END LOOP;
    UPDATE state s SET version = l.version + cardinality(events), state = l.state
    WHERE s.entity_type = p_type AND s.entity_id = p_id;
    RETURN append(p_type, p_id, l.version, events);
END $$;

-- Projections: one event after the other, and a batch in one statement.
\ir ../read_model_by_hand.sql

CREATE PROCEDURE project_each(up_to bigint) LANGUAGE plpgsql AS $$
DECLARE
    e record;
    reached bigint;
BEGIN
    LOOP
        SELECT position INTO reached FROM projection_offset FOR UPDATE;
        EXIT WHEN reached >= up_to;
        FOR e IN SELECT position, entity_id, event_type, data, created_at FROM journal
                 WHERE position > reached ORDER BY position LIMIT 500 LOOP
            PERFORM project_event(e.entity_id, e.event_type, e.data, e.created_at);
        END LOOP;
        UPDATE projection_offset SET position = e.position;
        COMMIT;
    END LOOP;
END $$;

CREATE PROCEDURE project_set(up_to bigint) LANGUAGE plpgsql AS $$
DECLARE
    reached bigint;
BEGIN
    LOOP
        SELECT position INTO reached FROM projection_offset FOR UPDATE;
        EXIT WHEN reached >= up_to;
        WITH batch AS MATERIALIZED (
            SELECT position, entity_id, event_type, data, created_at FROM journal
            WHERE position > reached ORDER BY position LIMIT 500
        ), projected AS (
            INSERT INTO balance AS b
            SELECT entity_id, sum(CASE event_type WHEN 'Deposited' THEN (data ->> 'amount')::bigint
                                                  WHEN 'Withdrawn' THEN -(data ->> 'amount')::bigint ELSE 0 END),
                   count(*), max(created_at)
            FROM batch GROUP BY entity_id
            ON CONFLICT (entity_id) DO UPDATE
            SET balance = b.balance + excluded.balance, events = b.events + excluded.events, updated_at = excluded.updated_at
        )
        SELECT max(position) INTO reached FROM batch;
        UPDATE projection_offset SET position = reached;
        COMMIT;
    END LOOP;
END $$;
