/*
 * state.c
 *		The state of an entity: the fold of its events.
 *
 * To load the state after a given event, the fold begins at the newest state
 * that was kept at or before it, in this backend's cache or in a snapshot, or
 * at the initial state.  A kept state is believed only if the journal has its
 * event at its position: if that is the target itself the comparison is made
 * with the target, else the fold reads one event more, the one that the kept
 * state is after, and starts over from the beginning if it is not the same.
 *
 * Events are folded as they are read (journal_table.c).  Where that takes a
 * statement they are read in chunks, so that an entity of a million events
 * needs no more memory than one of a hundred, and so that handlers do not run
 * inside of a running query, whose policies would see another role.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "catalog.h"
#include "compat.h"
#include "entity_lock.h"
#include "errors.h"
#include "fold.h"
#include "state.h"
#include "statement.h"

#define CHUNK	200

static Statement chunk_statement = {
	.sql = "SELECT " CQRS_EVENT_COLUMNS " FROM cqrs.journal"
	" WHERE entity_type = $1 AND entity_id = $2 AND version >= $3 AND version <= $4"
	" ORDER BY version LIMIT $5",
	.nargs = 5,
	.argtypes = {TEXTOID, TEXTOID, INT8OID, INT8OID, INT4OID}
};

static Statement at_version_statement = {
	.sql = "SELECT version, position, created_at, event_type = '" CQRS_FORGOTTEN "' FROM cqrs.journal"
	" WHERE entity_type = $1 AND entity_id = $2 AND version = $3",
	.nargs = 3,
	.argtypes = {TEXTOID, TEXTOID, INT8OID}
};

/* Within an entity time never goes back, so the first match is the last event by then. */
static Statement at_time_statement = {
	.sql = "SELECT version, position, created_at, event_type = '" CQRS_FORGOTTEN "' FROM cqrs.journal"
	" WHERE entity_type = $1 AND entity_id = $2 AND created_at <= $3"
	" ORDER BY version DESC LIMIT 1",
	.nargs = 3,
	.argtypes = {TEXTOID, TEXTOID, TIMESTAMPTZOID}
};

static bool last_event_is_hidden(const EntityKey *key, const RoleScope *scope, const LastEvent *seen);
static bool find_target(FunctionCallInfo fcinfo, const EntityKey *key, const LastEvent *last, LastEvent *target);
static bool read_target(Statement *statement, const EntityKey *key, Datum value, LastEvent *target);
static bool fold_after(EntityType *entity, const EntityKey *key, const RoleScope *scope,
					   const LastEvent *target, StateSource source, EntityState *state);
static bool fold_range(Fold *fold, Relation journal, bool check_base, int64 from, int64 to);
static bool fold_chunk(Fold *fold, bool check_base, int64 from, int64 to);
static bool fold_row(Fold *fold, HeapTuple tuple, const Datum *values, volatile bool *base_found);

/*
 * Loads the state after the target event, which the active snapshot and the
 * effective role see.  A target of version 0 gives the initial state.  The
 * state is in the current context.
 */
void
cqrs_state_load(EntityType *entity, const EntityKey *key, const RoleScope *scope,
				const LastEvent *target, StateSource source, EntityState *state)
{
	bool		kept = false;

	memset(state, 0, sizeof(EntityState));
	if (source == STATE_FROM_KEPT && target->version > 0)
	{
		kept = cqrs_state_cache_get(entity, key, state) && state->version <= target->version;
		/* There may be a snapshot that is much newer than what is cached. */
		if (!kept ||
			(entity->snapshot_every > 0 && target->version - state->version > entity->snapshot_every))
			kept = cqrs_snapshot_load(entity, key, target->version, state) || kept;
	}
	if (kept && state->version == target->version && state->position == target->position)
	{
		cqrs_state_cache_count(true);
		return;
	}

	kept = kept && state->version < target->version;
	if (!kept || !fold_after(entity, key, scope, target, source, state))
	{
		memset(state, 0, sizeof(EntityState));
		state->state = entity->initial_state;
		(void) fold_after(entity, key, scope, target, source, state);
	}
	if (target->version > 0)
		cqrs_state_cache_count(false);
}

