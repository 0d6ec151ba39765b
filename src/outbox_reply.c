/*
 * outbox_reply.c
 *		The commands that follow deliveries.
 *
 *	answered -> delivered	or dead, if the delivery was given up: the command was
 *							sent, in the transaction that says so
 *			 -> rejected	the entity has rejected the command (QR002)
 *			 -> answered	it is tried again later
 *			 -> reply_failed	given up; cqrs.retry_outbox tries it again
 *
 * The outcome of the request was committed before, so whatever happens here the
 * request is not sent again.  The command is sent as the role that enqueued,
 * with its rights of now, under the id of the delivery: command and state change
 * together or not at all.
 *
 * The next delivery of the ordering key is brought back in the same transaction.
 * If a session has locked that for long, the command is put off.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "command_delivery.h"
#include "errors.h"
#include "outbox.h"
#include "outbox_reply.h"
#include "outbox_settle.h"
#include "position.h"
#include "statement.h"
#include "worker_error.h"
#include "worker_process.h"

/* The row of a delivery whose command is due. */
typedef struct Reply
{
	MemoryContext context;		/* lives longer than the transaction */
	bool		taken;			/* there was one that is due */
	/* The row */
	pg_uuid_t	id;
	text	   *service;
	text	   *ordering_key;	/* or NULL */
	char	   *role;
	int			attempt;		/* this one */
	int			max_attempts;
	CommandDelivery command;
	const ErrorData *error;		/* why it was not sent */
	/* Transaction */
	RoleScope	own;
	RoleScope	sender;
	bool		as_sender;
} Reply;

static Statement next_statement = {
	.sql = "SELECT next_attempt_at FROM cqrs.outbox WHERE state = 'answered' ORDER BY next_attempt_at LIMIT 1",
	.nargs = 0
};

static Statement due_statement = {
	.sql = "SELECT id, service, ordering_key, role, reply_attempt + 1, max_attempts, reply_entity_type, reply_entity_id,"
	" CASE WHEN succeeded THEN reply_command ELSE failure_command END, answer"
	" FROM cqrs.outbox WHERE state = 'answered' AND next_attempt_at <= $1 ORDER BY next_attempt_at LIMIT 1"
	" FOR UPDATE SKIP LOCKED",
	.nargs = 1,
	.argtypes = {TIMESTAMPTZOID}
};

static Statement sent_statement = {
	.sql = "UPDATE cqrs.outbox SET state = CASE WHEN succeeded THEN 'delivered' ELSE 'dead' END, settled_at = $2,"
	" reply_attempt = reply_attempt + 1, last_error = answer ->> 'error' WHERE id = $1",
	.nargs = 2,
	.argtypes = {UUIDOID, TIMESTAMPTZOID}
};

static Statement failed_statement = {
	.sql = "UPDATE cqrs.outbox SET state = $2, settled_at = CASE WHEN $2 <> 'answered' THEN $3 END, next_attempt_at = $4,"
	" reply_attempt = $6, last_error = $5 WHERE id = (SELECT id FROM cqrs.outbox WHERE id = $1 AND state = 'answered'"
	" FOR UPDATE SKIP LOCKED)",
	.nargs = 6,
	.argtypes = {UUIDOID, TEXTOID, TIMESTAMPTZOID, TIMESTAMPTZOID, TEXTOID, INT4OID}
};

static void send_due(Reply *reply);
static bool take_due(Reply *reply);
static void *copy_varlena(int column);
static void deliver(Reply *reply);
static bool handle_failure(Reply *reply, const ErrorData *error);
static void note_failure(void *arg);

/* When the next command is due; DT_NOEND: none waits.  Called between claim_begin and claim_end. */
TimestampTz
cqrs_outbox_reply_next(void)
{
	if (cqrs_statement_read(&next_statement, NULL, NULL, 1) == 0)
		return DT_NOEND;
	return DatumGetTimestampTz(cqrs_statement_column(0, 1, NULL));
}

ReplyResult
cqrs_outbox_reply_send(void)
{
	MemoryContext context = AllocSetContextCreate(TopMemoryContext, "pg_cqrs reply", ALLOCSET_DEFAULT_SIZES);
	Reply	   *reply = MemoryContextAllocZero(context, sizeof(Reply));
	ErrorData  *volatile error = NULL;
	ReplyResult result;

	reply->context = context;
	PG_TRY();
	{
		send_due(reply);
	}
	PG_CATCH();
	{
		error = cqrs_worker_error_take(context, false);
	}
	PG_END_TRY();
	/* Until now: the commit runs deferred triggers. */
	cqrs_command_delivery_end();
	if (reply->as_sender)
	{
		if (error == NULL)
			cqrs_role_leave(&reply->sender);
		cqrs_worker_process_discard();
	}
	result = reply->taken ? REPLY_SENT : REPLY_NONE;
	if (error && !handle_failure(reply, error))
		result = REPLY_UNCHANGED;
	MemoryContextSwitchTo(TopMemoryContext);
	MemoryContextDelete(context);
	return result;
}

