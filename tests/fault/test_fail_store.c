/* link: @tests/lib/lib_fail.flags */
/* timeout: 600 */
/* fault/test_fail_store.c - the Nth allocation and the Nth system call of every function of the store fail.
 *
 * For each function: N = 1, 2, ... until it gets through without a failure. Each time what the header promises is
 * checked: the error is one that says what happened; a value is the old one or the new one, never neither; nothing is
 * on the disk, open, pending or referenced that should not be; the same call works afterwards. When a store was closed,
 * nothing that it allocated is left.
 *
 * The database is a shared library, so its own calls do not fail here; test_store_reopen.c is about those.
 */
#include <check.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../lib/lib_fail.h"
#include "../lib/lib_scratch.h"
#include "cold/store_rocks.h"
#include "cold/collect.h"
#include "cold/meta.h"
#include "cold/warm_state.h"
#include "lib_check.h"

#define BLOCKS 60U /* with VALUE_BYTES nearly a segment: every put makes one */
#define VALUE_BYTES 16000U
#define SEGMENT_BYTES (1U << 20)
#define POINTS_MAX 2000U

static struct scratch scratch;
static char dir[SCRATCH_PATH_LEN + 16];
static struct store *store;
static uint64_t ino; /* of the call under test */

/* --- the store --- */

static int warm_dir = -1; /* else there is a warm store in front */

static int open_rocks(bool create)
{
	struct store_rocks_config config = {
		.dir = dir,
		.create = create,
		.block_bytes = 16384,
		.write_buffer_bytes = 8 << 20,
		.segment_bytes = SEGMENT_BYTES,
	};

	return store_rocks_open(&config, &store);
}

static int open_warm(void)
{
	struct store_warm_config config = {
		.below = store, .dir_fd = warm_dir, .bytes = WARM_BYTES_MIN, .block_bytes = 16384
	};

	return store_warm_open(&config, &store);
}

static int open_it(bool create)
{
	int r = open_rocks(create);

	return r < 0 || warm_dir < 0 ? r : open_warm();
}

static struct store_rocks *rocks(void)
{
	return (struct store_rocks *)(warm_dir < 0 ? store : warm_of(store)->below);
}

static uint8_t values[BLOCKS][VALUE_BYTES];

static void fill(uint8_t *value, uint64_t file, uint64_t block, uint8_t version)
{
	memset(value, version, VALUE_BYTES);
	memcpy(value, &file, sizeof(file));
	memcpy(value + 8, &block, sizeof(block));
}

static int put(uint64_t file, uint8_t version)
{
	struct store_item items[BLOCKS];

	for (uint64_t block = 0; block < BLOCKS; block++) {
		fill(values[block], file, block, version);
		items[block] = (struct store_item){ { file, block }, values[block], VALUE_BYTES };
	}
	return store->ops->put(store, STORE_DEMOTION, items, BLOCKS);
}

/* The version of a block that is there; 0: there is none. */
static uint8_t version_of(uint64_t file, uint64_t block)
{
	static uint8_t got[VALUE_BYTES], want[VALUE_BYTES];
	size_t len = 0;
	int r = store->ops->get(store, STORE_GUEST, (struct store_key){ file, block }, got, sizeof(got), &len);

	if (r == -ENOENT)
		return 0;
	ck_assert_msg(r == 0, "block %u of file %u: %s", (unsigned int)block, (unsigned int)file, strerror(-r));
	ck_assert_uint_eq(len, VALUE_BYTES);
	fill(want, file, block, got[100]);
	ck_assert_mem_eq(got, want, VALUE_BYTES);
	return got[100];
}

static void expect(uint64_t file, uint8_t one, uint8_t other)
{
	for (uint64_t block = 0; block < BLOCKS; block++) {
		uint8_t version = version_of(file, block);

		ck_assert_msg(version == one || version == other, "after %s: block %u: version %u", fail_what(),
			      (unsigned int)block, version);
	}
}

/* --- what must hold between calls --- */

static unsigned int values_on_disk(void)
{
	char path[SCRATCH_PATH_LEN + 32];
	unsigned int count = 0;
	DIR *open;

	snprintf(path, sizeof(path), "%s/values", dir);
	open = opendir(path);
	if (!open)
		return 0;
	while (readdir(open))
		count++;
	closedir(open);
	return count - 2;
}

