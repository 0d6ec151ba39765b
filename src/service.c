/*
 * service.c
 *		cqrs.call: calls a service and waits for the answer.
 *
 * The call is a part of the caller's statement: it ends at once when that is
 * canceled or times out, and never lasts longer than the service's
 * call_timeout.  An error tells whether the service may have got the request
 * (QR011) or cannot have (QR012).  The answer's status is no error.
 *
 * The breaker learns the outcome before the caller does.  A call that is
 * canceled says nothing about the service.
 *
 * What the call holds meanwhile is the caller's transaction, with its snapshot
 * and locks.  If that has appended events every reader of the journal in order
 * waits for it, so it is refused then.
 */
#include "postgres.h"

#include "funcapi.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/timestamp.h"

#include "duration.h"
#include "entity_lock.h"
#include "errors.h"
#include "position.h"
#include "service_request.h"
#include "service_response.h"
#include "settings.h"

/* The arguments of cqrs.call after those of all calls */
enum
{
	ARG_IDEMPOTENCY_KEY = CALL_ARGUMENTS,
	ARG_TIMEOUT
};

static void refuse_after_append(void);
static int	timeout_argument(FunctionCallInfo fcinfo);
static const HttpResponse *wait_for_answer(HttpTransfer *transfer);
static void raise_failure(const ServiceOptions *options, const ServiceCall *call, const HttpResponse *response);
static Datum build_row(FunctionCallInfo fcinfo, const HttpTransfer *transfer);

PG_FUNCTION_INFO_V1(cqrs_call);
Datum
cqrs_call(PG_FUNCTION_ARGS)
{
	ServiceCall call = {0};
	ServiceOptions *options;
	HttpRequest *request;
	BreakerRejection rejection;
	BreakerPermit *volatile permit;
	HttpTransfer *volatile transfer = NULL;
	Datum		row;

	cqrs_entity_lock_refuse_effect("call");
	refuse_after_append();
	cqrs_service_request_take_call(fcinfo, &call);
	if (!PG_ARGISNULL(ARG_IDEMPOTENCY_KEY))
		call.idempotency_key = text_to_cstring(PG_GETARG_TEXT_PP(ARG_IDEMPOTENCY_KEY));
	call.timeout_ms = timeout_argument(fcinfo);
	options = cqrs_service_options_load(call.service, GetUserId());
	request = cqrs_service_request_build(options, &call);
	permit = cqrs_service_breaker_admit(options, BREAKER_OF_TRANSACTION, &rejection);
	if (permit == NULL)
		cqrs_service_breaker_raise(options, &rejection);

	PG_TRY();
	{
		const HttpResponse *response;
		BreakerPermit *admitted = permit;

		transfer = cqrs_service_http_start(request);
		response = wait_for_answer(transfer);
		permit = NULL;
		cqrs_service_breaker_settle(admitted, cqrs_service_request_judge(options, response),
									cqrs_service_request_error(options, response));
		if (response->result != HTTP_ANSWERED)
			raise_failure(options, &call, response);
		row = build_row(fcinfo, transfer);
	}
	PG_FINALLY();
	{
		if (permit)
			cqrs_service_breaker_settle(permit, OUTCOME_NEUTRAL, NULL);
		if (transfer)
			cqrs_service_http_free(transfer);
	}
	PG_END_TRY();
	return row;
}

static void
refuse_after_append(void)
{
	if (cqrs_position_held_by_me() && !cqrs_allow_call_after_append)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("cannot call a service in a transaction that has appended"),
				 errdetail("All readers of the journal in order would wait for the service."),
				 errhint("Call first, or commit first.")));
}

/* 0 if there is none. */
static int
timeout_argument(FunctionCallInfo fcinfo)
{
	double		timeout_ms;

	if (PG_ARGISNULL(ARG_TIMEOUT))
		return 0;
	timeout_ms = cqrs_duration_ms(PG_GETARG_INTERVAL_P(ARG_TIMEOUT));
	if (timeout_ms < 1)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("timeout is less than a millisecond")));
	return (int) Min(timeout_ms, INT_MAX);
}

static const HttpResponse *
wait_for_answer(HttpTransfer *transfer)
{
	const HttpResponse *response = cqrs_service_http_response(transfer);

	while (response->result == HTTP_UNDER_WAY)
	{
		(void) cqrs_service_http_poll(-1);
		CHECK_FOR_INTERRUPTS();
	}
	return response;
}

/* There is no answer, or none that we take. */
static void
raise_failure(const ServiceOptions *options, const ServiceCall *call, const HttpResponse *response)
{
	const char *key = call->idempotency_key;

	switch (response->result)
	{
		case HTTP_OUTCOME_UNKNOWN:
			ereport(ERROR,
					(errcode(CQRS_OUTCOME_UNKNOWN),
					 response->timed_out ? errmsg("call of service \"%s\" timed out, its outcome is unknown", options->name) :
					 errmsg("call of service \"%s\" broke off, its outcome is unknown", options->name),
					 key ? errdetail("Idempotency key: %s. %s.", key, response->error) :
					 errdetail("%s.", response->error),
					 key ? errhint("Repeat it with the same idempotency key.") :
					 errhint("Ask the service; with an idempotency_key the call could be repeated.")));
			break;
		case HTTP_NOT_SENT:
			ereport(ERROR,
					(errcode(CQRS_NOT_DELIVERED),
					 errmsg("service \"%s\" was not reached", options->name),
					 errdetail("%s.", response->error)));
			break;
		case HTTP_ADDRESS_REFUSED:
			ereport(ERROR,
					(errcode(CQRS_NOT_DELIVERED),
					 errmsg("service \"%s\" is at an address that is not called", options->name),
					 errdetail("It is link-local, a metadata service's, multicast or reserved."),
					 errhint("A superuser can set cqrs.allow_link_local_addresses.")));
			break;
		case HTTP_TOO_LARGE:
			ereport(ERROR,
					(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
					 errmsg("the answer of service \"%s\" is too large", options->name),
					 errdetail("The service has got the request. The option max_response_size of the server is %d kB.",
							   options->max_response_size_kb)));
			break;
		default:
			ereport(ERROR,
					(errcode(ERRCODE_OUT_OF_MEMORY),
					 errmsg("there is no memory or file descriptor for a call of service \"%s\"", options->name)));
	}
}

static Datum
build_row(FunctionCallInfo fcinfo, const HttpTransfer *transfer)
{
	const HttpResponse *response = cqrs_service_http_response(transfer);
	Jsonb	   *body = cqrs_service_response_json(transfer);
	bytea	   *content = palloc(VARHDRSZ + response->body_size);
	Datum		values[4];
	bool		nulls[4] = {false};
	TupleDesc	desc;

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	SET_VARSIZE(content, VARHDRSZ + response->body_size);
	if (response->body_size > 0)
		memcpy(VARDATA(content), response->body, response->body_size);
	values[0] = Int32GetDatum(response->status);
	values[1] = JsonbPGetDatum(cqrs_service_response_headers(transfer));
	values[2] = JsonbPGetDatum(body);
	nulls[2] = body == NULL;
	values[3] = PointerGetDatum(content);
	return HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, nulls));
}
