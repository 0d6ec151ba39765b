/*
 * statement.h
 *		Our own SQL: prepared once in a backend, planned to use the indexes.
 */
#ifndef CQRS_STATEMENT_H
#define CQRS_STATEMENT_H

#include "executor/spi.h"
#include "utils/tuplestore.h"

#define CQRS_STATEMENT_MAX_ARGS 20

typedef struct Statement
{
	const char *sql;			/* parameters only, all names qualified */
	int			nargs;
	Oid			argtypes[CQRS_STATEMENT_MAX_ARGS];
	/* Plan: kept for the life of the backend */
	SPIPlanPtr	plan;
	int			generation;		/* of the plan that we had made */
} Statement;

extern uint64 cqrs_statement_read(Statement *statement, Datum *values,
								  const char *nulls, long limit);
extern void cqrs_statement_read_into(Statement *statement, Datum *values,
									 const char *nulls, Tuplestorestate *rows);
extern void cqrs_statement_read_to(Statement *statement, Datum *values,
								   const char *nulls, DestReceiver *dest);
extern uint64 cqrs_statement_write(Statement *statement, Datum *values,
								   const char *nulls);
extern void cqrs_statement_reset(Statement *statement);
extern Datum cqrs_statement_column(uint64 row, int column, bool *isnull);

#endif
