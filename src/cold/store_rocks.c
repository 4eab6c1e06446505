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
 * Order and errors: all changes of places go through one mutex, so the table always says what the database says.
 * When a write of the database fails, nobody knows what it kept. Then the store is doubtful: the next change first
 * reopens the database and builds the table anew from it. Until that works changes fail, reads go on, and no segment
 * is unlinked: what the database turns out to name may be in any of them.
 *
 * A sync that failed is not made good by the next one. A segment of which one failed is emptied before a sync succeeds
 * again (segments.h); after a failed sync of the log the database is reopened, which writes what the log says to new
 * files.
 */
#include "cold/store_rocks_impl.h"

#include <endian.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/log.h"
#include "cold/index.h"

#define META_KEY_MAX 512
#define META_VALUE_MAX (64 * 1024)
#define DEFAULT_CACHE_BYTES (UINT64_C(2) << 20)
#define REOPEN_INTERVAL_NS NS_PER_S
#define TELL_INTERVAL_NS (60 * NS_PER_S)
#define KEPT_READS 4U
#define KEPT_TRANSFERS 4U

#define FORMAT_KEY "format"
#define FORMAT_BYTES sizeof(uint32_t)

/* --- the table, from the database --- */

static struct store_rocks *rocks_of(struct store *store)
{
	return (struct store_rocks *)store;
}

static int failed(struct store_rocks *store, int r, const char *doing)
{
	return store_error_note(&store->errors, r, store->dir, doing, NULL);
}

struct loading {
	struct places places;
	struct shares shares;
};

static int load_record(void *arg, const void *key, size_t key_len, const void *value, size_t value_len)
{
	struct loading *loading = arg;
	struct store_key at;
	struct place place, old;
	uint64_t origin;
	int r;

	if (!index_unpack(key, key_len, value, value_len, &at, &place, &origin))
		return 0;
	r = places_reserve(&loading->places, at);
	if (r == 0 && origin != at.ino)
		r = shares_reserve(&loading->shares, 1);
	if (r < 0)
		return r;
	places_set(&loading->places, at, place, &old);
	if (origin != at.ino)
		shares_add(&loading->shares, place, origin, 0);
	return 0;
}

static void count_use(void *arg, struct store_key key, struct place place)
{
	struct store_rocks *store = arg;

	(void)key;
	/* Of a file that did not survive: its number may not come again while a record names it. */
	if (place.segment != PLACE_NOWHERE && place.segment > store->segments.last_id)
		store->segments.last_id = place.segment;
	store_rocks_use(store, place);
}

/* Nobody else changes places meanwhile. */
static int load_places(struct store_rocks *store)
{
	static const struct rocks_range all = { "", 0, NULL, 0 };
	struct loading fresh = { 0 }, old;
	int r = rocks_walk(store->rocks, ROCKS_INDEX, &all, load_record, &fresh);

	if (r < 0) {
		places_clear(&fresh.places);
		shares_clear(&fresh.shares);
		return r;
	}
	lock_get(&store->segments.lock);
	old = (struct loading){ store->places, store->shares };
	store->places = fresh.places;
	store->shares = fresh.shares;
	segments_revive(&store->segments);
	places_each(&store->places, count_use, store);
	for (struct segment *segment = store->segments.table; segment; segment = segment->hh.next)
		segments_check_dead(&store->segments, segment);
	store->segments.keep_dead = false;
	collect_poke(store);
	lock_put(&store->segments.lock);
	places_clear(&old.places);
	shares_clear(&old.shares);
	return 0;
}

/* --- changes of the database, under the commit mutex --- */

static void doubt(struct store_rocks *store, int error)
{
	store->doubtful = true;
	store->doubtful_error = error == -ENOSPC ? error : -EIO;
	lock_get(&store->segments.lock);
	store->segments.keep_dead = true;
	lock_put(&store->segments.lock);
}

