/*
 * worker_launcher.c
 *		The launcher: starts workers in the databases that want some.
 *
 * One process for the server, connected to no database, from the end of
 * recovery on: a standby has none until it is promoted.  It sleeps until
 * somebody sets its latch: a session that made work, a worker that left, the
 * postmaster when a worker it was to start has started or has not.
 *
 * When there are fewer slots for workers than databases that want one, the
 * shortage is announced: idle workers give their slot back, busy ones after a
 * turn, and the database that was served longest ago is next.  So every
 * database gets its turn, and the log says once that slots are short.
 *
 * A worker that fails is started again after a while that doubles with each
 * failure in a row.  Nothing is lost by that: what it was doing is undone.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/pg_database.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/proc.h"
#include "utils/fmgroids.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/relcache.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "settings.h"
#include "worker.h"
#include "worker_launcher.h"

#define RESTART_S		5
#define NO_SLOT		(-1)
#define NOT_WANTED	(-2)
#define BUSY_MS			1000	/* until a database is looked at though it has
								 * workers */
#define SHORTAGE_WAIT_MS	1000	/* others return slots without telling us */
#define WARN_AGAIN_MS	(10 * 60 * 1000)	/* after so long without a
											 * shortage */

/* What is to be started. */
typedef struct Start
{
	Oid			database;
	int			kind;
	int			index;
	TimestampTz served_at;		/* of its database and kind */
} Start;

typedef struct StartList
{
	Start	   *starts;
	int			capacity;
	int			count;
} StartList;

static BackgroundWorkerHandle **handles;	/* by slot */
static List *unlooked = NIL;	/* databases to be looked at when there is
								 * room */
static TimestampTz short_at = 0;	/* when slots were short last */

PGDLLEXPORT void cqrs_worker_launcher_main(Datum arg);

static void on_exit_launcher(int code, Datum arg);
static void reload_settings(void);
static void look_at_all(void);
static void look_at_unlooked(void);
static long start_wanted(void);
static void free_kept(void);
static void free_unstarted(void);
static long list_starts(StartList *list);
static long add_starts_of(const WorkerDatabase *entry, TimestampTz now, StartList *list);
static void add_start(const WorkerDatabase *entry, int kind, int index, StartList *list);
static bool has_worker(Oid database);
static bool is_running(Oid database, int kind, int index);
static int	compare_starts(const void *a, const void *b);
static bool may_connect(Oid database);
static void forget_database(Oid database);
static bool start_worker(const Start *start);
static int	take_slot(const Start *start);
static void free_slot(int slot);
static bool is_any_leaving(void);
static void announce_shortage(const StartList *list, int started);

void
cqrs_worker_launcher_init(void)
{
	BackgroundWorker worker = {
		.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION,
		.bgw_start_time = BgWorkerStart_RecoveryFinished,
		.bgw_restart_time = RESTART_S,
		.bgw_name = "pg_cqrs launcher",
		.bgw_type = "pg_cqrs launcher",
		.bgw_library_name = "pg_cqrs",
		.bgw_function_name = "cqrs_worker_launcher_main"
	};

	/* pg_upgrade's servers shall only be looked at. */
	if (!IsBinaryUpgrade)
		RegisterBackgroundWorker(&worker);
}

void
cqrs_worker_launcher_main(Datum arg)
{
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, SignalHandlerForShutdownRequest);
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnection(NULL, NULL, 0);
	handles = MemoryContextAllocZero(TopMemoryContext,
									 sizeof(BackgroundWorkerHandle *) * cqrs_worker_shared->slot_count);
	before_shmem_exit(on_exit_launcher, (Datum) 0);
	pg_atomic_write_u32(&cqrs_worker_shared->launcher, cqrs_worker_me());

	free_kept();
	look_at_all();
	while (!ShutdownRequestPending)
	{
		long		wait_ms;

		reload_settings();
		wait_ms = start_wanted();
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_EXIT_ON_PM_DEATH | (wait_ms >= 0 ? WL_TIMEOUT : 0),
						 wait_ms, PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
	/* With 0 the postmaster would not start it again if the server goes on. */
	proc_exit(1);
}

static void
on_exit_launcher(int code, Datum arg)
{
	pg_atomic_write_u32(&cqrs_worker_shared->launcher, 0);
}

