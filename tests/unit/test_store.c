/* unit/test_store.c - one suite for the contract of store.h, run over each implementation. */
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../lib/lib_scratch.h"
#include "../lib/lib_store_mem.h"
#include "cold/meta.h"
#include "cold/store_rocks.h"
#include "cold/stores.h"
#include "cold/warm.h"
#include "lib_check.h"

#define VALUE_BYTES 5000U

/* --- the implementations --- */

struct kind {
	const char *name;
	void (*open)(void);
	void (*reopen)(void); /* after a clean close, or what stands for it */
	void (*close)(void);
	bool moves; /* values are put and got beside those of the test */
};

static struct store *store;
static struct scratch scratch; /* of the whole program: a test that fails ends without its teardown */
static char dir[SCRATCH_PATH_LEN + 16];

static void rocks_open_here(bool create)
{
	struct store_rocks_config config = {
		.dir = dir,
		.create = create,
		.block_bytes = 16384,
		.write_buffer_bytes = 1 << 20,
	};

	ck_assert_int_eq(store_rocks_open(&config, &store), 0);
}

static void rocks_open(void)
{
	snprintf(dir, sizeof(dir), "%s/XXXXXX", scratch.path);
	ck_assert_ptr_nonnull(mkdtemp(dir));
	rocks_open_here(true);
}

static void rocks_reopen(void)
{
	store->ops->free(store);
	rocks_open_here(false);
}

static void rocks_close(void)
{
	store->ops->free(store);
}

static void mem_open(void)
{
	ck_assert_int_eq(store_mem_new(&store), 0);
}

static void mem_reopen(void)
{
	ck_assert_int_eq(store->ops->sync(store), 0);
	store_mem_power_loss(store);
}

static void mem_close(void)
{
	store->ops->free(store);
}

/* A warm store, in front of each of the others; small, so that values move. */

static int warm_fd;

static void warm_cover(void)
{
	struct store_warm_config config = {
		.below = store,
		.dir_fd = warm_fd,
		.bytes = WARM_BYTES_MIN,
		.block_bytes = 16384,
	};

	ck_assert_int_eq(store_warm_open(&config, &store), 0);
}

static void warm_open_dir(void)
{
	char path[SCRATCH_PATH_LEN + 16];

	snprintf(path, sizeof(path), "%s/warm-XXXXXX", scratch.path);
	ck_assert_ptr_nonnull(mkdtemp(path));
	warm_fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	ck_assert_int_ge(warm_fd, 0);
	warm_cover();
}

static struct store *warm_below; /* the memory store, which content_survives_a_reopen() has lose its power */

static void warm_mem_open(void)
{
	mem_open();
	warm_below = store;
	warm_open_dir();
}

static void warm_mem_reopen(void)
{
	ck_assert_int_eq(store->ops->sync(store), 0);
	store_mem_power_loss(warm_below);
}

static void warm_rocks_open(void)
{
	rocks_open();
	warm_open_dir();
}

static void warm_rocks_reopen(void)
{
	rocks_reopen();
	warm_cover();
}

static void warm_close(void)
{
	store->ops->free(store);
	close(warm_fd);
}

/* Two devices, the second one with a warm part. All files move to and fro, all the time. */

#define RESTLESS_FILES 16U

static pthread_t restless;
static _Atomic bool resting;

static void *change_minds(void *arg)
{
	unsigned int turn = 0;

	(void)arg;
	while (!resting) {
		stores_want(store, 1 + turn % RESTLESS_FILES, turn / RESTLESS_FILES % 2);
		turn++;
		usleep(turn % RESTLESS_FILES ? 20 : 2000);
	}
	return NULL;
}

static void stores_go(void)
{
	resting = false;
	ck_assert_int_eq(stores_start(store, NULL, NULL), 0);
	ck_assert_int_eq(pthread_create(&restless, NULL, change_minds, NULL), 0);
}

static void stores_rest(void)
{
	resting = true;
	pthread_join(restless, NULL);
	stores_stop(store);
}

static struct store *stores_first;

static void stores_open_here(void)
{
	static const uint8_t token[STORES_TOKEN_BYTES] = { 1 };
	struct stores_device device = { 0 };

	ck_assert_int_eq(store_mem_new(&stores_first), 0);
	warm_mem_open();
	device.store = store;
	device.below = warm_below;
	ck_assert_int_eq(stores_open((struct stores_device){ .store = stores_first }, &store), 0);
	ck_assert_int_eq(stores_add(store, "other", token, device), 0);
	stores_go();
}

