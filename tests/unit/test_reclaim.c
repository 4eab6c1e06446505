/* Who makes room: batches at work side by side, and what stops none of them. The engine is real and has its threads;
 * the processes that map files and the store are simulated, and wait where a test says so. Conditions, not times. */
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../lib/lib_process.h"
#include "../lib/lib_scratch.h"
#include "../lib/lib_store_mem.h"
#include "base/clock.h"
#include "engine/due.h"
#include "engine/engine.h"
#include "engine/file.h"
#include "engine/mapper.h"
#include "engine/ramfile.h"
#include "engine/room.h"
#include "engine/tenant.h"
#include "engine/write.h"
#include "policy/demoter.h"
#include "policy/tiering.h"
#include "lib_check.h"

#define BLOCK 16384U
#define BUDGET_BLOCKS 4096U
#define FILE_BLOCKS 1024U
#define FIRST_INO 7U
#define FILES 3U

static struct scratch scratch;
static int arena_dir;
static struct store *store;
static struct engine *engine;
static struct ramfile *file[FILES];

/* --- a store that waits, or refuses, for one file ---------------------------------------------------------------- */

static pthread_mutex_t gate = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t passed = PTHREAD_COND_INITIALIZER;
static unsigned int begun[FILES]; /* puts; under gate */
static bool closed[FILES];        /* under gate */
static bool meets;                /* under gate: a put of the first two waits for one of the other */
static bool refuses[FILES];       /* under gate */
static const struct store_ops *plain_ops;
static struct store_ops gate_ops;

static int gate_put(struct store *base, enum store_use use, const struct store_item *items, size_t count)
{
	uint64_t at = items[0].key.ino - FIRST_INO;
	bool refused;

	pthread_mutex_lock(&gate);
	begun[at]++;
	pthread_cond_broadcast(&passed);
	while (closed[at] || (meets && at < 2 && !begun[1 - at]))
		pthread_cond_wait(&passed, &gate);
	refused = refuses[at];
	pthread_mutex_unlock(&gate);
	return refused ? -EIO : plain_ops->put(base, use, items, count);
}

static void set(bool *flag, bool on)
{
	pthread_mutex_lock(&gate);
	*flag = on;
	pthread_cond_broadcast(&passed);
	pthread_mutex_unlock(&gate);
}

static bool is_begun(unsigned int at)
{
	bool is;

	pthread_mutex_lock(&gate);
	is = begun[at] > 0;
	pthread_mutex_unlock(&gate);
	return is;
}

/* --- an engine with threads --------------------------------------------------------------------------------------- */