/* Moves the state on by events that are complete but not written yet. */
void
cqrs_state_apply(EntityType *entity, const EntityKey *key, const RoleScope *scope,
				 EntityState *state, const Event *events, int count)
{
	RunningHandler running;
	Fold		fold;

	cqrs_fold_begin(&fold, entity, key, scope, state, count);
	cqrs_entity_lock_begin_handler(&running, RUNNING_FOLD, NULL);
	PG_TRY();
	{
		for (int i = 0; i < count; i++)
		{
			FoldedEvent event = {
				.position = events[i].position,
				.version = events[i].version,
				.event_type = events[i].event_type,
				.schema_version = events[i].schema_version,
				.data = JsonbPGetDatum(events[i].data)
			};
			MemoryContext old = MemoryContextSwitchTo(fold.garbage);

			event.datum = cqrs_journal_event_datum(key, &events[i]);
			cqrs_fold_event(&fold, &event);
			MemoryContextSwitchTo(old);
			cqrs_fold_free_garbage(&fold);
		}
	}
	PG_FINALLY();
	{
		cqrs_entity_lock_end_handler(&running);
	}
	PG_END_TRY();
	cqrs_fold_end(&fold);
}

/* Reads an event with the active snapshot, as the effective role; false if there is none of that version. */
bool
cqrs_state_find_version(const EntityKey *key, int64 version, LastEvent *event)
{
	return read_target(&at_version_statement, key, Int64GetDatum(version), event);
}

/*
 * Runs as the caller, with the snapshot of his statement.  Where he may not
 * see all events, what was kept from them is not used; and an entity whose last
 * event is hidden from him does not exist, rather than being as it was before.
 */
PG_FUNCTION_INFO_V1(cqrs_state);
Datum
cqrs_state(PG_FUNCTION_ARGS)
{
	EntityType *entity;
	EntityKey	key;
	EntityState state;
	LastEvent	last;
	LastEvent	target;
	RoleScope	scope;
	StateSource source;
	bool		found;

	cqrs_journal_check_key(&key, PG_ARGISNULL(0) ? NULL : PG_GETARG_TEXT_PP(0),
						   PG_ARGISNULL(1) ? NULL : PG_GETARG_TEXT_PP(1));
	if (!PG_ARGISNULL(2) && (!PG_ARGISNULL(3) || PG_GETARG_INT64(2) < 0))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 PG_ARGISNULL(3) ? errmsg("version is negative: " INT64_FORMAT, PG_GETARG_INT64(2))
				 : errmsg("give a version or a time, not both")));
	entity = cqrs_entity_registry_get(key.entity_type);
	if (!OidIsValid(cqrs_journal_relid()))
		PG_RETURN_NULL();
	source = cqrs_journal_sees_all() ? STATE_FROM_KEPT : STATE_FROM_EVENTS;

	cqrs_role_enter_bare(&scope, GetUserId());
	cqrs_journal_read_last(&key, source == STATE_FROM_KEPT, &last);
	if (source == STATE_FROM_EVENTS && last_event_is_hidden(&key, &scope, &last))
		last.version = 0;
	found = last.version > 0 && find_target(fcinfo, &key, &last, &target) && !target.forgotten;
	if (found)
		cqrs_state_load(entity, &key, &scope, &target, source, &state);
	cqrs_role_leave(&scope);
	if (!found)
		PG_RETURN_NULL();
	if (source == STATE_FROM_KEPT && target.version > 0 && target.version == last.version)
		cqrs_state_cache_put(entity, &key, &state);
	PG_RETURN_JSONB_P(state.state);
}

