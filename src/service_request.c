/*
 * service_request.c
 *		What a caller asks of a service, as an HTTP request; what became of it.
 *
 * The credentials are those of the user mapping: a caller cannot replace a
 * header that comes from there, its signature (service_signature.c) included.
 *
 * What a breaker learns: an answer is a success unless its status is one of the
 * failure_statuses; no answer is a failure; what we refused ourselves, an answer
 * too large or an address not allowed, says nothing about the service.
 */
#include "postgres.h"

#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/fmgrprotos.h"

#include "service_request.h"
#include "service_signature.h"
#include "settings.h"

#define USER_AGENT	"pg_cqrs"

typedef struct Method
{
	const char *name;
	bool		repeatable;		/* by HTTP's own definition */
	bool		takes_body;
	bool		needs_body;		/* if only an empty one */
} Method;

static const Method methods[] = {
	{"GET", true, false, false},
	{"HEAD", true, false, false},
	{"POST", false, true, true},
	{"PUT", true, true, true},
	{"PATCH", false, true, true},
	{"DELETE", true, true, false},
};

static void take_body(FunctionCallInfo fcinfo, ServiceCall *call);
static void set_text(char *text, const char *content_type, ServiceCall *call);
static const Method *find_method(const char *name);
static List *request_headers(const ServiceOptions *options, const ServiceCall *call);
static List *mapped_headers(const ServiceOptions *options, const ServiceCall *call);
static List *signature_headers(const ServiceOptions *options, const ServiceCall *call);
static List *fields_of(Jsonb *object, const char *what);
static const char *text_of(const JsonbValue *value);
static HttpField *find_field(List *fields, const char *name);
static List *add_field(List *fields, const char *name, const char *value);
static void check_header(const char *name, const char *value);

HttpRequest *
cqrs_service_request_build(const ServiceOptions *options, const ServiceCall *call)
{
	HttpRequest *request = palloc0(sizeof(HttpRequest));
	const Method *method = find_method(call->method);
	const char *problem = cqrs_service_url_check_path(call->path);

	if (problem)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("path cannot be a part of a URL: %s", problem)));
	if (call->content_type && !method->takes_body)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("a %s request has no body", method->name)));
	request->method = method->name;
	request->url = cqrs_service_url(options->url, call->path, fields_of(call->query, "query"));
	request->headers = request_headers(options, call);
	request->body = call->content_type ? call->body : method->needs_body ? "" : NULL;
	request->body_size = call->content_type ? call->body_size : 0;
	request->repeatable = method->repeatable || find_field(request->headers, "Idempotency-Key");
	request->allow_http = options->allow_http;
	request->timeout_ms = options->call_timeout_ms;
	if (call->timeout_ms > 0)
		request->timeout_ms = Min(request->timeout_ms, call->timeout_ms);
	request->connect_timeout_ms = Min(options->connect_timeout_ms, request->timeout_ms);
	request->max_response_size = (Size) options->max_response_size_kb * 1024;
	request->user = options->user;
	request->password = options->password;
	request->sslrootcert = options->sslrootcert;
	request->sslcert = options->sslcert;
	request->sslkey = options->sslkey;
	return request;
}

/* Takes the arguments of a SQL function that all calls have. */
void
cqrs_service_request_take_call(FunctionCallInfo fcinfo, ServiceCall *call)
{
	if (PG_ARGISNULL(CALL_SERVICE) || PG_ARGISNULL(CALL_METHOD) || PG_ARGISNULL(CALL_PATH))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("service, method and path must not be NULL")));
	call->service = text_to_cstring(PG_GETARG_TEXT_PP(CALL_SERVICE));
	call->method = text_to_cstring(PG_GETARG_TEXT_PP(CALL_METHOD));
	call->path = text_to_cstring(PG_GETARG_TEXT_PP(CALL_PATH));
	call->query = PG_ARGISNULL(CALL_QUERY) ? NULL : PG_GETARG_JSONB_P(CALL_QUERY);
	call->headers = PG_ARGISNULL(CALL_HEADERS) ? NULL : PG_GETARG_JSONB_P(CALL_HEADERS);
	take_body(fcinfo, call);
}

