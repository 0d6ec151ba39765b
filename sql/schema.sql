-- Everything of the extension is in the schema cqrs, has a comment, and is closed to PUBLIC but for what is listed here.
\set SHOW_CONTEXT never

-- The extension cannot be moved.
ALTER EXTENSION pg_cqrs SET SCHEMA public;
-- What has a name is a member and in the schema, and the other way round; but for the journal, which is the user's.
SELECT identity FROM pg_depend d, pg_identify_object(d.classid, d.objid, 0) i
WHERE d.refclassid = 'pg_extension'::regclass AND d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'pg_cqrs') AND d.deptype = 'e'
    AND i.schema IS DISTINCT FROM 'cqrs';
CREATE TEMPORARY VIEW objects AS
    SELECT 'pg_proc'::regclass AS catalog, oid, oid::regprocedure::text AS name FROM pg_proc WHERE pronamespace = 'cqrs'::regnamespace
    UNION ALL
    SELECT 'pg_class', oid, oid::regclass::text FROM pg_class WHERE relnamespace = 'cqrs'::regnamespace AND relkind IN ('r', 'v', 'm', 'S', 'f', 'p')
    UNION ALL
    SELECT 'pg_type', t.oid, t.oid::regtype::text FROM pg_type t LEFT JOIN pg_class c ON c.oid = t.typrelid
    WHERE t.typnamespace = 'cqrs'::regnamespace AND t.typelem = 0 AND (c.oid IS NULL OR c.relkind = 'c')
    UNION ALL
    SELECT 'pg_operator', oid, oid::regoperator::text FROM pg_operator WHERE oprnamespace = 'cqrs'::regnamespace
    UNION ALL
    SELECT 'pg_namespace', oid, nspname FROM pg_namespace WHERE nspname = 'cqrs';
SELECT name FROM objects o
WHERE NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = o.catalog AND d.objid = o.oid AND d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e')
    AND name NOT IN ('cqrs.journal', 'cqrs.journal_position_seq');
SELECT extname, extnamespace::regnamespace FROM pg_extension WHERE extname = 'pg_cqrs';
-- Each says what it is for.
SELECT name FROM objects WHERE obj_description(oid, catalog::name) IS NULL AND name <> 'cqrs' ORDER BY name;
SELECT obj_description('cqrs'::regnamespace, 'pg_namespace') IS NOT NULL AS schema_has_comment;
SELECT name FROM objects WHERE catalog = 'pg_proc'::regclass AND length(obj_description(oid, 'pg_proc')) < 30;


-- The functions, what they promise to the planner, and who may call them.
\pset format unaligned
SELECT p.proname AS function, pg_get_function_identity_arguments(p.oid) AS arguments, p.provolatile AS volatile, p.proparallel AS parallel,
    p.proisstrict AS strict, p.prosecdef AS definer, l.lanname AS language,
    EXISTS (SELECT FROM aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a WHERE a.grantee = 0 AND a.privilege_type = 'EXECUTE') AS public
FROM pg_proc p JOIN pg_language l ON l.oid = p.prolang WHERE p.pronamespace = 'cqrs'::regnamespace ORDER BY 1, 2;
\pset format aligned
-- All arguments have names, and none is called as a keyword of SQL that PostgreSQL does not take as a name there.
SELECT oid::regprocedure FROM pg_proc WHERE pronamespace = 'cqrs'::regnamespace
    AND (pronargs <> coalesce(cardinality(proargnames), 0) AND proallargtypes IS NULL OR 'position' = ANY (proargnames) OR '' = ANY (proargnames));
SELECT p.oid::regprocedure, argument FROM pg_proc p, unnest(p.proargnames) argument JOIN pg_get_keywords() k ON k.word = argument
WHERE p.pronamespace = 'cqrs'::regnamespace AND k.catcode NOT IN ('U', 'T');
-- PL/pgSQL and what runs as its owner pin their search_path; what is to be inlined sets nothing.
SELECT oid::regprocedure, proconfig FROM pg_proc WHERE pronamespace = 'cqrs'::regnamespace
    AND (prolang = (SELECT oid FROM pg_language WHERE lanname = 'plpgsql') OR prosecdef)
    AND NOT coalesce('search_path=pg_catalog, pg_temp' = ANY (proconfig), false);
SELECT oid::regprocedure, proconfig FROM pg_proc WHERE pronamespace = 'cqrs'::regnamespace
    AND prolang = (SELECT oid FROM pg_language WHERE lanname = 'sql') AND proconfig IS NOT NULL;


