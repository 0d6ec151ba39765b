-- Emmett, after its own schema is in: of it the SQL function that appends. All
-- else it does in Node, which is not what is measured here.
INSERT INTO emt_messages (stream_id, stream_position, message_data, message_metadata, message_schema_version,
                          message_type, message_id, transaction_id)
SELECT 'account-' || entity_id, version, data, metadata, '1', event_type, gen_random_uuid(), pg_current_xact_id()
FROM seed ORDER BY position;

INSERT INTO emt_streams (stream_id, stream_position, stream_type, stream_metadata)
SELECT 'account-' || entity_id, max(version), 'account', '{}' FROM seed GROUP BY entity_id;

\ir ../read_model.sql
