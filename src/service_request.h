/*
 * service_request.h
 *		What a caller asks of a service, as an HTTP request; what became of it.
 */
#ifndef CQRS_SERVICE_REQUEST_H
#define CQRS_SERVICE_REQUEST_H

#include "fmgr.h"
#include "utils/jsonb.h"

#include "service_breaker.h"
#include "service_http.h"

/* The first arguments of the SQL functions that take a call; their own come after. */
typedef enum CallArgument
{
	CALL_SERVICE,
	CALL_METHOD,
	CALL_PATH,
	CALL_BODY,					/* three since overloads would take JSON for
								 * text */
	CALL_BODY_TEXT,
	CALL_BODY_BYTES,
	CALL_QUERY,
	CALL_HEADERS,
	CALL_ARGUMENTS				/* how many */
} CallArgument;

typedef struct ServiceCall
{
	const char *service;
	const char *method;
	const char *path;
	const char *content_type;	/* NULL: no body */
	const char *body;
	Size		body_size;
	Jsonb	   *query;			/* objects, or NULL */
	Jsonb	   *headers;
	const char *idempotency_key;	/* or NULL */
	int			timeout_ms;		/* 0: as the service has it */
} ServiceCall;

extern void cqrs_service_request_take_call(FunctionCallInfo fcinfo, ServiceCall *call);
extern void cqrs_service_request_set_json(Jsonb *body, ServiceCall *call);

/* In the current memory context; refers to the options and the call. */
extern HttpRequest *cqrs_service_request_build(const ServiceOptions *options, const ServiceCall *call);

/* Of a transfer that is over: what the breaker is to learn, and the error, or NULL. */
extern BreakerOutcome cqrs_service_request_judge(const ServiceOptions *options, const HttpResponse *response);
extern const char *cqrs_service_request_error(const ServiceOptions *options, const HttpResponse *response);

#endif
