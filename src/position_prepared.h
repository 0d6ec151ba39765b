/*
 * position_prepared.h
 *		Positions of prepared transactions, which have no backend.
 */
#ifndef CQRS_POSITION_PREPARED_H
#define CQRS_POSITION_PREPARED_H

#include "access/tupdesc.h"
#include "access/xlogdefs.h"
#include "utils/tuplestore.h"

/* Called by module.c at load. */
extern void cqrs_position_prepared_init(void);

/* Called by position.c. */
extern void cqrs_position_prepared_hand_over(int64 first);
extern int64 cqrs_position_prepared_lowest(int64 bound, XLogRecPtr *ended_by);
extern void cqrs_position_prepared_list(Tuplestorestate *rows, TupleDesc desc);

#endif
