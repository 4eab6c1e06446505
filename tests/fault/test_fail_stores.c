/* link: @tests/lib/lib_fail.flags */
/* fault/test_fail_stores.c - the Nth allocation and the Nth system call of every function of cold/stores.h and
 * pool/device.h fail: an error says so, every value is there, nothing is left behind, and the next call works.
 */
#include <check.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../lib/lib_fail.h"
#include "../lib/lib_scratch.h"
#include "../lib/lib_store_hook.h"
#include "../lib/lib_store_mem.h"
#include "cold/stores.h"
#include "lib_check.h"
#include "pool/device.h"

#define BLOCKS 700U /* two windows */
#define POINTS_MAX 500U
#define FILE_INO 7U
#define CLONE_INO 8U

static struct scratch scratch;
static struct store *memory[2], *router, *first_router;
static unsigned int turn; /* of open_and_add */
static bool turn_was_hit;
static const uint8_t token[STORES_TOKEN_BYTES] = { 1 };

static int make_router(void)
{
	return stores_open((struct stores_device){ .store = memory[0] }, &router);
}

static void put_all(void)
{
	uint8_t value[BLOCKS][16];
	struct store_item items[BLOCKS];

	for (uint64_t block = 0; block < BLOCKS; block++) {
		memset(value[block], (int)block, sizeof(value[block]));
		items[block] = (struct store_item){ { FILE_INO, block }, value[block], sizeof(value[block]) };
	}
	ck_assert_int_eq(router->ops->put(router, STORE_DEMOTION, items, BLOCKS), 0);
}

static void expect_all(uint64_t ino)
{
	uint8_t got[16], want[16];
	size_t length;

	for (uint64_t block = 0; block < BLOCKS; block++) {
		int err = router->ops->get(router, STORE_GUEST, (struct store_key){ ino, block }, got, sizeof(got),
					   &length);

		ck_assert_msg(err == 0, "after %s: block %u: %s", fail_what(), (unsigned int)block, strerror(-err));
		memset(want, (int)block, sizeof(want));
		ck_assert_mem_eq(got, want, sizeof(want));
	}
}

static void make_all(void)
{
	for (int i = 0; i < 2; i++)
		ck_assert_int_eq(store_mem_new(&memory[i]), 0);
	ck_assert_int_eq(make_router(), 0);
	ck_assert_int_eq(stores_add(router, "other", token, (struct stores_device){ .store = memory[1] }), 0);
	put_all();
}

static void step_all(void)
{
	for (int i = 0; i < 100 && stores_step(router); i++)
		;
}

/* After a failure it would wait for a while. */
static void move_to(unsigned int index)
{
	stores_want(router, FILE_INO, !index);
	stores_want(router, FILE_INO, index);
	step_all();
	ck_assert_uint_eq(store_mem_count(memory[!index], FILE_INO), 0);
	ck_assert_uint_eq(store_mem_count(memory[index], FILE_INO), BLOCKS);
	expect_all(FILE_INO);
}

/* --- what is called with a failure, and what holds after it ------------------------------------------------------ */

static int call_want(void)
{
	return stores_want(router, FILE_INO, 1);
}

static int call_steps(void)
{
	struct stores_where where;

	stores_want(router, FILE_INO, 1);
	step_all();
	stores_where(router, FILE_INO, &where);
	return where.at == where.from ? 0 : where.error ? where.error : -ENOMEM;
}

static int call_clone(void)
{
	struct store_share share = { .from = FILE_INO, .to = CLONE_INO, .count = BLOCKS };
	int err = stores_clone_begin(router, FILE_INO, CLONE_INO);

	if (!err) {
		err = router->ops->share(router, &share);
		stores_clone_end(router, FILE_INO, CLONE_INO);
	}
	return err;
}

static void after_clone(void)
{
	step_all(); /* a record may be in doubt */
	ck_assert_int_eq(router->ops->remove(router, CLONE_INO, 0, UINT64_MAX), 0);
	ck_assert_int_eq(call_clone(), 0);
	expect_all(CLONE_INO);
}

static int call_begun(void)
{
	return stores_begun(router, CLONE_INO, 1);
}

static int no_file(void *arg, uint64_t ino)
{
	(void)arg;
	(void)ino;
	return 0;
}

