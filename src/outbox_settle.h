/*
 * outbox_settle.h
 *		What becomes of a delivery after an attempt.
 */
#ifndef CQRS_OUTBOX_SETTLE_H
#define CQRS_OUTBOX_SETTLE_H

#include "outbox_claim.h"

/* Called in no transaction. */
extern void cqrs_outbox_settle_response(Delivery *delivery);
extern void cqrs_outbox_settle_error(Delivery *delivery, const ErrorData *error);
extern void cqrs_outbox_settle_postponed(Delivery *delivery, int64 delay_ms, const char *reason);

/* After how long what has failed so often is tried again. */
extern int64 cqrs_outbox_settle_delay_ms(int attempt);

#endif
