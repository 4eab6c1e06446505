/* cold/rocks.c - the only file that includes <rocksdb/c.h>.
 *
 * The database holds small records alone, so it is kept small itself: memtables of a few megabytes, hardly a cache
 * (nobody looks single records up), two background threads, no compression. Debian's build computes CRC32C in software
 * and has its assertions compiled in: each byte that goes through log, memtable and compaction is dear, and an I/O
 * error of its own can end the process. That is why values do not go through it, and why nobody may let it meet a full
 * disk.
 *
 * The handle is behind a reader-writer lock. It is held across I/O on purpose: only rocks_reopen() takes it for
 * writing, and it has to wait for the calls under way.
 */
#include "cold/rocks.h"

#include <dirent.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <rocksdb/c.h>

#include "base/log.h"
#include "cold/store_error.h"

#define INFO_LOG_FATAL 4
#define INFO_LOG_DIR "/dev/shm/tierfs-log-XXXXXX"
#define OPEN_FILES 64
#define BACKGROUND_JOBS 2
#define BLOCK_BYTES 16384
#define READAHEAD_BYTES (512U << 10)
/* Records that a walk copies before it calls back. */
#define WALK_RECORDS 65536U
#define WALK_BYTES (4U << 20)

static const char *const family_names[ROCKS_FAMILIES] = {
	[ROCKS_META] = "default", /* the database insists on one of that name */
	[ROCKS_INDEX] = "index",
};

struct rocks {
	char *dir; /* immutable, as all but the handles */
	rocksdb_options_t *options;
	rocksdb_cache_t *cache;
	rocksdb_writeoptions_t *write;
	rocksdb_writeoptions_t *write_synced;
	pthread_rwlock_t lock; /* guards the handles below */
	rocksdb_t *db;         /* NULL: closed after an error */
	rocksdb_column_family_handle_t *family[ROCKS_FAMILIES];
	struct store_errors errors;
};

/* --- opening and closing --- */

static rocksdb_options_t *make_options(const struct rocks_config *config, rocksdb_cache_t *cache)
{
	rocksdb_options_t *options = rocksdb_options_create();
	rocksdb_block_based_table_options_t *table = rocksdb_block_based_options_create();

	rocksdb_options_set_create_if_missing(options, config->create);
	rocksdb_options_set_create_missing_column_families(options, 1);
	rocksdb_options_set_compression(options, rocksdb_no_compression);
	rocksdb_options_set_max_background_jobs(options, BACKGROUND_JOBS);
	rocksdb_options_set_max_open_files(options, OPEN_FILES);
	rocksdb_options_set_write_buffer_size(options, config->buffer_bytes / 4);
	rocksdb_options_set_max_write_buffer_number(options, 2);
	rocksdb_options_set_db_write_buffer_size(options, config->buffer_bytes);
	rocksdb_options_set_max_total_wal_size(options, config->buffer_bytes);
	rocksdb_options_set_target_file_size_base(options, 8 << 20);
	rocksdb_options_set_manifest_preallocation_size(options, 64 << 10);
	rocksdb_options_set_max_manifest_file_size(options, 1 << 20);
	rocksdb_options_enable_statistics(options);
	rocksdb_options_set_stats_dump_period_sec(options, 0);
	rocksdb_options_set_stats_persist_period_sec(options, 0);
	rocksdb_options_set_info_log_level(options, INFO_LOG_FATAL);
	rocksdb_options_set_keep_log_file_num(options, 1);

	rocksdb_block_based_options_set_block_size(table, BLOCK_BYTES);
	rocksdb_block_based_options_set_block_cache(table, cache);
	rocksdb_block_based_options_set_cache_index_and_filter_blocks(table, 1);
	rocksdb_block_based_options_set_format_version(table, 5);
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
	while ((entry = readdir(dir))) {
		if (entry->d_name[0] != '.')
			unlinkat(dirfd(dir), entry->d_name, 0);
	}
	closedir(dir);
	rmdir(log_dir);
}

