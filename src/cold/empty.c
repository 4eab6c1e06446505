/* cold/empty.c - a segment is emptied: what is live in it moves to the end of the current one, as a put would write it.
 *
 * Power loss: a value that was durable stays so. Copies are synced before the records that name them are written, and
 * the records before the old file is unlinked.
 */
#include "cold/empty.h"

#include <errno.h>
#include <stdlib.h>

#include "base/cleanup.h"
#include "cold/garbage.h"
#include "cold/store_read.h"
#include "cold/store_write.h"

/* A suspect segment is looked at so often for values that were shared while they moved, or put late. */
#define RESCUE_ROUNDS 16

struct live_value {
	struct store_key key;
	struct place place;
};

struct victim {
	struct segment *segment; /* referenced */
	uint32_t id;
	bool unreadable;
	struct live_value *value;
	size_t count, cap;
};

static void list_value(void *arg, struct store_key key, struct place place)
{
	struct victim *victim = arg;

	if (place.segment != victim->id)
		return;
	if (victim->count == victim->cap) { /* values that several files have */
		struct live_value *value = reallocarray(victim->value, 2 * victim->cap, sizeof(*value));

		if (!value)
			return; /* what is not listed stays, and so does the segment */
		victim->value = value;
		victim->cap *= 2;
	}
	victim->value[victim->count++] = (struct live_value){ key, place };
}

/* No new value can come to a sealed segment, so what is listed at any moment is all there is, or more. (But for those
 * that another file begins to share meanwhile: they stay, and so does the segment, until it is chosen again.) */
static int list_live(struct store_rocks *store, struct victim *victim)
{
	CLEANUP_FREE uint64_t *inos = NULL;
	size_t count;
	int err;

	victim->value = malloc(victim->cap * sizeof(*victim->value));
	if (!victim->value)
		return -ENOMEM;
	lock_get(&store->segments.lock);
	err = places_files(&store->places, &inos, &count);
	for (size_t i = 0; !err && i < count; i++) {
		uint64_t from = 0;

		while (places_some(&store->places, inos[i], &from, list_value, victim))
			lock_pass(&store->segments.lock);
		lock_pass(&store->segments.lock);
	}
	lock_put(&store->segments.lock);
	return err;
}

static int compare_offsets(const void *left, const void *right)
{
	const struct live_value *a = left, *b = right;

	return a->place.offset_bytes < b->place.offset_bytes ? -1 : a->place.offset_bytes > b->place.offset_bytes;
}

/* (lock) */
static void take_victim(struct store_rocks *store, struct segment *segment, struct victim *victim)
{
	segments_ref(&store->segments, segment);
	*victim = (struct victim){ .segment = segment, .id = segment->id, .cap = segment->live_count };
}

/* False: there is none worth it. */
static bool take_best(struct store_rocks *store, bool tight, struct victim *victim)
{
	LOCK_SCOPE(&store->segments.lock);
	struct segment *segment = garbage_choose(store, tight);

	if (!segment)
		return false;
	take_victim(store, segment, victim);
	return true;
}

static bool take_suspect(struct store_rocks *store, struct victim *victim)
{
	LOCK_SCOPE(&store->segments.lock);
	struct segment *segment = segments_suspect(&store->segments);

	if (!segment)
		return false;
	take_victim(store, segment, victim);
	return true;
}

static void release_victim(struct store_rocks *store, struct victim *victim)
{
	lock_get(&store->segments.lock);
	victim->segment->unmovable = victim->unreadable;
	segments_check_dead(&store->segments, victim->segment);
	garbage_poke(store);
	lock_put(&store->segments.lock);
	segments_unref(&store->segments, victim->segment);
	free(victim->value);
}

struct part {
	struct store_item item[STORE_WRITE_VALUES];
	struct place place[STORE_WRITE_VALUES];
	size_t count;
};

/* Values from first on that lie within one transfer: how many, and to where they reach. */
static size_t measure(const struct victim *victim, size_t first, uint32_t *ret_end)
{
	uint32_t begin = victim->value[first].place.offset_bytes;
	size_t i = first;

	for (; i < victim->count && i - first < STORE_WRITE_VALUES; i++) {
		uint32_t end = victim->value[i].place.offset_bytes + victim->value[i].place.length_bytes;

		if (end - begin > STORE_TRANSFER_BYTES - 2 * SEGMENT_ALIGN)
			break;
		*ret_end = end;
	}
	/* The records of one value stay together, or it would be moved twice. */
	for (size_t kept = i; i < victim->count && kept > first; kept--)
		if (!place_equal(victim->value[kept].place, victim->value[kept - 1].place))
			return kept - first;
	return i - first;
}

static int move_part(struct store_rocks *store, struct victim *victim, size_t first, size_t count, uint32_t end,
		     void *buffer, struct part *part)
{
	uint32_t begin = victim->value[first].place.offset_bytes;
	struct store_write move = { part->item, part->place, count, HEADROOM_MOVES, STORE_COLLECTION };
	void *bytes;
	int err = store_read_at(store, STORE_COLLECTION, victim->segment, begin, end - begin, buffer, &bytes);

	if (err < 0) {
		victim->unreadable = err == -EIO || err == -EBADMSG;
		return err;
	}
	for (size_t i = 0; i < count; i++) {
		const struct live_value *value = &victim->value[first + i];

		part->item[i] = (struct store_item){
			value->key,
			(const char *)bytes + (value->place.offset_bytes - begin),
			value->place.length_bytes,
		};
		part->place[i] = value->place;
	}
	return store_write_move(store, &move);
}

static int move_all(struct store_rocks *store, struct victim *victim)
{
	CLEANUP_FREE struct part *part = malloc(sizeof(*part));
	void *buffer = buffers_get(&store->transfers);
	uint32_t end = 0;
	size_t count = 0;
	int err = part && buffer ? 0 : -ENOMEM;

	for (size_t first = 0; !err && first < victim->count; first += count) {
		count = measure(victim, first, &end);
		err = count ? move_part(store, victim, first, count, end, buffer, part) : -EBADMSG;
	}
	buffers_put(&store->transfers, buffer);
	return err;
}

/* The mutex `moving` is held. */
static int empty_victim(struct store_rocks *store, struct victim *victim)
{
	int err = list_live(store, victim);

	if (!err && victim->count)
		qsort(victim->value, victim->count, sizeof(*victim->value), compare_offsets);
	if (!err)
		err = move_all(store, victim);
	release_victim(store, victim);
	return err;
}

int empty_best(struct store_rocks *store, bool tight)
{
	struct victim victim;
	int err = -ENOENT;

	pthread_mutex_lock(&store->moving);
	if (take_best(store, tight, &victim))
		err = empty_victim(store, &victim);
	pthread_mutex_unlock(&store->moving);
	return err;
}

int empty_suspects(struct store_rocks *store)
{
	struct victim victim;
	int err = 0;

	pthread_mutex_lock(&store->moving);
	for (int round = 0; !err && take_suspect(store, &victim); round++) {
		err = empty_victim(store, &victim);
		if (!err && round == RESCUE_ROUNDS)
			err = -EIO;
	}
	pthread_mutex_unlock(&store->moving);
	return err == -EBADMSG ? -EIO : err;
}
