/*
 * projection_rebuild.c
 *		A projection's tables, made anew from the journal.
 *
 * One transaction deletes the contents of the tables, projects all events up
 * to the offsets once more, and commits.  Readers keep the old contents until
 * then, by MVCC; nobody sees the tables empty or half full, and nothing locks
 * readers out.  It is right for every handler, whatever names it writes to.
 *
 * Offsets do not move: what comes after them goes on as before.  So every
 * event of a rebuild was projected before, and side effects are refused unless
 * the projection wants them.  Parked entities stay parked where they are, and
 * are replayed when the rebuild is done: the handler may be a better one now.
 *
 * Each chunk is a subtransaction, so that an event that fails can be narrowed
 * down (projection_failure.c) and parked or skipped.  No waiting: each event
 * has one attempt.  If the projection is to stop, or its fuse blows, all of it
 * is undone and the projection stops with the old contents.
 *
 * All offsets of the projection are locked, so no worker projects meanwhile.
 * Who wants to change the projection says so in shared memory, and the rebuild
 * gives way.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "utils/snapmgr.h"
#include "utils/timeout.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "entity_lock.h"
#include "projection_failure.h"
#include "projection_forward.h"
#include "projection_rebuild.h"
#include "worker.h"

static Statement finish_statement = {
	.sql = "UPDATE cqrs.projection SET rebuild = false, revision = nextval('cqrs.revision_seq') WHERE name = $1 RETURNING revision",
	.nargs = 1,
	.argtypes = {TEXTOID}
};

static Statement revise_statement = {
	.sql = "UPDATE cqrs.projection_offset SET revision = $2 WHERE projection = $1",
	.nargs = 2,
	.argtypes = {TEXTOID, INT8OID}
};

static Statement parked_statement = {
	.sql = "UPDATE cqrs.parked_entity SET retry = true WHERE projection = $1",
	.nargs = 1,
	.argtypes = {TEXTOID}
};

#define LOCK_TIMEOUT	"10s"	/* for tables and offsets; then it is tried
								 * again later */

/* A rebuild under way. */
typedef struct Rebuild
{
	Step	   *step;
	ProjectionOffset *offsets;
	int			offset_count;
	ProjectionOffset *offset;	/* of the partition that is replayed */
	MemoryContext chunk;		/* what one chunk needs */
	int64		events;
	int64		target;			/* the highest offset */
	/* Failing */
	int			limit;
	int64		suspect_until;
	int			parked_in_row;
} Rebuild;

static void lock_offsets(Rebuild *rebuild);
static bool begin(Rebuild *rebuild);
static void finish(text *name);
static void empty_tables(const Projection *projection);
static void prepare(Projection *projection);
static void replay_partition(Rebuild *rebuild, ProjectionOffset *offset);
static int64 replay_chunk(Rebuild *rebuild, int64 from);
static void read_chunk(Rebuild *rebuild, int64 from, int64 up_to);
static ErrorData *apply_chunk(Step *step);
static int64 fail_chunk(Rebuild *rebuild, int64 from, ErrorData *error);
static void give_up_event(Rebuild *rebuild, ErrorData *error);

void
cqrs_projection_rebuild_all(Step *step, void *unused)
{
	Rebuild		rebuild = {.step = step};

	step->all_or_nothing = true;
	cqrs_projection_step_limit_locks(LOCK_TIMEOUT);
	lock_offsets(&rebuild);
	if (!begin(&rebuild))
		return;
	cqrs_projection_progress_rebuild(step->partition->progress, 0, step->projection->start_position, rebuild.target);
	cqrs_projection_step_enter_owner(step);
	cqrs_projection_step_limit_locks(LOCK_TIMEOUT);
	empty_tables(step->projection);
	if (step->projection->prepare)
		prepare(step->projection);
	/* Not an event's fault, and not to be undone with a chunk. */
	cqrs_projection_batch_fire_deferred();
	for (int i = 0; i < rebuild.offset_count; i++)
		replay_partition(&rebuild, &rebuild.offsets[i]);
}

