/*
 * projection_progress.c
 *		How far the partitions of projections are, for all to see.
 *
 * The truth is in cqrs.projection_offset, and moves with the transaction of a
 * batch.  Here is what need not survive: how far the partition was read where
 * nothing matched, what it is failing at, and what the views show.  An entry
 * is made when somebody first asks for it, and filled by a worker from the
 * partition's offset.
 *
 * Names and revisions are unique in an installation only: CREATE EXTENSION
 * begins anew with them, and a restore brings back those of the dump.  So an
 * entry says of which installation it is, by the OID of cqrs.projection.
 *
 * Shared state and who touches it:
 *	the array	entries are made and freed under the lock, exclusive, and looked
 *				up under it, shared.  An entry is freed by a worker of its
 *				database that has claimed it, or when the database is gone.
 *	worker		by compare-and-exchange from 0 (claim) and back (release), by a
 *				process that lives; one that exits gives back what it has.
 *	wanted		counted up and down by sessions, atomically
 *	the rest	written by who has claimed it, read by all, under the mutex;
 *				what it is failing at is of no use to others but to be shown,
 *				word by word, and is written without.
 *
 * A claim is about who tries; what guards the projection is the lock on the
 * offset's row, which every batch takes besides.
 */
#include "postgres.h"

#include <math.h>

#include "funcapi.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "storage/ipc.h"
#include "utils/builtins.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

#include "catalog.h"
#include "compat.h"
#include "projection_progress.h"
#include "settings.h"
#include "shmem.h"

#define RATE_SECONDS	5.0		/* over which the rate is smoothed */
#define STATUS_COLUMNS	19

static ProjectionProgress *entries;
static LWLock *lock;

static ProjectionProgress *claimed = NULL;	/* by this process */

static Oid	installation(void);
static bool is_named(const ProjectionProgress *progress, const char *projection, int slice);
static ProjectionProgress *find(Oid installed, const char *projection, int slice);
static ProjectionProgress *find_or_make(const char *projection, int slice);
static ProjectionProgress *make(Oid installed, const char *projection, int slice);
static int	count_available(void);
static void free_dropped(void);
static void refuse_full(void);
static void on_exit_claimant(int code, Datum arg);
static void put_status(ReturnSetInfo *rsinfo, const ProjectionProgress *progress, int worker);
static Datum time_or_null(TimestampTz time, bool *isnull);

static Size
progress_size(void)
{
	return mul_size(cqrs_max_projection_partitions, sizeof(ProjectionProgress));
}

static void
init_progress(void *area)
{
	for (int i = 0; i < cqrs_max_projection_partitions; i++)
	{
		ProjectionProgress *entry = &((ProjectionProgress *) area)[i];

		pg_atomic_init_u32(&entry->worker, 0);
		pg_atomic_init_u32(&entry->wanted, 0);
		ConditionVariableInit(&entry->moved);
		SpinLockInit(&entry->mutex);
	}
}

void
cqrs_projection_progress_init(void)
{
	static const SharedArea area = {
		"pg_cqrs projection progress", progress_size, init_progress, (void **) &entries, &lock
	};

	cqrs_shmem_register(&area);
}

/* NULL if nobody has made one. */
ProjectionProgress *
cqrs_projection_progress_find(const char *projection, int slice)
{
	Oid			installed = installation();
	ProjectionProgress *entry;

	LWLockAcquire(lock, LW_SHARED);
	entry = find(installed, projection, slice);
	LWLockRelease(lock);
	return entry;
}

ProjectionProgress *
cqrs_projection_progress_open(const char *projection, int slice)
{
	ProjectionProgress *entry = cqrs_projection_progress_find(projection, slice);

	if (entry)
		return entry;
	entry = find_or_make(projection, slice);
	if (entry == NULL)
	{
		free_dropped();
		entry = find_or_make(projection, slice);
	}
	if (entry == NULL)
		refuse_full();
	return entry;
}

/* An error unless this database can have so many, as far as is known now. */
void
cqrs_projection_progress_reserve(int partitions)
{
	if (count_available() < partitions)
		free_dropped();
	if (count_available() < partitions)
		refuse_full();
}

