/* cold/stores_copy.c - a part of a file that moves: how much of it at once, and its values. */
#include "cold/stores_copy.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"

#define WINDOW_VALUES 512U
#define WINDOW_BYTES (UINT64_C(4) << 20)
#define SPAN_FIRST UINT64_C(256) /* blocks that are looked at first, on the way down */
#define BUFFER_BYTES (UINT64_C(1) << 20)

/* ---- which window ---- */

static int count_head(void *arg, struct store_key key, const void *value, uint32_t length_bytes)
{
	struct window *window = arg;

	(void)value;
	window->values++;
	window->bytes += length_bytes;
	window->last = key.block;
	return window->values >= WINDOW_VALUES || window->bytes >= WINDOW_BYTES;
}

/* From the mark up, over holes as well. */
static int choose_up(struct window *window, uint64_t mark)
{
	int err = window->from->ops->heads(window->from, window->home->ino, mark, STORES_END - mark, count_head,
					   window);

	window->first = mark;
	if (!err) /* there are no more */
		window->last = STORES_END - 1;
	window->mark = window->last + 1;
	return err < 0 ? err : 0;
}

/* 1: there is more in it than in a window. */
static int count_below(struct window *window, uint64_t mark, uint64_t span)
{
	window->first = mark > span ? mark - span : 0;
	window->values = window->bytes = 0;
	return window->from->ops->heads(window->from, window->home->ino, window->first, mark - window->first,
					count_head, window);
}

/* Below the mark: as many blocks as have about as many values. */
static int choose_down(struct window *window, uint64_t mark)
{
	uint64_t span = SPAN_FIRST;
	int err;

	while ((err = count_below(window, mark, span)) == 0 && window->first)
		span = span > UINT64_MAX / 2 ? UINT64_MAX : 2 * span;
	while (err > 0 && span > 1) {
		span /= 2;
		err = count_below(window, mark, span);
	}
	if (err < 0)
		return err;
	window->last = mark - 1;
	window->mark = window->first;
	return 0;
}

int copy_choose(struct window *window, const struct layout *layout)
{
	return window->up ? choose_up(window, layout->mark) : choose_down(window, layout->mark);
}

/* ---- its values ---- */

struct found {
	uint64_t block;
	uint32_t length_bytes;
	uint8_t head[STORE_HEAD_BYTES];
};

struct copy {
	const struct window *window;
	struct found *found;
	size_t count, cap;
	size_t next; /* of them */
	struct store_item item[WINDOW_VALUES];
	size_t items;
	uint8_t *buffer;
	size_t used, buffer_cap;
};

static int see_head(void *arg, struct store_key key, const void *value, uint32_t length_bytes)
{
	struct copy *copy = arg;
	struct found *found;

	if (copy->count == copy->cap) {
		size_t cap = copy->cap ? 2 * copy->cap : WINDOW_VALUES;

		found = reallocarray(copy->found, cap, sizeof(*found));
		if (!found)
			return -ENOMEM;
		copy->found = found;
		copy->cap = cap;
	}
	found = &copy->found[copy->count++];
	*found = (struct found){ .block = key.block, .length_bytes = length_bytes };
	memcpy(found->head, value, length_bytes < STORE_HEAD_BYTES ? length_bytes : STORE_HEAD_BYTES);
	return 0;
}

static int flush(struct copy *copy)
{
	struct store *below = copy->window->below;
	int err = copy->items ? below->ops->put(below, STORE_MOVE, copy->item, copy->items) : 0;

	copy->items = copy->used = 0;
	return err;
}

/* Room for a value in the buffer, as the next item. */
static int reserve(struct copy *copy, uint64_t block, uint32_t length_bytes, uint8_t **ret)
{
	int err = 0;

	if (copy->items == WINDOW_VALUES || copy->used + length_bytes > copy->buffer_cap)
		err = flush(copy);
	if (!err && length_bytes > copy->buffer_cap) {
		free(copy->buffer);
		copy->buffer_cap = 0;
		copy->buffer = malloc(length_bytes);
		if (!copy->buffer)
			return -ENOMEM;
		copy->buffer_cap = length_bytes;
	}
	if (err)
		return err;
	*ret = copy->buffer + copy->used;
	copy->item[copy->items++] = (struct store_item){ { copy->window->home->ino, block }, *ret, length_bytes };
	copy->used += length_bytes;
	return 0;
}

/* One that the walk left out. If it is damaged, what is put in its place has its head, and a checksum that is wrong. */
static int copy_one(struct copy *copy, const struct found *found)
{
	struct store *from = copy->window->from;
	struct store_key key = { copy->window->home->ino, found->block };
	size_t length = 0;
	uint8_t *at;
	int err = reserve(copy, found->block, found->length_bytes, &at);

	if (err)
		return err;
	err = from->ops->get(from, STORE_MOVE, key, at, found->length_bytes, &length);
	if (err && err != -EBADMSG)
		return err;
	if (!err && length != found->length_bytes)
		return -EIO;
	if (err == -EBADMSG) {
		memset(at, 0, found->length_bytes);
		memcpy(at, found->head,
		       found->length_bytes < STORE_HEAD_BYTES ? found->length_bytes : STORE_HEAD_BYTES);
	}
	return 0;
}

static int see_value(void *arg, struct store_key key, const void *value, uint32_t length_bytes)
{
	struct copy *copy = arg;
	uint8_t *at;
	int err = 0;

	while (!err && copy->next < copy->count && copy->found[copy->next].block < key.block)
		err = copy_one(copy, &copy->found[copy->next++]);
	if (copy->next < copy->count && copy->found[copy->next].block == key.block)
		copy->next++;
	if (!err)
		err = reserve(copy, key.block, length_bytes, &at);
	if (!err)
		memcpy(at, value, length_bytes);
	return err;
}

static int copy_values(struct copy *copy)
{
	const struct window *window = copy->window;
	uint64_t ino = window->home->ino, count = stores_span(window->first, window->last);
	int err = window->from->ops->heads(window->from, ino, window->first, count, see_head, copy);

	if (!err && copy->count)
		err = window->from->ops->walk(window->from, STORE_MOVE, ino, window->first, count, see_value, copy);
	while (!err && copy->next < copy->count)
		err = copy_one(copy, &copy->found[copy->next++]);
	return err ? err : flush(copy);
}

/* To clear all of a file ends what was promised of it there (store.h), so that is said again. Who promises meanwhile
 * says so to the device itself. */
static void keep_again(const struct window *window)
{
	struct shard *shard = home_shard(window->stores, window->home->ino);
	struct store *to = window->to;
	bool kept;

	lock_get(&shard->lock);
	kept = window->home->kept || window->stores->forgetful;
	lock_put(&shard->lock);
	if (kept && to->ops->keep)
		to->ops->keep(to, window->home->ino, true);
}

/* The window is claimed: nobody changes it. What was warm there is removed first, so that what is put below counts. */
int copy_window(const struct window *window)
{
	uint64_t ino = window->home->ino, count = stores_span(window->first, window->last);
	CLEANUP_FREE struct copy *copy = calloc(1, sizeof(*copy));
	int err = window->to->ops->remove(window->to, ino, window->first, count);

	if (!copy)
		return -ENOMEM;
	keep_again(window);
	copy->window = window;
	copy->buffer = malloc(BUFFER_BYTES);
	copy->buffer_cap = copy->buffer ? BUFFER_BYTES : 0;
	if (!err)
		err = copy->buffer ? copy_values(copy) : -ENOMEM;
	free(copy->buffer);
	free(copy->found);
	return err ? err : window->below->ops->sync(window->below);
}
