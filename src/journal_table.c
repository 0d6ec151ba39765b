/*
 * journal_table.c
 *		Rows of the journal, and the way to them past the executor.
 *
 * A command reads one row by an index and writes one.  Most of what an SQL
 * statement costs for that is to set the executor up and to take it down
 * again, so the table and its indexes are used directly, through the same
 * functions that the executor calls in the end: every index that there is gets
 * its entry; TOAST, WAL, logical decoding and SERIALIZABLE go on as ever.
 *
 * What needs the executor is left to it: cqrs_journal_table_allows() says no
 * where the table has become more than what cqrs.create_journal() made, and
 * the caller goes on with a statement.  So it is where an insert would run
 * somebody's functions: triggers (a sync projection is one, and so is each
 * deferrable constraint), CHECK constraints, indexes on expressions.  A
 * distributed table must never be written here: its rows are elsewhere, so none
 * is where Citus is installed.  What is found out about the table is kept until its relcache entry changes.
 *
 * Rights are the caller's business: nobody here checks any, and row security
 * is not applied.  Rows are read with the active snapshot.
 */
#include "postgres.h"

#include "access/stratnum.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/index.h"
#include "catalog/namespace.h"
#include "catalog/pg_am.h"
#include "catalog/pg_collation.h"
#include "catalog/pg_trigger.h"
#include "commands/extension.h"
#include "commands/trigger.h"
#include "executor/executor.h"
#include "storage/lmgr.h"
#include "utils/fmgroids.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "catalog.h"
#include "compat.h"
#include "journal_table.h"

/* Rows that are made and written at a time, at most; their bytes, more or less. */
#define ROWS_AT_ONCE	64
#define BYTES_AT_ONCE	(256 * 1024)

/* What rows are written into. */
typedef struct JournalTarget
{
	Relation	journal;
	int			count;
	Relation   *indexes;
	IndexInfo **infos;
	const EntityKey *key;
	LastEvent  *found;			/* if its first event comes next, unlooked for */
} JournalTarget;

/* What is known of the table with this OID; invalid: nothing. */
static struct
{
	Oid			relid;
	bool		readable;
	bool		insertable;
	Oid			guard;			/* trigger */
	Oid			by_entity;		/* indexes */
	Oid			by_position;
}			known;

static bool became_stale = false;	/* while we looked at the table */

static void forget(Datum arg, Oid relid);
static void describe(Relation journal);
static Oid	find_index(Relation journal, const AttrNumber *columns, int count);
static bool has_columns(Relation index, const AttrNumber *columns, int count);
static bool runs_functions(Relation journal);
static bool changes_rows(Relation journal);
static Oid	find_guard(Relation journal);
static void begin_scan(JournalScan *scan, Relation journal, Oid index);
static void add_key(JournalScan *scan, AttrNumber column, StrategyNumber strategy, RegProcedure function, Datum value);
static void find_last(Relation journal, JournalUse use, const EntityKey *key, int64 from_version, LastEvent *last);
static void open_target(JournalTarget *target, Relation journal);
static void move_first(JournalTarget *target, int i);
static void close_target(JournalTarget *target);
static void insert_rows(JournalTarget *target, TupleTableSlot **slots, int count);
static void insert_entries(JournalTarget *target, TupleTableSlot *slot);
static void insert_first_entry(JournalTarget *target, Relation index, IndexInfo *info,
							   Datum *values, bool *nulls, ItemPointer tid);
static bool is_found(const JournalTarget *target);

void
cqrs_journal_table_init(void)
{
	CacheRegisterRelcacheCallback(forget, (Datum) 0);
}

/* NULL where the executor is needed to read.  The lock is kept. */
Relation
cqrs_journal_table_open(Oid relid)
{
	Relation	journal = table_open(relid, AccessShareLock);

	if (cqrs_journal_table_allows(journal, JOURNAL_READ))
		return journal;
	table_close(journal, NoLock);
	return NULL;
}

/* False where the executor is needed.  The table is open, with a lock for the use. */
bool
cqrs_journal_table_allows(Relation journal, JournalUse use)
{
	if (known.relid != RelationGetRelid(journal))
		describe(journal);
	return use == JOURNAL_WRITE ? known.insertable : known.readable;
}

