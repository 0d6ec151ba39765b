/*
 * outbox_postpone.c
 *		Services that take no call at the moment.
 *
 * Their circuit breaker is open, somebody else makes the trial call, or as many
 * calls are under way as they take.  A delivery that finds it so is pending
 * again as if it had not been claimed, and the service is left alone until that
 * may have ended: by its time, by an order or another setting, which are changes
 * that the worker is told of (worker.c), and RECHECK_MS at the latest.  Then the
 * breaker is looked at; only if it lets a call through something is claimed, and
 * one alone until a call has gone well.  So nothing is written in vain.
 */
#include "postgres.h"

#include "access/xact.h"
#include "foreign/foreign.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "outbox_postpone.h"
#include "outbox_settle.h"
#include "worker_error.h"
#include "worker_process.h"

#define BUSY_MS		100			/* too many calls are under way */
#define PROBING_MS	250			/* somebody else makes the trial call */
#define RECHECK_MS	60000

/* What is found out about the breaker of a service. */
typedef struct BreakerLook
{
	OutboxService *service;
	bool		admits;
	BreakerRejection rejection;
} BreakerLook;

static uint64 known_changes = 0;

static void look_at_breaker(void *arg);
static TimestampTz end_of(const BreakerRejection *rejection, TimestampTz now);

void
cqrs_outbox_postpone(Delivery *delivery, const BreakerRejection *rejection)
{
	OutboxService *service = delivery->service;
	bool		busy = rejection->reason == REJECTED_BUSY;

	if (busy)
		service->limit = Max(1, service->in_flight);
	else
		service->cautious = true;
	service->rejected = true;
	service->postponed_until = end_of(rejection, GetCurrentTimestamp());
	cqrs_outbox_settle_note_rejection(delivery, busy ? "too many calls of the service are under way" :
									  "the circuit breaker of the service is open");
}

/*
 * His commit wakes us a moment before the messages are sent by which our caches
 * learn of it.
 */
bool
cqrs_outbox_postpone_heed_changes(TimestampTz now)
{
	uint64		changes = cqrs_worker_process_changes();
	ListCell   *cell;

	if (changes == known_changes)
		return false;
	known_changes = changes;
	foreach(cell, cqrs_outbox_claim_services())
	{
		OutboxService *service = lfirst(cell);

		if (service->rejected)
			service->postponed_until = TimestampTzPlusMilliseconds(now, BUSY_MS);
	}
	return true;
}

void
cqrs_outbox_postpone_look(TimestampTz now)
{
	ListCell   *cell;

	foreach(cell, cqrs_outbox_claim_services())
	{
		OutboxService *service = lfirst(cell);
		BreakerLook look = {.service = service, .admits = true};

		if (!service->due || (!service->rejected && !service->cautious) || service->postponed_until > now)
			continue;
		/* What is wrong with a service is the error of what is sent to it. */
		(void) cqrs_worker_error_try(look_at_breaker, &look);
		service->rejected = !look.admits;
		if (!look.admits)
			service->postponed_until = end_of(&look.rejection, now);
	}
}

static void
look_at_breaker(void *arg)
{
	BreakerLook *look = arg;
	ServiceOptions *options;

	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	if (OidIsValid(get_foreign_server_oid(look->service->name, true)))
	{
		options = cqrs_service_options_load_server(look->service->name);
		look->admits = cqrs_service_breaker_would_admit(options, &look->rejection);
	}
	PopActiveSnapshot();
	CommitTransactionCommand();
}

/* When the reason for it may be over. */
static TimestampTz
end_of(const BreakerRejection *rejection, TimestampTz now)
{
	switch (rejection->reason)
	{
		case REJECTED_BUSY:
			return TimestampTzPlusMilliseconds(now, BUSY_MS);
		case REJECTED_PROBING:
			return TimestampTzPlusMilliseconds(now, PROBING_MS);
		case REJECTED_OPEN:
			return TimestampTzPlusMilliseconds(now, Min(rejection->remaining_us / 1000 + 1, RECHECK_MS));
		default:
			return TimestampTzPlusMilliseconds(now, RECHECK_MS);
	}
}
