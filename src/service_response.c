/*
 * service_response.c
 *		What a service answered, in PostgreSQL's types.
 *
 * A service can send anything, so nothing it sends is an error here: what is
 * not JSON after all is NULL, and a header that is no text in the encoding of
 * the database has question marks in it.
 */
#include "postgres.h"

#include "access/xact.h"
#include "mb/pg_wchar.h"
#include "utils/fmgrprotos.h"
#include "utils/formatting.h"
#include "utils/memutils.h"
#include "utils/resowner.h"

#include "service_response.h"
#include "worker_error.h"

static void push_header(JsonbParseState **state, List *headers, int first);
static bool same_name(List *headers, int one, int other);
static JsonbValue text_value(const char *text);
static bool is_json(const HttpTransfer *transfer);
static Jsonb *parse_json(const char *body, Size size);

/* Names in lower case; one that came more than once has an array. */
Jsonb *
cqrs_service_response_headers(const HttpTransfer *transfer)
{
	List	   *headers = cqrs_service_http_headers(transfer);
	JsonbParseState *state = NULL;

	(void) pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	for (int i = 0; i < list_length(headers); i++)
	{
		int			first = 0;

		while (!same_name(headers, first, i))
			first++;
		if (first == i)
			push_header(&state, headers, i);
	}
	return JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_OBJECT, NULL));
}

/* The body, if the service says that it is JSON and it is; else NULL. */
Jsonb *
cqrs_service_response_json(const HttpTransfer *transfer)
{
	const HttpResponse *response = cqrs_service_http_response(transfer);
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	Jsonb	   *volatile json = NULL;

	if (response->body_size == 0 || !is_json(transfer))
		return NULL;

	/*
	 * What is wrong with it is an error of jsonb, so of a subtransaction: of
	 * the data, of a limit, or internal, where an array outgrows palloc().
	 */
	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(context);
	PG_TRY();
	{
		json = parse_json(response->body, response->body_size);
		ReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		ErrorData  *error;

		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
		if (cqrs_worker_error_is_systems(error))
			ReThrowError(error);
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);
	CurrentResourceOwner = owner;
	return json;
}

static void
push_header(JsonbParseState **state, List *headers, int first)
{
	const HttpField *field = list_nth(headers, first);
	JsonbValue	name = text_value(asc_tolower(field->name, strlen(field->name)));
	JsonbValue	value = text_value(field->value);
	bool		again = false;

	(void) pushJsonbValue(state, WJB_KEY, &name);
	for (int i = first + 1; i < list_length(headers); i++)
	{
		JsonbValue	another;

		if (!same_name(headers, first, i))
			continue;
		if (!again)
		{
			(void) pushJsonbValue(state, WJB_BEGIN_ARRAY, NULL);
			(void) pushJsonbValue(state, WJB_ELEM, &value);
		}
		another = text_value(((HttpField *) list_nth(headers, i))->value);
		(void) pushJsonbValue(state, WJB_ELEM, &another);
		again = true;
	}
	if (again)
		(void) pushJsonbValue(state, WJB_END_ARRAY, NULL);
	else
		(void) pushJsonbValue(state, WJB_VALUE, &value);
}

static bool
same_name(List *headers, int one, int other)
{
	return pg_strcasecmp(((HttpField *) list_nth(headers, one))->name,
						 ((HttpField *) list_nth(headers, other))->name) == 0;
}

static JsonbValue
text_value(const char *text)
{
	JsonbValue	value = {.type = jbvString};
	char	   *copy = pstrdup(text);

	if (!pg_verify_mbstr(GetDatabaseEncoding(), copy, strlen(copy), true))
		for (char *c = copy; *c; c++)
			if (IS_HIGHBIT_SET(*c))
				*c = '?';
	value.val.string.val = copy;
	value.val.string.len = strlen(copy);
	return value;
}

/* application/json, application/problem+json, and with parameters. */
static bool
is_json(const HttpTransfer *transfer)
{
	ListCell   *cell;

	foreach(cell, cqrs_service_http_headers(transfer))
	{
		const HttpField *field = lfirst(cell);
		char	   *type;

		if (pg_strcasecmp(field->name, "Content-Type") != 0)
			continue;
		type = asc_tolower(field->value, strcspn(field->value, "; \t"));
		return strcmp(type, "application/json") == 0 ||
			(strlen(type) > 5 && strcmp(type + strlen(type) - 5, "+json") == 0);
	}
	return false;
}

static Jsonb *
parse_json(const char *body, Size size)
{
	char	   *text = pg_any_to_server(pnstrdup(body, size), size, PG_UTF8);

	return DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(text)));
}
