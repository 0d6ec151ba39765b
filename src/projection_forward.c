/*
 * projection_forward.c
 *		The next events of a partition, and those that were held back.
 *
 * The order of things is what loses nothing: lease the offset, take the
 * high-water mark, take a snapshot, read up to the mark.  What the mark vouches
 * for, that snapshot sees (position.c).
 *
 * Events that the projection does not want cost no write: how far it has read
 * is noted in shared memory, and in the offset only once in PERSIST_EVERY
 * positions.  A crash has it read those again.
 *
 * Events of parked entities, from where they are parked on, are left out.
 * When somebody wants them replayed they come in their order, up to where the
 * partition has read, and the offset with them; with the last of them the entity is not parked any more, and what
 * follows comes with all the others.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/snapmgr.h"

#include "compat.h"
#include "journal.h"
#include "position.h"
#include "projection_forward.h"

#define PERSIST_EVERY	10000	/* positions */

#define EVENTS_OF_PARTITION \
	"SELECT " CQRS_EVENT_COLUMNS " FROM cqrs.journal j WHERE position > $1 AND position <= $2" \
	" AND slice >= $3 AND slice < $4" \
	" AND ($5 IS NULL OR entity_type = ANY ($5)) AND ($6 IS NULL OR event_type = ANY ($6))"

static Statement read_statement = {
	.sql = EVENTS_OF_PARTITION " ORDER BY position",
	.nargs = 6,
	.argtypes = {INT8OID, INT8OID, INT4OID, INT4OID, TEXTARRAYOID, TEXTARRAYOID}
};

static Statement read_unparked_statement = {
	.sql = EVENTS_OF_PARTITION " AND NOT EXISTS (SELECT FROM cqrs.parked_entity k WHERE k.slice = j.slice"
	" AND k.projection = $7 AND k.entity_type = j.entity_type AND k.entity_id = j.entity_id"
	" AND k.position <= j.position) ORDER BY position",
	.nargs = 7,
	.argtypes = {INT8OID, INT8OID, INT4OID, INT4OID, TEXTARRAYOID, TEXTARRAYOID, TEXTOID}
};

static Statement next_parked_statement = {
	.sql = "SELECT entity_type, entity_id, position FROM cqrs.parked_entity"
	" WHERE projection = $1 AND slice >= $2 AND slice < $3 AND retry ORDER BY position LIMIT 1",
	.nargs = 3,
	.argtypes = {TEXTOID, INT4OID, INT4OID}
};

static Statement read_parked_statement = {
	.sql = "SELECT " CQRS_EVENT_COLUMNS " FROM cqrs.journal WHERE entity_type = $1 AND entity_id = $2"
	" AND position >= $3 AND position <= $4 AND ($5 IS NULL OR event_type = ANY ($5)) ORDER BY version",
	.nargs = 5,
	.argtypes = {TEXTOID, TEXTOID, INT8OID, INT8OID, TEXTARRAYOID}
};

static Statement move_parked_statement = {
	.sql = "UPDATE cqrs.parked_entity SET position = $4, attempts = 0"
	" WHERE projection = $1 AND entity_type = $2 AND entity_id = $3",
	.nargs = 4,
	.argtypes = {TEXTOID, TEXTOID, TEXTOID, INT8OID}
};

static Statement release_parked_statement = {
	.sql = "DELETE FROM cqrs.parked_entity WHERE projection = $1 AND entity_type = $2 AND entity_id = $3",
	.nargs = 3,
	.argtypes = {TEXTOID, TEXTOID, TEXTOID}
};

static int64 bound(const Step *step, int64 from);
static int	limit_of(const Step *step);
static void move_on(Step *step, int64 from);
static bool read_parked(Step *step, Datum *entity);

/* Projects the next events. */
void
cqrs_projection_forward(Step *step, void *unused)
{
	int64		from;
	int64		up_to;

	if (!cqrs_projection_step_lease(step))
		return;
	from = cqrs_projection_forward_from(step);
	up_to = bound(step, from);
	step->reached = from;
	if (up_to <= from)
		return;
	cqrs_projection_forward_read(step, from, up_to, limit_of(step));
	step->reached = step->batch.full ? step->batch.positions[step->batch.count - 1] : up_to;
	move_on(step, from);
	if (step->batch.count == 0)
		return;
	step->application.replay = step->reached <= step->partition->offset.replay_until &&
		!step->projection->replay_side_effects;
	cqrs_projection_step_enter_owner(step);
	cqrs_projection_step_apply(step);
}

