/*
 * worker_process.h
 *		A worker: connects, finds out what its database wants, works.
 */
#ifndef CQRS_WORKER_PROCESS_H
#define CQRS_WORKER_PROCESS_H

/*
 * Called by the run function of a kind, outside of transactions.  It does one
 * piece of work after the other, with cqrs_worker_process_check() before each.
 * When there is none it calls begin_sleep, looks again, and sleeps if there
 * still is none; -1 is for ever.
 */
extern void cqrs_worker_process_check(void);
extern void cqrs_worker_process_check_orders(void);
extern bool cqrs_worker_process_turn_is_over(void);
extern void cqrs_worker_process_begin_sleep(void);
extern void cqrs_worker_process_sleep(long timeout_ms, bool may_rest);
extern void cqrs_worker_process_end_sleep(void);

/*
 * Numbers that are others when a session has committed a change; a change, or
 * a call of workers.
 */
extern uint64 cqrs_worker_process_changes(void);
extern uint64 cqrs_worker_process_calls(void);

/* Called when there may be nothing to do for this kind any more. */
extern void cqrs_worker_process_look(void);

/* Called when something went well: the next failure is the first again. */
extern void cqrs_worker_process_succeeded(void);

/*
 * Has the commit of this transaction wait as a session's would, for the disk
 * at least, and for the standbys that synchronous_standby_names has it wait for.
 */
extern void cqrs_worker_process_make_durable(void);

/* Called after work of a user, in no transaction: nothing of it stays. */
extern void cqrs_worker_process_discard(void);

#endif
