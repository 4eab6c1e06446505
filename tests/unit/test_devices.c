/* unit/test_devices.c - files of a namespace over two stores (names/devices.h): a store that is missing, a record that
 * may be there or not, and demotion while a file moves. */
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "cold/meta.h"
#include "cold/stores.h"
#include "engine/demote.h"
#include "engine/engine.h"
#include "engine/mappers.h"
#include "engine/ramfile.h"
#include "engine/read.h"
#include "engine/write.h"
#include "lib/lib_scratch.h"
#include "lib/lib_store_hook.h"
#include "lib/lib_store_mem.h"
#include "mem/arena.h"
#include "names/names.h"
#include "names/shares.h"
#include "policy/demand.h"
#include "policy/tiering.h"
#include "lib_check.h"
#include "../lib/lib_gate.h"

#define BLOCK 16384U
#define BLOCKS 4U

static struct scratch scratch;
static struct store *devices[2], *first, *second, *store;
static struct engine *engine;
static struct ns *ns;
static int arena_dir;

/* --- devices that outlive their router; the first one may lie about records, the second one may sync for long --- */

static _Atomic bool lies;

static int lying_put(struct store *base, const struct meta_change *changes, size_t count, bool durable)
{
	int err = devices[0]->meta->put(devices[0], changes, count, durable);

	(void)base;
	return lies ? -EIO : err;
}

static int true_walk(struct store *base, const void *prefix, size_t prefix_len, meta_fn *fn, void *arg)
{
	(void)base;
	return devices[0]->meta->walk(devices[0], prefix, prefix_len, fn, arg);
}

static const struct meta_ops lying_meta = { .put = lying_put, .walk = true_walk };

static void no_hook(void *arg, enum store_hook_moment moment)
{
	(void)arg;
	(void)moment;
}

static struct store_ops gated_ops;

static int gated_sync(struct store *base)
{
	(void)base;
	gate_pass();
	return devices[1]->ops->sync(devices[1]);
}

static void load(bool with_other, bool survived)
{
	static const uint8_t token[STORES_TOKEN_BYTES] = { 1 };
	struct ns_config config = { .root_mode = 0755, .arenas_survived = survived };
	struct engine_config engine_config = {
		.arena_dir = arena_dir,
		.block_bytes = BLOCK,
		.dram_bytes = 64 << 20,
		.min_idle_ns = 1000000,
		.level = 1,
	};

	ck_assert_int_eq(store_hook_new(devices[0], no_hook, NULL, &first), 0);
	first->meta = &lying_meta;
	ck_assert_int_eq(stores_open((struct stores_device){ .store = first }, &store), 0);
	if (with_other) {
		ck_assert_int_eq(store_hook_new(devices[1], no_hook, NULL, &second), 0);
		gated_ops = *second->ops;
		gated_ops.sync = gated_sync;
		second->ops = &gated_ops;
		ck_assert_int_eq(stores_add(store, "other", token, (struct stores_device){ .store = second }), 0);
	}
	engine_config.store = config.store = store;
	ck_assert_int_eq(tiering_new(&engine_config, &engine), 0);
	config.engine = engine;
	ck_assert_int_eq(ns_load(&config, &ns), 0);
}

static void unload(void)
{
	ns_free(ns);
	tiering_free(engine);
	store->ops->free(store);
}

