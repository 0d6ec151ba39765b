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
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/regproc.h"
#include "utils/rls.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "utils/varlena.h"

#include "catalog.h"
#include "compat.h"
#include "duration.h"
#include "journal.h"
#include "new_event.h"
#include "position.h"
#include "projection.h"
#include "projection_progress.h"
#include "projection_split.h"
#include "projection_sync.h"
#include "statement.h"
#include "worker.h"

#define MAX_BATCH_SIZE	10000
#define MAX_PARTITIONS	64

/* Arguments of cqrs.create_projection and cqrs.alter_projection */
enum
{
	NAME, HANDLER, ENTITY_TYPES, EVENT_TYPES, MODE, TABLES, BATCH_SIZE, PARTITIONS, ON_FAILURE, MAX_RETRIES,
	MAX_PARKED, HANDLER_TIMEOUT, REPLAY_SIDE_EFFECTS,
	START_POSITION, PREPARE,	/* of create */
	OWNER = START_POSITION		/* of alter */
};

static Statement create_statement = {
	.sql = "INSERT INTO cqrs.projection (name, handler, entity_types, event_types, mode, tables, batch_size, partitions,"
	" on_failure, max_retries, max_parked, handler_timeout, replay_side_effects, start_position, prepare,"
	" owner, search_path)"
	" VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17) ON CONFLICT DO NOTHING",
	.nargs = 17,
	.argtypes = {
		TEXTOID, TEXTOID, TEXTARRAYOID, TEXTARRAYOID, TEXTOID, TEXTARRAYOID, INT4OID, INT4OID, TEXTOID, INT4OID,
		INT4OID, INTERVALOID, BOOLOID, INT8OID, TEXTOID, NAMEOID, TEXTOID
	}
};

/* An empty array takes a filter away. */
static Statement alter_statement = {
	.sql = "UPDATE cqrs.projection SET revision = revision + 1, handler = coalesce($2, handler),"
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
	.sql = "UPDATE cqrs.projection SET has_trigger = $2, revision = revision + 1 WHERE name = $1",
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

static Statement drop_statement = {
	.sql = "WITH offsets AS (DELETE FROM cqrs.projection_offset WHERE projection = $1),"
	" parked AS (DELETE FROM cqrs.parked_entity WHERE projection = $1)"
	" DELETE FROM cqrs.projection WHERE name = $1",
	.nargs = 1,
	.argtypes = {TEXTOID}
};

static void check_settings(FunctionCallInfo fcinfo);
static void check_number(FunctionCallInfo fcinfo, int argument, const char *what, int lowest, int highest);
static void check_word(FunctionCallInfo fcinfo, int argument, const char *what, const char *words);
static void check_names(FunctionCallInfo fcinfo, int argument, const char *what);
static void check_timeout(FunctionCallInfo fcinfo);
static int64 start_position(FunctionCallInfo fcinfo);
static void check_may_read(Oid role);
static Datum qualified_tables(FunctionCallInfo fcinfo, Oid owner);
static char *qualified_table(const char *name, Oid owner);
static void run_prepare(const char *signature);
static bool is_sync(FunctionCallInfo fcinfo);
static void attach(text *name, int64 after);
static void set_trigger(text *name, bool exists);
static void check_alter(FunctionCallInfo fcinfo, const Projection *projection);
static void refuse_partitions(const char *name);
static void change_owner(FunctionCallInfo fcinfo, const Projection *projection, const char *signature);
static bool concerns_trigger(FunctionCallInfo fcinfo);
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
	RoleScope	scope;

	for (int i = HANDLER; i <= REPLAY_SIDE_EFFECTS; i++)
		if (PG_ARGISNULL(i) && i != ENTITY_TYPES && i != EVENT_TYPES && i != TABLES)
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("a setting of projection \"%s\" is NULL", text_to_cstring(name)),
					 errhint("Name a handler, and leave out what shall have its default.")));
	check_settings(fcinfo);
	if (is_sync(fcinfo) && PG_GETARG_INT32(PARTITIONS) > 1)
		refuse_partitions(text_to_cstring(name));
	cqrs_journal_ensure();
	check_may_read(GetUserId());
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
	values[TABLES] = qualified_tables(fcinfo, GetUserId());
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
	cqrs_projection_progress_reserve(PG_GETARG_INT32(PARTITIONS));
	cqrs_projection_split_make(name, PG_GETARG_INT32(PARTITIONS), DatumGetInt64(values[START_POSITION]), 1);
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

	check_settings(fcinfo);
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
		values[TABLES] = qualified_tables(fcinfo, before->owner);
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
	count = cqrs_projection_offset_lock_all(name);
	for (int i = 0; i < count; i++)
	{
		int64		position = DatumGetInt64(cqrs_statement_column(i, 3, NULL));

		change->lowest = i == 0 ? position : Min(change->lowest, position);
		change->highest = Max(change->highest, position);
	}
	change->projection = cqrs_projection_registry_reload(name);
	if (change->projection == NULL || strcmp(change->projection->owner_name, owner) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("projection \"%s\" was dropped or given away meanwhile", text_to_cstring(name)),
				 errhint("Look at it again.")));
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

