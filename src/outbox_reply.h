/*
 * outbox_reply.h
 *		The commands that follow deliveries.
 */
#ifndef CQRS_OUTBOX_REPLY_H
#define CQRS_OUTBOX_REPLY_H

/* Sends the one that is due first; false if none is.  Called in no transaction. */
extern bool cqrs_outbox_reply_send(void);

#endif
