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
 * Where such an entity was forgotten meanwhile there is nothing to wait for:
 * it is released before its tombstone is read.
 * When somebody wants them replayed they come in their order, up to where the
 * partition has read, and the offset with them; with the last of them the entity is not parked any more, and what
 * follows comes with all the others.  So this waits while the partition itself
 * replays: what it would do for the second time the entity has still before it.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/snapmgr.h"

#include "catalog.h"
#include "compat.h"
#include "journal.h"
#include "position.h"
#include "projection_forward.h"

#define PERSIST_EVERY	10000	/* positions */

#define EVENTS_OF_PARTITION \
	"SELECT " CQRS_EVENT_COLUMNS " FROM cqrs.journal j WHERE position > $1 AND position <= $2" \
	" AND slice >= $3 AND slice < $4" \
	" AND ($5 IS NULL OR entity_type = ANY ($5)) AND ($6 IS NULL OR event_type = ANY ($6))"

/* An entity that is about to be replayed. */
typedef struct ParkedEntity
{
	Datum		entity_type;
	Datum		entity_id;
	int64		position;		/* of the event that failed */
	int64		replay_until;	/* up to here its events were projected before */
	int64		up_to;			/* up to here they are read now */
}			ParkedEntity;

static Statement read_statement = {
	.sql = EVENTS_OF_PARTITION " ORDER BY position",
	.nargs = 6,
	.argtypes = {INT8OID, INT8OID, INT4OID, INT4OID, TEXTARRAYOID, TEXTARRAYOID}
};

static Statement read_unparked_statement = {
	.sql = EVENTS_OF_PARTITION " AND NOT EXISTS (SELECT FROM unnest($7, $8, $9) AS k (entity_type, entity_id, position)"
	" WHERE k.entity_type = j.entity_type AND k.entity_id = j.entity_id AND k.position <= j.position) ORDER BY position",
	.nargs = 9,
	.argtypes = {
		INT8OID, INT8OID, INT4OID, INT4OID, TEXTARRAYOID, TEXTARRAYOID, TEXTARRAYOID, TEXTARRAYOID, INT8ARRAYOID
	}
};

static Statement parked_statement = {
	.sql = "SELECT array_agg(entity_type::text), array_agg(entity_id::text), array_agg(position)"
	" FROM cqrs.parked_entity WHERE projection = $1 AND slice >= $2 AND slice < $3",
	.nargs = 3,
	.argtypes = {TEXTOID, INT4OID, INT4OID}
};

