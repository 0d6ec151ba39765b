/*
 * entity_lock.c
 *		One writer per entity, one command at a time.
 *
 * Writers of an entity queue on a heavyweight lock, held to the end of the
 * transaction, whose tag carries the entity's hash: two entities with the
 * same hash merely wait for each other.  The lock gives order and fairness;
 * what guarantees versions without holes is the journal's primary key.  So a
 * transaction that would fill the lock table stops taking locks after
 * cqrs.max_entity_locks and relies on the key alone.
 *
 * The key does not guard what is kept beside the journal, snapshots and answers.
 * That is no harm, but to who forgets an entity, and wants nothing of it left.
 * So such a transaction takes one lock more, which keeps out those who forget,
 * and they take the entity's lock, always, and then that one, which keeps out
 * such transactions.
 *
 * The lock does not keep a session from itself: a handler may not write to
 * the entity whose command it is deciding, and an event handler may not write
 * at all, nor a projection that replays.  The handlers that run are kept in a list through the C stack;
 * whoever begins one ends it in PG_FINALLY.
 */
#include "postgres.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "storage/lock.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#include "compat.h"
#include "entity_lock.h"
#include "settings.h"

#define LOCKTAG_ENTITY	0x4351	/* field4 of the tag; PostgreSQL uses 1 and 2 */
#define LOCKTAG_UNLOCKED	0x4354	/* the lock of those who hold too many */

static RunningHandler *innermost = NULL;
static int	locks_taken = 0;	/* by this transaction, rolled back parts
								 * aside */
static int *taken_at_level = NULL;	/* of these, by each open subtransaction */
static int	levels = 0;			/* size of that array */

static void on_transaction_end(XactEvent event, void *arg);
static void on_subtransaction_end(SubXactEvent event, SubTransactionId mine, SubTransactionId parent, void *arg);
static LOCKTAG lock_tag(const EntityKey *key);
static void lock_unlocked(LOCKMODE mode);
static void make_room_for_level(int level);
static void refuse_running(const EntityKey *key);
static void name_awaited_entity(void *arg);

void
cqrs_entity_lock_init(void)
{
	RegisterXactCallback(on_transaction_end, NULL);
	RegisterSubXactCallback(on_subtransaction_end, NULL);
}

/*
 * Waits until no other transaction writes to the entity.  What they wrote is
 * seen by a snapshot taken after this, not by an older one.  False if the
 * transaction has too many locks for that.
 */
bool
cqrs_entity_lock_acquire(const EntityKey *key)
{
	ErrorContextCallback context = {
		.callback = name_awaited_entity,
		.arg = unconstify(EntityKey *, key),
		.previous = error_context_stack
	};
	int			level = GetCurrentTransactionNestLevel();
	LOCKTAG		tag = lock_tag(key);

	refuse_running(key);
	if (locks_taken >= cqrs_max_entity_locks && !cqrs_entity_lock_is_held(key))
	{
		lock_unlocked(RowExclusiveLock);
		return false;
	}
	make_room_for_level(level);
	error_context_stack = &context;
	if (LockAcquire(&tag, ExclusiveLock, false, false) == LOCKACQUIRE_OK)
	{
		locks_taken++;
		taken_at_level[level]++;
	}
	error_context_stack = context.previous;
	return true;
}

bool
cqrs_entity_lock_is_held(const EntityKey *key)
{
	LOCKTAG		tag = lock_tag(key);

	return cqrs_lock_held_by_me(&tag, ExclusiveLock);
}

/* Waits until nobody writes to any entity without its lock; nor does anybody, before we end. */
void
cqrs_entity_lock_exclude_unlocked(void)
{
	lock_unlocked(ShareLock);
}

static LOCKTAG
lock_tag(const EntityKey *key)
{
	LOCKTAG		tag;

	SET_LOCKTAG_ADVISORY(tag, MyDatabaseId, (uint32) (key->hash >> 32), (uint32) key->hash, LOCKTAG_ENTITY);
	return tag;
}

