CREATE TABLE cqrs.timer (
    id uuid PRIMARY KEY,
    due_at timestamptz NOT NULL CHECK (pg_catalog.isfinite(due_at)),
    role name NOT NULL,
    entity_type text COLLATE "C" NOT NULL,
    entity_id text COLLATE "C" NOT NULL,
    command_type text COLLATE "C" NOT NULL,
    data jsonb NOT NULL,
    created_at timestamptz NOT NULL,
    -- How it stands
    state text NOT NULL DEFAULT 'waiting' CHECK (state IN ('waiting', 'failed')),
    next_attempt_at timestamptz NOT NULL,
    attempts integer NOT NULL DEFAULT 0,
    failures integer NOT NULL DEFAULT 0,
    last_error text,
    last_sqlstate text
);
CREATE INDEX timer_next_attempt_at_idx ON cqrs.timer (next_attempt_at, created_at) WHERE state = 'waiting';
-- For cqrs.forget.
CREATE INDEX timer_entity_idx ON cqrs.timer (entity_type, entity_id);
SELECT pg_catalog.pg_extension_config_dump('cqrs.timer', '');
COMMENT ON TABLE cqrs.timer IS
    'Commands for later, which are sent as role when they are due; sent ones are gone. next_attempt_at: due_at, or when it is tried again after an error; attempts: how many have failed; failures: those of them that were not the system''s fault; state: waiting, or failed, which is not tried again. Changed by cqrs.schedule, cqrs.cancel_scheduled, cqrs.retry_scheduled and the worker alone.';
