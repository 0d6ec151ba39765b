/*
 * journal_read.c
 *		Reading the journal: one entity in order, everything in order.
 *
 * All of it runs as the caller: SELECT on cqrs.journal is the right to read,
 * and its row security applies.
 *
 * cqrs.history() reads with the snapshot of the statement that calls it.
 * cqrs.read_events() must not: what is at or below the high-water mark is seen
 * for sure only by a snapshot taken after the mark.  So it takes one of its
 * own, whatever the isolation level.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "duration.h"
#include "errors.h"
#include "identity.h"
#include "journal.h"
#include "position.h"
#include "statement.h"

#define MAX_WAIT_MS		1e12	/* some 30 years */

static Statement history_statement = {
	.sql = "SELECT " CQRS_EVENT_COLUMNS " FROM cqrs.journal"
	" WHERE entity_type = $1 AND entity_id = $2 AND version > $3 ORDER BY version",
	.nargs = 3,
	.argtypes = {TEXTOID, TEXTOID, INT8OID}
};

static Statement read_events_statement = {
	.sql = "SELECT " CQRS_EVENT_COLUMNS " FROM cqrs.journal"
	" WHERE position > $1 AND position <= $2"
	" AND ($4::text[] IS NULL OR entity_type = ANY ($4))"
	" AND ($5::text[] IS NULL OR event_type = ANY ($5))"
	" AND ($6::int4range IS NULL OR slice <@ $6)"
	" ORDER BY position LIMIT $3",
	.nargs = 6,
	.argtypes = {INT8OID, INT8OID, INT4OID, TEXTARRAYOID, TEXTARRAYOID, INT4RANGEOID}
};

static Relation open_for_caller(void);
static void read_range(JournalScan *scan, ReturnSetInfo *rsinfo, int max_events);
static void read_as_caller(Statement *statement, Datum *values, const char *nulls, ReturnSetInfo *rsinfo);
static int64 check_after_position(int64 after);
static void refuse_null(FunctionCallInfo fcinfo, int argument, const char *name);

PG_FUNCTION_INFO_V1(cqrs_history);
Datum
cqrs_history(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	Datum		values[] = {PG_GETARG_DATUM(0), PG_GETARG_DATUM(1), PG_GETARG_DATUM(2)};
	Relation	journal;

	refuse_null(fcinfo, 0, "entity_type");
	refuse_null(fcinfo, 1, "entity_id");
	refuse_null(fcinfo, 2, "after_version");
	InitMaterializedSRF(fcinfo, 0);
	if (!OidIsValid(cqrs_journal_relid()))
		return (Datum) 0;
	journal = open_for_caller();
	if (journal)
	{
		int64		after = PG_GETARG_INT64(2);
		EntityKey	key;
		JournalScan scan = {.use = JOURNAL_READ};

		cqrs_slice_key(&key, PG_GETARG_TEXT_PP(0), PG_GETARG_TEXT_PP(1));
		if (after < PG_INT64_MAX)
		{
			cqrs_journal_table_scan_entity(&scan, journal, &key, after + 1, PG_INT64_MAX);
			read_range(&scan, rsinfo, INT_MAX);
		}
		cqrs_journal_table_close(journal);
	}
	else
		read_as_caller(&history_statement, values, NULL, rsinfo);
	return (Datum) 0;
}

