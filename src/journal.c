/*
 * journal.c
 *		The store of record: one row an event, written here and nowhere else.
 *
 * A writer of an entity goes through
 *
 *	begin_write		wait for the entity's lock, then take a snapshot that sees
 *					what the last holder committed, then read the last event,
 *					unless it is known (last_event.c); begin_first_write
 *					assumes that there is none, where insert would notice
 *	check_version	is it the version that the caller expects?
 *	check_unchanged	under REPEATABLE READ and SERIALIZABLE: is it the version
 *					that the caller's transaction sees?
 *	complete		draw positions, set versions and times
 *	insert			all events of the append at once
 *	end_write
 *
 * The lock is held until the transaction ends, so between begin_write and the
 * commit nobody else adds a version.  Without it (entity_lock.c) the primary
 * key refuses the second writer; that is turned into 40001.
 *
 * The journal is the users' table: it is no member of the extension, made on
 * first use by cqrs.create_journal(), and may have gained indexes, triggers
 * and policies since.  It is written as its owner.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/rls.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "utils/typcache.h"

#include "catalog.h"
#include "compat.h"
#include "entity_lock.h"
#include "errors.h"
#include "journal.h"
#include "new_event.h"
#include "position.h"
#include "statement.h"

static Statement last_statement = {
	.sql = "SELECT version, position, created_at, event_type = '" CQRS_FORGOTTEN "' FROM cqrs.journal"
	" WHERE entity_type = $1 AND entity_id = $2 ORDER BY version DESC LIMIT 1",
	.nargs = 2,
	.argtypes = {TEXTOID, TEXTOID}
};

static Statement insert_one_statement = {
	.sql = "INSERT INTO cqrs.journal (" CQRS_EVENT_COLUMNS ")"
	" VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
	.nargs = EVENT_ATTRIBUTES,
	.argtypes = {INT8OID, INT4OID, TEXTOID, TEXTOID, INT8OID, TEXTOID, INT4OID, JSONBOID, JSONBOID, TIMESTAMPTZOID}
};

static Statement insert_many_statement = {
	.sql = "INSERT INTO cqrs.journal (" CQRS_EVENT_COLUMNS ")"
	" SELECT " CQRS_EVENT_COLUMNS " FROM unnest($1)",
	.nargs = 1					/* cqrs.event[], whose OID is not fixed */
};

/* The scope of the innermost insert that is under way */
static const RoleScope *insert_scope = NULL;

static void begin_write(const EntityKey *key, const RoleScope *scope, bool (*has_first_events) (void), LastEvent *last);
static bool assume_new(Relation journal, const EntityKey *key, bool (*has_first_events) (void), LastEvent *last);
static bool is_expected(const LastEvent *last, int64 expected);
static void look(Relation journal, const EntityKey *key, const RoleScope *scope, LastEvent *last);
static void refuse_row_security(Relation journal);
static void note_last(Relation journal, const EntityKey *key, const Event *event, bool locked);
static void read_last_by_statement(const EntityKey *key, LastEvent *last);
static void insert_by_statement(const EntityKey *key, const RoleScope *scope, const Event *events, int count);
static uint64 insert_one(const EntityKey *key, const Event *event);
static uint64 insert_many(const EntityKey *key, const Event *events, int count);
static void explain_unique_violation(const EntityKey *key, const ErrorData *error);

/* Invalid where there is no journal yet. */
Oid
cqrs_journal_relid(void)
{
	return cqrs_catalog_relation("journal");
}

