/*
 * journal_guard.h
 *		Keeps everybody from changing events, and notices who may.
 */
#ifndef CQRS_JOURNAL_GUARD_H
#define CQRS_JOURNAL_GUARD_H

#include "statement.h"

/* Called by module.c at load. */
extern void cqrs_journal_guard_init(void);

extern uint64 cqrs_journal_guard_change(Statement *statement, Datum *values);

#endif
