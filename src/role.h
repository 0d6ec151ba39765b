/*
 * role.h
 *		Who a piece of SQL runs as, and what it may not leave behind.
 */
#ifndef CQRS_ROLE_H
#define CQRS_ROLE_H

/* What our own SQL sees: nothing that a user could have put in the way. */
#define CQRS_SEARCH_PATH	"pg_catalog, pg_temp"

typedef struct RoleScope
{
	/* Caller: who entered the outermost scope */
	Oid			caller;
	int			caller_sec;
	/* Restore */
	Oid			user;
	int			sec;
	int			nest_level;		/* 0: no setting was touched */
} RoleScope;

extern void cqrs_role_init(void);
extern void cqrs_role_enter(RoleScope *scope, Oid role);
extern void cqrs_role_enter_bare(RoleScope *scope, Oid role);
extern void cqrs_role_enter_own(RoleScope *scope, const RoleScope *outer, Oid role);
extern void cqrs_role_enter_handler(RoleScope *scope, const RoleScope *outer,
									Oid role, const char *search_path);
extern void cqrs_role_enter_until_commit(RoleScope *scope, Oid role, const char *search_path);
extern void cqrs_role_restore_settings(RoleScope *scope);
extern void cqrs_role_leave(const RoleScope *scope);

#endif