-- PUBLIC may use the schema and the types, read the listed views, and nothing else; nobody may create in the schema.
SELECT a.privilege_type, a.grantee = 0 AS public FROM pg_namespace n, aclexplode(n.nspacl) a WHERE nspname = 'cqrs' AND a.grantee <> n.nspowner;
SELECT c.oid::regclass, a.privilege_type, CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE a.grantee::regrole::text END AS grantee
FROM pg_class c, aclexplode(c.relacl) a WHERE c.relnamespace = 'cqrs'::regnamespace AND a.grantee <> c.relowner ORDER BY c.relname, 3, 2;
SELECT a.grantee::regrole, p.oid::regprocedure FROM pg_proc p, aclexplode(p.proacl) a
WHERE p.pronamespace = 'cqrs'::regnamespace AND a.grantee NOT IN (0, p.proowner) ORDER BY p.proname;
SELECT attrelid::regclass, attname FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
WHERE c.relnamespace = 'cqrs'::regnamespace AND attacl IS NOT NULL;
-- Views that PUBLIC may read work for everybody.
CREATE ROLE regress_schema;
SET ROLE regress_schema;
SELECT count(*) FROM cqrs.state_cache;
CREATE TABLE cqrs.mine (a integer);
CREATE FUNCTION cqrs.send(text, text, text) RETURNS void LANGUAGE sql AS '';
CREATE TEMPORARY TABLE may_use (event cqrs.event, new_event cqrs.new_event, command cqrs.command, effect cqrs.effect, receipt cqrs.receipt);
RESET ROLE;
DROP OWNED BY regress_schema;
DROP ROLE regress_schema;


-- Each table has a primary key, none has a column that a restore or pg_upgrade would break, and what is registered is dumped.
SELECT c.oid::regclass FROM pg_class c WHERE c.relnamespace = 'cqrs'::regnamespace AND c.relkind = 'r'
    AND NOT EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisprimary);
SELECT attrelid::regclass, attname, atttypid::regtype FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
WHERE c.relnamespace = 'cqrs'::regnamespace AND attnum > 0
    AND (atttypid::regtype::text LIKE 'reg%' OR atttypid IN ('oid'::regtype, 'xid'::regtype)) AND c.relkind IN ('r', 'p', 'm');
-- There are no foreign keys: pg_restore with jobs loads tables in any order.
SELECT conrelid::regclass, confrelid::regclass, conname FROM pg_constraint WHERE connamespace = 'cqrs'::regnamespace AND contype = 'f';
SELECT c.oid::regclass, c.oid = ANY (e.extconfig) AS dumped, c.relpersistence
FROM pg_class c, pg_extension e
WHERE c.relnamespace = 'cqrs'::regnamespace AND c.relkind = 'r' AND c.relname <> 'journal' AND e.extname = 'pg_cqrs' ORDER BY c.relname;
-- Names of entities are compared byte by byte, wherever they are stored.
SELECT attrelid::regclass, attname FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
WHERE c.relnamespace = 'cqrs'::regnamespace AND c.relkind = 'r' AND attname IN ('entity_type', 'entity_id', 'event_type')
    AND attcollation <> '"C"'::regcollation;


-- A schema of the name that somebody else has made is refused, and so is another place.
SELECT current_database() AS database \gset
CREATE DATABASE regress_schema TEMPLATE template0;
\c regress_schema
CREATE SCHEMA cqrs;
CREATE EXTENSION pg_cqrs;
DROP SCHEMA cqrs;
CREATE EXTENSION pg_cqrs SCHEMA public;
CREATE ROLE regress_schema;
SET ROLE regress_schema;
CREATE EXTENSION pg_cqrs;
RESET ROLE;
DROP ROLE regress_schema;
SELECT count(*) FROM pg_extension WHERE extname = 'pg_cqrs';
-- What is in the search_path while it is made does not matter, nor does it stay.
CREATE SCHEMA other;
SET search_path = other;
CREATE EXTENSION pg_cqrs;
SHOW search_path;
SELECT count(*) FROM pg_class WHERE relnamespace = 'other'::regnamespace;
SELECT version FROM cqrs.append('A', 'a', ARRAY[cqrs.new_event('A', '{}')]);
SELECT count(*) FROM pg_class WHERE relnamespace = 'other'::regnamespace;
RESET search_path;
CREATE EXTENSION pg_cqrs;
CREATE EXTENSION IF NOT EXISTS pg_cqrs;
DROP TABLE cqrs.journal;
DROP EXTENSION pg_cqrs;

-- Default privileges of who installs it neither open what is closed nor close what is open; SELECT on the journal may come from them.
CREATE ROLE regress_schema;
ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO PUBLIC, regress_schema;
ALTER DEFAULT PRIVILEGES GRANT ALL ON SEQUENCES TO PUBLIC, regress_schema;
ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;
ALTER DEFAULT PRIVILEGES GRANT EXECUTE ON FUNCTIONS TO regress_schema;
ALTER DEFAULT PRIVILEGES GRANT ALL ON SCHEMAS TO PUBLIC, regress_schema;
CREATE EXTENSION pg_cqrs;
SELECT cqrs.create_journal();
SELECT a.privilege_type, a.grantee = 0 AS public FROM pg_namespace n, aclexplode(n.nspacl) a WHERE nspname = 'cqrs' AND a.grantee <> n.nspowner;
SELECT c.oid::regclass, a.privilege_type, CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE a.grantee::regrole::text END AS grantee
FROM pg_class c, aclexplode(c.relacl) a WHERE c.relnamespace = 'cqrs'::regnamespace AND a.grantee <> c.relowner ORDER BY c.relname, 3, 2;
SELECT CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE a.grantee::regrole::text END AS grantee, string_agg(p.proname, ', ' ORDER BY p.proname) AS functions
FROM pg_proc p, aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a
WHERE p.pronamespace = 'cqrs'::regnamespace AND a.grantee <> p.proowner GROUP BY 1 ORDER BY 1;
\c :database
DROP DATABASE regress_schema;
DROP ROLE regress_schema;
