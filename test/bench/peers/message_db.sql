-- message-db, after its own install script has run; one category for all.
\ir ../account.sql

INSERT INTO message_store.messages (stream_name, position, type, data, metadata)
SELECT 'account-' || entity_id, version - 1, event_type, data, metadata FROM seed ORDER BY position;

-- Through its functions only. Its versions begin with 0.
CREATE FUNCTION load(stream varchar) RETURNS loaded LANGUAGE plpgsql AS $$
DECLARE
    m record;
    l loaded := (-1, '{}');
BEGIN
    FOR m IN SELECT g.position, g.type, g.data::jsonb FROM get_stream_messages(stream, 0, -1) g LOOP
        l.state := evolve(l.state, m.type, m.data);
        l.version := m.position;
    END LOOP;
    RETURN l;
END $$;

CREATE FUNCTION handle(stream varchar, command_type text, data jsonb, metadata jsonb) RETURNS bigint
LANGUAGE plpgsql AS $$
DECLARE
    e new_event;
    l loaded := load(stream);
BEGIN
    FOREACH e IN ARRAY decide(l.state, command_type, data, metadata) LOOP
        l.version := write_message(gen_random_uuid()::varchar, stream, e.event_type, e.data, e.metadata, l.version);
    END LOOP;
    RETURN l.version;
END $$;

\ir ../read_model_by_hand.sql

CREATE PROCEDURE project_each(up_to bigint) LANGUAGE plpgsql AS $$
DECLARE
    m record;
    reached bigint;
BEGIN
    LOOP
        SELECT position INTO reached FROM projection_offset FOR UPDATE;
        EXIT WHEN reached >= up_to;
        FOR m IN SELECT g.global_position, g.stream_name, g.type, g.data::jsonb AS data, g.time
                 FROM get_category_messages('account', reached + 1, 500) g LOOP
            PERFORM project_event(m.stream_name, m.type, m.data, m.time);
        END LOOP;
        UPDATE projection_offset SET position = m.global_position;
        COMMIT;
    END LOOP;
END $$;
