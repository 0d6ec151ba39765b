/*
 * state.h
 *		The state of an entity: the fold of its events.
 */
#ifndef CQRS_STATE_H
#define CQRS_STATE_H

#include "journal.h"
#include "state_cache.h"

/* Whether kept states may be used: not where row security hides events. */
typedef enum StateSource
{
	STATE_FROM_EVENTS,
	STATE_FROM_KEPT
} StateSource;

extern void cqrs_state_load(EntityType *entity, const EntityKey *key, const RoleScope *scope,
							const LastEvent *target, StateSource source, EntityState *state);
extern bool cqrs_state_find_version(const EntityKey *key, int64 version, LastEvent *event);
extern void cqrs_state_apply(EntityType *entity, const EntityKey *key, const RoleScope *scope,
							 EntityState *state, const Event *events, int count);

#endif
