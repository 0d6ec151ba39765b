/*
 * entity.c
 *		Registration of entity types and their handlers.
 *
 * Each call is one statement on a table of entity_registry.sql, made as the
 * owner of the extension after the caller's right to it was checked: what a
 * type is registered with is its owner's alone.  Two sessions that register
 * the same thing meet at the primary key; a registration holds a lock on the
 * row of its type, for which cqrs.drop_entity() waits before it clears away
 * what is registered.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/rls.h"
#include "utils/snapmgr.h"

#include "catalog.h"
#include "compat.h"
#include "entity_registry.h"
#include "errors.h"
#include "journal.h"
#include "new_event.h"
#include "role.h"
#include "statement.h"

static Statement create_statement = {
	.sql = "INSERT INTO cqrs.entity (entity_type, owner, initial_state, snapshot_every, keep_snapshots, after_forget)"
	" VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT DO NOTHING",
	.nargs = 6,
	.argtypes = {TEXTOID, NAMEOID, JSONBOID, INT4OID, INT4OID, TEXTOID}
};

static Statement alter_statement = {
	.sql = "UPDATE cqrs.entity SET owner = coalesce($2, owner), initial_state = coalesce($3, initial_state),"
	" snapshot_every = coalesce($4, snapshot_every), keep_snapshots = coalesce($5, keep_snapshots),"
	" after_forget = coalesce($6, after_forget) WHERE entity_type = $1 AND owner = $7",
	.nargs = 7,
	.argtypes = {TEXTOID, NAMEOID, JSONBOID, INT4OID, INT4OID, TEXTOID, NAMEOID}
};

static Statement drop_statement = {
	.sql = "DELETE FROM cqrs.entity WHERE entity_type = $1 AND owner = $2",
	.nargs = 2,
	.argtypes = {TEXTOID, NAMEOID}
};

/* What a type leaves behind; run when its row is locked, or new. */
static Statement clear_statement = {
	.sql = "WITH snapshots AS (DELETE FROM cqrs.snapshot WHERE entity_type = $1)"
	" DELETE FROM cqrs.entity_handler WHERE entity_type = $1",
	.nargs = 1,
	.argtypes = {TEXTOID}
};

static Statement register_statement = {
	.sql = "INSERT INTO cqrs.entity_handler (entity_type, kind, name, from_version, handler, search_path)"
	" SELECT entity_type, $2, $3, $4, $5, $6 FROM cqrs.entity WHERE entity_type = $1 AND owner = $7 FOR KEY SHARE"
	" ON CONFLICT (entity_type, kind, name, from_version)"
	" DO UPDATE SET handler = excluded.handler, search_path = excluded.search_path",
	.nargs = 7,
	.argtypes = {TEXTOID, TEXTOID, TEXTOID, INT4OID, TEXTOID, TEXTOID, NAMEOID}
};

static Statement unregister_statement = {
	.sql = "DELETE FROM cqrs.entity_handler"
	" WHERE entity_type = $1 AND kind = $2 AND name = $3 AND from_version = $4",
	.nargs = 4,
	.argtypes = {TEXTOID, TEXTOID, TEXTOID, INT4OID}
};

static Statement has_events_statement = {
	.sql = "SELECT FROM cqrs.journal WHERE entity_type = $1 LIMIT 1",
	.nargs = 1,
	.argtypes = {TEXTOID}
};

static uint64 change_registry(Statement *statement, Datum *values, const char *nulls);
static void check_settings(FunctionCallInfo fcinfo);
static text *text_argument(FunctionCallInfo fcinfo, int argument);
static void check_may_claim(text *entity_type);
static void register_handler(HandlerKind kind, text *entity_type, text *name, int from_version, text *handler);
static Datum owner_datum(const EntityType *entity);
static void refuse_changed(text *entity_type);

