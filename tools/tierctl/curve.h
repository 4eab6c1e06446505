/* curve.h - working sets and the miss-ratio curve, estimated from one look at the ages of all blocks.
 *
 * Denning's working set W(t) is what was used within the last t; in a steady state it grows with t as fast as memory is
 * used whose last use is longer ago than t: the rate of misses of whoever keeps exactly W(t) in DRAM is
 *
 *	m(t) = dW/dt						(P. J. Denning, S. C. Schwartz, CACM 15(3), 1972)
 *
 * so that the pairs (W(t), m(t)) are the miss-ratio curve (X. Xiang et al., HOTL, ASPLOS 2013, do the same with
 * footprints). Scans give the ages in steps: N[g] bytes of generation g were last used between age[g] and age[g + 1]
 * ago, so W is known at those times, and m is N[g] / (age[g + 1] - age[g]) between them. In a steady state m never
 * rises with t, so the slopes used are those of the least concave majorant of W (Grenander's estimator of a decreasing
 * density, 1956).
 *
 * How wrong it may be:
 *  - noise: a step in which n blocks lie has a relative error of about 1 / sqrt(n);
 *  - memory that was used once and is never used again looks like memory that comes back late, until it is older than
 *    the oldest known generation: the rate is then too high, the budget that is proposed too large. It is on the safe
 *    side, and worst in the minutes after a start;
 *  - a load that changes is not in a steady state: what it says is true for the load of the last minutes;
 *  - a generation begins at a scan, so times are no finer than the scans, and what is older than the last known
 *    generation is older by an unknown time: W is "at least" there;
 *  - ages that were set by hand or came with a file are taken for measured ones.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include <tierfs/hotness.h>

#define CURVE_POINTS_MAX (TIERFS_HOTNESS_GENERATIONS + 1)

struct curve {
	unsigned int points;            /* at least 1: (0, 0) */
	double age_s[CURVE_POINTS_MAX]; /* ascending */
	double bytes[CURVE_POINTS_MAX]; /* W at that age */
	double slope[CURVE_POINTS_MAX]; /* of the majorant behind this point, bytes a second; not of the last */
	double hull[CURVE_POINTS_MAX];  /* the least concave majorant of W */
	double older_bytes;             /* last used before the last of these ages */
};

/* bytes[g]: of generation g, resident and cold, no holes. */
void curve_make(struct curve *curve, const uint64_t bytes[TIERFS_HOTNESS_GENERATIONS],
		const uint64_t age_ns[TIERFS_HOTNESS_GENERATIONS]);

/* W(seconds). *ret_at_least: it is more, and nobody knows by how much. */
double curve_working_set(const struct curve *curve, double seconds, bool *ret_at_least);
/* Bytes per second that come back with a budget of so many bytes for blocks. */
double curve_rate(const struct curve *curve, double budget_bytes);
/* The smallest budget with a rate of at most that. *ret_at_least: the curve ends before. */
double curve_budget(const struct curve *curve, double rate, bool *ret_at_least);
