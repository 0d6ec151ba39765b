/*
 * position_worker.c
 *		The worker that stores the high-water mark, for standbys.
 *
 * With cqrs.store_mark there is one in each database that has a journal.  It
 * does nothing else, since a reader on a standby shall not wait for a
 * projection that is rebuilt or whose handler takes its time.
 *
 * It is woken when events are committed and stores the mark at most every
 * STORE_EVERY_MS.  A COMMIT PREPARED may wake nobody, so while a prepared
 * transaction holds the mark back a sleep is short.
 */
#include "postgres.h"

#include "access/xact.h"
#include "pgstat.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "catalog.h"
#include "compat.h"
#include "identity.h"
#include "position.h"
#include "position_prepared.h"
#include "position_stored.h"
#include "position_worker.h"
#include "role.h"
#include "settings.h"
#include "worker.h"
#include "worker_process.h"

#define STORE_EVERY_MS		100
#define PREPARED_SLEEP_MS	1000

static int64 stored = -1;		/* by this worker */
static TimestampTz next_at = 0;

static int	count_wanted(void);
static void run(void);
static long store(void);
static long store_in_transaction(int64 *mark);

void
cqrs_position_worker_init(void)
{
	static const WorkerKind kind = {"mark", count_wanted, run, true};

	cqrs_worker_register_kind(&kind);
}

static int
count_wanted(void)
{
	return cqrs_store_mark && OidIsValid(cqrs_catalog_relation("stored_mark")) &&
		OidIsValid(cqrs_catalog_relation("journal")) && !cqrs_identity_held() ? 1 : 0;
}

/* Who commits between the look at the mark and the sleep ends the sleep. */
static void
run(void)
{
	for (;;)
	{
		long		wait_ms;

		cqrs_worker_process_check();
		cqrs_worker_process_begin_sleep();
		wait_ms = store();
		cqrs_worker_process_sleep(wait_ms, wait_ms < 0);
		cqrs_worker_process_end_sleep();
	}
}

/* Stores the mark if it has moved; returns when to look again, -1: when woken. */
static long
store(void)
{
	RoleScope	scope;
	int64		mark = stored;
	long		wait_ms = -1;

	StartTransactionCommand();
	cqrs_role_enter(&scope, GetUserId());
	PushActiveSnapshot(GetTransactionSnapshot());
	if (count_wanted() > 0)
		wait_ms = store_in_transaction(&mark);
	PopActiveSnapshot();
	cqrs_role_leave(&scope);
	CommitTransactionCommand();
	if (mark != stored)
	{
		stored = mark;
		next_at = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), STORE_EVERY_MS);
		cqrs_worker_process_succeeded();
		pgstat_report_stat(false);
	}
	return wait_ms;
}

/*
 * Gives the mark that it has written.  To write may take waiting for a lock, which
 * swallows a wake-up, so after that it has to be looked again.
 */
static long
store_in_transaction(int64 *mark)
{
	TimestampTz now = GetCurrentTimestamp();
	int64		found = cqrs_position_high_water_mark();

	if (found != stored && next_at > now)
		return TimestampDifferenceMilliseconds(now, next_at) + 1;
	if (found != stored)
	{
		cqrs_position_stored_write(found);
		*mark = found;
		return STORE_EVERY_MS;
	}
	return cqrs_position_prepared_lowest(PG_INT64_MAX, NULL) < PG_INT64_MAX ? PREPARED_SLEEP_MS : -1;
}
