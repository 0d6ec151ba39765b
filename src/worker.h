/*
 * worker.h
 *		Background workers: which databases want some, and which run.
 */
#ifndef CQRS_WORKER_H
#define CQRS_WORKER_H

#include "datatype/timestamp.h"
#include "port/atomics.h"
#include "storage/condition_variable.h"
#include "storage/lwlock.h"

#define CQRS_WORKER_DATABASES	1024
#define CQRS_WORKER_KINDS		8

/* What a concept has workers for. */
typedef struct WorkerKind
{
	const char *name;			/* for people */
	int			(*wanted) (void);	/* how many, in this database; called in a
									 * transaction */
	void		(*run) (void);	/* works for ever, by way of worker_process.h */
	bool		reads_events;	/* woken when events were committed */
} WorkerKind;

typedef struct WorkerDatabase
{
	Oid			database;		/* invalid: free */
	/* Wanted */
	bool		look;			/* what it wants has to be found out */
	TimestampTz asked_at;		/* when its workers were told, or one started
								 * that will look, last */
	uint64		changes;		/* that were committed */
	uint64		calls;			/* these, and for workers of one kind */
	uint64		looked_at;		/* which of them wanted is about */
	int			wanted[CQRS_WORKER_KINDS];
	/* Kept out */
	int			barred;			/* by so many sessions */
	/* Next start */
	int			failures;		/* in a row */
	TimestampTz not_before;
	TimestampTz served_at[CQRS_WORKER_KINDS];	/* when one was started last */
	bool		resting;		/* its idle workers have given their slots
								 * back */
	bool		waiting;		/* there is no slot for it */
} WorkerDatabase;

typedef struct WorkerSlot
{
	Oid			database;		/* invalid: free */
	int			kind;
	int			index;			/* 0, 1, ... among those of its kind */
	int			pid;			/* 0: not started yet */
	bool		leave;			/* was told to */
	pg_atomic_uint32 sleeper;	/* who sleeps: his number in the array of
								 * processes, plus 1; 0: awake */
} WorkerSlot;

typedef struct WorkerShared
{
	pg_atomic_uint32 launcher;	/* as sleeper, whether it sleeps or not */
	pg_atomic_uint32 resting;	/* how many databases are */
	pg_atomic_uint32 shortage;	/* is there a database that waits for a slot? */
	ConditionVariable left;		/* broadcast when a worker has left */
	WorkerDatabase databases[CQRS_WORKER_DATABASES];
	int			slot_count;
	WorkerSlot	slots[FLEXIBLE_ARRAY_MEMBER];
} WorkerShared;

extern WorkerShared *cqrs_worker_shared;
extern LWLock *cqrs_worker_lock;

/* Called by module.c at load. */
extern void cqrs_worker_init(void);

/* Called by concepts that have workers, at load. */
extern void cqrs_worker_register_kind(const WorkerKind *kind);

/* Called by sessions. */
extern void cqrs_worker_look_at_commit(void);
extern void cqrs_worker_tell_at_commit(void);
extern void cqrs_worker_wake_at_commit(const WorkerKind *kind);
extern void cqrs_worker_wake(void);

/* Called by worker_launcher.c, worker_process.c and worker_bar.c. */
extern const WorkerKind *cqrs_worker_kind(int kind);
extern int	cqrs_worker_kind_count(void);
extern int	cqrs_worker_wanted(const WorkerKind *kind);
extern WorkerDatabase *cqrs_worker_database(Oid database, bool make);
extern void cqrs_worker_forget(WorkerDatabase *entry);
extern void cqrs_worker_wake_sleepers(Oid database);
extern void cqrs_worker_wake_process(pg_atomic_uint32 *process);
extern uint32 cqrs_worker_me(void);

#endif