/* Is the entry still that of the partition?  For sure only while it is claimed. */
bool
cqrs_projection_progress_is(const ProjectionProgress *progress, const char *projection, int slice)
{
	return is_named(progress, projection, slice) && cqrs_projection_progress_is_installed(progress);
}

/* Is the entry about the extension as it is installed now? */
bool
cqrs_projection_progress_is_installed(const ProjectionProgress *progress)
{
	return progress->installation == installation();
}

/*
 * False if another worker is at it, or if it was given to a partition of
 * another name.  Of which installation it is, who leases the offset looks.
 */
bool
cqrs_projection_progress_claim(ProjectionProgress *progress, const char *projection, int slice)
{
	static bool registered = false;
	uint32		nobody = 0;

	Assert(claimed == NULL);
	if (!registered)
		before_shmem_exit(on_exit_claimant, (Datum) 0);
	registered = true;
	if (!pg_atomic_compare_exchange_u32(&progress->worker, &nobody, (uint32) MyProcPid))
		return false;
	claimed = progress;
	if (is_named(progress, projection, slice))
		return true;
	cqrs_projection_progress_release(progress);
	return false;
}

void
cqrs_projection_progress_release(ProjectionProgress *progress)
{
	Assert(claimed == progress);
	claimed = NULL;
	pg_atomic_write_u32(&progress->worker, 0);
}

/*
 * Has those who wait look again at what is registered, and frees the entries
 * of partitions that are no more.
 */
void
cqrs_projection_progress_changed(bool (*exists) (const char *projection, int slice))
{
	Oid			installed = installation();

	for (int i = 0; i < cqrs_max_projection_partitions; i++)
	{
		ProjectionProgress *entry = &entries[i];
		NameData	projection = entry->projection;
		int			slice = entry->slice;

		if (entry->database != MyDatabaseId)
			continue;
		if ((entry->installation != installed || !exists(NameStr(projection), slice)) &&
			cqrs_projection_progress_claim(entry, NameStr(projection), slice))
		{
			/* In this order: who makes it anew shall find nobody at it. */
			LWLockAcquire(lock, LW_EXCLUSIVE);
			cqrs_projection_progress_release(entry);
			entry->database = InvalidOid;
			LWLockRelease(lock);
		}
		ConditionVariableBroadcast(&entry->moved);
	}
}

void
cqrs_projection_progress_want(ProjectionProgress *progress, bool wanted)
{
	(void) pg_atomic_fetch_add_u32(&progress->wanted, wanted ? 1 : -1);
}

bool
cqrs_projection_progress_is_wanted(ProjectionProgress *progress)
{
	return pg_atomic_read_u32(&progress->wanted) > 0;
}

/* Moves only forward, unless the offset was changed by somebody. */
void
cqrs_projection_progress_reached(ProjectionProgress *progress, int64 revision, int64 position)
{
	SpinLockAcquire(&progress->mutex);
	if (progress->revision != revision)
	{
		progress->limit = 0;
		progress->attempts = 0;
		progress->parked_in_row = 0;
		progress->retry_at = 0;
		progress->reached = position;
	}
	progress->revision = revision;
	progress->reached = Max(progress->reached, position);
	SpinLockRelease(&progress->mutex);
	ConditionVariableBroadcast(&progress->moved);
}

void
cqrs_projection_progress_count(ProjectionProgress *progress, int64 events)
{
	TimestampTz now = GetCurrentTimestamp();
	double		seconds;

	SpinLockAcquire(&progress->mutex);
	progress->batches++;
	progress->events += events;
	seconds = progress->counted_at == 0 ? 0 : (now - progress->counted_at) / (double) USECS_PER_SEC;
	/* Each second that passes without events takes its share off. */
	progress->events_per_second = progress->events_per_second * Max(0.0, 1 - seconds / RATE_SECONDS) +
		events / RATE_SECONDS;
	progress->counted_at = now;
	SpinLockRelease(&progress->mutex);
}

