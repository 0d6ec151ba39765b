/*
 * outbox_worker.h
 *		The worker that makes the deliveries of the outbox.
 */
#ifndef CQRS_OUTBOX_WORKER_H
#define CQRS_OUTBOX_WORKER_H

/* Called by module.c at load. */
extern void cqrs_outbox_worker_init(void);

#endif
