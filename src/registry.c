/*
 * registry.c
 *		What is registered under a name, kept in each backend.
 *
 * An entry is read from its tables when it is first used, and kept.  Whoever
 * changes the tables sends a relcache message for one of them with his commit;
 * a change of a function, role or schema comes as a syscache message.  Any of
 * them makes the whole registry stale, which is rare and cheap to repair.
 *
 * A stale entry may be in use by a call further up the stack, so it is put
 * aside and freed when the transaction ends.
 */
#include "postgres.h"

#include "access/xact.h"
#include "common/hashfn.h"
#include "miscadmin.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/syscache.h"

#include "catalog.h"
#include "compat.h"
#include "registry.h"

#define MAX_REGISTRIES			4
#define MAX_ENTRIES_WITH_ABSENT	1000

typedef struct RegistryEntry
{
	text	   *name;			/* key */
	Registered *registered;		/* NULL: there is none of that name */
} RegistryEntry;

static Registry *registries[MAX_REGISTRIES];
static int	registry_count = 0;
static MemoryContext retired_context = NULL;	/* until the transaction ends */

static void on_relcache_message(Datum arg, Oid relid);
static void on_syscache_message(Datum arg, int cache, uint32 hash);
static void on_transaction_end(XactEvent event, void *arg);
static void retire_all(Registry *registry);
static void keep(Registry *registry, text *name, Registered *registered);
static uint32 hash_name(const void *key, Size size);
static int	match_name(const void *a, const void *b, Size size);

void
cqrs_registry_register(Registry *registry)
{
	if (registry_count == MAX_REGISTRIES)
		elog(ERROR, "more than %d registries", MAX_REGISTRIES);
	registry->stale = true;
	registries[registry_count++] = registry;
}

void
cqrs_registry_init(void)
{
	CacheRegisterRelcacheCallback(on_relcache_message, (Datum) 0);
	CacheRegisterSyscacheCallback(PROCOID, on_syscache_message, (Datum) 0);
	CacheRegisterSyscacheCallback(AUTHOID, on_syscache_message, (Datum) 0);
	CacheRegisterSyscacheCallback(NAMESPACEOID, on_syscache_message, (Datum) 0);
	RegisterXactCallback(on_transaction_end, NULL);
}

Registered *
cqrs_registry_find(Registry *registry, text *name)
{
	RegistryEntry *entry;
	Registered *registered;

	AcceptInvalidationMessages();
	if (registry->stale)
		retire_all(registry);
	entry = hash_search(registry->entries, &name, HASH_FIND, NULL);
	if (entry)
		return entry->registered;

	registered = registry->load(name, registry->context);
	/* A message that came while we read would have to make it stale too. */
	if (!registry->stale)
		keep(registry, name, registered);
	else if (registered)
		MemoryContextSetParent(registered->context, retired_context);
	return registered;
}

/*
 * As find, but looks again for what was not there: a restore fills the tables
 * without a message.
 */
Registered *
cqrs_registry_find_again(Registry *registry, text *name)
{
	Registered *registered = cqrs_registry_find(registry, name);
	RegistryEntry *absent;

	if (registered)
		return registered;
	absent = hash_search(registry->entries, &name, HASH_REMOVE, NULL);
	if (absent)
		pfree(absent->name);
	return cqrs_registry_find(registry, name);
}

/* Tells all sessions, when the transaction commits, and this one now. */
void
cqrs_registry_changed(Registry *registry)
{
	CacheInvalidateRelcacheByRelid(cqrs_catalog_relation(registry->table));
	CommandCounterIncrement();
}

/* Has everything read anew, in this session. */
void
cqrs_registry_invalidate(Registry *registry)
{
	registry->stale = true;
	registry->changes++;
}

static void
on_relcache_message(Datum arg, Oid relid)
{
	for (int i = 0; i < registry_count; i++)
		if (relid == InvalidOid || relid == registries[i]->relid)
			cqrs_registry_invalidate(registries[i]);
}

static void
on_syscache_message(Datum arg, int cache, uint32 hash)
{
	for (int i = 0; i < registry_count; i++)
		cqrs_registry_invalidate(registries[i]);
}

static void
on_transaction_end(XactEvent event, void *arg)
{
	if (retired_context &&
		(event == XACT_EVENT_COMMIT || event == XACT_EVENT_ABORT || event == XACT_EVENT_PREPARE))
		MemoryContextDeleteChildren(retired_context);
}

static void
retire_all(Registry *registry)
{
	HASHCTL		info = {
		.keysize = sizeof(text *),
		.entrysize = sizeof(RegistryEntry),
		.hash = hash_name,
		.match = match_name
	};

	if (retired_context == NULL)
		retired_context = AllocSetContextCreate(TopMemoryContext, "pg_cqrs retired registry",
												ALLOCSET_SMALL_SIZES);
	if (registry->context)
		MemoryContextSetParent(registry->context, retired_context);
	registry->context = AllocSetContextCreate(TopMemoryContext, "pg_cqrs registry",
											  ALLOCSET_DEFAULT_SIZES);
	info.hcxt = registry->context;
	registry->entries = hash_create("pg_cqrs registry", 16, &info,
									HASH_ELEM | HASH_FUNCTION | HASH_COMPARE | HASH_CONTEXT);
	registry->relid = cqrs_catalog_relation(registry->table);
	registry->stale = false;
}

/* Keeps an entry, also for a name that is not there; raw events have many. */
static void
keep(Registry *registry, text *name, Registered *registered)
{
	RegistryEntry *entry;
	text	   *key = registered ? registered->name : NULL;

	if (key == NULL && hash_get_num_entries(registry->entries) >= MAX_ENTRIES_WITH_ABSENT)
		return;
	if (key == NULL)
		key = memcpy(MemoryContextAlloc(registry->context, VARSIZE_ANY(name)), name, VARSIZE_ANY(name));
	entry = hash_search(registry->entries, &key, HASH_ENTER, NULL);
	entry->registered = registered;
}

static uint32
hash_name(const void *key, Size size)
{
	const text *name = *(text *const *) key;

	return DatumGetUInt32(hash_any((const unsigned char *) VARDATA_ANY(name), VARSIZE_ANY_EXHDR(name)));
}

static int
match_name(const void *a, const void *b, Size size)
{
	const text *left = *(text *const *) a;
	const text *right = *(text *const *) b;

	if (VARSIZE_ANY_EXHDR(left) != VARSIZE_ANY_EXHDR(right))
		return 1;
	return memcmp(VARDATA_ANY(left), VARDATA_ANY(right), VARSIZE_ANY_EXHDR(left));
}
