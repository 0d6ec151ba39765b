/*
 * position.c
 *		Positions in the journal, and up to which one a reader may read.
 *
 * Positions come from a sequence and become visible at commit, so they do not
 * become visible in order: a reader that takes "the greatest I can see" as its
 * offset loses what commits late below it.  Here a writer announces, before
 * it draws its first position, a bound that all its positions will be above:
 *
 *	writer	(holds its entity's lock)		reader
 *	  read last							  read last
 *	  slot.first = last + 1				  full barrier
 *	  full barrier						  read the slots, then what is prepared
 *	  nextval							  mark = min(last, firsts - 1)
 *	  raise last						  take the snapshot
 *	  ... commit becomes visible ...
 *	  slot.first = 0
 *
 * Every position p <= the "last" that the reader read was drawn before that
 * read.  Its writer had stored its slot before drawing it, so the reader finds
 * the slot, with first <= p, and stays below p; or the slot is clear again
 * because the writer has ended, and the snapshot, taken later, sees all it
 * committed.  A slot stored after the reader passed it belongs to a writer
 * that draws after the reader read "last", so above it.  No time-outs, and an
 * unrelated transaction, however long, has no slot.
 *
 * On a standby the mark is what a worker of the primary has stored
 * (position_stored.c).
 *
 * PREPARE TRANSACTION hands the bound over to position_prepared.c before the
 * slot is cleared, hence the order in which the reader looks.
 *
 * Shared state and who touches it:
 *	slots[]			slot i by backend i alone; read by all, atomically.
 *					The other fields are written while "first" is 0.
 *	databases[]		an entry is made or given to another sequence under the
 *					lock, exclusive; the mark is raised under it, shared, for
 *					the sequence that it is about.  last and wal_end only ever
 *					rise, atomically, without it.
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/pg_type.h"
#include "commands/sequence.h"
#include "funcapi.h"
#include "pgstat.h"
#include "storage/condition_variable.h"
#include "storage/latch.h"
#include "storage/lmgr.h"
#include "storage/proclist.h"
#include "utils/fmgrprotos.h"
#include "utils/inval.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

#include "catalog.h"
#include "compat.h"
#include "position.h"
#include "position_prepared.h"
#include "position_stored.h"
#include "role.h"
#include "shmem.h"
#include "standby.h"
#include "statement.h"
#include "worker.h"

#define MAX_DATABASES		1024
#define FALLBACK_WAKE_MS	1000	/* COMMIT PREPARED wakes nobody */

typedef struct Slot
{
	pg_atomic_uint64 first;		/* all positions of the transaction are >= */
	Oid			database;
	int			pid;
} Slot;

typedef struct Database
{
	Oid			database;
	Oid			sequence;		/* a journal that was made anew has another */
	pg_atomic_uint64 last;		/* last position ever drawn */
	pg_atomic_uint64 mark;		/* highest mark ever handed out */
	pg_atomic_uint64 wal_end;	/* of the newest commit, and of what was drawn */
	ConditionVariable moved;	/* broadcast when a slot is cleared */
} Database;

static Slot *slots;
static Database *databases;
static LWLock *lock;

static Database *my_database = NULL;

/* By this transaction, if its slot is in use */
static Oid	drawn_from;			/* sequence */
static int64 drawn_first;		/* bound announced for that sequence */
static XLogRecPtr drawn_until;	/* end of the WAL for it */

/* The sequence and the journal, each of which may be ahead after a restore. */
static Statement last_position_statement = {
	.sql = "SELECT greatest(pg_catalog.pg_sequence_last_value($1),"
	" (SELECT pg_catalog.max(position) FROM cqrs.journal), 0)",
	.nargs = 1,
	.argtypes = {REGCLASSOID}
};

static void announce(Database *database, Oid sequence);
static void on_transaction_end(XactEvent event, void *arg);
static void release_slot(bool committed);
static Slot *my_slot(void);
static Oid	sequence_oid(void);
static Database *open_database(Oid sequence);
static Database *find_database(Oid database);
static void free_dropped(void);
static int64 read_last_position(Oid sequence);
static void wait_for_journal(long timeout_ms);
static int64 lowest_in_slots(int64 bound);
static void raise_to(pg_atomic_uint64 *value, uint64 at_least);

static Size
slots_size(void)
{
	return mul_size(MaxBackends, sizeof(Slot));
}

static void
init_slots(void *area)
{
	for (int i = 0; i < MaxBackends; i++)
		pg_atomic_init_u64(&((Slot *) area)[i].first, 0);
}

static Size
databases_size(void)
{
	return mul_size(MAX_DATABASES, sizeof(Database));
}