/* Makes the journal on first use, whoever the user is. */
void
cqrs_journal_ensure(void)
{
	RoleScope	scope;

	if (OidIsValid(cqrs_journal_relid()))
		return;
	cqrs_role_enter(&scope, cqrs_catalog_extension_owner());
	SPI_connect();
	if (SPI_execute("SELECT cqrs.create_journal()", false, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not make the journal");
	SPI_finish();
	cqrs_role_leave(&scope);
}

/*
 * Does the effective role see all events?  Neither with row security nor with
 * a right to some columns only.
 */
bool
cqrs_journal_sees_all(void)
{
	Oid			journal = cqrs_journal_relid();

	return pg_class_aclcheck(journal, GetUserId(), ACL_SELECT) == ACLCHECK_OK &&
		check_enable_rls(journal, InvalidOid, true) != RLS_ENABLED;
}

/* Refuses what cannot be the name of an entity. */
void
cqrs_journal_check_key(EntityKey *key, text *entity_type, text *entity_id)
{
	Size		size;

	cqrs_new_event_check_name(entity_type, "entity type");
	cqrs_new_event_check_name(entity_id, "entity id");
	size = VARSIZE_ANY_EXHDR(entity_type) + VARSIZE_ANY_EXHDR(entity_id);
	if (size > CQRS_MAX_KEY_BYTES)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("entity type and id are too long"),
				 errdetail("Together they have %zu bytes; an index entry can hold %d.",
						   size, CQRS_MAX_KEY_BYTES)));
	cqrs_slice_key(key, entity_type, entity_id);
}

/*
 * Waits for the entity and reads its last event.  Leaves a snapshot active that
 * is newer than the wait; cqrs_journal_end_write() pops it.
 */
void
cqrs_journal_begin_write(const EntityKey *key, const RoleScope *scope, LastEvent *last)
{
	begin_write(key, scope, NULL, last);
}

/*
 * For who expects the entity to be new: it is assumed to be if "has_first_events", asked when
 * nobody else can write to it, says that otherwise it had a version 1.  Then the primary key
 * tells who inserts.
 */
void
cqrs_journal_begin_first_write(const EntityKey *key, const RoleScope *scope, bool (*has_first_events) (void),
							   LastEvent *last)
{
	begin_write(key, scope, IsolationUsesXactSnapshot() ? NULL : has_first_events, last);
}

static void
begin_write(const EntityKey *key, const RoleScope *scope, bool (*has_first_events) (void), LastEvent *last)
{
	Relation	journal;
	bool		locked = cqrs_entity_lock_acquire(key);

	/* This lock comes before positions are drawn: cqrs.adopt() waits for it. */
	journal = table_open(cqrs_journal_relid(), RowExclusiveLock);
	refuse_row_security(journal);
	/* Events appended before in this transaction count. */
	CommandCounterIncrement();
	PushActiveSnapshot(GetLatestSnapshot());
	if (!(locked && (cqrs_last_event_find(cqrs_journal_table_guard(journal), key, last) ||
					 (has_first_events && assume_new(journal, key, has_first_events, last)))))
		look(journal, key, scope, last);
	last->locked = locked;
	table_close(journal, NoLock);
}

static bool
assume_new(Relation journal, const EntityKey *key, bool (*has_first_events) (void), LastEvent *last)
{
	Oid			guard;

	/*
	 * Who deleted events held the entity's lock, and has told of it before he
	 * let it go.
	 */
	AcceptInvalidationMessages();
	guard = cqrs_journal_table_guard(journal);
	if (!OidIsValid(guard) || !cqrs_journal_table_allows(journal, JOURNAL_WRITE) ||
		cqrs_last_event_hint(guard, key) > 0 || !has_first_events())
		return false;
	*last = (LastEvent)
	{
		.source = LAST_ASSUMED
	};
	return true;
}

static void
look(Relation journal, const EntityKey *key, const RoleScope *scope, LastEvent *last)
{
	RoleScope	own;

	cqrs_role_enter_own(&own, scope, journal->rd_rel->relowner);
	if (cqrs_journal_table_allows(journal, JOURNAL_READ))
		cqrs_journal_table_read_last(journal, JOURNAL_WRITE, key, last);
	else
		read_last_by_statement(key, last);
	cqrs_role_leave(&own);
}

/* Somebody may have put events into the journal by hand: then what is known is too low. */
void
cqrs_journal_make_sure(const EntityKey *key, const RoleScope *scope, LastEvent *last)
{
	Relation	journal;
	bool		locked = last->locked;

	if (last->source != LAST_KNOWN)
		return;
	journal = table_open(cqrs_journal_relid(), RowExclusiveLock);
	cqrs_last_event_doubt(cqrs_journal_table_guard(journal), key);
	look(journal, key, scope, last);
	last->locked = locked;
	table_close(journal, NoLock);
}

