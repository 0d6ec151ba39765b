/*
 * projection_split.h
 *		How a projection is split into partitions.
 */
#ifndef CQRS_PROJECTION_SPLIT_H
#define CQRS_PROJECTION_SPLIT_H

#include "projection_step.h"

/* Called between SPI_connect and SPI_finish; makes the rows of the offsets. */
extern void cqrs_projection_split_check_room(void);
extern void cqrs_projection_split_make(text *projection, int partitions, int64 position, int64 revision);

/* Called with all offsets locked and at that position. */
extern void cqrs_projection_split_replace(text *projection, int64 position);

/* A work for cqrs_projection_step_run. */
extern void cqrs_projection_split_again(Step *step, void *unused);

#endif