/* ---- settings ---- */

/* NULL stands for a setting that is left as it is. */
static void
check_settings(FunctionCallInfo fcinfo)
{
	check_names(fcinfo, ENTITY_TYPES, "entity_types");
	check_names(fcinfo, EVENT_TYPES, "event_types");
	check_names(fcinfo, TABLES, "tables");
	check_word(fcinfo, MODE, "mode", "async, sync");
	check_word(fcinfo, ON_FAILURE, "on_failure", "park, stop, skip");
	check_number(fcinfo, BATCH_SIZE, "batch_size", 1, MAX_BATCH_SIZE);
	check_number(fcinfo, PARTITIONS, "partitions", 1, MAX_PARTITIONS);
	check_number(fcinfo, MAX_RETRIES, "max_retries", 0, PG_INT32_MAX);
	check_number(fcinfo, MAX_PARKED, "max_parked", 0, PG_INT32_MAX);
	check_timeout(fcinfo);
}

static void
check_number(FunctionCallInfo fcinfo, int argument, const char *what, int lowest, int highest)
{
	if (!PG_ARGISNULL(argument) &&
		(PG_GETARG_INT32(argument) < lowest || PG_GETARG_INT32(argument) > highest))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s is %d", what, PG_GETARG_INT32(argument)),
				 errhint("Use a number from %d to %d.", lowest, highest)));
}

static void
check_word(FunctionCallInfo fcinfo, int argument, const char *what, const char *words)
{
	char	   *word = PG_ARGISNULL(argument) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(argument));
	List	   *known;
	ListCell   *cell;

	if (word == NULL)
		return;
	(void) SplitIdentifierString(pstrdup(words), ',', &known);
	foreach(cell, known)
		if (strcmp(lfirst(cell), word) == 0)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("%s is \"%s\"", what, word),
			 errhint("Use one of: %s.", words)));
}

static void
check_names(FunctionCallInfo fcinfo, int argument, const char *what)
{
	Datum	   *names;
	bool	   *nulls;
	int			count;

	if (PG_ARGISNULL(argument))
		return;
	deconstruct_array(PG_GETARG_ARRAYTYPE_P(argument), TEXTOID, -1, false, TYPALIGN_INT, &names, &nulls, &count);
	for (int i = 0; i < count; i++)
		if (nulls[i] || VARSIZE_ANY_EXHDR(DatumGetPointer(names[i])) == 0)
			ereport(ERROR,
					(errcode(nulls[i] ? ERRCODE_NULL_VALUE_NOT_ALLOWED : ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("a name in %s is %s", what, nulls[i] ? "NULL" : "empty")));
}

static void
check_timeout(FunctionCallInfo fcinfo)
{
	double		ms;

	if (PG_ARGISNULL(HANDLER_TIMEOUT))
		return;
	ms = cqrs_duration_ms(PG_GETARG_INTERVAL_P(HANDLER_TIMEOUT));
	if (ms < 0 || ms > PG_INT32_MAX)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("handler_timeout is out of range"),
				 errhint("Use up to %d days, or 0 for no limit.", PG_INT32_MAX / (1000 * SECS_PER_DAY))));
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

