/*
 * outbox_worker.c
 *		The worker that makes the deliveries of the outbox.
 *
 * One for each database that has something to deliver, with many transfers
 * under way at once.  It goes round:
 *
 *	settle		transfers that are over, each in a transaction
 *	claim		what is due, of all services in turn, in one transaction
 *	start		a transfer for each: rights, options and breaker are looked at in
 *				a transaction that has ended before the first byte is sent
 *	clean		what was delivered long ago
 *	wait		for a transfer, for somebody who enqueues, for what is due next
 *
 * So no transaction, snapshot or lock is held while a service is waited for.
 * Nor is there any other wait but those of a disk and of LOCK_TIMEOUT in
 * outbox_claim.c: the commands that follow are sent by a worker of their own
 * (outbox_reply_worker.c), since handlers take the time that they take.
 *
 * An error of a transaction undoes that alone; it is logged and tried again at
 * growing intervals, while everything else goes on.  What has become of a request
 * is kept until it is written.  So nothing short of the end of the process has
 * a request sent again.
 *
 * Whoever commits an order sets the worker's latch, so it looks at the table
 * when it was woken, when something has ended, and when something is due.  Once
 * wanted, it stays wanted while the server runs: an idle one gives its slot
 * back when slots are short, and otherwise only sleeps.
 *
 * When it is told to leave, what is under way is abandoned, and sent again by
 * the next worker, under the same Idempotency-Key.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "catalog.h"
#include "identity.h"
#include "outbox.h"
#include "outbox_claim.h"
#include "outbox_postpone.h"
#include "outbox_settle.h"
#include "outbox_worker.h"
#include "settings.h"
#include "statement.h"
#include "worker_error.h"
#include "worker_process.h"

#define MAX_IN_FLIGHT		128 /* of all services */
#define KEPT_CONNECTIONS	64
#define BUSY_MS				100 /* somebody has locked something */
#define CLEAN_EVERY_MS		60000	/* or sooner, if less is kept */
#define CLEAN_PAUSE_MS		1000
#define CLEAN_AT_ONCE		10000

static Statement wanted_statement = {
	.sql = "SELECT EXISTS (SELECT FROM cqrs.outbox WHERE state = 'claimed')"
	" OR EXISTS (SELECT FROM cqrs.outbox WHERE state = 'pending' AND NOT behind)"
	" OR EXISTS (SELECT FROM cqrs.outbox WHERE state = 'pending' AND ordering_key IS NOT NULL AND behind)"
	" OR EXISTS (SELECT FROM cqrs.outbox WHERE state = 'delivered')",
	.nargs = 0
};

static Statement clean_statement = {
	.sql = "DELETE FROM cqrs.outbox WHERE ctid = ANY (ARRAY("
	"SELECT ctid FROM cqrs.outbox WHERE state = 'delivered' AND settled_at < $1"
	" ORDER BY settled_at LIMIT " CppAsString2(CLEAN_AT_ONCE) " FOR UPDATE SKIP LOCKED))",
	.nargs = 1,
	.argtypes = {TIMESTAMPTZOID}
};

static Statement oldest_statement = {
	.sql = "SELECT settled_at FROM cqrs.outbox WHERE state = 'delivered' ORDER BY settled_at LIMIT 1",
	.nargs = 0
};

/* What a look at the table finds, in the context. */
typedef struct TableLook
{
	MemoryContext context;
	TimestampTz now;
	List	   *claimed;		/* of Delivery */
} TableLook;

/* Of Delivery, in TopMemoryContext: under way, or over and not written yet. */
static List *in_flight = NIL;
static TimestampTz settle_at = DT_NOEND;	/* what could not be written */

static bool recovered = false;	/* what a worker that is gone has left, and
								 * heads of keys that nobody has promoted */
static bool must_look = true;	/* at the table */
static TimestampTz look_at = 0; /* at the latest; DT_NOEND: no time is known */
static int	look_failures = 0;	/* in a row */
static int	next_service = 0;

static TimestampTz oldest = DT_NOEND;	/* when the first one that is still
										 * there was delivered */
static TimestampTz cleaned_at = 0;

