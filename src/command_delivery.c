/*
 * command_delivery.c
 *		A command that a worker sends for somebody.
 *
 * It is sent as the role that wanted it, with that role's rights of now, and
 * under a command_id, so that it takes place once however often it is sent.
 * The role's scope lasts until the worker's transaction is committed, as that
 * of a projection's owner does.
 */
#include "postgres.h"

#include "catalog/pg_type.h"

#include "command_delivery.h"
#include "compat.h"
#include "statement.h"

static Statement send_statement = {
	.sql = "SELECT version FROM cqrs.send($1, $2, $3, $4, command_id => $5)",
	.nargs = 5,
	.argtypes = {TEXTOID, TEXTOID, TEXTOID, JSONBOID, UUIDOID}
};

void
cqrs_command_deliver(const CommandDelivery *delivery, RoleScope *scope)
{
	Datum		values[] = {
		PointerGetDatum(delivery->entity_type), PointerGetDatum(delivery->entity_id),
		PointerGetDatum(delivery->command_type), JsonbPGetDatum(delivery->data),
		UUIDPGetDatum(delivery->command_id)
	};
	const Cause *before = cqrs_new_event_set_cause(&delivery->cause);

	cqrs_role_enter_until_commit(scope, delivery->role, CQRS_SEARCH_PATH);
	SPI_connect();
	PG_TRY();
	{
		(void) cqrs_statement_write(&send_statement, values, NULL);
	}
	PG_FINALLY();
	{
		(void) cqrs_new_event_set_cause(before);
	}
	PG_END_TRY();
	SPI_finish();
	cqrs_role_restore_settings(scope);
}
