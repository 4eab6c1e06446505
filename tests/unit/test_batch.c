/* The steps of who stores content, each with what the table, the store and a process that maps the file see of it. */
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "../lib/lib_process.h"
#include "../lib/lib_scratch.h"
#include "../lib/lib_store_mem.h"
#include "engine/batch.h"
#include "engine/cache.h"
#include "engine/engine.h"
#include "engine/file.h"
#include "engine/ramfile.h"
#include "engine/read.h"
#include "engine/write.h"
#include "policy/tiering.h"
#include "lib_check.h"

#define INO 7
#define BLOCK 16384U
#define BLOCKS 8U
#define SIZE ((BLOCKS - 1) * BLOCK + 5000) /* the last block is a part of one */

static struct scratch scratch;
static struct engine_config config;
static struct engine *engine;
static struct ramfile *file;
static struct work *work;
static struct batch batch;
static uint8_t content[BLOCK], got[BLOCK];

static void setup(void)
{
	scratch_new(&scratch, "batch");
	config = (struct engine_config){ .block_bytes = BLOCK, .dram_bytes = 2 * BLOCKS * BLOCK, .level = 1 };
	config.arena_dir = open(scratch.path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	ck_assert_int_eq(store_mem_new(&config.store), 0);
	ck_assert_int_eq(tiering_new(&config, &engine), 0);
	ck_assert_int_eq(ramfile_load(engine, INO, SIZE, false, &file), 0);
	ck_assert_int_eq(work_get(engine_works(engine), STORE_DIRECT, &work), 0);
	ck_assert_int_eq(batch_init(&batch, file, BLOCKS, BLOCKS), 0);
}

static void teardown(void)
{
	batch_fini(&batch);
	work_put(engine_works(engine), work);
	file_check_idle(file);
	ramfile_unload(file);
	tiering_free(engine);
	config.store->ops->free(config.store);
	close(config.arena_dir);
	scratch_free(&scratch);
}

static const uint8_t *filled(uint8_t which)
{
	for (size_t i = 0; i < BLOCK; i++)
		content[i] = (uint8_t)(i / 64 * 7 + which + i % 13);
	return content;
}

/* Resident, or cold if direct. */
static void write_block(uint64_t block, uint8_t which, bool direct)
{
	ck_assert_int_eq(ramfile_write(file, filled(which), BLOCK, block * BLOCK, direct), 0);
}

static struct batch_block *take(uint64_t block)
{
	LOCK_SCOPE(&file->lock);

	return batch_take(&batch, block, BLOCK_UPDATING);
}

static void settle(struct batch_block *one, enum block_state now)
{
	LOCK_SCOPE(&file->lock);

	batch_settle(&batch, one, now);
}

static bool has(uint64_t block, unsigned int flag)
{
	return blocks_has(&file->blocks, block, flag);
}

static bool is_stored(uint64_t block)
{
	static uint8_t value[2 * BLOCK];
	size_t length;

	return !config.store->ops->get(config.store, STORE_GUEST, (struct store_key){ INO, block }, value,
				       sizeof(value), &length);
}

static void check_reads(uint64_t block, uint8_t which)
{
	size_t length;

	ck_assert_int_eq(ramfile_read(file, got, BLOCK, block * BLOCK, &length), 0);
	ck_assert_mem_eq(got, filled(which), BLOCK);
}

static bool any(const struct batch_block *one)
{
	(void)one;
	return true;
}

static bool resident(const struct batch_block *one)
{
	return one->was == BLOCK_RESIDENT;
}

/* --- take ---------------------------------------------------------------------------------------------------- */

START_TEST(what_the_table_says_is_noted)
{
	struct batch_block *one;

	write_block(1, 1, true);
	write_block(2, 2, false);
	one = take(0);
	ck_assert_int_eq(one->was, BLOCK_HOLE);
	ck_assert_int_eq(one->verdict, BATCH_LEFT);
	one = take(1);
	ck_assert_int_eq(one->was, BLOCK_COLD);
	ck_assert(!ident_known(one->stored)); /* a copy that is to be replaced is compared with nothing */
	one = take(2);
	ck_assert_int_eq(one->was, BLOCK_RESIDENT);
	ck_assert_uint_eq(one->length, BLOCK);
	one = take(BLOCKS - 1);
	ck_assert_uint_eq(one->length, 8192);
	ck_assert_uint_eq(one->content, 5000);
	ck_assert_int_eq(blocks_state(&file->blocks, 2), BLOCK_UPDATING);
	for (size_t i = 0; i < batch.count; i++)
		settle(&batch.block[i], batch_state(&batch.block[i]));
	ck_assert_int_eq(blocks_state(&file->blocks, 1), BLOCK_COLD);
	ck_assert_int_eq(blocks_state(&file->blocks, 2), BLOCK_RESIDENT);
	batch_clear(&batch);
	ck_assert_uint_eq(batch.count, 0);
}
END_TEST

START_TEST(neighbours_are_one_run)
{
	struct mapper_run run[BLOCKS];

	for (uint64_t block = 1; block < BLOCKS; block++)
		if (block != 3)
			take(block);
	ck_assert_uint_eq(batch_runs(&batch, resident, run), 0);
	ck_assert_uint_eq(batch_runs(&batch, any, run), 2);
	ck_assert_uint_eq(run[0].offset, BLOCK);
	ck_assert_uint_eq(run[0].length, 2 * BLOCK);
	ck_assert_uint_eq(run[1].offset, 4 * BLOCK);
	ck_assert_uint_eq(run[1].length, 3 * BLOCK + 8192);
	for (size_t i = 0; i < batch.count; i++)
		settle(&batch.block[i], BLOCK_HOLE);
}
END_TEST

/* --- read and encode ----------------------------------------------------------------------------------------- */

/* A process may write behind the end of the file, up to the end of its page. None of that is stored. */
START_TEST(behind_the_end_are_zeros)
{
	struct process *process;
	struct batch_block *one;
	uint8_t byte = 1;

	ck_assert_int_eq(process_map(file, 1, &process), 0);
	ck_assert(process_touch(process, (BLOCKS - 1) * BLOCK + 4999, &byte, 1, true));
	ck_assert(process_touch(process, (BLOCKS - 1) * BLOCK + 5000, &byte, 1, true));
	one = take(BLOCKS - 1);
	memset(got, 0xff, sizeof(got));
	ck_assert_int_eq(batch_read(&batch, work, one, got), 0);
	ck_assert_uint_eq(got[4999], 1);
	for (size_t i = 5000; i < BLOCK; i++)
		ck_assert_uint_eq(got[i], 0);
	settle(one, BLOCK_RESIDENT);
	process_unmap(process);
}
END_TEST

START_TEST(a_partial_block_is_read_whole)
{
	struct batch_block *one;

	write_block(1, 1, true);
	ck_assert_int_eq(cache_write_back(file, filled(2), 4096, BLOCK), 0);
	ck_assert(has(1, BLOCK_PARTIAL));
	one = take(1);
	ck_assert(one->partial);
	ck_assert_int_eq(batch_read(&batch, work, one, got), 0);
	ck_assert_mem_eq(got, filled(2), 4096);
	ck_assert_mem_eq(got + 4096, filled(1) + 4096, BLOCK - 4096);
	settle(one, BLOCK_RESIDENT);
}
END_TEST

START_TEST(each_content_has_its_verdict)
{
	static const uint8_t zeros[BLOCK] __attribute__((aligned(8)));
	struct batch_block *one;

	write_block(1, 1, false);
	one = take(1);
	ck_assert_int_eq(batch_encode(&batch, work, one, zeros), 0);
	ck_assert_int_eq(one->verdict, BATCH_ZERO);
	ck_assert_ptr_null(one->value);
	ck_assert_int_eq(batch_encode(&batch, work, one, filled(1)), 0);
	ck_assert_int_eq(one->verdict, BATCH_STORE);
	ck_assert_int_eq(batch_put(&batch, STORE_DEMOTION), 0);
	ck_assert(one->done);
	settle(one, BLOCK_RESIDENT);
	batch_clear(&batch);

	one = take(1);
	ck_assert_int_eq(batch_encode(&batch, work, one, filled(1)), 0);
	ck_assert_int_eq(one->verdict, BATCH_SAME);
	ck_assert_int_eq(batch_encode(&batch, work, one, filled(2)), 0);
	ck_assert_int_eq(one->verdict, BATCH_STORE);
	settle(one, BLOCK_RESIDENT);
}
END_TEST

/* --- put and forget ------------------------------------------------------------------------------------------ */

START_TEST(values_go_with_one_call)
{
	uint64_t puts = store_mem_calls(config.store, STORE_MEM_PUT);

	for (uint64_t block = 1; block < 4; block++)
		ck_assert_int_eq(batch_encode(&batch, work, take(block), filled((uint8_t)block)), 0);
	take(5);
	ck_assert_int_eq(batch_put(&batch, STORE_DEMOTION), 0);
	ck_assert_uint_eq(store_mem_calls(config.store, STORE_MEM_PUT), puts + 1);
	ck_assert_int_eq(batch_state(&batch.block[0]), BLOCK_COLD);
	ck_assert_int_eq(batch_state(&batch.block[3]), BLOCK_HOLE);
	for (size_t i = 0; i < batch.count; i++)
		settle(&batch.block[i], batch_state(&batch.block[i]));
	for (uint64_t block = 1; block < 4; block++)
		check_reads(block, (uint8_t)block);
	ck_assert(!is_stored(5));
}
END_TEST

/* Of a hole no key is left, of a cold block its own; of a resident one it equals nothing from now on. */
START_TEST(after_a_put_that_failed_the_table_tells)
{
	write_block(2, 2, true);
	write_block(3, 3, false);
	for (uint64_t block = 1; block < 4; block++)
		ck_assert_int_eq(batch_encode(&batch, work, take(block), filled(9)), 0);
	store_mem_fail_nth(config.store, STORE_MEM_PUT, 1, ENOSPC);
	ck_assert_int_eq(batch_put(&batch, STORE_DEMOTION), -ENOSPC);
	for (size_t i = 0; i < batch.count; i++)
		settle(&batch.block[i], batch_state(&batch.block[i]));
	ck_assert_int_eq(blocks_state(&file->blocks, 1), BLOCK_HOLE);
	ck_assert(!has(1, BLOCK_STORED));
	ck_assert_int_eq(blocks_state(&file->blocks, 2), BLOCK_COLD);
	ck_assert(has(3, BLOCK_STORED));
	ck_assert(!ident_known(file->blocks.ident[2]));
	ck_assert(!ident_known(file->blocks.ident[3]));
	check_reads(2, 2);
	check_reads(3, 3);
}
END_TEST

START_TEST(a_key_that_may_be_there_is_remembered)
{
	ck_assert_int_eq(batch_encode(&batch, work, take(1), filled(9)), 0);
	store_mem_fail_nth(config.store, STORE_MEM_PUT, 1, EIO);
	store_mem_fail_nth(config.store, STORE_MEM_REMOVE, 1, EIO);
	ck_assert_int_eq(batch_put(&batch, STORE_DEMOTION), -EIO);
	settle(&batch.block[0], batch_state(&batch.block[0]));
	ck_assert_int_eq(blocks_state(&file->blocks, 1), BLOCK_HOLE);
	ck_assert(has(1, BLOCK_STORED));
}
END_TEST

START_TEST(zeros_have_no_key)
{
	write_block(1, 1, true);
	write_block(2, 2, true);
	ck_assert_int_eq(cache_write_back(file, filled(3), 4096, 2 * BLOCK), 0);
	take(1)->verdict = BATCH_ZERO;
	take(2)->verdict = BATCH_ZERO;
	store_mem_fail_nth(config.store, STORE_MEM_REMOVE, 1, EIO);
	ck_assert_int_eq(batch_forget(&batch), -EIO);
	ck_assert_int_eq(batch_state(&batch.block[0]), BLOCK_COLD);
	ck_assert_int_eq(batch_forget(&batch), 0);
	ck_assert_int_eq(batch_state(&batch.block[0]), BLOCK_HOLE);
	ck_assert(!is_stored(1) && !is_stored(2));
	ck_assert(!has(2, BLOCK_PARTIAL));
	settle(&batch.block[0], BLOCK_HOLE);
	settle(&batch.block[1], BLOCK_RESIDENT);
}
END_TEST

START_TEST(one_block_is_a_batch_too)
{
	enum block_state now;

	take(1);
	memcpy(work->raw, filled(4), BLOCK);
	ck_assert_int_eq(batch_store_one(file, work, 1, BLOCK_HOLE, false, &now), 0);
	ck_assert_int_eq(now, BLOCK_COLD);
	store_mem_fail_nth(config.store, STORE_MEM_PUT, 1, EIO);
	memcpy(work->raw, filled(5), BLOCK);
	ck_assert_int_eq(batch_store_one(file, work, 1, BLOCK_COLD, false, &now), -EIO);
	ck_assert_int_eq(now, BLOCK_COLD);
	memset(work->raw, 0, BLOCK);
	ck_assert_int_eq(batch_store_one(file, work, 1, BLOCK_COLD, false, &now), 0);
	ck_assert_int_eq(now, BLOCK_HOLE);
	ck_assert(!is_stored(1));
	settle(&batch.block[0], now);
}
END_TEST

/* --- processes ----------------------------------------------------------------------------------------------- */

START_TEST(who_waits_is_woken)
{
	struct process *process;
	uint8_t byte = 7;

	ck_assert_int_eq(process_map(file, 1, &process), 0);
	ck_assert(process_touch(process, 2 * BLOCK, &byte, 1, true));
	take(1);
	take(2);
	take(4);
	ck_assert_int_eq(batch_protect(&batch, resident, true), 0);
	byte = 8;
	ck_assert(!process_touch(process, 2 * BLOCK, &byte, 1, true));
	ck_assert(process_touch(process, 2 * BLOCK, got, 1, false));
	ck_assert_uint_eq(got[0], 7);
	process_was_woken(process, 2 * BLOCK, BLOCK);
	ck_assert_int_eq(batch_protect(&batch, resident, false), 0);
	for (size_t i = 0; i < batch.count; i++)
		settle(&batch.block[i], batch_state(&batch.block[i]));
	ck_assert(!batch.block[0].waiters && batch.block[1].waiters && !batch.block[2].waiters);
	process_was_woken(process, 2 * BLOCK, BLOCK);
	batch_wake(&batch);
	ck_assert(process_was_woken(process, 2 * BLOCK, BLOCK));
	ck_assert(!process_was_woken(process, 4 * BLOCK, BLOCK));
	ck_assert(process_touch(process, 2 * BLOCK, &byte, 1, true));
	process_unmap(process);
}
END_TEST

START_TEST(a_process_that_says_no_is_told)
{
	struct process *process;
	uint8_t byte = 7;

	ck_assert_int_eq(process_map(file, 1, &process), 0);
	ck_assert(process_touch(process, BLOCK, &byte, 1, true));
	lock_get(&file->lock);
	batch_begin(&batch);
	lock_put(&file->lock);
	take(1);
	process_fail_call(process, PROCESS_PROTECT, 1);
	ck_assert_int_eq(batch_protect(&batch, any, true), -ENOMEM);
	ck_assert_int_eq(batch_protect(&batch, any, false), 0);
	settle(&batch.block[0], BLOCK_RESIDENT);
	lock_get(&file->lock);
	batch_end(&batch);
	lock_put(&file->lock);
	process_unmap(process);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("batch");
	TCase *tests = tcase_create("batch");

	tcase_add_checked_fixture(tests, setup, teardown);
	tcase_add_test(tests, what_the_table_says_is_noted);
	tcase_add_test(tests, neighbours_are_one_run);
	tcase_add_test(tests, behind_the_end_are_zeros);
	tcase_add_test(tests, a_partial_block_is_read_whole);
	tcase_add_test(tests, each_content_has_its_verdict);
	tcase_add_test(tests, values_go_with_one_call);
	tcase_add_test(tests, after_a_put_that_failed_the_table_tells);
	tcase_add_test(tests, a_key_that_may_be_there_is_remembered);
	tcase_add_test(tests, zeros_have_no_key);
	tcase_add_test(tests, one_block_is_a_batch_too);
	tcase_add_test(tests, who_waits_is_woken);
	tcase_add_test(tests, a_process_that_says_no_is_told);
	suite_add_tcase(suite, tests);
	return check_run(suite);
}
