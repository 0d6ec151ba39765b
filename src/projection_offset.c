/*
 * projection_offset.c
 *		How far a partition of a projection is.
 *
 * Whoever projects events of a partition holds a lock on the row of its
 * offset, from before he reads them until the transaction ends that has their
 * effects.  The offset moves in that transaction, by compare-and-set: that it
 * is still where it was when it was locked is an assumption, checked each
 * time, and not only the lock's promise.
 *
 * The row is found by its place, which is known from the last time; by its key
 * where that fails.  By key, each look would walk the dead versions that an
 * old snapshot of somebody else keeps.
 *
 * Who changes a projection locks all of its offsets first, in the order of
 * slices, then its definition, and gives both a new revision.  A worker locks
 * one offset, and passes by one that is locked.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"
#include "utils/typcache.h"

#include "catalog.h"
#include "compat.h"
#include "journal.h"
#include "projection_offset.h"
#include "statement.h"

/* The first parameters of the statements that park. */
#define PARKED_VALUES	8

static Statement lease_by_place_statement = {
	.sql = "SELECT ctid, next_slice, position, replay_until, revision, parked FROM cqrs.projection_offset"
	" WHERE ctid = $3 AND slice = $2 AND projection = $1 FOR UPDATE SKIP LOCKED",
	.nargs = 3,
	.argtypes = {TEXTOID, INT4OID, TIDOID}
};

static Statement lease_by_key_statement = {
	.sql = "SELECT ctid, next_slice, position, replay_until, revision, parked FROM cqrs.projection_offset"
	" WHERE slice = $2 AND projection = $1 FOR UPDATE SKIP LOCKED",
	.nargs = 2,
	.argtypes = {TEXTOID, INT4OID}
};

static Statement lock_all_statement = {
	.sql = "SELECT slice, next_slice, position, replay_until, revision, parked FROM cqrs.projection_offset"
	" WHERE projection = $1 ORDER BY slice FOR UPDATE",
	.nargs = 1,
	.argtypes = {TEXTOID}
};

static Statement any_statement = {
	.sql = "SELECT FROM cqrs.projection_offset WHERE projection = $1",
	.nargs = 1,
	.argtypes = {TEXTOID}
};

static Statement advance_statement = {
	.sql = "UPDATE cqrs.projection_offset SET position = $4, parked = parked + $5, skipped = skipped + $6"
	" WHERE ctid = $3 AND slice = $2 AND projection = $1 AND position = $7 RETURNING ctid",
	.nargs = 7,
	.argtypes = {TEXTOID, INT4OID, TIDOID, INT8OID, INT4OID, INT4OID, INT8OID}
};

static Statement park_statement = {
	.sql = "INSERT INTO cqrs.parked_entity AS k (projection, slice, entity_type, entity_id, position,"
	" sqlstate, error, last_failed_at, attempts, first_failed_at, replay_until)"
	" VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) ON CONFLICT (slice, projection, entity_type, entity_id)"
	" DO UPDATE SET replay_until = greatest(k.replay_until, k.position - 1), position = excluded.position, sqlstate = excluded.sqlstate, error = excluded.error,"
	" attempts = excluded.attempts, first_failed_at = excluded.first_failed_at,"
	" last_failed_at = excluded.last_failed_at, retry = false RETURNING xmax = 0",
	.nargs = PARKED_VALUES + 3,
	.argtypes = {
		TEXTOID, INT4OID, TEXTOID, TEXTOID, INT8OID, TEXTOID, TEXTOID, TIMESTAMPTZOID, INT4OID, TIMESTAMPTZOID, INT8OID
	}
};

static Statement park_again_statement = {
	.sql = "UPDATE cqrs.parked_entity SET position = $5, sqlstate = $6, error = $7,"
	" attempts = CASE WHEN position = $5 THEN attempts + 1 ELSE 1 END,"
	" first_failed_at = CASE WHEN position = $5 AND attempts > 0 THEN first_failed_at ELSE $8 END,"
	" last_failed_at = $8, retry = false WHERE slice = $2 AND projection = $1 AND entity_type = $3 AND entity_id = $4",
	.nargs = PARKED_VALUES,
	.argtypes = {TEXTOID, INT4OID, TEXTOID, TEXTOID, INT8OID, TEXTOID, TEXTOID, TIMESTAMPTZOID}
};

static Statement count_parked_statement = {
	.sql = "SELECT coalesce(sum(parked), 0)::integer FROM cqrs.projection_offset WHERE projection = $1",
	.nargs = 1,
	.argtypes = {TEXTOID}
};

static Statement stop_statement = {
	.sql = "UPDATE cqrs.projection SET state = 'stopped', last_sqlstate = $2, last_error = $3, stopped_at = $4"
	" WHERE name = $1 AND state = 'running'",
	.nargs = 4,
	.argtypes = {TEXTOID, TEXTOID, TEXTOID, TIMESTAMPTZOID}
};

static void fill_parked(const ProjectionOffset *offset, const FailedEvent *failed, Datum *values);
static void deform_event(Datum event, Datum *attributes);
static void take_row(ProjectionOffset *offset);

/* Locks the offset and reads it; false if it is locked, or not there. */
bool
cqrs_projection_offset_lease(ProjectionOffset *offset)
{
	Datum		values[] = {
		PointerGetDatum(offset->projection), Int32GetDatum(offset->slice), PointerGetDatum(&offset->tid)
	};

	if (ItemPointerIsValid(&offset->tid) &&
		cqrs_statement_write(&lease_by_place_statement, values, NULL) == 1)
	{
		take_row(offset);
		return true;
	}
	ItemPointerSetInvalid(&offset->tid);
	if (cqrs_statement_write(&lease_by_key_statement, values, NULL) != 1)
		return false;
	take_row(offset);
	return true;
}

