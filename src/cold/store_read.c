/* cold/store_read.c - reading values: one, or all of a range.
 *
 * A reader takes the place from the table and a reference on the segment under one lock, and reads without: the bytes
 * at a place never change, and the file stays while it is referenced. Values that were written together lie together,
 * so a walk reads as many at once as one transfer takes and passes over small gaps.
 */
#include "cold/store_read.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "cold/index.h"
#include "cold/owners.h"

/* It is cheaper to read so much than to ask again. */
#define GAP_BYTES (16U << 10)
#define BATCH_VALUES 512U

static int failed(struct store_rocks *store, int err, struct store_key key)
{
	char doing[80];

	snprintf(doing, sizeof(doing), "cannot read block %" PRIu64 " of file %" PRIu64, key.block, key.ino);
	return store_error_note(&store->read_errors, err, store->dir, doing, NULL);
}

int store_read_at(struct store_rocks *store, enum store_use use, struct segment *segment, uint32_t offset,
		  uint32_t length, void *buffer, void **ret)
{
	uint32_t before = offset % SEGMENT_ALIGN;
	size_t want = (before + (size_t)length + SEGMENT_ALIGN - 1) & ~(size_t)(SEGMENT_ALIGN - 1), got;
	int err = segments_read(&store->segments, use, segment, buffer, want, offset - before, &got);

	if (err < 0)
		return err;
	if (got < before + (size_t)length)
		return -EBADMSG; /* the file is shorter than it was */
	*ret = (char *)buffer + before;
	return 0;
}

/* --- one --- */

static int find_value(struct store_rocks *store, struct store_key key, size_t cap, struct place *ret_place,
		      uint64_t *ret_origin, struct segment **ret_segment)
{
	LOCK_SCOPE(&store->segments.lock);
	struct segment *segment;

	if (!places_get(&store->places, key, ret_place))
		return -ENOENT;
	if (ret_place->length_bytes > cap)
		return -ENOBUFS;
	segment = segments_find(&store->segments, ret_place->segment);
	if (!segment)
		return -EBADMSG;
	segments_ref(&store->segments, segment);
	*ret_origin = owners_origin(store, key, *ret_place);
	*ret_segment = segment;
	return 0;
}

static int read_value(struct store_rocks *store, enum store_use use, struct segment *segment, struct place place,
		      void *buf)
{
	void *buffer = buffers_get(&store->reads), *value;
	int err;

	if (!buffer)
		return -ENOMEM;
	if (place.length_bytes > store->value_max_bytes)
		err = -EBADMSG;
	else
		err = store_read_at(store, use, segment, place.offset_bytes, place.length_bytes, buffer, &value);
	if (!err)
		memcpy(buf, value, place.length_bytes);
	buffers_put(&store->reads, buffer);
	return err;
}

int store_read_get(struct store *base, enum store_use use, struct store_key key, void *buf, size_t cap, size_t *ret_len)
{
	struct store_rocks *store = store_rocks_of(base);
	struct segment *segment = NULL;
	struct place place;
	uint64_t origin;
	int err = find_value(store, key, cap, &place, &origin, &segment);

	if (!err) {
		err = read_value(store, use, segment, place, buf);
		segments_unref(&store->segments, segment);
	}
	if (!err)
		owners_rekey(buf, place.length_bytes, origin, key);
	if (err == -ENOENT || err == -ENOBUFS)
		return err;
	if (err < 0)
		return failed(store, err == -EBADMSG || err == -ENOMEM ? err : -EIO, key);
	*ret_len = place.length_bytes;
	atomic_fetch_add_explicit(&store->get_blocks, 1, memory_order_relaxed);
	atomic_fetch_add_explicit(&store->get_bytes, place.length_bytes, memory_order_relaxed);
	return 0;
}

/* --- many --- */

/* Neighbours in a segment: one read. */
struct span {
	struct segment *segment; /* NULL: there is none, its values are lost */
	uint32_t begin, end;     /* in the segment; begin is aligned */
	size_t at;               /* in the buffer */
};

