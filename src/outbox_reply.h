/*
 * outbox_reply.h
 *		The commands that follow deliveries.
 */
#ifndef CQRS_OUTBOX_REPLY_H
#define CQRS_OUTBOX_REPLY_H

#include "datatype/timestamp.h"

typedef enum ReplyResult
{
	REPLY_NONE,					/* none is due, or somebody has locked those
								 * that are */
	REPLY_SENT,					/* or it is noted that it could not be */
	REPLY_UNCHANGED				/* it was undone, and is still due */
} ReplyResult;

extern TimestampTz cqrs_outbox_reply_next(void);

/* Sends the one that is due first.  Called in no transaction. */
extern ReplyResult cqrs_outbox_reply_send(void);

#endif
