-- What ALTER DEFAULT PRIVILEGES of the installing role gave to others is taken back: a row in one of our tables decides
-- what runs with whose rights.
CREATE FUNCTION cqrs.revoke_default_privileges(relation regclass, privileges text DEFAULT 'ALL') RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    grantee oid;
BEGIN
    FOR grantee IN
        SELECT DISTINCT a.grantee FROM pg_class c, aclexplode(c.relacl) a
        WHERE c.oid = relation AND a.grantee <> c.relowner
    LOOP
        EXECUTE format('REVOKE %s ON %s FROM %s', privileges, relation,
                       CASE WHEN grantee = 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(grantee)) END);
    END LOOP;
END
$$;
COMMENT ON FUNCTION cqrs.revoke_default_privileges(regclass, text) IS
    'Internal: takes privileges on a table or sequence away from everybody but its owner.';

REVOKE EXECUTE ON FUNCTION cqrs.revoke_default_privileges(regclass, text) FROM PUBLIC;

DO $$
DECLARE
    revoke text;
BEGIN
    PERFORM cqrs.revoke_default_privileges(c.oid::pg_catalog.regclass)
    FROM pg_catalog.pg_class c
    WHERE c.relnamespace = 'cqrs'::pg_catalog.regnamespace AND c.relkind IN ('r', 'v', 'S');

    FOR revoke IN
        SELECT pg_catalog.format('REVOKE ALL ON FUNCTION %s FROM %I', p.oid::pg_catalog.regprocedure,
                                 pg_catalog.pg_get_userbyid(a.grantee))
        FROM pg_catalog.pg_proc p, pg_catalog.aclexplode(p.proacl) a
        WHERE p.pronamespace = 'cqrs'::pg_catalog.regnamespace AND a.grantee NOT IN (0, p.proowner)
        UNION ALL
        SELECT pg_catalog.format('REVOKE ALL ON SCHEMA cqrs FROM %s',
                                 CASE WHEN a.grantee = 0 THEN 'PUBLIC'
                                      ELSE pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(a.grantee)) END)
        FROM pg_catalog.pg_namespace n, pg_catalog.aclexplode(n.nspacl) a
        WHERE n.nspname = 'cqrs' AND a.grantee <> n.nspowner
    LOOP
        EXECUTE revoke;
    END LOOP;
END
$$;

-- What others get is given here, after that.
GRANT USAGE ON SCHEMA cqrs TO PUBLIC;
GRANT SELECT ON cqrs.state_cache TO PUBLIC;

-- Whoever may watch the server may watch the journal.
GRANT SELECT ON cqrs.journal_status TO pg_monitor;
GRANT EXECUTE ON FUNCTION cqrs.is_held(), cqrs.last_position(), cqrs.high_water_mark(), cqrs.open_positions() TO pg_monitor;
