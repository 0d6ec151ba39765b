/*
 * service_breaker_state.c
 *		The state machine of a circuit breaker, on plain data.
 *
 *				 max_failures in a row
 *		+--------+ ---------------------------> +------+
 *		| closed |                              | open | <------------+
 *		+--------+                              +------+              |
 *			 ^                                      | reset timeout   | failure
 *			 |            success                   v is over         |
 *			 +------------------------------- +-----------+ ----------+
 *			                                  | half-open |
 *			                                  +-----------+
 *
 * Half-open lets one call through, the probe; all others are rejected until it
 * has ended.  Each time it fails the reset timeout grows by backoff_factor, up
 * to max_reset_timeout.  An outcome that says nothing about the service changes
 * nothing, but lets another probe go; and a probe is a lease, which ends some
 * time after its call must have timed out.
 *
 * What is stored are facts: when the breaker opened, how often in a row, and a
 * number drawn for the jitter.  What follows from the options is computed at
 * each look.  So there is no timer process, and ALTER SERVER counts at once.
 *
 * Each transition begins a generation.  The outcome of a call that was admitted
 * in an earlier one decides nothing: a late success does not close a breaker
 * that has opened since, a late failure does not open one that has recovered.
 *
 * Knows no clock, no locks and no catalogs.  Functions that change a breaker
 * are short and cannot fail, since their callers hold its spinlock.
 */
#include "postgres.h"

#include <limits.h>
#include <math.h>

#include "miscadmin.h"

#include "service_breaker_state.h"

#define LEASE_SLACK_US	(5 * INT64CONST(1000000))

static bool admit_probe(Breaker *breaker, const ServiceOptions *options, int64 now_us,
						BreakerTerms *terms, BreakerRejection *rejection);
static bool reject(Breaker *breaker, BreakerRejection *rejection, BreakerReason reason, int64 remaining_us);
static void set_state(Breaker *breaker, BreakerState to);
static void trip(Breaker *breaker, int64 now_us, double draw);
static void enter_half_open(Breaker *breaker);
static void reopen(Breaker *breaker, int64 now_us, double draw);
static void close_again(Breaker *breaker);
static void settle_probe(Breaker *breaker, BreakerOutcome outcome, int64 now_us, double draw);

/* Closed, with all counters at 0; calls under way stay counted, and decide nothing. */
void
cqrs_service_breaker_state_clear(Breaker *breaker)
{
	uint64		generation = breaker->generation;

	memset((char *) breaker + offsetof(Breaker, generation), 0,
		   sizeof(Breaker) - offsetof(Breaker, generation));
	breaker->generation = generation + 1;
}

/* May a call go now?  If so it is under way, until it is settled on these terms. */
bool
cqrs_service_breaker_state_admit(Breaker *breaker, const ServiceOptions *options, int64 now_us,
								 BreakerTerms *terms, BreakerRejection *rejection)
{
	BreakerMode mode = cqrs_service_breaker_state_mode(breaker, options);
	int64		left_us = 0;

	if (mode == BREAKER_FORCED_OPEN)
		return reject(breaker, rejection, REJECTED_FORCED_OPEN, 0);
	if (mode == BREAKER_ON && breaker->state == BREAKER_OPEN)
		left_us = cqrs_service_breaker_state_left_us(breaker, options, now_us);
	if (left_us > 0)
		return reject(breaker, rejection, REJECTED_OPEN, left_us);
	if (options->max_concurrency > 0 && breaker->in_flight >= options->max_concurrency)
		return reject(breaker, rejection, REJECTED_BUSY, 0);
	if (mode == BREAKER_ON && breaker->state == BREAKER_OPEN)
		enter_half_open(breaker);
	terms->is_probe = mode == BREAKER_ON && breaker->state == BREAKER_HALF_OPEN;
	if (terms->is_probe && !admit_probe(breaker, options, now_us, terms, rejection))
		return false;
	terms->generation = mode == BREAKER_ON ? breaker->generation : 0;
	terms->max_failures = options->max_failures;
	breaker->in_flight++;
	breaker->calls++;
	return true;
}

