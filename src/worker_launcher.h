/*
 * worker_launcher.h
 *		The launcher: starts workers in the databases that want some.
 */
#ifndef CQRS_WORKER_LAUNCHER_H
#define CQRS_WORKER_LAUNCHER_H

/* Called by module.c at load. */
extern void cqrs_worker_launcher_init(void);

#endif
