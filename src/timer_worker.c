/*
 * timer_worker.c
 *		The worker that sends commands when they are due.
 *
 *	look at the table -> sleep until the next is due -> fire what is due
 *		  ^						|							|
 *		  +------- called ------+---------------------------+
 *
 * There is one in a database that has timers.  It sleeps until the next is due
 * by the server's clock, or until somebody has committed another one, and looks
 * at the table only then; commits of events do not wake it.  When the last timer
 * is gone it stays for a moment, and leaves.
 *
 * Each timer is fired in a transaction of its own: it is deleted, then its
 * command is sent as the role that has scheduled it, with that role's rights of
 * now, and under the timer's id as command_id.  The role's scope lasts until the
 * commit.  A command that waits for a lock, or that runs for long, is given up
 * (command_delivery.c): who cancels the timer of an entity that he has locked
 * shall not be the one to fail.
 *
 *	sent		the timer is gone
 *	rejected	that is an answer: the timer is deleted
 *	an error	of the system's: tried again for as long as it takes, at growing
 *				intervals; else MAX_FAILURES times, then the timer has failed
 *
 * Commits are asynchronous unless the command has written events: a crash takes
 * back the effect and the deletion together.
 */
#include "postgres.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "catalog.h"
#include "command_delivery.h"
#include "compat.h"
#include "errors.h"
#include "identity.h"
#include "position.h"
#include "settings.h"
#include "statement.h"
#include "timer_queue.h"
#include "timer_worker.h"
#include "worker.h"
#include "worker_error.h"
#include "worker_process.h"

#define BUSY_MS			100		/* until a timer that somebody has locked is
								 * looked at again */
#define STAY_MS			10000	/* without a timer */
#define MAX_FAILURES	10

/* What is done in a transaction. */
typedef struct Firing
{
	MemoryContext context;		/* lives longer than the transaction */
	Timer		timer;
	bool		taken;			/* there was one that is due */
	bool		hopeless;		/* it need not be tried again */
	/* Scopes: ours at first, then that of who sends the command */
	RoleScope	own;
	RoleScope	sender;
	bool		as_sender;
	TimestampTz started_at;
	/* Failure */
	const ErrorData *error;
	bool		failed;			/* for good */
} Firing;

typedef void (*FiringWork) (Firing *firing);

/* What is known of the table. */
static bool known = false;
static uint64 known_calls;		/* what was committed before */
static bool any = false;		/* is there a timer? */
static TimestampTz next_at;		/* when the first is to be tried */

static bool passed_over = false;	/* nothing could be taken */
static TimestampTz not_before = 0;	/* after such, or what could not be noted */
static TimestampTz idle_since = 0;	/* 0: there are timers */
static int	failures_in_row = 0;

static int	count_wanted(void);
static void run(void);
static long time_left(void);
static void look_at_table(void);
static void fire(void);
static ErrorData *run_in_transaction(Firing *firing, FiringWork work);
static void take_and_send(Firing *firing);
static void send_command(Firing *firing);
static void leave_own(Firing *firing);
static void handle_failure(Firing *firing);
static bool is_systems(const Firing *firing);
static void settle(Firing *firing);
static void put_off(Firing *firing);
static char *name_of(const Timer *timer);

static const WorkerKind kind = {"timer", count_wanted, run, false};

void
cqrs_timer_worker_init(void)
{
	cqrs_worker_register_kind(&kind);
}

void
cqrs_timer_worker_call(void)
{
	cqrs_worker_wake_at_commit(&kind);
}

static int
count_wanted(void)
{
	TimestampTz next;
	bool		wanted;

	if (!OidIsValid(cqrs_catalog_relation("timer")) || cqrs_identity_held())
		return 0;
	SPI_connect();
	wanted = cqrs_timer_queue_next(&next);
	SPI_finish();
	return wanted ? 1 : 0;
}

static void
run(void)
{
	for (;;)
	{
		long		left_ms;

		cqrs_worker_process_check();
		left_ms = time_left();
		if (left_ms > 0)
		{
			cqrs_worker_process_begin_sleep();
			left_ms = time_left();
			if (left_ms > 0)
				cqrs_worker_process_sleep(left_ms, false);
			cqrs_worker_process_end_sleep();
		}
		else
			fire();
	}
}

/* How long there is nothing to do; looks at the table only if that may have changed. */
static long
time_left(void)
{
	uint64		calls = cqrs_worker_process_calls();
	TimestampTz now;
	TimestampTz until;

	if (!known || calls != known_calls)
	{
		known_calls = calls;
		look_at_table();
	}
	now = GetCurrentTimestamp();
	if (any)
	{
		idle_since = 0;
		until = Max(next_at, not_before);
	}
	else
	{
		if (idle_since == 0)
			idle_since = now;
		until = TimestampTzPlusMilliseconds(idle_since, STAY_MS);
		if (until <= now)
		{
			cqrs_worker_process_look();
			known = false;
			idle_since = now;
			return BUSY_MS;
		}
	}
	return until <= now ? 0 : TimestampDifferenceMilliseconds(now, until) + 1;
}

static void
look_at_table(void)
{
	RoleScope	scope;

	StartTransactionCommand();
	cqrs_role_enter(&scope, GetUserId());
	PushActiveSnapshot(GetTransactionSnapshot());
	SPI_connect();
	any = cqrs_timer_queue_next(&next_at);
	SPI_finish();
	PopActiveSnapshot();
	cqrs_role_leave(&scope);
	CommitTransactionCommand();
	known = true;
	if (passed_over && any && next_at <= GetCurrentTimestamp())
		not_before = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), BUSY_MS);
	passed_over = false;
}

