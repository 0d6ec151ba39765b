-- The journal is made later than the extension, so what looks at it is bound late.
CREATE FUNCTION cqrs.written_after(after_position bigint) RETURNS timestamptz
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    IF to_regclass('cqrs.journal') IS NULL THEN
        RETURN NULL;
    END IF;
    RETURN (SELECT j.created_at FROM cqrs.journal j WHERE j.position > after_position ORDER BY j.position LIMIT 1);
END
$$;
COMMENT ON FUNCTION cqrs.written_after(bigint) IS
    'Internal, for cqrs.projection_status: when the first event after a position was written; NULL if there is none.';

CREATE VIEW cqrs.projection_status AS
    SELECT p.name,
           p.owner,
           p.mode,
           CASE WHEN m.held THEN 'held'
                WHEN p.state <> 'running' THEN p.state
                WHEN p.has_trigger AND NOT EXISTS (
                    SELECT FROM pg_trigger t WHERE t.tgrelid = to_regclass('cqrs.journal')
                        AND t.tgname = 'projection_' || p.name AND t.tgenabled IN ('O', 'A')) THEN 'without trigger'
                WHEN p.has_trigger THEN 'running'
                WHEN m.worker NOT IN ('running', 'resting') THEN m.worker
                WHEN p.rebuild THEN 'rebuilding'
                WHEN g.retry_at > clock_timestamp() THEN 'retrying'
                WHEN p.barrier IS NOT NULL THEN 'splitting'
                WHEN p.mode = 'sync' THEN 'catching up'
                ELSE 'running'
           END AS state,
           int4range(o.slice, o.next_slice) AS slices,
           s.position,
           m.mark AS high_water_mark,
           greatest(m.mark - s.position, 0) AS lag_events,
           CASE WHEN s.position < m.mark
                THEN greatest(clock_timestamp() - cqrs.written_after(s.position), '0')
                ELSE interval '0' END AS lag_time,
           CASE WHEN NOT p.has_trigger THEN coalesce(g.events_per_second, 0) END AS events_per_second,
           coalesce(g.events, 0) AS events,
           coalesce(g.batches, 0) AS batches,
           coalesce(g.retries, 0) AS retries,
           o.parked,
           o.skipped,
           coalesce(p.last_error, g.error) AS last_error,
           coalesce(p.last_sqlstate, g.sqlstate) AS last_sqlstate,
           coalesce(p.stopped_at, g.failed_at) AS last_error_at,
           g.worker
    FROM cqrs.projection p
    JOIN cqrs.projection_offset o ON o.projection = p.name
    CROSS JOIN LATERAL (SELECT cqrs.is_held() AS held,
                               cqrs.worker_state() AS worker,
                               CASE WHEN NOT pg_is_in_recovery() THEN cqrs.high_water_mark() END AS mark) m
    LEFT JOIN cqrs.projection_progress() g ON g.projection = p.name AND g.slice = o.slice
    CROSS JOIN LATERAL (SELECT CASE WHEN p.has_trigger THEN m.mark
                                    WHEN g.revision = o.revision THEN greatest(o.position, g.reached)
                                    ELSE o.position END AS position) s;
COMMENT ON VIEW cqrs.projection_status IS
    'The projections, a row for each partition. state: running, retrying (after an error), stopped (by last_error), paused, rebuilding, splitting, catching up (a sync one before its trigger exists), without trigger (somebody has dropped or disabled it: events are missing), held (cqrs.adopt), or why no worker runs: off, waiting for a slot, restarting, barred, starting. position: up to where events are projected; lag_events: positions between there and the high-water mark; lag_time: how old the first event after it is; events_per_second: of the last seconds; events, batches, retries: since the server was started; parked: entities; skipped: events passed over; worker: pid of who is at it.';

CREATE FUNCTION cqrs.list_parked(
    OUT projection text, OUT entity_type text, OUT entity_id text, OUT failed_position bigint, OUT event_type text,
    OUT waiting bigint, OUT sqlstate text, OUT error text, OUT attempts integer,
    OUT first_failed_at timestamptz, OUT last_failed_at timestamptz, OUT retry boolean
) RETURNS SETOF record
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    IF to_regclass('cqrs.journal') IS NULL THEN
        RETURN;
    END IF;
    RETURN QUERY
    SELECT k.projection, k.entity_type, k.entity_id, k.position,
           (SELECT j.event_type::text FROM cqrs.journal j WHERE j.position = k.position),
           (SELECT count(*) FROM cqrs.journal j
            WHERE j.entity_type = k.entity_type AND j.entity_id = k.entity_id
              AND j.position > k.position AND j.position <= greatest(o.position, g.reached)
              AND (p.event_types IS NULL OR j.event_type = ANY (p.event_types))),
           k.sqlstate, k.error, k.attempts, k.first_failed_at, k.last_failed_at, k.retry
    FROM cqrs.parked_entity k
    JOIN cqrs.projection p ON p.name = k.projection
    JOIN cqrs.projection_offset o ON o.projection = k.projection AND k.slice >= o.slice AND k.slice < o.next_slice
    LEFT JOIN cqrs.projection_progress() g ON g.projection = o.projection AND g.slice = o.slice AND g.revision = o.revision;
END
$$;
COMMENT ON FUNCTION cqrs.list_parked() IS 'Internal: the rows of cqrs.parked_event.';

CREATE VIEW cqrs.parked_event AS
    SELECT projection, entity_type, entity_id, failed_position AS position, event_type, waiting,
           sqlstate, error, attempts, first_failed_at, last_failed_at, retry
    FROM cqrs.list_parked();
COMMENT ON VIEW cqrs.parked_event IS
    'The events that projections have set aside because they failed, one for each entity that is held back: its position and type, how many later events of the entity wait behind it, the error, how often it was tried, and whether it is about to be replayed (cqrs.retry_parked, cqrs.discard_parked).';

CREATE VIEW cqrs.stat_progress_rebuild AS
    SELECT g.worker AS pid,
           g.projection,
           g.rebuild_started_at AS started_at,
           g.rebuild_events AS events,
           g.rebuild_position AS position,
           g.rebuild_target AS up_to,
           trunc((100.0 * g.rebuild_position / nullif(g.rebuild_target, 0))::numeric, 1) AS percent
    FROM cqrs.projection_progress() g
    WHERE g.rebuild_started_at IS NOT NULL;
COMMENT ON VIEW cqrs.stat_progress_rebuild IS
    'The rebuilds under way: the worker, how many events it has projected, and the position it has come to, of up_to. Projections with partitions come there once for each.';

CREATE VIEW cqrs.stat_appending AS
    SELECT o.pid,
           x.gid AS prepared,
           coalesce(a.usename, x.owner) AS role,
           a.application_name,
           a.state,
           coalesce(a.xact_start, x.prepared) AS since,
           clock_timestamp() - coalesce(a.xact_start, x.prepared) AS age,
           o.first_position,
           o.first_position = min(o.first_position) OVER () AS holds_back,
           a.query
    FROM cqrs.open_positions() o
    LEFT JOIN pg_stat_activity a ON a.pid = o.pid
    LEFT JOIN pg_prepared_xacts x ON x.transaction = o.transaction;
COMMENT ON VIEW cqrs.stat_appending IS
    'The transactions under way that have appended: session or name of a prepared transaction, since when, and the bound above which its positions are; holds_back: whether it is the one that keeps the high-water mark, and so all projections and readers, from moving on.';
