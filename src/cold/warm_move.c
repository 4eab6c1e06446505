/* cold/warm_move.c - the way below: a thread that makes room, and sync.
 *
 * A segment is emptied in one of two ways. If much of it is garbage, what is left is appended to the log again: that
 * is a copy in memory, and keeps values here that fit. Else the oldest segment's values go below, in sorted batches.
 * Values that are below already (a sync put them there, or they are copies) only leave the index.
 *
 * A remove must not be undone by a value that is just on its way below. So a remove announces its range and waits for
 * a batch that has values of it; a batch waits for removes of its values, is announced, and only then looks which of
 * its values still count.
 *
 * Only the oldest segment with records of removals may go, as these are what keeps older records from counting again
 * after a kill; one that has none may go whenever the index names nothing in it.
 */
#include "cold/warm_state.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/thread.h"

#define RETRY_NS NS_PER_S
/* Copying pays up to so much that is live, in tenths. */
#define LIVE_TENTHS 6U
#define COPY_RUN 64U

/* --- removes and batches keep out of each other's way --- */

static int compare_keys(struct store_key a, struct store_key b)
{
	if (a.ino != b.ino)
		return a.ino < b.ino ? -1 : 1;
	return a.block < b.block ? -1 : a.block > b.block;
}

static int compare_items(const void *left, const void *right)
{
	return compare_keys(((const struct store_item *)left)->key, ((const struct store_item *)right)->key);
}

static bool overlap(const struct warm_removal *removal, const struct store_item *items, size_t count)
{
	for (size_t i = 0; i < count; i++)
		if (items[i].key.ino == removal->ino && items[i].key.block >= removal->first &&
		    items[i].key.block <= removal->last)
			return true;
	return false;
}

void warm_removal_begin(struct warm *warm, struct warm_removal *removal)
{
	LOCK_SCOPE(&warm->guard);

	LIST_INSERT_HEAD(&warm->removals, removal, link);
	while (overlap(removal, warm->moving, warm->moving_count))
		lock_wait(&warm->guard, &warm->guard_changed);
}

void warm_removal_end(struct warm *warm, struct warm_removal *removal)
{
	LOCK_SCOPE(&warm->guard);

	LIST_REMOVE(removal, link);
	pthread_cond_broadcast(&warm->guard_changed);
}

static bool any_removal(const struct warm *warm, const struct store_item *items, size_t count)
{
	const struct warm_removal *removal;

	LIST_FOREACH(removal, &warm->removals, link)
		if (overlap(removal, items, count))
			return true;
	return false;
}

static void announce(struct warm *warm, const struct store_item *items, size_t count)
{
	LOCK_SCOPE(&warm->guard);

	while (any_removal(warm, items, count))
		lock_wait(&warm->guard, &warm->guard_changed);
	warm->moving = items;
	warm->moving_count = count;
	pthread_cond_broadcast(&warm->guard_changed);
}

/* --- values go below --- */

static struct place place_of(const struct warm_segment *segment, uint32_t offset, const struct warm_record *record)
{
	return (struct place){ segment->slot, offset, record->length_bytes };
}

static struct place item_place(const struct warm_segment *segment, const struct warm_view *view,
			       const struct store_item *item)
{
	return (struct place){ segment->slot,
			       (uint32_t)((const uint8_t *)item->value - view->at - sizeof(struct warm_record)),
			       item->length_bytes };
}

/* From *offset on, up to cap live values of that kind. */
static size_t collect_live(struct warm *warm, const struct warm_segment *segment, const struct warm_view *view,
			   enum warm_kind kind, uint32_t *offset, struct store_item *items, size_t cap)
{
	const struct warm_record *record;
	size_t count = 0;

	while (count < cap && (record = warm_view_record(view, *offset))) {
		if (record->kind == kind && warm_index_is(warm, record->key, place_of(segment, *offset, record)))
			items[count++] = (struct store_item){ record->key, warm_record_value(record),
							      record->length_bytes };
		*offset += warm_span(record->length_bytes);
	}
	return count;
}

static int put_below(struct warm *warm, const struct warm_segment *segment, const struct warm_view *view,
		     struct store_item *items, size_t count)
{
	struct store_item batch[WARM_BATCH];
	size_t live = 0;
	int err = 0;

	qsort(items, count, sizeof(*items), compare_items);
	announce(warm, items, count);
	for (size_t i = 0; i < count; i++)
		if (warm_index_is(warm, items[i].key, item_place(segment, view, &items[i])))
			batch[live++] = items[i];
	if (live)
		err = warm->below->ops->put(warm->below, STORE_DEMOTION, batch, live);
	announce(warm, NULL, 0);
	if (!err)
		atomic_fetch_add(&warm->moved_blocks, live);
	return err;
}