void
cqrs_projection_progress_failed(ProjectionProgress *progress, const ErrorData *error)
{
	TimestampTz now = GetCurrentTimestamp();
	char		message[CQRS_PROGRESS_ERROR_BYTES];
	const char *whole = error->message ? error->message : "";

	memset(message, 0, sizeof(message));
	memcpy(message, whole, pg_mbcliplen(whole, strlen(whole), sizeof(message) - 1));
	SpinLockAcquire(&progress->mutex);
	progress->retries++;
	progress->failed_at = now;
	progress->sqlerrcode = error->sqlerrcode;
	memcpy(progress->error, message, sizeof(message));
	SpinLockRelease(&progress->mutex);
}

/* A target of 0: there is no rebuild, or none any more. */
void
cqrs_projection_progress_rebuild(ProjectionProgress *progress, int64 events, int64 position, int64 target)
{
	TimestampTz now = GetCurrentTimestamp();

	SpinLockAcquire(&progress->mutex);
	if (target == 0)
		progress->rebuild_started_at = 0;
	else if (progress->rebuild_started_at == 0)
		progress->rebuild_started_at = now;
	progress->rebuild_events = events;
	progress->rebuild_position = position;
	progress->rebuild_target = target;
	SpinLockRelease(&progress->mutex);
}

/* Up to where it is, since its offset has that revision; 0: not known. */
int64
cqrs_projection_progress_read(ProjectionProgress *progress, int64 revision)
{
	int64		reached;

	SpinLockAcquire(&progress->mutex);
	reached = progress->revision == revision ? progress->reached : 0;
	SpinLockRelease(&progress->mutex);
	return reached;
}

/* The entries of this database, for the views. */
PG_FUNCTION_INFO_V1(cqrs_projection_progress);
Datum
cqrs_projection_progress(PG_FUNCTION_ARGS)
{
	Oid			installed = installation();

	InitMaterializedSRF(fcinfo, 0);
	LWLockAcquire(lock, LW_SHARED);
	for (int i = 0; i < cqrs_max_projection_partitions; i++)
	{
		ProjectionProgress copy;

		if (entries[i].database != MyDatabaseId || entries[i].installation != installed)
			continue;
		SpinLockAcquire(&entries[i].mutex);
		memcpy(&copy, &entries[i], sizeof(copy));
		SpinLockRelease(&entries[i].mutex);
		put_status((ReturnSetInfo *) fcinfo->resultinfo, &copy,
				   (int) pg_atomic_read_u32(&entries[i].worker));
	}
	LWLockRelease(lock);
	return (Datum) 0;
}

/* An extension that is made anew has another. */
static Oid
installation(void)
{
	return cqrs_catalog_relation("projection");
}

static bool
is_named(const ProjectionProgress *progress, const char *projection, int slice)
{
	return progress->database == MyDatabaseId && progress->slice == slice &&
		strcmp(NameStr(progress->projection), projection) == 0;
}

/* The caller holds the lock. */
static ProjectionProgress *
find(Oid installed, const char *projection, int slice)
{
	for (int i = 0; i < cqrs_max_projection_partitions; i++)
		if (entries[i].installation == installed && is_named(&entries[i], projection, slice))
			return &entries[i];
	return NULL;
}

/* NULL if there is no room. */
static ProjectionProgress *
find_or_make(const char *projection, int slice)
{
	Oid			installed = installation();
	ProjectionProgress *entry;

	LWLockAcquire(lock, LW_EXCLUSIVE);
	entry = find(installed, projection, slice);
	if (entry == NULL)
		entry = make(installed, projection, slice);
	LWLockRelease(lock);
	return entry;
}

