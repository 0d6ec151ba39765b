/*
 * duration.h
 *		Lengths of time, as users give them.
 */
#ifndef CQRS_DURATION_H
#define CQRS_DURATION_H

#include "datatype/timestamp.h"

extern double cqrs_duration_ms(const Interval *interval);

#endif
