/*
 * new_event.h
 *		Events that are to be written, as users hand them over.
 */
#ifndef CQRS_NEW_EVENT_H
#define CQRS_NEW_EVENT_H

#include "utils/jsonb.h"
#include "utils/uuid.h"

typedef struct NewEvent
{
	text	   *event_type;
	Jsonb	   *data;
	Jsonb	   *metadata;		/* or NULL */
} NewEvent;

/* What has a handler called, for the metadata of the events that it writes. */
typedef struct Cause
{
	const char *kind;			/* "projection", "timer" */
	const char *name;
	int64		position;		/* of the event; of the last one of a batch;
								 * 0: there is none */
} Cause;

extern const Cause *cqrs_new_event_set_cause(const Cause *cause);

extern NewEvent *cqrs_new_event_parse(Datum array, int *count);
extern text *cqrs_new_event_check_name(text *name, const char *what);
extern text *cqrs_new_event_check_type(text *event_type);
extern Jsonb *cqrs_new_event_check_data(Jsonb *data, const text *event_type);
extern void cqrs_new_event_check_metadata(Jsonb *metadata);
extern Jsonb *cqrs_new_event_metadata(Jsonb *of_command, Jsonb *of_event, const char *sender, const pg_uuid_t *command_id);

#endif
