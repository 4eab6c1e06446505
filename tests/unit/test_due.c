/* Who is scanned, and when: what a turn of the scanner visits is counted, whatever it takes. Files are many, and of
 * nearly all there is nothing to do. The engine is real, the processes that map files and the store are simulated. */
#include <check.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>

#include "../lib/lib_process.h"
#include "../lib/lib_scratch.h"
#include "../lib/lib_store_mem.h"
#include "base/clock.h"
#include "engine/cache.h"
#include "engine/due.h"
#include "engine/engine.h"
#include "engine/file.h"
#include "engine/ramfile.h"
#include "engine/room.h"
#include "engine/tenant.h"
#include "engine/write.h"
#include "policy/demand.h"
#include "policy/demoter.h"
#include "policy/scan.h"
#include "policy/tiering.h"
#include "lib_check.h"

#define BLOCK 16384U
#define FILES 1000U
#define FEW 120U
#define BUSY 50U
#define BUSY_BLOCKS 4U
#define FILE_BYTES ((UINT64_C(2) << 40) / FILES / BLOCK * BLOCK)
#define BUDGET_BLOCKS 4096U
#define RESERVE_BLOCKS (BUDGET_BLOCKS / 16)
#define MIN_IDLE_NS (40 * NS_PER_MS)
#define QUICK_NS (MIN_IDLE_NS / 2)

static struct scratch scratch;
static int arena_dir;
static struct store *store;
static struct engine *engine;
static unsigned int files;
static struct ramfile *file[FILES];
static struct process *process[FILES];

/* The first files are mapped and have something in DRAM; of the others half is mapped, and a few have something in DRAM
 * that nobody maps. */
static void world_new(unsigned int count)
{
	struct engine_config config = { .block_bytes = BLOCK,
					.dram_bytes = (uint64_t)BUDGET_BLOCKS * BLOCK,
					.min_idle_ns = MIN_IDLE_NS,
					.level = 1 };
	struct rlimit limit;
	uint8_t data[BLOCK] = { 1 };

	ck_assert_int_eq(getrlimit(RLIMIT_NOFILE, &limit), 0);
	limit.rlim_cur = limit.rlim_max;
	ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &limit), 0);
	ck_assert_uint_gt(limit.rlim_cur, 2 * FILES + 100);
	files = count;
	scratch_new(&scratch, "due");
	arena_dir = open(scratch.path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	ck_assert_int_eq(store_mem_new(&store), 0);
	config.store = store;
	config.arena_dir = arena_dir;
	ck_assert_int_eq(tiering_new(&config, &engine), 0);
	for (unsigned int i = 0; i < files; i++) {
		ck_assert_int_eq(ramfile_load(engine, 100 + i, FILE_BYTES, false, &file[i]), 0);
		process[i] = NULL;
		if (i < BUSY || i % 2)
			ck_assert_int_eq(process_map(file[i], 1, &process[i]), 0);
		else if (i >= files - 20)
			ck_assert_int_eq(ramfile_write(file[i], data, BLOCK, 0, false), 0);
	}
}

static void many(void)
{
	world_new(FILES);
}

static void few(void)
{
	world_new(FEW);
}

static void teardown(void)
{
	for (unsigned int i = 0; i < files; i++) {
		if (process[i])
			process_unmap(process[i]);
		ramfile_unload(file[i]);
	}
	ck_assert_uint_eq(due_count(engine), 0);
	tiering_free(engine);
	store->ops->free(store);
	close(arena_dir);
	scratch_free(&scratch);
}

static void touch(unsigned int i, uint64_t first, uint64_t end)
{
	for (uint64_t block = first; block < end; block++) {
		uint64_t word = block + 1;

		ck_assert(process_touch(process[i], block * BLOCK, &word, sizeof(word), true));
	}
}

static void touch_busy(void)
{
	for (unsigned int i = 0; i < BUSY; i++)
		touch(i, 0, BUSY_BLOCKS);
}

static void answer(void)
{
	for (unsigned int i = 0; i < files; i++)
		if (process[i])
			process_run_agent(process[i]);
}

struct visits {
	uint64_t files, blocks;
};

/* What a turn visits. */
static struct visits turn(void)
{
	struct tiering_figures before, after;

	tiering_figures(engine, &before);
	demoter_step(engine);
	tiering_figures(engine, &after);
	return (struct visits){ after.scans - before.scans, after.visited_blocks - before.visited_blocks };
}

