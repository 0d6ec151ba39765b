/*
 * merge.h
 *		An event handler that ships: what the event says is put into the state.
 */
#ifndef CQRS_MERGE_H
#define CQRS_MERGE_H

#include "fmgr.h"
#include "utils/jsonb.h"

/* A state in the making, while only such handlers change it; zeroed: there is none. */
typedef struct Merge
{
	MemoryContext context;
	JsonbPair  *pairs;			/* in the order of their keys */
	int			count;
	int			capacity;
	Size		bytes;			/* of what the pairs refer to */
	Size		limit;			/* of that */
} Merge;

extern Datum cqrs_merge(PG_FUNCTION_ARGS);

extern bool cqrs_merge_is_under_way(const Merge *merge);
extern bool cqrs_merge_put(Merge *merge, Jsonb *state, Datum data);
extern Jsonb *cqrs_merge_finish(Merge *merge);
extern void cqrs_merge_drop(Merge *merge);

#endif