static void world_new(unsigned int demoters)
{
	struct engine_config config = { .block_bytes = BLOCK,
					.dram_bytes = (uint64_t)BUDGET_BLOCKS * BLOCK,
					.min_idle_ns = 40 * NS_PER_MS,
					.level = 0,
					.run_demoter = true,
					.demoters = demoters };
	uint64_t size = 2 * (uint64_t)BUDGET_BLOCKS * BLOCK; /* so that not all fits */

	memset(begun, 0, sizeof(begun));
	memset(closed, 0, sizeof(closed));
	memset(refuses, 0, sizeof(refuses));
	meets = false;
	scratch_new(&scratch, "reclaim");
	arena_dir = open(scratch.path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	ck_assert_int_eq(store_mem_new(&store), 0);
	plain_ops = store->ops;
	gate_ops = *plain_ops;
	gate_ops.put = gate_put;
	store->ops = &gate_ops;
	config.store = store;
	config.arena_dir = arena_dir;
	ck_assert_int_eq(tiering_new(&config, &engine), 0);
	for (unsigned int i = 0; i < FILES; i++)
		ck_assert_int_eq(ramfile_load(engine, FIRST_INO + i, size, false, &file[i]), 0);
}

static void world_free(void)
{
	for (unsigned int i = 0; i < FILES; i++)
		ramfile_unload(file[i]);
	tiering_free(engine);
	store->ops = plain_ops;
	store->ops->free(store);
	close(arena_dir);
	scratch_free(&scratch);
}

static void write_blocks(struct ramfile *to, uint64_t count)
{
	uint8_t data[BLOCK];

	for (uint64_t block = 0; block < count; block++) {
		for (size_t i = 0; i < sizeof(data); i++)
			data[i] = (uint8_t)(block + i / 7);
		ck_assert_int_eq(ramfile_write(to, data, sizeof(data), block * BLOCK, false), 0);
	}
}

static uint64_t demotions(unsigned int i)
{
	return atomic_load(&file[i]->counts.demotions);
}

static void nap(void)
{
	clock_sleep(NS_PER_MS);
}

/* All but so many blocks of the budget is used by others. Returns how much they use. */
static uint64_t press(uint64_t free_blocks)
{
	struct budget *budget = engine_budget(engine);
	uint64_t bytes = budget_free(budget) - free_blocks * BLOCK;

	budget_force(budget, bytes);
	engine_kick(engine);
	return bytes;
}

static void relax(uint64_t bytes)
{
	budget_release(engine_budget(engine), bytes);
}

/* --- side by side ------------------------------------------------------------------------------------------------ */

static const struct mapper_ops *quick_ops;
static struct mapper_ops stuck_ops;
static _Atomic bool stuck, was_stuck;

static int stuck_zap(struct mapper *mapper, uint64_t first, uint64_t count, const uint8_t *mark, uint64_t round)
{
	while (atomic_load(&stuck)) {
		atomic_store(&was_stuck, true);
		nap();
	}
	return quick_ops->zap(mapper, first, count, mark, round);
}

/* A put of either file ends when one of the other has begun, while a scan hangs: two threads demote, beside the one
 * that scans. */
START_TEST(two_batches_are_at_work_at_once)
{
	struct process *process;
	uint64_t pressure;
	uint8_t word = 1;

	world_new(2);
	ck_assert_int_eq(process_map(file[2], 1, &process), 0);
	quick_ops = ((struct mapper *)process)->ops;
	stuck_ops = *quick_ops;
	stuck_ops.zap = stuck_zap;
	((struct mapper *)process)->ops = &stuck_ops;
	atomic_store(&stuck, true);
	ck_assert(process_touch(process, 0, &word, 1, true));
	engine_kick(engine);
	while (!atomic_load(&was_stuck))
		nap();
	write_blocks(file[0], 128);
	write_blocks(file[1], 512);
	set(&meets, true);
	pressure = press(0);
	while (!demotions(0) || !demotions(1))
		nap();
	atomic_store(&stuck, false);
	relax(pressure);
	process_unmap(process);
	world_free();
}
END_TEST

/* --- nothing holds up the others --------------------------------------------------------------------------------- */

/* With one thread: another one takes its place, and the file that hangs is left alone. */
START_TEST(a_store_that_hangs_for_one_file)
{
	uint64_t pressure;

	world_new(1);
	write_blocks(file[0], FILE_BLOCKS);
	write_blocks(file[1], FILE_BLOCKS);
	set(&closed[0], true);
	pressure = press(0);
	while (demotions(1) < FILE_BLOCKS / 4 || !is_begun(0))
		nap();
	ck_assert_uint_eq(demotions(0), 0);
	set(&closed[0], false);
	while (!demotions(0))
		nap();
	relax(pressure);
	world_free();
}
END_TEST

/* The same while nothing is due for a scan, and no room is short but that of two tenants: nobody else comes by. */
START_TEST(a_store_that_hangs_while_nobody_scans)
{
	static struct tenant tenant[2];
	const struct tenant_share share = { .max_bytes = FILE_BLOCKS / 2 * BLOCK };

	world_new(1);
	write_blocks(file[0], FILE_BLOCKS);
	write_blocks(file[1], FILE_BLOCKS);
	ck_assert_uint_eq(due_count(engine), 0);
	set(&closed[0], true);
	tenants_begin(engine);
	for (unsigned int i = 0; i < 2; i++) {
		tenant[i].ino = FIRST_INO + i;
		tenants_put(engine, &tenant[i], NULL, &share);
		tenants_place(file[i], &tenant[i]);
	}
	tenants_end(engine);
	room_look_again(engine, true);
	while (!is_begun(0) || !demotions(1))
		nap();
	ck_assert_uint_eq(demotions(0), 0);
	set(&closed[0], false);
	while (!demotions(0))
		nap();
	for (unsigned int i = 0; i < 2; i++)
		tenant_place(file[i], NULL);
	tenants_begin(engine);
	tenants_end(engine);
	world_free();
}
END_TEST

START_TEST(a_store_that_refuses_for_one_file)
{
	uint64_t pressure;

	world_new(1);
	write_blocks(file[0], FILE_BLOCKS);
	write_blocks(file[1], 32);
	write_blocks(file[2], 32);
	set(&refuses[0], true);
	pressure = press(0);
	while (demotions(1) < 32 || demotions(2) < 32 || !is_begun(0))
		nap();
	ck_assert_uint_eq(demotions(0), 0);
	set(&refuses[0], false);
	while (!demotions(0))
		nap();
	relax(pressure);
	world_free();
}
END_TEST

/* --- no more than is missing ------------------------------------------------------------------------------------- */

/* Threads that go on alone, without the lock that chooses: what each has under way counts for the others. Together they
 * refill the reserve, and no more than that but for a block of each batch. */
START_TEST(what_is_going_is_room_to_come)
{
	struct budget *budget;
	uint64_t pressure, missing, went;

	world_new(4);
	budget = engine_budget(engine);
	write_blocks(file[0], FILE_BLOCKS);
	write_blocks(file[1], FILE_BLOCKS);
	missing = budget_reserve_bytes(budget) / BLOCK - 8;
	pressure = press(8);
	while (budget_free(budget) < budget_reserve_bytes(budget))
		nap();
	for (unsigned int i = 0; i < FILES; i++) /* what is under way ends with its file */
		engine_remove_file(engine, file[i]);
	went = demotions(0) + demotions(1);
	ck_assert_uint_ge(went, missing);
	ck_assert_uint_le(went, 2 * missing); /* one that takes long, on a busy machine, is not counted on */
	relax(pressure);
	world_free();
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("reclaim");
	TCase *tests = tcase_create("reclaim");

	tcase_set_timeout(tests, 60);
	tcase_add_test(tests, two_batches_are_at_work_at_once);
	tcase_add_test(tests, a_store_that_hangs_for_one_file);
	tcase_add_test(tests, a_store_that_hangs_while_nobody_scans);
	tcase_add_test(tests, a_store_that_refuses_for_one_file);
	tcase_add_test(tests, what_is_going_is_room_to_come);
	suite_add_tcase(suite, tests);
	return check_run(suite);
}
