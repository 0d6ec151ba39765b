/*
 * role.c
 *		Who a piece of SQL runs as, and what it may not leave behind.
 *
 * Three kinds of SQL run inside a call of ours: our own statements (as the
 * owner of the tables they touch), the users' handlers (as the owner of the
 * entity), and reads on behalf of the caller (as the caller).  Each runs in a
 * scope:
 *
 *	- the effective role is switched, unless it is the caller's anyway.  A
 *	  switched role is a security-restricted operation: it can make no
 *	  temporary objects, no deferred trigger events, no cursors WITH HOLD and
 *	  cannot set the role, all of which would outlive the scope and then run
 *	  with the caller's rights;
 *	- settings changed inside are rolled back at its end, and search_path is
 *	  pinned for its duration, or by statement.c for each statement.
 *
 * Not every release of PostgreSQL (15.20 and 17.12 do, 18.6 does not) refuses a
 * restricted operation a type in the temporary schema, where the session looks
 * first when it reads a type's name: the CHECK of a domain called jsonb would be
 * called by the caller's next cast, as him.  So that is refused here, to every
 * such operation.
 *
 * In a worker there is no caller whose rights could be borrowed, but a
 * superuser's session; there the handler's role lasts until the transaction
 * has been committed (cqrs_role_enter_until_commit).
 *
 * What is left to an unfriendly handler is to be slow, and to take session-level
 * advisory locks, which the session keeps.
 *
 * An error leaves all scopes at once: the abort of the (sub)transaction puts
 * back role, security context and settings, as it does for PostgreSQL's own
 * uses of SetUserIdAndSecContext().
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/table.h"
#include "catalog/namespace.h"
#include "catalog/objectaccess.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/fmgroids.h"
#include "utils/guc.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "role.h"

static object_access_hook_type next_object_access;

static void switch_role(RoleScope *scope, Oid role);
static void pin_search_path(RoleScope *scope, const char *search_path);
static void on_object_access(ObjectAccessType access, Oid catalog, Oid object, int column, void *arg);
static bool is_temporary_type(Oid type);

void
cqrs_role_init(void)
{
	next_object_access = object_access_hook;
	object_access_hook = on_object_access;
}

/* Enters an outermost scope: whoever is effective now is the caller. */
void
cqrs_role_enter(RoleScope *scope, Oid role)
{
	cqrs_role_enter_bare(scope, role);
	pin_search_path(scope, CQRS_SEARCH_PATH);
}

/*
 * As enter, but leaves the settings alone, which costs as much as reading a
 * row.  For who will run handlers, whose scopes pin theirs, and perhaps
 * statements of ours, each of which pins search_path if nobody has.
 */
void
cqrs_role_enter_bare(RoleScope *scope, Oid role)
{
	GetUserIdAndSecContext(&scope->caller, &scope->caller_sec);
	switch_role(scope, role);
	scope->nest_level = 0;
}

/* Enters a scope for our own statements inside another one of them. */
void
cqrs_role_enter_own(RoleScope *scope, const RoleScope *outer, Oid role)
{
	scope->caller = outer->caller;
	scope->caller_sec = outer->caller_sec;
	switch_role(scope, role);
	scope->nest_level = 0;
}

/*
 * Enters a scope for a user's handler.  The restrictions are measured against
 * the outermost caller: a handler that the caller owns runs unrestricted,
 * although our own statements around it do not.
 */
void
cqrs_role_enter_handler(RoleScope *scope, const RoleScope *outer,
						Oid role, const char *search_path)
{
	scope->caller = outer->caller;
	scope->caller_sec = outer->caller_sec;
	switch_role(scope, role);
	pin_search_path(scope, search_path);
}

/*
 * Enters the scope of a worker's handler, which lasts until its transaction
 * has been committed: what it defers, it does with its own rights.  So it may
 * make temporary objects and defer triggers; it still cannot change the role.
 */
void
cqrs_role_enter_until_commit(RoleScope *scope, Oid role, const char *search_path)
{
	GetUserIdAndSecContext(&scope->user, &scope->sec);
	scope->caller = scope->user;
	scope->caller_sec = scope->sec;
	SetUserIdAndSecContext(role, scope->sec | SECURITY_LOCAL_USERID_CHANGE);
	pin_search_path(scope, search_path);
}

/* Rolls back what the scope has set, but stays in its role. */
void
cqrs_role_restore_settings(RoleScope *scope)
{
	AtEOXact_GUC(false, scope->nest_level);
	scope->nest_level = 0;
}

void
cqrs_role_leave(const RoleScope *scope)
{
	if (scope->nest_level > 0)
		AtEOXact_GUC(false, scope->nest_level);
	SetUserIdAndSecContext(scope->user, scope->sec);
}

static void
switch_role(RoleScope *scope, Oid role)
{
	int			sec = scope->caller_sec;

	GetUserIdAndSecContext(&scope->user, &scope->sec);
	if (role != scope->caller)
		sec |= SECURITY_LOCAL_USERID_CHANGE | SECURITY_RESTRICTED_OPERATION;
	SetUserIdAndSecContext(role, sec);
}

/* Begins a level of settings, which cqrs_role_leave() rolls back. */
static void
pin_search_path(RoleScope *scope, const char *search_path)
{
	scope->nest_level = NewGUCNestLevel();
	if (strcmp(namespace_search_path, search_path) != 0)
		(void) set_config_option("search_path", search_path, PGC_USERSET,
								 PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
}

static void
on_object_access(ObjectAccessType access, Oid catalog, Oid object, int column, void *arg)
{
	if (next_object_access)
		next_object_access(access, catalog, object, column, arg);
	if (access == OAT_POST_CREATE && catalog == TypeRelationId && InSecurityRestrictedOperation() &&
		is_temporary_type(object))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("cannot create a type in a temporary schema within security-restricted operation")));
}

/* Of a type that the current command has made, which no cache has yet. */
static bool
is_temporary_type(Oid type)
{
	Relation	types = table_open(TypeRelationId, AccessShareLock);
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;
	bool		temporary;

	ScanKeyInit(&key, Anum_pg_type_oid, BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(type));
	scan = systable_beginscan(types, TypeOidIndexId, true, SnapshotSelf, 1, &key);
	tuple = systable_getnext(scan);
	temporary = HeapTupleIsValid(tuple) && isTempNamespace(((Form_pg_type) GETSTRUCT(tuple))->typnamespace);
	systable_endscan(scan);
	table_close(types, AccessShareLock);
	return temporary;
}
