/*
 * outbox_postpone.h
 *		Services that take no call at the moment.
 */
#ifndef CQRS_OUTBOX_POSTPONE_H
#define CQRS_OUTBOX_POSTPONE_H

#include "outbox_claim.h"

/* A call was rejected, so the service as a whole waits. */
extern void cqrs_outbox_postpone(Delivery *delivery, const BreakerRejection *rejection);

/* True if somebody has changed something that may end that. */
extern bool cqrs_outbox_postpone_heed_changes(TimestampTz now);

/* Finds out which services still reject calls.  Called in no transaction, before something is claimed. */
extern void cqrs_outbox_postpone_look(TimestampTz now);

#endif
