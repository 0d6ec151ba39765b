/*
 * projection.c
 *		Registration of projections.
 *
 * Each call checks the caller's right, then acts as the owner of the
 * extension.  A change locks all offsets of the projection, which waits for
 * the batch that a worker is at, then changes definition and offsets and gives
 * both a new revision: when it is committed, no event is projected any more by
 * what was registered before (projection_offset.c).
 *
 * What has to do with the trigger of a sync projection takes the journal's
 * lock besides, after those of the offsets.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "storage/ipc.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "catalog.h"
#include "compat.h"
#include "journal.h"
#include "new_event.h"
#include "position.h"
#include "projection.h"
#include "projection_offset.h"
#include "projection_progress.h"
#include "projection_settings.h"
#include "projection_split.h"
#include "projection_sync.h"
#include "statement.h"
#include "worker.h"

/* A filter that is empty is none, as for cqrs.alter_projection. */
static Statement create_statement = {
	.sql = "INSERT INTO cqrs.projection (name, handler, entity_types, event_types, mode, tables, batch_size, partitions,"
	" on_failure, max_retries, max_parked, handler_timeout, replay_side_effects, start_position, prepare,"
	" owner, search_path)"
	" VALUES ($1, $2, nullif($3, '{}'), nullif($4, '{}'), $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17)"
	" ON CONFLICT DO NOTHING RETURNING revision",
	.nargs = 17,
	.argtypes = {
		TEXTOID, TEXTOID, TEXTARRAYOID, TEXTARRAYOID, TEXTOID, TEXTARRAYOID, INT4OID, INT4OID, TEXTOID, INT4OID,
		INT4OID, INTERVALOID, BOOLOID, INT8OID, TEXTOID, NAMEOID, TEXTOID
	}
};

/* An empty array takes a filter away. */
static Statement alter_statement = {
	.sql = "UPDATE cqrs.projection SET revision = nextval('cqrs.revision_seq'), handler = coalesce($2, handler),"
	" search_path = coalesce($15, search_path),"
	" entity_types = CASE WHEN $3 IS NULL THEN entity_types ELSE nullif($3, '{}') END,"
	" event_types = CASE WHEN $4 IS NULL THEN event_types ELSE nullif($4, '{}') END,"
	" mode = coalesce($5, mode), tables = coalesce($6, tables), batch_size = coalesce($7, batch_size),"
	" partitions = coalesce($8, partitions), on_failure = coalesce($9, on_failure),"
	" max_retries = coalesce($10, max_retries), max_parked = coalesce($11, max_parked),"
	" handler_timeout = coalesce($12, handler_timeout),"
	" replay_side_effects = coalesce($13, replay_side_effects), owner = coalesce($14, owner)"
	" WHERE name = $1",
	.nargs = 15,
	.argtypes = {
		TEXTOID, TEXTOID, TEXTARRAYOID, TEXTARRAYOID, TEXTOID, TEXTARRAYOID, INT4OID, INT4OID, TEXTOID, INT4OID,
		INT4OID, INTERVALOID, BOOLOID, NAMEOID, TEXTOID
	}
};

static Statement trigger_statement = {
	.sql = "UPDATE cqrs.projection SET has_trigger = $2, revision = nextval('cqrs.revision_seq') WHERE name = $1",
	.nargs = 2,
	.argtypes = {TEXTOID, BOOLOID}
};

static Statement barrier_statement = {
	.sql = "UPDATE cqrs.projection SET barrier = $2 WHERE name = $1",
	.nargs = 2,
	.argtypes = {TEXTOID, INT8OID}
};

static Statement revise_statement = {
	.sql = "UPDATE cqrs.projection_offset o SET revision = p.revision FROM cqrs.projection p"
	" WHERE o.projection = $1 AND p.name = $1",
	.nargs = 1,
	.argtypes = {TEXTOID}
};

static Statement reached_statement = {
	.sql = "UPDATE cqrs.projection_offset SET position = $3 WHERE projection = $1 AND slice = $2 AND position < $3",
	.nargs = 3,
	.argtypes = {TEXTOID, INT4OID, INT8OID}
};

