/* cold/store_rocks.c - the store on RocksDB. The only file that includes <rocksdb/c.h>.
 *
 * Two column families: "default" holds the metadata records, "blocks" the values under be64 file, be64 block, so that a
 * file is one key range. Values are compressed already and carry their own checksum.
 */
#include "cold/store.h"

#include <dirent.h>
#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <rocksdb/c.h>

#include "base/log.h"
#include "cold/store_error.h"

#define BLOCK_KEY_BYTES 16
#define META_KEY_MAX 512
#define META_VALUE_MAX (64 * 1024)
#define DEFAULT_CACHE_BYTES (UINT64_C(32) << 20)
#define DEFAULT_WRITE_BUFFER_BYTES (UINT64_C(32) << 20)
#define WALK_READAHEAD_BYTES (2 << 20)
#define INFO_LOG_FATAL 4
#define INFO_LOG_DIR "/dev/shm/tierfs-log-XXXXXX"

enum { FAMILY_META, FAMILY_BLOCKS, FAMILIES };
static const char *const family_names[FAMILIES] = { "default", "blocks" };

struct rocks {
	struct store base;
	char *dir;
	rocksdb_t *db;
	rocksdb_column_family_handle_t *family[FAMILIES];
	rocksdb_options_t *options[FAMILIES];
	rocksdb_cache_t *cache;
	rocksdb_readoptions_t *read;
	rocksdb_writeoptions_t *write;
	rocksdb_writeoptions_t *write_synced;
	_Atomic uint64_t put_blocks, put_bytes, get_blocks, get_bytes, errors;
	_Atomic bool full;
	_Atomic int last_error;
};

static struct rocks *rocks_of(struct store *store)
{
	return (struct rocks *)store;
}

static void put_be64(char *at, uint64_t number)
{
	uint64_t big = __builtin_bswap64(number);

	memcpy(at, &big, sizeof(big));
}

static uint64_t get_be64(const char *at)
{
	uint64_t big;

	memcpy(&big, at, sizeof(big));
	return __builtin_bswap64(big);
}

static void block_key(struct store_key key, char out[static BLOCK_KEY_BYTES])
{
	put_be64(out, key.ino);
	put_be64(out + 8, key.block);
}

/* Takes the error text, counts it and logs it if it is of another kind than the last. */
static int failed(struct rocks *rocks, const char *doing, char *text)
{
	int r = store_error_number(text);

	atomic_fetch_add(&rocks->errors, 1);
	if (atomic_exchange(&rocks->last_error, r) != r)
		log_error("store %s: %s: %s", rocks->dir, doing, text);
	rocksdb_free(text);
	return r;
}

static int rocks_get(struct store *store, struct store_key key, void *buf, size_t cap, size_t *ret_len)
{
	struct rocks *rocks = rocks_of(store);
	rocksdb_pinnableslice_t *slice;
	char bytes[BLOCK_KEY_BYTES];
	const char *value;
	char *text = NULL;
	size_t len;

	block_key(key, bytes);
	slice = rocksdb_get_pinned_cf(rocks->db, rocks->read, rocks->family[FAMILY_BLOCKS], bytes, sizeof(bytes),
				      &text);
	if (text)
		return failed(rocks, "cannot read", text);
	if (!slice)
		return -ENOENT;
	value = rocksdb_pinnableslice_value(slice, &len);
	if (len <= cap) {
		memcpy(buf, value, len);
		*ret_len = len;
	}
	rocksdb_pinnableslice_destroy(slice);
	atomic_fetch_add(&rocks->get_blocks, 1);
	atomic_fetch_add(&rocks->get_bytes, len);
	return len <= cap ? 0 : -ENOBUFS;
}

static int walk_from(rocksdb_iterator_t *iter, const char *first, size_t first_len, uint64_t count, store_walk_fn *fn,
		     void *arg)
{
	struct store_key key = { get_be64(first), get_be64(first + 8) };
	uint64_t end = key.block + count;

	for (rocksdb_iter_seek(iter, first, first_len); rocksdb_iter_valid(iter); rocksdb_iter_next(iter)) {
		size_t key_len, len;
		const char *at = rocksdb_iter_key(iter, &key_len);
		const char *value;
		int r;

		if (key_len != BLOCK_KEY_BYTES || get_be64(at) != key.ino)
			break;
		key.block = get_be64(at + 8);
		if (key.block >= end)
			break;
		value = rocksdb_iter_value(iter, &len);
		r = fn(arg, key, value, (uint32_t)len);
		if (r != 0)
			return r;
	}
	return 0;
}