int store_rocks_make_sure(struct store_rocks *store)
{
	uint64_t now = clock_ns();
	int r;

	if (!store->doubtful)
		return 0;
	if (store->reopened_at_ns && now - store->reopened_at_ns < REOPEN_INTERVAL_NS)
		return store->doubtful_error;
	store->reopened_at_ns = now;
	r = headroom_check(&store->headroom, HEADROOM_RECORDS); /* to open it has to write */
	if (r == 0)
		r = rocks_reopen(store->rocks);
	if (r == 0)
		r = load_places(store);
	if (r < 0)
		return r == -ENOSPC ? r : -EIO;
	pthread_mutex_lock(&store->sync);
	store->log_failed = false;
	pthread_mutex_unlock(&store->sync);
	store->doubtful = false;
	if (!store->told_at_ns || now - store->told_at_ns > TELL_INTERVAL_NS) {
		store->told_at_ns = now;
		log_warn("store %s: the database was reopened after an error", store->dir);
	}
	return 0;
}

int store_rocks_write_records(struct store_rocks *store, const struct rocks_change *changes, size_t count, bool durable)
{
	int r = rocks_write(store->rocks, changes, count, durable);

	if (r == 0)
		return 0;
	doubt(store, r);
	r = store_rocks_make_sure(store);
	return r < 0 ? r : -EAGAIN;
}

/* --- metadata --- */

static bool meta_valid(const struct store_meta_change *change)
{
	return change->key_len && change->key_len <= META_KEY_MAX && change->value_len <= META_VALUE_MAX;
}

static int meta_write(struct store_rocks *store, const struct rocks_change *changes, size_t count, bool durable)
{
	int r;

	pthread_mutex_lock(&store->commit);
	r = store_rocks_make_sure(store);
	for (int attempt = 0; r == 0 || (r == -EAGAIN && attempt < 2); attempt++) {
		r = store_rocks_room(store, HEADROOM_RECORDS);
		if (r == 0)
			r = store_rocks_write_records(store, changes, count, durable);
		if (r == 0)
			break;
	}
	pthread_mutex_unlock(&store->commit);
	return r == -EAGAIN ? store->doubtful_error : r;
}

static int rocks_meta_put(struct store *base, const struct store_meta_change *changes, size_t count, bool durable)
{
	struct store_rocks *store = rocks_of(base);
	CLEANUP_FREE struct rocks_change *records = calloc(count ? count : 1, sizeof(*records));
	int r;

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
	r = durable ? store_rocks_sync_values(store) : 0;
	if (r == 0)
		r = meta_write(store, records, count, durable);
	return r < 0 ? failed(store, r, "cannot store metadata") : 0;
}

struct prefix_walk {
	const void *prefix;
	size_t prefix_len;
	store_meta_fn *fn;
	void *arg;
	int r;
};

static int see_meta(void *arg, const void *key, size_t key_len, const void *value, size_t value_len)
{
	struct prefix_walk *walk = arg;

	if (key_len < walk->prefix_len || (walk->prefix_len && memcmp(key, walk->prefix, walk->prefix_len)))
		return 1;
	walk->r = walk->fn(walk->arg, key, key_len, value, value_len);
	return walk->r;
}

static int rocks_meta_walk(struct store *base, const void *prefix, size_t prefix_len, store_meta_fn *fn, void *arg)
{
	struct store_rocks *store = rocks_of(base);
	struct prefix_walk walk = { prefix, prefix_len, fn, arg, 0 };
	struct rocks_range range = { prefix_len ? prefix : "", prefix_len, NULL, 0 };
	int r = rocks_walk(store->rocks, ROCKS_META, &range, see_meta, &walk);

	if (walk.r != 0 || r >= 0)
		return walk.r;
	return failed(store, r, "cannot read metadata");
}

/* --- the whole --- */

int store_rocks_sync_values(struct store_rocks *store)
{
	int r;

	pthread_mutex_lock(&store->sync);
	r = segments_sync(&store->segments);
	pthread_mutex_unlock(&store->sync);
	return r;
}