/* The collector has references, syncs and unlinks as it likes, so it does not run meanwhile. */
static void check_segments(void)
{
	struct segments *segments = &rocks()->segments;
	uint64_t live = 0, end = 0, count = 0, dead = 0;

	collect_stop(rocks());
	lock_get(&segments->lock);
	for (struct segment *segment = segments->table; segment; segment = segment->hh.next) {
		ck_assert_uint_eq(segment->pending, 0);
		ck_assert_uint_eq(segment->refs, 0);
		ck_assert(segment->sealed || segment == segments->current);
		if (segment->life != SEGMENT_LIVE) {
			dead++;
			continue;
		}
		ck_assert(segment->live_count || !segment->sealed);
		live += segment->live_bytes;
		end += segment->end_bytes;
		count += segment->live_count;
	}
	ck_assert_uint_eq(segments->live_bytes, live);
	ck_assert_uint_eq(segments->end_bytes, end);
	ck_assert_uint_eq(count + rocks()->shares.count, rocks()->places.count); /* each is shared by two here */
	ck_assert(dead || !segments->dead_bytes);
	ck_assert_uint_eq(HASH_COUNT(segments->table), values_on_disk());
	ck_assert_uint_eq(segments->open_files, scratch_descriptors("/values/"));
	lock_put(&segments->lock);
	ck_assert_int_eq(collect_start(rocks()), 0);
}

static void check_error(int r, bool hit)
{
	if (!hit)
		ck_assert_int_eq(r, 0);
	ck_assert_msg(r == 0 || r == -ENOMEM || r == -EIO || r == -ENOSPC || r == -EMFILE || r == -EAGAIN,
		      "after %s: %d", fail_what(), r);
}

/* --- one function after the other --- */

struct function {
	const char *name;
	void (*prepare)(void);
	int (*call)(void);
	void (*check)(int r);
	void (*undo)(void);
};

static void nothing(void)
{
}

static void new_file(void)
{
	ino++;
}

static void stored_file(void)
{
	ino++;
	ck_assert_int_eq(put(ino, 1), 0);
}

static void remove_file(void)
{
	ck_assert_int_eq(store->ops->remove(store, ino, 0, UINT64_MAX), 0);
	ck_assert_int_eq(store->ops->sync(store), 0);
}

static int call_put(void)
{
	return put(ino, 2);
}

static void check_put_new(int r)
{
	expect(ino, r ? 0 : 2, 2);
}

static void check_put_over(int r)
{
	expect(ino, r ? 1 : 2, 2);
}

static int call_get(void)
{
	static uint8_t got[VALUE_BYTES];
	size_t len;

	return store->ops->get(store, STORE_GUEST, (struct store_key){ ino, 7 }, got, sizeof(got), &len);
}

static void check_stored(int r)
{
	(void)r;
	expect(ino, 1, 1);
}

static unsigned int seen;

/* Also of what comes while calls fail nothing may be wrong. */
static int see_value(void *arg, struct store_key key, const void *value, uint32_t length)
{
	static uint8_t want[VALUE_BYTES];

	(void)arg;
	fill(want, key.ino, key.block, 1);
	seen++;
	return length == VALUE_BYTES && memcmp(value, want, VALUE_BYTES) == 0 ? 0 : -EUCLEAN;
}

static int call_walk(void)
{
	seen = 0;
	return store->ops->walk(store, STORE_DIRECT, ino, 0, BLOCKS, see_value, NULL);
}

static int see_head(void *arg, struct store_key key, const void *value, uint32_t length)
{
	(void)arg;
	seen++;
	return length == VALUE_BYTES && memcmp((const char *)value + 8, &key.block, 8) == 0 ? 0 : -EUCLEAN;
}

static int call_heads(void)
{
	seen = 0;
	return store->ops->heads(store, ino, 0, BLOCKS, see_head, NULL);
}

static void check_seen_all(int r)
{
	if (r == 0)
		ck_assert_uint_eq(seen, BLOCKS);
	check_stored(r);
}

static int call_remove_one(void)
{
	return store->ops->remove(store, ino, 5, 1);
}

