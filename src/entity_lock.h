/*
 * entity_lock.h
 *		One writer per entity, one command at a time.
 */
#ifndef CQRS_ENTITY_LOCK_H
#define CQRS_ENTITY_LOCK_H

#include "slice.h"

typedef enum RunningKind
{
	RUNNING_COMMAND,			/* decides on a command to an entity */
	RUNNING_INSERT,				/* events of an entity, and their triggers */
	RUNNING_FOLD,				/* computes a state */
	RUNNING_REPLAY				/* projects events that were projected before */
} RunningKind;

/* What runs between begin and end; a list through the C stack. */
typedef struct RunningHandler
{
	RunningKind kind;
	const EntityKey *entity;	/* of a command, else NULL */
	struct RunningHandler *outer;
} RunningHandler;

/* Called by module.c at load. */
extern void cqrs_entity_lock_init(void);

extern bool cqrs_entity_lock_acquire(const EntityKey *key);
extern bool cqrs_entity_lock_is_held(const EntityKey *key);
extern void cqrs_entity_lock_exclude_unlocked(void);
extern void cqrs_entity_lock_begin_handler(RunningHandler *running, RunningKind kind, const EntityKey *entity);
extern void cqrs_entity_lock_end_handler(const RunningHandler *running);
extern void cqrs_entity_lock_refuse_effect(const char *function);

#endif
