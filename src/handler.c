/*
 * handler.c
 *		Users' functions: found by name, checked, called.
 *
 * A handler is stored as its signature with all names qualified, never as an
 * OID, which would not survive a restore.  It is looked up when it is first
 * called after the registry was loaded, and checked again then: it must still
 * have the shape of its kind and still belong to the owner of the entity or
 * projection (or to this extension), because it will run with that owner's
 * rights.
 *
 * The FmgrInfo is kept for the life of the registry's entry, so that a
 * language's caches live as long.  Two cases need another one: a handler that
 * is called while it runs (by a command it sends itself), and one that was
 * left by an error (SQL functions keep the state of the execution there).
 *
 * Who switches the role, and pins search_path, is the caller.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/dependency.h"
#include "catalog/namespace.h"
#include "catalog/pg_language.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "commands/extension.h"
#include "commands/proclang.h"
#include "miscadmin.h"
#include "parser/parse_func.h"
#include "pgstat.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/regproc.h"
#include "utils/syscache.h"

#include "catalog.h"
#include "compat.h"
#include "handler.h"

#define MAX_ARGS	2

typedef struct Shape
{
	const char *article;
	const char *name;
	const char *form;			/* for people */
	int			nargs;
	const char *args[MAX_ARGS]; /* types of the schema cqrs, jsonb or void */
	const char *result;
} Shape;

static const Shape shapes[] = {
	[HANDLER_COMMAND] = {"a", "command handler", "(state jsonb, command cqrs.command) returning cqrs.effect",
	2, {"jsonb", "command"}, "effect"},
	[HANDLER_EVENT] = {"an", "event handler", "(state jsonb, event cqrs.event) returning jsonb",
	2, {"jsonb", "event"}, "jsonb"},
	[HANDLER_UPCAST] = {"an", "upcaster", "(event cqrs.event) returning cqrs.event",
	1, {"event"}, "event"},
	[HANDLER_PROJECT] = {"a", "projection handler", "(event cqrs.event) returning void",
	1, {"event"}, "void"},
	[HANDLER_PROJECT_ALL] = {"a", "projection handler", "(events cqrs.event[]) returning void",
	1, {"_event"}, "void"},
	[HANDLER_PREPARE] = {"a", "function to prepare a projection", "() returning void",
	0, {NULL}, "void"},
};

static Oid	type_oid(const char *name);
static Oid	look_up(const Shape *shape, const char *name, bool missing_ok);
static Oid	signature_oid(const char *signature);
static void check_handler(HandlerKind kind, Oid function, Oid owner);
static bool fits(const Shape *shape, Form_pg_proc form);
static void append_attribute(StringInfo description, HeapTuple tuple, AttrNumber attribute);

const char *
cqrs_handler_kind_name(HandlerKind kind)
{
	return shapes[kind].name;
}

/*
 * Finds the function that a name means: a bare name, possibly with a schema,
 * is looked up with the signature of its kind; a signature is taken as it is.
 * Returns the signature to be stored.
 */
char *
cqrs_handler_find(HandlerKind kind, text *name, Oid owner)
{
	const Shape *shape = &shapes[kind];
	char	   *wanted = text_to_cstring(name);
	Oid			function;

	if (strchr(wanted, '('))
		function = DatumGetObjectId(DirectFunctionCall1(regprocedurein, CStringGetDatum(wanted)));
	else
		function = look_up(shape, wanted, false);
	if (isAnyTempNamespace(get_func_namespace(function)))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("a temporary function cannot be %s %s", shape->article, shape->name)));
	check_handler(kind, function, owner);
	return format_procedure_qualified(function);
}

/*
 * As find, for a handler that takes events or a batch of them: a bare name
 * must mean one of the two.
 */
