/* unit/test_warm.c - the warm store over the memory store: room, moves, removes, and what a kill leaves.
 *
 * TIERFS_SEED repeats the random ones. A daemon that was killed is a store that nobody calls any more and whose thread
 * has ended between two moves; kills at any moment are in fault/test_store_crash.c.
 */
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <dirent.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../lib/lib_scratch.h"
#include "../lib/lib_store_hook.h"
#include "../lib/lib_store_mem.h"
#include "base/clock.h"
#include "base/log.h"
#include "cold/warm.h"
#include "cold/warm_state.h"
#include "lib_check.h"

#define VALUE_MAX 6000U
#define BYTES WARM_BYTES_MIN
#define INO 7U

static struct scratch scratch;
static uint64_t seed;
static struct store *below, *hook, *warm;
static struct store *killed[8]; /* kept, so that they are no leaks */
static unsigned int kills;
static int dir_fd;

static uint64_t mix(uint64_t x)
{
	x += UINT64_C(0x9e3779b97f4a7c15);
	x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
	x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
	return x ^ (x >> 31);
}

/* --- a store of its own for each test --- */

static void nothing(void *arg, enum store_hook_moment moment)
{
	(void)arg;
	(void)moment;
}

static void open_warm(void)
{
	struct store_warm_config config = { .dir_fd = dir_fd, .bytes = BYTES, .block_bytes = 16384 };

	ck_assert_int_eq(store_hook_new(below, nothing, NULL, &hook), 0); /* below outlives it */
	config.below = hook;
	ck_assert_int_eq(store_warm_open(&config, &warm), 0);
}

static void setup(void)
{
	char path[SCRATCH_PATH_LEN + 16];

	snprintf(path, sizeof(path), "%s/XXXXXX", scratch.path);
	ck_assert_ptr_nonnull(mkdtemp(path));
	dir_fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	ck_assert_int_ge(dir_fd, 0);
	ck_assert_int_eq(store_mem_new(&below), 0);
	open_warm();
}

static void teardown(void)
{
	warm->ops->free(warm);
	below->ops->free(below);
	close(dir_fd);
}

/* Without a change of what lies anywhere. */
static void kill_only(void)
{
	ck_assert_uint_lt(kills, sizeof(killed) / sizeof(killed[0]));
	warm_move_stop(warm_of(warm));
	killed[kills++] = warm;
}

static void kill_warm(void)
{
	kill_only();
	open_warm();
}

