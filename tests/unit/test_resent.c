/* Requests as they come from the device, and what an earlier daemon has done for them: on a namespace in memory whose
 * daemon dies after each change. */
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "engine/engine.h"
#include "front/resent.h"
#include "names/names.h"
#include "names/outcome.h"
#include "names/record.h"
#include "policy/tiering.h"
#include "lib_check.h"
#include "lib_scratch.h"
#include "lib_store_mem.h"

#define BLOCK 16384U
#define RESENT (UINT64_C(1) << 63)

static struct scratch scratch;
static struct store *store;
static struct engine *engine;
static struct ns *ns;
static uint32_t session;
static int arena_dir, device[2];

static void load(bool takes_over)
{
	struct engine_config engine_config = {
		.store = store,
		.arena_dir = arena_dir,
		.block_bytes = BLOCK,
		.dram_bytes = 8 << 20,
		.min_idle_ns = 1000000,
		.level = 1,
	};
	struct ns_config config = {
		.store = store,
		.root_mode = 0755,
		.arenas_survived = takes_over,
		.takes_over = takes_over,
		.session = session,
	};

	ck_assert_int_eq(tiering_new(&engine_config, &engine), 0);
	config.engine = engine;
	ck_assert_int_eq(ns_load(&config, &ns), 0);
}

static void unload(void)
{
	ns_free(ns);
	tiering_free(engine);
	store_mem_crash(store);
}

static void dies(void)
{
	unload();
	session++;
	load(true);
}