/* Of a warm store a removal that failed may have been done below. */
static void check_remove_one(int r)
{
	for (uint64_t block = 0; warm_dir >= 0 && r < 0 && block < BLOCKS; block++)
		ck_assert(version_of(ino, block) == 1 || (block == 5 && version_of(ino, block) == 0));
	for (uint64_t block = 0; (warm_dir < 0 || r == 0) && block < BLOCKS; block++)
		ck_assert_uint_eq(version_of(ino, block), block == 5 && r == 0 ? 0 : 1);
}

static int call_remove_all(void)
{
	return store->ops->remove(store, ino, 0, UINT64_MAX);
}

static void check_remove_all(int r)
{
	expect(ino, r == 0 ? 0 : 1, r == 0 || warm_dir >= 0 ? 0 : 1);
}

static int call_share(void)
{
	struct store_share share = { .from = ino, .to = ino + 100000, .first = 0, .count = BLOCKS };

	return store->ops->share(store, &share);
}

static unsigned int shared_count(void)
{
	unsigned int count = 0;

	for (uint64_t block = 0; block < BLOCKS; block++) {
		static uint8_t got[VALUE_BYTES];
		size_t len;
		int r = store->ops->get(store, STORE_GUEST, (struct store_key){ ino + 100000, block }, got, sizeof(got),
					&len);

		ck_assert(r == 0 || r == -ENOENT);
		count += r == 0;
	}
	return count;
}

static void check_share(int r)
{
	check_stored(r);
	ck_assert(r < 0 || shared_count() == BLOCKS);
	if (r == 0)
		ck_assert_uint_eq(store->ops->shared_bytes(store, ino), BLOCKS * VALUE_BYTES);
	ck_assert_int_eq(store->ops->remove(store, ino + 100000, 0, UINT64_MAX), 0);
	ck_assert_uint_eq(shared_count(), 0);
	check_stored(r);
}

static uint32_t meta_version;

static int call_meta_put(void)
{
	uint32_t version = meta_version + 1;
	struct meta_change change = { "key", 3, &version, sizeof(version) };

	return store->meta->put(store, &change, 1, true);
}

static int see_meta(void *arg, const void *key, size_t key_len, const void *value, size_t value_len)
{
	(void)key;
	(void)key_len;
	memcpy(arg, value, value_len < 4 ? value_len : 4);
	return 0;
}

static void check_meta(int r)
{
	uint32_t version = 0;

	ck_assert_int_eq(store->meta->walk(store, "key", 3, see_meta, &version), 0);
	ck_assert(version == meta_version + 1 || (r < 0 && version == meta_version));
	meta_version = version;
}

static int call_meta_walk(void)
{
	uint32_t version = 0;

	return store->meta->walk(store, "key", 3, see_meta, &version);
}

static void check_nothing(int r)
{
	(void)r;
}

static int call_sync(void)
{
	return store->ops->sync(store);
}

/* A segment is suspect, so that a sync has to move what it holds. */
static void suspect_file(void)
{
	struct fail_plan plan = { .kinds = FAIL_SYNC, .nth = 1, .names = "fdatasync" };
	int r;

	collect_stop(rocks());
	stored_file();
	fail_arm_plan(&plan);
	r = store->ops->sync(store);
	ck_assert(fail_disarm() && r == -EIO);
	ck_assert_int_eq(collect_start(rocks()), 0);
}

static void check_rescued(int r)
{
	check_stored(r);
	if (r == 0) {
		lock_get(&rocks()->segments.lock);
		ck_assert_ptr_null(segments_suspect(&rocks()->segments));
		lock_put(&rocks()->segments.lock);
	}
}

static const struct function functions[] = {
	{ "put, new", new_file, call_put, check_put_new, remove_file },
	{ "put, over", stored_file, call_put, check_put_over, remove_file },
	{ "get", stored_file, call_get, check_stored, remove_file },
	{ "walk", stored_file, call_walk, check_stored, remove_file },
	{ "heads", stored_file, call_heads, check_seen_all, remove_file },
	{ "remove, one", stored_file, call_remove_one, check_remove_one, remove_file },
	{ "remove, all", stored_file, call_remove_all, check_remove_all, remove_file },
	{ "share", stored_file, call_share, check_share, remove_file },
	{ "meta_put", nothing, call_meta_put, check_meta, nothing },
	{ "meta_walk", nothing, call_meta_walk, check_nothing, nothing },
	{ "sync", stored_file, call_sync, check_stored, remove_file },
	{ "sync, rescue", suspect_file, call_sync, check_rescued, remove_file },
};
#define FUNCTIONS (int)(sizeof(functions) / sizeof(functions[0]))

