/*
 * command_log.h
 *		Which commands were handled, and what they were answered.
 */
#ifndef CQRS_COMMAND_LOG_H
#define CQRS_COMMAND_LOG_H

#include "utils/uuid.h"

#include "receipt.h"
#include "role.h"
#include "slice.h"

extern int64 cqrs_command_log_fingerprint(const void *const *parts, int count);

/* Called by writers that hold the lock of the entity. */
extern bool cqrs_command_log_find(const EntityKey *key, const RoleScope *scope,
								  const pg_uuid_t *command_id, int64 fingerprint, Receipt *receipt);
extern void cqrs_command_log_store(const EntityKey *key, const RoleScope *scope,
								   const pg_uuid_t *command_id, int64 fingerprint, const Receipt *receipt);

#endif