static void stores_reopen(void)
{
	stores_rest();
	ck_assert_int_eq(store->ops->sync(store), 0);
	store_mem_power_loss(stores_first);
	store_mem_power_loss(warm_below);
	stores_go();
}

static void stores_close(void)
{
	stores_rest();
	warm_close();
}

static const struct kind kinds[] = {
	{ "memory", mem_open, mem_reopen, mem_close, false },
	{ "rocks", rocks_open, rocks_reopen, rocks_close, false },
	{ "warm, memory", warm_mem_open, warm_mem_reopen, warm_close, false },
	{ "warm, rocks", warm_rocks_open, warm_rocks_reopen, warm_close, false },
	{ "stores", stores_open_here, stores_reopen, stores_close, true },
};
static const struct kind *kind; /* of the test case that runs */

static void memory_setup(void)
{
	kind = &kinds[0];
	kind->open();
}

static void rocks_setup(void)
{
	kind = &kinds[1];
	kind->open();
}

static void warm_memory_setup(void)
{
	kind = &kinds[2];
	kind->open();
}

static void warm_rocks_setup(void)
{
	kind = &kinds[3];
	kind->open();
}

static void stores_setup(void)
{
	kind = &kinds[4];
	kind->open();
}

static void teardown(void)
{
	kind->close();
}

/* --- values that tell which block and which round they are of --- */

static void fill(uint8_t *at, uint32_t len, struct store_key key, uint64_t round)
{
	uint64_t state = key.ino * UINT64_C(0x9e3779b97f4a7c15) ^ key.block * UINT64_C(0xbf58476d1ce4e5b9) ^ round;

	for (uint32_t i = 0; i < len; i++) {
		state = state * UINT64_C(6364136223846793005) + 1442695040888963407U;
		at[i] = (uint8_t)(state >> 56);
	}
}

static void put_one(struct store_key key, uint64_t round, uint32_t len)
{
	uint8_t value[VALUE_BYTES * 4];
	struct store_item item = { key, value, len };

	fill(value, len, key, round);
	ck_assert_int_eq(store->ops->put(store, STORE_DEMOTION, &item, 1), 0);
}

static void put_range(uint64_t ino, uint64_t first, uint64_t count, uint64_t round)
{
	struct store_item *items = calloc(count, sizeof(*items));
	uint8_t *values = malloc(count * VALUE_BYTES);

	ck_assert(items && values);
	for (uint64_t i = 0; i < count; i++) {
		items[i] = (struct store_item){ { ino, first + i }, values + i * VALUE_BYTES, VALUE_BYTES };
		fill(values + i * VALUE_BYTES, VALUE_BYTES, items[i].key, round);
	}
	ck_assert_int_eq(store->ops->put(store, STORE_DEMOTION, items, count), 0);
	free(items);
	free(values);
}

static void expect(struct store_key key, uint64_t round, uint32_t len)
{
	uint8_t want[VALUE_BYTES * 4], got[VALUE_BYTES * 4];
	size_t got_len = 0;

	fill(want, len, key, round);
	ck_assert_int_eq(store->ops->get(store, STORE_GUEST, key, got, sizeof(got), &got_len), 0);
	ck_assert_uint_eq(got_len, len);
	ck_assert_mem_eq(got, want, len);
}

static void expect_none(struct store_key key)
{
	uint8_t got[8];
	size_t len = 77;

	ck_assert_int_eq(store->ops->get(store, STORE_GUEST, key, got, sizeof(got), &len), -ENOENT);
	ck_assert_uint_eq(len, 77);
}

struct seen {
	uint64_t ino, last, count, stop_after;
	uint32_t len;
	bool check_values;
	uint64_t round;
};

static int see(void *arg, struct store_key key, const void *value, uint32_t len)
{
	struct seen *seen = arg;

	ck_assert_uint_eq(key.ino, seen->ino);
	ck_assert(!seen->count || key.block > seen->last);
	seen->last = key.block;
	seen->len = len;
	if (seen->check_values) {
		uint8_t want[VALUE_BYTES];

		ck_assert_uint_eq(len, VALUE_BYTES);
		fill(want, len, key, seen->round);
		ck_assert_mem_eq(value, want, len);
	}
	return ++seen->count == seen->stop_after ? 123 : 0;
}