/* The trigger that tells of changes by hand; invalid where there is none, or where the executor is needed. */
Oid
cqrs_journal_table_guard(Relation journal)
{
	return cqrs_journal_table_allows(journal, JOURNAL_READ) ? known.guard : InvalidOid;
}

/* Is it the guard's function? */
bool
cqrs_journal_table_is_guard(Oid function)
{
	char	   *name = get_func_name(function);

	return name && strcmp(name, CQRS_GUARD) == 0 && get_func_namespace(function) == get_namespace_oid("cqrs", true);
}

void
cqrs_journal_table_close(Relation journal)
{
	table_close(journal, NoLock);
}

/* The search begins at a version that the entity had lately, which saves looking at all its entries before. */
void
cqrs_journal_table_read_last(Relation journal, JournalUse use, const EntityKey *key, LastEvent *last)
{
	int64		hint = cqrs_last_event_hint(known.guard, key);

	find_last(journal, use, key, hint, last);
	/* It was in a transaction that was rolled back, or is not seen yet. */
	if (last->version == 0 && hint > 0)
		find_last(journal, use, key, 0, last);
	if (last->version != hint)
		cqrs_last_event_remember_hint(known.guard, key, last->version);
}

static void
find_last(Relation journal, JournalUse use, const EntityKey *key, int64 from_version, LastEvent *last)
{
	JournalScan scan = {.use = use};
	TupleTableSlot *slot;

	memset(last, 0, sizeof(LastEvent));
	cqrs_journal_table_scan_entity(&scan, journal, key, from_version, PG_INT64_MAX);
	scan.direction = BackwardScanDirection;
	slot = cqrs_journal_table_next(&scan);
	if (slot)
	{
		slot_getallattrs(slot);
		last->version = DatumGetInt64(slot->tts_values[EVENT_VERSION - 1]);
		last->position = DatumGetInt64(slot->tts_values[EVENT_POSITION - 1]);
		last->created_at = DatumGetTimestampTz(slot->tts_values[EVENT_CREATED_AT - 1]);
		last->forgotten = cqrs_journal_table_is_type(DatumGetTextPP(slot->tts_values[EVENT_TYPE - 1]), CQRS_FORGOTTEN);
	}
	cqrs_journal_table_end_scan(&scan);
}

/* One entity's events of these versions, in order. */
void
cqrs_journal_table_scan_entity(JournalScan *scan, Relation journal, const EntityKey *key,
							   int64 from_version, int64 to_version)
{
	scan->key_count = 0;
	add_key(scan, 1, BTEqualStrategyNumber, F_TEXTEQ, PointerGetDatum(key->entity_type));
	add_key(scan, 2, BTEqualStrategyNumber, F_TEXTEQ, PointerGetDatum(key->entity_id));
	if (from_version > 0)
		add_key(scan, 3, BTGreaterEqualStrategyNumber, F_INT8GE, Int64GetDatum(from_version));
	if (to_version < PG_INT64_MAX)
		add_key(scan, 3, BTLessEqualStrategyNumber, F_INT8LE, Int64GetDatum(to_version));
	begin_scan(scan, journal, known.by_entity);
}

/* All events after a position, up to another one, in order. */
void
cqrs_journal_table_scan_positions(JournalScan *scan, Relation journal, int64 after, int64 up_to)
{
	scan->key_count = 0;
	add_key(scan, 1, BTGreaterStrategyNumber, F_INT8GT, Int64GetDatum(after));
	add_key(scan, 1, BTLessEqualStrategyNumber, F_INT8LE, Int64GetDatum(up_to));
	begin_scan(scan, journal, known.by_position);
}

/* The next row, which is valid until the one after it is asked for; NULL at the end. */
TupleTableSlot *
cqrs_journal_table_next(JournalScan *scan)
{
	/* Which rows are dead is noted in the context of the first that is. */
	MemoryContext old = MemoryContextSwitchTo(scan->context);
	bool		found = index_getnext_slot(scan->scan, scan->direction, scan->slot);

	MemoryContextSwitchTo(old);
	return found ? scan->slot : NULL;
}

void
cqrs_journal_table_end_scan(JournalScan *scan)
{
	index_endscan(scan->scan);
	ExecDropSingleTupleTableSlot(scan->slot);
	index_close(scan->index, NoLock);
}

