/*
 * worker_error.c
 *		Errors in a worker: taken, told apart, and how long to wait.
 *
 * Some errors are the system's: a lost connection, a deadlock, a full disk, a
 * shutdown.  They say nothing about what was tried, so it is tried again for as
 * long as it takes.  The others are of what was tried; how often that is tried
 * again is for its kind of worker to say.
 */
#include "postgres.h"

#include "access/xact.h"
#include "common/pg_prng.h"
#include "miscadmin.h"
#include "utils/timeout.h"
#include "utils/timestamp.h"

#include "settings.h"
#include "worker_error.h"

#define LONGEST_DELAY_MS	30000

/*
 * Ends the transaction; the error is copied into the context, and logged if it
 * is to be reported.  A statement timeout that the worker has set is over.
 */
ErrorData *
cqrs_worker_error_take(MemoryContext context, bool report)
{
	ErrorData  *error;

	HOLD_INTERRUPTS();
	disable_timeout(STATEMENT_TIMEOUT, false);
	QueryCancelPending = false;
	MemoryContextSwitchTo(context);
	error = CopyErrorData();
	if (report)
		EmitErrorReport();
	AbortCurrentTransaction();
	FlushErrorState();
	RESUME_INTERRUPTS();
	return error;
}

/* Does something in a transaction; false if an error, which is logged, has undone it. */
bool
cqrs_worker_error_try(void (*work) (void *arg), void *arg)
{
	MemoryContext old = CurrentMemoryContext;
	volatile bool done = false;

	PG_TRY();
	{
		work(arg);
		done = true;
	}
	PG_CATCH();
	{
		FreeErrorData(cqrs_worker_error_take(old, true));
	}
	PG_END_TRY();
	MemoryContextSwitchTo(old);
	return done;
}

/* By the class of its SQLSTATE. */
bool
cqrs_worker_error_is_systems(const ErrorData *error)
{
	static const int classes[] = {
		MAKE_SQLSTATE('0', '8', '0', '0', '0'), MAKE_SQLSTATE('2', '5', '0', '0', '0'),
		MAKE_SQLSTATE('4', '0', '0', '0', '0'), MAKE_SQLSTATE('5', '3', '0', '0', '0'),
		MAKE_SQLSTATE('5', '5', '0', '0', '0'), MAKE_SQLSTATE('5', '7', '0', '0', '0'),
		MAKE_SQLSTATE('5', '8', '0', '0', '0')
	};

	if (error->sqlerrcode == ERRCODE_DATA_CORRUPTED || error->sqlerrcode == ERRCODE_INDEX_CORRUPTED)
		return true;
	for (int i = 0; i < lengthof(classes); i++)
		if (ERRCODE_TO_CATEGORY(error->sqlerrcode) == classes[i])
			return true;
	return false;
}

/*
 * When to try again after so many failures in a row.  The time doubles; chance
 * keeps what failed together from failing together again.
 */
TimestampTz
cqrs_worker_error_retry_at(int failures)
{
	double		delay_ms = Min((double) cqrs_retry_delay_ms * (1 << Min(failures - 1, 20)), LONGEST_DELAY_MS);

	delay_ms *= 0.5 + 0.5 * pg_prng_double(&pg_global_prng_state);
	return GetCurrentTimestamp() + (int64) (delay_ms * 1000);
}
