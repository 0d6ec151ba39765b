-- The events that every store begins with, in journal order. Entities are
-- interleaved in time, as in life, so the events of one lie far apart.
--	e1 ... e20000	10 events each
--	h1 ... h2000	100
--	k1 ... k10		1000
CREATE EXTENSION pg_prewarm;

CREATE UNLOGGED TABLE seed AS
SELECT row_number() OVER (ORDER BY (v - 0.5) / n, entity_id) AS position, entity_id, v::bigint AS version,
       CASE WHEN v = 1 THEN 'Opened' WHEN v % 3 = 0 THEN 'Withdrawn' ELSE 'Deposited' END AS event_type,
       jsonb_build_object('amount', 100 + v % 50, 'currency', 'EUR',
                          'reference', 'inv-' || lpad((v * 7919)::text, 10, '0'),
                          'note', 'monthly subscription') AS data,
       jsonb_build_object('correlation_id', md5(entity_id || v), 'user', 'u42') AS metadata
FROM (SELECT 'e' || i AS entity_id, 10 AS n FROM generate_series(1, 20000) i
      UNION ALL SELECT 'h' || i, 100 FROM generate_series(1, 2000) i
      UNION ALL SELECT 'k' || i, 1000 FROM generate_series(1, 10) i) e,
     LATERAL generate_series(1, n) v
ORDER BY position;
