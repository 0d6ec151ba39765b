/*
 * outbox_settle.c
 *		What becomes of a delivery after an attempt.
 *
 *	claimed -> delivered	a status of 200 to 299, and no reply_command
 *			-> answered		the outcome is known, and a command follows
 *			-> pending		it is tried again later
 *			-> dead			given up, and no failure_command
 *
 * Tried again is what may go well the next time: no answer; statuses of 500 and
 * more; 408, 425 and 429; and 409, by which a service says that the request
 * with this Idempotency-Key, an earlier attempt, is still under way there.
 * After a time drawn at random from 0 to a bound that doubles with each attempt
 * ("full jitter"), and not before the service's Retry-After.  Any other status
 * gives it up at once, a redirect too.
 *
 * An open breaker, or too many calls under way, has it pending again as if it had
 * not been claimed.
 *
 * First what has happened is noted, once, then it is written: by another attempt
 * if that fails.  The row is changed only if it is still that attempt's, and in
 * one transaction with the promotion of the next one of its ordering key.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "common/pg_prng.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "outbox.h"
#include "outbox_settle.h"
#include "service_response.h"
#include "settings.h"
#include "statement.h"
#include "worker_error.h"

#define MAX_BODY	(64 * 1024 * 1024)	/* a jsonb has no room for much more */
#define MAX_JSON	(255 * 1024 * 1024) /* what is left of it beside the
										 * headers */

/* What is known of an attempt, in the context of its delivery. */
typedef struct Outcome
{
	bool		not_begun;		/* and does not count */
	bool		succeeded;
	bool		again;			/* may go well the next time */
	int			status;			/* 0: none */
	const char *error;			/* or NULL */
	int64		retry_after_s;
} Outcome;

static Statement retry_statement = {
	.sql = "UPDATE cqrs.outbox SET state = 'pending', next_attempt_at = $3, last_status = coalesce($4, last_status),"
	" last_error = $5 WHERE id = $1 AND state = 'claimed' AND attempt = $2",
	.nargs = 5,
	.argtypes = {UUIDOID, INT4OID, TIMESTAMPTZOID, INT4OID, TEXTOID}
};

static Statement put_back_statement = {
	.sql = "UPDATE cqrs.outbox SET state = 'pending', attempt = attempt - 1, last_error = $3"
	" WHERE id = $1 AND state = 'claimed' AND attempt = $2",
	.nargs = 3,
	.argtypes = {UUIDOID, INT4OID, TEXTOID}
};

static Statement settle_statement = {
	.sql = "UPDATE cqrs.outbox SET state = $3, succeeded = $4, settled_at = CASE WHEN $3 <> 'answered' THEN $5 END,"
	" next_attempt_at = $5, last_status = $6, last_error = $7, answer = $8"
	" WHERE id = $1 AND state = 'claimed' AND attempt = $2",
	.nargs = 8,
	.argtypes = {UUIDOID, INT4OID, TEXTOID, BOOLOID, TIMESTAMPTZOID, INT4OID, TEXTOID, JSONBOID}
};

static Outcome *new_outcome(Delivery *delivery);
static void judge(const HttpResponse *response, Outcome *outcome);
static void put_back(const Delivery *delivery, const Outcome *outcome);
static void retry(const Delivery *delivery, const Outcome *outcome);
static void finish(const Delivery *delivery, const Outcome *outcome);
static Jsonb *answer_of(const Delivery *delivery, const Outcome *outcome);
static void push_text(JsonbParseState **state, const char *key, const char *value);
static void push_number(JsonbParseState **state, const char *key, int value);
static void push_json(JsonbParseState **state, const char *key, Jsonb *value);
static void push_key(JsonbParseState **state, const char *key);
static const char *text_body(const HttpResponse *response);

/* Its transfer is over. */
void
cqrs_outbox_settle_note_response(Delivery *delivery)
{
	const HttpResponse *response = cqrs_service_http_response(delivery->transfer);
	Outcome    *outcome = new_outcome(delivery);

	outcome->status = response->status;
	outcome->retry_after_s = response->retry_after_s;
	judge(response, outcome);
	if (!outcome->succeeded && response->result == HTTP_ANSWERED)
		outcome->error = MemoryContextStrdup(delivery->context, psprintf("status %d", response->status));
	else if (response->result == HTTP_TOO_LARGE)
		outcome->error = "the answer is too large";
	else if (response->result == HTTP_ADDRESS_REFUSED)
		outcome->error = "the service is at an address that is not called";
	else if (response->result != HTTP_ANSWERED)
		outcome->error = response->error;
}