/* The first bytes, and not one more than there are. */
static int see_head(void *arg, struct store_key key, const void *value, uint32_t len)
{
	struct seen *seen = arg;
	uint8_t want[VALUE_BYTES];

	fill(want, len, key, seen->round);
	ck_assert_mem_eq(value, want, len < STORE_HEAD_BYTES ? len : STORE_HEAD_BYTES);
	return see(arg, key, value, len);
}

static uint64_t walk_count(uint64_t ino, uint64_t first, uint64_t count)
{
	struct seen seen = { .ino = ino };

	ck_assert_int_eq(store->ops->walk(store, STORE_DIRECT, ino, first, count, see, &seen), 0);
	return seen.count;
}

/* --- blocks --- */

START_TEST(put_get_replace)
{
	expect_none((struct store_key){ 3, 0 });
	put_one((struct store_key){ 3, 0 }, 1, 100);
	put_one((struct store_key){ 3, 1 }, 1, 32);
	put_one((struct store_key){ 4, 0 }, 1, 16408);
	put_one((struct store_key){ UINT64_MAX, UINT64_MAX - 1 }, 9, 10);
	expect((struct store_key){ 3, 0 }, 1, 100);
	expect((struct store_key){ 4, 0 }, 1, 16408);
	expect((struct store_key){ UINT64_MAX, UINT64_MAX - 1 }, 9, 10);
	put_one((struct store_key){ 3, 0 }, 2, 4000);
	expect((struct store_key){ 3, 0 }, 2, 4000);
	expect((struct store_key){ 3, 1 }, 1, 32);
	expect_none((struct store_key){ 3, 2 });
	expect_none((struct store_key){ 0, 3 });
}
END_TEST

START_TEST(get_into_a_small_buffer)
{
	uint8_t buf[100];
	size_t len = 5;

	put_one((struct store_key){ 1, 1 }, 1, 101);
	ck_assert_int_eq(store->ops->get(store, STORE_GUEST, (struct store_key){ 1, 1 }, buf, 100, &len), -ENOBUFS);
	ck_assert_uint_eq(len, 5);
	put_one((struct store_key){ 1, 1 }, 1, 100);
	ck_assert_int_eq(store->ops->get(store, STORE_GUEST, (struct store_key){ 1, 1 }, buf, 100, &len), 0);
	ck_assert_uint_eq(len, 100);
}
END_TEST

START_TEST(batches_and_last_of_equal_keys)
{
	struct store_item twice[2] = { { { 1, 5 }, "old", 3 }, { { 1, 5 }, "newer", 5 } };
	char buf[8];
	size_t len;

	put_range(1, 0, 1024, 7);
	for (uint64_t block = 0; block < 1024; block += 17)
		expect((struct store_key){ 1, block }, 7, VALUE_BYTES);
	ck_assert_int_eq(store->ops->put(store, STORE_DEMOTION, twice, 2), 0);
	ck_assert_int_eq(store->ops->get(store, STORE_GUEST, twice[0].key, buf, sizeof(buf), &len), 0);
	ck_assert_uint_eq(len, 5);
	ck_assert_int_eq(store->ops->put(store, STORE_DEMOTION, NULL, 0), 0);
}
END_TEST

START_TEST(walks_are_ordered_and_bounded)
{
	struct seen seen;

	put_range(2, 0, 50, 1);
	put_range(1, 1000, 300, 1);
	put_range(3, 0, 50, 1);
	for (uint64_t block = 2000; block < 4000; block += 100)
		put_range(1, block, 1, 1);
	ck_assert_uint_eq(walk_count(1, 0, 1000), 0);
	ck_assert_uint_eq(walk_count(1, 0, 1001), 1);
	ck_assert_uint_eq(walk_count(1, 1299, 701), 1);
	ck_assert_uint_eq(walk_count(1, 0, UINT64_MAX), 320);
	ck_assert_uint_eq(walk_count(1, 1100, UINT64_MAX), 220);
	ck_assert_uint_eq(walk_count(2, 10, 0), 0);
	ck_assert_uint_eq(walk_count(4, 0, UINT64_MAX), 0);

	seen = (struct seen){ .ino = 1, .check_values = true, .round = 1 };
	ck_assert_int_eq(store->ops->walk(store, STORE_DIRECT, 1, 0, 5000, see, &seen), 0);
	ck_assert_uint_eq(seen.count, 320);
	seen = (struct seen){ .ino = 1, .stop_after = 5 };
	ck_assert_int_eq(store->ops->walk(store, STORE_DIRECT, 1, 1010, 5000, see, &seen), 123);
	ck_assert_uint_eq(seen.count, 5);
	ck_assert_uint_eq(seen.last, 1014);
}
END_TEST

