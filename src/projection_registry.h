/*
 * projection_registry.h
 *		What is registered about projections, kept in each backend.
 */
#ifndef CQRS_PROJECTION_REGISTRY_H
#define CQRS_PROJECTION_REGISTRY_H

#include "utils/array.h"

#include "handler.h"
#include "registry.h"

/* Name and trigger, which is called PREFIX and the name, are identifiers. */
#define CQRS_PROJECTION_TRIGGER_PREFIX	"projection_"
#define CQRS_PROJECTION_MAX_NAME \
	((int) (NAMEDATALEN - sizeof(CQRS_PROJECTION_TRIGGER_PREFIX)))

typedef enum ProjectionState
{
	PROJECTION_RUNNING,
	PROJECTION_PAUSED,
	PROJECTION_STOPPED
} ProjectionState;

typedef enum ProjectionOnFailure
{
	PROJECTION_PARK,
	PROJECTION_STOP,
	PROJECTION_SKIP
} ProjectionOnFailure;

typedef struct Projection
{
	Registered	registered;		/* first */
	const char *name;			/* the same for C */
	int64		revision;
	Oid			owner;			/* invalid if the role is gone */
	char	   *owner_name;
	/* What it does */
	Handler		handler;		/* HANDLER_PROJECT or HANDLER_PROJECT_ALL */
	Handler    *prepare;		/* or NULL */
	bool		sync;
	ArrayType  *entity_types;	/* NULL: all */
	ArrayType  *event_types;	/* NULL: all */
	char	  **tables;			/* qualified names */
	int			table_count;
	int			batch_size;
	int			partitions;		/* wanted; maybe not so many yet */
	int			handler_timeout_ms;
	int64		start_position;
	bool		replay_side_effects;
	/* What happens when it fails */
	ProjectionOnFailure on_failure;
	int			max_retries;
	int			max_parked;
	/* How it stands */
	ProjectionState state;
	bool		has_trigger;
	bool		rebuild;
	int64		barrier;		/* 0: none */
} Projection;

/* Called by module.c at load. */
extern void cqrs_projection_registry_init(void);

/* Valid until the end of the transaction. */
extern Projection *cqrs_projection_registry_find(text *name);
extern Projection *cqrs_projection_registry_get_owned(text *name);
extern Projection *cqrs_projection_registry_reload(text *name);
extern void cqrs_projection_registry_forget(void);
extern uint64 cqrs_projection_registry_changes(void);
extern bool cqrs_projection_registry_takes(const Projection *projection, text *entity_type, text *event_type);

/* Called when the table or what it depends on was changed. */
extern void cqrs_projection_registry_changed(void);

#endif