/*
 * Writes completed events of an entity; the next command of the transaction sees them.
 * If nobody has looked whether the entity is new, "found" is filled in with its last event
 * where it is not, and the caller ends the transaction.
 */
void
cqrs_journal_table_insert(Relation journal, const EntityKey *key, const Event *events, int count, LastEvent *found)
{
	JournalTarget target = {.key = key, .found = found};
	TupleTableSlot *slots[ROWS_AT_ONCE];
	int			slot_count = Min(count, ROWS_AT_ONCE);
	int			filled = 0;
	Size		bytes = 0;

	open_target(&target, journal);
	for (int i = 0; i < slot_count; i++)
		slots[i] = table_slot_create(journal, NULL);
	for (int i = 0; i < count && !is_found(&target); i++)
	{
		TupleTableSlot *slot = slots[filled++];

		ExecClearTuple(slot);
		cqrs_journal_table_values(key, &events[i], slot->tts_values, slot->tts_isnull);
		ExecStoreVirtualTuple(slot);
		bytes += VARSIZE(events[i].data);
		if (filled == slot_count || i == count - 1 || bytes > BYTES_AT_ONCE)
		{
			insert_rows(&target, slots, filled);
			filled = 0;
			bytes = 0;
		}
	}
	for (int i = 0; i < slot_count; i++)
		ExecDropSingleTupleTableSlot(slots[i]);
	close_target(&target);
	CommandCounterIncrement();
}

bool
cqrs_journal_table_is_type(const text *event_type, const char *type)
{
	Size		length = strlen(type);

	return VARSIZE_ANY_EXHDR(event_type) == length && memcmp(VARDATA_ANY(event_type), type, length) == 0;
}

/* The columns of a row; the arrays have EVENT_ATTRIBUTES places. */
void
cqrs_journal_table_values(const EntityKey *key, const Event *event, Datum *values, bool *nulls)
{
	memset(nulls, 0, sizeof(bool) * EVENT_ATTRIBUTES);
	values[EVENT_POSITION - 1] = Int64GetDatum(event->position);
	values[EVENT_SLICE - 1] = Int32GetDatum(key->slice);
	values[EVENT_ENTITY_TYPE - 1] = PointerGetDatum(key->entity_type);
	values[EVENT_ENTITY_ID - 1] = PointerGetDatum(key->entity_id);
	values[EVENT_VERSION - 1] = Int64GetDatum(event->version);
	values[EVENT_TYPE - 1] = PointerGetDatum(event->event_type);
	values[EVENT_SCHEMA_VERSION - 1] = Int32GetDatum(event->schema_version);
	values[EVENT_DATA - 1] = PointerGetDatum(event->data);
	values[EVENT_METADATA - 1] = PointerGetDatum(event->metadata);
	nulls[EVENT_METADATA - 1] = event->metadata == NULL;
	values[EVENT_CREATED_AT - 1] = TimestampTzGetDatum(event->created_at);
}

static void
forget(Datum arg, Oid relid)
{
	became_stale = true;
	if (!OidIsValid(relid) || relid == known.relid)
		known.relid = InvalidOid;
}

/* Finds out what the table is now; its lock keeps it from becoming something else. */
static void
describe(Relation journal)
{
	static const AttrNumber entity_columns[] = {EVENT_ENTITY_TYPE, EVENT_ENTITY_ID, EVENT_VERSION};
	static const AttrNumber position_columns[] = {EVENT_POSITION};
	Form_pg_class form = journal->rd_rel;
	TupleDesc	desc = RelationGetDescr(journal);

	/*
	 * After an error, or a message that comes in while we look, nothing is
	 * known.
	 */
	known.relid = InvalidOid;
	became_stale = false;
	known.by_entity = find_index(journal, entity_columns, lengthof(entity_columns));
	known.by_position = find_index(journal, position_columns, lengthof(position_columns));
	known.readable = form->relkind == RELKIND_RELATION && !form->relhassubclass &&
		form->reloftype == cqrs_catalog_type("event") && desc->natts == EVENT_ATTRIBUTES &&
		OidIsValid(known.by_entity) && OidIsValid(known.by_position) &&
		!OidIsValid(get_extension_oid("citus", true));
	known.insertable = known.readable && !form->relispartition && journal->rd_rules == NULL &&
		!(journal->trigdesc &&
		  (journal->trigdesc->trig_insert_before_row || journal->trigdesc->trig_insert_after_row ||
		   journal->trigdesc->trig_insert_before_statement || journal->trigdesc->trig_insert_after_statement)) &&
		!(desc->constr && (desc->constr->has_generated_stored || desc->constr->num_check > 0)) &&
		!TupleDescAttr(desc, EVENT_METADATA - 1)->attnotnull &&
		!runs_functions(journal);
	known.guard = changes_rows(journal) ? InvalidOid : find_guard(journal);
	if (!became_stale)
		known.relid = RelationGetRelid(journal);
}