START_TEST(heads_are_walked_without_values)
{
	struct seen seen = { .ino = 1, .round = 1 };

	put_range(1, 10, 200, 1);
	put_one((struct store_key){ 1, 500 }, 1, 12);
	ck_assert_int_eq(store->ops->heads(store, 1, 0, UINT64_MAX, see_head, &seen), 0);
	ck_assert_uint_eq(seen.count, 201);
	ck_assert_uint_eq(seen.last, 500);
	ck_assert_uint_eq(seen.len, 12);
}
END_TEST

START_TEST(removal_of_small_and_large_ranges)
{
	put_range(1, 0, 2000, 1);
	put_range(2, 0, 100, 1);
	ck_assert_int_eq(store->ops->remove(store, 1, 5, 1), 0);
	ck_assert_int_eq(store->ops->remove(store, 1, 10, 10), 0);
	ck_assert_int_eq(store->ops->remove(store, 1, 5, 0), 0);
	ck_assert_uint_eq(walk_count(1, 0, UINT64_MAX), 1989);
	expect_none((struct store_key){ 1, 5 });
	expect_none((struct store_key){ 1, 19 });
	expect((struct store_key){ 1, 20 }, 1, VALUE_BYTES);
	ck_assert_int_eq(store->ops->remove(store, 1, 100, 1500), 0);
	ck_assert_uint_eq(walk_count(1, 0, UINT64_MAX), 489);
	expect((struct store_key){ 1, 99 }, 1, VALUE_BYTES);
	expect((struct store_key){ 1, 1600 }, 1, VALUE_BYTES);
	put_range(1, 200, 3, 2); /* over a removed range */
	expect((struct store_key){ 1, 201 }, 2, VALUE_BYTES);
	ck_assert_int_eq(store->ops->remove(store, 1, 0, UINT64_MAX), 0);
	ck_assert_uint_eq(walk_count(1, 0, UINT64_MAX), 0);
	ck_assert_uint_eq(walk_count(2, 0, UINT64_MAX), 100);
	ck_assert_int_eq(store->ops->remove(store, 9, 0, UINT64_MAX), 0);
}
END_TEST

START_TEST(content_survives_a_reopen)
{
	static const struct meta_change change = { "name", 4, "value", 5 };

	put_range(1, 0, 700, 3);
	ck_assert_int_eq(store->ops->remove(store, 1, 300, 100), 0);
	ck_assert_int_eq(store->meta->put(store, &change, 1, false), 0);
	kind->reopen();
	ck_assert_uint_eq(walk_count(1, 0, UINT64_MAX), 600);
	expect((struct store_key){ 1, 699 }, 3, VALUE_BYTES);
	expect_none((struct store_key){ 1, 350 });
}
END_TEST

/* --- metadata --- */

struct meta_seen {
	char text[256];
	int stop_after;
	int count;
};

static int meta_see(void *arg, const void *key, size_t key_len, const void *value, size_t value_len)
{
	struct meta_seen *seen = arg;
	size_t at = strlen(seen->text);

	snprintf(seen->text + at, sizeof(seen->text) - at, "%.*s=%.*s;", (int)key_len, (const char *)key,
		 (int)value_len, (const char *)value);
	return ++seen->count == seen->stop_after ? 7 : 0;
}

static void meta_expect(const char *prefix, const char *want)
{
	struct meta_seen seen = { 0 };

	ck_assert_int_eq(store->meta->walk(store, prefix, strlen(prefix), meta_see, &seen), 0);
	ck_assert_str_eq(seen.text, want);
}

START_TEST(metadata_batches_and_prefixes)
{
	static const struct meta_change add[] = {
		{ "b/2", 3, "two", 3 },
		{ "a/1", 3, "one", 3 },
		{ "b/10", 4, "ten", 3 },
		{ "b", 1, "", 0 },
	};
	static const struct meta_change change[] = {
		{ "b/2", 3, NULL, 0 },
		{ "a/1", 3, "eins", 4 },
		{ "nothing", 7, NULL, 0 },
		{ "c", 1, "see", 3 },
	};
	struct meta_seen seen = { .stop_after = 1 };

	meta_expect("", "");
	ck_assert_int_eq(store->meta->put(store, add, 4, false), 0);
	meta_expect("", "a/1=one;b=;b/10=ten;b/2=two;");
	meta_expect("b/", "b/10=ten;b/2=two;");
	meta_expect("b/1", "b/10=ten;");
	meta_expect("z", "");
	ck_assert_int_eq(store->meta->put(store, change, 4, true), 0);
	meta_expect("", "a/1=eins;b=;b/10=ten;c=see;");
	ck_assert_int_eq(store->meta->walk(store, "b", 1, meta_see, &seen), 7);
	ck_assert_int_eq(seen.count, 1);
	kind->reopen();
	meta_expect("", "a/1=eins;b=;b/10=ten;c=see;");
}
END_TEST

