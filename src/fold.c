/*
 * fold.c
 *		Events applied to a state, one after the other.
 *
 * An event of an old schema goes through the upcasters of its type first, then
 * to the event handler, whose result is the next state.  Handlers run as the
 * owner of the entity, in a scope of role.c that is entered once for as many
 * events as possible; whoever reads the events leaves it before it runs a
 * statement of ours.
 *
 * Events of our own, which say that others were deleted, are seen by none of
 * them.  They alone may begin an entity at another version than 1.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "funcapi.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/typcache.h"

#include "catalog.h"
#include "compat.h"
#include "errors.h"
#include "fold.h"

/* What an error inside a handler is about. */
typedef struct HandledEvent
{
	const Fold *fold;
	const Handler *handler;
	const FoldedEvent *event;
} HandledEvent;

static bool fold_own_event(Fold *fold, FoldedEvent *event);
static void refuse_if_hole(const Fold *fold, const FoldedEvent *event);
static void keep_state(Fold *fold, Datum state);
static Handler *find_handler(const Fold *fold, const FoldedEvent *event);
static Datum apply(Fold *fold, Handler *handler, FoldedEvent *event);
static bool merge(Fold *fold, const Handler *handler, const FoldedEvent *event);
static void finish_merge(Fold *fold);
static Datum event_datum(Fold *fold, FoldedEvent *event);
static bool upcast(Fold *fold, FoldedEvent *event);
static void take_upcast(Fold *fold, FoldedEvent *event, int from_version, HeapTupleHeader result);
static Datum call(Fold *fold, Handler *handler, FoldedEvent *event, bool *isnull);
static void enter_handler(Fold *fold, const Handler *handler);
static void name_event(void *arg);

/* For about so many events; the state is in the current context. */
void
cqrs_fold_begin(Fold *fold, EntityType *entity, const EntityKey *key, const RoleScope *scope,
				EntityState *state, int64 count)
{
	memset(fold, 0, sizeof(Fold));
	fold->entity = entity;
	fold->key = key;
	fold->scope = scope;
	fold->state = state;
	fold->sees_all = true;
	fold->event_desc = lookup_rowtype_tupdesc(cqrs_catalog_type("event"), -1);
	fold->garbage = CurrentMemoryContext;
	if (count <= 1)
		return;
	for (int i = 0; i < 2; i++)
		fold->kept[i] = AllocSetContextCreate(CurrentMemoryContext, "pg_cqrs fold", ALLOCSET_DEFAULT_SIZES);
	fold->garbage = AllocSetContextCreate(CurrentMemoryContext, "pg_cqrs event", ALLOCSET_DEFAULT_SIZES);
	fold->merge.context = AllocSetContextCreate(CurrentMemoryContext, "pg_cqrs merge", ALLOCSET_DEFAULT_SIZES);
}

/* Leaves the state in the context that was current at the beginning. */
void
cqrs_fold_end(Fold *fold)
{
	cqrs_fold_leave_handler(fold);
	ReleaseTupleDesc(fold->event_desc);
	if (fold->kept[0] == NULL)
		return;
	finish_merge(fold);
	fold->state->state = (Jsonb *) PG_DETOAST_DATUM_COPY(PointerGetDatum(fold->state->state));
	MemoryContextDelete(fold->kept[0]);
	MemoryContextDelete(fold->kept[1]);
	MemoryContextDelete(fold->garbage);
	MemoryContextDelete(fold->merge.context);
}

void
cqrs_fold_free_garbage(Fold *fold)
{
	if (fold->kept[0])
		MemoryContextReset(fold->garbage);
}

/* Called in the context of garbage, which the caller frees afterwards. */
void
cqrs_fold_event(Fold *fold, FoldedEvent *event)
{
	EntityState *state = fold->state;

	if (!fold_own_event(fold, event) && upcast(fold, event))
	{
		Handler    *handler = find_handler(fold, event);

		if (!merge(fold, handler, event))
		{
			finish_merge(fold);
			keep_state(fold, apply(fold, handler, event));
		}
	}
	state->version = event->version;
	state->position = event->position;
}

void
cqrs_fold_leave_handler(Fold *fold)
{
	if (fold->search_path)
		cqrs_role_leave(&fold->inner);
	fold->search_path = NULL;
}

/* Somebody deleted events: no state can be right. */
void
cqrs_fold_refuse_hole(const Fold *fold, int64 version)
{
	ereport(ERROR,
			(errcode(ERRCODE_DATA_CORRUPTED),
			 errmsg("entity \"%s\" of type \"%s\" has no event of version " INT64_FORMAT,
					text_to_cstring(fold->key->entity_id), text_to_cstring(fold->key->entity_type), version),
			 errdetail("Versions have no holes unless events were deleted by hand.")));
}

