/*
 * command_delivery.c
 *		A command that a worker sends for somebody.
 *
 * It is sent as the role that wanted it, with that role's rights of now, and
 * under a command_id, so that it takes place once however often it is sent.
 * The role's scope lasts until the worker's transaction is committed, as that
 * of a projection's owner does.
 *
 * A command that waits for a lock, or that runs for long, is given up, so that
 * it holds back no other.  A lock is waited for less long than it takes to find
 * a deadlock: it is the worker that shall give way.  What the command defers
 * until the commit belongs to its time; that the commit then waits for a standby
 * does not, since a time that is over would end that wait, and show others what
 * a failover takes back.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/guc.h"
#include "utils/timeout.h"

#include "command_delivery.h"
#include "compat.h"
#include "settings.h"
#include "statement.h"

#define LOCK_TIMEOUT	"500ms"

static Statement send_statement = {
	.sql = "SELECT version FROM cqrs.send($1, $2, $3, $4, command_id => $5)",
	.nargs = 5,
	.argtypes = {TEXTOID, TEXTOID, TEXTOID, JSONBOID, UUIDOID}
};

static bool is_timed = false;

static void on_transaction_end(XactEvent event, void *arg);

void
cqrs_command_delivery_init(void)
{
	RegisterXactCallback(on_transaction_end, NULL);
}

void
cqrs_command_deliver(const CommandDelivery *delivery, RoleScope *scope)
{
	Datum		values[] = {
		PointerGetDatum(delivery->entity_type), PointerGetDatum(delivery->entity_id),
		PointerGetDatum(delivery->command_type), JsonbPGetDatum(delivery->data),
		UUIDPGetDatum(delivery->command_id)
	};
	const Cause *before = cqrs_new_event_set_cause(&delivery->cause);

	(void) set_config_option("lock_timeout", LOCK_TIMEOUT, PGC_USERSET, PGC_S_SESSION, GUC_ACTION_LOCAL, true, 0, false);
	enable_timeout_after(STATEMENT_TIMEOUT, cqrs_command_timeout_ms);
	is_timed = true;
	cqrs_role_enter_until_commit(scope, delivery->role, CQRS_SEARCH_PATH);
	SPI_connect();
	PG_TRY();
	{
		(void) cqrs_statement_write(&send_statement, values, NULL);
	}
	PG_FINALLY();
	{
		(void) cqrs_new_event_set_cause(before);
	}
	PG_END_TRY();
	SPI_finish();
	cqrs_role_restore_settings(scope);
}

void
cqrs_command_delivery_end(void)
{
	is_timed = false;
	disable_timeout(STATEMENT_TIMEOUT, false);
	QueryCancelPending = false;
}

/* What was deferred has been done by then. */
static void
on_transaction_end(XactEvent event, void *arg)
{
	if (event == XACT_EVENT_PRE_COMMIT && is_timed)
		cqrs_command_delivery_end();
}