void
cqrs_service_request_set_json(Jsonb *body, ServiceCall *call)
{
	set_text(JsonbToCString(NULL, &body->root, VARSIZE(body)), "application/json", call);
}

BreakerOutcome
cqrs_service_request_judge(const ServiceOptions *options, const HttpResponse *response)
{
	switch (response->result)
	{
		case HTTP_ANSWERED:
			return bms_is_member(response->status, options->failure_statuses) ? OUTCOME_FAILURE : OUTCOME_SUCCESS;
		case HTTP_NOT_SENT:
		case HTTP_OUTCOME_UNKNOWN:
			return response->timed_out ? OUTCOME_TIMEOUT : OUTCOME_FAILURE;
		default:
			return OUTCOME_NEUTRAL;
	}
}

/* What a breaker shows as its last error; in the current memory context. */
const char *
cqrs_service_request_error(const ServiceOptions *options, const HttpResponse *response)
{
	BreakerOutcome outcome = cqrs_service_request_judge(options, response);

	if (outcome == OUTCOME_SUCCESS || outcome == OUTCOME_NEUTRAL)
		return NULL;
	return response->result == HTTP_ANSWERED ? psprintf("status %d", response->status) : response->error;
}

static void
take_body(FunctionCallInfo fcinfo, ServiceCall *call)
{
	if (!PG_ARGISNULL(CALL_BODY) + !PG_ARGISNULL(CALL_BODY_TEXT) + !PG_ARGISNULL(CALL_BODY_BYTES) > 1)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("more than one of body, body_text and body_bytes is given")));
	if (!PG_ARGISNULL(CALL_BODY))
		cqrs_service_request_set_json(PG_GETARG_JSONB_P(CALL_BODY), call);
	else if (!PG_ARGISNULL(CALL_BODY_TEXT))
		set_text(text_to_cstring(PG_GETARG_TEXT_PP(CALL_BODY_TEXT)), "text/plain; charset=utf-8", call);
	else if (!PG_ARGISNULL(CALL_BODY_BYTES))
	{
		bytea	   *body = PG_GETARG_BYTEA_PP(CALL_BODY_BYTES);

		call->body = VARDATA_ANY(body);
		call->body_size = VARSIZE_ANY_EXHDR(body);
		call->content_type = "application/octet-stream";
	}
}

/* In UTF-8, which is what goes over the network. */
static void
set_text(char *text, const char *content_type, ServiceCall *call)
{
	call->body = pg_server_to_any(text, strlen(text), PG_UTF8);
	call->body_size = strlen(call->body);
	call->content_type = content_type;
}

static const Method *
find_method(const char *name)
{
	for (int i = 0; i < lengthof(methods); i++)
		if (pg_strcasecmp(name, methods[i].name) == 0)
			return &methods[i];
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("unknown method \"%s\"", name),
			 errhint("It is GET, HEAD, POST, PUT, PATCH or DELETE.")));
}

/*
 * Ours where nobody says anything, the caller's, then those of the user mapping.
 * A traceparent may come from the settings of the session that enqueued, so one
 * that the mapping has replaces it.
 */
static List *
request_headers(const ServiceOptions *options, const ServiceCall *call)
{
	List	   *mapped = mapped_headers(options, call);
	List	   *headers = fields_of(call->headers, "headers");
	ListCell   *cell;

	foreach(cell, headers)
	{
		HttpField  *field = lfirst(cell);

		check_header(field->name, field->value);
		if (pg_strcasecmp(field->name, "traceparent") == 0 && find_field(mapped, "traceparent"))
		{
			headers = foreach_delete_current(headers, cell);
			continue;
		}
		if (find_field(mapped, field->name) || (options->user && pg_strcasecmp(field->name, "Authorization") == 0))
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("header \"%s\" is set by the user mapping", field->name)));
	}
	if (call->idempotency_key)
	{
		check_header("Idempotency-Key", call->idempotency_key);
		if (find_field(headers, "Idempotency-Key") || find_field(mapped, "Idempotency-Key"))
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("there are two idempotency keys"),
					 errhint("Leave the header out.")));
		headers = add_field(headers, "Idempotency-Key", call->idempotency_key);
	}
	headers = list_concat(headers, mapped);
	if (!find_field(headers, "User-Agent"))
		headers = add_field(headers, "User-Agent", USER_AGENT);
	if (call->content_type && !find_field(headers, "Content-Type"))
		headers = add_field(headers, "Content-Type", call->content_type);
	if (cqrs_traceparent[0] && !find_field(headers, "traceparent"))
		headers = add_field(headers, "traceparent", cqrs_traceparent);
	return headers;
}