static Statement drop_statement = {
	.sql = "WITH offsets AS (DELETE FROM cqrs.projection_offset WHERE projection = $1),"
	" parked AS (DELETE FROM cqrs.parked_entity WHERE projection = $1)"
	" DELETE FROM cqrs.projection WHERE name = $1",
	.nargs = 1,
	.argtypes = {TEXTOID}
};

static int64 start_position(FunctionCallInfo fcinfo);
static void run_prepare(const char *signature);
static bool is_sync(FunctionCallInfo fcinfo);
static void attach(text *name, int64 after);
static void set_trigger(text *name, bool exists);
static void check_alter(FunctionCallInfo fcinfo, const Projection *projection);
static void refuse_partitions(const char *name);
static void change_owner(FunctionCallInfo fcinfo, const Projection *projection, const char *signature);
static bool concerns_trigger(FunctionCallInfo fcinfo);
static int	lock_offsets(const char *projection, text *name);
static void on_lock_failure(int code, Datum progress);
static void bring_up_to_date(ProjectionChange *change, text *name, int count);
static void change_partitions(const ProjectionChange *change);
static void update(Statement *statement, Datum *values, const char *nulls);

PG_FUNCTION_INFO_V1(cqrs_create_projection);
Datum
cqrs_create_projection(PG_FUNCTION_ARGS)
{
	text	   *name = cqrs_projection_name_argument(fcinfo);
	Datum		values[17];
	char		nulls[17];
	NameData	owner;
	int64		revision;
	RoleScope	scope;

	for (int i = HANDLER; i <= REPLAY_SIDE_EFFECTS; i++)
		if (PG_ARGISNULL(i) && i != ENTITY_TYPES && i != EVENT_TYPES && i != TABLES)
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("a setting of projection \"%s\" is NULL", text_to_cstring(name)),
					 errhint("Name a handler, and leave out what shall have its default.")));
	cqrs_projection_settings_check(fcinfo);
	if (is_sync(fcinfo) && PG_GETARG_INT32(PARTITIONS) > 1)
		refuse_partitions(text_to_cstring(name));
	cqrs_journal_ensure();
	cqrs_projection_settings_check_may_read(GetUserId());
	namestrcpy(&owner, GetUserNameFromId(GetUserId(), false));

	for (int i = 0; i < 17; i++)
	{
		values[i] = i < PG_NARGS() ? PG_GETARG_DATUM(i) : (Datum) 0;
		nulls[i] = i < PG_NARGS() && PG_ARGISNULL(i) ? 'n' : ' ';
	}
	values[HANDLER] = CStringGetTextDatum(cqrs_handler_find_projection(PG_GETARG_TEXT_PP(HANDLER), GetUserId()));
	values[START_POSITION] = Int64GetDatum(start_position(fcinfo));
	nulls[START_POSITION] = ' ';
	if (!PG_ARGISNULL(PREPARE))
	{
		char	   *signature = cqrs_handler_find(HANDLER_PREPARE, PG_GETARG_TEXT_PP(PREPARE), GetUserId());

		run_prepare(signature);
		values[PREPARE] = CStringGetTextDatum(signature);
	}
	values[TABLES] = cqrs_projection_settings_tables(fcinfo, GetUserId());
	nulls[TABLES] = ' ';
	values[15] = NameGetDatum(&owner);
	values[16] = CStringGetTextDatum(cqrs_handler_pin_search_path());

	cqrs_role_enter(&scope, cqrs_catalog_extension_owner());
	SPI_connect();
	if (cqrs_statement_write(&create_statement, values, nulls) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
				 errmsg("projection \"%s\" already exists", text_to_cstring(name)),
				 errhint("cqrs.alter_projection changes it, cqrs.drop_projection drops it.")));
	revision = DatumGetInt64(cqrs_statement_column(0, 1, NULL));
	cqrs_projection_split_check_room();
	cqrs_projection_split_make(name, PG_GETARG_INT32(PARTITIONS), DatumGetInt64(values[START_POSITION]), revision);
	cqrs_projection_registry_changed();
	if (is_sync(fcinfo))
		attach(name, DatumGetInt64(values[START_POSITION]));
	cqrs_worker_look_at_commit();
	SPI_finish();
	cqrs_role_leave(&scope);
	PG_RETURN_VOID();
}