/* For who reads all events, and would pass over those that are hidden from him. */
void
cqrs_journal_check_visible(void)
{
	Relation	journal = table_open(cqrs_journal_relid(), AccessShareLock);

	refuse_row_security(journal);
	table_close(journal, NoLock);
}

static void
refuse_row_security(Relation journal)
{
	Oid			owner = journal->rd_rel->relowner;

	if (journal->rd_rel->relrowsecurity &&
		check_enable_rls(RelationGetRelid(journal), owner, true) == RLS_ENABLED)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("row security of cqrs.journal applies to its owner"),
				 errdetail("Events that its owner \"%s\" cannot see cannot be followed by others.",
						   GetUserNameFromId(owner, false)),
				 errhint("ALTER TABLE cqrs.journal NO FORCE ROW LEVEL SECURITY.")));
}

void
cqrs_journal_end_write(void)
{
	PopActiveSnapshot();
}

/*
 * Compares with what the caller expects: 0 no such entity, -4 any event, else
 * exactly that version.  One that was forgotten does not exist, though it has
 * a version.
 */
void
cqrs_journal_check_version(const EntityKey *key, const RoleScope *scope, LastEvent *last, int64 expected)
{
	char	   *entity;

	if (!is_expected(last, expected))
		cqrs_journal_make_sure(key, scope, last);
	if (is_expected(last, expected))
		return;
	entity = psprintf("\"%s\" of type \"%s\"", text_to_cstring(key->entity_id),
					  text_to_cstring(key->entity_type));
	if (expected == CQRS_EXPECT_EXISTS)
		ereport(ERROR,
				(errcode(CQRS_VERSION_CONFLICT),
				 errmsg("entity %s does not exist", entity),
				 last->forgotten ? errdetail("It was forgotten at version " INT64_FORMAT ".", last->version)
				 : errdetail("Expected any version, found 0.")));
	ereport(ERROR,
			(errcode(CQRS_VERSION_CONFLICT),
			 errmsg("entity %s has another version", entity),
			 errdetail("Expected version " INT64_FORMAT ", found " INT64_FORMAT ".", expected, last->version),
			 errhint("Load the entity again and repeat the command.")));
}

static bool
is_expected(const LastEvent *last, int64 expected)
{
	return expected == last->version || (expected == 0 && last->forgotten) ||
		(expected == CQRS_EXPECT_EXISTS && last->version > 0 && !last->forgotten);
}

/* Nothing follows a tombstone, unless the entity type says so. */
void
cqrs_journal_refuse_forgotten(const EntityKey *key, const LastEvent *last)
{
	if (last->forgotten)
		ereport(ERROR,
				(errcode(CQRS_ENTITY_FORGOTTEN),
				 errmsg("entity \"%s\" of type \"%s\" was forgotten", text_to_cstring(key->entity_id),
						text_to_cstring(key->entity_type)),
				 errdetail("Version " INT64_FORMAT " is its last.", last->version),
				 errhint("The owner of the type can have it go on from there: "
						 "cqrs.alter_entity(..., after_forget => 'follow').")));
}

/*
 * Does for REPEATABLE READ and SERIALIZABLE what an UPDATE does there: refuses
 * to go on from a version that the transaction's own snapshot does not see.
 */
void
cqrs_journal_check_unchanged(const EntityKey *key, const RoleScope *scope, LastEvent *last)
{
	RoleScope	journal;
	LastEvent	seen;

	if (!IsolationUsesXactSnapshot())
		return;
	PushActiveSnapshot(GetTransactionSnapshot());
	cqrs_role_enter_own(&journal, scope, cqrs_catalog_relation_owner(cqrs_journal_relid()));
	cqrs_journal_read_last(key, true, &seen);
	cqrs_role_leave(&journal);
	PopActiveSnapshot();
	if (seen.version != last->version)
		cqrs_journal_make_sure(key, scope, last);
	if (seen.version != last->version)
		ereport(ERROR,
				(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
				 errmsg("could not serialize access due to concurrent append"),
				 errdetail("The transaction sees version " INT64_FORMAT " of entity \"%s\", which is at version "
						   INT64_FORMAT " now.", seen.version, text_to_cstring(key->entity_id), last->version),
				 errhint("Repeat the transaction.")));
}

