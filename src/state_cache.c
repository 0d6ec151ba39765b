/*
 * state_cache.c
 *		The states of the entities that this backend used last.
 *
 * An entry is what the state was after the event of that version and position.
 * Positions are never given twice while the server runs, so if the journal has
 * that event at that position the entry is right, whoever wrote the event; and
 * if the transaction that made the entry was rolled back, no event has that
 * position and the entry is never used.  Hence nothing has to be invalidated:
 * state.c compares.  Only a journal that was dropped and made anew begins with
 * the positions again; then all entries go.
 *
 * They go, too, when an entity was forgotten, though no entry is wrong then:
 * nobody shall keep what was to be deleted.  The message that tells other
 * sessions is about the view cqrs.state_cache, which nothing else touches; a
 * session that is idle acts on it when it next looks for a state.
 *
 * Entries are found by the hash of the entity; of two entities with the same
 * hash one is kept.  The least recently used go first when there are more
 * bytes than cqrs.state_cache_size.
 *
 * Shared: a row of counters for each backend, written by it alone, read by
 * cqrs.state_cache_counters(), both without a lock.
 */
#include "postgres.h"

#include "funcapi.h"
#include "lib/ilist.h"
#include "miscadmin.h"
#include "storage/ipc.h"
#include "utils/hsearch.h"
#include "utils/inval.h"
#include "utils/memutils.h"

#include "catalog.h"
#include "compat.h"
#include "journal.h"
#include "settings.h"
#include "shmem.h"
#include "state_cache.h"

typedef struct CacheEntry
{
	uint64		hash;			/* key */
	dlist_node	node;			/* in order of use, newest first */
	Size		size;
	text	   *entity_type;	/* these and the state are one chunk */
	text	   *entity_id;
	int64		generation;
	EntityState state;
} CacheEntry;

typedef struct Counters
{
	pg_atomic_uint64 hits;
	pg_atomic_uint64 misses;
	pg_atomic_uint64 evictions;
	pg_atomic_uint64 entries;
	pg_atomic_uint64 bytes;
} Counters;

/* What the hash table takes for an entry beside its chunk. */
#define ENTRY_OVERHEAD	(MAXALIGN(sizeof(HASHELEMENT)) + MAXALIGN(sizeof(CacheEntry)) + sizeof(void *))

static Counters *counters;

static HTAB *entries = NULL;
static MemoryContext cache_context = NULL;
static dlist_head by_use = DLIST_STATIC_INIT(by_use);
static Size bytes = 0;
static Oid	cached_journal = InvalidOid;
static Oid	watched = InvalidOid;	/* the view */
static bool cleared = false;

static void on_relcache_message(Datum arg, Oid relid);
static Counters *my_counters(void);
static void increment(pg_atomic_uint64 *counter);
static void publish_size(void);
static void forget_size(int code, Datum arg);
static void start_cache(void);
static CacheEntry *find_entry(const EntityKey *key);
static void evict(CacheEntry *entry);
static char *put_text(char *to, text **field, const text *value);

static Size
counters_size(void)
{
	return mul_size(MaxBackends, sizeof(Counters));
}

static void
init_counters(void *area)
{
	for (int i = 0; i < MaxBackends; i++)
	{
		Counters   *of_backend = &((Counters *) area)[i];

		pg_atomic_init_u64(&of_backend->hits, 0);
		pg_atomic_init_u64(&of_backend->misses, 0);
		pg_atomic_init_u64(&of_backend->evictions, 0);
		pg_atomic_init_u64(&of_backend->entries, 0);
		pg_atomic_init_u64(&of_backend->bytes, 0);
	}
}

void
cqrs_state_cache_init(void)
{
	static const SharedArea area = {
		"pg_cqrs state cache", counters_size, init_counters, (void **) &counters, NULL
	};

	cqrs_shmem_register(&area);
	CacheRegisterRelcacheCallback(on_relcache_message, (Datum) 0);
}

/*
 * Copies what is kept of the entity into the current context; false if there
 * is nothing.  Whether it is right for the journal is for the caller to see.
 */
bool
cqrs_state_cache_get(const EntityType *entity, const EntityKey *key, EntityState *state)
{
	CacheEntry *entry = find_entry(key);

	if (entry == NULL || entry->generation != entity->generation)
		return false;
	dlist_move_head(&by_use, &entry->node);
	*state = entry->state;
	state->state = (Jsonb *) PG_DETOAST_DATUM_COPY(PointerGetDatum(entry->state.state));
	return true;
}