struct batch {
	enum store_use use;
	struct span span[SEGMENT_READS_MAX];
	struct segment_read read[SEGMENT_READS_MAX];
	size_t spans;
	size_t values;
	struct {
		uint64_t block, origin;
		struct place place;
		size_t span;
	} value[BATCH_VALUES];
};

static uint32_t align_down(uint32_t bytes)
{
	return bytes & ~(SEGMENT_ALIGN - 1);
}

static size_t span_bytes(uint32_t begin, uint32_t end)
{
	return ((size_t)end - begin + SEGMENT_ALIGN - 1) & ~(size_t)(SEGMENT_ALIGN - 1);
}

static bool span_takes(const struct span *span, struct place place)
{
	uint32_t end = place.offset_bytes + place.length_bytes;

	return span->segment && span->segment->id == place.segment && place.offset_bytes >= span->end &&
	       place.offset_bytes - span->end <= GAP_BYTES &&
	       span->at + span_bytes(span->begin, end) <= STORE_TRANSFER_BYTES;
}

/* (lock) A new span behind the last. False: no room. */
static bool add_span(struct store_rocks *store, struct batch *batch, struct place place)
{
	const struct span *last = batch->spans ? &batch->span[batch->spans - 1] : NULL;
	size_t at = last ? last->at + span_bytes(last->begin, last->end) : 0;
	struct span *span = &batch->span[batch->spans];
	uint32_t begin = align_down(place.offset_bytes);

	if (batch->spans == SEGMENT_READS_MAX)
		return false;
	*span = (struct span){ .begin = begin, .end = begin, .at = at };
	if (place.length_bytes <= store->value_max_bytes)
		span->segment = segments_find(&store->segments, place.segment);
	if (span->segment) {
		if (at + span_bytes(begin, place.offset_bytes + place.length_bytes) > STORE_TRANSFER_BYTES)
			return false;
		segments_ref(&store->segments, span->segment);
	}
	batch->spans++;
	return true;
}

/* Collects from *key on; *key is then where to go on. False: there is nothing more. */
static bool fill_batch(struct store_rocks *store, struct batch *batch, struct store_key *key, uint64_t last)
{
	LOCK_SCOPE(&store->segments.lock);
	struct place place;

	batch->spans = batch->values = 0;
	while (batch->values < BATCH_VALUES && places_next(&store->places, key, last, &place)) {
		struct span *span = batch->spans ? &batch->span[batch->spans - 1] : NULL;

		if (!span || !span_takes(span, place)) {
			if (!add_span(store, batch, place))
				break;
			span = &batch->span[batch->spans - 1];
		}
		if (span->segment)
			span->end = place.offset_bytes + place.length_bytes;
		batch->value[batch->values].block = key->block;
		batch->value[batch->values].origin = owners_origin(store, *key, place);
		batch->value[batch->values].place = place;
		batch->value[batch->values].span = batch->spans - 1;
		batch->values++;
		if (key->block == last)
			break;
		key->block++;
	}
	return batch->values;
}

static void read_batch(struct store_rocks *store, struct batch *batch, char *buffer)
{
	struct segment_read *read[SEGMENT_READS_MAX];
	size_t count = 0;

	for (size_t i = 0; i < batch->spans; i++) {
		const struct span *span = &batch->span[i];

		batch->read[i] = (struct segment_read){
			.segment = span->segment,
			.buf = buffer + span->at,
			.length = span_bytes(span->begin, span->end),
			.offset = span->begin,
			.err = -EBADMSG,
		};
		if (span->segment)
			read[count++] = &batch->read[i];
	}
	segments_read_many(&store->segments, batch->use, read, count);
}

static void unref_batch(struct store_rocks *store, struct batch *batch)
{
	for (size_t i = 0; i < batch->spans; i++) {
		if (batch->span[i].segment)
			segments_unref(&store->segments, batch->span[i].segment);
	}
}

