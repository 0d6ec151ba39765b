CREATE FUNCTION cqrs.send(
    entity_type text,
    entity_id text,
    command_type text,
    data jsonb DEFAULT '{}',
    expected_version bigint DEFAULT NULL,
    command_id uuid DEFAULT NULL,
    metadata jsonb DEFAULT NULL
) RETURNS cqrs.receipt
    LANGUAGE c VOLATILE
    AS 'MODULE_PATHNAME', 'cqrs_send';
COMMENT ON FUNCTION cqrs.send(text, text, text, jsonb, bigint, uuid, jsonb) IS
    'Sends a command to an entity and returns a receipt: entity id, version and position of its last event, reply. An entity_id of NULL issues one. expected_version as in cqrs.append. The same command_id again returns the first receipt and changes nothing. metadata goes into the events'' metadata. Needs EXECUTE on the command''s handler. Errors: QR001 another version, QR002 rejected, QR003 unknown entity type, QR004 command not handled, QR005 event not handled, QR006 the command_id was used for another command, 40001 the transaction must be repeated, 55006 the entity is handling a command in this session.';
