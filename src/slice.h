/*
 * slice.h
 *		The name of an entity, and the slice of the journal it belongs to.
 */
#ifndef CQRS_SLICE_H
#define CQRS_SLICE_H

#define CQRS_SLICES		1024

/*
 * What type and id may have together, in bytes: a btree entry is at most a
 * third of a page, and the widest key has a uuid or two integers beside them.
 */
#define CQRS_MAX_KEY_BYTES	(BLCKSZ / 3 - 130)

typedef struct EntityKey
{
	text	   *entity_type;
	text	   *entity_id;
	uint64		hash;
	int32		slice;
} EntityKey;

extern void cqrs_slice_key(EntityKey *key, text *entity_type, text *entity_id);
extern bool cqrs_slice_same_text(const text *a, const text *b);
extern bool cqrs_slice_same_entity(const EntityKey *a, const EntityKey *b);

#endif
