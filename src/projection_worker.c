/*
 * projection_worker.c
 *		The event processor: the workers that run projections.
 *
 * A worker goes round the partitions of all projections of its database and
 * does one step, one transaction, for each that has something to do and that
 * no other worker is at:
 *
 *	rebuild		somebody has asked for one
 *	split		all partitions have reached the barrier
 *	parked		somebody wants a parked entity replayed
 *	forward		there are events after the offset
 *	attach		a projection on its way to a trigger has come to the end
 *
 * Which have is told by memory alone: the high-water mark, how far each
 * partition has read, and what is registered, which is read anew after a
 * change.  So an idle worker runs no statement.  It sleeps until events are
 * committed, a change is, or something is to be tried again.  The one thing
 * that wakes nobody is a COMMIT PREPARED by somebody who is not a session
 * (a subscription's worker), so while a prepared transaction holds the mark
 * back a sleep is short.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "catalog.h"
#include "compat.h"
#include "identity.h"
#include "position.h"
#include "position_prepared.h"
#include "projection_failure.h"
#include "projection_forward.h"
#include "projection_rebuild.h"
#include "projection_split.h"
#include "projection_sync.h"
#include "projection_worker.h"
#include "settings.h"
#include "slice.h"
#include "worker.h"
#include "worker_process.h"

#define PREPARED_SLEEP_MS	1000

static Statement wanted_statement = {
	.sql = "SELECT count(*)::integer FROM cqrs.projection_offset o JOIN cqrs.projection p ON p.name = o.projection"
	" WHERE p.state = 'running' AND NOT p.has_trigger"
};

static Statement partitions_statement = {
	.sql = "SELECT o.projection, o.slice, o.next_slice, o.position, o.revision, EXISTS (SELECT FROM cqrs.parked_entity k"
	" WHERE k.projection = o.projection AND k.slice >= o.slice AND k.slice < o.next_slice AND k.retry)"
	" FROM cqrs.projection_offset o ORDER BY o.projection, o.slice"
};

/* The partitions of this database, as of the last look. */
static MemoryContext partitions_context = NULL;
static Partition *partitions = NULL;
static int	partition_count = 0;
static int	next_partition = 0;
static uint64 seen_messages = PG_UINT64_MAX;	/* that this list was read
												 * after */
static uint64 seen_changes = PG_UINT64_MAX;

static int	count_wanted(void);
static int	count_running(void);
static void run(void);
static Partition *find_work(StepWork *work, long *wait_ms);
static int64 refresh(int64 *mark);
static void read_partitions(void);
static void open_progress(void);
static void take_partition(Partition *partition, int row);
static bool is_listed(const char *projection, int slice);
static StepWork work_of(Partition *partition, int64 mark, TimestampTz now, long *wait_ms);
static bool has_waited(TimestampTz until, TimestampTz now, long *wait_ms);
static bool is_at_barrier(const Projection *projection);
static void do_work(Partition *partition, StepWork work);

void
cqrs_projection_worker_init(void)
{
	static const WorkerKind kind = {"projection", count_wanted, run, true};

	cqrs_worker_register_kind(&kind);
}

/*
 * No more than there are partitions to run.  If there are none, nobody comes
 * who would give up what is known about those that there were.
 */
static int
count_wanted(void)
{
	int			count = count_running();

	if (count == 0)
	{
		read_partitions();
		cqrs_projection_progress_changed(is_listed);
		/* A list without progress is of no use to others. */
		partition_count = 0;
		seen_messages = PG_UINT64_MAX;
	}
	return Min(count, cqrs_projection_workers);
}

static int
count_running(void)
{
	int			count;

	if (!OidIsValid(cqrs_catalog_relation("projection")) || cqrs_identity_held())
		return 0;
	SPI_connect();
	(void) cqrs_statement_read(&wanted_statement, NULL, NULL, 0);
	count = DatumGetInt32(cqrs_statement_column(0, 1, NULL));
	SPI_finish();
	return count;
}

static void
run(void)
{
	for (;;)
	{
		StepWork	work;
		long		wait_ms;
		Partition  *partition;

		cqrs_worker_process_check();
		partition = find_work(&work, &wait_ms);
		if (partition == NULL)
		{
			cqrs_worker_process_begin_sleep();
			partition = find_work(&work, &wait_ms);
			if (partition == NULL)
				cqrs_worker_process_sleep(wait_ms, wait_ms < 0);
			cqrs_worker_process_end_sleep();
		}
		if (partition)
			do_work(partition, work);
	}
}

