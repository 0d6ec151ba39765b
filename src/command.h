/*
 * command.h
 *		Who may send a command.
 */
#ifndef CQRS_COMMAND_H
#define CQRS_COMMAND_H

#include "entity_registry.h"
#include "role.h"

extern Handler *cqrs_command_find_handler(EntityType *entity, text *command_type, const RoleScope *scope);

#endif
