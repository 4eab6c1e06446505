/* unit/test_store_rocks.c - what only the store on RocksDB has: files, their garbage and their damage. */
#include <check.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <rocksdb/c.h>

#include "../lib/lib_scratch.h"
#include "base/le.h"
#include "cold/store_rocks.h"
#include "cold/store_state.h"
#include "lib_check.h"

#define VALUE_BYTES 5000U
#define SEGMENT_BYTES (1U << 20)
#define INO 3

static struct scratch scratch; /* of the whole program: a test that fails ends without its teardown */
static char dir[SCRATCH_PATH_LEN + 16];
static struct store *store;

static int open_store(bool create)
{
	struct store_rocks_config config = {
		.dir = dir,
		.create = create,
		.block_bytes = 16384,
		.write_buffer_bytes = 1 << 20,
		.segment_bytes = SEGMENT_BYTES,
	};

	return store_rocks_open(&config, &store);
}

static void setup(void)
{
	snprintf(dir, sizeof(dir), "%s/XXXXXX", scratch.path);
	ck_assert_ptr_nonnull(mkdtemp(dir));
	ck_assert_int_eq(open_store(true), 0);
}

static void teardown(void)
{
	store->ops->free(store);
}

static void reopen(void)
{
	store->ops->free(store);
	ck_assert_int_eq(open_store(false), 0);
}

static void fill(uint8_t *at, uint64_t block, uint32_t round)
{
	uint64_t state = block * UINT64_C(0x9e3779b97f4a7c15) + round;

	for (uint32_t i = 0; i < VALUE_BYTES; i++) {
		state = state * UINT64_C(6364136223846793005) + 1442695040888963407U;
		at[i] = (uint8_t)(state >> 56);
	}
}

/* Puts count blocks, the nth being first + n * stride, as one batch. */
static int put(uint64_t first, uint64_t count, uint64_t stride, uint32_t round)
{
	struct store_item *items = calloc(count, sizeof(*items));
	uint8_t *values = malloc(count * VALUE_BYTES);
	int r;

	ck_assert(items && values);
	for (uint64_t i = 0; i < count; i++) {
		items[i] = (struct store_item){ { INO, first + i * stride }, values + i * VALUE_BYTES, VALUE_BYTES };
		fill(values + i * VALUE_BYTES, items[i].key.block, round);
	}
	r = store->ops->put(store, STORE_DEMOTION, items, count);
	free(items);
	free(values);
	return r;
}

static int get(uint64_t block, uint32_t round)
{
	uint8_t want[VALUE_BYTES], got[VALUE_BYTES];
	size_t len;
	int r = store->ops->get(store, STORE_GUEST, (struct store_key){ INO, block }, got, sizeof(got), &len);

	if (r < 0)
		return r;
	fill(want, block, round);
	return len == VALUE_BYTES && memcmp(want, got, len) == 0 ? 0 : -EILSEQ;
}

static struct store_figures figures(void)
{
	struct store_figures now;

	store->ops->figures(store, &now);
	return now;
}

/* --- files of values --- */

static void values_path(char *path, size_t cap, const char *name)
{
	snprintf(path, cap, "%s/values%s%s", dir, name ? "/" : "", name ? name : "");
}

/* Number of files, and the bytes that they take up on the disk. */
static int segment_files(uint64_t *ret_bytes, char *ret_first, size_t cap)
{
	char path[SCRATCH_PATH_LEN + 64];
	struct dirent *entry;
	int count = 0;
	DIR *open;

	values_path(path, sizeof(path), NULL);
	open = opendir(path);
	ck_assert_ptr_nonnull(open);
	*ret_bytes = 0;
	while ((entry = readdir(open))) {
		struct stat attr;

		if (entry->d_name[0] == '.')
			continue;
		if (fstatat(dirfd(open), entry->d_name, &attr, 0) < 0) {
			ck_assert_int_eq(errno, ENOENT); /* the collector was faster */
			continue;
		}
		*ret_bytes += (uint64_t)attr.st_blocks * 512;
		if (ret_first && (!count || strcmp(entry->d_name, ret_first) < 0))
			snprintf(ret_first, cap, "%.31s", entry->d_name); /* names of segments are shorter */
		count++;
	}
	closedir(open);
	return count;
}

static void wait_for_disk(uint64_t at_most)
{
	for (int i = 0; figures().disk_bytes > at_most && i < 3000; i++)
		usleep(10000);
	ck_assert_uint_le(figures().disk_bytes, at_most);
}