static int failed(struct rocks *rocks, const char *doing, char *text)
{
	int err = store_error_note(&rocks->errors, store_error_number(text), rocks->dir, doing, text);

	rocksdb_free(text);
	return err;
}

/* With direct I/O, or without where the filesystem lacks it. */
static char *open_with(struct rocks *rocks, bool direct)
{
	const rocksdb_options_t *options[ROCKS_FAMILIES] = { rocks->options, rocks->options };
	char *text = NULL;

	rocksdb_options_set_use_direct_reads(rocks->options, direct);
	rocksdb_options_set_use_direct_io_for_flush_and_compaction(rocks->options, direct);
	rocks->db = rocksdb_open_column_families(rocks->options, rocks->dir, ROCKS_FAMILIES, family_names, options,
						 rocks->family, &text);
	if (text)
		rocks->db = NULL;
	return text;
}

static int open_db(struct rocks *rocks)
{
	char log_dir[] = INFO_LOG_DIR;
	bool log_in_memory = mkdtemp(log_dir) != NULL;
	char *text;

	rocksdb_options_set_db_log_dir(rocks->options, log_in_memory ? log_dir : "");
	text = open_with(rocks, true);
	if (text && store_error_number(text) == -ENOTSUP) {
		rocksdb_free(text);
		text = open_with(rocks, false);
	}
	if (log_in_memory)
		drop_info_log(log_dir);
	return text ? failed(rocks, "cannot open the database", text) : 0;
}

static void close_db(struct rocks *rocks)
{
	if (!rocks->db)
		return;
	for (int i = 0; i < ROCKS_FAMILIES; i++)
		rocksdb_column_family_handle_destroy(rocks->family[i]);
	rocksdb_close(rocks->db);
	rocks->db = NULL;
}

void rocks_close(struct rocks *rocks)
{
	if (!rocks)
		return;
	close_db(rocks);
	rocksdb_options_destroy(rocks->options);
	rocksdb_cache_destroy(rocks->cache);
	rocksdb_writeoptions_destroy(rocks->write);
	rocksdb_writeoptions_destroy(rocks->write_synced);
	pthread_rwlock_destroy(&rocks->lock);
	free(rocks->dir);
	free(rocks);
}

int rocks_open(const struct rocks_config *config, struct rocks **ret)
{
	struct rocks *rocks = calloc(1, sizeof(*rocks));
	int err;

	if (!rocks)
		return -ENOMEM;
	rocks->dir = strdup(config->dir);
	if (!rocks->dir) {
		free(rocks);
		return -ENOMEM;
	}
	pthread_rwlock_init(&rocks->lock, NULL);
	rocks->cache = rocksdb_cache_create_lru(config->cache_bytes);
	rocks->options = make_options(config, rocks->cache);
	rocks->write = rocksdb_writeoptions_create();
	rocks->write_synced = rocksdb_writeoptions_create();
	rocksdb_writeoptions_set_sync(rocks->write_synced, 1);
	err = open_db(rocks);
	if (err < 0) {
		rocks_close(rocks);
		return err;
	}
	*ret = rocks;
	return 0;
}

int rocks_reopen(struct rocks *rocks)
{
	int err;

	pthread_rwlock_wrlock(&rocks->lock);
	close_db(rocks);
	err = open_db(rocks);
	pthread_rwlock_unlock(&rocks->lock);
	return err;
}

/* --- writing --- */

static void add_change(struct rocks *rocks, rocksdb_writebatch_t *batch, const struct rocks_change *change)
{
	rocksdb_column_family_handle_t *family = rocks->family[change->family];

	switch (change->kind) {
	case ROCKS_PUT:
		rocksdb_writebatch_put_cf(batch, family, change->key, change->key_len, change->value,
					  change->value_len);
		break;
	case ROCKS_DELETE:
		rocksdb_writebatch_delete_cf(batch, family, change->key, change->key_len);
		break;
	case ROCKS_DELETE_RANGE:
		rocksdb_writebatch_delete_range_cf(batch, family, change->key, change->key_len, change->value,
						   change->value_len);
		break;
	}
}