PG_FUNCTION_INFO_V1(cqrs_create_entity);
Datum
cqrs_create_entity(PG_FUNCTION_ARGS)
{
	text	   *entity_type = cqrs_new_event_check_name(text_argument(fcinfo, 0), "entity type");
	Datum		values[6];
	NameData	owner;

	for (int i = 1; i < 5; i++)
		if (PG_ARGISNULL(i))
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("a setting of entity type \"%s\" is NULL", text_to_cstring(entity_type)),
					 errhint("Leave the argument out for its default.")));
	check_settings(fcinfo);
	if (VARSIZE_ANY_EXHDR(entity_type) > CQRS_MAX_KEY_BYTES / 2)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("entity type is longer than %d bytes", CQRS_MAX_KEY_BYTES / 2)));
	cqrs_journal_ensure();
	check_may_claim(entity_type);

	namestrcpy(&owner, GetUserNameFromId(GetUserId(), false));
	values[0] = PointerGetDatum(entity_type);
	values[1] = NameGetDatum(&owner);
	for (int i = 1; i < 5; i++)
		values[i + 1] = PG_GETARG_DATUM(i);
	if (change_registry(&create_statement, values, NULL) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
				 errmsg("entity type \"%s\" already exists", text_to_cstring(entity_type)),
				 errhint("cqrs.alter_entity changes its settings.")));
	(void) change_registry(&clear_statement, values, NULL);
	PG_RETURN_VOID();
}

PG_FUNCTION_INFO_V1(cqrs_alter_entity);
Datum
cqrs_alter_entity(PG_FUNCTION_ARGS)
{
	text	   *entity_type = cqrs_new_event_check_name(text_argument(fcinfo, 0), "entity type");
	EntityType *entity = cqrs_entity_registry_get_owned(entity_type);
	Datum		values[7];
	char		nulls[7] = {' ', ' ', ' ', ' ', ' ', ' ', ' '};

	check_settings(fcinfo);
	values[0] = PointerGetDatum(entity_type);
	values[1] = PG_GETARG_DATUM(5);
	for (int i = 1; i < 5; i++)
	{
		values[i + 1] = PG_GETARG_DATUM(i);
		nulls[i + 1] = PG_ARGISNULL(i) ? 'n' : ' ';
	}
	if (PG_ARGISNULL(5))
		nulls[1] = 'n';
	else
		cqrs_check_may_give_to(GetUserId(), get_role_oid(NameStr(*PG_GETARG_NAME(5)), false));
	values[6] = owner_datum(entity);
	if (change_registry(&alter_statement, values, nulls) == 0)
		refuse_changed(entity_type);
	PG_RETURN_VOID();
}

PG_FUNCTION_INFO_V1(cqrs_drop_entity);
Datum
cqrs_drop_entity(PG_FUNCTION_ARGS)
{
	text	   *entity_type = cqrs_new_event_check_name(text_argument(fcinfo, 0), "entity type");
	EntityType *entity = cqrs_entity_registry_get_owned(entity_type);
	Datum		values[] = {PointerGetDatum(entity_type), owner_datum(entity)};

	if (change_registry(&drop_statement, values, NULL) == 0)
		refuse_changed(entity_type);
	(void) change_registry(&clear_statement, values, NULL);
	PG_RETURN_VOID();
}

PG_FUNCTION_INFO_V1(cqrs_on_command);
Datum
cqrs_on_command(PG_FUNCTION_ARGS)
{
	register_handler(HANDLER_COMMAND, text_argument(fcinfo, 0), text_argument(fcinfo, 1), 0,
					 text_argument(fcinfo, 2));
	PG_RETURN_VOID();
}

PG_FUNCTION_INFO_V1(cqrs_on_event);
Datum
cqrs_on_event(PG_FUNCTION_ARGS)
{
	register_handler(HANDLER_EVENT, text_argument(fcinfo, 0), text_argument(fcinfo, 1), 0,
					 text_argument(fcinfo, 2));
	PG_RETURN_VOID();
}

PG_FUNCTION_INFO_V1(cqrs_on_upcast);
Datum
cqrs_on_upcast(PG_FUNCTION_ARGS)
{
	if (PG_ARGISNULL(2) || PG_GETARG_INT32(2) < 1 || PG_GETARG_INT32(2) == PG_INT32_MAX)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("from_version must be a schema version, 1 or more")));
	register_handler(HANDLER_UPCAST, text_argument(fcinfo, 0), text_argument(fcinfo, 1),
					 PG_GETARG_INT32(2), text_argument(fcinfo, 3));
	PG_RETURN_VOID();
}

/* Runs a statement as the extension's owner; returns the rows it touched. */
static uint64
change_registry(Statement *statement, Datum *values, const char *nulls)
{
	RoleScope	scope;
	uint64		rows;

	cqrs_role_enter(&scope, cqrs_catalog_extension_owner());
	SPI_connect();
	rows = cqrs_statement_write(statement, values, nulls);
	SPI_finish();
	cqrs_entity_registry_changed();
	cqrs_role_leave(&scope);
	return rows;
}

