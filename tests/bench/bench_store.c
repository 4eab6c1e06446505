/* bench/bench_store.c - ways to keep blocks, side by side: what the choice in src/cold/store_rocks.c rests on.
 *
 *   bench_store [-d DIR] [-w DIR] [-n BLOCKS] [-b BATCH] [-p seq|rand] [-g GETS] [-r ROUNDS]
 *               [-o ROCKSDB_OPTIONS] [-B] VARIANT...
 *
 * Each variant runs in a process of its own: fill, overwrite half (ROUNDS times), settle, random gets, gets beside
 * puts, walks. Values are 4 to 6 KiB of noise, as 16 KiB blocks compressed 3:1 would be; MB/s are of the 16 KiB. CPU is
 * of the whole process with all its threads; written bytes are those of /proc/self/io without the ones that were
 * dropped before they reached the disk. All variants but "store" put the values into RocksDB itself, in different ways;
 * "store" is the product.
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <rocksdb/c.h>

#include "base/clock.h"
#include "cold/store_rocks.h"

#define LOGICAL_BYTES 16384.0
#define POOL_BYTES (8U << 20)
#define KEY_BYTES 16
#define MB 1e6

struct variant {
	const char *name;
	bool blob, wal, flush, ingest, wal_elsewhere, product;
	const char *text;
};

static const struct variant variants[] = {
	{ "sst-wal", false, true, false, false, false, false, "SST, WAL not synced" },
	{ "sst-flush", false, false, true, false, false, false, "SST, no WAL, flush each batch" },
	{ "ingest", false, false, false, true, false, false, "SstFileWriter + ingest" },
	{ "blob-wal", true, true, false, false, false, false, "BlobDB, WAL not synced" },
	{ "blob-flush", true, false, true, false, false, false, "BlobDB, no WAL, flush each batch" },
	{ "sst-wal-tmpfs", false, true, false, false, true, false, "SST, WAL in tmpfs" },
	{ "blob-wal-tmpfs", true, true, false, false, true, false, "BlobDB, WAL in tmpfs" },
	{ "store", false, false, false, false, false, true, "the store of tierfs: values beside the database" },
};
#define VARIANTS (sizeof(variants) / sizeof(variants[0]))

static struct {
	const char *dir, *wal_dir, *more;
	uint64_t blocks, gets, walk_readahead, rounds;
	size_t batch;
	bool random, buffered;
} config = { "/var/tmp", "/dev/shm", "", 131072, 3000, 4 << 20, 1, 256, true, false };

static const struct variant *variant;
static char db_dir[256], wal_dir[256];
static rocksdb_options_t *options;
static rocksdb_t *db;
static rocksdb_writeoptions_t *write_options;
static rocksdb_readoptions_t *read_options;
static rocksdb_flushoptions_t *flush_options;
static rocksdb_ingestexternalfileoptions_t *ingest_options;
static char *pool;
static struct store *store;

static void die(const char *what, const char *why)
{
	fprintf(stderr, "bench_store: %s: %s\n", what, why);
	_exit(1);
}

static void check(const char *what, char *error)
{
	if (error)
		die(what, error);
}

/* --- what was used --- */

struct used {
	double wall, cpu;
	uint64_t disk_bytes;
};

static uint64_t written_bytes(void)
{
	uint64_t written = 0, cancelled = 0;
	char line[128];
	FILE *file = fopen("/proc/self/io", "re");

	while (file && fgets(line, sizeof(line), file)) {
		sscanf(line, "write_bytes: %lu", &written);
		sscanf(line, "cancelled_write_bytes: %lu", &cancelled);
	}
	if (file)
		fclose(file);
	return written - cancelled;
}

static struct used used_now(void)
{
	struct rusage usage;