char *
cqrs_handler_find_projection(text *name, Oid owner)
{
	char	   *wanted = text_to_cstring(name);
	bool		takes_event;
	bool		takes_events;

	if (strchr(wanted, '('))
		return cqrs_handler_find(cqrs_handler_projection_kind(wanted), name, owner);
	takes_event = OidIsValid(look_up(&shapes[HANDLER_PROJECT], wanted, true));
	takes_events = OidIsValid(look_up(&shapes[HANDLER_PROJECT_ALL], wanted, true));
	if (takes_event && takes_events)
		ereport(ERROR,
				(errcode(ERRCODE_AMBIGUOUS_FUNCTION),
				 errmsg("there are two projection handlers \"%s\"", wanted),
				 errdetail("One takes an event, the other a batch of events."),
				 errhint("Name one with its signature: %s(cqrs.event) or %s(cqrs.event[]).", wanted, wanted)));
	if (!takes_event && !takes_events)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_FUNCTION),
				 errmsg("there is no projection handler \"%s\"", wanted),
				 errdetail("Looked for %s%s and for %s%s.", wanted, shapes[HANDLER_PROJECT].form,
						   wanted, shapes[HANDLER_PROJECT_ALL].form),
				 errhint("Create the function first, or name its schema.")));
	return cqrs_handler_find(takes_event ? HANDLER_PROJECT : HANDLER_PROJECT_ALL, name, owner);
}

/* Which of the two a signature is of. */
HandlerKind
cqrs_handler_projection_kind(const char *signature)
{
	const char *arguments = strrchr(signature, '(');

	return arguments && strstr(arguments, "[]") ? HANDLER_PROJECT_ALL : HANDLER_PROJECT;
}

/*
 * The search path of now, as it is resolved, with temporary objects last: a
 * handler finds what it found when it was registered.
 */
char *
cqrs_handler_pin_search_path(void)
{
	List	   *schemas = fetch_search_path(false);
	StringInfoData path;
	ListCell   *cell;

	initStringInfo(&path);
	foreach(cell, schemas)
	{
		char	   *name = get_namespace_name(lfirst_oid(cell));

		if (name && !isTempNamespace(lfirst_oid(cell)))
			appendStringInfo(&path, "%s, ", quote_identifier(name));
	}
	appendStringInfoString(&path, "pg_temp");
	list_free(schemas);
	return path.data;
}

/* EXECUTE on a command handler is the right to send the command. */
void
cqrs_handler_warn_if_public(const char *signature)
{
	if (cqrs_may_execute(signature_oid(signature), ACL_ID_PUBLIC))
		ereport(WARNING,
				(errcode(ERRCODE_WARNING),
				 errmsg("everybody may send this command"),
				 errdetail("EXECUTE on %s is granted to PUBLIC, as it is by default.", signature),
				 errhint("REVOKE EXECUTE ON FUNCTION %s FROM PUBLIC, and grant it to who may send it.", signature)));
}

/* What a state computed by it depends on, as far as the catalog knows. */
void
cqrs_handler_describe(const Handler *handler, StringInfo description)
{
	Oid			function = signature_oid(handler->signature);
	HeapTuple	tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(function));

	appendStringInfo(description, "%d %s %s ", handler->kind, handler->signature, handler->search_path);
	if (!HeapTupleIsValid(tuple))
		return;
	appendStringInfoString(description,
						   get_language_name(((Form_pg_proc) GETSTRUCT(tuple))->prolang, false));
	append_attribute(description, tuple, Anum_pg_proc_prosrc);
	append_attribute(description, tuple, Anum_pg_proc_probin);
	append_attribute(description, tuple, Anum_pg_proc_prosqlbody);
	append_attribute(description, tuple, Anum_pg_proc_proconfig);
	ReleaseSysCache(tuple);
}

/* Looks the function up if need be, and checks it. */
void
cqrs_handler_resolve(Handler *handler, Oid owner)
{
	const Shape *shape = &shapes[handler->kind];
	Oid			function;

	if (OidIsValid(handler->function))
		return;
	function = signature_oid(handler->signature);
	if (!OidIsValid(function))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_FUNCTION),
				 errmsg("%s %s does not exist any more", shape->name, handler->signature),
				 errhint("Create it again, or register another one.")));
	check_handler(handler->kind, function, owner);
	MemoryContextReset(handler->context);
	fmgr_info_cxt(function, &handler->flinfo, handler->context);
	handler->function = function;
}

