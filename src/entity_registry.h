/*
 * entity_registry.h
 *		What is registered about entity types, kept in each backend.
 */
#ifndef CQRS_ENTITY_REGISTRY_H
#define CQRS_ENTITY_REGISTRY_H

#include "utils/jsonb.h"

#include "handler.h"
#include "registry.h"

typedef struct RegisteredHandler
{
	/* Key, in the order they are sorted by */
	HandlerKind kind;
	text	   *name;			/* command or event type; '*' for all others */
	int			from_version;	/* of an upcaster, else 0 */
	Handler		handler;
} RegisteredHandler;

typedef struct EntityType
{
	Registered	registered;		/* first */
	Oid			owner;			/* invalid if the role is gone */
	char	   *owner_name;
	/* Settings */
	Jsonb	   *initial_state;
	int			snapshot_every;
	int			keep_snapshots;
	bool		follows_forgotten;	/* may it be written to again? */
	/* Handlers */
	int64		generation;		/* changes with whatever a state depends on */
	RegisteredHandler *handlers;
	int			handler_count;
} EntityType;

/* Called by module.c at load. */
extern void cqrs_entity_registry_init(void);

/* Valid until the end of the transaction. */
extern EntityType *cqrs_entity_registry_find(text *name);
extern EntityType *cqrs_entity_registry_get(text *name);
extern EntityType *cqrs_entity_registry_get_owned(text *name);

extern Handler *cqrs_entity_registry_handler(EntityType *entity, HandlerKind kind, text *name);
extern RegisteredHandler *cqrs_entity_registry_upcaster(EntityType *entity, text *event_type, int schema_version);
extern int	cqrs_entity_registry_schema_version(EntityType *entity, text *event_type);

/* Called when the tables or what they depend on were changed. */
extern void cqrs_entity_registry_changed(void);

#endif