static int rocks_walk(struct store *store, uint64_t ino, uint64_t first, uint64_t count, store_walk_fn *fn, void *arg)
{
	struct rocks *rocks = rocks_of(store);
	rocksdb_readoptions_t *read = rocksdb_readoptions_create();
	rocksdb_iterator_t *iter;
	char key[BLOCK_KEY_BYTES];
	char *text = NULL;
	int r;

	if (count > UINT64_MAX - first)
		count = UINT64_MAX - first;
	block_key((struct store_key){ ino, first }, key);
	rocksdb_readoptions_set_verify_checksums(read, 0);
	rocksdb_readoptions_set_fill_cache(read, 0);
	rocksdb_readoptions_set_readahead_size(read, WALK_READAHEAD_BYTES);
	iter = rocksdb_create_iterator_cf(rocks->db, read, rocks->family[FAMILY_BLOCKS]);
	r = walk_from(iter, key, sizeof(key), count, fn, arg);
	if (r == 0) {
		rocksdb_iter_get_error(iter, &text);
		if (text)
			r = failed(rocks, "cannot read", text);
	}
	rocksdb_iter_destroy(iter);
	rocksdb_readoptions_destroy(read);
	return r;
}

static int write_batch(struct rocks *rocks, rocksdb_writebatch_t *batch, bool durable)
{
	char *text = NULL;
	int r = 0;

	rocksdb_write(rocks->db, durable ? rocks->write_synced : rocks->write, batch, &text);
	if (text)
		r = failed(rocks, "cannot write", text);
	else
		atomic_store(&rocks->last_error, 0);
	atomic_store(&rocks->full, r == -ENOSPC);
	return r;
}

static int rocks_put(struct store *store, const struct store_item *items, size_t count)
{
	struct rocks *rocks = rocks_of(store);
	rocksdb_writebatch_t *batch = rocksdb_writebatch_create();
	uint64_t bytes = 0;
	int r;

	for (size_t i = 0; i < count; i++) {
		char key[BLOCK_KEY_BYTES];

		block_key(items[i].key, key);
		rocksdb_writebatch_put_cf(batch, rocks->family[FAMILY_BLOCKS], key, sizeof(key), items[i].value,
					  items[i].length_bytes);
		bytes += items[i].length_bytes;
	}
	r = write_batch(rocks, batch, false);
	rocksdb_writebatch_destroy(batch);
	if (r == 0) {
		atomic_fetch_add(&rocks->put_blocks, count);
		atomic_fetch_add(&rocks->put_bytes, bytes);
	}
	return r;
}

static int rocks_remove(struct store *store, uint64_t ino, uint64_t first, uint64_t count)
{
	struct rocks *rocks = rocks_of(store);
	rocksdb_writebatch_t *batch;
	char start[BLOCK_KEY_BYTES], end[BLOCK_KEY_BYTES];
	int r;

	if (!count)
		return 0;
	if (count > UINT64_MAX - first)
		count = UINT64_MAX - first;
	batch = rocksdb_writebatch_create();
	block_key((struct store_key){ ino, first }, start);
	block_key((struct store_key){ ino, first + count }, end);
	if (count == 1)
		rocksdb_writebatch_delete_cf(batch, rocks->family[FAMILY_BLOCKS], start, sizeof(start));
	else
		rocksdb_writebatch_delete_range_cf(batch, rocks->family[FAMILY_BLOCKS], start, sizeof(start), end,
						   sizeof(end));
	r = write_batch(rocks, batch, false);
	rocksdb_writebatch_destroy(batch);
	return r;
}

