/*
 * outbox_event.h
 *		An event as a request: CloudEvents 1.0 over HTTP, in binary mode.
 */
#ifndef CQRS_OUTBOX_EVENT_H
#define CQRS_OUTBOX_EVENT_H

#include "service_request.h"

/* Makes the event the body of a call, adds its headers, and returns its subject: the entity. */
extern char *cqrs_outbox_event_take(Datum event, const char *source, ServiceCall *call);

#endif
