/* Errors in the middle of the engine's work: a store that refuses, memory that is short, a kernel call that fails. Each
 * test fails one call at the place that matters, and says what must hold then: the table says what arena and store
 * have, nothing is lost that the failed step had not looked at, and nothing stays behind.
 *
 * The engine is real, the store in memory, the mapper a simulated process. A restart is a new engine on what the old
 * one left, without its end: as after kill -9.
 */
/* link: @tests/lib/lib_fail.flags */
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../lib/lib_fail.h"
#include "../lib/lib_process.h"
#include "../lib/lib_scratch.h"
#include "../lib/lib_store_mem.h"
#include "base/clock.h"
#include "engine/access.h"
#include "engine/cache.h"
#include "engine/demote.h"
#include "engine/engine.h"
#include "engine/fault.h"
#include "engine/file.h"
#include "engine/load.h"
#include "engine/mappers.h"
#include "engine/parked.h"
#include "engine/ramfile.h"
#include "engine/read.h"
#include "engine/resize.h"
#include "engine/work.h"
#include "engine/write.h"
#include "policy/demand.h"
#include "policy/tiering.h"
#include "lib/lib_ident.h"
#include "lib_check.h"

#define INO 7
#define BLOCK 16384U
#define PAGE 4096U
#define BLOCKS 64U
#define SIZE ((uint64_t)BLOCKS * BLOCK)

static struct scratch scratch;
static int arena_dir;
static struct store *store;
static struct engine *engine;
static struct ramfile *file;
static uint8_t got[BLOCKS * BLOCK];

static int load(void)
{
	return ramfile_load(engine, INO, SIZE, false, &file);
}

static void new_engine(void)
{
	struct engine_config config = {
		.store = store, .arena_dir = arena_dir, .block_bytes = BLOCK, .dram_bytes = 4 * SIZE, .level = 1
	};

	ck_assert_int_eq(tiering_new(&config, &engine), 0);
}