/* Values first: what a durable record names is durable. Then the log; what died before it was synced may go. */
static int sync_all(struct store_rocks *store)
{
	struct segments *segments = &store->segments;
	int r;

	pthread_mutex_lock(&store->sync);
	r = store->log_failed ? -EIO : segments_sync(segments);
	lock_get(&segments->lock);
	if (r == 0 && segments_suspect(segments))
		r = -EIO;
	if (r == 0)
		segments_cover(segments);
	lock_put(&segments->lock);
	if (r == 0) {
		r = rocks_sync(store->rocks);
		store->log_failed = r < 0;
	}
	lock_get(&segments->lock);
	segments_covered(segments, r == 0);
	lock_put(&segments->lock);
	pthread_mutex_unlock(&store->sync);
	segments_reap(segments);
	return r;
}

int store_rocks_room(struct store_rocks *store, enum headroom_use use)
{
	int r = headroom_check(&store->headroom, use);
	bool dead;

	if (r != -ENOSPC)
		return r;
	lock_get(&store->segments.lock);
	dead = store->segments.dead;
	lock_put(&store->segments.lock);
	return dead && sync_all(store) == 0 ? headroom_check(&store->headroom, use) : r;
}

/* Changes go on meanwhile; what was stored before the call is what counts. */
int store_rocks_sync(struct store_rocks *store)
{
	bool failed_before;
	int r = collect_rescue(store);

	pthread_mutex_lock(&store->commit);
	pthread_mutex_lock(&store->sync);
	failed_before = store->log_failed;
	pthread_mutex_unlock(&store->sync);
	if (failed_before && !store->doubtful)
		doubt(store, -EIO);
	if (r == 0)
		r = store_rocks_make_sure(store);
	pthread_mutex_unlock(&store->commit);
	return r < 0 ? r : sync_all(store);
}

static int rocks_sync_op(struct store *base)
{
	int r = store_rocks_sync(rocks_of(base));

	return r < 0 ? failed(rocks_of(base), r, "cannot sync") : 0;
}

static void rocks_keep(struct store *base, uint64_t ino, bool keep)
{
	struct store_rocks *store = rocks_of(base);
	LOCK_SCOPE(&store->segments.lock);

	careful_set(&store->careful, ino, keep);
}

static void rocks_figures_op(struct store *base, struct store_figures *ret)
{
	struct store_rocks *store = rocks_of(base);
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
	figures.errors = atomic_load(&store->errors.count) + atomic_load(&store->read_errors.count);
	figures.full = atomic_load(&store->full);
	*ret = figures;
}

static void rocks_free(struct store *base)
{
	struct store_rocks *store = rocks_of(base);

	if (!store)
		return;
	collect_stop(store);
	if (store->rocks)
		store_rocks_sync(store);
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
	.get = store_rocks_get,
	.walk = store_rocks_walk,
	.heads = store_rocks_heads,
	.put = store_rocks_put,
	.remove = store_rocks_remove,
	.share = store_rocks_share,
	.shared_bytes = store_rocks_shared_bytes,
	.meta_put = rocks_meta_put,
	.meta_walk = rocks_meta_walk,
	.keep = rocks_keep,
	.sync = rocks_sync_op,
	.figures = rocks_figures_op,
	.free = rocks_free,
};

static int check_version(void *arg, const void *key, size_t key_len, const void *value, size_t value_len)
{
	uint32_t *version = arg;

	(void)key;
	(void)key_len;
	*version = 0;
	if (value_len == FORMAT_BYTES)
		memcpy(version, value, sizeof(*version));
	*version = le32toh(*version);
	return 1;
}

int store_rocks_upgrade(struct store_rocks *store)
{
	uint32_t number = htole32(STORE_FORMAT);
	struct rocks_change change = {
		ROCKS_INDEX, ROCKS_PUT, FORMAT_KEY, sizeof(FORMAT_KEY) - 1, &number, FORMAT_BYTES
	};
	int r;

	if (store->format == STORE_FORMAT)
		return 0;
	r = rocks_write(store->rocks, &change, 1, true);
	if (r == 0)
		store->format = STORE_FORMAT;
	return r;
}