/* A partition that has something to do, or NULL; then when to look again, -1: when woken. */
static Partition *
find_work(StepWork *work, long *wait_ms)
{
	TimestampTz now = GetCurrentTimestamp();
	Partition  *found = NULL;
	RoleScope	scope;
	int64		mark;

	*wait_ms = -1;
	StartTransactionCommand();
	cqrs_role_enter(&scope, GetUserId());
	PushActiveSnapshot(GetTransactionSnapshot());
	if (refresh(&mark) > mark && cqrs_position_prepared_lowest(PG_INT64_MAX, NULL) < PG_INT64_MAX)
		*wait_ms = PREPARED_SLEEP_MS;
	for (int i = 0; i < partition_count && found == NULL; i++)
	{
		Partition  *partition = &partitions[(next_partition + i) % partition_count];

		*work = work_of(partition, mark, now, wait_ms);
		if (*work)
		{
			found = partition;
			next_partition = (next_partition + i + 1) % partition_count;
		}
	}

	/*
	 * What we were told while we looked, whether or not it has set the latch
	 * for us.
	 */
	if (found == NULL && cqrs_projection_registry_changes() != seen_messages)
		*wait_ms = 0;
	PopActiveSnapshot();
	cqrs_role_leave(&scope);
	CommitTransactionCommand();
	return found;
}

/* Brings the list up to date; gives the mark and returns the last position drawn. */
static int64
refresh(int64 *mark)
{
	uint64		changes = cqrs_worker_process_changes();

	if (changes != seen_changes)
		cqrs_projection_registry_forget();
	*mark = 0;
	if (cqrs_projection_registry_changes() != seen_messages)
	{
		seen_messages = cqrs_projection_registry_changes();
		seen_changes = changes;
		read_partitions();
		open_progress();
	}
	if (!OidIsValid(cqrs_catalog_relation("projection")))
	{
		partition_count = 0;
		return 0;
	}
	/* First what may wait for locks, and swallow a wake-up, then the mark. */
	for (int i = 0; i < partition_count; i++)
		(void) cqrs_projection_registry_find(partitions[i].offset.projection);
	*mark = cqrs_position_high_water_mark();
	return cqrs_position_last();
}

static void
read_partitions(void)
{
	MemoryContext old;

	if (partitions_context == NULL)
		partitions_context = AllocSetContextCreate(TopMemoryContext, "pg_cqrs partitions", ALLOCSET_DEFAULT_SIZES);
	partition_count = 0;
	MemoryContextReset(partitions_context);
	if (!OidIsValid(cqrs_catalog_relation("projection")))
		return;
	/* Newer than what we have been told, which shall not be missed. */
	PushActiveSnapshot(GetLatestSnapshot());
	SPI_connect();
	partition_count = (int) cqrs_statement_read(&partitions_statement, NULL, NULL, 0);
	old = MemoryContextSwitchTo(partitions_context);
	partitions = palloc0(sizeof(Partition) * Max(partition_count, 1));
	for (int i = 0; i < partition_count; i++)
		take_partition(&partitions[i], i);
	MemoryContextSwitchTo(old);
	SPI_finish();
	PopActiveSnapshot();
	next_partition = partition_count > 0 ? next_partition % partition_count : 0;
}

static void
take_partition(Partition *partition, int row)
{
	ProjectionOffset *offset = &partition->offset;

	offset->projection = (text *) PG_DETOAST_DATUM_COPY(cqrs_statement_column(row, 1, NULL));
	offset->slice = DatumGetInt32(cqrs_statement_column(row, 2, NULL));
	offset->next_slice = DatumGetInt32(cqrs_statement_column(row, 3, NULL));
	offset->position = DatumGetInt64(cqrs_statement_column(row, 4, NULL));
	offset->revision = DatumGetInt64(cqrs_statement_column(row, 5, NULL));
	ItemPointerSetInvalid(&offset->tid);
	partition->retry = DatumGetBool(cqrs_statement_column(row, 6, NULL));
}

/* In this order: those that are not needed any more may leave no room. */
static void
open_progress(void)
{
	cqrs_projection_progress_changed(is_listed);
	for (int i = 0; i < partition_count; i++)
	{
		const ProjectionOffset *offset = &partitions[i].offset;

		partitions[i].progress = cqrs_projection_progress_open(text_to_cstring(offset->projection), offset->slice);
	}
}

