/*
 * projection_registry.c
 *		What is registered about projections, kept in each backend.
 *
 * A row of cqrs.projection is read when the projection is first used, and kept
 * (registry.c).  A message tells that it has changed, but may come a moment
 * after the change is visible; a worker, which must not be late, compares the
 * revision with that of the offset it has locked, and reloads.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "catalog.h"
#include "compat.h"
#include "duration.h"
#include "projection_registry.h"
#include "role.h"
#include "slice.h"
#include "statement.h"
#include "worker.h"

static Registered *load(text *name, MemoryContext parent);

static Registry registry = {.table = "projection", .load = load};

enum
{
	OWNER = 1, REVISION, HANDLER, SEARCH_PATH, PREPARE, MODE, ENTITY_TYPES, EVENT_TYPES, TABLES,
	BATCH_SIZE, PARTITIONS, HANDLER_TIMEOUT, START_POSITION, REPLAY_SIDE_EFFECTS, ON_FAILURE, MAX_RETRIES, MAX_PARKED,
	STATE, HAS_TRIGGER, REBUILD, BARRIER
};

static const char *const states[] = {
	[PROJECTION_RUNNING] = "running", [PROJECTION_PAUSED] = "paused", [PROJECTION_STOPPED] = "stopped"
};

static const char *const on_failures[] = {
	[PROJECTION_PARK] = "park", [PROJECTION_STOP] = "stop", [PROJECTION_SKIP] = "skip"
};

static Statement projection_statement = {
	.sql = "SELECT owner::text, revision, handler, search_path, prepare, mode, entity_types, event_types, tables,"
	" batch_size, partitions, handler_timeout, start_position, replay_side_effects, on_failure, max_retries, max_parked,"
	" state, has_trigger, rebuild, coalesce(barrier, 0)"
	" FROM cqrs.projection WHERE name = $1",
	.nargs = 1,
	.argtypes = {TEXTOID}
};

static Projection *read_row(text *name, MemoryContext context);
static void read_handlers(Projection *projection);
static void init_handler(Handler *handler, HandlerKind kind, char *signature, char *search_path);
static void read_tables(Projection *projection);
static ArrayType *array_or_null(int column);
static char *string(int column);
static int	number(int column);
static int	index_of(const char *word, const char *const *words);
static bool contains(ArrayType *names, text *name);

void
cqrs_projection_registry_init(void)
{
	cqrs_registry_register(&registry);
}

/* NULL if there is no such projection. */
Projection *
cqrs_projection_registry_find(text *name)
{
	return (Projection *) cqrs_registry_find_again(&registry, name);
}

/* For who may change it: its owner, or a superuser. */
Projection *
cqrs_projection_registry_get_owned(text *name)
{
	Projection *projection = cqrs_projection_registry_find(name);

	if (projection == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("projection \"%s\" does not exist", text_to_cstring(name)),
				 errhint("cqrs.projection_status lists the projections; create one with cqrs.create_projection.")));
	if (!superuser() &&
		(!OidIsValid(projection->owner) || !has_privs_of_role(GetUserId(), projection->owner)))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("must be owner of projection \"%s\"", projection->name),
				 errdetail("Its owner is role \"%s\".", projection->owner_name)));
	return projection;
}

/* As find, but reads it anew. */
Projection *
cqrs_projection_registry_reload(text *name)
{
	cqrs_registry_invalidate(&registry);
	return (Projection *) cqrs_registry_find(&registry, name);
}

/* Has all of them read anew, by this session. */
void
cqrs_projection_registry_forget(void)
{
	cqrs_registry_invalidate(&registry);
}

/* A number that is another one when something may have changed. */
uint64
cqrs_projection_registry_changes(void)
{
	AcceptInvalidationMessages();
	return registry.changes;
}

/* Does it want events of that kind? */
bool
cqrs_projection_registry_takes(const Projection *projection, text *entity_type, text *event_type)
{
	return (projection->entity_types == NULL || contains(projection->entity_types, entity_type)) &&
		(projection->event_types == NULL || contains(projection->event_types, event_type));
}

/* Tells sessions and workers, for the SQL of cqrs.create_journal. */
PG_FUNCTION_INFO_V1(cqrs_projections_changed);
Datum
cqrs_projections_changed(PG_FUNCTION_ARGS)
{
	cqrs_projection_registry_changed();
	cqrs_worker_look_at_commit();
	PG_RETURN_VOID();
}

void
cqrs_projection_registry_changed(void)
{
	cqrs_registry_changed(&registry);
}

