/*
 * projection_failure.c
 *		What follows when a projection fails.
 *
 * Some errors are the system's: a lost connection, a deadlock, a full disk, a
 * shutdown.  They say nothing about the events, so the batch is tried again,
 * at growing intervals, for as long as it takes.
 *
 * The others are the handler's.  A batch that fails is narrowed until the event
 * is alone that makes it fail, each narrower batch being a transaction of its
 * own, so that what is good goes through.  The lone event is tried again
 * max_retries times.  Then
 *
 *	park	the event is put aside, and with it all later events of its entity,
 *			whose order matters; all others go on
 *	stop	the projection stops there
 *	skip	the event is passed over and counted
 *
 * A fuse stops a projection that parks too much: what fails is more likely the
 * handler than the events.  A projection on its way to a trigger stops instead
 * of parking: a trigger could not hold anything back.
 *
 * An error before the handler was called (there is no such function any more,
 * say) is no event's fault: tried again like that of an event, then the
 * projection stops.
 */
#include "postgres.h"

#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "projection_failure.h"
#include "worker_error.h"

/* What is to be done with an event that has failed too often. */
typedef struct GiveUp
{
	const Step *failed;
	const ErrorData *error;
	const char *reason;			/* why it stops, beside the error; or NULL */
} GiveUp;

static bool is_alone(const Step *step);
static void wait_longer(Partition *partition, int failures);
static void count_attempt(Step *step, const ErrorData *error);
static void give_up(Step *failed, const ErrorData *error);
static void give_up_event(Step *step, void *arg);
static void park_again(Step *step, void *arg);
static bool is_as_it_was(Step *step, const Step *failed);
static void describe(FailedEvent *event, const GiveUp *what);
static void stop(Projection *projection, const GiveUp *what);
static void run(const Step *failed, StepWork work, GiveUp *what);

/* A batch that has run out of its own time is not the system's. */
bool
cqrs_projection_failure_is_systems(const Step *step, const ErrorData *error)
{
	if (error->sqlerrcode == ERRCODE_QUERY_CANCELED && cqrs_projection_step_timed_out(step))
		return false;
	return cqrs_worker_error_is_systems(error);
}

/*
 * How many events the next batch may have, after one of several has failed.
 * Where it is known which event failed, those before it go through at once.
 */
int
cqrs_projection_failure_narrow(const Step *step)
{
	int			at = step->application.at;

	return at > 0 ? at : at == 0 ? 1 : step->batch.count / 2;
}

/* Is there no going on without the event?  A trigger could hold nothing back. */
bool
cqrs_projection_failure_stops(const Projection *projection)
{
	return projection->on_failure == PROJECTION_STOP ||
		(projection->sync && projection->on_failure == PROJECTION_PARK);
}

/* Why no more entities may be parked; NULL if they may. */
const char *
cqrs_projection_failure_blown(Projection *projection, int parked_in_row)
{
	if (parked_in_row >= CQRS_PROJECTION_MAX_PARKED_IN_ROW)
		return psprintf("%d entities were to be parked one after the other", parked_in_row);
	if (cqrs_projection_offset_count_parked(projection->registered.name) >= projection->max_parked)
		return psprintf("%d entities are parked already", projection->max_parked);
	return NULL;
}

/* Called in no transaction. */
void
cqrs_projection_failure_handle(Step *step, const ErrorData *error)
{
	ProjectionProgress *progress = step->partition->progress;

	if (step->put_off)
	{
		wait_longer(step->partition, 1);
		return;
	}
	cqrs_projection_progress_failed(progress, error);
	/* What it has failed at before it was changed or resumed does not count. */
	if (step->leased && !step->all_or_nothing && progress->revision != step->leased_offset.revision)
		cqrs_projection_progress_reached(progress, step->leased_offset.revision, step->leased_offset.position);
	if (cqrs_projection_failure_is_systems(step, error))
		wait_longer(step->partition, ++progress->system_failures);
	else if (step->all_or_nothing)
		give_up(step, error);
	else if (!is_alone(step))
	{
		if (step->retried)
			step->partition->retry_limit = 1;
		else
		{
			progress->limit = cqrs_projection_failure_narrow(step);
			progress->suspect_until = Max(progress->suspect_until,
										  step->batch.positions[step->batch.count - 1]);
		}
	}
	else if (step->retried && step->batch.count > 0)
	{
		GiveUp		what = {step, error, NULL};

		run(step, park_again, &what);
	}
	else
		count_attempt(step, error);
}

/* What was failing has gone through, as far as a step has reached. */
void
cqrs_projection_failure_cleared(Step *step)
{
	ProjectionProgress *progress = step->partition->progress;

	progress->attempts = 0;
	progress->system_failures = 0;
	progress->first_failed_at = 0;
	progress->retry_at = 0;
	if (step->application.started)
		progress->parked_in_row = 0;
	if (step->reached >= progress->suspect_until)
		progress->limit = 0;
	else if (step->application.started)
		progress->limit *= 2;
}

