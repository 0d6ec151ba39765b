/*
 * new_event.c
 *		Events that are to be written, as users hand them over: checked before
 *		anything is locked or written.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/numeric.h"
#include "utils/typcache.h"

#include "compat.h"
#include "new_event.h"

static const Cause *current_cause = NULL;

static void parse_element(HeapTupleHeader row, TupleDesc desc, NewEvent *event);
static bool is_json_null(Jsonb *value);
static void push_pairs(JsonbParseState **state, Jsonb *object);
static void push_string(JsonbParseState **state, const char *key, const char *value);
static void push_cause(JsonbParseState **state);
static void push_key(JsonbParseState **state, const char *key);

/*
 * Sets what the events that are written from now on are caused by, or NULL;
 * returns what it was, which the caller puts back in PG_FINALLY.
 */
const Cause *
cqrs_new_event_set_cause(const Cause *cause)
{
	const Cause *before = current_cause;

	current_cause = cause;
	return before;
}

/*
 * Takes apart a cqrs.new_event[].  The events refer to the array where they
 * can.  The count may be 0.
 */
NewEvent *
cqrs_new_event_parse(Datum array, int *count)
{
	ArrayType  *events = DatumGetArrayTypeP(array);
	NewEvent   *parsed;
	TupleDesc	desc;
	Datum	   *elements;
	bool	   *nulls;

	if (ARR_NDIM(events) > 1)
		ereport(ERROR,
				(errcode(ERRCODE_ARRAY_SUBSCRIPT_ERROR),
				 errmsg("events have %d dimensions instead of one", ARR_NDIM(events))));
	deconstruct_array(events, ARR_ELEMTYPE(events), -1, false, TYPALIGN_DOUBLE,
					  &elements, &nulls, count);
	parsed = palloc0(sizeof(NewEvent) * Max(*count, 1));
	desc = lookup_rowtype_tupdesc(ARR_ELEMTYPE(events), -1);
	if (desc->natts != 3)
		elog(ERROR, "type cqrs.new_event has %d attributes", desc->natts);
	for (int i = 0; i < *count; i++)
	{
		if (nulls[i])
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("event %d of %d is NULL", i + 1, *count)));
		parse_element(DatumGetHeapTupleHeader(elements[i]), desc, &parsed[i]);
	}
	ReleaseTupleDesc(desc);
	return parsed;
}

/* A name may not be NULL or empty; "what" says whose name it is. */
text *
cqrs_new_event_check_name(text *name, const char *what)
{
	if (name == NULL || VARSIZE_ANY_EXHDR(name) == 0)
		ereport(ERROR,
				(errcode(name ? ERRCODE_INVALID_PARAMETER_VALUE : ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("%s is %s", what, name ? "empty" : "NULL")));
	return name;
}

text *
cqrs_new_event_check_type(text *event_type)
{
	cqrs_new_event_check_name(event_type, "event type");
	if (*VARDATA_ANY(event_type) == '$')
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("event type \"%s\" is reserved", text_to_cstring(event_type)),
				 errdetail("Events whose type begins with $ are written by the extension.")));
	return event_type;
}

/* Of a command, or of the event that has this type. */
Jsonb *
cqrs_new_event_check_data(Jsonb *data, const text *event_type)
{
	if (data == NULL || is_json_null(data))
		ereport(ERROR,
				(errcode(data ? ERRCODE_INVALID_PARAMETER_VALUE : ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 event_type ? errmsg("data of event \"%s\" is %s", text_to_cstring(event_type), data ? "JSON null" : "NULL")
				 : errmsg("data of the command is %s", data ? "JSON null" : "NULL"),
				 errhint("Use '{}' where there is nothing to say.")));
	return data;
}

/* Metadata is merged, so it is an object; keys that begin with $ are ours. */
void
cqrs_new_event_check_metadata(Jsonb *metadata)
{
	JsonbContainer *root;
	const char *keys;
	int			count;

	if (metadata == NULL)
		return;
	if (!JB_ROOT_IS_OBJECT(metadata))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("metadata is not a JSON object")));

	root = &metadata->root;
	count = JsonContainerSize(root);
	/* All keys come first, then all values. */
	keys = (const char *) &root->children[2 * count];
	for (int i = 0; i < count; i++)
	{
		const char *key = keys + getJsonbOffset(root, i);
		int			length = getJsonbLength(root, i);

		if (length > 0 && key[0] == '$')
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("metadata has the reserved key \"%.*s\"", length, key),
					 errdetail("Keys that begin with $ are set by the extension.")));
	}
}

