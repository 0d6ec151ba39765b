/*
 * projection_batch.c
 *		Events on their way from the journal to a projection.
 *
 * Events go from the executor's slots straight into the form in which a
 * handler gets them.  A batch is bounded in number by the projection and in
 * bytes by BATCH_BYTES; one event always fits.
 *
 * The handler is called in a scope of its owner, which the caller has entered.
 * What it defers to the end of the transaction is done before this returns,
 * so that its error is this batch's, and runs with what the handler sees.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "commands/trigger.h"
#include "executor/tuptable.h"
#include "funcapi.h"
#include "utils/array.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/typcache.h"

#include "catalog.h"
#include "compat.h"
#include "entity_lock.h"
#include "journal.h"
#include "new_event.h"
#include "projection_batch.h"

#define BATCH_BYTES		(16 * 1024 * 1024)
#define FIRST_CAPACITY	64

/* A destination of the executor that fills a batch. */
typedef struct BatchReceiver
{
	DestReceiver pub;
	EventBatch *batch;
	int			limit;
} BatchReceiver;

static bool receive_event(TupleTableSlot *slot, DestReceiver *self);
static void start_receiving(DestReceiver *self, int operation, TupleDesc desc);
static void end_receiving(DestReceiver *self);
static void apply_one(Application *application, int i, Datum event, int64 position);
static Datum array_of(const EventBatch *batch);
static void name_projection(void *arg);

void
cqrs_projection_batch_begin(EventBatch *batch)
{
	memset(batch, 0, sizeof(EventBatch));
	batch->context = CurrentMemoryContext;
	batch->event_desc = lookup_rowtype_tupdesc(cqrs_catalog_type("event"), -1);
	batch->capacity = FIRST_CAPACITY;
	batch->events = palloc(sizeof(Datum) * batch->capacity);
	batch->positions = palloc(sizeof(int64) * batch->capacity);
}

void
cqrs_projection_batch_end(EventBatch *batch)
{
	ReleaseTupleDesc(batch->event_desc);
}

/* Adds a row of the journal, whose columns are those of an event. */
void
cqrs_projection_batch_add(EventBatch *batch, HeapTuple tuple)
{
	MemoryContext old = MemoryContextSwitchTo(batch->context);
	bool		isnull;

	if (batch->count == batch->capacity)
	{
		batch->capacity *= 2;
		batch->events = repalloc(batch->events, sizeof(Datum) * batch->capacity);
		batch->positions = repalloc(batch->positions, sizeof(int64) * batch->capacity);
	}
	batch->events[batch->count] = heap_copy_tuple_as_datum(tuple, batch->event_desc);
	batch->positions[batch->count] =
		DatumGetInt64(heap_getattr(tuple, EVENT_POSITION, batch->event_desc, &isnull));
	batch->bytes += HeapTupleHeaderGetDatumLength(DatumGetHeapTupleHeader(batch->events[batch->count]));
	batch->count++;
	MemoryContextSwitchTo(old);
}

/*
 * Runs a query for events in order with the active snapshot, between
 * SPI_connect and SPI_finish.
 */
void
cqrs_projection_batch_read(EventBatch *batch, Statement *statement, Datum *values,
						   const char *nulls, int limit)
{
	BatchReceiver receiver = {
		.pub = {
			.receiveSlot = receive_event,
			.rStartup = start_receiving,
			.rShutdown = end_receiving,
			.rDestroy = end_receiving,
			.mydest = DestNone
		},
		.batch = batch,
		.limit = limit
	};

	cqrs_statement_read_to(statement, values, nulls, &receiver.pub);
}

/* Calls the handler for all of the events. */
void
cqrs_projection_batch_apply(Application *application)
{
	const EventBatch *batch = application->batch;
	Projection *projection = application->projection;
	ErrorContextCallback context = {
		.callback = name_projection,
		.arg = application,
		.previous = error_context_stack
	};
	RunningHandler running;

	application->started = false;
	application->at = -1;
	error_context_stack = &context;
	cqrs_handler_resolve(&projection->handler, projection->owner);
	application->started = true;
	if (application->replay)
		cqrs_entity_lock_begin_handler(&running, RUNNING_REPLAY, NULL);
	PG_TRY();
	{
		if (projection->handler.kind == HANDLER_PROJECT_ALL)
			apply_one(application, -1, array_of(batch), batch->positions[batch->count - 1]);
		else
			for (int i = 0; i < batch->count; i++)
				apply_one(application, i, batch->events[i], batch->positions[i]);
		application->at = -1;
		if (application->own_transaction)
			cqrs_projection_batch_fire_deferred();
	}
	PG_FINALLY();
	{
		if (application->replay)
			cqrs_entity_lock_end_handler(&running);
	}
	PG_END_TRY();
	error_context_stack = context.previous;
}