START_TEST(a_turn_visits_what_is_due)
{
	struct visits visits;

	ck_assert_uint_eq(due_count(engine), 0);
	visits = turn();
	ck_assert_uint_eq(visits.files + visits.blocks, 0);
	touch_busy();
	ck_assert_uint_eq(due_count(engine), BUSY);
	/* A zap of each: the chunk that it has. */
	visits = turn();
	ck_assert_uint_eq(visits.files, BUSY);
	ck_assert_uint_eq(visits.blocks, BUSY * BLOCKS_CHUNK);
	/* Nothing is due for long. */
	ck_assert_uint_gt(due_next(engine), clock_ns() + QUICK_NS);
	visits = turn();
	ck_assert_uint_eq(visits.files + visits.blocks, 0);
	/* An answer brings its file, and no other. */
	process_run_agent(process[7]);
	visits = turn();
	ck_assert_uint_eq(visits.files, 1);
	ck_assert_uint_eq(visits.blocks, 0);
	answer();
	ck_assert_uint_eq(turn().files, BUSY - 1);
	ck_assert_uint_eq(turn().files, 0);
}
END_TEST

START_TEST(a_file_comes_when_it_has_something_to_show_and_goes_when_it_has_not)
{
	uint8_t data[BLOCK] = { 1 };
	unsigned int mapped = BUSY + 1, unmapped = BUSY + 2;

	/* The first block, and the last one. */
	touch(mapped, 0, 1);
	ck_assert_uint_eq(due_count(engine), 1);
	ck_assert_uint_eq(turn().files, 1);
	ck_assert_int_eq(ramfile_discard(file[mapped], 0, FILE_BYTES), 0);
	ck_assert_uint_eq(due_count(engine), 0);
	touch(mapped, 0, 1);
	ck_assert_uint_eq(due_count(engine), 1);
	/* A mapper, and its end. */
	ck_assert_int_eq(ramfile_write(file[unmapped], data, BLOCK, 0, false), 0);
	ck_assert_uint_eq(due_count(engine), 1);
	ck_assert_int_eq(process_map(file[unmapped], 1, &process[unmapped]), 0);
	ck_assert_uint_eq(due_count(engine), 2);
	process_unmap(process[unmapped]);
	process[unmapped] = NULL;
	ck_assert_uint_eq(due_count(engine), 1);
	/* The kernel's cache. */
	ck_assert_int_ne(cache_open_file(file[unmapped]), CACHE_NO);
	cache_set(file[unmapped], 0, 1, (uint8_t[]){ 1 }, NULL);
	ck_assert_uint_eq(due_count(engine), 2);
	cache_set(file[unmapped], 0, 1, (uint8_t[]){ 0 }, NULL);
	turn();
	ck_assert_uint_eq(due_count(engine), 1);
	cache_close_file(file[unmapped]);
	/* The file itself. */
	process_unmap(process[mapped]);
	process[mapped] = NULL;
	ck_assert_int_eq(process_map(file[mapped], 1, &process[mapped]), 0);
	ck_assert_uint_eq(due_count(engine), 1);
	process_unmap(process[mapped]);
	process[mapped] = NULL;
	ramfile_unload(file[mapped]);
	ck_assert_uint_eq(due_count(engine), 0);
	ck_assert_int_eq(ramfile_load(engine, 100 + mapped, FILE_BYTES, false, &file[mapped]), 0);
}
END_TEST

START_TEST(who_is_asked_for_proof_is_due_alone)
{
	struct visits visits;

	touch_busy();
	turn();
	answer();
	turn();
	scan_want_proof(file[3]);
	visits = turn();
	ck_assert_uint_eq(visits.files, 1);
	ck_assert_uint_eq(turn().files, 0);
	scan_want_proof(file[BUSY + 1]); /* nothing of it is in DRAM */
	ck_assert_uint_eq(turn().files, 0);
}
END_TEST

/* A turn at which nothing is asked but what is due by its time, if that came meanwhile. */
static void quiet_turn(void)
{
	uint64_t due_ns = due_next(engine), visited = turn().files;

	if (clock_ns() < due_ns)
		ck_assert_uint_eq(visited, 0);
}

