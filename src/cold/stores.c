/* cold/stores.c - the contract of the store over several devices (stores.h). Every call goes to the device that has
 * what it is about; files are moved in stores_move.c.
 */
#include "cold/stores.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "cold/stores_state.h"

/* ---- blocks ---- */

static int stores_get(struct store *base, enum store_use use, struct store_key key, void *buf, size_t cap,
		      size_t *ret_len)
{
	struct stores *stores = stores_of(base);
	struct store *device;
	struct visit visit;
	int err;

	home_read(stores, key.ino, &visit);
	device = device_here(stores, layout_device(&visit.layout, key.block));
	err = device ? device->ops->get(device, use, key, buf, cap, ret_len) : -EIO;
	home_leave(stores, key.ino, &visit);
	return err;
}

struct range {
	enum store_use use;
	bool heads;
	uint64_t ino;
	store_walk_fn *fn;
	void *arg;
};

static int walk_part(struct stores *stores, const struct range *range, const struct part *part)
{
	struct store *device = device_here(stores, part->device);

	if (!device)
		return -EIO;
	return range->heads ? device->ops->heads(device, range->ino, part->first, part->count, range->fn, range->arg)
			    : device->ops->walk(device, range->use, range->ino, part->first, part->count, range->fn,
						range->arg);
}

static int walk_range(struct stores *stores, const struct range *range, uint64_t first, uint64_t count)
{
	struct part part[2];
	struct visit visit;
	size_t parts;
	int err = 0;

	if (!count)
		return 0;
	home_read(stores, range->ino, &visit);
	parts = layout_parts(&visit.layout, first, stores_last(first, count), part);
	for (size_t i = 0; i < parts && !err; i++)
		err = walk_part(stores, range, &part[i]);
	home_leave(stores, range->ino, &visit);
	return err;
}

static int stores_walk(struct store *base, enum store_use use, uint64_t ino, uint64_t first, uint64_t count,
		       store_walk_fn *fn, void *arg)
{
	struct range range = { .use = use, .ino = ino, .fn = fn, .arg = arg };

	return walk_range(stores_of(base), &range, first, count);
}

static int stores_heads(struct store *base, uint64_t ino, uint64_t first, uint64_t count, store_walk_fn *fn, void *arg)
{
	struct range range = { .heads = true, .ino = ino, .fn = fn, .arg = arg };

	return walk_range(stores_of(base), &range, first, count);
}

/* Items of one file, from the first on. */
static size_t run_of(const struct store_item *items, size_t count)
{
	size_t run = 1;

	while (run < count && items[run].key.ino == items[0].key.ino)
		run++;
	return run;
}

/* From the first on, those for one device. */
static size_t alike(const struct layout *layout, const struct store_item *items, size_t count)
{
	unsigned int device = layout_device(layout, items[0].key.block);
	size_t run = 1;

	while (run < count && layout_device(layout, items[run].key.block) == device)
		run++;
	return run;
}

static int put_run(struct stores *stores, enum store_use use, const struct layout *layout,
		   const struct store_item *items, size_t count)
{
	int err = 0;

	for (size_t done = 0, run; done < count && !err; done += run) {
		struct store *device = device_here(stores, layout_device(layout, items[done].key.block));

		run = alike(layout, items + done, count - done);
		err = device ? device->ops->put(device, use, items + done, run) : -EIO;
	}
	return err;
}

static int stores_put(struct store *base, enum store_use use, const struct store_item *items, size_t count)
{
	struct stores *stores = stores_of(base);
	int err = 0;

	for (size_t done = 0, run; done < count && !err; done += run) {
		struct visit visit;

		run = run_of(items + done, count - done);
		err = home_write_items(stores, items + done, run, &visit);
		if (err)
			break;
		err = put_run(stores, use, &visit.layout, items + done, run);
		home_leave(stores, items[done].key.ino, &visit);
	}
	return err;
}

/* All of the file is about to be removed, so a device that it comes to is not told. Who promises meanwhile says it
 * again, and that stays: so this is done before, and not after. */
static void end_promise(struct stores *stores, uint64_t ino)
{
	struct shard *shard = home_shard(stores, ino);
	struct home *home;

	LOCK_SCOPE(&shard->lock);
	home = home_find(shard, ino);
	if (home)
		home->kept = false;
}

