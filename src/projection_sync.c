/*
 * projection_sync.c
 *		Projections in the writer's transaction, by a trigger on the journal.
 *
 * The trigger is a plain one that everybody can see, called projection_NAME: a
 * row trigger with a WHEN clause for a handler that takes an event, a
 * statement trigger with a transition table for one that takes a batch.  The
 * journal is a user's table, so pg_dump carries the trigger and restores it
 * after the data, and session_replication_role works as people know it.
 *
 * The trigger projects only what cqrs.append() and cqrs.send() write.  Rows
 * that a restore loads were projected where they come from, and their read
 * models come with them.
 *
 * CREATE TRIGGER takes a lock that waits for all writers under way and keeps
 * new ones out until it is committed.  So every event is either committed by
 * then, to be caught up with in the same transaction, or will fire the
 * trigger.  A projection of a journal that has events is run by a worker at
 * first, and gets its trigger when it has come to the end.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_trigger.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "catalog.h"
#include "compat.h"
#include "journal.h"
#include "position.h"
#include "projection_forward.h"
#include "projection_settings.h"
#include "projection_sync.h"
#include "worker.h"

#define LOCK_TIMEOUT	"1s"	/* writers queue behind us meanwhile */

static Statement has_events_statement = {
	.sql = "SELECT FROM cqrs.journal WHERE position > $1 AND ($2 IS NULL OR entity_type = ANY ($2))"
	" AND ($3 IS NULL OR event_type = ANY ($3)) LIMIT 1",
	.nargs = 3,
	.argtypes = {INT8OID, TEXTARRAYOID, TEXTARRAYOID}
};

/* Writers are kept out, so nothing will come at or before the last position drawn. */
static Statement detached_statement = {
	.sql = "WITH definition AS (UPDATE cqrs.projection SET has_trigger = false, revision = nextval('cqrs.revision_seq')"
	" WHERE name = $1 RETURNING revision)"
	" UPDATE cqrs.projection_offset SET revision = (SELECT revision FROM definition),"
	" position = greatest(position, $2) WHERE projection = $1",
	.nargs = 2,
	.argtypes = {TEXTOID, INT8OID}
};

static Statement attached_statement = {
	.sql = "WITH definition AS (UPDATE cqrs.projection SET has_trigger = true, revision = nextval('cqrs.revision_seq')"
	" WHERE name = $1 RETURNING revision)"
	" UPDATE cqrs.projection_offset SET revision = (SELECT revision FROM definition) WHERE projection = $1",
	.nargs = 1,
	.argtypes = {TEXTOID}
};

static void run_as_journal_owner(const char *sql);
static char *trigger_name(const Projection *projection);
static void append_condition(StringInfo sql, const char *column, ArrayType *names);
static void project(Projection *projection, const RoleScope *scope, EventBatch *batch);
static void take_row(EventBatch *batch, TriggerData *trigger);
static void take_table(EventBatch *batch, TriggerData *trigger, const Projection *projection);
static bool is_wanted(const EventBatch *batch, HeapTuple tuple, const Projection *projection);

/* Waits for all who have written to the journal, and keeps others out. */
void
cqrs_projection_sync_lock(void)
{
	LockRelationOid(cqrs_journal_relid(), ShareRowExclusiveLock);
}

void
cqrs_projection_sync_create_trigger(const Projection *projection)
{
	StringInfoData sql;

	initStringInfo(&sql);
	appendStringInfo(&sql, "CREATE TRIGGER %s AFTER INSERT ON cqrs.journal ", trigger_name(projection));
	if (projection->handler.kind == HANDLER_PROJECT_ALL)
		appendStringInfoString(&sql, "REFERENCING NEW TABLE AS events FOR EACH STATEMENT");
	else
	{
		appendStringInfoString(&sql, "FOR EACH ROW");
		if (projection->entity_types || projection->event_types)
		{
			appendStringInfoString(&sql, " WHEN (true");
			append_condition(&sql, "entity_type", projection->entity_types);
			append_condition(&sql, "event_type", projection->event_types);
			appendStringInfoChar(&sql, ')');
		}
	}
	appendStringInfo(&sql, " EXECUTE FUNCTION cqrs.project(%s)", quote_literal_cstr(projection->name));
	run_as_journal_owner(sql.data);
}