/* Each of them is asked once more, and no other. */
START_TEST(all_are_asked_again_when_the_pace_rises)
{
	uint64_t bytes = budget_free(engine_budget(engine)) - 2 * RESERVE_BLOCKS * BLOCK;
	uint64_t raised_ns;

	touch_busy();
	turn();
	answer();
	turn();
	budget_force(engine_budget(engine), bytes); /* the budget is near */
	ck_assert_uint_eq(turn().files, BUSY);
	quiet_turn();
	budget_release(engine_budget(engine), bytes);
	quiet_turn(); /* slower: what was said holds */
	raised_ns = engine->demoter->raised_ns;
	while (clock_ns() < raised_ns + QUICK_NS)
		clock_sleep(NS_PER_MS);
	ck_assert_int_eq(tiering_set_min_idle(engine, MIN_IDLE_NS), 0);
	ck_assert_uint_eq(turn().files, BUSY);
	quiet_turn();
	/* One right after the other waits: who comes and goes quickly does not have all of them asked all the time. */
	raised_ns = engine->demoter->raised_ns;
	ck_assert_int_eq(tiering_set_min_idle(engine, MIN_IDLE_NS), 0);
	while (engine->demoter->raised_ns == raised_ns) {
		turn();
		clock_sleep(NS_PER_MS);
	}
	ck_assert_uint_ge(engine->demoter->raised_ns, raised_ns + QUICK_NS / 2);
}
END_TEST

static uint64_t due_at(unsigned int i)
{
	uint64_t at_ns;

	lock_get(&engine->dues.lock);
	at_ns = file[i]->due.at_ns;
	lock_put(&engine->dues.lock);
	return at_ns;
}

/* The files from there on are charged to a tenant each. */
static void plant(struct tenant *tenant, unsigned int first, unsigned int count, const struct tenant_share *share)
{
	tenants_begin(engine);
	for (unsigned int i = 0; i < count; i++) {
		tenant[i].ino = 100 + first + i;
		tenants_put(engine, &tenant[i], NULL, share);
		tenants_place(file[first + i], &tenant[i]);
	}
	tenants_end(engine);
}

static void fell(unsigned int first, unsigned int count)
{
	for (unsigned int i = 0; i < count; i++)
		tenant_place(file[first + i], NULL);
	tenants_begin(engine);
	tenants_end(engine);
}

static void raise_max(unsigned int at)
{
	fell(at, 1);
	room_look_again(engine, true);
	demoter_step(engine);
}

/* Whoever is pulled is asked before it would be by itself. A time that has come by itself shows nothing: once more. */
static void await_pulled(unsigned int at, void (*pull)(unsigned int at))
{
	uint64_t before_ns, raised_ns;

	do {
		raise_max(at);
		while (due_at(at) < clock_ns() + NS_PER_S) { /* until it is at the slow pace */
			answer();
			touch(at, 0, BUSY_BLOCKS);
			turn();
			clock_sleep(NS_PER_MS);
		}
		before_ns = due_at(at);
		raised_ns = engine->demoter->raised_ns;
		pull(at);
		while (engine->demoter->raised_ns == raised_ns && clock_ns() < before_ns) {
			turn();
			clock_sleep(NS_PER_MS);
		}
	} while (clock_ns() + 2 * QUICK_NS >= before_ns);
	ck_assert_uint_lt(due_at(at), before_ns);
}

static void lower_max(unsigned int at)
{
	static struct tenant tenant[1];

	plant(tenant, at, 1, &(struct tenant_share){ .max_bytes = UINT64_MAX });
	plant(tenant, at, 1, &(struct tenant_share){ .max_bytes = BLOCK });
	room_look_again(engine, true);
}

static void move_under_max(unsigned int at)
{
	static struct tenant tenant[1];

	plant(tenant, at, 1, &(struct tenant_share){ .max_bytes = BLOCK });
	tenant_place(file[at], NULL);
	ck_assert(tenant_place(file[at], tenant));
	room_look_again(engine, true);
}

/* A max becomes less than what is used, by itself or by a move, or comes near: its files are asked, and no others. */
START_TEST(whose_max_is_near_is_asked_alone)
{
	static struct tenant tenant[1];
	uint64_t others_ns;
	bool near;

	touch_busy();
	turn();
	answer();
	turn();
	others_ns = due_at(4);
	await_pulled(3, lower_max);
	raise_max(3);
	await_pulled(5, move_under_max);
	raise_max(5);
	if (clock_ns() < others_ns)
		ck_assert_uint_eq(due_at(4), others_ns);
	/* Who only asks does not make it known. */
	plant(tenant, 6, 1, &(struct tenant_share){ .max_bytes = BLOCK });
	ck_assert_uint_gt(tenant_missing(file[6]), 0);
	near = tenant_charge_anyway(file[6], BLOCK);
	ck_assert(near);
	ck_assert(!tenant_charge_anyway(file[6], BLOCK));
	tenant_discharge(file[6], 2 * BLOCK);
	fell(6, 1);
}
END_TEST