static void
lock_offsets(Rebuild *rebuild)
{
	Step	   *step = rebuild->step;
	text	   *name = step->partition->offset.projection;

	rebuild->offset_count = cqrs_projection_offset_lock_all(name);
	MemoryContextSwitchTo(step->context);
	rebuild->offsets = palloc0(sizeof(ProjectionOffset) * Max(rebuild->offset_count, 1));
	for (int i = 0; i < rebuild->offset_count; i++)
	{
		rebuild->offsets[i].projection = name;
		rebuild->offsets[i].slice = DatumGetInt32(cqrs_statement_column(i, 1, NULL));
		rebuild->target = Max(rebuild->target, DatumGetInt64(cqrs_statement_column(i, 3, NULL)));
	}
	rebuild->chunk = AllocSetContextCreate(step->context, "pg_cqrs rebuild", ALLOCSET_DEFAULT_SIZES);
}

/*
 * Writes down that it is done, which the commit makes true; our own statements
 * come before the owner's scope.  False if there is nothing to rebuild.
 */
static bool
begin(Rebuild *rebuild)
{
	Step	   *step = rebuild->step;
	ProjectionOffset committed;

	if (!cqrs_projection_step_lease(step) || !step->projection->rebuild)
		return false;
	committed = step->leased_offset;
	finish(committed.projection);
	if (!cqrs_projection_step_lease(step))
		elog(ERROR, "projection is gone");
	/* To this it goes back if all of it is undone. */
	step->leased_offset = committed;
	for (int i = 0; i < rebuild->offset_count; i++)
		if (!cqrs_projection_offset_lease(&rebuild->offsets[i]))
			elog(ERROR, "offset %d of projection \"%s\" is gone", i, step->projection->name);
	return true;
}

static void
finish(text *name)
{
	Datum		values[] = {PointerGetDatum(name), (Datum) 0};

	(void) cqrs_statement_write(&finish_statement, values, NULL);
	values[1] = cqrs_statement_column(0, 1, NULL);
	(void) cqrs_statement_write(&revise_statement, values, NULL);
	(void) cqrs_statement_write(&parked_statement, values, NULL);
	cqrs_projection_registry_changed();
	cqrs_worker_look_at_commit();
}

/* As the owner; row security that hides rows from him would leave them there. */
static void
empty_tables(const Projection *projection)
{
	(void) set_config_option("row_security", "off", PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
	SPI_connect();
	for (int i = 0; i < projection->table_count; i++)
		if (SPI_execute(psprintf("DELETE FROM %s", projection->tables[i]), false, 0) != SPI_OK_DELETE)
			elog(ERROR, "could not delete from %s", projection->tables[i]);
	SPI_finish();
	(void) set_config_option("row_security", "on", PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
}

/* It was called when the projection was created, so what it does is a replay, too. */
static void
prepare(Projection *projection)
{
	RunningHandler running;
	bool		isnull;

	cqrs_handler_resolve(projection->prepare, projection->owner);
	PushActiveSnapshot(GetTransactionSnapshot());
	if (!projection->replay_side_effects)
		cqrs_entity_lock_begin_handler(&running, RUNNING_REPLAY, NULL);
	PG_TRY();
	{
		(void) cqrs_handler_call(projection->prepare, NULL, &isnull);
	}
	PG_FINALLY();
	{
		if (!projection->replay_side_effects)
			cqrs_entity_lock_end_handler(&running);
	}
	PG_END_TRY();
	PopActiveSnapshot();
	CommandCounterIncrement();
}

/* Gives way to somebody who wants to change the projection; it begins anew then. */
static void
replay_partition(Rebuild *rebuild, ProjectionOffset *offset)
{
	Step	   *step = rebuild->step;
	ProjectionProgress *progress = step->partition->progress;
	int64		from = step->projection->start_position;

	rebuild->offset = offset;
	rebuild->limit = 0;
	rebuild->suspect_until = 0;
	while (from < offset->position)
	{
		from = replay_chunk(rebuild, from);
		cqrs_projection_progress_rebuild(progress, rebuild->events, from, rebuild->target);
		CHECK_FOR_INTERRUPTS();
		step->put_off = cqrs_projection_progress_is_wanted(progress);
		if (step->put_off)
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_IN_USE),
					 errmsg("rebuild of projection \"%s\" is put off", step->projection->name),
					 errdetail("Somebody wants to change the projection.")));
	}
}

