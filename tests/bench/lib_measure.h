/* bench/lib_measure.h - what the measuring programs share: random numbers, content, skewed choices, histograms. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PAGE UINT64_C(4096)
#define PAGE_WORDS (PAGE / 8)

uint64_t measure_now_ns(void);
/* CPU time of the whole process. */
uint64_t measure_cpu_ns(void);

/* Prints one line of JSON with "error" and ends the program. */
__attribute__((noreturn, format(printf, 1, 2))) void measure_die(const char *format, ...);

uint64_t measure_parse_size(const char *text);

/* --- random numbers --- */

static inline uint64_t measure_mix(uint64_t x)
{
	x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
	x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
	return x ^ (x >> 31);
}

static inline uint64_t measure_random(uint64_t *state)
{
	return measure_mix(*state += UINT64_C(0x9e3779b97f4a7c15));
}

/* Evenly from [0, n). */
static inline uint64_t measure_below(uint64_t *state, uint64_t n)
{
	return (uint64_t)(((unsigned __int128)measure_random(state) * n) >> 64);
}

/* The place of x in a fixed shuffle of [0, n): a bijection without a table. */
uint64_t measure_shuffle(uint64_t x, uint64_t n, uint64_t seed);

/* --- content --- */

/* Fills one page. Its first word is measure_stamp(), by which readers find a wrong page; the rest looks like records of
 * a program's heap, of which zstd makes about 1/ratio (1, 3 and 8 were tuned for 16 KiB blocks). */
void measure_fill_page(uint64_t *page, uint64_t index, unsigned int ratio, uint64_t seed);

static inline uint64_t measure_stamp(uint64_t index)
{
	return measure_mix(index + UINT64_C(0x7469657266730001));
}

/* --- skewed choices --- */

struct zipf {
	uint64_t n;
	double theta, alpha, zeta_n, eta, half_pow;
};

void zipf_init(struct zipf *zipf, uint64_t n, double theta);
/* A rank, 0 the most frequent. */
uint64_t zipf_next(const struct zipf *zipf, uint64_t *state);

/* --- histograms of nanoseconds, 1.6 % wide --- */

#define HIST_SUB 64
#define HIST_BUCKETS (HIST_SUB * 36)

struct histogram {
	uint64_t bucket[HIST_BUCKETS];
	uint64_t count, sum_ns, max_ns;
};

void histogram_add(struct histogram *histogram, uint64_t ns);
void histogram_merge(struct histogram *into, const struct histogram *from);
uint64_t histogram_quantile(const struct histogram *histogram, double quantile);
/* Members of a JSON object: count, mean_ns, p50_ns ... max_ns, and "hist": pairs of upper bound and count. */
void histogram_print(const struct histogram *histogram);
