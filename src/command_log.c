/*
 * command_log.c
 *		Which commands were handled, and what they were answered.
 *
 * A client that does not know whether its command arrived sends it again with
 * the same command_id, and gets the first answer.  The answer is stored in the
 * transaction of the command: there is one exactly if the command took place.
 * Ids are scoped to the entity, whose lock makes the second of two concurrent
 * sends wait until it can see the first; where the lock was not taken
 * (entity_lock.c), the primary key refuses the second.
 *
 * Answers are kept for cqrs.command_retention.  Every CLEAN_EVERY-th store of
 * a backend deletes some that are older, skipping what others have locked, so
 * there is no job to be run by anybody.  A row that is late to go is still
 * honoured.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "common/cryptohash.h"
#include "common/sha2.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "catalog.h"
#include "command_log.h"
#include "compat.h"
#include "errors.h"
#include "settings.h"
#include "statement.h"

#define CLEAN_EVERY	64

static Statement find_statement = {
	.sql = "SELECT fingerprint, version, position, reply FROM cqrs.command_log"
	" WHERE entity_type = $1 AND entity_id = $2 AND command_id = $3",
	.nargs = 3,
	.argtypes = {TEXTOID, TEXTOID, UUIDOID}
};

static Statement store_statement = {
	.sql = "INSERT INTO cqrs.command_log (slice, entity_type, entity_id, command_id,"
	" fingerprint, version, position, reply, created_at)"
	" VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) ON CONFLICT DO NOTHING",
	.nargs = 9,
	.argtypes = {INT4OID, TEXTOID, TEXTOID, UUIDOID, INT8OID, INT8OID, INT8OID, JSONBOID, TIMESTAMPTZOID}
};

static Statement clean_statement = {
	.sql = "DELETE FROM cqrs.command_log WHERE ctid = ANY (ARRAY("
	"SELECT ctid FROM cqrs.command_log WHERE created_at < $1"
	" ORDER BY created_at LIMIT 256 FOR UPDATE SKIP LOCKED))",
	.nargs = 1,
	.argtypes = {TIMESTAMPTZOID}
};

static void clean(TimestampTz now);

/* Tells apart what was asked for under one command_id; parts are varlenas. */
int64
cqrs_command_log_fingerprint(const void *const *parts, int count)
{
	pg_cryptohash_ctx *hash = pg_cryptohash_create(PG_SHA256);
	uint8		digest[PG_SHA256_DIGEST_LENGTH];
	int64		fingerprint;
	bool		ok = hash != NULL && pg_cryptohash_init(hash) == 0;

	for (int i = 0; ok && i < count; i++)
	{
		uint32		size = parts[i] ? VARSIZE_ANY_EXHDR(parts[i]) : PG_UINT32_MAX;

		ok = pg_cryptohash_update(hash, (uint8 *) &size, sizeof(size)) == 0 &&
			(parts[i] == NULL || pg_cryptohash_update(hash, (uint8 *) VARDATA_ANY(parts[i]), size) == 0);
	}
	if (!ok || pg_cryptohash_final(hash, digest, sizeof(digest)) < 0)
		elog(ERROR, "could not compute SHA-256");
	pg_cryptohash_free(hash);
	memcpy(&fingerprint, digest, sizeof(fingerprint));
	return fingerprint;
}

/*
 * Gives the first answer to a command that was handled before; false if it
 * was not.  Reads with the active snapshot.
 */
bool
cqrs_command_log_find(const EntityKey *key, const RoleScope *scope,
					  const pg_uuid_t *command_id, int64 fingerprint, Receipt *receipt)
{
	MemoryContext context = CurrentMemoryContext;
	Datum		values[] = {
		PointerGetDatum(key->entity_type), PointerGetDatum(key->entity_id), UUIDPGetDatum(command_id)
	};
	RoleScope	own;
	bool		found;

	cqrs_role_enter_own(&own, scope, cqrs_catalog_extension_owner());
	SPI_connect();
	found = cqrs_statement_read(&find_statement, values, NULL, 0) == 1;
	if (found)
	{
		bool		no_reply;
		Datum		reply = cqrs_statement_column(0, 4, &no_reply);
		MemoryContext old = MemoryContextSwitchTo(context);

		if (DatumGetInt64(cqrs_statement_column(0, 1, NULL)) != fingerprint)
			ereport(ERROR,
					(errcode(CQRS_COMMAND_ID_REUSED),
					 errmsg("command_id %s was used for another command",
							DatumGetCString(DirectFunctionCall1(uuid_out, UUIDPGetDatum(command_id)))),
					 errdetail("The first one, to entity \"%s\", had another type or other data.",
							   text_to_cstring(key->entity_id)),
					 errhint("Repeat a command unchanged, and give a new one an id of its own.")));
		receipt->entity_id = key->entity_id;
		receipt->version = DatumGetInt64(cqrs_statement_column(0, 2, NULL));
		receipt->position = DatumGetInt64(cqrs_statement_column(0, 3, NULL));
		receipt->reply = no_reply ? NULL : (Jsonb *) PG_DETOAST_DATUM_COPY(reply);
		MemoryContextSwitchTo(old);
	}
	SPI_finish();
	cqrs_role_leave(&own);
	return found;
}

void
cqrs_command_log_store(const EntityKey *key, const RoleScope *scope,
					   const pg_uuid_t *command_id, int64 fingerprint, const Receipt *receipt)
{
	static int	stored = -1;
	TimestampTz now = GetCurrentTimestamp();
	Datum		values[] = {
		Int32GetDatum(key->slice), PointerGetDatum(key->entity_type), PointerGetDatum(key->entity_id),
		UUIDPGetDatum(command_id), Int64GetDatum(fingerprint), Int64GetDatum(receipt->version),
		Int64GetDatum(receipt->position), PointerGetDatum(receipt->reply), TimestampTzGetDatum(now)
	};
	char		nulls[] = {' ', ' ', ' ', ' ', ' ', ' ', ' ', receipt->reply ? ' ' : 'n', ' '};
	RoleScope	own;

	cqrs_role_enter_own(&own, scope, cqrs_catalog_extension_owner());
	SPI_connect();
	if (cqrs_statement_write(&store_statement, values, nulls) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
				 errmsg("could not serialize access due to concurrent command"),
				 errdetail("Another transaction has handled the same command_id meanwhile."),
				 errhint("Repeat the transaction.")));

	/* Sessions that send one command each shall not all clean, nor none. */
	if (stored < 0)
		stored = MyProcPid % CLEAN_EVERY;
	if (++stored % CLEAN_EVERY == 0)
		clean(now);
	SPI_finish();
	cqrs_role_leave(&own);
}

static void
clean(TimestampTz now)
{
	Datum		before = TimestampTzGetDatum(now - (int64) cqrs_command_retention_s * USECS_PER_SEC);

	/* With an old snapshot, a row that somebody else cleaned is an error. */
	if (!IsolationUsesXactSnapshot())
		(void) cqrs_statement_write(&clean_statement, &before, NULL);
}
