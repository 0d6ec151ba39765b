/*
 * snapshot.c
 *		States kept in a table, so that loading does not begin at version 1.
 *
 * A snapshot is a cache and never the truth: it is used only if it was made by
 * the generation of handlers that is registered now (entity_registry.c) and if
 * the journal has the event that it was made after, at the same position
 * (state.c looks).  Otherwise the events are folded as if it were not there.
 *
 * Each state that is in no cache asks for one, so the table is read past the
 * executor, which takes a third of the time.  (Where it is distributed some
 * day, it has to be a statement again.)
 *
 * Written by the holder of the entity's lock, in the transaction of the events
 * it was made after; deleted by it, where nobody else is at it, and by
 * cqrs.drop_snapshots().
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/stratnum.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "catalog.h"
#include "compat.h"
#include "new_event.h"
#include "snapshot.h"
#include "statement.h"

/* Attribute numbers of the table */
enum
{
	SNAPSHOT_SLICE = 1, SNAPSHOT_ENTITY_TYPE, SNAPSHOT_ENTITY_ID, SNAPSHOT_VERSION,
	SNAPSHOT_POSITION, SNAPSHOT_GENERATION, SNAPSHOT_STATE, SNAPSHOT_CREATED_AT,
	SNAPSHOT_ATTRIBUTES = SNAPSHOT_CREATED_AT
};

static Statement save_statement = {
	.sql = "INSERT INTO cqrs.snapshot (slice, entity_type, entity_id, version, position, generation, state, created_at)"
	" VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT (entity_type, entity_id, version)"
	" DO UPDATE SET position = excluded.position, generation = excluded.generation,"
	" state = excluded.state, created_at = excluded.created_at",
	.nargs = 8,
	.argtypes = {INT4OID, TEXTOID, TEXTOID, INT8OID, INT8OID, INT8OID, JSONBOID, TIMESTAMPTZOID}
};

static Statement prune_statement = {
	.sql = "DELETE FROM cqrs.snapshot WHERE ctid = ANY (ARRAY("
	"SELECT ctid FROM cqrs.snapshot WHERE entity_type = $1 AND entity_id = $2 AND version <="
	" (SELECT version FROM cqrs.snapshot WHERE entity_type = $1 AND entity_id = $2"
	" ORDER BY version DESC OFFSET $3 LIMIT 1) FOR UPDATE SKIP LOCKED))",
	.nargs = 3,
	.argtypes = {TEXTOID, TEXTOID, INT4OID}
};

/* States in the caches of all sessions go with the generation. */
static Statement revise_statement = {
	.sql = "UPDATE cqrs.entity SET revision = nextval('cqrs.entity_revision_seq') WHERE entity_type = $1",
	.nargs = 1,
	.argtypes = {TEXTOID}
};

static Statement drop_statement = {
	.sql = "DELETE FROM cqrs.snapshot WHERE entity_type = $1 AND ($2 IS NULL OR entity_id = $2)",
	.nargs = 2,
	.argtypes = {TEXTOID, TEXTOID}
};

static bool take(const EntityType *entity, HeapTuple tuple, TupleDesc desc, EntityState *state);

/*
 * The newest snapshot at or below a version; false if there is none.  The
 * state is in the current context.  Reads with the active snapshot.
 */
bool
cqrs_snapshot_load(const EntityType *entity, const EntityKey *key, int64 up_to, EntityState *state)
{
	Relation	table = table_open(cqrs_catalog_relation("snapshot"), AccessShareLock);
	Relation	index = index_open(cqrs_primary_key_index(table), AccessShareLock);
	ScanKeyData keys[3];
	SysScanDesc scan;
	HeapTuple	tuple;
	bool		found = false;

	ScanKeyInit(&keys[0], SNAPSHOT_ENTITY_TYPE, BTEqualStrategyNumber, F_TEXTEQ, PointerGetDatum(key->entity_type));
	ScanKeyInit(&keys[1], SNAPSHOT_ENTITY_ID, BTEqualStrategyNumber, F_TEXTEQ, PointerGetDatum(key->entity_id));
	ScanKeyInit(&keys[2], SNAPSHOT_VERSION, BTLessEqualStrategyNumber, F_INT8LE, Int64GetDatum(up_to));
	scan = systable_beginscan_ordered(table, index, GetActiveSnapshot(), lengthof(keys), keys);
	while (!found && HeapTupleIsValid(tuple = systable_getnext_ordered(scan, BackwardScanDirection)))
		found = take(entity, tuple, RelationGetDescr(table), state);
	systable_endscan_ordered(scan);
	index_close(index, NoLock);
	table_close(table, NoLock);
	return found;
}