static Registered *
load(text *name, MemoryContext parent)
{
	Projection *projection = NULL;
	Datum		key = PointerGetDatum(name);
	RoleScope	scope;

	cqrs_role_enter(&scope, cqrs_catalog_extension_owner());
	PushActiveSnapshot(GetLatestSnapshot());
	SPI_connect();
	if (cqrs_statement_read(&projection_statement, &key, NULL, 0) == 1)
	{
		MemoryContext context = AllocSetContextCreate(parent, "pg_cqrs projection", ALLOCSET_SMALL_SIZES);
		MemoryContext old = MemoryContextSwitchTo(context);

		projection = read_row(name, context);
		MemoryContextSwitchTo(old);
	}
	SPI_finish();
	PopActiveSnapshot();
	cqrs_role_leave(&scope);
	return (Registered *) projection;
}

/* Takes the row in SPI_tuptable into the current context. */
static Projection *
read_row(text *name, MemoryContext context)
{
	Projection *projection = palloc0(sizeof(Projection));

	projection->registered.context = context;
	projection->registered.name = (text *) PG_DETOAST_DATUM_COPY(PointerGetDatum(name));
	projection->name = text_to_cstring(name);
	projection->owner_name = string(OWNER);
	projection->owner = get_role_oid(projection->owner_name, true);
	projection->revision = DatumGetInt64(cqrs_statement_column(0, REVISION, NULL));
	read_handlers(projection);
	projection->sync = strcmp(string(MODE), "sync") == 0;
	projection->entity_types = array_or_null(ENTITY_TYPES);
	projection->event_types = array_or_null(EVENT_TYPES);
	read_tables(projection);
	projection->batch_size = number(BATCH_SIZE);
	projection->partitions = number(PARTITIONS);
	/* Registration has refused what does not fit. */
	projection->handler_timeout_ms = (int)
		cqrs_duration_ms(DatumGetIntervalP(cqrs_statement_column(0, HANDLER_TIMEOUT, NULL)));
	projection->start_position = DatumGetInt64(cqrs_statement_column(0, START_POSITION, NULL));
	projection->replay_side_effects = DatumGetBool(cqrs_statement_column(0, REPLAY_SIDE_EFFECTS, NULL));
	projection->on_failure = index_of(string(ON_FAILURE), on_failures);
	projection->max_retries = number(MAX_RETRIES);
	projection->max_parked = number(MAX_PARKED);
	projection->state = index_of(string(STATE), states);
	projection->has_trigger = DatumGetBool(cqrs_statement_column(0, HAS_TRIGGER, NULL));
	projection->rebuild = DatumGetBool(cqrs_statement_column(0, REBUILD, NULL));
	projection->barrier = DatumGetInt64(cqrs_statement_column(0, BARRIER, NULL));
	return projection;
}

static void
read_handlers(Projection *projection)
{
	char	   *signature = string(HANDLER);
	char	   *search_path = string(SEARCH_PATH);
	bool		no_prepare;

	init_handler(&projection->handler, cqrs_handler_projection_kind(signature), signature, search_path);
	(void) cqrs_statement_column(0, PREPARE, &no_prepare);
	if (no_prepare)
		return;
	projection->prepare = palloc0(sizeof(Handler));
	init_handler(projection->prepare, HANDLER_PREPARE, string(PREPARE), search_path);
}

static void
init_handler(Handler *handler, HandlerKind kind, char *signature, char *search_path)
{
	handler->kind = kind;
	handler->signature = signature;
	handler->search_path = search_path;
	handler->context = AllocSetContextCreate(CurrentMemoryContext, "pg_cqrs handler", ALLOCSET_SMALL_SIZES);
}

static void
read_tables(Projection *projection)
{
	Datum	   *names;

	deconstruct_array(array_or_null(TABLES), TEXTOID, -1, false, TYPALIGN_INT,
					  &names, NULL, &projection->table_count);
	projection->tables = palloc(sizeof(char *) * Max(projection->table_count, 1));
	for (int i = 0; i < projection->table_count; i++)
		projection->tables[i] = TextDatumGetCString(names[i]);
}

static ArrayType *
array_or_null(int column)
{
	bool		isnull;
	Datum		value = cqrs_statement_column(0, column, &isnull);

	return isnull ? NULL : DatumGetArrayTypePCopy(value);
}

static char *
string(int column)
{
	return TextDatumGetCString(cqrs_statement_column(0, column, NULL));
}

static int
number(int column)
{
	return DatumGetInt32(cqrs_statement_column(0, column, NULL));
}

/* The table has a constraint that it is one of them. */
static int
index_of(const char *word, const char *const *words)
{
	int			i = 0;

	while (strcmp(words[i], word) != 0)
		i++;
	return i;
}

static bool
contains(ArrayType *names, text *name)
{
	ArrayIterator iterator = array_create_iterator(names, 0, NULL);
	Datum		value;
	bool		isnull;
	bool		found = false;

	while (!found && array_iterate(iterator, &value, &isnull))
		found = cqrs_slice_same_text(DatumGetTextPP(value), name);
	array_free_iterator(iterator);
	return found;
}
