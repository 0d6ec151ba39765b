/*
 * retention.c
 *		Events that go: those that are too old, and those of who is to be forgotten.
 *
 * The journal is append-only to everybody else.  What is deleted here leaves an
 * event of ours in its place, so the journal stays whole by itself, in a copy
 * or a dump as well, and whoever reads it later is told that something is
 * missing.  Versions and positions are never given again.
 *
 *	forget			everything of the entity goes.  A tombstone, $forgotten, is
 *					its next event: it keeps the version, and tells projections
 *					to let go of what they have.
 *
 *	delete_events	the event of the version before "before_version" becomes a
 *					$snapshot: the state after it, at its position and time.  All
 *					earlier ones go.  States are folded from there, whatever
 *					handlers are registered later, and a projection that was not
 *					there yet, or is rebuilt, gets the state instead of the
 *					events.  $deleted, the next event, tells all others.
 *
 * A reader in the order of positions sees one or the other: what was deleted
 * before its snapshot was taken is not there, and the event that says so has a
 * higher position than all it has read.
 *
 * Both are writers like cqrs.append(): the lock of the entity, held to the end
 * of the transaction, keeps commands and snapshots out.  A timer of the entity
 * is locked before that, as its worker does; the rest of the entity's rows are
 * its own.
 *
 * What cannot be reached: what projections have stored, which have to react to
 * the tombstone; what handlers have written elsewhere or sent away; the
 * server's log, WAL and backups.
 *
 * With an old snapshot, of REPEATABLE READ, a DELETE does not see what came
 * after it, so who forgets looks again with the newest.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/snapmgr.h"

#include "catalog.h"
#include "compat.h"
#include "entity_lock.h"
#include "errors.h"
#include "identity.h"
#include "journal_guard.h"
#include "new_event.h"
#include "settings.h"
#include "state.h"
#include "statement.h"

static Statement delete_events_statement = {
	.sql = "DELETE FROM cqrs.journal WHERE entity_type = $1 AND entity_id = $2 AND version < $3",
	.nargs = 3,
	.argtypes = {TEXTOID, TEXTOID, INT8OID}
};

static Statement events_left_statement = {
	.sql = "SELECT FROM cqrs.journal WHERE entity_type = $1 AND entity_id = $2 AND version < $3 LIMIT 1",
	.nargs = 3,
	.argtypes = {TEXTOID, TEXTOID, INT8OID}
};

static Statement replace_event_statement = {
	.sql = "UPDATE cqrs.journal SET event_type = $4, schema_version = 1, data = $5, metadata = $6"
	" WHERE entity_type = $1 AND entity_id = $2 AND version = $3",
	.nargs = 6,
	.argtypes = {TEXTOID, TEXTOID, INT8OID, TEXTOID, JSONBOID, JSONBOID}
};

static Statement delete_snapshots_statement = {
	.sql = "DELETE FROM cqrs.snapshot WHERE entity_type = $1 AND entity_id = $2 AND version < $3",
	.nargs = 3,
	.argtypes = {TEXTOID, TEXTOID, INT8OID}
};

/* What else holds something of an entity: $1 is its type, $2 its id, $3 its slice. */
static Statement delete_timers_statement = {
	.sql = "DELETE FROM cqrs.timer WHERE entity_type = $1 AND entity_id = $2",
	.nargs = 2,
	.argtypes = {TEXTOID, TEXTOID}
};

/* A parked entity is released by its worker, who finds the tombstone. */
static Statement clear_errors_statement = {
	.sql = "UPDATE cqrs.parked_entity SET error = ''"
	" WHERE slice = $3 AND entity_type = $1 AND entity_id = $2 AND error <> ''",
	.nargs = 3,
	.argtypes = {TEXTOID, TEXTOID, INT4OID}
};

