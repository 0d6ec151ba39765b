/*
 * worker.c
 *		Background workers: which databases want some, and which run.
 *
 * A static launcher (worker_launcher.c) starts a dynamic worker
 * (worker_process.c) for each database that wants one.  Which do, nobody
 * configures: whoever makes work in a database, by creating a projection, say,
 * has the database looked at with his commit; and when the launcher starts it
 * has all of them looked at.  To look is to connect, so a worker does it: it
 * asks the kinds what they want, writes it down here, and leaves if that is
 * nothing.  One that works already looks between two pieces of work; if they
 * are all in the middle of one for a second, another is started.
 *
 *	session		commits a change			look = true, wakes launcher and workers
 *	launcher	look, or wanted > running	takes a slot, registers a worker
 *	worker		starts						pid; looks; works; sleeps
 *	session		commits events				wakes the workers that sleep and read events
 *	session		commits a call				wakes the workers of a kind, or as a change
 *	worker		leaves						frees its slot, wakes the launcher
 *
 * Shared state and who touches it:
 *	databases[], slots[]	under the lock, exclusive to change.  The one
 *							exception is a slot's sleeper: its worker writes
 *							it, and whoever commits events reads it and the
 *							slot's database and kind without the lock.  A
 *							wrong guess sets a latch for nothing.
 *	launcher, resting, shortage		atomically
 *
 * A change is counted besides: a worker that is woken by the commit may look
 * before the messages are sent by which caches learn of it, and then goes by
 * the count.  So is a call, which is cheaper: nothing that is known becomes
 * stale by it.  A call that comes while somebody looks has him look again, since
 * what he finds may be that no worker of the kind is wanted.
 *
 * No wake-up is lost: a worker says that it sleeps, then looks once more for
 * work, then sleeps; who commits makes the work visible, then looks who
 * sleeps; both with a full barrier in between.
 */
#include "postgres.h"

#include "access/xact.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "storage/latch.h"
#include "storage/proc.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "settings.h"
#include "shmem.h"
#include "worker.h"

WorkerShared *cqrs_worker_shared;
LWLock	   *cqrs_worker_lock;

static const WorkerKind *kinds[CQRS_WORKER_KINDS];
static int	kind_count = 0;
static bool look_requested = false; /* by this transaction */
static uint32 kinds_to_wake = 0;	/* by this transaction; a bit each */

static int	number_of(const WorkerKind *kind);
static bool wants_anything(const WorkerDatabase *entry);
static bool has_worker(void);
static void on_transaction_end(XactEvent event, void *arg);
static void request_look(void);
static void wake_or_request(void);
static void wake_kinds(uint32 which);
static void make_known(void);
static void wake_resting(void);

static Size
worker_size(void)
{
	return add_size(offsetof(WorkerShared, slots),
					mul_size(max_worker_processes, sizeof(WorkerSlot)));
}

static void
init_workers(void *area)
{
	WorkerShared *shared = area;

	pg_atomic_init_u32(&shared->launcher, 0);
	pg_atomic_init_u32(&shared->resting, 0);
	pg_atomic_init_u32(&shared->shortage, 0);
	ConditionVariableInit(&shared->left);
	shared->slot_count = max_worker_processes;
	for (int i = 0; i < shared->slot_count; i++)
		pg_atomic_init_u32(&shared->slots[i].sleeper, 0);
}

void
cqrs_worker_init(void)
{
	static const SharedArea area = {
		"pg_cqrs workers", worker_size, init_workers, (void **) &cqrs_worker_shared, &cqrs_worker_lock
	};

	cqrs_shmem_register(&area);
	RegisterXactCallback(on_transaction_end, NULL);
}

void
cqrs_worker_register_kind(const WorkerKind *kind)
{
	if (kind_count == CQRS_WORKER_KINDS)
		elog(ERROR, "more than %d kinds of workers", CQRS_WORKER_KINDS);
	kinds[kind_count++] = kind;
}

const WorkerKind *
cqrs_worker_kind(int kind)
{
	return kinds[kind];
}

int
cqrs_worker_kind_count(void)
{
	return kind_count;
}

/*
 * When this transaction commits, finds out what this database wants, and has
 * its workers look at what they know.
 */
void
cqrs_worker_look_at_commit(void)
{
	make_known();
	look_requested = true;
}