/* Sets what the caller does not choose: position, version, time. */
void
cqrs_journal_complete(const LastEvent *last, Event *events, int count)
{
	TimestampTz now = GetCurrentTimestamp();
	int64	   *positions = palloc(sizeof(int64) * count);

	/* Within an entity time never goes back, whatever the clock does. */
	now = Max(now, last->created_at);
	cqrs_position_allocate(positions, count);
	for (int i = 0; i < count; i++)
	{
		events[i].position = positions[i];
		events[i].version = last->version + 1 + i;
		events[i].created_at = now;
	}
	pfree(positions);
}

/* Writes completed events; triggers that there are fire once for all of them. */
void
cqrs_journal_insert(const EntityKey *key, const RoleScope *scope, const LastEvent *last,
					const Event *events, int count)
{
	MemoryContext context = CurrentMemoryContext;
	LastEvent	found = {0};
	Relation	journal = table_open(cqrs_journal_relid(), RowExclusiveLock);
	bool		allowed = cqrs_journal_table_allows(journal, JOURNAL_WRITE);
	RoleScope	own;

	note_last(journal, key, &events[count - 1], last->locked);
	cqrs_role_enter_own(&own, scope, journal->rd_rel->relowner);
	PG_TRY();
	{
		if (allowed)
			cqrs_journal_table_insert(journal, key, events, count, last->source == LAST_ASSUMED ? &found : NULL);
		/* What a statement fires may want the table for itself. */
		table_close(journal, NoLock);
		if (!allowed)
			insert_by_statement(key, &own, events, count);
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(context);
		explain_unique_violation(key, CopyErrorData());
		PG_RE_THROW();
	}
	PG_END_TRY();
	cqrs_role_leave(&own);
	if (found.version > 0)
	{
		cqrs_journal_check_version(key, scope, &found, 0);
		cqrs_journal_refuse_forgotten(key, &found);
	}
}

static void
note_last(Relation journal, const EntityKey *key, const Event *event, bool locked)
{
	LastEvent	last = {
		.version = event->version,
		.position = event->position,
		.created_at = event->created_at,
		.forgotten = cqrs_journal_table_is_type(event->event_type, CQRS_FORGOTTEN)
	};

	cqrs_last_event_will_be(cqrs_journal_table_guard(journal), key, &last, locked);
}

/* Whose rows a trigger on the journal sees: ours, or a restore's. */
const RoleScope *
cqrs_journal_insert_scope(void)
{
	return insert_scope;
}

/*
 * Reads the last event with the active snapshot, as the effective role, which
 * may be one that does not see all of them.
 */
void
cqrs_journal_read_last(const EntityKey *key, bool sees_all, LastEvent *last)
{
	Relation	journal = sees_all ? cqrs_journal_table_open(cqrs_journal_relid()) : NULL;

	if (journal)
	{
		cqrs_journal_table_read_last(journal, JOURNAL_READ, key, last);
		cqrs_journal_table_close(journal);
	}
	else
		read_last_by_statement(key, last);
}

static void
read_last_by_statement(const EntityKey *key, LastEvent *last)
{
	Datum		values[] = {PointerGetDatum(key->entity_type), PointerGetDatum(key->entity_id)};

	memset(last, 0, sizeof(LastEvent));
	SPI_connect();
	if (cqrs_statement_read(&last_statement, values, NULL, 1) == 1)
	{
		last->version = DatumGetInt64(cqrs_statement_column(0, 1, NULL));
		last->position = DatumGetInt64(cqrs_statement_column(0, 2, NULL));
		last->created_at = DatumGetTimestampTz(cqrs_statement_column(0, 3, NULL));
		last->forgotten = DatumGetBool(cqrs_statement_column(0, 4, NULL));
	}
	SPI_finish();
}

/* A completed event as a cqrs.event, as handlers and triggers see it. */
Datum
cqrs_journal_event_datum(const EntityKey *key, const Event *event)
{
	TupleDesc	desc = lookup_rowtype_tupdesc(cqrs_catalog_type("event"), -1);
	Datum		values[EVENT_ATTRIBUTES];
	bool		nulls[EVENT_ATTRIBUTES];
	Datum		result;

	cqrs_journal_table_values(key, event, values, nulls);
	result = HeapTupleGetDatum(heap_form_tuple(desc, values, nulls));
	ReleaseTupleDesc(desc);
	return result;
}

