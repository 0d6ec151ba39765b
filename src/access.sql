-- Who may do what: everything is closed, then opened by name. What ALTER DEFAULT PRIVILEGES of the installing role gave to
-- others goes too: a row in one of our tables decides what runs with whose rights.
CREATE FUNCTION cqrs.close_relation(relation regclass, keep_select boolean DEFAULT false) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    other record;
BEGIN
    FOR other IN
        SELECT CASE WHEN a.grantee = 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END AS name,
               bool_or(a.privilege_type = 'SELECT') AS may_select
        FROM pg_class c, aclexplode(c.relacl) a
        WHERE c.oid = relation AND a.grantee <> c.relowner
        GROUP BY a.grantee
    LOOP
        EXECUTE format('REVOKE ALL ON %s FROM %s', relation, other.name);
        IF keep_select AND other.may_select THEN
            EXECUTE format('GRANT SELECT ON %s TO %s', relation, other.name);
        END IF;
    END LOOP;
END
$$;
COMMENT ON FUNCTION cqrs.close_relation(regclass, boolean) IS
    'Internal: takes the privileges on a table or sequence away from everybody but its owner, SELECT excepted if keep_select.';

DO $$
DECLARE
    revoke text;
BEGIN
    PERFORM cqrs.close_relation(c.oid::pg_catalog.regclass)
    FROM pg_catalog.pg_class c
    WHERE c.relnamespace = 'cqrs'::pg_catalog.regnamespace AND c.relkind IN ('r', 'v', 'S');

    FOR revoke IN
        SELECT pg_catalog.format('REVOKE ALL ON %s FROM %s', o.name,
                                 CASE WHEN a.grantee = 0 THEN 'PUBLIC'
                                      ELSE pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(a.grantee)) END)
        FROM (SELECT 'FUNCTION ' || p.oid::pg_catalog.regprocedure AS name, p.proowner AS owner,
                     coalesce(p.proacl, pg_catalog.acldefault('f', p.proowner)) AS acl
              FROM pg_catalog.pg_proc p WHERE p.pronamespace = 'cqrs'::pg_catalog.regnamespace
              UNION ALL
              SELECT 'SCHEMA cqrs', n.nspowner, n.nspacl
              FROM pg_catalog.pg_namespace n WHERE n.nspname = 'cqrs') o,
             pg_catalog.aclexplode(o.acl) a
        WHERE a.grantee <> o.owner
    LOOP
        EXECUTE revoke;
    END LOOP;
END
$$;

-- Sending takes EXECUTE on the command's handler, reading SELECT on cqrs.journal; the rest is harmless.
GRANT USAGE ON SCHEMA cqrs TO PUBLIC;
GRANT EXECUTE ON FUNCTION
    cqrs.send(text, text, text, jsonb, bigint, uuid, jsonb),
    cqrs.state(text, text, bigint, timestamptz),
    cqrs.history(text, text, bigint),
    cqrs.read_events(bigint, integer, text[], text[], bigint, int4range),
    cqrs.merge(jsonb, cqrs.event),
    cqrs.slice(text, text),
    cqrs.new_event(text, jsonb, jsonb),
    cqrs.new_command(text, text, text, jsonb, bigint, jsonb, uuid, name),
    cqrs.persist(text, jsonb, jsonb),
    cqrs.persist_all(cqrs.new_event[], jsonb),
    cqrs.reply(jsonb),
    cqrs.reject(text, text, jsonb),
    cqrs.state_cache_counters(),
    cqrs.wait_for_projection(text, bigint, interval),
    cqrs.project()
    TO PUBLIC;
GRANT SELECT ON cqrs.state_cache TO PUBLIC;

-- Whoever may watch the server may watch the journal.
GRANT SELECT ON cqrs.journal_status, cqrs.projection_status, cqrs.parked_event, cqrs.stat_progress_rebuild, cqrs.stat_appending,
    cqrs.breaker_status, cqrs.timer_status, cqrs.outbox_status
    TO pg_monitor;
GRANT EXECUTE ON FUNCTION
    cqrs.is_held(),
    cqrs.last_position(),
    cqrs.high_water_mark(),
    cqrs.open_positions(),
    cqrs.worker_state(),
    cqrs.projection_progress(),
    cqrs.written_after(bigint),
    cqrs.list_parked(),
    cqrs.breaker(text)
    TO pg_monitor;
