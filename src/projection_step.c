/*
 * projection_step.c
 *		One transaction of a worker for a partition of a projection.
 *
 *	start, do the work, commit, leave the owner's scope, discard what it left
 *
 * The work leases the partition's offset first; what is registered is looked
 * at only then, and is of the offset's revision.  It moves the offset before
 * the owner's scope is entered, which lasts until after the commit.
 *
 * An error undoes the transaction and is returned; what follows from it is
 * projection_failure.c's to say.  What the step has read outlives the
 * transaction, so that it can be said which event failed.
 *
 * The worker is a superuser's session.  Our statements on our own tables run as
 * that, with search_path pinned; the journal is read as its owner, whose
 * indexes may call what he has made.  Commits are asynchronous: a crash
 * takes back the effect and the offset together, and never an event without
 * what was made of it.  Only a transaction that wrote events itself is flushed,
 * and waits for standbys, for others than us may act on them.
 */
#include "postgres.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timeout.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "position.h"
#include "projection_settings.h"
#include "projection_step.h"
#include "worker_error.h"
#include "worker_process.h"

#define BUSY_MS		100

static void leave_own(Step *step);

/*
 * Runs the work in a transaction, in the current context; returns the error
 * that has undone it, or NULL.
 */
ErrorData *
cqrs_projection_step_run(Step *step, StepWork work, void *arg)
{
	MemoryContext context = CurrentMemoryContext;
	ErrorData  *volatile error = NULL;

	step->context = context;
	PG_TRY();
	{
		StartTransactionCommand();
		PushActiveSnapshot(GetTransactionSnapshot());
		cqrs_role_enter(&step->own, GetUserId());
		MemoryContextSwitchTo(context);
		SPI_connect();
		MemoryContextSwitchTo(context);
		work(step, arg);
		if (step->as_owner)
			cqrs_role_restore_settings(&step->owner);
		else
			leave_own(step);
		if (cqrs_position_held_by_me())
			cqrs_worker_process_make_durable();
		PopActiveSnapshot();
		CommitTransactionCommand();
	}
	PG_CATCH();
	{
		error = cqrs_worker_error_take(context, true);
		if (step->leased)
			step->partition->offset = step->leased_offset;
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);
	if (step->as_owner)
	{
		if (error == NULL)
			cqrs_role_leave(&step->owner);
		cqrs_worker_process_discard();
		MemoryContextSwitchTo(context);
	}
	return error;
}

/*
 * Locks the partition's offset and finds out what is registered.  False if
 * there is nothing to be done: somebody has locked it, or it does not run.
 */
bool
cqrs_projection_step_lease(Step *step)
{
	ProjectionOffset *offset = &step->partition->offset;
	Projection *projection;

	if (!cqrs_projection_offset_lease(offset))
	{
		cqrs_projection_step_put_off(step);
		return false;
	}

	/*
	 * What is known of the partition may be about one of the same name,
	 * before CREATE EXTENSION.
	 */
	if (!cqrs_projection_progress_is_installed(step->partition->progress))
		return false;
	projection = cqrs_projection_registry_find(offset->projection);
	if (projection == NULL || projection->revision != offset->revision)
		projection = cqrs_projection_registry_reload(offset->projection);
	if (projection == NULL || projection->state != PROJECTION_RUNNING || projection->has_trigger)
		return false;
	step->projection = projection;
	step->timeout_ms = projection->handler_timeout_ms;
	step->max_retries = projection->max_retries;
	step->leased = true;
	step->leased_offset = *offset;
	step->reached = offset->position;
	return true;
}

/* Has the partition left alone for a moment. */
void
cqrs_projection_step_put_off(Step *step)
{
	step->partition->busy_until = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), BUSY_MS);
}

/* How long locks are waited for from now on, to the end of the transaction; 0: for ever. */
void
cqrs_projection_step_limit_locks(const char *timeout)
{
	(void) set_config_option("lock_timeout", timeout, PGC_USERSET, PGC_S_SESSION, GUC_ACTION_LOCAL, true, 0, false);
}

/* From here on the transaction is the owner's.  Ends SPI. */
void
cqrs_projection_step_enter_owner(Step *step)
{
	Projection *projection = step->projection;

	if (!OidIsValid(projection->owner))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("role \"%s\", owner of projection \"%s\", does not exist",
						projection->owner_name, projection->name),
				 errhint("A superuser can set another with cqrs.alter_projection(..., owner => ...).")));
	cqrs_projection_settings_check_may_read(projection->owner);
	leave_own(step);
	cqrs_role_enter_until_commit(&step->owner, projection->owner, projection->handler.search_path);
	step->as_owner = true;
}

static void
leave_own(Step *step)
{
	SPI_finish();
	cqrs_role_leave(&step->own);
}

/* Calls the handler for the events that were read, for a limited time. */
void
cqrs_projection_step_apply(Step *step)
{
	step->started_at = GetCurrentTimestamp();
	step->application.projection = step->projection;
	step->application.batch = &step->batch;
	step->application.own_transaction = true;
	if (step->timeout_ms > 0)
		enable_timeout_after(STATEMENT_TIMEOUT, step->timeout_ms);
	cqrs_projection_batch_apply(&step->application);
	if (step->timeout_ms > 0)
		disable_timeout(STATEMENT_TIMEOUT, false);
	step->events += step->batch.count;
}

/* Was the time over that the handler had? */
bool
cqrs_projection_step_timed_out(const Step *step)
{
	return step->application.started && step->timeout_ms > 0 &&
		TimestampDifferenceExceeds(step->started_at, GetCurrentTimestamp(), step->timeout_ms);
}
