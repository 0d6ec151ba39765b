/*
 * projection_sync.h
 *		Projections in the writer's transaction, by a trigger on the journal.
 */
#ifndef CQRS_PROJECTION_SYNC_H
#define CQRS_PROJECTION_SYNC_H

#include "projection_step.h"

/* Called as somebody who may; wait for writers under way. */
extern void cqrs_projection_sync_lock(void);
extern void cqrs_projection_sync_create_trigger(const Projection *projection);
extern void cqrs_projection_sync_drop_trigger(const Projection *projection);

/* Called with the offsets locked: a worker goes on from here. */
extern void cqrs_projection_sync_detach(const Projection *projection);

/* Called with the lock: are there events after a position that it wants? */
extern bool cqrs_projection_sync_has_events(const Projection *projection, int64 after);

/* A work for cqrs_projection_step_run: the last step of catching up. */
extern void cqrs_projection_sync_attach(Step *step, void *unused);

#endif
