/*
 * service_options.h
 *		Services as people register them: foreign servers and user mappings.
 */
#ifndef CQRS_SERVICE_OPTIONS_H
#define CQRS_SERVICE_OPTIONS_H

#include "nodes/bitmapset.h"
#include "nodes/pg_list.h"

typedef enum BreakerMode
{
	BREAKER_ON,
	BREAKER_OFF,
	BREAKER_FORCED_OPEN
} BreakerMode;

typedef struct ServiceOptions
{
	Oid			server;
	const char *name;
	Oid			owner;
	/* Server */
	const char *url;
	bool		allow_http;
	int			call_timeout_ms;
	int			connect_timeout_ms;
	int			max_concurrency;	/* 0: no limit */
	int			max_response_size_kb;
	const char *sslrootcert;
	const char *event_source;	/* NULL: named after the database */
	/* Breaker */
	BreakerMode breaker;
	int			max_failures;
	int			reset_timeout_ms;
	int			max_reset_timeout_ms;
	double		backoff_factor;
	double		jitter;
	Bitmapset  *failure_statuses;
	/* User mapping; NULL where there is none */
	const char *bearer_token;
	const char *user;
	const char *password;
	const char *signing_secret; /* or several; see service_signature.c */
	const char *sslcert;
	const char *sslkey;
	List	   *headers;		/* of HttpField */
} ServiceOptions;

/* What is allocated is in the current memory context. */
extern ServiceOptions *cqrs_service_options_load(const char *name, Oid role);
extern ServiceOptions *cqrs_service_options_load_server(const char *name);

#endif
