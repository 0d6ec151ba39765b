CREATE VIEW cqrs.outbox_status AS
    SELECT o.id, o.service, o.role, o.method, o.path, o.ordering_key,
           CASE WHEN o.state IN ('pending', 'claimed', 'answered') AND m.held THEN 'held' ELSE o.state END AS state,
           o.attempt, o.max_attempts, o.reply_attempt,
           CASE WHEN o.state IN ('pending', 'answered') THEN o.next_attempt_at END AS next_attempt_at,
           o.created_at, o.settled_at, o.last_status, o.last_error, o.reply_entity_type, o.reply_entity_id,
           CASE WHEN o.succeeded THEN o.reply_command WHEN NOT o.succeeded THEN o.failure_command END AS command
    FROM cqrs.outbox o
    CROSS JOIN LATERAL (SELECT cqrs.is_held() AS held) m;
COMMENT ON VIEW cqrs.outbox_status IS
    'The deliveries. state: pending; claimed, its request is under way; answered, its command is to be sent; delivered; dead, given up for last_error; rejected, the entity refused the command; reply_failed, the command could not be sent; held, nothing is delivered until cqrs.adopt. attempt: requests begun; reply_attempt: commands begun; next_attempt_at: when it is tried next at the earliest, a later one of an ordering_key not before the earlier ones are settled; command: what follows, once the outcome is known.';