/* One of an earlier version stays so until the first record is written; one of an unknown version is left alone. */
static int ensure_version(struct store_rocks *store)
{
	static const struct rocks_range range = { FORMAT_KEY, sizeof(FORMAT_KEY) - 1, FORMAT_KEY, sizeof(FORMAT_KEY) };
	static const struct rocks_range all = { "", 0, NULL, 0 };
	uint32_t version = UINT32_MAX, any = UINT32_MAX;
	int r = rocks_walk(store->rocks, ROCKS_INDEX, &range, check_version, &version);

	if (r < 0)
		return r;
	if (r == 1 && version >= STORE_FORMAT_FIRST && version <= STORE_FORMAT) {
		store->format = version;
		return 0;
	}
	if (r == 0) { /* none: then there must be no records either */
		r = rocks_walk(store->rocks, ROCKS_INDEX, &all, check_version, &any);
		if (r == 0)
			return store_rocks_upgrade(store);
	}
	log_error("store %s: of format %u, this program knows %u to %u", store->dir, version, STORE_FORMAT_FIRST,
		  STORE_FORMAT);
	return r < 0 ? r : -EPROTONOSUPPORT;
}

static int open_parts(struct store_rocks *store, const struct store_rocks_config *config)
{
	struct rocks_config rocks = { .dir = config->dir, .create = config->create };
	struct headroom_scale scale;
	char *values = NULL;
	int r = headroom_scale(config->dir, &scale);

	if (r < 0)
		return failed(store, r, "cannot look at the filesystem");
	if (config->segment_bytes)
		scale.segment_bytes = config->segment_bytes;
	while (scale.segment_bytes < 8 * store->value_max_bytes)
		scale.segment_bytes *= 2;
	rocks.cache_bytes = config->cache_bytes ? config->cache_bytes : DEFAULT_CACHE_BYTES;
	rocks.buffer_bytes = config->write_buffer_bytes ? config->write_buffer_bytes : scale.buffer_bytes;
	r = rocks_open(&rocks, &store->rocks);
	if (r == 0)
		r = ensure_version(store);
	if (r < 0)
		return r;
	if (asprintf(&values, "%s/values", config->dir) < 0)
		return -ENOMEM;
	r = segments_open(&store->segments, values, scale.segment_bytes);
	free(values);
	if (r < 0)
		return failed(store, r, "cannot open the values");
	store->headroom.dir_fd = store->segments.dir_fd;
	store->headroom.buffer_bytes = rocks.buffer_bytes;
	store->headroom.segment_bytes = scale.segment_bytes;
	r = load_places(store);
	if (r < 0)
		return failed(store, r, "cannot read the index");
	/* What the records say was perhaps not durable so far. */
	r = rocks_sync(store->rocks);
	if (r < 0)
		return failed(store, r, "cannot sync the index");
	segments_settle(&store->segments);
	return collect_start(store);
}

int store_rocks_open(const struct store_rocks_config *config, struct store **ret)
{
	struct store_rocks *store = calloc(1, sizeof(*store));
	int r;

	if (!store)
		return -ENOMEM;
	store->base.ops = &rocks_ops;
	pthread_mutex_init(&store->commit, NULL);
	pthread_mutex_init(&store->sync, NULL);
	pthread_mutex_init(&store->moving, NULL);
	lock_cond_init(&store->work);
	store->value_max_bytes = config->block_bytes + SEGMENT_ALIGN;
	buffers_init(&store->reads, store->value_max_bytes + 2 * SEGMENT_ALIGN, KEPT_READS);
	buffers_init(&store->transfers, STORE_TRANSFER_BYTES, KEPT_TRANSFERS);
	store->dir = strdup(config->dir);
	r = store->dir ? open_parts(store, config) : -ENOMEM;
	if (r < 0) {
		rocks_free(&store->base);
		return r;
	}
	*ret = &store->base;
	return 0;
}
