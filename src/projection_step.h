/*
 * projection_step.h
 *		One transaction of a worker for a partition of a projection.
 */
#ifndef CQRS_PROJECTION_STEP_H
#define CQRS_PROJECTION_STEP_H

#include "projection_batch.h"
#include "projection_offset.h"
#include "projection_progress.h"
#include "role.h"

/* What a worker knows of a partition, from one step to the next. */
typedef struct Partition
{
	ProjectionOffset offset;
	ProjectionProgress *progress;
	bool		retry;			/* somebody wants parked entities replayed */
	int64		retry_after;	/* not before it has come there */
	int			retry_limit;	/* events of an entity in a replay; 0: a batch */
	TimestampTz busy_until;		/* it was locked by somebody, or has failed */
} Partition;

typedef struct Step
{
	Partition  *partition;
	MemoryContext context;		/* lives longer than the transaction */
	Projection *projection;		/* set by lease; gone when the transaction is */
	int			timeout_ms;		/* of its handler */
	int			max_retries;
	/* Events */
	EventBatch	batch;
	Application application;
	bool		all_or_nothing; /* no event can be given up for others */
	bool		retried;		/* they are of an entity that was parked */
	/* Scopes: ours at first, then the owner's */
	RoleScope	own;
	RoleScope	owner;
	bool		as_owner;
	TimestampTz started_at;
	bool		put_off;		/* somebody else goes first */
	/* Result, true once it is committed */
	bool		leased;
	ProjectionOffset leased_offset; /* as it was then */
	int64		reached;
	int64		events;			/* that the handler was called for */
} Step;

typedef void (*StepWork) (Step *step, void *arg);

extern ErrorData *cqrs_projection_step_run(Step *step, StepWork work, void *arg);
extern bool cqrs_projection_step_lease(Step *step);
extern void cqrs_projection_step_put_off(Step *step);
extern void cqrs_projection_step_limit_locks(const char *timeout);
extern void cqrs_projection_step_enter_owner(Step *step);
extern void cqrs_projection_step_apply(Step *step);
extern bool cqrs_projection_step_timed_out(const Step *step);

#endif
