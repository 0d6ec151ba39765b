/*
 * journal_guard.c
 *		Keeps everybody from changing events, and notices who may.
 *
 * The guard is a statement trigger of the journal, enabled always.  It lets
 * through the statements of retention.c, which holds the entity's lock and says
 * itself what is not so any more, and a superuser's repairs by hand.
 *
 * Of those nobody knows what they change.  So they keep all writers out, by a
 * lock on the journal, and what is known about its events is given up: the
 * last ones of the entities (last_event.c), and that each has its first.
 *
 * So it is when the guard itself is made, disabled, enabled or renamed, which
 * locks the journal as well: nobody knows what was done without it.  And each
 * subscription may bring events, and deletions, past it.  Who inserts rows by hand
 * gives up that each entity has its first event.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/table.h"
#include "catalog/dependency.h"
#include "catalog/indexing.h"
#include "catalog/objectaccess.h"
#include "catalog/pg_class.h"
#include "catalog/pg_subscription.h"
#include "catalog/pg_trigger.h"
#include "commands/extension.h"
#include "commands/trigger.h"
#include "executor/executor.h"
#include "storage/lmgr.h"
#include "utils/fmgroids.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "catalog.h"
#include "compat.h"
#include "identity.h"
#include "journal.h"
#include "journal_guard.h"
#include "settings.h"

/* A statement of retention.c is under way */
static bool changing = false;

static object_access_hook_type next_object_access;
static ExecutorCheckPerms_hook_type next_check_permissions;

static void on_object_access(ObjectAccessType access, Oid catalog, Oid object, int column, void *arg);
static bool on_check_permissions(CQRS_CHECK_PERMISSIONS_ARGUMENTS);
static bool is_installed(void);
static void on_trigger(Oid trigger, bool is_dropped);
static void give_up_knowledge(void);

void
cqrs_journal_guard_init(void)
{
	next_object_access = object_access_hook;
	object_access_hook = on_object_access;
	next_check_permissions = ExecutorCheckPerms_hook;
	ExecutorCheckPerms_hook = on_check_permissions;
}

PG_FUNCTION_INFO_V1(cqrs_guard_journal);
Datum
cqrs_guard_journal(PG_FUNCTION_ARGS)
{
	TriggerData *trigger = (TriggerData *) fcinfo->context;

	if (!CALLED_AS_TRIGGER(fcinfo))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("cqrs.guard_journal() can be called by a trigger only")));
	if (changing)
	{
		/* Not what triggers of the journal do in turn. */
		changing = false;
		return PointerGetDatum(NULL);
	}
	if (!cqrs_allow_journal_changes)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("%s of cqrs.journal is refused: it is append-only",
						TRIGGER_FIRED_BY_UPDATE(trigger->tg_event) ? "UPDATE" :
						TRIGGER_FIRED_BY_DELETE(trigger->tg_event) ? "DELETE" : "TRUNCATE"),
				 errhint("For a repair by hand, a superuser can SET cqrs.allow_journal_changes = on.")));
	LockRelationOid(RelationGetRelid(trigger->tg_relation), ShareRowExclusiveLock);
	give_up_knowledge();
	return PointerGetDatum(NULL);
}

/* Runs a statement of retention.c, which the guard lets pass. */
uint64
cqrs_journal_guard_change(Statement *statement, Datum *values)
{
	bool		outer = changing;
	volatile uint64 rows = 0;

	changing = true;
	PG_TRY();
	{
		rows = cqrs_statement_write(statement, values, NULL);
	}
	PG_FINALLY();
	{
		changing = outer;
	}
	PG_END_TRY();
	return rows;
}

static void
on_object_access(ObjectAccessType access, Oid catalog, Oid object, int column, void *arg)
{
	bool		subscribes = catalog == SubscriptionRelationId;

	if (next_object_access)
		next_object_access(access, catalog, object, column, arg);
	if ((access != OAT_POST_CREATE && access != OAT_POST_ALTER && access != OAT_DROP) ||
		(catalog != TriggerRelationId && !subscribes) || !is_installed())
		return;
	if (subscribes)
		give_up_knowledge();
	else
		on_trigger(object, access == OAT_DROP);
}

/*
 * Rows that somebody puts into the journal by hand may be an entity's without its first.  (That
 * its last one is not the one known is found out when it is used.)
 */
static bool
on_check_permissions(CQRS_CHECK_PERMISSIONS_ARGUMENTS)
{
	ListCell   *cell;

	foreach(cell, CQRS_CHECK_PERMISSIONS_LIST)
	{
		TablePermission *wanted = lfirst(cell);

		if ((wanted->requiredPerms & ACL_INSERT) != 0 && cqrs_journal_insert_scope() == NULL &&
			OidIsValid(wanted->relid) && wanted->relid == cqrs_journal_relid() && is_installed() &&
			cqrs_identity_has_first_events())
			cqrs_identity_lose_first_events();
	}
	return next_check_permissions == NULL || next_check_permissions(CQRS_CHECK_PERMISSIONS_PASS);
}

/* Somebody else's schema may have our names: nothing there is done with our rights. */
static bool
is_installed(void)
{
	Oid			identity = cqrs_catalog_relation("identity");
	Oid			extension = get_extension_oid("pg_cqrs", true);

	return OidIsValid(identity) && OidIsValid(extension) &&
		getExtensionOfObject(RelationRelationId, identity) == extension;
}

/*
 * One that the current command makes, changes or drops, so no cache tells of it.  Any of the
 * journal's decides whether last events are known; of the guard that is dropped nobody hears
 * more, but of the one that takes its place.
 */
static void
on_trigger(Oid trigger, bool is_dropped)
{
	Relation	triggers = table_open(TriggerRelationId, AccessShareLock);
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;
	bool		of_journal = false;
	bool		is_guard = false;

	ScanKeyInit(&key, Anum_pg_trigger_oid, BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(trigger));
	scan = systable_beginscan(triggers, TriggerOidIndexId, true, SnapshotSelf, 1, &key);
	tuple = systable_getnext(scan);
	if (HeapTupleIsValid(tuple))
	{
		Form_pg_trigger form = (Form_pg_trigger) GETSTRUCT(tuple);

		/*
		 * The journal may have another name for a while, the guard another
		 * function.
		 */
		of_journal = form->tgrelid == cqrs_journal_relid();
		is_guard = strcmp(NameStr(form->tgname), CQRS_GUARD) == 0 &&
			(of_journal || cqrs_journal_table_is_guard(form->tgfoid));
	}
	systable_endscan(scan);
	table_close(triggers, AccessShareLock);
	if (of_journal || is_guard)
		cqrs_last_event_forget_all();
	if (is_guard && !is_dropped)
		cqrs_identity_lose_first_events();
}

static void
give_up_knowledge(void)
{
	cqrs_last_event_forget_all();
	cqrs_identity_lose_first_events();
}