static int stores_remove(struct store *base, uint64_t ino, uint64_t first, uint64_t count)
{
	struct stores *stores = stores_of(base);
	uint64_t last = count ? stores_last(first, count) : first;
	struct part part[2];
	struct visit visit;
	size_t parts;
	int err;

	if (!count)
		return 0;
	err = home_write(stores, ino, first, last, &visit);
	if (err)
		return err;
	if (!first && count == UINT64_MAX)
		end_promise(stores, ino);
	parts = layout_parts(&visit.layout, first, last, part);
	/* All or nothing, as far as it can be known beforehand. */
	for (size_t i = 0; i < parts && !err; i++)
		err = device_here(stores, part[i].device) ? 0 : -EIO;
	for (size_t i = 0; i < parts && !err; i++) {
		struct store *device = device_here(stores, part[i].device);

		err = device->ops->remove(device, ino, part[i].first, part[i].count);
	}
	home_leave(stores, ino, &visit);
	return err;
}

static int share_parts(struct stores *stores, const struct store_share *share, const struct layout *layout)
{
	struct store_share piece = *share;
	struct part part[2];
	size_t parts = layout_parts(layout, share->first, stores_last(share->first, share->count), part);
	int err = 0;

	for (size_t i = 0; i < parts && !err; i++) {
		struct store *device = device_here(stores, part[i].device);

		piece.first = part[i].first;
		piece.count = part[i].count;
		err = device ? device->ops->share(device, &piece) : -EIO;
	}
	return err;
}

/* Both are at one place, by stores_clone_begin(). */
static int stores_share(struct store *base, const struct store_share *share)
{
	struct stores *stores = stores_of(base);
	struct visit from, to;
	int err;

	if (!share->count)
		return 0;
	home_read(stores, share->from, &from);
	err = home_write(stores, share->to, share->first, stores_last(share->first, share->count), &to);
	if (!err) {
		err = layout_same(&from.layout, &to.layout) ? share_parts(stores, share, &from.layout) : -EXDEV;
		home_leave(stores, share->to, &to);
	}
	home_leave(stores, share->from, &from);
	return err;
}

static uint64_t stores_shared_bytes(struct store *base, uint64_t ino)
{
	struct stores *stores = stores_of(base);
	struct store *device;
	uint64_t bytes = 0;
	struct visit visit;

	home_read(stores, ino, &visit);
	device = stores->device[visit.layout.low].store;
	if (device)
		bytes = device->ops->shared_bytes(device, ino);
	device = visit.layout.low == visit.layout.high ? NULL : stores->device[visit.layout.high].store;
	if (device)
		bytes += device->ops->shared_bytes(device, ino);
	home_leave(stores, ino, &visit);
	return bytes;
}

static bool stores_renew(struct store *base, struct store_key key)
{
	struct stores *stores = stores_of(base);
	struct store *device;
	struct visit visit;
	bool near;

	home_read(stores, key.ino, &visit);
	device = stores->device[layout_device(&visit.layout, key.block)].store;
	near = !device || !device->ops->renew || device->ops->renew(device, key);
	home_leave(stores, key.ino, &visit);
	return near;
}

/* They have the content that is there, so that a step does not mind them: it removes them with the values. */
static void stores_put_copies(struct store *base, const struct store_item *items, size_t count)
{
	struct stores *stores = stores_of(base);

	for (size_t done = 0, run, next; done < count; done += run) {
		struct visit visit;

		run = run_of(items + done, count - done);
		home_read(stores, items[done].key.ino, &visit);
		for (size_t i = done; i < done + run; i += next) {
			struct store *device = stores->device[layout_device(&visit.layout, items[i].key.block)].store;

			next = alike(&visit.layout, items + i, done + run - i);
			if (device && device->ops->put_copies)
				device->ops->put_copies(device, items + i, next);
		}
		home_leave(stores, items[done].key.ino, &visit);
	}
}

/* All are told: the file may come. One that comes later, when they have forgotten it, is told of once more. */
static void stores_keep(struct store *base, uint64_t ino, bool keep)
{
	struct stores *stores = stores_of(base);
	struct shard *shard = home_shard(stores, ino);
	struct home *home;

	if (ino && stores->count > 1) {
		LOCK_SCOPE(&shard->lock);
		home = keep ? home_make(stores, ino) : home_find(shard, ino);
		if (home)
			home->kept = keep;
		else if (keep)
			stores->forgetful = true;
	}
	for (unsigned int i = 0; i < stores->count; i++) {
		struct store *device = stores->device[i].store;

		if (device && device->ops->keep)
			device->ops->keep(device, ino, keep);
	}
}

/* ---- durable ---- */

static int sync_device(struct stores *stores, unsigned int index)
{
	struct store *device = stores->device[index].store;

	return device ? device->ops->sync(device) : -EIO;
}

static int stores_sync(struct store *base)
{
	struct stores *stores = stores_of(base);
	int err = 0;

	for (unsigned int i = stores->count; i-- > 0;) {
		int one = stores->device[i].store ? sync_device(stores, i) : 0;

		err = err ? err : one;
	}
	return err;
}

