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
 */
#include "postgres.h"

#include "commands/trigger.h"
#include "storage/lmgr.h"
#include "utils/rel.h"

#include "identity.h"
#include "journal_guard.h"
#include "last_event.h"
#include "settings.h"

/* A statement of retention.c is under way */
static bool changing = false;

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
		return PointerGetDatum(NULL);
	if (!cqrs_allow_journal_changes)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("%s of cqrs.journal is refused: it is append-only",
						TRIGGER_FIRED_BY_UPDATE(trigger->tg_event) ? "UPDATE" :
						TRIGGER_FIRED_BY_DELETE(trigger->tg_event) ? "DELETE" : "TRUNCATE"),
				 errhint("For a repair by hand, a superuser can SET cqrs.allow_journal_changes = on.")));
	LockRelationOid(RelationGetRelid(trigger->tg_relation), ShareRowExclusiveLock);
	cqrs_last_event_forget_all();
	cqrs_identity_lose_first_events();
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