/* Calls a handler that was resolved; the result is in the current context. */
Datum
cqrs_handler_call(Handler *handler, const Datum *args, bool *isnull)
{
	LOCAL_FCINFO(fcinfo, MAX_ARGS);
	bool		nested = handler->running;
	FmgrInfo	own;
	FmgrInfo   *flinfo = &handler->flinfo;
	PgStat_FunctionCallUsage usage;
	volatile Datum result = (Datum) 0;

	check_stack_depth();
	if (nested)
	{
		fmgr_info(handler->function, &own);
		flinfo = &own;
	}
	InitFunctionCallInfoData(*fcinfo, flinfo, shapes[handler->kind].nargs, InvalidOid, NULL, NULL);
	for (int i = 0; i < fcinfo->nargs; i++)
	{
		fcinfo->args[i].value = args[i];
		fcinfo->args[i].isnull = false;
	}

	handler->running = true;
	PG_TRY();
	{
		pgstat_init_function_usage(fcinfo, &usage);
		result = FunctionCallInvoke(fcinfo);
		pgstat_end_function_usage(&usage, true);
	}
	PG_CATCH();
	{
		handler->running = nested;
		if (!nested)
			handler->function = InvalidOid;
		PG_RE_THROW();
	}
	PG_END_TRY();
	handler->running = nested;
	*isnull = fcinfo->isnull;
	return result;
}

static Oid
type_oid(const char *name)
{
	if (strcmp(name, "jsonb") == 0)
		return JSONBOID;
	if (strcmp(name, "void") == 0)
		return VOIDOID;
	return cqrs_catalog_type(name);
}

static Oid
look_up(const Shape *shape, const char *name, bool missing_ok)
{
	Oid			args[MAX_ARGS];
	Oid			function;

	for (int i = 0; i < shape->nargs; i++)
		args[i] = type_oid(shape->args[i]);
	function = LookupFuncName(cqrs_qualified_name(name), shape->nargs, args, true);
	if (!OidIsValid(function) && !missing_ok)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_FUNCTION),
				 errmsg("there is no %s \"%s\"", shape->name, name),
				 errdetail("Looked for %s%s.", name, shape->form),
				 errhint("Create the function first, or name its schema.")));
	return function;
}

/* Invalid if there is no such function. */
static Oid
signature_oid(const char *signature)
{
	LOCAL_FCINFO(fcinfo, 1);
	Datum		result;

	InitFunctionCallInfoData(*fcinfo, NULL, 1, InvalidOid, NULL, NULL);
	fcinfo->args[0].value = CStringGetTextDatum(signature);
	fcinfo->args[0].isnull = false;
	result = to_regprocedure(fcinfo);
	return fcinfo->isnull ? InvalidOid : DatumGetObjectId(result);
}

static void
check_handler(HandlerKind kind, Oid function, Oid owner)
{
	const Shape *shape = &shapes[kind];
	HeapTuple	tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(function));
	Form_pg_proc form;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for function %u", function);
	form = (Form_pg_proc) GETSTRUCT(tuple);
	if (!fits(shape, form))
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg("function %s cannot be %s %s", format_procedure(function),
						shape->article, shape->name),
				 errdetail("It must be a plain function %s.", shape->form)));
	if (form->proowner != owner &&
		getExtensionOfObject(ProcedureRelationId, function) != get_extension_oid("pg_cqrs", false))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("function %s does not belong to role \"%s\"", format_procedure(function),
						GetUserNameFromId(owner, false)),
				 errdetail("A handler runs with the rights of this role, so it must be its own."),
				 errhint("ALTER FUNCTION %s OWNER TO %s.", format_procedure(function),
						 quote_identifier(GetUserNameFromId(owner, false)))));
	ReleaseSysCache(tuple);
}

static bool
fits(const Shape *shape, Form_pg_proc form)
{
	if (form->prokind != PROKIND_FUNCTION || form->proretset ||
		form->pronargs != shape->nargs || form->prorettype != type_oid(shape->result))
		return false;
	for (int i = 0; i < shape->nargs; i++)
		if (form->proargtypes.values[i] != type_oid(shape->args[i]))
			return false;
	return true;
}

static void
append_attribute(StringInfo description, HeapTuple tuple, AttrNumber attribute)
{
	bool		isnull;
	Datum		value = SysCacheGetAttr(PROCOID, tuple, attribute, &isnull);
	bytea	   *bytes = isnull ? NULL : DatumGetByteaPP(value);

	/* The size keeps one attribute's end from being another's beginning. */
	appendStringInfo(description, " %zu ", isnull ? (Size) 0 : VARSIZE_ANY_EXHDR(bytes));
	if (!isnull)
		appendBinaryStringInfo(description, VARDATA_ANY(bytes), VARSIZE_ANY_EXHDR(bytes));
}