static int write_changes(struct rocks *rocks, const struct rocks_change *changes, size_t count, bool durable)
{
	rocksdb_writebatch_t *batch;
	char *text = NULL;

	if (!rocks->db)
		return -EIO;
	batch = rocksdb_writebatch_create();
	for (size_t i = 0; i < count; i++)
		add_change(rocks, batch, &changes[i]);
	rocksdb_write(rocks->db, durable ? rocks->write_synced : rocks->write, batch, &text);
	rocksdb_writebatch_destroy(batch);
	if (text)
		return failed(rocks, "cannot write to the database", text);
	store_error_clear(&rocks->errors, NULL); /* the store says so, for all it is made of */
	return 0;
}

int rocks_write(struct rocks *rocks, const struct rocks_change *changes, size_t count, bool durable)
{
	int err;

	pthread_rwlock_rdlock(&rocks->lock);
	err = write_changes(rocks, changes, count, durable);
	pthread_rwlock_unlock(&rocks->lock);
	return err;
}

int rocks_sync(struct rocks *rocks)
{
	char *text = NULL;
	int err = -EIO;

	pthread_rwlock_rdlock(&rocks->lock);
	if (rocks->db) {
		rocksdb_flush_wal(rocks->db, 1, &text);
		err = text ? failed(rocks, "cannot sync the database", text) : 0;
	}
	pthread_rwlock_unlock(&rocks->lock);
	return err;
}

/* --- walking --- */

/* Copies of records, one after the other: lengths of key and value, then both. */
struct copies {
	char *bytes;
	size_t used, cap;
	unsigned int count;
	bool more;
};

struct copy_head {
	size_t key_len, value_len;
};

static int copies_add(struct copies *copies, const void *key, size_t key_len, const void *value, size_t value_len)
{
	struct copy_head head = { key_len, value_len };
	size_t need = copies->used + sizeof(head) + key_len + value_len;

	if (need > copies->cap) {
		size_t cap = need > WALK_BYTES ? 2 * need : WALK_BYTES;
		char *bytes = realloc(copies->bytes, cap);

		if (!bytes)
			return -ENOMEM;
		copies->bytes = bytes;
		copies->cap = cap;
	}
	memcpy(copies->bytes + copies->used, &head, sizeof(head));
	memcpy(copies->bytes + copies->used + sizeof(head), key, key_len);
	memcpy(copies->bytes + copies->used + sizeof(head) + key_len, value, value_len);
	copies->used = need;
	copies->count++;
	return 0;
}

static int copy_some(struct rocks *rocks, rocksdb_iterator_t *iter, const struct rocks_range *range,
		     struct copies *copies)
{
	char *text = NULL;
	int err = 0;

	for (rocksdb_iter_seek(iter, range->first, range->first_len); rocksdb_iter_valid(iter);
	     rocksdb_iter_next(iter)) {
		size_t key_len, value_len;
		const char *key = rocksdb_iter_key(iter, &key_len);
		const char *value = rocksdb_iter_value(iter, &value_len);

		if (copies->count == WALK_RECORDS || copies->used >= WALK_BYTES) {
			copies->more = true;
			return 0;
		}
		err = copies_add(copies, key, key_len, value, value_len);
		if (err < 0)
			return err;
	}
	rocksdb_iter_get_error(iter, &text);
	return text ? failed(rocks, "cannot read the database", text) : 0;
}

static int walk_part(struct rocks *rocks, enum rocks_family family, const struct rocks_range *range,
		     struct copies *copies)
{
	rocksdb_readoptions_t *read;
	rocksdb_iterator_t *iter;
	int err;