/* It could not be begun: for a right that was lost, say, or a service that is gone. */
void
cqrs_outbox_settle_note_error(Delivery *delivery, const ErrorData *error)
{
	Outcome    *outcome = new_outcome(delivery);

	outcome->again = cqrs_worker_error_is_systems(error);
	outcome->error = error->message;
}

/* It was not begun, and this attempt does not count. */
void
cqrs_outbox_settle_note_rejection(Delivery *delivery, const char *reason)
{
	Outcome    *outcome = new_outcome(delivery);

	outcome->not_begun = true;
	outcome->error = reason;
}

/* Writes what was noted. */
void
cqrs_outbox_settle(const Delivery *delivery)
{
	const Outcome *outcome = delivery->outcome;

	if (outcome->not_begun)
		put_back(delivery, outcome);
	else if (outcome->again && delivery->attempt < delivery->max_attempts)
		retry(delivery, outcome);
	else
		finish(delivery, outcome);
}

int64
cqrs_outbox_settle_delay_ms(int attempt)
{
	double		bound_ms = (double) cqrs_outbox_retry_delay_ms * (1 << Min(attempt - 1, 30));

	return (int64) (pg_prng_double(&pg_global_prng_state) * Min(bound_ms, (double) cqrs_outbox_max_retry_delay_s * 1000));
}

static Outcome *
new_outcome(Delivery *delivery)
{
	delivery->outcome = MemoryContextAllocZero(delivery->context, sizeof(Outcome));
	return delivery->outcome;
}

static void
judge(const HttpResponse *response, Outcome *outcome)
{
	int			status = response->status;

	switch (response->result)
	{
		case HTTP_ANSWERED:
		case HTTP_TOO_LARGE:
			outcome->succeeded = status >= 200 && status <= 299;
			outcome->again = status >= 500 || status == 408 || status == 409 || status == 425 || status == 429;
			break;
		case HTTP_ADDRESS_REFUSED:
			break;
		default:
			outcome->again = true;
	}
}

static void
put_back(const Delivery *delivery, const Outcome *outcome)
{
	RoleScope	scope;

	cqrs_outbox_claim_begin(&scope);
	{
		Datum		values[] = {
			UUIDPGetDatum(&delivery->id), Int32GetDatum(delivery->attempt), CStringGetTextDatum(outcome->error)
		};

		(void) cqrs_statement_write(&put_back_statement, values, NULL);
	}
	cqrs_outbox_claim_end(&scope);
}

static void
retry(const Delivery *delivery, const Outcome *outcome)
{
	int64		asked_ms = Min(outcome->retry_after_s, cqrs_outbox_max_retry_delay_s) * 1000;
	int64		delay_ms = Max(cqrs_outbox_settle_delay_ms(delivery->attempt), asked_ms);
	TimestampTz at = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), delay_ms);
	char		nulls[] = {' ', ' ', ' ', outcome->status > 0 ? ' ' : 'n', ' '};
	RoleScope	scope;

	cqrs_outbox_claim_begin(&scope);
	{
		Datum		values[] = {
			UUIDPGetDatum(&delivery->id), Int32GetDatum(delivery->attempt), TimestampTzGetDatum(at),
			Int32GetDatum(outcome->status), CStringGetTextDatum(outcome->error)
		};

		(void) cqrs_statement_write(&retry_statement, values, nulls);
	}
	cqrs_outbox_claim_end(&scope);
}

