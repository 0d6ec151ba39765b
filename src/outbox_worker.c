/*
 * outbox_worker.c
 *		The worker that makes the deliveries of the outbox.
 *
 * One for each database that has something to deliver, with many transfers
 * under way at once.  It goes round:
 *
 *	settle		transfers that are over, each in a transaction
 *	reply		commands whose delivery is settled, one in a transaction
 *	claim		what is due, of all services in turn, in one transaction
 *	start		a transfer for each: rights, options and breaker are looked at in
 *				a transaction that has ended before the first byte is sent
 *	wait		for a transfer, for somebody who enqueues, for what is due next
 *
 * So no transaction, snapshot or lock is held while a service is waited for.
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
#include "common/pg_prng.h"
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
#include "outbox_reply.h"
#include "outbox_settle.h"
#include "outbox_worker.h"
#include "settings.h"
#include "statement.h"
#include "worker_error.h"
#include "worker_process.h"

#define MAX_IN_FLIGHT		128 /* of all services */
#define KEPT_CONNECTIONS	64
#define BUSY_MS				100 /* a service has too many calls under way */
#define PROBING_MS			250 /* somebody else makes the trial call */
#define HELD_OPEN_MS		1000	/* no end is known */
#define CLEAN_EVERY_MS		60000
#define CLEAN_AT_ONCE		10000

static Statement wanted_statement = {
	.sql = "SELECT EXISTS (SELECT FROM cqrs.outbox WHERE state = 'claimed')"
	" OR EXISTS (SELECT FROM cqrs.outbox WHERE state = 'answered')"
	" OR EXISTS (SELECT FROM cqrs.outbox WHERE state = 'pending' AND NOT behind)"
	" OR EXISTS (SELECT FROM cqrs.outbox WHERE state = 'pending' AND ordering_key IS NOT NULL AND behind)",
	.nargs = 0
};

static Statement clean_statement = {
	.sql = "DELETE FROM cqrs.outbox WHERE ctid = ANY (ARRAY("
	"SELECT ctid FROM cqrs.outbox WHERE state = 'delivered' AND settled_at < $1"
	" ORDER BY settled_at LIMIT " CppAsString2(CLEAN_AT_ONCE) " FOR UPDATE SKIP LOCKED))",
	.nargs = 1,
	.argtypes = {TIMESTAMPTZOID}
};

static List *in_flight = NIL;	/* of Delivery, in TopMemoryContext */
static bool must_look = true;	/* at the table */
static TimestampTz look_at = 0; /* at the latest; DT_NOEND: no time is known */
static TimestampTz reply_at = 0;	/* when the next command is due */
static TimestampTz reply_postponed_until = 0;	/* somebody has locked those
												 * due */
static TimestampTz cleaned_at = 0;
static int	next_service = 0;

static int	count_wanted(void);
static void run(void);
static void wait(void);
static void recover(void);
static bool do_work(void);
static bool settle_finished(void);
static void settle_transfer(Delivery *delivery);
static void free_delivery(Delivery *delivery);
static List *look(TimestampTz now);
static List *claim_all(List *services, TimestampTz now);
static void note_due(const OutboxService *service, TimestampTz now);
static void start(Delivery *delivery);
static bool begin_transfer(Delivery *delivery, BreakerRejection *rejection);
static void postpone(Delivery *delivery, const BreakerRejection *rejection);
static void clean(TimestampTz now);
static long wait_ms(void);

static const WorkerKind kind = {"outbox", count_wanted, run, false};

void
cqrs_outbox_worker_init(void)
{
	cqrs_worker_register_kind(&kind);
	cqrs_outbox_set_worker(&kind);
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
	recover();
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
		long		timeout_ms = wait_ms();

		must_look = true;

		/*
		 * Then nothing was claimed, though something may be due; the next
		 * check ends the worker.
		 */
		if (cqrs_worker_process_turn_is_over())
			return;
		cqrs_worker_process_sleep(timeout_ms, timeout_ms < 0);
	}
	while (!must_look && wait_ms() != 0)
	{
		must_look = cqrs_service_http_poll(wait_ms());
		(void) settle_finished();
	}
}

