/*
 * outbox.c
 *		cqrs.enqueue: a request to another service, sent after the commit.
 *
 * The order is a row, written in the caller's transaction: it is carried out
 * exactly if that commits.  What can be checked is checked now, while there is
 * somebody to be told: the arguments, the right to use the service, the right
 * to send the commands that may follow.  Rights are checked again when they
 * are used.
 *
 * Deliveries of an ordering key are made in the order of their numbers, so that
 * has to be the order of their commits: a number is drawn while a lock on
 * service and key is held, which lasts to the end of the transaction.  Two keys
 * of the same hash merely wait for each other.
 *
 * The id is random, and serves as the request's Idempotency-Key and as the
 * command_id of the command that follows: one of the two at most is sent.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "storage/lock.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/fmgrprotos.h"
#include "utils/timestamp.h"

#include "catalog.h"
#include "command.h"
#include "entity_lock.h"
#include "identity.h"
#include "journal.h"
#include "new_event.h"
#include "outbox.h"
#include "outbox_event.h"
#include "service_options.h"
#include "service_request.h"
#include "settings.h"
#include "statement.h"

#define MAX_ORDERING_KEY		1024	/* bytes */
#define LOCKTAG_ORDERING_KEY	0x4353	/* field4 of the tag; see
										 * entity_lock.c */

/* The arguments of cqrs.enqueue after those of all calls */
enum
{
	ARG_ORDERING_KEY = CALL_ARGUMENTS,
	ARG_ENTITY_TYPE,
	ARG_ENTITY_ID,
	ARG_REPLY_COMMAND,
	ARG_FAILURE_COMMAND,
	ARG_MAX_ATTEMPTS,
	ARG_EVENT
};

static Statement enqueue_statement = {
	.sql = "INSERT INTO cqrs.outbox (id, service, role, method, path, query, headers, content_type, body, ordering_key,"
	" reply_entity_type, reply_entity_id, reply_command, failure_command, max_attempts, next_attempt_at, created_at)"
	" VALUES ($1, $2, $3, $4, $5, $6, CASE WHEN $17 IS NULL OR EXISTS (SELECT FROM pg_catalog.jsonb_object_keys($7) k"
	" WHERE lower(k) = 'traceparent') THEN $7 ELSE coalesce($7, '{}') || jsonb_build_object('traceparent', $17) END,"
	" $8, $9, $10, $11, $12, $13, $14, $15, $16, $16)",
	.nargs = 17,
	.argtypes = {UUIDOID, TEXTOID, NAMEOID, TEXTOID, TEXTOID, JSONBOID, JSONBOID, TEXTOID, BYTEAOID, TEXTOID,
	TEXTOID, TEXTOID, TEXTOID, TEXTOID, INT4OID, TIMESTAMPTZOID, TEXTOID}
};

static const WorkerKind *deliverer = NULL;
static const WorkerKind *replier = NULL;

static text *take_ordering_key(FunctionCallInfo fcinfo, const ServiceOptions *options, ServiceCall *call);
static void check_commands(FunctionCallInfo fcinfo, const RoleScope *scope);
static int	max_attempts_argument(FunctionCallInfo fcinfo);
static void lock_key(const char *service, text *key);
static void insert(FunctionCallInfo fcinfo, Datum id, const ServiceCall *call, text *key, const RoleScope *scope);

void
cqrs_outbox_set_deliverer(const WorkerKind *kind)
{
	deliverer = kind;
}

void
cqrs_outbox_set_replier(const WorkerKind *kind)
{
	replier = kind;
}

void
cqrs_outbox_wake_at_commit(void)
{
	cqrs_worker_wake_at_commit(deliverer);
}

void
cqrs_outbox_wake_replier_at_commit(void)
{
	cqrs_worker_wake_at_commit(replier);
}

PG_FUNCTION_INFO_V1(cqrs_enqueue);
Datum
cqrs_enqueue(PG_FUNCTION_ARGS)
{
	Datum		id = OidFunctionCall0(F_GEN_RANDOM_UUID);
	ServiceCall call = {0};
	ServiceOptions *options;
	RoleScope	scope;
	text	   *key;

	PreventCommandDuringRecovery("cqrs.enqueue()");
	cqrs_entity_lock_refuse_effect("enqueue");
	cqrs_service_request_take_call(fcinfo, &call);
	/* Any will do: what is checked is that the headers have none. */
	call.idempotency_key = "id";
	options = cqrs_service_options_load(call.service, GetUserId());
	key = take_ordering_key(fcinfo, options, &call);
	/* The errors that the call would have for its caller. */
	(void) cqrs_service_request_build(options, &call);

	cqrs_role_enter(&scope, cqrs_catalog_extension_owner());
	check_commands(fcinfo, &scope);
	cqrs_identity_warn_if_held();
	if (key)
		lock_key(call.service, key);
	insert(fcinfo, id, &call, key, &scope);
	cqrs_role_leave(&scope);
	cqrs_outbox_wake_at_commit();
	PG_RETURN_DATUM(id);
}

/* ---- arguments ---- */

