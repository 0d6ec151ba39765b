/*
 * registry.h
 *		What is registered under a name, kept in each backend.
 */
#ifndef CQRS_REGISTRY_H
#define CQRS_REGISTRY_H

#include "utils/hsearch.h"

/* What a registry keeps begins with this. */
typedef struct Registered
{
	text	   *name;
	MemoryContext context;		/* of its own; made by load */
} Registered;

typedef struct Registry
{
	const char *table;			/* of the schema cqrs: whose messages count */
	/* Reads an entry into a context of its own below the parent, or NULL. */
	Registered *(*load) (text *name, MemoryContext parent);
	/* Kept */
	HTAB	   *entries;
	MemoryContext context;
	Oid			relid;
	bool		stale;
	uint64		changes;		/* how often it became so */
} Registry;

/* Called by the init function of a concept; the registry must be static. */
extern void cqrs_registry_register(Registry *registry);

/* Called by module.c at load. */
extern void cqrs_registry_init(void);

/* Valid until the end of the transaction; NULL if there is none. */
extern Registered *cqrs_registry_find(Registry *registry, text *name);
extern Registered *cqrs_registry_find_again(Registry *registry, text *name);

/* Called when the table or what it depends on was changed. */
extern void cqrs_registry_changed(Registry *registry);
extern void cqrs_registry_invalidate(Registry *registry);

#endif