void
cqrs_projection_sync_drop_trigger(const Projection *projection)
{
	run_as_journal_owner(psprintf("DROP TRIGGER IF EXISTS %s ON cqrs.journal", trigger_name(projection)));
}

/* Takes the trigger away; what was written so far is projected. */
void
cqrs_projection_sync_detach(const Projection *projection)
{
	Datum		values[] = {PointerGetDatum(projection->registered.name), (Datum) 0};

	cqrs_projection_sync_drop_trigger(projection);
	values[1] = Int64GetDatum(cqrs_position_last());
	(void) cqrs_statement_write(&detached_statement, values, NULL);
	cqrs_projection_registry_changed();
}

bool
cqrs_projection_sync_has_events(const Projection *projection, int64 after)
{
	Datum		values[] = {
		Int64GetDatum(after), PointerGetDatum(projection->entity_types), PointerGetDatum(projection->event_types)
	};
	char		nulls[] = {' ', projection->entity_types ? ' ' : 'n', projection->event_types ? ' ' : 'n'};
	RoleScope	scope;
	bool		found;

	cqrs_journal_check_visible();
	cqrs_role_enter(&scope, cqrs_catalog_relation_owner(cqrs_journal_relid()));
	PushActiveSnapshot(GetLatestSnapshot());
	SPI_connect();
	found = cqrs_statement_read(&has_events_statement, values, nulls, 1) > 0;
	SPI_finish();
	PopActiveSnapshot();
	cqrs_role_leave(&scope);
	return found;
}

/*
 * Projects the last events with writers kept out, and makes the trigger in the
 * same transaction.  If there are too many, or writers do not end, the worker
 * goes on for a while and tries again.
 */
void
cqrs_projection_sync_attach(Step *step, void *unused)
{
	Projection *projection;
	ProjectionOffset *offset = &step->partition->offset;
	EventRange	range = {.offset = offset, .up_to = PG_INT64_MAX};
	Datum		name = PointerGetDatum(offset->projection);
	Advance		advance = {0};

	if (!cqrs_projection_step_lease(step))
		return;
	projection = step->projection;
	/* Somebody may have changed his mind since this was found to be due. */
	if (!projection->sync || projection->rebuild || projection->barrier > 0 || offset->parked > 0)
		return;
	cqrs_projection_step_limit_locks(LOCK_TIMEOUT);
	cqrs_projection_sync_lock();
	cqrs_projection_step_limit_locks("0");
	range.after = cqrs_projection_forward_from(step);
	range.limit = projection->batch_size;
	cqrs_projection_forward_read(step, &step->own, &range);
	if (step->batch.full)
		return;
	if (step->batch.count > 0)
		step->reached = step->batch.positions[step->batch.count - 1];
	advance.position = step->reached;
	cqrs_projection_offset_advance(offset, &advance);
	cqrs_projection_sync_create_trigger(projection);
	(void) cqrs_statement_write(&attached_statement, &name, NULL);
	cqrs_projection_registry_changed();
	cqrs_worker_look_at_commit();
	if (step->batch.count == 0)
		return;
	cqrs_projection_step_enter_owner(step);
	cqrs_projection_step_apply(step);
}