static void
fire(void)
{
	MemoryContext context = AllocSetContextCreate(TopMemoryContext, "pg_cqrs timer", ALLOCSET_DEFAULT_SIZES);
	Firing		firing = {.context = context};

	pgstat_report_activity(STATE_RUNNING, "timer");
	firing.error = run_in_transaction(&firing, take_and_send);
	if (firing.error)
		handle_failure(&firing);
	else if (firing.taken)
	{
		failures_in_row = 0;
		cqrs_worker_process_succeeded();
	}
	else
	{
		passed_over = true;
		known = false;
	}
	MemoryContextSwitchTo(TopMemoryContext);
	MemoryContextDelete(context);
	pgstat_report_stat(false);
}

/* Does the work in a transaction; returns the error that has undone it, or NULL. */
static ErrorData *
run_in_transaction(Firing *firing, FiringWork work)
{
	ErrorData  *volatile error = NULL;

	firing->as_sender = false;
	PG_TRY();
	{
		StartTransactionCommand();
		PushActiveSnapshot(GetTransactionSnapshot());
		cqrs_role_enter(&firing->own, GetUserId());
		SPI_connect();
		MemoryContextSwitchTo(firing->context);
		work(firing);
		if (!firing->as_sender)
			leave_own(firing);
		PopActiveSnapshot();
		CommitTransactionCommand();
	}
	PG_CATCH();
	{
		/* A rejection is no trouble. */
		error = cqrs_worker_error_take(firing->context, geterrcode() != CQRS_COMMAND_REJECTED);
	}
	PG_END_TRY();
	cqrs_command_delivery_end();
	if (firing->as_sender)
	{
		if (error == NULL)
			cqrs_role_leave(&firing->sender);
		cqrs_worker_process_discard();
	}
	MemoryContextSwitchTo(firing->context);
	return error;
}

static void
take_and_send(Firing *firing)
{
	firing->taken = cqrs_timer_queue_take(GetCurrentTimestamp(), &firing->timer, firing->context);
	/* SPI has left a context current that goes with it. */
	MemoryContextSwitchTo(firing->context);
	if (firing->taken)
		send_command(firing);
}

static void
send_command(Firing *firing)
{
	Timer	   *timer = &firing->timer;
	CommandDelivery delivery = {
		.role = get_role_oid(NameStr(timer->role), true),
		.cause = {.kind = "timer", .name = name_of(timer)},
		.entity_type = timer->entity_type,
		.entity_id = timer->entity_id,
		.command_type = timer->command_type,
		.data = timer->data,
		.command_id = timer->id
	};

	if (!OidIsValid(delivery.role))
	{
		firing->hopeless = true;
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("role \"%s\", which has scheduled timer %s, does not exist",
						NameStr(timer->role), name_of(timer))));
	}
	leave_own(firing);
	firing->started_at = GetCurrentTimestamp();
	firing->as_sender = true;
	cqrs_command_deliver(&delivery, &firing->sender);
	if (cqrs_position_held_by_me())
		cqrs_worker_process_make_durable();
}

static void
leave_own(Firing *firing)
{
	SPI_finish();
	cqrs_role_leave(&firing->own);
}

/* Notes what follows from the error; what cannot be noted has everything wait. */
static void
handle_failure(Firing *firing)
{
	bool		noted = false;

	if (firing->taken && firing->error->sqlerrcode == CQRS_COMMAND_REJECTED)
	{
		ereport(LOG,
				(errmsg("the command of timer %s was rejected: %s", name_of(&firing->timer), firing->error->message),
				 errdetail("Command \"%s\" to entity \"%s\" of type \"%s\".",
						   text_to_cstring(firing->timer.command_type), text_to_cstring(firing->timer.entity_id),
						   text_to_cstring(firing->timer.entity_type))));
		noted = run_in_transaction(firing, settle) == NULL;
	}
	else if (firing->taken)
	{
		if (!is_systems(firing))
			firing->timer.failures++;
		firing->failed = firing->hopeless || firing->timer.failures >= MAX_FAILURES;
		noted = run_in_transaction(firing, put_off) == NULL;
		if (noted && firing->failed)
			ereport(LOG,
					(errmsg("timer %s has failed and is not tried again", name_of(&firing->timer)),
					 errhint("When the cause is removed, run SELECT cqrs.retry_scheduled('%s').",
							 name_of(&firing->timer))));
	}
	if (noted)
		failures_in_row = 0;
	else
		not_before = cqrs_worker_error_retry_at(++failures_in_row);
}

/* A command that has run out of its own time is not the system's. */
static bool
is_systems(const Firing *firing)
{
	if (firing->error->sqlerrcode == ERRCODE_QUERY_CANCELED && firing->as_sender &&
		TimestampDifferenceExceeds(firing->started_at, GetCurrentTimestamp(), cqrs_command_timeout_ms))
		return false;
	return cqrs_worker_error_is_systems(firing->error);
}

static void
settle(Firing *firing)
{
	cqrs_timer_queue_settle(&firing->timer);
}

static void
put_off(Firing *firing)
{
	cqrs_timer_queue_put_off(&firing->timer, firing->failed,
							 cqrs_worker_error_retry_at(firing->timer.attempts + 1), firing->error);
}

static char *
name_of(const Timer *timer)
{
	return DatumGetCString(DirectFunctionCall1(uuid_out, UUIDPGetDatum(timer->id)));
}
