/*
 * position_prepared.c
 *		Positions of prepared transactions, which have no backend.
 *
 * PREPARE TRANSACTION leaves its positions open for as long as it likes, also
 * through a restart.  So they are kept twice: in a list in shared memory, for
 * readers (who would need 8 ms to find them among the locks), and in a lock
 * held by the prepared transaction, whose tag carries the position: PostgreSQL
 * writes locks down with the transaction.  The list is rebuilt from the locks
 * once after a start or promotion, before it is first read or added to.
 *
 * The list is guarded by its lock: shared to read, exclusive to change.  An
 * entry whose transaction is not in progress any more is dead, whether it was
 * resolved, or never came to be prepared; whoever adds an entry drops those.
 */
#include "postgres.h"

#include "access/transam.h"
#include "access/twophase.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "miscadmin.h"
#include "storage/procarray.h"

#include "compat.h"
#include "position_prepared.h"
#include "shmem.h"

#define LOCKTAG_PREPARED	0x4352	/* field4 of the tag of such a lock */

typedef struct PreparedPosition
{
	FullTransactionId xid;
	Oid			database;
	int64		first;
} PreparedPosition;

typedef struct PreparedList
{
	bool		recovered;		/* the locks have been looked through */
	XLogRecPtr	ended_by;		/* flushed after all that are gone from the
								 * list had ended */
	int			count;
	PreparedPosition entries[FLEXIBLE_ARRAY_MEMBER];
} PreparedList;

static PreparedList *prepared;
static LWLock *lock;

static void recover(void);
static void add(FullTransactionId xid, Oid database, int64 first);
static void drop_ended(void);
static bool is_open(const PreparedPosition *entry);
static FullTransactionId to_full(TransactionId xid);

/* The transactions that are prepared, and those that are being prepared. */
static int
prepared_capacity(void)
{
	return max_prepared_xacts + MaxBackends;
}

static Size
prepared_size(void)
{
	return add_size(offsetof(PreparedList, entries),
					mul_size(prepared_capacity(), sizeof(PreparedPosition)));
}

static void
init_prepared(void *area)
{
	((PreparedList *) area)->recovered = false;
	((PreparedList *) area)->ended_by = InvalidXLogRecPtr;
}

void
cqrs_position_prepared_init(void)
{
	static const SharedArea area = {
		"pg_cqrs prepared positions", prepared_size, init_prepared, (void **) &prepared, &lock
	};

	cqrs_shmem_register(&area);
}

/* Called before the transaction is prepared; an error still prevents it. */
void
cqrs_position_prepared_hand_over(int64 first)
{
	LOCKTAG		tag;

	recover();
	SET_LOCKTAG_ADVISORY(tag, MyDatabaseId, (uint32) (first >> 32), (uint32) first, LOCKTAG_PREPARED);
	/* Shared: two transactions may have announced the same bound. */
	(void) LockAcquire(&tag, ShareLock, false, false);

	LWLockAcquire(lock, LW_EXCLUSIVE);
	drop_ended();
	add(GetTopFullTransactionId(), MyDatabaseId, first);
	LWLockRelease(lock);
}

/*
 * The bound, lowered to below every position of this database that is prepared.
 * Whatever is resolved meanwhile is seen by a snapshot taken after; its commit
 * is in the WAL before ended_by, which nobody else can tell, since no session
 * is told of the end of a prepared transaction.
 */
int64
cqrs_position_prepared_lowest(int64 bound, XLogRecPtr *ended_by)
{
	bool		some_ended = false;

	recover();
	LWLockAcquire(lock, LW_SHARED);
	for (int i = 0; i < prepared->count; i++)
	{
		PreparedPosition *entry = &prepared->entries[i];

		if (entry->database != MyDatabaseId || entry->first > bound)
			continue;
		if (is_open(entry))
			bound = entry->first - 1;
		else
			some_ended = true;
	}
	if (ended_by)
		*ended_by = some_ended ? GetFlushRecPtr(NULL) : prepared->ended_by;
	LWLockRelease(lock);
	return bound;
}

/* Rows for cqrs.open_positions(). */
void
cqrs_position_prepared_list(Tuplestorestate *rows, TupleDesc desc)
{
	recover();
	LWLockAcquire(lock, LW_SHARED);
	for (int i = 0; i < prepared->count; i++)
	{
		PreparedPosition *entry = &prepared->entries[i];
		Datum		values[3] = {Int64GetDatum(entry->first), (Datum) 0, TransactionIdGetDatum(XidFromFullTransactionId(entry->xid))};
		bool		nulls[3] = {false, true, false};

		if (entry->database == MyDatabaseId && is_open(entry))
			tuplestore_putvalues(rows, desc, values, nulls);
	}
	LWLockRelease(lock);
}

/*
 * Transactions that were prepared before the start still hold their locks,
 * with no backend of their own.
 */
static void
recover(void)
{
	LockData   *locks;

	if (prepared->recovered)
		return;
	LWLockAcquire(lock, LW_EXCLUSIVE);
	locks = prepared->recovered ? NULL : GetLockStatusData();
	for (int i = 0; locks && i < locks->nelements; i++)
	{
		LockInstanceData *held = &locks->locks[i];
		LOCKTAG    *tag = &held->locktag;
		TransactionId xid = cqrs_lock_recovered_xid(held);

		if (tag->locktag_type == LOCKTAG_ADVISORY && tag->locktag_field4 == LOCKTAG_PREPARED &&
			TransactionIdIsValid(xid))
			add(to_full(xid), tag->locktag_field1,
				((int64) tag->locktag_field2 << 32) | tag->locktag_field3);
	}
	prepared->recovered = true;
	LWLockRelease(lock);
}

/* Caller holds the lock, exclusive. */
static void
add(FullTransactionId xid, Oid database, int64 first)
{
	PreparedPosition *entry;

	if (prepared->count == prepared_capacity())
		elog(ERROR, "no room for another prepared position");
	entry = &prepared->entries[prepared->count++];
	entry->xid = xid;
	entry->database = database;
	entry->first = first;
}

/* Caller holds the lock, exclusive. */
static void
drop_ended(void)
{
	int			kept = 0;

	for (int i = 0; i < prepared->count; i++)
		if (is_open(&prepared->entries[i]))
			prepared->entries[kept++] = prepared->entries[i];
	/* A commit is flushed before it is seen to have ended. */
	if (kept < prepared->count)
		prepared->ended_by = GetFlushRecPtr(NULL);
	prepared->count = kept;
}

/*
 * No transaction stays open for 2^31 others, or PostgreSQL would have stopped
 * by then; an entry as old as that would pass for one of the future.
 */
static bool
is_open(const PreparedPosition *entry)
{
	uint64		age = U64FromFullTransactionId(ReadNextFullTransactionId()) -
	U64FromFullTransactionId(entry->xid);

	return age < (UINT64CONST(1) << 31) &&
		TransactionIdIsInProgress(XidFromFullTransactionId(entry->xid));
}

/* An open transaction is younger than 2^31 others, so it tells its epoch. */
static FullTransactionId
to_full(TransactionId xid)
{
	FullTransactionId next = ReadNextFullTransactionId();
	uint32		epoch = EpochFromFullTransactionId(next);

	if (xid > XidFromFullTransactionId(next))
		epoch--;
	return FullTransactionIdFromEpochAndXid(epoch, xid);
}