static void
recover(void)
{
	RoleScope	scope;

	cqrs_outbox_claim_begin(&scope);
	if (OidIsValid(cqrs_catalog_relation("outbox")))
		cqrs_outbox_claim_recover();
	cqrs_outbox_claim_end(&scope);
}

/* False if there is nothing to do but to wait. */
static bool
do_work(void)
{
	TimestampTz now = GetCurrentTimestamp();
	bool		any = settle_finished();
	List	   *claimed;
	ListCell   *cell;

	if (reply_at <= now)
	{
		if (cqrs_outbox_reply_send())
			any = true;
		else
			reply_postponed_until = TimestampTzPlusMilliseconds(now, BUSY_MS);
		must_look = true;
	}
	if (!must_look && look_at > now)
		return any;
	must_look = false;
	claimed = look(now);
	foreach(cell, claimed)
		start(lfirst(cell));
	any = any || claimed != NIL;
	list_free(claimed);
	clean(now);
	return any;
}

/* ---- what is over ---- */

static bool
settle_finished(void)
{
	bool		any = false;
	ListCell   *cell;

	foreach(cell, in_flight)
	{
		Delivery   *delivery = lfirst(cell);

		if (cqrs_service_http_response(delivery->transfer)->result == HTTP_UNDER_WAY)
			continue;
		in_flight = foreach_delete_current(in_flight, cell);
		settle_transfer(delivery);
		any = true;
	}
	return any;
}

static void
settle_transfer(Delivery *delivery)
{
	const HttpResponse *response = cqrs_service_http_response(delivery->transfer);
	BreakerOutcome outcome = cqrs_service_request_judge(delivery->options, response);
	BreakerPermit *permit = delivery->permit;
	MemoryContext old = MemoryContextSwitchTo(delivery->context);

	delivery->permit = NULL;
	cqrs_service_breaker_settle(permit, outcome, cqrs_service_request_error(delivery->options, response));
	if (outcome == OUTCOME_SUCCESS)
		delivery->service->cautious = false;
	delivery->service->in_flight--;
	cqrs_outbox_settle_response(delivery);
	must_look = true;
	MemoryContextSwitchTo(old);
	free_delivery(delivery);
	cqrs_worker_process_succeeded();
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
look(TimestampTz now)
{
	List	   *claimed = NIL;
	RoleScope	scope;

	look_at = reply_at = DT_NOEND;
	cqrs_outbox_claim_begin(&scope);
	if (OidIsValid(cqrs_catalog_relation("outbox")))
	{
		List	   *services = cqrs_outbox_claim_services(&reply_at, &look_at);

		reply_at = Max(reply_at, reply_postponed_until);
		if (!cqrs_worker_process_turn_is_over())
			claimed = claim_all(services, now);
	}
	cqrs_outbox_claim_end(&scope);
	return claimed;
}

/* In turn, each no more than its share of what may be in flight. */
static List *
claim_all(List *services, TimestampTz now)
{
	int			count = list_length(services);
	int			active = 0;
	List	   *all = NIL;
	ListCell   *cell;

	foreach(cell, services)
	{
		const OutboxService *service = lfirst(cell);

		active += service->due || service->in_flight > 0;
	}
	for (int i = 0; i < count; i++)
	{
		OutboxService *service = list_nth(services, (next_service + i) % count);
		int			share = Max(1, MAX_IN_FLIGHT / Max(1, active));
		int			room = Min(service->cautious ? 1 : service->limit, share) - service->in_flight;

		room = Min(room, MAX_IN_FLIGHT - list_length(in_flight) - list_length(all));
		if (service->due && room > 0)
		{
			if (service->due_at <= now && service->postponed_until <= now)
			{
				List	   *claimed = cqrs_outbox_claim_due(service, room, now);
				MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);

				all = list_concat(all, claimed);
				MemoryContextSwitchTo(old);
			}
			note_due(service, now);
		}
	}
	next_service = count > 0 ? (next_service + 1) % count : 0;
	return all;
}

