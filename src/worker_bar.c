/*
 * worker_bar.c
 *		Commands that need a database for themselves: workers leave it first.
 *
 * DROP DATABASE, ALTER DATABASE and CREATE DATABASE ... TEMPLATE fail after
 * five seconds because of an idle worker, and DROP or ALTER EXTENSION pg_cqrs
 * would wait for a batch.  So these commands bar the database: its workers are
 * told to leave, none is started, and the command goes on when they are gone.
 * The bar is lifted when the transaction ends, whichever way; then the
 * database is looked at anew, or forgotten if it was dropped.
 *
 * Only who may carry out the command bars: others shall not be able to stop
 * the workers of a database that is not theirs.
 *
 * COMMIT and ROLLBACK PREPARED come by here as well: they make things visible,
 * and let the high-water mark go on, without any session in which the
 * transaction ends.
 *
 * So do ALTER and DROP SERVER, by which a service may be called again that a
 * worker has given time.
 *
 * A bar is a count in the database's entry, under the lock of worker.c; what
 * this session has barred is in a list of its own.
 */
#include "postgres.h"

#include <signal.h>

#include "access/xact.h"
#include "commands/dbcommands.h"
#include "commands/defrem.h"
#include "commands/extension.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "pgstat.h"
#include "tcop/utility.h"
#include "utils/memutils.h"

#include "catalog.h"
#include "compat.h"
#include "worker.h"
#include "worker_bar.h"

#define EXTENSION	"pg_cqrs"

static ProcessUtility_hook_type next_hook = NULL;
static List *barred = NIL;		/* databases, by this transaction */
static Oid	dropped = InvalidOid;	/* one of them: no transaction drops two */

static void process_utility(PlannedStmt *pstmt, const char *queryString, bool readOnlyTree,
							ProcessUtilityContext context, ParamListInfo params,
							QueryEnvironment *queryEnv, DestReceiver *dest, QueryCompletion *qc);
static void on_transaction_end(XactEvent event, void *arg);
static Oid	wanted_alone(Node *statement);
static Oid	own_database(const char *name);
static Oid	template_of(const CreatedbStmt *statement);
static bool names_extension(const DropStmt *statement);
static Oid	database_of_extension(void);
static bool ends_prepared(Node *statement);
static bool changes_server(Node *statement);
static void bar(Oid database);
static bool is_worker_of(Oid database);
static bool tell_to_leave(Oid database);
static void lift(Oid database, bool gone);

void
cqrs_worker_bar_init(void)
{
	next_hook = ProcessUtility_hook ? ProcessUtility_hook : standard_ProcessUtility;
	ProcessUtility_hook = process_utility;
	RegisterXactCallback(on_transaction_end, NULL);
}

static void
process_utility(PlannedStmt *pstmt, const char *queryString, bool readOnlyTree,
				ProcessUtilityContext context, ParamListInfo params,
				QueryEnvironment *queryEnv, DestReceiver *dest, QueryCompletion *qc)
{
	Oid			database = wanted_alone(pstmt->utilityStmt);
	bool		look = ends_prepared(pstmt->utilityStmt);

	if (OidIsValid(database))
		bar(database);
	next_hook(pstmt, queryString, readOnlyTree, context, params, queryEnv, dest, qc);
	if (IsA(pstmt->utilityStmt, DropdbStmt))
		dropped = database;
	if (look && IsTransactionState() && OidIsValid(cqrs_catalog_relation("projection")))
		cqrs_worker_look_at_commit();
	else if (changes_server(pstmt->utilityStmt) && IsTransactionState())
		cqrs_worker_tell_at_commit();
}

static void
on_transaction_end(XactEvent event, void *arg)
{
	ListCell   *cell;

	if (barred == NIL ||
		(event != XACT_EVENT_COMMIT && event != XACT_EVENT_ABORT && event != XACT_EVENT_PREPARE))
		return;
	foreach(cell, barred)
		lift(lfirst_oid(cell), event == XACT_EVENT_COMMIT && lfirst_oid(cell) == dropped);
	list_free(barred);
	barred = NIL;
	dropped = InvalidOid;
	cqrs_worker_wake_process(&cqrs_worker_shared->launcher);
}

/* The database that a statement needs for itself, if it may have it. */
static Oid
wanted_alone(Node *statement)
{
	if (!IsTransactionState())
		return InvalidOid;
	switch (nodeTag(statement))
	{
		case T_DropdbStmt:
			return own_database(((DropdbStmt *) statement)->dbname);
		case T_AlterDatabaseStmt:
			return own_database(((AlterDatabaseStmt *) statement)->dbname);
		case T_AlterDatabaseSetStmt:
			return own_database(((AlterDatabaseSetStmt *) statement)->dbname);
		case T_RenameStmt:
			if (((RenameStmt *) statement)->renameType == OBJECT_DATABASE)
				return own_database(((RenameStmt *) statement)->subname);
			return InvalidOid;
		case T_CreatedbStmt:
			return template_of((CreatedbStmt *) statement);
		case T_DropStmt:
			return names_extension((DropStmt *) statement) ? database_of_extension() : InvalidOid;
		case T_AlterExtensionStmt:
			if (strcmp(((AlterExtensionStmt *) statement)->extname, EXTENSION) == 0)
				return database_of_extension();
			return InvalidOid;
		default:
			return InvalidOid;
	}
}

