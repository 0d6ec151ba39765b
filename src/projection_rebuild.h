/*
 * projection_rebuild.h
 *		A projection's tables, made anew from the journal.
 */
#ifndef CQRS_PROJECTION_REBUILD_H
#define CQRS_PROJECTION_REBUILD_H

#include "projection_step.h"

/* A work for cqrs_projection_step_run. */
extern void cqrs_projection_rebuild_all(Step *step, void *unused);

#endif
