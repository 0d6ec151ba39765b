/*
 * journal_append.c
 *		cqrs.append(): events that somebody else decided on.
 *
 * One atomic append to one entity, without handlers: no state is folded, so
 * what a handler of the type would refuse is found out by the next command.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/builtins.h"

#include "catalog.h"
#include "command_log.h"
#include "compat.h"
#include "entity_lock.h"
#include "entity_registry.h"
#include "identity.h"
#include "journal.h"
#include "journal_append.h"
#include "new_event.h"
#include "role.h"

typedef struct Append
{
	EntityKey	key;
	Event	   *events;
	int			count;
	/* Expected version */
	bool		any_version;
	int64		expected;
	/* Command id */
	pg_uuid_t  *command_id;		/* or NULL */
	int64		fingerprint;
} Append;

static void parse_events(Append *append, Datum array);
static int64 fingerprint(const NewEvent *events, int count);
static void obey_entity_type(Append *append, const LastEvent *last);
static void append_events(Append *append, Receipt *receipt);

PG_FUNCTION_INFO_V1(cqrs_append);
Datum
cqrs_append(PG_FUNCTION_ARGS)
{
	Append		append = {0};
	Receipt		receipt = {0};

	PreventCommandDuringRecovery("cqrs.append()");
	cqrs_entity_lock_refuse_effect("append");
	cqrs_journal_check_key(&append.key, PG_ARGISNULL(0) ? NULL : PG_GETARG_TEXT_PP(0),
						   PG_ARGISNULL(1) ? NULL : PG_GETARG_TEXT_PP(1));
	if (PG_ARGISNULL(2))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("events is NULL")));
	append.any_version = PG_ARGISNULL(3);
	if (!append.any_version)
		append.expected = cqrs_journal_append_check_expected(PG_GETARG_INT64(3));
	append.command_id = PG_ARGISNULL(4) ? NULL : PG_GETARG_UUID_P(4);

	cqrs_journal_ensure();
	cqrs_identity_warn_if_held();
	parse_events(&append, PG_GETARG_DATUM(2));
	append_events(&append, &receipt);
	PG_RETURN_DATUM(cqrs_receipt_datum(&receipt));
}

/* 0, -4 and versions are known; -1 means "must not exist" elsewhere. */
int64
cqrs_journal_append_check_expected(int64 expected)
{
	if (expected < 0 && expected != CQRS_EXPECT_EXISTS)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("expected_version " INT64_FORMAT " is not known", expected),
				 errhint("Use 0 for an entity that must not exist, %d for one that must, "
						 "a version for exactly that one, NULL for any.  "
						 "(-1 is refused because it means the opposite in other stores.)", CQRS_EXPECT_EXISTS)));
	return expected;
}

static void
parse_events(Append *append, Datum array)
{
	NewEvent   *parsed = cqrs_new_event_parse(array, &append->count);

	if (append->count == 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("there are no events to append")));
	append->events = palloc0(sizeof(Event) * append->count);
	for (int i = 0; i < append->count; i++)
	{
		Event	   *event = &append->events[i];

		event->event_type = parsed[i].event_type;
		event->data = parsed[i].data;
		event->metadata = cqrs_new_event_metadata(NULL, parsed[i].metadata, NULL, append->command_id);
	}
	if (append->command_id)
		append->fingerprint = fingerprint(parsed, append->count);
}

static int64
fingerprint(const NewEvent *events, int count)
{
	const void **parts = palloc(sizeof(void *) * 3 * count);

	for (int i = 0; i < count; i++)
	{
		parts[3 * i] = events[i].event_type;
		parts[3 * i + 1] = events[i].data;
		parts[3 * i + 2] = events[i].metadata;
	}
	return cqrs_command_log_fingerprint(parts, 3 * count);
}

/* By what is registered now, not before we waited for the entity. */
static void
obey_entity_type(Append *append, const LastEvent *last)
{
	EntityType *entity = cqrs_entity_registry_find(append->key.entity_type);

	if (entity == NULL || !entity->follows_forgotten)
		cqrs_journal_refuse_forgotten(&append->key, last);
	for (int i = 0; i < append->count; i++)
		append->events[i].schema_version =
			cqrs_entity_registry_schema_version(entity, append->events[i].event_type);
}

static void
append_events(Append *append, Receipt *receipt)
{
	EntityKey  *key = &append->key;
	RoleScope	scope;
	LastEvent	last;

	cqrs_role_enter_bare(&scope, cqrs_catalog_extension_owner());
	if (!append->any_version && append->expected == 0)
		cqrs_journal_begin_first_write(key, &scope, cqrs_identity_has_first_events, &last);
	else
		cqrs_journal_begin_write(key, &scope, &last);
	if (append->command_id == NULL ||
		!cqrs_command_log_find(key, &scope, append->command_id, append->fingerprint, receipt))
	{
		if (!append->any_version)
			cqrs_journal_check_version(key, &scope, &last, append->expected);
		cqrs_journal_check_unchanged(key, &scope, &last);
		obey_entity_type(append, &last);
		cqrs_journal_complete(&last, append->events, append->count);
		cqrs_journal_insert(key, &scope, &last, append->events, append->count);

		receipt->entity_id = key->entity_id;
		receipt->version = append->events[append->count - 1].version;
		receipt->position = append->events[append->count - 1].position;
		if (append->command_id)
			cqrs_command_log_store(key, &scope, append->command_id, append->fingerprint, receipt);
	}
	cqrs_journal_end_write();
	cqrs_role_leave(&scope);
}