static int call_each(void)
{
	return stores_each(router, no_file, NULL);
}

static int call_sync(void)
{
	return router->ops->sync_file(router, FILE_INO);
}

static int call_keep(void)
{
	router->ops->keep(router, CLONE_INO, true); /* if nobody can note whom, it is all */
	return 0;
}

static const struct {
	const char *name;
	int (*call)(void);
	void (*after)(void);
	bool moved; /* the file is at the other device before */
} functions[] = {
	{ "want", call_want, NULL, false },         { "steps", call_steps, NULL, false },
	{ "clone", call_clone, after_clone, true }, { "begun", call_begun, NULL, false },
	{ "each", call_each, NULL, true },          { "sync", call_sync, NULL, true },
	{ "keep", call_keep, NULL, false },
};
#define FUNCTIONS ((int)(sizeof(functions) / sizeof(functions[0])))

START_TEST(every_function)
{
	unsigned int points = 0, nth = 1;

	/* Most are those of the memory stores, one for each value. */
	for (bool hit = true; hit; points += hit, nth += 1 + nth / 8) {
		int err;

		ck_assert_uint_lt(points, POINTS_MAX);
		fail_memory_begin();
		make_all();
		if (functions[_i].moved)
			move_to(1);
		fail_arm(FAIL_ANY, nth);
		err = functions[_i].call();
		hit = fail_disarm();
		/* What only frees space later may fail and be made good. */
		ck_assert_msg(hit || err == 0, "%s: %s", functions[_i].name, strerror(-err));
		expect_all(FILE_INO);
		if (functions[_i].after)
			functions[_i].after();
		move_to(1);
		move_to(0);
		router->ops->free(router);
		ck_assert_uint_eq(fail_memory_left(0), 0);
		fail_memory_end();
	}
	printf("%-16s %3u points\n", functions[_i].name, points);
}
END_TEST

static void no_hook(void *arg, enum store_hook_moment moment)
{
	(void)arg;
	(void)moment;
}

/* A device that is not freed with its router. */
static struct stores_device borrow(int i)
{
	struct stores_device device = { 0 };

	ck_assert_int_eq(store_hook_new(memory[i], no_hook, NULL, &device.store), 0);
	return device;
}

/* A new daemon on a file that is half way. Those that were not taken are freed. */
static int open_again(void)
{
	static const char *const names[] = { NULL, "other", "third" };
	struct stores_device device[3] = { borrow(0), borrow(1), borrow(1) };
	int err = 0, taken = 0;

	fail_arm(FAIL_ANY, fail_point(turn));
	for (; taken < 3 && !err; taken += !err)
		err = taken ? stores_add(router, names[taken], token, device[taken]) : stores_open(device[0], &router);
	turn_was_hit = fail_disarm();
	for (int i = taken; i < 3; i++)
		device[i].store->ops->free(device[i].store);
	return err;
}

START_TEST(open_and_add)
{
	for (turn_was_hit = true, turn = 1; turn_was_hit; turn++) {
		int err;

		ck_assert_uint_lt(turn, POINTS_MAX);
		fail_memory_begin();
		make_all();
		ck_assert_int_eq(stores_want(router, FILE_INO, 1), 0);
		for (int i = 0; i < 2; i++)
			stores_step(router);
		first_router = router;
		router = NULL;
		err = open_again();
		ck_assert_msg(turn_was_hit == (err != 0), "after %s: %s", fail_what(), strerror(-err));
		if (router)
			router->ops->free(router);
		ck_assert_int_eq(stores_open(borrow(0), &router), 0);
		ck_assert_int_eq(stores_add(router, "other", token, borrow(1)), 0);
		expect_all(FILE_INO);
		move_to(1);
		router->ops->free(router);
		first_router->ops->free(first_router);
		ck_assert_uint_eq(fail_memory_left(0), 0);
		fail_memory_end();
	}
	printf("%-16s %3u points\n", "open, add", turn - 2);
}
END_TEST

/* --- directories -------------------------------------------------------------------------------------------------- */

static char dir[SCRATCH_PATH_LEN + 16];

static uint8_t got_token[DEVICE_TOKEN_BYTES];

