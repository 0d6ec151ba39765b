/*
 * outbox_event.c
 *		An event as a request: CloudEvents 1.0 over HTTP, in binary mode.
 *
 * The body is the event's data, as JSON; what else it is stands in headers:
 *
 *		ce-id				the position		ce-type		the event type
 *		ce-source			the service's event_source, else "/" and the database
 *		ce-subject			entity type and id, with "/" between
 *		ce-time				created_at, in UTC
 *		ce-entityversion, ce-schemaversion
 *
 * So source and id name the event and not the delivery: whoever gets it twice,
 * by whatever way, can tell.  Metadata stays here: it says who sent what.
 *
 * Values are percent-encoded as the binding wants it, which is not as in URLs:
 * a percent sign that is there already is encoded, too.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "commands/dbcommands.h"
#include "lib/stringinfo.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/datetime.h"
#include "utils/fmgrprotos.h"
#include "utils/json.h"
#include "utils/timestamp.h"
#include "utils/typcache.h"

#include "catalog.h"
#include "journal.h"
#include "outbox_event.h"

#define PREFIX	"ce-"

static void deform_event(Datum event, Datum *attributes);
static Jsonb *event_headers(const Datum *attributes, const char *source, const char *subject);
static void push_header(JsonbParseState **state, const char *name, const char *value);
static const char *encode(const char *value);
static const char *time_of(TimestampTz time);
static void check_headers(Jsonb *headers);

/* Everything is in the current memory context. */
char *
cqrs_outbox_event_take(Datum event, const char *source, ServiceCall *call)
{
	Datum		attributes[EVENT_ATTRIBUTES];
	char	   *subject;
	Jsonb	   *headers;

	deform_event(event, attributes);
	if (call->content_type)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("both a body and an event are given")));
	cqrs_service_request_set_json(DatumGetJsonbP(attributes[EVENT_DATA - 1]), call);
	subject = psprintf("%s/%s", TextDatumGetCString(attributes[EVENT_ENTITY_TYPE - 1]),
					   TextDatumGetCString(attributes[EVENT_ENTITY_ID - 1]));
	headers = event_headers(attributes, source, subject);
	if (call->headers)
	{
		check_headers(call->headers);
		headers = DatumGetJsonbP(DirectFunctionCall2(jsonb_concat, JsonbPGetDatum(call->headers), JsonbPGetDatum(headers)));
	}
	call->headers = headers;
	return subject;
}

/* All but the metadata must be there, which holds for what comes from the journal. */
static void
deform_event(Datum event, Datum *attributes)
{
	HeapTupleHeader row = DatumGetHeapTupleHeader(event);
	HeapTupleData tuple = {.t_len = HeapTupleHeaderGetDatumLength(row), .t_data = row};
	TupleDesc	desc = lookup_rowtype_tupdesc(cqrs_catalog_type("event"), -1);
	bool		nulls[EVENT_ATTRIBUTES];

	heap_deform_tuple(&tuple, desc, attributes, nulls);
	ReleaseTupleDesc(desc);
	for (int i = 0; i < EVENT_ATTRIBUTES; i++)
		if (nulls[i] && i != EVENT_METADATA - 1)
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("an attribute of the event is NULL")));
}

static Jsonb *
event_headers(const Datum *attributes, const char *source, const char *subject)
{
	JsonbParseState *state = NULL;

	if (source == NULL)
		source = psprintf("/%s", get_database_name(MyDatabaseId));
	(void) pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	push_header(&state, PREFIX "specversion", "1.0");
	push_header(&state, PREFIX "id", psprintf(INT64_FORMAT, DatumGetInt64(attributes[EVENT_POSITION - 1])));
	push_header(&state, PREFIX "source", encode(source));
	push_header(&state, PREFIX "type", encode(TextDatumGetCString(attributes[EVENT_TYPE - 1])));
	push_header(&state, PREFIX "subject", encode(subject));
	push_header(&state, PREFIX "time", time_of(DatumGetTimestampTz(attributes[EVENT_CREATED_AT - 1])));
	push_header(&state, PREFIX "entityversion", psprintf(INT64_FORMAT, DatumGetInt64(attributes[EVENT_VERSION - 1])));
	push_header(&state, PREFIX "schemaversion", psprintf("%d", DatumGetInt32(attributes[EVENT_SCHEMA_VERSION - 1])));
	return JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_OBJECT, NULL));
}

static void
push_header(JsonbParseState **state, const char *name, const char *value)
{
	JsonbValue	string = {.type = jbvString};

	string.val.string.val = unconstify(char *, name);
	string.val.string.len = strlen(name);
	(void) pushJsonbValue(state, WJB_KEY, &string);
	string.val.string.val = unconstify(char *, value);
	string.val.string.len = strlen(value);
	(void) pushJsonbValue(state, WJB_VALUE, &string);
}

/* In UTF-8, byte by byte: what is not printable, and a space, a quote and a percent sign. */
static const char *
encode(const char *value)
{
	const char *utf8 = pg_server_to_any(value, strlen(value), PG_UTF8);
	StringInfoData encoded;

	initStringInfo(&encoded);
	for (const unsigned char *c = (const unsigned char *) utf8; *c; c++)
	{
		if (*c > 0x20 && *c < 0x7F && *c != '"' && *c != '%')
			appendStringInfoChar(&encoded, *c);
		else
			appendStringInfo(&encoded, "%%%02X", *c);
	}
	return encoded.data;
}

static const char *
time_of(TimestampTz time)
{
	static const int utc = 0;
	char	   *text = palloc(MAXDATELEN + 1);

	if (TIMESTAMP_NOT_FINITE(time))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the time of the event is infinite")));
	return JsonEncodeDateTime(text, TimestampTzGetDatum(time), TIMESTAMPTZOID, &utc);
}

/* What the event says nobody else says. */
static void
check_headers(Jsonb *headers)
{
	JsonbIterator *iterator = JsonbIteratorInit(&headers->root);
	JsonbIteratorToken token;
	JsonbValue	value;

	while ((token = JsonbIteratorNext(&iterator, &value, true)) != WJB_DONE)
		if (token == WJB_KEY && value.val.string.len >= strlen(PREFIX) &&
			pg_strncasecmp(value.val.string.val, PREFIX, strlen(PREFIX)) == 0)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("header \"%s\" is set by the event",
							pnstrdup(value.val.string.val, value.val.string.len))));
}
