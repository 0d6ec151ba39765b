-- The state of an entity of so many events, one of a few. The limit is a sum
-- in SQL, which is no general fold; there are no snapshots.
-- case: state_10 kind=e entities=200
-- case: state_100 kind=h entities=200
-- case: state_1000 kind=k entities=10
\set id random(1, <entities>)
-- peer: limit
SELECT max(version), count(*), sum(CASE event_type WHEN 'Deposited' THEN (data ->> 'amount')::bigint
                                                   WHEN 'Withdrawn' THEN -(data ->> 'amount')::bigint END)
FROM journal WHERE entity_type = 'account' AND entity_id = '<kind>' || :id;
-- peer: plain
SELECT load('account', '<kind>' || :id);
-- peer: cqrs
SELECT cqrs.state('account', '<kind>' || :id);
-- peer: cqrs, no cache
-- set: cqrs.state_cache_size=0
SELECT cqrs.state('account', '<kind>' || :id);
-- peer: cqrs, no cache, C
-- set: cqrs.state_cache_size=0
-- setup: SELECT cqrs.on_event('account', event_type, 'cqrs.merge') FROM unnest('{Opened,Deposited,Withdrawn}'::text[]) event_type
SELECT cqrs.state('account', '<kind>' || :id);
-- peer: message_db
SELECT load('account-<kind>' || :id);
