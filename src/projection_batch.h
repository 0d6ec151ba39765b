/*
 * projection_batch.h
 *		Events on their way from the journal to a projection.
 */
#ifndef CQRS_PROJECTION_BATCH_H
#define CQRS_PROJECTION_BATCH_H

#include "projection_registry.h"
#include "statement.h"

/* In the context that it was begun in; each event is a cqrs.event. */
typedef struct EventBatch
{
	TupleDesc	event_desc;
	MemoryContext context;
	Datum	   *events;
	int64	   *positions;
	int			count;
	int			capacity;
	Size		bytes;
	bool		full;			/* there may be more; the reader was stopped */
} EventBatch;

extern void cqrs_projection_batch_begin(EventBatch *batch);
extern void cqrs_projection_batch_add(EventBatch *batch, HeapTuple tuple);
extern void cqrs_projection_batch_read(EventBatch *batch, Statement *statement, Datum *values,
									   const char *nulls, int limit);
extern void cqrs_projection_batch_end(EventBatch *batch);

/* Some events of a batch that are given to the handler. */
typedef struct Application
{
	Projection *projection;
	const EventBatch *batch;
	bool		replay;			/* they were projected before */
	bool		own_transaction;	/* what is deferred is the handler's */
	/* Result, also after an error */
	bool		started;		/* the handler was called */
	int			at;				/* for this event; -1: for all */
} Application;

extern void cqrs_projection_batch_apply(Application *application);
extern void cqrs_projection_batch_fire_deferred(void);

#endif
