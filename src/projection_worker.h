/*
 * projection_worker.h
 *		The event processor: the workers that run projections.
 */
#ifndef CQRS_PROJECTION_WORKER_H
#define CQRS_PROJECTION_WORKER_H

/* Called by module.c at load. */
extern void cqrs_projection_worker_init(void);

#endif