static void
send_due(Reply *reply)
{
	cqrs_outbox_claim_begin(&reply->own);
	reply->taken = take_due(reply);
	if (reply->taken)
		deliver(reply);
	else
		cqrs_outbox_claim_end(&reply->own);
}

/* Locks the first row that is due; false if there is none. */
static bool
take_due(Reply *reply)
{
	Datum		now = TimestampTzGetDatum(GetCurrentTimestamp());
	CommandDelivery *command = &reply->command;

	if (cqrs_statement_write(&due_statement, &now, NULL) == 0)
		return false;
	MemoryContextSwitchTo(reply->context);
	reply->id = *DatumGetUUIDP(cqrs_statement_column(0, 1, NULL));
	reply->service = copy_varlena(2);
	reply->ordering_key = copy_varlena(3);
	reply->role = pstrdup(NameStr(*DatumGetName(cqrs_statement_column(0, 4, NULL))));
	reply->attempt = DatumGetInt32(cqrs_statement_column(0, 5, NULL));
	reply->max_attempts = DatumGetInt32(cqrs_statement_column(0, 6, NULL));
	command->entity_type = copy_varlena(7);
	command->entity_id = copy_varlena(8);
	command->command_type = copy_varlena(9);
	command->data = copy_varlena(10);
	command->command_id = &reply->id;
	command->cause.kind = "delivery";
	command->cause.name = DatumGetCString(DirectFunctionCall1(uuid_out, UUIDPGetDatum(&reply->id)));
	return true;
}

static void *
copy_varlena(int column)
{
	bool		isnull;
	Datum		value = cqrs_statement_column(0, column, &isnull);

	return isnull ? NULL : PG_DETOAST_DATUM_COPY(value);
}

/* Ends the transaction; the scope of the sender lasts until then. */
static void
deliver(Reply *reply)
{
	Datum		values[] = {UUIDPGetDatum(&reply->id), TimestampTzGetDatum(GetCurrentTimestamp())};

	reply->command.role = get_role_oid(reply->role, true);
	if (!OidIsValid(reply->command.role))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("role \"%s\" does not exist", reply->role)));
	(void) cqrs_statement_write(&sent_statement, values, NULL);
	cqrs_outbox_claim_promote_waiting(reply->service, reply->ordering_key);
	cqrs_outbox_wake_at_commit();
	SPI_finish();
	cqrs_role_leave(&reply->own);
	reply->as_sender = true;
	cqrs_command_deliver(&reply->command, &reply->sender);
	/* Others act on events. */
	if (cqrs_position_held_by_me())
		cqrs_worker_process_make_durable();
	PopActiveSnapshot();
	CommitTransactionCommand();
}

/* The command was not sent.  False if that could not be noted either, or nothing was taken. */
static bool
handle_failure(Reply *reply, const ErrorData *error)
{
	bool		rejected = error->sqlerrcode == CQRS_COMMAND_REJECTED;

	if (reply->taken && !rejected)
		ereport(LOG,
				(errmsg("the command that follows delivery %s could not be sent", reply->command.cause.name),
				 errdetail("%s", error->message)));
	else if (!reply->taken)
		ereport(LOG,
				(errmsg("could not look for commands that follow deliveries"),
				 errdetail("%s", error->message)));
	reply->error = error;
	return reply->taken && cqrs_worker_error_try(note_failure, reply);
}

/* An error of the system's is no attempt; a row that somebody has locked is left as it is. */
static void
note_failure(void *arg)
{
	Reply	   *reply = arg;
	const ErrorData *error = reply->error;
	bool		rejected = error->sqlerrcode == CQRS_COMMAND_REJECTED;
	bool		systems = cqrs_worker_error_is_systems(error) && error->sqlerrcode != ERRCODE_QUERY_CANCELED;
	bool		again = systems || (!rejected && reply->attempt < reply->max_attempts);
	TimestampTz now = GetCurrentTimestamp();

	cqrs_outbox_claim_begin(&reply->own);
	{
		Datum		values[] = {
			UUIDPGetDatum(&reply->id), CStringGetTextDatum(rejected ? "rejected" : again ? "answered" : "reply_failed"),
			TimestampTzGetDatum(now),
			TimestampTzGetDatum(TimestampTzPlusMilliseconds(now, cqrs_outbox_settle_delay_ms(reply->attempt))),
			CStringGetTextDatum(error->message), Int32GetDatum(reply->attempt - (systems ? 1 : 0))
		};

		(void) cqrs_statement_write(&failed_statement, values, NULL);
		if (!again)
		{
			cqrs_outbox_claim_promote_waiting(reply->service, reply->ordering_key);
			cqrs_outbox_wake_at_commit();
		}
	}
	cqrs_outbox_claim_end(&reply->own);
}
