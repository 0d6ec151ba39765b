/*
 * service_latency.c
 *		How long calls took: a histogram in fixed memory.
 *
 * A bucket is an eighth of a power of two of microseconds wide, so a quantile
 * is right to 1 part in 16, from a microsecond to a day.  When enough has
 * been observed all counts are halved: what is told is about the last
 * thousands of calls, not about all since the server started.
 *
 * Plain data that its owner guards; adding is short enough for a spinlock.
 */
#include "postgres.h"

#include <math.h>

#include "port/pg_bitutils.h"

#include "service_latency.h"

#define SUB_BITS		3
#define SUB_BUCKETS		(1 << SUB_BITS)
#define MAX_OBSERVED	10000

static int	bucket_of(uint64 elapsed_us);
static double middle_us(int bucket);

void
cqrs_service_latency_add(LatencyHistogram *histogram, int64 elapsed_us)
{
	if (histogram->observed >= MAX_OBSERVED)
	{
		histogram->observed = 0;
		for (int i = 0; i < LATENCY_BUCKETS; i++)
			histogram->observed += histogram->buckets[i] /= 2;
	}
	histogram->buckets[bucket_of(Max(elapsed_us, 0))]++;
	histogram->observed++;
}

/* The latency that this share of the calls did not exceed; NaN if there were none. */
double
cqrs_service_latency_quantile_ms(const LatencyHistogram *histogram, double quantile)
{
	double		rank = Max(quantile * histogram->observed, 1);
	uint64		passed = 0;

	for (int i = 0; i < LATENCY_BUCKETS; i++)
	{
		passed += histogram->buckets[i];
		if (passed >= rank)
			return middle_us(i) / 1000;
	}
	return NAN;
}

/* Buckets of one microsecond at first, then SUB_BUCKETS for each power of two. */
static int
bucket_of(uint64 elapsed_us)
{
	int			power;

	if (elapsed_us < SUB_BUCKETS)
		return (int) elapsed_us;
	power = pg_leftmost_one_pos64(elapsed_us) - SUB_BITS;
	return Min(LATENCY_BUCKETS - 1,
			   (power + 1) * SUB_BUCKETS + (int) ((elapsed_us >> power) & (SUB_BUCKETS - 1)));
}

static double
middle_us(int bucket)
{
	int			power = bucket / SUB_BUCKETS - 1;
	double		width;

	if (power < 0)
		return bucket;
	width = (double) (UINT64CONST(1) << power);
	return (SUB_BUCKETS + bucket % SUB_BUCKETS) * width + width / 2;
}
