/*
 * command.c
 *		cqrs.send(): a command goes in, events and a reply come out.
 *
 * The order of steps is what makes it safe:
 *
 *	 1	may the caller send it?  then lock the entity, read its last event
 *	 2	was this command_id handled already?  then that was the answer
 *	 3	is the version the one that the caller expects, and sees?
 *	 4	load the state, run the command handler
 *	 5	complete the events exactly as they will be stored
 *	 6	fold them into the state: a handler that fails stops a bad event here
 *	 7	write all of them by one statement, which fires triggers once
 *	 8	a snapshot if one is due; keep the answer under its command_id
 *
 * Everything happens in the caller's transaction.  What it leaves in memory is
 * the cached state, which is worth nothing if the transaction is rolled back
 * (state_cache.c says why).
 */
#include "postgres.h"

#include "access/xact.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "port/pg_bswap.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/timestamp.h"
#include "utils/typcache.h"

#include "catalog.h"
#include "command.h"
#include "command_log.h"
#include "compat.h"
#include "effect.h"
#include "entity_lock.h"
#include "errors.h"
#include "identity.h"
#include "journal_append.h"
#include "state.h"

typedef struct Command
{
	EntityKey	key;
	text	   *command_type;
	Jsonb	   *data;
	Jsonb	   *metadata;		/* or NULL */
	pg_uuid_t  *command_id;		/* or NULL */
	int64		fingerprint;
	const char *sender;
	bool		is_new;			/* its id was issued now */
	/* Expected version */
	bool		any_version;
	int64		expected;
	/* Registry */
	EntityType *entity;
	Handler    *handler;
} Command;

static void parse_arguments(FunctionCallInfo fcinfo, Command *command);
static text *issue_id(const pg_uuid_t *command_id);
static void find_entity(Command *command, const RoleScope *scope);
static void handle(Command *command, const RoleScope *scope, Receipt *receipt);
static bool id_is_random(void);
static void load_state(Command *command, const RoleScope *scope, const LastEvent *last, EntityState *state);
static void decide(Command *command, const RoleScope *scope, const EntityState *state, Effect *effect);
static Datum command_datum(const Command *command, int64 version);
static void name_command(void *arg);
static Event *make_events(const Command *command, const Effect *effect);

PG_FUNCTION_INFO_V1(cqrs_send);
Datum
cqrs_send(PG_FUNCTION_ARGS)
{
	Command		command = {0};
	Receipt		receipt = {0};
	RoleScope	scope;

	PreventCommandDuringRecovery("cqrs.send()");
	cqrs_entity_lock_refuse_effect("send");
	parse_arguments(fcinfo, &command);
	(void) cqrs_entity_registry_get(command.key.entity_type);
	cqrs_journal_ensure();
	cqrs_identity_warn_if_held();

	cqrs_role_enter_bare(&scope, cqrs_catalog_extension_owner());
	find_entity(&command, &scope);
	handle(&command, &scope, &receipt);
	cqrs_role_leave(&scope);
	PG_RETURN_DATUM(cqrs_receipt_datum(&receipt));
}

static void
parse_arguments(FunctionCallInfo fcinfo, Command *command)
{
	text	   *entity_type = PG_ARGISNULL(0) ? NULL : PG_GETARG_TEXT_PP(0);

	command->command_id = PG_ARGISNULL(5) ? NULL : PG_GETARG_UUID_P(5);
	cqrs_journal_check_key(&command->key, entity_type,
						   PG_ARGISNULL(1) ? issue_id(command->command_id) : PG_GETARG_TEXT_PP(1));
	command->is_new = PG_ARGISNULL(1) && command->command_id == NULL;
	command->command_type = cqrs_new_event_check_name(PG_ARGISNULL(2) ? NULL : PG_GETARG_TEXT_PP(2),
													  "command type");
	command->data = cqrs_new_event_check_data(PG_ARGISNULL(3) ? NULL : PG_GETARG_JSONB_P(3), NULL);
	command->any_version = PG_ARGISNULL(4);
	if (!command->any_version)
		command->expected = cqrs_journal_append_check_expected(PG_GETARG_INT64(4));
	command->metadata = PG_ARGISNULL(6) ? NULL : PG_GETARG_JSONB_P(6);
	cqrs_new_event_check_metadata(command->metadata);
	command->sender = GetUserNameFromId(GetUserId(), false);
	if (command->command_id)
	{
		const void *parts[] = {command->command_type, command->data};

		command->fingerprint = cqrs_command_log_fingerprint(parts, lengthof(parts));
	}
}