/* The values first, then the records. A device that has no part of it needs not be here. */
static int stores_sync_file(struct store *base, uint64_t ino)
{
	struct stores *stores = stores_of(base);
	struct part part[2];
	struct visit visit;
	size_t parts;
	int err = 0;

	home_read(stores, ino, &visit);
	parts = layout_parts(&visit.layout, 0, STORES_END - 1, part);
	for (size_t i = 0; i < parts && !err; i++)
		err = part[i].device ? sync_device(stores, part[i].device) : 0;
	home_leave(stores, ino, &visit);
	return err ? err : sync_device(stores, 0);
}

static void stores_hold(struct store *base, uint64_t ino, struct store_hold *ret)
{
	home_hold(stores_of(base), ino, ret);
}

static void stores_let_go(struct store *base, const struct store_hold *hold)
{
	home_let_go(stores_of(base), hold);
}

static unsigned int stores_devices(struct store *base)
{
	return stores_of(base)->count;
}

/* ---- figures and metadata ---- */

static void add_figures(struct store_figures *sum, const struct store_figures *one)
{
	sum->disk_bytes += one->disk_bytes;
	sum->memory_bytes += one->memory_bytes;
	sum->put_blocks += one->put_blocks;
	sum->put_bytes += one->put_bytes;
	sum->get_blocks += one->get_blocks;
	sum->get_bytes += one->get_bytes;
	sum->errors += one->errors;
	sum->full |= one->full;
	for (int use = 0; use < STORE_USES; use++)
		store_traffic_add(&sum->traffic[use], &one->traffic[use]);
	sum->index_written_bytes += one->index_written_bytes;
	sum->warm_limit_bytes += one->warm_limit_bytes;
	sum->warm_bytes += one->warm_bytes;
	sum->warm_blocks += one->warm_blocks;
	sum->warm_hits += one->warm_hits;
	sum->warm_moved_blocks += one->warm_moved_blocks;
}

static void stores_sum(struct store *base, struct store_figures *ret)
{
	struct stores *stores = stores_of(base);

	*ret = (struct store_figures){ 0 };
	for (unsigned int i = 0; i < stores->count; i++) {
		struct store_figures one;

		stores_figures(base, i, &one);
		add_figures(ret, &one);
	}
}

static int stores_meta_put(struct store *base, const struct meta_change *changes, size_t count, bool durable)
{
	struct store *first = stores_of(base)->device[0].store;

	return first->meta->put(first, changes, count, durable);
}

static int stores_meta_walk(struct store *base, const void *prefix, size_t prefix_len, meta_fn *fn, void *arg)
{
	struct store *first = stores_of(base)->device[0].store;

	return first->meta->walk(first, prefix, prefix_len, fn, arg);
}

/* ---- life ---- */

static void discard(struct stores *stores)
{
	home_fini(stores);
	free(stores);
}

static void stores_free(struct store *base)
{
	struct stores *stores = base ? stores_of(base) : NULL;

	if (!stores)
		return;
	stores_stop(base);
	/* The one with the records last. */
	for (unsigned int i = stores->count; i-- > 0;)
		if (stores->device[i].store)
			stores->device[i].store->ops->free(stores->device[i].store);
	discard(stores);
}

static const struct meta_ops meta_ops = { .put = stores_meta_put, .walk = stores_meta_walk };

static const struct store_ops ops = {
	.get = stores_get,
	.walk = stores_walk,
	.heads = stores_heads,
	.put = stores_put,
	.remove = stores_remove,
	.share = stores_share,
	.shared_bytes = stores_shared_bytes,
	.renew = stores_renew,
	.put_copies = stores_put_copies,
	.keep = stores_keep,
	.hold = stores_hold,
	.let_go = stores_let_go,
	.sync = stores_sync,
	.sync_file = stores_sync_file,
	.devices = stores_devices,
	.figures = stores_sum,
	.free = stores_free,
};

static void set_store(struct device *device, struct stores_device stores)
{
	device->store = stores.store;
	device->below = stores.below ? stores.below : stores.store;
}

int stores_open(struct stores_device first, struct store **ret)
{
	struct stores *stores = calloc(1, sizeof(*stores));
	int err;

	if (!stores)
		return -ENOMEM;
	stores->base.ops = &ops;
	stores->base.meta = &meta_ops;
	home_init(stores);
	strcpy(stores->device[0].name, STORES_DEFAULT);
	set_store(&stores->device[0], first);
	stores->count = 1;
	err = stores_record_load(stores);
	if (err < 0) {
		discard(stores);
		return err;
	}
	*ret = &stores->base;
	return 0;
}

/* ---- devices ---- */

unsigned int stores_count(struct store *store)
{
	struct stores *stores = stores_of(store);

	return stores ? stores->count : 1;
}

const char *stores_name(struct store *store, unsigned int index)
{
	struct stores *stores = stores_of(store);

	return stores ? stores->device[index].name : STORES_DEFAULT;
}

