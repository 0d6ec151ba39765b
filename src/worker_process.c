/*
 * worker_process.c
 *		A worker: connects, finds out what its database wants, works.
 *
 *	   started -> looking -> working <-> sleeping
 *					 |		    |			|
 *					 +----------+-----------+---> gone
 *
 * It leaves by proc_exit: when it is told to (SIGTERM), when its database does
 * not want it any more, when cqrs.workers was turned off, and when slots are
 * short and it has nothing to do or has had its turn.  SIGTERM also ends what
 * it is doing at the next occasion; its transaction is then undone.
 *
 * It is a superuser's session.  Whatever ALTER DATABASE or ALTER ROLE set for
 * sessions of this database reaches it too, so what matters is set here.  What
 * users' functions leave in the session is discarded after each.
 */
#include "postgres.h"

#ifdef __GLIBC__
#include <malloc.h>
#endif

#include "access/xact.h"
#include "catalog/namespace.h"
#include "commands/async.h"
#include "commands/prepare.h"
#include "commands/sequence.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/lock.h"
#include "storage/proc.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/portal.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "role.h"
#include "settings.h"
#include "worker.h"
#include "worker_process.h"

#define TURN_MS				2000	/* how long a busy worker keeps its slot
									 * when they are short */
#define KEPT_BYTES			(32 * 1024 * 1024)	/* of free memory; no more is
												 * taken for M_MMAP_THRESHOLD */
#define FIRST_RESTART_MS	100
#define LAST_RESTART_MS		60000

static WorkerSlot *my_slot;
static WorkerDatabase *my_database;
static TimestampTz started_at;
static volatile sig_atomic_t told_to_leave = false;

PGDLLEXPORT void cqrs_worker_main(Datum arg);

static void handle_leave(SIGNAL_ARGS);
static bool attach(void);
static void on_exit_worker(int code, Datum arg);
static void note_failure(void);
static bool wants_anything(void);
static void configure_session(void);
static void keep_memory(void);
static bool is_wanted(void);
static bool is_only_kind(void);
static void rest(void);
static void set_resting(bool resting);
static bool is_alone(void);

void
cqrs_worker_main(Datum arg)
{
	my_slot = &cqrs_worker_shared->slots[DatumGetInt32(arg)];
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, handle_leave);
	BackgroundWorkerUnblockSignals();
	if (!attach())
		proc_exit(0);
	BackgroundWorkerInitializeConnectionByOid(my_slot->database, InvalidOid, 0);
	configure_session();
	keep_memory();
	cqrs_worker_process_look();
	cqrs_worker_kind(my_slot->kind)->run();
	proc_exit(0);
}

/* Leaves, looks, or reads the settings anew, if there is reason to. */
void
cqrs_worker_process_check(void)
{
	cqrs_worker_process_check_orders();
	if (cqrs_worker_process_turn_is_over())
		proc_exit(0);
}

/* The same for a worker in the middle of something: it may finish that. */
void
cqrs_worker_process_check_orders(void)
{
	if (told_to_leave)
		proc_exit(0);
	/* A timeout that came too late for what it was about. */
	QueryCancelPending = false;
	CHECK_FOR_INTERRUPTS();
	if (ConfigReloadPending)
	{
		ConfigReloadPending = false;
		ProcessConfigFile(PGC_SIGHUP);
		cqrs_worker_process_look();
	}
	if (my_database->look)
		cqrs_worker_process_look();
	/* Another worker may have looked, and found that fewer are wanted. */
	if (!is_wanted())
		proc_exit(0);
}

/* Are slots short, and has this worker had its turn? */
bool
cqrs_worker_process_turn_is_over(void)
{
	return pg_atomic_read_u32(&cqrs_worker_shared->shortage) &&
		TimestampDifferenceExceeds(started_at, GetCurrentTimestamp(), TURN_MS);
}

/* From here on who commits events wakes us. */
void
cqrs_worker_process_begin_sleep(void)
{
	pg_atomic_write_u32(&my_slot->sleeper, cqrs_worker_me());
	pg_memory_barrier();
}

/*
 * It may end before the time is over.
 *
 * A worker that may rest has nothing to wait for but events.  Databases rest
 * as a whole, so it does not where other kinds have workers.
 */
void
cqrs_worker_process_sleep(long timeout_ms, bool may_rest)
{
	bool		shortage = pg_atomic_read_u32(&cqrs_worker_shared->shortage) != 0;

	if (may_rest && shortage)
		rest();
	if (shortage && (timeout_ms < 0 || timeout_ms > TURN_MS))
		timeout_ms = TURN_MS;
	/* WaitLatch takes a long and makes an int of it; one below 0 is for ever. */
	timeout_ms = Min(timeout_ms, INT_MAX);
	pgstat_report_stat(true);
	pgstat_report_activity(STATE_IDLE, NULL);
	if (!told_to_leave && !my_database->look && is_wanted())
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_EXIT_ON_PM_DEATH | (timeout_ms >= 0 ? WL_TIMEOUT : 0),
						 timeout_ms, PG_WAIT_EXTENSION);
	ResetLatch(MyLatch);
}