static void
check_settings(FunctionCallInfo fcinfo)
{
	if (!PG_ARGISNULL(2) && PG_GETARG_INT32(2) < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("snapshot_every is %d", PG_GETARG_INT32(2)),
				 errhint("Use a number of events, or 0 for no snapshots.")));
	if (!PG_ARGISNULL(3) && PG_GETARG_INT32(3) < 1)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("keep_snapshots is %d; it must be at least 1", PG_GETARG_INT32(3))));
	if (!PG_ARGISNULL(4))
	{
		const char *after_forget = text_to_cstring(PG_GETARG_TEXT_PP(4));

		if (strcmp(after_forget, "refuse") != 0 && strcmp(after_forget, "follow") != 0)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("after_forget is \"%s\"", after_forget),
					 errhint("Use 'refuse' or 'follow'.")));
	}
}

static text *
text_argument(FunctionCallInfo fcinfo, int argument)
{
	return PG_ARGISNULL(argument) ? NULL : PG_GETARG_TEXT_PP(argument);
}

/* Handlers see the events of the type: a right that goes with SELECT. */
static void
check_may_claim(text *entity_type)
{
	Datum		value = PointerGetDatum(entity_type);
	RoleScope	scope;
	bool		has_events;

	cqrs_role_enter(&scope, cqrs_catalog_relation_owner(cqrs_journal_relid()));
	PushActiveSnapshot(GetLatestSnapshot());
	SPI_connect();
	has_events = cqrs_statement_read(&has_events_statement, &value, NULL, 1) > 0;
	SPI_finish();
	PopActiveSnapshot();
	cqrs_role_leave(&scope);
	if (has_events &&
		(pg_class_aclcheck(cqrs_journal_relid(), GetUserId(), ACL_SELECT) != ACLCHECK_OK ||
		 check_enable_rls(cqrs_journal_relid(), InvalidOid, true) == RLS_ENABLED))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied for the events of entity type \"%s\"", text_to_cstring(entity_type)),
				 errdetail("The journal has events of this type, which its handlers will see."),
				 errhint("It takes SELECT on cqrs.journal, without row security.")));
}

/* A handler of NULL takes the registration back. */
static void
register_handler(HandlerKind kind, text *entity_type, text *name, int from_version, text *handler)
{
	static const char *const kinds[] = {
		[HANDLER_COMMAND] = "command", [HANDLER_EVENT] = "event", [HANDLER_UPCAST] = "upcast"
	};
	Datum		values[7];
	EntityType *entity;
	char	   *signature;

	cqrs_new_event_check_name(entity_type, "entity type");
	if (kind == HANDLER_COMMAND)
		cqrs_new_event_check_name(name, "command type");
	else
		cqrs_new_event_check_type(name);
	values[0] = PointerGetDatum(entity_type);
	values[1] = CStringGetTextDatum(kinds[kind]);
	values[2] = PointerGetDatum(name);
	values[3] = Int32GetDatum(from_version);
	if (handler == NULL)
	{
		(void) cqrs_entity_registry_get_owned(entity_type);
		if (change_registry(&unregister_statement, values, NULL) == 0)
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_OBJECT),
					 errmsg("entity type \"%s\" has no %s for \"%s\"", text_to_cstring(entity_type),
							cqrs_handler_kind_name(kind), text_to_cstring(name))));
		return;
	}
	(void) cqrs_entity_registry_get_owned(entity_type);
	entity = cqrs_entity_registry_get(entity_type);
	signature = cqrs_handler_find(kind, handler, entity->owner);
	if (kind == HANDLER_COMMAND)
		cqrs_handler_warn_if_public(signature);
	values[4] = CStringGetTextDatum(signature);
	values[5] = CStringGetTextDatum(cqrs_handler_pin_search_path());
	values[6] = owner_datum(entity);
	if (change_registry(&register_statement, values, NULL) == 0)
		refuse_changed(entity_type);
}

/* Whose right was checked; the statements compare, since they may have to wait. */
static Datum
owner_datum(const EntityType *entity)
{
	return DirectFunctionCall1(namein, CStringGetDatum(entity->owner_name));
}

/* The type was dropped, made by somebody else or given away before our turn came. */
static void
refuse_changed(text *entity_type)
{
	ereport(ERROR,
			(errcode(CQRS_UNKNOWN_ENTITY_TYPE),
			 errmsg("entity type \"%s\" was dropped or given away meanwhile", text_to_cstring(entity_type)),
			 errhint("Look at it again.")));
}