static Statement delete_answers_statement = {
	.sql = "DELETE FROM cqrs.command_log WHERE entity_type = $1 AND entity_id = $2 AND slice = $3",
	.nargs = 3,
	.argtypes = {TEXTOID, TEXTOID, INT4OID}
};

static Statement delete_deliveries_statement = {
	.sql = "DELETE FROM cqrs.outbox WHERE reply_entity_type = $1 AND reply_entity_id = $2"
	" AND state IN ('delivered', 'rejected', 'reply_failed', 'dead')",
	.nargs = 2,
	.argtypes = {TEXTOID, TEXTOID}
};

/*
 * Deliveries that are not settled have no index by entity, since they are few
 * and change often.  Each of these goes through one of the indexes that they
 * have, whatever has been settled.
 */
#define LEFT_DELIVERY " UNION ALL SELECT 'delivery' FROM cqrs.outbox WHERE reply_entity_type = $1 AND reply_entity_id = $2 AND "

#define LEFT "SELECT 'timer' FROM cqrs.timer WHERE entity_type = $1 AND entity_id = $2" \
	LEFT_DELIVERY "state = 'pending' AND NOT behind" \
	LEFT_DELIVERY "state = 'pending' AND behind AND ordering_key IS NOT NULL" \
	LEFT_DELIVERY "state = 'claimed'" \
	LEFT_DELIVERY "state = 'answered'"

static Statement left_statement = {
	.sql = LEFT " LIMIT 1",
	.nargs = 2,
	.argtypes = {TEXTOID, TEXTOID}
};

/* What came of the entity since an old snapshot was taken. */
static Statement left_behind_statement = {
	.sql = LEFT LEFT_DELIVERY "state IN ('delivered', 'rejected', 'reply_failed', 'dead')"
	" UNION ALL SELECT 'snapshot' FROM cqrs.snapshot WHERE entity_type = $1 AND entity_id = $2"
	" UNION ALL SELECT 'answer' FROM cqrs.command_log WHERE entity_type = $1 AND entity_id = $2 AND slice = $3 LIMIT 1",
	.nargs = 3,
	.argtypes = {TEXTOID, TEXTOID, INT4OID}
};

typedef struct Deletion
{
	EntityKey	key;
	RoleScope	scope;			/* its caller is who deletes */
	LastEvent	last;
} Deletion;

static void check_arguments(FunctionCallInfo fcinfo, EntityKey *key);
static void begin(Deletion *deletion);
static void forget(Deletion *deletion);
static void refuse_what_is_under_way(const Deletion *deletion);
static void refuse_what_is_left(const Deletion *deletion);
static uint64 delete_events(const Deletion *deletion, int64 before_version);
static void find_event(const Deletion *deletion, int64 version, LastEvent *event);
static Jsonb *load_state(const Deletion *deletion, const LastEvent *event);
static uint64 delete_before(const Deletion *deletion, int64 version);
static void replace_by_state(const Deletion *deletion, int64 version, Jsonb *state);
static uint64 change_journal(const Deletion *deletion, Statement *statement, Datum *values);
static void append_own(Deletion *deletion, const char *event_type, const char *data);
static uint64 run(const Deletion *deletion, Statement *statement, Datum third);
static Jsonb *sender(const Deletion *deletion);

PG_FUNCTION_INFO_V1(cqrs_forget);
Datum
cqrs_forget(PG_FUNCTION_ARGS)
{
	Deletion	deletion;

	PreventCommandDuringRecovery("cqrs.forget()");
	cqrs_entity_lock_refuse_effect("forget");
	check_arguments(fcinfo, &deletion.key);

	cqrs_role_enter(&deletion.scope, cqrs_catalog_extension_owner());
	SPI_connect();
	(void) run(&deletion, &delete_timers_statement, (Datum) 0);
	(void) run(&deletion, &clear_errors_statement, Int32GetDatum(deletion.key.slice));
	begin(&deletion);
	if (deletion.last.version > 0)
		forget(&deletion);
	cqrs_journal_end_write();
	SPI_finish();
	cqrs_role_leave(&deletion.scope);
	if (deletion.last.version == 0)
		PG_RETURN_NULL();
	PG_RETURN_INT64(deletion.last.version);
}

