-- From the commit of a command to the moment when the read model of a worker shows it, at so many commands a second.
-- case: latency_10 rate=10
-- case: latency_100 rate=100
-- case: latency_1000 rate=1000
-- kind: latency
-- rate: <rate>
-- goal: p50 < 1 ms, p99 < 10 ms
\set id random(0, 20000 / :clients - 1) * :clients + :client_id + 1
-- peer: cqrs
SELECT cqrs.send('account', 'e' || :id, 'Deposit', :data, metadata => :metadata);
