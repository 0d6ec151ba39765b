/*
 * projection_split.c
 *		How a projection is split into partitions.
 *
 * A partition has a range of slices and an offset of its own, so that workers
 * can run it beside the others; all events of an entity are in one slice, so
 * its events keep their order.
 *
 * To change the number, all partitions run up to the same position, a barrier
 * that cqrs.alter_projection() has set to the offset of the one furthest on, or
 * to where the last of them has ended to replay.
 * When the last of them is there, their offsets are replaced by those of the
 * new partitions, all at the barrier, in one transaction that has locked them
 * all.  So no event is projected twice or left out.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/builtins.h"

#include "compat.h"
#include "projection_split.h"
#include "slice.h"
#include "statement.h"
#include "worker.h"

#define LOCK_TIMEOUT	"10s"

static Statement make_statement = {
	.sql = "INSERT INTO cqrs.projection_offset (projection, slice, next_slice, position, revision, parked, skipped)"
	" SELECT $1, $2, $3, $4, $5, (SELECT count(*) FROM cqrs.parked_entity"
	" WHERE projection = $1 AND slice >= $2 AND slice < $3), $6",
	.nargs = 6,
	.argtypes = {TEXTOID, INT4OID, INT4OID, INT8OID, INT8OID, INT8OID}
};

static Statement clear_statement = {
	.sql = "WITH gone AS (DELETE FROM cqrs.projection_offset WHERE projection = $1 RETURNING skipped)"
	" SELECT sum(skipped)::bigint FROM gone",
	.nargs = 1,
	.argtypes = {TEXTOID}
};

static Statement wanted_statement = {
	.sql = "SELECT coalesce(sum(partitions), 0)::integer FROM cqrs.projection"
};

static Statement finish_statement = {
	.sql = "UPDATE cqrs.projection SET barrier = NULL, revision = nextval('cqrs.revision_seq') WHERE name = $1"
	" RETURNING partitions, revision",
	.nargs = 1,
	.argtypes = {TEXTOID}
};

static bool all_at_barrier(text *name, int64 barrier);
static void make(text *projection, int partitions, Datum *values);

void
cqrs_projection_split_make(text *projection, int partitions, int64 position, int64 revision)
{
	Datum		values[] = {
		PointerGetDatum(projection), (Datum) 0, (Datum) 0, Int64GetDatum(position),
		Int64GetDatum(revision), Int64GetDatum(0)
	};

	make(projection, partitions, values);
}

/* Is there room for all partitions of this database that are wanted, as the transaction sees them? */
void
cqrs_projection_split_check_room(void)
{
	(void) cqrs_statement_write(&wanted_statement, NULL, NULL);
	cqrs_projection_progress_reserve(DatumGetInt32(cqrs_statement_column(0, 1, NULL)));
}

/* Replaces the partitions, if all of them have reached the barrier. */
void
cqrs_projection_split_again(Step *step, void *unused)
{
	text	   *name = step->partition->offset.projection;
	Projection *projection;

	cqrs_projection_step_limit_locks(LOCK_TIMEOUT);
	(void) cqrs_projection_offset_lock_all(name);
	projection = cqrs_projection_registry_reload(name);
	if (projection == NULL || projection->barrier == 0 || !all_at_barrier(name, projection->barrier))
	{
		cqrs_projection_step_put_off(step);
		return;
	}
	cqrs_projection_split_replace(name, projection->barrier);
}

/* Replaces the partitions by as many as are wanted. */
void
cqrs_projection_split_replace(text *projection, int64 position)
{
	Datum		name = PointerGetDatum(projection);
	Datum		values[] = {name, (Datum) 0, (Datum) 0, Int64GetDatum(position), (Datum) 0, (Datum) 0};

	(void) cqrs_statement_write(&clear_statement, &name, NULL);
	values[5] = cqrs_statement_column(0, 1, NULL);
	(void) cqrs_statement_write(&finish_statement, &name, NULL);
	values[4] = cqrs_statement_column(0, 2, NULL);
	make(projection, DatumGetInt32(cqrs_statement_column(0, 1, NULL)), values);
	cqrs_projection_registry_changed();
	cqrs_worker_look_at_commit();
}

static bool
all_at_barrier(text *name, int64 barrier)
{
	int			count = cqrs_projection_offset_lock_all(name);

	for (int i = 0; i < count; i++)
		if (DatumGetInt64(cqrs_statement_column(i, 3, NULL)) != barrier)
			return false;
	return count > 0;
}

/* Inserts a row for each partition; what was counted goes to the first. */
static void
make(text *projection, int partitions, Datum *values)
{
	for (int i = 0; i < partitions; i++)
	{
		values[1] = Int32GetDatum(i * CQRS_SLICES / partitions);
		values[2] = Int32GetDatum((i + 1) * CQRS_SLICES / partitions);
		(void) cqrs_statement_write(&make_statement, values, NULL);
		values[5] = Int64GetDatum(0);
	}
}