/*
 * The metadata of an event: what came with the command, what its handler gave, what we say
 * ourselves; of a key that comes twice, the last one counts.  Each may be NULL, so may the result.
 */
Jsonb *
cqrs_new_event_metadata(Jsonb *of_command, Jsonb *of_event, const char *sender, const pg_uuid_t *command_id)
{
	JsonbParseState *state = NULL;

	if (sender == NULL && command_id == NULL && current_cause == NULL && (of_command == NULL || of_event == NULL))
		return of_event ? of_event : of_command;
	(void) pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	push_pairs(&state, of_command);
	push_pairs(&state, of_event);
	if (sender)
		push_string(&state, "$sender", sender);
	if (command_id)
		push_string(&state, "$command_id",
					DatumGetCString(DirectFunctionCall1(uuid_out, UUIDPGetDatum(command_id))));
	if (current_cause)
		push_cause(&state);
	return JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_OBJECT, NULL));
}

static void
push_pairs(JsonbParseState **state, Jsonb *object)
{
	JsonbIterator *iterator;
	JsonbValue	value;

	if (object == NULL)
		return;
	iterator = JsonbIteratorInit(&object->root);
	(void) JsonbIteratorNext(&iterator, &value, false);
	while (JsonbIteratorNext(&iterator, &value, true) == WJB_KEY)
	{
		(void) pushJsonbValue(state, WJB_KEY, &value);
		(void) JsonbIteratorNext(&iterator, &value, true);
		(void) pushJsonbValue(state, WJB_VALUE, &value);
	}
}

static void
push_cause(JsonbParseState **state)
{
	JsonbValue	position = {.type = jbvNumeric};

	push_key(state, "$causation");
	(void) pushJsonbValue(state, WJB_BEGIN_OBJECT, NULL);
	push_string(state, current_cause->kind, current_cause->name);
	if (current_cause->position > 0)
	{
		push_key(state, "position");
		position.val.numeric = int64_to_numeric(current_cause->position);
		(void) pushJsonbValue(state, WJB_VALUE, &position);
	}
	(void) pushJsonbValue(state, WJB_END_OBJECT, NULL);
}

static void
push_key(JsonbParseState **state, const char *key)
{
	JsonbValue	string = {.type = jbvString};

	string.val.string.val = unconstify(char *, key);
	string.val.string.len = strlen(key);
	(void) pushJsonbValue(state, WJB_KEY, &string);
}

static void
push_string(JsonbParseState **state, const char *key, const char *value)
{
	JsonbValue	string = {.type = jbvString};

	push_key(state, key);
	string.val.string.val = unconstify(char *, value);
	string.val.string.len = strlen(value);
	(void) pushJsonbValue(state, WJB_VALUE, &string);
}

static void
parse_element(HeapTupleHeader row, TupleDesc desc, NewEvent *event)
{
	HeapTupleData tuple = {.t_len = HeapTupleHeaderGetDatumLength(row), .t_data = row};
	Datum		values[3];
	bool		nulls[3];

	heap_deform_tuple(&tuple, desc, values, nulls);
	event->event_type = nulls[0] ? NULL : DatumGetTextPP(values[0]);
	cqrs_new_event_check_type(event->event_type);
	event->data = cqrs_new_event_check_data(nulls[1] ? NULL : DatumGetJsonbP(values[1]), event->event_type);
	event->metadata = nulls[2] ? NULL : DatumGetJsonbP(values[2]);
	cqrs_new_event_check_metadata(event->metadata);
}

static bool
is_json_null(Jsonb *value)
{
	JsonbValue	scalar;

	return JB_ROOT_IS_SCALAR(value) && JsonbExtractScalar(&value->root, &scalar) &&
		scalar.type == jbvNull;
}
