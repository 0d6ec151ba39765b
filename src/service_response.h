/*
 * service_response.h
 *		What a service answered, in PostgreSQL's types.
 */
#ifndef CQRS_SERVICE_RESPONSE_H
#define CQRS_SERVICE_RESPONSE_H

#include "utils/jsonb.h"

#include "service_http.h"

/* In the current memory context; inside a transaction. */
extern Jsonb *cqrs_service_response_headers(const HttpTransfer *transfer);
extern Jsonb *cqrs_service_response_json(const HttpTransfer *transfer);

#endif