PG_FUNCTION_INFO_V1(cqrs_alter_projection);
Datum
cqrs_alter_projection(PG_FUNCTION_ARGS)
{
	text	   *name = cqrs_projection_name_argument(fcinfo);
	Projection *before = cqrs_projection_registry_get_owned(name);
	char	   *signature = before->handler.signature;
	Projection *after;
	ProjectionChange change;
	bool		detached;
	Datum		values[15] = {0};
	char		nulls[15];

	cqrs_projection_settings_check(fcinfo);
	for (int i = NAME; i <= OWNER; i++)
	{
		values[i] = PG_GETARG_DATUM(i);
		nulls[i] = PG_ARGISNULL(i) ? 'n' : ' ';
	}
	nulls[14] = 'n';
	if (!PG_ARGISNULL(HANDLER))
	{
		signature = cqrs_handler_find_projection(PG_GETARG_TEXT_PP(HANDLER), before->owner);
		values[HANDLER] = CStringGetTextDatum(signature);
		values[14] = CStringGetTextDatum(cqrs_handler_pin_search_path());
		nulls[14] = ' ';
	}
	if (!PG_ARGISNULL(TABLES))
		values[TABLES] = cqrs_projection_settings_tables(fcinfo, before->owner);
	if (!PG_ARGISNULL(OWNER))
		change_owner(fcinfo, before, signature);

	cqrs_projection_begin_change(&change, name);
	check_alter(fcinfo, change.projection);
	detached = change.projection->has_trigger && concerns_trigger(fcinfo);
	if (detached)
		cqrs_projection_sync_detach(change.projection);
	update(&alter_statement, values, nulls);
	cqrs_projection_registry_changed();
	if (!PG_ARGISNULL(PARTITIONS))
		change_partitions(&change);
	after = cqrs_projection_registry_reload(name);
	if (detached && after->sync)
	{
		cqrs_projection_sync_create_trigger(after);
		set_trigger(name, true);
	}
	cqrs_projection_end_change(&change);
	PG_RETURN_VOID();
}

PG_FUNCTION_INFO_V1(cqrs_drop_projection);
Datum
cqrs_drop_projection(PG_FUNCTION_ARGS)
{
	text	   *name = cqrs_projection_name_argument(fcinfo);
	Datum		value = PointerGetDatum(name);
	ProjectionChange change;

	cqrs_projection_begin_change(&change, name);
	if (change.projection->has_trigger)
		cqrs_projection_sync_drop_trigger(change.projection);
	update(&drop_statement, &value, NULL);
	cqrs_projection_end_change(&change);
	PG_RETURN_VOID();
}

/*
 * Checks that the caller may change the projection and locks it; no worker is
 * at it until the transaction ends.  Leaves SPI connected, as the owner of the
 * extension.
 */
void
cqrs_projection_begin_change(ProjectionChange *change, text *name)
{
	Projection *projection = cqrs_projection_registry_get_owned(name);
	char	   *owner = pstrdup(projection->owner_name);
	int			count;

	memset(change, 0, sizeof(ProjectionChange));
	cqrs_role_enter(&change->scope, cqrs_catalog_extension_owner());
	SPI_connect();
	count = lock_offsets(projection->name, name);
	bring_up_to_date(change, name, count);
	change->projection = cqrs_projection_registry_reload(name);
	if (change->projection == NULL)
		change->projection = cqrs_projection_registry_get_owned(name);
	if (strcmp(change->projection->owner_name, owner) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("projection \"%s\" was given away meanwhile", text_to_cstring(name)),
				 errdetail("Its owner is role \"%s\" now.", change->projection->owner_name)));
}

/* Waits for the batch that a worker is at; a rebuild gives way. */
static int
lock_offsets(const char *projection, text *name)
{
	ProjectionProgress *progress = cqrs_projection_progress_find(projection, 0);
	volatile int count = 0;

	if (progress == NULL)
		return cqrs_projection_offset_lock_all(name);
	cqrs_projection_progress_want(progress, true);
	/* A session that is terminated while it waits must not be waited for. */
	PG_ENSURE_ERROR_CLEANUP(on_lock_failure, PointerGetDatum(progress));
	{
		count = cqrs_projection_offset_lock_all(name);
	}
	PG_END_ENSURE_ERROR_CLEANUP(on_lock_failure, PointerGetDatum(progress));
	cqrs_projection_progress_want(progress, false);
	return count;
}

