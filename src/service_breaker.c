/*
 * service_breaker.c
 *		Circuit breakers, shared by all processes of the server.
 *
 * A service that fails is given time to recover, and who calls it an answer at
 * once instead of a wait.  One breaker in shared memory for each service of
 * each database, found by the oid of the server.  What it does is in
 * service_breaker_state.c; here is where it is kept, and who may call.
 *
 * Who is admitted gets a permit, and settles it before the caller learns the
 * result.  One that is not settled, because of an error, a cancel or the end of
 * the process, is settled as neutral at the end of its transaction or process:
 * no probe and no call under way is ever lost.  (After a kill -9 the server
 * starts with new shared memory.)
 *
 * The clock is monotonic and the same for all processes.  A superuser can set
 * it forward for his session by cqrs.breaker_clock_offset, so that tests need
 * not wait.
 *
 * Shared state and what guards it:
 *	breakers[].key		the area's LWLock: shared to find, exclusive to give an
 *						entry to a service.  An entry with calls under way is
 *						not taken from its service.
 *	all other fields	the entry's mutex, taken while the LWLock is held
 * Neither is held during a call, nor while a catalog is read.  Entries of
 * servers and databases that were dropped are taken when there is no other.
 */
#include "postgres.h"

#include "access/xact.h"
#include "common/hashfn.h"
#include "common/pg_prng.h"
#include "lib/ilist.h"
#include "miscadmin.h"
#include "portability/instr_time.h"
#include "storage/ipc.h"
#include "storage/shmem.h"
#include "utils/memutils.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

#include "errors.h"
#include "service_breaker.h"
#include "settings.h"
#include "shmem.h"

struct BreakerPermit
{
	dlist_node	node;
	int64		ticket;
	BreakerScope scope;
	Oid			server;			/* invalid: the call is in no breaker's books */
	BreakerTerms terms;
	int64		admitted_us;
};

static Breaker *breakers;
static LWLock *lock;

/* Of this process, not settled yet */
static dlist_head permits = DLIST_STATIC_INIT(permits);
static int64 last_ticket = 0;

static BreakerPermit *new_permit(BreakerScope scope);
static void free_permit(BreakerPermit *permit);
static void on_transaction_end(XactEvent event, void *arg);
static void on_process_end(int code, Datum arg);
static Breaker *open_breaker(Oid server);
static void refuse_full(void);
static bool make_breaker(Oid server);
static Breaker *find_breaker(Oid server);
static Breaker *find_entry(Oid server, BreakerKey key);
static void free_dropped(void);
static bool still_exists(const BreakerKey *key);

static Size
breakers_size(void)
{
	return mul_size(cqrs_max_services, sizeof(Breaker));
}

static void
init_breakers(void *area)
{
	for (int i = 0; i < cqrs_max_services; i++)
		SpinLockInit(&((Breaker *) area)[i].mutex);
}

void
cqrs_service_breaker_init(void)
{
	static const SharedArea area = {
		"pg_cqrs breakers", breakers_size, init_breakers, (void **) &breakers, &lock
	};

	cqrs_shmem_register(&area);
	RegisterXactCallback(on_transaction_end, NULL);
}

/*
 * May a call to the service go?  Its permit, to be settled; NULL and the reason
 * if not.  An error where there is no room for another breaker.
 */
BreakerPermit *
cqrs_service_breaker_admit(const ServiceOptions *options, BreakerScope scope, BreakerRejection *rejection)
{
	BreakerPermit *permit = new_permit(scope);
	Breaker    *breaker = open_breaker(options->server);

	if (breaker == NULL)
	{
		if (cqrs_allow_unguarded_calls)
			return permit;
		free_permit(permit);
		refuse_full();
	}
	SpinLockAcquire(&breaker->mutex);
	if (cqrs_service_breaker_state_admit(breaker, options, permit->admitted_us, &permit->terms, rejection))
		permit->server = options->server;
	SpinLockRelease(&breaker->mutex);
	LWLockRelease(lock);
	if (OidIsValid(permit->server))
		return permit;
	free_permit(permit);
	return NULL;
}

/* What the answer would be now.  Nothing is changed, nor counted. */
bool
cqrs_service_breaker_would_admit(const ServiceOptions *options, BreakerRejection *rejection)
{
	Breaker		copy;
	BreakerTerms terms;

	return !cqrs_service_breaker_look(options, &copy) ||
		cqrs_service_breaker_state_admit(&copy, options, cqrs_service_breaker_now_us(), &terms, rejection);
}

