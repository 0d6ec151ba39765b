/*
 * projection_settings.h
 *		The settings of a projection, as users give them.
 */
#ifndef CQRS_PROJECTION_SETTINGS_H
#define CQRS_PROJECTION_SETTINGS_H

#include "fmgr.h"

/* Arguments of cqrs.create_projection and cqrs.alter_projection */
enum
{
	NAME, HANDLER, ENTITY_TYPES, EVENT_TYPES, MODE, TABLES, BATCH_SIZE, PARTITIONS, ON_FAILURE, MAX_RETRIES,
	MAX_PARKED, HANDLER_TIMEOUT, REPLAY_SIDE_EFFECTS,
	START_POSITION, PREPARE,	/* of create */
	OWNER = START_POSITION		/* of alter */
};

extern void cqrs_projection_settings_check(FunctionCallInfo fcinfo);
extern void cqrs_projection_settings_check_may_read(Oid role);
extern Datum cqrs_projection_settings_tables(FunctionCallInfo fcinfo, Oid owner);
extern char *cqrs_projection_settings_table(const char *name, Oid owner);

#endif