/* The value in what was read; NULL: it cannot be read, also not alone. */
static void *find_in_batch(struct store_rocks *store, const struct batch *batch, size_t i, void *single)
{
	struct place place = batch->value[i].place;
	const struct segment_read *read = &batch->read[batch->value[i].span];
	size_t at = place.offset_bytes - read->offset;
	void *value;

	if (!read->segment)
		return NULL;
	if (read->err == 0 && at + place.length_bytes <= read->got)
		return (char *)read->buf + at;
	if (store_read_at(store, batch->use, read->segment, place.offset_bytes, place.length_bytes, single, &value) < 0)
		return NULL;
	return value;
}

static int deliver(struct store_rocks *store, const struct batch *batch, uint64_t ino, store_walk_fn *fn, void *arg)
{
	void *single = buffers_get(&store->reads);
	uint64_t bytes = 0;
	int err = single ? 0 : -ENOMEM;

	for (size_t i = 0; !err && i < batch->values; i++) {
		struct store_key key = { ino, batch->value[i].block };
		uint32_t length = batch->value[i].place.length_bytes;
		void *value = find_in_batch(store, batch, i, single);

		bytes += length;
		if (!value)
			continue;
		owners_rekey(value, length, batch->value[i].origin, key);
		err = fn(arg, key, value, length);
	}
	buffers_put(&store->reads, single);
	atomic_fetch_add_explicit(&store->get_blocks, batch->values, memory_order_relaxed);
	atomic_fetch_add_explicit(&store->get_bytes, bytes, memory_order_relaxed);
	return err;
}

static int walk_from(struct store_rocks *store, struct store_key key, uint64_t last, char *buffer, struct batch *batch,
		     store_walk_fn *fn, void *arg)
{
	int err = 0;

	while (!err && fill_batch(store, batch, &key, last)) {
		read_batch(store, batch, buffer);
		err = deliver(store, batch, key.ino, fn, arg);
		unref_batch(store, batch);
		if (batch->value[batch->values - 1].block == last)
			break;
	}
	return err;
}

int store_read_walk(struct store *base, enum store_use use, uint64_t ino, uint64_t first, uint64_t count,
		    store_walk_fn *fn, void *arg)
{
	struct store_rocks *store = store_rocks_of(base);
	struct store_key key = { ino, first };
	uint64_t last = count - 1 > UINT64_MAX - first ? UINT64_MAX : first + (count - 1);
	char *buffer = buffers_get(&store->transfers);
	CLEANUP_FREE struct batch *batch = malloc(sizeof(*batch));
	int err = buffer && batch ? 0 : -ENOMEM;

	if (batch)
		batch->use = use;
	if (!err && count)
		err = walk_from(store, key, last, buffer, batch, fn, arg);
	buffers_put(&store->transfers, buffer);
	return err;
}

/* --- heads, from the database --- */

struct heads_walk {
	store_walk_fn *fn;
	void *arg;
	int err;
};

static int see_head(void *arg, const void *key, size_t key_len, const void *value, size_t value_len)
{
	uint8_t head[STORE_HEAD_BYTES];
	struct heads_walk *walk = arg;
	struct store_key at;
	struct place place;
	uint64_t origin;

	if (!index_unpack(key, key_len, value, value_len, &at, &place, &origin))
		return 0;
	index_head(value, value_len, head);
	walk->err = walk->fn(walk->arg, at, head, place.length_bytes);
	return walk->err;
}

int store_read_heads(struct store *base, uint64_t ino, uint64_t first, uint64_t count, store_walk_fn *fn, void *arg)
{
	struct store_rocks *store = store_rocks_of(base);
	struct heads_walk walk = { fn, arg, 0 };
	uint8_t begin[INDEX_KEY_BYTES], end[INDEX_KEY_BYTES + 1] = { 0 };
	struct rocks_range range = { begin, sizeof(begin), end, sizeof(end) };
	int err;

	if (!count)
		return 0;
	index_key((struct store_key){ ino, first }, begin);
	index_key((struct store_key){ ino, count - 1 > UINT64_MAX - first ? UINT64_MAX : first + (count - 1) }, end);
	err = rocks_walk(store->rocks, ROCKS_INDEX, &range, see_head, &walk);
	if (walk.err != 0 || err >= 0)
		return walk.err;
	return failed(store, err, (struct store_key){ ino, first });
}
