-- One event to a new entity.
-- case: append_new
-- goal: 1.0
\set id random(1, 1000000000000000000)
-- peer: limit
INSERT INTO journal (slice, entity_type, entity_id, version, event_type, schema_version, data, metadata)
VALUES (1, 'account', 'n' || :id, 1, 'Deposited', 1, :data, :metadata);
-- peer: limit, look-up
INSERT INTO journal (slice, entity_type, entity_id, version, event_type, schema_version, data, metadata)
SELECT 1, 'account', 'n' || :id,
       coalesce((SELECT version FROM journal WHERE entity_type = 'account' AND entity_id = 'n' || :id ORDER BY version DESC LIMIT 1), 0) + 1,
       'Deposited', 1, :data, :metadata;
-- peer: plain
SELECT append('account', 'n' || :id, 0, 'Deposited', :data, :metadata);
-- peer: cqrs
SELECT cqrs.append('account', 'n' || :id, ARRAY[cqrs.new_event('Deposited', :data, :metadata)], 0);
-- peer: message_db
SELECT write_message(gen_random_uuid()::varchar, 'account-n' || :id, 'Deposited', :data, :metadata, -1);
-- peer: emmett
SELECT emt_append_to_stream(ARRAY[gen_random_uuid()::text], ARRAY[:data]::jsonb[], ARRAY[:metadata]::jsonb[],
                            ARRAY['1'], ARRAY['Deposited'], ARRAY['E'], 'account-n' || :id, 'account', 0, :partition);