/* The outcome is known. */
static void
finish(const Delivery *delivery, const Outcome *outcome)
{
	bool		follows = outcome->succeeded ? delivery->has_reply : delivery->has_failure;
	const char *state = follows ? "answered" : outcome->succeeded ? "delivered" : "dead";
	char		nulls[] = {
		' ', ' ', ' ', ' ', ' ', outcome->status > 0 ? ' ' : 'n', outcome->error ? ' ' : 'n', follows ? ' ' : 'n'
	};
	RoleScope	scope;

	cqrs_outbox_claim_begin(&scope);
	{
		Datum		values[] = {
			UUIDPGetDatum(&delivery->id), Int32GetDatum(delivery->attempt), CStringGetTextDatum(state),
			BoolGetDatum(outcome->succeeded), TimestampTzGetDatum(GetCurrentTimestamp()),
			Int32GetDatum(outcome->status), PointerGetDatum(outcome->error ? cstring_to_text(outcome->error) : NULL),
			PointerGetDatum(follows ? answer_of(delivery, outcome) : NULL)
		};

		(void) cqrs_statement_write(&settle_statement, values, nulls);
		if (follows)
			cqrs_outbox_wake_replier_at_commit();
		else
			cqrs_outbox_claim_promote(cstring_to_text(delivery->service->name), delivery->ordering_key);
	}
	cqrs_outbox_claim_end(&scope);
}

/* ---- the answer, as the data of the command that follows ---- */

static Jsonb *
answer_of(const Delivery *delivery, const Outcome *outcome)
{
	JsonbParseState *state = NULL;

	(void) pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	push_text(&state, "delivery", delivery->id_text);
	push_text(&state, "service", delivery->service->name);
	push_number(&state, "attempts", delivery->attempt);
	if (outcome->error)
		push_text(&state, "error", outcome->error);
	if (outcome->status > 0)
	{
		const HttpResponse *response = cqrs_service_http_response(delivery->transfer);
		bool		whole = response->result == HTTP_ANSWERED && response->body_size <= MAX_BODY;
		Jsonb	   *body = whole ? cqrs_service_response_json(delivery->transfer) : NULL;

		push_number(&state, "status", outcome->status);
		push_json(&state, "headers", cqrs_service_response_headers(delivery->transfer));
		if (body && VARSIZE(body) <= MAX_JSON)
			push_json(&state, "body", body);
		else
			push_text(&state, "body", whole ? text_body(response) : NULL);
	}
	return JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_OBJECT, NULL));
}

/* NULL becomes JSON's null. */
static void
push_text(JsonbParseState **state, const char *key, const char *value)
{
	JsonbValue text = {.type = value ? jbvString : jbvNull};

	push_key(state, key);
	if (value)
	{
		text.		val.string.val = unconstify(char *, value);
		text.		val.string.len = strlen(value);
	}
	(void) pushJsonbValue(state, WJB_VALUE, &text);
}

static void
push_number(JsonbParseState **state, const char *key, int value)
{
	JsonbValue	number = {.type = jbvNumeric, .val.numeric = int64_to_numeric(value)};

	push_key(state, key);
	(void) pushJsonbValue(state, WJB_VALUE, &number);
}

static void
push_json(JsonbParseState **state, const char *key, Jsonb *value)
{
	JsonbValue	json;

	push_key(state, key);
	if (JB_ROOT_IS_SCALAR(value))
		(void) JsonbExtractScalar(&value->root, &json);
	else
	{
		json.type = jbvBinary;
		json.val.binary.data = &value->root;
		json.val.binary.len = VARSIZE(value) - VARHDRSZ;
	}
	(void) pushJsonbValue(state, WJB_VALUE, &json);
}

static void
push_key(JsonbParseState **state, const char *key)
{
	JsonbValue	string = {.type = jbvString};

	string.val.string.val = unconstify(char *, key);
	string.val.string.len = strlen(key);
	(void) pushJsonbValue(state, WJB_KEY, &string);
}

/* The body, if it is UTF-8 and the database's encoding has it, too; else NULL. */
static const char *
text_body(const HttpResponse *response)
{
	int			encoding = GetDatabaseEncoding();
	int			size = (int) response->body_size;
	char	   *body = pnstrdup(response->body, size);
	int			room = size * MAX_CONVERSION_GROWTH + 1;
	char	   *text;
	Oid			conversion;

	if (size == 0 || !pg_verify_mbstr(PG_UTF8, body, size, true))
		return NULL;
	if (encoding == PG_UTF8 || encoding == PG_SQL_ASCII)
		return body;
	conversion = FindDefaultConversionProc(PG_UTF8, encoding);
	text = palloc(room);

	if (!OidIsValid(conversion) ||
		pg_do_encoding_conversion_buf(conversion, PG_UTF8, encoding, (unsigned char *) body, size,
									  (unsigned char *) text, room, true) != size)
		return NULL;
	return text;
}