static void
on_lock_failure(int code, Datum progress)
{
	cqrs_projection_progress_want((ProjectionProgress *) DatumGetPointer(progress), false);
}

/*
 * Moves offsets to where their partitions have read, for the sake of events
 * that the projection did not want: a new filter is about what comes after.
 * Notes where they all are.
 */
static void
bring_up_to_date(ProjectionChange *change, text *name, int count)
{
	char	   *projection = text_to_cstring(name);
	Datum	   *values = palloc(sizeof(Datum) * 3 * Max(count, 1));

	for (int i = 0; i < count; i++)
	{
		int			slice = DatumGetInt32(cqrs_statement_column(i, 1, NULL));
		int64		position = DatumGetInt64(cqrs_statement_column(i, 3, NULL));
		int64		replay_until = DatumGetInt64(cqrs_statement_column(i, 4, NULL));
		ProjectionProgress *progress = cqrs_projection_progress_find(projection, slice);

		if (progress)
			position = Max(position,
						   cqrs_projection_progress_read(progress, DatumGetInt64(cqrs_statement_column(i, 5, NULL))));
		change->lowest = i == 0 ? position : Min(change->lowest, position);
		change->highest = Max(change->highest, position);
		change->replay_until = Max(change->replay_until, replay_until);
		values[3 * i] = PointerGetDatum(name);
		values[3 * i + 1] = Int32GetDatum(slice);
		values[3 * i + 2] = Int64GetDatum(position);
	}
	for (int i = 0; i < count; i++)
		(void) cqrs_statement_write(&reached_statement, values + 3 * i, NULL);
}

/* Gives the offsets the definition's revision, and tells the workers. */
void
cqrs_projection_end_change(ProjectionChange *change)
{
	Datum		value = PointerGetDatum(change->projection->registered.name);

	(void) cqrs_statement_write(&revise_statement, &value, NULL);
	cqrs_projection_registry_changed();
	cqrs_worker_look_at_commit();
	SPI_finish();
	cqrs_role_leave(&change->scope);
}

text *
cqrs_projection_name_argument(FunctionCallInfo fcinfo)
{
	text	   *name = cqrs_new_event_check_name(PG_ARGISNULL(0) ? NULL : PG_GETARG_TEXT_PP(0), "projection");

	if (VARSIZE_ANY_EXHDR(name) > CQRS_PROJECTION_MAX_NAME)
		ereport(ERROR,
				(errcode(ERRCODE_NAME_TOO_LONG),
				 errmsg("name of projection \"%s\" is too long", text_to_cstring(name)),
				 errdetail("It has %d bytes; at most %d are possible.",
						   (int) VARSIZE_ANY_EXHDR(name), CQRS_PROJECTION_MAX_NAME)));
	return name;
}

/* NULL is what comes from now on; the default is all there is. */
static int64
start_position(FunctionCallInfo fcinfo)
{
	int64		last = cqrs_position_last();
	int64		start;

	if (PG_ARGISNULL(START_POSITION))
		return cqrs_position_high_water_mark();
	start = PG_GETARG_INT64(START_POSITION);
	if (start < 0 || start > last)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("no position " INT64_FORMAT " was ever given in this journal", start),
				 errdetail("The last position is " INT64_FORMAT ".", last),
				 errhint("0 projects all events, NULL those that are written from now on.")));
	return start;
}

/* As the caller, who owns it. */
static void
run_prepare(const char *signature)
{
	Handler		handler = {.kind = HANDLER_PREPARE, .signature = pstrdup(signature)};
	bool		isnull;

	handler.context = AllocSetContextCreate(CurrentMemoryContext, "pg_cqrs handler", ALLOCSET_SMALL_SIZES);
	cqrs_handler_resolve(&handler, GetUserId());
	(void) cqrs_handler_call(&handler, NULL, &isnull);
	CommandCounterIncrement();
}

/* ---- triggers and partitions ---- */

