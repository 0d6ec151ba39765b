/*
 * standby.h
 *		Waiting for synchronous standbys, by who reads.
 */
#ifndef CQRS_STANDBY_H
#define CQRS_STANDBY_H

#include "access/xlogdefs.h"

extern void cqrs_standby_wait(XLogRecPtr wal_end);

#endif
