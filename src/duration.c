/*
 * duration.c
 *		Lengths of time, as users give them.
 */
#include "postgres.h"

#include "duration.h"

/* In milliseconds; a month has thirty days, as it has for PostgreSQL. */
double
cqrs_duration_ms(const Interval *interval)
{
	return interval->time / 1000.0 +
		(interval->day + (double) interval->month * DAYS_PER_MONTH) * SECS_PER_DAY * 1000.0;
}
