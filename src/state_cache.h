/*
 * state_cache.h
 *		The states of the entities that this backend used last.
 */
#ifndef CQRS_STATE_CACHE_H
#define CQRS_STATE_CACHE_H

#include "snapshot.h"

/* Called by module.c at load. */
extern void cqrs_state_cache_init(void);

extern bool cqrs_state_cache_get(const EntityType *entity, const EntityKey *key, EntityState *state);
extern void cqrs_state_cache_put(const EntityType *entity, const EntityKey *key, const EntityState *state);

/* Has all sessions throw away what they keep, when the transaction commits. */
extern void cqrs_state_cache_clear(void);

/* Was a state taken as it was (hit), or folded (miss)? */
extern void cqrs_state_cache_count(bool hit);

#endif
