/*
 * service_wait.h
 *		The backend's latch and any number of sockets in one wait.
 */
#ifndef CQRS_SERVICE_WAIT_H
#define CQRS_SERVICE_WAIT_H

#include "storage/latch.h"

typedef struct SocketEvent
{
	pgsocket	socket;
	int			events;			/* WL_SOCKET_READABLE, WL_SOCKET_WRITEABLE */
} SocketEvent;

#define CQRS_SERVICE_WAIT_MAX_EVENTS	32

/* Watches a socket; events of 0: no longer.  Throws nothing; false: no memory. */
extern bool cqrs_service_wait_watch(pgsocket socket, int events);

/* Waits for what is watched, the latch, or the end of the time; -1: for ever. */
extern int	cqrs_service_wait(long timeout_ms, SocketEvent *occurred, bool *woken);

#endif
