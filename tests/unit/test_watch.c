/* link: -Wl,--wrap=fallocate64,--wrap=lseek64 */
/* Memory that somebody makes in an arena, and lengths that somebody gives it: found, put right, and nothing else is
 * touched. The engine is real, the store and the arenas are in memory. */
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../lib/lib_scratch.h"
#include "../lib/lib_store_mem.h"
#include "base/clock.h"
#include "engine/engine.h"
#include "engine/file.h"
#include "engine/mappers.h"
#include "engine/ramfile.h"
#include "engine/read.h"
#include "engine/resize.h"
#include "engine/watch.h"
#include "engine/write.h"
#include "policy/tiering.h"
#include "lib_check.h"

#define INO 7
#define BLOCK 16384UL
#define BLOCKS 96UL
#define SIZE (BLOCKS * BLOCK)
#define COLD_FIRST 0UL /* blocks: cold ones, resident ones, holes */
#define RESIDENT_FIRST 32UL
#define HOLES_FIRST 64UL
#define FAR_BYTES (8 * SIZE)

static struct scratch scratch;
static int arena_dir;
static struct store *store;
static struct engine *engine;
static struct ramfile *file;
static uint8_t content[SIZE], got[SIZE], junk[SIZE];
static uint64_t now_ns;

static bool punch_keeps_pages;

int __real_fallocate64(int fd, int mode, off_t offset, off_t length);
int __wrap_fallocate64(int fd, int mode, off_t offset, off_t length);

/* As where a page is a part of a large one that somebody holds. */
int __wrap_fallocate64(int fd, int mode, off_t offset, off_t length)
{
	return punch_keeps_pages ? 0 : __real_fallocate64(fd, mode, offset, length);
}

static unsigned int ends_sought;

off_t __real_lseek64(int fd, off_t offset, int whence);
off_t __wrap_lseek64(int fd, off_t offset, int whence);

off_t __wrap_lseek64(int fd, off_t offset, int whence)
{
	ends_sought += whence == SEEK_HOLE;
	return __real_lseek64(fd, offset, whence);
}

