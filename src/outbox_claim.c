/*
 * outbox_claim.c
 *		Which deliveries are due, and the right to make them.
 *
 *					 claim
 *		  pending ----------> claimed ----> what outbox_settle.c says
 *			 ^  ^				|
 *			 |  +---------------+	recover: its worker is gone
 *			 |
 *		  pending, behind			waits for another one of its ordering key
 *
 * A claim counts the attempt and is committed before the request is sent, so
 * that a request that takes the worker with it is not sent for ever.  The
 * commit is flushed, and all that come before it with it, and waits for the
 * standbys that commits wait for: what a delivery is about is durable before
 * anybody outside learns of it.
 *
 * A database has one outbox worker at most (worker_launcher.c), so what is
 * claimed and not by this one was claimed by one that is gone: no leases, and
 * nothing waits for one to run out.  The attempt's number is the token by which
 * an outcome is settled.
 *
 * Only the first unsettled delivery of an ordering key is claimed.  Another one
 * that is found due is put "behind", out of the index of what is due, so that a
 * long queue of one key is not walked again and again; whoever settles or
 * removes the first one brings the next one back (promote).  Between the
 * snapshot of a claim and its lock on a row somebody may have removed the first
 * one, so after rows were put behind the first of their keys is promoted.
 *
 * The worker waits for no row: one that a session has locked is passed over,
 * and tried again.  For a lock on the table, by DDL, it waits LOCK_TIMEOUT, since
 * transfers do not go on meanwhile.
 *
 * Services are looked at in turn, and none has more than its share in flight,
 * so that one that hangs does not keep others waiting.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "outbox_claim.h"
#include "statement.h"
#include "worker_process.h"

#define LOCK_TIMEOUT	"100ms"
#define BUSY_MS			100

#define UNSETTLED	"('pending', 'claimed', 'answered')"

/* What a worker that is gone has left; true if somebody has locked some of it. */
static Statement recover_statement = {
	.sql = "WITH abandoned AS MATERIALIZED (SELECT id FROM cqrs.outbox WHERE state = 'claimed' AND id <> ALL ($2)),"
	" locked AS MATERIALIZED (SELECT o.id FROM cqrs.outbox o WHERE o.id IN (SELECT id FROM abandoned) FOR UPDATE SKIP LOCKED),"
	" pending AS (UPDATE cqrs.outbox o SET state = 'pending', next_attempt_at = $1,"
	" last_error = 'the worker ended while the request was under way'"
	" FROM locked WHERE o.id = locked.id AND o.state = 'claimed')"
	" SELECT (SELECT count(*) FROM abandoned) > (SELECT count(*) FROM locked)",
	.nargs = 2,
	.argtypes = {TIMESTAMPTZOID, UUIDARRAYOID}
};

/* The first of each key, whatever has happened; those that somebody has locked. */
static Statement heads_statement = {
	.sql = "WITH head AS MATERIALIZED (SELECT o.id, o.service, o.ordering_key FROM cqrs.outbox o"
	" WHERE o.behind AND o.state = 'pending' AND NOT EXISTS ("
	"SELECT FROM cqrs.outbox b WHERE b.service = o.service AND b.ordering_key = o.ordering_key"
	" AND b.state IN " UNSETTLED " AND b.number < o.number)),"
	" locked AS MATERIALIZED (SELECT o.id FROM cqrs.outbox o WHERE o.id IN (SELECT id FROM head) FOR UPDATE SKIP LOCKED),"
	" promoted AS (UPDATE cqrs.outbox o SET behind = false FROM locked WHERE o.id = locked.id AND o.state = 'pending')"
	" SELECT service, ordering_key FROM head WHERE id NOT IN (SELECT id FROM locked)",
	.nargs = 0
};

/* A step of the index for each service, not for each delivery. */
static Statement services_statement = {
	.sql = "WITH RECURSIVE due (service) AS ("
	"(SELECT o.service FROM cqrs.outbox o WHERE o.state = 'pending' AND NOT o.behind ORDER BY o.service LIMIT 1)"
	" UNION ALL SELECT (SELECT o.service FROM cqrs.outbox o WHERE o.state = 'pending' AND NOT o.behind"
	" AND o.service > due.service ORDER BY o.service LIMIT 1) FROM due WHERE due.service IS NOT NULL)"
	" SELECT due.service, (SELECT o.next_attempt_at FROM cqrs.outbox o WHERE o.state = 'pending' AND NOT o.behind"
	" AND o.service = due.service ORDER BY o.next_attempt_at LIMIT 1) FROM due WHERE due.service IS NOT NULL",
	.nargs = 0
};

