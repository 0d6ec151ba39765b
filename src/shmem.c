/*
 * shmem.c
 *		Owns the shared memory hooks; knows no concept.
 *
 * An area holds plain data: no pointers, file descriptors or handles.  What
 * guards its fields is written in the head of the file that registers it.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/shmem.h"

#include "shmem.h"

#define MAX_AREAS	12

static const SharedArea *areas[MAX_AREAS];
static int	narea = 0;

static shmem_request_hook_type next_request_hook = NULL;
static shmem_startup_hook_type next_startup_hook = NULL;

static void request_areas(void);
static void attach_areas(void);

/* Promises the area to its concept; the descriptor must be static. */
void
cqrs_shmem_register(const SharedArea *area)
{
	Assert(process_shared_preload_libraries_in_progress);
	if (narea == MAX_AREAS)
		elog(ERROR, "more than %d areas of shared memory", MAX_AREAS);
	areas[narea++] = area;
}

void
cqrs_shmem_init(void)
{
	next_request_hook = shmem_request_hook;
	shmem_request_hook = request_areas;
	next_startup_hook = shmem_startup_hook;
	shmem_startup_hook = attach_areas;
}

static void
request_areas(void)
{
	if (next_request_hook)
		next_request_hook();
	for (int i = 0; i < narea; i++)
	{
		RequestAddinShmemSpace(areas[i]->size());
		if (areas[i]->lock)
			RequestNamedLWLockTranche(areas[i]->name, 1);
	}
}

static void
attach_areas(void)
{
	if (next_startup_hook)
		next_startup_hook();
	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	for (int i = 0; i < narea; i++)
	{
		const SharedArea *area = areas[i];
		bool		found;

		*area->address = ShmemInitStruct(area->name, area->size(), &found);
		if (area->lock)
			*area->lock = &GetNamedLWLockTranche(area->name)[0].lock;
		if (!found)
		{
			memset(*area->address, 0, area->size());
			area->init(*area->address);
		}
	}
	LWLockRelease(AddinShmemInitLock);
}