void
cqrs_state_cache_put(const EntityType *entity, const EntityKey *key, const EntityState *state)
{
	Size		limit = (Size) cqrs_state_cache_size_kb * 1024;
	Size		chunk_size;
	Size		size;
	CacheEntry *entry;
	char	   *chunk;
	bool		found;

	start_cache();
	chunk_size = MAXALIGN(VARSIZE(state->state)) + MAXALIGN(VARSIZE_ANY(key->entity_type)) +
		MAXALIGN(VARSIZE_ANY(key->entity_id));
	size = ENTRY_OVERHEAD + chunk_size;
	entry = hash_search(entries, &key->hash, HASH_FIND, NULL);
	if (entry)
		evict(entry);
	/* What does not fit at all pushes nothing out. */
	while (bytes > limit || (size <= limit && bytes + size > limit))
	{
		evict(dlist_tail_element(CacheEntry, node, &by_use));
		increment(&my_counters()->evictions);
	}
	if (size <= limit)
	{
		chunk = MemoryContextAlloc(cache_context, chunk_size);
		entry = hash_search(entries, &key->hash, HASH_ENTER, &found);
		entry->size = ENTRY_OVERHEAD + GetMemoryChunkSpace(chunk);
		entry->generation = entity->generation;
		entry->state = *state;
		/* The first field is the chunk, for pfree() */
		entry->state.state = (Jsonb *) chunk;
		memcpy(chunk, state->state, VARSIZE(state->state));
		chunk += MAXALIGN(VARSIZE(state->state));
		chunk = put_text(chunk, &entry->entity_type, key->entity_type);
		(void) put_text(chunk, &entry->entity_id, key->entity_id);
		dlist_push_head(&by_use, &entry->node);
		bytes += entry->size;
	}
	publish_size();
}

void
cqrs_state_cache_clear(void)
{
	CacheInvalidateRelcacheByRelid(cqrs_catalog_relation("state_cache"));
}

void
cqrs_state_cache_count(bool hit)
{
	increment(hit ? &my_counters()->hits : &my_counters()->misses);
}

/* The sums over all backends since the server started; entries and bytes are of now. */
PG_FUNCTION_INFO_V1(cqrs_state_cache_counters);
Datum
cqrs_state_cache_counters(PG_FUNCTION_ARGS)
{
	uint64		sums[5] = {0};
	Datum		values[5];
	bool		nulls[5] = {false};
	TupleDesc	desc;

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	for (int i = 0; i < MaxBackends; i++)
	{
		sums[0] += pg_atomic_read_u64(&counters[i].hits);
		sums[1] += pg_atomic_read_u64(&counters[i].misses);
		sums[2] += pg_atomic_read_u64(&counters[i].evictions);
		sums[3] += pg_atomic_read_u64(&counters[i].entries);
		sums[4] += pg_atomic_read_u64(&counters[i].bytes);
	}
	for (int i = 0; i < lengthof(sums); i++)
		values[i] = Int64GetDatum((int64) sums[i]);
	return HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, nulls));
}

static void
on_relcache_message(Datum arg, Oid relid)
{
	if (relid == watched || relid == InvalidOid)
		cleared = true;
}

static Counters *
my_counters(void)
{
	return &counters[cqrs_my_backend_index()];
}

/* Only this backend writes it, so there is nothing to be atomic about. */
static void
increment(pg_atomic_uint64 *counter)
{
	pg_atomic_write_u64(counter, pg_atomic_read_u64(counter) + 1);
}

static void
publish_size(void)
{
	pg_atomic_write_u64(&my_counters()->entries, hash_get_num_entries(entries));
	pg_atomic_write_u64(&my_counters()->bytes, bytes);
}

/* The next backend in this place begins with an empty cache. */
static void
forget_size(int code, Datum arg)
{
	pg_atomic_write_u64(&my_counters()->entries, 0);
	pg_atomic_write_u64(&my_counters()->bytes, 0);
}

static void
start_cache(void)
{
	HASHCTL		info = {.keysize = sizeof(uint64), .entrysize = sizeof(CacheEntry)};
	Oid			journal = cqrs_journal_relid();

	if (entries && cached_journal == journal && !cleared)
		return;
	if (cache_context == NULL)
	{
		cache_context = AllocSetContextCreate(TopMemoryContext, "pg_cqrs state cache",
											  ALLOCSET_DEFAULT_SIZES);
		before_shmem_exit(forget_size, (Datum) 0);
	}
	MemoryContextReset(cache_context);
	info.hcxt = cache_context;
	entries = hash_create("pg_cqrs state cache", 256, &info, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	dlist_init(&by_use);
	bytes = 0;
	cached_journal = journal;
	watched = cqrs_catalog_relation("state_cache");
	cleared = false;
	publish_size();
}

static CacheEntry *
find_entry(const EntityKey *key)
{
	CacheEntry *entry;

	start_cache();
	entry = hash_search(entries, &key->hash, HASH_FIND, NULL);
	if (entry == NULL)
		return NULL;
	if (!cqrs_slice_same_text(entry->entity_type, key->entity_type) ||
		!cqrs_slice_same_text(entry->entity_id, key->entity_id))
		return NULL;
	return entry;
}

static void
evict(CacheEntry *entry)
{
	dlist_delete(&entry->node);
	bytes -= entry->size;
	pfree(entry->state.state);
	(void) hash_search(entries, &entry->hash, HASH_REMOVE, NULL);
}

static char *
put_text(char *to, text **field, const text *value)
{
	memcpy(to, value, VARSIZE_ANY(value));
	*field = (text *) to;
	return to + MAXALIGN(VARSIZE_ANY(value));
}
