-- The state of an entity of 100 events, one of 200. The limit is a sum in SQL,
-- which is no general fold; there are no snapshots.
\set id random(1, 200)
-- peer: limit
SELECT max(version), count(*), sum(CASE event_type WHEN 'Deposited' THEN (data ->> 'amount')::bigint
                                                   WHEN 'Withdrawn' THEN -(data ->> 'amount')::bigint END)
FROM journal WHERE entity_type = 'account' AND entity_id = 'h' || :id;
-- peer: plain
SELECT load('account', 'h' || :id);
-- peer: cqrs
SELECT cqrs.state('account', 'h' || :id);
-- peer: cqrs, no cache
-- set: cqrs.state_cache_size=0
SELECT cqrs.state('account', 'h' || :id);
