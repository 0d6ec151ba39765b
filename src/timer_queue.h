/*
 * timer_queue.h
 *		The timers that wait: a table, and the statements of who fires them.
 */
#ifndef CQRS_TIMER_QUEUE_H
#define CQRS_TIMER_QUEUE_H

#include "datatype/timestamp.h"
#include "utils/jsonb.h"
#include "utils/uuid.h"

/* A command for later. */
typedef struct Timer
{
	pg_uuid_t  *id;
	NameData	role;			/* who sends it */
	text	   *entity_type;
	text	   *entity_id;
	text	   *command_type;
	Jsonb	   *data;
	int			attempts;		/* that have failed */
	int			failures;		/* of them, not by the system's fault */
} Timer;

/* Called within a transaction, a scope of our own and SPI. */
extern bool cqrs_timer_queue_next(TimestampTz *next_attempt_at);
extern bool cqrs_timer_queue_take(TimestampTz now, Timer *timer, MemoryContext context);
extern void cqrs_timer_queue_settle(const Timer *timer);
extern void cqrs_timer_queue_put_off(const Timer *timer, bool failed, TimestampTz next_attempt_at, const ErrorData *error);

#endif
