/* Room in the budget, whatever else there is to do: the engine is real, the processes that map files and the store are
 * simulated. What the demoter does is counted, not timed. */
/* link: -Wl,--wrap=lock_get */
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>

#include "../lib/lib_process.h"
#include "../lib/lib_scratch.h"
#include "../lib/lib_store_mem.h"
#include "base/clock.h"
#include "engine/attach.h"
#include "engine/demote.h"
#include "engine/engine.h"
#include "engine/fault.h"
#include "engine/file.h"
#include "engine/mapper.h"
#include "engine/ramfile.h"
#include "engine/read.h"
#include "engine/resize.h"
#include "engine/room.h"
#include "engine/write.h"
#include "policy/demoter.h"
#include "policy/tiering.h"
#include "lib_check.h"

#define BLOCK 16384U
#define BUDGET_BLOCKS 256U
#define QUICK_NS (20 * NS_PER_MS)
#define MIN_IDLE_NS (2 * QUICK_NS)
#define TIB (UINT64_C(1) << 40)
#define GIB (UINT64_C(1) << 30)

static struct scratch scratch;
static int arena_dir;
static struct store *store;
static struct engine *engine;

static void setup(void)
{
	struct engine_config config = {
		.block_bytes = BLOCK, .dram_bytes = BUDGET_BLOCKS * BLOCK, .min_idle_ns = MIN_IDLE_NS, .level = 1
	};

	scratch_new(&scratch, "room");
	arena_dir = open(scratch.path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	ck_assert_int_eq(store_mem_new(&store), 0);
	config.store = store;
	config.arena_dir = arena_dir;
	ck_assert_int_eq(tiering_new(&config, &engine), 0);
}

static void teardown(void)
{
	tiering_free(engine);
	store->ops->free(store);
	close(arena_dir);
	scratch_free(&scratch);
}

static struct ramfile *file_of(uint64_t ino, uint64_t size_bytes)
{
	struct ramfile *file;

	ck_assert_int_eq(ramfile_load(engine, ino, size_bytes, false, &file), 0);
	return file;
}

static struct ramfile_figures figures_of(struct ramfile *file)
{
	struct ramfile_figures figures;

	ramfile_figures(file, &figures);
	return figures;
}

static void write_blocks(struct ramfile *file, uint64_t first, uint64_t count)
{
	uint8_t data[BLOCK];

	for (uint64_t block = first; block < first + count; block++) {
		for (size_t i = 0; i < sizeof(data); i++)
			data[i] = (uint8_t)(block + i / 7);
		ck_assert_int_eq(ramfile_write(file, data, sizeof(data), block * BLOCK, false), 0);
	}
}

/* --- work follows what is resident ------------------------------------------------------------------------- */

/* Eight terabytes of address space, of which a few blocks far apart are used: a turn of the demoter, the figures, the
 * runs of `tierctl map`, a seek and a cut all go through what is there. */
START_TEST(address_space_is_not_work)
{
	const uint64_t size = 8 * TIB, blocks = size / BLOCK, at[] = { 0, blocks / 3, blocks / 2, blocks - 1 };
	struct ramfile *file = file_of(7, size);
	struct tiering_figures before, after;
	uint64_t offset;

	for (size_t i = 0; i < 4; i++)
		write_blocks(file, at[i], 1);
	ck_assert_uint_eq(figures_of(file).resident_bytes, 4 * BLOCK);
	tiering_figures(engine, &before);
	for (int i = 0; i < 4; i++)
		demoter_step(engine);
	tiering_figures(engine, &after);
	/* A zap and a look of each, and a count and a choice. */
	ck_assert_uint_le(after.visited_blocks - before.visited_blocks, 4 * 4 * 4 * BLOCKS_CHUNK);
	ck_assert_int_eq(ramfile_seek(file, BLOCK, SEEK_DATA, &offset), 0);
	ck_assert_uint_eq(offset, at[1] * BLOCK);
	ck_assert_int_eq(ramfile_discard(file, 0, size - BLOCK), 0);
	ck_assert_uint_eq(figures_of(file).resident_bytes, BLOCK);
	ck_assert_int_eq(ramfile_truncate(file, BLOCK), 0);
	ck_assert_uint_eq(figures_of(file).resident_bytes, 0);
	ck_assert_int_eq(ramfile_truncate(file, size), 0);
	ck_assert_int_eq(ramfile_seek(file, 0, SEEK_DATA, &offset), -ENXIO);
	ramfile_unload(file);
}
END_TEST

struct runs {
	uint64_t count, end, resident;
};

static int add_run(void *arg, const struct ramfile_run *run)
{
	struct runs *runs = arg;

	ck_assert_uint_eq(run->offset, runs->end);
	runs->end = run->offset + run->length;
	runs->resident += run->state == RAMFILE_RUN_RESIDENT ? run->length : 0;
	runs->count++;
	return 0;
}

START_TEST(the_runs_of_a_sparse_file_are_whole)
{
	struct ramfile *file = file_of(7, TIB + 4096);
	struct runs runs = { 0 };

	ck_assert_int_eq(ramfile_map(file, 0, UINT64_MAX, add_run, &runs), 0);
	ck_assert_uint_eq(runs.end, TIB + 4096);
	ck_assert_uint_eq(runs.count, 1);
	write_blocks(file, 3 * BLOCKS_CHUNK + 5, 2);
	runs = (struct runs){ 0 };
	ck_assert_int_eq(ramfile_map(file, 0, UINT64_MAX, add_run, &runs), 0);
	ck_assert_uint_eq(runs.end, TIB + 4096);
	ck_assert_uint_eq(runs.count, 3);
	ck_assert_uint_eq(runs.resident, 2 * BLOCK);
	runs = (struct runs){ 0 };
	ck_assert_int_eq(ramfile_map(file, 0, 10 * BLOCK, add_run, &runs), 0);
	ck_assert_uint_eq(runs.end, 10 * BLOCK);
	ramfile_unload(file);
}
END_TEST

/* Files of which nothing is resident are not visited at all. */
START_TEST(unused_files_cost_nothing)
{
	struct ramfile *file[64];
	struct tiering_figures before, after;

	for (uint64_t i = 0; i < 64; i++)
		file[i] = file_of(100 + i, 4 * GIB);
	tiering_figures(engine, &before);
	for (int i = 0; i < 4; i++)
		demoter_step(engine);
	tiering_figures(engine, &after);
	ck_assert_uint_eq(after.visited_blocks, before.visited_blocks);
	ck_assert_uint_eq(after.scans, before.scans);
	for (uint64_t i = 0; i < 64; i++)
		ramfile_unload(file[i]);
}
END_TEST

/* --- ages of cold blocks where nobody looks ------------------------------------------------------------------- */

START_TEST(a_favoured_block_counts_as_one_that_came_back)
{
	struct heat_filter filter = { .count = 2, .now_ns = 1 };
	uint64_t in_class[HEAT_CLASSES] = { 0 };
	struct heat heat = { .round = 100 };
	struct blocks blocks;
	uint32_t pick = 0;

	ck_assert_int_eq(blocks_init(&blocks, 3), 0);
	for (uint64_t block = 0; block < 2; block++) {
		blocks_place(&blocks, block, BLOCK_COLD);
		blocks_set_stored(&blocks, block, 100, (struct tierfs_ident){ { 1, 0 } });
	}
	ck_assert(heat_favour(&blocks, 0));
	ck_assert(!heat_favour(&blocks, 2)); /* a hole */
	for (uint64_t block = 0; block < 2; block++) {
		heat_promoted(&heat, &blocks, block);
		blocks_place(&blocks, block, BLOCK_RESIDENT);
		blocks_set_age(&blocks, block, blocks.rounds - 16, 0);
	}
	ck_assert_uint_eq(blocks_tier(&blocks, 0), blocks_tier(&blocks, 1) + 1);
	ck_assert(!heat_favour(&blocks, 1));
	/* As old as the other, it stays. */
	heat_count(&heat, &blocks, &filter, in_class);
	ck_assert_uint_eq(heat_pick(&heat, &blocks, &filter, heat_threshold(in_class, 1), &pick, 1), 1);
	ck_assert_uint_eq(pick, 1);
	blocks_place(&blocks, 1, BLOCK_COLD);
	for (int i = 0; i < HEAT_TIER_MAX; i++)
		heat_favour(&blocks, 1);
	ck_assert_uint_eq(blocks_tier(&blocks, 1), HEAT_TIER_MAX);
	ck_assert(!heat_favour(&blocks, 1));
	blocks_fini(&blocks);
}
END_TEST

START_TEST(cold_blocks_grow_older_without_a_visit)
{
	struct heat heat = { 0 };
	struct blocks blocks;

	ck_assert_int_eq(blocks_init(&blocks, 3 * BLOCKS_CHUNK), 0);
	for (uint64_t block = 0; block < 3 * BLOCKS_CHUNK; block += BLOCKS_CHUNK) {
		blocks_place(&blocks, block, BLOCK_COLD);
		blocks_set_stored(&blocks, block, 100, (struct tierfs_ident){ { 1, 0 } });
	}
	heat_set_age(&blocks, BLOCKS_CHUNK, 3);
	for (int i = 0; i < 5; i++)
		heat_looked(&heat, &blocks);
	ck_assert_uint_eq(heat_age(&blocks, 0), 5);
	ck_assert_uint_eq(heat_age(&blocks, BLOCKS_CHUNK), 8);
	/* One that comes to DRAM keeps what it was until it is seen in use. */
	blocks_set_state(&blocks, 0, BLOCK_LOADING);
	ck_assert_uint_eq(blocks_generation(&blocks, 0), 5);
	blocks_set_state(&blocks, 0, BLOCK_COLD);
	heat_slept(&heat, &blocks, 1000);
	ck_assert_uint_eq(heat_age(&blocks, 0), BLOCK_GENERATION_MAX);
	heat_set_age(&blocks, 0, 7);
	ck_assert_uint_eq(heat_age(&blocks, 0), 7);
	blocks_check(&blocks);
	blocks_fini(&blocks);
}
END_TEST

/* --- nothing stops it ----------------------------------------------------------------------------------------- */

static const struct mapper_ops *quick_ops;
static struct mapper_ops slow_ops;

static int slow_look(struct mapper *mapper, uint64_t first, uint64_t count, uint8_t *used)
{
	clock_sleep(2 * QUICK_NS);
	return quick_ops->look(mapper, first, count, used);
}

static void make_slow(struct process *process)
{
	struct mapper *mapper = (struct mapper *)process;

	quick_ops = mapper->ops;
	slow_ops = *quick_ops;
	slow_ops.look = slow_look;
	mapper->ops = &slow_ops;
}

/* Looks that take longer than their period, so that some scan is due at every moment. */
START_TEST(slow_scans_do_not_stop_it)
{
	struct ramfile *file[2];
	struct process *process[2];

	for (uint64_t i = 0; i < 2; i++) {
		file[i] = file_of(7 + i, BUDGET_BLOCKS * BLOCK);
		ck_assert_int_eq(process_map(file[i], 1 + i, &process[i]), 0);
	}
	for (uint64_t block = 0; block < BUDGET_BLOCKS; block++) {
		uint64_t word = block + 1;

		ck_assert(process_touch(process[block % 2], block / 2 * BLOCK, &word, sizeof(word), true));
	}
	for (int i = 0; i < 2; i++)
		make_slow(process[i]);
	for (int i = 0; i < 12; i++) {
		demoter_step(engine);
		for (int k = 0; k < 2; k++)
			process_run_agent(process[k]);
		clock_sleep(QUICK_NS + QUICK_NS / 4);
	}
	ck_assert_uint_gt(figures_of(file[0]).demotions + figures_of(file[1]).demotions, 0);
	for (int i = 0; i < 2; i++) {
		process_unmap(process[i]);
		ramfile_unload(file[i]);
	}
}
END_TEST

/* --- a file's own limit ----------------------------------------------------------------------------------------- */

#define LIMIT_BLOCKS 96U

static uint64_t touch_blocks(struct process *process, uint64_t first, uint64_t count)
{
	uint64_t done = 0;

	for (; done < count; done++) {
		uint64_t word = first + done + 1;

		if (!process_touch(process, (first + done) * BLOCK, &word, sizeof(word), true))
			break;
	}
	return done;
}

/* Its faults wait, and nobody else's; it gives up blocks of its own, and then they go on. */
START_TEST(a_limit_is_its_files_alone)
{
	struct ramfile *file = file_of(7, 256 * BLOCK), *other = file_of(8, 64 * BLOCK);
	struct process *process, *neighbour;
	struct tiering_figures figures;
	uint64_t done;

	ck_assert_int_eq(process_map(file, 1, &process), 0);
	ck_assert_int_eq(process_map(other, 2, &neighbour), 0);
	room_set_limit(file, (uint64_t)LIMIT_BLOCKS * BLOCK);
	done = touch_blocks(process, 0, 256);
	ck_assert_uint_eq(done, LIMIT_BLOCKS);
	ck_assert_uint_eq(touch_blocks(neighbour, 0, 64), 64);
	ck_assert(!fault_resume(engine)); /* and does not turn round for ever */
	tiering_figures(engine, &figures);
	ck_assert_uint_ge(figures.waiting_faults, 1);
	for (int i = 0; i < 200 && !figures_of(file).demotions; i++) {
		demoter_step(engine);
		process_run_agent(process);
		process_run_agent(neighbour);
		clock_sleep(QUICK_NS / 2);
	}
	ck_assert_uint_gt(figures_of(file).demotions, 0);
	ck_assert_uint_eq(figures_of(other).demotions, 0);
	ck_assert(fault_resume(engine));
	while (fault_resume(engine))
		;
	ck_assert_uint_ge(touch_blocks(process, done, 1), 1);
	room_set_limit(file, UINT64_MAX);
	process_unmap(process);
	process_unmap(neighbour);
	ramfile_unload(file);
	ramfile_unload(other);
}
END_TEST

/* --- pins ----------------------------------------------------------------------------------------------------------
 */

START_TEST(pins_leave_half_of_the_budget)
{
	struct ramfile *file = file_of(7, TIB), *other = file_of(8, BUDGET_BLOCKS * BLOCK);
	const uint64_t most = BUDGET_BLOCKS / 2;

	ck_assert_int_eq(ramfile_pin(file, 0, UINT64_MAX, true), -ENOMEM);
	ck_assert_uint_eq(figures_of(file).pinned_bytes, 0);
	ck_assert_int_eq(ramfile_pin(file, 0, most / 2 * BLOCK, true), 0);
	ck_assert_int_eq(ramfile_pin(other, 0, (most / 2 + 1) * BLOCK, true), -ENOMEM);
	ck_assert_uint_eq(figures_of(other).pinned_bytes, 0);
	ck_assert_int_eq(ramfile_pin(other, 0, most / 2 * BLOCK, true), 0);
	ck_assert_int_eq(ramfile_pin(file, 0, most / 2 * BLOCK, true), 0);
	ck_assert_int_eq(ramfile_pin(file, 0, UINT64_MAX, false), 0);
	ck_assert_uint_eq(figures_of(file).pinned_bytes, 0);
	ramfile_unload(file);
	ramfile_unload(other);
}
END_TEST

/* --- a mapper that leaves while its fault is parked -------------------------------------------------------------- */

static _Atomic bool armed;
static struct ramfile *leaving_file;
static struct mapper *leaving_mapper;
static pthread_t leaver;

void __real_lock_get(struct lock *lock);
void __wrap_lock_get(struct lock *lock);

static void *leave(void *arg)
{
	(void)arg;
	attach_remove(leaving_file, leaving_mapper);
	return NULL;
}

/* The last moment before the fault is in the list: the mapper leaves now, as far as it gets. */
void __wrap_lock_get(struct lock *lock)
{
	if (lock->rank == LOCK_RANK_BUDGET && atomic_exchange(&armed, false)) {
		ck_assert_int_eq(pthread_create(&leaver, NULL, leave, NULL), 0);
		clock_sleep(200 * NS_PER_MS);
	}
	__real_lock_get(lock);
}

START_TEST(a_mapper_leaves_while_its_fault_is_parked)
{
	struct process *process;
	struct tiering_figures figures;

	leaving_file = file_of(7, 2 * BUDGET_BLOCKS * BLOCK);
	ck_assert_int_eq(process_map(leaving_file, 1, &process), 0);
	leaving_mapper = (struct mapper *)process;
	ck_assert_uint_eq(touch_blocks(process, 0, BUDGET_BLOCKS), BUDGET_BLOCKS);
	atomic_store(&armed, true);
	ck_assert_uint_eq(touch_blocks(process, BUDGET_BLOCKS, 1), 0);
	ck_assert(!atomic_load(&armed));
	ck_assert_int_eq(pthread_join(leaver, NULL), 0);
	tiering_figures(engine, &figures);
	ck_assert_uint_eq(figures.waiting_faults, 0);
	ck_assert_int_eq(attach_add(leaving_file, leaving_mapper), 0);
	process_unmap(process);
	ramfile_unload(leaving_file);
}
END_TEST

/* --- fresh memory --------------------------------------------------------------------------------------------- */

#define AROUND 4U       /* blocks that lie around a touch, */
#define AROUND_FITS 16U /* and where everything fits */

static bool has(struct ramfile *file, uint64_t block)
{
	LOCK_SCOPE(&file->lock);

	return blocks_state(&file->blocks, block) == BLOCK_RESIDENT;
}

static uint64_t resident_blocks(struct ramfile *file)
{
	return figures_of(file).resident_bytes / BLOCK;
}

/* Out of order, what lies around comes with it, and nothing else; what is there already stays as it is. */
START_TEST(what_lies_around_a_touch_is_given)
{
	struct ramfile *file = file_of(7, (BUDGET_BLOCKS - 1) * BLOCK);
	struct process *process;
	uint8_t data[BLOCK];
	size_t length;

	write_blocks(file, 37, 1);
	ck_assert_int_eq(process_map(file, 1, &process), 0);
	ck_assert_uint_eq(touch_blocks(process, 2 * AROUND_FITS + 9, 1), 1);
	ck_assert_uint_eq(resident_blocks(file), 3 * AROUND_FITS - 37);    /* up to the one that was written */
	ck_assert_uint_eq(touch_blocks(process, BUDGET_BLOCKS - 2, 1), 1); /* the file ends in it */
	for (uint64_t block = 0; block < BUDGET_BLOCKS - 1; block++)
		ck_assert_int_eq(has(file, block),
				 (block >= 37 && block < 3 * AROUND_FITS) || block >= BUDGET_BLOCKS - AROUND_FITS);
	ck_assert_int_eq(ramfile_read(file, data, sizeof(data), 37 * BLOCK, &length), 0);
	for (size_t i = 0; i < sizeof(data); i++)
		ck_assert_uint_eq(data[i], (uint8_t)(37 + i / 7));
	process_unmap(process);
	ramfile_unload(file);
}
END_TEST

START_TEST(where_not_everything_fits_it_is_less)
{
	struct ramfile *file = file_of(7, 4 * BUDGET_BLOCKS * BLOCK);
	struct process *process;
	uint64_t before;

	ck_assert_int_eq(process_map(file, 1, &process), 0);
	ck_assert_uint_eq(touch_blocks(process, 2 * AROUND_FITS + 9, 1), 1);
	ck_assert_uint_eq(resident_blocks(file), AROUND);
	for (uint64_t block = 2 * AROUND_FITS + 8; block < 2 * AROUND_FITS + 12; block++)
		ck_assert(has(file, block));
	budget_force(&engine->budget, BUDGET_BLOCKS * 13 / 16 * BLOCK); /* not far any more */
	before = resident_blocks(file);
	ck_assert_uint_eq(touch_blocks(process, 200, 1), 1);
	ck_assert_uint_eq(resident_blocks(file), before + 1);
	budget_release(&engine->budget, BUDGET_BLOCKS * 13 / 16 * BLOCK);
	process_unmap(process);
	ramfile_unload(file);
}
END_TEST

/* Chosen while nobody mapped the file: a process that maps it now may have a device write into them. */
START_TEST(what_is_mapped_since_it_was_chosen_is_left)
{
	static const uint32_t block[] = { 0, 1, 2, 3 };
	struct ramfile *file = file_of(7, BUDGET_BLOCKS * BLOCK);
	struct demote_result result;
	struct process *process;

	write_blocks(file, 0, 8);
	ck_assert_int_eq(process_map(file, 1, &process), 0);
	ck_assert_int_eq(demote_idle(file, block, 4, false, &result), 0);
	ck_assert_uint_eq(result.demoted, 0);
	ck_assert_uint_eq(resident_blocks(file), 8);
	process_unmap(process);
	ck_assert_int_eq(demote_idle(file, block, 4, false, &result), 0);
	ck_assert_uint_eq(result.demoted, 4);
	ramfile_unload(file);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("room");
	TCase *tests = tcase_create("room");

	tcase_set_timeout(tests, 60);
	tcase_add_checked_fixture(tests, setup, teardown);
	tcase_add_test(tests, address_space_is_not_work);
	tcase_add_test(tests, the_runs_of_a_sparse_file_are_whole);
	tcase_add_test(tests, unused_files_cost_nothing);
	tcase_add_test(tests, cold_blocks_grow_older_without_a_visit);
	tcase_add_test(tests, slow_scans_do_not_stop_it);
	tcase_add_test(tests, a_favoured_block_counts_as_one_that_came_back);
	tcase_add_test(tests, a_limit_is_its_files_alone);
	tcase_add_test(tests, pins_leave_half_of_the_budget);
	tcase_add_test(tests, a_mapper_leaves_while_its_fault_is_parked);
	tcase_add_test(tests, what_lies_around_a_touch_is_given);
	tcase_add_test(tests, where_not_everything_fits_it_is_less);
	tcase_add_test(tests, what_is_mapped_since_it_was_chosen_is_left);
	suite_add_tcase(suite, tests);
	return check_run(suite);
}
