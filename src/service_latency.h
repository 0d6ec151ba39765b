/*
 * service_latency.h
 *		How long calls took: a histogram in fixed memory.
 */
#ifndef CQRS_SERVICE_LATENCY_H
#define CQRS_SERVICE_LATENCY_H

#define LATENCY_BUCKETS 272

typedef struct LatencyHistogram
{
	uint32		observed;
	uint32		buckets[LATENCY_BUCKETS];
} LatencyHistogram;

extern void cqrs_service_latency_add(LatencyHistogram *histogram, int64 elapsed_us);
extern double cqrs_service_latency_quantile_ms(const LatencyHistogram *histogram, double quantile);

#endif
