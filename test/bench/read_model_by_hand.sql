-- A projection written by hand: the handler, and an offset that moves with each batch.
\ir read_model.sql
CREATE TABLE projection_offset (position bigint NOT NULL) WITH (fillfactor = 50);
INSERT INTO projection_offset VALUES (0);

CREATE FUNCTION project_event(p_id text, p_type text, p_data jsonb, p_at timestamptz) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    CASE p_type
    WHEN 'Opened' THEN
        INSERT INTO balance VALUES (p_id, 0, 0, p_at) ON CONFLICT (entity_id) DO NOTHING;
    WHEN 'Deposited' THEN
        UPDATE balance SET balance = balance + (p_data ->> 'amount')::bigint, events = events + 1, updated_at = p_at
        WHERE entity_id = p_id;
    WHEN 'Withdrawn' THEN
        UPDATE balance SET balance = balance - (p_data ->> 'amount')::bigint, events = events + 1, updated_at = p_at
        WHERE entity_id = p_id;
    END CASE;
END $$;