/* Projects the next events of a parked entity that somebody wants replayed. */
void
cqrs_projection_forward_parked(Step *step, void *unused)
{
	ProjectionOffset *offset = &step->partition->offset;
	Datum		entity[4];
	Advance		release = {.parked = -1};

	if (!cqrs_projection_step_lease(step))
		return;
	step->partition->retry = read_parked(step, entity);
	if (!step->partition->retry)
		return;
	if (step->batch.full)
	{
		entity[3] = Int64GetDatum(step->batch.positions[step->batch.count - 1] + 1);
		(void) cqrs_statement_write(&move_parked_statement, entity, NULL);
	}
	else
	{
		step->partition->retry_limit = 0;
		release.position = cqrs_projection_forward_from(step);
		(void) cqrs_statement_write(&release_parked_statement, entity, NULL);
		cqrs_projection_offset_advance(offset, &release);
	}
	if (step->batch.count == 0)
		return;
	step->application.replay = !step->projection->replay_side_effects &&
		step->batch.positions[step->batch.count - 1] <= offset->replay_until;
	cqrs_projection_step_enter_owner(step);
	cqrs_projection_step_apply(step);
}

/* Up to where it has read: in memory, unless the offset was changed by somebody. */
int64
cqrs_projection_forward_from(const Step *step)
{
	const ProjectionProgress *progress = step->partition->progress;
	const ProjectionOffset *offset = &step->partition->offset;

	return progress->revision == offset->revision ? Max(offset->position, progress->reached) : offset->position;
}

/*
 * Reads events of the partition that the projection wants, but for those of
 * parked entities, with a snapshot that is newer than the mark.
 */
void
cqrs_projection_forward_read(Step *step, int64 after, int64 up_to, int limit)
{
	Projection *projection = step->projection;
	ProjectionOffset *offset = &step->partition->offset;
	Datum		values[] = {
		Int64GetDatum(after), Int64GetDatum(up_to), Int32GetDatum(offset->slice), Int32GetDatum(offset->next_slice),
		PointerGetDatum(projection->entity_types), PointerGetDatum(projection->event_types),
		PointerGetDatum(offset->projection)
	};
	char		nulls[] = {' ', ' ', ' ', ' ', ' ', ' ', ' '};

	if (projection->entity_types == NULL)
		nulls[4] = 'n';
	if (projection->event_types == NULL)
		nulls[5] = 'n';
	MemoryContextSwitchTo(step->context);
	cqrs_projection_batch_begin(&step->batch);
	PushActiveSnapshot(GetLatestSnapshot());
	cqrs_projection_batch_read(&step->batch, offset->parked > 0 ? &read_unparked_statement : &read_statement,
							   values, nulls, limit);
	PopActiveSnapshot();
	cqrs_projection_batch_end(&step->batch);
}

/* Replays and first times are not mixed, and nothing goes past a barrier. */
static int64
bound(const Step *step, int64 from)
{
	const ProjectionOffset *offset = &step->partition->offset;
	int64		up_to = Min(cqrs_position_high_water_mark(), from + CQRS_PROJECTION_WINDOW);

	if (step->projection->barrier > 0)
		up_to = Min(up_to, step->projection->barrier);
	if (from < offset->replay_until)
		up_to = Min(up_to, offset->replay_until);
	return up_to;
}

static int
limit_of(const Step *step)
{
	int			limit = step->partition->progress->limit;

	return limit > 0 ? Min(limit, step->projection->batch_size) : step->projection->batch_size;
}

static void
move_on(Step *step, int64 from)
{
	ProjectionOffset *offset = &step->partition->offset;
	Advance		advance = {.position = step->reached};

	if (step->batch.count > 0 || step->reached - offset->position >= PERSIST_EVERY ||
		step->reached == step->projection->barrier || step->reached == offset->replay_until)
		cqrs_projection_offset_advance(offset, &advance);
}

/* False if there is none. */
static bool
read_parked(Step *step, Datum *entity)
{
	Projection *projection = step->projection;
	ProjectionOffset *offset = &step->partition->offset;
	int			limit = step->partition->retry_limit;
	Datum		which[] = {
		PointerGetDatum(offset->projection), Int32GetDatum(offset->slice), Int32GetDatum(offset->next_slice)
	};
	Datum		values[5];
	char		nulls[] = {' ', ' ', ' ', ' ', projection->event_types ? ' ' : 'n'};

	if (cqrs_statement_write(&next_parked_statement, which, NULL) == 0)
		return false;
	MemoryContextSwitchTo(step->context);
	values[0] = PointerGetDatum(PG_DETOAST_DATUM_COPY(cqrs_statement_column(0, 1, NULL)));
	values[1] = PointerGetDatum(PG_DETOAST_DATUM_COPY(cqrs_statement_column(0, 2, NULL)));
	values[2] = cqrs_statement_column(0, 3, NULL);
	/* What was read past the offset has left the entity out. */
	values[3] = Int64GetDatum(cqrs_projection_forward_from(step));
	values[4] = PointerGetDatum(projection->event_types);
	entity[0] = PointerGetDatum(offset->projection);
	entity[1] = values[0];
	entity[2] = values[1];

	step->retried = true;
	cqrs_projection_batch_begin(&step->batch);
	PushActiveSnapshot(GetLatestSnapshot());
	cqrs_projection_batch_read(&step->batch, &read_parked_statement, values, nulls,
							   limit > 0 ? limit : projection->batch_size);
	PopActiveSnapshot();
	cqrs_projection_batch_end(&step->batch);
	return true;
}
