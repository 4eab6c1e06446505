/* engine/hist.h - a latency histogram: 8 buckets for each power of two, so percentiles are exact to 1/8. Lock-free. */
#pragma once

#include <stdatomic.h>
#include <stdint.h>

#define HIST_SUB_BITS 3
#define HIST_BUCKETS ((64 - HIST_SUB_BITS) << HIST_SUB_BITS)

struct hist {
	_Atomic uint64_t bucket[HIST_BUCKETS];
	_Atomic uint64_t count;
};

void hist_add(struct hist *hist, uint64_t ns);
/* The value that percent (0 to 100) of the samples do not exceed (upper edge of its bucket); 0 without samples. */
uint64_t hist_percentile(struct hist *hist, double percent);
