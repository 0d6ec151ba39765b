/*
 * catalog.c
 *		Where our own objects are: by name, since OIDs differ after a restore.
 *
 * Looked up each time: PostgreSQL's system caches are quick enough, and never
 * stale.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "catalog/pg_namespace.h"
#include "catalog/pg_type.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"

#include "catalog.h"

/* A table or sequence of the schema cqrs; invalid if there is none. */
Oid
cqrs_catalog_relation(const char *name)
{
	Oid			schema = get_namespace_oid("cqrs", true);

	return OidIsValid(schema) ? get_relname_relid(name, schema) : InvalidOid;
}

/* A type of the schema cqrs. */
Oid
cqrs_catalog_type(const char *name)
{
	Oid			schema = get_namespace_oid("cqrs", false);
	Oid			type = GetSysCacheOid2(TYPENAMENSP, Anum_pg_type_oid,
									   CStringGetDatum(name), ObjectIdGetDatum(schema));

	if (!OidIsValid(type))
		elog(ERROR, "type cqrs.%s does not exist", name);
	return type;
}

/* Whoever owns the schema owns the extension's tables. */
Oid
cqrs_catalog_extension_owner(void)
{
	Oid			schema = get_namespace_oid("cqrs", false);
	HeapTuple	tuple = SearchSysCache1(NAMESPACEOID, ObjectIdGetDatum(schema));
	Oid			owner;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for schema %u", schema);
	owner = ((Form_pg_namespace) GETSTRUCT(tuple))->nspowner;
	ReleaseSysCache(tuple);
	return owner;
}

Oid
cqrs_catalog_relation_owner(Oid relid)
{
	HeapTuple	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(relid));
	Oid			owner;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for relation %u", relid);
	owner = ((Form_pg_class) GETSTRUCT(tuple))->relowner;
	ReleaseSysCache(tuple);
	return owner;
}