static int	count_wanted(void);
static void run(void);
static void wait(void);
static bool do_work(void);
static bool settle_finished(void);
static void end_transfer(Delivery *delivery);
static void settle(void *arg);
static void free_delivery(Delivery *delivery);
static List *look_at_table(TimestampTz now);
static void claim(void *arg);
static void claim_all(TableLook *look, List *services);
static void start(Delivery *delivery);
static void begin_transfer(Delivery *delivery, BreakerRejection *rejection);
static bool clean(TimestampTz now);
static void remove_delivered(void *arg);
static TimestampTz clean_at(void);
static long ms_until(TimestampTz at);

static const WorkerKind kind = {"outbox", count_wanted, run, false};

void
cqrs_outbox_worker_init(void)
{
	cqrs_worker_register_kind(&kind);
	cqrs_outbox_set_deliverer(&kind);
}

static int
count_wanted(void)
{
	bool		wanted;

	if (!OidIsValid(cqrs_catalog_relation("outbox")) || cqrs_identity_held())
		return 0;
	SPI_connect();
	(void) cqrs_statement_read(&wanted_statement, NULL, NULL, 0);
	wanted = DatumGetBool(cqrs_statement_column(0, 1, NULL));
	SPI_finish();
	return wanted ? 1 : cqrs_worker_wanted(&kind);
}

static void
run(void)
{
	cqrs_service_http_keep(KEPT_CONNECTIONS);
	for (;;)
	{
		cqrs_worker_process_check_orders();
		/* A worker that is never idle tells autovacuum of its rows, too. */
		pgstat_report_stat(false);
		if (in_flight == NIL)
			cqrs_worker_process_check();
		if (do_work())
		{
			/* However much there is to do, transfers go on. */
			if (in_flight)
				must_look = cqrs_service_http_poll(0) || must_look;
			continue;
		}
		cqrs_worker_process_begin_sleep();
		must_look = true;
		if (!do_work())
			wait();
		cqrs_worker_process_end_sleep();
	}
}

/* Until there is something to do: for transfers, somebody who enqueues, or what is due next. */
static void
wait(void)
{
	if (in_flight == NIL)
	{
		long		timeout_ms = ms_until(Min(look_at, clean_at()));

		must_look = true;

		/*
		 * Then nothing was claimed, though something may be due; the next
		 * check ends the worker.
		 */
		if (cqrs_worker_process_turn_is_over())
			return;
		/* What was delivered can be removed when there is work again. */
		cqrs_worker_process_sleep(timeout_ms, look_at == DT_NOEND);
	}
	while (in_flight && !must_look)
	{
		long		timeout_ms = ms_until(Min(Min(look_at, settle_at), clean_at()));

		if (timeout_ms == 0)
			return;
		must_look = cqrs_service_http_poll(timeout_ms);
		(void) settle_finished();
	}
}

/* False if there is nothing to do but to wait. */
static bool
do_work(void)
{
	TimestampTz now = GetCurrentTimestamp();
	bool		any = settle_finished();
	List	   *claimed;
	ListCell   *cell;

	if (cqrs_outbox_postpone_heed_changes(now))
	{
		must_look = true;
		/* One may be that a delivery was discarded by an old snapshot. */
		recovered = false;
	}
	/* One that has failed is not repeated before its time. */
	if (Min(look_at, clean_at()) > now && (!must_look || look_failures > 0))
	{
		must_look = false;
		return any;
	}
	must_look = false;
	cqrs_outbox_postpone_look(now);
	claimed = look_at_table(now);
	foreach(cell, claimed)
		start(lfirst(cell));
	any = any || claimed != NIL;
	list_free(claimed);
	return clean(now) || any;
}

/* ---- what is over ---- */

static bool
settle_finished(void)
{
	TimestampTz now = GetCurrentTimestamp();
	bool		any = false;
	ListCell   *cell;

	settle_at = DT_NOEND;
	foreach(cell, in_flight)
	{
		Delivery   *delivery = lfirst(cell);

		if (delivery->outcome == NULL && cqrs_service_http_response(delivery->transfer)->result != HTTP_UNDER_WAY)
			end_transfer(delivery);
		if (delivery->outcome == NULL)
			continue;
		if (delivery->settle_at <= now && cqrs_worker_error_try(settle, delivery))
		{
			in_flight = foreach_delete_current(in_flight, cell);
			delivery->service->in_flight--;
			free_delivery(delivery);
			any = must_look = true;
			continue;
		}
		if (delivery->settle_at <= now)
			delivery->settle_at = cqrs_worker_error_retry_at(++delivery->settle_failures);
		settle_at = Min(settle_at, delivery->settle_at);
	}
	if (any)
		cqrs_worker_process_succeeded();
	return any;
}

