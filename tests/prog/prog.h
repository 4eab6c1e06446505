/* tests/prog/prog.h - what the load programs share: time, random numbers, sizes, latencies, dying.
 *
 * Header only, so that each program is one .c file that builds with nothing but the C library: the programs judge
 * tierfs and therefore borrow nothing from it.
 */
#pragma once

#include <errno.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define PROG_PAGE 4096UL
#define PROG_NS 1000000000ULL

enum prog_exit { PROG_OK, PROG_WRONG, PROG_USAGE, PROG_FAILED };

static inline uint64_t prog_now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * PROG_NS + (uint64_t)ts.tv_nsec;
}

static inline void prog_sleep_until_ns(uint64_t when)
{
	struct timespec ts = { .tv_sec = (time_t)(when / PROG_NS), .tv_nsec = (long)(when % PROG_NS) };

	clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &ts, NULL);
}

__attribute__((noreturn, format(printf, 1, 2))) static inline void prog_die(const char *format, ...)
{
	va_list ap;

	va_start(ap, format);
	fprintf(stderr, "%s: ", program_invocation_short_name);
	vfprintf(stderr, format, ap);
	fputc('\n', stderr);
	va_end(ap);
	exit(PROG_FAILED);
}

/* A number with an optional K, M, G or T; anything else ends the program. */
static inline uint64_t prog_size(const char *text)
{
	static const char units[] = "KMGT";
	char *end;
	double value = strtod(text, &end);
	const char *unit = *end ? strchr(units, *end) : NULL;

	if (end == text || value < 0 || (*end && (!unit || end[1]))) {
		fprintf(stderr, "%s: bad size: %s\n", program_invocation_short_name, text);
		exit(PROG_USAGE);
	}
	return (uint64_t)(value * (double)(1ULL << (unit ? 10 * (unit - units + 1) : 0)));
}

static inline double prog_number(const char *text, double min, double max)
{
	char *end;
	double value = strtod(text, &end);

	if (end == text || *end || !(value >= min && value <= max)) {
		fprintf(stderr, "%s: not a number from %g to %g: %s\n", program_invocation_short_name, min, max, text);
		exit(PROG_USAGE);
	}
	return value;
}

/* The finalizer of splitmix64: every bit of the result depends on every bit of x. */
static inline uint64_t prog_mix(uint64_t x)
{
	x += 0x9e3779b97f4a7c15ULL;
	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
	x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
	return x ^ (x >> 31);
}

struct prog_rng {
	uint64_t state;
};

static inline uint64_t prog_rand(struct prog_rng *rng)
{
	rng->state += 0x9e3779b97f4a7c15ULL;
	return prog_mix(rng->state);
}

/* Uniform in [0, n), n below 2^32 times a small error nobody sees. */
static inline uint64_t prog_below(struct prog_rng *rng, uint64_t n)
{
	return (uint64_t)(((unsigned __int128)prog_rand(rng) * n) >> 64);
}

/* Uniform in [0, 1). */
static inline double prog_unit(struct prog_rng *rng)
{
	return (double)(prog_rand(rng) >> 11) * 0x1p-53;
}

/* Latencies: eight buckets for each power of two, so a percentile is right within 12 %. */
#define PROG_HIST_SUB 8
#define PROG_HIST_LEN (64 * PROG_HIST_SUB)

struct prog_hist {
	uint64_t count[PROG_HIST_LEN];
	uint64_t max_ns;
};

static inline void prog_hist_add(struct prog_hist *hist, uint64_t ns)
{
	unsigned int top = ns ? 63 - (unsigned int)__builtin_clzll(ns) : 0;
	unsigned int sub = top >= 3 ? (unsigned int)(ns >> (top - 3)) & 7 : 0;

	hist->count[top * PROG_HIST_SUB + sub]++;
	if (ns > hist->max_ns)
		hist->max_ns = ns;
}

static inline void prog_hist_merge(struct prog_hist *into, const struct prog_hist *from)
{
	for (unsigned int i = 0; i < PROG_HIST_LEN; i++)
		into->count[i] += from->count[i];
	if (from->max_ns > into->max_ns)
		into->max_ns = from->max_ns;
}

/* The upper edge of the bucket that holds the given share (0.5: the median); 0 when empty. */
static inline uint64_t prog_hist_at(const struct prog_hist *hist, double share)
{
	uint64_t total = 0, seen = 0;

	for (unsigned int i = 0; i < PROG_HIST_LEN; i++)
		total += hist->count[i];
	for (unsigned int i = 0; i < PROG_HIST_LEN; i++) {
		seen += hist->count[i];
		if (hist->count[i] && (double)seen >= share * (double)total) {
			unsigned int top = i / PROG_HIST_SUB, sub = i % PROG_HIST_SUB;

			return top >= 3 ? (8ULL + sub + 1) << (top - 3) : 2ULL << top;
		}
	}
	return 0;
}
