/* cold/warm.c - the contract of the store, over the parts named in warm_state.h.
 *
 * A get looks into one shard of the index, holds on to the segment and copies, without a lock. A put is one write of
 * memory under the commit mutex. Order of a remove: first below, then here, so that a failure below leaves the newest
 * value where it was; meanwhile nothing of the range can go below.
 */
#include "cold/warm_state.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "cold/codec.h"
#include "cold/meta.h"

#define SEGMENT_MIN_BYTES (UINT64_C(256) << 10)
#define SEGMENT_MAX_BYTES (UINT64_C(4) << 20)
#define SEGMENTS_WANTED 64U
#define VALUES_IN_SEGMENT 3U
/* Room, in segments, that the bound keeps: one for copies of what is live, one for what a put writes at once. Values
 * are moved from two more on, so that puts rarely wait. */
#define ROOM_COPIES 2U
#define ROOM_START 4U

static int note(struct warm *warm, int err)
{
	if (err == -EIO || err == -EBADMSG || err == -ENOSPC)
		atomic_fetch_add(&warm->errors, 1);
	return err;
}

static void count_get(struct warm *warm, size_t length)
{
	atomic_fetch_add_explicit(&warm->get_blocks, 1, memory_order_relaxed);
	atomic_fetch_add_explicit(&warm->get_bytes, length, memory_order_relaxed);
}

static int get(struct store *base, enum store_use use, struct store_key key, void *buf, size_t cap, size_t *ret_len)
{
	struct warm *warm = warm_of(base);
	struct warm_segment *segment;
	struct place place;
	int err;

	if (!warm_index_ref(warm, key, &place, &segment)) {
		err = warm->below->ops->get(warm->below, use, key, buf, cap, ret_len);
		if (!err)
			count_get(warm, *ret_len);
		return err;
	}
	err = place.length_bytes > cap ? -ENOBUFS : warm_segment_read(segment, place, buf, place.length_bytes);
	warm_segment_unref(segment);
	if (err < 0)
		return note(warm, err);
	*ret_len = place.length_bytes;
	count_get(warm, place.length_bytes);
	atomic_fetch_add_explicit(&warm->hits, 1, memory_order_relaxed);
	return 0;
}

static int put_some(struct warm *warm, const struct store_item *items, size_t count, size_t *ret_done)
{
	int err;

	pthread_mutex_lock(&warm->commit);
	err = warm_move_wait(warm);
	if (!err)
		err = warm_log_put(warm, WARM_VALUE, items, count, ret_done);
	pthread_mutex_unlock(&warm->commit);
	return err;
}

static int put(struct store *base, enum store_use use, const struct store_item *items, size_t count)
{
	struct warm *warm = warm_of(base);
	size_t done = 0, more;
	int err = 0;

	(void)use; /* what is warm is no I/O; whoever moves it below counts it */

	for (size_t i = 0; i < count; i++)
		if (items[i].length_bytes >= PLACE_LENGTH_LIMIT ||
		    items[i].length_bytes > WARM_RECORD_LIMIT(warm->segment_bytes) - PLACE_UNIT_BYTES)
			return -EINVAL;
	while (!err && done < count) {
		err = put_some(warm, items + done, count - done, &more);
		if (err < 0)
			break;
		for (size_t i = done; i < done + more; i++)
			atomic_fetch_add_explicit(&warm->put_bytes, items[i].length_bytes, memory_order_relaxed);
		atomic_fetch_add_explicit(&warm->put_blocks, more, memory_order_relaxed);
		done += more;
	}
	if (count)
		atomic_store_explicit(&warm->full, err == -ENOSPC, memory_order_relaxed);
	return note(warm, err);
}

/* Under commit: appends a value of the older half of the log once more, and keeps its kind (value or copy). */
static void renew_value(struct warm *warm, struct store_key key, struct place place, const struct warm_segment *segment)
{
	uint32_t bytes = (uint32_t)sizeof(struct warm_record) + place.length_bytes;
	CLEANUP_FREE struct warm_record *record = malloc(bytes);
	struct store_item item = { key, record + 1, place.length_bytes };
	uint64_t half = (warm->last_id - TAILQ_FIRST(&warm->segments)->id) / 2;
	size_t done;

	if (warm->sweeps || segment->id + half >= warm->last_id || atomic_load(&warm->total_bytes) > warm->limit_bytes)
		return;
	if (record && pread(segment->fd, record, bytes, place.offset_bytes) == (ssize_t)bytes && warm_has_value(record))
		warm_log_put(warm, record->kind, &item, 1, &done);
}