void
cqrs_worker_process_end_sleep(void)
{
	pg_atomic_write_u32(&my_slot->sleeper, 0);
}

uint64
cqrs_worker_process_calls(void)
{
	uint64		calls;

	LWLockAcquire(cqrs_worker_lock, LW_SHARED);
	calls = my_database->calls;
	LWLockRelease(cqrs_worker_lock);
	return calls;
}

uint64
cqrs_worker_process_changes(void)
{
	uint64		changes;

	LWLockAcquire(cqrs_worker_lock, LW_SHARED);
	changes = my_database->changes;
	LWLockRelease(cqrs_worker_lock);
	return changes;
}

void
cqrs_worker_process_succeeded(void)
{
	if (my_database->failures == 0)
		return;
	LWLockAcquire(cqrs_worker_lock, LW_EXCLUSIVE);
	my_database->failures = 0;
	LWLockRelease(cqrs_worker_lock);
}

void
cqrs_worker_process_discard(void)
{
	/*
	 * What was set at the very end of its transaction was set for the
	 * session.
	 */
	ResetAllOptions();
	configure_session();
	StartTransactionCommand();
	PortalHashTableDeleteAll();
	DropAllPreparedStatements();
	Async_UnlistenAll();
	LockReleaseAll(USER_LOCKMETHOD, true);
	ResetTempTableNamespace();
	ResetSequenceCaches();
	CommitTransactionCommand();
}

static void
handle_leave(SIGNAL_ARGS)
{
	told_to_leave = true;
	die(postgres_signal_arg);
}

/*
 * Takes the slot that the launcher has kept for us.  False if it is not ours
 * any more, since the launcher that registered us is gone, or if the database
 * was barred meanwhile.
 */
static bool
attach(void)
{
	bool		barred;

	started_at = GetCurrentTimestamp();
	LWLockAcquire(cqrs_worker_lock, LW_EXCLUSIVE);
	if (!OidIsValid(my_slot->database) || my_slot->pid != 0)
	{
		LWLockRelease(cqrs_worker_lock);
		return false;
	}
	my_slot->pid = MyProcPid;
	my_database = cqrs_worker_database(my_slot->database, true);
	barred = my_database == NULL || my_database->barred > 0;
	if (my_database)
		set_resting(false);
	LWLockRelease(cqrs_worker_lock);
	/* Before the session is there, so that it runs when the session is gone. */
	on_shmem_exit(on_exit_worker, (Datum) 0);
	return !barred;
}

/* Nobody counts us as connected, and no lock is ours any more. */
static void
on_exit_worker(int code, Datum arg)
{
	pg_atomic_write_u32(&my_slot->sleeper, 0);
	LWLockAcquire(cqrs_worker_lock, LW_EXCLUSIVE);
	if (my_database)
	{
		if (code != 0 && !my_slot->leave)
			note_failure();
		if (!wants_anything() && !my_database->look && my_database->barred == 0 && is_alone())
			cqrs_worker_forget(my_database);
	}
	my_slot->database = InvalidOid;
	my_slot->pid = 0;
	LWLockRelease(cqrs_worker_lock);
	ConditionVariableBroadcast(&cqrs_worker_shared->left);
	cqrs_worker_wake_process(&cqrs_worker_shared->launcher);
	/* The others may take over. */
	pg_memory_barrier();
	cqrs_worker_wake_sleepers(MyDatabaseId);
}

static void
note_failure(void)
{
	int64		delay_ms = Min((int64) FIRST_RESTART_MS << Min(my_database->failures, 16), LAST_RESTART_MS);

	my_database->failures++;
	my_database->not_before = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), delay_ms);
	my_database->look = true;
}

static bool
wants_anything(void)
{
	for (int kind = 0; kind < cqrs_worker_kind_count(); kind++)
		if (my_database->wanted[kind] > 0)
			return true;
	return false;
}

static void
configure_session(void)
{
	static const char *const settings[][2] = {
		{"role", "none"},
		{"search_path", CQRS_SEARCH_PATH},
		{"default_transaction_isolation", "read committed"},
		{"default_transaction_read_only", "off"},
		{"default_transaction_deferrable", "off"},
		{"session_replication_role", "origin"},
		{"row_security", "on"},
		{"statement_timeout", "0"},
		{"lock_timeout", "0"},
		{"idle_in_transaction_session_timeout", "0"},
		{"synchronous_commit", "off"},
	};

	for (int i = 0; i < lengthof(settings); i++)
		SetConfigOption(settings[i][0], settings[i][1], PGC_SUSET, PGC_S_SESSION);
	if (GetConfigOption("transaction_timeout", true, false))
		SetConfigOption("transaction_timeout", "0", PGC_SUSET, PGC_S_SESSION);
}