static void
init_databases(void *area)
{
	for (int i = 0; i < MAX_DATABASES; i++)
	{
		Database   *entry = &((Database *) area)[i];

		pg_atomic_init_u64(&entry->last, 0);
		pg_atomic_init_u64(&entry->mark, 0);
		pg_atomic_init_u64(&entry->wal_end, 0);
		ConditionVariableInit(&entry->moved);
	}
}

void
cqrs_position_init(void)
{
	static const SharedArea slots_area = {
		"pg_cqrs position slots", slots_size, init_slots, (void **) &slots, NULL
	};
	static const SharedArea databases_area = {
		"pg_cqrs position databases", databases_size, init_databases, (void **) &databases, &lock
	};

	cqrs_shmem_register(&slots_area);
	cqrs_shmem_register(&databases_area);
	RegisterXactCallback(on_transaction_end, NULL);
}

/*
 * Draws positions, rising but not always consecutive, for events that this
 * transaction is about to write.  They hold back the high-water mark until it
 * ends, whatever becomes of the subtransaction.
 */
void
cqrs_position_allocate(int64 *positions, int count)
{
	Oid			sequence = sequence_oid();
	Database   *database = open_database(sequence);

	if (!cqrs_position_held_by_me() || drawn_from != sequence)
		announce(database, sequence);
	for (int i = 0; i < count; i++)
	{
		positions[i] = nextval_internal(sequence, false);
		if (positions[i] < drawn_first || (i > 0 && positions[i] <= positions[i - 1]))
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("sequence cqrs.%s gave a position that is too low", CQRS_POSITION_SEQUENCE),
					 errdetail("Position " INT64_FORMAT " was drawn after " INT64_FORMAT " had been in use.",
							   positions[i], (int64) pg_atomic_read_u64(&database->last)),
					 errhint("Somebody set the sequence back, or gave it a CACHE or INCREMENT other than 1.  "
							 "Undo the latter, then run SELECT cqrs.adopt().")));
	}
	raise_to(&database->last, positions[count - 1]);
	/* nextval logs ahead; a rollback would not flush that record. */
	drawn_until = XactLastRecEnd;
}

/* Has this transaction drawn positions? */
bool
cqrs_position_held_by_me(void)
{
	return pg_atomic_read_u64(&my_slot()->first) != 0;
}

/*
 * The last position ever drawn in this database; 0 where there is no journal.
 * On a standby, the last that can be read.
 */
int64
cqrs_position_last(void)
{
	Oid			sequence = sequence_oid();

	if (RecoveryInProgress())
		return cqrs_position_stored_read();
	if (!OidIsValid(sequence))
		return 0;
	return pg_atomic_read_u64(&open_database(sequence)->last);
}

/*
 * Can this position have been given?  A standby does not know the last one: who
 * comes from the primary, or was connected here before a promotion made it one,
 * may have read further than the stored mark.
 */
bool
cqrs_position_may_be_given(int64 position)
{
	bool		behind = RecoveryInProgress();

	return position >= 0 && (position <= cqrs_position_last() || behind);
}

/*
 * The position up to which a snapshot taken after this call sees all events
 * there will ever be.  Never goes back.
 */
int64
cqrs_position_high_water_mark(void)
{
	int64		mark;

	if (RecoveryInProgress())
		return cqrs_position_stored_read();
	for (;;)
	{
		Oid			sequence = sequence_oid();
		Database   *database;
		XLogRecPtr	prepared_end;
		bool		same;

		if (!OidIsValid(sequence))
			return 0;
		database = open_database(sequence);
		mark = pg_atomic_read_u64(&database->last);
		pg_memory_barrier();
		mark = lowest_in_slots(mark);
		mark = cqrs_position_prepared_lowest(mark, &prepared_end);
		raise_to(&database->wal_end, prepared_end);

		/*
		 * Is it still about the same journal?  A slot may hold a bound far
		 * below what its writer will draw, so what was handed out counts.
		 */
		LWLockAcquire(lock, LW_SHARED);
		same = database->sequence == sequence;
		if (same)
		{
			raise_to(&database->mark, mark);
			mark = pg_atomic_read_u64(&database->mark);
		}
		LWLockRelease(lock);
		if (same)
			return mark;
		AcceptInvalidationMessages();
	}
}

/*
 * Flushes the WAL of all events at or below a mark taken before, and of the
 * sequence up to it: what leaves the server cannot be undone by a crash, and
 * no position at or below an offset that a consumer keeps is given again.
 */
void
cqrs_position_make_durable(void)
{
	if (my_database)
		XLogFlush(pg_atomic_read_u64(&my_database->wal_end));
}