static bool
is_listed(const char *projection, int slice)
{
	for (int i = 0; i < partition_count; i++)
	{
		const text *name = partitions[i].offset.projection;

		if (partitions[i].offset.slice == slice && VARSIZE_ANY_EXHDR(name) == strlen(projection) &&
			memcmp(VARDATA_ANY(name), projection, strlen(projection)) == 0)
			return true;
	}
	return false;
}

/* What the partition has to do, or NULL; lowers the time to wait to when it may have. */
static StepWork
work_of(Partition *partition, int64 mark, TimestampTz now, long *wait_ms)
{
	ProjectionOffset *offset = &partition->offset;
	Projection *projection = cqrs_projection_registry_find(offset->projection);
	ProjectionProgress *progress;
	bool		known;
	int64		reached;

	if (projection == NULL || projection->state != PROJECTION_RUNNING || projection->has_trigger)
		return NULL;
	/* A worker whose list is older than ours may have freed the entry. */
	if (!cqrs_projection_progress_is(partition->progress, projection->name, offset->slice))
		partition->progress = cqrs_projection_progress_open(projection->name, offset->slice);
	progress = partition->progress;
	known = progress->revision == offset->revision;
	reached = known ? progress->reached : offset->position;
	if (pg_atomic_read_u32(&progress->worker) != 0 ||
		!has_waited(partition->busy_until, now, wait_ms) ||
		(known && !has_waited(progress->retry_at, now, wait_ms)))
		return NULL;
	if (projection->rebuild)
		return offset->slice == 0 ? cqrs_projection_rebuild_all : NULL;
	if (partition->retry && reached >= partition->retry_after)
		return cqrs_projection_forward_parked;
	if (!known || reached < (projection->barrier > 0 ? Min(mark, projection->barrier) : mark))
		return cqrs_projection_forward;
	if (projection->barrier > 0)
		return offset->slice == 0 && is_at_barrier(projection) ? cqrs_projection_split_again : NULL;
	return projection->sync ? cqrs_projection_sync_attach : NULL;
}

static bool
has_waited(TimestampTz until, TimestampTz now, long *wait_ms)
{
	long		left;

	if (until <= now)
		return true;
	left = TimestampDifferenceMilliseconds(now, until) + 1;
	*wait_ms = *wait_ms < 0 ? left : Min(*wait_ms, left);
	return false;
}

/* As far as memory tells; the step looks at the offsets themselves. */
static bool
is_at_barrier(const Projection *projection)
{
	for (int i = 0; i < partition_count; i++)
	{
		const Partition *partition = &partitions[i];

		if (cqrs_slice_same_text(partition->offset.projection, projection->registered.name) &&
			(partition->progress->revision != partition->offset.revision ||
			 partition->progress->reached < projection->barrier))
			return false;
	}
	return true;
}

static void
do_work(Partition *partition, StepWork work)
{
	ProjectionProgress *progress = partition->progress;
	MemoryContext context = AllocSetContextCreate(TopMemoryContext, "pg_cqrs step", ALLOCSET_DEFAULT_SIZES);
	Step		step = {.partition = partition};
	ErrorData  *error;

	MemoryContextSwitchTo(context);
	if (!cqrs_projection_progress_claim(progress, text_to_cstring(partition->offset.projection), partition->offset.slice))
	{
		MemoryContextSwitchTo(TopMemoryContext);
		MemoryContextDelete(context);
		return;
	}
	pgstat_report_activity(STATE_RUNNING, psprintf("projection %s", NameStr(progress->projection)));
	error = cqrs_projection_step_run(&step, work, NULL);
	if (error)
		cqrs_projection_failure_handle(&step, error);
	else if (step.leased)
	{
		cqrs_projection_failure_cleared(&step);
		cqrs_projection_progress_reached(progress, partition->offset.revision, step.reached);
		if (step.events > 0)
			cqrs_projection_progress_count(progress, step.events);
		cqrs_worker_process_succeeded();
	}
	if (progress->rebuild_started_at != 0)
		cqrs_projection_progress_rebuild(progress, 0, 0, 0);
	cqrs_projection_progress_release(progress);
	MemoryContextSwitchTo(TopMemoryContext);
	MemoryContextDelete(context);
	pgstat_report_stat(false);
}
