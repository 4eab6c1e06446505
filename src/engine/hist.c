#include "engine/hist.h"

#define SUB (UINT64_C(1) << HIST_SUB_BITS)

static unsigned int bucket_of(uint64_t ns)
{
	unsigned int top;

	if (ns < SUB)
		return (unsigned int)ns;
	top = 63U - (unsigned int)__builtin_clzll(ns);
	return ((top - HIST_SUB_BITS + 1) << HIST_SUB_BITS) + (unsigned int)((ns >> (top - HIST_SUB_BITS)) & (SUB - 1));
}

static uint64_t upper_edge(unsigned int bucket)
{
	unsigned int group = bucket >> HIST_SUB_BITS;
	uint64_t sub = bucket & (SUB - 1);

	if (!group)
		return sub;
	return ((SUB + sub + 1) << (group - 1)) - 1;
}

void hist_add(struct hist *hist, uint64_t ns)
{
	atomic_fetch_add_explicit(&hist->bucket[bucket_of(ns)], 1, memory_order_relaxed);
	atomic_fetch_add_explicit(&hist->count, 1, memory_order_relaxed);
}

uint64_t hist_percentile(struct hist *hist, double percent)
{
	uint64_t count = atomic_load_explicit(&hist->count, memory_order_relaxed);
	uint64_t rank = (uint64_t)((double)count * percent / 100.0);
	uint64_t passed = 0;

	if (!count)
		return 0;
	for (unsigned int bucket = 0; bucket < HIST_BUCKETS; bucket++) {
		passed += atomic_load_explicit(&hist->bucket[bucket], memory_order_relaxed);
		if (passed > rank || passed == count)
			return upper_edge(bucket);
	}
	return upper_edge(HIST_BUCKETS - 1);
}
