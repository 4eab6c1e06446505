/* Rounds of zap and look: how long blocks are given to show that they are in use. The engine is real, the process that
 * maps the file and the store are simulated. */
#include <check.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include "../lib/lib_process.h"
#include "../lib/lib_scratch.h"
#include "../lib/lib_store_mem.h"
#include "base/clock.h"
#include "engine/engine.h"
#include "engine/ramfile.h"
#include "policy/demoter.h"
#include "policy/tiering.h"
#include "lib_check.h"

#define INO 7
#define BLOCK 16384U
#define BLOCKS 8192U
#define BUDGET_BLOCKS 2048U
#define RESERVE_BLOCKS (BUDGET_BLOCKS / 16)
#define IDLE_BLOCKS 256U
#define QUICK_NS (20 * NS_PER_MS)
#define MIN_IDLE_NS (2 * QUICK_NS)
/* Ten times what it costs if all of the budget's blocks come back, at 2 us a page, is 164 ms. */
#define HURRY_NS (100 * NS_PER_MS)

static struct scratch scratch;
static int arena_dir;
static struct store *store;
static struct engine *engine;
static struct ramfile *file;
static struct process *process;

static void setup(void)
{
	struct engine_config config = {
		.block_bytes = BLOCK, .dram_bytes = BUDGET_BLOCKS * BLOCK, .min_idle_ns = MIN_IDLE_NS, .level = 1
	};

	scratch_new(&scratch, "scan");
	arena_dir = open(scratch.path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	ck_assert_int_eq(store_mem_new(&store), 0);
	config.store = store;
	config.arena_dir = arena_dir;
	ck_assert_int_eq(tiering_new(&config, &engine), 0);
	ck_assert_int_eq(ramfile_load(engine, INO, BLOCKS * BLOCK, false, &file), 0);
	ck_assert_int_eq(process_map(file, 1, &process), 0);
}

static void teardown(void)
{
	process_unmap(process);
	ramfile_unload(file);
	tiering_free(engine);
	store->ops->free(store);
	close(arena_dir);
	scratch_free(&scratch);
}

static void touch(uint64_t first, uint64_t end)
{
	for (uint64_t block = first; block < end; block++) {
		uint64_t word = block + 1;

		ck_assert(process_touch(process, block * BLOCK, &word, sizeof(word), true));
	}
}

static uint64_t demotions(void)
{
	struct ramfile_figures figures;

	ramfile_figures(file, &figures);
	return figures.demotions;
}

/* One step of the demoter, and the agent's answer to a zap. */
static void step(void)
{
	demoter_step(engine);
	process_run_agent(process);
}

/* The budget is used but for less than half of the reserve, and one round has shown that everything is in use. */
static uint64_t press(void)
{
	uint64_t used = BUDGET_BLOCKS - RESERVE_BLOCKS / 2 + 8;

	touch(0, used);
	step();
	touch(0, used);
	clock_sleep(QUICK_NS + QUICK_NS / 4);
	step();
	ck_assert_uint_eq(demotions(), 0);
	return used;
}

START_TEST(rounds_wait_for_what_they_cost)
{
	uint64_t used = press(), zapped_ns = clock_ns();

	touch(IDLE_BLOCKS, used);
	clock_sleep(MIN_IDLE_NS + MIN_IDLE_NS / 4);
	step();
	if (clock_ns() - zapped_ns < HURRY_NS)
		ck_assert_uint_eq(demotions(), 0);
	clock_sleep(3 * HURRY_NS);
	step();
	step();
	ck_assert_uint_gt(demotions(), 0);
}
END_TEST

START_TEST(who_needs_room_soon_does_not_wait_for_that)
{
	uint64_t used = press();

	touch(IDLE_BLOCKS, used);
	clock_sleep(MIN_IDLE_NS + MIN_IDLE_NS / 4);
	touch(used, BUDGET_BLOCKS - RESERVE_BLOCKS / 4 + 1);
	step();
	ck_assert_uint_gt(demotions(), 0);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("scan");
	TCase *tests = tcase_create("scan");

	tcase_set_timeout(tests, 60);
	tcase_add_checked_fixture(tests, setup, teardown);
	tcase_add_test(tests, rounds_wait_for_what_they_cost);
	tcase_add_test(tests, who_needs_room_soon_does_not_wait_for_that);
	suite_add_tcase(suite, tests);
	return check_run(suite);
}
