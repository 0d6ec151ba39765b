/*
 * service_http.h
 *		HTTP transfers, any number at once, in one wait with the latch.
 *
 * The caller of cqrs_service_http_start() frees the transfer, after an error
 * too, and keeps the request until then:
 *
 *		transfer = cqrs_service_http_start(&request);
 *		while (cqrs_service_http_response(transfer)->result == HTTP_UNDER_WAY)
 *		{
 *			(void) cqrs_service_http_poll(-1);
 *			CHECK_FOR_INTERRUPTS();
 *		}
 *		...
 *		cqrs_service_http_free(transfer);
 */
#ifndef CQRS_SERVICE_HTTP_H
#define CQRS_SERVICE_HTTP_H

#include "service_url.h"

typedef struct HttpRequest
{
	const char *method;
	const char *url;			/* made by cqrs_service_url() */
	List	   *headers;		/* of HttpField, checked */
	const char *body;			/* NULL: none */
	Size		body_size;
	bool		repeatable;		/* does no harm if it arrives twice */
	bool		allow_http;		/* without TLS */
	int			timeout_ms;
	int			connect_timeout_ms;
	Size		max_response_size;
	const char *user;			/* and password, or NULL */
	const char *password;
	const char *sslrootcert;	/* files, or NULL */
	const char *sslcert;
	const char *sslkey;
} HttpRequest;

typedef enum HttpResult
{
	HTTP_UNDER_WAY,
	HTTP_ANSWERED,
	HTTP_NOT_SENT,				/* the service got nothing of it */
	HTTP_OUTCOME_UNKNOWN,		/* it may have got it */
	HTTP_TOO_LARGE,				/* an answer that we refuse to take */
	HTTP_ADDRESS_REFUSED,		/* nothing was connected */
	HTTP_OUT_OF_MEMORY
} HttpResult;

#define HTTP_ERROR_SIZE 256

typedef struct HttpResponse
{
	HttpResult	result;
	bool		timed_out;
	char		error[HTTP_ERROR_SIZE]; /* printable; no secrets */
	int			status;
	const char *body;			/* lives as long as the transfer */
	Size		body_size;
	int64		retry_after_s;	/* 0: not said */
	int64		elapsed_us;
} HttpResponse;

typedef struct HttpTransfer HttpTransfer;

extern void cqrs_service_http_keep(int connections);
extern HttpTransfer *cqrs_service_http_start(const HttpRequest *request);
extern bool cqrs_service_http_poll(long timeout_ms);
extern const HttpResponse *cqrs_service_http_response(const HttpTransfer *transfer);
extern List *cqrs_service_http_headers(const HttpTransfer *transfer);
extern void cqrs_service_http_free(HttpTransfer *transfer);

#endif
