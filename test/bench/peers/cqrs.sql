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

-- Projections, as those of plain.sql.
\ir ../read_model.sql

CREATE FUNCTION project_each(event cqrs.event) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    CASE event.event_type
    WHEN 'Opened' THEN
        INSERT INTO balance VALUES (event.entity_id, 0, 0, event.created_at) ON CONFLICT (entity_id) DO NOTHING;
    WHEN 'Deposited' THEN
        UPDATE balance SET balance = balance + (event.data ->> 'amount')::bigint, events = events + 1, updated_at = event.created_at
        WHERE entity_id = event.entity_id;
    WHEN 'Withdrawn' THEN
        UPDATE balance SET balance = balance - (event.data ->> 'amount')::bigint, events = events + 1, updated_at = event.created_at
        WHERE entity_id = event.entity_id;
    END CASE;
END $$;

CREATE FUNCTION project_set(events cqrs.event[]) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO balance AS b
    SELECT entity_id, sum(CASE event_type WHEN 'Deposited' THEN (data ->> 'amount')::bigint
                                          WHEN 'Withdrawn' THEN -(data ->> 'amount')::bigint ELSE 0 END),
           count(*), max(created_at)
    FROM unnest(events) GROUP BY entity_id
    ON CONFLICT (entity_id) DO UPDATE
    SET balance = b.balance + excluded.balance, events = b.events + excluded.events, updated_at = excluded.updated_at;
END $$;

-- Waits in transactions of its own: a snapshot that lasts would keep the
-- versions of rows that the projection replaces.
CREATE PROCEDURE wait_until(condition text) LANGUAGE plpgsql AS $$
DECLARE
    holds boolean := false;
BEGIN
    WHILE NOT holds LOOP
        COMMIT;
        EXECUTE 'SELECT ' || condition INTO holds;
        PERFORM pg_sleep(CASE WHEN holds THEN 0 ELSE 0.005 END);
    END LOOP;
END $$;

-- Registers a projection and waits until there is a worker for each partition.
CREATE PROCEDURE start_projection(handler text, n integer, start_position bigint) LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format('ALTER DATABASE %I SET cqrs.projection_workers = %s', current_database(), n);
    PERFORM cqrs.create_projection(handler, handler, partitions => n, start_position => start_position,
        tables => CASE WHEN handler ~ '^project' THEN '{balance}'::text[] END);
    CALL wait_until(format('count(*) >= %s FROM pg_stat_activity WHERE datname = current_database() AND backend_type ~ ''projection''', n));
    CALL wait_until('bool_and(lag_events = 0) FROM cqrs.projection_status');
END $$;

-- How long the last so many events of the journal take.
CREATE PROCEDURE project(handler text, n integer, events bigint, INOUT seconds numeric) LANGUAGE plpgsql AS $$
DECLARE
    began timestamptz;
BEGIN
    CALL start_projection(handler, n, NULL);
    began := clock_timestamp();
    PERFORM cqrs.reset_projection(handler, (SELECT max(position) - events FROM cqrs.journal));
    CALL wait_until('bool_and(lag_events = 0) FROM cqrs.projection_status');
    seconds := extract(epoch FROM clock_timestamp() - began);
END $$;

-- How long a rebuild takes, of a journal with at least so many events.
CREATE PROCEDURE rebuild(handler text, events bigint, INOUT seconds numeric) LANGUAGE plpgsql AS $$
DECLARE
    last bigint;
    began timestamptz;
BEGIN
    SELECT max(position) INTO last FROM cqrs.journal;
    IF last < events THEN
        WHILE last < events LOOP
            INSERT INTO cqrs.journal (position, slice, entity_type, entity_id, version, event_type, schema_version, data, metadata, created_at)
            SELECT position + last, cqrs.slice('account', id), 'account', id, version, event_type, 1, data, metadata, now()
            FROM cqrs.journal, concat('r', last, entity_id) id WHERE position <= events - last;
            SELECT max(position) INTO last FROM cqrs.journal;
        END LOOP;
        COMMIT;
        PERFORM cqrs.adopt();
        CALL start_projection(handler, 1, 0);
    END IF;
    began := clock_timestamp();
    PERFORM cqrs.rebuild_projection(handler);
    CALL wait_until('NOT bool_or(rebuild) FROM cqrs.projection');
    seconds := extract(epoch FROM clock_timestamp() - began);
END $$;

-- Latency: the projection writes a row for each event, and the server keeps the times of commits.
CREATE TABLE followed (position bigint NOT NULL);

CREATE FUNCTION follow(event cqrs.event) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO followed VALUES (event.position);
END $$;

CREATE PROCEDURE follow_at_once() LANGUAGE plpgsql AS $$
BEGIN
    CALL start_projection('follow', 1, NULL);
END $$;

-- In milliseconds, of what was committed since the last call.
CREATE PROCEDURE latencies(INOUT median double precision, INOUT p99 double precision) LANGUAGE plpgsql AS $$
BEGIN
    CALL wait_until('bool_and(lag_events = 0) FROM cqrs.projection_status');
    SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY ms), percentile_cont(0.99) WITHIN GROUP (ORDER BY ms) INTO median, p99
    FROM followed f JOIN cqrs.journal j USING (position),
         LATERAL (SELECT extract(epoch FROM pg_xact_commit_timestamp(f.xmin) - pg_xact_commit_timestamp(j.xmin)) * 1000 AS ms) s;
    DELETE FROM followed;
END $$;

-- Services: one that answers, and one whose breaker is open.
\set url 'http://127.0.0.1:' :port '/'
CREATE SERVER echo FOREIGN DATA WRAPPER cqrs_http OPTIONS (url :'url', allow_http 'true');
CREATE SERVER down FOREIGN DATA WRAPPER cqrs_http OPTIONS (url :'url', allow_http 'true', breaker 'forced_open');

CREATE FUNCTION call_down() RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    PERFORM cqrs.call('down', 'GET', '/');
    RETURN true;
EXCEPTION WHEN SQLSTATE 'QR010' THEN
    RETURN false;
END $$;

-- How long it takes from the commit of so many orders to the last delivery.
CREATE PROCEDURE deliver(deliveries integer, ordering_key text, INOUT seconds numeric) LANGUAGE plpgsql AS $$
DECLARE
    began timestamptz;
BEGIN
    PERFORM cqrs.enqueue('echo', 'POST', '/', body => '{"amount": 5}', ordering_key => ordering_key) FROM generate_series(1, deliveries);
    COMMIT;
    began := clock_timestamp();
    CALL wait_until('NOT EXISTS (SELECT FROM cqrs.outbox WHERE state <> ''delivered'')');
    seconds := extract(epoch FROM clock_timestamp() - began);
END $$;