/*
 * Says how a call ended, and frees the permit.  The breaker has changed for
 * everybody when this returns.  Throws nothing.
 */
void
cqrs_service_breaker_settle(BreakerPermit *permit, BreakerOutcome outcome, const char *error)
{
	int64		now_us = cqrs_service_breaker_now_us();
	TimestampTz now = GetCurrentTimestamp();
	double		draw = pg_prng_double(&pg_global_prng_state);
	Breaker    *breaker;

	LWLockAcquire(lock, LW_SHARED);
	breaker = OidIsValid(permit->server) ? find_breaker(permit->server) : NULL;
	if (breaker)
	{
		SpinLockAcquire(&breaker->mutex);
		cqrs_service_breaker_state_settle(breaker, &permit->terms, outcome, now_us, draw);
		if (outcome != OUTCOME_NEUTRAL)
			cqrs_service_latency_add(&breaker->latency, now_us - permit->admitted_us);
		if (error)
		{
			strlcpy(breaker->last_error, error, BREAKER_ERROR_SIZE);
			breaker->last_error_at = now;
		}
		SpinLockRelease(&breaker->mutex);
	}
	LWLockRelease(lock);
	free_permit(permit);
}

/* Tells a caller that he was rejected, by an error. */
void
cqrs_service_breaker_raise(const ServiceOptions *options, const BreakerRejection *rejection)
{
	switch (rejection->reason)
	{
		case REJECTED_BUSY:
			ereport(ERROR,
					(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
					 errmsg("too many calls to service \"%s\" are under way", options->name),
					 errdetail("The option max_concurrency of the server is %d.", options->max_concurrency)));
			break;
		case REJECTED_FORCED_OPEN:
			ereport(ERROR,
					(errcode(CQRS_BREAKER_OPEN),
					 errmsg("the circuit breaker of service \"%s\" is held open", options->name),
					 errhint("cqrs.reset_breaker() or the option breaker of the server ends that.")));
			break;
		case REJECTED_PROBING:
			ereport(ERROR,
					(errcode(CQRS_BREAKER_OPEN),
					 errmsg("the circuit breaker of service \"%s\" is half-open", options->name),
					 errdetail("Another call is finding out whether the service has recovered.")));
			break;
		case REJECTED_OPEN:
			ereport(ERROR,
					(errcode(CQRS_BREAKER_OPEN),
					 errmsg("the circuit breaker of service \"%s\" is open", options->name),
					 errdetail("The next call is let through in " INT64_FORMAT " ms.",
							   (rejection->remaining_us + 999) / 1000)));
			break;
	}
}

/* A number for a permit of this process. */
int64
cqrs_service_breaker_ticket(const BreakerPermit *permit)
{
	return permit->ticket;
}

/* NULL if it is settled, or was never given. */
BreakerPermit *
cqrs_service_breaker_permit_of(int64 ticket)
{
	dlist_iter	iter;

	dlist_foreach(iter, &permits)
	{
		BreakerPermit *permit = dlist_container(BreakerPermit, node, iter.cur);

		if (permit->ticket == ticket)
			return permit;
	}
	return NULL;
}

/* See cqrs_service_breaker_state_order(). */
void
cqrs_service_breaker_order(const ServiceOptions *options, BreakerMode mode)
{
	Breaker    *breaker = open_breaker(options->server);

	if (breaker == NULL)
		refuse_full();
	SpinLockAcquire(&breaker->mutex);
	cqrs_service_breaker_state_order(breaker, mode);
	SpinLockRelease(&breaker->mutex);
	LWLockRelease(lock);
}

/* A copy as of now; false if the service was never called. */
bool
cqrs_service_breaker_look(const ServiceOptions *options, Breaker *copy)
{
	Breaker    *breaker;

	LWLockAcquire(lock, LW_SHARED);
	breaker = find_breaker(options->server);
	if (breaker)
	{
		SpinLockAcquire(&breaker->mutex);
		*copy = *breaker;
		SpinLockRelease(&breaker->mutex);
	}
	LWLockRelease(lock);
	return breaker != NULL;
}

int64
cqrs_service_breaker_now_us(void)
{
	instr_time	now;

	INSTR_TIME_SET_CURRENT(now);
	return (int64) INSTR_TIME_GET_MICROSEC(now) + INT64CONST(1000) * cqrs_breaker_clock_offset_ms;
}

/* ---- permits ---- */

