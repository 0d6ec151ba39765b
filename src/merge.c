/*
 * merge.c
 *		An event handler that ships: what the event says is put into the state.
 *
 * cqrs.merge(state, event) is state || event.data.  To make a jsonb anew for each
 * event is most of what a fold of many costs then, so as long as no other
 * handler wants the state, it is kept as an array of its keys and values, which
 * refer to copies of the events' data, and is made a jsonb in the end.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "executor/executor.h"
#include "utils/fmgrprotos.h"
#include "utils/memutils.h"

#include "compat.h"
#include "journal_table.h"
#include "merge.h"

#define MAX_BYTES	(1024 * 1024)	/* of data that later events may have
									 * replaced */

static void put_pairs(Merge *merge, Jsonb *object);
static int	find_place(const Merge *merge, const JsonbValue *key, bool *found);
static int	compare_keys(const JsonbValue *a, const JsonbValue *b);
static void make_room(Merge *merge, int place);

PG_FUNCTION_INFO_V1(cqrs_merge);
Datum
cqrs_merge(PG_FUNCTION_ARGS)
{
	HeapTupleHeader event = PG_GETARG_HEAPTUPLEHEADER(1);
	bool		isnull;
	Datum		data = GetAttributeByNum(event, EVENT_DATA, &isnull);

	if (isnull)
		PG_RETURN_DATUM(PG_GETARG_DATUM(0));
	PG_RETURN_DATUM(DirectFunctionCall2(jsonb_concat, PG_GETARG_DATUM(0), data));
}

bool
cqrs_merge_is_under_way(const Merge *merge)
{
	return merge->pairs != NULL;
}

/*
 * Merges data into the state, or into what is under way.  False, and nothing is changed, if
 * these are not two objects, or it has become too much.
 */
bool
cqrs_merge_put(Merge *merge, Jsonb *state, Datum data)
{
	MemoryContext old = MemoryContextSwitchTo(merge->context);
	Jsonb	   *object = (Jsonb *) PG_DETOAST_DATUM_COPY(data);
	bool		can = JB_ROOT_IS_OBJECT(object);

	if (can && !cqrs_merge_is_under_way(merge))
	{
		can = JB_ROOT_IS_OBJECT(state);
		merge->limit = MAX_BYTES + VARSIZE(state) + VARSIZE(object);
		if (can)
			put_pairs(merge, (Jsonb *) PG_DETOAST_DATUM_COPY(PointerGetDatum(state)));
	}
	if (can && merge->bytes + VARSIZE(object) <= merge->limit)
		put_pairs(merge, object);
	else
	{
		pfree(object);
		can = false;
	}
	MemoryContextSwitchTo(old);
	return can;
}

/* The state, in the current context. */
Jsonb *
cqrs_merge_finish(Merge *merge)
{
	JsonbParseState *parse_state = NULL;
	Jsonb	   *state;

	(void) pushJsonbValue(&parse_state, WJB_BEGIN_OBJECT, NULL);
	for (int i = 0; i < merge->count; i++)
	{
		(void) pushJsonbValue(&parse_state, WJB_KEY, &merge->pairs[i].key);
		(void) pushJsonbValue(&parse_state, WJB_VALUE, &merge->pairs[i].value);
	}
	state = JsonbValueToJsonb(pushJsonbValue(&parse_state, WJB_END_OBJECT, NULL));
	cqrs_merge_drop(merge);
	return state;
}

void
cqrs_merge_drop(Merge *merge)
{
	if (!cqrs_merge_is_under_way(merge))
		return;
	MemoryContextReset(merge->context);
	*merge = (Merge)
	{
		.context = merge->context
	};
}

static void
put_pairs(Merge *merge, Jsonb *object)
{
	JsonbIterator *iterator = JsonbIteratorInit(&object->root);
	JsonbValue	key;
	JsonbValue	value;

	if (merge->pairs == NULL)
	{
		merge->capacity = 16;
		merge->pairs = palloc(sizeof(JsonbPair) * merge->capacity);
	}
	merge->bytes += VARSIZE(object);
	(void) JsonbIteratorNext(&iterator, &key, false);
	while (JsonbIteratorNext(&iterator, &key, true) == WJB_KEY)
	{
		bool		found;
		int			place = find_place(merge, &key, &found);

		(void) JsonbIteratorNext(&iterator, &value, true);
		if (!found)
		{
			make_room(merge, place);
			merge->pairs[place].key = key;
		}
		merge->pairs[place].value = value;
	}
}

/* Where the key is, or would be. */
static int
find_place(const Merge *merge, const JsonbValue *key, bool *found)
{
	int			low = 0;
	int			high = merge->count;

	while (low < high)
	{
		int			middle = (low + high) / 2;
		int			order = compare_keys(key, &merge->pairs[middle].key);

		if (order == 0)
		{
			*found = true;
			return middle;
		}
		if (order < 0)
			high = middle;
		else
			low = middle + 1;
	}
	*found = false;
	return low;
}

/* Any order would do; this one is quick. */
static int
compare_keys(const JsonbValue *a, const JsonbValue *b)
{
	if (a->val.string.len != b->val.string.len)
		return a->val.string.len < b->val.string.len ? -1 : 1;
	return memcmp(a->val.string.val, b->val.string.val, a->val.string.len);
}

static void
make_room(Merge *merge, int place)
{
	if (merge->count == merge->capacity)
	{
		merge->capacity *= 2;
		merge->pairs = repalloc_huge(merge->pairs, sizeof(JsonbPair) * merge->capacity);
	}
	memmove(&merge->pairs[place + 1], &merge->pairs[place], sizeof(JsonbPair) * (merge->count - place));
	merge->count++;
}
