/*
 * outbox_claim.h
 *		Which deliveries are due, and the right to make them.
 */
#ifndef CQRS_OUTBOX_CLAIM_H
#define CQRS_OUTBOX_CLAIM_H

#include "datatype/timestamp.h"
#include "utils/uuid.h"

#include "role.h"
#include "service_options.h"
#include "service_request.h"

/* A service, as far as the worker of this database knows it. */
typedef struct OutboxService
{
	char	   *name;
	bool		due;			/* something is or will be */
	TimestampTz due_at;
	int			in_flight;
	int			limit;			/* of deliveries in flight */
	bool		cautious;		/* its breaker has let nothing through yet */
	bool		rejected;		/* the last call was, for whatever reason */
	TimestampTz postponed_until;
} OutboxService;

/* A delivery that was claimed, in a context of its own. */
typedef struct Delivery
{
	MemoryContext context;
	OutboxService *service;
	/* The row */
	pg_uuid_t	id;
	char	   *id_text;
	text	   *ordering_key;	/* or NULL */
	char	   *role;
	ServiceCall call;
	int			attempt;		/* this one */
	int			max_attempts;
	bool		has_reply;		/* a command follows a success */
	bool		has_failure;	/* a command follows a failure */
	/* Under way */
	ServiceOptions *options;
	BreakerPermit *permit;
	HttpTransfer *transfer;
	/* Over */
	struct Outcome *outcome;	/* see outbox_settle.c; NULL: not yet */
	TimestampTz settle_at;		/* when it may be written */
	int			settle_failures;	/* in a row */
} Delivery;

/* Begins and ends a transaction of the worker, with SPI, in the scope of our own statements. */
extern void cqrs_outbox_claim_begin(RoleScope *scope);
extern void cqrs_outbox_claim_end(const RoleScope *scope);
extern void cqrs_outbox_claim_end_durably(const RoleScope *scope);

/* Called between these two. */
extern bool cqrs_outbox_claim_recover(List *in_flight);
extern TimestampTz cqrs_outbox_claim_look(void);
extern List *cqrs_outbox_claim_services(void);
extern List *cqrs_outbox_claim_due(List *claimed, OutboxService *service, int count, TimestampTz now, MemoryContext context);
extern void cqrs_outbox_claim_promote(text *service, text *ordering_key);
extern void cqrs_outbox_claim_promote_waiting(text *service, text *ordering_key);

#endif
