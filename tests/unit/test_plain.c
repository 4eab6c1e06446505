/* What the engine takes the kernel's cache of a plain mapping to hold, while that is measured. */
#include <check.h>
#include <fcntl.h>
#include <pthread.h>
#include <string.h>
#include <unistd.h>

#include "../lib/lib_scratch.h"
#include "../lib/lib_store_mem.h"
#include "base/clock.h"
#include "engine/cache.h"
#include "engine/engine.h"
#include "engine/file.h"
#include "engine/ramfile.h"
#include "engine/room.h"
#include "policy/demand.h"
#include "policy/tiering.h"
#include "lib_check.h"

#define BLOCK 16384U
#define BLOCKS 8U

static uint64_t cached_bytes(struct ramfile *file)
{
	struct ramfile_figures figures;

	ramfile_figures(file, &figures);
	return figures.cached_bytes;
}

static void fill(struct ramfile *file, uint64_t block)
{
	static uint8_t data[BLOCK];
	size_t length;

	ck_assert_int_eq(cache_fill(file, data, BLOCK, block * BLOCK, &length), 0);
	ck_assert_uint_eq(length, BLOCK);
}

/* A measurement says "not cached" of what the kernel asked for meanwhile, and may have changed by now. */
START_TEST(what_comes_while_it_is_measured_stays_cached)
{
	static const uint8_t none[BLOCKS];
	struct scratch scratch;
	struct engine_config config = {
		.block_bytes = BLOCK, .dram_bytes = BLOCKS * BLOCK, .min_idle_ns = NS_PER_S, .level = 1
	};
	uint64_t marks[CACHE_MARKS];
	struct ramfile *file;
	struct engine *engine;

	scratch_new(&scratch, "plain");
	config.arena_dir = open(scratch.path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	ck_assert_int_eq(store_mem_new(&config.store), 0);
	ck_assert_int_eq(tiering_new(&config, &engine), 0);
	ck_assert_int_eq(ramfile_load(engine, 7, BLOCKS * BLOCK, false, &file), 0);
	fill(file, 1);
	fill(file, 2);
	ck_assert_uint_eq(cached_bytes(file), 2 * BLOCK);

	cache_marks(file, marks);
	fill(file, 2);
	cache_set(file, 0, BLOCKS, none, marks);
	ck_assert_uint_eq(cached_bytes(file), BLOCK);
	ck_assert(blocks_has(&file->blocks, 2, BLOCK_CACHED));
	cache_marks(file, marks);
	cache_set(file, 0, BLOCKS, none, marks);
	ck_assert_uint_eq(cached_bytes(file), 0);

	file_check(file);
	ramfile_unload(file);
	tiering_free(engine);
	config.store->ops->free(config.store);
	close(config.arena_dir);
	scratch_free(&scratch);
}
END_TEST

static void *demote_main(void *arg)
{
	struct file_done done;

	ck_assert_int_eq(demand_demote(arg, 0, UINT64_MAX, NULL, NULL, &done), 0);
	return NULL;
}

static bool is_listed(struct engine *engine, uint64_t ino)
{
	uint64_t listed[4];
	size_t count = room_plain_files(engine, listed, 4);

	for (size_t i = 0; i < count; i++)
		if (listed[i] == ino)
			return true;
	return false;
}

static void begin_demote(struct ramfile *file, pthread_t *ret)
{
	ck_assert_int_eq(pthread_create(ret, NULL, demote_main, file), 0);
	while (!cache_evict_wanted(file))
		clock_sleep(NS_PER_MS);
}

/* Who waits for the evictor is answered: also if nothing is cached any more when another one asks, or when the evictor
 * comes, or cannot get at the file. */
START_TEST(who_waits_for_the_evictor_is_answered)
{
	static const uint8_t none[BLOCKS];
	struct scratch scratch;
	struct engine_config config = {
		.block_bytes = BLOCK, .dram_bytes = BLOCKS * BLOCK, .min_idle_ns = NS_PER_S, .level = 1
	};
	struct file_done done;
	struct ramfile *file;
	struct engine *engine;
	pthread_t thread;

	scratch_new(&scratch, "plain");
	config.arena_dir = open(scratch.path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	ck_assert_int_eq(store_mem_new(&config.store), 0);
	ck_assert_int_eq(tiering_new(&config, &engine), 0);
	ck_assert_int_eq(ramfile_load(engine, 7, BLOCKS * BLOCK, false, &file), 0);
	room_set_evictor(engine, true);

	fill(file, 1);
	begin_demote(file, &thread);
	cache_set(file, 0, BLOCKS, none, NULL);
	ck_assert_int_eq(demand_demote(file, 0, UINT64_MAX, NULL, NULL, &done), 0);
	ck_assert(cache_evict_wanted(file));
	ck_assert(is_listed(engine, 7));
	cache_evicted(file);
	ck_assert_int_eq(pthread_join(thread, NULL), 0);
	ck_assert(!is_listed(engine, 7));

	fill(file, 1);
	begin_demote(file, &thread);
	cache_evict_failed(engine, 8);
	ck_assert(cache_evict_wanted(file));
	cache_evict_failed(engine, 7);
	ck_assert(!cache_evict_wanted(file));
	ck_assert_int_eq(pthread_join(thread, NULL), 0);

	cache_set(file, 0, BLOCKS, none, NULL);
	room_set_evictor(engine, false);
	ramfile_unload(file);
	tiering_free(engine);
	config.store->ops->free(config.store);
	close(config.arena_dir);
	scratch_free(&scratch);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("plain");
	TCase *tests = tcase_create("plain");

	tcase_add_test(tests, what_comes_while_it_is_measured_stays_cached);
	tcase_set_timeout(tests, 25); /* less than the evictor is waited for */
	tcase_add_test(tests, who_waits_for_the_evictor_is_answered);
	suite_add_tcase(suite, tests);
	return check_run(suite);
}
