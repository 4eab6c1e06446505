/* What was written in the last day. wear.h has the rules. */
#include "engine/wear.h"

#include <string.h>

#include "base/clock.h"

#define HOUR_NS (3600 * NS_PER_S)
/* From here on it is asked whether it will last. */
#define NEAR_PART(limit) ((limit) - (limit) / 4)
/* Hours in which the limit would be reached. */
#define SOON 2U
#define LATER 6U

/* The hours go on up to now. */
static void roll(struct wear *wear, uint64_t now_ns)
{
	uint64_t hours = now_ns > wear->began_ns ? (now_ns - wear->began_ns) / HOUR_NS : 0;
	uint64_t gone = hours < WEAR_HOURS + 1 ? hours : WEAR_HOURS + 1;

	if (!hours)
		return;
	memmove(wear->bytes + gone, wear->bytes, (WEAR_HOURS + 1 - gone) * sizeof(*wear->bytes));
	memset(wear->bytes, 0, gone * sizeof(*wear->bytes));
	wear->began_ns += hours * HOUR_NS;
}

static uint64_t plus(uint64_t a, uint64_t b)
{
	return a > UINT64_MAX - b ? UINT64_MAX : a + b;
}

void wear_add(struct wear *wear, uint64_t bytes, uint64_t now_ns)
{
	roll(wear, now_ns);
	wear->bytes[0] = plus(wear->bytes[0], bytes);
}

static uint64_t sum(const struct wear *wear)
{
	uint64_t used = 0;

	for (int i = 0; i <= WEAR_HOURS; i++)
		used = plus(used, wear->bytes[i]);
	return used;
}

uint64_t wear_used(struct wear *wear, uint64_t now_ns)
{
	roll(wear, now_ns);
	return sum(wear);
}

uint64_t wear_next_free_ns(struct wear *wear, uint64_t now_ns)
{
	roll(wear, now_ns);
	for (unsigned int i = WEAR_HOURS + 1; i-- > 0;)
		if (wear->bytes[i])
			return wear->began_ns + (WEAR_HOURS + 1 - i) * HOUR_NS - now_ns;
	return UINT64_MAX;
}

/* Bytes an hour: of the running one, and of the one before as much as makes the hour full. */
static uint64_t pace(const struct wear *wear, uint64_t now_ns)
{
	uint64_t into_ns = now_ns > wear->began_ns ? now_ns - wear->began_ns : 0;

	return plus(wear->bytes[0], (uint64_t)((unsigned __int128)wear->bytes[1] * (HOUR_NS - into_ns) / HOUR_NS));
}

unsigned int wear_choosy(struct wear *wear, uint64_t limit_bytes, uint64_t now_ns)
{
	uint64_t used, an_hour;

	roll(wear, now_ns);
	used = sum(wear);
	if (used < NEAR_PART(limit_bytes))
		return 0;
	an_hour = pace(wear, now_ns);
	for (unsigned int hour = 0; hour < WEAR_HOURS; hour++) {
		used = plus(used, an_hour);
		if (used >= limit_bytes)
			return hour < SOON ? WEAR_CHOOSY_MAX : hour < LATER ? WEAR_CHOOSY_MAX - 1 : 1;
		used -= wear->bytes[WEAR_HOURS - hour];
	}
	return 0;
}

void wear_resume(struct wear *wear, uint64_t into_hour_ns, uint64_t now_ns)
{
	/* By a clock of its own: that of a host that has just come up is younger than what is resumed. */
	wear->began_ns = 0;
	roll(wear, into_hour_ns);
	into_hour_ns %= HOUR_NS;
	wear->began_ns = now_ns > into_hour_ns ? now_ns - into_hour_ns : 0;
}
