-- What a backend has for itself, in kB, after half of :events commands to different entities and after all of them:
-- memory of its own, as the system counts it, and what its memory contexts have.
CREATE TEMP TABLE used AS
SELECT 0 AS commands, 0::bigint AS anonymous_kb, 0::bigint AS contexts_kb WHERE false;
\set look 'INSERT INTO used SELECT :commands, substring(pg_read_file(\'/proc/self/status\') FROM \'RssAnon:\\s*(\\d+)\')::bigint, sum(total_bytes) / 1024 FROM pg_backend_memory_contexts'
\set send 'SELECT format(\'SELECT FROM cqrs.send(\'\'account\'\', \'\'e%s\'\', \'\'Deposit\'\', \'\'{"amount": 1}\'\')\', n) FROM generate_series('
\set commands :events / 2
:send 0, :commands - 1) n \gexec
:look;
\set commands :events
:send :events / 2, :commands - 1) n \gexec
:look;
SELECT string_agg(format('%s kB (contexts %s)', anonymous_kb, contexts_kb), ' ' ORDER BY commands) FROM used;
