/*
 * timer.c
 *		Commands for later: cqrs.schedule and what is done about a timer.
 *
 * A timer is a row that the caller's transaction writes; at its commit the
 * worker (timer_worker.c) hears of it.  The right to send the command is
 * checked now, so that who may not learns it, and again when it is sent.
 *
 * To cancel is to lock the row, which waits for a worker that is about to send
 * the command, and to delete it.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "postmaster/bgworker.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/fmgrprotos.h"
#include "utils/timestamp.h"

#include "catalog.h"
#include "command.h"
#include "compat.h"
#include "entity_lock.h"
#include "identity.h"
#include "journal.h"
#include "new_event.h"
#include "role.h"
#include "statement.h"
#include "timer_queue.h"
#include "timer_worker.h"

static Statement insert_statement = {
	.sql = "INSERT INTO cqrs.timer (id, due_at, role, entity_type, entity_id, command_type, data, created_at, next_attempt_at)"
	" VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $2)",
	.nargs = 8,
	.argtypes = {UUIDOID, TIMESTAMPTZOID, NAMEOID, TEXTOID, TEXTOID, TEXTOID, JSONBOID, TIMESTAMPTZOID}
};

static Statement lock_statement = {
	.sql = "SELECT role FROM cqrs.timer WHERE id = $1 FOR UPDATE",
	.nargs = 1,
	.argtypes = {UUIDOID}
};

static Statement cancel_statement = {
	.sql = "DELETE FROM cqrs.timer WHERE id = $1",
	.nargs = 1,
	.argtypes = {UUIDOID}
};

static Statement retry_statement = {
	.sql = "UPDATE cqrs.timer SET state = 'waiting', attempts = 0, failures = 0, next_attempt_at = due_at WHERE id = $1",
	.nargs = 1,
	.argtypes = {UUIDOID}
};

static TimestampTz check_time(FunctionCallInfo fcinfo);
static void check_may_send(text *entity_type, text *command_type);
static bool change_timer(Datum id, Statement *statement);
static void check_may_change(Datum id, const NameData *role, Oid caller);

PG_FUNCTION_INFO_V1(cqrs_schedule);
Datum
cqrs_schedule(PG_FUNCTION_ARGS)
{
	Datum		id = OidFunctionCall0(F_GEN_RANDOM_UUID);
	TimestampTz at;
	text	   *command_type;
	Jsonb	   *data;
	EntityKey	key;
	RoleScope	scope;
	NameData	role;

	PreventCommandDuringRecovery("cqrs.schedule()");
	cqrs_entity_lock_refuse_effect("schedule");
	at = check_time(fcinfo);
	cqrs_journal_check_key(&key, PG_ARGISNULL(1) ? NULL : PG_GETARG_TEXT_PP(1),
						   PG_ARGISNULL(2) ? cstring_to_text(DatumGetCString(DirectFunctionCall1(uuid_out, id))) :
						   PG_GETARG_TEXT_PP(2));
	command_type = cqrs_new_event_check_name(PG_ARGISNULL(3) ? NULL : PG_GETARG_TEXT_PP(3), "command type");
	data = cqrs_new_event_check_data(PG_ARGISNULL(4) ? NULL : PG_GETARG_JSONB_P(4), NULL);
	check_may_send(key.entity_type, command_type);
	cqrs_identity_warn_if_held();
	namestrcpy(&role, GetUserNameFromId(GetUserId(), false));

	cqrs_role_enter(&scope, cqrs_catalog_extension_owner());
	SPI_connect();
	{
		Datum		values[] = {
			id, TimestampTzGetDatum(at), NameGetDatum(&role), PointerGetDatum(key.entity_type),
			PointerGetDatum(key.entity_id), PointerGetDatum(command_type), JsonbPGetDatum(data),
			TimestampTzGetDatum(GetCurrentTimestamp())
		};

		(void) cqrs_statement_write(&insert_statement, values, NULL);
	}
	SPI_finish();
	cqrs_role_leave(&scope);
	cqrs_timer_worker_call();
	/* The commits of workers are asynchronous, unless others act on them. */
	if (MyBgworkerEntry)
		ForceSyncCommit();
	PG_RETURN_DATUM(id);
}

PG_FUNCTION_INFO_V1(cqrs_cancel_scheduled);
Datum
cqrs_cancel_scheduled(PG_FUNCTION_ARGS)
{
	PreventCommandDuringRecovery("cqrs.cancel_scheduled()");
	cqrs_entity_lock_refuse_effect("cancel_scheduled");
	PG_RETURN_BOOL(change_timer(PG_GETARG_DATUM(0), &cancel_statement));
}

PG_FUNCTION_INFO_V1(cqrs_retry_scheduled);
Datum
cqrs_retry_scheduled(PG_FUNCTION_ARGS)
{
	bool		found;

	PreventCommandDuringRecovery("cqrs.retry_scheduled()");
	cqrs_entity_lock_refuse_effect("retry_scheduled");
	found = change_timer(PG_GETARG_DATUM(0), &retry_statement);
	if (found)
		cqrs_timer_worker_call();
	PG_RETURN_BOOL(found);
}

/* It may be past. */
static TimestampTz
check_time(FunctionCallInfo fcinfo)
{
	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("the time of a timer is NULL")));
	if (TIMESTAMP_NOT_FINITE(PG_GETARG_TIMESTAMPTZ(0)))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the time of a timer is infinite"),
				 errhint("Use now() for a command that shall be sent at once.")));
	return PG_GETARG_TIMESTAMPTZ(0);
}

/* Raises what sending would raise before it comes to the entity. */
static void
check_may_send(text *entity_type, text *command_type)
{
	RoleScope	scope;

	cqrs_role_enter(&scope, cqrs_catalog_extension_owner());
	(void) cqrs_command_find_handler(cqrs_entity_registry_get(entity_type), command_type, &scope);
	cqrs_role_leave(&scope);
}

/* False if there is none, or no more when it is our turn. */
static bool
change_timer(Datum id, Statement *statement)
{
	RoleScope	scope;
	bool		found;

	cqrs_role_enter(&scope, cqrs_catalog_extension_owner());
	SPI_connect();
	found = cqrs_statement_write(&lock_statement, &id, NULL) > 0;
	if (found)
	{
		check_may_change(id, DatumGetName(cqrs_statement_column(0, 1, NULL)), scope.caller);
		(void) cqrs_statement_write(statement, &id, NULL);
	}
	SPI_finish();
	cqrs_role_leave(&scope);
	return found;
}

/* Who may act as the role may; of one that is gone, a superuser alone. */
static void
check_may_change(Datum id, const NameData *role, Oid caller)
{
	Oid			owner = get_role_oid(NameStr(*role), true);

	if (OidIsValid(owner) ? has_privs_of_role(caller, owner) : superuser_arg(caller))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
			 errmsg("permission denied for timer %s", DatumGetCString(DirectFunctionCall1(uuid_out, id))),
			 errdetail("It was scheduled by role \"%s\".", NameStr(*role))));
}