/* An index that gives all rows in the order of these columns. */
static Oid
find_index(Relation journal, const AttrNumber *columns, int count)
{
	List	   *indexes = RelationGetIndexList(journal);
	Oid			found = InvalidOid;
	ListCell   *cell;

	foreach(cell, indexes)
	{
		Relation	index = index_open(lfirst_oid(cell), AccessShareLock);

		if (has_columns(index, columns, count))
			found = RelationGetRelid(index);
		index_close(index, NoLock);
		if (OidIsValid(found))
			break;
	}
	list_free(indexes);
	return found;
}

static bool
has_columns(Relation index, const AttrNumber *columns, int count)
{
	if (index->rd_rel->relam != BTREE_AM_OID || !index->rd_index->indisvalid || !index->rd_index->indisunique ||
		RelationGetIndexPredicate(index) != NIL || IndexRelationGetNumberOfKeyAttributes(index) != count)
		return false;
	for (int i = 0; i < count; i++)
	{
		Oid			collation = index->rd_indcollation[i];

		if (index->rd_index->indkey.values[i] != columns[i] || index->rd_indoption[i] != 0 ||
			(OidIsValid(collation) && collation != C_COLLATION_OID))
			return false;
	}
	return true;
}

/* Do entries of the indexes depend on functions, or exclude each other by them? That is the executor's to settle. */
static bool
runs_functions(Relation journal)
{
	List	   *indexes = RelationGetIndexList(journal);
	bool		found = false;
	ListCell   *cell;

	foreach(cell, indexes)
	{
		Relation	index = index_open(lfirst_oid(cell), AccessShareLock);

		found |= RelationGetIndexPredicate(index) != NIL || RelationGetIndexExpressions(index) != NIL ||
			index->rd_index->indisexclusion;
		index_close(index, NoLock);
	}
	list_free(indexes);
	return found;
}

/* May another row be stored than the one that is inserted? */
static bool
changes_rows(Relation journal)
{
	return journal->rd_rules != NULL || (journal->trigdesc && journal->trigdesc->trig_insert_before_row);
}

/* Only as cqrs.create_journal() made it. */
static Oid
find_guard(Relation journal)
{
	const int16 type = TRIGGER_TYPE_STATEMENT | TRIGGER_TYPE_BEFORE |
	TRIGGER_TYPE_UPDATE | TRIGGER_TYPE_DELETE | TRIGGER_TYPE_TRUNCATE;
	TriggerDesc *triggers = journal->trigdesc;

	for (int i = 0; triggers && i < triggers->numtriggers; i++)
	{
		const Trigger *trigger = &triggers->triggers[i];

		if (strcmp(trigger->tgname, CQRS_GUARD) == 0 && trigger->tgenabled == TRIGGER_FIRES_ALWAYS &&
			trigger->tgtype == type && trigger->tgnattr == 0 && trigger->tgqual == NULL &&
			cqrs_journal_table_is_guard(trigger->tgfoid))
			return trigger->tgoid;
	}
	return InvalidOid;
}

static void
begin_scan(JournalScan *scan, Relation journal, Oid index)
{
	scan->index = index_open(index, scan->use == JOURNAL_WRITE ? RowExclusiveLock : AccessShareLock);
	scan->scan = cqrs_index_beginscan(journal, scan->index, GetActiveSnapshot(), scan->key_count);
	index_rescan(scan->scan, scan->keys, scan->key_count, NULL, 0);
	scan->slot = table_slot_create(journal, NULL);
	scan->direction = ForwardScanDirection;
	scan->context = CurrentMemoryContext;
}