/* The same for the workers that there are; those that start later know it anyway. */
void
cqrs_worker_tell_at_commit(void)
{
	LWLockAcquire(cqrs_worker_lock, LW_SHARED);
	look_requested = look_requested || cqrs_worker_database(MyDatabaseId, false) != NULL;
	LWLockRelease(cqrs_worker_lock);
}

/* When this transaction commits, wakes the workers of a kind; there will be one. */
void
cqrs_worker_wake_at_commit(const WorkerKind *kind)
{
	uint32		which = 1U << number_of(kind);

	if (kinds_to_wake & which)
		return;
	make_known();
	kinds_to_wake |= which;
}

/* Makes the entry of this database, while it may still fail. */
static void
make_known(void)
{
	bool		known;

	LWLockAcquire(cqrs_worker_lock, LW_SHARED);
	known = cqrs_worker_database(MyDatabaseId, false) != NULL;
	LWLockRelease(cqrs_worker_lock);
	if (known)
		return;

	LWLockAcquire(cqrs_worker_lock, LW_EXCLUSIVE);
	known = cqrs_worker_database(MyDatabaseId, true) != NULL;
	LWLockRelease(cqrs_worker_lock);
	if (!known)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("more than %d databases of this server want workers of pg_cqrs",
						CQRS_WORKER_DATABASES)));
}

/*
 * Wakes the workers of this database that sleep and read events.  Called
 * after what they shall find has become visible and a full barrier.
 */
void
cqrs_worker_wake(void)
{
	uint32		which = 0;

	for (int i = 0; i < kind_count; i++)
		if (kinds[i]->reads_events)
			which |= 1U << i;
	wake_kinds(which);
	if (pg_atomic_read_u32(&cqrs_worker_shared->resting) > 0)
		wake_resting();
}

static void
wake_kinds(uint32 which)
{
	for (int i = 0; i < cqrs_worker_shared->slot_count; i++)
	{
		WorkerSlot *slot = &cqrs_worker_shared->slots[i];

		if (slot->database == MyDatabaseId && (which & (1U << slot->kind)))
			cqrs_worker_wake_process(&slot->sleeper);
	}
}

/* Those of one database, or of all if it is invalid; who rests stays at rest. */
void
cqrs_worker_wake_sleepers(Oid database)
{
	for (int i = 0; i < cqrs_worker_shared->slot_count; i++)
	{
		WorkerSlot *slot = &cqrs_worker_shared->slots[i];

		if (slot->database == database || !OidIsValid(database))
			cqrs_worker_wake_process(&slot->sleeper);
	}
}

/* Sets the latch of a process, if there is one. */
void
cqrs_worker_wake_process(pg_atomic_uint32 *process)
{
	uint32		number = pg_atomic_read_u32(process);

	if (number != 0)
		SetLatch(&GetPGProcByNumber(number - 1)->procLatch);
}

/* This process, as a sleeper. */
uint32
cqrs_worker_me(void)
{
	return (uint32) cqrs_my_proc_number() + 1;
}

/*
 * The entry of a database; made if that is wanted and there is room, else
 * NULL.  The caller holds the lock, exclusive if it is to be made.
 */
WorkerDatabase *
cqrs_worker_database(Oid database, bool make)
{
	WorkerDatabase *unused = NULL;

	for (int i = 0; i < CQRS_WORKER_DATABASES; i++)
	{
		WorkerDatabase *entry = &cqrs_worker_shared->databases[i];

		if (entry->database == database)
			return entry;
		if (unused == NULL && !OidIsValid(entry->database))
			unused = entry;
	}
	if (!make || unused == NULL)
		return NULL;
	memset(unused, 0, sizeof(WorkerDatabase));
	unused->database = database;
	return unused;
}

/* How many workers of a kind this database wants, as far as is known. */
int
cqrs_worker_wanted(const WorkerKind *kind)
{
	WorkerDatabase *entry;
	int			wanted;

	LWLockAcquire(cqrs_worker_lock, LW_SHARED);
	entry = cqrs_worker_database(MyDatabaseId, false);
	wanted = entry ? entry->wanted[number_of(kind)] : 0;
	LWLockRelease(cqrs_worker_lock);
	return wanted;
}

static int
number_of(const WorkerKind *kind)
{
	int			number = 0;

	while (kinds[number] != kind)
		number++;
	return number;
}

