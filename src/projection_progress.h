/*
 * projection_progress.h
 *		How far the partitions of projections are, for all to see.
 */
#ifndef CQRS_PROJECTION_PROGRESS_H
#define CQRS_PROJECTION_PROGRESS_H

#include "datatype/timestamp.h"
#include "port/atomics.h"
#include "storage/condition_variable.h"
#include "storage/spin.h"

#define CQRS_PROGRESS_ERROR_BYTES	256

typedef struct ProjectionProgress
{
	/* Key */
	Oid			database;		/* invalid: free */
	Oid			installation;	/* as installation() */
	int			slice;			/* the partition's first */
	NameData	projection;
	/* Claim */
	pg_atomic_uint32 worker;	/* pid of who is at it; 0: nobody */
	pg_atomic_uint32 wanted;	/* by how many who want to change the
								 * projection */
	ConditionVariable moved;	/* broadcast when there is something new below */

	slock_t		mutex;			/* guards what follows; written by who is at
								 * it */
	/* Reached */
	int64		revision;		/* of the offset that this is about */
	int64		reached;		/* all events up to here are projected */
	/* Failing; a reader may see one without the other */
	int			limit;			/* events in a batch; 0: as many as usual */
	int64		suspect_until;	/* the limit holds up to here */
	int			attempts;		/* at the event after the offset */
	int			parked_in_row;	/* without a success between */
	int			system_failures;	/* in a row, of no event's fault */
	TimestampTz first_failed_at;
	TimestampTz retry_at;		/* 0: now */
	/* Last error */
	TimestampTz failed_at;
	int			sqlerrcode;
	char		error[CQRS_PROGRESS_ERROR_BYTES];
	/* Counters, since the server was started */
	int64		batches;
	int64		events;
	int64		retries;
	double		events_per_second;	/* of the last seconds */
	TimestampTz counted_at;
	/* Rebuild */
	TimestampTz rebuild_started_at; /* 0: none is under way */
	int64		rebuild_events;
	int64		rebuild_position;
	int64		rebuild_target;
} ProjectionProgress;

/* Called by module.c at load. */
extern void cqrs_projection_progress_init(void);

/*
 * The entry of a partition in this database; made if there is none.  Called in
 * a transaction.
 */
extern ProjectionProgress *cqrs_projection_progress_open(const char *projection, int slice);
extern ProjectionProgress *cqrs_projection_progress_find(const char *projection, int slice);
extern bool cqrs_projection_progress_is(const ProjectionProgress *progress, const char *projection, int slice);
extern bool cqrs_projection_progress_is_installed(const ProjectionProgress *progress);
extern void cqrs_projection_progress_reserve(int partitions);

/* Called by workers: one of them is at a partition at a time. */
extern bool cqrs_projection_progress_claim(ProjectionProgress *progress, const char *projection, int slice);
extern void cqrs_projection_progress_release(ProjectionProgress *progress);
extern void cqrs_projection_progress_changed(bool (*exists) (const char *projection, int slice));

/* Called by who wants to change the projection, around waiting for its offsets. */
extern void cqrs_projection_progress_want(ProjectionProgress *progress, bool wanted);

/* Called by who is at the partition. */
extern bool cqrs_projection_progress_is_wanted(ProjectionProgress *progress);
extern void cqrs_projection_progress_reached(ProjectionProgress *progress, int64 revision, int64 position);
extern void cqrs_projection_progress_count(ProjectionProgress *progress, int64 events);
extern void cqrs_projection_progress_failed(ProjectionProgress *progress, const ErrorData *error);
extern void cqrs_projection_progress_rebuild(ProjectionProgress *progress, int64 events, int64 position, int64 target);

/* Called by who waits, or changes the projection. */
extern int64 cqrs_projection_progress_read(ProjectionProgress *progress, int64 revision);

#endif