/* Somebody pays, and this one has little more than was promised to it. */
static void spare(unsigned int at, struct tenant *tenant)
{
	plant(tenant, at, 1, &(struct tenant_share){ .min_bytes = 64 * BLOCK, .max_bytes = UINT64_MAX });
	tenant_pays(file[0], 0, UINT64_MAX);
}

/* Who was spared goes at the quick pace as soon as others do not pay any more, and room is short. */
START_TEST(who_is_not_spared_any_more_is_asked)
{
	static struct tenant tenant[1];
	uint64_t bytes, slow_ns = 0;
	bool shown = false;

	touch_busy();
	turn();
	answer();
	turn();
	bytes = budget_free(engine_budget(engine)) - RESERVE_BLOCKS / 3 * BLOCK;
	budget_force(engine_budget(engine), bytes);
	while (!shown) {
		spare(1, tenant);
		due_pull_all(engine);
		while (!file[1]->due.spared) {
			tenant_pays(file[0], 0, UINT64_MAX); /* who gives is noted, too, and for short */
			answer();
			touch(1, 0, BUSY_BLOCKS); /* it is in use, and stays */
			turn();
			clock_sleep(NS_PER_MS);
		}
		slow_ns = due_at(1);
		tenant_pays(file[0], 0, 0);
		while (file[1]->due.spared) {
			turn();
			clock_sleep(NS_PER_MS);
		}
		shown = clock_ns() < slow_ns; /* else it came by itself */
	}
	budget_release(engine_budget(engine), bytes);
	fell(1, 1);
}
END_TEST

/* All is in use, and room is short: that nothing can be had is known without a walk. Then one file has something. */
START_TEST(who_looks_for_room_walks_only_where_there_is_some)
{
	uint64_t bytes;

	for (unsigned int i = files - 20; i < files; i++)
		if (!process[i])
			ck_assert_int_eq(ramfile_discard(file[i], 0, FILE_BYTES), 0);
	touch_busy();
	turn();
	bytes = budget_free(engine_budget(engine)) - RESERVE_BLOCKS / 4 * BLOCK;
	budget_force(engine_budget(engine), bytes);
	engine->room.waiters++; /* somebody needs it all */
	turn();
	for (int i = 0; i < 4; i++)
		ck_assert_uint_eq(turn().blocks, 0);
	process_run_agent(process[7]);
	while (atomic_load(&file[7]->dram_blocks)) {
		clock_sleep(QUICK_NS);
		/* A look, a zap, and what it costs to find the blocks. */
		ck_assert_uint_le(turn().blocks, 4 * BLOCKS_CHUNK);
	}
	ck_assert_uint_ge(atomic_load(&file[7]->counts.demotions), BUSY_BLOCKS);
	engine->room.waiters--;
	budget_release(engine_budget(engine), bytes);
}
END_TEST

/* So many rounds ago it fell asleep, and a little more. Returns a time at which it was exactly so many. */
static uint64_t sleep_for(unsigned int at, uint64_t rounds)
{
	uint64_t now_ns;

	lock_get(&engine->dues.lock);
	ck_assert(file[at]->due.sleeps);
	file[at]->due.asleep_ns -= rounds * DUE_ROUND_NS;
	now_ns = file[at]->due.asleep_ns;
	lock_put(&engine->dues.lock);
	return now_ns;
}

static unsigned int age_of(unsigned int at, uint64_t block)
{
	unsigned int age;

	lock_get(&file[at]->lock);
	file_visit(file[at], clock_ns());
	age = heat_age(&file[at]->blocks, block);
	lock_put(&file[at]->lock);
	return age;
}