/*
 * The same, so that a failover does not undo it either: waits for standbys as a
 * commit does, unless synchronous_commit says otherwise.  What was committed
 * asynchronously, or rolled back, has not waited.
 */
void
cqrs_position_make_safe(void)
{
	cqrs_position_make_durable();
	if (my_database)
		cqrs_standby_wait(pg_atomic_read_u64(&my_database->wal_end));
}

/*
 * Waits until the mark is above "after"; false when the time is over before.
 * Woken when a transaction that has appended ends.
 */
bool
cqrs_position_wait(int64 after, int64 timeout_ms, int64 *mark)
{
	TimestampTz deadline = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), timeout_ms);
	long		left;

	for (;;)
	{
		/* The journal may be made, or made anew, while we wait. */
		AcceptInvalidationMessages();
		/* Get in line before looking, or a wake-up in between is lost. */
		if (my_database)
			ConditionVariablePrepareToSleep(&my_database->moved);
		*mark = cqrs_position_high_water_mark();
		left = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), deadline);
		if (*mark > after || left <= 0)
			break;
		left = Min(left, FALLBACK_WAKE_MS);
		if (my_database)
			(void) ConditionVariableTimedSleep(&my_database->moved, left, PG_WAIT_EXTENSION);
		else
			wait_for_journal(left);
	}
	ConditionVariableCancelSleep();
	return *mark > after;
}

/*
 * Raises the sequence to all positions that were ever in use.  The caller holds
 * a lock on the journal that keeps writers out.
 */
int64
cqrs_position_raise_sequence(void)
{
	Oid			sequence = sequence_oid();
	Database   *database = open_database(sequence);
	int64		last = read_last_position(sequence);

	last = Max(last, (int64) pg_atomic_read_u64(&database->last));
	if (last > 0)
		DirectFunctionCall2(setval_oid, ObjectIdGetDatum(sequence), Int64GetDatum(last));
	raise_to(&database->last, last);
	return last;
}

PG_FUNCTION_INFO_V1(cqrs_last_position);
Datum
cqrs_last_position(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT64(cqrs_position_last());
}

/* Who holds back the mark: pid, or transaction id when prepared. */
PG_FUNCTION_INFO_V1(cqrs_open_positions);
Datum
cqrs_open_positions(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;

	InitMaterializedSRF(fcinfo, 0);
	cqrs_position_stored_refuse_to_look();
	for (int i = 0; i < MaxBackends; i++)
	{
		int64		first = pg_atomic_read_u64(&slots[i].first);
		Datum		values[3] = {Int64GetDatum(first), Int32GetDatum(slots[i].pid), (Datum) 0};
		bool		nulls[3] = {false, false, true};

		if (first != 0 && slots[i].database == MyDatabaseId)
			tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	cqrs_position_prepared_list(rsinfo->setResult, rsinfo->setDesc);
	return (Datum) 0;
}

/* ---- the writer's side ---- */

/*
 * Stores the bound of what is about to be drawn.  A transaction that drops the
 * journal and makes it anew has positions of two sequences.
 */
static void
announce(Database *database, Oid sequence)
{
	Slot	   *slot = my_slot();
	int64		before = pg_atomic_read_u64(&slot->first);

	drawn_from = sequence;
	drawn_first = pg_atomic_read_u64(&database->last) + 1;
	slot->database = MyDatabaseId;
	slot->pid = MyProcPid;
	pg_write_barrier();
	pg_atomic_write_u64(&slot->first, before == 0 ? drawn_first : Min(before, drawn_first));
	pg_memory_barrier();
}

/* Runs after a commit has become visible, and after an abort. */
static void
on_transaction_end(XactEvent event, void *arg)
{
	if (my_database == NULL || !cqrs_position_held_by_me())
		return;
	switch (event)
	{
		case XACT_EVENT_PRE_PREPARE:
			cqrs_position_prepared_hand_over(pg_atomic_read_u64(&my_slot()->first));
			break;
		case XACT_EVENT_COMMIT:
			release_slot(true);
			break;
		case XACT_EVENT_PREPARE:
		case XACT_EVENT_ABORT:
			release_slot(false);
			break;
		default:
			break;
	}
}

static void
release_slot(bool committed)
{
	/* Before the slot is clear: a reader that counts us in must flush us. */
	raise_to(&my_database->wal_end, committed ? XactLastCommitEnd : drawn_until);
	pg_memory_barrier();
	pg_atomic_write_u64(&my_slot()->first, 0);
	pg_memory_barrier();
	if (!proclist_is_empty(&my_database->moved.wakeup))
		ConditionVariableBroadcast(&my_database->moved);
	cqrs_worker_wake();
}

static Slot *
my_slot(void)
{
	return &slots[cqrs_my_backend_index()];
}

/* ---- the databases ---- */

/* Invalid where there is no journal yet. */
static Oid
sequence_oid(void)
{
	/* In this order: whoever sees the journal finds what was made with it. */
	Oid			journal = cqrs_catalog_relation("journal");
	Oid			sequence = cqrs_catalog_relation(CQRS_POSITION_SEQUENCE);

	if (OidIsValid(sequence) || !OidIsValid(journal))
		return sequence;

	/*
	 * Who made the journal may have committed, but not told our caches all of
	 * it yet; he has when he lets go of his lock.
	 */
	LockRelationOid(journal, AccessShareLock);
	sequence = cqrs_catalog_relation(CQRS_POSITION_SEQUENCE);
	if (!OidIsValid(sequence))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("sequence cqrs.%s does not exist", CQRS_POSITION_SEQUENCE),
				 errhint("It belongs to cqrs.journal; restore both together.")));
	return sequence;
}

