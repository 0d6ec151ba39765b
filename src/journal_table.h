/*
 * journal_table.h
 *		Rows of the journal, and the way to them past the executor.
 */
#ifndef CQRS_JOURNAL_TABLE_H
#define CQRS_JOURNAL_TABLE_H

#include "access/genam.h"
#include "access/skey.h"
#include "executor/tuptable.h"
#include "utils/jsonb.h"
#include "utils/relcache.h"

#include "last_event.h"

/*
 * Events of our own (retention.c).  No handler of an entity type sees them, and
 * nobody else can write one: event types that begin with $ are reserved.
 */
#define CQRS_FORGOTTEN	"$forgotten"	/* all events before it are gone */
#define CQRS_SNAPSHOT	"$snapshot" /* stands for itself and all before it */
#define CQRS_DELETED	"$deleted"	/* says that there is a $snapshot */

/* The trigger that keeps everybody else from changing events, and its function (journal_guard.c) */
#define CQRS_GUARD	"guard_journal"

/* A row to be written; the entity's key stands beside it. */
typedef struct Event
{
	int64		position;
	int64		version;
	text	   *event_type;
	int32		schema_version;
	Jsonb	   *data;
	Jsonb	   *metadata;		/* or NULL */
	TimestampTz created_at;
} Event;

/* Attribute numbers of the type cqrs.event */
enum
{
	EVENT_POSITION = 1, EVENT_SLICE, EVENT_ENTITY_TYPE, EVENT_ENTITY_ID, EVENT_VERSION,
	EVENT_TYPE, EVENT_SCHEMA_VERSION, EVENT_DATA, EVENT_METADATA, EVENT_CREATED_AT,
	EVENT_ATTRIBUTES = EVENT_CREATED_AT
};

/* What is to be done with the table, which decides on the locks. */
typedef enum JournalUse
{
	JOURNAL_READ,				/* all rows: the caller has seen to rights */
	JOURNAL_WRITE
} JournalUse;

/* A range of the journal, read in order. */
typedef struct JournalScan
{
	JournalUse	use;			/* of the transaction, which locks the index
								 * for it */
	Relation	index;
	IndexScanDesc scan;
	ScanDirection direction;
	ScanKeyData keys[4];
	int			key_count;
	TupleTableSlot *slot;
	MemoryContext context;		/* of what the scan keeps between rows */
} JournalScan;

extern void cqrs_journal_table_init(void);
extern Relation cqrs_journal_table_open(Oid relid);
extern bool cqrs_journal_table_allows(Relation journal, JournalUse use);
extern Oid	cqrs_journal_table_guard(Relation journal);
extern bool cqrs_journal_table_is_guard(Oid function);
extern void cqrs_journal_table_close(Relation journal);

extern void cqrs_journal_table_read_last(Relation journal, JournalUse use, const EntityKey *key, LastEvent *last);
extern void cqrs_journal_table_scan_entity(JournalScan *scan, Relation journal, const EntityKey *key,
										   int64 from_version, int64 to_version);
extern void cqrs_journal_table_scan_positions(JournalScan *scan, Relation journal, int64 after, int64 up_to);
extern TupleTableSlot *cqrs_journal_table_next(JournalScan *scan);
extern void cqrs_journal_table_end_scan(JournalScan *scan);

extern void cqrs_journal_table_insert(Relation journal, const EntityKey *key, const Event *events, int count,
									  LastEvent *found);
extern bool cqrs_journal_table_is_type(const text *event_type, const char *type);
extern void cqrs_journal_table_values(const EntityKey *key, const Event *event, Datum *values, bool *nulls);

#endif
