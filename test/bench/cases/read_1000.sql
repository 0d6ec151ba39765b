-- 1000 events in the order of the journal, from anywhere in it.
-- case: read_1000
-- goal: 0.9
-- events: 1000
\set after random(0, 400000)
-- peer: limit
SELECT * FROM journal WHERE position > :after ORDER BY position LIMIT 1000;
-- peer: cqrs
SELECT * FROM cqrs.read_events(:after, 1000);
-- peer: message_db
SELECT * FROM get_category_messages('account', :after::bigint + 1, 1000);
