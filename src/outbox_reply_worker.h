/*
 * outbox_reply_worker.h
 *		The worker that sends the commands that follow deliveries.
 */
#ifndef CQRS_OUTBOX_REPLY_WORKER_H
#define CQRS_OUTBOX_REPLY_WORKER_H

/* Called by module.c at load. */
extern void cqrs_outbox_reply_worker_init(void);

#endif