static Statement claim_statement = {
	.sql = "WITH due AS MATERIALIZED (SELECT id, ordering_key, number FROM cqrs.outbox"
	" WHERE service = $1 AND state = 'pending' AND NOT behind AND next_attempt_at <= $2"
	" ORDER BY next_attempt_at, number LIMIT $3 FOR UPDATE SKIP LOCKED),"
	" head AS MATERIALIZED (SELECT due.id, due.ordering_key IS NULL OR NOT EXISTS ("
	"SELECT FROM cqrs.outbox b WHERE b.service = $1 AND b.ordering_key = due.ordering_key AND b.state IN " UNSETTLED
	" AND (b.number < due.number OR b.state <> 'pending')) AS first FROM due)"
	" UPDATE cqrs.outbox o SET state = CASE WHEN h.first THEN 'claimed' ELSE o.state END, behind = NOT h.first,"
	" attempt = o.attempt + h.first::integer FROM head h WHERE o.id = h.id"
	" RETURNING o.id, o.ordering_key, h.first, o.role, o.method, o.path, o.query, o.headers, o.content_type, o.body,"
	" o.attempt, o.max_attempts, o.reply_command IS NOT NULL, o.failure_command IS NOT NULL",
	.nargs = 3,
	.argtypes = {TEXTOID, TIMESTAMPTZOID, INT8OID}
};

/* Nothing while another one of the key is under way; true if somebody has locked the first one. */
static Statement promote_statement = {
	.sql = "WITH head AS MATERIALIZED (SELECT id FROM cqrs.outbox WHERE service = $1 AND ordering_key = $2"
	" AND state IN " UNSETTLED " ORDER BY number LIMIT 1),"
	" locked AS MATERIALIZED (SELECT o.id FROM cqrs.outbox o WHERE o.id = (SELECT id FROM head) FOR UPDATE SKIP LOCKED),"
	" promoted AS (UPDATE cqrs.outbox o SET behind = false FROM locked WHERE o.id = locked.id AND o.state = 'pending'"
	" AND o.behind AND NOT EXISTS (SELECT FROM cqrs.outbox b WHERE b.service = $1 AND b.ordering_key = $2"
	" AND b.state IN " UNSETTLED " AND b.state <> 'pending'))"
	" SELECT (SELECT count(*) FROM head) > (SELECT count(*) FROM locked)",
	.nargs = 2,
	.argtypes = {TEXTOID, TEXTOID}
};

static Statement waiting_promote_statement = {
	.sql = "UPDATE cqrs.outbox SET behind = false WHERE id = (SELECT id FROM cqrs.outbox"
	" WHERE service = $1 AND ordering_key = $2 AND state IN " UNSETTLED " ORDER BY number LIMIT 1) AND state = 'pending'",
	.nargs = 2,
	.argtypes = {TEXTOID, TEXTOID}
};

/* Keys whose first delivery was locked when it was to be promoted: pairs of texts. */
static List *unpromoted = NIL;

static List *services = NIL;	/* of OutboxService, for the life of the
								 * process */

static void remember_unpromoted(const text *service, const text *ordering_key);
static bool promote_again(void);
static bool equal_texts(const text *a, const text *b);
static OutboxService *find_service(const char *name);
static Delivery *take_delivery(OutboxService *service, uint64 row, MemoryContext parent);
static void *copy_varlena(uint64 row, int column);
static char *copy_text(uint64 row, int column);

void
cqrs_outbox_claim_begin(RoleScope *scope)
{
	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	cqrs_role_enter(scope, GetUserId());
	(void) set_config_option("lock_timeout", LOCK_TIMEOUT, PGC_USERSET, PGC_S_SESSION, GUC_ACTION_LOCAL, true, 0, false);
	SPI_connect();
}

void
cqrs_outbox_claim_end(const RoleScope *scope)
{
	SPI_finish();
	cqrs_role_leave(scope);
	PopActiveSnapshot();
	CommitTransactionCommand();
}

/* The same for a claim, which must outlast a crash and a failover before anything is sent. */
void
cqrs_outbox_claim_end_durably(const RoleScope *scope)
{
	SPI_finish();
	cqrs_role_leave(scope);
	cqrs_worker_process_make_durable();
	PopActiveSnapshot();
	CommitTransactionCommand();
}