	copies->used = 0;
	copies->count = 0;
	copies->more = false;
	pthread_rwlock_rdlock(&rocks->lock);
	if (!rocks->db) {
		pthread_rwlock_unlock(&rocks->lock);
		return -EIO;
	}
	read = rocksdb_readoptions_create();
	rocksdb_readoptions_set_fill_cache(read, 0);
	rocksdb_readoptions_set_readahead_size(read, READAHEAD_BYTES);
	if (range->end)
		rocksdb_readoptions_set_iterate_upper_bound(read, range->end, range->end_len);
	iter = rocksdb_create_iterator_cf(rocks->db, read, rocks->family[family]);
	err = copy_some(rocks, iter, range, copies);
	rocksdb_iter_destroy(iter);
	rocksdb_readoptions_destroy(read);
	pthread_rwlock_unlock(&rocks->lock);
	return err;
}

/* Calls fn for each copy; *ret_last is the last key, in the copies. */
static int deliver(const struct copies *copies, rocks_fn *fn, void *arg, const char **ret_last, size_t *ret_last_len)
{
	const char *at = copies->bytes;

	for (unsigned int i = 0; i < copies->count; i++) {
		struct copy_head head;
		int err;

		memcpy(&head, at, sizeof(head));
		at += sizeof(head);
		*ret_last = at;
		*ret_last_len = head.key_len;
		err = fn(arg, at, head.key_len, at + head.key_len, head.value_len);
		if (err != 0)
			return err;
		at += head.key_len + head.value_len;
	}
	return 0;
}

/* The key right behind the last one: itself and a zero. */
static int go_on_behind(char **from, struct rocks_range *range, const char *last, size_t last_len)
{
	char *next = realloc(*from, last_len + 1);

	if (!next)
		return -ENOMEM;
	memcpy(next, last, last_len);
	next[last_len] = 0;
	*from = next;
	range->first = next;
	range->first_len = last_len + 1;
	return 0;
}

int rocks_walk(struct rocks *rocks, enum rocks_family family, const struct rocks_range *range, rocks_fn *fn, void *arg)
{
	struct rocks_range rest = *range;
	struct copies copies = { 0 };
	char *from = NULL;
	int err;

	do {
		const char *last = NULL;
		size_t last_len = 0;

		err = walk_part(rocks, family, &rest, &copies);
		if (!err)
			err = deliver(&copies, fn, arg, &last, &last_len);
		if (!err && copies.more)
			err = go_on_behind(&from, &rest, last, last_len);
	} while (!err && copies.more);
	free(from);
	free(copies.bytes);
	return err;
}

/* --- figures --- */

static uint64_t property(struct rocks *rocks, int family, const char *name)
{
	uint64_t number = 0;

	rocksdb_property_int_cf(rocks->db, rocks->family[family], name, &number);
	return number;
}

void rocks_figures(struct rocks *rocks, uint64_t *ret_disk_bytes, uint64_t *ret_memory_bytes)
{
	uint64_t disk = 0, memory = 0;

	pthread_rwlock_rdlock(&rocks->lock);
	for (int i = 0; rocks->db && i < ROCKS_FAMILIES; i++) {
		disk += property(rocks, i, "rocksdb.total-sst-files-size");
		memory += property(rocks, i, "rocksdb.cur-size-all-mem-tables") +
			  property(rocks, i, "rocksdb.estimate-table-readers-mem");
	}
	pthread_rwlock_unlock(&rocks->lock);
	*ret_disk_bytes = disk;
	*ret_memory_bytes = memory + rocksdb_cache_get_usage(rocks->cache);
}

/* "rocksdb.wal.bytes COUNT : 123", a line each. */
static uint64_t ticker(const char *text, const char *name)
{
	const char *at = strstr(text, name), *colon = at ? strchr(at, ':') : NULL;

	return colon ? strtoull(colon + 1, NULL, 10) : 0;
}

uint64_t rocks_written(struct rocks *rocks)
{
	uint64_t bytes = 0;
	char *text;

	pthread_rwlock_rdlock(&rocks->lock);
	text = rocksdb_options_statistics_get_string(rocks->options);
	pthread_rwlock_unlock(&rocks->lock);
	if (text)
		bytes = ticker(text, "rocksdb.wal.bytes ") + ticker(text, "rocksdb.flush.write.bytes ") +
			ticker(text, "rocksdb.compact.write.bytes ");
	rocksdb_free(text);
	return bytes;
}
