/*
 * last_event.c
 *		The last event of each entity that was written to lately, in shared memory.
 *
 * A writer has to know the version that its event follows.  To find it in the
 * journal costs as much as to put the event's entry into the index: comparisons
 * of texts, on each level of it.  So a writer leaves it here for the next one,
 * whichever backend that is in:
 *
 *	writer (holds its entity's lock)
 *	  last is known to be v?  else look into the journal
 *	  what is known becomes a hint
 *	  writes v + 1 ...
 *	  ... commit becomes visible
 *	  v + 1 is known
 *	  lets the lock go
 *
 * Whoever holds the lock and finds a version known may believe it.  It was made
 * known by a holder of the lock after its commit; had anybody written since, he
 * would have had to hold the lock as well, and would have made it a hint before.
 * What was rolled back or prepared is never made known.  The journal's guard
 * tells when somebody changes events by hand: he keeps all writers out, and
 * then all that is known is forgotten.  A guard that was made anew, with another
 * OID, begins with nothing, and where there is none nothing is kept.
 *
 * Two kinds of writers have no lock, a transaction beyond cqrs.max_entity_locks
 * and who puts rows into the journal by hand.  The former leaves a hint of its own
 * version, which keeps a lower one from being made known after it; the latter can
 * leave something known that is too low.  Then the primary key refuses the next
 * writer, who has made that a hint by then, and who expects another version than
 * the one known looks once more.
 *
 * A hint is a version that the entity had, or would have had but for a rollback:
 * where to begin to look.
 *
 * Shared state and who touches it:
 *	sets[]			the set's mutex, for a few instructions; nothing is called
 *					meanwhile but memcpy() and memcmp().  A set has an entity's place
 *					by its hash; within it, the place given up is one of a hint, else
 *					the next in turn.
 */
#include "postgres.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "storage/shmem.h"
#include "storage/spin.h"
#include "utils/builtins.h"

#include "compat.h"
#include "entity_lock.h"
#include "last_event.h"
#include "shmem.h"

#define SETS			8192
#define PLACES			4		/* in a set; 4 MB in all */
#define NAME_BYTES		77		/* of type and id; longer ones are not kept */
#define MAX_PENDING		32

typedef struct KnownEvent
{
	uint64		hash;
	Oid			database;
	Oid			guard;			/* InvalidOid: the place is free */
	LastEvent	last;
	bool		hint;			/* of it, only the version is of use */
	uint8		type_size;
	uint8		id_size;
	char		names[NAME_BYTES];	/* type and id, without anything between */
} KnownEvent;

typedef struct EventSet
{
	slock_t		mutex;
	uint8		turn;
	KnownEvent	places[PLACES];
} EventSet;

/* What will be known when the transaction has committed. */
typedef struct PendingEvent
{
	KnownEvent	known;
	int			level;			/* of the subtransaction */
} PendingEvent;

static EventSet *sets;
static PendingEvent pending[MAX_PENDING];
static int	pending_count = 0;
static bool gave_up = false;	/* the transaction makes nothing known */

static void give_up(void);
static void on_transaction_end(XactEvent event, void *arg);
static void on_subtransaction_end(SubXactEvent event, SubTransactionId mine, SubTransactionId parent, void *arg);
static bool describe(KnownEvent *known, Oid guard, const EntityKey *key);
static PendingEvent *find_pending(const KnownEvent *known);
static bool find(KnownEvent *known);
static void put(const KnownEvent *known);
static void make_hint(const KnownEvent *known, int64 version);
static KnownEvent *find_place(EventSet *set, const KnownEvent *known);
static KnownEvent *make_room(EventSet *set);
static bool is_same(const KnownEvent *a, const KnownEvent *b);
static EventSet *set_of(const KnownEvent *known);

static Size
sets_size(void)
{
	return mul_size(SETS, sizeof(EventSet));
}

static void
init_sets(void *area)
{
	for (int i = 0; i < SETS; i++)
		SpinLockInit(&((EventSet *) area)[i].mutex);
}

