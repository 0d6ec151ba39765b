/*
 * service_breaker.h
 *		Circuit breakers, shared by all processes of the server.
 *
 *		permit = cqrs_service_breaker_admit(options, BREAKER_OF_TRANSACTION, &rejection);
 *		if (permit == NULL)
 *			cqrs_service_breaker_raise(options, &rejection);
 *		... the call, without any lock held ...
 *		cqrs_service_breaker_settle(permit, OUTCOME_SUCCESS, NULL);
 */
#ifndef CQRS_SERVICE_BREAKER_H
#define CQRS_SERVICE_BREAKER_H

#include "service_breaker_state.h"

/* When a permit that nobody has settled is settled as neutral: at the end of this. */
typedef enum BreakerScope
{
	BREAKER_OF_TRANSACTION,
	BREAKER_OF_PROCESS
} BreakerScope;

typedef struct BreakerPermit BreakerPermit;

/* Called by module.c at load. */
extern void cqrs_service_breaker_init(void);

extern BreakerPermit *cqrs_service_breaker_admit(const ServiceOptions *options, BreakerScope scope,
												 BreakerRejection *rejection);
extern bool cqrs_service_breaker_would_admit(const ServiceOptions *options, BreakerRejection *rejection);
extern void cqrs_service_breaker_settle(BreakerPermit *permit, BreakerOutcome outcome, const char *error);
extern void cqrs_service_breaker_raise(const ServiceOptions *options, const BreakerRejection *rejection);

/* Between a call that begins in one statement and ends in another. */
extern int64 cqrs_service_breaker_ticket(const BreakerPermit *permit);
extern BreakerPermit *cqrs_service_breaker_permit_of(int64 ticket);

/* By hand. */
extern void cqrs_service_breaker_order(const ServiceOptions *options, BreakerMode mode);
extern bool cqrs_service_breaker_look(const ServiceOptions *options, Breaker *copy);
extern int64 cqrs_service_breaker_now_us(void);

#endif
