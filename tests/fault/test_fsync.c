/* fault/test_fsync.c - an fsync that fails, or that the power goes in: each call of the store in turn.
 *
 * A failed one is told, gives up nothing, and the next one makes good. What an earlier one promised holds: each block
 * is as it was then, or newer. A file that was never synced in full is lost and says so.
 */
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "engine/read.h"
#include "engine/write.h"
#include "lib/lib_scratch.h"
#include "lib/lib_store_hook.h"
#include "lib/lib_store_mem.h"
#include "lib_check.h"
#include "names/names.h"
#include "policy/tiering.h"

#define BLOCK 16384U
#define SIZE (UINT64_C(6) << 20) /* several puts */

static struct scratch scratch;
static struct store *store, *hooked;
static struct engine *engine;
static struct ns *ns;
static int arena_dir;

/* Every put that returned reaches the disk, also without a sync: it may. */
static bool puts_reach_the_disk;

static void after_put(void *arg, enum store_hook_moment moment)
{
	(void)arg;
	if (puts_reach_the_disk && moment == STORE_HOOK_AFTER)
		store->ops->sync(store);
}

static void load(void)
{
	struct engine_config engine_config = {
		.store = hooked,
		.arena_dir = arena_dir,
		.block_bytes = BLOCK,
		.dram_bytes = 64 << 20,
		.min_idle_ns = 1000000,
		.level = 1,
	};
	struct ns_config config = { .root_mode = 0755, .store = hooked };

	ck_assert_int_eq(tiering_new(&engine_config, &engine), 0);
	config.engine = engine;
	ck_assert_int_eq(ns_load(&config, &ns), 0);
}

static void unload(void)
{
	ns_free(ns);
	ns = NULL;
	tiering_free(engine);
	engine = NULL;
}

static void setup(void)
{
	log_init(LOG_TARGET_STDERR, LOG_LEVEL_ERROR);
	ck_assert(freopen("/dev/null", "w", stderr) != NULL);
	scratch_new(&scratch, "fsync");
	arena_dir = open(scratch.path, O_RDONLY | O_DIRECTORY);
	ck_assert_int_ge(arena_dir, 0);
	ck_assert_int_eq(store_mem_new(&store), 0);
	ck_assert_int_eq(store_hook_new(store, after_put, NULL, &hooked), 0);
	puts_reach_the_disk = false;
	load();
}

static void teardown(void)
{
	unload();
	hooked->ops->free(hooked);
	store->ops->free(store);
	close(arena_dir);
	scratch_free(&scratch);
}

static void lose_power(void)
{
	char command[SCRATCH_PATH_LEN + 16];

	unload();
	snprintf(command, sizeof(command), "rm -f '%s'/*", scratch.path);
	ck_assert_int_eq(system(command), 0);
	store_mem_power_loss(store);
	load();
}

static uint64_t make(const char *name)
{
	struct ns_setattr size = { .set_size = true, .size_bytes = SIZE };
	struct stat attr;
	uint64_t ino;

	ck_assert_int_eq(ns_create(ns, NS_ROOT_INO, name, S_IFREG | 0600, 0, 0, &attr), 0);
	ino = attr.st_ino;
	ns_forget(ns, ino, 1);
	ck_assert_int_eq(ns_setattr(ns, ino, &size, &attr), 0);
	return ino;
}

static void fill(uint64_t ino, uint8_t version)
{
	static uint8_t data[SIZE];
	struct ramfile *file;

	memset(data, version, sizeof(data));
	ck_assert_int_eq(ns_open(ns, ino, &file), 0);
	ck_assert_int_eq(ramfile_write(file, data, sizeof(data), 0, false), 0);
	ns_put(ns, ino);
}

/* All of each block is of one of the two versions. */
static void expect(uint64_t ino, uint8_t one, uint8_t other)
{
	static uint8_t data[SIZE];
	struct ramfile *file;
	size_t got;

	ck_assert_int_eq(ns_open(ns, ino, &file), 0);
	ck_assert_int_eq(ramfile_read(file, data, sizeof(data), 0, &got), 0);
	ck_assert_uint_eq(got, sizeof(data));
	for (const uint8_t *block = data; block < data + sizeof(data); block += BLOCK) {
		ck_assert_msg(*block == one || *block == other, "version %u", *block);
		ck_assert_int_eq(memcmp(block, block + 1, BLOCK - 1), 0);
	}
	ns_put(ns, ino);
}

