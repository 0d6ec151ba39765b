/*
 * position_stored.h
 *		The high-water mark, for those who read a copy of the journal.
 */
#ifndef CQRS_POSITION_STORED_H
#define CQRS_POSITION_STORED_H

/* Called on a standby; an error if none was stored. */
extern int64 cqrs_position_stored_read(void);

/* An error on a standby: who would look at this server's writers finds none. */
extern void cqrs_position_stored_refuse_to_look(void);

/* Called by a worker of the primary, in a transaction. */
extern void cqrs_position_stored_write(int64 mark);

#endif
