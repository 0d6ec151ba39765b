/*
 * command_delivery.h
 *		A command that a worker sends for somebody.
 */
#ifndef CQRS_COMMAND_DELIVERY_H
#define CQRS_COMMAND_DELIVERY_H

#include "utils/jsonb.h"
#include "utils/uuid.h"

#include "new_event.h"
#include "role.h"

typedef struct CommandDelivery
{
	Oid			role;			/* who sends it */
	Cause		cause;			/* why */
	text	   *entity_type;
	text	   *entity_id;
	text	   *command_type;
	Jsonb	   *data;
	pg_uuid_t  *command_id;		/* so that it is sent once */
} CommandDelivery;

/* Called by module.c at load. */
extern void cqrs_command_delivery_init(void);

/*
 * Called in a transaction of a worker, after our own statements.  The scope is
 * that of the role, to be left after the commit (cqrs_role_leave), then what it
 * left in the session to be discarded (cqrs_worker_process_discard).
 */
extern void cqrs_command_deliver(const CommandDelivery *delivery, RoleScope *scope);

/* Called after the transaction: the time of the command is over. */
extern void cqrs_command_delivery_end(void);

#endif