/* A service that has no room is looked at when one of its transfers has ended. */
static void
note_due(const OutboxService *service, TimestampTz now)
{
	look_at = Min(look_at, Max(service->due_at, service->postponed_until));
}

/* ---- what begins ---- */

static void
start(Delivery *delivery)
{
	MemoryContext old = MemoryContextSwitchTo(delivery->context);
	ErrorData  *volatile error = NULL;
	BreakerRejection rejection;
	volatile bool begun = false;

	pgstat_report_activity(STATE_RUNNING, psprintf("outbox: service %s", delivery->service->name));
	PG_TRY();
	{
		begun = begin_transfer(delivery, &rejection);
	}
	PG_CATCH();
	{
		error = cqrs_worker_error_take(delivery->context, false);
	}
	PG_END_TRY();
	if (begun)
	{
		MemoryContextSwitchTo(TopMemoryContext);
		in_flight = lappend(in_flight, delivery);
		delivery->service->in_flight++;
	}
	else
	{
		MemoryContextSwitchTo(delivery->context);
		if (error)
			cqrs_outbox_settle_error(delivery, error);
		else
			postpone(delivery, &rejection);
		must_look = true;
		free_delivery(delivery);
	}
	MemoryContextSwitchTo(old);
}

/* As the role that enqueued, with its rights and credentials of now; false if the breaker does not let it through. */
static bool
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
	service->limit = options->max_concurrency > 0 ? Min(options->max_concurrency, cqrs_outbox_concurrency) :
		cqrs_outbox_concurrency;
	request = cqrs_service_request_build(options, &delivery->call);
	delivery->options = options;
	delivery->permit = cqrs_service_breaker_admit(options, BREAKER_OF_PROCESS, rejection);
	if (delivery->permit)
		delivery->transfer = cqrs_service_http_start(request);
	PopActiveSnapshot();
	CommitTransactionCommand();
	return delivery->transfer != NULL;
}

/* The service as a whole waits, without an attempt more than this one, which does not count. */
static void
postpone(Delivery *delivery, const BreakerRejection *rejection)
{
	OutboxService *service = delivery->service;
	int64		delay_ms = BUSY_MS;
	const char *reason = "too many calls of the service are under way";

	if (rejection->reason == REJECTED_BUSY)
		service->limit = Max(1, service->in_flight);
	else
	{
		service->cautious = true;
		reason = "the circuit breaker of the service is open";
		delay_ms = rejection->reason == REJECTED_OPEN ? rejection->remaining_us / 1000 + 1 :
			rejection->reason == REJECTED_PROBING ? PROBING_MS : HELD_OPEN_MS;
		/* An order by hand, or another setting, may end it any time. */
		delay_ms = Min(delay_ms, HELD_OPEN_MS);
	}
	service->postponed_until = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), delay_ms);
	cqrs_outbox_settle_postponed(delivery, delay_ms, reason);
}

/* ---- what was delivered long ago ---- */

static void
clean(TimestampTz now)
{
	Datum		before = TimestampTzGetDatum(now - (int64) cqrs_outbox_retention_s * USECS_PER_SEC);
	uint64		removed = 0;
	RoleScope	scope;

	if (!TimestampDifferenceExceeds(cleaned_at, now, CLEAN_EVERY_MS))
		return;
	cqrs_outbox_claim_begin(&scope);
	if (OidIsValid(cqrs_catalog_relation("outbox")))
		removed = cqrs_statement_write(&clean_statement, &before, NULL);
	cqrs_outbox_claim_end(&scope);
	if (removed < CLEAN_AT_ONCE)
		cleaned_at = now;
}

/* Until something is due; -1: for ever. */
static long
wait_ms(void)
{
	TimestampTz now = GetCurrentTimestamp();
	TimestampTz at = Min(look_at, reply_at);

	if (at == DT_NOEND)
		return -1;
	return at <= now ? 0 : TimestampDifferenceMilliseconds(now, at) + 1;
}
