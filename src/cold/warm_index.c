/* cold/warm_index.c - the tables of places, in shards so that readers rarely meet.
 *
 * A shard has whole regions of neighbouring blocks, so a walk stays in one shard for long and finds the next region by
 * asking each of them once.
 */
#include "cold/warm_state.h"

#include <string.h>

#define REGION_SHIFT 10U /* blocks; four chunks of places.c */

static struct warm_shard *shard_of(struct warm *warm, struct store_key key)
{
	uint64_t hash = (key.ino * UINT64_C(0x9e3779b97f4a7c15)) ^
			((key.block >> REGION_SHIFT) * UINT64_C(0xbf58476d1ce4e5b9));

	return &warm->shard[(hash ^ hash >> 32) % WARM_SHARDS];
}

static uint64_t region_end(uint64_t block)
{
	return block | ((UINT64_C(1) << REGION_SHIFT) - 1);
}

void warm_index_init(struct warm *warm)
{
	for (unsigned int i = 0; i < WARM_SHARDS; i++)
		lock_init(&warm->shard[i].lock, LOCK_RANK_STORE);
}

void warm_index_fini(struct warm *warm)
{
	for (unsigned int i = 0; i < WARM_SHARDS; i++) {
		places_clear(&warm->shard[i].places);
		lock_fini(&warm->shard[i].lock);
	}
}

void warm_index_figures(struct warm *warm, uint64_t *ret_count, uint64_t *ret_memory_bytes)
{
	*ret_count = *ret_memory_bytes = 0;
	for (unsigned int i = 0; i < WARM_SHARDS; i++) {
		LOCK_SCOPE(&warm->shard[i].lock);
		*ret_count += warm->shard[i].places.count;
		*ret_memory_bytes += warm->shard[i].places.memory_bytes;
	}
}

static void add_live(struct warm *warm, struct place place)
{
	atomic_fetch_add(&warm->slot[place.segment]->live_bytes, warm_span(place.length_bytes));
}

static void drop_live(void *arg, struct store_key key, struct place place)
{
	struct warm *warm = arg;

	(void)key;
	atomic_fetch_sub(&warm->slot[place.segment]->live_bytes, warm_span(place.length_bytes));
}

int warm_index_reserve(struct warm *warm, struct store_key key)
{
	struct warm_shard *shard = shard_of(warm, key);
	LOCK_SCOPE(&shard->lock);

	return places_reserve(&shard->places, key);
}

void warm_index_set(struct warm *warm, struct store_key key, struct place place)
{
	struct warm_shard *shard = shard_of(warm, key);
	struct place old;
	LOCK_SCOPE(&shard->lock);

	add_live(warm, place);
	if (places_set(&shard->places, key, place, &old))
		drop_live(warm, key, old);
}

bool warm_index_is(struct warm *warm, struct store_key key, struct place place)
{
	struct warm_shard *shard = shard_of(warm, key);
	struct place now;
	LOCK_SCOPE(&shard->lock);

	return places_get(&shard->places, key, &now) && place_equal(now, place);
}

bool warm_index_drop(struct warm *warm, struct store_key key, struct place place)
{
	struct warm_shard *shard = shard_of(warm, key);
	struct place now;
	LOCK_SCOPE(&shard->lock);

	if (!places_get(&shard->places, key, &now) || !place_equal(now, place))
		return false;
	places_remove(&shard->places, key.ino, key.block, key.block, drop_live, warm);
	return true;
}

static void remove_from(struct warm *warm, struct warm_shard *shard, uint64_t ino, uint64_t first, uint64_t last)
{
	lock_get(&shard->lock);
	while (places_remove_some(&shard->places, ino, first, &last, drop_live, warm))
		lock_pass(&shard->lock);
	lock_put(&shard->lock);
}

void warm_index_remove(struct warm *warm, uint64_t ino, uint64_t first, uint64_t last)
{
	struct warm_shard *only = last <= region_end(first) ? shard_of(warm, (struct store_key){ ino, first }) : NULL;

	for (unsigned int i = 0; i < WARM_SHARDS; i++) {
		struct warm_shard *shard = &warm->shard[i];

		if (!only || shard == only)
			remove_from(warm, shard, ino, first, last);
	}
}

bool warm_index_ref(struct warm *warm, struct store_key key, struct place *ret, struct warm_segment **ret_segment)
{
	struct warm_shard *shard = shard_of(warm, key);
	LOCK_SCOPE(&shard->lock);

	if (!places_get(&shard->places, key, ret))
		return false;
	*ret_segment = warm->slot[ret->segment];
	atomic_fetch_add(&(*ret_segment)->refs, 1);
	return true;
}

/* The first block of the range that has a value. */
static bool find_next(struct warm *warm, uint64_t ino, uint64_t first, uint64_t last, uint64_t *ret)
{
	bool found = false;

	for (unsigned int i = 0; i < WARM_SHARDS; i++) {
		struct store_key key = { ino, first };
		struct place place;
		LOCK_SCOPE(&warm->shard[i].lock);

		if (!places_next(&warm->shard[i].places, &key, last, &place))
			continue;
		found = true;
		*ret = last = key.block; /* none after it matters */
	}
	return found;
}

bool warm_index_any(struct warm *warm, uint64_t ino, uint64_t first, uint64_t last)
{
	uint64_t block;

	return warm_index_collect(warm, ino, first, last < region_end(first) ? last : region_end(first), NULL, 0) ||
	       (last > region_end(first) && find_next(warm, ino, region_end(first) + 1, last, &block));
}

/* Of one region. With nowhere to put them, says whether there is one. */
static size_t collect_region(struct warm *warm, uint64_t ino, uint64_t first, uint64_t last, struct warm_found *found,
			     size_t cap)
{
	struct warm_shard *shard = shard_of(warm, (struct store_key){ ino, first });
	struct store_key key = { ino, first };
	struct place place;
	size_t count = 0;
	LOCK_SCOPE(&shard->lock);

	while ((count < cap || !found) && places_next(&shard->places, &key, last, &place)) {
		if (!found)
			return 1;
		found[count++] = (struct warm_found){ key.block, place, warm->slot[place.segment] };
		atomic_fetch_add(&warm->slot[place.segment]->refs, 1);
		if (key.block++ == last)
			break;
	}
	return count;
}

size_t warm_index_collect(struct warm *warm, uint64_t ino, uint64_t first, uint64_t last, struct warm_found *found,
			  size_t cap)
{
	size_t count = 0;

	for (;;) {
		uint64_t end = region_end(first) < last ? region_end(first) : last;
		size_t got = collect_region(warm, ino, first, end, found ? found + count : NULL, cap - count);

		count += got;
		if (end == last || (found && count == cap) || (!found && got))
			return count;
		first = end + 1;
		if (!got && !find_next(warm, ino, first, last, &first))
			return count;
	}
}
