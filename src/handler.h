/*
 * handler.h
 *		Users' functions: found by name, checked, called.
 */
#ifndef CQRS_HANDLER_H
#define CQRS_HANDLER_H

#include "fmgr.h"
#include "lib/stringinfo.h"

typedef enum HandlerKind
{
	HANDLER_COMMAND,
	HANDLER_EVENT,
	HANDLER_UPCAST,
	HANDLER_PROJECT,			/* an event at a time */
	HANDLER_PROJECT_ALL,		/* a batch of events at a time */
	HANDLER_PREPARE
} HandlerKind;

typedef struct Handler
{
	HandlerKind kind;
	/* Registration */
	char	   *signature;		/* with all names qualified */
	char	   *search_path;	/* pinned when it was registered */
	/* Call */
	MemoryContext context;		/* of what the function keeps between calls */
	Oid			function;		/* invalid: to be looked up */
	bool		running;
	FmgrInfo	flinfo;
} Handler;

extern const char *cqrs_handler_kind_name(HandlerKind kind);

/* Called at registration, as the one who registers. */
extern char *cqrs_handler_find(HandlerKind kind, text *name, Oid owner);
extern char *cqrs_handler_find_projection(text *name, Oid owner);
extern char *cqrs_handler_pin_search_path(void);
extern void cqrs_handler_warn_if_public(const char *signature);

/* Called with what was registered, in a scope of our own. */
extern HandlerKind cqrs_handler_projection_kind(const char *signature);
extern void cqrs_handler_describe(const Handler *handler, StringInfo description);
extern void cqrs_handler_resolve(Handler *handler, Oid owner);
extern Datum cqrs_handler_call(Handler *handler, const Datum *args, bool *isnull);

#endif
