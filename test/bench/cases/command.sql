-- A command to an entity of about so many events: load, decide, append. The
-- limit is the INSERT alone. No two clients send to the same entity.
-- case: command_10 kind=e entities=20000
-- case: command_100 kind=h entities=2000
-- goal: 0.7
-- longer: 5
\set id random(0, <entities> / :clients - 1) * :clients + :client_id + 1
-- peer: limit
\set version random(10000, 4000000000000000000)
INSERT INTO journal (slice, entity_type, entity_id, version, event_type, schema_version, data, metadata)
VALUES (1, 'account', '<kind>' || :id, :version, 'Deposited', 1, :data, :metadata);
-- peer: plain
SELECT handle('account', '<kind>' || :id, 'Deposit', :data, :metadata);
-- peer: plain, state row
SELECT handle_by_state('account', '<kind>' || :id, 'Deposit', :data, :metadata);
-- peer: cqrs
SELECT cqrs.send('account', '<kind>' || :id, 'Deposit', :data, metadata => :metadata);
-- peer: cqrs, no cache
-- set: cqrs.state_cache_size=0
SELECT cqrs.send('account', '<kind>' || :id, 'Deposit', :data, metadata => :metadata);
-- peer: cqrs, snapshots
-- set: cqrs.state_cache_size=0
-- setup: SELECT cqrs.alter_entity('account', snapshot_every => 5), count(cqrs.take_snapshot('account', '<kind>' || i)) FROM generate_series(1, <entities>) i
SELECT cqrs.send('account', '<kind>' || :id, 'Deposit', :data, metadata => :metadata);
-- peer: message_db
SELECT handle('account-<kind>' || :id, 'Deposit', :data, :metadata);