START_TEST(metadata_limits)
{
	static char big[64 * 1024 + 1];
	struct meta_change change = { big, 512, big, 64 * 1024 };

	memset(big, 'x', sizeof(big));
	ck_assert_int_eq(store->meta->put(store, &change, 1, false), 0);
	change.key_len = 513;
	ck_assert_int_eq(store->meta->put(store, &change, 1, false), -EINVAL);
	change.key_len = 0;
	ck_assert_int_eq(store->meta->put(store, &change, 1, false), -EINVAL);
	change.key_len = 1;
	change.value_len = 64 * 1024 + 1;
	ck_assert_int_eq(store->meta->put(store, &change, 1, false), -EINVAL);
}
END_TEST

/* --- several threads --- */

#define THREADS 4

static _Atomic int wrong;

static void *worker(void *arg)
{
	uint64_t ino = 10 + (uint64_t)(uintptr_t)arg;

	for (uint64_t round = 1; round <= 6; round++) {
		put_range(ino, 0, 64, round);
		for (uint64_t block = 0; block < 64; block += 3)
			expect((struct store_key){ ino, block }, round, VALUE_BYTES);
		if (store->ops->remove(store, ino, 32, 32) != 0 || walk_count(ino, 0, 64) != 32)
			wrong++;
	}
	return NULL;
}

START_TEST(threads_on_files_of_their_own)
{
	pthread_t thread[THREADS];
	struct store_figures figures;

	for (uintptr_t i = 0; i < THREADS; i++)
		ck_assert_int_eq(pthread_create(&thread[i], NULL, worker, (void *)i), 0);
	for (int i = 0; i < 20; i++) {
		store->ops->figures(store, &figures);
		ck_assert_int_eq(store->ops->sync(store), 0);
	}
	for (int i = 0; i < THREADS; i++)
		pthread_join(thread[i], NULL);
	ck_assert_int_eq(wrong, 0);
	store->ops->figures(store, &figures);
	ck_assert_uint_ge(figures.put_blocks, THREADS * 6 * 64);
	if (!kind->moves) {
		ck_assert_uint_eq(figures.put_blocks, THREADS * 6 * 64);
		ck_assert_uint_eq(figures.put_bytes, THREADS * 6 * 64 * VALUE_BYTES);
		ck_assert_uint_eq(figures.get_blocks, THREADS * 6 * (22 + 32)); /* a walk gets, too */
	}
	ck_assert_uint_eq(figures.errors, 0);
	ck_assert(!figures.full);
}
END_TEST

static void add_contract(Suite *suite, const struct kind *of, SFun setup)
{
	TCase *tests = tcase_create(of->name);

	tcase_add_checked_fixture(tests, setup, teardown);
	tcase_set_timeout(tests, 60);
	tcase_add_test(tests, put_get_replace);
	tcase_add_test(tests, get_into_a_small_buffer);
	tcase_add_test(tests, batches_and_last_of_equal_keys);
	tcase_add_test(tests, walks_are_ordered_and_bounded);
	tcase_add_test(tests, heads_are_walked_without_values);
	tcase_add_test(tests, removal_of_small_and_large_ranges);
	tcase_add_test(tests, content_survives_a_reopen);
	if (!of->moves) /* its records are among them */
		tcase_add_test(tests, metadata_batches_and_prefixes);
	tcase_add_test(tests, metadata_limits);
	tcase_add_test(tests, threads_on_files_of_their_own);
	suite_add_tcase(suite, tests);
}

int main(void)
{
	Suite *suite = suite_create("store");
	int failed;

	scratch_new(&scratch, "store");
	add_contract(suite, &kinds[0], memory_setup);
	add_contract(suite, &kinds[1], rocks_setup);
	add_contract(suite, &kinds[2], warm_memory_setup);
	add_contract(suite, &kinds[3], warm_rocks_setup);
	add_contract(suite, &kinds[4], stores_setup);
	failed = check_run(suite);
	scratch_free(&scratch);
	return failed;
}
