-- 100 events to a new entity in one call.
-- case: append_100
-- goal: 1.2
-- events: 100
\set id random(1, 1000000000000000000)
-- peer: limit
INSERT INTO journal (slice, entity_type, entity_id, version, event_type, schema_version, data, metadata)
SELECT 1, 'account', 'b' || :id, n, 'Deposited', 1, d, m
FROM unnest(:data_100::jsonb[], :metadata_100::jsonb[]) WITH ORDINALITY AS e(d, m, n);
-- peer: plain
SELECT append('account', 'b' || :id, 0,
              ARRAY(SELECT ROW('Deposited', d, m)::new_event
                    FROM unnest(:data_100::jsonb[], :metadata_100::jsonb[]) AS e(d, m)));
-- peer: cqrs
SELECT cqrs.append('account', 'b' || :id,
                   ARRAY(SELECT cqrs.new_event('Deposited', d, m)
                         FROM unnest(:data_100::jsonb[], :metadata_100::jsonb[]) AS e(d, m)), 0);
-- peer: emmett
SELECT emt_append_to_stream(:id_100, :data_100, :metadata_100, array_fill('1'::text, ARRAY[100]),
                            array_fill('Deposited'::text, ARRAY[100]), array_fill('E'::text, ARRAY[100]),
                            'account-b' || :id, 'account', 0, :partition);