/* The breaker learns the outcome once, whenever it is written. */
static void
end_transfer(Delivery *delivery)
{
	MemoryContext old = MemoryContextSwitchTo(delivery->context);
	const HttpResponse *response = cqrs_service_http_response(delivery->transfer);
	BreakerOutcome outcome = cqrs_service_request_judge(delivery->options, response);
	BreakerPermit *permit = delivery->permit;

	delivery->permit = NULL;
	cqrs_service_breaker_settle(permit, outcome, cqrs_service_request_error(delivery->options, response));
	if (outcome == OUTCOME_SUCCESS)
		delivery->service->cautious = false;
	cqrs_outbox_settle_note_response(delivery);
	MemoryContextSwitchTo(old);
}

static void
settle(void *arg)
{
	cqrs_outbox_settle(arg);
}

static void
free_delivery(Delivery *delivery)
{
	if (delivery->permit)
		cqrs_service_breaker_settle(delivery->permit, OUTCOME_NEUTRAL, NULL);
	if (delivery->transfer)
		cqrs_service_http_free(delivery->transfer);
	MemoryContextDelete(delivery->context);
}

/* ---- what is due ---- */

/* Claims what there is room for; finds out when to look again. */
static List *
look_at_table(TimestampTz now)
{
	MemoryContext context = AllocSetContextCreate(TopMemoryContext, "pg_cqrs claim", ALLOCSET_DEFAULT_SIZES);
	TableLook	look = {.context = context, .now = now};
	List	   *claimed = NIL;
	ListCell   *cell;

	if (cqrs_worker_error_try(claim, &look))
	{
		look_failures = 0;
		claimed = list_copy(look.claimed);
		foreach(cell, claimed)
			MemoryContextSetParent(((Delivery *) lfirst(cell))->context, TopMemoryContext);
	}
	else
	{
		look_at = cqrs_worker_error_retry_at(++look_failures);
		/* What was promoted, and what was to be, is looked for. */
		recovered = false;
	}
	MemoryContextDelete(context);
	return claimed;
}

static void
claim(void *arg)
{
	TableLook  *look = arg;
	RoleScope	scope;

	look_at = DT_NOEND;
	cqrs_outbox_claim_begin(&scope);
	if (OidIsValid(cqrs_catalog_relation("outbox")))
	{
		if (!recovered)
			recovered = cqrs_outbox_claim_recover(in_flight);
		look_at = cqrs_outbox_claim_look();
		if (!recovered)
			look_at = TimestampTzPlusMilliseconds(look->now, BUSY_MS);
		if (!cqrs_worker_process_turn_is_over())
			claim_all(look, cqrs_outbox_claim_services());
		if (oldest == DT_NOEND && cqrs_statement_read(&oldest_statement, NULL, NULL, 1) > 0)
			oldest = DatumGetTimestampTz(cqrs_statement_column(0, 1, NULL));
	}
	if (look->claimed)
		cqrs_outbox_claim_end_durably(&scope);
	else
		cqrs_outbox_claim_end(&scope);
}

/* In turn, each no more than its share of what may be in flight. */
static void
claim_all(TableLook *look, List *services)
{
	int			count = list_length(services);
	int			active = 0;
	ListCell   *cell;

	foreach(cell, services)
	{
		const OutboxService *service = lfirst(cell);

		active += service->due || service->in_flight > 0;
	}
	for (int i = 0; i < count; i++)
	{
		OutboxService *service = list_nth(services, (next_service + i) % count);
		int			limit = Min(service->limit, cqrs_outbox_concurrency);
		int			share = Max(1, MAX_IN_FLIGHT / Max(1, active));
		int			room = Min(service->cautious ? 1 : limit, share) - service->in_flight;

		room = Min(room, MAX_IN_FLIGHT - list_length(in_flight) - list_length(look->claimed));

		/*
		 * One that has no room is looked at when one of its transfers has
		 * ended.
		 */
		if (!service->due || room <= 0)
			continue;
		if (service->due_at <= look->now && service->postponed_until <= look->now)
			look->claimed = cqrs_outbox_claim_due(look->claimed, service, room, look->now, look->context);
		look_at = Min(look_at, Max(service->due_at, service->postponed_until));
	}
	next_service = count > 0 ? (next_service + 1) % count : 0;
}