void
cqrs_last_event_init(void)
{
	static const SharedArea area = {
		"pg_cqrs last events", sets_size, init_sets, (void **) &sets, NULL
	};

	cqrs_shmem_register(&area);
	RegisterXactCallback(on_transaction_end, NULL);
	RegisterSubXactCallback(on_subtransaction_end, NULL);
}

/* For who holds the entity's lock: is the last event known, be it this transaction's? */
bool
cqrs_last_event_find(Oid guard, const EntityKey *key, LastEvent *last)
{
	KnownEvent	known;
	PendingEvent *mine;

	if (!describe(&known, guard, key))
		return false;
	mine = find_pending(&known);
	if (mine)
		known = mine->known;
	else if (!find(&known) || known.hint)
		return false;
	*last = known.last;
	return true;
}

/* A version to begin at who looks for the last one; 0 where there is none. */
int64
cqrs_last_event_hint(Oid guard, const EntityKey *key)
{
	KnownEvent	known;

	return describe(&known, guard, key) && find(&known) ? known.last.version : 0;
}

/* For the next who looks. */
void
cqrs_last_event_remember_hint(Oid guard, const EntityKey *key, int64 version)
{
	KnownEvent	known;

	if (!describe(&known, guard, key))
		return;
	known.hint = true;
	known.last.version = version;
	put(&known);
}

/* What is known turned out not to be so. */
void
cqrs_last_event_doubt(Oid guard, const EntityKey *key)
{
	KnownEvent	known;

	if (describe(&known, guard, key))
		make_hint(&known, 0);
}

/*
 * Called before an event is written that is the entity's last one then: what is known
 * becomes a hint.  Without the entity's lock nothing is made known by this transaction.
 */
void
cqrs_last_event_will_be(Oid guard, const EntityKey *key, const LastEvent *last, bool locked)
{
	int			level = GetCurrentTransactionNestLevel();
	KnownEvent	known;
	PendingEvent *mine;

	if (!describe(&known, guard, key))
		return;
	make_hint(&known, locked ? 0 : last->version);
	mine = find_pending(&known);
	if (!locked || (pending_count == MAX_PENDING && !(mine && mine->level == level)))
		give_up();
	if (gave_up)
		return;
	if (mine == NULL || mine->level != level)
		mine = &pending[pending_count++];
	mine->known = known;
	mine->known.last = *last;
	mine->known.last.source = LAST_KNOWN;
	mine->level = level;
}

/*
 * Events are changed by hand, in this transaction, which keeps all writers of this
 * database out until it ends.
 */
void
cqrs_last_event_forget_all(void)
{
	give_up();
	for (int i = 0; i < SETS; i++)
	{
		EventSet   *set = &sets[i];

		SpinLockAcquire(&set->mutex);
		for (int place = 0; place < PLACES; place++)
			if (set->places[place].database == MyDatabaseId)
				set->places[place].guard = InvalidOid;
		SpinLockRelease(&set->mutex);
	}
}

static void
give_up(void)
{
	gave_up = true;
	pending_count = 0;
}

/* At the commit, others see what was written, and the entities' locks are still held. */
static void
on_transaction_end(XactEvent event, void *arg)
{
	if (event != XACT_EVENT_COMMIT && event != XACT_EVENT_ABORT && event != XACT_EVENT_PREPARE)
		return;
	if (event == XACT_EVENT_COMMIT)
		for (int i = 0; i < pending_count; i++)
		{
			EntityKey	key = {.hash = pending[i].known.hash};

			/*
			 * A cursor that fails after a savepoint takes locks along that
			 * were taken before.
			 */
			if (cqrs_entity_lock_is_held(&key))
				put(&pending[i].known);
		}
	pending_count = 0;
	gave_up = false;
}

