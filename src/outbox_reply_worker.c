/*
 * outbox_reply_worker.c
 *		The worker that sends the commands that follow deliveries.
 *
 * A handler takes the time that it takes, up to cqrs.command_timeout, and may
 * wait for an entity that is locked.  The requests of the outbox shall not wait
 * for it, so the commands are not sent by the worker that makes these.  They are
 * sent one after the other: a slow one delays other commands, and no request.
 *
 * There is one in a database that has commands to be sent.  It sleeps until the
 * next is due, or until somebody has committed an answer; without any it stays
 * for a moment, and leaves.
 */
#include "postgres.h"

#include "executor/spi.h"
#include "pgstat.h"
#include "utils/timestamp.h"

#include "catalog.h"
#include "identity.h"
#include "outbox.h"
#include "outbox_claim.h"
#include "outbox_reply.h"
#include "outbox_reply_worker.h"
#include "worker_error.h"
#include "worker_process.h"

#define BUSY_MS		100			/* until what somebody has locked is looked at
								 * again */
#define STAY_MS		10000		/* without a command */

/* What is known of the table. */
static bool known = false;
static uint64 known_calls;		/* what was committed before */
static TimestampTz next_at;		/* when the first is due; DT_NOEND: none waits */

static bool passed_over = false;	/* nothing could be taken */
static TimestampTz not_before = 0;	/* after such, or an error */
static TimestampTz idle_since = 0;	/* 0: there are commands */
static int	failures_in_row = 0;

static int	count_wanted(void);
static void run(void);
static long time_left(void);
static long time_to_stay(TimestampTz now);
static void look_at_table(void *arg);
static void send_next(void);

static const WorkerKind kind = {"outbox reply", count_wanted, run, false};

void
cqrs_outbox_reply_worker_init(void)
{
	cqrs_worker_register_kind(&kind);
	cqrs_outbox_set_replier(&kind);
}

static int
count_wanted(void)
{
	bool		wanted;

	if (!OidIsValid(cqrs_catalog_relation("outbox")) || cqrs_identity_held())
		return 0;
	SPI_connect();
	wanted = cqrs_outbox_reply_next() != DT_NOEND;
	SPI_finish();
	return wanted ? 1 : 0;
}

static void
run(void)
{
	for (;;)
	{
		cqrs_worker_process_check();
		if (time_left() > 0)
		{
			long		left_ms;

			cqrs_worker_process_begin_sleep();
			left_ms = time_left();
			if (left_ms > 0)
				cqrs_worker_process_sleep(left_ms, false);
			cqrs_worker_process_end_sleep();
		}
		else
			send_next();
	}
}

/* How long there is nothing to do; looks at the table only if that may have changed. */
static long
time_left(void)
{
	uint64		calls = cqrs_worker_process_calls();
	TimestampTz now = GetCurrentTimestamp();
	TimestampTz until;

	if ((!known || calls != known_calls) && not_before <= now)
	{
		known_calls = calls;
		known = cqrs_worker_error_try(look_at_table, NULL);
		if (!known)
			not_before = cqrs_worker_error_retry_at(++failures_in_row);
	}
	if (known && next_at == DT_NOEND)
		return time_to_stay(now);
	idle_since = 0;
	until = known ? Max(next_at, not_before) : not_before;
	return until <= now ? 0 : TimestampDifferenceMilliseconds(now, until) + 1;
}

static long
time_to_stay(TimestampTz now)
{
	TimestampTz until;

	if (idle_since == 0)
		idle_since = now;
	until = TimestampTzPlusMilliseconds(idle_since, STAY_MS);
	if (until > now)
		return TimestampDifferenceMilliseconds(now, until) + 1;
	/* Unless there is something after all, it leaves. */
	cqrs_worker_process_look();
	known = false;
	idle_since = now;
	return BUSY_MS;
}

static void
look_at_table(void *arg)
{
	RoleScope	scope;

	cqrs_outbox_claim_begin(&scope);
	next_at = cqrs_outbox_reply_next();
	cqrs_outbox_claim_end(&scope);
	/* What is due is locked. */
	if (passed_over && next_at <= GetCurrentTimestamp())
		not_before = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), BUSY_MS);
	passed_over = false;
}

static void
send_next(void)
{
	pgstat_report_activity(STATE_RUNNING, "outbox: a command");
	switch (cqrs_outbox_reply_send())
	{
		case REPLY_SENT:
			/* There may be another one. */
			next_at = 0;
			failures_in_row = 0;
			cqrs_worker_process_succeeded();
			break;
		case REPLY_NONE:
			passed_over = true;
			known = false;
			break;
		case REPLY_UNCHANGED:
			known = false;
			not_before = cqrs_worker_error_retry_at(++failures_in_row);
			break;
	}
	pgstat_report_stat(false);
}