static bool renew(struct store *base, struct store_key key)
{
	struct warm *warm = warm_of(base);
	struct warm_segment *segment;
	struct place place;
	bool near;

	pthread_mutex_lock(&warm->commit);
	near = warm_index_ref(warm, key, &place, &segment);
	if (near) {
		renew_value(warm, key, place, segment);
		warm_segment_unref(segment);
	}
	pthread_mutex_unlock(&warm->commit);
	return near;
}

static void put_copies(struct store *base, const struct store_item *items, size_t count)
{
	struct warm *warm = warm_of(base);
	size_t done;

	pthread_mutex_lock(&warm->commit);
	for (size_t i = 0; i < count; i++) {
		if (atomic_load(&warm->total_bytes) > warm->start_bytes)
			pthread_cond_signal(&warm->work);
		if (atomic_load(&warm->total_bytes) <= warm->limit_bytes &&
		    !warm_index_any(warm, items[i].key.ino, items[i].key.block, items[i].key.block) &&
		    items[i].length_bytes < PLACE_LENGTH_LIMIT)
			warm_log_put(warm, WARM_COPY, &items[i], 1, &done);
	}
	pthread_mutex_unlock(&warm->commit);
}

/* Whether records of the range may lie in the log. Under commit. */
static bool may_have(struct warm *warm, const struct warm_removal *removal)
{
	return warm->dropping || warm_index_any(warm, removal->ino, removal->first, removal->last);
}

static int remove_range(struct store *base, uint64_t ino, uint64_t first, uint64_t count)
{
	struct warm *warm = warm_of(base);
	struct warm_removal removal = { .ino = ino, .first = first };
	int err;

	if (!count)
		return 0;
	removal.last = warm_last(first, count);
	warm_removal_begin(warm, &removal);
	err = warm->below->ops->remove(warm->below, ino, first, count);
	if (!err) {
		pthread_mutex_lock(&warm->commit);
		if (may_have(warm, &removal))
			err = note(warm, warm_log_remove(warm, ino, first, count));
		pthread_mutex_unlock(&warm->commit);
	}
	warm_removal_end(warm, &removal);
	return err;
}

/* Values are shared where they can be: below. So all go there first, as for a sync; what lies here of `from` stays. */
static int share(struct store *base, const struct store_share *share)
{
	struct warm *warm = warm_of(base);
	int err = warm_move_all(warm);

	return err < 0 ? err : warm->below->ops->share(warm->below, share);
}

static uint64_t shared_bytes(struct store *base, uint64_t ino)
{
	struct store *below = warm_of(base)->below;

	return below->ops->shared_bytes(below, ino);
}

static int meta_put(struct store *base, const struct meta_change *changes, size_t count, bool durable)
{
	struct store *below = warm_of(base)->below;

	return below->meta->put(below, changes, count, durable);
}

static int meta_walk(struct store *base, const void *prefix, size_t prefix_len, meta_fn *fn, void *arg)
{
	struct store *below = warm_of(base)->below;

	return below->meta->walk(below, prefix, prefix_len, fn, arg);
}

static int sync_all(struct store *base)
{
	struct warm *warm = warm_of(base);
	int err = warm_move_all(warm);

	return err < 0 ? err : warm->below->ops->sync(warm->below);
}

static void figures(struct store *base, struct store_figures *ret)
{
	struct warm *warm = warm_of(base);
	uint64_t count, memory_bytes;

	warm->below->ops->figures(warm->below, ret);
	warm_index_figures(warm, &count, &memory_bytes);
	ret->memory_bytes += sizeof(*warm) + memory_bytes + warm->slots * sizeof(struct warm_segment *);
	ret->put_blocks = atomic_load(&warm->put_blocks);
	ret->put_bytes = atomic_load(&warm->put_bytes);
	ret->get_blocks = atomic_load(&warm->get_blocks);
	ret->get_bytes = atomic_load(&warm->get_bytes);
	ret->errors += atomic_load(&warm->errors);
	ret->full = ret->full || atomic_load(&warm->full);
	ret->warm_limit_bytes = warm->bytes;
	ret->warm_bytes = atomic_load(&warm->total_bytes);
	ret->warm_blocks = count;
	ret->warm_hits = atomic_load(&warm->hits);
	ret->warm_moved_blocks = atomic_load(&warm->moved_blocks);
}