PG_FUNCTION_INFO_V1(cqrs_delete_events);
Datum
cqrs_delete_events(PG_FUNCTION_ARGS)
{
	Deletion	deletion;
	int64		before_version = PG_ARGISNULL(2) ? 0 : PG_GETARG_INT64(2);
	uint64		deleted;

	PreventCommandDuringRecovery("cqrs.delete_events()");
	cqrs_entity_lock_refuse_effect("delete_events");
	check_arguments(fcinfo, &deletion.key);
	if (before_version < 1)
		ereport(ERROR,
				(errcode(PG_ARGISNULL(2) ? ERRCODE_NULL_VALUE_NOT_ALLOWED : ERRCODE_INVALID_PARAMETER_VALUE),
				 PG_ARGISNULL(2) ? errmsg("before_version is NULL")
				 : errmsg("before_version is " INT64_FORMAT "; it must be at least 1", before_version)));

	cqrs_role_enter(&deletion.scope, cqrs_catalog_extension_owner());
	SPI_connect();
	begin(&deletion);
	deleted = delete_events(&deletion, before_version);
	if (deleted > 0)
		append_own(&deletion, CQRS_DELETED, psprintf("{\"before_version\": " INT64_FORMAT "}", before_version));
	cqrs_journal_end_write();
	SPI_finish();
	cqrs_role_leave(&deletion.scope);
	PG_RETURN_INT64(deleted);
}

/* For the owner of the entity type. */
static void
check_arguments(FunctionCallInfo fcinfo, EntityKey *key)
{
	cqrs_journal_check_key(key, PG_ARGISNULL(0) ? NULL : PG_GETARG_TEXT_PP(0),
						   PG_ARGISNULL(1) ? NULL : PG_GETARG_TEXT_PP(1));
	(void) cqrs_entity_registry_get_owned(key->entity_type);
	cqrs_journal_ensure();
	cqrs_identity_warn_if_held();
}

/* Leaves a snapshot active, as cqrs_journal_begin_write() does. */
static void
begin(Deletion *deletion)
{
	RoleScope	journal;
	RoleScope	caller;
	bool		exists;

	/*
	 * Before the entity is locked: others may wait here for the first who
	 * deletes.
	 */
	LockRelationOid(cqrs_journal_relid(), RowExclusiveLock);
	cqrs_role_enter_own(&journal, &deletion->scope, cqrs_catalog_relation_owner(cqrs_journal_relid()));
	cqrs_journal_read_last(&deletion->key, true, &deletion->last);
	cqrs_role_leave(&journal);
	exists = deletion->last.version > 0;
	if (exists)
		cqrs_identity_lose_first_events();
	if (!cqrs_entity_lock_acquire(&deletion->key))
		ereport(ERROR,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("too many entities in one transaction"),
				 errdetail("Events are deleted under a lock of their entity, and the transaction has %d, as many as cqrs.max_entity_locks allows.",
						   cqrs_max_entity_locks),
				 errhint("Commit in between.")));
	cqrs_entity_lock_exclude_unlocked();
	cqrs_journal_begin_write(&deletion->key, &deletion->scope, &deletion->last);
	cqrs_journal_make_sure(&deletion->key, &deletion->scope, &deletion->last);
	if (!exists && deletion->last.version > 0)
		cqrs_identity_lose_first_events();
	/* The type may have been given away while we waited. */
	cqrs_role_enter_own(&caller, &deletion->scope, deletion->scope.caller);
	(void) cqrs_entity_registry_get_owned(deletion->key.entity_type);
	cqrs_role_leave(&caller);
	cqrs_journal_check_unchanged(&deletion->key, &deletion->scope, &deletion->last);
}