static Oid
own_database(const char *name)
{
	Oid			database = get_database_oid(name, true);

	return OidIsValid(database) && cqrs_owns_database(database, GetUserId()) ? database : InvalidOid;
}

static Oid
template_of(const CreatedbStmt *statement)
{
	ListCell   *cell;

	foreach(cell, statement->options)
	{
		DefElem    *option = lfirst(cell);

		if (strcmp(option->defname, "template") == 0 && option->arg)
			return own_database(defGetString(option));
	}
	return InvalidOid;
}

static bool
names_extension(const DropStmt *statement)
{
	ListCell   *cell;

	if (statement->removeType != OBJECT_EXTENSION)
		return false;
	foreach(cell, statement->objects)
		if (strcmp(strVal(lfirst(cell)), EXTENSION) == 0)
		return true;
	return false;
}

static Oid
database_of_extension(void)
{
	Oid			extension = get_extension_oid(EXTENSION, true);

	return OidIsValid(extension) && cqrs_owns_extension(extension, GetUserId()) ? MyDatabaseId : InvalidOid;
}

static bool
ends_prepared(Node *statement)
{
	TransactionStmtKind kind = IsA(statement, TransactionStmt) ?
	((TransactionStmt *) statement)->kind : TRANS_STMT_BEGIN;

	return kind == TRANS_STMT_COMMIT_PREPARED || kind == TRANS_STMT_ROLLBACK_PREPARED;
}

static bool
changes_server(Node *statement)
{
	return IsA(statement, AlterForeignServerStmt) ||
		(IsA(statement, DropStmt) && ((DropStmt *) statement)->removeType == OBJECT_FOREIGN_SERVER);
}

/* Returns when no worker is in the database, and none will come. */
static void
bar(Oid database)
{
	MemoryContext old;
	WorkerDatabase *entry;

	if (list_member_oid(barred, database))
		return;
	if (is_worker_of(database))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_IN_USE),
				 errmsg("this command cannot be carried out by a background worker of the database"),
				 errdetail("The worker would have to leave the database first.")));
	/* First what may fail. */
	old = MemoryContextSwitchTo(TopMemoryContext);
	barred = lappend_oid(barred, database);
	MemoryContextSwitchTo(old);
	LWLockAcquire(cqrs_worker_lock, LW_EXCLUSIVE);
	entry = cqrs_worker_database(database, true);
	if (entry)
		entry->barred++;
	LWLockRelease(cqrs_worker_lock);
	/* With no entry it has no worker, and there is no room for one. */
	if (entry == NULL)
	{
		barred = list_delete_last(barred);
		return;
	}

	ConditionVariablePrepareToSleep(&cqrs_worker_shared->left);
	while (tell_to_leave(database))
		ConditionVariableSleep(&cqrs_worker_shared->left, PG_WAIT_EXTENSION);
	ConditionVariableCancelSleep();
}

/* Is it a handler that wants its own worker to leave? */
static bool
is_worker_of(Oid database)
{
	bool		found = false;

	LWLockAcquire(cqrs_worker_lock, LW_SHARED);
	for (int i = 0; i < cqrs_worker_shared->slot_count; i++)
		if (cqrs_worker_shared->slots[i].database == database && cqrs_worker_shared->slots[i].pid == MyProcPid)
			found = true;
	LWLockRelease(cqrs_worker_lock);
	return found;
}

/* False if there is nobody to be told. */
static bool
tell_to_leave(Oid database)
{
	bool		found = false;

	LWLockAcquire(cqrs_worker_lock, LW_EXCLUSIVE);
	for (int i = 0; i < cqrs_worker_shared->slot_count; i++)
	{
		WorkerSlot *slot = &cqrs_worker_shared->slots[i];

		if (slot->database != database)
			continue;
		found = true;
		if (slot->pid != 0 && !slot->leave)
		{
			slot->leave = true;
			(void) kill(slot->pid, SIGTERM);
		}
	}
	LWLockRelease(cqrs_worker_lock);
	return found;
}

static void
lift(Oid database, bool gone)
{
	WorkerDatabase *entry;

	LWLockAcquire(cqrs_worker_lock, LW_EXCLUSIVE);
	entry = cqrs_worker_database(database, false);
	if (entry && gone)
		cqrs_worker_forget(entry);
	else if (entry && entry->barred > 0)
	{
		entry->barred--;
		entry->look = true;
	}
	LWLockRelease(cqrs_worker_lock);
}