/*
 * Takes over what a worker that is gone has left, which is what is claimed and
 * not in flight; false if it has to be called again, for what is locked.
 */
bool
cqrs_outbox_claim_recover(List *in_flight)
{
	Datum	   *ids = palloc(sizeof(Datum) * Max(1, list_length(in_flight)));
	Datum		values[2];
	int			count = 0;
	uint64		locked;
	ListCell   *cell;

	foreach(cell, in_flight)
		ids[count++] = UUIDPGetDatum(&((Delivery *) lfirst(cell))->id);
	values[0] = TimestampTzGetDatum(GetCurrentTimestamp());
	values[1] = PointerGetDatum(construct_array(ids, count, UUIDOID, UUID_LEN, false, TYPALIGN_CHAR));
	(void) cqrs_statement_write(&recover_statement, values, NULL);
	if (DatumGetBool(cqrs_statement_column(0, 1, NULL)))
		return false;
	locked = cqrs_statement_write(&heads_statement, NULL, NULL);
	for (uint64 i = 0; i < locked; i++)
		remember_unpromoted(DatumGetTextPP(cqrs_statement_column(i, 1, NULL)),
							DatumGetTextPP(cqrs_statement_column(i, 2, NULL)));
	return true;
}

/*
 * Looks which services something is to be sent to, and returns when to look
 * again for what is locked; DT_NOEND if nothing is.
 */
TimestampTz
cqrs_outbox_claim_look(void)
{
	bool		promoted = promote_again();
	uint64		count;
	ListCell   *cell;

	foreach(cell, services)
		((OutboxService *) lfirst(cell))->due = false;
	count = cqrs_statement_read(&services_statement, NULL, NULL, 0);
	for (uint64 i = 0; i < count; i++)
	{
		OutboxService *service = find_service(copy_text(i, 1));

		service->due = true;
		service->due_at = DatumGetTimestampTz(cqrs_statement_column(i, 2, NULL));
	}
	return promoted ? DT_NOEND : TimestampTzPlusMilliseconds(GetCurrentTimestamp(), BUSY_MS);
}

/* All services that were ever seen; not to be changed. */
List *
cqrs_outbox_claim_services(void)
{
	return services;
}

/*
 * Claims up to so many deliveries that are due, and adds them to a list.  Both
 * are allocated in the context, each delivery in a child of it, which lives
 * longer than the transaction.  To be ended durably.
 */
List *
cqrs_outbox_claim_due(List *claimed, OutboxService *service, int count, TimestampTz now, MemoryContext context)
{
	Datum		values[] = {CStringGetTextDatum(service->name), TimestampTzGetDatum(now), Int64GetDatum(count)};
	List	   *behind = NIL;
	uint64		rows = cqrs_statement_write(&claim_statement, values, NULL);
	ListCell   *cell;

	for (uint64 i = 0; i < rows; i++)
	{
		if (DatumGetBool(cqrs_statement_column(i, 3, NULL)))
		{
			Delivery   *delivery = take_delivery(service, i, context);
			MemoryContext old = MemoryContextSwitchTo(context);

			claimed = lappend(claimed, delivery);
			MemoryContextSwitchTo(old);
		}
		else
			behind = lappend(behind, copy_varlena(i, 2));
	}
	foreach(cell, behind)
		cqrs_outbox_claim_promote(DatumGetTextPP(values[0]), lfirst(cell));
	if (rows == 0)				/* somebody has locked what is due */
		service->postponed_until = TimestampTzPlusMilliseconds(now, BUSY_MS);
	return claimed;
}

/*
 * The first unsettled delivery of a key is behind none any more.  If a session
 * has locked it, that is not waited for: it is tried again with the next look.
 */
void
cqrs_outbox_claim_promote(text *service, text *ordering_key)
{
	Datum		values[] = {PointerGetDatum(service), PointerGetDatum(ordering_key)};

	if (ordering_key == NULL)
		return;
	(void) cqrs_statement_write(&promote_statement, values, NULL);
	if (DatumGetBool(cqrs_statement_column(0, 1, NULL)))
		remember_unpromoted(service, ordering_key);
}

/*
 * The same for who cannot try again later: it waits for who has locked the row,
 * which may be the worker that is putting it behind right now.  If another one
 * of the key is under way, a claim will put it behind again.
 */
