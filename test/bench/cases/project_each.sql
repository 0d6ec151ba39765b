-- A projection of 200,000 events, in batches of 500, with a handler that is called for each event.
-- case: project_each
-- kind: script
-- events: 200000
-- goal: 1.0
-- peer: plain
SELECT clock_timestamp() AS began \gset
CALL project_each(200000);
SELECT extract(epoch FROM clock_timestamp() - :'began');
-- peer: cqrs
CALL project('project_each', 1, 200000, NULL);
-- peer: cqrs, 2 partitions
CALL project('project_each', 2, 200000, NULL);
-- peer: cqrs, 4 partitions
CALL project('project_each', 4, 200000, NULL);
-- peer: message_db
SELECT clock_timestamp() AS began \gset
CALL project_each(200000);
SELECT extract(epoch FROM clock_timestamp() - :'began');
-- peer: message_db, Node
-- program: project.mjs message_db
-- peer: emmett, Node
-- program: project.mjs emmett
