/*
 * service_control.c
 *		Circuit breakers in people's hands: looked at, ordered, and put around
 *		calls that are made by other means than cqrs.call.
 *
 * Orders last until cqrs.reset_breaker or the next start of the server; what is
 * to last longer is the option breaker of the server.  They are for the owner of
 * the server, since they decide for all who call it.
 */
#include "postgres.h"

#include <math.h>

#include "catalog/pg_type.h"
#include "funcapi.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/timestamp.h"

#include "entity_lock.h"
#include "service_breaker.h"
#include "worker.h"

static Datum order(FunctionCallInfo fcinfo, BreakerMode mode);
static const char *state_name(const Breaker *breaker, const ServiceOptions *options, int64 left_us);
static Datum interval_of_us(int64 us);
static BreakerOutcome outcome_of(const char *name);

/* One row about the breaker of a service: state, counters, latencies, last error. */
PG_FUNCTION_INFO_V1(cqrs_breaker);
Datum
cqrs_breaker(PG_FUNCTION_ARGS)
{
	static const double quantiles[] = {0.5, 0.95, 0.99};
	ServiceOptions *options = cqrs_service_options_load_server(text_to_cstring(PG_GETARG_TEXT_PP(0)));
	Breaker		breaker = {0};
	int64		left_us = 0;
	int			n = 0;
	Datum		values[16];
	bool		nulls[16] = {false};
	TupleDesc	desc;

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	(void) cqrs_service_breaker_look(options, &breaker);
	if (breaker.state == BREAKER_OPEN)
		left_us = cqrs_service_breaker_state_left_us(&breaker, options, cqrs_service_breaker_now_us());

	values[n++] = CStringGetTextDatum(state_name(&breaker, options, left_us));
	values[n++] = Int32GetDatum(breaker.consecutive_failures);
	nulls[n] = left_us == 0;
	values[n++] = interval_of_us(left_us);
	nulls[n] = breaker.probe_pid == 0;
	values[n++] = Int32GetDatum(breaker.probe_pid);
	values[n++] = Int32GetDatum(breaker.in_flight);
	values[n++] = Int64GetDatum(breaker.calls);
	values[n++] = Int64GetDatum(breaker.successes);
	values[n++] = Int64GetDatum(breaker.failures);
	values[n++] = Int64GetDatum(breaker.timeouts);
	values[n++] = Int64GetDatum(breaker.rejected);
	values[n++] = Int64GetDatum(breaker.opened);
	for (int i = 0; i < lengthof(quantiles); i++)
	{
		double		latency_ms = cqrs_service_latency_quantile_ms(&breaker.latency, quantiles[i]);

		nulls[n] = isnan(latency_ms);
		values[n++] = Float8GetDatum(latency_ms);
	}
	nulls[n] = nulls[n + 1] = breaker.last_error[0] == '\0';
	values[n++] = CStringGetTextDatum(breaker.last_error);
	values[n++] = TimestampTzGetDatum(breaker.last_error_at);
	Assert(n == lengthof(values) && n == desc->natts);
	return HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, nulls));
}

PG_FUNCTION_INFO_V1(cqrs_force_open);
Datum
cqrs_force_open(PG_FUNCTION_ARGS)
{
	return order(fcinfo, BREAKER_FORCED_OPEN);
}

PG_FUNCTION_INFO_V1(cqrs_disable_breaker);
Datum
cqrs_disable_breaker(PG_FUNCTION_ARGS)
{
	return order(fcinfo, BREAKER_OFF);
}

PG_FUNCTION_INFO_V1(cqrs_reset_breaker);
Datum
cqrs_reset_breaker(PG_FUNCTION_ARGS)
{
	return order(fcinfo, BREAKER_ON);
}

/* Asks the breaker of a service for a call; gives a ticket for cqrs.end_call. */
PG_FUNCTION_INFO_V1(cqrs_begin_call);
Datum
cqrs_begin_call(PG_FUNCTION_ARGS)
{
	ServiceOptions *options = cqrs_service_options_load(text_to_cstring(PG_GETARG_TEXT_PP(0)), GetUserId());
	BreakerRejection rejection;
	BreakerPermit *permit;

	cqrs_entity_lock_refuse_effect("begin_call");
	permit = cqrs_service_breaker_admit(options, BREAKER_OF_TRANSACTION, &rejection);
	if (permit == NULL)
		cqrs_service_breaker_raise(options, &rejection);
	PG_RETURN_INT64(cqrs_service_breaker_ticket(permit));
}

PG_FUNCTION_INFO_V1(cqrs_end_call);
Datum
cqrs_end_call(PG_FUNCTION_ARGS)
{
	BreakerPermit *permit = PG_ARGISNULL(0) ? NULL : cqrs_service_breaker_permit_of(PG_GETARG_INT64(0));
	BreakerOutcome outcome = outcome_of(PG_ARGISNULL(1) ? "NULL" : text_to_cstring(PG_GETARG_TEXT_PP(1)));
	char	   *error = PG_ARGISNULL(2) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(2));

	if (permit == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("no call of this ticket is under way"),
				 errdetail("A ticket is good for one cqrs.end_call in the transaction of its cqrs.begin_call.")));
	if (error)
		error[pg_mbcliplen(error, strlen(error), BREAKER_ERROR_SIZE - 1)] = '\0';
	cqrs_service_breaker_settle(permit, outcome, error);
	PG_RETURN_VOID();
}

static Datum
order(FunctionCallInfo fcinfo, BreakerMode mode)
{
	ServiceOptions *options = cqrs_service_options_load_server(text_to_cstring(PG_GETARG_TEXT_PP(0)));

	if (!has_privs_of_role(GetUserId(), options->owner))
		aclcheck_error(ACLCHECK_NOT_OWNER, OBJECT_FOREIGN_SERVER, options->name);
	cqrs_service_breaker_order(options, mode);
	cqrs_worker_tell_at_commit();
	PG_RETURN_VOID();
}

/* An open breaker whose time is over is half-open, though nobody has called yet. */
static const char *
state_name(const Breaker *breaker, const ServiceOptions *options, int64 left_us)
{
	BreakerMode mode = cqrs_service_breaker_state_mode(breaker, options);

	if (mode == BREAKER_FORCED_OPEN)
		return "forced_open";
	if (mode == BREAKER_OFF)
		return "disabled";
	if (breaker->state == BREAKER_CLOSED)
		return "closed";
	return left_us > 0 ? "open" : "half_open";
}

static Datum
interval_of_us(int64 us)
{
	Interval   *interval = palloc0(sizeof(Interval));

	interval->time = us;
	return IntervalPGetDatum(interval);
}

static BreakerOutcome
outcome_of(const char *name)
{
	static const char *const names[] = {
		[OUTCOME_SUCCESS] = "success",
		[OUTCOME_FAILURE] = "failure",
		[OUTCOME_TIMEOUT] = "timeout",
		[OUTCOME_NEUTRAL] = "neutral"
	};

	for (int i = 0; i < lengthof(names); i++)
		if (strcmp(name, names[i]) == 0)
			return i;
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("unknown outcome \"%s\"", name),
			 errhint("It is success, failure, timeout or neutral.")));
}