/*
 * The memory of a batch is that of the next one.  glibc would give it back to
 * the system in between, and to have it again, page by page, takes up to half
 * of the time of a projection.
 */
static void
keep_memory(void)
{
#ifdef __GLIBC__
	(void) mallopt(M_TRIM_THRESHOLD, KEPT_BYTES);
	(void) mallopt(M_MMAP_THRESHOLD, KEPT_BYTES);
#endif
}

/*
 * A worker's commits are asynchronous, and ForceSyncCommit alone would not wait
 * for a standby: others would act on what a failover takes back.  The setting
 * ends with the transaction, or with the scope that it is called in.
 */
void
cqrs_worker_process_make_durable(void)
{
	(void) set_config_option("synchronous_commit", GetConfigOptionResetString("synchronous_commit"),
							 PGC_USERSET, PGC_S_SESSION, GUC_ACTION_LOCAL, true, 0, false);
	ForceSyncCommit();
}

/* Finds out what the database wants; that may be more workers, or none: then it leaves. */
void
cqrs_worker_process_look(void)
{
	int			wanted[CQRS_WORKER_KINDS] = {0};
	RoleScope	scope;
	uint64		changes;
	uint64		calls;
	bool		more = false;
	bool		fewer = false;

	/* A change that comes while we look has us look again. */
	LWLockAcquire(cqrs_worker_lock, LW_EXCLUSIVE);
	my_database->look = false;
	changes = my_database->changes;
	calls = my_database->calls;
	LWLockRelease(cqrs_worker_lock);

	StartTransactionCommand();
	cqrs_role_enter(&scope, GetUserId());
	PushActiveSnapshot(GetTransactionSnapshot());
	if (cqrs_workers)
		for (int kind = 0; kind < cqrs_worker_kind_count(); kind++)
			wanted[kind] = cqrs_worker_kind(kind)->wanted();
	PopActiveSnapshot();
	cqrs_role_leave(&scope);
	CommitTransactionCommand();

	LWLockAcquire(cqrs_worker_lock, LW_EXCLUSIVE);
	/* Another worker may have looked later, and been quicker. */
	for (int kind = 0; changes >= my_database->looked_at && kind < cqrs_worker_kind_count(); kind++)
	{
		more = more || wanted[kind] > my_database->wanted[kind];
		fewer = fewer || wanted[kind] < my_database->wanted[kind];
		my_database->wanted[kind] = wanted[kind];
	}
	my_database->looked_at = Max(my_database->looked_at, changes);

	/*
	 * Who called meanwhile was told that a worker is wanted, as it was.  And
	 * the launcher may never see that workers were turned off for a moment.
	 */
	if (!cqrs_workers || calls != my_database->calls)
		my_database->look = true;
	LWLockRelease(cqrs_worker_lock);
	if (more)
		cqrs_worker_wake_process(&cqrs_worker_shared->launcher);
	/* Those that sleep leave, too. */
	pg_memory_barrier();
	if (fewer)
		cqrs_worker_wake_sleepers(MyDatabaseId);
	if (!is_wanted())
		proc_exit(0);
}

static bool
is_wanted(void)
{
	return my_slot->index < my_database->wanted[my_slot->kind];
}

/* The caller holds the lock. */
static bool
is_only_kind(void)
{
	for (int kind = 0; kind < cqrs_worker_kind_count(); kind++)
		if (kind != my_slot->kind && my_database->wanted[kind] > 0)
			return false;
	return true;
}

/*
 * Gives the slot to others, unless other kinds of workers are wanted; the next event calls us back.  Whoever commits one
 * looks for sleepers first, then for who rests: if he has found us asleep, our
 * latch is set, else he finds us at rest.
 */
static void
rest(void)
{
	bool		only_kind;

	LWLockAcquire(cqrs_worker_lock, LW_EXCLUSIVE);
	only_kind = is_only_kind();
	if (only_kind)
		set_resting(true);
	LWLockRelease(cqrs_worker_lock);
	if (!only_kind)
		return;
	pg_memory_barrier();
	if (!MyLatch->is_set && !my_database->look)
		proc_exit(0);
	LWLockAcquire(cqrs_worker_lock, LW_EXCLUSIVE);
	set_resting(false);
	LWLockRelease(cqrs_worker_lock);
}

/* The caller holds the lock, exclusive. */
static void
set_resting(bool resting)
{
	if (my_database->resting == resting)
		return;
	my_database->resting = resting;
	pg_atomic_fetch_add_u32(&cqrs_worker_shared->resting, resting ? 1 : -1);
}

/* Is there no other worker of this database?  The caller holds the lock. */
static bool
is_alone(void)
{
	for (int i = 0; i < cqrs_worker_shared->slot_count; i++)
	{
		WorkerSlot *slot = &cqrs_worker_shared->slots[i];

		if (slot != my_slot && slot->database == my_slot->database)
			return false;
	}
	return true;
}
