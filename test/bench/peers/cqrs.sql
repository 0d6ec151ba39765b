-- pg_cqrs, with the same fold and decision as account.sql.
CREATE EXTENSION pg_cqrs;

CREATE FUNCTION deposit(state jsonb, command cqrs.command) RETURNS cqrs.effect LANGUAGE plpgsql AS $$
BEGIN
    IF state ->> 'status' IS DISTINCT FROM 'open' THEN
        RETURN cqrs.reject('the account is not open');
    END IF;
    RETURN cqrs.persist('Deposited', command.data);
END $$;

CREATE FUNCTION opened(state jsonb, event cqrs.event) RETURNS jsonb LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    RETURN jsonb_build_object('status', 'open', 'balance', 0, 'count', 0);
END $$;

CREATE FUNCTION deposited(state jsonb, event cqrs.event) RETURNS jsonb LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    RETURN jsonb_build_object('status', 'open',
                              'balance', (state ->> 'balance')::bigint + (event.data ->> 'amount')::bigint,
                              'count', (state ->> 'count')::bigint + 1);
END $$;

CREATE FUNCTION withdrawn(state jsonb, event cqrs.event) RETURNS jsonb LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    RETURN jsonb_build_object('status', 'open',
                              'balance', (state ->> 'balance')::bigint - (event.data ->> 'amount')::bigint,
                              'count', (state ->> 'count')::bigint + 1);
END $$;

SELECT cqrs.create_entity('account'),
       cqrs.on_command('account', 'Deposit', 'deposit'),
       cqrs.on_event('account', 'Opened', 'opened'),
       cqrs.on_event('account', 'Deposited', 'deposited'),
       cqrs.on_event('account', 'Withdrawn', 'withdrawn');

-- As a restore would bring them in. There are no snapshots to begin with.
INSERT INTO cqrs.journal (position, slice, entity_type, entity_id, version, event_type, schema_version, data, metadata, created_at)
SELECT position, cqrs.slice('account', entity_id), 'account', entity_id, version, event_type, 1, data, metadata, now()
FROM seed ORDER BY position;