void
cqrs_outbox_claim_promote_waiting(text *service, text *ordering_key)
{
	Datum		values[] = {PointerGetDatum(service), PointerGetDatum(ordering_key)};

	if (ordering_key)
		(void) cqrs_statement_write(&waiting_promote_statement, values, NULL);
}

static void
remember_unpromoted(const text *service, const text *ordering_key)
{
	MemoryContext old;
	ListCell   *cell;

	foreach(cell, unpromoted)
	{
		const List *pair = lfirst(cell);

		if (equal_texts(linitial(pair), service) && equal_texts(lsecond(pair), ordering_key))
			return;
	}
	old = MemoryContextSwitchTo(TopMemoryContext);
	unpromoted = lappend(unpromoted, list_make2(PG_DETOAST_DATUM_COPY(PointerGetDatum(service)),
												PG_DETOAST_DATUM_COPY(PointerGetDatum(ordering_key))));
	MemoryContextSwitchTo(old);
}

static bool
equal_texts(const text *a, const text *b)
{
	return VARSIZE_ANY_EXHDR(a) == VARSIZE_ANY_EXHDR(b) &&
		memcmp(VARDATA_ANY(a), VARDATA_ANY(b), VARSIZE_ANY_EXHDR(a)) == 0;
}

/* Tries again what was locked; false if something still is. */
static bool
promote_again(void)
{
	List	   *again = unpromoted;
	ListCell   *cell;

	unpromoted = NIL;
	foreach(cell, again)
	{
		List	   *pair = lfirst(cell);

		cqrs_outbox_claim_promote(linitial(pair), lsecond(pair));
		list_free_deep(pair);
	}
	list_free(again);
	return unpromoted == NIL;
}

static OutboxService *
find_service(const char *name)
{
	MemoryContext old;
	OutboxService *service;
	ListCell   *cell;

	foreach(cell, services)
	{
		service = lfirst(cell);
		if (strcmp(service->name, name) == 0)
			return service;
	}
	old = MemoryContextSwitchTo(TopMemoryContext);
	service = palloc0(sizeof(OutboxService));
	service->name = pstrdup(name);
	/* How many it takes is known when its options are. */
	service->limit = 1;
	services = lappend(services, service);
	MemoryContextSwitchTo(old);
	return service;
}

static Delivery *
take_delivery(OutboxService *service, uint64 row, MemoryContext parent)
{
	MemoryContext context = AllocSetContextCreate(parent, "pg_cqrs delivery", ALLOCSET_SMALL_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	Delivery   *delivery = palloc0(sizeof(Delivery));
	ServiceCall *call = &delivery->call;
	bytea	   *body;

	delivery->context = context;
	delivery->service = service;
	delivery->id = *DatumGetUUIDP(cqrs_statement_column(row, 1, NULL));
	delivery->id_text = DatumGetCString(DirectFunctionCall1(uuid_out, UUIDPGetDatum(&delivery->id)));
	delivery->ordering_key = copy_varlena(row, 2);
	delivery->role = pstrdup(NameStr(*DatumGetName(cqrs_statement_column(row, 4, NULL))));
	call->service = service->name;
	call->method = copy_text(row, 5);
	call->path = copy_text(row, 6);
	call->query = copy_varlena(row, 7);
	call->headers = copy_varlena(row, 8);
	call->content_type = copy_text(row, 9);
	body = copy_varlena(row, 10);
	call->body = body ? VARDATA(body) : NULL;
	call->body_size = body ? VARSIZE(body) - VARHDRSZ : 0;
	call->idempotency_key = delivery->id_text;
	delivery->attempt = DatumGetInt32(cqrs_statement_column(row, 11, NULL));
	delivery->max_attempts = DatumGetInt32(cqrs_statement_column(row, 12, NULL));
	delivery->has_reply = DatumGetBool(cqrs_statement_column(row, 13, NULL));
	delivery->has_failure = DatumGetBool(cqrs_statement_column(row, 14, NULL));
	MemoryContextSwitchTo(old);
	return delivery;
}

/* Of the last result, in the current memory context; NULL for NULL. */
static void *
copy_varlena(uint64 row, int column)
{
	bool		isnull;
	Datum		value = cqrs_statement_column(row, column, &isnull);

	return isnull ? NULL : PG_DETOAST_DATUM_COPY(value);
}

static char *
copy_text(uint64 row, int column)
{
	bool		isnull;
	Datum		value = cqrs_statement_column(row, column, &isnull);

	return isnull ? NULL : TextDatumGetCString(value);
}