int stores_find(struct store *store, const char *name, unsigned int *ret)
{
	for (unsigned int i = 0; i < stores_count(store); i++)
		if (!strcmp(stores_name(store, i), name)) {
			*ret = i;
			return 0;
		}
	return -ENOENT;
}

bool stores_here(struct store *store, unsigned int index)
{
	struct stores *stores = stores_of(store);

	return !stores || stores->device[index].store;
}

const uint8_t *stores_token(struct store *store, unsigned int index)
{
	return stores_of(store)->device[index].token;
}

uint64_t stores_files(struct store *store, unsigned int index)
{
	struct stores *stores = stores_of(store);
	struct home *home, *next;
	uint64_t count = 0;

	if (!stores)
		return 0;
	for (unsigned int i = 0; i < SHARDS; i++) {
		struct shard *shard = &stores->shard[i];

		LOCK_SCOPE(&shard->lock);
		HASH_ITER(hh, shard->homes, home, next)
			count += home->layout.low == index || home->layout.high == index || home->want == index;
	}
	return count;
}

void stores_figures(struct store *store, unsigned int index, struct store_figures *ret)
{
	struct stores *stores = stores_of(store);
	struct store *device = stores ? stores->device[index].store : store;

	*ret = (struct store_figures){ 0 };
	if (device)
		device->ops->figures(device, ret);
}

int stores_add(struct store *store, const char *name, const uint8_t token[static STORES_TOKEN_BYTES],
	       struct stores_device below)
{
	struct stores *stores = stores_of(store);
	struct device *device, old;
	unsigned int index;
	bool known = stores_find(store, name, &index) == 0;
	int err;

	if (!known && stores->count == STORES_MAX)
		return -ENOSPC;
	index = known ? index : stores->count;
	device = &stores->device[index];
	if (known && !memcmp(device->token, token, STORES_TOKEN_BYTES)) {
		set_store(device, below);
		return 0;
	}
	old = *device;
	memset(device, 0, sizeof(*device));
	memcpy(device->name, name, strlen(name));
	memcpy(device->token, token, STORES_TOKEN_BYTES);
	err = stores_record_name(stores, index);
	if (err) {
		*device = old;
		return err;
	}
	set_store(device, below);
	stores->count += !known;
	return 0;
}

/* ---- files ---- */

static int each_of(struct shard *shard, stores_file_fn *fn, void *arg)
{
	struct home *home, *next;
	uint64_t *list;
	size_t count = 0;
	int err = 0;

	lock_get(&shard->lock);
	list = calloc(HASH_COUNT(shard->homes) + 1, sizeof(*list));
	HASH_ITER(hh, shard->homes, home, next)
		if (list && home->recorded)
			list[count++] = home->ino;
	lock_put(&shard->lock);
	for (size_t i = 0; i < count && !err; i++)
		err = fn(arg, list[i]);
	free(list);
	return list ? err : -ENOMEM;
}

int stores_each(struct store *store, stores_file_fn *fn, void *arg)
{
	struct stores *stores = stores_of(store);
	int err = 0;

	for (unsigned int i = 0; i < SHARDS && stores && !err; i++)
		err = each_of(&stores->shard[i], fn, arg);
	return err;
}

static unsigned int goal_of(const struct home *home)
{
	return home->layout.up ? home->layout.low : home->layout.high;
}

/* Each device that has blocks of it is here. Where the mark is at an end, one of the two has none. */
static bool has_all(const struct stores *stores, const struct layout *layout)
{
	return (!layout->mark || stores->device[layout->low].store) &&
	       (layout->mark == STORES_END || stores->device[layout->high].store);
}

void stores_where(struct store *store, uint64_t ino, struct stores_where *ret)
{
	struct stores *stores = stores_of(store);
	struct shard *shard = stores ? home_shard(stores, ino) : NULL;
	const struct home *home;

	*ret = (struct stores_where){ .here = true };
	if (!stores)
		return;
	LOCK_SCOPE(&shard->lock);
	home = home_find(shard, ino);
	if (!home)
		return;
	ret->error = home->error;
	ret->here = has_all(stores, &home->layout);
	if (home->layout.low == home->layout.high) {
		ret->at = home->want;
		ret->from = home->layout.low;
		ret->count = ret->at == ret->from ? STORES_END : 0;
		return;
	}
	ret->at = home->want == home->layout.low || home->want == home->layout.high ? home->want : goal_of(home);
	ret->from = ret->at == home->layout.low ? home->layout.high : home->layout.low;
	ret->first = ret->at == home->layout.low ? 0 : home->layout.mark;
	ret->count = ret->at == home->layout.low ? home->layout.mark : STORES_END - home->layout.mark;
}