/* Blocks of a file that nobody maps are not visited, and are taken for as old as it is asleep. */
START_TEST(who_sleeps_grows_older)
{
	uint8_t data[BLOCK] = { 1 };
	unsigned int at = BUSY + 2;
	uint64_t now_ns, asleep_ns, before_ns;

	ck_assert_int_eq(ramfile_write(file[at], data, BLOCK, 0, true), 0); /* cold */
	ck_assert_int_eq(process_map(file[at], 1, &process[at]), 0);
	now_ns = sleep_for(at, 10) + 10 * DUE_ROUND_NS;
	ck_assert_uint_eq(due_asleep(file[at], now_ns), 10);
	lock_get(&file[at]->lock);
	file_visit(file[at], now_ns);
	ck_assert_uint_eq(heat_age(&file[at]->blocks, 0), 10);
	file_visit(file[at], now_ns);
	ck_assert_uint_eq(heat_age(&file[at]->blocks, 0), 10);
	lock_put(&file[at]->lock);
	asleep_ns = sleep_for(at, 5);
	before_ns = clock_ns();
	touch(at, 1, 2); /* it wakes */
	ck_assert_uint_eq(due_asleep(file[at], clock_ns()), 0);
	turn();
	ck_assert_uint_ge(heat_age(&file[at]->blocks, 0), (before_ns - asleep_ns) / DUE_ROUND_NS);
	ck_assert_uint_le(heat_age(&file[at]->blocks, 0), (clock_ns() - asleep_ns) / DUE_ROUND_NS);
	ck_assert_uint_ge(heat_age(&file[at]->blocks, 0), 15);
}
END_TEST

/* What the daemon writes, or brings into DRAM, while the file sleeps is not as old as its sleep. */
START_TEST(what_comes_while_a_file_sleeps_is_young)
{
	uint8_t data[BLOCK] = { 1 };
	unsigned int at = BUSY + 2;
	struct heat_filter filter = { 0 };
	uint64_t in_class[HEAT_CLASSES] = { 0 }, old = 0;
	size_t length;

	ck_assert_int_eq(ramfile_write(file[at], data, BLOCK, 0, false), 0);
	for (uint64_t block = 1; block < 6; block++)
		ck_assert_int_eq(ramfile_write(file[at], data, BLOCK, block * BLOCK, true), 0);
	sleep_for(at, 100);
	ck_assert_int_eq(ramfile_write(file[at], data, BLOCK, 10 * BLOCK, false), 0); /* a hole */
	ck_assert_int_eq(ramfile_write(file[at], data, 100, BLOCK, false), 0);        /* what is cold comes in */
	ck_assert_int_eq(ramfile_write(file[at], data, BLOCK, 11 * BLOCK, true), 0);  /* a hole, to the store */
	ck_assert_uint_ge(age_of(at, 0), 100);
	ck_assert_uint_lt(age_of(at, 10), 50);
	ck_assert_uint_lt(age_of(at, 1), 50);
	ck_assert_uint_lt(age_of(at, 11), 50);
	ck_assert_uint_ge(age_of(at, 2), 100);
	/* And the choice sees it so. */
	lock_get(&file[at]->lock);
	filter.now_ns = clock_ns();
	filter.slept = due_asleep(file[at], filter.now_ns);
	heat_census(&file[at]->heat, &file[at]->blocks, &filter, in_class);
	for (unsigned int class = 50 * BLOCK_TIERS; class < HEAT_CLASSES; class ++)
		old += in_class[class];
	ck_assert_uint_eq(old, 1);
	/* It was away for long when it came back. */
	ck_assert_uint_eq(blocks_tier(&file[at]->blocks, 1), 0);
	lock_put(&file[at]->lock);
	sleep_for(at, 20);
	ck_assert_uint_ge(age_of(at, 1), 20);
	/* The kernel's cache brings it in. */
	sleep_for(at, 50);
	ck_assert_int_ne(cache_open_file(file[at]), CACHE_NO);
	ck_assert_int_eq(cache_fill(file[at], data, BLOCK, 2 * BLOCK, &length), 0);
	ck_assert_uint_lt(age_of(at, 2), 20);
	ck_assert_uint_eq(blocks_tier(&file[at]->blocks, 2), 0);
	cache_close_file(file[at]);
}
END_TEST

/* What was young when the file fell asleep is as old as its sleep where it is asked: by who maps it, and in the store.
 */
START_TEST(what_was_young_is_as_old_as_the_sleep)
{
	struct file_done done;
	unsigned int at = 3;

	touch(at, 0, 2);
	process_unmap(process[at]);
	process[at] = NULL;
	sleep_for(at, 30);
	ck_assert_int_eq(demand_demote(file[at], 0, BLOCK, NULL, NULL, &done), 0);
	ck_assert_uint_eq(done.done_bytes, BLOCK);
	ck_assert_uint_ge(age_of(at, 0), 30);
	ck_assert_int_eq(process_map(file[at], 1, &process[at]), 0);
	ck_assert_uint_ge(age_of(at, 1), 30);
	ck_assert_uint_eq(file[at]->blocks.born[1], 0); /* which proves nothing */
}
END_TEST