PG_FUNCTION_INFO_V1(cqrs_high_water_mark);
Datum
cqrs_high_water_mark(PG_FUNCTION_ARGS)
{
	int64		mark = cqrs_position_high_water_mark();

	cqrs_position_make_durable();
	PG_RETURN_INT64(mark);
}

/* One statement for all events, which fires triggers once. */
static void
insert_by_statement(const EntityKey *key, const RoleScope *scope, const Event *events, int count)
{
	const RoleScope *outer = insert_scope;
	RunningHandler running;
	volatile uint64 stored = 0;

	SPI_connect();
	insert_scope = scope;
	/* Triggers shall not write to the entity between its events. */
	cqrs_entity_lock_begin_handler(&running, RUNNING_INSERT, key);
	PG_TRY();
	{
		stored = count == 1 ? insert_one(key, events) : insert_many(key, events, count);
	}
	PG_FINALLY();
	{
		insert_scope = outer;
		cqrs_entity_lock_end_handler(&running);
	}
	PG_END_TRY();
	SPI_finish();
	if (stored != (uint64) count)
		ereport(ERROR,
				(errcode(ERRCODE_TRIGGERED_DATA_CHANGE_VIOLATION),
				 errmsg("not all events of the append were stored"),
				 errdetail(UINT64_FORMAT " of %d events for entity \"%s\" of type \"%s\" were stored.", stored, count,
						   text_to_cstring(key->entity_id), text_to_cstring(key->entity_type)),
				 errhint("A trigger or rule on cqrs.journal must not suppress events; to refuse one, raise an error.")));
}

static uint64
insert_one(const EntityKey *key, const Event *event)
{
	Datum		values[EVENT_ATTRIBUTES];
	bool		is_null[EVENT_ATTRIBUTES];
	char		nulls[EVENT_ATTRIBUTES];

	cqrs_journal_table_values(key, event, values, is_null);
	for (int i = 0; i < EVENT_ATTRIBUTES; i++)
		nulls[i] = is_null[i] ? 'n' : ' ';
	return cqrs_statement_write(&insert_one_statement, values, nulls);
}

static uint64
insert_many(const EntityKey *key, const Event *events, int count)
{
	Oid			element = cqrs_catalog_type("event");
	Oid			array = get_array_type(element);
	Datum	   *rows = palloc(sizeof(Datum) * count);
	Datum		value;

	for (int i = 0; i < count; i++)
		rows[i] = cqrs_journal_event_datum(key, &events[i]);
	value = PointerGetDatum(construct_array(rows, count, element, -1, false, TYPALIGN_DOUBLE));

	/* The extension may have been dropped and made again in this session. */
	if (insert_many_statement.argtypes[0] != array)
		cqrs_statement_reset(&insert_many_statement);
	insert_many_statement.argtypes[0] = array;
	return cqrs_statement_write(&insert_many_statement, &value, NULL);
}

/* Returns if the error is none of those that need our words. */
static void
explain_unique_violation(const EntityKey *key, const ErrorData *error)
{
	if (error->sqlerrcode != ERRCODE_UNIQUE_VIOLATION || error->constraint_name == NULL ||
		error->schema_name == NULL || strcmp(error->schema_name, "cqrs") != 0)
		return;
	if (strcmp(error->constraint_name, "journal_pkey") == 0)
	{
		FlushErrorState();
		ereport(ERROR,
				(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
				 errmsg("could not serialize access due to concurrent append"),
				 errdetail("Another transaction has appended to entity \"%s\" of type \"%s\" meanwhile.",
						   text_to_cstring(key->entity_id), text_to_cstring(key->entity_type)),
				 errhint("Repeat the transaction.  Who has written to more than cqrs.max_entity_locks entities "
						 "does not wait, nor is waited for.")));
	}
	if (strcmp(error->constraint_name, "journal_position_key") == 0)
	{
		FlushErrorState();
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("sequence cqrs.%s gave a position that is taken", CQRS_POSITION_SEQUENCE),
				 errdetail("The journal has events at or after that position."),
				 errhint("Somebody set the sequence back, or restored the journal without it.  "
						 "Run SELECT cqrs.adopt().")));
	}
}
