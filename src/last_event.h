/*
 * last_event.h
 *		The last event of each entity that was written to lately, in shared memory.
 */
#ifndef CQRS_LAST_EVENT_H
#define CQRS_LAST_EVENT_H

#include "datatype/timestamp.h"

#include "slice.h"

typedef enum LastEventSource
{
	LAST_READ,					/* in the journal */
	LAST_KNOWN,					/* from here */
	LAST_ASSUMED				/* nobody looked, as the entity should be new */
} LastEventSource;

/* The last event of an entity; version 0 where there is none. */
typedef struct LastEvent
{
	int64		version;
	int64		position;
	TimestampTz created_at;
	bool		forgotten;		/* it is a tombstone: there is no entity */
	LastEventSource source;
	bool		locked;			/* nobody else can append before we end */
} LastEvent;

/* Called by module.c at load. */
extern void cqrs_last_event_init(void);

/* The guard is the trigger of the journal that keeps everybody else from changing it. */
extern bool cqrs_last_event_find(Oid guard, const EntityKey *key, LastEvent *last);
extern int64 cqrs_last_event_hint(Oid guard, const EntityKey *key);
extern void cqrs_last_event_remember_hint(Oid guard, const EntityKey *key, int64 version);
extern void cqrs_last_event_doubt(Oid guard, const EntityKey *key);
extern void cqrs_last_event_will_be(Oid guard, const EntityKey *key, const LastEvent *last, bool locked);
extern void cqrs_last_event_forget_all(void);

#endif
