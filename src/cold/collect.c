/* cold/collect.c - the collector: gives the space of replaced and removed values back.
 *
 * A segment in which nothing is live is dead, without the collector. It is needed where live and dead values lie
 * together: it copies what is live to the end of the current segment, as a put would, and then the old segment is dead.
 *
 * Which and when: the sealed segment with the least that is live, once the garbage of all is more than half of what is
 * live (then a block costs about half a copy more over its life), or as soon as the disk gets tight. A segment that is
 * nearly all live is not worth it.
 *
 * Dead segments go with the next sync, whoever asks for it. The collector does when they have waited for DEAD_NS, when
 * they are many, or when the disk is tight: so their space comes back, and no put or removal waits for the disk.
 *
 * Power loss: a value that was durable stays so. Copies are synced before the records that name them are written, and
 * the records before the old file is unlinked.
 *
 * One thread, woken by changes under the segments' lock, stopped by collect_stop(). It may block on I/O and on the
 * commit mutex.
 */
#include <errno.h>
#include <stdlib.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/thread.h"
#include "cold/store_rocks_impl.h"

/* With less garbage than that many segments nothing is done. */
#define GARBAGE_SEGMENTS 4U
/* Dead segments wait so long for somebody else's sync, unless there are so many. */
#define DEAD_NS (5 * NS_PER_S)
#define DEAD_SEGMENTS 4U
/* After a failure. */
#define RETRY_NS NS_PER_S
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

/* --- which --- */

static uint64_t garbage_of(const struct segment *segment)
{
	return segment->end_bytes > segment->live_bytes ? segment->end_bytes - segment->live_bytes : 0;
}

static uint64_t garbage_in_all(const struct segments *segments)
{
	return segments->end_bytes > segments->live_bytes ? segments->end_bytes - segments->live_bytes : 0;
}

static bool enough(const struct store_rocks *store)
{
	const struct segments *segments = &store->segments;
	uint64_t garbage = garbage_in_all(segments);

	return garbage > segments->live_bytes / 2 && garbage > (uint64_t)GARBAGE_SEGMENTS * segments->segment_bytes;
}

static bool many_dead(const struct store_rocks *store)
{
	return store->segments.dead_bytes >= (uint64_t)DEAD_SEGMENTS * store->segments.segment_bytes;
}

void collect_poke(struct store_rocks *store)
{
	if (store->hurry || enough(store) || many_dead(store) || (store->segments.dead && !store->minds_dead))
		pthread_cond_signal(&store->work);
}

/* (lock) In a hurry an eighth of garbage is worth the copy, else a quarter. */
static struct segment *choose(struct store_rocks *store, bool tight)
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

/* --- what --- */

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
	int r;

	victim->value = malloc(victim->cap * sizeof(*victim->value));
	if (!victim->value)
		return -ENOMEM;
	lock_get(&store->segments.lock);
	r = places_files(&store->places, &inos, &count);
	lock_put(&store->segments.lock);
	for (size_t i = 0; r == 0 && i < count; i++) {
		uint64_t from = 0;
		bool more;

		do {
			lock_get(&store->segments.lock);
			more = places_some(&store->places, inos[i], &from, list_value, victim);
			lock_put(&store->segments.lock);
		} while (more);
	}
	return r;
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
	struct segment *segment = choose(store, tight);

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
	collect_poke(store);
	lock_put(&store->segments.lock);
	segments_unref(&store->segments, victim->segment);
	free(victim->value);
}

/* --- moving --- */

struct part {
	struct store_item item[STORE_MOVE_VALUES];
	struct place place[STORE_MOVE_VALUES];
	size_t count;
};

