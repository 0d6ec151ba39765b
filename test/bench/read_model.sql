-- The read model of the projections: a row for each account. It is made last: of a table
-- that VACUUM has found empty the planner thinks that it stays so, and scans it.
VACUUM ANALYZE;

CREATE TABLE balance (
    entity_id text COLLATE "C" PRIMARY KEY,
    balance bigint NOT NULL,
    events bigint NOT NULL,
    updated_at timestamptz NOT NULL
) WITH (fillfactor = 50);