/*
 * Locks all offsets of a projection, waiting for who holds one.  They are in
 * SPI_tuptable: slice, next_slice, position, replay_until, revision, parked.
 * Whoever held them may have replaced them by others, which the statement
 * that has waited does not see.
 */
int
cqrs_projection_offset_lock_all(text *projection)
{
	Datum		value = PointerGetDatum(projection);
	int			count;

	do
		count = (int) cqrs_statement_write(&lock_all_statement, &value, NULL);
	while (count == 0 && cqrs_statement_write(&any_statement, &value, NULL) > 0);
	return count;
}

/* Moves an offset that was leased in this transaction. */
void
cqrs_projection_offset_advance(ProjectionOffset *offset, const Advance *advance)
{
	Datum		values[] = {
		PointerGetDatum(offset->projection), Int32GetDatum(offset->slice), PointerGetDatum(&offset->tid),
		Int64GetDatum(advance->position), Int32GetDatum(advance->parked), Int32GetDatum(advance->skipped),
		Int64GetDatum(offset->position)
	};

	if (cqrs_statement_write(&advance_statement, values, NULL) != 1)
		ereport(ERROR,
				(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
				 errmsg("the offset of projection \"%s\" was moved by somebody else",
						text_to_cstring(offset->projection)),
				 errdetail("It was " INT64_FORMAT " when this worker locked it.", offset->position)));
	offset->tid = *(ItemPointer) DatumGetPointer(cqrs_statement_column(0, 1, NULL));
	offset->position = advance->position;
	offset->parked += advance->parked;
}

/*
 * Puts the entity of an event that has failed aside.  False if it was aside
 * already, for a later event: its events come once more and one has failed
 * that did not before.
 */
bool
cqrs_projection_offset_park(const ProjectionOffset *offset, const FailedEvent *failed)
{
	Datum		values[PARKED_VALUES + 3];

	fill_parked(offset, failed, values);
	values[PARKED_VALUES] = Int32GetDatum(failed->attempts);
	values[PARKED_VALUES + 1] = TimestampTzGetDatum(failed->first_failed_at);
	values[PARKED_VALUES + 2] = Int64GetDatum(failed->replay_until);
	(void) cqrs_statement_write(&park_statement, values, NULL);
	return DatumGetBool(cqrs_statement_column(0, 1, NULL));
}

/* Says of an entity that is parked that it has failed again, maybe further on. */
void
cqrs_projection_offset_park_again(const ProjectionOffset *offset, const FailedEvent *failed)
{
	Datum		values[PARKED_VALUES];

	fill_parked(offset, failed, values);
	(void) cqrs_statement_write(&park_again_statement, values, NULL);
}

int
cqrs_projection_offset_count_parked(text *projection)
{
	Datum		value = PointerGetDatum(projection);

	(void) cqrs_statement_write(&count_parked_statement, &value, NULL);
	return DatumGetInt32(cqrs_statement_column(0, 1, NULL));
}

/* The other partitions learn of it by the message. */
void
cqrs_projection_offset_stop(text *projection, const char *sqlstate, const char *error)
{
	Datum		values[] = {
		PointerGetDatum(projection), CStringGetTextDatum(sqlstate), CStringGetTextDatum(error),
		TimestampTzGetDatum(GetCurrentTimestamp())
	};

	(void) cqrs_statement_write(&stop_statement, values, NULL);
	cqrs_projection_registry_changed();
}

/* What both statements say of the entity: PARKED_VALUES. */
static void
fill_parked(const ProjectionOffset *offset, const FailedEvent *failed, Datum *values)
{
	Datum		attributes[EVENT_ATTRIBUTES];

	deform_event(failed->event, attributes);
	values[0] = PointerGetDatum(offset->projection);
	values[1] = attributes[EVENT_SLICE - 1];
	values[2] = attributes[EVENT_ENTITY_TYPE - 1];
	values[3] = attributes[EVENT_ENTITY_ID - 1];
	values[4] = Int64GetDatum(failed->position);
	values[5] = CStringGetTextDatum(failed->sqlstate);
	values[6] = CStringGetTextDatum(failed->error);
	values[7] = TimestampTzGetDatum(GetCurrentTimestamp());
}

/* The attributes that name the event's entity are never NULL. */
static void
deform_event(Datum event, Datum *attributes)
{
	HeapTupleHeader row = DatumGetHeapTupleHeader(event);
	HeapTupleData tuple = {.t_len = HeapTupleHeaderGetDatumLength(row), .t_data = row};
	TupleDesc	desc = lookup_rowtype_tupdesc(cqrs_catalog_type("event"), -1);
	bool		nulls[EVENT_ATTRIBUTES];

	heap_deform_tuple(&tuple, desc, attributes, nulls);
	ReleaseTupleDesc(desc);
}

static void
take_row(ProjectionOffset *offset)
{
	offset->tid = *(ItemPointer) DatumGetPointer(cqrs_statement_column(0, 1, NULL));
	offset->next_slice = DatumGetInt32(cqrs_statement_column(0, 2, NULL));
	offset->position = DatumGetInt64(cqrs_statement_column(0, 3, NULL));
	offset->replay_until = DatumGetInt64(cqrs_statement_column(0, 4, NULL));
	offset->revision = DatumGetInt64(cqrs_statement_column(0, 5, NULL));
	offset->parked = DatumGetInt32(cqrs_statement_column(0, 6, NULL));
}