static List *
mapped_headers(const ServiceOptions *options, const ServiceCall *call)
{
	List	   *headers = list_copy(options->headers);

	if (options->bearer_token)
		headers = add_field(headers, "Authorization", psprintf("Bearer %s", options->bearer_token));
	if (options->signing_secret)
		headers = list_concat(headers, signature_headers(options, call));
	return headers;
}

/* Known by the idempotency key, so that all attempts have one id. */
static List *
signature_headers(const ServiceOptions *options, const ServiceCall *call)
{
	const char *id = call->idempotency_key;

	if (id == NULL)
		id = DatumGetCString(DirectFunctionCall1(uuid_out, OidFunctionCall0(F_GEN_RANDOM_UUID)));
	return cqrs_service_signature_headers(options->signing_secret, id, call->body, call->content_type ? call->body_size : 0);
}

/*
 * The members of a JSON object; of an array, each element for itself.  NULLs
 * are left out.
 */
static List *
fields_of(Jsonb *object, const char *what)
{
	JsonbIterator *iterator;
	JsonbIteratorToken token;
	JsonbValue	value;
	const char *name = NULL;
	List	   *fields = NIL;

	if (object == NULL)
		return NIL;
	if (!JB_ROOT_IS_OBJECT(object))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s is not a JSON object", what)));
	iterator = JsonbIteratorInit(&object->root);
	(void) JsonbIteratorNext(&iterator, &value, false);
	while ((token = JsonbIteratorNext(&iterator, &value, false)) != WJB_DONE)
	{
		if (token == WJB_KEY)
			name = text_of(&value);
		else if (token == WJB_BEGIN_OBJECT)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("\"%s\" in %s is neither a text nor an array of texts", name, what)));
		else if ((token == WJB_VALUE || token == WJB_ELEM) && value.type != jbvNull)
			fields = add_field(fields, name, text_of(&value));
	}
	return fields;
}

/* In UTF-8, too. */
static const char *
text_of(const JsonbValue *value)
{
	char	   *text;

	switch (value->type)
	{
		case jbvString:
			text = pnstrdup(value->val.string.val, value->val.string.len);

			break;
		case jbvNumeric:
			text = DatumGetCString(DirectFunctionCall1(numeric_out, NumericGetDatum(value->val.numeric)));

			break;
		case jbvBool:
			text = value->val.boolean ? "true" : "false";

			break;
		default:
			elog(ERROR, "unexpected JSON value of type %d", (int) value->type);
	}
	return pg_server_to_any(text, strlen(text), PG_UTF8);
}

static HttpField *
find_field(List *fields, const char *name)
{
	ListCell   *cell;

	foreach(cell, fields)
	{
		HttpField  *field = lfirst(cell);

		if (pg_strcasecmp(field->name, name) == 0)
			return field;
	}
	return NULL;
}

static List *
add_field(List *fields, const char *name, const char *value)
{
	HttpField  *field = palloc(sizeof(HttpField));

	field->name = name;
	field->value = value;
	return lappend(fields, field);
}

/* A value may be a secret, so it is not quoted. */
static void
check_header(const char *name, const char *value)
{
	const char *problem = cqrs_service_url_check_header(name, value);

	if (problem)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("header \"%s\" cannot be sent: %s", name, problem)));
}