/* Without a change of what lies anywhere. */
static void let_go(struct warm *warm)
{
	struct warm_segment *segment;

	warm_move_stop(warm);
	while ((segment = TAILQ_FIRST(&warm->segments))) {
		TAILQ_REMOVE(&warm->segments, segment, link);
		warm_segment_unref(segment);
	}
	warm_index_fini(warm);
	free(warm->slot);
	lock_fini(&warm->guard);
	pthread_cond_destroy(&warm->guard_changed);
	pthread_cond_destroy(&warm->room);
	pthread_cond_destroy(&warm->work);
	pthread_mutex_destroy(&warm->mover);
	pthread_mutex_destroy(&warm->commit);
	free(warm);
}

/* Everything goes below; only then the files go. */
static int leave(struct warm *warm)
{
	struct warm_segment *segment;
	int err;

	warm_move_stop(warm);
	err = sync_all(&warm->base);
	if (err < 0)
		return err;
	while ((segment = TAILQ_FIRST(&warm->segments)))
		warm_segment_remove(warm, segment);
	return 0;
}

static void keep_below(struct store *base, uint64_t ino, bool keep)
{
	struct store *below = warm_of(base)->below;

	if (below->ops->keep)
		below->ops->keep(below, ino, keep);
}

static void free_store(struct store *base)
{
	struct warm *warm = warm_of(base);
	struct store *below;
	int err;

	if (!warm)
		return;
	below = warm->below;
	err = leave(warm);
	if (err < 0)
		log_error("warm values cannot be moved to the store (%s): they stay in DRAM for the next tierfs on "
			  "this pool",
			  strerror(-err));
	let_go(warm);
	below->ops->free(below);
}

static const struct meta_ops warm_meta_ops = { .put = meta_put, .walk = meta_walk };

static const struct store_ops warm_ops = {
	.get = get,
	.walk = warm_walk,
	.heads = warm_heads,
	.put = put,
	.renew = renew,
	.put_copies = put_copies,
	.remove = remove_range,
	.share = share,
	.shared_bytes = shared_bytes,
	.keep = keep_below,
	.sync = sync_all,
	.figures = figures,
	.free = free_store,
};

static uint32_t choose_segment(uint64_t bytes, uint64_t value_bytes)
{
	uint64_t segment = SEGMENT_MIN_BYTES;

	while (segment < SEGMENT_MAX_BYTES && segment < bytes / SEGMENTS_WANTED)
		segment *= 2;
	while (segment < VALUES_IN_SEGMENT * value_bytes)
		segment *= 2;
	return (uint32_t)segment;
}

/* A store without its thread. */
static int open_parts(const struct store_warm_config *config, struct warm **ret)
{
	struct warm *warm;
	int err;

	if (config->bytes < WARM_BYTES_MIN)
		return -EINVAL;
	warm = aligned_alloc(_Alignof(struct warm), sizeof(*warm));
	if (!warm)
		return -ENOMEM;
	memset(warm, 0, sizeof(*warm));
	warm->base.ops = &warm_ops;
	warm->base.meta = &warm_meta_ops;
	warm->below = config->below;
	warm->dir_fd = config->dir_fd;
	warm->bytes = config->bytes;
	warm->segment_bytes = choose_segment(config->bytes, codec_bound(config->block_bytes));
	warm->start_bytes = config->bytes - (uint64_t)ROOM_START * warm->segment_bytes;
	warm->limit_bytes = config->bytes - (uint64_t)ROOM_COPIES * warm->segment_bytes;
	keep_below(&warm->base, 0, true); /* what is found moves before anybody says whose it is */
	TAILQ_INIT(&warm->segments);
	LIST_INIT(&warm->removals);
	pthread_mutex_init(&warm->commit, NULL);
	pthread_mutex_init(&warm->mover, NULL);
	lock_cond_init(&warm->room);
	lock_cond_init(&warm->work);
	lock_cond_init(&warm->guard_changed);
	lock_init(&warm->guard, LOCK_RANK_STORE);
	warm_index_init(warm);
	err = warm_load(warm);
	if (err < 0) {
		let_go(warm);
		return err;
	}
	*ret = warm;
	return 0;
}

int store_warm_open(const struct store_warm_config *config, struct store **ret)
{
	struct warm *warm;
	int err = open_parts(config, &warm);

	if (err < 0)
		return err;
	err = warm_move_start(warm);
	if (err < 0) {
		let_go(warm);
		return err;
	}
	*ret = &warm->base;
	return 0;
}

int store_warm_drain(struct store *below, int dir_fd, uint32_t block_bytes)
{
	struct store_warm_config config = {
		.below = below,
		.dir_fd = dir_fd,
		.bytes = WARM_BYTES_MIN,
		.block_bytes = block_bytes,
	};
	struct warm *warm;
	int err = open_parts(&config, &warm);

	if (err < 0)
		return err;
	err = leave(warm);
	let_go(warm);
	return err;
}