/* That of an event, which becomes the call's body, is its entity, unless the caller has another one; or NULL. */
static text *
take_ordering_key(FunctionCallInfo fcinfo, const ServiceOptions *options, ServiceCall *call)
{
	text	   *key = PG_ARGISNULL(ARG_ORDERING_KEY) ? NULL : PG_GETARG_TEXT_PP(ARG_ORDERING_KEY);

	if (key && VARSIZE_ANY_EXHDR(key) > MAX_ORDERING_KEY)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("ordering_key is longer than %d bytes", MAX_ORDERING_KEY)));
	if (!PG_ARGISNULL(ARG_EVENT))
	{
		text	   *entity = cstring_to_text(cqrs_outbox_event_take(PG_GETARG_DATUM(ARG_EVENT), options->event_source, call));

		if (VARSIZE_ANY_EXHDR(entity) > MAX_ORDERING_KEY)
			entity = DatumGetTextPP(DirectFunctionCall1(md5_text, PointerGetDatum(entity)));
		key = key ? key : entity;
	}
	return key;
}

/* An entity, and that the caller may send it what may have to be sent. */
static void
check_commands(FunctionCallInfo fcinfo, const RoleScope *scope)
{
	bool		wanted = !PG_ARGISNULL(ARG_REPLY_COMMAND) || !PG_ARGISNULL(ARG_FAILURE_COMMAND);
	EntityType *entity;
	EntityKey	key;

	if (!wanted && PG_ARGISNULL(ARG_ENTITY_TYPE) && PG_ARGISNULL(ARG_ENTITY_ID))
		return;
	if (!wanted || PG_ARGISNULL(ARG_ENTITY_TYPE) || PG_ARGISNULL(ARG_ENTITY_ID))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("a reply needs reply_entity_type, reply_entity_id, and reply_command or failure_command")));
	cqrs_journal_check_key(&key, PG_GETARG_TEXT_PP(ARG_ENTITY_TYPE), PG_GETARG_TEXT_PP(ARG_ENTITY_ID));
	entity = cqrs_entity_registry_get(key.entity_type);
	for (int arg = ARG_REPLY_COMMAND; arg <= ARG_FAILURE_COMMAND; arg++)
		if (!PG_ARGISNULL(arg))
			(void) cqrs_command_find_handler(entity, cqrs_new_event_check_name(PG_GETARG_TEXT_PP(arg), "command type"), scope);
}

static int
max_attempts_argument(FunctionCallInfo fcinfo)
{
	int			max_attempts = PG_ARGISNULL(ARG_MAX_ATTEMPTS) ? cqrs_outbox_max_attempts : PG_GETARG_INT32(ARG_MAX_ATTEMPTS);

	if (max_attempts < 1)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("max_attempts must be at least 1")));
	return max_attempts;
}

/* ---- the order ---- */

static void
lock_key(const char *service, text *key)
{
	uint64		hash = hash_bytes_extended((const unsigned char *) VARDATA_ANY(key), VARSIZE_ANY_EXHDR(key),
										   hash_bytes_extended((const unsigned char *) service, strlen(service), 0));
	LOCKTAG		tag;

	SET_LOCKTAG_ADVISORY(tag, MyDatabaseId, (uint32) (hash >> 32), (uint32) hash, LOCKTAG_ORDERING_KEY);
	(void) LockAcquire(&tag, ExclusiveLock, false, false);
}

static void
insert(FunctionCallInfo fcinfo, Datum id, const ServiceCall *call, text *key, const RoleScope *scope)
{
	TimestampTz now = GetCurrentTimestamp();
	NameData	role;
	Datum		values[17];
	char		nulls[17];
	bytea	   *body = palloc(VARHDRSZ + call->body_size);

	SET_VARSIZE(body, VARHDRSZ + call->body_size);
	if (call->body_size > 0)
		memcpy(VARDATA(body), call->body, call->body_size);
	namestrcpy(&role, GetUserNameFromId(scope->caller, false));
	memset(nulls, ' ', sizeof(nulls));
	values[0] = id;
	values[1] = PG_GETARG_DATUM(CALL_SERVICE);
	values[2] = NameGetDatum(&role);
	values[3] = PG_GETARG_DATUM(CALL_METHOD);
	values[4] = PG_GETARG_DATUM(CALL_PATH);
	values[5] = PG_GETARG_DATUM(CALL_QUERY);
	values[6] = JsonbPGetDatum(call->headers);
	nulls[7] = nulls[8] = call->content_type ? ' ' : 'n';
	values[7] = call->content_type ? CStringGetTextDatum(call->content_type) : (Datum) 0;
	values[8] = PointerGetDatum(body);
	for (int arg = ARG_ENTITY_TYPE; arg <= ARG_FAILURE_COMMAND; arg++)
	{
		values[arg + 1] = PG_GETARG_DATUM(arg);
		nulls[arg + 1] = PG_ARGISNULL(arg) ? 'n' : ' ';
	}
	nulls[5] = PG_ARGISNULL(CALL_QUERY) ? 'n' : ' ';
	nulls[6] = call->headers ? ' ' : 'n';
	values[9] = PointerGetDatum(key);
	nulls[9] = key ? ' ' : 'n';
	values[14] = Int32GetDatum(max_attempts_argument(fcinfo));
	values[15] = TimestampTzGetDatum(now);
	values[16] = CStringGetTextDatum(cqrs_traceparent);
	nulls[16] = cqrs_traceparent[0] ? ' ' : 'n';

	SPI_connect();
	(void) cqrs_statement_write(&enqueue_statement, values, nulls);
	SPI_finish();
}