PG_FUNCTION_INFO_V1(cqrs_take_snapshot);
Datum
cqrs_take_snapshot(PG_FUNCTION_ARGS)
{
	EntityType *entity;
	EntityKey	key;
	EntityState state;
	LastEvent	last;
	RoleScope	scope;
	RoleScope	journal;
	bool		exists;

	PreventCommandDuringRecovery("cqrs.take_snapshot()");
	cqrs_entity_lock_refuse_effect("take_snapshot");
	cqrs_journal_check_key(&key, PG_ARGISNULL(0) ? NULL : PG_GETARG_TEXT_PP(0),
						   PG_ARGISNULL(1) ? NULL : PG_GETARG_TEXT_PP(1));
	(void) cqrs_entity_registry_get_owned(key.entity_type);
	cqrs_journal_ensure();

	cqrs_role_enter_bare(&scope, cqrs_catalog_extension_owner());
	cqrs_journal_begin_write(&key, &scope, &last);
	cqrs_journal_make_sure(&key, &scope, &last);
	/* Who waited goes by what is registered now. */
	entity = cqrs_entity_registry_get(key.entity_type);
	exists = last.version > 0 && !last.forgotten;
	if (exists)
	{
		cqrs_role_enter_own(&journal, &scope, cqrs_catalog_relation_owner(cqrs_journal_relid()));
		cqrs_state_load(entity, &key, &scope, &last, STATE_FROM_KEPT, &state);
		cqrs_role_leave(&journal);
		cqrs_snapshot_save(entity, &key, &scope, &state);
		cqrs_state_cache_put(entity, &key, &state);
	}
	cqrs_journal_end_write();
	cqrs_role_leave(&scope);
	if (!exists)
		PG_RETURN_NULL();
	PG_RETURN_INT64(last.version);
}

/* Of the same snapshot, the journal's owner sees all. */
static bool
last_event_is_hidden(const EntityKey *key, const RoleScope *scope, const LastEvent *seen)
{
	RoleScope	journal;
	LastEvent	last;

	cqrs_role_enter_own(&journal, scope, cqrs_catalog_relation_owner(cqrs_journal_relid()));
	cqrs_journal_read_last(key, true, &last);
	cqrs_role_leave(&journal);
	return last.version != seen->version;
}

/* Which event the caller wants the state after; false if there was no entity yet. */
static bool
find_target(FunctionCallInfo fcinfo, const EntityKey *key, const LastEvent *last, LastEvent *target)
{
	*target = *last;
	if (!PG_ARGISNULL(3))
		return read_target(&at_time_statement, key, PG_GETARG_DATUM(3), target);
	if (PG_ARGISNULL(2) || PG_GETARG_INT64(2) == last->version)
		return true;
	memset(target, 0, sizeof(LastEvent));
	if (PG_GETARG_INT64(2) > 0 &&
		!read_target(&at_version_statement, key, PG_GETARG_DATUM(2), target))
		ereport(ERROR,
				(errcode(CQRS_VERSION_CONFLICT),
				 errmsg("entity \"%s\" of type \"%s\" has no such version",
						text_to_cstring(key->entity_id), text_to_cstring(key->entity_type)),
				 errdetail("Expected version " INT64_FORMAT ", found " INT64_FORMAT ".",
						   PG_GETARG_INT64(2), last->version)));
	return true;
}

static bool
read_target(Statement *statement, const EntityKey *key, Datum value, LastEvent *target)
{
	Datum		values[] = {PointerGetDatum(key->entity_type), PointerGetDatum(key->entity_id), value};
	bool		found;

	SPI_connect();
	found = cqrs_statement_read(statement, values, NULL, 1) == 1;
	if (found)
	{
		target->version = DatumGetInt64(cqrs_statement_column(0, 1, NULL));
		target->position = DatumGetInt64(cqrs_statement_column(0, 2, NULL));
		target->created_at = DatumGetTimestampTz(cqrs_statement_column(0, 3, NULL));
		target->forgotten = DatumGetBool(cqrs_statement_column(0, 4, NULL));
	}
	SPI_finish();
	return found;
}

/*
 * Folds what lies between the state and the target.  False if the state's own
 * event is not in the journal as it should be.
 */
static bool
fold_after(EntityType *entity, const EntityKey *key, const RoleScope *scope,
		   const LastEvent *target, StateSource source, EntityState *state)
{
	bool		check_base = state->version > 0;
	bool		whole = true;
	Relation	journal = NULL;
	Fold		fold;

	cqrs_fold_begin(&fold, entity, key, scope, state, target->version - state->version);
	fold.sees_all = source == STATE_FROM_KEPT;
	if (fold.sees_all)
		journal = cqrs_journal_table_open(cqrs_journal_relid());
	while (whole && state->version < target->version)
	{
		int64		before = state->version;
		int64		from = before + (check_base ? 0 : 1);

		whole = journal ? fold_range(&fold, journal, check_base, from, target->version) :
			fold_chunk(&fold, check_base, from, target->version);
		if (whole && state->version == before)
			cqrs_fold_refuse_hole(&fold, before + 1);
		check_base = false;
	}
	if (journal)
		cqrs_journal_table_close(journal);
	cqrs_fold_end(&fold);
	return whole;
}