/* False for a state of other handlers. */
static bool
take(const EntityType *entity, HeapTuple tuple, TupleDesc desc, EntityState *state)
{
	Datum		values[SNAPSHOT_ATTRIBUTES];
	bool		nulls[SNAPSHOT_ATTRIBUTES];

	heap_deform_tuple(tuple, desc, values, nulls);
	if (DatumGetInt64(values[SNAPSHOT_GENERATION - 1]) != entity->generation)
		return false;
	state->version = DatumGetInt64(values[SNAPSHOT_VERSION - 1]);
	state->position = DatumGetInt64(values[SNAPSHOT_POSITION - 1]);
	state->snapshot_version = state->version;
	state->state = (Jsonb *) PG_DETOAST_DATUM_COPY(values[SNAPSHOT_STATE - 1]);
	return true;
}

/* Keeps a state, and as many older ones as the entity type keeps. */
void
cqrs_snapshot_save(const EntityType *entity, const EntityKey *key, const RoleScope *scope,
				   EntityState *state)
{
	Datum		values[] = {
		Int32GetDatum(key->slice), PointerGetDatum(key->entity_type), PointerGetDatum(key->entity_id),
		Int64GetDatum(state->version), Int64GetDatum(state->position), Int64GetDatum(entity->generation),
		PointerGetDatum(state->state), TimestampTzGetDatum(GetCurrentTimestamp())
	};
	Datum		prune[] = {values[1], values[2], Int32GetDatum(entity->keep_snapshots)};
	RoleScope	own;

	cqrs_role_enter_own(&own, scope, cqrs_catalog_extension_owner());
	SPI_connect();
	(void) cqrs_statement_write(&save_statement, values, NULL);
	/* With an old snapshot, a row that somebody else deleted is an error. */
	if (!IsolationUsesXactSnapshot())
		(void) cqrs_statement_write(&prune_statement, prune, NULL);
	SPI_finish();
	cqrs_role_leave(&own);
	state->snapshot_version = state->version;
}

/*
 * Every so many events, also when one command passed the number, or when so
 * many had to be folded because there was no usable snapshot.
 */
bool
cqrs_snapshot_is_due(const EntityType *entity, const EntityState *state, int64 old_version)
{
	int			every = entity->snapshot_every;

	return every > 0 &&
		(state->version / every > old_version / every ||
		 state->version - state->snapshot_version >= every);
}

PG_FUNCTION_INFO_V1(cqrs_drop_snapshots);
Datum
cqrs_drop_snapshots(PG_FUNCTION_ARGS)
{
	text	   *entity_type = PG_ARGISNULL(0) ? NULL : PG_GETARG_TEXT_PP(0);
	Datum		values[] = {PointerGetDatum(entity_type), PG_GETARG_DATUM(1)};
	char		nulls[] = {' ', PG_ARGISNULL(1) ? 'n' : ' '};
	RoleScope	scope;
	uint64		dropped;

	cqrs_new_event_check_name(entity_type, "entity type");
	(void) cqrs_entity_registry_get_owned(entity_type);
	cqrs_role_enter(&scope, cqrs_catalog_extension_owner());
	SPI_connect();
	dropped = cqrs_statement_write(&drop_statement, values, nulls);
	if (PG_ARGISNULL(1))
		(void) cqrs_statement_write(&revise_statement, values, NULL);
	SPI_finish();
	cqrs_entity_registry_changed();
	cqrs_role_leave(&scope);
	PG_RETURN_INT64(dropped);
}