/* The caller holds the lock, exclusive; NULL if there is no room. */
static ProjectionProgress *
make(Oid installed, const char *projection, int slice)
{
	for (int i = 0; i < cqrs_max_projection_partitions; i++)
	{
		ProjectionProgress *entry = &entries[i];

		/*
		 * A worker with an old list may have claimed a free one for a moment,
		 * and who wanted to change what it was about takes that back.
		 */
		if (OidIsValid(entry->database) || pg_atomic_read_u32(&entry->worker) != 0 ||
			pg_atomic_read_u32(&entry->wanted) != 0)
			continue;
		SpinLockAcquire(&entry->mutex);
		memset(&entry->revision, 0, sizeof(ProjectionProgress) - offsetof(ProjectionProgress, revision));
		SpinLockRelease(&entry->mutex);
		entry->installation = installed;
		entry->slice = slice;
		namestrcpy(&entry->projection, projection);
		entry->database = MyDatabaseId;
		return entry;
	}
	return NULL;
}

/*
 * Those that are free, and those that this database has already: what it does
 * not need any more a worker frees before it makes others.
 */
static int
count_available(void)
{
	int			count = 0;

	LWLockAcquire(lock, LW_SHARED);
	for (int i = 0; i < cqrs_max_projection_partitions; i++)
		count += !OidIsValid(entries[i].database) || entries[i].database == MyDatabaseId;
	LWLockRelease(lock);
	return count;
}

/* Nobody is at a partition of a database that was dropped. */
static void
free_dropped(void)
{
	for (int i = 0; i < cqrs_max_projection_partitions; i++)
	{
		Oid			database = entries[i].database;

		if (!OidIsValid(database) || SearchSysCacheExists1(DATABASEOID, ObjectIdGetDatum(database)))
			continue;
		LWLockAcquire(lock, LW_EXCLUSIVE);
		if (entries[i].database == database)
			entries[i].database = InvalidOid;
		LWLockRelease(lock);
	}
}

static void
refuse_full(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
			 errmsg("the projections of this server have too many partitions"),
			 errdetail("There is room for %d.", cqrs_max_projection_partitions),
			 errhint("Raise cqrs.max_projection_partitions and restart the server.")));
}

static void
on_exit_claimant(int code, Datum arg)
{
	if (claimed == NULL)
		return;
	cqrs_projection_progress_rebuild(claimed, 0, 0, 0);
	cqrs_projection_progress_release(claimed);
}

static void
put_status(ReturnSetInfo *rsinfo, const ProjectionProgress *progress, int worker)
{
	double		idle = (GetCurrentTimestamp() - progress->counted_at) / (double) USECS_PER_SEC;
	Datum		values[STATUS_COLUMNS];
	bool		nulls[STATUS_COLUMNS] = {false};
	bool		failed = progress->failed_at != 0;
	int			i = 0;

	values[i++] = CStringGetTextDatum(NameStr(progress->projection));
	values[i++] = Int32GetDatum(progress->slice);
	nulls[i] = worker == 0;
	values[i++] = Int32GetDatum(worker);
	values[i++] = Int64GetDatum(progress->revision);
	values[i++] = Int64GetDatum(progress->reached);
	values[i++] = Int64GetDatum(progress->events);
	values[i++] = Int64GetDatum(progress->batches);
	values[i++] = Float8GetDatum(rint(progress->events_per_second * Max(0.0, 1 - idle / RATE_SECONDS) * 10) / 10);
	values[i++] = Int64GetDatum(progress->retries);
	values[i++] = Int32GetDatum(progress->attempts);
	values[i] = time_or_null(progress->retry_at, &nulls[i]);
	i++;
	nulls[i] = !failed;
	values[i++] = CStringGetTextDatum(progress->error);
	nulls[i] = !failed;
	values[i++] = CStringGetTextDatum(unpack_sql_state(progress->sqlerrcode));
	values[i] = time_or_null(progress->failed_at, &nulls[i]);
	i++;
	values[i] = time_or_null(progress->first_failed_at, &nulls[i]);
	i++;
	values[i] = time_or_null(progress->rebuild_started_at, &nulls[i]);
	i++;
	values[i++] = Int64GetDatum(progress->rebuild_events);
	values[i++] = Int64GetDatum(progress->rebuild_position);
	values[i++] = Int64GetDatum(progress->rebuild_target);
	Assert(i == STATUS_COLUMNS);
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
}

static Datum
time_or_null(TimestampTz time, bool *isnull)
{
	*isnull = time == 0;
	return TimestampTzGetDatum(time);
}
