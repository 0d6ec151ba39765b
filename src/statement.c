/*
 * statement.c
 *		Our own SQL: prepared once in a backend, planned to use the indexes.
 *
 * All statements of the extension on its tables pass through here: a narrow
 * seam, so that the way to the tables can be exchanged.  They are run between
 * SPI_connect() and SPI_finish() of the caller, in a role scope of role.c,
 * with search_path pinned.
 *
 * Plans are generic and made with the costs tilted towards indexes and order,
 * whatever the statistics say: a table that was empty when it was analyzed
 * last would otherwise be scanned from end to end by a plan that stays in
 * use while the table grows.  The tilt is needed at planning time only.  The
 * plan cache may replan behind our back when an invalidation comes in between
 * our look and its use of the plan; the generation number tells, and the
 * plan is made anew the next time.  Where search_path has come to mean other
 * schemas, as it has by the first temporary table of a session, it would replan
 * in any case, so we do before.
 */
#include "postgres.h"

#include "catalog/namespace.h"
#include "executor/executor.h"
#include "executor/tstoreReceiver.h"
#include "utils/guc.h"
#include "utils/plancache.h"
#include "utils/resowner.h"

#include "compat.h"
#include "role.h"
#include "statement.h"

static int	pin_search_path(void);
static void unpin_search_path(int level);
static void prepare_plan(Statement *statement);
static void make_plan(SPIPlanPtr plan);

/*
 * Runs a query with the active snapshot and returns how many rows are in
 * SPI_tuptable.  A limit of 0 means all.  Leaves the context of SPI current.
 */
uint64
cqrs_statement_read(Statement *statement, Datum *values, const char *nulls, long limit)
{
	int			level = pin_search_path();
	int			rc;

	prepare_plan(statement);
	rc = SPI_execute_plan(statement->plan, values, nulls, true, limit);
	unpin_search_path(level);
	if (rc != SPI_OK_SELECT)
		elog(ERROR, "unexpected result %s of: %s", SPI_result_code_string(rc), statement->sql);
	return SPI_processed;
}

/* Runs a query with the active snapshot and puts the rows into a tuplestore. */
void
cqrs_statement_read_into(Statement *statement, Datum *values, const char *nulls,
						 Tuplestorestate *rows)
{
	DestReceiver *dest = CreateDestReceiver(DestTuplestore);

	SetTuplestoreDestReceiverParams(dest, rows, CurrentMemoryContext, false, NULL, NULL);
	cqrs_statement_read_to(statement, values, nulls, dest);
	dest->rDestroy(dest);
}

/* Runs a query with the active snapshot; the destination may stop it early. */
void
cqrs_statement_read_to(Statement *statement, Datum *values, const char *nulls, DestReceiver *dest)
{
	SPIExecuteOptions options = {.read_only = true, .dest = dest};
	ParamListInfo params = makeParamList(statement->nargs);
	int			level;

	for (int i = 0; i < statement->nargs; i++)
	{
		ParamExternData *param = &params->params[i];

		param->value = values[i];
		param->isnull = nulls && nulls[i] == 'n';
		param->pflags = PARAM_FLAG_CONST;
		param->ptype = statement->argtypes[i];
	}
	options.params = params;
	level = pin_search_path();
	prepare_plan(statement);
	if (SPI_execute_plan_extended(statement->plan, &options) < 0)
		elog(ERROR, "unexpected result of: %s", statement->sql);
	unpin_search_path(level);
}

/* Runs a data-changing statement; returns how many rows it touched. */
uint64
cqrs_statement_write(Statement *statement, Datum *values, const char *nulls)
{
	int			level = pin_search_path();
	int			rc;

	prepare_plan(statement);
	rc = SPI_execute_plan(statement->plan, values, nulls, false, 0);
	unpin_search_path(level);
	if (rc < 0)
		elog(ERROR, "unexpected result %s of: %s", SPI_result_code_string(rc), statement->sql);
	return SPI_processed;
}

/* Forgets the plan, for a statement one of whose types has a new OID. */
void
cqrs_statement_reset(Statement *statement)
{
	if (statement->plan)
		SPI_freeplan(statement->plan);
	statement->plan = NULL;
}

/* A value of the last result; points into SPI_tuptable. */
Datum
cqrs_statement_column(uint64 row, int column, bool *isnull)
{
	bool		ignored;

	return SPI_getbinval(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, column,
						 isnull ? isnull : &ignored);
}

/*
 * A trigger that a statement fires runs with our rights, so it must not find
 * what the caller put in its way.  Most scopes have pinned the path already.
 */
static int
pin_search_path(void)
{
	int			level = 0;

	if (strcmp(namespace_search_path, CQRS_SEARCH_PATH) != 0)
	{
		level = NewGUCNestLevel();
		(void) set_config_option("search_path", CQRS_SEARCH_PATH, PGC_USERSET,
								 PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
	}
	return level;
}

static void
unpin_search_path(int level)
{
	if (level > 0)
		AtEOXact_GUC(false, level);
}

static void
prepare_plan(Statement *statement)
{
	CachedPlanSource *source;

	if (statement->plan == NULL)
	{
		SPIPlanPtr	plan = SPI_prepare_cursor(statement->sql, statement->nargs,
											  statement->argtypes, CURSOR_OPT_GENERIC_PLAN);

		if (plan == NULL)
			elog(ERROR, "could not prepare (%s): %s",
				 SPI_result_code_string(SPI_result), statement->sql);
		SPI_keepplan(plan);
		statement->plan = plan;
		statement->generation = -1;
	}

	source = linitial(SPI_plan_get_plan_sources(statement->plan));
	if (source->is_valid && source->gplan && source->gplan->is_valid &&
		source->generation == statement->generation && cqrs_search_path_matches(source->search_path))
		return;

	if (source->gplan)
		source->gplan->is_valid = false;
	make_plan(statement->plan);
	statement->generation = source->generation;
}

/* Has the plan cache plan now, with the costs tilted. */
static void
make_plan(SPIPlanPtr plan)
{
	static const char *const off[] = {
		"enable_seqscan", "enable_bitmapscan", "enable_sort", "jit"
	};
	int			nest_level = NewGUCNestLevel();
	CachedPlan *cached;

	for (int i = 0; i < lengthof(off); i++)
		(void) set_config_option(off[i], "off", PGC_USERSET, PGC_S_SESSION,
								 GUC_ACTION_SAVE, true, 0, false);
	cached = SPI_plan_get_cached_plan(plan);
	if (cached)
		ReleaseCachedPlan(cached, CurrentResourceOwner);
	AtEOXact_GUC(false, nest_level);
}
