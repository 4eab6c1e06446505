/* engine/rate.h - a limit of so many a second, kept as a clock: when all that was taken so far is through at that rate.
 *
 * Two clocks, so that what is urgent goes first, and cannot keep all else away where it is given a part of the rate
 * only: it may begin by its own clock, which runs at that part, or by the other one; it moves both. All else moves and
 * obeys the second one. So with the whole rate for it the others have what it leaves.
 * What was not used is gone, but for a burst. (The virtual scheduling form of the leaky bucket: ITU-T I.371, annex A.)
 *
 * Pure functions; amounts in whatever is limited, times as of clock_ns().
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/clock.h"

/* Urgent things may be ahead of the rate by so long. */
#define RATE_BURST_NS (100 * NS_PER_MS)
/* The others: as much as a thread may come late that sleeps for its turn. */
#define RATE_SLACK_NS (25 * NS_PER_MS)

/* What cannot wait goes on and owes; no more than that, so that nobody pays for it for hours. */
#define RATE_OWED_NS (30 * NS_PER_S)

struct rate {
	uint64_t urgent_ns, all_ns;
};

/* When the next may begin; up to now: at once. */
static inline uint64_t rate_due(const struct rate *rate, bool urgent)
{
	uint64_t own = rate->urgent_ns > RATE_BURST_NS ? rate->urgent_ns - RATE_BURST_NS : 0;
	uint64_t all = rate->all_ns > RATE_SLACK_NS ? rate->all_ns - RATE_SLACK_NS : 0;

	return urgent && own < all ? own : all;
}

static inline uint64_t rate_later(uint64_t at_ns, uint64_t now_ns, uint64_t cost_ns)
{
	uint64_t later_ns = (at_ns > now_ns ? at_ns : now_ns) + cost_ns;

	return later_ns < now_ns + RATE_OWED_NS ? later_ns : now_ns + RATE_OWED_NS;
}

static inline uint64_t rate_cost_ns(uint64_t per_s, uint64_t amount)
{
	unsigned __int128 cost_ns = (unsigned __int128)amount * NS_PER_S / per_s;

	return cost_ns < RATE_OWED_NS ? (uint64_t)cost_ns : RATE_OWED_NS;
}

/* per_s is not 0. urgent 0: it is not; else an urgent thing, and 1/urgent of the rate is for those. */
static inline void rate_take(struct rate *rate, uint64_t per_s, uint64_t amount, unsigned int urgent, uint64_t now_ns)
{
	uint64_t cost_ns = rate_cost_ns(per_s, amount);

	rate->all_ns = rate_later(rate->all_ns, now_ns, cost_ns);
	if (urgent)
		rate->urgent_ns = rate_later(rate->urgent_ns, now_ns, urgent * cost_ns);
}

/* What was taken like that was not used. */
static inline void rate_return(struct rate *rate, uint64_t per_s, uint64_t amount, unsigned int urgent)
{
	uint64_t cost_ns = rate_cost_ns(per_s, amount), own_ns = urgent * cost_ns;

	rate->all_ns -= rate->all_ns < cost_ns ? rate->all_ns : cost_ns;
	rate->urgent_ns -= rate->urgent_ns < own_ns ? rate->urgent_ns : own_ns;
}