/* The texts of the key are of collation C, which is what ScanKeyInit() takes. */
static void
add_key(JournalScan *scan, AttrNumber column, StrategyNumber strategy, RegProcedure function, Datum value)
{
	ScanKeyInit(&scan->keys[scan->key_count++], column, strategy, function, value);
}

/*
 * The locks on the indexes are kept: the next append of the transaction has them then.  The
 * index by entity comes first: nobody else shall find out that an entity is not new.
 */
static void
open_target(JournalTarget *target, Relation journal)
{
	List	   *indexes = RelationGetIndexList(journal);
	ListCell   *cell;

	target->journal = journal;
	target->count = 0;
	target->indexes = palloc(sizeof(Relation) * list_length(indexes));
	target->infos = palloc(sizeof(IndexInfo *) * list_length(indexes));
	foreach(cell, indexes)
	{
		Relation	index = index_open(lfirst_oid(cell), RowExclusiveLock);

		target->indexes[target->count] = index;
		target->infos[target->count] = BuildIndexInfo(index);
		if (RelationGetRelid(index) == known.by_entity)
			move_first(target, target->count);
		target->count++;
	}
	list_free(indexes);
}

static void
move_first(JournalTarget *target, int i)
{
	Relation	index = target->indexes[i];
	IndexInfo  *info = target->infos[i];

	target->indexes[i] = target->indexes[0];
	target->infos[i] = target->infos[0];
	target->indexes[0] = index;
	target->infos[0] = info;
}

static void
close_target(JournalTarget *target)
{
	for (int i = 0; i < target->count; i++)
	{
		cqrs_index_insert_cleanup(target->indexes[i], target->infos[i]);
		index_close(target->indexes[i], NoLock);
	}
}

static void
insert_rows(JournalTarget *target, TupleTableSlot **slots, int count)
{
	CommandId	command = GetCurrentCommandId(true);

	if (count == 1)
		table_tuple_insert(target->journal, slots[0], command, 0, NULL);
	else
		table_multi_insert(target->journal, slots, count, command, 0, NULL);
	for (int i = 0; i < count && !is_found(target); i++)
		insert_entries(target, slots[i]);
}

/* Of the row in the slot, in all indexes, also those that are being built. */
static void
insert_entries(JournalTarget *target, TupleTableSlot *slot)
{
	Datum		values[INDEX_MAX_KEYS];
	bool		nulls[INDEX_MAX_KEYS];

	for (int i = 0; i < target->count; i++)
	{
		Relation	index = target->indexes[i];
		IndexInfo  *info = target->infos[i];

		if (!info->ii_ReadyForInserts)
			continue;
		FormIndexDatum(info, slot, NULL, values, nulls);
		if (target->found && RelationGetRelid(index) == known.by_entity)
		{
			insert_first_entry(target, index, info, values, nulls, &slot->tts_tid);
			if (is_found(target))
				return;
			continue;
		}
		index_insert(index, values, nulls, &slot->tts_tid, target->journal,
					 index->rd_index->indisunique ? UNIQUE_CHECK_YES : UNIQUE_CHECK_NO, false, info);
	}
}

/*
 * The entry of version 1 of an entity that nobody has looked for.  If there may be another,
 * we look; if there is none then, somebody without the entity's lock is writing it.
 */
static void
insert_first_entry(JournalTarget *target, Relation index, IndexInfo *info,
				   Datum *values, bool *nulls, ItemPointer tid)
{
	bool		is_new = index_insert(index, values, nulls, tid, target->journal, UNIQUE_CHECK_PARTIAL, false, info);

	/* Our own row is too new for the snapshot. */
	if (!is_new)
		cqrs_journal_table_read_last(target->journal, JOURNAL_WRITE, target->key, target->found);
	if (is_found(target))
		return;
	if (!is_new)
		index_insert(index, values, nulls, tid, target->journal, UNIQUE_CHECK_EXISTING, false, info);
	target->found = NULL;
}

static bool
is_found(const JournalTarget *target)
{
	return target->found && target->found->version > 0;
}
