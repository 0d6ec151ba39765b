/*
 * journal.h
 *		The store of record: one row an event.
 */
#ifndef CQRS_JOURNAL_H
#define CQRS_JOURNAL_H

#include "journal_table.h"
#include "role.h"

/* An expected version beside 0 (none) and n (exactly n): any event. */
#define CQRS_EXPECT_EXISTS	(-4)

/* The columns of the journal in order, for a SELECT whose rows are events. */
#define CQRS_EVENT_COLUMNS \
	"position, slice, entity_type, entity_id, version, event_type, schema_version, data, metadata, created_at"

extern Oid	cqrs_journal_relid(void);
extern void cqrs_journal_ensure(void);
extern bool cqrs_journal_sees_all(void);
extern void cqrs_journal_check_visible(void);
extern void cqrs_journal_check_key(EntityKey *key, text *entity_type, text *entity_id);

/* Called by writers, in this order, in a scope of cqrs_role_enter(). */
extern void cqrs_journal_begin_write(const EntityKey *key, const RoleScope *scope, LastEvent *last);
extern void cqrs_journal_begin_first_write(const EntityKey *key, const RoleScope *scope,
										   bool (*has_first_events) (void), LastEvent *last);
extern void cqrs_journal_make_sure(const EntityKey *key, const RoleScope *scope, LastEvent *last);
extern void cqrs_journal_check_version(const EntityKey *key, const RoleScope *scope, LastEvent *last, int64 expected);
extern void cqrs_journal_refuse_forgotten(const EntityKey *key, const LastEvent *last);
extern void cqrs_journal_check_unchanged(const EntityKey *key, const RoleScope *scope, LastEvent *last);
extern void cqrs_journal_complete(const LastEvent *last, Event *events, int count);
extern void cqrs_journal_insert(const EntityKey *key, const RoleScope *scope, const LastEvent *last,
								const Event *events, int count);
extern void cqrs_journal_end_write(void);

/* Called by triggers on the journal; NULL where it is not us who inserts. */
extern const RoleScope *cqrs_journal_insert_scope(void);

extern void cqrs_journal_read_last(const EntityKey *key, bool sees_all, LastEvent *last);
extern Datum cqrs_journal_event_datum(const EntityKey *key, const Event *event);

#endif
