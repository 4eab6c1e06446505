/* Blocks of which the arena has a part and the stored copy the rest: read, made whole, left as they are. The engine is
 * real, the store is in memory. */
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "../lib/lib_scratch.h"
#include "../lib/lib_store_mem.h"
#include "engine/cache.h"
#include "engine/engine.h"
#include "engine/file.h"
#include "engine/partial.h"
#include "engine/ramfile.h"
#include "engine/write.h"
#include "policy/tiering.h"
#include "lib_check.h"

#define INO 7
#define BLOCK 16384U
#define BLOCKS 8U
#define ODD 5000U /* bytes of the last block */
#define SIZE ((BLOCKS - 1) * (uint64_t)BLOCK + ODD)
#define LAST (BLOCKS - 1)

static struct scratch scratch;
static int arena_dir;
static struct store *store;
static struct engine *engine;
static struct ramfile *file;
static struct work *work;
static uint8_t old[BLOCK], fresh[BLOCK], plain[BLOCK];

static void setup(void)
{
	struct engine_config config = { .block_bytes = BLOCK, .dram_bytes = 2 * BLOCKS * BLOCK, .level = 1 };

	scratch_new(&scratch, "partial");
	arena_dir = open(scratch.path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	ck_assert_int_eq(store_mem_new(&store), 0);
	config.store = store;
	config.arena_dir = arena_dir;
	ck_assert_int_eq(tiering_new(&config, &engine), 0);
	ck_assert_int_eq(ramfile_load(engine, INO, SIZE, false, &file), 0);
	ck_assert_int_eq(work_get(engine_works(engine), STORE_DIRECT, &work), 0);
	for (size_t i = 0; i < BLOCK; i++) {
		old[i] = (uint8_t)(i / 64 * 7 + 1);
		fresh[i] = (uint8_t)(i / 64 * 5 + 3);
	}
}

static void teardown(void)
{
	work_put(engine_works(engine), work);
	file_check(file);
	ramfile_unload(file);
	tiering_free(engine);
	store->ops->free(store);
	close(arena_dir);
	scratch_free(&scratch);
}

/* Stored as `old`, and its second page came back as `fresh`. */
static void make_partial(uint64_t block)
{
	ck_assert_int_eq(ramfile_write(file, old, block == LAST ? ODD : BLOCK, block * BLOCK, true), 0);
	ck_assert_int_eq(cache_write_back(file, fresh + PAGE_BYTES, block == LAST ? ODD - PAGE_BYTES : PAGE_BYTES,
					  block * BLOCK + PAGE_BYTES),
			 0);
}

static bool is_partial(uint64_t block)
{
	LOCK_SCOPE(&file->lock);

	return partial_is(file, block);
}

static void own(uint64_t block)
{
	LOCK_SCOPE(&file->lock);

	ck_assert_int_eq(file_begin_update(file, block), BLOCK_RESIDENT);
}

static void expect_merged(const uint8_t *got)
{
	ck_assert_mem_eq(got, old, PAGE_BYTES);
	ck_assert_mem_eq(got + PAGE_BYTES, fresh + PAGE_BYTES, PAGE_BYTES);
	ck_assert_mem_eq(got + 2 * PAGE_BYTES, old + 2 * PAGE_BYTES, BLOCK - 2 * PAGE_BYTES);
}

static unsigned int pages_there(uint64_t block)
{
	unsigned int pages = 0;

	for (uint64_t at = block * BLOCK; at < (block + 1) * BLOCK && at < SIZE; at += PAGE_BYTES) {
		uint64_t data;

		pages += !arena_next_data(&file->arena, at, &data, NULL) && data == at;
	}
	return pages;
}

START_TEST(what_is_read_is_whole_and_the_arena_as_it_was)
{
	make_partial(2);
	ck_assert(is_partial(2));
	own(2);
	ck_assert_int_eq(partial_read(file, work, 2, plain), 0);
	expect_merged(plain);
	ck_assert(is_partial(2));
	ck_assert_uint_eq(pages_there(2), 1);
	file_end_update(file, 2, BLOCK_RESIDENT);
}
END_TEST

START_TEST(what_was_completed_is_like_any_other)
{
	uint64_t gets;

	make_partial(2);
	own(2);
	ck_assert_int_eq(partial_complete(file, work, 2), 0);
	ck_assert(!is_partial(2));
	ck_assert_uint_eq(pages_there(2), BLOCK / PAGE_BYTES);
	gets = store_mem_calls(store, STORE_MEM_GET);
	ck_assert_int_eq(partial_complete(file, work, 2), 0);
	ck_assert_int_eq(partial_read(file, work, 2, plain), 0);
	expect_merged(plain);
	ck_assert_uint_eq(store_mem_calls(store, STORE_MEM_GET), gets);
	file_end_update(file, 2, BLOCK_RESIDENT);
}
END_TEST

/* What a process wrote behind the end of the file is nobody's. */
START_TEST(behind_the_end_are_zeros)
{
	static const uint8_t zeros[BLOCK];

	make_partial(LAST);
	for (int whole = 0; whole < 2; whole++) {
		own(LAST);
		ck_assert_int_eq(arena_write(&file->arena, fresh, 100, SIZE), 0);
		memset(plain, 0xff, BLOCK);
		ck_assert_int_eq(partial_read(file, work, LAST, plain), 0);
		ck_assert_mem_eq(plain, old, PAGE_BYTES);
		ck_assert_mem_eq(plain + PAGE_BYTES, fresh + PAGE_BYTES, ODD - PAGE_BYTES);
		ck_assert_mem_eq(plain + ODD, zeros, BLOCK - ODD);
		ck_assert_int_eq(partial_complete(file, work, LAST), 0);
		ck_assert_uint_eq(pages_there(LAST), 2);
		file_end_update(file, LAST, BLOCK_RESIDENT);
	}
}
END_TEST

START_TEST(what_cannot_be_read_stays_partial)
{
	make_partial(2);
	own(2);
	store_mem_fail_all(store, STORE_MEM_GET, EIO);
	ck_assert_int_eq(partial_read(file, work, 2, plain), -EIO);
	ck_assert_int_eq(partial_complete(file, work, 2), -EIO);
	ck_assert(is_partial(2));
	ck_assert_uint_eq(pages_there(2), 1);
	store_mem_fail_all(store, STORE_MEM_GET, 0);
	ck_assert_int_eq(partial_read(file, work, 2, plain), 0);
	expect_merged(plain);
	file_end_update(file, 2, BLOCK_RESIDENT);
}
END_TEST

START_TEST(at_rest_only_a_partial_one_is_taken)
{
	make_partial(2);
	ck_assert_int_eq(ramfile_write(file, old, BLOCK, 3 * BLOCK, true), 0);
	for (uint64_t block = 1; block <= BLOCKS; block++) { /* a hole, partial, cold, holes, and behind the table */
		lock_get(&file->lock);
		ck_assert_int_eq(partial_complete_at_rest(file, work, block), 0);
	}
	ck_assert(!is_partial(2));
	ck_assert_uint_eq(pages_there(2), BLOCK / PAGE_BYTES);
	ck_assert_uint_eq(pages_there(1) + pages_there(3), 0);
	lock_get(&file->lock);
	ck_assert_int_eq(blocks_state(&file->blocks, 2), BLOCK_RESIDENT);
	ck_assert_int_eq(blocks_state(&file->blocks, 3), BLOCK_COLD);
	lock_put(&file->lock);
}
END_TEST

START_TEST(one_that_cannot_be_read_keeps_none_from_the_others)
{
	make_partial(1);
	make_partial(3);
	make_partial(LAST);
	ck_assert_int_eq(store_mem_damage(store, (struct store_key){ INO, 3 }, 999), 0);
	ck_assert_int_eq(partial_complete_all(file), 0);
	ck_assert(!is_partial(1) && is_partial(3) && !is_partial(LAST));
	ck_assert_uint_eq(pages_there(1), BLOCK / PAGE_BYTES);
	ck_assert_uint_eq(pages_there(3), 1);
	ck_assert_uint_eq(pages_there(LAST), 2);
}
END_TEST

/* Absent pages are zeros then. */
START_TEST(without_a_key_nothing_is_partial)
{
	lock_get(&file->lock);
	partial_leave(file, 1);
	lock_put(&file->lock);
	ck_assert(!is_partial(1));
	ck_assert_int_eq(cache_write_back(file, fresh, PAGE_BYTES, BLOCK), 0);
	lock_get(&file->lock);
	partial_leave(file, 1);
	lock_put(&file->lock);
	ck_assert(!is_partial(1));
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("partial");
	TCase *tests = tcase_create("partial");

	tcase_add_checked_fixture(tests, setup, teardown);
	tcase_add_test(tests, what_is_read_is_whole_and_the_arena_as_it_was);
	tcase_add_test(tests, what_was_completed_is_like_any_other);
	tcase_add_test(tests, behind_the_end_are_zeros);
	tcase_add_test(tests, what_cannot_be_read_stays_partial);
	tcase_add_test(tests, at_rest_only_a_partial_one_is_taken);
	tcase_add_test(tests, one_that_cannot_be_read_keeps_none_from_the_others);
	tcase_add_test(tests, without_a_key_nothing_is_partial);
	suite_add_tcase(suite, tests);
	return check_run(suite);
}
