/*
 * projection_control.c
 *		What somebody wants of a projection while it runs: to pause, to begin
 *		anew, to go on with what has failed.
 *
 * All of it is a change of rows (projection.c), which the workers carry out
 * when it is committed.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/builtins.h"

#include "compat.h"
#include "position.h"
#include "projection.h"
#include "projection_sync.h"
#include "statement.h"

static Statement pause_statement = {
	.sql = "UPDATE cqrs.projection SET state = 'paused', revision = nextval('cqrs.revision_seq') WHERE name = $1",
	.nargs = 1,
	.argtypes = {TEXTOID}
};

static Statement resume_statement = {
	.sql = "UPDATE cqrs.projection SET state = 'running', last_error = NULL, last_sqlstate = NULL,"
	" stopped_at = NULL, revision = nextval('cqrs.revision_seq') WHERE name = $1",
	.nargs = 1,
	.argtypes = {TEXTOID}
};

/* A rebuild begins where it has begun, and a barrier lies after what is replayed. */
static Statement barrier_statement = {
	.sql = "UPDATE cqrs.projection SET start_position = least(start_position, $2),"
	" barrier = CASE WHEN barrier IS NOT NULL THEN greatest($2,"
	" (SELECT max(replay_until) FROM cqrs.projection_offset WHERE projection = $1)) END WHERE name = $1",
	.nargs = 2,
	.argtypes = {TEXTOID, INT8OID}
};

/* What was projected before is projected for a second time then. */
static Statement reset_statement = {
	.sql = "UPDATE cqrs.projection_offset SET replay_until = greatest(replay_until, position), position = $2"
	" WHERE projection = $1",
	.nargs = 2,
	.argtypes = {TEXTOID, INT8OID}
};

static Statement revise_statement = {
	.sql = "UPDATE cqrs.projection SET revision = nextval('cqrs.revision_seq') WHERE name = $1",
	.nargs = 1,
	.argtypes = {TEXTOID}
};

static Statement rebuild_statement = {
	.sql = "UPDATE cqrs.projection SET rebuild = true, state = 'running', last_error = NULL, last_sqlstate = NULL,"
	" stopped_at = NULL, revision = nextval('cqrs.revision_seq') WHERE name = $1",
	.nargs = 1,
	.argtypes = {TEXTOID}
};

static Statement retry_statement = {
	.sql = "UPDATE cqrs.parked_entity SET retry = true WHERE projection = $1"
	" AND ($2 IS NULL OR entity_type = $2) AND ($3 IS NULL OR entity_id = $3)",
	.nargs = 3,
	.argtypes = {TEXTOID, TEXTOID, TEXTOID}
};

/*
 * The event goes; what has waited behind it is replayed.  Where there were no
 * attempts it is gone already, and the next one has not failed.
 */
static Statement discard_statement = {
	.sql = "WITH discarded AS (UPDATE cqrs.parked_entity SET position = position + 1, attempts = 0, retry = true WHERE projection = $1 AND attempts > 0"
	" AND ($2 IS NULL OR entity_type = $2) AND ($3 IS NULL OR entity_id = $3) RETURNING slice),"
	" others AS (UPDATE cqrs.parked_entity SET retry = true WHERE projection = $1 AND attempts = 0"
	" AND ($2 IS NULL OR entity_type = $2) AND ($3 IS NULL OR entity_id = $3)),"
	" counted AS (UPDATE cqrs.projection_offset o SET skipped = skipped + d.count"
	" FROM (SELECT o.slice, count(*) FROM discarded d JOIN cqrs.projection_offset o"
	" ON o.projection = $1 AND d.slice >= o.slice AND d.slice < o.next_slice GROUP BY o.slice) d"
	" WHERE o.projection = $1 AND o.slice = d.slice)"
	" SELECT FROM discarded",
	.nargs = 3,
	.argtypes = {TEXTOID, TEXTOID, TEXTOID}
};

static void change_state(FunctionCallInfo fcinfo, Statement *statement);
static int64 change_parked(FunctionCallInfo fcinfo, Statement *statement);
static void refuse_trigger(const Projection *projection, const char *what);

PG_FUNCTION_INFO_V1(cqrs_pause_projection);
Datum
cqrs_pause_projection(PG_FUNCTION_ARGS)
{
	change_state(fcinfo, &pause_statement);
	PG_RETURN_VOID();
}

PG_FUNCTION_INFO_V1(cqrs_resume_projection);
Datum
cqrs_resume_projection(PG_FUNCTION_ARGS)
{
	change_state(fcinfo, &resume_statement);
	PG_RETURN_VOID();
}

