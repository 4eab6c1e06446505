/* Fail the Nth call, for every function of the engine: of allocations and system calls (lib_fail), of store calls, of
 * calls into the processes that map the file. N goes up until nothing is failed any more. Each time
 *
 *   - table, arena and budget agree, and no change, batch or passing state is left open;
 *   - work buffers, descriptors and memory are as before;
 *   - each page is old or new; what a kill leaves now is read the same by a new engine;
 *   - the same call, made once more, does what it is for.
 *
 * The file has a block of each kind (see block kinds below). Prints how many points were failed in each function.
 */
/* timeout: 600 */
/* link: @tests/lib/lib_fail.flags */
#include <check.h>
#include <errno.h>
#include <fcntl.h>
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
#include "engine/away.h"
#include "engine/cache.h"
#include "engine/clone.h"
#include "engine/demote.h"
#include "engine/engine.h"
#include "engine/fault.h"
#include "engine/file.h"
#include "engine/load.h"
#include "engine/ramfile.h"
#include "engine/read.h"
#include "engine/resize.h"
#include "engine/work.h"
#include "engine/write.h"
#include "policy/demand.h"
#include "policy/demoter.h"
#include "policy/scan.h"
#include "policy/tiering.h"
#include "lib/lib_ident.h"
#include "lib_check.h"

#define INO 7
#define CLONE 8
#define BLOCK 16384U
#define PAGE 4096U
#define BLOCKS 18U
#define SIZE ((uint64_t)BLOCKS * BLOCK)
#define SIZE_MAX_BYTES (2 * SIZE)

/* What the file has, by block. */
enum {
	HOLE,
	COLD,
	HOT,      /* resident, never stored */
	CLEAN,    /* resident, and stored */
	PARTIAL,  /* resident in part, the rest is in the stored copy */
	ZEROS,    /* resident, all zero, stored before it was */
	PATTERN,  /* cold, of one pattern */
	KEY_LEFT, /* a hole, with a key of a write that failed */
	THIN,     /* resident, some of its pages were discarded */
	PINNED,
	COLD_2,
	COLD_3, /* a run of cold blocks, from COLD_2 on */
	COLD_4,
	HOLE_2,
	HOLE_3,
	HOT_2,
	HOT_3,
	LAST, /* cold */
};

static struct scratch scratch;
static int arena_dir;
static struct store *store;
static struct engine *engine;
static struct ramfile *file;
static struct process *process; /* NULL: nobody maps the file */
static bool mapped, caches;
static uint8_t before[SIZE_MAX_BYTES], wanted[SIZE_MAX_BYTES], got[SIZE_MAX_BYTES];
static uint64_t size_before, size_wanted;
static uint8_t data[SIZE_MAX_BYTES], memory[1 << 20] __attribute__((aligned(64)));

/* --- a world with a file in it
 * ---------------------------------------------------------------------------------------- */

static void content(uint8_t *at, uint64_t length, uint8_t which)
{
	for (uint64_t i = 0; i < length; i++)
		at[i] = (uint8_t)(i / 64 * 7 + which + i % 13);
}

static void put(uint64_t block, uint8_t which, bool direct)
{
	content(before + block * BLOCK, BLOCK, which);
	ck_assert_int_eq(ramfile_write(file, before + block * BLOCK, BLOCK, block * BLOCK, direct), 0);
}

static void promote(uint64_t block)
{
	struct file_done done;

	ck_assert_int_eq(load_promote(file, block * BLOCK, BLOCK, NULL, NULL, &done), 0);
	ck_assert_uint_eq(done.done_bytes, BLOCK);
}

static void leave_key(uint64_t block)
{
	size_t length;

	content(data, BLOCK, 99);
	store_mem_tear_puts(store, 1);
	do {
		store_mem_fail_nth(store, STORE_MEM_PUT, 1, EIO);
		store_mem_fail_nth(store, STORE_MEM_REMOVE, 1, EIO);
		ck_assert_int_eq(ramfile_write(file, data, BLOCK, block * BLOCK, true), -EIO);
	} while (store->ops->get(store, STORE_GUEST, (struct store_key){ INO, block }, got, sizeof(got), &length));
	store_mem_tear_puts(store, 0);
	store_mem_fail_nth(store, STORE_MEM_REMOVE, 0, 0);
}

static void new_tier(struct engine **ret)
{
	struct engine_config config = {
		.store = store, .arena_dir = arena_dir, .block_bytes = BLOCK, .dram_bytes = 16 * SIZE, .level = 1
	};

	ck_assert_int_eq(tiering_new(&config, ret), 0);
}

