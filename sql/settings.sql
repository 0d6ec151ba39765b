-- The settings are these, with PostgreSQL's units and limits, and a mistyped one is refused instead of being kept.
SELECT name, vartype, unit, min_val, max_val, boot_val, context FROM pg_settings WHERE name LIKE 'cqrs.%' ORDER BY name;
SELECT name FROM pg_settings WHERE name LIKE 'cqrs.%' AND (short_desc IS NULL OR extra_desc IS NULL);
SET cqrs.comand_retention = '1 d';
SELECT set_config('cqrs.state_cache', '16MB', false);
SET cqrs.allow_journal_change = on;
SELECT current_setting('cqrs.comand_retention', true);

-- Time and memory are given in any unit.
SHOW cqrs.command_retention;
SET cqrs.command_retention = '14 d';
SHOW cqrs.command_retention;
SET cqrs.command_retention = '90min';
SHOW cqrs.command_retention;
SET cqrs.command_retention = 30;
SHOW cqrs.command_retention;
SET cqrs.command_retention = '1500 ms';
SHOW cqrs.command_retention;
RESET cqrs.command_retention;
SHOW cqrs.state_cache_size;
SET cqrs.state_cache_size = '16MB';
SHOW cqrs.state_cache_size;
SET cqrs.state_cache_size = '1GB';
SHOW cqrs.state_cache_size;
SET cqrs.state_cache_size = 100;
SHOW cqrs.state_cache_size;
SET cqrs.state_cache_size = 0;
SHOW cqrs.state_cache_size;
RESET cqrs.state_cache_size;
SHOW cqrs.max_entity_locks;
SET cqrs.max_entity_locks = 0;
SHOW cqrs.max_entity_locks;
RESET cqrs.max_entity_locks;
SHOW cqrs.allow_journal_changes;
-- What is out of range or no value is refused, and changes nothing.
\set VERBOSITY sqlstate
SET cqrs.command_retention = 0;
SET cqrs.command_retention = '-1 d';
SET cqrs.command_retention = '1 week';
SET cqrs.command_retention = '16MB';
SET cqrs.state_cache_size = -1;
SET cqrs.state_cache_size = '2GB';
SET cqrs.state_cache_size = '1 h';
SET cqrs.max_entity_locks = -1;
SET cqrs.max_entity_locks = 'many';
SET cqrs.allow_journal_changes = 'perhaps';
\set VERBOSITY default
SELECT name, setting = boot_val AS unchanged FROM pg_settings WHERE name LIKE 'cqrs.%' ORDER BY name;

-- What concerns everybody is for superusers; the memory of a session is its own.
CREATE ROLE regress_settings;
SET ROLE regress_settings;
SET cqrs.allow_journal_changes = on;
SET cqrs.command_retention = '1 s';
SET cqrs.max_entity_locks = 100000;
SET cqrs.state_cache_size = 0;
SHOW cqrs.state_cache_size;
RESET cqrs.state_cache_size;
RESET ROLE;
DROP ROLE regress_settings;
