/*
 * snapshot.h
 *		States kept in a table, so that loading does not begin at version 1.
 */
#ifndef CQRS_SNAPSHOT_H
#define CQRS_SNAPSHOT_H

#include "entity_registry.h"
#include "role.h"
#include "slice.h"

/* The state of an entity after the event of that version. */
typedef struct EntityState
{
	int64		version;		/* 0: the initial state */
	int64		position;		/* of that event */
	int64		snapshot_version;	/* newest snapshot known below; 0: none */
	Jsonb	   *state;
} EntityState;

extern bool cqrs_snapshot_load(const EntityType *entity, const EntityKey *key, int64 up_to, EntityState *state);
extern void cqrs_snapshot_save(const EntityType *entity, const EntityKey *key, const RoleScope *scope,
							   EntityState *state);
extern bool cqrs_snapshot_is_due(const EntityType *entity, const EntityState *state, int64 old_version);

#endif