/* Projects the next events once more; returns up to where it has come. */
static int64
replay_chunk(Rebuild *rebuild, int64 from)
{
	Step	   *step = rebuild->step;
	int64		up_to = Min(from + CQRS_PROJECTION_WINDOW, rebuild->offset->position);
	ErrorData  *error;

	read_chunk(rebuild, from, up_to);
	if (step->batch.count == 0)
		return up_to;
	step->application.replay = !step->projection->replay_side_effects;
	error = apply_chunk(step);
	if (error)
		return fail_chunk(rebuild, from, error);
	rebuild->events += step->batch.count;
	rebuild->parked_in_row = 0;
	if (step->batch.full)
		up_to = step->batch.positions[step->batch.count - 1];
	rebuild->limit = up_to >= rebuild->suspect_until ? 0 : rebuild->limit * 2;
	return up_to;
}

/* Reads as ourselves; the owner's scope is around it. */
static void
read_chunk(Rebuild *rebuild, int64 from, int64 up_to)
{
	Step	   *step = rebuild->step;
	int			limit = rebuild->limit > 0 ? rebuild->limit : step->projection->batch_size;
	EventRange	range = {rebuild->offset, from, up_to, Min(limit, step->projection->batch_size)};
	RoleScope	own;

	MemoryContextReset(rebuild->chunk);
	step->context = rebuild->chunk;
	cqrs_role_enter(&own, step->owner.user);
	SPI_connect();
	cqrs_projection_forward_read(step, &own, &range);
	SPI_finish();
	cqrs_role_leave(&own);
}

static ErrorData *
apply_chunk(Step *step)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	ErrorData  *volatile error = NULL;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(context);
	PG_TRY();
	{
		cqrs_projection_step_apply(step);
		ReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		disable_timeout(STATEMENT_TIMEOUT, false);
		MemoryContextSwitchTo(step->context);
		error = CopyErrorData();
		EmitErrorReport();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);
	CurrentResourceOwner = owner;
	return error;
}

/* Narrows the chunk, or gives the event up; returns where to go on. */
static int64
fail_chunk(Rebuild *rebuild, int64 from, ErrorData *error)
{
	Step	   *step = rebuild->step;

	if (!step->application.started || cqrs_projection_failure_is_systems(step, error))
		ReThrowError(error);
	if (step->batch.count > 1)
	{
		rebuild->limit = cqrs_projection_failure_narrow(step);
		rebuild->suspect_until = Max(rebuild->suspect_until, step->batch.positions[step->batch.count - 1]);
		return from;
	}
	give_up_event(rebuild, error);
	return step->batch.positions[0];
}

static void
give_up_event(Rebuild *rebuild, ErrorData *error)
{
	Step	   *step = rebuild->step;
	ProjectionOffset *offset = rebuild->offset;
	Advance		advance = {.position = offset->position};
	FailedEvent event = {
		.event = step->batch.events[0],
		.position = step->batch.positions[0],
		.replay_until = offset->position,
		.sqlstate = unpack_sql_state(error->sqlerrcode),
		.error = error->message,
		.attempts = 1,
		.first_failed_at = GetCurrentTimestamp()
	};
	const char *reason;
	RoleScope	own;

	if (cqrs_projection_failure_stops(step->projection))
		ReThrowError(error);
	cqrs_role_enter(&own, step->owner.user);
	SPI_connect();
	if (step->projection->on_failure == PROJECTION_PARK)
	{
		reason = cqrs_projection_failure_blown(step->projection, ++rebuild->parked_in_row);
		if (reason)
		{
			error->message = psprintf("%s (%s)", error->message, reason);
			ReThrowError(error);
		}
		advance.parked = cqrs_projection_offset_park(offset, &event);
	}
	else
		advance.skipped = 1;
	cqrs_projection_offset_advance(offset, &advance);
	SPI_finish();
	cqrs_role_leave(&own);
}