static int open_device(const uint8_t *known, char **store_dir)
{
	const struct device_config config = {
		.dir = dir, .name = "slow", .pool_id = "0123456789abcdef", .token = known
	};

	return device_open(&config, got_token, store_dir);
}

static void try_device(bool old)
{
	unsigned int points = 0, descriptors = fail_descriptors();
	uint8_t known[DEVICE_TOKEN_BYTES];

	for (bool hit = true; hit; points += hit) {
		char *store_dir = NULL;
		struct stat attr;
		int err;

		ck_assert_uint_lt(points, POINTS_MAX);
		snprintf(dir, sizeof(dir), "%s/XXXXXX", scratch.path);
		ck_assert_ptr_nonnull(mkdtemp(dir));
		if (old) {
			ck_assert_int_eq(open_device(NULL, &store_dir), 0);
			free(store_dir);
			store_dir = NULL;
			memcpy(known, got_token, sizeof(known));
		}
		fail_memory_begin();
		fail_arm(FAIL_ANY, fail_point(points + 1));
		err = open_device(old ? known : NULL, &store_dir);
		hit = fail_disarm();
		ck_assert_msg(hit || !err, "%s", strerror(-err));
		ck_assert_msg(!err == (store_dir != NULL), "after %s", fail_what());
		free(store_dir);
		store_dir = NULL;
		ck_assert_uint_eq(fail_memory_left(0), 0);
		fail_memory_end();
		ck_assert_uint_eq(fail_descriptors(), descriptors);
		ck_assert_int_eq(open_device(NULL, &store_dir), 0);
		ck_assert_int_eq(stat(store_dir, &attr), 0);
		free(store_dir);
	}
	printf("%-16s %3u points\n", old ? "device, old" : "device, new", points);
}

static int drop(const char *what, bool file)
{
	char path[sizeof(dir) + 32];

	snprintf(path, sizeof(path), "%s/%s", dir, what);
	return file ? unlink(path) : rmdir(path);
}

/* Of a store that the pool knows nothing is made anew: no directory, no file in it, no database. Its disk may not be
 * mounted, or only a part of it was restored. A name that the pool does not know is a new store. */
START_TEST(a_known_device_that_is_not_there)
{
	static const uint8_t other[DEVICE_TOKEN_BYTES] = { 9 };
	uint8_t known[DEVICE_TOKEN_BYTES];
	char *store_dir = NULL;

	snprintf(dir, sizeof(dir), "%s/XXXXXX", scratch.path);
	ck_assert_ptr_nonnull(mkdtemp(dir));
	ck_assert_int_eq(open_device(other, &store_dir), -ENODEV);
	ck_assert_int_eq(drop("tierfs-store", true), -1);
	ck_assert_int_eq(open_device(NULL, &store_dir), 0);
	free(store_dir);
	store_dir = NULL;
	memcpy(known, got_token, sizeof(known));
	ck_assert_int_eq(open_device(known, &store_dir), 0);
	free(store_dir);
	store_dir = NULL;
	ck_assert_int_eq(open_device(other, &store_dir), -ENODEV);
	ck_assert_int_eq(drop("store", false), 0);
	ck_assert_int_eq(open_device(known, &store_dir), -ENODEV);
	ck_assert_int_eq(drop("store", false), -1);
	ck_assert_int_eq(drop("tierfs-store", true), 0);
	ck_assert_int_eq(rmdir(dir), 0);
	ck_assert_int_eq(open_device(known, &store_dir), -ENODEV);
	ck_assert_int_eq(access(dir, F_OK), -1);
}
END_TEST

START_TEST(devices)
{
	try_device(_i);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("fail_stores");
	TCase *tests = tcase_create("points");
	int failed;

	setvbuf(stdout, NULL, _IOLBF, 0);
	scratch_new(&scratch, "fail-stores");
	tcase_set_timeout(tests, 300);
	tcase_add_loop_test(tests, every_function, 0, FUNCTIONS);
	tcase_add_test(tests, open_and_add);
	tcase_add_loop_test(tests, devices, 0, 2);
	tcase_add_test(tests, a_known_device_that_is_not_there);
	suite_add_tcase(suite, tests);
	failed = check_run(suite);
	scratch_free(&scratch);
	return failed;
}