/* The trigger's function; its argument is the projection's name. */
PG_FUNCTION_INFO_V1(cqrs_project);
Datum
cqrs_project(PG_FUNCTION_ARGS)
{
	TriggerData *trigger = (TriggerData *) fcinfo->context;
	const RoleScope *scope = cqrs_journal_insert_scope();
	Projection *projection;
	EventBatch	batch;

	if (!CALLED_AS_TRIGGER(fcinfo) || trigger->tg_trigger->tgnargs != 1 ||
		!TRIGGER_FIRED_AFTER(trigger->tg_event) || !TRIGGER_FIRED_BY_INSERT(trigger->tg_event) ||
		(scope && RelationGetRelid(trigger->tg_relation) != cqrs_journal_relid()))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("cqrs.project is the function of the triggers of projections"),
				 errhint("cqrs.create_projection makes them, with mode => 'sync'.")));
	if (scope == NULL)
		return PointerGetDatum(NULL);
	projection = cqrs_projection_registry_find(cstring_to_text(trigger->tg_trigger->tgargs[0]));
	if (projection == NULL || !OidIsValid(projection->owner))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 projection ? errmsg("role \"%s\", owner of projection \"%s\", does not exist",
									 projection->owner_name, projection->name)
				 : errmsg("projection \"%s\" does not exist", trigger->tg_trigger->tgargs[0]),
				 errhint("Drop the trigger %s, or restore the projection.", trigger->tg_trigger->tgname)));

	cqrs_projection_settings_check_may_read(projection->owner);
	cqrs_projection_batch_begin(&batch);
	if (TRIGGER_FIRED_FOR_ROW(trigger->tg_event))
		take_row(&batch, trigger);
	else
		take_table(&batch, trigger, projection);
	cqrs_projection_batch_end(&batch);
	if (batch.count > 0)
		project(projection, scope, &batch);
	return PointerGetDatum(NULL);
}

static void
run_as_journal_owner(const char *sql)
{
	RoleScope	scope;

	cqrs_role_enter(&scope, cqrs_catalog_relation_owner(cqrs_journal_relid()));
	SPI_connect();
	if (SPI_execute(sql, false, 0) != SPI_OK_UTILITY)
		elog(ERROR, "could not execute: %s", sql);
	SPI_finish();
	cqrs_role_leave(&scope);
}

static char *
trigger_name(const Projection *projection)
{
	return pstrdup(quote_identifier(psprintf("%s%s", CQRS_PROJECTION_TRIGGER_PREFIX, projection->name)));
}

static void
append_condition(StringInfo sql, const char *column, ArrayType *names)
{
	Oid			output;
	bool		isvarlena;

	if (names == NULL)
		return;
	getTypeOutputInfo(TEXTARRAYOID, &output, &isvarlena);
	appendStringInfo(sql, " AND NEW.%s = ANY (%s::text[])", column,
					 quote_literal_cstr(OidOutputFunctionCall(output, PointerGetDatum(names))));
}

/* As the owner of the projection; he may be the writer himself. */
static void
project(Projection *projection, const RoleScope *scope, EventBatch *batch)
{
	Application application = {.projection = projection, .batch = batch};
	RoleScope	inner;

	cqrs_role_enter_handler(&inner, scope, projection->owner, projection->handler.search_path);
	cqrs_projection_batch_apply(&application);
	cqrs_role_leave(&inner);
}

static void
take_row(EventBatch *batch, TriggerData *trigger)
{
	cqrs_projection_batch_add(batch, trigger->tg_trigtuple);
}

/* A statement trigger has no WHEN clause that could look at rows. */
static void
take_table(EventBatch *batch, TriggerData *trigger, const Projection *projection)
{
	TupleTableSlot *slot = MakeSingleTupleTableSlot(RelationGetDescr(trigger->tg_relation), &TTSOpsMinimalTuple);

	/*
	 * All triggers of the statement share the table; who came before has read
	 * it.
	 */
	tuplestore_select_read_pointer(trigger->tg_newtable, 0);
	tuplestore_rescan(trigger->tg_newtable);
	while (tuplestore_gettupleslot(trigger->tg_newtable, true, false, slot))
	{
		bool		should_free;
		HeapTuple	tuple = ExecFetchSlotHeapTuple(slot, false, &should_free);

		if (is_wanted(batch, tuple, projection))
			cqrs_projection_batch_add(batch, tuple);
		if (should_free)
			heap_freetuple(tuple);
	}
	ExecDropSingleTupleTableSlot(slot);
}

static bool
is_wanted(const EventBatch *batch, HeapTuple tuple, const Projection *projection)
{
	bool		isnull;
	Datum		entity_type = heap_getattr(tuple, EVENT_ENTITY_TYPE, batch->event_desc, &isnull);
	Datum		event_type = heap_getattr(tuple, EVENT_TYPE, batch->event_desc, &isnull);

	return cqrs_projection_registry_takes(projection, DatumGetTextPP(entity_type), DatumGetTextPP(event_type));
}
