/*
 * identity.c
 *		Is this the database that the journal was written in?
 *
 * A restored or copied database has the journal of another one: while rows
 * are still being loaded into it (pg_restore sets the sequence first), nobody
 * can say up to where it is whole, and what the original delivers must not be
 * delivered a second time.  So the identity of the database is recorded when
 * the journal is made, and where it differs from what the server says, the
 * database is held: commands and appends work, but nothing that leaves the
 * journal in order is let out until somebody calls cqrs.adopt().
 *
 * So it is while the journal gets its rows by a subscription, wherever it was
 * made: they come in the order of commits, from writers whom nobody here knows.
 *
 * The table also says whether each entity has its first event, as long as nobody
 * has deleted any: then who appends to one that should be new need not look.
 * Rows that come past us, by a subscription or a restore, may lack it; so it is
 * not said any more when somebody subscribes to anything, or has the journal's
 * guard changed (journal_guard.c), until cqrs.adopt() looks.
 *
 * Once found to be right, the identity is right for as long as the session
 * lasts, unless the table is changed: that takes cqrs.adopt(), DROP EXTENSION
 * or a superuser, of whom the first two send a relcache message.  A change of
 * what is subscribed to sends one of the syscache.
 */
#include "postgres.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

#include "catalog.h"
#include "identity.h"
#include "journal.h"
#include "position.h"
#include "role.h"
#include "statement.h"
#include "worker.h"

static bool known_as_ours = false;
static bool known_as_whole = false; /* only if it is ours */
static bool known_not_to_be = false;	/* whole and ours */
static uint32 messages = 0;		/* by which that may have changed */
static Oid	identity_relid = InvalidOid;	/* that it was read from */
static bool warned = false;

static Statement identity_statement = {
	.sql = "SELECT EXISTS (SELECT FROM cqrs.identity i, pg_control_system() s"
	" WHERE i.system_identifier = s.system_identifier AND i.installation = i.tableoid::bigint AND i.database ="
	" (SELECT oid::bigint FROM pg_database WHERE datname = current_database()))"
	" AND NOT EXISTS (SELECT FROM pg_subscription_rel WHERE srrelid = 'cqrs.journal'::regclass),"
	" EXISTS (SELECT FROM cqrs.identity WHERE has_first_events)"
};

static Statement lose_statement = {
	.sql = "UPDATE cqrs.identity SET has_first_events = false WHERE has_first_events"
};

static void read_identity(bool *ours, bool *whole);
static void on_relcache_message(Datum arg, Oid relid);
static void on_subscription_message(Datum arg, int cache, uint32 hash);

void
cqrs_identity_init(void)
{
	CacheRegisterRelcacheCallback(on_relcache_message, (Datum) 0);
	CacheRegisterSyscacheCallback(SUBSCRIPTIONRELMAP, on_subscription_message, (Datum) 0);
}

/* A database without a journal is never held. */
bool
cqrs_identity_held(void)
{
	uint32		before = messages;
	RoleScope	scope;
	bool		ours;
	bool		whole;

	if (known_as_ours)
		return false;
	if (!OidIsValid(cqrs_journal_relid()))
		return false;
	cqrs_role_enter(&scope, cqrs_catalog_extension_owner());
	identity_relid = cqrs_catalog_relation("identity");
	read_identity(&ours, &whole);
	cqrs_role_leave(&scope);
	/* What was committed after the snapshot is told by a message since. */
	known_as_ours = ours && messages == before;
	known_as_whole = known_as_ours && whole;
	return !ours;
}

static void
read_identity(bool *ours, bool *whole)
{
	PushActiveSnapshot(GetLatestSnapshot());
	SPI_connect();
	(void) cqrs_statement_read(&identity_statement, NULL, NULL, 0);
	*ours = DatumGetBool(cqrs_statement_column(0, 1, NULL));
	*whole = DatumGetBool(cqrs_statement_column(0, 2, NULL));
	SPI_finish();
	PopActiveSnapshot();
}

void
cqrs_identity_refuse_if_held(const char *what)
{
	if (cqrs_identity_held())
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("%s is not available: the database is held", what),
				 errdetail("It was restored or copied from another one, or subscribes to it."),
				 errhint("When everything is loaded and the original is retired, run SELECT cqrs.adopt().")));
}

/* Writers go on; they say so once in a session. */
void
cqrs_identity_warn_if_held(void)
{
	if (warned || !cqrs_identity_held())
		return;
	warned = true;
	ereport(WARNING,
			(errcode(ERRCODE_WARNING),
			 errmsg("the database is held: it was restored or copied from another one, or subscribes to it"),
			 errdetail("Commands and appends work; the journal cannot be read in order."),
			 errhint("When everything is loaded and the original is retired, run SELECT cqrs.adopt().")));
}

/*
 * Is version 1 of each entity in the journal?  Then one without it is new, for who holds its
 * lock and has heard all messages since.  So it is until events are deleted.
 */
bool
cqrs_identity_has_first_events(void)
{
	uint32		before = messages;
	bool		whole;

	if (known_not_to_be)
		return false;
	whole = !cqrs_identity_held() && known_as_whole;
	known_not_to_be = !whole && messages == before;
	return whole;
}

/*
 * Called before an event is deleted, by who has locked the journal against cqrs.adopt(), and
 * keeps writers of the event's entity out until the transaction ends.
 */
void
cqrs_identity_lose_first_events(void)
{
	RoleScope	scope;
	bool		ours;
	bool		whole;

	cqrs_role_enter(&scope, cqrs_catalog_extension_owner());
	SPI_connect();
	if (cqrs_statement_write(&lose_statement, NULL, NULL) > 0)
		CacheInvalidateRelcacheByRelid(cqrs_catalog_relation("identity"));
	else if (IsolationUsesXactSnapshot())
	{
		/* It may have become true after the transaction's snapshot. */
		read_identity(&ours, &whole);
		if (whole)
			ereport(ERROR,
					(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
					 errmsg("could not serialize access due to concurrent cqrs.adopt()"),
					 errhint("Repeat the transaction.")));
	}
	SPI_finish();
	cqrs_role_leave(&scope);
}

PG_FUNCTION_INFO_V1(cqrs_is_held);
Datum
cqrs_is_held(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(cqrs_identity_held());
}

/* The SQL around it holds the lock that keeps writers out; rows may have come by hand. */
PG_FUNCTION_INFO_V1(cqrs_raise_position);
Datum
cqrs_raise_position(PG_FUNCTION_ARGS)
{
	cqrs_last_event_forget_all();
	PG_RETURN_INT64(cqrs_position_raise_sequence());
}

/* Tells all sessions that the row in the table has changed, and has workers start. */
PG_FUNCTION_INFO_V1(cqrs_identity_changed);
Datum
cqrs_identity_changed(PG_FUNCTION_ARGS)
{
	CacheInvalidateRelcacheByRelid(cqrs_catalog_relation("identity"));
	cqrs_worker_look_at_commit();
	PG_RETURN_VOID();
}

static void
on_relcache_message(Datum arg, Oid relid)
{
	if (relid != InvalidOid && relid != identity_relid)
		return;
	known_as_ours = false;
	known_not_to_be = false;
	messages++;
}

static void
on_subscription_message(Datum arg, int cache, uint32 hash)
{
	known_as_ours = false;
	known_not_to_be = false;
	messages++;
}