/* All of the range, as it is read. */
static bool
fold_range(Fold *fold, Relation journal, bool check_base, int64 from, int64 to)
{
	RunningHandler running;
	JournalScan scan = {.use = JOURNAL_READ};
	volatile bool base_found = !check_base;

	cqrs_journal_table_scan_entity(&scan, journal, fold->key, from, to);
	cqrs_entity_lock_begin_handler(&running, RUNNING_FOLD, NULL);
	PG_TRY();
	{
		MemoryContext old = MemoryContextSwitchTo(fold->garbage);
		TupleTableSlot *slot;

		while ((slot = cqrs_journal_table_next(&scan)) != NULL)
		{
			bool		should_free;
			HeapTuple	tuple = ExecFetchSlotHeapTuple(slot, false, &should_free);

			slot_getsomeattrs(slot, EVENT_DATA);
			if (!fold_row(fold, tuple, slot->tts_values, &base_found))
				break;
			CHECK_FOR_INTERRUPTS();
		}
		MemoryContextSwitchTo(old);
		cqrs_fold_leave_handler(fold);
	}
	PG_FINALLY();
	{
		cqrs_entity_lock_end_handler(&running);
	}
	PG_END_TRY();
	cqrs_journal_table_end_scan(&scan);
	return base_found;
}

/* The first rows of the range. */
static bool
fold_chunk(Fold *fold, bool check_base, int64 from, int64 to)
{
	Datum		args[] = {
		PointerGetDatum(fold->key->entity_type), PointerGetDatum(fold->key->entity_id),
		Int64GetDatum(from), Int64GetDatum(to), Int32GetDatum(CHUNK)
	};
	RunningHandler running;
	SPITupleTable *rows;
	uint64		count;
	volatile bool base_found = !check_base;

	SPI_connect();
	count = cqrs_statement_read(&chunk_statement, args, NULL, CHUNK);
	rows = SPI_tuptable;
	cqrs_entity_lock_begin_handler(&running, RUNNING_FOLD, NULL);
	PG_TRY();
	{
		MemoryContext old = MemoryContextSwitchTo(fold->garbage);

		for (uint64 i = 0; i < count; i++)
		{
			Datum		values[EVENT_ATTRIBUTES];
			bool		nulls[EVENT_ATTRIBUTES];

			heap_deform_tuple(rows->vals[i], rows->tupdesc, values, nulls);
			if (!fold_row(fold, rows->vals[i], values, &base_found))
				break;
		}
		MemoryContextSwitchTo(old);
		cqrs_fold_leave_handler(fold);
	}
	PG_FINALLY();
	{
		cqrs_entity_lock_end_handler(&running);
	}
	PG_END_TRY();
	SPI_finish();
	CHECK_FOR_INTERRUPTS();
	return base_found;
}

/* The first row may be the one that the state is after: then it is compared and no more. */
static bool
fold_row(Fold *fold, HeapTuple tuple, const Datum *values, volatile bool *base_found)
{
	FoldedEvent event = {
		.position = DatumGetInt64(values[EVENT_POSITION - 1]),
		.version = DatumGetInt64(values[EVENT_VERSION - 1])
	};

	if (!*base_found)
	{
		*base_found = event.version == fold->state->version && event.position == fold->state->position;
		return *base_found;
	}
	event.event_type = DatumGetTextPP(values[EVENT_TYPE - 1]);
	event.schema_version = DatumGetInt32(values[EVENT_SCHEMA_VERSION - 1]);
	event.data = values[EVENT_DATA - 1];
	event.tuple = tuple;
	cqrs_fold_event(fold, &event);
	cqrs_fold_free_garbage(fold);
	return true;
}
