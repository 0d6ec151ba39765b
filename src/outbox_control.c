/*
 * outbox_control.c
 *		Deliveries that somebody wants to be tried again, or no more.
 *
 * It is for the role that enqueued, whose rights the delivery uses.  The row is
 * locked, which the worker passes over meanwhile (SKIP LOCKED); so the worker is
 * woken at the commit.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/timestamp.h"
#include "utils/uuid.h"

#include "catalog.h"
#include "entity_lock.h"
#include "outbox.h"
#include "outbox_claim.h"
#include "statement.h"

/* A row that was locked, in the context of SPI. */
typedef struct LockedRow
{
	char	   *state;
	text	   *service;
	text	   *ordering_key;	/* or NULL */
	bool		failure_sent;
} LockedRow;

static Statement lock_statement = {
	.sql = "SELECT state, service, ordering_key, role, coalesce(failure_command IS NOT NULL AND NOT succeeded, false)"
	" FROM cqrs.outbox WHERE id = $1 FOR UPDATE",
	.nargs = 1,
	.argtypes = {UUIDOID}
};

static Statement again_statement = {
	.sql = "UPDATE cqrs.outbox SET state = $2, next_attempt_at = $3, settled_at = NULL, behind = false,"
	" succeeded = CASE WHEN $2 = 'answered' THEN succeeded END,"
	" attempt = CASE WHEN $2 = 'answered' THEN attempt ELSE 0 END, reply_attempt = 0 WHERE id = $1",
	.nargs = 3,
	.argtypes = {UUIDOID, TEXTOID, TIMESTAMPTZOID}
};

static Statement discard_statement = {
	.sql = "DELETE FROM cqrs.outbox WHERE id = $1",
	.nargs = 1,
	.argtypes = {UUIDOID}
};

static void begin_change(const char *function, pg_uuid_t *id, RoleScope *scope, LockedRow *row);
static void end_change(const RoleScope *scope);
static const char *state_again(const LockedRow *row);

PG_FUNCTION_INFO_V1(cqrs_retry_outbox);
Datum
cqrs_retry_outbox(PG_FUNCTION_ARGS)
{
	pg_uuid_t  *id = PG_GETARG_UUID_P(0);
	const char *state;
	RoleScope	scope;
	LockedRow	row;

	begin_change("retry_outbox", id, &scope, &row);
	state = state_again(&row);
	{
		Datum		values[] = {
			UUIDPGetDatum(id), CStringGetTextDatum(state), TimestampTzGetDatum(GetCurrentTimestamp())
		};

		(void) cqrs_statement_write(&again_statement, values, NULL);
	}
	if (strcmp(state, "answered") == 0)
		cqrs_outbox_wake_replier_at_commit();
	end_change(&scope);
	PG_RETURN_VOID();
}

PG_FUNCTION_INFO_V1(cqrs_discard_outbox);
Datum
cqrs_discard_outbox(PG_FUNCTION_ARGS)
{
	pg_uuid_t  *id = PG_GETARG_UUID_P(0);
	Datum		value = UUIDPGetDatum(id);
	RoleScope	scope;
	LockedRow	row;

	begin_change("discard_outbox", id, &scope, &row);
	if (strcmp(row.state, "claimed") == 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_IN_USE),
				 errmsg("delivery %s is under way", DatumGetCString(DirectFunctionCall1(uuid_out, value)))));
	(void) cqrs_statement_write(&discard_statement, &value, NULL);
	cqrs_outbox_claim_promote_waiting(row.service, row.ordering_key);
	/* It may have missed what came after the snapshot; the worker does not. */
	if (row.ordering_key && IsolationUsesXactSnapshot())
		cqrs_worker_tell_at_commit();
	end_change(&scope);
	PG_RETURN_VOID();
}

/* Locks the row; the caller must have the rights of its role. */
static void
begin_change(const char *function, pg_uuid_t *id, RoleScope *scope, LockedRow *row)
{
	Datum		value = UUIDPGetDatum(id);
	char	   *role;
	bool		no_key;
	Datum		key;
	Oid			owner;

	PreventCommandDuringRecovery(psprintf("cqrs.%s()", function));
	cqrs_entity_lock_refuse_effect(function);
	cqrs_role_enter(scope, cqrs_catalog_extension_owner());
	SPI_connect();
	if (cqrs_statement_write(&lock_statement, &value, NULL) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_NO_DATA),
				 errmsg("there is no delivery %s", DatumGetCString(DirectFunctionCall1(uuid_out, value)))));
	row->state = TextDatumGetCString(cqrs_statement_column(0, 1, NULL));
	row->service = (text *) PG_DETOAST_DATUM_COPY(cqrs_statement_column(0, 2, NULL));
	key = cqrs_statement_column(0, 3, &no_key);
	row->ordering_key = no_key ? NULL : (text *) PG_DETOAST_DATUM_COPY(key);
	role = NameStr(*DatumGetName(cqrs_statement_column(0, 4, NULL)));
	row->failure_sent = DatumGetBool(cqrs_statement_column(0, 5, NULL));
	owner = get_role_oid(role, true);
	if (!superuser_arg(scope->caller) && !(OidIsValid(owner) && has_privs_of_role(scope->caller, owner)))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied for delivery %s", DatumGetCString(DirectFunctionCall1(uuid_out, value))),
				 errdetail("It was enqueued by role \"%s\".", role)));
}

static void
end_change(const RoleScope *scope)
{
	SPI_finish();
	cqrs_role_leave(scope);
	cqrs_outbox_wake_at_commit();
}

/* What a delivery is again that is tried again. */
static const char *
state_again(const LockedRow *row)
{
	if (strcmp(row->state, "reply_failed") == 0 || strcmp(row->state, "answered") == 0)
		return "answered";
	if (strcmp(row->state, "pending") == 0 || (strcmp(row->state, "dead") == 0 && !row->failure_sent))
		return "pending";
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("a delivery that is %s is not tried again", row->state),
			 row->failure_sent ? errdetail("Its failure_command was sent.") : 0,
			 row->failure_sent ? errhint("Enqueue the request anew.") : 0));
}