/* One call of it with the Nth point failing. False: that was beyond the last one. */
static bool try(const struct function *function, unsigned int kinds, unsigned int nth)
{
	bool hit;
	int r;

	nth = fail_point(nth);
	function->prepare();
	fail_arm(kinds, nth);
	r = function->call();
	hit = fail_disarm();
	check_error(r, hit);
	check_segments();
	function->check(r);
	if (r < 0) {
		r = function->call();
		/* After a sync that failed one more may have to put things right. */
		ck_assert_msg(r == 0, "%s after %s: again: %s", function->name, fail_what(), strerror(-r));
		check_segments();
		function->check(0);
	}
	function->undo();
	return hit;
}

static void try_all(const struct function *function)
{
	unsigned int kinds[] = { FAIL_ALLOC, FAIL_CALLS }, points[2];

	for (int i = 0; i < 2; i++) {
		points[i] = 0;
		while (try(function, kinds[i], points[i] + 1))
			ck_assert_uint_lt(points[i]++, POINTS_MAX);
	}
	printf("%-5s%-16s %3u allocations, %3u system calls\n", warm_dir < 0 ? "" : "warm:", function->name, points[0],
	       points[1]);
}

static void make_dir(void)
{
	snprintf(dir, sizeof(dir), "%s/XXXXXX", scratch.path);
	ck_assert_ptr_nonnull(mkdtemp(dir));
}

START_TEST(every_function)
{
	make_dir();
	fail_memory_begin();
	ck_assert_int_eq(open_it(true), 0);
	try_all(&functions[_i]);
	store->ops->free(store);
	ck_assert_uint_eq(fail_memory_left(0), 0);
	fail_memory_end();
}
END_TEST

static void make_warm_dir(void)
{
	char path[SCRATCH_PATH_LEN + 16];

	snprintf(path, sizeof(path), "%s/warm-XXXXXX", scratch.path);
	ck_assert_ptr_nonnull(mkdtemp(path));
	warm_dir = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	ck_assert_int_ge(warm_dir, 0);
}

START_TEST(every_function_warm)
{
	make_dir();
	make_warm_dir();
	fail_memory_begin();
	ck_assert_int_eq(open_it(true), 0);
	try_all(&functions[_i]);
	store->ops->free(store);
	ck_assert_uint_eq(fail_memory_left(0), 0);
	fail_memory_end();
	close(warm_dir);
}
END_TEST

/* With values in the directory that a daemon left which was killed. */
static bool try_open_warm(unsigned int kinds, unsigned int nth)
{
	unsigned int descriptors = fail_descriptors();
	bool hit;
	int r;

	nth = fail_point(nth);
	fail_arm(kinds, nth);
	r = open_warm();
	hit = fail_disarm();
	check_error(r, hit);
	if (r < 0) {
		ck_assert_uint_eq(fail_descriptors(), descriptors);
		r = open_warm();
	}
	ck_assert_msg(r == 0, "after %s: again: %s", fail_what(), strerror(-r));
	expect(ino, 1, 1);
	return hit;
}

/* The values of a warm store whose process was killed. */
static void leave_warm_values(void)
{
	pid_t child = fork();
	int status = -1;

	ck_assert_int_ge(child, 0);
	if (child == 0) {
		if (open_it(true) < 0 || put(ino, 1) < 0)
			_exit(1);
		_exit(0);
	}
	ck_assert_int_eq(waitpid(child, &status, 0), child);
	ck_assert_int_eq(status, 0);
}