/*
 * An id for an entity that the caller left unnamed: the command's id, so that
 * a retry finds the same entity, else a UUID of version 7 (RFC 9562), which
 * begins with the time in milliseconds: new entities are neighbours in indexes.
 */
static text *
issue_id(const pg_uuid_t *command_id)
{
	pg_uuid_t	id;

	if (command_id)
		id = *command_id;
	else
	{
		int64		unix_ms = (GetCurrentTimestamp() +
							   (POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * USECS_PER_DAY) / 1000;
		uint64		head = pg_hton64((uint64) unix_ms << 16);

		if (!pg_strong_random(id.data, UUID_LEN))
			ereport(ERROR,
					(errcode(ERRCODE_INTERNAL_ERROR),
					 errmsg("could not generate random values")));
		memcpy(id.data, &head, 6);
		id.data[6] = (id.data[6] & 0x0f) | 0x70;
		id.data[8] = (id.data[8] & 0x3f) | 0x80;
	}
	return cstring_to_text(DatumGetCString(DirectFunctionCall1(uuid_out, UUIDPGetDatum(&id))));
}

/* Entries live until the transaction ends, so the same address is the same entry. */
static void
find_entity(Command *command, const RoleScope *scope)
{
	EntityType *entity = cqrs_entity_registry_get(command->key.entity_type);

	if (entity == command->entity)
		return;
	command->entity = entity;
	command->handler = cqrs_command_find_handler(entity, command->command_type, scope);
}

/* The handler of a command; the caller of the scope must have EXECUTE on it, which is the right to send it. */
Handler *
cqrs_command_find_handler(EntityType *entity, text *command_type, const RoleScope *scope)
{
	Handler    *handler = cqrs_entity_registry_handler(entity, HANDLER_COMMAND, command_type);
	RoleScope	inner;

	if (handler == NULL)
		ereport(ERROR,
				(errcode(CQRS_COMMAND_NOT_HANDLED),
				 errmsg("entity type \"%s\" has no handler for command \"%s\"",
						text_to_cstring(entity->registered.name), text_to_cstring(command_type)),
				 errhint("Register one with cqrs.on_command.")));
	if (!OidIsValid(handler->function))
	{
		cqrs_role_enter_handler(&inner, scope, entity->owner, handler->search_path);
		cqrs_handler_resolve(handler, entity->owner);
		cqrs_role_leave(&inner);
	}
	if (!cqrs_may_execute(handler->function, scope->caller))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied for command \"%s\" of entity type \"%s\"",
						text_to_cstring(command_type), text_to_cstring(entity->registered.name)),
				 errdetail("Role \"%s\" has no EXECUTE on its handler %s.",
						   GetUserNameFromId(scope->caller, false), handler->signature)));
	return handler;
}

static void
handle(Command *command, const RoleScope *scope, Receipt *receipt)
{
	EntityKey  *key = &command->key;
	EntityState state;
	LastEvent	last;
	Effect		effect;

	if (command->is_new)
		cqrs_journal_begin_first_write(key, scope, id_is_random, &last);
	else
		cqrs_journal_begin_write(key, scope, &last);
	/* Who waited goes by what is registered now. */
	find_entity(command, scope);
	if (command->command_id &&
		cqrs_command_log_find(key, scope, command->command_id, command->fingerprint, receipt))
	{
		cqrs_journal_end_write();
		return;
	}
	if (!command->any_version)
		cqrs_journal_check_version(key, scope, &last, command->expected);
	if (!command->entity->follows_forgotten)
		cqrs_journal_refuse_forgotten(key, &last);
	cqrs_journal_check_unchanged(key, scope, &last);

	load_state(command, scope, &last, &state);
	decide(command, scope, &state, &effect);
	if (effect.kind == EFFECT_REJECT)
		cqrs_effect_raise_rejection(&effect);
	if (effect.count > 0)
	{
		Event	   *events = make_events(command, &effect);

		cqrs_journal_complete(&last, events, effect.count);
		cqrs_state_apply(command->entity, key, scope, &state, events, effect.count);
		cqrs_journal_insert(key, scope, &last, events, effect.count);
		if (cqrs_snapshot_is_due(command->entity, &state, last.version))
			cqrs_snapshot_save(command->entity, key, scope, &state);
	}

	receipt->entity_id = key->entity_id;
	receipt->version = state.version;
	receipt->position = state.position;
	receipt->reply = effect.reply;
	if (command->command_id)
		cqrs_command_log_store(key, scope, command->command_id, command->fingerprint, receipt);
	cqrs_journal_end_write();
	if (state.version > 0)
		cqrs_state_cache_put(command->entity, key, &state);
}