static void fill_file(void)
{
	memset(before, 0, sizeof(before));
	put(COLD, 1, true);
	put(HOT, 2, false);
	put(CLEAN, 3, true);
	promote(CLEAN);
	put(PARTIAL, 4, true);
	content(before + PARTIAL * BLOCK, PAGE, 5);
	ck_assert_int_eq(cache_write_back(file, before + PARTIAL * BLOCK, PAGE, PARTIAL * BLOCK), 0);
	put(ZEROS, 6, true);
	promote(ZEROS);
	memset(before + ZEROS * BLOCK, 0, BLOCK);
	ck_assert_int_eq(ramfile_write(file, before + ZEROS * BLOCK, BLOCK, ZEROS * BLOCK, false), 0);
	memset(before + PATTERN * BLOCK, 0x5a, BLOCK);
	ck_assert_int_eq(ramfile_write(file, before + PATTERN * BLOCK, BLOCK, PATTERN * BLOCK, true), 0);
	put(THIN, 7, false);
	memset(before + THIN * BLOCK + PAGE, 0, PAGE);
	ck_assert_int_eq(ramfile_discard(file, THIN * BLOCK + PAGE, PAGE), 0);
	put(PINNED, 8, false);
	ck_assert_int_eq(ramfile_pin(file, PINNED * BLOCK, BLOCK, true), 0);
	for (uint64_t block = COLD_2; block <= COLD_4; block++)
		put(block, (uint8_t)(10 + block), true);
	put(HOT_2, 30, false);
	put(HOT_3, 31, false);
	put(LAST, 32, true);
	leave_key(KEY_LEFT);
	/* The one page that was written back is not in the kernel's cache, unless the test says so. */
	for (uint64_t block = 0; block < BLOCKS && !caches; block++)
		cache_set(file, block, 1, &(uint8_t){ 0 }, NULL);
}

