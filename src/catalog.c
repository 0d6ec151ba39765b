/*
 * catalog.c
 *		Where our own objects are: by name, since OIDs differ after a restore.
 *
 * What was found is kept until PostgreSQL tells that a table, type or schema
 * has changed; what was not found is looked for again.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "catalog/pg_namespace.h"
#include "catalog/pg_type.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"

#include "catalog.h"

/* The names that the code knows are some dozen. */
#define MAX_KEPT	64

typedef struct KeptOid
{
	const char *name;			/* a constant of the program */
	bool		is_type;
	Oid			oid;
} KeptOid;

static KeptOid kept[MAX_KEPT];
static int	kept_count = 0;
static Oid	extension_owner = InvalidOid;

static void forget(Datum arg, int cache, uint32 hash);
static Oid	find_kept(const char *name, bool is_type);
static void keep(const char *name, bool is_type, Oid oid);

void
cqrs_catalog_init(void)
{
	CacheRegisterSyscacheCallback(RELOID, forget, (Datum) 0);
	CacheRegisterSyscacheCallback(TYPEOID, forget, (Datum) 0);
	CacheRegisterSyscacheCallback(NAMESPACEOID, forget, (Datum) 0);
}

/* A table or sequence of the schema cqrs; invalid if there is none. */
Oid
cqrs_catalog_relation(const char *name)
{
	Oid			relation = find_kept(name, false);

	if (!OidIsValid(relation))
	{
		Oid			schema = get_namespace_oid("cqrs", true);

		relation = OidIsValid(schema) ? get_relname_relid(name, schema) : InvalidOid;
		keep(name, false, relation);
	}
	return relation;
}

/* A type of the schema cqrs. */
Oid
cqrs_catalog_type(const char *name)
{
	Oid			type = find_kept(name, true);

	if (!OidIsValid(type))
	{
		Oid			schema = get_namespace_oid("cqrs", false);

		type = GetSysCacheOid2(TYPENAMENSP, Anum_pg_type_oid,
							   CStringGetDatum(name), ObjectIdGetDatum(schema));
		if (!OidIsValid(type))
			elog(ERROR, "type cqrs.%s does not exist", name);
		keep(name, true, type);
	}
	return type;
}

/* Whoever owns the schema owns the extension's tables. */
Oid
cqrs_catalog_extension_owner(void)
{
	if (!OidIsValid(extension_owner))
	{
		Oid			schema = get_namespace_oid("cqrs", false);
		HeapTuple	tuple = SearchSysCache1(NAMESPACEOID, ObjectIdGetDatum(schema));

		if (!HeapTupleIsValid(tuple))
			elog(ERROR, "cache lookup failed for schema %u", schema);
		extension_owner = ((Form_pg_namespace) GETSTRUCT(tuple))->nspowner;
		ReleaseSysCache(tuple);
	}
	return extension_owner;
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

static void
forget(Datum arg, int cache, uint32 hash)
{
	kept_count = 0;
	extension_owner = InvalidOid;
}

static Oid
find_kept(const char *name, bool is_type)
{
	for (int i = 0; i < kept_count; i++)
		if (kept[i].name == name && kept[i].is_type == is_type)
			return kept[i].oid;
	return InvalidOid;
}

static void
keep(const char *name, bool is_type, Oid oid)
{
	if (OidIsValid(oid) && kept_count < MAX_KEPT)
		kept[kept_count++] = (KeptOid)
	{
		name, is_type, oid
	};
}