/* Under mover. Everything in the segment up to upto that is live will be below. */
static int write_segment(struct warm *warm, struct warm_segment *segment, uint32_t upto)
{
	struct store_item items[WARM_BATCH];
	uint32_t offset = segment->below_bytes ? segment->below_bytes : WARM_HEADER_BYTES;
	struct warm_view view = { 0 };
	size_t count;
	int err;

	if (offset >= upto)
		return 0;
	err = warm_view_open(segment, upto, &view);
	while (!err && offset < upto) {
		count = collect_live(warm, segment, &view, WARM_VALUE, &offset, items, WARM_BATCH);
		if (count)
			err = put_below(warm, segment, &view, items, count);
		if (!err)
			segment->below_bytes = offset;
	}
	warm_view_close(&view);
	return err;
}

static struct warm_segment *next_segment(struct warm *warm, uint64_t after, uint32_t *ret_end)
{
	struct warm_segment *segment;

	pthread_mutex_lock(&warm->commit);
	TAILQ_FOREACH(segment, &warm->segments, link)
		if (segment->id > after)
			break;
	if (segment)
		*ret_end = segment->end_bytes;
	pthread_mutex_unlock(&warm->commit);
	return segment;
}

/* A value that were appended again behind the last segment meanwhile would be missed. */
static void count_sweep(struct warm *warm, int change, uint64_t *ret_last)
{
	pthread_mutex_lock(&warm->mover);
	pthread_mutex_lock(&warm->commit);
	warm->sweeps += (unsigned int)change;
	*ret_last = warm->last_id;
	pthread_mutex_unlock(&warm->commit);
	pthread_mutex_unlock(&warm->mover);
}

int warm_move_all(struct warm *warm)
{
	struct warm_segment *segment;
	uint64_t id = 0, last;
	uint32_t end;
	int err = 0;

	count_sweep(warm, 1, &last);
	while (!err && id < last) {
		pthread_mutex_lock(&warm->mover);
		segment = next_segment(warm, id, &end);
		id = segment ? segment->id : last;
		if (segment && id <= last)
			err = write_segment(warm, segment, end);
		pthread_mutex_unlock(&warm->mover);
	}
	count_sweep(warm, -1, &last);
	return err;
}

/* --- segments are emptied, under mover --- */

/* The index forgets what lies in the segment, a few at a time so that puts get in between. */
static int forget(struct warm *warm, struct warm_segment *segment, const struct warm_view *view)
{
	const struct warm_record *record;
	uint32_t offset = WARM_HEADER_BYTES;

	pthread_mutex_lock(&warm->commit);
	warm->dropping = true;
	for (unsigned int i = 1; (record = warm_view_record(view, offset)); i++) {
		if (warm_has_value(record))
			warm_index_drop(warm, record->key, place_of(segment, offset, record));
		offset += warm_span(record->length_bytes);
		if (i % COPY_RUN == 0) {
			pthread_mutex_unlock(&warm->commit);
			pthread_mutex_lock(&warm->commit);
		}
	}
	warm_segment_remove(warm, segment);
	warm->dropping = false;
	pthread_mutex_unlock(&warm->commit);
	return 0;
}

static int copy_some(struct warm *warm, const struct warm_segment *segment, const struct warm_view *view,
		     enum warm_kind kind, struct store_item *items, size_t count)
{
	size_t live = 0, done, copied;
	int err = 0;

	pthread_mutex_lock(&warm->commit);
	for (size_t i = 0; i < count; i++)
		if (warm_index_is(warm, items[i].key, item_place(segment, view, &items[i])))
			items[live++] = items[i];
	for (done = 0; !err && done < live; done += copied) {
		copied = 0;
		err = warm_log_put(warm, kind, items + done, live - done, &copied);
	}
	pthread_mutex_unlock(&warm->commit);
	atomic_fetch_add(&warm->kept_blocks, done);
	return err;
}

/* What is live of a kind is appended to the log. */
static int keep(struct warm *warm, struct warm_segment *segment, const struct warm_view *view, enum warm_kind kind)
{
	struct store_item items[COPY_RUN];
	uint32_t offset = WARM_HEADER_BYTES;
	size_t count;
	int err = 0;

	do {
		count = collect_live(warm, segment, view, kind, &offset, items, COPY_RUN);
		if (count)
			err = copy_some(warm, segment, view, kind, items, count);
	} while (!err && count == COPY_RUN);
	return err;
}

struct choice {
	struct warm_segment *segment;
	uint32_t end_bytes;
	bool copy;
};

