/*
 * service_signature.h
 *		Signatures of requests, as Standard Webhooks has them.
 */
#ifndef CQRS_SERVICE_SIGNATURE_H
#define CQRS_SERVICE_SIGNATURE_H

#include "nodes/pg_list.h"

extern bool cqrs_service_signature_check(const char *secrets);
extern bool cqrs_service_signature_is_header(const char *name);
extern List *cqrs_service_signature_headers(const char *secrets, const char *id, const char *body, Size body_size);

#endif
