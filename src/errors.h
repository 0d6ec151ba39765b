/*
 * errors.h
 *		The SQLSTATEs a client tells apart; all of class QR.
 *
 * Whatever is not listed here is raised with PostgreSQL's own codes.
 */
#ifndef CQRS_ERRORS_H
#define CQRS_ERRORS_H

#include "utils/elog.h"

#define CQRS_VERSION_CONFLICT		MAKE_SQLSTATE('Q','R','0','0','1')
#define CQRS_COMMAND_REJECTED		MAKE_SQLSTATE('Q','R','0','0','2')
#define CQRS_UNKNOWN_ENTITY_TYPE	MAKE_SQLSTATE('Q','R','0','0','3')
#define CQRS_COMMAND_NOT_HANDLED	MAKE_SQLSTATE('Q','R','0','0','4')
#define CQRS_EVENT_NOT_HANDLED		MAKE_SQLSTATE('Q','R','0','0','5')
#define CQRS_COMMAND_ID_REUSED		MAKE_SQLSTATE('Q','R','0','0','6')
#define CQRS_ENTITY_FORGOTTEN		MAKE_SQLSTATE('Q','R','0','0','7')
#define CQRS_BREAKER_OPEN			MAKE_SQLSTATE('Q','R','0','1','0')
#define CQRS_OUTCOME_UNKNOWN		MAKE_SQLSTATE('Q','R','0','1','1')
#define CQRS_NOT_DELIVERED			MAKE_SQLSTATE('Q','R','0','1','2')
#define CQRS_WAIT_TIMED_OUT			MAKE_SQLSTATE('Q','R','0','2','0')

#endif
