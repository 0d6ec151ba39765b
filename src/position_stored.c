/*
 * position_stored.c
 *		The high-water mark, for those who read a copy of the journal.
 *
 * On a standby nobody knows which writers are under way on the primary.  So,
 * with cqrs.store_mark, a worker of the primary writes the mark into a row
 * while it moves.  The commit of that row comes after the commits that the
 * mark vouches for, and a standby makes them visible in that order: who has
 * seen the row, and takes a snapshot then, sees all of those events.
 */
#include "postgres.h"

#include "access/xlog.h"
#include "catalog/pg_type.h"
#include "utils/snapmgr.h"

#include "catalog.h"
#include "compat.h"
#include "position_stored.h"
#include "role.h"
#include "statement.h"

static Statement read_statement = {
	.sql = "SELECT position FROM cqrs.stored_mark"
};

static Statement write_statement = {
	.sql = "INSERT INTO cqrs.stored_mark (position) VALUES ($1)"
	" ON CONFLICT (only_row) DO UPDATE SET position = excluded.position",
	.nargs = 1,
	.argtypes = {INT8OID}
};

int64
cqrs_position_stored_read(void)
{
	int64		mark = 0;
	RoleScope	scope;

	cqrs_role_enter(&scope, cqrs_catalog_extension_owner());
	PushActiveSnapshot(GetLatestSnapshot());
	SPI_connect();
	if (cqrs_statement_read(&read_statement, NULL, NULL, 0) == 1)
		mark = DatumGetInt64(cqrs_statement_column(0, 1, NULL));
	SPI_finish();
	PopActiveSnapshot();
	cqrs_role_leave(&scope);
	if (mark == 0)
		cqrs_position_stored_refuse_to_look();
	return mark;
}

void
cqrs_position_stored_refuse_to_look(void)
{
	if (RecoveryInProgress())
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("the high-water mark is not known on a standby"),
				 errdetail("Which writers are under way is known to the primary alone."),
				 errhint("Read the journal in order from the primary, or set cqrs.store_mark there; "
						 "cqrs.history() and cqrs.state() work here.")));
}

void
cqrs_position_stored_write(int64 mark)
{
	Datum		value = Int64GetDatum(mark);

	SPI_connect();
	(void) cqrs_statement_write(&write_statement, &value, NULL);
	SPI_finish();
}