/* Values from first on that lie within one transfer: how many, and to where they reach. */
static size_t measure(const struct victim *victim, size_t first, uint32_t *ret_end)
{
	uint32_t begin = victim->value[first].place.offset_bytes;
	size_t i = first;

	for (; i < victim->count && i - first < STORE_MOVE_VALUES; i++) {
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
	struct store_rocks_move move = { part->item, part->place, count, HEADROOM_MOVES };
	void *bytes;
	int r = store_rocks_read(store, victim->segment, begin, end - begin, buffer, &bytes);

	if (r < 0) {
		victim->unreadable = r == -EIO || r == -EBADMSG;
		return r;
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
	return store_rocks_move(store, &move);
}

static int move_all(struct store_rocks *store, struct victim *victim)
{
	CLEANUP_FREE struct part *part = malloc(sizeof(*part));
	void *buffer = buffers_get(&store->transfers);
	uint32_t end = 0;
	size_t count = 0;
	int r = part && buffer ? 0 : -ENOMEM;

	for (size_t first = 0; r == 0 && first < victim->count; first += count) {
		count = measure(victim, first, &end);
		r = count ? move_part(store, victim, first, count, end, buffer, part) : -EBADMSG;
	}
	buffers_put(&store->transfers, buffer);
	return r;
}

/* The mutex `moving` is held. */
static int empty_victim(struct store_rocks *store, struct victim *victim)
{
	int r = list_live(store, victim);

	if (r == 0 && victim->count)
		qsort(victim->value, victim->count, sizeof(*victim->value), compare_offsets);
	if (r == 0)
		r = move_all(store, victim);
	release_victim(store, victim);
	return r;
}

static int collect_one(struct store_rocks *store, bool tight)
{
	struct victim victim;
	int r = -ENOENT;

	pthread_mutex_lock(&store->moving);
	if (take_best(store, tight, &victim))
		r = empty_victim(store, &victim);
	pthread_mutex_unlock(&store->moving);
	return r;
}

int collect_rescue(struct store_rocks *store)
{
	struct victim victim;
	int r = 0;

	pthread_mutex_lock(&store->moving);
	for (int round = 0; r == 0 && take_suspect(store, &victim); round++) {
		r = empty_victim(store, &victim);
		if (r == 0 && round == RESCUE_ROUNDS)
			r = -EIO;
	}
	pthread_mutex_unlock(&store->moving);
	return r == -EBADMSG ? -EIO : r;
}

/* --- when --- */

struct work {
	bool sync, collect, hurry;
};

/* (lock) */
static bool look_for_work(struct store_rocks *store, uint64_t now, struct work *ret)
{
	const struct segments *segments = &store->segments;
	bool waited = segments->dead_since_ns && now >= segments->dead_since_ns + DEAD_NS;

	*ret = (struct work){
		.sync = segments->dead && (waited || many_dead(store) || store->hurry),
		.collect = store->hurry || enough(store),
		.hurry = store->hurry,
	};
	if (!ret->sync && !ret->collect)
		return false;
	store->hurry = false;
	return true;
}

/* Waits for work; if the last one failed, or there was none to do, at least RETRY_NS. False: stop. */
static bool wait_for_work(struct store_rocks *store, bool rest, struct work *ret)
{
	LOCK_SCOPE(&store->segments.lock);
	struct lock *lock = &store->segments.lock;
	uint64_t now = clock_ns(), rest_until = rest ? now + RETRY_NS : 0;

	while (!store->stop && (now < rest_until || !look_for_work(store, now, ret))) {
		uint64_t dead_ns = store->segments.dead_since_ns, until = dead_ns ? dead_ns + DEAD_NS : 0;

		store->minds_dead = true;
		if (now < rest_until)
			until = rest_until;
		else
			store->minds_dead = until;
		if (until)
			lock_wait_until(lock, &store->work, until);
		else
			lock_wait(lock, &store->work);
		now = clock_ns();
	}
	store->minds_dead = true; /* it looks again before it waits */
	return !store->stop;
}

/* False: it failed, or there was nothing that it could do. */
static bool do_work(struct store_rocks *store, const struct work *work)
{
	bool tight = work->hurry || headroom_tight(&store->headroom);
	int r = work->sync ? store_rocks_sync(store) : 0;

	if (r == 0 && work->collect)
		r = collect_one(store, tight);
	if (r == 0 && work->collect && tight)
		r = store_rocks_sync(store);
	/* One segment may not have been enough for the put that was refused. */
	if (r == 0 && work->hurry && headroom_check(&store->headroom, HEADROOM_VALUES) < 0) {
		lock_get(&store->segments.lock);
		store->hurry = true;
		lock_put(&store->segments.lock);
	}
	return r == 0;
}

static void *run(void *arg)
{
	struct store_rocks *store = arg;
	struct work work;
	bool rest = false;

	pthread_setname_np(pthread_self(), "tierfs-collect");
	thread_set_slice(THREAD_SLICE_LONG_NS);
	while (wait_for_work(store, rest, &work))
		rest = !do_work(store, &work);
	return NULL;
}

int collect_start(struct store_rocks *store)
{
	int r;

	store->stop = false;
	r = pthread_create(&store->collector, NULL, run, store);
	store->collector_runs = r == 0;
	return -r;
}

void collect_stop(struct store_rocks *store)
{
	if (!store->collector_runs)
		return;
	lock_get(&store->segments.lock);
	store->stop = true;
	pthread_cond_signal(&store->work);
	lock_put(&store->segments.lock);
	pthread_join(store->collector, NULL);
	store->collector_runs = false;
}
