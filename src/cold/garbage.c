/* cold/garbage.c - how much of the segments is no longer used, and which of them is worth emptying. */
#include "cold/garbage.h"

/* With less garbage than that many segments nothing is done. */
#define GARBAGE_SEGMENTS 4U
/* Dead segments wait for somebody else's sync unless there are so many. */
#define DEAD_SEGMENTS 4U

static uint64_t garbage_of(const struct segment *segment)
{
	return segment->end_bytes > segment->live_bytes ? segment->end_bytes - segment->live_bytes : 0;
}

static uint64_t garbage_in_all(const struct segments *segments)
{
	return segments->end_bytes > segments->live_bytes ? segments->end_bytes - segments->live_bytes : 0;
}

bool garbage_enough(const struct store_rocks *store)
{
	const struct segments *segments = &store->segments;
	uint64_t garbage = garbage_in_all(segments);

	return garbage > segments->live_bytes / 2 && garbage > (uint64_t)GARBAGE_SEGMENTS * segments->segment_bytes;
}

bool garbage_many_dead(const struct store_rocks *store)
{
	return store->segments.dead_bytes >= (uint64_t)DEAD_SEGMENTS * store->segments.segment_bytes;
}

void garbage_poke(struct store_rocks *store)
{
	if (store->hurry || garbage_enough(store) || garbage_many_dead(store) ||
	    (store->segments.dead && !store->minds_dead))
		pthread_cond_signal(&store->work);
}

/* (lock) In a hurry an eighth of garbage is worth the copy, else a quarter. */
struct segment *garbage_choose(struct store_rocks *store, bool tight)
{
	struct segment *best = NULL;

	for (struct segment *segment = store->segments.table; segment; segment = segment->hh.next) {
		uint64_t garbage = garbage_of(segment);

		if (!segment->sealed || segment->pending || segment->unmovable || !segment->live_count)
			continue;
		if (garbage < segment->end_bytes / (tight ? 8 : 4))
			continue;
		/* garbage / end of one against the other */
		if (!best || garbage * best->end_bytes > garbage_of(best) * segment->end_bytes)
			best = segment;
	}
	return best;
}