static void
lock_unlocked(LOCKMODE mode)
{
	LOCKTAG		tag;

	SET_LOCKTAG_ADVISORY(tag, MyDatabaseId, 0, 0, LOCKTAG_UNLOCKED);
	(void) LockAcquire(&tag, mode, false, false);
}

void
cqrs_entity_lock_begin_handler(RunningHandler *running, RunningKind kind, const EntityKey *entity)
{
	running->kind = kind;
	running->entity = entity;
	running->outer = innermost;
	innermost = running;
}

void
cqrs_entity_lock_end_handler(const RunningHandler *running)
{
	innermost = running->outer;
}

/*
 * Refuses what has an effect beyond what is computed.  Event handlers and
 * upcasters compute a state, which may happen many times, and a projection
 * that is rebuilt has had its effects before.
 */
void
cqrs_entity_lock_refuse_effect(const char *function)
{
	for (RunningHandler *running = innermost; running; running = running->outer)
		switch (running->kind)
		{
			case RUNNING_COMMAND:
			case RUNNING_INSERT:
				break;
			case RUNNING_FOLD:
				ereport(ERROR,
						(errcode(ERRCODE_S_R_E_PROHIBITED_SQL_STATEMENT_ATTEMPTED),
						 errmsg("cqrs.%s cannot be called by an event handler or upcaster", function),
						 errdetail("An event is folded again whenever the state is rebuilt."),
						 errhint("Call it from a command handler.")));
				break;
			case RUNNING_REPLAY:
				ereport(ERROR,
						(errcode(ERRCODE_S_R_E_PROHIBITED_SQL_STATEMENT_ATTEMPTED),
						 errmsg("cqrs.%s cannot be called by a projection that replays events", function),
						 errdetail("It was called when the event was projected first."),
						 errhint("To have it called again, set replay_side_effects with cqrs.alter_projection.")));
				break;
		}
}

static void
on_transaction_end(XactEvent event, void *arg)
{
	if (event == XACT_EVENT_COMMIT || event == XACT_EVENT_ABORT || event == XACT_EVENT_PREPARE)
	{
		locks_taken = 0;
		if (taken_at_level)
			memset(taken_at_level, 0, sizeof(int) * levels);
	}
}

/* A rollback gives locks back; what is released belongs to the parent. */
static void
on_subtransaction_end(SubXactEvent event, SubTransactionId mine, SubTransactionId parent, void *arg)
{
	int			level = GetCurrentTransactionNestLevel();

	if (level >= levels || (event != SUBXACT_EVENT_COMMIT_SUB && event != SUBXACT_EVENT_ABORT_SUB))
		return;
	if (event == SUBXACT_EVENT_ABORT_SUB)
		locks_taken -= taken_at_level[level];
	else
		taken_at_level[level - 1] += taken_at_level[level];
	taken_at_level[level] = 0;
}

static void
make_room_for_level(int level)
{
	int			wanted = Max(16, 2 * (level + 1));

	if (level < levels)
		return;
	taken_at_level = taken_at_level ? repalloc(taken_at_level, sizeof(int) * wanted) :
		MemoryContextAlloc(TopMemoryContext, sizeof(int) * wanted);
	memset(taken_at_level + levels, 0, sizeof(int) * (wanted - levels));
	levels = wanted;
}

static void
refuse_running(const EntityKey *key)
{
	for (RunningHandler *running = innermost; running; running = running->outer)
		if (running->entity && cqrs_slice_same_entity(running->entity, key))
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_IN_USE),
					 errmsg("entity \"%s\" of type \"%s\" is handling a command",
							text_to_cstring(key->entity_id), text_to_cstring(key->entity_type)),
					 errhint(running->kind == RUNNING_COMMAND ?
							 "A command handler writes to its own entity by the events of its effect." :
							 "A sync projection cannot write to the entity whose events it is given.")));
}

static void
name_awaited_entity(void *arg)
{
	const EntityKey *key = arg;

	errcontext("while waiting for entity \"%s\" of type \"%s\"",
			   text_to_cstring(key->entity_id), text_to_cstring(key->entity_type));
}
