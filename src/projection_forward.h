/*
 * projection_forward.h
 *		The next events of a partition, and those that were held back.
 */
#ifndef CQRS_PROJECTION_FORWARD_H
#define CQRS_PROJECTION_FORWARD_H

#include "projection_step.h"

#define CQRS_PROJECTION_WINDOW	100000	/* positions read in one step at most */

/* Which events are read: those after a position, up to another one. */
typedef struct EventRange
{
	const ProjectionOffset *offset; /* of the partition */
	int64		after;
	int64		up_to;
	int			limit;			/* how many at most */
}			EventRange;

/* Works for cqrs_projection_step_run. */
extern void cqrs_projection_forward(Step *step, void *unused);
extern void cqrs_projection_forward_parked(Step *step, void *unused);

/* Called by steps that read events for other reasons. */
extern void cqrs_projection_forward_read(Step *step, const RoleScope *scope, const EventRange * range);
extern int64 cqrs_projection_forward_from(const Step *step);

#endif
