CREATE FUNCTION cqrs.forget(entity_type text, entity_id text) RETURNS bigint
    LANGUAGE c VOLATILE
    AS 'MODULE_PATHNAME', 'cqrs_forget';
COMMENT ON FUNCTION cqrs.forget(text, text) IS
    'Deletes all that is kept of an entity: its events, snapshots, cached states, answers to commands, timers, settled deliveries, and what its errors said. An event $forgotten, which projections get, takes the next version, which is returned; NULL where there is no such entity. What is sent or appended later is refused or follows on, as after_forget of the type says. For the owner of the entity type. Errors: QR003, 42501, 22004, 55006 while the entity is handling a command or deliveries that will send it one are not settled, 40001, 2F003 in an event handler.';

CREATE FUNCTION cqrs.delete_events(entity_type text, entity_id text, before_version bigint) RETURNS bigint
    LANGUAGE c VOLATILE
    AS 'MODULE_PATHNAME', 'cqrs_delete_events';
COMMENT ON FUNCTION cqrs.delete_events(text, text, bigint) IS
    'Deletes the events of an entity before a version and returns how many. The last one of them stays, as an event $snapshot with the state after it: states are folded from there, and a projection that reads it later gets it instead of the others. An event $deleted, which tells the other projections, takes the next version. For the owner of the entity type. Errors: QR003, QR001 for a version that the entity does not have, QR005 if its state cannot be folded, 42501, 22004, 22023, 40001, 55006, 2F003 in an event handler.';
