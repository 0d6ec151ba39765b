-- A projection of 200,000 events, in batches of 500, each batch in one statement.
-- case: project_set
-- kind: script
-- events: 200000
-- goal: 1.0
-- peer: plain
SELECT clock_timestamp() AS began \gset
CALL project_set(200000);
SELECT extract(epoch FROM clock_timestamp() - :'began');
-- peer: cqrs
CALL project('project_set', 1, 200000, NULL);
-- peer: cqrs, 2 partitions
CALL project('project_set', 2, 200000, NULL);
-- peer: cqrs, 4 partitions
CALL project('project_set', 4, 200000, NULL);
