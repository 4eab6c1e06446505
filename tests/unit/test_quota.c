/* What a tenant may have of the store, and write to it in a day: what is refused, what stays in DRAM, and that nobody
 * else notices. The engine is real, the process, the store and the clock of the day are simulated. */
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../lib/lib_process.h"
#include "../lib/lib_scratch.h"
#include "../lib/lib_store_mem.h"
#include "base/clock.h"
#include "engine/cache.h"
#include "engine/claim.h"
#include "engine/clone.h"
#include "engine/demote.h"
#include "engine/engine.h"
#include "engine/fault.h"
#include "engine/file.h"
#include "engine/load.h"
#include "engine/quota.h"
#include "engine/ramfile.h"
#include "engine/read.h"
#include "engine/resize.h"
#include "engine/room.h"
#include "engine/write.h"
#include "engine/write_run.h"
#include "policy/choice.h"
#include "policy/demand.h"
#include "policy/demoter.h"
#include "policy/reclaim.h"
#include "policy/tiering.h"
#include "lib_check.h"

#define BLOCK 16384U
#define BUDGET_BLOCKS 256U
#define FILE_BLOCKS 512U
#define HOUR (3600 * NS_PER_S)
#define VALUE_MOST (BLOCK + 128U) /* of a block that cannot be compressed */

static struct scratch scratch;
static int arena_dir;
static struct store *store;
static struct engine *engine;
static struct ramfile *file, *other;
static struct tenant tenant, above;
static uint8_t data[128 * BLOCK], got[128 * BLOCK];
static uint64_t now_ns;

static uint64_t fake_now(void)
{
	return now_ns;
}

static void fill(uint64_t seed)
{
	for (size_t i = 0; i < sizeof(data); i += sizeof(seed)) {
		seed = seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
		memcpy(data + i, &seed, sizeof(seed));
	}
}

