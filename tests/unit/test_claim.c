/* unit/test_claim.c - who may not store what he has in DRAM leaves to others what was promised to them, and a tree of
 * tenants that is changed one by one is the tree that is made anew. TIERFS_SEED repeats the random one. */
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../lib/lib_scratch.h"
#include "../lib/lib_store_mem.h"
#include "base/clock.h"
#include "engine/claim.h"
#include "engine/engine.h"
#include "engine/file.h"
#include "engine/quota.h"
#include "engine/ramfile.h"
#include "engine/resize.h"
#include "engine/room.h"
#include "engine/tenant.h"
#include "engine/write.h"
#include "policy/tiering.h"
#include "lib_check.h"

#define BLOCK 16384U
#define BUDGET_BLOCKS 256U
#define FILE_BLOCKS 512U
#define FILES 4
#define TENANTS 12
#define VALUE_MOST (BLOCK + 128U) /* of a block that cannot be compressed */

static struct scratch scratch;
static int arena_dir;
static struct store *store;
static struct engine *engine;
static struct ramfile *file[FILES];
static struct tenant tenant[TENANTS];
static uint8_t data[64 * BLOCK];

static void setup(void)
{
	struct engine_config config = {
		.block_bytes = BLOCK, .dram_bytes = BUDGET_BLOCKS * BLOCK, .min_idle_ns = NS_PER_MS, .level = 1
	};
	uint64_t seed = 1;

	scratch_new(&scratch, "claim");
	arena_dir = open(scratch.path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	ck_assert_int_ge(arena_dir, 0);
	ck_assert_int_eq(store_mem_new(&store), 0);
	config.store = store;
	config.arena_dir = arena_dir;
	ck_assert_int_eq(tiering_new(&config, &engine), 0);
	for (uint64_t i = 0; i < FILES; i++)
		ck_assert_int_eq(ramfile_load(engine, 10 + i, (uint64_t)FILE_BLOCKS * BLOCK, false, &file[i]), 0);
	for (uint64_t i = 0; i < TENANTS; i++) /* some share a bucket */
		tenant[i] = (struct tenant){ .ino = 100 + i % 3 * TENANT_BUCKETS + i / 3 };
	for (size_t i = 0; i < sizeof(data); i += sizeof(seed)) {
		seed = seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
		memcpy(data + i, &seed, sizeof(seed));
	}
}

static void teardown(void)
{
	for (size_t i = 0; i < FILES; i++) {
		tenant_place(file[i], NULL);
		ramfile_unload(file[i]);
	}
	tenants_begin(engine);
	tenants_end(engine);
	tiering_free(engine);
	store->ops->free(store);
	close(arena_dir);
	scratch_free(&scratch);
}

/* What may be promised, in blocks. */
static uint64_t promisable(void)
{
	return tenant_promisable(engine) / BLOCK;
}

/* Charges block after block; returns how many. What is had is no copy of anything: it is counted alone. */
static uint64_t charge_all(struct ramfile *to)
{
	uint64_t blocks = 0;
	bool near;

	while (blocks < 2 * BUDGET_BLOCKS && budget_free(&engine->budget) >= BLOCK &&
	       tenant_charge(to, BLOCK, BUDGET_MUST, &near)) {
		budget_force(&engine->budget, BLOCK);
		blocks++;
	}
	return blocks;
}

static void discharge(struct ramfile *of, uint64_t blocks)
{
	tenant_discharge(of, blocks * BLOCK);
	budget_release(&engine->budget, blocks * BLOCK);
}

static struct tenant_share full(void)
{
	return (struct tenant_share){ .max_bytes = UINT64_MAX, .disk_bytes = BLOCK };
}

static struct tenant_share promise(uint64_t blocks)
{
	return (struct tenant_share){ .max_bytes = UINT64_MAX, .min_bytes = blocks * BLOCK };
}

/* --- promises ----------------------------------------------------------------------------------------------------- */

/* Two of them together, also one that lies in a directory with a promise. */
START_TEST(who_stores_nothing_breaks_no_promise)
{
	struct tenant_share small = full(), promised = promise(100), within = promise(40);
	uint64_t first, second;

	tenant_add(engine, &tenant[0], NULL, &small);
	tenant_add(engine, &tenant[1], NULL, &promised);
	tenant_add(engine, &tenant[2], NULL, &small);
	tenant_add(engine, &tenant[3], &tenant[2], &within);
	for (size_t i = 0; i < FILES; i++)
		tenant_place(file[i], &tenant[i]);
	first = charge_all(file[0]);
	ck_assert_uint_gt(first, 0);
	ck_assert_uint_le(first, promisable() - 140 + 1);
	discharge(file[0], first / 2);
	second = charge_all(file[2]);
	ck_assert_uint_le(first - first / 2 + second, promisable() - 140 + 2);
	ck_assert(!tenant_allows(file[0], BLOCK));
	ck_assert(tenant[2].disk.waits);
	/* Both get what was promised. */
	for (int i = 0; i < 100; i++) {
		ck_assert(tenant_allows(file[1], BLOCK));
		ck_assert_uint_ge(budget_free(&engine->budget), BLOCK);
		room_force(file[1], BLOCK);
	}
	for (int i = 0; i < 40; i++) {
		ck_assert(tenant_allows(file[3], BLOCK));
		ck_assert_uint_ge(budget_free(&engine->budget), BLOCK);
		room_force(file[3], BLOCK);
	}
	discharge(file[0], first - first / 2);
	discharge(file[1], 100);
	discharge(file[2], second);
	discharge(file[3], 40);
}
END_TEST

/* Who may store what he has is as free as ever, until a call would use up what that needs. */
START_TEST(a_call_does_not_use_up_what_memory_needs)
{
	struct tenant_share large = { .max_bytes = UINT64_MAX, .disk_bytes = 220 * VALUE_MOST },
			    promised = promise(100);
	uint64_t blocks, length;

	tenant_add(engine, &tenant[0], NULL, &large);
	tenant_add(engine, &tenant[1], NULL, &promised);
	tenant_place(file[0], &tenant[0]);
	tenant_place(file[1], &tenant[1]);
	blocks = charge_all(file[0]);
	ck_assert_uint_gt(blocks, promisable() - 100);
	ck_assert_int_eq(write_by_call(file[0], data, 32 * BLOCK, 0, true, &length), 0);
	ck_assert_int_eq(write_by_call(file[0], data, 64 * BLOCK, 128 * BLOCK, true, &length), -EDQUOT);
	ck_assert_uint_le(claim_disk_left(&tenant[0]), 190 * VALUE_MOST);
	ck_assert_uint_ge(claim_disk_left(&tenant[0]), 187 * VALUE_MOST); /* of disk.max there is enough */
	ck_assert(tenant[0].disk.told_needed);
	/* With less in DRAM it may. */
	discharge(file[0], blocks);
	ck_assert_int_eq(write_by_call(file[0], data, 64 * BLOCK, 128 * BLOCK, true, &length), 0);
}
END_TEST

/* What was refused is told when something of it may leave. */
START_TEST(who_waits_is_told)
{
	struct tenant_share share = { .max_bytes = UINT64_MAX, .disk_bytes = 4 * VALUE_MOST }, promised = promise(100);
	uint64_t blocks, looks;

	tenant_add(engine, &tenant[0], NULL, &share);
	tenant_add(engine, &tenant[1], NULL, &promised);
	tenant_place(file[0], &tenant[0]);
	ck_assert_int_eq(ramfile_write(file[0], data, 4 * BLOCK, 0, true), 0);
	blocks = charge_all(file[0]);
	ck_assert(!tenant_allows(file[0], BLOCK));
	ck_assert(tenant[0].disk.waits);
	lock_get(&engine->room.lock);
	engine->room.kicked = false;
	lock_put(&engine->room.lock);
	looks = quota_news(file[0]);
	ck_assert_int_eq(ramfile_discard(file[0], 0, 2 * BLOCK), 0);
	ck_assert(engine->room.kicked);
	ck_assert(!tenant[0].disk.waits);
	ck_assert_uint_ne(quota_news(file[0]), looks);
	ck_assert(tenant_allows(file[0], BLOCK));
	discharge(file[0], blocks);
}
END_TEST

/* --- write back --------------------------------------------------------------------------------------------------- */

struct writer {
	pthread_t thread;
	struct ramfile *file;
	_Atomic bool in;
};

static void *write_back(void *arg)
{
	struct writer *writer = arg;

	room_begin_write_back(writer->file, BLOCK, true);
	atomic_store(&writer->in, true);
	room_end_write_back(engine, BLOCK);
	return NULL;
}

static void begin(struct writer *writer, struct ramfile *of)
{
	*writer = (struct writer){ .file = of };
	ck_assert_int_eq(pthread_create(&writer->thread, NULL, write_back, writer), 0);
}

static void stage(struct ramfile *of, uint64_t blocks)
{
	file_force(of, blocks);
	atomic_store(&of->cache.was_cached, true);
}

static void unstage(struct ramfile *of, uint64_t blocks)
{
	file_release(of, blocks);
}

/* One that is full for ever, and one that is held for a while: each waits for itself, and a third for none. */
START_TEST(who_is_full_stands_before_nobody_else)
{
	struct tenant_share small = full(), rated = { .max_bytes = UINT64_MAX, .per_s = { 0, 0, 1 << 20 } };
	struct writer waits, held, free_one;
	bool ran = engine->thread_runs;

	tenant_add(engine, &tenant[0], NULL, &small);
	tenant_add(engine, &tenant[1], NULL, &rated);
	tenant_place(file[0], &tenant[0]);
	tenant_place(file[1], &tenant[1]);
	ck_assert_int_eq(ramfile_write(file[0], data, BLOCK / 2, 0, true), 0);
	tenant[1].held_until_ns = UINT64_MAX; /* what it may write is used up */
	ck_assert(claim_stays(file[0]));
	stage(file[0], BUDGET_BLOCKS / 2 + 8);
	stage(file[1], 8);
	budget_force(&engine->budget, (BUDGET_BLOCKS / 2 - 8 - 8) * BLOCK); /* DRAM is short */
	engine->thread_runs = true;
	begin(&waits, file[0]);
	begin(&held, file[1]);
	begin(&free_one, file[2]);
	pthread_join(held.thread, NULL);
	pthread_join(free_one.thread, NULL);
	while (!room_waiting_writes(engine))
		clock_sleep(NS_PER_MS);
	ck_assert(!atomic_load(&waits.in));
	unstage(file[0], BUDGET_BLOCKS / 2 + 8);
	pthread_join(waits.thread, NULL);
	ck_assert_uint_eq(room_waiting_writes(engine), 0);
	engine->thread_runs = ran;
	unstage(file[1], 8);
	budget_release(&engine->budget, (BUDGET_BLOCKS / 2 - 8 - 8) * BLOCK);
}
END_TEST

/* --- the tree ----------------------------------------------------------------------------------------------------- */

static uint64_t state;

static uint64_t rnd(uint64_t below)
{
	state = state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
	return (state >> 33) % below;
}

static bool there[TENANTS];
static size_t place[FILES]; /* a tenant; TENANTS: none */
static uint64_t has[FILES];

static bool is_leaf(size_t at)
{
	for (size_t i = 0; i < TENANTS; i++)
		if (there[i] && tenant[i].up == &tenant[at])
			return false;
	return true;
}

static bool is_empty(size_t at)
{
	for (size_t i = 0; i < FILES; i++)
		if (place[i] == at)
			return false;
	return true;
}

static struct tenant *any(size_t but)
{
	size_t at = rnd(TENANTS);

	return at != but && there[at] ? &tenant[at] : NULL;
}

static struct tenant_share any_share(void)
{
	return (struct tenant_share){ .max_bytes = UINT64_MAX,
				      .min_bytes = rnd(2) * rnd(20) * BLOCK,
				      .weight = (uint32_t)(rnd(3) ? 0 : 1 + rnd(100)),
				      .per_s = { rnd(4) ? 0 : 1 << 20 },
				      .disk_bytes = rnd(2) ? 0 : (1 + rnd(30)) * BLOCK };
}

static void step(void)
{
	size_t at = rnd(TENANTS), of = rnd(FILES);
	struct tenant_share share = any_share();
	uint64_t blocks = 1 + rnd(8);
	bool near;

	switch (rnd(8)) {
	case 0:
	case 1:
		if (there[at])
			break;
		tenant_add(engine, &tenant[at], any(at), &share);
		there[at] = true;
		break;
	case 2:
		if (!there[at] || !is_leaf(at) || !is_empty(at))
			break;
		tenant_remove(engine, &tenant[at]);
		there[at] = false;
		break;
	case 3:
		if (there[at] && is_leaf(at))
			tenant_move(engine, &tenant[at], any(at), &share);
		break;
	case 4:
		place[of] = there[at] ? at : TENANTS;
		tenant_place(file[of], there[at] ? &tenant[at] : NULL);
		break;
	case 5:
		ck_assert_int_eq(ramfile_discard(file[of], 0, UINT64_MAX), 0);
		break;
	case 6:
		ramfile_write(file[of], data, blocks * BLOCK, rnd(32) * BLOCK, true);
		break;
	default:
		if (tenant_charge(file[of], blocks * BLOCK, BUDGET_MUST, &near)) {
			has[of] += blocks;
		} else if (has[of]) {
			tenant_discharge(file[of], has[of] * BLOCK);
			has[of] = 0;
		}
	}
}

/* All that follows from the rest. */
struct summary {
	uint64_t used, promised, below, stored, claim, claim_below, unmet, unmet_below;
	unsigned int weighing, depth;
};

static struct summary summary_of(size_t at)
{
	const struct tenant *one = &tenant[at];

	return (struct summary){ .used = one->used_bytes,
				 .promised = one->promised_bytes,
				 .below = one->below_bytes,
				 .stored = one->disk.bytes,
				 .claim = one->claim.bytes,
				 .claim_below = one->claim.below_bytes,
				 .unmet = one->claim.unmet_bytes,
				 .unmet_below = one->claim.unmet_below_bytes,
				 .weighing = one->weighing,
				 .depth = one->depth };
}

static void make_anew(void)
{
	tenants_begin(engine);
	for (size_t i = 0; i < TENANTS; i++)
		if (there[i]) {
			struct tenant_share share = tenant[i].share;

			tenants_put(engine, &tenant[i], tenant[i].up, &share);
		}
	for (size_t i = 0; i < FILES; i++)
		tenants_place(file[i], place[i] == TENANTS ? NULL : &tenant[place[i]]);
	tenants_end(engine);
}

static void compare(int at_step)
{
	struct summary before[TENANTS];
	uint64_t claimed = engine->tenants.claimed_bytes;
	unsigned int counts[3] = { engine->tenants.weighing, engine->tenants.limiting, engine->tenants.quoting };
	bool quotas = engine->tenants.quotas, limits = engine->tenants.limits;

	memset(before, 0, sizeof(before));
	for (size_t i = 0; i < TENANTS; i++)
		before[i] = summary_of(i);
	make_anew();
	for (size_t i = 0; i < TENANTS; i++) {
		struct summary after = summary_of(i);
		uint64_t used;

		ck_assert_msg(!there[i] || !memcmp(&before[i], &after, sizeof(after)), "step %d, tenant %zu", at_step,
			      i);
		ck_assert_int_eq(tenant_used(engine, tenant[i].ino, &used), there[i] ? 0 : -ENOENT);
	}
	ck_assert_uint_eq(claimed, engine->tenants.claimed_bytes);
	ck_assert_uint_eq(counts[0], engine->tenants.weighing);
	ck_assert_uint_eq(counts[1], engine->tenants.limiting);
	ck_assert_uint_eq(counts[2], engine->tenants.quoting);
	ck_assert_int_eq(quotas, engine->tenants.quotas);
	ck_assert_int_eq(limits, engine->tenants.limits);
}

START_TEST(a_tree_changed_by_one_is_the_one_made_anew)
{
	const char *text = getenv("TIERFS_SEED");

	state = text ? strtoull(text, NULL, 0) : clock_ns();
	printf("TIERFS_SEED=%llu\n", (unsigned long long)state);
	for (size_t i = 0; i < FILES; i++)
		place[i] = TENANTS;
	for (int i = 0; i < 3000; i++) {
		step();
		compare(i);
	}
	for (size_t i = 0; i < FILES; i++)
		tenant_discharge(file[i], has[i] * BLOCK);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("claim");
	TCase *tests = tcase_create("claim");

	tcase_add_checked_fixture(tests, setup, teardown);
	tcase_set_timeout(tests, 60);
	tcase_add_test(tests, who_stores_nothing_breaks_no_promise);
	tcase_add_test(tests, a_call_does_not_use_up_what_memory_needs);
	tcase_add_test(tests, who_waits_is_told);
	tcase_add_test(tests, who_is_full_stands_before_nobody_else);
	tcase_add_test(tests, a_tree_changed_by_one_is_the_one_made_anew);
	suite_add_tcase(suite, tests);
	return check_run(suite);
}
