-- Two read models of the journal, each kept by a projection.

-- By a trigger, in the transaction of the command: how often a directory was
-- changed, and by how many commits. Commits come one after the other, so the
-- last one tells whether an event belongs to another.
CREATE TABLE demo.directory (
    path text PRIMARY KEY,
    changes bigint NOT NULL,
    commits bigint NOT NULL,
    last_commit text NOT NULL
);

CREATE FUNCTION demo.project_directory(event cqrs.event) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO demo.directory AS d
    VALUES (coalesce(substring(event.entity_id FROM '^(.*)/[^/]*$'), '.'), 1, 1, event.data ->> 'commit')
    ON CONFLICT (path) DO UPDATE
    SET changes = d.changes + 1,
        commits = d.commits + (d.last_commit <> excluded.last_commit)::integer,
        last_commit = excluded.last_commit;
END $$;

SELECT cqrs.create_projection('directories', 'demo.project_directory', mode => 'sync',
    entity_types => '{File}', tables => '{demo.directory}') \g /dev/null

-- By a background worker, which keeps its offset in the same transaction: the
-- files that live.
CREATE TABLE demo.live_file (
    path text PRIMARY KEY,
    changes bigint NOT NULL,
    last_commit text NOT NULL
);

CREATE FUNCTION demo.project_live_file(event cqrs.event) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    IF event.event_type = 'FileDeleted' THEN
        DELETE FROM demo.live_file WHERE path = event.entity_id;
        RETURN;
    END IF;
    INSERT INTO demo.live_file VALUES (event.entity_id, event.version, event.data ->> 'commit')
    ON CONFLICT (path) DO UPDATE SET changes = excluded.changes, last_commit = excluded.last_commit;
END $$;

SELECT cqrs.create_projection('live_files', 'demo.project_live_file',
    entity_types => '{File}', tables => '{demo.live_file}') \g /dev/null

-- So that there is a lag to be seen; the replay resumes it.
SELECT cqrs.pause_projection('live_files') \g /dev/null
