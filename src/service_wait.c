/*
 * service_wait.c
 *		The backend's latch and any number of sockets in one wait.
 *
 * A cancel, a termination, a message from another backend set the latch, so
 * whoever waits for a network has to wait for the latch too, and not look at it
 * now and then.  PostgreSQL's WaitEventSet does that on every platform, but
 * a socket cannot be taken out of one.  So the sockets are kept in a list, and
 * the set is made anew when the list has changed since the last wait; that
 * happens a few times in a call and takes some microseconds.
 *
 * The set lives as long as the backend; one that a socket has left is never
 * waited with.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "pgstat.h"
#include "utils/memutils.h"

#include "compat.h"
#include "service_wait.h"

static SocketEvent *watched = NULL;
static int	nwatched = 0;
static int	capacity = 0;

static WaitEventSet *wait_set = NULL;
static bool changed = true;		/* since the set was made */

static int	find_socket(pgsocket socket);
static void make_set(void);

bool
cqrs_service_wait_watch(pgsocket socket, int events)
{
	int			i = find_socket(socket);

	if (i < nwatched && watched[i].events == events)
		return true;
	changed = true;
	if (events == 0)
	{
		if (i < nwatched)
			watched[i] = watched[--nwatched];
		return true;
	}
	if (i == capacity)
	{
		int			wanted = Max(8, 2 * capacity);
		SocketEvent *larger = realloc(watched, sizeof(SocketEvent) * wanted);

		if (larger == NULL)
			return false;
		watched = larger;
		capacity = wanted;
	}
	watched[i].socket = socket;
	watched[i].events = events;
	nwatched = Max(nwatched, i + 1);
	return true;
}

/*
 * Returns how many sockets something has happened on, into an array of
 * CQRS_SERVICE_WAIT_MAX_EVENTS, and whether the latch was set.  It is reset; the
 * caller looks at what it may stand for, by CHECK_FOR_INTERRUPTS().
 */
int
cqrs_service_wait(long timeout_ms, SocketEvent *occurred, bool *woken)
{
	WaitEvent	events[CQRS_SERVICE_WAIT_MAX_EVENTS];
	int			nevents;
	int			count = 0;

	*woken = false;
	if (changed)
		make_set();
	/* It makes an int of a long, and one below 0 is for ever. */
	timeout_ms = Min(timeout_ms, INT_MAX);
	nevents = WaitEventSetWait(wait_set, timeout_ms, events, lengthof(events), PG_WAIT_EXTENSION);
	for (int i = 0; i < nevents; i++)
	{
		if (events[i].events & WL_LATCH_SET)
		{
			ResetLatch(MyLatch);
			*woken = true;
		}
		else
		{
			occurred[count].socket = events[i].fd;
			occurred[count++].events = events[i].events;
		}
	}
	return count;
}

/* Where it is in the list, or would be. */
static int
find_socket(pgsocket socket)
{
	int			i = 0;

	while (i < nwatched && watched[i].socket != socket)
		i++;
	return i;
}

/* An error in between leaves a set that is made anew before it is used. */
static void
make_set(void)
{
	if (wait_set)
		FreeWaitEventSet(wait_set);
	wait_set = NULL;
	wait_set = cqrs_create_wait_set(nwatched + 2);
	AddWaitEventToSet(wait_set, WL_LATCH_SET, PGINVALID_SOCKET, MyLatch, NULL);
	AddWaitEventToSet(wait_set, WL_EXIT_ON_PM_DEATH, PGINVALID_SOCKET, NULL, NULL);
	for (int i = 0; i < nwatched; i++)
		AddWaitEventToSet(wait_set, watched[i].events, watched[i].socket, NULL, NULL);
	changed = false;
}