/* A handler sees events: a right that goes with SELECT. */
static void
check_may_read(Oid role)
{
	if (pg_class_aclcheck(cqrs_journal_relid(), role, ACL_SELECT) != ACLCHECK_OK ||
		check_enable_rls(cqrs_journal_relid(), role, true) == RLS_ENABLED)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied for the events of a projection"),
				 errdetail("Role \"%s\" may not read all of cqrs.journal.", GetUserNameFromId(role, false)),
				 errhint("It takes SELECT on cqrs.journal, without row security.")));
}

/* The tables that a rebuild empties, by names that mean the same to everybody. */
static Datum
qualified_tables(FunctionCallInfo fcinfo, Oid owner)
{
	Datum	   *names = NULL;
	int			count = 0;

	if (!PG_ARGISNULL(TABLES))
		deconstruct_array(PG_GETARG_ARRAYTYPE_P(TABLES), TEXTOID, -1, false, TYPALIGN_INT, &names, NULL, &count);
	for (int i = 0; i < count; i++)
		names[i] = CStringGetTextDatum(qualified_table(TextDatumGetCString(names[i]), owner));
	return PointerGetDatum(construct_array(names, count, TEXTOID, -1, false, TYPALIGN_INT));
}

static char *
qualified_table(const char *name, Oid owner)
{
	RangeVar   *range = makeRangeVarFromNameList(cqrs_qualified_name(name));
	Oid			relid = RangeVarGetRelid(range, NoLock, false);
	char		kind = get_rel_relkind(relid);

	if (kind != RELKIND_RELATION && kind != RELKIND_PARTITIONED_TABLE)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("\"%s\" is not a table", name),
				 errhint("Name the tables that the projection fills; a rebuild empties them.")));
	if (get_rel_persistence(relid) == RELPERSISTENCE_TEMP)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("temporary table \"%s\" cannot belong to a projection", name)));
	if (pg_class_aclcheck(relid, owner, ACL_DELETE) != ACLCHECK_OK)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("role \"%s\" may not delete from table \"%s\"", GetUserNameFromId(owner, false), name),
				 errhint("A rebuild empties the tables of a projection.")));
	return quote_qualified_identifier(get_namespace_name(get_rel_namespace(relid)), get_rel_name(relid));
}

/* As the caller, who owns it. */
static void
run_prepare(const char *signature)
{
	Handler		handler = {.kind = HANDLER_PREPARE, .signature = pstrdup(signature), .context = CurrentMemoryContext};
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
	check_may_read(owner);
	(void) cqrs_handler_find(cqrs_handler_projection_kind(signature), cstring_to_text(signature), owner);
	if (projection->prepare)
		(void) cqrs_handler_find(HANDLER_PREPARE, cstring_to_text(projection->prepare->signature), owner);
	for (int i = 0; i < projection->table_count; i++)
		(void) qualified_table(projection->tables[i], owner);
}

/* The handler decides about rows or statement, filters about the WHEN clause. */
static bool
concerns_trigger(FunctionCallInfo fcinfo)
{
	return !PG_ARGISNULL(HANDLER) || !PG_ARGISNULL(ENTITY_TYPES) || !PG_ARGISNULL(EVENT_TYPES) || !PG_ARGISNULL(MODE);
}

/* Splits it now if all partitions are at the same position, else when they are. */
static void
change_partitions(const ProjectionChange *change)
{
	text	   *name = change->projection->registered.name;
	Datum		values[] = {PointerGetDatum(name), Int64GetDatum(change->highest)};

	cqrs_projection_progress_reserve(cqrs_projection_registry_reload(name)->partitions);
	if (change->lowest == change->highest)
		cqrs_projection_split_replace(name, change->highest);
	else if (change->projection->barrier == 0)
		update(&barrier_statement, values, NULL);
}

/* Of one projection, that is locked. */
static void
update(Statement *statement, Datum *values, const char *nulls)
{
	if (cqrs_statement_write(statement, values, nulls) != 1)
		elog(ERROR, "projection is gone");
}
