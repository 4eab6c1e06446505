/* bench/lib_sort.c - see lib_sort.h. */
#include "bench/lib_sort.h"

#include <pthread.h>

struct sort_job {
	uint64_t *words, count;
	unsigned int threads;
};

static void sort_insert(uint64_t *words, uint64_t count)
{
	for (uint64_t i = 1; i < count; i++) {
		uint64_t word = words[i], at = i;

		for (; at && words[at - 1] > word; at--)
			words[at] = words[at - 1];
		words[at] = word;
	}
}

static uint64_t median(uint64_t a, uint64_t b, uint64_t c)
{
	if (a > b)
		return b > c ? b : (a > c ? c : a);
	return a > c ? a : (b > c ? c : b);
}

static uint64_t sort_split(uint64_t *words, uint64_t count)
{
	uint64_t pivot = median(words[0], words[count / 2], words[count - 1]);
	uint64_t *low = words, *high = words + count - 1;

	for (;;) {
		uint64_t word;

		while (*low < pivot)
			low++;
		while (*high > pivot)
			high--;
		if (low >= high)
			return (uint64_t)(high - words) + 1;
		word = *low;
		*low++ = *high;
		*high-- = word;
	}
}

static void *sort_thread(void *arg)
{
	struct sort_job job = *(struct sort_job *)arg;

	while (job.count > 32) {
		uint64_t left = sort_split(job.words, job.count);
		struct sort_job other = { job.words, left, job.threads / 2 };
		pthread_t thread;

		if (job.threads > 1 && pthread_create(&thread, NULL, sort_thread, &other) == 0) {
			struct sort_job mine = { job.words + left, job.count - left, job.threads - other.threads };

			sort_thread(&mine);
			pthread_join(thread, NULL);
			return NULL;
		}
		other.threads = 1;
		sort_thread(&other);
		job.words += left;
		job.count -= left;
	}
	sort_insert(job.words, job.count);
	return NULL;
}

void measure_sort(uint64_t *words, uint64_t count, unsigned int threads)
{
	struct sort_job job = { words, count, threads };

	sort_thread(&job);
}
