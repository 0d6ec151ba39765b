/*
 * service_wait.c
 *		The backend's latch and any number of sockets in one wait.
 *
 * A cancel, a termination, a message from another backend set the latch, so
 * whoever waits for a network has to wait for the latch too, and not look at it
 * now and then.  PostgreSQL's WaitEventSet does that on every platform, but
 * a socket cannot be taken out of one.  So the sockets are kept in a list, and
 * the set is made anew when the list has changed since the last wait, which
 * takes a tenth of the time of a call.
 *
 * The connections of a backend are kept and used again, so a socket that is not
 * watched any more stays in the set as an idle one.  Something happening on it
 * means that it has to go.  When it is to be watched again it must be the very
 * same socket, with the inode that it had: another one with its number is not in
 * the set.
 *
 * The set lives as long as the backend.
 */
#include "postgres.h"

#include <sys/stat.h>

#include "miscadmin.h"
#include "pgstat.h"
#include "utils/memutils.h"

#include "compat.h"
#include "service_wait.h"

typedef struct WatchedSocket
{
	SocketEvent wanted;
	bool		idle;			/* in the set, but nobody waits for it */
	ino_t		inode;			/* if it is */
} WatchedSocket;

static WatchedSocket *watched = NULL;
static int	nwatched = 0;
static int	capacity = 0;

static WaitEventSet *wait_set = NULL;
static bool changed = true;		/* since the set was made */

static int	find_socket(pgsocket socket);
static void leave(int i);
static bool is_idle(pgsocket socket);
static ino_t inode_of(pgsocket socket);
static void make_set(void);

bool
cqrs_service_wait_watch(pgsocket socket, int events)
{
	int			i = find_socket(socket);

	if (events == 0)
	{
		if (i < nwatched)
			leave(i);
		return true;
	}
	if (i < nwatched && watched[i].wanted.events == events &&
		(!watched[i].idle || inode_of(socket) == watched[i].inode))
	{
		watched[i].idle = false;
		return true;
	}
	changed = true;
	if (i == capacity)
	{
		int			wanted = Max(8, 2 * capacity);
		WatchedSocket *larger = realloc(watched, sizeof(WatchedSocket) * wanted);

		if (larger == NULL)
			return false;
		watched = larger;
		capacity = wanted;
	}
	watched[i].wanted.socket = socket;
	watched[i].wanted.events = events;
	watched[i].idle = false;
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
		else if (is_idle(events[i].fd))
			changed = true;
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

	while (i < nwatched && watched[i].wanted.socket != socket)
		i++;
	return i;
}

/* Stays in the set if it is there, and can be told from another one later. */
static void
leave(int i)
{
	ino_t		inode = changed ? 0 : inode_of(watched[i].wanted.socket);

	if (inode != 0)
	{
		watched[i].idle = true;
		watched[i].inode = inode;
	}
	else
	{
		watched[i] = watched[--nwatched];
		changed = true;
	}
}

static bool
is_idle(pgsocket socket)
{
	int			i = find_socket(socket);

	return i == nwatched || watched[i].idle;
}

/* Each socket of a running system has another one; 0 for what is no socket. */
static ino_t
inode_of(pgsocket socket)
{
	struct stat status;

	return fstat(socket, &status) == 0 && S_ISSOCK(status.st_mode) ? status.st_ino : 0;
}

/* An error in between leaves a set that is made anew before it is used. */
static void
make_set(void)
{
	if (wait_set)
		FreeWaitEventSet(wait_set);
	wait_set = NULL;
	for (int i = nwatched - 1; i >= 0; i--)
		if (watched[i].idle)
			watched[i] = watched[--nwatched];
	wait_set = cqrs_create_wait_set(nwatched + 2);
	AddWaitEventToSet(wait_set, WL_LATCH_SET, PGINVALID_SOCKET, MyLatch, NULL);
	AddWaitEventToSet(wait_set, WL_EXIT_ON_PM_DEATH, PGINVALID_SOCKET, NULL, NULL);
	for (int i = 0; i < nwatched; i++)
		AddWaitEventToSet(wait_set, watched[i].wanted.events, watched[i].wanted.socket, NULL, NULL);
	changed = false;
}