static void world_new(void)
{
	scratch_new(&scratch, "fail");
	arena_dir = open(scratch.path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	ck_assert_int_eq(store_mem_new(&store), 0);
	new_tier(&engine);
	ck_assert_int_eq(ramfile_load(engine, INO, SIZE, false, &file), 0);
	process = NULL;
	if (caches)
		ck_assert_int_ne(cache_open_file(file), CACHE_NO);
	fill_file();
	size_before = size_wanted = SIZE;
	memcpy(wanted, before, sizeof(wanted));
	if (!mapped)
		return;
	ck_assert_int_eq(process_map(file, 1, &process), 0);
	/* The process has touched what is resident, and has been zapped since. */
	ck_assert(process_touch(process, HOT * BLOCK, got, 8, false));
}

static void world_free(void)
{
	process_unmap(process);
	if (file && caches)
		cache_close_file(file);
	if (file)
		file_check_idle(file);
	ramfile_unload(file);
	file = NULL;
	ck_assert_uint_eq(budget_used(engine_budget(engine)), 0);
	tiering_free(engine);
	store->ops->free(store);
	close(arena_dir);
	scratch_free(&scratch);
}

/* --- what must hold
 * ----------------------------------------------------------------------------------------------------- */

static void read_all(struct ramfile *of, uint8_t *to)
{
	size_t length = 0;

	memset(to, 0, SIZE_MAX_BYTES);
	ck_assert_int_eq(ramfile_read(of, to, SIZE_MAX_BYTES, 0, &length), 0);
	ck_assert_uint_eq(length, file_size(of));
}

/* Buffers have to be made anew. */
static void drain_works(void)
{
	work_pool_fini(engine_works(engine));
	work_pool_init(engine_works(engine), BLOCK, 1, (const uint8_t[MAC_KEY_BYTES]){ 0 });
}

static unsigned int works_idle(void)
{
	unsigned int idle = 0;

	for (struct work *work = engine_works(engine)->idle; work; work = work->next)
		idle++;
	return idle;
}

/* A hole whose key could not be removed: what a write that failed has put there may be found then. */
static bool may_be_written(uint64_t block)
{
	LOCK_SCOPE(&file->lock);

	return block < file->blocks.count && blocks_state(&file->blocks, block) == BLOCK_HOLE &&
	       blocks_has(&file->blocks, block, BLOCK_STORED);
}

/* What a kill would leave now. The old engine goes on afterwards. */
static void check_restart(const char *what)
{
	static uint8_t again[SIZE_MAX_BYTES];
	struct ramfile *other;
	struct engine *next;

	new_tier(&next);
	ck_assert_int_eq(ramfile_load(next, INO, file_size(file), false, &other), 0);
	file_check(other);
	read_all(other, again);
	for (uint64_t page = 0; page < SIZE_MAX_BYTES / PAGE; page++)
		ck_assert_msg(may_be_written(page / 4) || !memcmp(again + page * PAGE, got + page * PAGE, PAGE),
			      "%s: page %u of block %u is another one after a kill", what, (unsigned int)(page % 4),
			      (unsigned int)(page / 4));
	close(other->arena.fd);
	other->arena.fd = -1;
	ramfile_unload(other);
	tiering_free(next);
}

static void check_content(const char *what, bool done)
{
	uint64_t size = file_size(file);

	ck_assert_msg(size == size_wanted || (!done && size == size_before), "%s: size %llu", what,
		      (unsigned long long)size);
	read_all(file, got);
	for (uint64_t page = 0; page < size / PAGE; page++) {
		bool is_old = !memcmp(got + page * PAGE, before + page * PAGE, PAGE);
		bool is_new = !memcmp(got + page * PAGE, wanted + page * PAGE, PAGE);

		ck_assert_msg(is_new || (!done && is_old), "%s: page %u of block %u is %s", what,
			      (unsigned int)(page % 4), (unsigned int)(page / 4),
			      is_old ? "old" : "neither old nor new");
	}
}

static void check_world(const char *what, bool done)
{
	file_check_idle(file);
	ck_assert_msg(works_idle() == engine_works(engine)->made, "%s: a work buffer is lost", what);
	ck_assert_msg(budget_used(engine_budget(engine)) ==
			      (atomic_load(&file->dram_blocks) + file->blocks.cached) * BLOCK,
		      "%s: the budget is not what the file has", what);
	check_content(what, done);
	check_restart(what);
}

/* --- failing
 * --------------------------------------------------------------------------------------------------------------- */

struct function {
	const char *name;
	void (*expect)(void); /* makes wanted of before; NULL: nothing changes */
	int (*call)(void);    /* 0, or what it failed with */
	bool mapped, caches;
	bool again_fails; /* what is done once cannot be done again */
};

enum way { BY_CALLS, BY_STORE, BY_STORE_TORN, BY_PROCESS, WAYS };

static const char *const WAY_NAMES[WAYS] = { "calls", "store", "torn puts", "process" };

static void arm(enum way way, unsigned int nth)
{
	switch (way) {
	case BY_CALLS:
		fail_arm(FAIL_ANY, nth);
		break;
	case BY_STORE:
	case BY_STORE_TORN:
		store_mem_tear_puts(store, way == BY_STORE_TORN ? nth : 0);
		store_mem_fail_nth(store, STORE_MEM_CALLS, nth, nth % 2 ? EIO : ENOSPC);
		break;
	case BY_PROCESS:
		process_fail_call(process, PROCESS_CALLS, nth);
		break;
	case WAYS:
		break;
	}
}

/* True if something was failed. */
static bool disarm(enum way way, unsigned int nth, uint64_t store_calls, uint64_t process_calls_before)
{
	switch (way) {
	case BY_CALLS:
		return fail_disarm();
	case BY_STORE:
	case BY_STORE_TORN:
		store_mem_tear_puts(store, 0);
		store_mem_fail_nth(store, STORE_MEM_CALLS, 0, 0);
		return store_mem_calls(store, STORE_MEM_CALLS) >= store_calls + nth;
	case BY_PROCESS:
		process_fail_call(process, PROCESS_CALLS, 0);
		return process_calls(process) >= process_calls_before + nth;
	case WAYS:
		break;
	}
	return false;
}

/* One point. Returns false when there are no more of them. */
static bool fail_one(const struct function *function, enum way way, unsigned int nth)
{
	char what[160];
	unsigned int descriptors;
	uint64_t store_calls, process_calls_before;
	bool hit;
	int err;

	nth = fail_point(nth);
	mapped = function->mapped;
	caches = function->caches;
	fail_memory_begin();
	world_new();
	if (function->expect)
		function->expect();
	drain_works();
	descriptors = fail_descriptors();
	store_calls = store_mem_calls(store, STORE_MEM_CALLS);
	process_calls_before = process ? process_calls(process) : 0;
	arm(way, nth);
	err = function->call();
	hit = disarm(way, nth, store_calls, process_calls_before);
	snprintf(what, sizeof(what), "%s, %s %u %s: %s", function->name, WAY_NAMES[way], nth,
		 way == BY_CALLS ? fail_what() : "", strerror(-err));
	ck_assert_msg(hit || !err, "%s, and nothing was failed", what);
	check_world(what, !err);
	if (err || !function->again_fails) {
		if (process)
			process_map_anew(process); /* what is poisoned stays so, as nothing is tried again here */
		err = function->call();
		ck_assert_msg(!err, "%s: once more: %s", what, strerror(-err));
		check_world(what, true);
	}
	ck_assert_msg(fail_descriptors() == descriptors, "%s: descriptors: %u, before %u", what, fail_descriptors(),
		      descriptors);
	world_free();
	ck_assert_msg(fail_memory_left(0) == 0, "%s: memory is left", what);
	fail_memory_end();
	return hit;
}

static void fail_all(const struct function *function)
{
	unsigned int points[WAYS] = { 0 };

	for (enum way way = 0; way < WAYS; way++) {
		if (way == BY_PROCESS && !function->mapped)
			continue;
		while (fail_one(function, way, points[way] + 1))
			points[way]++;
	}
	printf("%-28s %4u calls, %3u store calls (%u torn), %3u calls of the process\n", function->name,
	       points[BY_CALLS], points[BY_STORE], points[BY_STORE_TORN], points[BY_PROCESS]);
	fflush(stdout);
}

/* --- the functions
 * ---------------------------------------------------------------------------------------------------------- */

static void expect_write(uint64_t offset, uint64_t length, uint8_t which)
{
	content(data, length, which);
	memcpy(wanted + offset, data, length);
}

#define PART_AT (100U)
#define PART_LENGTH (SIZE - 300U)

static void expect_part(void)
{
	expect_write(PART_AT, PART_LENGTH, 50);
}

static int write_buffered(void)
{
	return ramfile_write(file, data, PART_LENGTH, PART_AT, false);
}

/* Whole blocks, of zeros too. */
static void expect_whole(void)
{
	content(data, SIZE, 60);
	for (uint64_t block = 0; block < BLOCKS; block += 3)
		memset(data + block * BLOCK, 0, BLOCK);
	memcpy(wanted, data, SIZE);
}

static int write_direct(void)
{
	return ramfile_write(file, data, SIZE, 0, true);
}

static void expect_pages(void)
{
	expect_write(PAGE, SIZE - 2 * PAGE, 61);
}

static int write_direct_pages(void)
{
	return ramfile_write(file, data, SIZE - 2 * PAGE, PAGE, true);
}

static int write_back(void)
{
	return cache_write_back(file, data, SIZE - 2 * PAGE, PAGE);
}

static int read_whole(void)
{
	size_t length;
	int err = ramfile_read(file, got, SIZE, 0, &length);

	return err ? err : length == SIZE ? 0 : -ERANGE;
}

static int fill_cache(void)
{
	size_t length;

	return cache_fill(file, got, SIZE, 0, &length);
}

static int seek_all(void)
{
	uint64_t at = 0;
	int err = 0;

	for (int whence = SEEK_DATA; !err && at < SIZE; whence = whence == SEEK_DATA ? SEEK_HOLE : SEEK_DATA)
		err = ramfile_seek(file, at, whence, &at);
	return err;
}

static void expect_discard_all(void)
{
	memset(wanted, 0, SIZE);
}

static int discard_all(void)
{
	return ramfile_discard(file, 0, SIZE);
}

static void expect_discard_pages(void)
{
	for (uint64_t block = 0; block < BLOCKS; block++)
		memset(wanted + block * BLOCK + PAGE, 0, PAGE + 100);
}

static int discard_pages(void)
{
	int err = 0;

	for (uint64_t block = 0; !err && block < BLOCKS; block++)
		err = ramfile_discard(file, block * BLOCK + PAGE, PAGE + 100);
	return err;
}

static void expect_grow(void)
{
	size_wanted = SIZE + BLOCK + PAGE;
}

static int resize(void)
{
	return ramfile_truncate(file, size_wanted);
}

static void expect_shrink(void)
{
	size_wanted = 5 * BLOCK + PAGE;
	memset(wanted + size_wanted, 0, SIZE - size_wanted);
}

static void expect_empty(void)
{
	size_wanted = 0;
	memset(wanted, 0, SIZE);
}

static int sync_file(void)
{
	bool clean;
	int err = ramfile_sync(file);

	return err ? err : ramfile_is_clean(file, &clean);
}

static int demote_all(void)
{
	struct file_done done;

	return demand_demote(file, 0, SIZE, NULL, NULL, &done);
}

static int demote_some(void)
{
	static const uint32_t block[] = { HOT, CLEAN, PARTIAL, ZEROS, THIN, HOT_2, HOT_3 };
	struct demote_result result;

	return demote_blocks(file, block, sizeof(block) / sizeof(*block), true, &result);
}

static int demote_staged(void)
{
	return demand_demote_staged(file);
}

static int promote_all(void)
{
	struct file_done done;

	return load_promote(file, 0, SIZE, NULL, NULL, &done);
}

static int clone_all(void)
{
	struct ramfile_cloned cloned;
	struct ramfile *to = NULL;
	int err = store->ops->remove(store, CLONE, 0, UINT64_MAX);

	if (!err)
		err = ramfile_clone(file, CLONE, NULL, NULL, &cloned);
	if (!err)
		err = ramfile_load(engine, CLONE, 0, false, &to);
	if (!err)
		err = ramfile_adopt(to, cloned.size_bytes);
	if (!err) {
		size_t length;

		err = ramfile_read(to, got, SIZE, 0, &length);
		if (!err && memcmp(got, before, SIZE))
			err = -EBADMSG;
	}
	if (to) {
		int destroy_err = ramfile_destroy(to);

		err = err ? err : destroy_err;
	}
	return err;
}

static int count_run(void *arg, const struct ramfile_run *run)
{
	*(uint64_t *)arg += run->length;
	return 0;
}

static int describe(void)
{
	struct ramfile_figures figures;
	struct tiering_figures all;
	uint64_t bytes = 0;
	int err = ramfile_map(file, 0, SIZE, count_run, &bytes);

	ramfile_figures(file, &figures);
	tiering_figures(engine, &all);
	ramfile_shared_bytes(file);
	return err ? err : bytes == SIZE ? 0 : -ERANGE;
}

static int pick_cached(void)
{
	struct cache_range range[8];
	uint64_t marks[CACHE_MARKS];

	cache_marks(file, marks);
	cache_pick(file, 0, SIZE, SIZE, range, 8);
	return cache_is_plain(file) ? 0 : -EINVAL;
}

static int open_cached(void)
{
	if (cache_open_file(file) == CACHE_NO)
		return -EBUSY;
	cache_close_file(file);
	cache_inherit(file, false);
	return 0;
}

static int attach(void)
{
	struct process *other;
	int err = process_map(file, 9, &other);

	if (!err)
		process_unmap(other);
	return err;
}

/* Every page of the file is touched: holes, cold blocks, absent pages of resident ones. A toucher that waits is let go
 * by whoever woke it, and touches again. */
static int touch_pages(bool write)
{
	uint8_t byte;

	for (uint64_t at = 0; at < SIZE; at += PAGE) {
		bool done = false;

		for (int tries = 0; !done && tries < 8; tries++) {
			byte = before[at];
			done = process_touch(process, at, &byte, 1, write);
			if (done && process_poisoned(process))
				return -EIO;
		}
		if (!done)
			return -EDEADLK; /* nothing would let it go */
		if (!write && byte != before[at])
			return -EBADMSG;
	}
	return 0;
}

static int fault_all(void)
{
	return touch_pages(false);
}

static int fault_for_write(void)
{
	struct demote_result result;
	static const uint32_t block[] = { HOT, HOT_2 };
	int err = demote_blocks(file, block, 2, false, &result);
	int touch_err = touch_pages(true);

	return touch_err ? touch_err : err;
}

/* There is no room: the fault is parked, and taken up again when there is. */
static int fault_without_room(void)
{
	uint64_t used = 16 * SIZE - budget_used(engine_budget(engine));
	bool done;
	uint8_t byte;

	budget_force(engine_budget(engine), used);
	done = process_touch(process, COLD * BLOCK, &byte, 1, false);
	budget_release(engine_budget(engine), used);
	while (fault_resume(engine))
		;
	/* If it could not even be parked it was woken, and comes again. */
	for (int tries = 0; !done && tries < 2; tries++)
		done = process_touch(process, COLD * BLOCK, &byte, 1, false);
	return !done ? -EDEADLK : process_poisoned(process) ? -EIO : byte == before[COLD * BLOCK] ? 0 : -EBADMSG;
}

/* Two rounds of scanning, and what the demoter makes of a budget that is used. */
static int turn_demoter(void)
{
	uint64_t limit = atomic_load(&engine->budget.limit_bytes);

	atomic_store(&engine->budget.limit_bytes, 8 * BLOCK);
	for (int i = 0; process && i < 6; i++) { /* two generations, if all is zapped and looked at */
		static const struct scan_pace pace = { .quick_ns = 1, .slow_ns = 1, .hurry = true, .wanted = true };

		scan_step(file, clock_ns(), &pace);
		process_run_agent(process);
	}
	engine->demoter->reclaim.retry_ns = engine->demoter->reclaim.rest_until_ns = 0;
	file->rounds.out_until_ns = 0;
	demoter_step(engine);
	atomic_store(&engine->budget.limit_bytes, limit);
	return 0; /* it answers to nobody */
}

/* --- access by blocks
 * ----------------------------------------------------------------------------------------------------- */

static struct access_buffer buffer_of(size_t records)
{
	return (struct access_buffer){ .base = memory,
				       .bytes = sizeof(memory),
				       .payload_at = 65536,
				       .payload_bytes = sizeof(memory) - 65536,
				       .record = (struct tierfs_access_record *)memory,
				       .records = records };
}

static int worst(const struct access_buffer *buffer, size_t records)
{
	for (size_t i = 0; i < records; i++)
		if (buffer->record[i].result == TIERFS_ACCESS_ERROR)
			return -buffer->record[i].error;
	return 0;
}

static int read_where_it_is(void)
{
	struct access_buffer buffer = buffer_of(64);
	uint64_t next;
	size_t records;
	int err = access_read(file, TIERFS_ACCESS_ALSO_RESIDENT | TIERFS_ACCESS_STORED | TIERFS_ACCESS_QUICK, 0, BLOCKS,
			      &buffer, &records, &next);

	return err ? err : worst(&buffer, records);
}

static int read_list(void)
{
	struct access_buffer buffer = buffer_of(BLOCKS);
	int err;

	memset(memory, 0, BLOCKS * sizeof(*buffer.record));
	for (size_t i = 0; i < BLOCKS; i++)
		buffer.record[i].block = i;
	err = access_read_list(file, TIERFS_ACCESS_ALSO_RESIDENT | TIERFS_ACCESS_COMPARE, &buffer);
	return err ? err : worst(&buffer, BLOCKS);
}

/* The whole file, as plain blocks, into DRAM where there was none. */
static int write_where_it_is(uint8_t flags)
{
	struct access_buffer buffer = buffer_of(BLOCKS);
	int err;

	memset(memory, 0, BLOCKS * sizeof(*buffer.record));
	memcpy(memory + 65536, data, SIZE);
	for (uint32_t i = 0; i < BLOCKS; i++)
		buffer.record[i] = (struct tierfs_access_record){ .block = i,
								  .count = 1,
								  .form = TIERFS_FORM_PLAIN,
								  .payload_at = 65536 + i * BLOCK,
								  .payload_bytes = BLOCK,
								  .flags = flags };
	err = access_write(file, 0, &buffer);
	return err ? err : worst(&buffer, BLOCKS);
}

static int write_in_place(void)
{
	return write_where_it_is(TIERFS_BLOCK_IN_PLACE);
}

static int write_to_dram(void)
{
	return write_where_it_is(TIERFS_BLOCK_IN_PLACE | TIERFS_BLOCK_TO_DRAM);
}

static struct tierfs_ident away_ident;

static void expect_away(void)
{
	away_ident = ident_of(before + COLD_2 * BLOCK, BLOCK);
}

/* Cold blocks go away and come back, as at the end of a move. */
static int away_and_back(void)
{
	struct access_buffer buffer = buffer_of(1);
	int err;

	for (int step = 0; step < 2; step++) {
		buffer.record[0] = (struct tierfs_access_record){ .block = COLD_2, .count = 1 };
		buffer.record[0].form = step ? TIERFS_FORM_PLAIN : TIERFS_FORM_AWAY;
		buffer.record[0].flags = step ? TIERFS_BLOCK_AWAY : 0;
		buffer.record[0].payload_at = 65536;
		buffer.record[0].payload_bytes = step ? BLOCK : 0;
		memcpy(memory + 65536, before + COLD_2 * BLOCK, BLOCK);
		buffer.record[0].ident = away_ident;
		err = access_write(file, 0, &buffer);
		if (!err)
			err = worst(&buffer, 1);
		/* Who reads it waits for it: it has to come. */
		for (int tries = 0; step && err && tries < 3; tries++) {
			buffer.record[0] = (struct tierfs_access_record){ .block = COLD_2,
									  .count = 1,
									  .form = TIERFS_FORM_PLAIN,
									  .payload_at = 65536,
									  .payload_bytes = BLOCK,
									  .ident = away_ident,
									  .flags = TIERFS_BLOCK_AWAY };
			err = access_write(file, 0, &buffer);
			if (!err)
				err = worst(&buffer, 1);
		}
		if (err)
			return err;
	}
	return 0;
}

static int set_ages(void)
{
	struct access_buffer buffer = buffer_of(BLOCKS);
	struct tierfs_access_ages ages;
	int err;

	memset(memory, 0, BLOCKS * sizeof(*buffer.record));
	for (size_t i = 0; i < BLOCKS; i++)
		buffer.record[i] = (struct tierfs_access_record){ .block = i, .count = 1, .generation = 5, .tier = 1 };
	access_ages(file, &ages);
	err = access_set(file, 0, &buffer);
	return err ? err : worst(&buffer, BLOCKS);
}

static const struct function FUNCTIONS[] = {
	{ "ramfile_read", NULL, read_whole, .mapped = false },
	{ "ramfile_read, mapped", NULL, read_whole, .mapped = true },
	{ "cache_fill", NULL, fill_cache, .caches = true },
	{ "ramfile_write", expect_part, write_buffered, .mapped = false },
	{ "ramfile_write, mapped", expect_part, write_buffered, .mapped = true },
	{ "ramfile_write, direct", expect_whole, write_direct, .mapped = false },
	{ "ramfile_write, direct, mapped", expect_whole, write_direct, .mapped = true },
	{ "ramfile_write, direct, parts", expect_pages, write_direct_pages, .mapped = false },
	{ "cache_write_back", expect_pages, write_back, .caches = true },
	{ "ramfile_discard", expect_discard_all, discard_all, .mapped = true },
	{ "ramfile_discard, pages", expect_discard_pages, discard_pages, .mapped = true },
	{ "ramfile_truncate, longer", expect_grow, resize, .mapped = false },
	{ "ramfile_truncate, shorter", expect_shrink, resize, .mapped = false },
	{ "ramfile_truncate, to nothing", expect_empty, resize, .caches = true },
	{ "ramfile_seek", NULL, seek_all, .mapped = false },
	{ "ramfile_sync", NULL, sync_file, .mapped = false },
	{ "demand_demote", NULL, demote_all, .mapped = false },
	{ "demote_blocks", NULL, demote_some, .mapped = false },
	{ "demote_blocks, mapped", NULL, demote_some, .mapped = true },
	{ "demand_demote_staged", NULL, demote_staged, .caches = true },
	{ "load_promote", NULL, promote_all, .mapped = false },
	{ "ramfile_clone, ramfile_adopt", NULL, clone_all, .mapped = false },
	{ "ramfile_clone, mapped", NULL, clone_all, .mapped = true },
	{ "ramfile_map, ramfile_figures", NULL, describe, .mapped = false },
	{ "cache_pick", NULL, pick_cached, .caches = true },
	{ "cache_open_file", NULL, open_cached, .mapped = false },
	{ "attach_add", NULL, attach, .mapped = false },
	{ "attach_add, a second", NULL, attach, .mapped = true },
	{ "fault_serve", NULL, fault_all, .mapped = true },
	{ "fault_serve, protected", NULL, fault_for_write, .mapped = true },
	{ "fault_serve, no room", NULL, fault_without_room, .mapped = true },
	{ "demoter_step", NULL, turn_demoter, .mapped = false },
	{ "demoter_step, mapped", NULL, turn_demoter, .mapped = true },
	{ "access_read", NULL, read_where_it_is, .mapped = false },
	{ "access_read_list", NULL, read_list, .mapped = false },
	{ "access_write", expect_whole, write_in_place, .mapped = true },
	{ "access_write, to DRAM", expect_whole, write_to_dram, .mapped = true },
	{ "access_write, away", expect_away, away_and_back, .mapped = false },
	{ "access_set, access_ages", NULL, set_ages, .mapped = false },
};

START_TEST(fails_at_every_point)
{
	fail_all(&FUNCTIONS[_i]);
}
END_TEST

/* --- life
 * ------------------------------------------------------------------------------------------------------------------ */

/* What was there before is there after each attempt. */
START_TEST(a_load_fails_at_every_point)
{
	unsigned int points[2] = { 0 };

	mapped = caches = false;
	world_new();
	read_all(file, got);
	for (int by_store = 0; by_store < 2; by_store++) {
		for (bool hit = true; hit; points[by_store] += hit) {
			unsigned int nth = points[by_store] + 1, descriptors = fail_descriptors();
			uint64_t calls = store_mem_calls(store, STORE_MEM_CALLS);
			struct ramfile *other = NULL;
			struct engine *next;
			int err;

			new_tier(&next);
			if (by_store)
				store_mem_fail_nth(store, STORE_MEM_CALLS, nth, EIO);
			else
				fail_arm(FAIL_ANY, nth);
			err = ramfile_load(next, INO, SIZE, false, &other);
			hit = by_store ? store_mem_calls(store, STORE_MEM_CALLS) >= calls + nth : fail_disarm();
			store_mem_fail_nth(store, STORE_MEM_CALLS, 0, 0);
			if (!err) {
				close(other->arena.fd);
				other->arena.fd = -1;
				ramfile_unload(other);
			}
			ck_assert_uint_eq(budget_used(engine_budget(next)), 0);
			ck_assert_uint_eq(fail_descriptors(), descriptors);
			tiering_free(next);
			check_restart("ramfile_load");
		}
	}
	printf("%-28s %4u calls, %3u store calls\n", "ramfile_load", points[0], points[1]);
	fflush(stdout);
	world_free();
}
END_TEST

START_TEST(a_removal_fails_at_every_point)
{
	unsigned int points[2] = { 0 };

	mapped = caches = false;
	for (int by_store = 0; by_store < 2; by_store++) {
		for (bool hit = true; hit; points[by_store] += hit) {
			unsigned int nth = points[by_store] + 1;
			uint64_t calls;
			int err;

			fail_memory_begin();
			world_new();
			calls = store_mem_calls(store, STORE_MEM_CALLS);
			if (by_store)
				store_mem_fail_nth(store, STORE_MEM_CALLS, nth, EIO);
			else
				fail_arm(FAIL_ANY, nth);
			err = ramfile_destroy(file);
			hit = by_store ? store_mem_calls(store, STORE_MEM_CALLS) >= calls + nth : fail_disarm();
			store_mem_fail_nth(store, STORE_MEM_CALLS, 0, 0);
			file = NULL;
			if (err) { /* what is left is removed by who loads it as if it had nothing */
				ck_assert(hit);
				ck_assert_int_eq(ramfile_load(engine, INO, 0, true, &file), 0);
				ck_assert_int_eq(ramfile_destroy(file), 0);
				file = NULL;
			}
			ck_assert_uint_eq(store_mem_count(store, INO), 0);
			ck_assert_int_ne(faccessat(arena_dir, "7", F_OK, 0), 0);
			world_free();
			ck_assert_uint_eq(fail_memory_left(0), 0);
			fail_memory_end();
		}
	}
	printf("%-28s %4u calls, %3u store calls\n", "ramfile_destroy", points[0], points[1]);
	fflush(stdout);
}
END_TEST

/* Threads of the demoter, of helpers and of read-ahead come with it. */
START_TEST(an_engine_fails_to_start_at_every_point)
{
	unsigned int points = 0;

	ck_assert_int_eq(store_mem_new(&store), 0);
	for (bool hit = true; hit; points += hit) {
		struct engine_config config = { .store = store,
						.arena_dir = -1,
						.block_bytes = BLOCK,
						.dram_bytes = 16 * SIZE,
						.level = 1,
						.run_demoter = true };
		int err;

		fail_memory_begin();
		fail_arm(FAIL_ANY, points + 1);
		err = tiering_new(&config, &engine);
		hit = fail_disarm();
		ck_assert_int_eq(err != 0, hit);
		if (!err)
			tiering_free(engine);
		ck_assert_uint_eq(fail_memory_left(0), 0);
		fail_memory_end();
	}
	ck_assert_uint_ge(points, 4);
	printf("%-28s %4u calls\n", "tiering_new", points);
	fflush(stdout);
	store->ops->free(store);
}
END_TEST

static Suite *fail_suite(void)
{
	Suite *suite = suite_create("the engine, failing at every point");
	TCase *tcase = tcase_create("functions"), *life = tcase_create("life");

	tcase_set_timeout(tcase, 300);
	tcase_add_loop_test(tcase, fails_at_every_point, 0, (int)(sizeof(FUNCTIONS) / sizeof(*FUNCTIONS)));
	suite_add_tcase(suite, tcase);
	tcase_set_timeout(life, 300);
	tcase_add_test(life, a_load_fails_at_every_point);
	tcase_add_test(life, a_removal_fails_at_every_point);
	tcase_add_test(life, an_engine_fails_to_start_at_every_point);
	suite_add_tcase(suite, life);
	return suite;
}

int main(void)
{
	return check_run(fail_suite());
}