	getrusage(RUSAGE_SELF, &usage);
	return (struct used){
		(double)clock_ns() / 1e9,
		(double)usage.ru_utime.tv_sec + (double)usage.ru_stime.tv_sec +
			(double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6,
		written_bytes(),
	};
}

static uint64_t status_bytes(const char *field)
{
	char line[128], format[32];
	uint64_t kib = 0;
	FILE *file = fopen("/proc/self/status", "re");

	snprintf(format, sizeof(format), "%s: %%lu", field);
	while (file && fgets(line, sizeof(line), file)) {
		if (strncmp(line, field, strlen(field)) == 0)
			kib = strtoul(line + strlen(field) + 1, NULL, 10);
	}
	if (file)
		fclose(file);
	return kib * 1024;
}

/* --- content --- */

static uint64_t mix(uint64_t x)
{
	x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
	x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
	return x ^ (x >> 31);
}

static const char *value_of(uint64_t block, uint64_t round, size_t *ret_len)
{
	uint64_t h = mix(block * 2654435761U + round);

	*ret_len = 4096 + h % 2048;
	return pool + (h >> 16) % (POOL_BYTES - 8192);
}

static void key_of(uint64_t block, char *at)
{
	uint64_t big[2] = { __builtin_bswap64(2), __builtin_bswap64(block) };

	memcpy(at, big, KEY_BYTES);
}

/* Order of writing, another one in each round: a permutation without memory (an odd multiplier over a power of two). */
static uint64_t nth_block(uint64_t n, uint64_t round)
{
	uint64_t odd = UINT64_C(0x9e3779b97f4a7c15) + 2 * mix(round);

	return config.random ? (n * odd + 12345) % config.blocks : n % config.blocks;
}

/* --- the variants --- */

static void open_product(void)
{
	struct store_rocks_config product = { .dir = db_dir, .create = true, .block_bytes = 16384 };

	if (store_rocks_open(&product, &store) < 0)
		die("open", "failed");
}

static void open_db(void)
{
	char text[2048];
	char *error = NULL;
	rocksdb_options_t *base = rocksdb_options_create();

	snprintf(text, sizeof(text),
		 "create_if_missing=true;compression=kNoCompression;use_direct_reads=%d;"
		 "use_direct_io_for_flush_and_compaction=%d;max_background_jobs=2;max_open_files=512;"
		 "write_buffer_size=16M;max_write_buffer_number=3;"
		 "info_log_level=FATAL_LEVEL;stats_dump_period_sec=0;stats_persist_period_sec=0;"
		 "%s%s%s%s"
		 "block_based_table_factory={block_cache=32M;cache_index_and_filter_blocks=true;block_size=%d;"
		 "filter_policy=bloomfilter:10:false;format_version=5;index_type=kTwoLevelIndexSearch;"
		 "partition_filters=true;metadata_block_size=4096;pin_top_level_index_and_filter=true;checksum=kXXH3};%"
		 "s",
		 !config.buffered, !config.buffered,
		 variant->blob ? "enable_blob_files=true;min_blob_size=256;blob_file_size=64M;"
				 "enable_blob_garbage_collection=true;blob_garbage_collection_age_cutoff=0.25;"
				 "blob_garbage_collection_force_threshold=0.5;"
			       : "",
		 variant->wal_elsewhere ? "wal_dir=" : "", variant->wal_elsewhere ? wal_dir : "",
		 variant->wal_elsewhere ? ";" : "", variant->blob ? 16384 : 4096, config.more);
	options = rocksdb_options_create();
	rocksdb_get_options_from_string(base, text, options, &error);
	check("options", error);
	rocksdb_options_destroy(base);
	db = rocksdb_open(options, db_dir, &error);
	check("open", error);
	write_options = rocksdb_writeoptions_create();
	rocksdb_writeoptions_disable_WAL(write_options, !variant->wal);
	read_options = rocksdb_readoptions_create();
	rocksdb_readoptions_set_verify_checksums(read_options, 0);
	flush_options = rocksdb_flushoptions_create();
	rocksdb_flushoptions_set_wait(flush_options, 1);
	ingest_options = rocksdb_ingestexternalfileoptions_create();
	rocksdb_ingestexternalfileoptions_set_move_files(ingest_options, 1);
}

static void put_product(const uint64_t *blocks, size_t count, uint64_t round)
{
	struct store_item *items = calloc(count, sizeof(*items));

	for (size_t i = 0; i < count; i++) {
		size_t len;

		items[i].key = (struct store_key){ 2, blocks[i] };
		items[i].value = value_of(blocks[i], round, &len);
		items[i].length_bytes = (uint32_t)len;
	}
	if (store->ops->put(store, STORE_DEMOTION, items, count) < 0)
		die("put", "failed");
	free(items);
}

static void put_written(const uint64_t *blocks, size_t count, uint64_t round)
{
	rocksdb_writebatch_t *batch = rocksdb_writebatch_create();
	char *error = NULL;

	for (size_t i = 0; i < count; i++) {
		char key[KEY_BYTES];
		size_t len;
		const char *value = value_of(blocks[i], round, &len);

		key_of(blocks[i], key);
		rocksdb_writebatch_put(batch, key, sizeof(key), value, len);
	}
	rocksdb_write(db, write_options, batch, &error);
	check("write", error);
	rocksdb_writebatch_destroy(batch);
	if (variant->flush) {
		rocksdb_flush(db, flush_options, &error);
		check("flush", error);
	}
}

static int compare_blocks(const void *left, const void *right)
{
	const uint64_t *a = left, *b = right;

	return *a < *b ? -1 : *a > *b;
}

static void put_ingested(uint64_t *blocks, size_t count, uint64_t round)
{
	static _Atomic uint64_t serial;
	rocksdb_envoptions_t *env = rocksdb_envoptions_create();
	rocksdb_sstfilewriter_t *writer = rocksdb_sstfilewriter_create(env, options);
	char path[300], *error = NULL;
	const char *paths[1] = { path };

	snprintf(path, sizeof(path), "%s/ingest-%lu.sst", db_dir, (unsigned long)atomic_fetch_add(&serial, 1));
	qsort(blocks, count, sizeof(*blocks), compare_blocks);
	rocksdb_sstfilewriter_open(writer, path, &error);
	check("sst", error);
	for (size_t i = 0; i < count; i++) {
		char key[KEY_BYTES];
		size_t len;
		const char *value = value_of(blocks[i], round, &len);

		if (i && blocks[i] == blocks[i - 1])
			continue;
		key_of(blocks[i], key);
		rocksdb_sstfilewriter_put(writer, key, sizeof(key), value, len, &error);
		check("sst put", error);
	}
	rocksdb_sstfilewriter_finish(writer, &error);
	check("sst finish", error);
	rocksdb_ingest_external_file(db, paths, 1, ingest_options, &error);
	check("ingest", error);
	rocksdb_sstfilewriter_destroy(writer);
	rocksdb_envoptions_destroy(env);
}

/* Puts count blocks from the nth on, and returns the bytes of their values. */
static uint64_t put_many(uint64_t from, uint64_t count, uint64_t round)
{
	uint64_t *blocks = calloc(config.batch, sizeof(*blocks));
	uint64_t bytes = 0;

	for (uint64_t done = 0; done < count;) {
		size_t n = 0;

		for (; n < config.batch && done < count; n++, done++) {
			size_t len;

			blocks[n] = nth_block(from + done, round);
			value_of(blocks[n], round, &len);
			bytes += len;
		}
		if (variant->ingest)
			put_ingested(blocks, n, round);
		else if (variant->product)
			put_product(blocks, n, round);
		else
			put_written(blocks, n, round);
	}
	free(blocks);
	return bytes;
}

static uint64_t property(const char *name)
{
	uint64_t number = 0;

	rocksdb_property_int(db, name, &number);
	return number;
}

/* Until the collector has nothing more to do. */
static void settle_product(void)
{
	struct store_figures before, now;

	store->ops->sync(store);
	store->ops->figures(store, &now);
	do {
		before = now;
		usleep(300000);
		store->ops->figures(store, &now);
	} while (now.disk_bytes != before.disk_bytes);
}

static void settle(void)
{
	char *error = NULL;

	if (variant->product) {
		settle_product();
		return;
	}
	if (variant->wal) {
		rocksdb_flush(db, flush_options, &error);
		check("flush", error);
	}
	for (int quiet = 0; quiet < 5; quiet++) {
		if (property("rocksdb.num-running-compactions") || property("rocksdb.compaction-pending") ||
		    property("rocksdb.num-running-flushes") || property("rocksdb.mem-table-flush-pending"))
			quiet = 0;
		usleep(20000);
	}
}

/* --- gets and walks --- */

static int compare_double(const void *left, const void *right)
{
	const double *a = left, *b = right;

	return *a < *b ? -1 : *a > *b;
}

static void get_one(uint64_t block)
{
	char key[KEY_BYTES], value[8192], *error = NULL;
	rocksdb_pinnableslice_t *slice;
	size_t len;

	if (variant->product) {
		if (store->ops->get(store, STORE_GUEST, (struct store_key){ 2, block }, value, sizeof(value), &len) < 0)
			die("get", "a block is missing");
		return;
	}
	key_of(block, key);
	slice = rocksdb_get_pinned(db, read_options, key, sizeof(key), &error);
	check("get", error);
	if (!slice)
		die("get", "a block is missing");
	rocksdb_pinnableslice_destroy(slice);
}

static void get_many(uint64_t count, uint64_t seed, double *ret_p50, double *ret_p99)
{
	double *us = calloc(count, sizeof(*us));

	for (uint64_t i = 0; i < count; i++) {
		uint64_t start = clock_ns();

		get_one(mix(seed + i) % config.blocks);
		us[i] = (double)(clock_ns() - start) / 1e3;
	}
	qsort(us, count, sizeof(*us), compare_double);
	*ret_p50 = us[count / 2];
	*ret_p99 = us[count * 99 / 100];
	free(us);
}

static _Atomic bool stop;

static void *putter(void *arg)
{
	uint64_t n = 0;

	(void)arg;
	while (!stop) {
		put_many(n, config.batch, 3);
		n += config.batch;
		usleep(20000); /* a demoter that keeps a steady pace */
	}
	return NULL;
}

static int see(void *arg, struct store_key key, const void *value, uint32_t len)
{
	(void)key;
	(void)value;
	(void)len;
	++*(uint64_t *)arg;
	return 0;
}

static double rate(uint64_t count, uint64_t start_ns)
{
	return (double)count * LOGICAL_BYTES / MB / ((double)(clock_ns() - start_ns) / 1e9);
}

static double walk_product(void)
{
	uint64_t start = clock_ns(), count = 0;

	for (uint64_t first = 0; first < config.blocks && clock_ns() - start < 4 * NS_PER_S; first += 256) {
		if (store->ops->walk(store, STORE_DIRECT, 2, first, 256, see, &count) < 0)
			die("walk", "failed");
	}
	return rate(count, start);
}

static double walk_all(void)
{
	rocksdb_readoptions_t *read = rocksdb_readoptions_create();
	uint64_t start = clock_ns(), count = 0;
	rocksdb_iterator_t *iter;

	if (variant->product)
		return walk_product();
	rocksdb_readoptions_set_verify_checksums(read, 0);
	rocksdb_readoptions_set_fill_cache(read, 0);
	rocksdb_readoptions_set_readahead_size(read, config.walk_readahead);
	iter = rocksdb_create_iterator(db, read);
	for (rocksdb_iter_seek_to_first(iter); rocksdb_iter_valid(iter); rocksdb_iter_next(iter)) {
		size_t len;

		rocksdb_iter_value(iter, &len);
		count++;
		if ((count & 63) == 0 && clock_ns() - start > 4 * NS_PER_S)
			break;
	}
	rocksdb_iter_destroy(iter);
	rocksdb_readoptions_destroy(read);
	return rate(count, start);
}

/* Consecutive keys in one call: the database merges what lies together on the disk. */
static double multi_get_all(size_t at_once)
{
	uint64_t start = clock_ns(), count = 0;
	char(*keys)[KEY_BYTES] = calloc(at_once, sizeof(*keys));
	const char **pointers = calloc(at_once, sizeof(*pointers));
	size_t *lens = calloc(at_once, sizeof(*lens));
	char **errors = calloc(at_once, sizeof(*errors));
	rocksdb_pinnableslice_t **slices = calloc(at_once, sizeof(*slices));
	rocksdb_column_family_handle_t *family = NULL;
	const char *names[1] = { "default" };
	char *error = NULL;
	const rocksdb_options_t *family_options[1] = { options };

	rocksdb_close(db); /* the handle of the default family is only had by opening with it */
	db = rocksdb_open_column_families(options, db_dir, 1, names, family_options, &family, &error);
	check("open", error);
	for (uint64_t first = 0; first + at_once <= config.blocks; first += at_once) {
		for (size_t i = 0; i < at_once; i++) {
			key_of(first + i, keys[i]);
			pointers[i] = keys[i];
			lens[i] = KEY_BYTES;
		}
		rocksdb_batched_multi_get_cf(db, read_options, family, at_once, pointers, lens, slices, errors, true);
		for (size_t i = 0; i < at_once; i++) {
			check("multi get", errors[i]);
			if (!slices[i])
				die("multi get", "a block is missing");
			rocksdb_pinnableslice_destroy(slices[i]);
			count++;
		}
		if (clock_ns() - start > 4 * NS_PER_S)
			break;
	}
	rocksdb_column_family_handle_destroy(family);
	free(keys);
	free(pointers);
	free(lens);
	free(errors);
	free(slices);
	return rate(count, start);
}

/* --- one run --- */

static uint64_t disk_usage(void)
{
	struct store_figures figures;

	if (variant->product) {
		store->ops->figures(store, &figures);
		return figures.disk_bytes;
	}
	return property("rocksdb.total-sst-files-size") + property("rocksdb.total-blob-file-size");
}

static void run(void)
{
	struct used start, filled, over;
	uint64_t fill_bytes, over_bytes = 0, rss;
	double p50, p99, busy_p50, busy_p99, walk, memory;
	double logical = (double)config.blocks * (1 + (double)config.rounds / 2) * LOGICAL_BYTES;
	pthread_t thread;

	rss = status_bytes("VmRSS");
	if (variant->product)
		open_product();
	else
		open_db();
	start = used_now();
	fill_bytes = put_many(0, config.blocks, 0);
	filled = used_now();
	for (uint64_t i = 0; i < config.rounds; i++)
		over_bytes += put_many((2 * i + 1) * config.blocks / 4, config.blocks / 2, i + 1);
	settle();
	over = used_now();
	printf("%-15s %5zu %-4s | %7.0f %7.0f | %5.2f %5.2f |", variant->name, config.batch,
	       config.random ? "rand" : "seq", logical / MB / (over.cpu - start.cpu),
	       (double)config.blocks * LOGICAL_BYTES / MB / (filled.wall - start.wall),
	       (double)(over.disk_bytes - start.disk_bytes) / (double)(fill_bytes + over_bytes),
	       (double)disk_usage() / (double)fill_bytes);
	get_many(config.gets, 1, &p50, &p99); /* warms the index */
	get_many(config.gets, 777777, &p50, &p99);
	walk = walk_all();
	pthread_create(&thread, NULL, putter, NULL);
	get_many(config.gets, 999999, &busy_p50, &busy_p99);
	stop = true;
	pthread_join(thread, NULL);
	memory = (double)(status_bytes("VmHWM") - rss) / MB;
	printf(" %6.0f %6.0f | %6.0f %6.0f | %6.0f %6.0f | %6.1f\n", p50, p99, busy_p50, busy_p99, walk,
	       variant->product ? walk : multi_get_all(256), memory);
	fflush(stdout);
	if (variant->product)
		store->ops->free(store);
}

static void remove_db(const char *path)
{
	char command[600];

	snprintf(command, sizeof(command), "rm -rf '%s'", path);
	if (system(command) != 0)
		fprintf(stderr, "bench_store: cannot remove %s\n", path);
}

static int run_apart(const struct variant *which)
{
	int status = 1;
	pid_t child;

	variant = which;
	snprintf(db_dir, sizeof(db_dir), "%s/bench-store-XXXXXX", config.dir);
	snprintf(wal_dir, sizeof(wal_dir), "%s/bench-wal-XXXXXX", config.wal_dir);
	if (!mkdtemp(db_dir) || !mkdtemp(wal_dir))
		die(db_dir, strerror(errno));
	fflush(stdout);
	child = fork();
	if (child == 0) {
		run();
		_exit(0);
	}
	waitpid(child, &status, 0);
	remove_db(db_dir);
	remove_db(wal_dir);
	return status;
}

static int usage(void)
{
	fprintf(stderr,
		"usage: bench_store [-d DIR] [-w WAL_DIR] [-n BLOCKS] [-b BATCH] [-p seq|rand] [-g GETS] [-r ROUNDS]\n"
		"                   [-o ROCKSDB_OPTIONS] [-B (buffered)] VARIANT...|all\n");
	for (size_t i = 0; i < VARIANTS; i++)
		fprintf(stderr, "  %-15s %s\n", variants[i].name, variants[i].text);
	return 1;
}

static int parse(int argc, char **argv)
{
	int c;

	while ((c = getopt(argc, argv, "d:w:n:b:p:g:r:o:B")) != -1) {
		switch (c) {
		case 'd':
			config.dir = optarg;
			break;
		case 'w':
			config.wal_dir = optarg;
			break;
		case 'n':
			config.blocks = strtoull(optarg, NULL, 0);
			break;
		case 'b':
			config.batch = strtoull(optarg, NULL, 0);
			break;
		case 'p':
			config.random = strcmp(optarg, "seq") != 0;
			break;
		case 'g':
			config.gets = strtoull(optarg, NULL, 0);
			break;
		case 'r':
			config.rounds = strtoull(optarg, NULL, 0);
			break;
		case 'o':
			config.more = optarg;
			break;
		case 'B':
			config.buffered = true;
			break;
		default:
			return -EINVAL;
		}
	}
	/* The permutation of nth_block() needs a power of two. */
	if (!config.batch || !config.gets || config.blocks < 1024 || config.blocks & (config.blocks - 1) ||
	    optind == argc)
		return -EINVAL;
	return 0;
}

int main(int argc, char **argv)
{
	int failed = 0;

	if (parse(argc, argv) < 0)
		return usage();
	pool = malloc(POOL_BYTES);
	if (!pool)
		return 1;
	for (uint64_t i = 0; i < POOL_BYTES / 8; i++)
		((uint64_t *)(void *)pool)[i] = mix(i);
	printf("%-15s %5s %-4s | %7s %7s | %5s %5s | %6s %6s | %6s %6s | %6s %6s | %6s\n", "", "", "", "MB/s", "fill",
	       "write", "space", "get us", "", "busy", "", "walk", "multi", "memory");
	printf("%-15s %5s %-4s | %7s %7s | %5s %5s | %6s %6s | %6s %6s | %6s %6s | %6s\n", "variant", "batch", "keys",
	       "per CPU", "MB/s", "amp", "amp", "p50", "p99", "p50", "p99", "MB/s", "MB/s", "MB");
	for (size_t i = 0; i < VARIANTS; i++) {
		for (int a = optind; a < argc; a++) {
			if (strcmp(argv[a], "all") == 0 || strcmp(argv[a], variants[i].name) == 0)
				failed |= run_apart(&variants[i]);
		}
	}
	return failed ? 1 : 0;
}