static void setup(void)
{
	scratch_new(&scratch, "errors");
	arena_dir = open(scratch.path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	ck_assert_int_eq(store_mem_new(&store), 0);
	new_engine();
	ck_assert_int_eq(load(), 0);
}

static void stop(void)
{
	file_check(file);
	ramfile_unload(file);
	ck_assert_uint_eq(budget_used(engine_budget(engine)), 0);
	tiering_free(engine);
}

static void teardown(void)
{
	stop();
	store->ops->free(store);
	close(arena_dir);
	scratch_free(&scratch);
}

/* What a killed engine leaves is found by a new one. The old one is taken down afterwards, which a kill would not do:
 * so its arena is looked at under another name meanwhile. */
static void restart(void)
{
	struct ramfile *old = file;
	struct engine *old_tier = engine;

	new_engine();
	ck_assert_int_eq(load(), 0);
	file_check(file);
	close(old->arena.fd);
	old->arena.fd = -1;
	ramfile_unload(old);
	tiering_free(old_tier);
}

static const uint8_t *content(uint8_t which)
{
	static uint8_t blocks[256][BLOCK];

	for (size_t i = 0; which && i < BLOCK; i++)
		blocks[which][i] = (uint8_t)(i / 64 * 7 + which + i % 13);
	return blocks[which];
}

static void put(uint64_t block, uint8_t which, bool direct)
{
	ck_assert_int_eq(ramfile_write(file, content(which), BLOCK, block * BLOCK, direct), 0);
}

static void expect(uint64_t block, uint8_t which)
{
	size_t length;

	ck_assert_int_eq(ramfile_read(file, got, BLOCK, block * BLOCK, &length), 0);
	ck_assert_uint_eq(length, BLOCK);
	ck_assert_mem_eq(got, content(which), BLOCK);
}

static enum block_state state_of(uint64_t block)
{
	LOCK_SCOPE(&file->lock);

	return blocks_state(&file->blocks, block);
}

static bool has_key(uint64_t block)
{
	size_t length;

	return store->ops->get(store, STORE_GUEST, (struct store_key){ INO, block }, got, sizeof(got), &length) == 0;
}

static bool has_arena(void)
{
	return faccessat(arena_dir, "7", F_OK, 0) == 0;
}

static struct process *map(uint64_t holder)
{
	struct process *process;

	ck_assert_int_eq(process_map(file, holder, &process), 0);
	return process;
}

static int demote(struct demote_result *ret, uint32_t first, size_t count)
{
	uint32_t block[BLOCKS];

	for (uint32_t i = 0; i < count; i++)
		block[i] = first + i;
	return demote_blocks(file, block, count, false, ret);
}

/* --- what a failed step has not looked at is not given up -------------------------------------------------------- */

/* Two structs of one file at a time are no engine, but show what there is. */
static void drop(struct ramfile *other)
{
	close(other->arena.fd);
	other->arena.fd = -1;
	ramfile_unload(other);
}

START_TEST(a_load_that_fails_leaves_the_arena)
{
	struct ramfile *other = NULL;
	unsigned int nth;
	bool hit = true;

	put(3, 1, false);
	put(4, 2, true);
	store_mem_fail_nth(store, STORE_MEM_WALK, 1, EIO);
	ck_assert_int_eq(ramfile_load(engine, INO, SIZE, false, &other), -EIO);
	ck_assert(has_arena());
	for (nth = 1; hit; nth++) {
		int err;

		fail_arm(FAIL_ANY, nth);
		err = ramfile_load(engine, INO, SIZE, false, &other);
		hit = fail_disarm();
		ck_assert_msg(has_arena(), "after a failure of %s", fail_what());
		if (!err)
			drop(other);
	}
	ck_assert_uint_ge(nth, 10);
	restart();
	expect(3, 1);
	expect(4, 2);
}
END_TEST

START_TEST(a_load_that_fails_leaves_no_new_arena)
{
	struct ramfile *other;

	store_mem_fail_nth(store, STORE_MEM_WALK, 1, EIO);
	ck_assert_int_eq(ramfile_load(engine, INO + 1, SIZE, false, &other), -EIO);
	ck_assert_int_ne(faccessat(arena_dir, "8", F_OK, 0), 0);
	fail_arm(FAIL_SPACE, 1);
	ck_assert_int_ne(ramfile_load(engine, INO + 1, SIZE, false, &other), 0);
	ck_assert(fail_disarm());
	ck_assert_int_ne(faccessat(arena_dir, "8", F_OK, 0), 0);
}
END_TEST

/* A stored copy that cannot be read for a moment is not damaged. */
START_TEST(a_partial_block_outlives_an_error_at_load)
{
	put(2, 5, true);
	ck_assert_int_eq(cache_write_back(file, content(6), PAGE, 2 * BLOCK), 0);
	store_mem_fail_nth(store, STORE_MEM_GET, 1, EIO);
	restart();
	ck_assert_int_eq(ramfile_read(file, got, BLOCK, 2 * BLOCK, &(size_t){ 0 }), 0);
	ck_assert_mem_eq(got, content(6), PAGE);
	ck_assert_mem_eq(got + PAGE, content(5) + PAGE, BLOCK - PAGE);
}
END_TEST

START_TEST(a_removed_file_gives_its_memory_back)
{
	put(1, 1, false);
	put(2, 2, true);
	store_mem_fail_nth(store, STORE_MEM_REMOVE, 1, EIO);
	ck_assert_int_eq(ramfile_destroy(file), -EIO);
	ck_assert(!has_arena());
	ck_assert_uint_eq(budget_used(engine_budget(engine)), 0);
	ck_assert_int_eq(load(), 0);
}
END_TEST

START_TEST(a_lost_file_stays_lost_until_it_is_empty)
{
	put(1, 1, true);
	ramfile_unload(file);
	ck_assert_int_eq(ramfile_load(engine, INO, SIZE, true, &file), 0);
	fail_arm(FAIL_SPACE, 1);
	ck_assert_int_ne(ramfile_truncate(file, 0), 0);
	ck_assert(fail_disarm());
	ck_assert_int_eq(ramfile_read(file, got, BLOCK, BLOCK, &(size_t){ 0 }), -EIO);
	ck_assert_int_eq(ramfile_truncate(file, 0), 0);
	ck_assert_int_eq(ramfile_truncate(file, SIZE), 0);
	expect(1, 0);
}
END_TEST

/* --- table and store say the same -------------------------------------------------------------------------------- */

START_TEST(a_put_that_succeeded_shows_beside_a_removal_that_failed)
{
	uint8_t *data = calloc(3, BLOCK);
	struct ramfile_figures figures;

	put(0, 1, true); /* replaced */
	put(1, 2, true); /* becomes zeros, or not */
	memcpy(data, content(3), BLOCK);
	memcpy(data + 2 * BLOCK, content(4), BLOCK); /* a hole before */
	store_mem_fail_nth(store, STORE_MEM_REMOVE, 1, EIO);
	ck_assert_int_eq(ramfile_write(file, data, 3 * BLOCK, 0, true), -EIO);
	expect(0, 3);
	expect(1, 2);
	expect(2, 4);
	ck_assert_int_eq(state_of(2), BLOCK_COLD);
	lock_get(&file->lock);
	ck_assert(ident_same(file->blocks.ident[0], ident_of(content(3), BLOCK)));
	lock_put(&file->lock);
	ramfile_figures(file, &figures);
	ck_assert_uint_eq(figures.cold_bytes, 3 * BLOCK);
	restart();
	expect(0, 3);
	expect(1, 2);
	expect(2, 4);
	free(data);
}
END_TEST

START_TEST(zeros_before_the_removal_that_failed_show_too)
{
	uint8_t *data = calloc(3, BLOCK);

	for (uint64_t block = 0; block < 3; block++)
		put(block, 1, true);
	store_mem_fail_nth(store, STORE_MEM_REMOVE, 2, EIO);
	ck_assert_int_eq(ramfile_write(file, data, 3 * BLOCK, 0, true), -EIO);
	expect(0, 0);
	expect(1, 1);
	expect(2, 1);
	restart();
	expect(0, 0);
	expect(1, 1);
	expect(2, 1);
	free(data);
}
END_TEST

static void leave_key(uint64_t block, uint8_t which)
{
	/* The put is done all the same, and what would take it back fails. */
	store_mem_tear_puts(store, 1);
	do {
		store_mem_fail_nth(store, STORE_MEM_PUT, 1, EIO);
		store_mem_fail_nth(store, STORE_MEM_REMOVE, 1, EIO);
		ck_assert_int_eq(ramfile_write(file, content(which), BLOCK, block * BLOCK, true), -EIO);
	} while (!has_key(block));
	store_mem_tear_puts(store, 0);
	store_mem_fail_nth(store, STORE_MEM_REMOVE, 0, 0);
	ck_assert_int_eq(state_of(block), BLOCK_HOLE);
}

/* The page that is touched comes; those beside it are absent, and would be those of the key. */
START_TEST(a_fault_in_a_hole_forgets_the_key)
{
	static const uint8_t word[8] = { 1 };
	struct process *process;

	leave_key(5, 9);
	leave_key(7, 9);
	process = map(1);
	ck_assert(process_touch(process, 4 * BLOCK, (void *)word, 8, true)); /* begins a sequence */
	ck_assert(process_touch(process, 5 * BLOCK, (void *)word, 8, true));
	ck_assert(process_touch(process, 6 * BLOCK, (void *)word, 8, true));
	ck_assert(process_touch(process, 7 * BLOCK, (void *)word, 8, true));
	ck_assert(!has_key(5));
	ck_assert(!has_key(7));
	process_unmap(process);
	restart();
	ck_assert_int_eq(ramfile_read(file, got, 4 * BLOCK, 4 * BLOCK, &(size_t){ 0 }), 0);
	for (size_t i = 0; i < (size_t)4 * BLOCK; i++)
		ck_assert_int_eq(got[i], i % BLOCK == 0);
}
END_TEST

/* Memory goes on while the store refuses everything. */
START_TEST(a_fault_in_a_hole_hides_the_key)
{
	static const uint8_t word[8] = { 1 };
	struct process *process;

	leave_key(5, 9);
	leave_key(7, 9);
	process = map(1);
	store_mem_fail_all(store, STORE_MEM_CALLS, EIO);
	ck_assert(process_touch(process, 5 * BLOCK, (void *)word, 8, true));
	process_unmap(process);
	ck_assert_int_eq(cache_write_back(file, content(3), PAGE, 7 * BLOCK), 0);
	store_mem_fail_all(store, STORE_MEM_CALLS, 0);
	ck_assert(has_key(5));
	ck_assert(has_key(7));
	restart();
	ck_assert_int_eq(ramfile_read(file, got, BLOCK, 5 * BLOCK, &(size_t){ 0 }), 0);
	for (size_t i = 0; i < BLOCK; i++)
		ck_assert_int_eq(got[i], i == 0);
	ck_assert_int_eq(ramfile_read(file, got, BLOCK, 7 * BLOCK, &(size_t){ 0 }), 0);
	ck_assert_mem_eq(got, content(3), PAGE);
	ck_assert_mem_eq(got + PAGE, content(0), BLOCK - PAGE);
}
END_TEST

/* A discard whose keys are gone and whose punch fails: the blocks read as zeros or as they were. */
START_TEST(a_discard_that_stops_half_way)
{
	put(1, 1, true);
	put(2, 2, false);
	put(3, 3, true);
	fail_arm_plan(&(struct fail_plan){ .kinds = FAIL_SPACE, .nth = 1 });
	ck_assert_int_ne(ramfile_discard(file, BLOCK, (uint64_t)3 * BLOCK), 0);
	ck_assert(fail_disarm());
	file_check(file);
	expect(1, 0);
	expect(2, 2);
	expect(3, 0);
	restart();
	expect(1, 0);
	expect(2, 2);
	expect(3, 0);
	ck_assert_int_eq(ramfile_discard(file, BLOCK, (uint64_t)3 * BLOCK), 0);
	expect(2, 0);
}
END_TEST

/* --- pages of the arena ---------------------------------------------------------------------------------------------
 */

START_TEST(a_punch_that_fails_leaves_its_blocks_resident)
{
	struct demote_result result;

	put(1, 1, false);
	put(2, 2, false);
	put(3, 0, false);
	put(5, 5, false);
	fail_arm(FAIL_SPACE, 1); /* of two: blocks 1 to 3, and 5 */
	ck_assert_int_ne(demote(&result, 1, 5), 0);
	ck_assert(fail_disarm());
	ck_assert_int_eq(state_of(1), BLOCK_RESIDENT);
	ck_assert_int_eq(state_of(2), BLOCK_RESIDENT);
	ck_assert_int_eq(state_of(5), BLOCK_COLD);
	ck_assert_uint_eq(result.demoted, 1);
	file_check(file);
	/* What is written to the store now must not be hidden by pages that were left. */
	put(1, 9, true);
	put(2, 8, true);
	restart();
	expect(1, 9);
	expect(2, 8);
	expect(3, 0);
	expect(5, 5);
	ck_assert_int_eq(demote(&result, 1, 5), 0);
	ck_assert_int_eq(state_of(1), BLOCK_COLD);
	expect(1, 9);
}
END_TEST

/* Its hotness is as before, too: nobody has used it. */
START_TEST(a_batch_that_fails_makes_nobody_young)
{
	struct demote_result result;
	uint8_t before;

	put(1, 1, false);
	put(2, 2, false);
	lock_get(&file->lock);
	heat_set_age(&file->blocks, 1, 20);
	before = heat_age(&file->blocks, 1);
	lock_put(&file->lock);
	store_mem_fail_nth(store, STORE_MEM_PUT, 1, ENOSPC);
	ck_assert_int_eq(demote(&result, 1, 2), -ENOSPC);
	fail_arm(FAIL_SPACE, 1);
	ck_assert_int_ne(demote(&result, 1, 2), 0);
	ck_assert(fail_disarm());
	lock_get(&file->lock);
	ck_assert_uint_eq(heat_age(&file->blocks, 1), before);
	lock_put(&file->lock);
	ck_assert_int_eq(demote(&result, 1, 2), 0);
	ck_assert_uint_eq(result.demoted, 2);
}
END_TEST

/* Who is not stopped could write to what is being stored. */
START_TEST(a_protection_that_fails_stops_the_batch)
{
	struct process *process = map(1);
	struct demote_result result;

	put(1, 1, false);
	put(2, 2, false);
	process_fail_call(process, PROCESS_PROTECT, 1);
	ck_assert_int_eq(demote(&result, 1, 2), -ENOMEM);
	ck_assert_uint_eq(result.demoted, 0);
	ck_assert_int_eq(state_of(1), BLOCK_RESIDENT);
	/* What cannot be let go is woken, and comes again. */
	process_was_woken(process, 0, 0);
	process_fail_call(process, PROCESS_PROTECT, 2);
	store_mem_fail_nth(store, STORE_MEM_PUT, 1, EIO);
	ck_assert_int_eq(demote(&result, 1, 2), -EIO);
	ck_assert(process_was_woken(process, BLOCK, BLOCK));
	ck_assert(process_touch(process, BLOCK, (void *)content(4), 8, true));
	process_unmap(process);
}
END_TEST

START_TEST(a_fill_that_is_repeated_leaves_what_was_written)
{
	uint64_t loaded;

	put(1, 1, true);
	put(2, 2, true);
	/* The first call writes a page of the two blocks and fails; before it is repeated somebody writes to that page.
	 */
	ck_assert_int_eq(load_put_absent(file, content(1), PAGE, BLOCK), 0);
	ck_assert_int_eq(arena_write(&file->arena, content(9), PAGE, BLOCK), 0);
	ck_assert_int_eq(load_run(file, NULL, 1, 2, BUDGET_OPTIONAL, STORE_AHEAD, &loaded), 0);
	ck_assert_uint_eq(loaded, 2);
	ck_assert_int_eq(ramfile_read(file, got, BLOCK, BLOCK, &(size_t){ 0 }), 0);
	ck_assert_mem_eq(got, content(9), PAGE);
	ck_assert_mem_eq(got + PAGE, content(1) + PAGE, BLOCK - PAGE);
	expect(2, 2);
	ck_assert_int_eq(load_put_absent(file, content(3), (uint64_t)2 * BLOCK, BLOCK), 0);
	ck_assert_int_eq(ramfile_read(file, got, BLOCK, BLOCK, &(size_t){ 0 }), 0);
	ck_assert_mem_eq(got, content(9), PAGE);
	expect(2, 2);
}
END_TEST

/* A page that came before the error is in use by then. */
START_TEST(a_buffered_write_that_fails_punches_nothing)
{
	put(1, 1, true);
	fail_arm(FAIL_WRITE, 1);
	ck_assert_int_eq(ramfile_write(file, content(2), 100, BLOCK + 50, false), 0); /* as a direct one */
	ck_assert(fail_disarm());
	memcpy(got, content(1), BLOCK);
	ck_assert_int_eq(ramfile_read(file, got, BLOCK, BLOCK, &(size_t){ 0 }), 0);
	ck_assert_mem_eq(got, content(1), 50);
	ck_assert_mem_eq(got + 50, content(2), 100);
	ck_assert_mem_eq(got + 150, content(1) + 150, BLOCK - 150);
	file_check(file);
}
END_TEST

/* --- nothing stays behind -------------------------------------------------------------------------------------------
 */

START_TEST(an_attach_that_fails_leaves_no_change_open)
{
	struct process *process = NULL;
	bool clean = false;

	put(2, 5, true);
	ck_assert_int_eq(cache_write_back(file, content(6), PAGE, 2 * BLOCK), 0);
	for (int i = 0; i < 3; i++) {
		store_mem_fail_nth(store, STORE_MEM_GET, 1, ENOMEM);
		ck_assert_int_eq(process_map(file, 1, &process), -ENOMEM);
	}
	lock_get(&file->lock);
	ck_assert_uint_eq(file->changes.at_work, 0);
	lock_put(&file->lock);
	ck_assert_int_eq(demand_demote(file, 0, SIZE, NULL, NULL, &(struct file_done){ 0 }), 0);
	ck_assert_int_eq(ramfile_sync(file), 0);
	ck_assert_int_eq(ramfile_is_clean(file, &clean), 0);
	ck_assert(clean);
}
END_TEST

/* One block that is damaged keeps nobody from the others: not a process that comes, and not a demotion. */
START_TEST(a_damaged_partial_block_is_alone)
{
	struct demote_result result;
	struct process *process;
	uint8_t byte;

	put(1, 1, false);
	put(2, 5, true);
	ck_assert_int_eq(cache_write_back(file, content(6), PAGE, 2 * BLOCK), 0);
	put(3, 3, false);
	ck_assert_int_eq(store_mem_damage(store, (struct store_key){ INO, 2 }, 999), 0);
	restart();
	process = map(1);
	ck_assert(process_touch(process, BLOCK, &byte, 1, false));
	ck_assert_int_eq(byte, content(1)[0]);
	ck_assert(process_touch(process, 2 * BLOCK, &byte, 1, false));
	ck_assert_int_eq(byte, content(6)[0]);
	ck_assert(process_touch(process, 2 * BLOCK + PAGE, &byte, 1, false));
	ck_assert(process_poisoned(process));
	process_unmap(process);
	ck_assert_int_eq(demote(&result, 1, 3), 0);
	ck_assert_uint_eq(result.demoted, 2);
	ck_assert_int_eq(state_of(2), BLOCK_RESIDENT);
	ck_assert_int_eq(ramfile_read(file, got, BLOCK, 2 * BLOCK, &(size_t){ 0 }), -EIO);
	expect(1, 1);
	expect(3, 3);
}
END_TEST

/* A second one attaches; the first one's thread came to a block just then. */
START_TEST(who_waits_for_a_block_that_is_completed_is_woken)
{
	struct process *first = map(1), *second;

	put(2, 5, true);
	process_fail_fill(first, 2); /* a page comes, the rest does not */
	process_touch(first, 2 * BLOCK, got, 8, false);
	lock_get(&file->lock);
	blocks_set(&file->blocks, 2, BLOCK_PARTIAL);
	lock_put(&file->lock);
	store_mem_delay(store, STORE_MEM_GET, 0);
	lock_get(&file->lock);
	blocks_set(&file->blocks, 2, BLOCK_WAITERS); /* as its fault would have */
	lock_put(&file->lock);
	process_was_woken(first, 0, 0);
	second = map(2);
	ck_assert(process_was_woken(first, 2 * BLOCK, BLOCK));
	process_unmap(second);
	process_unmap(first);
}
END_TEST

static unsigned int works_idle(void)
{
	struct work_pool *pool = engine_works(engine);
	unsigned int idle = 0;

	for (struct work *work = pool->idle; work; work = work->next)
		idle++;
	return idle;
}

START_TEST(work_buffers_come_back)
{
	static const uint8_t secret[MAC_KEY_BYTES];
	struct demote_result result;
	struct process *process = NULL;

	put(1, 1, false);
	put(2, 5, true);
	ck_assert_int_eq(cache_write_back(file, content(6), PAGE, 2 * BLOCK), 0);
	ck_assert_uint_eq(works_idle(), engine_works(engine)->made);
	store_mem_fail_nth(store, STORE_MEM_GET, 1, ENOMEM);
	ck_assert_int_eq(process_map(file, 1, &process), -ENOMEM);
	ck_assert_uint_eq(works_idle(), engine_works(engine)->made);
	/* Without one in the pool, at each allocation. */
	for (unsigned int nth = 1;; nth++) {
		bool hit;
		int err;

		work_pool_fini(engine_works(engine));
		work_pool_init(engine_works(engine), BLOCK, 1, secret);
		fail_arm(FAIL_ALLOC, nth);
		err = demote(&result, 1, 1);
		hit = fail_disarm();
		ck_assert_uint_eq(works_idle(), engine_works(engine)->made);
		if (!hit) {
			ck_assert_int_eq(err, 0);
			break;
		}
		ck_assert_int_eq(err, -ENOMEM);
	}
	ck_assert_int_eq(state_of(1), BLOCK_COLD);
}
END_TEST

START_TEST(a_cut_gives_back_what_the_cache_had)
{
	size_t length;

	ck_assert_int_ne(cache_open_file(file), CACHE_NO);
	ck_assert_int_eq(cache_fill(file, got, 8 * BLOCK, 0, &length), 0);
	ck_assert_int_eq(cache_write_back(file, content(1), BLOCK, 3 * BLOCK), 0);
	ck_assert_uint_eq(budget_used(engine_budget(engine)), 9 * BLOCK);
	ck_assert_int_eq(ramfile_truncate(file, (uint64_t)2 * BLOCK), 0);
	ck_assert_uint_eq(budget_used(engine_budget(engine)), 2 * BLOCK);
	ck_assert_int_eq(ramfile_truncate(file, 0), 0);
	ck_assert_uint_eq(budget_used(engine_budget(engine)), 0);
	cache_close_file(file);
}
END_TEST

/* A length that the table does not have: faults there would come back for ever. */
START_TEST(a_resize_that_fails_leaves_the_length)
{
	for (unsigned int nth = 1;; nth++) {
		bool hit;
		int err;

		fail_arm(FAIL_ANY & ~(unsigned int)FAIL_ALLOC, nth);
		err = ramfile_truncate(file, 100 * SIZE);
		hit = fail_disarm();
		if (!hit) {
			ck_assert_int_eq(err, 0);
			break;
		}
		if (err) {
			ck_assert_int_eq(lseek(file->arena.fd, 0, SEEK_END), SIZE);
			ck_assert_uint_eq(file_size(file), SIZE);
		}
		if (!err)
			ck_assert_int_eq(ramfile_truncate(file, SIZE), 0);
	}
	/* After a cut keys may lie beyond the end, and are removed before the file grows over them. */
	ck_assert_int_eq(ramfile_truncate(file, 50 * SIZE), 0);
	store_mem_fail_nth(store, STORE_MEM_REMOVE, 1, EIO);
	ck_assert_int_eq(ramfile_truncate(file, 200 * SIZE), -EIO);
	ck_assert_int_eq(lseek(file->arena.fd, 0, SEEK_END), 50 * SIZE);
}
END_TEST

/* --- a mapper that leaves -------------------------------------------------------------------------------------------
 */

/* ThreadSanitizer does not let a signal's handler run while its thread waits for a lock: it runs when the thread has
 * the lock. So the fault would wait at the gate with the lock that the mapper that leaves is to get before it. */
#ifndef __SANITIZE_THREAD__
static int gate[2]; /* a byte lets the thread in the signal's handler go on */
static _Atomic bool at_gate;
static _Atomic pid_t leaver_tid;

static void *unmap_main(void *arg)
{
	atomic_store(&leaver_tid, gettid());
	process_unmap(arg);
	return NULL;
}

/* As who takes up a fault again. */
static void *fault_main(void *arg)
{
	struct mapper *mapper = arg;

	ck_assert(mappers_hold(file, mapper));
	fault_serve(file, mapper, BLOCK, FAULT_MISSING, clock_ns());
	mappers_drop(file, mapper);
	return NULL;
}

static pthread_barrier_t barrier;

/* Holds up both who parks and who looks for what is parked. */
static void *hold_main(void *arg)
{
	LOCK_SCOPE(&engine->room.lock);

	(void)arg;
	pthread_barrier_wait(&barrier);
	pthread_barrier_wait(&barrier);
	return NULL;
}

static void wait_at_gate(int number)
{
	char byte;

	(void)number;
	atomic_store(&at_gate, true);
	while (read(gate[0], &byte, 1) < 0 && errno == EINTR)
		;
}

static void wait_for_mapper(unsigned int users, bool leaving)
{
	bool reached = false;

	while (!reached) {
		lock_get(&file->mappers.lock);
		reached = file->mappers.list->users == users && file->mappers.list->leaving == leaving;
		lock_put(&file->mappers.lock);
	}
}

/* Until the thread sleeps, and on that lock or not on that lock. */
static void wait_asleep(pid_t tid, const struct lock *lock, bool on)
{
	char path[64], line[256];
	bool reached = false;

	snprintf(path, sizeof(path), "/proc/self/task/%d/syscall", (int)tid);
	while (!reached) {
		FILE *call = fopen(path, "re");
		uintptr_t at, start = (uintptr_t)lock;

		ck_assert_ptr_nonnull(call);
		ck_assert_ptr_nonnull(fgets(line, sizeof(line), call));
		fclose(call);
		reached = sscanf(line, "%*d 0x%" SCNxPTR, &at) == 1 && (at - start < sizeof(*lock)) == on;
	}
}

/* The mapper looks for parked faults after this one has found that it may be parked, and before it is. */
START_TEST(a_mapper_leaves_while_its_fault_is_being_parked)
{
	struct process *process;
	pthread_t holder, toucher, leaver;

	ck_assert_int_eq(pipe(gate), 0);
	atomic_store(&at_gate, false);
	signal(SIGUSR1, wait_at_gate);
	put(1, 1, true);
	process = map(1);
	budget_force(engine_budget(engine), 4 * SIZE);
	pthread_barrier_init(&barrier, NULL, 2);
	ck_assert_int_eq(pthread_create(&holder, NULL, hold_main, NULL), 0);
	pthread_barrier_wait(&barrier);
	ck_assert_int_eq(pthread_create(&toucher, NULL, fault_main, file->mappers.list), 0);
	wait_for_mapper(2, false);
	pthread_kill(toucher, SIGUSR1); /* it waits for the lock behind the other one then */
	/* Until it has run, it is in the kernel's queue of that lock, and the wake of the other one may be its. */
	while (!atomic_load(&at_gate))
		;
	ck_assert_int_eq(pthread_create(&leaver, NULL, unmap_main, process), 0);
	wait_for_mapper(2, true);
	wait_asleep(atomic_load(&leaver_tid), &engine->room.lock, true);
	pthread_barrier_wait(&barrier);
	wait_asleep(atomic_load(&leaver_tid), &engine->room.lock, false);
	ck_assert_int_eq(write(gate[1], "", 1), 1);
	pthread_join(holder, NULL);
	pthread_join(toucher, NULL);
	pthread_join(leaver, NULL);
	pthread_barrier_destroy(&barrier);
	close(gate[0]);
	close(gate[1]);
	budget_release(engine_budget(engine), 4 * SIZE);
}
END_TEST
#endif

static Suite *errors_suite(void)
{
	Suite *suite = suite_create("engine errors");
	TCase *tcase = tcase_create("one call fails");

	tcase_add_checked_fixture(tcase, setup, teardown);
	tcase_add_test(tcase, a_load_that_fails_leaves_the_arena);
	tcase_add_test(tcase, a_load_that_fails_leaves_no_new_arena);
	tcase_add_test(tcase, a_partial_block_outlives_an_error_at_load);
	tcase_add_test(tcase, a_removed_file_gives_its_memory_back);
	tcase_add_test(tcase, a_lost_file_stays_lost_until_it_is_empty);
	tcase_add_test(tcase, a_put_that_succeeded_shows_beside_a_removal_that_failed);
	tcase_add_test(tcase, zeros_before_the_removal_that_failed_show_too);
	tcase_add_test(tcase, a_fault_in_a_hole_forgets_the_key);
	tcase_add_test(tcase, a_fault_in_a_hole_hides_the_key);
	tcase_add_test(tcase, a_discard_that_stops_half_way);
	tcase_add_test(tcase, a_punch_that_fails_leaves_its_blocks_resident);
	tcase_add_test(tcase, a_batch_that_fails_makes_nobody_young);
	tcase_add_test(tcase, a_protection_that_fails_stops_the_batch);
	tcase_add_test(tcase, a_fill_that_is_repeated_leaves_what_was_written);
	tcase_add_test(tcase, a_buffered_write_that_fails_punches_nothing);
	tcase_add_test(tcase, an_attach_that_fails_leaves_no_change_open);
	tcase_add_test(tcase, a_damaged_partial_block_is_alone);
	tcase_add_test(tcase, who_waits_for_a_block_that_is_completed_is_woken);
	tcase_add_test(tcase, work_buffers_come_back);
	tcase_add_test(tcase, a_cut_gives_back_what_the_cache_had);
	tcase_add_test(tcase, a_resize_that_fails_leaves_the_length);
#ifndef __SANITIZE_THREAD__
	tcase_add_test(tcase, a_mapper_leaves_while_its_fault_is_being_parked);
#endif
	suite_add_tcase(suite, tcase);
	return suite;
}

int main(void)
{
	return check_run(errors_suite());
}