static void setup(void)
{
	struct engine_config config = { .block_bytes = BLOCK, .dram_bytes = 4 * SIZE, .level = 1 };

	setenv("TMPDIR", "/dev/shm", 1);
	scratch_new(&scratch, "watch");
	arena_dir = open(scratch.path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	ck_assert_int_eq(store_mem_new(&store), 0);
	config.store = store;
	config.arena_dir = arena_dir;
	ck_assert_int_eq(tiering_new(&config, &engine), 0);
	ck_assert_int_eq(ramfile_load(engine, INO, SIZE, false, &file), 0);
	for (size_t i = 0; i < HOLES_FIRST * BLOCK; i++)
		content[i] = (uint8_t)(i / 64 * 7 + i / BLOCK + 1);
	memset(junk, 'j', sizeof(junk));
	ck_assert_int_eq(ramfile_write(file, content, RESIDENT_FIRST * BLOCK, 0, true), 0);
	ck_assert_int_eq(ramfile_write(file, content + RESIDENT_FIRST * BLOCK, (HOLES_FIRST - RESIDENT_FIRST) * BLOCK,
				       RESIDENT_FIRST * BLOCK, false),
			 0);
	now_ns = clock_ns();
}

static void teardown(void)
{
	file_check(file);
	ramfile_unload(file);
	tiering_free(engine);
	store->ops->free(store);
	close(arena_dir);
	scratch_free(&scratch);
}

static struct watch_seen look(void)
{
	struct watch_seen seen;

	now_ns += NS_PER_S / 2;
	watch_look(file, now_ns, &seen);
	return seen;
}

/* Looks until something was found, which takes a few looks at most. */
static struct watch_seen look_on(void)
{
	struct watch_seen seen = look();

	for (int i = 0; i < 5 && !seen.taken_bytes && !seen.resized; i++)
		seen = look();
	return seen;
}

static void expect_nothing(void)
{
	for (int i = 0; i < 6; i++) {
		struct watch_seen seen = look();

		ck_assert_uint_eq(seen.taken_bytes, 0);
		ck_assert(!seen.resized);
		ck_assert_uint_eq(seen.caught, 0);
	}
}

static void expect_content(void)
{
	size_t length = 0;

	ck_assert_int_eq(ramfile_read(file, got, SIZE, 0, &length), 0);
	ck_assert_uint_eq(length, SIZE);
	ck_assert_mem_eq(got, content, SIZE);
}

static uint64_t length_now(void)
{
	uint64_t length = 0, bytes;

	ck_assert_int_eq(arena_measure(&file->arena, &length, &bytes), 0);
	return length;
}

static uint64_t bytes_now(void)
{
	uint64_t length, bytes = 0;

	ck_assert_int_eq(arena_measure(&file->arena, &length, &bytes), 0);
	return bytes;
}

START_TEST(what_the_engine_does_is_not_found)
{
	expect_nothing();
	ck_assert_int_eq(ramfile_discard(file, (RESIDENT_FIRST + 3) * BLOCK, 5 * BLOCK), 0);
	ck_assert_int_eq(ramfile_discard(file, (RESIDENT_FIRST + 12) * BLOCK + PAGE_BYTES, PAGE_BYTES), 0);
	expect_nothing();
	ck_assert_int_eq(ramfile_truncate(file, SIZE / 2 + 5000), 0);
	expect_nothing();
	ck_assert_int_eq(ramfile_truncate(file, 2 * SIZE), 0);
	expect_nothing();
	ck_assert_uint_eq(length_now(), 2 * SIZE);
}
END_TEST

START_TEST(pages_of_holes_and_cold_blocks_are_taken_away)
{
	struct ramfile_figures figures;
	struct watch_seen seen;

	ck_assert_int_eq(arena_write(&file->arena, junk, RESIDENT_FIRST * BLOCK, 0), 0);
	ck_assert_int_eq(arena_write(&file->arena, junk, (BLOCKS - HOLES_FIRST) * BLOCK, HOLES_FIRST * BLOCK), 0);
	seen = look();
	ck_assert_uint_eq(seen.taken_bytes, (RESIDENT_FIRST + BLOCKS - HOLES_FIRST) * BLOCK);
	ck_assert_uint_eq(seen.caught, 1);
	ck_assert(!seen.resized);
	ck_assert_uint_eq(bytes_now(), (HOLES_FIRST - RESIDENT_FIRST) * BLOCK);
	expect_content();
	expect_nothing();
	ramfile_figures(file, &figures);
	ck_assert_uint_eq(figures.foreign_bytes, seen.taken_bytes);
}
END_TEST

/* The kernel holds the arena's lock while it walks over the pages of a run. */
START_TEST(ends_of_runs_of_pages_are_not_sought)
{
	/* Between blocks that are resident, and behind them. */
	ck_assert_int_eq(ramfile_discard(file, (RESIDENT_FIRST + 3) * BLOCK, BLOCK), 0);
	memset(content + (RESIDENT_FIRST + 3) * BLOCK, 0, BLOCK);
	ck_assert_int_eq(arena_write(&file->arena, junk, BLOCK, (RESIDENT_FIRST + 3) * BLOCK), 0);
	ck_assert_int_eq(arena_write(&file->arena, junk, 20 * BLOCK, (BLOCKS - 20) * BLOCK), 0);
	ends_sought = 0;
	ck_assert_uint_eq(look().taken_bytes, 21 * BLOCK);
	ck_assert_uint_eq(ends_sought, 0);
	expect_content();
}
END_TEST

/* Each of its owners works on without a lock. */
START_TEST(blocks_that_somebody_works_on_are_left_alone)
{
	enum block_state was;

	lock_get(&file->lock);
	was = file_begin_update(file, COLD_FIRST + 3);
	lock_put(&file->lock);
	ck_assert_int_eq(arena_write(&file->arena, junk, RESIDENT_FIRST * BLOCK, 0), 0);
	ck_assert_uint_eq(look().taken_bytes, (RESIDENT_FIRST - 1) * BLOCK);
	ck_assert_int_eq(arena_punch(&file->arena, (COLD_FIRST + 3) * BLOCK, BLOCK), 0);
	file_end_update(file, COLD_FIRST + 3, was);
	expect_content();
}
END_TEST

START_TEST(a_little_is_taken_away_and_is_no_offence)
{
	struct watch_seen seen;

	ck_assert_int_eq(arena_write(&file->arena, junk, 3 * PAGE_BYTES, 2 * PAGE_BYTES), 0);
	seen = look_on();
	ck_assert_uint_eq(seen.taken_bytes, 3 * PAGE_BYTES);
	ck_assert_uint_eq(seen.caught, 0);
	expect_content();
}
END_TEST

START_TEST(the_length_is_put_back)
{
	struct watch_seen seen;

	ck_assert_int_eq(arena_resize(&file->arena, FAR_BYTES), 0);
	ck_assert_int_eq(arena_write(&file->arena, junk, SIZE, FAR_BYTES - SIZE), 0);
	seen = look_on();
	ck_assert(seen.resized);
	ck_assert_uint_eq(seen.caught, 1);
	ck_assert_uint_eq(seen.taken_bytes, SIZE);
	ck_assert_uint_eq(length_now(), SIZE);
	expect_content();
	/* Shorter: what is cut off is lost to who did it, and nothing else. */
	ck_assert_int_eq(arena_resize(&file->arena, HOLES_FIRST * BLOCK), 0);
	seen = look_on();
	ck_assert(seen.resized);
	ck_assert_uint_eq(seen.caught, 2);
	ck_assert_uint_eq(length_now(), SIZE);
	expect_content();
}
END_TEST

START_TEST(memory_behind_the_end_is_taken_away)
{
	struct watch_seen seen;

	ck_assert_int_eq(fallocate(file->arena.fd, FALLOC_FL_KEEP_SIZE, SIZE, SIZE), 0);
	ck_assert_uint_eq(length_now(), SIZE);
	seen = look();
	ck_assert_uint_eq(seen.taken_bytes, SIZE);
	ck_assert_uint_eq(seen.caught, 1);
	ck_assert_uint_eq(bytes_now(), (HOLES_FIRST - RESIDENT_FIRST) * BLOCK);
	expect_content();
}
END_TEST

START_TEST(a_size_that_is_being_changed_is_left_alone)
{
	file_begin_resize(file);
	ck_assert(!file_try_resize(file));
	ck_assert_int_eq(arena_resize(&file->arena, 2 * SIZE), 0);
	expect_nothing();
	ck_assert_uint_eq(length_now(), 2 * SIZE);
	file_end_resize(file);
	ck_assert(look_on().resized);
	ck_assert_uint_eq(length_now(), SIZE);
}
END_TEST

/* Its memory is more than it should be, and nobody is to blame for it. */
START_TEST(what_cannot_be_taken_away_is_no_offence)
{
	ck_assert_int_eq(arena_write(&file->arena, junk, RESIDENT_FIRST * BLOCK, 0), 0);
	punch_keeps_pages = true;
	expect_nothing();
	punch_keeps_pages = false;
	ck_assert_uint_eq(look().taken_bytes, RESIDENT_FIRST * BLOCK);
	expect_content();
}
END_TEST

static void count(void *arg, struct ramfile *visited)
{
	*(unsigned int *)arg += visited == file;
}

static unsigned int count_watched(void)
{
	unsigned int found = 0;

	engine_each_watched(engine, count, &found);
	return found;
}

START_TEST(a_file_is_watched_from_when_its_arena_is_given_out)
{
	int fd = -1;

	ck_assert_uint_eq(count_watched(), 0);
	ck_assert_int_eq(mappers_arena_fd(file, true, &fd), 0);
	ck_assert_uint_eq(count_watched(), 1);
	close(fd); /* what is mapped may stay */
	ck_assert_uint_eq(count_watched(), 1);
	ramfile_unload(file);
	ck_assert_int_eq(ramfile_load(engine, INO, SIZE, false, &file), 0);
	ck_assert_uint_eq(count_watched(), 1); /* it had the arena already */
}
END_TEST

START_TEST(it_is_counted_and_forgotten_after_a_while)
{
	for (unsigned int i = 1; i <= 3; i++) {
		ck_assert_int_eq(arena_write(&file->arena, junk, RESIDENT_FIRST * BLOCK, 0), 0);
		ck_assert_uint_eq(look().caught, i);
	}
	now_ns += 61 * NS_PER_S;
	ck_assert_int_eq(arena_write(&file->arena, junk, RESIDENT_FIRST * BLOCK, 0), 0);
	ck_assert_uint_eq(look().caught, 1);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("watch");
	TCase *tests = tcase_create("watch");

	suite_add_tcase(suite, tests);
	tcase_add_checked_fixture(tests, setup, teardown);
	tcase_add_test(tests, what_the_engine_does_is_not_found);
	tcase_add_test(tests, pages_of_holes_and_cold_blocks_are_taken_away);
	tcase_add_test(tests, ends_of_runs_of_pages_are_not_sought);
	tcase_add_test(tests, blocks_that_somebody_works_on_are_left_alone);
	tcase_add_test(tests, a_little_is_taken_away_and_is_no_offence);
	tcase_add_test(tests, the_length_is_put_back);
	tcase_add_test(tests, memory_behind_the_end_is_taken_away);
	tcase_add_test(tests, a_size_that_is_being_changed_is_left_alone);
	tcase_add_test(tests, what_cannot_be_taken_away_is_no_offence);
	tcase_add_test(tests, a_file_is_watched_from_when_its_arena_is_given_out);
	tcase_add_test(tests, it_is_counted_and_forgotten_after_a_while);
	return check_run(suite);
}