static void
reload_settings(void)
{
	bool		were_on = cqrs_workers;
	bool		stored = cqrs_store_mark;

	if (!ConfigReloadPending)
		return;
	ConfigReloadPending = false;
	ProcessConfigFile(PGC_SIGHUP);
	if ((cqrs_workers && !were_on) || (cqrs_store_mark && !stored))
		look_at_all();
}

/* What the databases want is not known when the server, or we, have just started. */
static void
look_at_all(void)
{
	Relation	relation;
	TableScanDesc scan;
	HeapTuple	tuple;

	StartTransactionCommand();
	(void) GetTransactionSnapshot();
	relation = table_open(DatabaseRelationId, AccessShareLock);
	scan = table_beginscan_catalog(relation, 0, NULL);
	while (HeapTupleIsValid(tuple = heap_getnext(scan, ForwardScanDirection)))
	{
		MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);

		unlooked = list_append_unique_oid(unlooked, ((Form_pg_database) GETSTRUCT(tuple))->oid);
		MemoryContextSwitchTo(old);
	}
	table_endscan(scan);
	table_close(relation, AccessShareLock);
	CommitTransactionCommand();
}

/* What was looked at and wants nothing makes room for the next. */
static void
look_at_unlooked(void)
{
	bool		room = true;

	LWLockAcquire(cqrs_worker_lock, LW_EXCLUSIVE);
	while (unlooked && room)
	{
		WorkerDatabase *entry = cqrs_worker_database(llast_oid(unlooked), true);

		room = entry != NULL;
		if (room)
		{
			entry->look = true;
			unlooked = list_delete_last(unlooked);
		}
	}
	LWLockRelease(cqrs_worker_lock);
}

/* Starts what can be started; returns when to try again, -1: when woken. */
static long
start_wanted(void)
{
	StartList	list = {.capacity = cqrs_worker_shared->slot_count + CQRS_WORKER_DATABASES};
	long		wait_ms;
	int			started;

	free_unstarted();
	if (!cqrs_workers)
		return -1;
	look_at_unlooked();
	list.starts = palloc(sizeof(Start) * list.capacity);
	wait_ms = list_starts(&list);
	qsort(list.starts, list.count, sizeof(Start), compare_starts);
	for (started = 0; started < list.count; started++)
	{
		if (!may_connect(list.starts[started].database))
			forget_database(list.starts[started].database);
		else if (!start_worker(&list.starts[started]))
			break;
	}
	announce_shortage(&list, started);
	pfree(list.starts);
	return started < list.count ? SHORTAGE_WAIT_MS : wait_ms;
}

/*
 * Frees the slots that a launcher before us has kept for workers that have not
 * started.  One that does yet finds its slot not its own, and leaves.
 */
static void
free_kept(void)
{
	LWLockAcquire(cqrs_worker_lock, LW_EXCLUSIVE);
	for (int i = 0; i < cqrs_worker_shared->slot_count; i++)
		if (OidIsValid(cqrs_worker_shared->slots[i].database) && cqrs_worker_shared->slots[i].pid == 0)
			free_slot(i);
	LWLockRelease(cqrs_worker_lock);
}

/* Frees the slots of workers that the postmaster could not start. */
static void
free_unstarted(void)
{
	for (int i = 0; i < cqrs_worker_shared->slot_count; i++)
	{
		pid_t		pid;

		if (handles[i] == NULL || GetBackgroundWorkerPid(handles[i], &pid) != BGWH_STOPPED)
			continue;
		pfree(handles[i]);
		handles[i] = NULL;
		LWLockAcquire(cqrs_worker_lock, LW_EXCLUSIVE);
		if (OidIsValid(cqrs_worker_shared->slots[i].database) && cqrs_worker_shared->slots[i].pid == 0)
			free_slot(i);
		LWLockRelease(cqrs_worker_lock);
	}
}