/* More segments than may be open: who rested longest is closed, and who was read last is not. */
START_TEST(descriptors_that_rest_are_closed)
{
	struct segments *segments = &store_rocks_of(store)->segments;
	uint64_t bytes;

	segments->open_most = 5;
	for (uint64_t first = 0; first < 4000; first += 100)
		ck_assert_int_eq(put(first, 100, 1, 1), 0);
	ck_assert_int_ge(segment_files(&bytes, NULL, 0), 19);
	for (uint64_t i = 0; i < 4000; i++) {
		ck_assert_int_eq(get(i * 1117 % 4000, 1), 0);
		lock_get(&segments->lock);
		ck_assert_uint_le(segments->open_files, 5);
		lock_put(&segments->lock);
	}
	ck_assert_uint_le(scratch_descriptors("/values/"), 6); /* and the directory of them is not counted */
	/* Two that are read in turns stay open, whatever else is read once between. */
	for (uint64_t i = 0; i < 100; i++) {
		struct place place;

		ck_assert_int_eq(get(0, 1), 0);
		ck_assert_int_eq(get(1000 + 29 * i, 1), 0);
		lock_get(&segments->lock);
		ck_assert(places_get(&store_rocks_of(store)->places, (struct store_key){ INO, 0 }, &place));
		ck_assert_int_ge(segments_find(segments, place.segment)->fd, 0);
		lock_put(&segments->lock);
	}
}
END_TEST

START_TEST(space_comes_back_after_a_removal)
{
	uint64_t before, after;

	ck_assert_int_eq(put(0, 4000, 1, 1), 0);
	ck_assert_int_ge(segment_files(&before, NULL, 0), 19);
	ck_assert_uint_ge(figures().disk_bytes, 4000 * VALUE_BYTES);
	ck_assert_int_eq(store->ops->remove(store, INO, 0, UINT64_MAX), 0);
	ck_assert_int_eq(store->ops->sync(store), 0);
	while (segment_files(&after, NULL, 0) >
	       1) /* the one that is being filled; the collector may be at the others */
		usleep(10000);
	ck_assert_uint_le(after, SEGMENT_BYTES);
	reopen();
	ck_assert_int_eq(segment_files(&after, NULL, 0), 0);
	ck_assert_int_eq(get(17, 1), -ENOENT);
}
END_TEST

START_TEST(ends_of_files_are_cut_off)
{
	uint64_t bytes;

	ck_assert_int_eq(put(0, 10, 1, 1), 0);
	ck_assert_int_eq(segment_files(&bytes, NULL, 0), 1);
	ck_assert_uint_ge(bytes, SEGMENT_BYTES); /* allocated in full while it is filled */
	reopen();
	ck_assert_int_eq(segment_files(&bytes, NULL, 0), 1);
	ck_assert_uint_le(bytes, 16 * 4096);
	for (uint64_t block = 0; block < 10; block++)
		ck_assert_int_eq(get(block, 1), 0);
}
END_TEST

START_TEST(files_that_nobody_refers_to_go)
{
	char path[SCRATCH_PATH_LEN + 64];
	uint64_t bytes;
	int fd;

	ck_assert_int_eq(put(0, 10, 1, 1), 0);
	values_path(path, sizeof(path), "00012345");
	fd = open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
	ck_assert_int_ge(fd, 0);
	close(fd);
	values_path(path, sizeof(path), "notes.txt"); /* not one of ours */
	fd = open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
	ck_assert_int_ge(fd, 0);
	close(fd);
	reopen();
	ck_assert_int_eq(segment_files(&bytes, NULL, 0), 2);
	ck_assert_int_eq(put(10, 1000, 1, 1), 0);
	ck_assert_int_eq(get(3, 1), 0);
	ck_assert_int_eq(get(1009, 1), 0);
}
END_TEST

/* --- the collector --- */

/* Few files, so that nothing hurries: they go when they have waited for long enough. */
START_TEST(space_comes_back_without_a_sync)
{
	ck_assert_int_eq(put(0, 400, 1, 1), 0);
	ck_assert_uint_ge(figures().disk_bytes, 400 * VALUE_BYTES);
	ck_assert_int_eq(store->ops->remove(store, INO, 0, UINT64_MAX), 0);
	wait_for_disk(SEGMENT_BYTES);
}
END_TEST

