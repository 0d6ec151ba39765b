/*
 * service_url.h
 *		What a request's URL and headers are made of, checked.
 */
#ifndef CQRS_SERVICE_URL_H
#define CQRS_SERVICE_URL_H

#include "nodes/pg_list.h"

/* A header, or a parameter of a query. */
typedef struct HttpField
{
	const char *name;
	const char *value;
} HttpField;

extern char *cqrs_service_url(const char *base, const char *path, List *query);

/* These return NULL, or what is wrong, for people. */
extern const char *cqrs_service_url_check_base(const char *base, bool *is_https);
extern const char *cqrs_service_url_check_path(const char *path);
extern const char *cqrs_service_url_check_header(const char *name, const char *value);

#endif