/* How this database stands with its workers, for people. */
PG_FUNCTION_INFO_V1(cqrs_worker_state);
Datum
cqrs_worker_state(PG_FUNCTION_ARGS)
{
	const char *state = "none";
	WorkerDatabase *entry;

	LWLockAcquire(cqrs_worker_lock, LW_SHARED);
	entry = cqrs_worker_database(MyDatabaseId, false);
	if (!cqrs_workers)
		state = "off";
	else if (entry && entry->barred > 0)
		state = "barred";
	else if (has_worker())
		state = "running";
	else if (entry && entry->resting)
		state = "resting";
	else if (entry && entry->waiting)
		state = "waiting for a slot";
	else if (entry && entry->not_before > GetCurrentTimestamp())
		state = "restarting";
	else if (entry && (entry->look || wants_anything(entry)))
		state = "starting";
	LWLockRelease(cqrs_worker_lock);
	PG_RETURN_TEXT_P(cstring_to_text(state));
}

static bool
wants_anything(const WorkerDatabase *entry)
{
	for (int kind = 0; kind < kind_count; kind++)
		if (entry->wanted[kind] > 0)
			return true;
	return false;
}

/* The caller holds the lock. */
static bool
has_worker(void)
{
	for (int i = 0; i < cqrs_worker_shared->slot_count; i++)
		if (cqrs_worker_shared->slots[i].database == MyDatabaseId && cqrs_worker_shared->slots[i].pid != 0)
			return true;
	return false;
}

/* Runs after a commit has become visible; nothing here may fail. */
static void
on_transaction_end(XactEvent event, void *arg)
{
	if (!look_requested && kinds_to_wake == 0)
		return;
	if (event == XACT_EVENT_COMMIT && look_requested)
		request_look();
	else if (event == XACT_EVENT_COMMIT)
		wake_or_request();
	/* Who prepares has it looked at with COMMIT PREPARED (worker_bar.c). */
	if (event == XACT_EVENT_COMMIT || event == XACT_EVENT_ABORT || event == XACT_EVENT_PREPARE)
	{
		look_requested = false;
		kinds_to_wake = 0;
	}
}

static void
request_look(void)
{
	WorkerDatabase *entry;

	LWLockAcquire(cqrs_worker_lock, LW_EXCLUSIVE);
	entry = cqrs_worker_database(MyDatabaseId, true);
	if (entry)
	{
		if (!entry->look)
			entry->asked_at = GetCurrentTimestamp();
		entry->look = true;
		entry->changes++;
		entry->calls++;
	}
	LWLockRelease(cqrs_worker_lock);
	cqrs_worker_wake_sleepers(MyDatabaseId);
	wake_resting();
	cqrs_worker_wake_process(&cqrs_worker_shared->launcher);
}

/* Where no worker of the kind is wanted yet, it has to be found out. */
static void
wake_or_request(void)
{
	WorkerDatabase *entry;
	bool		unknown = false;

	LWLockAcquire(cqrs_worker_lock, LW_EXCLUSIVE);
	entry = cqrs_worker_database(MyDatabaseId, true);
	if (entry)
	{
		entry->calls++;
		for (int i = 0; i < kind_count; i++)
			unknown = unknown || ((kinds_to_wake & (1U << i)) && entry->wanted[i] == 0);
	}
	LWLockRelease(cqrs_worker_lock);
	if (unknown)
		request_look();
	else
	{
		wake_kinds(kinds_to_wake);
		if (pg_atomic_read_u32(&cqrs_worker_shared->resting) > 0)
			wake_resting();
	}
}

/* The database of this session has work, but its workers gave their slots back. */
static void
wake_resting(void)
{
	WorkerDatabase *entry;
	bool		rested;

	LWLockAcquire(cqrs_worker_lock, LW_EXCLUSIVE);
	entry = cqrs_worker_database(MyDatabaseId, false);
	rested = entry && entry->resting;
	if (rested)
	{
		entry->resting = false;
		pg_atomic_fetch_sub_u32(&cqrs_worker_shared->resting, 1);
	}
	LWLockRelease(cqrs_worker_lock);
	if (rested)
		cqrs_worker_wake_process(&cqrs_worker_shared->launcher);
}

/* Frees an entry; the caller holds the lock, exclusive. */
void
cqrs_worker_forget(WorkerDatabase *entry)
{
	if (entry->resting)
		pg_atomic_fetch_sub_u32(&cqrs_worker_shared->resting, 1);
	entry->database = InvalidOid;
}
