-- A journal of :events events of a tenth as many entities, which take turns. The
-- indexes are made last, as a restore makes them.
CREATE FUNCTION count_events(events cqrs.event[]) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    UPDATE counted SET n = n + cardinality(events);
END $$;

-- Has a projection do the last so many events again, and again.
CREATE PROCEDURE project_again(events bigint, times integer, INOUT seconds numeric) LANGUAGE plpgsql AS $$
DECLARE
    began timestamptz := clock_timestamp();
BEGIN
    FOR i IN 1 .. times LOOP
        PERFORM cqrs.reset_projection('count_events', (SELECT max(position) - events FROM cqrs.journal));
        CALL wait_until('bool_and(lag_events = 0) FROM cqrs.projection_status');
    END LOOP;
    seconds := extract(epoch FROM clock_timestamp() - began);
END $$;

CREATE TEMP TABLE keys AS SELECT conname, pg_get_constraintdef(oid) AS definition FROM pg_constraint
WHERE conrelid = 'cqrs.journal'::regclass AND contype IN ('p', 'u');
SELECT format('ALTER TABLE cqrs.journal DROP CONSTRAINT %I', conname) FROM keys \gexec

INSERT INTO cqrs.journal (position, slice, entity_type, entity_id, version, event_type, schema_version, data, metadata, created_at)
SELECT n + 1, cqrs.slice('account', id), 'account', id, version, CASE version WHEN 1 THEN 'Opened' ELSE 'Deposited' END, 1,
       '{"amount": 120, "currency": "EUR", "reference": "inv-0000123456", "note": "monthly subscription"}'::jsonb,
       '{"correlation_id": "0123456789abcdef0123456789abcdef", "user": "u42"}'::jsonb, now()
FROM (SELECT n, 'e' || n % (:events / 10) AS id, n / (:events / 10) + 1 AS version FROM generate_series(0, :events - 1) n) e;

SET maintenance_work_mem = '1GB';
SELECT format('ALTER TABLE cqrs.journal ADD CONSTRAINT %I %s', conname, definition) FROM keys \gexec
VACUUM ANALYZE;
CREATE TABLE counted AS SELECT 0::bigint AS n;
SELECT cqrs.adopt();