PG_FUNCTION_INFO_V1(cqrs_read_events);
Datum
cqrs_read_events(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	int64		after;
	int64		up_to;
	Datum		values[6];
	char		nulls[6];
	Relation	journal;
	JournalScan scan = {.use = JOURNAL_READ};

	refuse_null(fcinfo, 0, "after_position");
	refuse_null(fcinfo, 1, "max_events");
	if (PG_GETARG_INT32(1) <= 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("max_events is %d; it must be at least 1", PG_GETARG_INT32(1))));
	InitMaterializedSRF(fcinfo, 0);
	cqrs_identity_refuse_if_held("cqrs.read_events");
	after = check_after_position(PG_GETARG_INT64(0));

	/* First the mark, then what it takes to stand by it, then the snapshot. */
	up_to = cqrs_position_high_water_mark();
	if (!PG_ARGISNULL(4))
		up_to = Min(up_to, PG_GETARG_INT64(4));
	if (up_to <= after)
		return (Datum) 0;
	cqrs_position_make_safe();

	memset(nulls, ' ', sizeof(nulls));
	values[0] = Int64GetDatum(after);
	values[1] = Int64GetDatum(up_to);
	values[2] = PG_GETARG_DATUM(1);
	values[3] = PG_GETARG_DATUM(2);
	nulls[3] = PG_ARGISNULL(2) ? 'n' : ' ';
	values[4] = PG_GETARG_DATUM(3);
	nulls[4] = PG_ARGISNULL(3) ? 'n' : ' ';
	values[5] = PG_GETARG_DATUM(5);
	nulls[5] = PG_ARGISNULL(5) ? 'n' : ' ';
	PushActiveSnapshot(GetLatestSnapshot());
	journal = PG_ARGISNULL(2) && PG_ARGISNULL(3) && PG_ARGISNULL(5) ? open_for_caller() : NULL;
	if (journal)
	{
		cqrs_journal_table_scan_positions(&scan, journal, after, up_to);
		read_range(&scan, rsinfo, PG_GETARG_INT32(1));
		cqrs_journal_table_close(journal);
	}
	else
		read_as_caller(&read_events_statement, values, nulls, rsinfo);
	PopActiveSnapshot();
	return (Datum) 0;
}

PG_FUNCTION_INFO_V1(cqrs_wait_for_event);
Datum
cqrs_wait_for_event(PG_FUNCTION_ARGS)
{
	int64		after;
	int64		mark;
	double		timeout_ms;

	refuse_null(fcinfo, 0, "after_position");
	refuse_null(fcinfo, 1, "timeout");
	timeout_ms = Min(Max(cqrs_duration_ms(PG_GETARG_INTERVAL_P(1)), 0), MAX_WAIT_MS);
	cqrs_identity_refuse_if_held("cqrs.wait_for_event");
	after = check_after_position(PG_GETARG_INT64(0));
	if (cqrs_position_high_water_mark() <= after && cqrs_position_held_by_me())
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("cannot wait for events in a transaction that has appended"),
				 errdetail("The transaction holds the high-water mark back itself."),
				 errhint("Commit first.")));
	if (!cqrs_position_wait(after, (int64) timeout_ms, &mark))
		ereport(ERROR,
				(errcode(CQRS_WAIT_TIMED_OUT),
				 errmsg("no event after position " INT64_FORMAT " within the time", after),
				 errdetail("The high-water mark is " INT64_FORMAT ", the last position drawn " INT64_FORMAT ".",
						   mark, cqrs_position_last()),
				 mark < after ?
				 errhint("This standby is behind where the offset was kept; if it stays so, the offset is of another database.") :
				 errhint("If the last position is higher, see cqrs.open_positions() for who holds the mark back.")));
	cqrs_position_make_safe();
	PG_RETURN_INT64(mark);
}

/* NULL where the caller must not see all events, or reading them takes a statement. */
static Relation
open_for_caller(void)
{
	return cqrs_journal_sees_all() ? cqrs_journal_table_open(cqrs_journal_relid()) : NULL;
}

/* Reads with the active snapshot into the function's result. */
static void
read_range(JournalScan *scan, ReturnSetInfo *rsinfo, int max_events)
{
	TupleTableSlot *slot;

	for (int i = 0; i < max_events && (slot = cqrs_journal_table_next(scan)) != NULL; i++)
	{
		tuplestore_puttupleslot(rsinfo->setResult, slot);
		CHECK_FOR_INTERRUPTS();
	}
	cqrs_journal_table_end_scan(scan);
}

static void
read_as_caller(Statement *statement, Datum *values, const char *nulls, ReturnSetInfo *rsinfo)
{
	RoleScope	scope;

	cqrs_role_enter(&scope, GetUserId());
	SPI_connect();
	cqrs_statement_read_into(statement, values, nulls, rsinfo->setResult);
	SPI_finish();
	cqrs_role_leave(&scope);
}

/* An offset from the future belongs to another journal. */
static int64
check_after_position(int64 after)
{
	if (!cqrs_position_may_be_given(after))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("no position " INT64_FORMAT " was ever given in this journal", after),
				 errdetail("The last position is " INT64_FORMAT ".", cqrs_position_last()),
				 errhint("Was the offset kept for another database, or from before a restore?  "
						 "0 reads from the beginning.")));
	return after;
}

static void
refuse_null(FunctionCallInfo fcinfo, int argument, const char *name)
{
	if (PG_ARGISNULL(argument))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("%s is NULL", name)));
}