static BreakerPermit *
new_permit(BreakerScope scope)
{
	static bool registered = false;
	BreakerPermit *permit;

	if (!registered)
	{
		before_shmem_exit(on_process_end, (Datum) 0);
		registered = true;
	}
	permit = MemoryContextAllocZero(TopMemoryContext, sizeof(BreakerPermit));
	permit->ticket = ++last_ticket;
	permit->scope = scope;
	permit->admitted_us = cqrs_service_breaker_now_us();
	dlist_push_tail(&permits, &permit->node);
	return permit;
}

static void
free_permit(BreakerPermit *permit)
{
	dlist_delete(&permit->node);
	pfree(permit);
}

static void
on_transaction_end(XactEvent event, void *arg)
{
	dlist_mutable_iter iter;

	if (event != XACT_EVENT_COMMIT && event != XACT_EVENT_ABORT && event != XACT_EVENT_PREPARE)
		return;
	dlist_foreach_modify(iter, &permits)
	{
		BreakerPermit *permit = dlist_container(BreakerPermit, node, iter.cur);

		if (permit->scope == BREAKER_OF_TRANSACTION)
			cqrs_service_breaker_settle(permit, OUTCOME_NEUTRAL, NULL);
	}
}

static void
on_process_end(int code, Datum arg)
{
	while (!dlist_is_empty(&permits))
		cqrs_service_breaker_settle(dlist_head_element(BreakerPermit, node, &permits), OUTCOME_NEUTRAL, NULL);
}

/* ---- the table ---- */

/*
 * The breaker of a service, with the table's lock held in shared mode; NULL,
 * without the lock, where there is no room.
 */
static Breaker *
open_breaker(Oid server)
{
	Breaker    *breaker;

	LWLockAcquire(lock, LW_SHARED);
	while ((breaker = find_breaker(server)) == NULL)
	{
		LWLockRelease(lock);
		if (!make_breaker(server))
		{
			free_dropped();
			if (!make_breaker(server))
				break;
		}
		LWLockAcquire(lock, LW_SHARED);
	}
	return breaker;
}

static void
refuse_full(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
			 errmsg("there is no room for the circuit breaker of another service"),
			 errdetail("cqrs.max_services is %d.", cqrs_max_services),
			 errhint("Raise it and restart the server, or set cqrs.allow_unguarded_calls.")));
}

/* False if there is no room. */
static bool
make_breaker(Oid server)
{
	const BreakerKey unused = {InvalidOid, InvalidOid};
	Breaker    *breaker;

	LWLockAcquire(lock, LW_EXCLUSIVE);
	breaker = find_breaker(server);
	if (breaker == NULL)
	{
		breaker = find_entry(server, unused);
		if (breaker)
		{
			cqrs_service_breaker_state_clear(breaker);
			breaker->key.database = MyDatabaseId;
			breaker->key.server = server;
		}
	}
	LWLockRelease(lock);
	return breaker != NULL;
}

static Breaker *
find_breaker(Oid server)
{
	BreakerKey	key = {MyDatabaseId, server};

	return find_entry(server, key);
}

/* Looks where the hash of the server points to, and from there all around. */
static Breaker *
find_entry(Oid server, BreakerKey key)
{
	uint32		start = hash_combine(murmurhash32(MyDatabaseId), murmurhash32(server)) % cqrs_max_services;

	for (int i = 0; i < cqrs_max_services; i++)
	{
		Breaker    *breaker = &breakers[(start + i) % cqrs_max_services];

		if (breaker->key.database == key.database && breaker->key.server == key.server)
			return breaker;
	}
	return NULL;
}

/* Servers of other databases cannot be seen from here, but their databases can. */
static void
free_dropped(void)
{
	for (int i = 0; i < cqrs_max_services; i++)
	{
		BreakerKey	key;

		LWLockAcquire(lock, LW_SHARED);
		key = breakers[i].key;
		LWLockRelease(lock);
		if (!OidIsValid(key.server) || still_exists(&key))
			continue;
		LWLockAcquire(lock, LW_EXCLUSIVE);
		if (memcmp(&breakers[i].key, &key, sizeof(key)) == 0 && breakers[i].in_flight == 0)
			memset(&breakers[i].key, 0, sizeof(key));
		LWLockRelease(lock);
	}
}

static bool
still_exists(const BreakerKey *key)
{
	if (key->database == MyDatabaseId)
		return SearchSysCacheExists1(FOREIGNSERVEROID, ObjectIdGetDatum(key->server));
	return SearchSysCacheExists1(DATABASEOID, ObjectIdGetDatum(key->database));
}
