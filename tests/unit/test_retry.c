/* unit/test_retry.c - the device fails for a while: who touches cold memory waits and gets it, and is not poisoned.
 * What is damaged is poisoned at once, and is well when it can be read again.
 *
 * The engine is real, the store in memory, the mapper a simulated process; time is what the test says.
 */
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "../lib/lib_process.h"
#include "../lib/lib_scratch.h"
#include "../lib/lib_store_mem.h"
#include "engine/engine.h"
#include "engine/fault.h"
#include "engine/file.h"
#include "engine/parked.h"
#include "engine/ramfile.h"
#include "engine/read.h"
#include "engine/retry.h"
#include "engine/write.h"
#include "policy/tiering.h"
#include "lib_check.h"

#define INO 5
#define BLOCK 16384U
#define PAGE 4096U
#define BLOCKS 8U
#define SIZE ((uint64_t)BLOCKS * BLOCK)

static struct scratch scratch;
static int arena_dir;
static struct store *store;
static struct engine *engine;
static struct ramfile *file;
static struct process *process, *other;

static void setup(void)
{
	static uint8_t data[SIZE];
	struct engine_config config = { .block_bytes = BLOCK, .dram_bytes = 4 * SIZE, .level = 1 };

	scratch_new(&scratch, "retry");
	arena_dir = open(scratch.path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	ck_assert_int_eq(store_mem_new(&store), 0);
	config.store = store;
	config.arena_dir = arena_dir;
	ck_assert_int_eq(tiering_new(&config, &engine), 0);
	ck_assert_int_eq(retry_new(fault_serve, false, &engine->retry), 0);
	ck_assert_int_eq(ramfile_load(engine, INO, SIZE, false, &file), 0);
	for (size_t i = 0; i < SIZE; i++)
		data[i] = (uint8_t)(i / 100 + i % 7 + 1);
	ck_assert_int_eq(ramfile_write(file, data, SIZE, 0, true), 0);
	ck_assert_int_eq(process_map(file, 1, &process), 0);
	ck_assert_int_eq(process_map(file, 2, &other), 0);
}

static void teardown(void)
{
	process_unmap(other);
	if (process)
		process_unmap(process);
	file_check(file);
	ramfile_unload(file);
	ck_assert_uint_eq(budget_used(engine_budget(engine)), 0);
	tiering_free(engine);
	store->ops->free(store);
	close(arena_dir);
	scratch_free(&scratch);
}

static uint8_t want_at(uint64_t offset)
{
	return (uint8_t)(offset / 100 + offset % 7 + 1);
}

static bool touch(uint64_t block)
{
	uint8_t got = 0;
	bool there = process_touch(process, block * BLOCK + 5, &got, 1, false);

	if (there && !process_poisoned(process))
		ck_assert_uint_eq(got, want_at(block * BLOCK + 5));
	return there;
}

static struct ramfile_figures figures(void)
{
	struct ramfile_figures figures;

	ramfile_figures(file, &figures);
	ck_assert_uint_eq(figures.waiting_faults, figures.waiting_for_store);
	return figures;
}

/* Everything that waits is due. */
static void time_passes(void)
{
	retry_run(engine->retry, clock_ns() + 2 * RETRY_HEAL_NS);
}

START_TEST(who_touches_waits_for_the_device)
{
	store_mem_fail_all(store, STORE_MEM_GET, EIO);
	store_mem_fail_all(store, STORE_MEM_WALK, EIO);
	ck_assert(!touch(2));
	ck_assert(!process_poisoned(process));
	ck_assert_uint_ne(retry_run(engine->retry, 1), 0); /* not yet */
	ck_assert(!touch(2));                              /* another thread: waits for the same */
	ck_assert_uint_eq(figures().waiting_for_store, 1);
	ck_assert_uint_gt(figures().longest_wait_ns, 0);
	retry_run(engine->retry, clock_ns() + RETRY_FIRST_NS);
	ck_assert(!touch(2));
	ck_assert(!process_poisoned(process));
	store_mem_fail_all(store, STORE_MEM_GET, 0);
	store_mem_fail_all(store, STORE_MEM_WALK, 0);
	retry_run(engine->retry, clock_ns() + RETRY_MOST_NS);
	ck_assert(touch(2));
	ck_assert(!process_poisoned(process));
	ck_assert_uint_eq(retry_run(engine->retry, clock_ns()), 0); /* nothing waits */
	ck_assert_uint_eq(figures().waiting_for_store, 0);
	ck_assert_uint_eq(figures().longest_wait_ns, 0);
}
END_TEST

START_TEST(who_waited_for_long_is_told_and_healed)
{
	store_mem_fail_all(store, STORE_MEM_GET, EIO);
	/* A process begins with its mapper. */
	fault_serve(file, (struct mapper *)process, 3 * BLOCK, FAULT_MISSING, clock_ns() - RETRY_FAULT_NS - NS_PER_S);
	ck_assert(process_poisoned(process));
	ck_assert_uint_eq(figures().waiting_for_store, 0); /* who was told does not wait */
	store_mem_fail_all(store, STORE_MEM_GET, 0);
	time_passes();
	ck_assert(touch(3));
	ck_assert(!process_poisoned(process));
}
END_TEST

START_TEST(damage_is_told_at_once)
{
	uint8_t page[PAGE];
	size_t len;

	ck_assert_int_eq(store_mem_damage(store, (struct store_key){ INO, 4 }, 300), 0);
	touch(4);
	ck_assert(process_poisoned(process));
	ck_assert_uint_eq(retry_run(engine->retry, clock_ns()), 0);
	ck_assert_int_eq(ramfile_read(file, page, PAGE, 4 * BLOCK, &len), -EIO);

	/* The same bit again: the value is good. A read finds out, and who was poisoned gets it. */
	ck_assert_int_eq(store_mem_damage(store, (struct store_key){ INO, 4 }, 300), 0);
	ck_assert_int_eq(ramfile_read(file, page, PAGE, 4 * BLOCK, &len), 0);
	ck_assert_uint_eq(page[5], want_at(4 * BLOCK + 5));
	time_passes();
	ck_assert(touch(4));
	ck_assert(!process_poisoned(process));
}
END_TEST

/* Both have touched the block and were poisoned. */
static void poison_both(uint64_t block)
{
	uint8_t byte;

	ck_assert_int_eq(store_mem_damage(store, (struct store_key){ INO, block }, 300), 0);
	touch(block);
	ck_assert(process_poisoned(process));
	process_touch(other, block * BLOCK + 5, &byte, 1, false);
	ck_assert(process_poisoned(other));
}

/* No page of the block is poison to either any more, and both read what is there. */
static void expect_healed(uint64_t block, uint8_t first)
{
	struct process *each[] = { process, other };

	time_passes();
	for (int i = 0; i < 2; i++) {
		for (uint64_t at = block * BLOCK; at < (block + 1) * BLOCK; at += PAGE) {
			uint8_t got = 99;

			ck_assert(process_touch(each[i], at, &got, 1, false));
			ck_assert(!process_poisoned(each[i]));
			if (at == block * BLOCK)
				ck_assert_uint_eq(got, first);
		}
	}
	ck_assert_uint_eq(retry_run(engine->retry, clock_ns()), 0);
}

START_TEST(everybody_is_healed_when_it_can_be_read)
{
	uint8_t page[PAGE];
	size_t len;

	poison_both(4);
	ck_assert_int_eq(store_mem_damage(store, (struct store_key){ INO, 4 }, 300), 0);
	ck_assert_int_eq(ramfile_read(file, page, PAGE, 4 * BLOCK, &len), 0);
	expect_healed(4, want_at(4 * BLOCK));
}
END_TEST

/* _i: into the store, one block and several; into DRAM. */
START_TEST(everybody_is_healed_when_it_is_written)
{
	static uint8_t data[2 * BLOCK];

	memset(data, 7, sizeof(data));
	poison_both(4);
	if (_i == 2) /* of a whole block: nothing of the damaged copy is needed */
		ck_assert_int_eq(ramfile_discard(file, 4 * BLOCK, BLOCK), 0);
	ck_assert_int_eq(ramfile_write(file, data, _i == 1 ? 2 * BLOCK : BLOCK, 4 * BLOCK, _i < 2), 0);
	expect_healed(4, 7);
}
END_TEST

START_TEST(everybody_is_healed_when_it_is_discarded)
{
	poison_both(4);
	ck_assert_int_eq(ramfile_discard(file, 4 * BLOCK, BLOCK), 0);
	expect_healed(4, 0);
}
END_TEST

/* One that does not answer is healed later. */
START_TEST(who_cannot_be_healed_at_once_is_healed_later)
{
	static uint8_t data[BLOCK];

	poison_both(4);
	process_fail_call(other, PROCESS_HEAL, 1);
	memset(data, 7, sizeof(data));
	ck_assert_int_eq(ramfile_write(file, data, BLOCK, 4 * BLOCK, true), 0);
	retry_run(engine->retry, clock_ns() + RETRY_FIRST_NS);
	ck_assert_uint_ne(retry_run(engine->retry, 1), 0);
	expect_healed(4, 7);
}
END_TEST

START_TEST(a_read_waits_for_the_device)
{
	uint8_t page[PAGE];
	size_t len;

	store_mem_fail_nth(store, STORE_MEM_GET, 1, EIO);
	ck_assert_int_eq(ramfile_read(file, page, PAGE, BLOCK, &len), 0);
	ck_assert_uint_eq(page[5], want_at(BLOCK + 5));
}
END_TEST

/* Its removal must not wait for the device. */
START_TEST(a_mapper_that_goes_takes_its_faults_along)
{
	store_mem_fail_all(store, STORE_MEM_GET, EIO);
	ck_assert(!touch(1));
	ck_assert(!touch(6));
	process_unmap(process);
	process = NULL;
	ck_assert_uint_eq(retry_run(engine->retry, clock_ns() + 2 * RETRY_HEAL_NS), 0);
	store_mem_fail_all(store, STORE_MEM_GET, 0);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("retry");
	TCase *tests = tcase_create("retry");

	tcase_add_checked_fixture(tests, setup, teardown);
	tcase_set_timeout(tests, 60);
	tcase_add_test(tests, who_touches_waits_for_the_device);
	tcase_add_test(tests, who_waited_for_long_is_told_and_healed);
	tcase_add_test(tests, damage_is_told_at_once);
	tcase_add_test(tests, everybody_is_healed_when_it_can_be_read);
	tcase_add_loop_test(tests, everybody_is_healed_when_it_is_written, 0, 3);
	tcase_add_test(tests, everybody_is_healed_when_it_is_discarded);
	tcase_add_test(tests, who_cannot_be_healed_at_once_is_healed_later);
	tcase_add_test(tests, a_read_waits_for_the_device);
	tcase_add_test(tests, a_mapper_that_goes_takes_its_faults_along);
	suite_add_tcase(suite, tests);
	return check_run(suite);
}