START_TEST(garbage_is_collected)
{
	/* Every second block again and again: each segment is half live until the collector comes. */
	ck_assert_int_eq(put(0, 4000, 1, 1), 0);
	for (uint32_t round = 2; round < 8; round++) {
		for (uint64_t first = 0; first < 4000; first += 500)
			ck_assert_int_eq(put(first, 250, 2, round), 0);
	}
	wait_for_disk(4000 * VALUE_BYTES * 3 / 2 + 8 * SEGMENT_BYTES);
	for (uint64_t block = 0; block < 4000; block++)
		ck_assert_int_eq(get(block, block % 2 ? 1 : 7), 0);
	reopen();
	for (uint64_t block = 0; block < 4000; block++)
		ck_assert_int_eq(get(block, block % 2 ? 1 : 7), 0);
}
END_TEST

static _Atomic bool stop;
static _Atomic int wrong;
static _Atomic uint64_t reads;

/* Any round that was ever put is right: what must not be seen is nothing, or something else. */
static void *reader(void *arg)
{
	uint64_t state = (uintptr_t)arg;

	while (!stop) {
		uint8_t got[VALUE_BYTES], want[VALUE_BYTES];
		uint64_t block;
		size_t len;
		uint32_t round = 0;

		state = state * UINT64_C(6364136223846793005) + 1;
		block = (state >> 33) % 1000;
		if (store->ops->get(store, STORE_GUEST, (struct store_key){ INO, block }, got, sizeof(got), &len) !=
		    0) {
			wrong++;
			continue;
		}
		do {
			fill(want, block, ++round);
		} while (round < 32 && memcmp(want, got, len) != 0);
		wrong += round == 32;
		reads++;
	}
	return NULL;
}

static int see_any(void *arg, struct store_key key, const void *value, uint32_t len)
{
	(void)key;
	(void)value;
	(void)len;
	++*(uint64_t *)arg;
	return 0;
}

static void *walker(void *arg)
{
	(void)arg;
	while (!stop) {
		uint64_t count = 0;

		if (store->ops->walk(store, STORE_DIRECT, INO, 0, 1000, see_any, &count) != 0 || count != 1000)
			wrong++;
	}
	return NULL;
}

START_TEST(readers_meet_the_collector)
{
	pthread_t thread[3];

	ck_assert_int_eq(put(0, 1000, 1, 1), 0);
	for (uintptr_t i = 0; i < 2; i++)
		ck_assert_int_eq(pthread_create(&thread[i], NULL, reader, (void *)(i + 1)), 0);
	ck_assert_int_eq(pthread_create(&thread[2], NULL, walker, NULL), 0);
	for (uint32_t round = 2; round < 31; round++) {
		for (uint64_t first = 0; first < 7; first++)
			ck_assert_int_eq(put(first, 130, 7, round), 0);
	}
	stop = true;
	for (int i = 0; i < 3; i++)
		pthread_join(thread[i], NULL);
	ck_assert_int_eq(wrong, 0);
	ck_assert_uint_gt(reads, 0);
	for (uint64_t block = 0; block < 900; block++)
		ck_assert_int_eq(get(block, 30), 0);
}
END_TEST

/* --- damage --- */

static void first_segment(char *path, size_t cap)
{
	char name[32] = "";
	uint64_t bytes;

	segment_files(&bytes, name, sizeof(name));
	values_path(path, cap, name);
}

START_TEST(a_lost_file_is_damage_and_no_hole)
{
	char path[SCRATCH_PATH_LEN + 64];
	uint64_t seen = 0, lost = 0;

	ck_assert_int_eq(put(0, 1000, 1, 1), 0);
	first_segment(path, sizeof(path));
	store->ops->free(store);
	ck_assert_int_eq(unlink(path), 0);
	ck_assert_int_eq(open_store(false), 0);
	for (uint64_t block = 0; block < 1000; block++) {
		int r = get(block, 1);

		ck_assert(r == 0 || r == -EBADMSG);
		lost += r != 0;
	}
	ck_assert_uint_ge(lost, 100);
	ck_assert_uint_le(lost, 250);
	ck_assert_uint_eq(figures().errors, lost);
	ck_assert_int_eq(store->ops->walk(store, STORE_DIRECT, INO, 0, 1000, see_any, &seen), 0);
	ck_assert_uint_eq(seen, 1000 - lost); /* what cannot be read is left out */
	ck_assert_int_eq(put(0, 1000, 1, 2), 0);
	ck_assert_int_eq(get(0, 2), 0);
	ck_assert_int_eq(store->ops->remove(store, INO, 0, UINT64_MAX), 0);
}
END_TEST

