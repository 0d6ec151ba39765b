/*
 * journal_append.h
 *		cqrs.append(): events that somebody else decided on.
 */
#ifndef CQRS_JOURNAL_APPEND_H
#define CQRS_JOURNAL_APPEND_H

extern int64 cqrs_journal_append_check_expected(int64 expected);

#endif