/* Under commit. */
static bool choose(struct warm *warm, struct choice *ret)
{
	struct warm_segment *oldest = TAILQ_FIRST(&warm->segments), *segment, *best = oldest;

	if (!oldest || oldest == warm->current)
		return false;
	TAILQ_FOREACH(segment, &warm->segments, link) {
		if (segment == warm->current || (segment->removals && segment != oldest))
			continue;
		if ((uint64_t)segment->live_bytes * best->end_bytes < (uint64_t)best->live_bytes * segment->end_bytes)
			best = segment;
	}
	ret->copy = !warm->sweeps && (uint64_t)best->live_bytes * 10 <= (uint64_t)best->end_bytes * LIVE_TENTHS;
	ret->segment = ret->copy ? best : oldest;
	ret->end_bytes = ret->segment->end_bytes;
	return true;
}

static int empty_segment(struct warm *warm, const struct choice *choice)
{
	struct warm_view view = { 0 };
	int err;

	if (choice->copy && warm->sweeps) /* one began since the choice, which is to be made again */
		return 0;
	err = warm_view_open(choice->segment, choice->end_bytes, &view);
	if (err < 0)
		return err;
	if (choice->copy) {
		err = keep(warm, choice->segment, &view, WARM_VALUE);
		if (!err)
			err = keep(warm, choice->segment, &view, WARM_COPY);
	} else {
		err = write_segment(warm, choice->segment, choice->end_bytes);
	}
	if (!err)
		err = forget(warm, choice->segment, &view);
	warm_view_close(&view);
	return err;
}

/* --- the thread --- */

/* Under commit. */
static void note_move(struct warm *warm, int err)
{
	if (err < 0) {
		warm->move_error = err;
		warm->failures++;
		atomic_fetch_add(&warm->errors, 1);
		if (!warm->told)
			log_warn("warm values cannot be moved to the store (%s): they stay in DRAM; demotion stops "
				 "when that is full",
				 strerror(-err));
		pthread_cond_broadcast(&warm->room);
	} else if (warm->told) {
		log_info("warm values are moved to the store again");
	}
	warm->told = err < 0;
}

static void wait_for_work(struct warm *warm, uint64_t for_ns)
{
	uint64_t until_ns = clock_ns() + for_ns;
	struct timespec until = { (time_t)(until_ns / NS_PER_S), (long)(until_ns % NS_PER_S) };

	if (for_ns)
		pthread_cond_timedwait(&warm->work, &warm->commit, &until);
	else
		pthread_cond_wait(&warm->work, &warm->commit);
}

static void *writer_main(void *arg)
{
	struct warm *warm = arg;
	struct choice choice;
	uint64_t wanted;
	int err;

	pthread_setname_np(pthread_self(), "tierfs-warm");
	thread_set_slice(THREAD_SLICE_LONG_NS);
	pthread_mutex_lock(&warm->commit);
	while (!warm->stop) {
		if (atomic_load(&warm->total_bytes) <= warm->start_bytes || !choose(warm, &choice)) {
			wait_for_work(warm, 0);
			continue;
		}
		wanted = warm->wanted;
		pthread_mutex_unlock(&warm->commit);
		pthread_mutex_lock(&warm->mover);
		err = empty_segment(warm, &choice);
		pthread_mutex_unlock(&warm->mover);
		pthread_mutex_lock(&warm->commit);
		note_move(warm, err);
		if (err < 0 && wanted == warm->wanted && !warm->stop)
			wait_for_work(warm, RETRY_NS);
	}
	pthread_mutex_unlock(&warm->commit);
	return NULL;
}

int warm_move_wait(struct warm *warm)
{
	uint64_t failures = warm->failures;

	if (atomic_load(&warm->total_bytes) > warm->start_bytes)
		pthread_cond_signal(&warm->work);
	if (atomic_load(&warm->total_bytes) <= warm->limit_bytes)
		return 0;
	warm->wanted++;
	while (atomic_load(&warm->total_bytes) > warm->limit_bytes) {
		if (failures != warm->failures)
			return warm->move_error;
		pthread_cond_wait(&warm->room, &warm->commit);
	}
	return 0;
}

int warm_move_start(struct warm *warm)
{
	int err = -pthread_create(&warm->writer, NULL, writer_main, warm);

	warm->writer_started = !err;
	return err;
}

void warm_move_stop(struct warm *warm)
{
	if (!warm->writer_started)
		return;
	pthread_mutex_lock(&warm->commit);
	warm->stop = true;
	pthread_cond_broadcast(&warm->work);
	pthread_mutex_unlock(&warm->commit);
	pthread_join(warm->writer, NULL);
	warm->writer_started = false;
}