/* One call of the handler, in memory that goes with it. */
static void
apply_one(Application *application, int i, Datum event, int64 position)
{
	Projection *projection = application->projection;
	Cause		cause = {"projection", projection->name, position};
	MemoryContext garbage = AllocSetContextCreate(CurrentMemoryContext, "pg_cqrs event", ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(garbage);
	const Cause *before = cqrs_new_event_set_cause(&cause);
	bool		isnull;

	application->at = i;
	PushActiveSnapshot(GetTransactionSnapshot());
	PG_TRY();
	{
		(void) cqrs_handler_call(&projection->handler, &event, &isnull);
	}
	PG_FINALLY();
	{
		(void) cqrs_new_event_set_cause(before);
	}
	PG_END_TRY();
	PopActiveSnapshot();
	CommandCounterIncrement();
	MemoryContextSwitchTo(old);
	MemoryContextDelete(garbage);
}

/*
 * The events themselves in the form in which arrays are worked with, not a flat
 * copy of all of them: unnest and PL/pgSQL take it as it is, and who needs a
 * flat one gets it made.  Read-only, since the batch is needed after an error.
 */
static Datum
array_of(const EventBatch *batch)
{
	ExpandedArrayHeader *array =
	construct_empty_expanded_array(cqrs_catalog_type("event"), CurrentMemoryContext, NULL);
	MemoryContext own = array->hdr.eoh_context;

	array->ndims = 1;
	array->dims = MemoryContextAlloc(own, sizeof(int));
	array->dims[0] = batch->count;
	array->lbound = MemoryContextAlloc(own, sizeof(int));
	array->lbound[0] = 1;
	array->dvalues = MemoryContextAlloc(own, sizeof(Datum) * batch->count);
	memcpy(array->dvalues, batch->events, sizeof(Datum) * batch->count);
	array->dvalueslen = array->nelems = batch->count;
	array->flat_size = 0;
	array->fvalue = NULL;
	return EOHPGetRODatum(&array->hdr);
}

/*
 * As a commit does it.  SET CONSTRAINTS ALL IMMEDIATE would hold for the rest
 * of the transaction, of which a batch may be one of many.  What is fired is
 * forgotten, also by a subtransaction that is undone: what was deferred before
 * it has to be fired before it.
 */
void
cqrs_projection_batch_fire_deferred(void)
{
	AfterTriggerFireDeferred();
}

static bool
receive_event(TupleTableSlot *slot, DestReceiver *self)
{
	BatchReceiver *receiver = (BatchReceiver *) self;
	EventBatch *batch = receiver->batch;
	bool		should_free;
	HeapTuple	tuple = ExecFetchSlotHeapTuple(slot, false, &should_free);

	cqrs_projection_batch_add(batch, tuple);
	if (should_free)
		heap_freetuple(tuple);
	batch->full = batch->count >= receiver->limit || batch->bytes >= BATCH_BYTES;
	return !batch->full;
}

static void
start_receiving(DestReceiver *self, int operation, TupleDesc desc)
{
}

static void
end_receiving(DestReceiver *self)
{
}

static void
name_projection(void *arg)
{
	const Application *application = arg;
	const EventBatch *batch = application->batch;
	int			at = batch->count == 1 ? 0 : application->at;

	if (at >= 0)
		errcontext("projection \"%s\", event at position " INT64_FORMAT,
				   application->projection->name, batch->positions[at]);
	else
		errcontext("projection \"%s\", events at positions " INT64_FORMAT " to " INT64_FORMAT,
				   application->projection->name, batch->positions[0], batch->positions[batch->count - 1]);
}