PG_FUNCTION_INFO_V1(cqrs_reset_projection);
Datum
cqrs_reset_projection(PG_FUNCTION_ARGS)
{
	text	   *name = cqrs_projection_name_argument(fcinfo);
	int64		last = cqrs_position_last();
	Datum		values[] = {PointerGetDatum(name), PG_GETARG_DATUM(1)};
	ProjectionChange change;

	if (PG_ARGISNULL(1) || PG_GETARG_INT64(1) < 0 || PG_GETARG_INT64(1) > last)
		ereport(ERROR,
				(errcode(PG_ARGISNULL(1) ? ERRCODE_NULL_VALUE_NOT_ALLOWED : ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("to_position must be a position that was given"),
				 errdetail("The last position is " INT64_FORMAT ".", last),
				 errhint("0 is before the first event.")));
	cqrs_projection_begin_change(&change, name);
	refuse_trigger(change.projection, "reset");
	(void) cqrs_statement_write(&reset_statement, values, NULL);
	(void) cqrs_statement_write(&barrier_statement, values, NULL);
	(void) cqrs_statement_write(&revise_statement, values, NULL);
	cqrs_projection_end_change(&change);
	PG_RETURN_VOID();
}

PG_FUNCTION_INFO_V1(cqrs_rebuild_projection);
Datum
cqrs_rebuild_projection(PG_FUNCTION_ARGS)
{
	text	   *name = cqrs_projection_name_argument(fcinfo);
	Datum		value = PointerGetDatum(name);
	ProjectionChange change;

	cqrs_projection_begin_change(&change, name);
	if (change.projection->table_count == 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("projection \"%s\" has no tables", change.projection->name),
				 errdetail("A rebuild empties the tables that the projection fills."),
				 errhint("Name them: SELECT cqrs.alter_projection(%s, tables => '{...}').",
						 quote_literal_cstr(change.projection->name))));
	if (change.projection->state == PROJECTION_PAUSED)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("projection \"%s\" is paused", change.projection->name),
				 errhint("Resume it first: SELECT cqrs.resume_projection(%s).",
						 quote_literal_cstr(change.projection->name))));
	if (change.projection->has_trigger)
		cqrs_projection_sync_detach(change.projection);
	(void) cqrs_statement_write(&rebuild_statement, &value, NULL);
	cqrs_projection_end_change(&change);
	PG_RETURN_VOID();
}

PG_FUNCTION_INFO_V1(cqrs_retry_parked);
Datum
cqrs_retry_parked(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT64(change_parked(fcinfo, &retry_statement));
}

PG_FUNCTION_INFO_V1(cqrs_discard_parked);
Datum
cqrs_discard_parked(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT64(change_parked(fcinfo, &discard_statement));
}

static void
change_state(FunctionCallInfo fcinfo, Statement *statement)
{
	text	   *name = cqrs_projection_name_argument(fcinfo);
	Datum		value = PointerGetDatum(name);
	ProjectionChange change;

	cqrs_projection_begin_change(&change, name);
	if (statement == &pause_statement)
		refuse_trigger(change.projection, "paused");
	(void) cqrs_statement_write(statement, &value, NULL);
	cqrs_projection_end_change(&change);
}

/* Returns how many entities it is about. */
static int64
change_parked(FunctionCallInfo fcinfo, Statement *statement)
{
	text	   *name = cqrs_projection_name_argument(fcinfo);
	Datum		values[] = {PointerGetDatum(name), PG_GETARG_DATUM(1), PG_GETARG_DATUM(2)};
	char		nulls[] = {' ', PG_ARGISNULL(1) ? 'n' : ' ', PG_ARGISNULL(2) ? 'n' : ' '};
	ProjectionChange change;
	int64		count;

	cqrs_projection_begin_change(&change, name);
	count = (int64) cqrs_statement_write(statement, values, nulls);
	(void) cqrs_statement_write(&revise_statement, values, NULL);
	cqrs_projection_end_change(&change);
	return count;
}

/* A trigger has no offset, and leaving events out would lose them. */
static void
refuse_trigger(const Projection *projection, const char *what)
{
	if (projection->has_trigger)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("sync projection \"%s\" cannot be %s", projection->name, what),
				 errdetail("It is part of every append."),
				 errhint("Make it an async one first: SELECT cqrs.alter_projection(%s, mode => 'async').",
						 quote_literal_cstr(projection->name))));
}
