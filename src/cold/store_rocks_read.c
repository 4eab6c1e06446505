/* cold/store_rocks_read.c - reading values: one, or all of a range.
 *
 * A reader takes the place from the table and a reference on the segment under one lock, and reads without: the bytes
 * at a place never change, and the file stays while it is referenced. Values that were written together lie together,
 * so a walk reads as many at once as one transfer takes and passes over small gaps.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "cold/index.h"
#include "cold/store_rocks_impl.h"

/* It is cheaper to read so much than to ask again. */
#define GAP_BYTES (64U << 10)
#define GROUP_VALUES 512U

static struct store_rocks *rocks_of(struct store *store)
{
	return (struct store_rocks *)store;
}

static int failed(struct store_rocks *store, int r, struct store_key key)
{
	char doing[80];

	snprintf(doing, sizeof(doing), "cannot read block %" PRIu64 " of file %" PRIu64, key.block, key.ino);
	return store_error_note(&store->read_errors, r, store->dir, doing, NULL);
}

int store_rocks_read(struct store_rocks *store, struct segment *segment, uint32_t offset, uint32_t length, void *buffer,
		     const void **ret)
{
	uint32_t before = offset % SEGMENT_ALIGN;
	size_t want = (before + (size_t)length + SEGMENT_ALIGN - 1) & ~(size_t)(SEGMENT_ALIGN - 1), got;
	int r = segments_read(&store->segments, segment, buffer, want, offset - before, &got);

	if (r < 0)
		return r;
	if (got < before + (size_t)length)
		return -EBADMSG; /* the file is shorter than it was */
	*ret = (const char *)buffer + before;
	return 0;
}

/* --- one --- */

static int find_value(struct store_rocks *store, struct store_key key, size_t cap, struct place *ret_place,
		      struct segment **ret_segment)
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
	*ret_segment = segment;
	return 0;
}

static int read_value(struct store_rocks *store, struct segment *segment, struct place place, void *buf)
{
	void *buffer = buffers_get(&store->reads);
	const void *value;
	int r;

	if (!buffer)
		return -ENOMEM;
	if (place.length_bytes > store->value_max_bytes)
		r = -EBADMSG;
	else
		r = store_rocks_read(store, segment, place.offset_bytes, place.length_bytes, buffer, &value);
	if (r == 0)
		memcpy(buf, value, place.length_bytes);
	buffers_put(&store->reads, buffer);
	return r;
}

int store_rocks_get(struct store *base, struct store_key key, void *buf, size_t cap, size_t *ret_len)
{
	struct store_rocks *store = rocks_of(base);
	struct segment *segment = NULL;
	struct place place;
	int r = find_value(store, key, cap, &place, &segment);

	if (r == 0) {
		r = read_value(store, segment, place, buf);
		segments_unref(&store->segments, segment);
	}
	if (r == -ENOENT || r == -ENOBUFS)
		return r;
	if (r < 0)
		return failed(store, r == -EBADMSG || r == -ENOMEM ? r : -EIO, key);
	*ret_len = place.length_bytes;
	atomic_fetch_add_explicit(&store->get_blocks, 1, memory_order_relaxed);
	atomic_fetch_add_explicit(&store->get_bytes, place.length_bytes, memory_order_relaxed);
	return 0;
}

/* --- many --- */

/* Values that one read fetches. */
struct group {
	struct segment *segment;
	uint32_t offset, end;
	uint64_t value_bytes;
	size_t count;
	struct {
		uint64_t block;
		struct place place;
	} value[GROUP_VALUES];
};

static bool group_takes(const struct group *group, struct place place)
{
	uint32_t end = place.offset_bytes + place.length_bytes;

	if (!group->count)
		return place.length_bytes <= STORE_TRANSFER_BYTES - 2 * SEGMENT_ALIGN;
	return group->count < GROUP_VALUES && place.segment == group->segment->id && place.offset_bytes >= group->end &&
	       place.offset_bytes - group->end <= GAP_BYTES &&
	       end - group->offset <= STORE_TRANSFER_BYTES - 2 * SEGMENT_ALIGN;
}

static void group_add(struct group *group, uint64_t block, struct place place)
{
	if (!group->count)
		group->offset = place.offset_bytes;
	group->end = place.offset_bytes + place.length_bytes;
	group->value_bytes += place.length_bytes;
	group->value[group->count].block = block;
	group->value[group->count].place = place;
	group->count++;
}

/* Collects from *key on; *key is then where to go on. False: there is nothing more. A group without a segment holds one
 * value that is lost. */