/* Nor does a reader by a plain mapping make all of it young. */
START_TEST(a_plain_open_leaves_the_age_of_the_sleep)
{
	unsigned int at = 3;

	touch(at, 0, 2);
	process_unmap(process[at]);
	process[at] = NULL;
	sleep_for(at, 30);
	ck_assert_int_ne(cache_open_file(file[at]), CACHE_NO);
	cache_set(file[at], 0, 1, (uint8_t[]){ 1 }, NULL);
	ck_assert_uint_ge(age_of(at, 1), 30);
	cache_set(file[at], 0, 1, (uint8_t[]){ 0 }, NULL);
	cache_close_file(file[at]);
}
END_TEST

/* A block that is being changed while somebody attaches is not known to be absent in the newcomer either. */
START_TEST(who_attaches_doubts_what_is_changing)
{
	uint8_t data[BLOCK] = { 1 };
	unsigned int at = BUSY + 2;

	ck_assert_int_eq(ramfile_write(file[at], data, BLOCK, 0, false), 0);
	lock_get(&file[at]->lock);
	ck_assert_uint_ne(file[at]->blocks.born[0], 0);
	ck_assert_int_eq(file_begin_update(file[at], 0), BLOCK_RESIDENT);
	lock_put(&file[at]->lock);
	ck_assert_int_eq(process_map(file[at], 1, &process[at]), 0);
	file_end_update(file[at], 0, BLOCK_RESIDENT);
	lock_get(&file[at]->lock);
	ck_assert_uint_eq(file[at]->blocks.born[0], 0);
	lock_put(&file[at]->lock);
}
END_TEST

static struct file_done demoted;

static void *demote_main(void *arg)
{
	ck_assert_int_eq(demand_demote(arg, 0, UINT64_MAX, NULL, NULL, &demoted), 0);
	return NULL;
}

/* Who waits for what is in use to show itself does not wait for a process that is gone, and takes all then. That the
 * process still had the arena when it was asked for the last time shows nothing: once more. */
START_TEST(a_demotion_does_not_wait_for_who_has_gone)
{
	unsigned int at = 3;
	uint64_t there;

	do {
		bool waits = false;
		pthread_t thread;

		if (!process[at])
			ck_assert_int_eq(process_map(file[at], 1, &process[at]), 0);
		touch(at, 0, BUSY_BLOCKS);
		there = atomic_load(&file[at]->dram_blocks);
		ck_assert_int_eq(pthread_create(&thread, NULL, demote_main, file[at]), 0);
		while (!waits) {
			lock_get(&file[at]->lock);
			waits = file[at]->rounds.wanted;
			lock_put(&file[at]->lock);
			clock_sleep(NS_PER_MS);
		}
		process_unmap(process[at]);
		process[at] = NULL;
		ck_assert_int_eq(pthread_join(thread, NULL), 0);
	} while (demoted.done_bytes != there * BLOCK);
	ck_assert_uint_eq(demoted.skipped_bytes, 0);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("due");
	TCase *tests = tcase_create("due");
	TCase *rest = tcase_create("rest");

	tcase_set_timeout(tests, 120);
	tcase_add_checked_fixture(tests, many, teardown);
	tcase_add_test(tests, a_turn_visits_what_is_due);
	tcase_add_test(tests, who_looks_for_room_walks_only_where_there_is_some);
	suite_add_tcase(suite, tests);
	tcase_set_timeout(rest, 120);
	tcase_add_checked_fixture(rest, few, teardown);
	tcase_add_test(rest, a_file_comes_when_it_has_something_to_show_and_goes_when_it_has_not);
	tcase_add_test(rest, who_is_asked_for_proof_is_due_alone);
	tcase_add_test(rest, all_are_asked_again_when_the_pace_rises);
	tcase_add_test(rest, whose_max_is_near_is_asked_alone);
	tcase_add_test(rest, who_is_not_spared_any_more_is_asked);
	tcase_add_test(rest, who_sleeps_grows_older);
	tcase_add_test(rest, what_comes_while_a_file_sleeps_is_young);
	tcase_add_test(rest, what_was_young_is_as_old_as_the_sleep);
	tcase_add_test(rest, a_plain_open_leaves_the_age_of_the_sleep);
	tcase_add_test(rest, who_attaches_doubts_what_is_changing);
	tcase_add_test(rest, a_demotion_does_not_wait_for_who_has_gone);
	suite_add_tcase(suite, rest);
	return check_run(suite);
}