static Statement next_parked_statement = {
	.sql = "SELECT entity_type, entity_id, position, replay_until FROM cqrs.parked_entity"
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

/* Tombstones are an entity's first events. */
static Statement forgotten_statement = {
	.sql = "SELECT entity_type, entity_id FROM unnest($1, $2, $3) AS k (entity_type, entity_id, position)"
	" WHERE position < (SELECT CASE WHEN j.event_type = '" CQRS_FORGOTTEN "' AND j.position <= $4 THEN j.position END"
	" FROM cqrs.journal j WHERE j.entity_type = k.entity_type AND j.entity_id = k.entity_id ORDER BY j.version LIMIT 1)",
	.nargs = 4,
	.argtypes = {TEXTARRAYOID, TEXTARRAYOID, INT8ARRAYOID, INT8OID}
};

static int64 bound(const Step *step, int64 from);
static int	limit_of(const Step *step);
static int	release_forgotten(Step *step, int64 up_to);
static void move_on(Step *step, int released);
static void read_parked_entities(Step *step, const ProjectionOffset *offset, Datum *arrays);
static void read_journal(Step *step, const RoleScope *scope, Statement *statement, Datum *values, const char *nulls, int limit);
static bool find_parked(Step *step, ParkedEntity * entity);
static void read_parked(Step *step, const ParkedEntity * entity);
static void move_parked(const ProjectionOffset *offset, const ParkedEntity * entity, int64 position);
static void release_parked(Step *step, const ParkedEntity * entity);

/* Projects the next events. */
void
cqrs_projection_forward(Step *step, void *unused)
{
	EventRange	range = {.offset = &step->partition->offset};
	int			released = 0;

	if (!cqrs_projection_step_lease(step))
		return;
	range.after = cqrs_projection_forward_from(step);
	range.up_to = bound(step, range.after);
	range.limit = limit_of(step);
	step->reached = range.after;
	if (range.up_to <= range.after)
		return;
	if (step->partition->offset.parked > 0)
		released = release_forgotten(step, range.up_to);
	cqrs_projection_forward_read(step, &step->own, &range);
	step->reached = step->batch.full ? step->batch.positions[step->batch.count - 1] : range.up_to;
	move_on(step, released);
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
	ParkedEntity entity = {0};

	if (!cqrs_projection_step_lease(step))
		return;
	if (cqrs_projection_forward_from(step) < offset->replay_until)
	{
		step->partition->retry_after = offset->replay_until;
		return;
	}
	step->partition->retry = find_parked(step, &entity);
	if (!step->partition->retry)
		return;
	read_parked(step, &entity);
	if (step->batch.full)
		move_parked(offset, &entity, step->batch.positions[step->batch.count - 1] + 1);
	else if (entity.up_to < cqrs_projection_forward_from(step))
		move_parked(offset, &entity, entity.up_to + 1);
	else
		release_parked(step, &entity);
	if (step->batch.count == 0)
		return;
	step->application.replay = entity.up_to <= entity.replay_until && !step->projection->replay_side_effects;
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
 * Reads events of a partition that the projection wants, but for those of
 * parked entities, with a snapshot that is newer than the mark.  Ourselves in
 * the scope, SPI connected.
 */
void
cqrs_projection_forward_read(Step *step, const RoleScope *scope, const EventRange * range)
{
	Projection *projection = step->projection;
	const ProjectionOffset *offset = range->offset;
	Datum		values[] = {
		Int64GetDatum(range->after), Int64GetDatum(range->up_to),
		Int32GetDatum(offset->slice), Int32GetDatum(offset->next_slice),
		PointerGetDatum(projection->entity_types), PointerGetDatum(projection->event_types),
		(Datum) 0, (Datum) 0, (Datum) 0
	};
	char		nulls[] = {
		' ', ' ', ' ', ' ', projection->entity_types ? ' ' : 'n', projection->event_types ? ' ' : 'n', ' ', ' ', ' '
	};

	if (offset->parked > 0)
		read_parked_entities(step, offset, values + 6);
	read_journal(step, scope, offset->parked > 0 ? &read_unparked_statement : &read_statement, values, nulls, range->limit);
}

/* Which entities are parked, and from where on, as three arrays. */
static void
read_parked_entities(Step *step, const ProjectionOffset *offset, Datum *arrays)
{
	Datum		values[] = {
		PointerGetDatum(offset->projection), Int32GetDatum(offset->slice), Int32GetDatum(offset->next_slice)
	};

	(void) cqrs_statement_write(&parked_statement, values, NULL);
	MemoryContextSwitchTo(step->context);
	for (int i = 0; i < 3; i++)
	{
		bool		isnull;
		Datum		array = cqrs_statement_column(0, i + 1, &isnull);

		arrays[i] = isnull ? PointerGetDatum(construct_empty_array(i < 2 ? TEXTOID : INT8OID)) :
			PointerGetDatum(PG_DETOAST_DATUM_COPY(array));
	}
}

/* As the owner of the journal. */
static void
read_journal(Step *step, const RoleScope *scope, Statement *statement, Datum *values, const char *nulls, int limit)
{
	RoleScope	journal;

	cqrs_journal_check_visible();
	MemoryContextSwitchTo(step->context);
	cqrs_role_enter_own(&journal, scope, cqrs_catalog_relation_owner(cqrs_journal_relid()));
	cqrs_projection_batch_begin(&step->batch);
	PushActiveSnapshot(GetLatestSnapshot());
	cqrs_projection_batch_read(&step->batch, statement, values, nulls, limit);
	PopActiveSnapshot();
	cqrs_projection_batch_end(&step->batch);
	cqrs_role_leave(&journal);
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

/* Parked entities whose events are all gone are not parked any more; returns how many. */
static int
release_forgotten(Step *step, int64 up_to)
{
	ProjectionOffset *offset = &step->partition->offset;
	Datum		values[] = {(Datum) 0, (Datum) 0, (Datum) 0, Int64GetDatum(up_to)};
	SPITupleTable *rows;
	RoleScope	journal;
	bool		isnull;
	int			count;

	read_parked_entities(step, offset, values);
	cqrs_role_enter_own(&journal, &step->own, cqrs_catalog_relation_owner(cqrs_journal_relid()));
	count = (int) cqrs_statement_write(&forgotten_statement, values, NULL);
	rows = SPI_tuptable;
	cqrs_role_leave(&journal);
	for (int i = 0; i < count; i++)
	{
		Datum		entity[] = {
			PointerGetDatum(offset->projection),
			SPI_getbinval(rows->vals[i], rows->tupdesc, 1, &isnull),
			SPI_getbinval(rows->vals[i], rows->tupdesc, 2, &isnull)
		};

		(void) cqrs_statement_write(&release_parked_statement, entity, NULL);
	}
	return count;
}

static void
move_on(Step *step, int released)
{
	ProjectionOffset *offset = &step->partition->offset;
	Advance		advance = {.position = step->reached, .parked = -released};

	if (step->batch.count > 0 || released > 0 || step->reached - offset->position >= PERSIST_EVERY ||
		step->reached == step->projection->barrier || step->reached == offset->replay_until)
		cqrs_projection_offset_advance(offset, &advance);
}

/* False if there is none. */
static bool
find_parked(Step *step, ParkedEntity * entity)
{
	ProjectionOffset *offset = &step->partition->offset;
	Datum		values[] = {
		PointerGetDatum(offset->projection), Int32GetDatum(offset->slice), Int32GetDatum(offset->next_slice)
	};

	if (cqrs_statement_write(&next_parked_statement, values, NULL) == 0)
		return false;
	MemoryContextSwitchTo(step->context);
	entity->entity_type = PointerGetDatum(PG_DETOAST_DATUM_COPY(cqrs_statement_column(0, 1, NULL)));
	entity->entity_id = PointerGetDatum(PG_DETOAST_DATUM_COPY(cqrs_statement_column(0, 2, NULL)));
	entity->position = DatumGetInt64(cqrs_statement_column(0, 3, NULL));
	entity->replay_until = DatumGetInt64(cqrs_statement_column(0, 4, NULL));
	/* What was read past the offset has left the entity out. */
	entity->up_to = cqrs_projection_forward_from(step);
	/* Replays and first times are not mixed. */
	if (entity->position <= entity->replay_until)
		entity->up_to = Min(entity->up_to, entity->replay_until);
	return true;
}

static void
read_parked(Step *step, const ParkedEntity * entity)
{
	Projection *projection = step->projection;
	int			limit = step->partition->retry_limit;
	Datum		values[] = {
		entity->entity_type, entity->entity_id, Int64GetDatum(entity->position), Int64GetDatum(entity->up_to),
		PointerGetDatum(projection->event_types)
	};
	char		nulls[] = {' ', ' ', ' ', ' ', projection->event_types ? ' ' : 'n'};

	step->retried = true;
	read_journal(step, &step->own, &read_parked_statement, values, nulls, limit > 0 ? limit : projection->batch_size);
}

/* Its events before a position are projected. */
static void
move_parked(const ProjectionOffset *offset, const ParkedEntity * entity, int64 position)
{
	Datum		values[] = {
		PointerGetDatum(offset->projection), entity->entity_type, entity->entity_id, Int64GetDatum(position)
	};

	(void) cqrs_statement_write(&move_parked_statement, values, NULL);
}

/* All its events are projected, up to where the partition has read. */
static void
release_parked(Step *step, const ParkedEntity * entity)
{
	ProjectionOffset *offset = &step->partition->offset;
	Datum		values[] = {PointerGetDatum(offset->projection), entity->entity_type, entity->entity_id};
	Advance		advance = {.position = entity->up_to, .parked = -1};

	step->partition->retry_limit = 0;
	(void) cqrs_statement_write(&release_parked_statement, values, NULL);
	cqrs_projection_offset_advance(offset, &advance);
}
