/*
 * position.h
 *		Positions in the journal, and up to which one a reader may read.
 */
#ifndef CQRS_POSITION_H
#define CQRS_POSITION_H

#define CQRS_POSITION_SEQUENCE	"journal_position_seq"

/* Called by module.c at load. */
extern void cqrs_position_init(void);

/* Called by writers, which hold the lock of their entity. */
extern void cqrs_position_allocate(int64 *positions, int count);
extern bool cqrs_position_held_by_me(void);

/* Called by readers. */
extern int64 cqrs_position_last(void);
extern bool cqrs_position_may_be_given(int64 position);
extern int64 cqrs_position_high_water_mark(void);
extern void cqrs_position_make_durable(void);
extern void cqrs_position_make_safe(void);
extern bool cqrs_position_wait(int64 after, int64 timeout_ms, int64 *mark);

/* Called by cqrs.adopt(), which keeps writers out. */
extern int64 cqrs_position_raise_sequence(void);

#endif
