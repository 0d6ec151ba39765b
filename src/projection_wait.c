/*
 * projection_wait.c
 *		Read your own write: waits until a projection has come to a position.
 *
 * A partition has come there if its offset has, or if a worker says so in
 * shared memory (projection_progress.c), which goes on where nothing matches,
 * about an offset of the same revision.  So a change of the projection cannot
 * be mistaken for what was before it.
 *
 * Workers wake who waits, after each step and after each change.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "catalog.h"
#include "compat.h"
#include "duration.h"
#include "errors.h"
#include "journal.h"
#include "position.h"
#include "projection_progress.h"
#include "projection_registry.h"
#include "role.h"
#include "statement.h"

#define MAX_WAIT_MS		1e12	/* some 30 years */
#define LOOK_AGAIN_MS	1000	/* a worker that is started anew wakes nobody */

static Statement committed_statement = {
	.sql = "SELECT coalesce(max(position), 0) FROM cqrs.journal"
};

static Statement offsets_statement = {
	.sql = "SELECT slice, position, revision FROM cqrs.projection_offset WHERE projection = $1 ORDER BY position",
	.nargs = 1,
	.argtypes = {TEXTOID}
};

static int64 last_committed(void);
static void refuse_in_vain(void);
static bool has_reached(text *name, int64 up_to, int64 *position, ProjectionProgress **behind);
static Projection *get_running(text *name);
static void refuse_unknown(text *name);
static void raise_timeout(text *name, int64 up_to, int64 position);

PG_FUNCTION_INFO_V1(cqrs_wait_for_projection);
Datum
cqrs_wait_for_projection(PG_FUNCTION_ARGS)
{
	text	   *name = PG_ARGISNULL(0) ? NULL : PG_GETARG_TEXT_PP(0);
	TimestampTz deadline;
	int64		up_to;
	int64		position;
	ProjectionProgress *behind;

	if (name == NULL || PG_ARGISNULL(2))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("%s is NULL", name ? "timeout" : "projection")));
	deadline = TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
										   (int64) Min(Max(cqrs_duration_ms(PG_GETARG_INTERVAL_P(2)), 0), MAX_WAIT_MS));
	refuse_in_vain();
	up_to = PG_ARGISNULL(1) ? last_committed() : PG_GETARG_INT64(1);
	if (!cqrs_position_may_be_given(up_to))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("no position " INT64_FORMAT " was ever given in this journal", up_to),
				 errdetail("The last position is " INT64_FORMAT ".", cqrs_position_last())));

	while (!has_reached(name, up_to, &position, &behind))
	{
		long		left = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), deadline);

		if (left <= 0)
			raise_timeout(name, up_to, position);
		/* Get in line, then look once more, or a wake-up in between is lost. */
		ConditionVariablePrepareToSleep(&behind->moved);
		if (!has_reached(name, up_to, &position, &behind))
			(void) ConditionVariableTimedSleep(&behind->moved, Min(left, LOOK_AGAIN_MS), PG_WAIT_EXTENSION);
	}
	ConditionVariableCancelSleep();
	PG_RETURN_INT64(position);
}

/* What the caller could not see the result of is not worth waiting for. */
static void
refuse_in_vain(void)
{
	if (cqrs_position_held_by_me())
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("cannot wait for a projection in a transaction that has appended"),
				 errdetail("What it has written is projected after its commit."),
				 errhint("Commit first, or use a sync projection.")));
	if (IsolationUsesXactSnapshot())
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("cannot wait for a projection in a transaction with a snapshot of its own"),
				 errdetail("The transaction would not see what is projected meanwhile."),
				 errhint("Use READ COMMITTED, or wait before the transaction.")));
}

/* The last position of what is visible now. */
static int64
last_committed(void)
{
	RoleScope	scope;
	int64		last;

	if (!OidIsValid(cqrs_journal_relid()))
		return 0;
	cqrs_role_enter(&scope, cqrs_catalog_relation_owner(cqrs_journal_relid()));
	PushActiveSnapshot(GetLatestSnapshot());
	SPI_connect();
	(void) cqrs_statement_read(&committed_statement, NULL, NULL, 0);
	last = DatumGetInt64(cqrs_statement_column(0, 1, NULL));
	SPI_finish();
	PopActiveSnapshot();
	cqrs_role_leave(&scope);
	return last;
}

/* If not, gives the position reached, and a partition that is behind. */
static bool
has_reached(text *name, int64 up_to, int64 *position, ProjectionProgress **behind)
{
	Datum		value = PointerGetDatum(name);
	Projection *projection = get_running(name);
	bool		reached = !projection->rebuild;
	RoleScope	scope;
	uint64		count;

	*position = up_to;
	*behind = NULL;
	if (projection->has_trigger)
		return true;
	cqrs_role_enter(&scope, cqrs_catalog_extension_owner());
	PushActiveSnapshot(GetLatestSnapshot());
	SPI_connect();
	count = cqrs_statement_read(&offsets_statement, &value, NULL, 0);
	for (uint64 i = 0; i < count; i++)
	{
		int64		offset = DatumGetInt64(cqrs_statement_column(i, 2, NULL));
		ProjectionProgress *progress =
		cqrs_projection_progress_open(projection->name, DatumGetInt32(cqrs_statement_column(i, 1, NULL)));

		if (projection->rebuild ||
			(offset < up_to &&
			 cqrs_projection_progress_read(progress, DatumGetInt64(cqrs_statement_column(i, 3, NULL))) < up_to))
		{
			reached = false;
			*position = Min(*position, offset);
			*behind = progress;
		}
	}
	SPI_finish();
	PopActiveSnapshot();
	cqrs_role_leave(&scope);
	/* It was dropped, and we are about to be told. */
	if (count == 0)
		refuse_unknown(name);
	return reached;
}

/* Who waits for one that does not run would wait in vain. */
static Projection *
get_running(text *name)
{
	Projection *projection = cqrs_projection_registry_find(name);

	if (projection == NULL)
		refuse_unknown(name);
	if (projection->state != PROJECTION_RUNNING)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("projection \"%s\" is %s", projection->name,
						projection->state == PROJECTION_PAUSED ? "paused" : "stopped"),
				 errhint("See cqrs.projection_status, then run SELECT cqrs.resume_projection(%s).",
						 quote_literal_cstr(projection->name))));
	return projection;
}

static void
refuse_unknown(text *name)
{
	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_OBJECT),
			 errmsg("projection \"%s\" does not exist", text_to_cstring(name))));
}

static void
raise_timeout(text *name, int64 up_to, int64 position)
{
	ereport(ERROR,
			(errcode(CQRS_WAIT_TIMED_OUT),
			 errmsg("projection \"%s\" has not come to position " INT64_FORMAT " within the time",
					text_to_cstring(name), up_to),
			 errdetail("Its offset is " INT64_FORMAT ", the high-water mark " INT64_FORMAT ".",
					   position, cqrs_position_high_water_mark()),
			 errhint("See cqrs.projection_status for what it is doing, and cqrs.stat_appending for who holds the mark back.")));
}