static void setup(void)
{
	log_init(LOG_TARGET_STDERR, LOG_LEVEL_ERROR);
	scratch_new(&scratch, "devices");
	arena_dir = open(scratch.path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	ck_assert_int_ge(arena_dir, 0);
	for (int i = 0; i < 2; i++)
		ck_assert_int_eq(store_mem_new(&devices[i]), 0);
	lies = false;
	load(true, false);
}

static void teardown(void)
{
	unload();
	for (int i = 0; i < 2; i++)
		devices[i]->ops->free(devices[i]);
	close(arena_dir);
	scratch_free(&scratch);
}

static uint64_t make(uint64_t parent, const char *name, mode_t type)
{
	struct stat attr;

	ck_assert_int_eq(ns_create(ns, parent, name, type | 0700, 1, 2, &attr), 0);
	ns_forget(ns, attr.st_ino, 1);
	return attr.st_ino;
}

static void set_store(uint64_t ino, uint64_t index)
{
	struct shares_change change = { SHARE_STORE, index };
	uint64_t left;

	ck_assert_int_eq(shares_set(ns, ino, &change, 1, 64 << 20, &left), 0);
}

static struct ramfile *open_filled(uint64_t ino, uint8_t byte)
{
	struct ns_setattr change = { .set_size = true, .size_bytes = BLOCKS * BLOCK };
	uint8_t data[BLOCKS * BLOCK];
	struct ramfile *content;
	struct stat attr;

	memset(data, byte, sizeof(data));
	data[0] = 1;
	ck_assert_int_eq(ns_setattr(ns, ino, &change, &attr), 0);
	ck_assert_int_eq(ns_open(ns, ino, &content), 0);
	ck_assert_int_eq(ramfile_write(content, data, sizeof(data), 0, false), 0);
	return content;
}

static void expect_content(struct ramfile *content, uint8_t byte)
{
	uint8_t data[BLOCKS * BLOCK];
	size_t got;

	ck_assert_int_eq(ramfile_read(content, data, sizeof(data), 0, &got), 0);
	ck_assert_uint_eq(got, sizeof(data));
	ck_assert_uint_eq(data[0], 1);
	for (size_t i = 1; i < sizeof(data); i++)
		ck_assert_uint_eq(data[i], byte);
}

static void step_all(void)
{
	while (stores_step(store))
		;
}

/* --- tests -------------------------------------------------------------------------------------------------------- */

/* As QEMU does it: the file has no name while it is mapped. The daemon is killed, the process is not, and the next
 * daemon comes without the store that has a part of the file: what the process has in DRAM is all there is. */
START_TEST(a_process_keeps_its_file_while_a_store_is_missing)
{
	uint64_t dir = make(NS_ROOT_INO, "dir", S_IFDIR), file, ino = 0;
	struct ramfile *content;
	struct file_done done;
	int fd;

	set_store(dir, 1);
	file = make(dir, "file", S_IFREG);
	content = open_filled(file, 7);
	ck_assert_int_eq(demand_demote(content, 0, BLOCK, NULL, NULL, &done), 0);
	ck_assert_uint_gt(store_mem_count(devices[1], file), 0);
	ck_assert_int_eq(ns_unlink(ns, dir, "file"), 0);
	ck_assert_int_eq(mappers_arena_fd(content, true, &fd), 0);
	ck_assert_int_eq(arena_hold(fd, 1), 0);
	unload();
	load(false, true);
	ck_assert_int_lt(ns_open_by_arena(ns, fd, &ino, &content), 0);
	ck_assert_int_eq(ns_close(ns, NULL, NULL), -EIO); /* the arenas must not go */
	unload();
	load(true, true);
	ck_assert_int_eq(ns_open_by_arena(ns, fd, &ino, &content), 0);
	ck_assert_uint_eq(ino, file);
	expect_content(content, 7);
	ns_put(ns, file);
	close(fd);
}
END_TEST

/* A creation that failed may be there after all, with its store. Nobody else is made to be where that one is. */
START_TEST(a_record_of_a_failed_creation)
{
	uint64_t dir = make(NS_ROOT_INO, "dir", S_IFDIR), file;
	struct store_item item = { { 0, 0 }, "value", 5 };
	uint8_t value[8];
	struct stat attr;
	size_t length;

	set_store(dir, 1);
	lies = true;
	ck_assert_int_eq(ns_create(ns, dir, "failed", S_IFREG | 0600, 1, 2, &attr), -EIO);
	lies = false;
	file = make(NS_ROOT_INO, "file", S_IFREG);
	item.key.ino = file;
	ck_assert_int_eq(store->ops->put(store, STORE_DEMOTION, &item, 1), 0);
	ck_assert_int_eq(store->ops->sync(store), 0);
	unload();
	load(true, false);
	ck_assert_int_eq(store->ops->get(store, STORE_GUEST, item.key, value, sizeof(value), &length), 0);
	ck_assert_uint_eq(store_mem_count(devices[0], file), 1);
	step_all();
	ck_assert_int_eq(store->ops->get(store, STORE_GUEST, item.key, value, sizeof(value), &length), 0);
}
END_TEST

static void *step_once(void *arg)
{
	(void)arg;
	stores_step(store);
	return NULL;
}

/* A file is on its way, to a device whose sync does not end. Who makes room passes over what is claimed, and is there
 * for others; so is a thread that reads. */
START_TEST(room_is_made_while_a_file_moves)
{
	static const uint32_t block[] = { 1, 2, 3 };
	uint64_t file = make(NS_ROOT_INO, "file", S_IFREG), other = make(NS_ROOT_INO, "other", S_IFREG);
	struct ramfile *content = open_filled(file, 7), *next = open_filled(other, 8);
	struct demote_result result;
	struct file_done done;
	pthread_t mover;

	ck_assert_int_eq(demand_demote(content, 0, BLOCK, NULL, NULL, &done), 0);
	set_store(file, 1);
	ck_assert(stores_step(store)); /* it begins */
	gate_set(true);
	ck_assert_int_eq(pthread_create(&mover, NULL, step_once, NULL), 0);
	gate_await();
	ck_assert_int_eq(demote_blocks(content, block, 3, true, &result), 0);
	ck_assert_uint_eq(result.demoted, 0);
	ck_assert_int_eq(demote_blocks(next, block, 3, true, &result), 0);
	ck_assert_uint_eq(result.demoted, 3);
	expect_content(content, 7);
	gate_set(false);
	pthread_join(mover, NULL);
	step_all();
	ck_assert_int_eq(demote_blocks(content, block, 3, true, &result), 0);
	ck_assert_uint_eq(result.demoted, 3);
	ck_assert_uint_eq(store_mem_count(devices[1], file), 4);
	expect_content(content, 7);
	ns_put(ns, file);
	ns_put(ns, other);
}
END_TEST

/* Power goes: of the first device, whose log nobody has synced, what was durable is left, and all of the other one. */
static void lose_power(void)
{
	char command[600];

	unload();
	store_mem_power_loss(devices[0]);
	snprintf(command, sizeof(command), "rm -f '%s'/*", scratch.path);
	ck_assert_int_eq(system(command), 0);
	load(true, false);
}

static uint64_t make_synced(uint64_t dir, const char *name)
{
	uint64_t file = make(dir, name, S_IFREG);
	struct ramfile *content = open_filled(file, 7);

	(void)content;
	ck_assert_int_eq(ns_fsync(ns, file), 0);
	ns_put(ns, file);
	ck_assert_uint_eq(store_mem_count(devices[1], file), BLOCKS);
	return file;
}

/* A name that is there after all has its content: the last name is gone for certain before any of that goes. */
START_TEST(a_name_that_is_back_has_its_content)
{
	uint64_t dir = make(NS_ROOT_INO, "dir", S_IFDIR), file, replaced, kept;
	struct ramfile *content;
	struct stat attr;

	set_store(dir, 1);
	file = make_synced(dir, "file");
	replaced = make_synced(dir, "replaced");
	kept = make_synced(dir, "kept");
	make(dir, "new", S_IFREG);
	ck_assert_int_eq(ns_unlink(ns, dir, "file"), 0);
	ck_assert_uint_eq(store_mem_count(devices[1], file), 0);
	lose_power();
	ck_assert_int_eq(ns_lookup(ns, dir, "file", &attr), -ENOENT);
	ck_assert_int_eq(ns_rename(ns, dir, "new", dir, "replaced", 0), 0);
	ck_assert_uint_eq(store_mem_count(devices[1], replaced), 0);
	lose_power();
	ck_assert_int_eq(ns_lookup(ns, dir, "replaced", &attr), 0);
	ck_assert_uint_ne(attr.st_ino, replaced);
	/* If that cannot be written the content stays, and the next mount removes it. */
	store_mem_fail_nth(devices[0], STORE_MEM_META_PUT, 2, EIO);
	ck_assert_int_eq(ns_unlink(ns, dir, "kept"), 0);
	ck_assert_uint_eq(store_mem_count(devices[1], kept), BLOCKS);
	lose_power();
	ck_assert_int_eq(ns_lookup(ns, dir, "kept", &attr), 0);
	ck_assert_int_eq(ns_open(ns, kept, &content), 0);
	expect_content(content, 7);
	ns_put(ns, kept);
	store_mem_fail_nth(devices[0], STORE_MEM_META_PUT, 2, EIO);
	ck_assert_int_eq(ns_unlink(ns, dir, "kept"), 0);
	unload();
	load(true, true);
	ck_assert_uint_eq(store_mem_count(devices[1], kept), 0);
}
END_TEST

/* After an fsync a file has its size and what it held, or the smaller one that it was cut to. */
START_TEST(a_size_that_is_back_has_its_content)
{
	struct ns_setattr change = { .set_size = true, .size_bytes = BLOCK };
	uint64_t dir = make(NS_ROOT_INO, "dir", S_IFDIR), file;
	struct stat attr;

	set_store(dir, 1);
	file = make_synced(dir, "file");
	/* The size again, if nothing was cut. */
	store_mem_fail_nth(devices[1], STORE_MEM_REMOVE, 1, EIO);
	ck_assert_int_lt(ns_setattr(ns, file, &change, &attr), 0);
	ck_assert_int_eq(ns_getattr(ns, file, &attr), 0);
	ck_assert_int_eq(attr.st_size, BLOCKS * BLOCK);
	ck_assert_int_eq(ns_setattr(ns, file, &change, &attr), 0);
	ck_assert_uint_eq(store_mem_count(devices[1], file), 1);
	lose_power();
	ck_assert_int_eq(ns_getattr(ns, file, &attr), 0);
	ck_assert_int_eq(attr.st_size, BLOCK);
}
END_TEST

#define VALUES 1600U

static void put_values(uint64_t ino, const uint64_t *block, size_t count, uint32_t bytes)
{
	static uint8_t value[65536];
	struct store_item item[VALUES];

	ck_assert_uint_le(count, VALUES);
	for (uint64_t i = 0; i < count; i++)
		item[i] = (struct store_item){ { ino, block ? block[i] : i }, value, bytes };
	ck_assert_int_eq(store->ops->put(store, STORE_DEMOTION, item, count), 0);
}

/* Whoever puts blocks below and above what is claimed has nothing to wait for. */
START_TEST(blocks_on_both_sides_of_what_moves)
{
	static const uint64_t sides[] = { 0, VALUES - 1 };
	uint64_t file = make(NS_ROOT_INO, "file", S_IFREG);
	struct store_hold hold;
	pthread_t mover;

	put_values(file, NULL, VALUES, 64);
	set_store(file, 1);
	ck_assert(stores_step(store)); /* it begins */
	ck_assert(stores_step(store)); /* the first window */
	gate_set(true);
	ck_assert_int_eq(pthread_create(&mover, NULL, step_once, NULL), 0);
	gate_await();
	store_hold(store, file, &hold);
	for (int i = 0; i < 2; i++)
		ck_assert(!store_is_busy(&hold, sides[i]));
	ck_assert(store_is_busy(&hold, VALUES / 2));
	put_values(file, sides, 2, 64);
	store_let_go(store, &hold);
	gate_set(false);
	pthread_join(mover, NULL);
	step_all();
	ck_assert_uint_eq(store_mem_count(devices[1], file), VALUES);
}
END_TEST

/* No window has more than 4 MiB, up or down, however large the values are. */
START_TEST(a_window_of_large_values_is_small)
{
	uint64_t file = make(NS_ROOT_INO, "file", S_IFREG), count;

	for (int i = 0; i < 2; i++) {
		put_values(file, NULL, 256, 65536);
		set_store(file, 1);
		for (count = 0; count < 256; count = store_mem_count(devices[1], file))
			ck_assert(stores_step(store));
		set_store(file, 0); /* it turns round */
		while (count) {
			uint64_t left;

			ck_assert(stores_step(store));
			left = store_mem_count(devices[1], file);
			ck_assert_uint_le(count - left, 64);
			count = left;
		}
		step_all();
		ck_assert_uint_eq(store_mem_count(devices[0], file), 256);
	}
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("devices");
	TCase *tests = tcase_create("devices");

	tcase_set_timeout(tests, 60);
	tcase_add_checked_fixture(tests, setup, teardown);
	tcase_add_test(tests, a_process_keeps_its_file_while_a_store_is_missing);
	tcase_add_test(tests, a_record_of_a_failed_creation);
	tcase_add_test(tests, room_is_made_while_a_file_moves);
	tcase_add_test(tests, a_name_that_is_back_has_its_content);
	tcase_add_test(tests, a_size_that_is_back_has_its_content);
	tcase_add_test(tests, blocks_on_both_sides_of_what_moves);
	tcase_add_test(tests, a_window_of_large_values_is_small);
	suite_add_tcase(suite, tests);
	return check_run(suite);
}