/* ---- what begins ---- */

/* In flight from here on, though it may be over at once. */
static void
start(Delivery *delivery)
{
	MemoryContext old = MemoryContextSwitchTo(delivery->context);
	BreakerRejection rejection;

	pgstat_report_activity(STATE_RUNNING, psprintf("outbox: service %s", delivery->service->name));
	PG_TRY();
	{
		begin_transfer(delivery, &rejection);
	}
	PG_CATCH();
	{
		cqrs_outbox_settle_note_error(delivery, cqrs_worker_error_take(delivery->context, false));
	}
	PG_END_TRY();
	if (delivery->outcome == NULL && delivery->transfer == NULL)
		cqrs_outbox_postpone(delivery, &rejection);
	MemoryContextSwitchTo(TopMemoryContext);
	in_flight = lappend(in_flight, delivery);
	delivery->service->in_flight++;
	MemoryContextSwitchTo(old);
}

/* As the role that enqueued, with its rights and credentials of now; no transfer if the breaker does not let it through. */
static void
begin_transfer(Delivery *delivery, BreakerRejection *rejection)
{
	OutboxService *service = delivery->service;
	ServiceOptions *options;
	HttpRequest *request;
	Oid			role;

	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	MemoryContextSwitchTo(delivery->context);
	role = get_role_oid(delivery->role, true);
	if (!OidIsValid(role))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("role \"%s\" does not exist", delivery->role)));
	if (delivery->attempt > delivery->max_attempts)
		ereport(ERROR,
				(errcode(ERRCODE_CONNECTION_FAILURE),
				 errmsg("the worker ended while the last request was under way")));
	options = cqrs_service_options_load(service->name, role);
	service->limit = options->max_concurrency > 0 ? options->max_concurrency : MAX_IN_FLIGHT;
	request = cqrs_service_request_build(options, &delivery->call);
	delivery->options = options;
	delivery->permit = cqrs_service_breaker_admit(options, BREAKER_OF_PROCESS, rejection);
	if (delivery->permit)
		delivery->transfer = cqrs_service_http_start(request);
	PopActiveSnapshot();
	CommitTransactionCommand();
}

/* ---- what was delivered long ago ---- */

/* True if there may be more of it. */
static bool
clean(TimestampTz now)
{
	uint64		removed = 0;

	if (clean_at() > now)
		return false;
	cleaned_at = now;
	oldest = DT_NOEND;
	if (!cqrs_worker_error_try(remove_delivered, &removed) || removed < CLEAN_AT_ONCE)
		return false;
	cleaned_at = 0;
	return true;
}

static void
remove_delivered(void *arg)
{
	Datum		before = TimestampTzGetDatum(cleaned_at - (int64) cqrs_outbox_retention_s * USECS_PER_SEC);
	RoleScope	scope;

	cqrs_outbox_claim_begin(&scope);
	if (OidIsValid(cqrs_catalog_relation("outbox")))
	{
		*(uint64 *) arg = cqrs_statement_write(&clean_statement, &before, NULL);
		if (cqrs_statement_read(&oldest_statement, NULL, NULL, 1) > 0)
			oldest = DatumGetTimestampTz(cqrs_statement_column(0, 1, NULL));
	}
	cqrs_outbox_claim_end(&scope);
}

/* When the oldest is to be removed, and many with it; DT_NOEND: nothing, as far as is known. */
static TimestampTz
clean_at(void)
{
	int64		retention_ms = (int64) cqrs_outbox_retention_s * 1000;

	if (oldest == DT_NOEND)
		return DT_NOEND;
	return Max(TimestampTzPlusMilliseconds(oldest, retention_ms),
			   TimestampTzPlusMilliseconds(cleaned_at, Max(CLEAN_PAUSE_MS, Min(retention_ms, CLEAN_EVERY_MS))));
}

/* -1: for ever. */
static long
ms_until(TimestampTz at)
{
	TimestampTz now = GetCurrentTimestamp();

	if (at == DT_NOEND)
		return -1;
	return at <= now ? 0 : TimestampDifferenceMilliseconds(now, at) + 1;
}
