/*
 * outbox.h
 *		Requests to other services that are sent after the commit.
 */
#ifndef CQRS_OUTBOX_H
#define CQRS_OUTBOX_H

#include "worker.h"

/* Tells the outbox which workers it wakes; called at load. */
extern void cqrs_outbox_set_deliverer(const WorkerKind *kind);
extern void cqrs_outbox_set_replier(const WorkerKind *kind);

/* When this transaction commits, the worker looks what is to be delivered; which commands are to be sent. */
extern void cqrs_outbox_wake_at_commit(void);
extern void cqrs_outbox_wake_replier_at_commit(void);

#endif
