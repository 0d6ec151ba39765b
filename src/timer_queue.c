/*
 * timer_queue.c
 *		The timers that wait: a table, and the statements of who fires them.
 *
 * Who takes a timer deletes it, in the transaction that sends its command: both
 * happen or neither.  Whoever cancels it meanwhile waits for the row.  A timer
 * that somebody else has locked is passed over.
 *
 * An error takes the deletion back; what is noted about it then, in another
 * transaction, is about the attempt that failed, and is left out if somebody
 * has come between, or is about to.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "statement.h"
#include "timer_queue.h"

/* The timer, as it was when it was tried, and unless somebody has locked it. */
#define SAME_ATTEMPT \
	"(SELECT id FROM cqrs.timer WHERE id = $1 AND state = 'waiting' AND attempts = $2 FOR UPDATE SKIP LOCKED)"

static Statement next_statement = {
	.sql = "SELECT next_attempt_at FROM cqrs.timer WHERE state = 'waiting' ORDER BY next_attempt_at, created_at LIMIT 1"
};

static Statement take_statement = {
	.sql = "DELETE FROM cqrs.timer WHERE id = (SELECT id FROM cqrs.timer WHERE state = 'waiting' AND next_attempt_at <= $1"
	" ORDER BY next_attempt_at, created_at LIMIT 1 FOR UPDATE SKIP LOCKED)"
	" RETURNING id, role, entity_type, entity_id, command_type, data, attempts, failures",
	.nargs = 1,
	.argtypes = {TIMESTAMPTZOID}
};

static Statement settle_statement = {
	.sql = "DELETE FROM cqrs.timer WHERE id = " SAME_ATTEMPT,
	.nargs = 2,
	.argtypes = {UUIDOID, INT4OID}
};

static Statement put_off_statement = {
	.sql = "UPDATE cqrs.timer SET attempts = attempts + 1, failures = $3, state = $4, next_attempt_at = $5,"
	" last_sqlstate = $6, last_error = $7 WHERE id = " SAME_ATTEMPT,
	.nargs = 7,
	.argtypes = {UUIDOID, INT4OID, INT4OID, TEXTOID, TIMESTAMPTZOID, TEXTOID, TEXTOID}
};

/* When the next timer is to be tried; false if none waits. */
bool
cqrs_timer_queue_next(TimestampTz *next_attempt_at)
{
	if (cqrs_statement_read(&next_statement, NULL, NULL, 0) == 0)
		return false;
	*next_attempt_at = DatumGetTimestampTz(cqrs_statement_column(0, 1, NULL));
	return true;
}

/* Deletes the first timer that is due, and gives it in the context; false if there is none. */
bool
cqrs_timer_queue_take(TimestampTz now, Timer *timer, MemoryContext context)
{
	Datum		due = TimestampTzGetDatum(now);
	MemoryContext old;

	if (cqrs_statement_write(&take_statement, &due, NULL) == 0)
		return false;
	old = MemoryContextSwitchTo(context);
	timer->id = palloc(sizeof(pg_uuid_t));
	*timer->id = *DatumGetUUIDP(cqrs_statement_column(0, 1, NULL));
	timer->role = *DatumGetName(cqrs_statement_column(0, 2, NULL));
	timer->entity_type = (text *) PG_DETOAST_DATUM_COPY(cqrs_statement_column(0, 3, NULL));
	timer->entity_id = (text *) PG_DETOAST_DATUM_COPY(cqrs_statement_column(0, 4, NULL));
	timer->command_type = (text *) PG_DETOAST_DATUM_COPY(cqrs_statement_column(0, 5, NULL));
	timer->data = (Jsonb *) PG_DETOAST_DATUM_COPY(cqrs_statement_column(0, 6, NULL));
	timer->attempts = DatumGetInt32(cqrs_statement_column(0, 7, NULL));
	timer->failures = DatumGetInt32(cqrs_statement_column(0, 8, NULL));
	MemoryContextSwitchTo(old);
	return true;
}

/* Deletes a timer whose command was answered by a rejection. */
void
cqrs_timer_queue_settle(const Timer *timer)
{
	Datum		values[] = {UUIDPGetDatum(timer->id), Int32GetDatum(timer->attempts)};

	(void) cqrs_statement_write(&settle_statement, values, NULL);
}

/* Notes an attempt that has failed; the timer's failures count it already. */
void
cqrs_timer_queue_put_off(const Timer *timer, bool failed, TimestampTz next_attempt_at, const ErrorData *error)
{
	Datum		values[] = {
		UUIDPGetDatum(timer->id), Int32GetDatum(timer->attempts), Int32GetDatum(timer->failures),
		CStringGetTextDatum(failed ? "failed" : "waiting"), TimestampTzGetDatum(next_attempt_at),
		CStringGetTextDatum(unpack_sql_state(error->sqlerrcode)),
		CStringGetTextDatum(error->message ? error->message : "")
	};

	(void) cqrs_statement_write(&put_off_statement, values, NULL);
}