/*
 * Of an entity that was forgotten before, perhaps on the server that this one
 * subscribes to, only what was kept here is left to go.
 */
static void
forget(Deletion *deletion)
{
	int64		end = deletion->last.version + 1;

	(void) run(deletion, &delete_answers_statement, Int32GetDatum(deletion->key.slice));
	(void) run(deletion, &delete_deliveries_statement, (Datum) 0);
	refuse_what_is_under_way(deletion);
	(void) run(deletion, &delete_snapshots_statement, Int64GetDatum(end));
	if (IsolationUsesXactSnapshot())
		refuse_what_is_left(deletion);
	cqrs_state_cache_clear();
	if (deletion->last.forgotten)
		return;
	(void) delete_before(deletion, end);
	append_own(deletion, CQRS_FORGOTTEN, "{}");
}

/* What will be sent to the entity cannot be taken from those who are sending it. */
static void
refuse_what_is_under_way(const Deletion *deletion)
{
	if (run(deletion, &left_statement, (Datum) 0) > 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_IN_USE),
				 errmsg("entity \"%s\" of type \"%s\" cannot be forgotten now",
						text_to_cstring(deletion->key.entity_id), text_to_cstring(deletion->key.entity_type)),
				 errdetail("There is a %s whose command is still to be sent to it.",
						   TextDatumGetCString(cqrs_statement_column(0, 1, NULL))),
				 errhint("Try again when it is settled, or discard it: see cqrs.outbox_status and cqrs.timer_status.")));
}

/* No statement of an old snapshot can delete it. */
static void
refuse_what_is_left(const Deletion *deletion)
{
	Datum		values[] = {
		PointerGetDatum(deletion->key.entity_type), PointerGetDatum(deletion->key.entity_id), Int32GetDatum(deletion->key.slice)
	};

	CommandCounterIncrement();
	PushActiveSnapshot(GetLatestSnapshot());
	if (cqrs_statement_read(&left_behind_statement, values, NULL, 1) > 0)
		ereport(ERROR,
				(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
				 errmsg("could not serialize access due to concurrent use of entity \"%s\" of type \"%s\"",
						text_to_cstring(deletion->key.entity_id), text_to_cstring(deletion->key.entity_type)),
				 errdetail("There is a %s of it that has come since the transaction began.",
						   TextDatumGetCString(cqrs_statement_column(0, 1, NULL))),
				 errhint("Repeat the transaction.")));
	PopActiveSnapshot();
}

/* Puts the state in the place of all events before a version; returns how many are gone. */
static uint64
delete_events(const Deletion *deletion, int64 before_version)
{
	LastEvent	event;
	Jsonb	   *state;
	uint64		deleted;

	find_event(deletion, before_version - 1, &event);
	if (event.version == 0 || event.forgotten)
		return 0;
	state = load_state(deletion, &event);
	deleted = delete_before(deletion, event.version);
	if (deleted == 0)
		return 0;
	replace_by_state(deletion, event.version, state);
	(void) run(deletion, &delete_snapshots_statement, Int64GetDatum(event.version));
	return deleted;
}

/* The event that will stand for all before it; version 0 where they are gone. */
static void
find_event(const Deletion *deletion, int64 version, LastEvent *event)
{
	RoleScope	journal;

	memset(event, 0, sizeof(LastEvent));
	if (version >= deletion->last.version)
		ereport(ERROR,
				(errcode(CQRS_VERSION_CONFLICT),
				 errmsg("entity \"%s\" of type \"%s\" has no such version",
						text_to_cstring(deletion->key.entity_id), text_to_cstring(deletion->key.entity_type)),
				 errdetail("Expected version " INT64_FORMAT ", found " INT64_FORMAT ".",
						   version + 1, deletion->last.version)));
	cqrs_role_enter_own(&journal, &deletion->scope, cqrs_catalog_relation_owner(cqrs_journal_relid()));
	(void) cqrs_state_find_version(&deletion->key, version, event);
	cqrs_role_leave(&journal);
}

