/*
 * outbox_settle.h
 *		What becomes of a delivery after an attempt.
 */
#ifndef CQRS_OUTBOX_SETTLE_H
#define CQRS_OUTBOX_SETTLE_H

#include "outbox_claim.h"

/* What has become of it. */
extern void cqrs_outbox_settle_note_response(Delivery *delivery);
extern void cqrs_outbox_settle_note_error(Delivery *delivery, const ErrorData *error);
extern void cqrs_outbox_settle_note_rejection(Delivery *delivery, const char *reason);

/* Writes it, in a transaction of its own. */
extern void cqrs_outbox_settle(const Delivery *delivery);

/* After how long what has failed so often is tried again. */
extern int64 cqrs_outbox_settle_delay_ms(int attempt);

#endif
