/* What the kernel's page cache may be given of a file, what the engine takes it to hold, and who has to wait for it.
 * The engine is real, the process that attaches the file and the store are simulated. */
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <string.h>
#include <unistd.h>

#include <tierfs/access.h>

#include "../lib/lib_process.h"
#include "../lib/lib_scratch.h"
#include "../lib/lib_store_hook.h"
#include "../lib/lib_store_mem.h"
#include "base/clock.h"
#include "engine/access.h"
#include "engine/cache.h"
#include "engine/engine.h"
#include "engine/file.h"
#include "engine/forget.h"
#include "engine/mappers.h"
#include "engine/ramfile.h"
#include "engine/read.h"
#include "engine/write.h"
#include "policy/demand.h"
#include "policy/tiering.h"
#include "lib_check.h"

#define INO 7
#define BLOCK 16384U
#define BLOCKS 8U
#define SIZE (BLOCKS * (uint64_t)BLOCK)

static struct scratch scratch;
static int arena_dir;
static struct store *below, *store;
static struct engine *engine;
static struct ramfile *file;
static void (*in_put)(void);

static void on_store(void *arg, enum store_hook_moment moment)
{
	(void)arg;
	if (moment == STORE_HOOK_BEFORE && in_put)
		in_put();
}

static void setup(void)
{
	struct engine_config config = {
		.block_bytes = BLOCK, .dram_bytes = 2 * SIZE, .min_idle_ns = NS_PER_MS, .level = 1
	};

	scratch_new(&scratch, "cache");
	arena_dir = open(scratch.path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	ck_assert_int_eq(store_mem_new(&below), 0);
	ck_assert_int_eq(store_hook_new(below, on_store, NULL, &store), 0);
	config.store = store;
	config.arena_dir = arena_dir;
	ck_assert_int_eq(tiering_new(&config, &engine), 0);
	ck_assert_int_eq(ramfile_load(engine, INO, SIZE, false, &file), 0);
	in_put = NULL;
}

static void teardown(void)
{
	in_put = NULL;
	file_check(file);
	ramfile_unload(file);
	tiering_free(engine);
	store->ops->free(store);
	below->ops->free(below);
	close(arena_dir);
	scratch_free(&scratch);
}

static int fill(uint64_t block)
{
	static uint8_t data[BLOCK];
	size_t length;

	return cache_fill(file, data, BLOCK, block * BLOCK, &length);
}

/* --- beside an attached mapping --------------------------------------------------------------------------------- */

START_TEST(nothing_is_cached_of_an_attached_file)
{
	struct process *process;

	ck_assert_int_eq(fill(1), 0);
	ck_assert_int_eq(process_map(file, 1, &process), 0);
	ck_assert_int_eq(fill(1), -EINVAL);
	ck_assert(!blocks_has(&file->blocks, 2, BLOCK_CACHED));
	ck_assert_int_eq(fill(2), -EINVAL);
	ck_assert(!blocks_has(&file->blocks, 2, BLOCK_CACHED));
	ck_assert_int_eq(cache_open_file(file), CACHE_NO);
	process_unmap(process);
	ck_assert_int_eq(fill(2), 0);
}
END_TEST

/* A process that has not come back to a daemon that was restarted holds the arena, and writes to it. */
START_TEST(a_holder_that_is_not_back_counts)
{
	int fd;

	ck_assert_int_eq(mappers_arena_fd(file, true, &fd), 0);
	ck_assert_int_eq(arena_hold(fd, 1), 0);
	ck_assert_int_eq(fill(1), -EINVAL);
	ck_assert_int_eq(cache_open_file(file), CACHE_NO);
	close(fd);
	ck_assert_int_eq(fill(1), 0);
	ck_assert_int_ne(cache_open_file(file), CACHE_NO);
	cache_close_file(file);
}
END_TEST

static unsigned int forgotten;

static void on_forget(void *arg, uint64_t ino)
{
	(void)arg;
	ck_assert_uint_eq(ino, INO);
	/* From here on nothing comes to the cache: what is dropped now stays dropped. */
	ck_assert_int_eq(fill(3), -EINVAL);
	forgotten++;
}

START_TEST(who_attaches_has_the_kernel_forget)
{
	struct process *process;

	forgotten = 0;
	forget_on(engine, on_forget, NULL);
	ck_assert_int_ne(cache_open_file(file), CACHE_NO);
	ck_assert_int_eq(process_map(file, 1, &process), -EBUSY);
	ck_assert_uint_eq(forgotten, 0); /* of a plain mapping it is the content */
	ck_assert_int_eq(fill(3), 0);
	cache_close_file(file);
	ck_assert_int_eq(process_map(file, 1, &process), 0);
	ck_assert_uint_eq(forgotten, 1);
	process_unmap(process);
	forget_on(engine, NULL, NULL);
	ck_assert(forget_wait(engine, 0));
}
END_TEST

static void *close_thread(void *arg)
{
	(void)arg;
	usleep(50 * 1000);
	cache_close_file(file);
	return NULL;
}

/* The kernel tells of a close(2) after it has returned. */
START_TEST(who_attaches_waits_for_a_close_that_is_under_way)
{
	struct process *process;
	pthread_t thread;

	ck_assert_int_ne(cache_open_file(file), CACHE_NO);
	ck_assert_int_eq(pthread_create(&thread, NULL, close_thread, NULL), 0);
	ck_assert_int_eq(process_map(file, 1, &process), 0);
	ck_assert_int_eq(pthread_join(thread, NULL), 0);
	process_unmap(process);
}
END_TEST

static void *unmap_thread(void *arg)
{
	usleep(50 * 1000);
	process_unmap(arg);
	return NULL;
}

/* Of a process that has ended, which is known here later than to who waited for it. */
START_TEST(who_opens_waits_for_an_end_that_is_under_way)
{
	struct process *process;
	pthread_t thread;

	ck_assert_int_eq(process_map(file, 1, &process), 0);
	ck_assert_int_eq(cache_open_file(file), CACHE_NO);
	process_end(process);
	ck_assert_int_eq(pthread_create(&thread, NULL, unmap_thread, process), 0);
	ck_assert_int_ne(cache_open_file(file), CACHE_NO);
	ck_assert_int_eq(pthread_join(thread, NULL), 0);
	cache_close_file(file);
}
END_TEST

static void *close_soon(void *arg)
{
	(void)arg;
	clock_sleep(NS_PER_MS);
	cache_close_file(file);
	return NULL;
}

START_TEST(who_reads_waits_for_a_close_that_is_under_way)
{
	pthread_t closer;
	bool plain;

	ck_assert(!cache_stays_plain(file));
	ck_assert_int_eq(cache_open_file(file), CACHE_KEEP);
	ck_assert(cache_stays_plain(file)); /* nobody closes */
	/* A thread that has the processor too late closes behind the wait: once more, then. */
	do {
		if (!cache_is_plain(file))
			ck_assert_int_ne(cache_open_file(file), CACHE_NO);
		ck_assert_int_eq(pthread_create(&closer, NULL, close_soon, NULL), 0);
		plain = cache_stays_plain(file);
		pthread_join(closer, NULL);
	} while (plain);
	ck_assert(!cache_is_plain(file));
}
END_TEST

static void *fill_thread(void *arg)
{
	*(int *)arg = fill(1);
	return NULL;
}

static pthread_t filler;

/* The kernel waits for the page that is being filled: so it must not wait for us. */
static void wait_for_filler(void *arg, uint64_t ino)
{
	(void)arg;
	(void)ino;
	pthread_join(filler, NULL);
}

static bool somebody_waits(uint64_t block)
{
	LOCK_SCOPE(&file->lock);

	return blocks_has(&file->blocks, block, BLOCK_WAITERS);
}

START_TEST(a_fill_that_waits_is_refused_when_somebody_attaches)
{
	struct process *process;
	int result = 1;

	lock_get(&file->lock);
	blocks_set_state(&file->blocks, 1, BLOCK_UPDATING);
	lock_put(&file->lock);
	ck_assert_int_eq(pthread_create(&filler, NULL, fill_thread, &result), 0);
	while (!somebody_waits(1))
		clock_sleep(NS_PER_MS);
	forget_on(engine, wait_for_filler, NULL);
	ck_assert_int_eq(process_map(file, 1, &process), 0);
	ck_assert_int_eq(result, -EINVAL);
	file_end_update(file, 1, BLOCK_HOLE);
	process_unmap(process);
	forget_on(engine, NULL, NULL);
}
END_TEST

/* --- while a batch is at work ----------------------------------------------------------------------------------- */

static unsigned int reads;

static void read_while_stored(void)
{
	static uint8_t data[2 * BLOCK];
	size_t length;

	ck_assert_int_eq(blocks_state(&file->blocks, 1), BLOCK_STORING);
	ck_assert_int_eq(ramfile_read(file, data, sizeof(data), BLOCK, &length), 0);
	ck_assert_uint_eq(length, sizeof(data));
	for (size_t i = 0; i < sizeof(data); i++)
		ck_assert_int_eq(data[i], i < BLOCK ? 1 : 2);
	reads++;
}

/* The thread that stores may be waiting for a process; the content is in the arena until it is punched. */
START_TEST(a_read_does_not_wait_for_a_block_that_is_stored)
{
	static uint8_t data[BLOCK];
	struct file_done done;

	for (int value = 1; value <= 2; value++) {
		memset(data, value, BLOCK);
		ck_assert_int_eq(ramfile_write(file, data, BLOCK, (uint64_t)value * BLOCK, false), 0);
		ck_assert_int_eq(blocks_state(&file->blocks, (uint64_t)value), BLOCK_RESIDENT);
	}
	reads = 0;
	in_put = read_while_stored;
	ck_assert_int_eq(demand_demote(file, 0, SIZE, NULL, NULL, &done), 0);
	ck_assert_uint_gt(reads, 0);
	ck_assert_uint_eq(done.done_bytes, 2 * BLOCK);
}
END_TEST

/* --- what only the kernel has ----------------------------------------------------------------------------------- */

static uint64_t seek(int whence)
{
	uint64_t found = UINT64_MAX;
	int err = ramfile_seek(file, 0, whence, &found);

	ck_assert(err == 0 || err == -ENXIO);
	return found;
}

static int answer_of(uint64_t block)
{
	struct tierfs_access_record record;

	LOCK_SCOPE(&file->lock);
	access_look(file, block, &record);
	return record.result;
}

START_TEST(a_hole_that_a_plain_mapping_may_have_written_is_data)
{
	static const uint8_t none[BLOCKS];
	uint64_t marks[CACHE_MARKS];

	ck_assert_int_ne(cache_open_file(file), CACHE_NO);
	ck_assert_uint_eq(seek(SEEK_DATA), UINT64_MAX);
	ck_assert_int_eq(fill(2), 0); /* a write to a page that is absent reads it first */
	ck_assert_uint_eq(seek(SEEK_DATA), 2 * BLOCK);
	ck_assert_uint_eq(seek(SEEK_HOLE), 0);
	ck_assert_int_eq(answer_of(2), TIERFS_ACCESS_RESIDENT);
	ck_assert_int_eq(answer_of(3), TIERFS_ACCESS_HOLE);
	cache_marks(file, marks);
	cache_set(file, 0, BLOCKS, none, marks);
	ck_assert_uint_eq(seek(SEEK_DATA), UINT64_MAX);
	cache_close_file(file);
}
END_TEST

START_TEST(after_a_takeover_every_hole_may_be)
{
	struct ramfile_figures figures;

	ck_assert_int_ne(cache_open_file(file), CACHE_NO);
	ramfile_unload(file); /* as it is when the daemon dies: the mark stays */
	ck_assert_int_eq(ramfile_load(engine, INO, SIZE, false, &file), 0);
	ck_assert_int_eq(arena_set_mark(&file->arena, ARENA_MARK_PLAIN, true), 0);
	ck_assert(cache_inherit(file, true));
	ck_assert_uint_eq(seek(SEEK_DATA), 0);
	ck_assert_uint_eq(seek(SEEK_HOLE), SIZE);
	ck_assert_int_eq(answer_of(3), TIERFS_ACCESS_RESIDENT);
	ramfile_figures(file, &figures);
	ck_assert(figures.cache_unknown);
	cache_measured(file);
	ck_assert_uint_eq(seek(SEEK_DATA), UINT64_MAX);
	ck_assert_int_eq(answer_of(3), TIERFS_ACCESS_HOLE);
	cache_close_file(file);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("cache");
	TCase *tests = tcase_create("cache");

	tcase_set_timeout(tests, 30);
	tcase_add_checked_fixture(tests, setup, teardown);
	tcase_add_test(tests, nothing_is_cached_of_an_attached_file);
	tcase_add_test(tests, a_holder_that_is_not_back_counts);
	tcase_add_test(tests, who_attaches_has_the_kernel_forget);
	tcase_add_test(tests, who_attaches_waits_for_a_close_that_is_under_way);
	tcase_add_test(tests, who_reads_waits_for_a_close_that_is_under_way);
	tcase_add_test(tests, who_opens_waits_for_an_end_that_is_under_way);
	tcase_add_test(tests, a_fill_that_waits_is_refused_when_somebody_attaches);
	tcase_add_test(tests, a_read_does_not_wait_for_a_block_that_is_stored);
	tcase_add_test(tests, a_hole_that_a_plain_mapping_may_have_written_is_data);
	tcase_add_test(tests, after_a_takeover_every_hole_may_be);
	suite_add_tcase(suite, tests);
	return check_run(suite);
}
