/*
 * entity_registry.c
 *		What is registered about entity types, kept in each backend.
 *
 * The tables cqrs.entity and cqrs.entity_handler are read when an entity type
 * is first used, and kept (registry.c).
 *
 * The generation of an entity type is a hash of all that its state depends on:
 * the initial state, event handlers and upcasters, and a revision that
 * cqrs.drop_snapshots() raises for what we cannot see.  States that were kept
 * under another generation are not used.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "common/cryptohash.h"
#include "common/sha2.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/varlena.h"

#include "catalog.h"
#include "compat.h"
#include "entity_registry.h"
#include "errors.h"
#include "role.h"
#include "statement.h"

static Registered *load(text *name, MemoryContext parent);

static Registry registry = {.table = "entity", .load = load};

static Statement entity_statement = {
	.sql = "SELECT owner::text, initial_state, snapshot_every, keep_snapshots"
	", revision, after_forget = 'follow' FROM cqrs.entity WHERE entity_type = $1",
	.nargs = 1,
	.argtypes = {TEXTOID}
};

static Statement handlers_statement = {
	.sql = "SELECT kind, name, from_version, handler, search_path"
	" FROM cqrs.entity_handler WHERE entity_type = $1",
	.nargs = 1,
	.argtypes = {TEXTOID}
};

static void load_handlers(EntityType *entity, Datum name);
static text *copy_text(Datum value);
static int64 compute_generation(const EntityType *entity, int64 revision);
static int	compare_handlers(const void *a, const void *b);
static int	compare_text(const text *a, const text *b);
static int	find_first(const EntityType *entity, HandlerKind kind, const text *name, int from_version);
static bool is_handler_of(const EntityType *entity, int i, HandlerKind kind, const text *name);

void
cqrs_entity_registry_init(void)
{
	cqrs_registry_register(&registry);
}

/* NULL if there is no such entity type. */
EntityType *
cqrs_entity_registry_find(text *name)
{
	return (EntityType *) cqrs_registry_find(&registry, name);
}

/* As find, but an error if there is none or its owner is gone. */
EntityType *
cqrs_entity_registry_get(text *name)
{
	EntityType *entity = (EntityType *) cqrs_registry_find_again(&registry, name);

	if (entity == NULL)
		ereport(ERROR,
				(errcode(CQRS_UNKNOWN_ENTITY_TYPE),
				 errmsg("entity type \"%s\" does not exist", text_to_cstring(name)),
				 errhint("Create it with cqrs.create_entity.")));
	if (!OidIsValid(entity->owner))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("role \"%s\", owner of entity type \"%s\", does not exist",
						entity->owner_name, text_to_cstring(name)),
				 errhint("A superuser can set another with cqrs.alter_entity(..., owner => ...).")));
	return entity;
}

/* As get, for who may change it: its owner, or a superuser if he is gone. */
EntityType *
cqrs_entity_registry_get_owned(text *name)
{
	EntityType *entity = (EntityType *) cqrs_registry_find_again(&registry, name);

	if (entity == NULL)
		entity = cqrs_entity_registry_get(name);
	if (!superuser() &&
		(!OidIsValid(entity->owner) || !has_privs_of_role(GetUserId(), entity->owner)))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("must be owner of entity type \"%s\"", text_to_cstring(name)),
				 errdetail("Its owner is role \"%s\".", entity->owner_name)));
	return entity;
}

/* The handler registered for a name, else the one for all others, else NULL. */
Handler *
cqrs_entity_registry_handler(EntityType *entity, HandlerKind kind, text *name)
{
	static union
	{
		char		bytes[VARHDRSZ + 1];
		int32		align;
	}			any = {.bytes = {0}};
	int			i = find_first(entity, kind, name, 0);

	if (is_handler_of(entity, i, kind, name))
		return &entity->handlers[i].handler;
	SET_VARSIZE(&any, VARHDRSZ + 1);
	any.bytes[VARHDRSZ] = '*';
	i = find_first(entity, kind, (text *) &any, 0);
	return is_handler_of(entity, i, kind, (text *) &any) ? &entity->handlers[i].handler : NULL;
}

/* The next upcaster for an event of that schema version, or NULL. */
RegisteredHandler *
cqrs_entity_registry_upcaster(EntityType *entity, text *event_type, int schema_version)
{
	int			i = find_first(entity, HANDLER_UPCAST, event_type, schema_version);

	return is_handler_of(entity, i, HANDLER_UPCAST, event_type) ? &entity->handlers[i] : NULL;
}

/* What a new event is stored as: one more than the last that is upcast. */
int
cqrs_entity_registry_schema_version(EntityType *entity, text *event_type)
{
	int			next;

	if (entity == NULL)
		return 1;
	next = find_first(entity, HANDLER_UPCAST, event_type, PG_INT32_MAX);
	if (next > 0 && is_handler_of(entity, next - 1, HANDLER_UPCAST, event_type))
		return entity->handlers[next - 1].from_version + 1;
	return 1;
}

void
cqrs_entity_registry_changed(void)
{
	cqrs_registry_changed(&registry);
}

