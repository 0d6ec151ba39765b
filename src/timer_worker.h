/*
 * timer_worker.h
 *		The worker that sends commands when they are due.
 */
#ifndef CQRS_TIMER_WORKER_H
#define CQRS_TIMER_WORKER_H

/* Called by module.c at load. */
extern void cqrs_timer_worker_init(void);

/* Called by who has changed when a timer is to be tried; takes effect at commit. */
extern void cqrs_timer_worker_call(void);

#endif