/* Is it known which event has failed, or that it was none? */
static bool
is_alone(const Step *step)
{
	return !step->application.started || step->batch.count == 1;
}

/*
 * This worker waits as long as it knows of no change; others wait if what they
 * know is about the same revision.
 */
static void
wait_longer(Partition *partition, int failures)
{
	partition->busy_until = cqrs_worker_error_retry_at(failures);
	partition->progress->retry_at = partition->busy_until;
}

static void
count_attempt(Step *step, const ErrorData *error)
{
	ProjectionProgress *progress = step->partition->progress;

	progress->attempts++;
	if (progress->first_failed_at == 0)
		progress->first_failed_at = GetCurrentTimestamp();
	if (step->leased && progress->attempts > step->max_retries)
		give_up(step, error);
	else
		wait_longer(step->partition, progress->attempts);
}

static void
give_up(Step *failed, const ErrorData *error)
{
	GiveUp		what = {failed, error, NULL};

	run(failed, give_up_event, &what);
}

/* Parks, passes over or stops at the lone event of the step that failed. */
static void
give_up_event(Step *step, void *arg)
{
	GiveUp	   *what = arg;
	const Step *failed = what->failed;
	ProjectionProgress *progress = step->partition->progress;
	ProjectionOffset *offset = &step->partition->offset;
	Advance		advance = {0};
	Projection *projection;
	FailedEvent event;

	if (!is_as_it_was(step, failed))
		return;
	projection = step->projection;
	if (!failed->application.started || failed->all_or_nothing ||
		cqrs_projection_failure_stops(projection))
	{
		stop(projection, what);
		return;
	}
	if (projection->on_failure == PROJECTION_PARK)
	{
		what->reason = cqrs_projection_failure_blown(projection, progress->parked_in_row + 1);
		if (what->reason)
		{
			stop(projection, what);
			return;
		}
		describe(&event, what);
		event.first_failed_at = progress->first_failed_at;
		event.attempts = progress->attempts;
		event.replay_until = event.position <= offset->replay_until ? offset->replay_until : 0;
		advance.parked = cqrs_projection_offset_park(offset, &event);
		progress->parked_in_row++;
	}
	advance.skipped = projection->on_failure == PROJECTION_SKIP;
	advance.position = failed->batch.positions[0];
	cqrs_projection_offset_advance(offset, &advance);
	step->reached = advance.position;
}

/* A replay of a parked entity has failed at its lone event: it stays parked there. */
static void
park_again(Step *step, void *arg)
{
	GiveUp	   *what = arg;
	FailedEvent event;

	if (!is_as_it_was(step, what->failed))
		return;
	describe(&event, what);
	cqrs_projection_offset_park_again(&step->partition->offset, &event);
	step->partition->retry_limit = 0;
}

/* Leases the offset; false if somebody came between, and changed what the failure was about. */
static bool
is_as_it_was(Step *step, const Step *failed)
{
	return cqrs_projection_step_lease(step) &&
		step->leased_offset.revision == failed->leased_offset.revision &&
		(failed->all_or_nothing || step->leased_offset.position == failed->leased_offset.position);
}

static void
describe(FailedEvent *event, const GiveUp *what)
{
	memset(event, 0, sizeof(FailedEvent));
	event->event = what->failed->batch.events[0];
	event->position = what->failed->batch.positions[0];
	event->sqlstate = unpack_sql_state(what->error->sqlerrcode);
	event->error = what->error->message;
}

static void
stop(Projection *projection, const GiveUp *what)
{
	const char *message = what->error->message ? what->error->message : "";

	if (what->reason)
		message = psprintf("%s (%s)", message, what->reason);
	ereport(LOG,
			(errmsg("projection \"%s\" is stopped", projection->name),
			 errdetail("Last error: %s", message),
			 errhint("When its cause is removed, run SELECT cqrs.resume_projection(%s).",
					 quote_literal_cstr(projection->name))));
	cqrs_projection_offset_stop(projection->registered.name, unpack_sql_state(what->error->sqlerrcode), message);
}

static void
run(const Step *failed, StepWork work, GiveUp *what)
{
	Step		step = {.partition = failed->partition};
	ProjectionProgress *progress = step.partition->progress;

	if (cqrs_projection_step_run(&step, work, what) != NULL)
		wait_longer(step.partition, ++progress->system_failures);
	else if (step.leased)
	{
		cqrs_projection_failure_cleared(&step);
		cqrs_projection_progress_reached(progress, step.partition->offset.revision, step.reached);
	}
}
