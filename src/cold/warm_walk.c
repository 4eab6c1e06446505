/* cold/warm_walk.c - walks: the warm values of a range, and between them those below.
 *
 * The range is gone through in windows of so many warm values. They are looked up before below is asked, so a value
 * that moves meanwhile is seen at least once, and only once as it has one key.
 */
#include "cold/warm_state.h"

#include <errno.h>
#include <stdlib.h>

#define WINDOW 128U

struct walk {
	struct warm *warm;
	enum store_use use;
	uint64_t ino;
	store_walk_fn *fn;
	void *arg;
	bool heads;
	struct warm_found found[WINDOW];
	size_t count, next;
	uint8_t *value;
	size_t value_cap;
	int err; /* what ended it */
};

static int see_warm(struct walk *walk)
{
	const struct warm_found *found = &walk->found[walk->next++];
	uint32_t length = found->place.length_bytes;

	if (walk->heads && length > STORE_HEAD_BYTES)
		length = STORE_HEAD_BYTES;
	if (length > walk->value_cap) {
		free(walk->value);
		walk->value_cap = 0;
		walk->value = malloc(length);
		if (!walk->value)
			return -ENOMEM;
		walk->value_cap = length;
	}
	walk->err = length ? warm_segment_read(found->segment, found->place, walk->value, length) : 0;
	if (walk->err < 0)
		return walk->err;
	if (!walk->heads) {
		atomic_fetch_add(&walk->warm->hits, 1);
		atomic_fetch_add(&walk->warm->get_blocks, 1);
		atomic_fetch_add(&walk->warm->get_bytes, length);
	}
	return walk->fn(walk->arg, (struct store_key){ walk->ino, found->block }, walk->value,
			found->place.length_bytes);
}

static int see_below(void *arg, struct store_key key, const void *value, uint32_t length_bytes)
{
	struct walk *walk = arg;
	int err = 0;

	while (!err && walk->next < walk->count && walk->found[walk->next].block < key.block)
		err = see_warm(walk);
	if (err != 0)
		return err;
	if (walk->next < walk->count && walk->found[walk->next].block == key.block)
		return see_warm(walk);
	if (!walk->heads) {
		atomic_fetch_add(&walk->warm->get_blocks, 1);
		atomic_fetch_add(&walk->warm->get_bytes, length_bytes);
	}
	return walk->fn(walk->arg, key, value, length_bytes);
}

static int see_window(struct walk *walk, uint64_t first, uint64_t last)
{
	struct store *below = walk->warm->below;
	uint64_t count = last - first + 1;
	int err = walk->heads ? below->ops->heads(below, walk->ino, first, count, see_below, walk)
			      : below->ops->walk(below, walk->use, walk->ino, first, count, see_below, walk);

	while (!err && walk->next < walk->count)
		err = see_warm(walk);
	for (size_t i = 0; i < walk->count; i++)
		warm_segment_unref(walk->found[i].segment);
	return err;
}

static int walk_range(struct walk *walk, uint64_t first, uint64_t count)
{
	uint64_t last, end;
	int err = 0;

	if (!count)
		return 0;
	last = warm_last(first, count);
	for (;; first = end + 1) {
		walk->next = 0;
		walk->count = warm_index_collect(walk->warm, walk->ino, first, last, walk->found, WINDOW);
		end = walk->count == WINDOW ? walk->found[WINDOW - 1].block : last;
		err = see_window(walk, first, end);
		if (err != 0 || end == last)
			return err;
	}
}

static int walk_new(struct store *store, enum store_use use, uint64_t ino, uint64_t first, uint64_t count, bool heads,
		    store_walk_fn *fn, void *arg)
{
	struct walk walk;
	int err;

	walk.warm = warm_of(store);
	walk.use = use;
	walk.ino = ino;
	walk.fn = fn;
	walk.arg = arg;
	walk.heads = heads;
	walk.value = NULL;
	walk.value_cap = 0;
	err = walk_range(&walk, first, count);
	free(walk.value);
	return err;
}

int warm_walk(struct store *store, enum store_use use, uint64_t ino, uint64_t first, uint64_t count, store_walk_fn *fn,
	      void *arg)
{
	return walk_new(store, use, ino, first, count, false, fn, arg);
}

int warm_heads(struct store *store, uint64_t ino, uint64_t first, uint64_t count, store_walk_fn *fn, void *arg)
{
	return walk_new(store, STORE_DIRECT, ino, first, count, true, fn, arg);
}