/* False if it is the users'. */
static bool
fold_own_event(Fold *fold, FoldedEvent *event)
{
	if (cqrs_journal_table_is_type(event->event_type, CQRS_FORGOTTEN))
		keep_state(fold, JsonbPGetDatum(fold->entity->initial_state));
	else if (cqrs_journal_table_is_type(event->event_type, CQRS_SNAPSHOT))
		keep_state(fold, event->data);
	else
	{
		refuse_if_hole(fold, event);
		return cqrs_journal_table_is_type(event->event_type, CQRS_DELETED);
	}
	return true;
}

static void
refuse_if_hole(const Fold *fold, const FoldedEvent *event)
{
	if (fold->sees_all && event->version != fold->state->version + 1)
		cqrs_fold_refuse_hole(fold, fold->state->version + 1);
}

/* The old state goes when the new one is safe. */
static void
keep_state(Fold *fold, Datum state)
{
	cqrs_merge_drop(&fold->merge);
	if (fold->kept[0] == NULL)
	{
		fold->state->state = DatumGetJsonbP(state);
		return;
	}
	MemoryContextSwitchTo(fold->kept[!fold->current]);
	fold->state->state = (Jsonb *) PG_DETOAST_DATUM_COPY(state);
	MemoryContextSwitchTo(fold->garbage);
	MemoryContextReset(fold->kept[fold->current]);
	fold->current = !fold->current;
}

static Handler *
find_handler(const Fold *fold, const FoldedEvent *event)
{
	Handler    *handler = cqrs_entity_registry_handler(fold->entity, HANDLER_EVENT, event->event_type);

	if (handler == NULL)
		ereport(ERROR,
				(errcode(CQRS_EVENT_NOT_HANDLED),
				 errmsg("entity type \"%s\" has no handler for event \"%s\"",
						text_to_cstring(fold->entity->registered.name), text_to_cstring(event->event_type)),
				 errdetail("Version " INT64_FORMAT " of entity \"%s\" is such an event.",
						   event->version, text_to_cstring(fold->key->entity_id)),
				 errhint("Register one with cqrs.on_event.")));
	return handler;
}

/* The next state. */
static Datum
apply(Fold *fold, Handler *handler, FoldedEvent *event)
{
	bool		isnull;
	Datum		result = call(fold, handler, event, &isnull);

	if (isnull)
		ereport(ERROR,
				(errcode(CQRS_EVENT_NOT_HANDLED),
				 errmsg("event handler %s returned NULL", handler->signature),
				 errdetail("Version " INT64_FORMAT " of entity \"%s\" of type \"%s\" is event \"%s\".",
						   event->version, text_to_cstring(fold->key->entity_id),
						   text_to_cstring(fold->entity->registered.name), text_to_cstring(event->event_type)),
				 errhint("A handler that has nothing to change returns the state it was given.")));
	return result;
}

/* What cqrs.merge would do, if nothing else has to be known of the event. */
static bool
merge(Fold *fold, const Handler *handler, const FoldedEvent *event)
{
	return fold->kept[0] && OidIsValid(handler->function) && handler->flinfo.fn_addr == cqrs_merge &&
		cqrs_merge_put(&fold->merge, fold->state->state, event->data);
}

static void
finish_merge(Fold *fold)
{
	MemoryContext old;

	if (!cqrs_merge_is_under_way(&fold->merge))
		return;
	old = MemoryContextSwitchTo(fold->garbage);
	keep_state(fold, JsonbPGetDatum(cqrs_merge_finish(&fold->merge)));
	MemoryContextSwitchTo(old);
}

/* Made when somebody asks for it. */
static Datum
event_datum(Fold *fold, FoldedEvent *event)
{
	if (event->datum == (Datum) 0)
		event->datum = heap_copy_tuple_as_datum(event->tuple, fold->event_desc);
	return event->datum;
}

/* Brings the event to the newest schema; false if it is dropped. */
static bool
upcast(Fold *fold, FoldedEvent *event)
{
	RegisteredHandler *upcaster;

	for (int steps = 0;; steps++)
	{
		bool		isnull;
		Datum		result;

		upcaster = cqrs_entity_registry_upcaster(fold->entity, event->event_type, event->schema_version);
		if (upcaster == NULL)
			return true;
		if (steps == fold->entity->handler_count)
			ereport(ERROR,
					(errcode(CQRS_EVENT_NOT_HANDLED),
					 errmsg("upcasters of entity type \"%s\" go round in a circle",
							text_to_cstring(fold->entity->registered.name)),
					 errdetail("Event \"%s\" is still of an old schema after %d steps.",
							   text_to_cstring(event->event_type), steps)));
		result = call(fold, &upcaster->handler, event, &isnull);
		if (isnull)
			return false;
		take_upcast(fold, event, upcaster->from_version, DatumGetHeapTupleHeader(result));
	}
}

