/* cold/store_meta.c - metadata: keys and values of the database's other family, as they are. */
#include "cold/store_meta.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "cold/records.h"
#include "cold/store_sync.h"

#define META_KEY_MAX 512
#define META_VALUE_MAX (64 * 1024)

static int failed(struct store_rocks *store, int err, const char *doing)
{
	return store_error_note(&store->errors, err, store->dir, doing, NULL);
}

static bool meta_valid(const struct meta_change *change)
{
	return change->key_len && change->key_len <= META_KEY_MAX && change->value_len <= META_VALUE_MAX;
}

static int meta_write(struct store_rocks *store, const struct rocks_change *changes, size_t count, bool durable)
{
	int err;

	pthread_mutex_lock(&store->commit);
	err = records_make_sure(store);
	for (int attempt = 0; !err || (err == -EAGAIN && attempt < 2); attempt++) {
		err = store_sync_room(store, HEADROOM_RECORDS);
		if (!err)
			err = records_write(store, changes, count, durable);
		if (!err)
			break;
	}
	pthread_mutex_unlock(&store->commit);
	return err == -EAGAIN ? store->doubtful_error : err;
}

static int put(struct store *base, const struct meta_change *changes, size_t count, bool durable)
{
	struct store_rocks *store = store_rocks_of(base);
	CLEANUP_FREE struct rocks_change *records = calloc(count ? count : 1, sizeof(*records));
	int err;

	if (!records)
		return -ENOMEM;
	for (size_t i = 0; i < count; i++) {
		if (!meta_valid(&changes[i]))
			return -EINVAL;
		records[i] = (struct rocks_change){
			.family = ROCKS_META,
			.kind = changes[i].value ? ROCKS_PUT : ROCKS_DELETE,
			.key = changes[i].key,
			.key_len = changes[i].key_len,
			.value = changes[i].value,
			.value_len = changes[i].value_len,
		};
	}
	/* The log takes along records of values that were put before: they must not name what is not there. */
	err = durable ? store_sync_values(store) : 0;
	if (!err)
		err = meta_write(store, records, count, durable);
	return err < 0 ? failed(store, err, "cannot store metadata") : 0;
}

struct prefix_walk {
	const void *prefix;
	size_t prefix_len;
	meta_fn *fn;
	void *arg;
	int err;
};

static int see_meta(void *arg, const void *key, size_t key_len, const void *value, size_t value_len)
{
	struct prefix_walk *walk = arg;

	if (key_len < walk->prefix_len || (walk->prefix_len && memcmp(key, walk->prefix, walk->prefix_len)))
		return 1;
	walk->err = walk->fn(walk->arg, key, key_len, value, value_len);
	return walk->err;
}

static int walk_prefix(struct store *base, const void *prefix, size_t prefix_len, meta_fn *fn, void *arg)
{
	struct store_rocks *store = store_rocks_of(base);
	struct prefix_walk walk = { prefix, prefix_len, fn, arg, 0 };
	struct rocks_range range = { prefix_len ? prefix : "", prefix_len, NULL, 0 };
	int err = rocks_walk(store->rocks, ROCKS_META, &range, see_meta, &walk);

	if (walk.err != 0 || err >= 0)
		return walk.err;
	return failed(store, err, "cannot read metadata");
}

const struct meta_ops store_meta_ops = { .put = put, .walk = walk_prefix };
