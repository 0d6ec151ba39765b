/*
 * position_worker.h
 *		The worker that stores the high-water mark, for standbys.
 */
#ifndef CQRS_POSITION_WORKER_H
#define CQRS_POSITION_WORKER_H

/* Called by module.c at load. */
extern void cqrs_position_worker_init(void);

#endif