static void setup(void)
{
	struct engine_config config = {
		.block_bytes = BLOCK, .dram_bytes = BUDGET_BLOCKS * BLOCK, .min_idle_ns = NS_PER_MS, .level = 1
	};

	scratch_new(&scratch, "quota");
	arena_dir = open(scratch.path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	ck_assert_int_ge(arena_dir, 0);
	ck_assert_int_eq(store_mem_new(&store), 0);
	config.store = store;
	config.arena_dir = arena_dir;
	ck_assert_int_eq(tiering_new(&config, &engine), 0);
	now_ns = 1000 * HOUR;
	engine->tenants.now_ns = fake_now;
	ck_assert_int_eq(ramfile_load(engine, 10, (uint64_t)FILE_BLOCKS * BLOCK, false, &file), 0);
	ck_assert_int_eq(ramfile_load(engine, 11, (uint64_t)FILE_BLOCKS * BLOCK, false, &other), 0);
	tenant = (struct tenant){ .ino = 2 };
	above = (struct tenant){ .ino = 1 };
	fill(1);
}

static void teardown(void)
{
	tenant_place(file, NULL);
	tenant_place(other, NULL);
	ramfile_unload(file);
	ramfile_unload(other);
	tenants_begin(engine);
	tenants_end(engine);
	tiering_free(engine);
	store->ops->free(store);
	close(arena_dir);
	scratch_free(&scratch);
}

/* `file` lives in the tenant, which lives in the one above; `other` in that one, or in none. */
static void limit(uint64_t disk, uint64_t day, uint64_t above_disk, bool beside)
{
	struct tenant_share share = { .max_bytes = UINT64_MAX, .disk_bytes = disk, .day_bytes = day };
	struct tenant_share above_share = { .max_bytes = UINT64_MAX, .disk_bytes = above_disk };

	tenants_begin(engine);
	tenants_put(engine, &above, NULL, &above_share);
	tenants_put(engine, &tenant, &above, &share);
	tenants_place(file, &tenant);
	tenants_place(other, beside ? &above : NULL);
	tenants_end(engine);
}

static int write_direct(struct ramfile *to, uint64_t block, uint64_t blocks)
{
	return ramfile_write(to, data + block % 64 * BLOCK, blocks * BLOCK, block * BLOCK, true);
}

static uint64_t stored(const struct ramfile *of)
{
	return of->blocks.stored_total_bytes;
}

static uint64_t in_tenant(struct tenant *of)
{
	struct quota_figures figures;

	quota_figures(engine, of, &figures);
	return figures.stored_bytes;
}

static uint64_t written(void)
{
	struct quota_figures figures;

	quota_figures(engine, &tenant, &figures);
	return figures.written_bytes;
}

/* Into DRAM. */
static void write_memory(struct ramfile *to, uint64_t block, uint64_t blocks, uint64_t seed)
{
	fill(seed);
	for (uint64_t at = block; at < block + blocks; at++) {
		ck_assert_int_eq(ramfile_write(to, data + at * BLOCK % sizeof(data), BLOCK, at * BLOCK, false), 0);
		ck_assert_msg(blocks_state(&to->blocks, at) == BLOCK_RESIDENT, "%d %d free %d", (int)to->ino, (int)at,
			      (int)(budget_free(&engine->budget) / BLOCK));
	}
}

static struct file_done demote(struct ramfile *of)
{
	struct file_done done = { 0 };

	ck_assert_int_eq(demand_demote(of, 0, UINT64_MAX, NULL, NULL, &done), 0);
	return done;
}

static void expect(struct ramfile *of, uint64_t block, uint64_t blocks, uint64_t seed)
{
	size_t length;

	fill(seed);
	ck_assert_int_eq(ramfile_read(of, got, blocks * BLOCK, block * BLOCK, &length), 0);
	ck_assert_uint_eq(length, blocks * BLOCK);
	for (uint64_t i = 0; i < blocks; i++)
		ck_assert_msg(!memcmp(got + i * BLOCK, data + (block + i) * BLOCK % sizeof(data), BLOCK),
			      "block %llu is another one", (unsigned long long)(block + i));
}

/* --- what is stored ----------------------------------------------------------------------------------------------- */

START_TEST(what_is_stored_counts_upwards)
{
	limit(64 << 20, 0, 64 << 20, true);
	ck_assert_int_eq(write_direct(file, 0, 40), 0);
	ck_assert_int_eq(write_direct(other, 0, 20), 0);
	ck_assert_uint_ge(stored(file), 40 * BLOCK);
	ck_assert_uint_eq(in_tenant(&tenant), stored(file));
	ck_assert_uint_eq(in_tenant(&above), stored(file) + stored(other));
	ck_assert_int_eq(ramfile_discard(file, 3 * BLOCK, 10 * BLOCK), 0);
	ck_assert_int_eq(ramfile_discard(file, 20 * BLOCK + 4096, 4096), 0);
	ck_assert_uint_eq(in_tenant(&tenant), stored(file));
	ck_assert_int_eq(ramfile_truncate(file, 30 * BLOCK + 100), 0);
	ck_assert_uint_eq(in_tenant(&tenant), stored(file));
	ck_assert(tenant_place(file, &above));
	ck_assert_uint_eq(in_tenant(&tenant), 0);
	ck_assert_uint_eq(in_tenant(&above), stored(file) + stored(other));
	tenant_move_stored(engine, NULL, &tenant, 500); /* of one that is not loaded */
	ck_assert_uint_eq(in_tenant(&above), stored(file) + stored(other) + 500);
	tenant_move_stored(engine, &tenant, NULL, 500);
	ck_assert_uint_eq(in_tenant(&above), stored(file) + stored(other));
	/* A put that fails leaves nothing behind. */
	store_mem_fail_nth(store, STORE_MEM_PUT, 1, ENOSPC);
	ck_assert_int_eq(write_direct(file, 0, 8), -ENOSPC);
	ck_assert_uint_eq(in_tenant(&above), stored(file) + stored(other));
	ck_assert_uint_eq(file->charge.putting_bytes, 0);
}
END_TEST

START_TEST(a_direct_write_beyond_is_refused)
{
	uint64_t before;

	limit(2 << 20, 0, 0, false);
	ck_assert_int_eq(write_run_check(file, data, 0, 100 * BLOCK), 0);
	ck_assert_int_eq(write_direct(file, 0, 100), 0);
	before = stored(file);
	ck_assert_uint_le(before, 2 << 20);
	ck_assert_int_eq(write_run_check(file, data, 100 * BLOCK, 60 * BLOCK), -EDQUOT);
	ck_assert_int_eq(write_direct(file, 100, 60), -EDQUOT);
	ck_assert_uint_eq(stored(file), before);
	ck_assert_uint_eq(in_tenant(&tenant), before);
	ck_assert_uint_eq(blocks_state(&file->blocks, 100), BLOCK_HOLE);
	/* Instead of what is there as much may be written; zeros anywhere; what compresses, where it has room. */
	ck_assert_int_eq(write_direct(file, 10, 60), 0);
	memset(data, 0, sizeof(data));
	ck_assert_int_eq(write_run_check(file, data, 100 * BLOCK, 60 * BLOCK), 0);
	ck_assert_int_eq(write_direct(file, 100, 60), 0);
	memset(data, 'x', sizeof(data));
	for (size_t i = 0; i < sizeof(data); i += 97)
		data[i] = (uint8_t)i;
	ck_assert_int_eq(write_run_check(file, data, 100 * BLOCK, 60 * BLOCK), 0);
	ck_assert_int_eq(write_direct(file, 100, 60), 0);
	/* A part of a block, too; and beside it nobody is refused. */
	fill(9);
	for (uint64_t block = 160; ramfile_write(file, data, BLOCK, block * BLOCK, true) == 0; block++)
		ck_assert_uint_lt(block, 200);
	ck_assert_int_eq(ramfile_write(file, data, 5000, 210 * BLOCK + 100, true), -EDQUOT);
	ck_assert_int_eq(write_direct(other, 0, 128), 0);
	/* Punched, there is room. */
	ck_assert_int_eq(ramfile_discard(file, 0, 64 * BLOCK), 0);
	ck_assert_int_eq(ramfile_write(file, data, 5000, 210 * BLOCK + 100, true), 0);
}
END_TEST

/* It is said once, also if a smaller request has room in between. */
START_TEST(it_is_told_once)
{
	limit(64 * VALUE_MOST, 0, 0, false);
	ck_assert_int_eq(write_direct(file, 0, 50), 0);
	ck_assert(!tenant.disk.told_full);
	for (int i = 0; i < 3; i++) {
		ck_assert_int_eq(write_direct(file, 64, 40), -EDQUOT);
		ck_assert(tenant.disk.told_full);
		ck_assert_int_eq(write_direct(file, 0, 2), 0);
		ck_assert(tenant.disk.told_full);
	}
	ck_assert_int_eq(ramfile_discard(file, 0, 40 * BLOCK), 0);
	ck_assert(!tenant.disk.told_full);
}
END_TEST

START_TEST(the_least_of_all_above_holds)
{
	limit(64 << 20, 0, 1 << 20, true);
	ck_assert_int_eq(write_direct(other, 0, 60), 0);
	ck_assert_int_eq(write_direct(file, 0, 16), -EDQUOT);
	ck_assert_uint_eq(in_tenant(&tenant), 0);
	ck_assert_int_eq(ramfile_discard(other, 0, 30 * BLOCK), 0);
	ck_assert_int_eq(write_direct(file, 0, 16), 0);
	/* Lowered below what is there: nothing goes, and nothing comes. */
	limit(64 << 20, 0, BLOCK, true);
	ck_assert_uint_eq(in_tenant(&above), stored(file) + stored(other));
	ck_assert_int_eq(write_direct(file, 20, 2), -EDQUOT);
	ck_assert_int_eq(write_direct(file, 0, 2), 0);
	expect(file, 0, 16, 1);
}
END_TEST

START_TEST(what_cannot_be_demoted_stays)
{
	struct demote_result result;
	struct file_done done;
	uint32_t all[48];

	limit(20 * VALUE_MOST, 0, 0, false);
	write_memory(file, 0, 16, 2);
	ck_assert_uint_eq(demote(file).done_bytes, 16 * BLOCK);
	ck_assert(!claim_stays(file));
	/* 8 come back clean, 8 are changed, 16 were never stored: of those 4 have room, or some less. */
	ck_assert_int_eq(load_promote(file, 0, 8 * BLOCK, NULL, NULL, &done), 0);
	write_memory(file, 8, 24, 3);
	for (uint32_t i = 0; i < 48; i++)
		all[i] = i;
	ck_assert_int_eq(demote_blocks(file, all, 48, false, &result), 0);
	ck_assert_uint_ge(result.demoted, 8 + 8 + 3);
	ck_assert_uint_le(result.demoted, 8 + 8 + 5);
	ck_assert_uint_eq(result.clean, 8);
	ck_assert_uint_eq(result.aborted, 0);
	ck_assert_uint_le(in_tenant(&tenant), 20 * VALUE_MOST);
	ck_assert_uint_eq(in_tenant(&tenant), stored(file));
	ck_assert(claim_stays(file));
	expect(file, 8, 24, 3);
	/* Nobody else notices. */
	write_memory(other, 0, 16, 4);
	ck_assert_uint_eq(demote(other).done_bytes, 16 * BLOCK);
	/* Removal lets it go on. */
	ck_assert_int_eq(ramfile_discard(file, 0, 32 * BLOCK), 0);
	write_memory(file, 32, 16, 5);
	done = demote(file);
	ck_assert_uint_eq(done.done_bytes, 16 * BLOCK);
	ck_assert_uint_eq(done.skipped_bytes, 0);
	expect(file, 32, 16, 5);
}
END_TEST

/* The demoter takes what is clean, and what is of others. */
START_TEST(the_demoter_passes_over)
{
	struct file_done done;
	uint64_t clean, mine;

	limit(16 * VALUE_MOST, 0, 0, false);
	write_memory(file, 0, 16, 2);
	demote(file);
	limit(15 * VALUE_MOST, 0, 0, false);
	ck_assert(claim_stays(file));
	ck_assert_int_eq(load_promote(file, 0, 16 * BLOCK, NULL, NULL, &done), 0);
	write_memory(file, 64, 64, 3);
	write_memory(other, 0, 32, 4);
	clean = atomic_load(&file->counts.demotions);
	budget_force(&engine->budget, (BUDGET_BLOCKS - 64 - 32 - 16 - 8) * BLOCK);
	for (int i = 0; i < 200; i++)
		demoter_step(engine);
	budget_release(&engine->budget, (BUDGET_BLOCKS - 64 - 32 - 16 - 8) * BLOCK);
	ck_assert_uint_eq(atomic_load(&other->counts.demotions), 32);
	ck_assert_uint_eq(atomic_load(&file->counts.demotions) - clean, 16);
	mine = 0;
	for (uint64_t block = 64; block < 128; block++)
		mine += blocks_state(&file->blocks, block) == BLOCK_RESIDENT;
	ck_assert_uint_eq(mine, 64);
	expect(file, 64, 64, 3);
}
END_TEST

/* Where DRAM is short the one that is held waits, and who is beside it does not. */
START_TEST(its_faults_wait_where_dram_is_short)
{
	struct process *process, *beside;
	uint64_t word = 1, short_bytes;

	limit(1, 0, 0, false);
	ck_assert_int_eq(process_map(file, 1, &process), 0);
	ck_assert_int_eq(process_map(other, 2, &beside), 0);
	ck_assert(process_touch(process, 0, &word, sizeof(word), true));
	short_bytes = budget_free(&engine->budget) - UINT64_C(3) * BLOCK;
	budget_force(&engine->budget, short_bytes);
	ck_assert(!process_touch(process, 64 * BLOCK, &word, sizeof(word), true));
	ck_assert(process_touch(beside, BLOCK, &word, sizeof(word), true));
	ck_assert(!fault_resume(engine));
	limit(64 << 20, 0, 0, false);
	ck_assert(fault_resume(engine));
	ck_assert(process_touch(process, 64 * BLOCK, &word, sizeof(word), true));
	budget_release(&engine->budget, short_bytes);
	process_unmap(process);
	process_unmap(beside);
}
END_TEST

START_TEST(fsync_and_clone_need_room)
{
	struct ramfile_cloned cloned;

	limit(4 * VALUE_MOST, 0, 0, false);
	write_memory(file, 0, 16, 2);
	ck_assert_int_eq(ramfile_store(file), -EDQUOT);
	ck_assert_uint_eq(in_tenant(&tenant), 0);
	ck_assert_int_eq(ramfile_clone(file, 12, NULL, NULL, &cloned), -EDQUOT);
	expect(file, 0, 16, 2);
	limit(0, 0, 0, false);
	ck_assert_int_eq(ramfile_store(file), 0);
	ck_assert_uint_ge(in_tenant(&tenant), 16 * BLOCK);
	ck_assert_uint_eq(in_tenant(&tenant), stored(file));
	/* No room needed for what is the same. */
	limit(1, 0, 0, false);
	ck_assert_int_eq(ramfile_store(file), 0);
	/* At the end of a mount all goes. */
	write_memory(file, 32, 16, 3);
	ck_assert_uint_eq(demote(file).skipped_bytes, 16 * BLOCK);
	tiering_lift_limits(engine);
	ck_assert_uint_eq(demote(file).skipped_bytes, 0);
}
END_TEST

/* Punching and shrinking make room, whatever a new copy takes. */
START_TEST(removal_is_never_refused)
{
	limit(0, 0, 0, false);
	memset(data, 3, sizeof(data));
	ck_assert_int_eq(write_direct(file, 0, 4), 0);
	write_memory(file, 0, 2, 5); /* what is in DRAM takes more than its copies do */
	ramfile_set_kept(file, true);
	limit(1, 0, 0, false);
	ck_assert_int_eq(ramfile_discard(file, 4096, 4096), 0);
	ck_assert_int_eq(ramfile_discard(file, 2 * BLOCK + 4096, 4096), 0);
	ck_assert_int_eq(ramfile_truncate(file, 3 * BLOCK + 100), 0);
	ck_assert_int_eq(ramfile_truncate(file, 5 * BLOCK + 100), 0);
	ck_assert_uint_eq(in_tenant(&tenant), stored(file));
}
END_TEST

/* --- what is written in a day ------------------------------------------------------------------------------------- */

START_TEST(a_day_is_used_up)
{
	struct quota_figures figures;
	struct file_done done;

	limit(0, 20 * VALUE_MOST, 0, false);
	write_memory(file, 0, 16, 2);
	ck_assert_uint_eq(demote(file).done_bytes, 16 * BLOCK);
	ck_assert_uint_eq(written(), stored(file));
	write_memory(file, 16, 16, 2);
	done = demote(file);
	ck_assert_uint_ge(done.done_bytes, 3 * BLOCK);
	ck_assert_uint_le(done.done_bytes, 5 * BLOCK);
	ck_assert_uint_le(written(), 20 * VALUE_MOST);
	ck_assert(claim_stays(file));
	quota_figures(engine, &tenant, &figures);
	ck_assert_uint_lt(figures.written_left_bytes, VALUE_MOST);
	ck_assert_uint_eq(figures.written_left_bytes, 20 * VALUE_MOST - written());
	ck_assert_uint_gt(figures.next_free_ns, 24 * HOUR);
	ck_assert_uint_le(figures.next_free_ns, 25 * HOUR);
	/* Calls go on, and count. */
	ck_assert_int_eq(write_direct(file, 64, 8), 0);
	ck_assert_uint_gt(written(), 20 * VALUE_MOST);
	quota_figures(engine, &tenant, &figures);
	ck_assert_uint_eq(figures.written_left_bytes, 0);
	/* What is clean goes, what is of others does. */
	write_memory(other, 0, 8, 3);
	ck_assert_uint_eq(demote(other).done_bytes, 8 * BLOCK);
	ck_assert_int_eq(ramfile_store(file), 0);
	done = demote(file);
	ck_assert_uint_ge(done.done_bytes, 11 * BLOCK);
	ck_assert_uint_eq(done.skipped_bytes, 0);
	/* The next day. */
	write_memory(file, 96, 16, 4);
	ck_assert_uint_eq(demote(file).done_bytes, 0);
	now_ns += 23 * HOUR;
	ck_assert_uint_eq(demote(file).done_bytes, 0);
	now_ns += 2 * HOUR;
	ck_assert_uint_eq(demote(file).done_bytes, 16 * BLOCK);
	expect(file, 96, 16, 4);
}
END_TEST

START_TEST(near_the_end_of_a_day_it_is_choosier)
{
	struct quota_choice choice;

	limit(0, 100 * VALUE_MOST, 0, false);
	choice = quota_choice(file);
	ck_assert(!choice.stored_only && !choice.older);
	ck_assert_int_eq(write_direct(file, 0, 64), 0);
	choice = quota_choice(file);
	ck_assert(!choice.stored_only && !choice.older);
	ck_assert_int_eq(write_direct(file, 64, 20), 0);
	choice = quota_choice(file);
	ck_assert(!choice.stored_only);
	ck_assert_uint_eq(choice.older, 1U << WEAR_CHOOSY_MAX);
	ck_assert_uint_eq(quota_choice(other).older, 0);
	now_ns += 3 * HOUR; /* nobody writes: it lasts */
	choice = quota_choice(file);
	ck_assert(!choice.stored_only && !choice.older);
	ck_assert_int_eq(write_direct(file, 0, 64), 0);
	ck_assert(quota_choice(file).stored_only);
}
END_TEST

static size_t picked(struct heat_filter filter)
{
	uint32_t block[64];

	return heat_pick(&file->heat, &file->blocks, &filter, 0, block, 64);
}

/* Of a file that is mapped: rounds more than min_idle asks for, or with a stored copy only. */
START_TEST(filters_of_the_choice)
{
	struct heat_filter filter = { .count = 64, .min_idle_ns = NS_PER_MS, .mapped = true };
	struct process *process;
	uint64_t word = 1;

	ck_assert_int_eq(write_direct(file, 0, 8), 0);
	ck_assert_int_eq(process_map(file, 1, &process), 0);
	for (uint64_t block = 0; block < 16; block++)
		ck_assert(process_touch(process, block * BLOCK, &word, sizeof(word), block >= 8));
	lock_get(&file->lock);
	blocks_add_rounds(&file->blocks, 5); /* seen idle at five looks, long ago */
	for (int i = 0; i < HEAT_RING; i++)
		file->heat.absent_ns[i] = clock_ns() - NS_PER_S;
	for (uint64_t block = 0; block < 16; block++)
		blocks_set_age(&file->blocks, block, file->blocks.rounds - 3, 0);
	lock_put(&file->lock);
	filter.now_ns = clock_ns();
	lock_get(&file->lock);
	ck_assert_uint_eq(picked(filter), 16);
	filter.stored = true;
	ck_assert_uint_eq(picked(filter), 8);
	filter.stored = false;
	filter.older = 2; /* generation 1 is idle for long enough, 3 is two more */
	ck_assert_uint_eq(picked(filter), 16);
	filter.older = 3; /* those with a stored copy may be clean, which costs no write */
	ck_assert_uint_eq(picked(filter), 8);
	filter.mapped = false;
	ck_assert_uint_ge(picked(filter), 16);
	lock_put(&file->lock);
	process_unmap(process);
}
END_TEST

/* A share that is set anew begins with what was. */
START_TEST(a_new_value_forgets_nothing)
{
	struct tenant_share share = { .max_bytes = UINT64_MAX, .day_bytes = 50 * VALUE_MOST };
	static struct tenant fresh;
	struct wear wear;
	uint64_t into_ns, was;

	limit(0, 40 * VALUE_MOST, 0, false);
	ck_assert(!quota_wear(engine, &tenant, false, &wear, &into_ns));
	ck_assert_int_eq(write_direct(file, 0, 16), 0);
	was = written();
	now_ns += 10 * 60 * NS_PER_S;
	ck_assert(quota_wear(engine, &tenant, false, &wear, &into_ns));
	ck_assert(!quota_wear(engine, &tenant, false, &wear, &into_ns));
	ck_assert(quota_wear(engine, &tenant, true, &wear, &into_ns));
	fresh = (struct tenant){ .ino = 2, .before = &tenant };
	tenants_begin(engine);
	tenants_put(engine, &fresh, NULL, &share);
	tenants_place(file, &fresh);
	tenants_end(engine);
	tenant = fresh;
	ck_assert_uint_eq(written(), was);
	fresh.disk.wear = (struct wear){ 0 };
	quota_set_wear(engine, &fresh, &wear, into_ns + 24 * HOUR);
	tenant = fresh;
	ck_assert_uint_eq(written(), was);
	quota_set_wear(engine, &fresh, &wear, into_ns + 25 * HOUR);
	tenant = fresh;
	ck_assert_uint_eq(written(), 0);
	tenant_place(file, NULL);
}
END_TEST

/* --- what may not be refused ------------------------------------------------------------------------------------- */

/* DRAM has no room for what is not necessary. */
static void fill_dram(void)
{
	room_force(other, BUDGET_BLOCKS * BLOCK);
}

static void empty_dram(void)
{
	room_release(other, BUDGET_BLOCKS * BLOCK);
}

/* Pieces of a page of a mapping come back as a write does: where there is no room in DRAM they go to the store. */
START_TEST(what_the_kernel_writes_back_is_not_refused)
{
	size_t length;

	limit(4 * VALUE_MOST, 0, 0, false);
	ck_assert_int_eq(write_direct(file, 0, 4), 0);
	limit(stored(file), 0, 0, false);
	fill_dram();
	ck_assert_int_eq(ramfile_write(file, data, 300, 20 * BLOCK + 100, false), -EDQUOT);
	ck_assert_int_eq(cache_write_back(file, data, 300, 20 * BLOCK + 100), 0); /* not from the start of a page */
	ck_assert_int_eq(cache_write_back(file, data, 300, 30 * BLOCK), 0);       /* not up to the end of one */
	for (uint64_t block = 20; block <= 30; block += 10) {
		ck_assert_int_eq(ramfile_read(file, got, 300, block * BLOCK + (block == 20) * 100, &length), 0);
		ck_assert_uint_eq(length, 300);
		ck_assert(!memcmp(got, data, 300));
	}
	ck_assert_uint_eq(in_tenant(&tenant), stored(file));
	empty_dram();
}
END_TEST

/* As a filesystem does it: what was written is told, and the next call is refused. */
START_TEST(a_write_that_ends_half_way_is_short)
{
	size_t length = 0;

	limit(4 * VALUE_MOST, 0, 0, false);
	fill_dram();
	ck_assert_int_eq(write_by_call(file, data, 8 * BLOCK, 0, false, &length), 0);
	ck_assert_uint_eq(length, 4 * BLOCK);
	ck_assert_int_eq(write_by_call(file, data + length, 8 * BLOCK - length, length, false, &length), -EDQUOT);
	empty_dram();
	ck_assert_int_eq(ramfile_read(file, got, 8 * BLOCK, 0, &length), 0);
	ck_assert(!memcmp(got, data, 4 * BLOCK));
	for (size_t i = 4 * BLOCK; i < 8 * BLOCK; i++)
		ck_assert_int_eq(got[i], 0);
}
END_TEST

/* --- what is refused again and again ----------------------------------------------------------------------------- */

/* Who is refused is asked again after longer and longer, or at once when he may store more. */
START_TEST(who_is_refused_is_left_alone_until_there_is_news)
{
	uint64_t due_ns, demoted, wait_ns = 0;

	limit(16 * VALUE_MOST, 0, 0, false);
	fill(7);
	for (uint64_t block = 0; block < 64; block++) /* copies that are short: room for each, by itself, is left */
		memset(data + block * BLOCK + 64, 0, BLOCK - 64);
	ck_assert_int_eq(ramfile_write(file, data, 64 * BLOCK, 0, true), 0);
	limit(stored(file) + BLOCK, 0, 0, false);
	for (uint64_t block = 0; block < 64; block++) {
		struct file_done done;

		ck_assert_int_eq(load_promote(file, block * BLOCK, BLOCK, NULL, NULL, &done), 0);
	}
	fill(8);
	ck_assert_int_eq(ramfile_write(file, data, 64 * BLOCK, 0, false), 0);
	ck_assert_uint_eq(atomic_load(&file->dram_blocks), 64);
	budget_force(&engine->budget, (BUDGET_BLOCKS - 64 - 4) * BLOCK);
	for (unsigned int i = 1; i <= 5; i++) {
		file->rounds.out_until_ns = 0;
		while (reclaim_some(engine, &due_ns) && file->rounds.refusals < i)
			file->rounds.out_until_ns = 0;
		if (file->rounds.refusals < i)
			continue;
		ck_assert_uint_gt(file->rounds.out_until_ns, clock_ns() + wait_ns);
		wait_ns = file->rounds.out_until_ns - clock_ns();
	}
	ck_assert_uint_eq(file->rounds.refusals, 5);
	ck_assert_uint_gt(wait_ns, 4 * NS_PER_S);
	demoted = atomic_load(&file->counts.demotions);
	for (int i = 0; i < 50; i++)
		demoter_step(engine);
	ck_assert_uint_eq(atomic_load(&file->counts.demotions), demoted);
	file->rounds.out_until_ns = UINT64_MAX;
	limit(0, 0, 0, false);
	while (atomic_load(&file->counts.demotions) == demoted)
		demoter_step(engine);
	budget_release(&engine->budget, (BUDGET_BLOCKS - 64 - 4) * BLOCK);
}
END_TEST

/* Near the end of a day a block that is clean goes as always; one that was changed since it was stored does not. */
START_TEST(what_is_clean_is_not_held_back)
{
	const uint32_t block[] = { 0, 1 };
	struct demote_result result;
	struct process *process;
	struct file_done done;

	limit(0, 100 * VALUE_MOST, 0, false);
	ck_assert_int_eq(write_direct(file, 0, 64), 0);
	ck_assert_int_eq(write_direct(file, 64, 20), 0);
	ck_assert_uint_gt(quota_choice(file).older, 0);
	ck_assert_int_eq(load_promote(file, 0, 2 * BLOCK, NULL, NULL, &done), 0);
	ck_assert_int_eq(ramfile_write(file, data, 8, BLOCK + 512, false), 0);
	ck_assert_int_eq(process_map(file, 1, &process), 0);
	lock_get(&file->lock);
	blocks_add_rounds(&file->blocks, 3);
	for (int i = 0; i < HEAT_RING; i++)
		file->heat.absent_ns[i] = clock_ns() - NS_PER_S;
	for (int i = 0; i < 2; i++)
		blocks_set_age(&file->blocks, (uint64_t)i, file->blocks.rounds - 2, 0);
	lock_put(&file->lock);
	ck_assert_int_eq(demote_blocks(file, block, 2, false, &result), 0);
	ck_assert_uint_eq(result.demoted, 1);
	ck_assert_uint_eq(result.clean, 1);
	ck_assert_uint_eq(result.refused, 0);
	ck_assert_int_eq(blocks_state(&file->blocks, 1), BLOCK_RESIDENT);
	process_unmap(process);
}
END_TEST

/* Both that refuse say so, and each says once that it ends. */
START_TEST(all_that_refuse_are_told)
{
	limit(40 * VALUE_MOST, 0, 30 * VALUE_MOST, false);
	ck_assert_int_eq(write_direct(file, 0, 30), 0);
	ck_assert_int_eq(write_run_check(file, data, (uint64_t)64 * BLOCK, 60 * BLOCK), -EDQUOT);
	ck_assert(tenant.disk.told_full && above.disk.told_full);
	ck_assert_int_eq(ramfile_discard(file, 0, 30 * BLOCK), 0);
	ck_assert(above.disk.told_full && tenant.disk.told_full); /* what was refused would still have no room */
	limit(0, 0, 0, false);
	quota_choice(file);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("quota");
	TCase *tests = tcase_create("quota");

	tcase_add_checked_fixture(tests, setup, teardown);
	tcase_set_timeout(tests, 60);
	tcase_add_test(tests, what_is_stored_counts_upwards);
	tcase_add_test(tests, a_direct_write_beyond_is_refused);
	tcase_add_test(tests, it_is_told_once);
	tcase_add_test(tests, the_least_of_all_above_holds);
	tcase_add_test(tests, what_cannot_be_demoted_stays);
	tcase_add_test(tests, the_demoter_passes_over);
	tcase_add_test(tests, its_faults_wait_where_dram_is_short);
	tcase_add_test(tests, fsync_and_clone_need_room);
	tcase_add_test(tests, removal_is_never_refused);
	tcase_add_test(tests, a_day_is_used_up);
	tcase_add_test(tests, near_the_end_of_a_day_it_is_choosier);
	tcase_add_test(tests, filters_of_the_choice);
	tcase_add_test(tests, what_the_kernel_writes_back_is_not_refused);
	tcase_add_test(tests, a_write_that_ends_half_way_is_short);
	tcase_add_test(tests, who_is_refused_is_left_alone_until_there_is_news);
	tcase_add_test(tests, what_is_clean_is_not_held_back);
	tcase_add_test(tests, all_that_refuse_are_told);
	tcase_add_test(tests, a_new_value_forgets_nothing);
	suite_add_tcase(suite, tests);
	return check_run(suite);
}