/* An upcaster changes what the event says, not which event it is. */
static void
take_upcast(Fold *fold, FoldedEvent *event, int from_version, HeapTupleHeader result)
{
	HeapTupleData tuple = {.t_len = HeapTupleHeaderGetDatumLength(result), .t_data = result};
	HeapTupleHeader before = DatumGetHeapTupleHeader(event_datum(fold, event));
	HeapTupleData original = {.t_len = HeapTupleHeaderGetDatumLength(before), .t_data = before};
	Datum		values[EVENT_ATTRIBUTES];
	bool		nulls[EVENT_ATTRIBUTES];
	Datum		taken[EVENT_ATTRIBUTES];
	bool		taken_nulls[EVENT_ATTRIBUTES];
	text	   *event_type;
	int			schema_version;

	heap_deform_tuple(&original, fold->event_desc, values, nulls);
	heap_deform_tuple(&tuple, fold->event_desc, taken, taken_nulls);
	if (taken_nulls[EVENT_TYPE - 1] || taken_nulls[EVENT_DATA - 1])
		ereport(ERROR,
				(errcode(CQRS_EVENT_NOT_HANDLED),
				 errmsg("upcaster of event \"%s\" returned no %s", text_to_cstring(event->event_type),
						taken_nulls[EVENT_TYPE - 1] ? "event_type" : "data")));
	event_type = DatumGetTextPP(taken[EVENT_TYPE - 1]);
	schema_version = taken_nulls[EVENT_SCHEMA_VERSION - 1] ? 0 : DatumGetInt32(taken[EVENT_SCHEMA_VERSION - 1]);
	/* Renamed events count their schema versions anew. */
	if (cqrs_slice_same_text(event_type, event->event_type))
		schema_version = Max(schema_version, from_version + 1);

	for (int i = EVENT_TYPE - 1; i <= EVENT_METADATA - 1; i++)
	{
		values[i] = taken[i];
		nulls[i] = taken_nulls[i];
	}
	values[EVENT_SCHEMA_VERSION - 1] = Int32GetDatum(schema_version);
	nulls[EVENT_SCHEMA_VERSION - 1] = false;
	event->datum = HeapTupleGetDatum(heap_form_tuple(fold->event_desc, values, nulls));
	event->data = values[EVENT_DATA - 1];
	event->event_type = event_type;
	event->schema_version = schema_version;
}

/* Calls an event handler or upcaster as the owner of the entity. */
static Datum
call(Fold *fold, Handler *handler, FoldedEvent *event, bool *isnull)
{
	HandledEvent handled = {fold, handler, event};
	ErrorContextCallback context = {
		.callback = name_event,
		.arg = &handled,
		.previous = error_context_stack
	};
	Datum		args[2];
	Datum		result;

	if (handler->kind == HANDLER_UPCAST)
		args[0] = event_datum(fold, event);
	else
	{
		args[0] = JsonbPGetDatum(fold->state->state);
		args[1] = event_datum(fold, event);
	}
	error_context_stack = &context;
	enter_handler(fold, handler);
	cqrs_handler_resolve(handler, fold->entity->owner);
	result = cqrs_handler_call(handler, args, isnull);
	error_context_stack = context.previous;
	return result;
}

/* Stays in the scope from event to event, as long as search_path is the same. */
static void
enter_handler(Fold *fold, const Handler *handler)
{
	if (fold->search_path && strcmp(fold->search_path, handler->search_path) == 0)
		return;
	cqrs_fold_leave_handler(fold);
	cqrs_role_enter_handler(&fold->inner, fold->scope, fold->entity->owner, handler->search_path);
	fold->search_path = handler->search_path;
}

static void
name_event(void *arg)
{
	const HandledEvent *handled = arg;

	errcontext("%s %s, event \"%s\", version " INT64_FORMAT " of entity \"%s\" of type \"%s\"",
			   cqrs_handler_kind_name(handled->handler->kind), handled->handler->signature,
			   text_to_cstring(handled->event->event_type), handled->event->version,
			   text_to_cstring(handled->fold->key->entity_id),
			   text_to_cstring(handled->fold->key->entity_type));
}