/* Returns when there may be more to be started; -1: when woken. */
static long
list_starts(StartList *list)
{
	TimestampTz now = GetCurrentTimestamp();
	long		wait_ms = -1;

	LWLockAcquire(cqrs_worker_lock, LW_SHARED);
	for (int i = 0; i < CQRS_WORKER_DATABASES; i++)
	{
		WorkerDatabase *entry = &cqrs_worker_shared->databases[i];
		long		left_ms;

		if (!OidIsValid(entry->database) || entry->barred > 0 || (entry->resting && !entry->look))
			continue;
		if (entry->not_before > now)
			left_ms = TimestampDifferenceMilliseconds(now, entry->not_before);
		else
			left_ms = add_starts_of(entry, now, list);
		if (left_ms >= 0)
			wait_ms = wait_ms < 0 ? left_ms : Min(wait_ms, left_ms);
	}
	LWLockRelease(cqrs_worker_lock);
	return wait_ms;
}

/*
 * Who is started looks.  If nobody is, and those that run are too busy to look,
 * or there are none, one more is started for that.
 */
static long
add_starts_of(const WorkerDatabase *entry, TimestampTz now, StartList *list)
{
	TimestampTz until = TimestampTzPlusMilliseconds(entry->asked_at, BUSY_MS);
	int			before = list->count;

	for (int kind = 0; kind < cqrs_worker_kind_count(); kind++)
		for (int index = 0; index < entry->wanted[kind]; index++)
			if (!is_running(entry->database, kind, index))
				add_start(entry, kind, index, list);
	if (!entry->look || list->count > before)
		return -1;
	if (until > now && has_worker(entry->database))
		return TimestampDifferenceMilliseconds(now, until);
	if (!is_running(entry->database, 0, entry->wanted[0]))
		add_start(entry, 0, entry->wanted[0], list);
	return -1;
}

static void
add_start(const WorkerDatabase *entry, int kind, int index, StartList *list)
{
	Start	   *start;

	if (list->count == list->capacity)
		return;
	start = &list->starts[list->count++];
	start->database = entry->database;
	start->kind = kind;
	start->index = index;
	start->served_at = entry->served_at[kind];
}

static bool
has_worker(Oid database)
{
	for (int i = 0; i < cqrs_worker_shared->slot_count; i++)
		if (cqrs_worker_shared->slots[i].database == database)
			return true;
	return false;
}

static bool
is_running(Oid database, int kind, int index)
{
	for (int i = 0; i < cqrs_worker_shared->slot_count; i++)
	{
		WorkerSlot *slot = &cqrs_worker_shared->slots[i];

		if (slot->database == database && slot->kind == kind && slot->index == index)
			return true;
	}
	return false;
}

/* The first workers of all databases and kinds, then the second ones; who waits longest first. */
static int
compare_starts(const void *a, const void *b)
{
	const Start *left = a;
	const Start *right = b;

	if (left->index != right->index)
		return left->index < right->index ? -1 : 1;
	if (left->served_at != right->served_at)
		return left->served_at < right->served_at ? -1 : 1;
	return left->database < right->database ? -1 : left->database > right->database;
}

/*
 * No worker stays in a template, or where nobody may connect.  Looks at the
 * table itself: whoever has changed the row wakes us a moment before he sends
 * the message by which our caches would learn of it.
 */
static bool
may_connect(Oid database)
{
	Relation	relation;
	ScanKeyData key;
	Snapshot	snapshot;
	SysScanDesc scan;
	HeapTuple	tuple;
	bool		may = false;

	StartTransactionCommand();
	snapshot = RegisterSnapshot(GetLatestSnapshot());
	relation = table_open(DatabaseRelationId, AccessShareLock);
	ScanKeyInit(&key, Anum_pg_database_oid, BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(database));
	scan = systable_beginscan(relation, DatabaseOidIndexId, criticalSharedRelcachesBuilt, snapshot, 1, &key);
	tuple = systable_getnext(scan);
	if (HeapTupleIsValid(tuple))
	{
		Form_pg_database form = (Form_pg_database) GETSTRUCT(tuple);

		/* A limit of -2 is left by a DROP DATABASE that was interrupted. */
		may = !form->datistemplate && form->datallowconn && form->datconnlimit != -2;
	}
	systable_endscan(scan);
	table_close(relation, AccessShareLock);
	UnregisterSnapshot(snapshot);
	CommitTransactionCommand();
	return may;
}

static void
forget_database(Oid database)
{
	WorkerDatabase *entry;

	LWLockAcquire(cqrs_worker_lock, LW_EXCLUSIVE);
	entry = cqrs_worker_database(database, false);
	if (entry && entry->barred == 0)
		cqrs_worker_forget(entry);
	LWLockRelease(cqrs_worker_lock);
}

