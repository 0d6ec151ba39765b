/*
 * projection_failure.h
 *		What follows when a projection fails.
 */
#ifndef CQRS_PROJECTION_FAILURE_H
#define CQRS_PROJECTION_FAILURE_H

#include "projection_step.h"

/* A fuse: this many entities parked one after the other, nothing going well between. */
#define CQRS_PROJECTION_MAX_PARKED_IN_ROW	10

extern bool cqrs_projection_failure_is_systems(const Step *step, const ErrorData *error);
extern int	cqrs_projection_failure_narrow(const Step *step);
extern bool cqrs_projection_failure_stops(const Projection *projection);
extern const char *cqrs_projection_failure_blown(Projection *projection, int parked_in_row);
extern void cqrs_projection_failure_handle(Step *step, const ErrorData *error);
extern void cqrs_projection_failure_cleared(Step *step);

#endif
