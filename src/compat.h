/*
 * compat.h
 *		What differs between PostgreSQL 15, 16, 17 and 18, and nothing else.
 *		PG_VERSION_NUM appears in no other file.
 */
#ifndef CQRS_COMPAT_H
#define CQRS_COMPAT_H

#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "storage/lock.h"
#include "storage/proc.h"
#include "utils/acl.h"

#if PG_VERSION_NUM >= 160000
#include "catalog/pg_database.h"
#include "catalog/pg_extension.h"
#include "catalog/pg_foreign_server.h"
#include "catalog/pg_proc.h"
#include "varatt.h"
#endif

/* A scan of an index by some keys. */
#if PG_VERSION_NUM >= 180000
#define cqrs_index_beginscan(heap, index, snapshot, keys) index_beginscan((heap), (index), (snapshot), NULL, (keys), 0)
#else
#define cqrs_index_beginscan(heap, index, snapshot, keys) index_beginscan((heap), (index), (snapshot), (keys), 0)
#endif

/* What a hook that checks permissions is given: a list of which table wants which. */
#if PG_VERSION_NUM >= 160000
#define CQRS_CHECK_PERMISSIONS_ARGUMENTS	List *range_table, List *permissions, bool must
#define CQRS_CHECK_PERMISSIONS_PASS	range_table, permissions, must
#define CQRS_CHECK_PERMISSIONS_LIST	permissions
typedef RTEPermissionInfo TablePermission;
#else
#define CQRS_CHECK_PERMISSIONS_ARGUMENTS	List *range_table, bool must
#define CQRS_CHECK_PERMISSIONS_PASS	range_table, must
#define CQRS_CHECK_PERMISSIONS_LIST	range_table
typedef RangeTblEntry TablePermission;
#endif

/* Does this backend hold the lock in that mode? */
#if PG_VERSION_NUM >= 170000
#define cqrs_lock_held_by_me(tag, mode)	LockHeldByMe((tag), (mode), false)
#else
#define cqrs_lock_held_by_me(tag, mode)	LockHeldByMe((tag), (mode))
#endif

/* The index of a primary key. */
#if PG_VERSION_NUM >= 180000
#define cqrs_primary_key_index(table)	RelationGetPrimaryKeyIndex((table), false)
#else
#define cqrs_primary_key_index(table)	RelationGetPrimaryKeyIndex(table)
#endif

/* What is to be done before an index is closed that entries were put into. */
#if PG_VERSION_NUM >= 170000
#define cqrs_index_insert_cleanup(index, info)	index_insert_cleanup((index), (info))
#else
#define cqrs_index_insert_cleanup(index, info)	((void) 0)
#endif

/* Which of MaxBackends places in shared memory is this backend's. */
#if PG_VERSION_NUM >= 170000
#define cqrs_my_backend_index()		((int) MyProcNumber)
#else
#define cqrs_my_backend_index()		(MyBackendId - 1)
#endif

/* Which of all processes this one is. */
#if PG_VERSION_NUM >= 170000
#define cqrs_my_proc_number()		((int) MyProcNumber)
#else
#define cqrs_my_proc_number()		(MyProc->pgprocno)
#endif

/* Does this role own that database, that extension? */
#if PG_VERSION_NUM >= 160000
#define cqrs_owns_database(database, role)	object_ownercheck(DatabaseRelationId, (database), (role))
#define cqrs_owns_extension(extension, role)	object_ownercheck(ExtensionRelationId, (extension), (role))
#else
#define cqrs_owns_database(database, role)	pg_database_ownercheck((database), (role))
#define cqrs_owns_extension(extension, role)	pg_extension_ownercheck((extension), (role))
#endif

/* Has this role EXECUTE on that function? */
#if PG_VERSION_NUM >= 160000
#define cqrs_may_execute(function, role) \
	(object_aclcheck(ProcedureRelationId, (function), (role), ACL_EXECUTE) == ACLCHECK_OK)
#else
#define cqrs_may_execute(function, role) \
	(pg_proc_aclcheck((function), (role), ACL_EXECUTE) == ACLCHECK_OK)
#endif

/* An error unless the role may give what it owns to another one. */
#if PG_VERSION_NUM >= 160000
#define cqrs_check_may_give_to(role, other)	check_can_set_role((role), (other))
#else
#define cqrs_check_may_give_to(role, other)	check_is_member_of_role((role), (other))
#endif

/* A name with or without a schema, as a list. */
#if PG_VERSION_NUM >= 160000
#define cqrs_qualified_name(name)	stringToQualifiedNameList((name), NULL)
#else
#define cqrs_qualified_name(name)	stringToQualifiedNameList(name)
#endif

/* Does search_path lead to the same schemas as when a plan was made? */
#if PG_VERSION_NUM >= 170000
#define cqrs_search_path_matches(path)	SearchPathMatchesCurrentEnvironment(path)
#else
#define cqrs_search_path_matches(path)	OverrideSearchPathMatchesCurrent(path)
#endif

/* Has this role USAGE on that foreign server? */
#if PG_VERSION_NUM >= 160000
#define cqrs_may_use_server(server, role) \
	(object_aclcheck(ForeignServerRelationId, (server), (role), ACL_USAGE) == ACLCHECK_OK)
#else
#define cqrs_may_use_server(server, role) \
	(pg_foreign_server_aclcheck((server), (role), ACL_USAGE) == ACLCHECK_OK)
#endif

/* A wait event set that lives until it is freed. */
#if PG_VERSION_NUM >= 170000
#define cqrs_create_wait_set(nevents)	CreateWaitEventSet(NULL, (nevents))
#else
#define cqrs_create_wait_set(nevents)	CreateWaitEventSet(TopMemoryContext, (nevents))
#endif

/*
 * The transaction id of a prepared transaction that was recovered at the
 * start of the server, told from the entry of one of its locks; invalid for
 * a lock of anybody else.
 */
static inline TransactionId
cqrs_lock_recovered_xid(const LockInstanceData *lock)
{
	if (lock->pid != 0)
		return InvalidTransactionId;
#if PG_VERSION_NUM >= 170000
	if (lock->vxid.procNumber != INVALID_PROC_NUMBER)
		return InvalidTransactionId;
	return (TransactionId) lock->vxid.localTransactionId;
#else
	if (lock->backend != InvalidBackendId)
		return InvalidTransactionId;
	return (TransactionId) lock->lxid;
#endif
}

#endif