static int rocks_meta_put(struct store *store, const struct store_meta_change *changes, size_t count, bool durable)
{
	struct rocks *rocks = rocks_of(store);
	rocksdb_writebatch_t *batch;
	int r;

	for (size_t i = 0; i < count; i++) {
		if (!changes[i].key_len || changes[i].key_len > META_KEY_MAX || changes[i].value_len > META_VALUE_MAX)
			return -EINVAL;
	}
	batch = rocksdb_writebatch_create();
	for (size_t i = 0; i < count; i++) {
		if (changes[i].value)
			rocksdb_writebatch_put_cf(batch, rocks->family[FAMILY_META], changes[i].key, changes[i].key_len,
						  changes[i].value, changes[i].value_len);
		else
			rocksdb_writebatch_delete_cf(batch, rocks->family[FAMILY_META], changes[i].key,
						     changes[i].key_len);
	}
	r = write_batch(rocks, batch, durable);
	rocksdb_writebatch_destroy(batch);
	return r;
}

static int rocks_meta_walk(struct store *store, const void *prefix, size_t prefix_len, store_meta_fn *fn, void *arg)
{
	struct rocks *rocks = rocks_of(store);
	rocksdb_iterator_t *iter = rocksdb_create_iterator_cf(rocks->db, rocks->read, rocks->family[FAMILY_META]);
	char *text = NULL;
	int r = 0;

	for (rocksdb_iter_seek(iter, prefix, prefix_len); rocksdb_iter_valid(iter); rocksdb_iter_next(iter)) {
		size_t key_len, len;
		const char *key = rocksdb_iter_key(iter, &key_len);
		const char *value = rocksdb_iter_value(iter, &len);

		if (key_len < prefix_len || (prefix_len && memcmp(key, prefix, prefix_len)))
			break;
		r = fn(arg, key, key_len, value, len);
		if (r != 0)
			break;
	}
	if (r == 0) {
		rocksdb_iter_get_error(iter, &text);
		if (text)
			r = failed(rocks, "cannot read metadata", text);
	}
	rocksdb_iter_destroy(iter);
	return r;
}

static int rocks_sync(struct store *store)
{
	struct rocks *rocks = rocks_of(store);
	char *text = NULL;

	rocksdb_flush_wal(rocks->db, 1, &text);
	return text ? failed(rocks, "cannot sync", text) : 0;
}

static uint64_t property(struct rocks *rocks, int family, const char *name)
{
	uint64_t number = 0;

	rocksdb_property_int_cf(rocks->db, rocks->family[family], name, &number);
	return number;
}

static void rocks_figures(struct store *store, struct store_figures *ret)
{
	struct rocks *rocks = rocks_of(store);
	struct store_figures figures = { 0 };

	for (int i = 0; i < FAMILIES; i++) {
		figures.disk_bytes += property(rocks, i, "rocksdb.total-sst-files-size") +
				      property(rocks, i, "rocksdb.total-blob-file-size");
		figures.memory_bytes += property(rocks, i, "rocksdb.cur-size-all-mem-tables") +
					property(rocks, i, "rocksdb.estimate-table-readers-mem");
	}
	figures.memory_bytes += rocksdb_cache_get_usage(rocks->cache);
	figures.put_blocks = atomic_load(&rocks->put_blocks);
	figures.put_bytes = atomic_load(&rocks->put_bytes);
	figures.get_blocks = atomic_load(&rocks->get_blocks);
	figures.get_bytes = atomic_load(&rocks->get_bytes);
	figures.errors = atomic_load(&rocks->errors);
	figures.full = atomic_load(&rocks->full);
	*ret = figures;
}

static void rocks_free(struct store *store)
{
	struct rocks *rocks = rocks_of(store);

	if (!rocks)
		return;
	if (rocks->db) {
		rocks_sync(store);
		for (int i = 0; i < FAMILIES; i++)
			rocksdb_column_family_handle_destroy(rocks->family[i]);
		rocksdb_close(rocks->db);
	}
	for (int i = 0; i < FAMILIES; i++) {
		if (rocks->options[i])
			rocksdb_options_destroy(rocks->options[i]);
	}
	if (rocks->cache)
		rocksdb_cache_destroy(rocks->cache);
	if (rocks->read)
		rocksdb_readoptions_destroy(rocks->read);
	if (rocks->write)
		rocksdb_writeoptions_destroy(rocks->write);
	if (rocks->write_synced)
		rocksdb_writeoptions_destroy(rocks->write_synced);
	free(rocks->dir);
	free(rocks);
}

