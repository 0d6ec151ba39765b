/*
 * projection.h
 *		Registration of projections.
 */
#ifndef CQRS_PROJECTION_H
#define CQRS_PROJECTION_H

#include "projection_registry.h"
#include "role.h"

/* A projection that is locked to be changed, between begin and end. */
typedef struct ProjectionChange
{
	Projection *projection;
	RoleScope	scope;
	int64		lowest;			/* offset of its partitions */
	int64		highest;
	int64		replay_until;	/* the highest of them */
} ProjectionChange;

extern void cqrs_projection_begin_change(ProjectionChange *change, text *name);
extern void cqrs_projection_end_change(ProjectionChange *change);

/* The name in an argument; an error if it is none. */
extern text *cqrs_projection_name_argument(FunctionCallInfo fcinfo);

#endif