static unsigned int count_files(char *ret_last, size_t cap)
{
	int fd = openat(dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *dir = fdopendir(fd);
	struct dirent *entry;
	unsigned int count = 0;

	ck_assert_ptr_nonnull(dir);
	if (ret_last)
		ret_last[0] = '\0';
	while ((entry = readdir(dir))) {
		if (entry->d_name[0] == '.')
			continue;
		count++;
		if (ret_last && strcmp(entry->d_name, ret_last) > 0)
			snprintf(ret_last, cap, "%.60s", entry->d_name);
	}
	closedir(dir);
	return count;
}

/* --- values that tell which block and which version they are of --- */

static uint32_t value_of(struct store_key key, uint64_t version, uint8_t *at)
{
	uint64_t state = mix(key.ino << 48 ^ key.block << 24 ^ version);
	uint32_t length = 16 + (uint32_t)(state % (VALUE_MAX - 16));

	memcpy(at, &version, sizeof(version));
	for (uint32_t i = sizeof(version); i < length; i++)
		at[i] = (uint8_t)((state >> (i % 7 * 8)) + i);
	return length;
}

static int try_put(struct store_key key, uint64_t version)
{
	uint8_t value[VALUE_MAX];
	struct store_item item = { key, value, value_of(key, version, value) };

	return warm->ops->put(warm, STORE_DEMOTION, &item, 1);
}

static void put(uint64_t block, uint64_t version)
{
	ck_assert_int_eq(try_put((struct store_key){ INO, block }, version), 0);
}

static void expect_in(struct store *store, struct store_key key, uint64_t version)
{
	uint8_t want[VALUE_MAX], got[VALUE_MAX];
	size_t length = 0;
	int r = store->ops->get(store, STORE_GUEST, key, got, sizeof(got), &length);

	ck_assert_int_eq(r, version ? 0 : -ENOENT);
	if (!version)
		return;
	ck_assert_uint_eq(length, value_of(key, version, want));
	ck_assert_mem_eq(got, want, length);
}

static void expect(uint64_t block, uint64_t version)
{
	expect_in(warm, (struct store_key){ INO, block }, version);
}

static struct store_figures figures(void)
{
	struct store_figures ret;

	warm->ops->figures(warm, &ret);
	return ret;
}

static void put_copy(uint64_t block, uint64_t version)
{
	uint8_t value[VALUE_MAX];
	struct store_key key = { INO, block };
	struct store_item item = { key, value, value_of(key, version, value) };

	warm->ops->put_copies(warm, &item, 1);
}

/* The block leaves DRAM, and is as it is stored. */
static void leave_clean(uint64_t block, uint64_t version)
{
	if (!warm->ops->renew(warm, (struct store_key){ INO, block }))
		put_copy(block, version);
}

/* --- tests --- */

START_TEST(values_stay_until_there_is_no_room)
{
	for (uint64_t block = 0; block < 100; block++)
		put(block, 1);
	ck_assert_uint_eq(store_mem_count(below, 0), 0);
	ck_assert_uint_eq(figures().warm_blocks, 100);
	for (uint64_t block = 100; block < 4000; block++) {
		put(block, 1);
		ck_assert_uint_le(figures().warm_bytes, BYTES);
	}
	for (uint64_t block = 0; block < 4000; block++)
		expect(block, 1);
	ck_assert_uint_gt(store_mem_count(below, 0), 2000);
	ck_assert_uint_gt(figures().warm_hits, 500);
	ck_assert_uint_eq(figures().warm_moved_blocks, store_mem_count(below, 0));
}
END_TEST

/* What is replaced all the time needs no room below. */
START_TEST(garbage_is_not_moved)
{
	for (uint64_t version = 1; version <= 40; version++)
		for (uint64_t block = 0; block < 300; block++)
			put(block, version);
	for (uint64_t block = 0; block < 300; block++)
		expect(block, 40);
	ck_assert_uint_le(figures().warm_bytes, BYTES);
	ck_assert_uint_lt(figures().warm_moved_blocks, 300);
}
END_TEST

/* A copy is there to be read, also after a kill, and never goes below again. */
START_TEST(copies_stay_near_and_are_dropped)
{
	uint64_t found, hits;

	for (uint64_t block = 0; block < 3000; block++)
		put(block, 1);
	ck_assert_int_eq(warm->ops->sync(warm), 0);
	hits = figures().warm_hits;
	expect(0, 1);
	ck_assert_uint_eq(figures().warm_hits, hits); /* it lies below alone */
	leave_clean(0, 1);
	expect(0, 1);
	ck_assert_uint_eq(figures().warm_hits, hits + 1);
	kill_warm();
	found = figures().warm_blocks;
	expect(0, 1);
	ck_assert_uint_eq(figures().warm_hits, 1);
	for (int round = 0; round < 3; round++)
		for (uint64_t block = 0; block < 3000; block++) {
			leave_clean(block, 1);
			ck_assert_uint_le(figures().warm_bytes, BYTES);
		}
	ck_assert_int_eq(warm->ops->sync(warm), 0);
	/* What was found may be written once more, and nothing else. */
	ck_assert_uint_le(figures().warm_moved_blocks, found);
	for (uint64_t block = 0; block < 3000; block++)
		expect(block, 1);
	hits = figures().warm_hits;
	ck_assert_uint_gt(hits, 300);
	put(7, 2);
	put_copy(7, 2); /* must not take the place of a value that is nowhere else */
	for (uint64_t block = 100; block < 3000; block++)
		leave_clean(block, 1);
	expect(7, 2);
	ck_assert_int_eq(warm->ops->remove(warm, INO, 100, 50), 0);
	kill_warm();
	expect(7, 2);
	expect(120, 0);
}
END_TEST

/* What is renewed stays, while others go. */
START_TEST(renewed_values_stay_near)
{
	uint64_t hits;

	for (uint64_t block = 0; block < 5000; block++) {
		put(block, 1);
		ck_assert(block == 0 || warm->ops->renew(warm, (struct store_key){ INO, 0 }));
	}
	ck_assert(!warm->ops->renew(warm, (struct store_key){ INO, 1 }));
	hits = figures().warm_hits;
	expect(0, 1);
	ck_assert_uint_eq(figures().warm_hits, hits + 1);
	ck_assert_int_eq(warm->ops->sync(warm), 0);
	expect_in(below, (struct store_key){ INO, 0 }, 1);
}
END_TEST

START_TEST(a_kill_loses_nothing_and_brings_nothing_back)
{
	for (uint64_t block = 0; block < 200; block++)
		put(block, 1);
	ck_assert_int_eq(warm->ops->sync(warm), 0);
	for (uint64_t block = 50; block < 250; block++)
		put(block, 2);
	ck_assert_int_eq(warm->ops->remove(warm, INO, 10, 100), 0);
	put(20, 3);
	ck_assert_int_eq(warm->ops->remove(warm, INO, 240, UINT64_MAX), 0);
	for (int i = 0; i < 3; i++) {
		kill_warm();
		for (uint64_t block = 0; block < 250; block++)
			expect(block, block == 20                                    ? 3
				      : (block >= 10 && block < 110) || block >= 240 ? 0
				      : block < 50                                   ? 1
										     : 2);
		put(1000 + (uint64_t)i, 9);
	}
	expect(1001, 9);
}
END_TEST

static void damage_end(off_t cut, bool garbage)
{
	char name[64];
	struct stat stat;
	int fd;

	ck_assert_uint_ge(count_files(name, sizeof(name)), 1);
	fd = openat(dir_fd, name, O_RDWR | O_CLOEXEC);
	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(fstat(fd, &stat), 0);
	if (garbage)
		ck_assert_int_eq(pwrite(fd, "some bytes that are no record of this log", 41, stat.st_size), 41);
	else
		ck_assert_int_eq(ftruncate(fd, stat.st_size - cut), 0);
	close(fd);
}

START_TEST(a_cut_write_is_ignored)
{
	put(1, 1);
	put(2, 1);
	damage_end(100, false);
	kill_warm();
	expect(1, 1);
	expect(2, 0);
	put(3, 1);
	damage_end(0, true);
	kill_warm();
	expect(1, 1);
	expect(3, 1);
	put(4, 1);
	kill_warm();
	expect(4, 1);
}
END_TEST

START_TEST(a_file_of_another_kind_is_removed)
{
	int fd = openat(dir_fd, "00000000000000ff", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	char zeros[500] = { 0 };

	ck_assert_int_eq(write(fd, zeros, sizeof(zeros)), sizeof(zeros));
	close(fd);
	put(1, 1);
	kill_warm();
	expect(1, 1);
	put(2, 1);
	expect(2, 1);
}
END_TEST

START_TEST(below_refuses)
{
	uint64_t block = 0, stored;

	store_mem_fail_all(below, STORE_MEM_PUT, ENOSPC);
	while (try_put((struct store_key){ INO, block }, 1) == 0)
		ck_assert_uint_lt(block++, 4000);
	ck_assert_int_eq(try_put((struct store_key){ INO, block }, 1), -ENOSPC);
	ck_assert(figures().full);
	ck_assert_int_eq(warm->ops->sync(warm), -ENOSPC);
	stored = block;
	for (block = 0; block < stored; block++)
		expect(block, 1);
	expect(stored, 0);
	ck_assert_int_eq(warm->ops->remove(warm, INO, 0, 10), 0);
	expect(5, 0);
	store_mem_fail_all(below, STORE_MEM_PUT, 0);
	for (block = 0; block < stored; block++)
		put(block, 2);
	ck_assert(!figures().full);
	ck_assert_int_eq(warm->ops->sync(warm), 0);
}
END_TEST

START_TEST(a_remove_that_fails_changes_nothing)
{
	put(1, 1);
	ck_assert_int_eq(warm->ops->sync(warm), 0);
	put(1, 2);
	store_mem_fail_nth(below, STORE_MEM_REMOVE, 1, EIO);
	ck_assert_int_eq(warm->ops->remove(warm, INO, 0, 10), -EIO);
	expect(1, 2);
	ck_assert_int_eq(warm->ops->remove(warm, INO, 0, 10), 0);
	expect(1, 0);
	ck_assert_uint_eq(store_mem_count(below, 0), 0);
}
END_TEST

START_TEST(sync_and_free_put_all_below)
{
	for (uint64_t block = 0; block < 150; block++)
		put(block, 1);
	ck_assert_int_eq(warm->ops->sync(warm), 0);
	ck_assert_uint_eq(store_mem_count(below, 0), 150);
	ck_assert_uint_eq(figures().warm_blocks, 150);
	ck_assert_int_eq(warm->ops->sync(warm), 0);
	ck_assert_uint_eq(figures().warm_moved_blocks, 150); /* once */
	put(3, 2);
	warm->ops->free(warm);
	ck_assert_uint_eq(count_files(NULL, 0), 0);
	store_mem_power_loss(below);
	expect_in(below, (struct store_key){ INO, 3 }, 2);
	expect_in(below, (struct store_key){ INO, 149 }, 1);
	open_warm();
	expect(3, 2);
}
END_TEST

START_TEST(drain_for_a_mount_without)
{
	for (uint64_t block = 0; block < 150; block++)
		put(block, 1);
	ck_assert_int_eq(warm->ops->remove(warm, INO, 0, 50), 0);
	kill_only();
	store_mem_fail_all(below, STORE_MEM_PUT, ENOSPC);
	ck_assert_int_eq(store_warm_drain(below, dir_fd, 16384), -ENOSPC);
	ck_assert_uint_ge(count_files(NULL, 0), 1);
	store_mem_fail_all(below, STORE_MEM_PUT, 0);
	ck_assert_int_eq(store_warm_drain(below, dir_fd, 16384), 0);
	ck_assert_uint_eq(count_files(NULL, 0), 0);
	ck_assert_uint_eq(store_mem_count(below, 0), 100);
	store_mem_power_loss(below);
	expect_in(below, (struct store_key){ INO, 77 }, 1);
	ck_assert_int_eq(store_warm_drain(below, dir_fd, 16384), 0);
	open_warm();
}
END_TEST

/* --- values on their way below, and removes --- */

static _Atomic bool enough;

static void *sync_on(void *arg)
{
	(void)arg;
	while (!enough)
		warm->ops->sync(warm);
	return NULL;
}

START_TEST(what_is_removed_while_it_moves_stays_removed)
{
	pthread_t thread;

	store_mem_delay(below, STORE_MEM_PUT, NS_PER_MS);
	ck_assert_int_eq(pthread_create(&thread, NULL, sync_on, NULL), 0);
	for (uint64_t version = 1; version < 150; version++) {
		for (uint64_t block = 0; block < 8; block++)
			put(block, version);
		ck_assert_int_eq(warm->ops->remove(warm, INO, version % 8, 2), 0);
		expect(version % 8, 0);
	}
	enough = true;
	pthread_join(thread, NULL);
	for (uint64_t block = 0; block < 8; block++)
		expect(block, block == 149 % 8 || block == 149 % 8 + 1 ? 0 : 149);
	ck_assert_int_eq(warm->ops->sync(warm), 0);
	ck_assert_uint_eq(store_mem_count(below, 0), 6);
}
END_TEST

static void *replace_on(void *arg)
{
	for (uint64_t version = 1; !enough; version++)
		put(1000 + version % 50, version);
	return arg;
}

/* While segments that are mostly garbage are emptied by appending what is live of them again. */
START_TEST(a_sync_misses_nothing)
{
	for (uint64_t round = 1; round <= 20; round++) {
		pthread_t thread;

		for (uint64_t i = 0; i < 1000; i++)
			put(i % 10 ? 1000 + i % 50 : i / 10, round);
		enough = false;
		ck_assert_int_eq(pthread_create(&thread, NULL, replace_on, NULL), 0);
		ck_assert_int_eq(warm->ops->sync(warm), 0);
		enough = true;
		pthread_join(thread, NULL);
		for (uint64_t block = 0; block < 100; block++)
			expect_in(below, (struct store_key){ INO, block }, round);
	}
}
END_TEST

/* --- at random, against an array --- */

#define BLOCKS 1500U

static uint64_t moved; /* by stores that were closed */

struct seen {
	const uint64_t *model;
	uint64_t next;
};

static int see(void *arg, struct store_key key, const void *value, uint32_t length)
{
	struct seen *seen = arg;
	uint8_t want[VALUE_MAX];

	for (; seen->next < key.block; seen->next++)
		ck_assert_uint_eq(seen->model[seen->next], 0);
	ck_assert_uint_eq(value_of(key, seen->model[key.block], want), length);
	ck_assert_mem_eq(value, want, length);
	seen->next++;
	return 0;
}

static void put_many(uint64_t *model, uint64_t first, uint64_t count, uint64_t version)
{
	static uint8_t values[64][VALUE_MAX];
	struct store_item items[64];

	for (uint64_t i = 0; i < count; i++) {
		struct store_key key = { INO, (first + i * (version % 3 + 1)) % BLOCKS };

		items[i] = (struct store_item){ key, values[i], value_of(key, version, values[i]) };
		model[key.block] = version;
	}
	ck_assert_int_eq(warm->ops->put(warm, STORE_DEMOTION, items, count), 0);
}

static void random_step(uint64_t *model, uint64_t version)
{
	uint64_t dice = mix(seed ^ mix(version)), first = mix(dice) % BLOCKS, count = 1 + mix(dice + 1) % 64;
	struct seen seen = { model, first };

	if (count > BLOCKS - first)
		count = BLOCKS - first;
	switch (dice % 16) {
	case 0:
		ck_assert_int_eq(warm->ops->remove(warm, INO, first, count), 0);
		memset(model + first, 0, count * sizeof(*model));
		break;
	case 1:
		ck_assert_int_eq(warm->ops->walk(warm, STORE_DIRECT, INO, first, count, see, &seen), 0);
		break;
	case 2:
		if (version % 16 == 0)
			ck_assert_int_eq(warm->ops->sync(warm), 0);
		break;
	case 3:
		if (version % 64 == 0) {
			moved += figures().warm_moved_blocks;
			warm->ops->free(warm);
			open_warm();
		}
		break;
	case 4:
	case 5:
		for (uint64_t block = first; block < first + count; block++)
			if (model[block])
				leave_clean(block, model[block]);
		break;
	default:
		if (dice % 16 < 11)
			put_many(model, first, count, version);
		else
			expect(first, model[first]);
	}
}

START_TEST(random_changes)
{
	static uint64_t model[BLOCKS];
	struct seen seen = { model, 0 };

	for (uint64_t version = 1; version < 3000; version++)
		random_step(model, version);
	ck_assert_int_eq(warm->ops->walk(warm, STORE_DIRECT, INO, 0, UINT64_MAX, see, &seen), 0);
	for (; seen.next < BLOCKS; seen.next++)
		ck_assert_uint_eq(model[seen.next], 0);
	ck_assert_uint_gt(moved + figures().warm_moved_blocks, 0);
}
END_TEST

#define THREADS 4
#define OWN 120U

static void *worker(void *arg)
{
	struct store_key key = { INO + (uint64_t)(uintptr_t)arg % 2, 0 };
	uint64_t base = (uint64_t)(uintptr_t)arg * OWN, version[OWN] = { 0 };

	for (uint64_t i = 1; i < 3000; i++) {
		uint64_t dice = mix(seed ^ mix(i) ^ (uint64_t)(uintptr_t)arg), at = mix(dice) % OWN;

		key.block = base + at;
		if (dice % 8 == 0) {
			ck_assert_int_eq(warm->ops->remove(warm, key.ino, key.block, 1), 0);
			version[at] = 0;
		} else if (dice % 8 < 5) {
			ck_assert_int_eq(try_put(key, i), 0);
			version[at] = i;
		}
		expect_in(warm, key, version[at]);
	}
	for (uint64_t at = 0; at < OWN; at++)
		expect_in(warm, (struct store_key){ key.ino, base + at }, version[at]);
	return NULL;
}

START_TEST(threads_with_blocks_of_their_own)
{
	pthread_t thread[THREADS], syncing;

	for (uintptr_t i = 0; i < THREADS; i++)
		ck_assert_int_eq(pthread_create(&thread[i], NULL, worker, (void *)i), 0);
	ck_assert_int_eq(pthread_create(&syncing, NULL, sync_on, NULL), 0);
	for (int i = 0; i < THREADS; i++)
		pthread_join(thread[i], NULL);
	enough = true;
	pthread_join(syncing, NULL);
	ck_assert_uint_le(figures().warm_bytes, BYTES);
	ck_assert_uint_eq(figures().errors, 0);
}
END_TEST

int main(void)
{
	const char *text = getenv("TIERFS_SEED");
	Suite *suite = suite_create("warm");
	TCase *tests = tcase_create("warm");
	int failed;

	log_init(LOG_TARGET_STDERR, LOG_LEVEL_WARN);
	seed = text ? strtoull(text, NULL, 0) : clock_ns();
	printf("TIERFS_SEED=%llu\n", (unsigned long long)seed);
	scratch_new(&scratch, "warm");
	tcase_add_checked_fixture(tests, setup, teardown);
	tcase_set_timeout(tests, 120);
	tcase_add_test(tests, values_stay_until_there_is_no_room);
	tcase_add_test(tests, garbage_is_not_moved);
	tcase_add_test(tests, copies_stay_near_and_are_dropped);
	tcase_add_test(tests, renewed_values_stay_near);
	tcase_add_test(tests, a_kill_loses_nothing_and_brings_nothing_back);
	tcase_add_test(tests, a_cut_write_is_ignored);
	tcase_add_test(tests, a_file_of_another_kind_is_removed);
	tcase_add_test(tests, below_refuses);
	tcase_add_test(tests, a_remove_that_fails_changes_nothing);
	tcase_add_test(tests, sync_and_free_put_all_below);
	tcase_add_test(tests, drain_for_a_mount_without);
	tcase_add_test(tests, what_is_removed_while_it_moves_stays_removed);
	tcase_add_test(tests, a_sync_misses_nothing);
	tcase_add_test(tests, random_changes);
	tcase_add_test(tests, threads_with_blocks_of_their_own);
	suite_add_tcase(suite, tests);
	failed = check_run(suite);
	scratch_free(&scratch);
	return failed;
}