static const struct store_ops rocks_ops = {
	.get = rocks_get,
	.walk = rocks_walk,
	.heads = rocks_walk,
	.put = rocks_put,
	.remove = rocks_remove,
	.meta_put = rocks_meta_put,
	.meta_walk = rocks_meta_walk,
	.sync = rocks_sync,
	.figures = rocks_figures,
	.free = rocks_free,
};

static rocksdb_options_t *make_options(const struct store_rocks_config *config, rocksdb_cache_t *cache)
{
	rocksdb_options_t *options = rocksdb_options_create();
	rocksdb_block_based_table_options_t *table = rocksdb_block_based_options_create();
	uint64_t buffers = config->write_buffer_bytes ? config->write_buffer_bytes : DEFAULT_WRITE_BUFFER_BYTES;

	rocksdb_options_set_create_if_missing(options, config->create);
	rocksdb_options_set_create_missing_column_families(options, config->create);
	rocksdb_options_set_compression(options, rocksdb_no_compression);
	rocksdb_options_set_info_log_level(options, INFO_LOG_FATAL);
	rocksdb_options_set_max_background_jobs(options, 2);
	rocksdb_options_set_max_open_files(options, 512);
	rocksdb_options_set_write_buffer_size(options, buffers / 2);
	rocksdb_options_set_max_write_buffer_number(options, 2);
	rocksdb_options_set_db_write_buffer_size(options, buffers);
	rocksdb_options_set_stats_dump_period_sec(options, 0);
	rocksdb_options_set_stats_persist_period_sec(options, 0);
	rocksdb_block_based_options_set_block_cache(table, cache);
	rocksdb_block_based_options_set_cache_index_and_filter_blocks(table, 1);
	rocksdb_options_set_block_based_table_factory(options, table);
	rocksdb_block_based_options_destroy(table);
	return options;
}

/* The database aborts the process when it cannot write its info log, so the log must not be on the disk that may be
 * full; and it refuses to run without one. It gets a nameless file in memory that holds only what it says when it
 * opens. */
static void drop_info_log(const char *log_dir)
{
	DIR *dir = opendir(log_dir);
	struct dirent *entry;

	if (!dir)
		return;
	while ((entry = readdir(dir)))
		unlinkat(dirfd(dir), entry->d_name, 0);
	closedir(dir);
	rmdir(log_dir);
}

static int open_db(struct rocks *rocks)
{
	char log_dir[] = INFO_LOG_DIR;
	bool log_in_memory = mkdtemp(log_dir) != NULL;
	char *text = NULL;
	int r;

	for (int i = 0; i < FAMILIES; i++)
		rocksdb_options_set_db_log_dir(rocks->options[i], log_in_memory ? log_dir : "");
	rocks->db = rocksdb_open_column_families(rocks->options[FAMILY_META], rocks->dir, FAMILIES, family_names,
						 (const rocksdb_options_t *const *)rocks->options, rocks->family,
						 &text);
	if (log_in_memory)
		drop_info_log(log_dir);
	if (!text)
		return 0;
	rocks->db = NULL;
	r = store_error_number(text);
	log_error("store %s: cannot open: %s", rocks->dir, text);
	rocksdb_free(text);
	return r;
}

int store_rocks_open(const struct store_rocks_config *config, struct store **ret)
{
	struct rocks *rocks = calloc(1, sizeof(*rocks));
	int r;

	if (!rocks)
		return -ENOMEM;
	rocks->base.ops = &rocks_ops;
	rocks->dir = strdup(config->dir);
	if (!rocks->dir) {
		rocks_free(&rocks->base);
		return -ENOMEM;
	}
	rocks->cache = rocksdb_cache_create_lru(config->cache_bytes ? config->cache_bytes : DEFAULT_CACHE_BYTES);
	for (int i = 0; i < FAMILIES; i++)
		rocks->options[i] = make_options(config, rocks->cache);
	rocks->read = rocksdb_readoptions_create();
	rocksdb_readoptions_set_verify_checksums(rocks->read, 0);
	rocks->write = rocksdb_writeoptions_create();
	rocks->write_synced = rocksdb_writeoptions_create();
	rocksdb_writeoptions_set_sync(rocks->write_synced, 1);
	r = open_db(rocks);
	if (r < 0) {
		rocks_free(&rocks->base);
		return r;
	}
	*ret = &rocks->base;
	return 0;
}