START_TEST(a_cut_file_loses_its_end_only)
{
	char path[SCRATCH_PATH_LEN + 64];
	uint64_t seen = 0;

	ck_assert_int_eq(put(0, 100, 1, 1), 0);
	store->ops->free(store);
	first_segment(path, sizeof(path));
	ck_assert_int_eq(truncate(path, 50 * 5056), 0);
	ck_assert_int_eq(open_store(false), 0);
	for (uint64_t block = 0; block < 100; block++)
		ck_assert_int_eq(get(block, 1), block < 50 ? 0 : -EBADMSG);
	ck_assert_int_eq(store->ops->walk(store, STORE_DIRECT, INO, 0, 1000, see_any, &seen), 0);
	ck_assert_uint_eq(seen, 50);
}
END_TEST

/* --- opening --- */

START_TEST(opening_what_is_not_there_or_in_use)
{
	struct store_rocks_config config = { .dir = dir, .create = false, .block_bytes = 16384 };
	struct store *second = NULL;
	char saved[sizeof(dir)];

	ck_assert_int_eq(store_rocks_open(&config, &second), -EBUSY);
	memcpy(saved, dir, sizeof(dir));
	store->ops->free(store);
	snprintf(dir, sizeof(dir), "%s/XXXXXX", scratch.path);
	ck_assert_ptr_nonnull(mkdtemp(dir));
	ck_assert_int_eq(store_rocks_open(&config, &second), -ENOENT);
	snprintf(dir, sizeof(dir), "%s/none", scratch.path);
	ck_assert_int_eq(store_rocks_open(&config, &second), -ENOENT);
	ck_assert_ptr_null(second);
	memcpy(dir, saved, sizeof(dir));
	ck_assert_int_eq(open_store(false), 0);
}
END_TEST

/* Puts a record under the store's back. */
static void write_record(const char *key, size_t key_len, const char *value, size_t value_len)
{
	const char *const names[2] = { "default", "index" };
	rocksdb_options_t *options = rocksdb_options_create();
	const rocksdb_options_t *family_options[2] = { options, options };
	rocksdb_column_family_handle_t *family[2];
	rocksdb_writeoptions_t *write = rocksdb_writeoptions_create();
	char *error = NULL;
	rocksdb_t *db = rocksdb_open_column_families(options, dir, 2, names, family_options, family, &error);

	ck_assert_ptr_null(error);
	rocksdb_put_cf(db, write, family[1], key, key_len, value, value_len, &error);
	ck_assert_ptr_null(error);
	rocksdb_column_family_handle_destroy(family[0]);
	rocksdb_column_family_handle_destroy(family[1]);
	rocksdb_close(db);
	rocksdb_writeoptions_destroy(write);
	rocksdb_options_destroy(options);
}

START_TEST(another_version_is_left_alone)
{
	ck_assert_int_eq(put(0, 10, 1, 1), 0);
	store->ops->free(store);
	write_record("format", 6, "\4\0\0\0", 4);
	ck_assert_int_eq(open_store(false), -EPROTONOSUPPORT);
	write_record("format", 6, "\1\0\0\0", 4);
	ck_assert_int_eq(open_store(false), 0);
	ck_assert_int_eq(get(9, 1), 0);
}
END_TEST

struct heads {
	uint64_t count;
	uint8_t head[4][STORE_HEAD_BYTES];
};

static int keep_head(void *arg, struct store_key key, const void *value, uint32_t length_bytes)
{
	struct heads *heads = arg;

	ck_assert_uint_lt(key.block, 4);
	ck_assert_uint_eq(length_bytes, VALUE_BYTES);
	memcpy(heads->head[key.block], value, STORE_HEAD_BYTES);
	heads->count++;
	return 0;
}

/* The record of a block as stores of the formats 1 and 2 have it: 16 bytes of the value, and an origin or none. The
 * value lies where the store of today has put it: n values after the first. */
static void write_old_record(uint64_t block, unsigned int n, bool origin)
{
	uint32_t span = (VALUE_BYTES + 63) / 64;
	uint8_t key[16] = { [7] = INO, [15] = (uint8_t)block }, record[36] = { 0 }, value[VALUE_BYTES];

	fill(value, block, 1);
	put_le(record, 1, 4);
	put_le(record + 4, n * span, 4);
	put_le(record + 8, VALUE_BYTES, 4);
	memcpy(record + 12, value, 16);
	put_le(record + 28, INO, 8);
	write_record((const char *)key, sizeof(key), (const char *)record, origin ? 36 : 28);
}