/* The outcome is counted in any case. */
void
cqrs_service_breaker_state_settle(Breaker *breaker, const BreakerTerms *terms, BreakerOutcome outcome,
								  int64 now_us, double draw)
{
	breaker->in_flight--;
	breaker->successes += outcome == OUTCOME_SUCCESS;
	breaker->failures += outcome == OUTCOME_FAILURE || outcome == OUTCOME_TIMEOUT;
	breaker->timeouts += outcome == OUTCOME_TIMEOUT;
	if (terms->generation != breaker->generation)
		return;
	if (terms->is_probe)
		settle_probe(breaker, outcome, now_us, draw);
	else if (outcome == OUTCOME_SUCCESS)
		breaker->consecutive_failures = 0;
	else if (outcome != OUTCOME_NEUTRAL &&
			 ++breaker->consecutive_failures >= terms->max_failures)
		trip(breaker, now_us, draw);
}

/*
 * By hand: holds it open (BREAKER_FORCED_OPEN) or out of the way (BREAKER_OFF),
 * or ends that and closes it (BREAKER_ON).
 */
void
cqrs_service_breaker_state_order(Breaker *breaker, BreakerMode mode)
{
	if (mode == BREAKER_ON)
		cqrs_service_breaker_state_clear(breaker);
	breaker->ordered = mode;
	/* What is under way decides nothing, nor does it keep a probe waiting. */
	breaker->generation++;
	breaker->probe_pid = 0;
}

/* What was ordered by hand goes before what the option says. */
BreakerMode
cqrs_service_breaker_state_mode(const Breaker *breaker, const ServiceOptions *options)
{
	return breaker->ordered != BREAKER_ON ? breaker->ordered : options->breaker;
}

/*
 * How long an open breaker stays so.  The jitter is a share of this opening's
 * own timeout, not of the one before; nothing goes beyond the maximum.
 */
int64
cqrs_service_breaker_state_left_us(const Breaker *breaker, const ServiceOptions *options, int64 now_us)
{
	double		highest_ms = Max(options->max_reset_timeout_ms, options->reset_timeout_ms);
	double		timeout_ms = options->reset_timeout_ms * pow(options->backoff_factor, breaker->openings - 1);

	timeout_ms = Min(highest_ms, timeout_ms * (1 + options->jitter * breaker->draw));
	return Max(0, breaker->opened_us + (int64) (timeout_ms * 1000) - now_us);
}

/* One at a time; a new one for a lease that is over makes the old one stale. */
static bool
admit_probe(Breaker *breaker, const ServiceOptions *options, int64 now_us,
			BreakerTerms *terms, BreakerRejection *rejection)
{
	if (breaker->probe_pid != 0 && now_us < breaker->probe_deadline_us)
		return reject(breaker, rejection, REJECTED_PROBING, 0);
	if (breaker->probe_pid != 0)
		breaker->generation++;
	breaker->probe_pid = MyProcPid;
	breaker->probe_deadline_us = now_us + INT64CONST(1000) * options->call_timeout_ms + LEASE_SLACK_US;
	return true;
}

static bool
reject(Breaker *breaker, BreakerRejection *rejection, BreakerReason reason, int64 remaining_us)
{
	breaker->rejected++;
	rejection->reason = reason;
	rejection->remaining_us = remaining_us;
	return false;
}

static void
settle_probe(Breaker *breaker, BreakerOutcome outcome, int64 now_us, double draw)
{
	if (outcome == OUTCOME_SUCCESS)
		close_again(breaker);
	else if (outcome != OUTCOME_NEUTRAL)
		reopen(breaker, now_us, draw);
	else
		breaker->probe_pid = 0;
}

/* ---- transitions ---- */

static void
set_state(Breaker *breaker, BreakerState to)
{
	breaker->state = to;
	breaker->generation++;
	breaker->probe_pid = 0;
}

static void
trip(Breaker *breaker, int64 now_us, double draw)
{
	Assert(breaker->state == BREAKER_CLOSED);
	breaker->openings = 1;
	breaker->opened_us = now_us;
	breaker->draw = draw;
	breaker->opened++;
	set_state(breaker, BREAKER_OPEN);
}

static void
enter_half_open(Breaker *breaker)
{
	Assert(breaker->state == BREAKER_OPEN);
	set_state(breaker, BREAKER_HALF_OPEN);
}

static void
reopen(Breaker *breaker, int64 now_us, double draw)
{
	Assert(breaker->state == BREAKER_HALF_OPEN);
	breaker->openings = Min(breaker->openings, INT_MAX - 1) + 1;
	breaker->opened_us = now_us;
	breaker->draw = draw;
	breaker->opened++;
	set_state(breaker, BREAKER_OPEN);
}

static void
close_again(Breaker *breaker)
{
	Assert(breaker->state == BREAKER_HALF_OPEN);
	breaker->consecutive_failures = 0;
	breaker->openings = 0;
	set_state(breaker, BREAKER_CLOSED);
}
