-- One path of a git repository is one entity of type File, and each change of
-- it is a command. A handler refuses what cannot be: a file is added only
-- where there is none, and only a file that is there is modified or deleted.

CREATE SCHEMA demo;

-- Command handlers: from the state and a command to an effect.

CREATE FUNCTION demo.add_file(state jsonb, command cqrs.command) RETURNS cqrs.effect
LANGUAGE plpgsql AS $$
BEGIN
    IF (state ->> 'exists')::boolean THEN
        RETURN cqrs.reject('the file is there already', code => 'file_exists');
    END IF;
    RETURN cqrs.persist('FileAdded', command.data);
END $$;

CREATE FUNCTION demo.modify_file(state jsonb, command cqrs.command) RETURNS cqrs.effect
LANGUAGE plpgsql AS $$
BEGIN
    IF NOT (state ->> 'exists')::boolean THEN
        RETURN cqrs.reject('there is no such file to modify', code => 'no_such_file');
    END IF;
    RETURN cqrs.persist('FileModified', command.data);
END $$;

CREATE FUNCTION demo.delete_file(state jsonb, command cqrs.command) RETURNS cqrs.effect
LANGUAGE plpgsql AS $$
BEGIN
    IF NOT (state ->> 'exists')::boolean THEN
        RETURN cqrs.reject('there is no such file to delete', code => 'no_such_file');
    END IF;
    RETURN cqrs.persist('FileDeleted', command.data);
END $$;

-- Event handlers: from the state and an event to the next state.

CREATE FUNCTION demo.file_added(state jsonb, event cqrs.event) RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    RETURN event.data || jsonb_build_object('exists', true, 'changes', event.version);
END $$;

CREATE FUNCTION demo.file_modified(state jsonb, event cqrs.event) RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    RETURN state || event.data || jsonb_build_object('changes', event.version);
END $$;

CREATE FUNCTION demo.file_deleted(state jsonb, event cqrs.event) RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    RETURN event.data || jsonb_build_object('exists', false, 'changes', event.version);
END $$;

-- Who may execute a command's handler may send the command; a new function is
-- open to everybody until that is taken back.
REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA demo FROM PUBLIC;

SELECT cqrs.create_entity('File', initial_state => '{"exists": false}', snapshot_every => 100) \g /dev/null

SELECT cqrs.on_command('File', 'AddFile',    'demo.add_file'),
       cqrs.on_command('File', 'ModifyFile', 'demo.modify_file'),
       cqrs.on_command('File', 'DeleteFile', 'demo.delete_file') \g /dev/null

SELECT cqrs.on_event('File', 'FileAdded',    'demo.file_added'),
       cqrs.on_event('File', 'FileModified', 'demo.file_modified'),
       cqrs.on_event('File', 'FileDeleted',  'demo.file_deleted') \g /dev/null
