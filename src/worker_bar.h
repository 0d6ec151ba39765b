/*
 * worker_bar.h
 *		Commands that need a database for themselves: workers leave it first.
 */
#ifndef CQRS_WORKER_BAR_H
#define CQRS_WORKER_BAR_H

/* Called by module.c at load. */
extern void cqrs_worker_bar_init(void);

#endif