START_TEST(stores_of_before_open_and_are_upgraded)
{
	static const char *const formats[] = { "\1\0\0\0", "\2\0\0\0" };
	struct heads heads = { 0 };
	uint8_t want[VALUE_BYTES], zeros[STORE_HEAD_BYTES] = { 0 };

	ck_assert_int_eq(put(0, 3, 1, 1), 0);
	store->ops->free(store);
	for (uint64_t block = 0; block < 3; block++)
		write_old_record(block, (unsigned int)block, _i == 1 && block == 1);
	write_record("format", 6, formats[_i], 4);
	ck_assert_int_eq(open_store(false), 0);
	ck_assert_int_eq(store->ops->heads(store, INO, 0, 10, keep_head, &heads), 0);
	ck_assert_uint_eq(heads.count, 3);
	for (uint64_t block = 0; block < 3; block++) {
		ck_assert_int_eq(get(block, 1), 0);
		fill(want, block, 1);
		ck_assert_mem_eq(heads.head[block], want, 16);
		ck_assert_mem_eq(heads.head[block] + 16, zeros, STORE_HEAD_BYTES - 16);
	}
	/* What is written now has the whole head, beside what was there. */
	ck_assert_int_eq(put(3, 1, 1, 2), 0);
	reopen();
	heads.count = 0;
	ck_assert_int_eq(store->ops->heads(store, INO, 0, 10, keep_head, &heads), 0);
	ck_assert_uint_eq(heads.count, 4);
	fill(want, 3, 2);
	ck_assert_mem_eq(heads.head[3], want, STORE_HEAD_BYTES);
	for (uint64_t block = 0; block < 4; block++)
		ck_assert_int_eq(get(block, block < 3 ? 1 : 2), 0);
}
END_TEST

START_TEST(a_senseless_record_is_damage_and_no_hole)
{
	static const char key[16] = { 0, 0, 0, 0, 0, 0, 0, INO, 0, 0, 0, 0, 0, 0, 0, 5 };

	ck_assert_int_eq(put(0, 10, 1, 1), 0);
	store->ops->free(store);
	write_record(key, sizeof(key), "short", 5);
	ck_assert_int_eq(open_store(false), 0);
	ck_assert_int_eq(get(4, 1), 0);
	ck_assert_int_eq(get(5, 1), -EBADMSG);
	ck_assert_int_eq(put(5, 1, 1, 2), 0);
	ck_assert_int_eq(get(5, 2), 0);
}
END_TEST

START_TEST(values_beyond_the_limit_are_refused)
{
	static uint8_t big[32768];
	struct store_item item = { { INO, 1 }, big, sizeof(big) };

	ck_assert_int_eq(store->ops->put(store, STORE_DEMOTION, &item, 1), -EINVAL);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("store_rocks");
	TCase *tests = tcase_create("store_rocks");
	int failed;

	scratch_new(&scratch, "rocks");
	tcase_set_timeout(tests, 120);
	tcase_add_checked_fixture(tests, setup, teardown);
	tcase_add_test(tests, descriptors_that_rest_are_closed);
	tcase_add_test(tests, space_comes_back_after_a_removal);
	tcase_add_test(tests, ends_of_files_are_cut_off);
	tcase_add_test(tests, files_that_nobody_refers_to_go);
	tcase_add_test(tests, space_comes_back_without_a_sync);
	tcase_add_test(tests, garbage_is_collected);
	tcase_add_test(tests, readers_meet_the_collector);
	tcase_add_test(tests, a_lost_file_is_damage_and_no_hole);
	tcase_add_test(tests, a_cut_file_loses_its_end_only);
	tcase_add_test(tests, opening_what_is_not_there_or_in_use);
	tcase_add_test(tests, another_version_is_left_alone);
	tcase_add_loop_test(tests, stores_of_before_open_and_are_upgraded, 0, 2);
	tcase_add_test(tests, a_senseless_record_is_damage_and_no_hole);
	tcase_add_test(tests, values_beyond_the_limit_are_refused);
	suite_add_tcase(suite, tests);
	failed = check_run(suite);
	scratch_free(&scratch);
	return failed;
}
