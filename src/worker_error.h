/*
 * worker_error.h
 *		Errors in a worker: taken, told apart, and how long to wait.
 */
#ifndef CQRS_WORKER_ERROR_H
#define CQRS_WORKER_ERROR_H

#include "datatype/timestamp.h"
#include "utils/elog.h"

/* Called in PG_CATCH, with no interrupts held. */
extern ErrorData *cqrs_worker_error_take(MemoryContext context, bool report);

/* The work begins and ends a transaction of its own. */
extern bool cqrs_worker_error_try(void (*work) (void *arg), void *arg);

extern bool cqrs_worker_error_is_systems(const ErrorData *error);
extern TimestampTz cqrs_worker_error_retry_at(int failures);

#endif