static bool group_fill(struct store_rocks *store, struct group *group, struct store_key *key, uint64_t last)
{
	LOCK_SCOPE(&store->segments.lock);
	struct place place;

	group->count = 0;
	group->segment = NULL;
	group->offset = group->end = 0;
	group->value_bytes = 0;
	while (places_next(&store->places, key, last, &place)) {
		if (!group_takes(group, place) && group->count)
			break;
		if (!group->count) {
			group->segment = segments_find(&store->segments, place.segment);
			if (group->segment)
				segments_ref(&store->segments, group->segment);
		}
		group_add(group, key->block, place);
		key->block++;
		if (!group->segment || key->block - 1 == last)
			break;
	}
	return group->count;
}

static int deliver(const struct group *group, uint64_t ino, const char *bytes, store_walk_fn *fn, void *arg)
{
	for (size_t i = 0; i < group->count; i++) {
		struct place place = group->value[i].place;
		int r = fn(arg, (struct store_key){ ino, group->value[i].block },
			   bytes + (place.offset_bytes - group->offset), place.length_bytes);

		if (r != 0)
			return r;
	}
	return 0;
}

/* One of the group cannot be read: the others are, one by one. */
static int deliver_singly(struct store_rocks *store, const struct group *group, uint64_t ino, void *buffer,
			  store_walk_fn *fn, void *arg)
{
	for (size_t i = 0; i < group->count; i++) {
		struct place place = group->value[i].place;
		const void *value;
		int r;

		if (!group->segment || place.length_bytes > STORE_TRANSFER_BYTES - 2 * SEGMENT_ALIGN ||
		    store_rocks_read(store, group->segment, place.offset_bytes, place.length_bytes, buffer, &value) < 0)
			continue;
		r = fn(arg, (struct store_key){ ino, group->value[i].block }, value, place.length_bytes);
		if (r != 0)
			return r;
	}
	return 0;
}

static int walk_group(struct store_rocks *store, const struct group *group, uint64_t ino, void *buffer,
		      store_walk_fn *fn, void *arg)
{
	const void *bytes = NULL;
	int r = -EBADMSG;

	if (group->segment)
		r = store_rocks_read(store, group->segment, group->offset, group->end - group->offset, buffer, &bytes);
	atomic_fetch_add_explicit(&store->get_blocks, group->count, memory_order_relaxed);
	atomic_fetch_add_explicit(&store->get_bytes, group->value_bytes, memory_order_relaxed);
	return r == 0 ? deliver(group, ino, bytes, fn, arg) : deliver_singly(store, group, ino, buffer, fn, arg);
}

int store_rocks_walk(struct store *base, uint64_t ino, uint64_t first, uint64_t count, store_walk_fn *fn, void *arg)
{
	struct store_rocks *store = rocks_of(base);
	struct store_key key = { ino, first };
	uint64_t last = count - 1 > UINT64_MAX - first ? UINT64_MAX : first + (count - 1);
	void *buffer = buffers_get(&store->transfers);
	struct group group;
	int r = 0;

	if (!buffer)
		return -ENOMEM;
	while (r == 0 && count && group_fill(store, &group, &key, last)) {
		r = walk_group(store, &group, ino, buffer, fn, arg);
		if (group.segment)
			segments_unref(&store->segments, group.segment);
		if (group.value[group.count - 1].block == last)
			break;
	}
	buffers_put(&store->transfers, buffer);
	return r;
}

/* --- heads, from the database --- */

struct heads_walk {
	store_walk_fn *fn;
	void *arg;
	int r;
};

static int see_head(void *arg, const void *key, size_t key_len, const void *value, size_t value_len)
{
	static const uint8_t unknown[STORE_HEAD_BYTES];
	const struct index_record *record = value;
	struct heads_walk *walk = arg;
	struct store_key at;
	struct place place;

	if (!index_unpack(key, key_len, value, value_len, &at, &place))
		return 0;
	walk->r = walk->fn(walk->arg, at, place.segment == PLACE_NOWHERE ? unknown : record->head, place.length_bytes);
	return walk->r;
}

int store_rocks_heads(struct store *base, uint64_t ino, uint64_t first, uint64_t count, store_walk_fn *fn, void *arg)
{
	struct store_rocks *store = rocks_of(base);
	struct heads_walk walk = { fn, arg, 0 };
	uint8_t begin[INDEX_KEY_BYTES], end[INDEX_KEY_BYTES + 1] = { 0 };
	struct rocks_range range = { begin, sizeof(begin), end, sizeof(end) };
	int r;

	if (!count)
		return 0;
	index_key((struct store_key){ ino, first }, begin);
	index_key((struct store_key){ ino, count - 1 > UINT64_MAX - first ? UINT64_MAX : first + (count - 1) }, end);
	r = rocks_walk(store->rocks, ROCKS_INDEX, &range, see_head, &walk);
	if (walk.r != 0 || r >= 0)
		return walk.r;
	return failed(store, r, (struct store_key){ ino, first });
}
