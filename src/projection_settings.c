/*
 * projection_settings.c
 *		The settings of a projection, as users give them: checked before
 *		anything is locked or written.
 */
#include "postgres.h"

#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/regproc.h"
#include "utils/rls.h"
#include "utils/timestamp.h"
#include "utils/varlena.h"

#include "compat.h"
#include "duration.h"
#include "journal.h"
#include "projection_settings.h"

#define MAX_BATCH_SIZE	10000
#define MAX_PARTITIONS	64

static void check_number(FunctionCallInfo fcinfo, int argument, const char *what, int lowest, int highest);
static void check_word(FunctionCallInfo fcinfo, int argument, const char *what, const char *words);
static void check_names(FunctionCallInfo fcinfo, int argument, const char *what);
static void check_timeout(FunctionCallInfo fcinfo);

/* NULL stands for a setting that is left as it is. */
void
cqrs_projection_settings_check(FunctionCallInfo fcinfo)
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

/* A handler sees events: a right that goes with SELECT. */
void
cqrs_projection_settings_check_may_read(Oid role)
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
Datum
cqrs_projection_settings_tables(FunctionCallInfo fcinfo, Oid owner)
{
	Datum	   *names = NULL;
	int			count = 0;

	if (!PG_ARGISNULL(TABLES))
		deconstruct_array(PG_GETARG_ARRAYTYPE_P(TABLES), TEXTOID, -1, false, TYPALIGN_INT, &names, NULL, &count);
	for (int i = 0; i < count; i++)
		names[i] = CStringGetTextDatum(cqrs_projection_settings_table(TextDatumGetCString(names[i]), owner));
	return PointerGetDatum(construct_array(names, count, TEXTOID, -1, false, TYPALIGN_INT));
}

char *
cqrs_projection_settings_table(const char *name, Oid owner)
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
