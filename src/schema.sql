\echo Use "CREATE EXTENSION pg_cqrs" to load this file. \quit

-- A schema of that name made by somebody else is refused on purpose: its owner could put functions into it.
CREATE SCHEMA cqrs;
COMMENT ON SCHEMA cqrs IS 'Event-sourced entities: the journal, commands, snapshots (extension pg_cqrs).';