START_TEST(open_warm_old)
{
	unsigned int points[2] = { 0 };

	for (int i = 0; i < 2; i++) {
		bool hit = true;

		while (hit) {
			pid_t child;
			int status = -1;

			make_dir();
			make_warm_dir();
			leave_warm_values();
			child = fork(); /* the database's threads do not survive a fork, so each store has a process */
			ck_assert_int_ge(child, 0);
			if (child == 0) {
				ck_assert_int_eq(open_rocks(false), 0);
				hit = try_open_warm(i ? FAIL_CALLS : FAIL_ALLOC, points[i] + 1);
				store->ops->free(store);
				_exit(hit ? 10 : 11);
			}
			ck_assert_int_eq(waitpid(child, &status, 0), child);
			ck_assert(WIFEXITED(status) && (WEXITSTATUS(status) == 10 || WEXITSTATUS(status) == 11));
			hit = WEXITSTATUS(status) == 10;
			ck_assert_uint_lt(points[i], POINTS_MAX);
			points[i] += hit;
			close(warm_dir);
		}
	}
	printf("warm:%-16s %3u allocations, %3u system calls\n", "open, old", points[0], points[1]);
}
END_TEST

/* --- the beginning and the end --- */

static bool try_open(bool create, unsigned int kinds, unsigned int nth)
{
	unsigned int descriptors = fail_descriptors();
	bool hit;
	int r;

	nth = fail_point(nth);
	if (create)
		make_dir();
	fail_memory_begin();
	fail_arm(kinds, nth);
	r = open_it(create);
	hit = fail_disarm();
	check_error(r, hit);
	if (r < 0) {
		ck_assert_uint_eq(fail_memory_left(0), 0);
		ck_assert_uint_eq(fail_descriptors(), descriptors);
		r = open_it(create);
	}
	ck_assert_msg(r == 0, "after %s: again: %s", fail_what(), strerror(-r));
	check_segments();
	if (!create)
		expect(ino, 1, 1);
	store->ops->free(store);
	ck_assert_uint_eq(fail_memory_left(0), 0);
	ck_assert_uint_eq(fail_descriptors(), descriptors);
	fail_memory_end();
	return hit;
}

static void try_open_all(const char *name, bool create)
{
	unsigned int kinds[] = { FAIL_ALLOC, FAIL_CALLS }, points[2];

	for (int i = 0; i < 2; i++) {
		points[i] = 0;
		while (try_open(create, kinds[i], points[i] + 1))
			ck_assert_uint_lt(points[i]++, POINTS_MAX);
	}
	printf("%-16s %3u allocations, %3u system calls\n", name, points[0], points[1]);
}

START_TEST(open_new)
{
	try_open_all("open, new", true);
}
END_TEST

START_TEST(open_old)
{
	make_dir();
	ck_assert_int_eq(open_it(true), 0);
	stored_file();
	ck_assert_int_eq(put(ino + 1, 1), 0);
	ck_assert_int_eq(store->ops->remove(store, ino + 1, 0, 30), 0);
	store->ops->free(store);
	try_open_all("open, old", false);
}
END_TEST

START_TEST(free_with_failures)
{
	unsigned int points = 0, descriptors;
	bool hit = true;

	make_dir();
	ck_assert_int_eq(open_it(true), 0);
	stored_file();
	store->ops->free(store);
	descriptors = fail_descriptors();
	for (; hit; points++) {
		fail_memory_begin();
		ck_assert_int_eq(open_it(false), 0);
		expect(ino, 1, 1);
		ck_assert_int_eq(put(ino + 1, 1), 0);
		fail_arm(FAIL_ANY, points + 1);
		store->ops->free(store);
		hit = fail_disarm();
		ck_assert_uint_eq(fail_memory_left(0), 0);
		ck_assert_uint_eq(fail_descriptors(), descriptors);
		fail_memory_end();
	}
	printf("%-16s %3u points\n", "free", points - 1);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("fail_store");
	TCase *tests = tcase_create("points");
	int failed;

	setvbuf(stdout, NULL, _IOLBF, 0);
	scratch_new(&scratch, "fail-store");
	tcase_set_timeout(tests, 300);
	tcase_add_loop_test(tests, every_function, 0, FUNCTIONS);
	tcase_add_loop_test(tests, every_function_warm, 0, FUNCTIONS);
	tcase_add_test(tests, open_warm_old);
	tcase_add_test(tests, open_new);
	tcase_add_test(tests, open_old);
	tcase_add_test(tests, free_with_failures);
	suite_add_tcase(suite, tests);
	failed = check_run(suite);
	scratch_free(&scratch);
	return failed;
}
