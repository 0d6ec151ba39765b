CREATE FUNCTION cqrs.append(
    entity_type text,
    entity_id text,
    events cqrs.new_event[],
    expected_version bigint DEFAULT NULL,
    command_id uuid DEFAULT NULL
) RETURNS cqrs.receipt
    LANGUAGE c VOLATILE
    AS 'MODULE_PATHNAME', 'cqrs_append';
COMMENT ON FUNCTION cqrs.append(text, text, cqrs.new_event[], bigint, uuid) IS
    'Appends all of the events to one entity, or none. expected_version: NULL any, 0 the entity must not exist, n its last version must be exactly n, -4 it must exist. The same command_id again returns the first receipt and changes nothing. Errors: QR001 another version, QR006 the command_id was used for something else, 40001 the transaction must be repeated, 22004 or 22023 for what cannot be appended, 54000 for names that are too long.';
