/*
 * outbox.h
 *		Requests to other services that are sent after the commit.
 */
#ifndef CQRS_OUTBOX_H
#define CQRS_OUTBOX_H

#include "worker.h"

/* Tells the outbox which workers it wakes; called at load. */
extern void cqrs_outbox_set_worker(const WorkerKind *kind);

/* When this transaction commits, the worker looks what there is to do. */
extern void cqrs_outbox_wake_at_commit(void);

#endif
