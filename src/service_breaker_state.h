/*
 * service_breaker_state.h
 *		The state machine of a circuit breaker, on plain data.
 */
#ifndef CQRS_SERVICE_BREAKER_STATE_H
#define CQRS_SERVICE_BREAKER_STATE_H

#include "datatype/timestamp.h"
#include "storage/spin.h"

#include "service_latency.h"
#include "service_options.h"

#define BREAKER_ERROR_SIZE 200

typedef enum BreakerState
{
	BREAKER_CLOSED,
	BREAKER_OPEN,
	BREAKER_HALF_OPEN
} BreakerState;

typedef enum BreakerOutcome
{
	OUTCOME_SUCCESS,
	OUTCOME_FAILURE,
	OUTCOME_TIMEOUT,			/* a failure, counted apart */
	OUTCOME_NEUTRAL				/* says nothing about the service */
} BreakerOutcome;

typedef enum BreakerReason
{
	REJECTED_OPEN,
	REJECTED_PROBING,			/* another call finds out for all */
	REJECTED_FORCED_OPEN,
	REJECTED_BUSY				/* max_concurrency calls are under way */
} BreakerReason;

typedef struct BreakerRejection
{
	BreakerReason reason;
	int64		remaining_us;	/* until a call may be let through; 0: unknown */
} BreakerRejection;

/* On what terms a call was admitted. */
typedef struct BreakerTerms
{
	uint64		generation;		/* 0: its outcome decides nothing */
	bool		is_probe;
	int			max_failures;
} BreakerTerms;

typedef struct BreakerKey
{
	Oid			database;
	Oid			server;
} BreakerKey;

typedef struct Breaker
{
	BreakerKey	key;			/* invalid: free */
	slock_t		mutex;
	int			in_flight;
	uint64		generation;		/* changes with the state; first of what a
								 * reset clears */
	BreakerState state;
	BreakerMode ordered;		/* by hand; BREAKER_ON: nothing */
	int			consecutive_failures;
	int			openings;		/* since it was closed last */
	int64		opened_us;
	double		draw;			/* in [0, 1), at each opening */
	int			probe_pid;		/* 0: no probe */
	int64		probe_deadline_us;
	/* Counters */
	int64		calls;
	int64		successes;
	int64		failures;
	int64		timeouts;		/* of these */
	int64		rejected;
	int64		opened;
	LatencyHistogram latency;
	char		last_error[BREAKER_ERROR_SIZE];
	TimestampTz last_error_at;
} Breaker;

/* The caller holds the mutex. */
extern void cqrs_service_breaker_state_clear(Breaker *breaker);
extern bool cqrs_service_breaker_state_admit(Breaker *breaker, const ServiceOptions *options, int64 now_us,
											 BreakerTerms *terms, BreakerRejection *rejection);
extern void cqrs_service_breaker_state_settle(Breaker *breaker, const BreakerTerms *terms, BreakerOutcome outcome,
											  int64 now_us, double draw);
extern void cqrs_service_breaker_state_order(Breaker *breaker, BreakerMode mode);

/* A copy will do. */
extern BreakerMode cqrs_service_breaker_state_mode(const Breaker *breaker, const ServiceOptions *options);
extern int64 cqrs_service_breaker_state_left_us(const Breaker *breaker, const ServiceOptions *options, int64 now_us);

#endif
