-- cqrs.journal_status tells at a glance what the journal's state is, to whoever may watch the server.
\set SHOW_CONTEXT never
SELECT cqrs.create_journal();
SELECT last_position AS before FROM cqrs.journal_status \gset
SELECT has_journal, held, last_position = high_water_mark AS all_readable, open_transactions FROM cqrs.journal_status;
BEGIN;
SELECT version FROM cqrs.append('Monitor', 'a', ARRAY[cqrs.new_event('A', '{}'), cqrs.new_event('B', '{}')]);
SELECT has_journal, held, last_position - :before AS drawn, high_water_mark - :before AS readable, open_transactions FROM cqrs.journal_status;
COMMIT;
SELECT has_journal, held, last_position - :before AS drawn, high_water_mark - :before AS readable, open_transactions FROM cqrs.journal_status;
BEGIN;
SELECT version FROM cqrs.append('Monitor', 'b', ARRAY[cqrs.new_event('A', '{}')]);
PREPARE TRANSACTION 'regress_monitor';
SELECT last_position - :before AS drawn, high_water_mark - :before AS readable, open_transactions FROM cqrs.journal_status;
COMMIT PREPARED 'regress_monitor';
SELECT last_position - :before AS drawn, high_water_mark - :before AS readable, open_transactions FROM cqrs.journal_status;

-- A role with pg_monitor sees it, and reads no event by that; others do not.
CREATE ROLE regress_monitor IN ROLE pg_monitor;
CREATE ROLE regress_nobody;
SET ROLE regress_monitor;
SELECT has_journal, held, last_position - :before AS drawn, high_water_mark - :before AS readable, open_transactions FROM cqrs.journal_status;
SELECT count(*) FROM cqrs.open_positions();
SELECT hits >= 0 AS hits FROM cqrs.state_cache;
SELECT count(*) FROM cqrs.read_events();
SET ROLE regress_nobody;
SELECT has_journal FROM cqrs.journal_status;
SELECT cqrs.last_position();
SELECT count(*) FROM cqrs.open_positions();
RESET ROLE;
DROP ROLE regress_monitor, regress_nobody;