/* What was written before the part that is rolled back is the last then. */
static void
on_subtransaction_end(SubXactEvent event, SubTransactionId mine, SubTransactionId parent, void *arg)
{
	int			level = GetCurrentTransactionNestLevel();

	if (event == SUBXACT_EVENT_ABORT_SUB)
		while (pending_count > 0 && pending[pending_count - 1].level >= level)
			pending_count--;
	else if (event == SUBXACT_EVENT_COMMIT_SUB)
		for (int i = pending_count - 1; i >= 0 && pending[i].level >= level; i--)
			pending[i].level = level - 1;
}

/* False if nothing can be kept of the entity. */
static bool
describe(KnownEvent *known, Oid guard, const EntityKey *key)
{
	Size		type_size = VARSIZE_ANY_EXHDR(key->entity_type);
	Size		id_size = VARSIZE_ANY_EXHDR(key->entity_id);

	if (!OidIsValid(guard) || type_size + id_size > NAME_BYTES)
		return false;
	memset(known, 0, sizeof(KnownEvent));
	known->hash = key->hash;
	known->database = MyDatabaseId;
	known->guard = guard;
	known->type_size = type_size;
	known->id_size = id_size;
	memcpy(known->names, VARDATA_ANY(key->entity_type), type_size);
	memcpy(known->names + type_size, VARDATA_ANY(key->entity_id), id_size);
	return true;
}

/* The newest of the entity. */
static PendingEvent *
find_pending(const KnownEvent *known)
{
	for (int i = pending_count - 1; i >= 0; i--)
		if (is_same(&pending[i].known, known))
			return &pending[i];
	return NULL;
}

/* Fills in what is known. */
static bool
find(KnownEvent *known)
{
	EventSet   *set = set_of(known);
	KnownEvent *place;

	SpinLockAcquire(&set->mutex);
	place = find_place(set, known);
	if (place)
	{
		known->last = place->last;
		known->hint = place->hint;
	}
	SpinLockRelease(&set->mutex);
	return place != NULL;
}

/* A hint takes no place from what is known; nor does what is lower than a hint, which somebody wrote since. */
static void
put(const KnownEvent *known)
{
	EventSet   *set = set_of(known);
	KnownEvent *place;

	SpinLockAcquire(&set->mutex);
	place = find_place(set, known);
	if (place == NULL)
		place = make_room(set);
	if (known->hint ? place->hint || !OidIsValid(place->guard) :
		!(is_same(place, known) && place->hint && place->last.version > known->last.version))
		*place = *known;
	SpinLockRelease(&set->mutex);
}

/* Of at least this version, kept for sure where that is given. */
static void
make_hint(const KnownEvent *known, int64 version)
{
	EventSet   *set = set_of(known);
	KnownEvent *place;

	SpinLockAcquire(&set->mutex);
	place = find_place(set, known);
	if (place == NULL && version > 0)
	{
		place = make_room(set);
		*place = *known;
		place->last.version = 0;
	}
	if (place)
	{
		place->hint = true;
		place->last.version = Max(place->last.version, version);
	}
	SpinLockRelease(&set->mutex);
}

static KnownEvent *
find_place(EventSet *set, const KnownEvent *known)
{
	for (int i = 0; i < PLACES; i++)
		if (is_same(&set->places[i], known))
			return &set->places[i];
	return NULL;
}

static KnownEvent *
make_room(EventSet *set)
{
	for (int i = 0; i < PLACES; i++)
		if (!OidIsValid(set->places[i].guard))
			return &set->places[i];
	for (int i = 0; i < PLACES; i++)
		if (set->places[i].hint)
			return &set->places[i];
	return &set->places[set->turn++ % PLACES];
}

static bool
is_same(const KnownEvent *a, const KnownEvent *b)
{
	return a->hash == b->hash && a->guard == b->guard && a->database == b->database &&
		a->type_size == b->type_size && a->id_size == b->id_size &&
		memcmp(a->names, b->names, a->type_size + a->id_size) == 0;
}

static EventSet *
set_of(const KnownEvent *known)
{
	return &sets[known->hash % SETS];
}
