/* bench/lib_measure.c - see lib_measure.h. */
#include "bench/lib_measure.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static uint64_t clock_read(clockid_t clock)
{
	struct timespec ts;

	clock_gettime(clock, &ts);
	return (uint64_t)ts.tv_sec * 1000000000U + (uint64_t)ts.tv_nsec;
}

uint64_t measure_now_ns(void)
{
	return clock_read(CLOCK_MONOTONIC);
}

uint64_t measure_cpu_ns(void)
{
	return clock_read(CLOCK_PROCESS_CPUTIME_ID);
}

void measure_die(const char *format, ...)
{
	va_list args;

	printf("{\"error\": \"");
	va_start(args, format);
	vprintf(format, args);
	va_end(args);
	printf("\"}\n");
	fflush(stdout);
	exit(1);
}

uint64_t measure_parse_size(const char *text)
{
	static const char units[] = "KMGT";
	char *end;
	uint64_t value;

	errno = 0;
	value = strtoull(text, &end, 10);
	if (errno || end == text)
		measure_die("not a size: %s", text);
	for (unsigned int i = 0; *end && units[i]; i++)
		if (*end == units[i])
			return value << (10 * (i + 1));
	return value;
}

/* Four Feistel rounds over the next power of four, walked until the result is in range. */
uint64_t measure_shuffle(uint64_t x, uint64_t n, uint64_t seed)
{
	unsigned int half = 1;
	uint64_t mask;

	while ((UINT64_C(1) << (2 * half)) < n)
		half++;
	mask = (UINT64_C(1) << half) - 1;
	do {
		uint64_t left = x >> half, right = x & mask;

		for (uint64_t round = 0; round < 4; round++) {
			uint64_t next = left ^ (measure_mix(right + (seed << 8) + (round << 40)) & mask);

			left = right;
			right = next;
		}
		x = left << half | right;
	} while (x >= n);
	return x;
}

/* --- content --- */

#define PIECE_WORDS 32 /* 256 bytes */

/* Of 256 pieces: how many are noise, and how many zeros. The rest is one of a few sorts of records. */
struct mixture {
	unsigned int noise, zeros, changed;
};

static struct mixture mixture_of(unsigned int ratio)
{
	switch (ratio) {
	case 1:
		return (struct mixture){ 256, 0, 0 };
	case 3:
		return (struct mixture){ 66, 64, 3 };
	case 8:
		return (struct mixture){ 18, 128, 2 };
	}
	measure_die("no content for a ratio of %u", ratio);
}

/* Records of one sort are alike: pointers into the same arena, small numbers, zeros; a few words differ. */
static void fill_records(uint64_t *piece, uint64_t *state, unsigned int changed)
{
	uint64_t sort = measure_random(state) & 3;

	for (unsigned int i = 0; i < PIECE_WORDS; i++)
		piece[i] = i & 2 ? 0 : (i & 1 ? sort + i : UINT64_C(0x00007f3a12000000) + sort * 0x1240 + i * 16);
	for (unsigned int i = 0; i < changed; i++) {
		uint64_t r = measure_random(state);

		piece[r % PIECE_WORDS] = UINT64_C(0x00007f3a00000000) + (r >> 44 << 4);
	}
}

void measure_fill_page(uint64_t *page, uint64_t index, unsigned int ratio, uint64_t seed)
{
	uint64_t state = measure_mix(index * UINT64_C(0x9e3779b97f4a7c15) + seed);
	struct mixture mixture = mixture_of(ratio);

	for (unsigned int at = 0; at < PAGE_WORDS; at += PIECE_WORDS) {
		unsigned int choice = (unsigned int)(measure_random(&state) & 255);

		if (choice < mixture.noise)
			for (unsigned int i = 0; i < PIECE_WORDS; i++)
				page[at + i] = measure_random(&state);
		else if (choice < mixture.noise + mixture.zeros)
			memset(page + at, 0, PIECE_WORDS * 8);
		else
			fill_records(page + at, &state, mixture.changed);
	}
	page[0] = measure_stamp(index);
}