/* Reads an entity type into a context of its own; NULL if there is none. */
static Registered *
load(text *name, MemoryContext parent)
{
	EntityType *entity = NULL;
	Datum		revision;
	Datum		key = PointerGetDatum(name);
	RoleScope	scope;

	cqrs_role_enter(&scope, cqrs_catalog_extension_owner());
	PushActiveSnapshot(GetLatestSnapshot());
	SPI_connect();
	if (cqrs_statement_read(&entity_statement, &key, NULL, 0) == 1)
	{
		MemoryContext context = AllocSetContextCreate(parent, "pg_cqrs entity type",
													  ALLOCSET_SMALL_SIZES);
		MemoryContext old = MemoryContextSwitchTo(context);

		entity = palloc0(sizeof(EntityType));
		entity->registered.context = context;
		entity->registered.name = copy_text(key);
		entity->owner_name = TextDatumGetCString(cqrs_statement_column(0, 1, NULL));
		entity->owner = get_role_oid(entity->owner_name, true);
		entity->initial_state = (Jsonb *) PG_DETOAST_DATUM_COPY(cqrs_statement_column(0, 2, NULL));
		entity->snapshot_every = DatumGetInt32(cqrs_statement_column(0, 3, NULL));
		entity->keep_snapshots = DatumGetInt32(cqrs_statement_column(0, 4, NULL));
		revision = cqrs_statement_column(0, 5, NULL);
		entity->follows_forgotten = DatumGetBool(cqrs_statement_column(0, 6, NULL));
		load_handlers(entity, key);
		entity->generation = compute_generation(entity, DatumGetInt64(revision));
		MemoryContextSwitchTo(old);
	}
	SPI_finish();
	PopActiveSnapshot();
	cqrs_role_leave(&scope);
	return (Registered *) entity;
}

static void
load_handlers(EntityType *entity, Datum name)
{
	MemoryContext old;

	entity->handler_count = (int) cqrs_statement_read(&handlers_statement, &name, NULL, 0);
	/* SPI leaves its own context current. */
	old = MemoryContextSwitchTo(entity->registered.context);
	entity->handlers = palloc0(sizeof(RegisteredHandler) * Max(entity->handler_count, 1));
	for (int i = 0; i < entity->handler_count; i++)
	{
		RegisteredHandler *registered = &entity->handlers[i];
		char		kind = *TextDatumGetCString(cqrs_statement_column(i, 1, NULL));

		registered->kind = kind == 'c' ? HANDLER_COMMAND : kind == 'e' ? HANDLER_EVENT : HANDLER_UPCAST;
		registered->name = copy_text(cqrs_statement_column(i, 2, NULL));
		registered->from_version = DatumGetInt32(cqrs_statement_column(i, 3, NULL));
		registered->handler.kind = registered->kind;
		registered->handler.signature = TextDatumGetCString(cqrs_statement_column(i, 4, NULL));
		registered->handler.search_path = TextDatumGetCString(cqrs_statement_column(i, 5, NULL));
		registered->handler.context = AllocSetContextCreate(entity->registered.context, "pg_cqrs handler",
															ALLOCSET_SMALL_SIZES);
	}
	qsort(entity->handlers, entity->handler_count, sizeof(RegisteredHandler), compare_handlers);
	MemoryContextSwitchTo(old);
}

static text *
copy_text(Datum value)
{
	return (text *) PG_DETOAST_DATUM_COPY(value);
}

static int64
compute_generation(const EntityType *entity, int64 revision)
{
	StringInfoData description;
	pg_cryptohash_ctx *hash = pg_cryptohash_create(PG_SHA256);
	uint8		digest[PG_SHA256_DIGEST_LENGTH];
	int64		generation;

	initStringInfo(&description);
	appendStringInfo(&description, INT64_FORMAT " ", revision);
	(void) JsonbToCString(&description, &entity->initial_state->root, VARSIZE(entity->initial_state));
	for (int i = 0; i < entity->handler_count; i++)
	{
		RegisteredHandler *registered = &entity->handlers[i];

		if (registered->kind == HANDLER_COMMAND)
			continue;
		appendStringInfo(&description, " %s %d ", text_to_cstring(registered->name), registered->from_version);
		cqrs_handler_describe(&registered->handler, &description);
	}
	if (hash == NULL || pg_cryptohash_init(hash) < 0 ||
		pg_cryptohash_update(hash, (uint8 *) description.data, description.len) < 0 ||
		pg_cryptohash_final(hash, digest, sizeof(digest)) < 0)
		elog(ERROR, "could not compute SHA-256");
	pg_cryptohash_free(hash);
	pfree(description.data);
	memcpy(&generation, digest, sizeof(generation));
	return generation;
}

static int
compare_handlers(const void *a, const void *b)
{
	const RegisteredHandler *left = a;
	const RegisteredHandler *right = b;
	int			order;

	if (left->kind != right->kind)
		return left->kind < right->kind ? -1 : 1;
	order = compare_text(left->name, right->name);
	if (order != 0)
		return order;
	return left->from_version < right->from_version ? -1 : left->from_version > right->from_version;
}

/* Any order would do; this one is quick. */
static int
compare_text(const text *a, const text *b)
{
	Size		size = VARSIZE_ANY_EXHDR(a);

	if (size != VARSIZE_ANY_EXHDR(b))
		return size < VARSIZE_ANY_EXHDR(b) ? -1 : 1;
	return memcmp(VARDATA_ANY(a), VARDATA_ANY(b), size);
}

/* The first handler that is not before the key. */
static int
find_first(const EntityType *entity, HandlerKind kind, const text *name, int from_version)
{
	RegisteredHandler key = {.kind = kind, .name = unconstify(text *, name), .from_version = from_version};
	int			low = 0;
	int			high = entity->handler_count;

	while (low < high)
	{
		int			middle = low + (high - low) / 2;

		if (compare_handlers(&entity->handlers[middle], &key) < 0)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

static bool
is_handler_of(const EntityType *entity, int i, HandlerKind kind, const text *name)
{
	return i < entity->handler_count && entity->handlers[i].kind == kind &&
		compare_text(entity->handlers[i].name, name) == 0;
}