static void setup(void)
{
	log_init(LOG_TARGET_STDERR, LOG_LEVEL_ERROR);
	ck_assert(freopen("/dev/null", "w", stderr) != NULL);
	scratch_new(&scratch, "resent");
	arena_dir = open(scratch.path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	ck_assert_int_ge(arena_dir, 0);
	ck_assert_int_eq(pipe2(device, O_CLOEXEC | O_NONBLOCK), 0);
	ck_assert_int_eq(store_mem_new(&store), 0);
	session = 0;
	load(false);
}

static void teardown(void)
{
	unload();
	store->ops->free(store);
	close(device[0]);
	close(device[1]);
	close(arena_dir);
	scratch_free(&scratch);
}

/* The next request that this thread works on. True: it was done. */
static bool comes(uint64_t unique, uint64_t *ret_ino)
{
	struct fuse_in_header header = { .len = sizeof(header), .unique = unique };
	char buf[4096];

	ck_assert_int_eq(write(device[1], &header, sizeof(header)), sizeof(header));
	ck_assert_int_eq(resent_read(device[0], buf, sizeof(buf), NULL), sizeof(header));
	return resent_is_done(ns, ret_ino);
}

static uint64_t create(uint64_t unique, const char *name, mode_t mode)
{
	uint64_t ino = 0;
	struct stat attr;

	ck_assert(!comes(unique, &ino));
	ck_assert_int_eq(ns_create(ns, NS_ROOT_INO, name, mode, 0, 0, &attr), 0);
	return attr.st_ino;
}

START_TEST(every_change_is_known)
{
	uint64_t ino = 0, f = create(2, "f", S_IFREG | 0600), g, d;
	struct stat attr;

	dies();
	ck_assert(comes(2 | RESENT, &ino) && ino == f);
	g = create(4, "g", S_IFREG | 0600);
	dies();
	ck_assert(comes(4 | RESENT, &ino) && ino == g);
	d = create(6, "d", S_IFDIR | 0755);
	dies();
	ck_assert(comes(6 | RESENT, &ino) && ino == d);
	ck_assert(!comes(8, &ino));
	ck_assert_int_eq(ns_link(ns, f, d, "l", &attr), 0);
	dies();
	ck_assert(comes(8 | RESENT, &ino) && ino == f);
	ck_assert(!comes(10, &ino));
	ck_assert_int_eq(ns_rename(ns, NS_ROOT_INO, "f", NS_ROOT_INO, "g", RENAME_EXCHANGE), 0);
	dies();
	ck_assert(comes(10 | RESENT, &ino) && ino == f);
	ck_assert_int_eq(ns_lookup(ns, NS_ROOT_INO, "g", &attr), 0);
	ck_assert_uint_eq(attr.st_ino, f);
	ck_assert(!comes(12, &ino));
	ck_assert_int_eq(ns_rename(ns, NS_ROOT_INO, "g", NS_ROOT_INO, "f", 0), 0);
	dies();
	ck_assert(comes(12 | RESENT, &ino) && ino == f);
	ck_assert(!comes(14, &ino));
	ck_assert_int_eq(ns_unlink(ns, d, "l"), 0);
	dies();
	ck_assert(comes(14 | RESENT, &ino) && ino == f);
	ck_assert(!comes(16, &ino));
	ck_assert_int_eq(ns_rmdir(ns, NS_ROOT_INO, "d"), 0);
	dies();
	ck_assert(comes(16 | RESENT, &ino) && ino == d);
}
END_TEST

START_TEST(what_was_not_done_is_not_known)
{
	uint64_t ino = 0;
	struct stat attr;

	/* refused by the rules, refused by the store, and only looked at */
	create(2, "f", S_IFREG | 0600);
	ck_assert(!comes(4, &ino));
	ck_assert_int_eq(ns_create(ns, NS_ROOT_INO, "f", S_IFREG | 0600, 0, 0, &attr), -EEXIST);
	store_mem_fail_nth(store, STORE_MEM_META_PUT, 1, EIO);
	ck_assert(!comes(6, &ino));
	ck_assert_int_eq(ns_unlink(ns, NS_ROOT_INO, "f"), -EIO);
	ck_assert(!comes(8, &ino));
	ck_assert_int_eq(ns_lookup(ns, NS_ROOT_INO, "f", &attr), 0);
	dies();
	for (uint64_t unique = 4; unique <= 8; unique += 2)
		ck_assert(!comes(unique | RESENT, &ino));
	/* its answer was sent: the thread has begun another */
	create(10, "g", S_IFREG | 0600);
	create(12, "h", S_IFREG | 0600);
	dies();
	ck_assert(!comes(10 | RESENT, &ino));
	ck_assert(comes(12 | RESENT, &ino));
	/* what is not resent has not been done */
	ck_assert(!comes(12, &ino));
}
END_TEST

static void *create_apart(void *arg)
{
	char name[16];

	snprintf(name, sizeof(name), "t%lu", (unsigned long)(uintptr_t)arg);
	create((uintptr_t)arg, name, S_IFREG | 0600);
	return NULL;
}

/* Several threads, one after the other: the slot of one that has ended is used again. */
START_TEST(a_slot_for_each_thread)
{
	uint64_t ino = 0;
	pthread_t thread;

	create(2, "f", S_IFREG | 0600);
	for (uintptr_t unique = 4; unique <= 8; unique += 2) {
		ck_assert_int_eq(pthread_create(&thread, NULL, create_apart, (void *)unique), 0);
		pthread_join(thread, NULL);
	}
	dies();
	ck_assert(comes(2 | RESENT, &ino));
	ck_assert(!comes(4 | RESENT, &ino));
	ck_assert(comes(8 | RESENT, &ino));
}
END_TEST

static int count_one(void *arg, const void *key, size_t key_len, const void *value, size_t value_len)
{
	(void)key;
	(void)key_len;
	(void)value;
	(void)value_len;
	++*(unsigned int *)arg;
	return 0;
}

static unsigned int outcomes_stored(void)
{
	static const char prefix = RECORD_PREFIX_OUTCOME;
	unsigned int count = 0;

	ck_assert_int_eq(store->meta->walk(store, &prefix, 1, count_one, &count), 0);
	return count;
}

START_TEST(old_ones_go)
{
	uint64_t ino = 0;
	char name[16];

	create(2, "f", S_IFREG | 0600);
	for (unsigned int i = 1; i <= OUTCOME_SESSIONS; i++) {
		dies();
		ck_assert(comes(2 | RESENT, &ino));
		snprintf(name, sizeof(name), "f%u", i);
		create(2 + 2 * i, name, S_IFREG | 0600);
	}
	dies();
	ck_assert(!comes(2 | RESENT, &ino));
	ck_assert(comes(4 | RESENT, &ino));
	ck_assert_uint_eq(outcomes_stored(), OUTCOME_SESSIONS);
	/* of another mount */
	unload();
	session = 0;
	load(false);
	ck_assert(!comes(4 | RESENT, &ino));
	ck_assert_uint_eq(outcomes_stored(), 0);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("resent");
	TCase *tcase = tcase_create("resent");

	tcase_add_checked_fixture(tcase, setup, teardown);
	tcase_add_test(tcase, every_change_is_known);
	tcase_add_test(tcase, what_was_not_done_is_not_known);
	tcase_add_test(tcase, a_slot_for_each_thread);
	tcase_add_test(tcase, old_ones_go);
	suite_add_tcase(suite, tcase);
	return check_run(suite);
}
