/*
 * entity_lock.h
 *		One writer per entity, one command at a time.
 */
#ifndef CQRS_ENTITY_LOCK_H
#define CQRS_ENTITY_LOCK_H

#include "slice.h"

/* What runs between begin and end; a list through the C stack. */
typedef struct RunningHandler
{
	const EntityKey *command_of;	/* NULL: an event handler or upcaster */
	struct RunningHandler *outer;
} RunningHandler;

/* Called by module.c at load. */
extern void cqrs_entity_lock_init(void);

extern void cqrs_entity_lock_acquire(const EntityKey *key);
extern void cqrs_entity_lock_begin_handler(RunningHandler *running, const EntityKey *command_of);
extern void cqrs_entity_lock_end_handler(const RunningHandler *running);
extern void cqrs_entity_lock_refuse_in_event_handler(const char *function);

#endif
