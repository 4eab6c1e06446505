/* tests/prog/pick.h - which page comes next: uniform, a hot part, or zipfian.
 *
 * Hot pages are spread over the whole file by a fixed permutation, as the pages of a busy guest are.
 */
#pragma once

#include <math.h>

#include "prog.h"

#define PICK_HOT_SHARE 0.9 /* of the accesses go to the hot part */

struct pick {
	uint64_t pages;  /* immutable, as all of it */
	uint64_t stride; /* coprime with pages: rank * stride mod pages is the permutation */
	double hot;      /* fraction of the pages; 0: no hot part */
	double zipf;     /* exponent; 0: uniform */
	double h_first, h_last, threshold;
};

static inline uint64_t pick_gcd(uint64_t a, uint64_t b)
{
	while (b) {
		uint64_t rest = a % b;

		a = b;
		b = rest;
	}
	return a;
}

/* The integral of x^-s and its inverse: what rejection-inversion sampling (Hoermann and Derflinger, 1996) needs. */
static inline double pick_h(const struct pick *pick, double x)
{
	return fabs(pick->zipf - 1) < 1e-9 ? log(x) : (pow(x, 1 - pick->zipf) - 1) / (1 - pick->zipf);
}

static inline double pick_h_inverse(const struct pick *pick, double y)
{
	return fabs(pick->zipf - 1) < 1e-9 ? exp(y) : pow(1 + y * (1 - pick->zipf), 1 / (1 - pick->zipf));
}

static inline void pick_init(struct pick *pick, uint64_t pages, double hot, double zipf)
{
	*pick = (struct pick){ .pages = pages, .hot = hot, .zipf = zipf };
	pick->stride = (uint64_t)((double)pages * 0.6180339887) | 1;
	while (pick_gcd(pages, pick->stride) != 1)
		pick->stride += 2;
	if (zipf > 0) {
		pick->h_first = pick_h(pick, 1.5) - 1;
		pick->h_last = pick_h(pick, (double)pages + 0.5);
		pick->threshold = 2 - pick_h_inverse(pick, pick_h(pick, 2.5) - pow(2, -zipf));
	}
}

static inline uint64_t pick_zipf_rank(const struct pick *pick, struct prog_rng *rng)
{
	for (;;) {
		double u = pick->h_last + prog_unit(rng) * (pick->h_first - pick->h_last);
		double x = pick_h_inverse(pick, u);
		double k = floor(x + 0.5);

		if (k < 1)
			k = 1;
		if (k > (double)pick->pages)
			k = (double)pick->pages;
		if (k - x <= pick->threshold || u >= pick_h(pick, k + 0.5) - pow(k, -pick->zipf))
			return (uint64_t)k - 1;
	}
}

static inline uint64_t pick_page(const struct pick *pick, struct prog_rng *rng)
{
	uint64_t rank, hot_pages = (uint64_t)(pick->hot * (double)pick->pages);

	if (pick->zipf > 0)
		rank = pick_zipf_rank(pick, rng);
	else if (hot_pages && prog_unit(rng) < PICK_HOT_SHARE)
		rank = prog_below(rng, hot_pages);
	else
		return prog_below(rng, pick->pages);
	return (uint64_t)((unsigned __int128)rank * pick->stride % pick->pages);
}
