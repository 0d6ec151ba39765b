/*
 * shmem.h
 *		Shared memory: a concept registers an area, this file owns the hooks.
 */
#ifndef CQRS_SHMEM_H
#define CQRS_SHMEM_H

#include "storage/lwlock.h"

typedef struct SharedArea
{
	const char *name;
	Size		(*size) (void); /* called when all settings are known */
	void		(*init) (void *area);	/* called once, on zeroed memory */
	void	  **address;		/* set in every process */
	LWLock	  **lock;			/* set in every process, unless NULL */
} SharedArea;

/* Called by the init function of a concept, while the library is preloaded. */
extern void cqrs_shmem_register(const SharedArea *area);

/* Called by module.c at load, after the concepts. */
extern void cqrs_shmem_init(void);

#endif
