/*
 * projection_offset.h
 *		How far a partition of a projection is.
 */
#ifndef CQRS_PROJECTION_OFFSET_H
#define CQRS_PROJECTION_OFFSET_H

#include "storage/itemptr.h"

#include "projection_registry.h"

typedef struct ProjectionOffset
{
	/* Key */
	text	   *projection;
	int			slice;			/* the partition's first */
	/* Row, as it was when it was leased */
	ItemPointerData tid;		/* invalid: not known */
	int			next_slice;
	int64		position;
	int64		replay_until;
	int64		revision;
	int			parked;			/* entities */
} ProjectionOffset;

/* What became of the events up to a position. */
typedef struct Advance
{
	int64		position;
	int			parked;			/* entities more, or less */
	int			skipped;		/* events more */
} Advance;

/* Who an event belongs to, and how it failed. */
typedef struct FailedEvent
{
	Datum		event;			/* a cqrs.event */
	int64		position;
	int64		replay_until;	/* if it was projected before: up to where */
	const char *sqlstate;
	const char *error;
	int			attempts;
	TimestampTz first_failed_at;
} FailedEvent;

/* Called between SPI_connect and SPI_finish, as the owner of the extension. */
extern bool cqrs_projection_offset_lease(ProjectionOffset *offset);
extern int	cqrs_projection_offset_lock_all(text *projection);
extern void cqrs_projection_offset_advance(ProjectionOffset *offset, const Advance *advance);
extern bool cqrs_projection_offset_park(const ProjectionOffset *offset, const FailedEvent *failed);
extern void cqrs_projection_offset_park_again(const ProjectionOffset *offset, const FailedEvent *failed);
extern int	cqrs_projection_offset_count_parked(text *projection);
extern void cqrs_projection_offset_stop(text *projection, const char *sqlstate, const char *error);

#endif
