-- One event to one of 10,000 entities, whatever its version. (The limit takes a
-- version that nobody has, where a store has to look for the last one.)
-- case: append_any
-- goal: 1.0
-- longer: 5
\set id random(0, 10000 / :clients - 1) * :clients + :client_id + 1
-- peer: limit
\set version random(1000, 4000000000000000000)
INSERT INTO journal (slice, entity_type, entity_id, version, event_type, schema_version, data, metadata)
VALUES (1, 'account', 'e' || :id, :version, 'Deposited', 1, :data, :metadata);
-- peer: limit, look-up
INSERT INTO journal (slice, entity_type, entity_id, version, event_type, schema_version, data, metadata)
SELECT 1, 'account', 'e' || :id,
       coalesce((SELECT version FROM journal WHERE entity_type = 'account' AND entity_id = 'e' || :id ORDER BY version DESC LIMIT 1), 0) + 1,
       'Deposited', 1, :data, :metadata;
-- peer: plain
SELECT append('account', 'e' || :id, NULL, 'Deposited', :data, :metadata);
-- peer: cqrs
SELECT cqrs.append('account', 'e' || :id, ARRAY[cqrs.new_event('Deposited', :data, :metadata)]);
-- peer: message_db
SELECT write_message(gen_random_uuid()::varchar, 'account-e' || :id, 'Deposited', :data, :metadata);
-- peer: emmett
SELECT emt_append_to_stream(ARRAY[gen_random_uuid()::text], ARRAY[:data]::jsonb[], ARRAY[:metadata]::jsonb[],
                            ARRAY['1'], ARRAY['Deposited'], ARRAY['E'], 'account-e' || :id, 'account', NULL, :partition);
