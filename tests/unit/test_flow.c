/* Limits of what goes to the store and comes from it: the clock, whose turn it is, who waits and who does not; and that
 * each value is counted once, for what it was read or written. The engine is real, the processes that map files and the
 * store are simulated; time is real, and what is asserted of it holds on a slow machine, too. */
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../lib/lib_process.h"
#include "../lib/lib_scratch.h"
#include "../lib/lib_store_mem.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "engine/interrupt.h"
#include "engine/engine.h"
#include "engine/fault.h"
#include "engine/file.h"
#include "engine/flow.h"
#include "engine/ramfile.h"
#include "engine/rate.h"
#include "engine/read.h"
#include "engine/tenant.h"
#include "engine/write.h"
#include "policy/demand.h"
#include "policy/demoter.h"
#include "policy/tiering.h"
#include "lib_check.h"

#define BLOCK 16384U
#define BUDGET_BLOCKS 256U
#define FILE_BLOCKS 512U
#define NEVER (3600 * NS_PER_S)

static struct scratch scratch;
static int arena_dir;
static struct store *store;
static struct engine *engine;
static struct ramfile *file, *other;
static struct tenant tenant = { .ino = 2 }, above = { .ino = 1 };
static uint8_t data[64 * BLOCK];

static void setup(void)
{
	struct engine_config config = {
		.block_bytes = BLOCK, .dram_bytes = BUDGET_BLOCKS * BLOCK, .min_idle_ns = NS_PER_MS, .level = 1
	};

	scratch_new(&scratch, "flow");
	arena_dir = open(scratch.path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	ck_assert_int_ge(arena_dir, 0);
	ck_assert_int_eq(store_mem_new(&store), 0);
	config.store = store;
	config.arena_dir = arena_dir;
	ck_assert_int_eq(tiering_new(&config, &engine), 0);
	ck_assert_int_eq(ramfile_load(engine, 10, (uint64_t)FILE_BLOCKS * BLOCK, false, &file), 0);
	ck_assert_int_eq(ramfile_load(engine, 11, (uint64_t)FILE_BLOCKS * BLOCK, false, &other), 0);
	for (size_t i = 0; i < sizeof(data); i++)
		data[i] = (uint8_t)(i / 7 + i / BLOCK);
	tenant = (struct tenant){ .ino = 2 };
	above = (struct tenant){ .ino = 1 };
}

/* Both files live in the tenant, which lives below the other one. */
static void limit(const uint64_t per_s[FLOW_LIMITS], const uint64_t above_per_s[FLOW_LIMITS])
{
	struct tenant_share share = { .max_bytes = UINT64_MAX }, above_share = share;

	memcpy(share.per_s, per_s, sizeof(share.per_s));
	memcpy(above_share.per_s, above_per_s, sizeof(share.per_s));
	tenants_begin(engine);
	tenants_put(engine, &above, NULL, &above_share);
	tenants_put(engine, &tenant, &above, &share);
	tenants_place(file, &tenant);
	tenants_place(other, &above);
	tenants_end(engine);
}

/* What may be read was used up for so long. */
static void owe(struct tenant *by, uint64_t ns)
{
	lock_get(&engine->tenants.lock);
	by->rate[FLOW_READ_OPS].urgent_ns = by->rate[FLOW_READ_OPS].all_ns = clock_ns() + ns;
	lock_put(&engine->tenants.lock);
}

static void lift(void)
{
	tenants_begin(engine);
	tenants_place(file, NULL);
	tenants_place(other, NULL);
	tenants_end(engine);
}

static void teardown(void)
{
	lift();
	ramfile_unload(file);
	ramfile_unload(other);
	tiering_free(engine);
	store->ops->free(store);
	close(arena_dir);
	scratch_free(&scratch);
}

static void write_cold(struct ramfile *to, uint64_t first, uint64_t blocks)
{
	for (uint64_t done = 0; done < blocks; done += 64) {
		uint64_t now = blocks - done < 64 ? blocks - done : 64;

		ck_assert_int_eq(ramfile_write(to, data, now * BLOCK, (first + done) * BLOCK, true), 0);
	}
}

static int read_blocks(struct ramfile *from, uint64_t first, uint64_t blocks)
{
	CLEANUP_FREE uint8_t *got = malloc(blocks * BLOCK);
	size_t length;
	int err = ramfile_read(from, got, blocks * BLOCK, first * BLOCK, &length);

	if (!err)
		ck_assert(!memcmp(got, data, length));
	return err;
}

/* Maps 64 cold blocks, of which so many may be read a second. */
static struct process *cold_guest(uint64_t read_iops)
{
	struct process *process;

	write_cold(file, 0, 64);
	ck_assert_int_eq(process_map(file, 1, &process), 0);
	limit((uint64_t[]){ read_iops, 0, 0 }, (uint64_t[]){ 0, 0, 0 });
	return process;
}

/* --- the clock --------------------------------------------------------------------------------------------------- */

/* Whoever takes things as soon as they are due has the rate, however large they are; and no more after a rest. */
START_TEST(a_clock_gives_its_rate)
{
	for (uint64_t amount = 1; amount <= 1000; amount *= 10)
		for (int urgent = 0; urgent < 2; urgent++) {
			struct rate rate = { 0 };
			uint64_t now = NEVER, taken = 0, end = NEVER + 10 * NS_PER_S;

			while (now < end) {
				uint64_t due = rate_due(&rate, urgent);

				if (due > now) {
					now = due + 60000; /* who sleeps wakes up late */
					continue;
				}
				rate_take(&rate, 5000, amount, urgent, now);
				taken += amount;
			}
			ck_assert_uint_ge(taken, 5000 * 10 * 95 / 100);
			ck_assert_uint_le(taken, 5000 * 10 * 102 / 100 + amount);
		}
}
END_TEST

START_TEST(what_is_urgent_goes_first)
{
	struct rate rate = { 0 };
	uint64_t now = NEVER, urgent = 0, others = 0;

	/* Both want all there is. */
	for (; now < NEVER + 10 * NS_PER_S; now += NS_PER_MS) {
		while (rate_due(&rate, false) <= now) {
			rate_take(&rate, 1000, 100, false, now);
			others += 100;
		}
		while (rate_due(&rate, true) <= now) {
			rate_take(&rate, 1000, 1, true, now);
			urgent++;
		}
	}
	ck_assert_uint_ge(urgent, 10000);
	ck_assert_uint_le(urgent, 10200);
	ck_assert_uint_le(others, 200); /* a burst and one more */
}
END_TEST

/* Of what may be written demotion has its part, and the others have theirs. */
START_TEST(what_is_urgent_in_part_leaves_the_rest)
{
	struct rate rate = { 0 };
	uint64_t now = NEVER, urgent = 0, others = 0;

	for (; now < NEVER + 10 * NS_PER_S; now += NS_PER_MS) {
		if (rate_due(&rate, false) <= now) {
			rate_take(&rate, 1000, 10, 0, now);
			others += 10;
		}
		if (rate_due(&rate, true) <= now) {
			rate_take(&rate, 1000, 10, 2, now);
			urgent += 10;
		}
	}
	ck_assert_uint_ge(urgent, 4500);
	ck_assert_uint_ge(others, 3000);
	ck_assert_uint_ge(urgent + others, 9500);
	ck_assert_uint_le(urgent + others, 10500);
}
END_TEST

/* --- who waits --------------------------------------------------------------------------------------------------- */

START_TEST(a_fault_waits_for_its_turn)
{
	struct process *process;
	uint64_t word, turned;

	process = cold_guest(10);
	ck_assert(process_touch(process, 0, &word, sizeof(word), false));
	owe(&tenant, 2 * NS_PER_S);
	ck_assert(!process_touch(process, 4 * BLOCK, &word, sizeof(word), false));
	ck_assert_uint_eq(blocks_state(&file->blocks, 4), BLOCK_COLD);
	ck_assert_uint_ge(atomic_load(&file->flow.waited), 1);
	ck_assert(!fault_resume(engine));
	turned = clock_ns() + 10 * NS_PER_S;
	while (!fault_resume(engine) && clock_ns() < turned)
		usleep(1000);
	ck_assert_uint_eq(blocks_state(&file->blocks, 4), BLOCK_RESIDENT);
	process_unmap(process);
}
END_TEST

/* It is below, and takes from what is above; who is beside it waits for that, too. */
START_TEST(a_limit_holds_for_all_below)
{
	struct process *process;
	uint64_t word;

	write_cold(file, 0, 64);
	write_cold(other, 0, 64);
	ck_assert_int_eq(process_map(other, 1, &process), 0);
	limit((uint64_t[]){ 0, 0, 0 }, (uint64_t[]){ 10, 0, 0 });
	ck_assert_int_eq(read_blocks(file, 0, 1), 0);
	ck_assert_uint_gt(above.rate[FLOW_READ_OPS].all_ns, 0);
	ck_assert(process_touch(process, 0, &word, sizeof(word), false));
	owe(&above, 20 * NS_PER_S);
	ck_assert(!process_touch(process, 4 * BLOCK, &word, sizeof(word), false));
	lift();
	process_unmap(process);
}
END_TEST

/* What others read is left out of what a fault waits for. */
START_TEST(reads_do_not_hold_up_faults)
{
	struct process *process;
	uint64_t word;

	write_cold(file, 0, 128);
	ck_assert_int_eq(process_map(file, 1, &process), 0);
	limit((uint64_t[]){ 10, 0, 0 }, (uint64_t[]){ 0, 0, 0 });
	ck_assert_int_eq(read_blocks(file, 0, 64), 0); /* 6.4 seconds */
	ck_assert(!flow_may_ahead(file));
	ck_assert(process_touch(process, 64 * BLOCK, &word, sizeof(word), false));
	lift();
	process_unmap(process);
}
END_TEST

/* A thread that a signal takes out of its wait comes again with a new event. It waits once, and nothing is taken for
 * what was not read. */
START_TEST(who_comes_again_waits_once)
{
	struct process *process;
	uint64_t word;

	process = cold_guest(10);
	owe(&tenant, 20 * NS_PER_S);
	for (int i = 0; i < 1000; i++)
		ck_assert(!process_touch(process, 4 * BLOCK, &word, sizeof(word), false));
	ck_assert_uint_eq(room_parked(engine), 1);
	ck_assert_uint_le(flow_fault_due(file), clock_ns() + 20 * NS_PER_S);
	lift();
	process_unmap(process);
	ck_assert_uint_eq(room_parked(engine), 0);
}
END_TEST

START_TEST(a_limit_that_is_taken_back_reaches_a_fault)
{
	struct process *process;
	uint64_t word;

	process = cold_guest(10);
	owe(&tenant, 20 * NS_PER_S);
	ck_assert(!process_touch(process, 0, &word, sizeof(word), false));
	ck_assert(!fault_resume(engine));
	limit((uint64_t[]){ 0, 0, 0 }, (uint64_t[]){ 0, 0, 0 });
	ck_assert(fault_resume(engine));
	ck_assert_uint_eq(room_parked(engine), 0);
	process_unmap(process);
}
END_TEST

/* It pays when it is read, not while there is no room. */
START_TEST(a_fault_without_room_keeps_no_turn)
{
	struct process *process;
	uint64_t word;

	process = cold_guest(10);
	budget_force(&engine->budget, BUDGET_BLOCKS * BLOCK);
	for (int i = 0; i < 100; i++)
		ck_assert(!process_touch(process, (uint64_t)i % 8 * BLOCK, &word, sizeof(word), false));
	budget_release(&engine->budget, BUDGET_BLOCKS * BLOCK);
	ck_assert_uint_le(flow_fault_due(file), clock_ns());
	ck_assert(fault_resume(engine));
	process_unmap(process);
}
END_TEST

static _Atomic unsigned int told;

static void on_room(void *arg)
{
	(void)arg;
	atomic_fetch_add(&told, 1);
}

/* Nothing else happens on the mount: who serves faults is told all the same. */
START_TEST(a_turn_that_comes_is_told)
{
	struct process *process;
	uint64_t word, turns = 0;

	atomic_store(&told, 0);
	ck_assert_int_eq(flows_start(engine), 0);
	room_on_room(engine, on_room, NULL);
	process = cold_guest(20);
	owe(&tenant, 3 * NS_PER_S);
	for (uint64_t block = 0; block < 20; block += 2)
		process_touch(process, block * BLOCK, &word, sizeof(word), false);
	ck_assert_uint_ge(room_parked(engine), 4);
	while (room_parked(engine)) {
		while (!atomic_exchange(&told, 0))
			usleep(1000);
		while (fault_resume(engine))
			turns++;
	}
	ck_assert_uint_ge(turns, 4);
	room_on_room(engine, NULL, NULL);
	process_unmap(process);
}
END_TEST

static bool given_up(void *arg)
{
	return atomic_load((_Atomic bool *)arg);
}

START_TEST(a_read_that_is_given_up_does_not_wait)
{
	_Atomic bool gone = false;

	write_cold(file, 0, 64);
	limit((uint64_t[]){ 10, 0, 0 }, (uint64_t[]){ 0, 0, 0 });
	ck_assert_int_eq(read_blocks(file, 0, 64), 0);
	atomic_store(&gone, true);
	interrupt_on(given_up, &gone);
	ck_assert_int_eq(read_blocks(file, 0, 64), -EINTR);
	interrupt_on(NULL, NULL);
	ck_assert_uint_eq(atomic_load(&file->flow.waiting), 0);
	ck_assert_uint_eq(atomic_load(&engine->waits[ENGINE_WAIT_LIMIT]), 0);
}
END_TEST

static void *read_all(void *arg)
{
	__atomic_store_n((int *)arg, read_blocks(file, 0, 64), __ATOMIC_RELEASE);
	return NULL;
}

static int refused_so_far(int *result, int count)
{
	int refused = 0;

	for (int i = 0; i < count; i++)
		refused += __atomic_load_n(&result[i], __ATOMIC_ACQUIRE) == -EUSERS;
	return refused;
}

START_TEST(who_waits_goes_on_when_limits_are_lifted)
{
	int result[134];
	pthread_t thread[134];
	unsigned int refused = 0;

	write_cold(file, 0, 64);
	limit((uint64_t[]){ 10, 0, 0 }, (uint64_t[]){ 0, 0, 0 });
	owe(&tenant, 25 * NS_PER_S);
	for (int i = 0; i < 134; i++) {
		result[i] = 1;
		ck_assert_int_eq(pthread_create(&thread[i], NULL, read_all, &result[i]), 0);
	}
	/* No more than 128 of a file wait. */
	while (atomic_load(&file->flow.waiting) < 128 || refused_so_far(result, 134) < 6)
		usleep(1000);
	flow_lift(engine);
	for (int i = 0; i < 134; i++) {
		ck_assert_int_eq(pthread_join(thread[i], NULL), 0);
		ck_assert(result[i] == 0 || result[i] == -EUSERS);
		refused += result[i] == -EUSERS;
	}
	ck_assert_uint_eq(refused, 6);
	ck_assert_uint_eq(atomic_load(&engine->waits[ENGINE_WAIT_LIMIT]), 0);
}
END_TEST

START_TEST(a_write_waits_for_what_was_written_before)
{
	_Atomic bool gone = true;

	limit((uint64_t[]){ 0, 0, 64 << 10 }, (uint64_t[]){ 0, 0, 0 });
	ck_assert_int_eq(flow_begin_write(file, 2 * BLOCK, false), 0);
	interrupt_on(given_up, &gone);
	ck_assert_int_eq(flow_begin_write(file, BLOCK, false), -EINTR);
	/* It was not written after all. */
	flow_end_write(file, 2 * BLOCK);
	ck_assert_int_eq(flow_begin_write(file, BLOCK, false), 0);
	flow_end_write(file, BLOCK);
	interrupt_on(NULL, NULL);
	ck_assert_uint_eq(atomic_load(&engine->waits[ENGINE_WAIT_LIMIT]), 0);
}
END_TEST

/* --- demotion ---------------------------------------------------------------------------------------------------- */

static void fill_dram(struct ramfile *of, uint64_t blocks)
{
	ck_assert_int_eq(ramfile_write(of, data, 64 * BLOCK, 0, false), 0);
	for (uint64_t done = 64; done < blocks; done += 64)
		ck_assert_int_eq(ramfile_write(of, data, 64 * BLOCK, done * BLOCK, false), 0);
}

static void make_idle(void)
{
	for (int i = 0; i < 8; i++) {
		usleep(2000);
		demoter_step(engine);
	}
}

/* Room is short, and it has written what it may: others give, and it gets no more. */
START_TEST(the_demoter_passes_over_who_may_not_write)
{
	uint64_t before;

	fill_dram(file, 64);
	fill_dram(other, 128);
	limit((uint64_t[]){ 0, 0, 64 << 10 }, (uint64_t[]){ 0, 0, 0 });
	/* It takes from what may be written for longer than the test lasts. */
	for (int i = 0; i < 64; i++) {
		struct store_item item = { .key = { file->ino, 400 }, .value = data, .length_bytes = BLOCK };

		ck_assert_int_eq(flow_put(file, STORE_DEMOTION, &item, 1), 0);
	}
	ck_assert(flow_holds_back(file));
	ck_assert(!flow_holds_back(other));
	before = atomic_load(&file->counts.demotions);
	tiering_set_dram(engine, 128 * BLOCK);
	make_idle();
	ck_assert_uint_eq(atomic_load(&file->counts.demotions), before);
	ck_assert_uint_gt(atomic_load(&other->counts.demotions), 0);
	/* Where memory is short it does not grow. */
	tiering_set_dram(engine, 64 * BLOCK);
	ck_assert(flow_holds_back(file));
	ck_assert(!tenant_allows(file, BLOCK));
	ck_assert(tenant_allows(other, BLOCK));
	tiering_set_dram(engine, BUDGET_BLOCKS * BLOCK);
	ck_assert(tenant_allows(file, BLOCK));
	flow_lift(engine);
	ck_assert(!flow_holds_back(file));
}
END_TEST

/* Others wait, and nobody else has anything to give: it writes all the same, and owes it. */
START_TEST(who_may_not_write_does_so_before_others_wait_for_it)
{
	struct process *process;
	uint64_t word = 1, before;

	fill_dram(file, 128);
	ck_assert_int_eq(process_map(other, 1, &process), 0);
	limit((uint64_t[]){ 0, 0, 64 << 10 }, (uint64_t[]){ 0, 0, 0 });
	for (int i = 0; i < 64; i++) {
		struct store_item item = { .key = { file->ino, 400 }, .value = data, .length_bytes = BLOCK };

		ck_assert_int_eq(flow_put(file, STORE_DEMOTION, &item, 1), 0);
	}
	before = atomic_load(&file->counts.demotions);
	tiering_set_dram(engine, 64 * BLOCK);
	make_idle();
	ck_assert_uint_eq(atomic_load(&file->counts.demotions), before); /* its own wish is no reason */
	for (int i = 0; i < 1000 && !process_touch(process, 0, &word, sizeof(word), true); i++) {
		demoter_step(engine);
		process_run_agent(process);
		while (fault_resume(engine))
			;
		usleep(1000);
	}
	ck_assert(process_touch(process, 0, &word, sizeof(word), true));
	ck_assert_uint_gt(atomic_load(&file->counts.demotions), before);
	ck_assert(flow_holds_back(file));
	process_unmap(process);
}
END_TEST

/* --- counting ---------------------------------------------------------------------------------------------------- */

START_TEST(each_value_is_counted_once_and_for_what_it_is)
{
	struct ramfile_figures figures;
	struct store_figures of_store;
	struct process *process;
	struct file_done done;
	uint64_t word;

	write_cold(file, 0, 64);
	ck_assert_int_eq(read_blocks(file, 0, 64), 0);
	ck_assert_int_eq(process_map(file, 1, &process), 0);
	for (int i = 0; i < 8; i++) /* one after the other: the last ones are read ahead */
		ck_assert(process_touch(process, (uint64_t)i * BLOCK, &word, sizeof(word), true));
	process_unmap(process);
	usleep(2000);
	ck_assert_int_eq(demand_demote(file, 0, UINT64_MAX, NULL, NULL, &done), 0);
	ramfile_figures(file, &figures);
	store->ops->figures(store, &of_store);
	ck_assert_uint_eq(figures.traffic[STORE_DIRECT].writes, 64);
	ck_assert_uint_eq(figures.traffic[STORE_DIRECT].reads, 64);
	ck_assert_uint_gt(figures.traffic[STORE_GUEST].reads, 0);
	ck_assert_uint_gt(figures.traffic[STORE_AHEAD].reads, 0);
	for (int use = 0; use < STORE_USES; use++) {
		ck_assert_uint_eq(figures.traffic[use].reads, of_store.traffic[use].reads);
		ck_assert_uint_eq(figures.traffic[use].read_bytes, of_store.traffic[use].read_bytes);
		ck_assert_uint_eq(figures.traffic[use].writes, of_store.traffic[use].writes);
		ck_assert_uint_eq(figures.traffic[use].written_bytes, of_store.traffic[use].written_bytes);
	}
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("flow");
	TCase *clock = tcase_create("clock"), *tests = tcase_create("limits");

	tcase_add_test(clock, a_clock_gives_its_rate);
	tcase_add_test(clock, what_is_urgent_goes_first);
	tcase_add_test(clock, what_is_urgent_in_part_leaves_the_rest);
	tcase_add_checked_fixture(tests, setup, teardown);
	tcase_set_timeout(tests, 60);
	tcase_add_test(tests, a_fault_waits_for_its_turn);
	tcase_add_test(tests, a_limit_holds_for_all_below);
	tcase_add_test(tests, reads_do_not_hold_up_faults);
	tcase_add_test(tests, who_comes_again_waits_once);
	tcase_add_test(tests, a_limit_that_is_taken_back_reaches_a_fault);
	tcase_add_test(tests, a_fault_without_room_keeps_no_turn);
	tcase_add_test(tests, a_turn_that_comes_is_told);
	tcase_add_test(tests, a_read_that_is_given_up_does_not_wait);
	tcase_add_test(tests, who_waits_goes_on_when_limits_are_lifted);
	tcase_add_test(tests, a_write_waits_for_what_was_written_before);
	tcase_add_test(tests, the_demoter_passes_over_who_may_not_write);
	tcase_add_test(tests, who_may_not_write_does_so_before_others_wait_for_it);
	tcase_add_test(tests, each_value_is_counted_once_and_for_what_it_is);
	suite_add_tcase(suite, clock);
	suite_add_tcase(suite, tests);
	return check_run(suite);
}