/* --- skewed choices (Gray et al., as YCSB has it) --- */

void zipf_init(struct zipf *zipf, uint64_t n, double theta)
{
	double zeta = 0;

	for (uint64_t i = 1; i <= n; i++)
		zeta += 1 / pow((double)i, theta);
	zipf->n = n;
	zipf->theta = theta;
	zipf->zeta_n = zeta;
	zipf->alpha = 1 / (1 - theta);
	zipf->half_pow = 1 + pow(0.5, theta);
	zipf->eta = (1 - pow(2.0 / (double)n, 1 - theta)) / (1 - zipf->half_pow / zeta);
}

uint64_t zipf_next(const struct zipf *zipf, uint64_t *state)
{
	double u = (double)(measure_random(state) >> 11) / 9007199254740992.0;
	double uz = u * zipf->zeta_n;
	uint64_t rank;

	if (uz < 1)
		return 0;
	if (uz < zipf->half_pow)
		return 1;
	rank = (uint64_t)((double)zipf->n * pow(zipf->eta * u - zipf->eta + 1, zipf->alpha));
	return rank < zipf->n ? rank : zipf->n - 1;
}

/* --- histograms --- */

static unsigned int bucket_of(uint64_t ns)
{
	unsigned int shift, index;

	if (ns < HIST_SUB)
		return (unsigned int)ns;
	shift = 63 - (unsigned int)__builtin_clzll(ns) - 6;
	index = (shift + 1) * HIST_SUB + (unsigned int)(ns >> shift) - HIST_SUB;
	return index < HIST_BUCKETS ? index : HIST_BUCKETS - 1;
}

/* The first value beyond the bucket. */
static uint64_t bucket_end(unsigned int index)
{
	unsigned int shift;

	if (index < HIST_SUB)
		return index + 1;
	shift = index / HIST_SUB - 1;
	return ((uint64_t)(index % HIST_SUB + HIST_SUB) + 1) << shift;
}

void histogram_add(struct histogram *histogram, uint64_t ns)
{
	histogram->bucket[bucket_of(ns)]++;
	histogram->count++;
	histogram->sum_ns += ns;
	if (ns > histogram->max_ns)
		histogram->max_ns = ns;
}

void histogram_merge(struct histogram *into, const struct histogram *from)
{
	for (unsigned int i = 0; i < HIST_BUCKETS; i++)
		into->bucket[i] += from->bucket[i];
	into->count += from->count;
	into->sum_ns += from->sum_ns;
	if (from->max_ns > into->max_ns)
		into->max_ns = from->max_ns;
}

uint64_t histogram_quantile(const struct histogram *histogram, double quantile)
{
	uint64_t wanted = (uint64_t)ceil(quantile * (double)histogram->count), seen = 0;

	for (unsigned int i = 0; i < HIST_BUCKETS; i++) {
		seen += histogram->bucket[i];
		if (seen >= wanted && seen)
			return bucket_end(i) < histogram->max_ns ? bucket_end(i) : histogram->max_ns;
	}
	return histogram->max_ns;
}

void histogram_print(const struct histogram *histogram)
{
	const char *comma = "";

	printf("\"count\": %lu, \"mean_ns\": %.0f, \"p50_ns\": %lu, \"p90_ns\": %lu, \"p99_ns\": %lu, \"p999_ns\": "
	       "%lu, "
	       "\"max_ns\": %lu, \"hist\": [",
	       histogram->count, histogram->count ? (double)histogram->sum_ns / (double)histogram->count : 0.0,
	       histogram_quantile(histogram, 0.5), histogram_quantile(histogram, 0.9),
	       histogram_quantile(histogram, 0.99), histogram_quantile(histogram, 0.999), histogram->max_ns);
	for (unsigned int i = 0; i < HIST_BUCKETS; i++) {
		if (!histogram->bucket[i])
			continue;
		printf("%s[%lu, %lu]", comma, bucket_end(i), histogram->bucket[i]);
		comma = ", ";
	}
	printf("]");
}
