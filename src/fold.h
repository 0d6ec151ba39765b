/*
 * fold.h
 *		Events applied to a state, one after the other.
 */
#ifndef CQRS_FOLD_H
#define CQRS_FOLD_H

#include "entity_registry.h"
#include "journal.h"
#include "merge.h"
#include "snapshot.h"

typedef struct Fold
{
	EntityType *entity;
	const EntityKey *key;
	const RoleScope *scope;
	TupleDesc	event_desc;
	EntityState *state;
	bool		sees_all;		/* no event is hidden from the reader */
	/* Handler: whose scope is entered */
	RoleScope	inner;
	const char *search_path;	/* NULL: none */

	/*
	 * Memory of many events: the state is in one of two, an event's garbage
	 * in the third
	 */
	MemoryContext kept[2];
	int			current;
	MemoryContext garbage;		/* of one event: the caller's, as the state */
	Merge		merge;			/* of many: if under way, this is the state */
} Fold;

/* One event on its way through upcasters and handler. */
typedef struct FoldedEvent
{
	Datum		datum;			/* a cqrs.event; 0: still to be made of the
								 * tuple */
	HeapTuple	tuple;
	Datum		data;			/* of it */
	int64		position;
	int64		version;
	text	   *event_type;
	int			schema_version;
} FoldedEvent;

extern void cqrs_fold_begin(Fold *fold, EntityType *entity, const EntityKey *key,
							const RoleScope *scope, EntityState *state, int64 count);
extern void cqrs_fold_event(Fold *fold, FoldedEvent *event);
extern void cqrs_fold_free_garbage(Fold *fold);
extern void cqrs_fold_leave_handler(Fold *fold);
extern void cqrs_fold_end(Fold *fold);

extern void cqrs_fold_refuse_hole(const Fold *fold, int64 version);

#endif