/* False when there is no slot. */
static bool
start_worker(const Start *start)
{
	BackgroundWorker worker = {
		.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION,
		.bgw_start_time = BgWorkerStart_RecoveryFinished,
		.bgw_restart_time = BGW_NEVER_RESTART,
		.bgw_library_name = "pg_cqrs",
		.bgw_function_name = "cqrs_worker_main",
		.bgw_notify_pid = MyProcPid
	};
	MemoryContext old;
	int			slot = take_slot(start);
	bool		registered;

	if (slot < 0)
		return slot == NOT_WANTED;
	snprintf(worker.bgw_type, BGW_MAXLEN, "pg_cqrs %s worker", cqrs_worker_kind(start->kind)->name);
	snprintf(worker.bgw_name, BGW_MAXLEN, "pg_cqrs %s worker %d of database %u",
			 cqrs_worker_kind(start->kind)->name, start->index + 1, start->database);
	worker.bgw_main_arg = Int32GetDatum(slot);
	old = MemoryContextSwitchTo(TopMemoryContext);
	registered = RegisterDynamicBackgroundWorker(&worker, &handles[slot]);
	MemoryContextSwitchTo(old);
	if (!registered)
	{
		LWLockAcquire(cqrs_worker_lock, LW_EXCLUSIVE);
		free_slot(slot);
		LWLockRelease(cqrs_worker_lock);
	}
	return registered;
}

/* NO_SLOT if all are taken, NOT_WANTED if the database was barred meanwhile. */
static int
take_slot(const Start *start)
{
	WorkerDatabase *entry;
	int			found = NO_SLOT;

	LWLockAcquire(cqrs_worker_lock, LW_EXCLUSIVE);
	entry = cqrs_worker_database(start->database, false);
	if (entry == NULL || entry->barred > 0)
		found = NOT_WANTED;
	for (int i = 0; found == NO_SLOT && i < cqrs_worker_shared->slot_count; i++)
	{
		WorkerSlot *slot = &cqrs_worker_shared->slots[i];

		if (OidIsValid(slot->database) || handles[i])
			continue;
		slot->database = start->database;
		slot->kind = start->kind;
		slot->index = start->index;
		slot->pid = 0;
		slot->leave = false;
		entry->served_at[start->kind] = entry->asked_at = GetCurrentTimestamp();
		entry->waiting = false;
		found = i;
	}
	LWLockRelease(cqrs_worker_lock);
	return found;
}

/* The caller holds the lock, exclusive. */
static void
free_slot(int slot)
{
	cqrs_worker_shared->slots[slot].database = InvalidOid;
	ConditionVariableBroadcast(&cqrs_worker_shared->left);
}

/* Is there a worker that has left, but not for the postmaster yet? */
static bool
is_any_leaving(void)
{
	for (int i = 0; i < cqrs_worker_shared->slot_count; i++)
		if (handles[i] && !OidIsValid(cqrs_worker_shared->slots[i].database))
			return true;
	return false;
}

/* Says it once, until there was no shortage for long. */
static void
announce_shortage(const StartList *list, int started)
{
	bool		warned;

	LWLockAcquire(cqrs_worker_lock, LW_EXCLUSIVE);
	for (int i = started; i < list->count; i++)
	{
		WorkerDatabase *entry = cqrs_worker_database(list->starts[i].database, false);

		if (entry)
			entry->waiting = true;
	}
	LWLockRelease(cqrs_worker_lock);
	/* Idle workers have to hear of it to give their slots back. */
	if (pg_atomic_exchange_u32(&cqrs_worker_shared->shortage, started < list->count) == 0 && started < list->count)
		cqrs_worker_wake_sleepers(InvalidOid);
	/* The slot of one that has left is free in a moment. */
	if (started == list->count || is_any_leaving())
		return;
	warned = short_at != 0 && !TimestampDifferenceExceeds(short_at, GetCurrentTimestamp(), WARN_AGAIN_MS);
	short_at = GetCurrentTimestamp();
	if (warned)
		return;
	ereport(WARNING,
			(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
			 errmsg("there are too few background workers for pg_cqrs"),
			 errdetail("%d more would be started; until then databases take turns.", list->count - started),
			 errhint("Raise max_worker_processes (now %d) and restart the server.", max_worker_processes)));
}