/* The entry of this database; made on first use since the server started. */
static Database *
open_database(Oid sequence)
{
	int64		last;

	if (my_database && my_database->sequence == sequence)
		return my_database;

	/*
	 * Positions are drawn only with an entry at hand, so if there still is
	 * none below, nobody has drawn one since we read.
	 */
	cqrs_position_stored_refuse_to_look();
	last = read_last_position(sequence);
	if (find_database(InvalidOid) == NULL)
		free_dropped();
	LWLockAcquire(lock, LW_EXCLUSIVE);
	my_database = find_database(MyDatabaseId);
	if (my_database == NULL)
		my_database = find_database(InvalidOid);
	if (my_database && my_database->sequence != sequence)
	{
		my_database->database = MyDatabaseId;
		my_database->sequence = sequence;
		pg_atomic_write_u64(&my_database->last, last);
		pg_atomic_write_u64(&my_database->mark, 0);

		/*
		 * Of commits before a crash nobody knows whether they have waited for
		 * a standby.
		 */
		raise_to(&my_database->wal_end, GetFlushRecPtr(NULL));
	}
	LWLockRelease(lock);
	if (my_database == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("more than %d databases of this server have a journal", MAX_DATABASES)));
	return my_database;
}

static Database *
find_database(Oid database)
{
	for (int i = 0; i < MAX_DATABASES; i++)
		if (databases[i].database == database)
			return &databases[i];
	return NULL;
}

/* Nobody is connected to a database that was dropped, so its entry is free. */
static void
free_dropped(void)
{
	for (int i = 0; i < MAX_DATABASES; i++)
	{
		Oid			database = databases[i].database;

		if (SearchSysCacheExists1(DATABASEOID, ObjectIdGetDatum(database)))
			continue;
		LWLockAcquire(lock, LW_EXCLUSIVE);
		if (databases[i].database == database)
		{
			databases[i].database = InvalidOid;
			databases[i].sequence = InvalidOid;
		}
		LWLockRelease(lock);
	}
}

static int64
read_last_position(Oid sequence)
{
	RoleScope	scope;
	Datum		value = ObjectIdGetDatum(sequence);
	int64		last;

	cqrs_role_enter(&scope, cqrs_catalog_relation_owner(sequence));
	PushActiveSnapshot(GetLatestSnapshot());
	SPI_connect();
	(void) cqrs_statement_read(&last_position_statement, &value, NULL, 0);
	last = DatumGetInt64(cqrs_statement_column(0, 1, NULL));
	SPI_finish();
	PopActiveSnapshot();
	cqrs_role_leave(&scope);
	return last;
}

/* ---- the reader's side ---- */

/* Nobody can wake us before there is a journal, or on a standby. */
static void
wait_for_journal(long timeout_ms)
{
	(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
					 timeout_ms, PG_WAIT_EXTENSION);
	ResetLatch(MyLatch);
	CHECK_FOR_INTERRUPTS();
}

static int64
lowest_in_slots(int64 bound)
{
	for (int i = 0; i < MaxBackends; i++)
	{
		int64		first = pg_atomic_read_u64(&slots[i].first);

		if (first == 0)
			continue;
		pg_read_barrier();
		if (slots[i].database == MyDatabaseId)
			bound = Min(bound, first - 1);
	}
	return bound;
}

static void
raise_to(pg_atomic_uint64 *value, uint64 at_least)
{
	uint64		found = pg_atomic_read_u64(value);

	while (found < at_least && !pg_atomic_compare_exchange_u64(value, &found, at_least))
		;
}