/* So no entity has it; there need not be all first events to know that. */
static bool
id_is_random(void)
{
	return true;
}

static void
load_state(Command *command, const RoleScope *scope, const LastEvent *last, EntityState *state)
{
	RoleScope	journal;

	cqrs_role_enter_own(&journal, scope, cqrs_catalog_relation_owner(cqrs_journal_relid()));
	cqrs_state_load(command->entity, &command->key, scope, last, STATE_FROM_KEPT, state);
	cqrs_role_leave(&journal);
}

/* Runs the command handler, as the owner of the entity. */
static void
decide(Command *command, const RoleScope *scope, const EntityState *state, Effect *effect)
{
	ErrorContextCallback context = {
		.callback = name_command,
		.arg = command,
		.previous = error_context_stack
	};
	Datum		args[] = {JsonbPGetDatum(state->state), command_datum(command, state->version)};
	RunningHandler running;
	RoleScope	inner;
	bool		isnull;
	volatile Datum result = (Datum) 0;

	error_context_stack = &context;
	cqrs_role_enter_handler(&inner, scope, command->entity->owner, command->handler->search_path);
	cqrs_handler_resolve(command->handler, command->entity->owner);
	cqrs_entity_lock_begin_handler(&running, RUNNING_COMMAND, &command->key);
	PG_TRY();
	{
		result = cqrs_handler_call(command->handler, args, &isnull);
	}
	PG_FINALLY();
	{
		cqrs_entity_lock_end_handler(&running);
	}
	PG_END_TRY();
	cqrs_role_leave(&inner);
	if (isnull)
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("command handler %s returned NULL", command->handler->signature),
				 errhint("Return an effect: cqrs.persist, cqrs.persist_all, cqrs.reply or cqrs.reject.")));
	cqrs_effect_parse(result, effect);
	error_context_stack = context.previous;
}

static Datum
command_datum(const Command *command, int64 version)
{
	TupleDesc	desc = lookup_rowtype_tupdesc(cqrs_catalog_type("command"), -1);
	NameData	sender;
	Datum		values[] = {
		PointerGetDatum(command->key.entity_type), PointerGetDatum(command->key.entity_id),
		Int64GetDatum(version), PointerGetDatum(command->command_type), JsonbPGetDatum(command->data),
		PointerGetDatum(command->metadata), PointerGetDatum(command->command_id), NameGetDatum(&sender)
	};
	bool		nulls[lengthof(values)] = {false};
	Datum		result;

	namestrcpy(&sender, command->sender);
	nulls[5] = command->metadata == NULL;
	nulls[6] = command->command_id == NULL;
	result = HeapTupleGetDatum(heap_form_tuple(desc, values, nulls));
	ReleaseTupleDesc(desc);
	return result;
}

static void
name_command(void *arg)
{
	const Command *command = arg;

	errcontext("command handler %s, command \"%s\" to entity \"%s\" of type \"%s\"",
			   command->handler->signature, text_to_cstring(command->command_type),
			   text_to_cstring(command->key.entity_id), text_to_cstring(command->key.entity_type));
}

static Event *
make_events(const Command *command, const Effect *effect)
{
	Event	   *events = palloc0(sizeof(Event) * effect->count);

	for (int i = 0; i < effect->count; i++)
	{
		const NewEvent *made = &effect->events[i];

		events[i].event_type = made->event_type;
		events[i].data = made->data;
		events[i].metadata = cqrs_new_event_metadata(command->metadata, made->metadata, command->sender, command->command_id);
		events[i].schema_version = cqrs_entity_registry_schema_version(command->entity, made->event_type);
	}
	return events;
}
