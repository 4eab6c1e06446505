/* cold/store_rocks.c - the store: values in segments, and a database that knows where.
 *
 * A put appends the values to the current segment (one direct write for many), then writes one small index record for
 * each to the database, which appends them to its log; then it enters them in the table of places. So a value that was
 * acknowledged is in the file and its record in the log: both outlive the process. A get is one look in the table and
 * one read. What is replaced or removed becomes garbage; a segment without live values is dead, one with few is emptied
 * by the collector (collect.c). A dead segment is unlinked when the records that made it so are durable: a sync of the
 * log that began after its death has passed. Any sync will do; if nobody asks for one, the collector does.
 *
 * Why not values in the database: measured (docs/lab/store.md), it needs four to eight times the processor time for
 * each block - copies to batch, log and memtable, checksums in software, compactions - and it is the part that may end
 * the process over an I/O error.
 *
 * All changes of places go through one mutex, so the table always says what the database says. Reading is in
 * store_read.c, putting and removing in store_write.c, sharing in store_share.c, what the records say in records.c.
 */
#include "cold/store_rocks.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cold/collect.h"
#include "cold/records.h"
#include "cold/store_meta.h"
#include "cold/store_read.h"
#include "cold/store_share.h"
#include "cold/store_write.h"

#define DEFAULT_CACHE_BYTES (UINT64_C(2) << 20)
#define KEPT_READS 4U
#define KEPT_TRANSFERS 4U

static int failed(struct store_rocks *store, int err, const char *doing)
{
	return store_error_note(&store->errors, err, store->dir, doing, NULL);
}

static int rocks_sync_op(struct store *base)
{
	int err = collect_sync(store_rocks_of(base));

	return err < 0 ? failed(store_rocks_of(base), err, "cannot sync") : 0;
}

static void rocks_keep(struct store *base, uint64_t ino, bool keep)
{
	struct store_rocks *store = store_rocks_of(base);
	LOCK_SCOPE(&store->segments.lock);

	careful_set(&store->careful, ino, keep);
}

static void rocks_figures_op(struct store *base, struct store_figures *ret)
{
	struct store_rocks *store = store_rocks_of(base);
	struct store_figures figures = { 0 };
	uint64_t disk, memory;

	rocks_figures(store->rocks, &disk, &memory);
	lock_get(&store->segments.lock);
	figures.disk_bytes = disk + store->segments.end_bytes + store->segments.dead_bytes;
	figures.memory_bytes = memory + store->places.memory_bytes + shares_memory_bytes(&store->shares);
	lock_put(&store->segments.lock);
	figures.memory_bytes += KEPT_TRANSFERS * STORE_TRANSFER_BYTES + KEPT_READS * store->reads.size_bytes;
	figures.put_blocks = atomic_load(&store->put_blocks);
	figures.put_bytes = atomic_load(&store->put_bytes);
	figures.get_blocks = atomic_load(&store->get_blocks);
	figures.get_bytes = atomic_load(&store->get_bytes);
	for (int use = 0; use < STORE_USES; use++)
		figures.traffic[use] = store_meter_figures(&store->segments.meter[use]);
	figures.index_written_bytes = rocks_written(store->rocks);
	figures.errors = atomic_load(&store->errors.count) + atomic_load(&store->read_errors.count);
	figures.full = atomic_load(&store->full);
	*ret = figures;
}

static void rocks_free(struct store *base)
{
	struct store_rocks *store = store_rocks_of(base);

	if (!store)
		return;
	collect_stop(store);
	if (store->rocks)
		collect_sync(store);
	rocks_close(store->rocks);
	careful_clear(&store->careful);
	segments_close(&store->segments);
	places_clear(&store->places);
	shares_clear(&store->shares);
	buffers_fini(&store->reads);
	buffers_fini(&store->transfers);
	pthread_cond_destroy(&store->work);
	pthread_mutex_destroy(&store->commit);
	pthread_mutex_destroy(&store->sync);
	pthread_mutex_destroy(&store->moving);
	free(store->dir);
	free(store);
}

static const struct store_ops rocks_ops = {
	.get = store_read_get,
	.walk = store_read_walk,
	.heads = store_read_heads,
	.put = store_write_put,
	.remove = store_write_remove,
	.share = store_share_blocks,
	.shared_bytes = store_share_bytes,
	.keep = rocks_keep,
	.sync = rocks_sync_op,
	.figures = rocks_figures_op,
	.free = rocks_free,
};

static int open_parts(struct store_rocks *store, const struct store_rocks_config *config)
{
	struct rocks_config rocks = { .dir = config->dir, .create = config->create };
	struct headroom_scale scale;
	char *values = NULL;
	int err = headroom_scale(config->dir, &scale);

	if (err < 0)
		return failed(store, err, "cannot look at the filesystem");
	if (config->segment_bytes)
		scale.segment_bytes = config->segment_bytes;
	while (scale.segment_bytes < 8 * store->value_max_bytes)
		scale.segment_bytes *= 2;
	rocks.cache_bytes = config->cache_bytes ? config->cache_bytes : DEFAULT_CACHE_BYTES;
	rocks.buffer_bytes = config->write_buffer_bytes ? config->write_buffer_bytes : scale.buffer_bytes;
	err = rocks_open(&rocks, &store->rocks);
	if (!err)
		err = records_open(store);
	if (err < 0)
		return err;
	if (asprintf(&values, "%s/values", config->dir) < 0)
		return -ENOMEM;
	err = segments_open(&store->segments, values, scale.segment_bytes);
	free(values);
	if (err < 0)
		return failed(store, err, "cannot open the values");
	store->headroom.dir_fd = store->segments.dir_fd;
	store->headroom.buffer_bytes = rocks.buffer_bytes;
	store->headroom.segment_bytes = scale.segment_bytes;
	err = records_load(store);
	if (err < 0)
		return failed(store, err, "cannot read the index");
	/* What the records say was perhaps not durable so far. */
	err = rocks_sync(store->rocks);
	if (err < 0)
		return failed(store, err, "cannot sync the index");
	segments_settle(&store->segments);
	return collect_start(store);
}

int store_rocks_open(const struct store_rocks_config *config, struct store **ret)
{
	struct store_rocks *store = calloc(1, sizeof(*store));
	int err;

	if (!store)
		return -ENOMEM;
	store->base.ops = &rocks_ops;
	store->base.meta = &store_meta_ops;
	pthread_mutex_init(&store->commit, NULL);
	pthread_mutex_init(&store->sync, NULL);
	pthread_mutex_init(&store->moving, NULL);
	lock_cond_init(&store->work);
	store->value_max_bytes = config->block_bytes + SEGMENT_ALIGN;
	buffers_init(&store->reads, store->value_max_bytes + 2 * SEGMENT_ALIGN, KEPT_READS);
	buffers_init(&store->transfers, STORE_TRANSFER_BYTES, KEPT_TRANSFERS);
	store->dir = strdup(config->dir);
	err = store->dir ? open_parts(store, config) : -ENOMEM;
	if (err < 0) {
		rocks_free(&store->base);
		return err;
	}
	*ret = &store->base;
	return 0;
}