static Jsonb *
load_state(const Deletion *deletion, const LastEvent *event)
{
	EntityType *entity = cqrs_entity_registry_get(deletion->key.entity_type);
	EntityState state;
	RoleScope	journal;

	cqrs_role_enter_own(&journal, &deletion->scope, cqrs_catalog_relation_owner(cqrs_journal_relid()));
	cqrs_state_load(entity, &deletion->key, &deletion->scope, event, STATE_FROM_KEPT, &state);
	cqrs_role_leave(&journal);
	return state.state;
}

static uint64
delete_before(const Deletion *deletion, int64 version)
{
	Datum		values[] = {
		PointerGetDatum(deletion->key.entity_type), PointerGetDatum(deletion->key.entity_id), Int64GetDatum(version)
	};
	uint64		deleted = change_journal(deletion, &delete_events_statement, values);

	if (change_journal(deletion, &events_left_statement, values) > 0)
		ereport(ERROR,
				(errcode(ERRCODE_TRIGGERED_DATA_CHANGE_VIOLATION),
				 errmsg("not all events of entity \"%s\" of type \"%s\" were deleted",
						text_to_cstring(deletion->key.entity_id), text_to_cstring(deletion->key.entity_type)),
				 errhint("A trigger or rule on cqrs.journal must not keep events; to refuse, raise an error.")));
	return deleted;
}

static void
replace_by_state(const Deletion *deletion, int64 version, Jsonb *state)
{
	Datum		values[] = {
		PointerGetDatum(deletion->key.entity_type), PointerGetDatum(deletion->key.entity_id), Int64GetDatum(version),
		CStringGetTextDatum(CQRS_SNAPSHOT), JsonbPGetDatum(state), JsonbPGetDatum(sender(deletion))
	};

	if (change_journal(deletion, &replace_event_statement, values) != 1)
		ereport(ERROR,
				(errcode(ERRCODE_TRIGGERED_DATA_CHANGE_VIOLATION),
				 errmsg("event " INT64_FORMAT " of entity \"%s\" of type \"%s\" was not replaced", version,
						text_to_cstring(deletion->key.entity_id), text_to_cstring(deletion->key.entity_type)),
				 errhint("A trigger or rule on cqrs.journal must not keep events; to refuse, raise an error.")));
}

/* Runs a statement that the guard of the journal refuses to everybody else. */
static uint64
change_journal(const Deletion *deletion, Statement *statement, Datum *values)
{
	RoleScope	journal;
	uint64		rows;

	cqrs_role_enter_own(&journal, &deletion->scope, cqrs_catalog_relation_owner(cqrs_journal_relid()));
	rows = cqrs_journal_guard_change(statement, values);
	cqrs_role_leave(&journal);
	return rows;
}

/* Writes an event of ours, which is the last one then. */
static void
append_own(Deletion *deletion, const char *event_type, const char *data)
{
	Event		event = {
		.event_type = cstring_to_text(event_type),
		.schema_version = 1,
		.data = DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(data))),
		.metadata = sender(deletion)
	};

	cqrs_journal_complete(&deletion->last, &event, 1);
	cqrs_journal_insert(&deletion->key, &deletion->scope, &deletion->last, &event, 1);
	deletion->last.version = event.version;
}

/* Runs a statement on what is kept beside the journal. */
static uint64
run(const Deletion *deletion, Statement *statement, Datum third)
{
	Datum		values[] = {
		PointerGetDatum(deletion->key.entity_type), PointerGetDatum(deletion->key.entity_id), third
	};

	return cqrs_statement_write(statement, values, NULL);
}

static Jsonb *
sender(const Deletion *deletion)
{
	return cqrs_new_event_metadata(NULL, NULL, GetUserNameFromId(deletion->scope.caller, false), NULL);
}