static void expect_lost(uint64_t ino)
{
	struct ramfile *file;
	uint8_t byte;
	size_t got;

	ck_assert_int_eq(ns_open(ns, ino, &file), 0);
	ck_assert_int_eq(ramfile_read(file, &byte, 1, 0, &got), -EIO);
	ns_put(ns, ino);
}

struct failure {
	enum store_mem_call call;
	int error;
};

static const struct failure failures[] = {
	{ STORE_MEM_PUT, ENOSPC },  { STORE_MEM_PUT, EIO },         { STORE_MEM_SYNC, EIO },
	{ STORE_MEM_SYNC, ENOSPC }, { STORE_MEM_META_PUT, ENOSPC }, { STORE_MEM_META_PUT, EIO },
};
#define FAILURES (int)(sizeof(failures) / sizeof(failures[0]))

/* Runs the case with the first call of the kind failing, the second, ... until none does. */
static void each(const struct failure *failure, void (*run)(uint64_t ino, int error), bool synced_before)
{
	bool failed = true;

	for (uint64_t nth = 1; failed; nth++) {
		uint64_t ino;
		char name[32];
		int rc;

		snprintf(name, sizeof(name), "f%u", (unsigned int)nth);
		ino = make(name);
		fill(ino, 1);
		if (synced_before)
			ck_assert_int_eq(ns_fsync(ns, ino), 0);
		fill(ino, 2);
		store_mem_fail_nth(store, failure->call, nth, failure->error);
		rc = ns_fsync(ns, ino);
		store_mem_fail_nth(store, failure->call, 0, 0);
		failed = rc != 0;
		if (failed)
			ck_assert_int_eq(rc, -failure->error);
		ck_assert(failed || nth > 1); /* there is one at least */
		run(ino, rc);
		ck_assert_int_eq(ns_unlink(ns, NS_ROOT_INO, name), 0);
	}
}

static void goes_on(uint64_t ino, int error)
{
	expect(ino, 2, 2);
	if (error)
		ck_assert_int_eq(ns_fsync(ns, ino), 0);
	lose_power();
	expect(ino, 2, 2);
}

static void keeps_the_old(uint64_t ino, int error)
{
	lose_power();
	expect(ino, error ? 1 : 2, 2);
}

static void is_lost(uint64_t ino, int error)
{
	lose_power();
	if (error)
		expect_lost(ino);
	else
		expect(ino, 2, 2);
}

START_TEST(a_failed_fsync_is_made_good_by_the_next)
{
	each(&failures[_i], goes_on, false);
	each(&failures[_i], goes_on, true);
}
END_TEST

START_TEST(power_loss_in_an_fsync_leaves_what_was_promised)
{
	each(&failures[_i], keeps_the_old, true);
	puts_reach_the_disk = failures[_i].call != STORE_MEM_SYNC; /* which would be the one that fails */
	each(&failures[_i], keeps_the_old, true);
}
END_TEST

START_TEST(power_loss_in_the_first_fsync_is_told)
{
	each(&failures[_i], is_lost, false);
	puts_reach_the_disk = failures[_i].call != STORE_MEM_SYNC; /* which would be the one that fails */
	each(&failures[_i], is_lost, false);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("fsync");
	TCase *tests = tcase_create("fsync");

	tcase_add_checked_fixture(tests, setup, teardown);
	tcase_add_loop_test(tests, a_failed_fsync_is_made_good_by_the_next, 0, FAILURES);
	tcase_add_loop_test(tests, power_loss_in_an_fsync_leaves_what_was_promised, 0, FAILURES);
	tcase_add_loop_test(tests, power_loss_in_the_first_fsync_is_told, 0, FAILURES);
	suite_add_tcase(suite, tests);
	return check_run(suite);
}
