-- A read model made anew from 1,000,000 events, in one transaction.
-- case: rebuild_each handler=project_each
-- case: rebuild_set handler=project_set
-- kind: script
-- copy: once
-- events: 1000000
-- peer: cqrs
CALL rebuild('<handler>', 1000000, NULL);