static bool
is_sync(FunctionCallInfo fcinfo)
{
	return !PG_ARGISNULL(MODE) && strcmp(text_to_cstring(PG_GETARG_TEXT_PP(MODE)), "sync") == 0;
}

/*
 * Makes the trigger now if there is nothing to catch up with.  The first look
 * spares writers the lock where it would be in vain.
 */
static void
attach(text *name, int64 after)
{
	Projection *projection = cqrs_projection_registry_find(name);

	if (cqrs_projection_sync_has_events(projection, after))
		return;
	cqrs_projection_sync_lock();
	if (cqrs_projection_sync_has_events(projection, after))
		return;
	cqrs_projection_sync_create_trigger(projection);
	set_trigger(name, true);
}

static void
set_trigger(text *name, bool exists)
{
	Datum		values[] = {PointerGetDatum(name), BoolGetDatum(exists)};

	update(&trigger_statement, values, NULL);
	(void) cqrs_statement_write(&revise_statement, values, NULL);
	cqrs_projection_registry_changed();
}

/* What does not go together with what is registered. */
static void
check_alter(FunctionCallInfo fcinfo, const Projection *projection)
{
	bool		sync = PG_ARGISNULL(MODE) ? projection->sync : is_sync(fcinfo);

	if (!sync)
		return;
	if (!PG_ARGISNULL(PARTITIONS) ? PG_GETARG_INT32(PARTITIONS) > 1 : projection->partitions > 1)
		refuse_partitions(projection->name);
	if (!projection->sync && cqrs_projection_offset_count_parked(projection->registered.name) > 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("projection \"%s\" has parked entities", projection->name),
				 errdetail("A trigger could not hold their events back."),
				 errhint("See cqrs.parked_event; use cqrs.retry_parked or cqrs.discard_parked first.")));
	if (projection->state != PROJECTION_RUNNING && !projection->sync)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("projection \"%s\" does not run", projection->name),
				 errhint("Resume it before it is made a sync one: SELECT cqrs.resume_projection(%s).",
						 quote_literal_cstr(projection->name))));
}

/* Writers carry out a projection one after the other anyway. */
static void
refuse_partitions(const char *name)
{
	ereport(ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("sync projection \"%s\" cannot have partitions", name),
			 errdetail("It is run by those who write to the journal, as many as there are."),
			 errhint("Use partitions => 1.")));
}

/* The handlers become the new owner's responsibility, so they must be his. */
static void
change_owner(FunctionCallInfo fcinfo, const Projection *projection, const char *signature)
{
	Oid			owner = get_role_oid(NameStr(*PG_GETARG_NAME(OWNER)), false);

	cqrs_check_may_give_to(GetUserId(), owner);
	cqrs_projection_settings_check_may_read(owner);
	(void) cqrs_handler_find(cqrs_handler_projection_kind(signature), cstring_to_text(signature), owner);
	if (projection->prepare)
		(void) cqrs_handler_find(HANDLER_PREPARE, cstring_to_text(projection->prepare->signature), owner);
	for (int i = 0; i < projection->table_count; i++)
		(void) cqrs_projection_settings_table(projection->tables[i], owner);
}

/* The handler decides about rows or statement, filters about the WHEN clause. */
static bool
concerns_trigger(FunctionCallInfo fcinfo)
{
	return !PG_ARGISNULL(HANDLER) || !PG_ARGISNULL(ENTITY_TYPES) || !PG_ARGISNULL(EVENT_TYPES) || !PG_ARGISNULL(MODE);
}

/*
 * Splits it now if all partitions are at the same position, else when they
 * are; not while one of them replays what others do not.
 */
static void
change_partitions(const ProjectionChange *change)
{
	text	   *name = change->projection->registered.name;
	Datum		values[] = {PointerGetDatum(name), Int64GetDatum(Max(change->highest, change->replay_until))};

	cqrs_projection_split_check_room();
	if (change->lowest == change->highest && change->replay_until <= change->lowest)
		cqrs_projection_split_replace(name, change->highest);
	else
		update(&barrier_statement, values, NULL);
}

/* Of one projection, that is locked. */
static void
update(Statement *statement, Datum *values, const char *nulls)
{
	if (cqrs_statement_write(statement, values, nulls) != 1)
		elog(ERROR, "projection is gone");
}
