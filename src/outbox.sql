-- What is to be sent to other services. Role and service are kept by name, since OIDs differ after a restore.
CREATE SEQUENCE cqrs.outbox_number_seq;
SELECT pg_catalog.pg_extension_config_dump('cqrs.outbox_number_seq', '');
COMMENT ON SEQUENCE cqrs.outbox_number_seq IS
    'Numbers of deliveries: those of one ordering key are in the order of their commits.';

CREATE TABLE cqrs.outbox (
    id uuid PRIMARY KEY,
    number bigint NOT NULL DEFAULT pg_catalog.nextval('cqrs.outbox_number_seq'),
    -- The request, and whose it is
    service text COLLATE "C" NOT NULL,
    role name NOT NULL,
    method text NOT NULL,
    path text NOT NULL,
    query jsonb,
    headers jsonb,
    content_type text,
    body bytea,
    ordering_key text COLLATE "C",
    -- What follows
    reply_entity_type text COLLATE "C",
    reply_entity_id text COLLATE "C",
    reply_command text,
    failure_command text,
    max_attempts integer NOT NULL CHECK (max_attempts > 0),
    -- How it stands
    state text COLLATE "C" NOT NULL DEFAULT 'pending'
        CHECK (state IN ('pending', 'claimed', 'answered', 'delivered', 'rejected', 'reply_failed', 'dead')),
    behind boolean NOT NULL DEFAULT false,
    attempt integer NOT NULL DEFAULT 0,
    reply_attempt integer NOT NULL DEFAULT 0,
    next_attempt_at timestamptz NOT NULL,
    created_at timestamptz NOT NULL,
    settled_at timestamptz,
    succeeded boolean,
    answer jsonb,
    last_status integer,
    last_error text
);
CREATE INDEX outbox_due ON cqrs.outbox (service, next_attempt_at, number) WHERE state = 'pending' AND NOT behind;
CREATE INDEX outbox_key ON cqrs.outbox (service, ordering_key, number)
    WHERE ordering_key IS NOT NULL AND state IN ('pending', 'claimed', 'answered');
CREATE INDEX outbox_claimed ON cqrs.outbox (number) WHERE state = 'claimed';
CREATE INDEX outbox_answered ON cqrs.outbox (next_attempt_at) WHERE state = 'answered';
CREATE INDEX outbox_delivered ON cqrs.outbox (settled_at) WHERE state = 'delivered';
-- For cqrs.forget. Of settled ones alone: each update of a row writes anew into every index that has it.
CREATE INDEX outbox_entity ON cqrs.outbox (reply_entity_type, reply_entity_id)
    WHERE reply_entity_id IS NOT NULL AND state IN ('delivered', 'rejected', 'reply_failed', 'dead');
SELECT pg_catalog.pg_extension_config_dump('cqrs.outbox', '');
COMMENT ON TABLE cqrs.outbox IS
    'The deliveries that cqrs.enqueue ordered, until cqrs.outbox_retention after they were made. state: pending; claimed, its request is under way; answered, the outcome is known, its command (reply_command if succeeded, else failure_command) is to be sent; delivered; dead, given up; rejected, the entity refused the command; reply_failed, the command could not be sent. behind: waits for an earlier one of its ordering key. attempt and reply_attempt: how many requests and commands were begun. answer: the data of the command. Changed by the outbox worker, cqrs.retry_outbox and cqrs.discard_outbox alone.';

CREATE FUNCTION cqrs.enqueue(
    service text,
    method text,
    path text DEFAULT '',
    body jsonb DEFAULT NULL,
    body_text text DEFAULT NULL,
    body_bytes bytea DEFAULT NULL,
    query jsonb DEFAULT NULL,
    headers jsonb DEFAULT NULL,
    ordering_key text DEFAULT NULL,
    reply_entity_type text DEFAULT NULL,
    reply_entity_id text DEFAULT NULL,
    reply_command text DEFAULT NULL,
    failure_command text DEFAULT NULL,
    max_attempts integer DEFAULT NULL,
    event cqrs.event DEFAULT NULL
) RETURNS uuid
    LANGUAGE c VOLATILE
    AS 'MODULE_PATHNAME', 'cqrs_enqueue';
COMMENT ON FUNCTION cqrs.enqueue(text, text, text, jsonb, text, bytea, jsonb, jsonb, text, text, text, text, text, integer, cqrs.event) IS
    'Has a background worker call a service once the transaction is committed, at least once, and returns the id of the delivery, which the service gets as Idempotency-Key, the same with each attempt. service, method, path, body, body_text, body_bytes, query and headers are those of cqrs.call. event, instead of a body, is sent as a CloudEvent 1.0 in binary mode: its data is the body, headers that begin with ce- say the rest, and its entity is the ordering_key unless one is given. Deliveries of one ordering_key to one service are made one after the other, in the order of their commits; transactions that enqueue for the same key wait for each other. When the service has answered with a status of 200 to 299, reply_command is sent to the entity, exactly once; when the delivery was given up, failure_command is. max_attempts: cqrs.outbox_max_attempts if NULL. Needs USAGE on the server and EXECUTE on the handlers of the commands; delivers with the rights and credentials that the current role has then. Errors: QR003, QR004 no such entity type or command, 2F003 in an event handler, 22023, 22004, 42501, 42704.';
