/*
 * slice.c
 *		The name of an entity, and the slice of the journal it belongs to.
 *
 * A slice is a stable 1024th of all entities: what projections are divided
 * by, and what a distributed journal is distributed by.  It is stored, so the
 * hash is our own and never changes: FNV-1a with 64 bits over the UTF-8 form
 * of type, a zero byte and id, finished by the mix of MurmurHash3 (without
 * it, the low bits of FNV of short names are poor), modulo 1024.
 */
#include "postgres.h"

#include "compat.h"
#include "fmgr.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"

#include "slice.h"

static uint64 hash_text(uint64 hash, const text *value);
static uint64 hash_byte(uint64 hash, unsigned char byte);
static uint64 mix(uint64 hash);

/*
 * Fills in the key of an entity.  The key refers to the two texts, which must
 * live as long as it.
 */
void
cqrs_slice_key(EntityKey *key, text *entity_type, text *entity_id)
{
	uint64		hash = UINT64CONST(0xcbf29ce484222325);

	hash = hash_text(hash, entity_type);
	hash = hash_byte(hash, 0);
	hash = mix(hash_text(hash, entity_id));

	key->entity_type = entity_type;
	key->entity_id = entity_id;
	key->hash = hash;
	key->slice = (int32) (hash % CQRS_SLICES);
}

/* Byte by byte: names are compared as in the C collation. */
bool
cqrs_slice_same_text(const text *a, const text *b)
{
	Size		size = VARSIZE_ANY_EXHDR(a);

	return size == VARSIZE_ANY_EXHDR(b) &&
		memcmp(VARDATA_ANY(a), VARDATA_ANY(b), size) == 0;
}

bool
cqrs_slice_same_entity(const EntityKey *a, const EntityKey *b)
{
	return a->hash == b->hash &&
		cqrs_slice_same_text(a->entity_type, b->entity_type) &&
		cqrs_slice_same_text(a->entity_id, b->entity_id);
}

PG_FUNCTION_INFO_V1(cqrs_slice);
Datum
cqrs_slice(PG_FUNCTION_ARGS)
{
	EntityKey	key;

	cqrs_slice_key(&key, PG_GETARG_TEXT_PP(0), PG_GETARG_TEXT_PP(1));
	PG_RETURN_INT32(key.slice);
}

static uint64
hash_text(uint64 hash, const text *value)
{
	const char *data = VARDATA_ANY(value);
	int			size = VARSIZE_ANY_EXHDR(value);
	char	   *utf8 = pg_server_to_any(data, size, PG_UTF8);

	/* The very same pointer means that there was nothing to convert. */
	if (utf8 != data)
		size = strlen(utf8);
	for (int i = 0; i < size; i++)
		hash = hash_byte(hash, (unsigned char) utf8[i]);
	if (utf8 != data)
		pfree(utf8);
	return hash;
}

static uint64
hash_byte(uint64 hash, unsigned char byte)
{
	return (hash ^ byte) * UINT64CONST(0x100000001b3);
}

static uint64
mix(uint64 hash)
{
	hash ^= hash >> 33;
	hash *= UINT64CONST(0xff51afd7ed558ccd);
	hash ^= hash >> 33;
	hash *= UINT64CONST(0xc4ceb9fe1a85ec53);
	hash ^= hash >> 33;
	return hash;
}
