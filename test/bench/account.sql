-- What the user of a hand-written store writes: a fold and a decision.
CREATE TYPE new_event AS (event_type text, data jsonb, metadata jsonb);

CREATE FUNCTION evolve(state jsonb, event_type text, data jsonb) RETURNS jsonb LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    CASE event_type
    WHEN 'Opened' THEN
        RETURN jsonb_build_object('status', 'open', 'balance', 0, 'count', 0);
    WHEN 'Deposited' THEN
        RETURN jsonb_build_object('status', 'open',
                                  'balance', (state ->> 'balance')::bigint + (data ->> 'amount')::bigint,
                                  'count', (state ->> 'count')::bigint + 1);
    WHEN 'Withdrawn' THEN
        RETURN jsonb_build_object('status', 'open',
                                  'balance', (state ->> 'balance')::bigint - (data ->> 'amount')::bigint,
                                  'count', (state ->> 'count')::bigint + 1);
    END CASE;
END $$;

CREATE FUNCTION decide(state jsonb, command_type text, data jsonb, metadata jsonb) RETURNS new_event[]
LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    IF state ->> 'status' IS DISTINCT FROM 'open' THEN
        RAISE EXCEPTION 'the account is not open';
    END IF;
    CASE command_type
    WHEN 'Deposit' THEN
        RETURN ARRAY[ROW('Deposited', data, metadata)::new_event];
    WHEN 'Withdraw' THEN
        IF (state ->> 'balance')::bigint < (data ->> 'amount')::bigint THEN
            RAISE EXCEPTION 'insufficient funds';
        END IF;
        RETURN ARRAY[ROW('Withdrawn', data, metadata)::new_event];
    END CASE;
END $$;

CREATE TYPE loaded AS (version bigint, state jsonb);
