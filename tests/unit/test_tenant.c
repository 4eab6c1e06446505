/* Tenants: what is charged to whom, a max that only its own wait for, a min that nobody takes, and weights that divide
 * the rest. The engine is real, the processes that map files and the store are simulated. TIERFS_SEED repeats the
 * random one. */
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../lib/lib_process.h"
#include "../lib/lib_scratch.h"
#include "../lib/lib_store_mem.h"
#include "base/clock.h"
#include "engine/engine.h"
#include "engine/fault.h"
#include "engine/file.h"
#include "engine/ramfile.h"
#include "engine/tenant.h"
#include "engine/write.h"
#include "policy/demoter.h"
#include "policy/payer.h"
#include "policy/tiering.h"
#include "lib_check.h"

#define BLOCK 16384U
#define BUDGET_BLOCKS 1024U
#define FILE_BLOCKS 1024U
#define QUICK_NS (20 * NS_PER_MS)
#define NO_MAX UINT64_MAX

static struct scratch scratch;
static int arena_dir;
static struct store *store;
static struct engine *engine;

static void setup(void)
{
	struct engine_config config = {
		.block_bytes = BLOCK, .dram_bytes = BUDGET_BLOCKS * BLOCK, .min_idle_ns = 2 * QUICK_NS, .level = 1
	};

	scratch_new(&scratch, "tenant");
	arena_dir = open(scratch.path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	ck_assert_int_ge(arena_dir, 0);
	ck_assert_int_eq(store_mem_new(&store), 0);
	config.store = store;
	config.arena_dir = arena_dir;
	ck_assert_int_eq(tiering_new(&config, &engine), 0);
}

static void teardown(void)
{
	tiering_free(engine);
	store->ops->free(store);
	close(arena_dir);
	scratch_free(&scratch);
}

/* --- a guest: a file, a process that maps it, and where it goes on ----------------------------------------------- */

struct guest {
	struct ramfile *file;
	struct process *process;
	struct tenant tenant; /* its own, if it has one */
	uint64_t next;        /* block that is touched next */
	uint64_t faults;      /* touches that had to wait */
};

static void guest_new(struct guest *guest, uint64_t ino)
{
	*guest = (struct guest){ .tenant = { .ino = ino } };
	ck_assert_int_eq(ramfile_load(engine, ino, (uint64_t)FILE_BLOCKS * BLOCK, false, &guest->file), 0);
	ck_assert_int_eq(process_map(guest->file, ino, &guest->process), 0);
}

static void guest_free(struct guest *guest)
{
	process_unmap(guest->process);
	tenant_place(guest->file, NULL);
	ramfile_unload(guest->file);
}

static uint64_t used(const struct guest *guest)
{
	return atomic_load(&guest->file->dram_blocks);
}

static bool touch(struct guest *guest, uint64_t block)
{
	uint64_t word = block + 1;

	return process_touch(guest->process, block * BLOCK, &word, sizeof(word), true);
}

/* Goes on with the next blocks of its memory, round and round. */
static uint64_t run(struct guest *guest, uint64_t blocks, uint64_t working_set)
{
	uint64_t done = 0;

	for (; done < blocks; done++) {
		if (!touch(guest, guest->next)) {
			guest->faults++;
			break;
		}
		guest->next = (guest->next + 1) % working_set;
	}
	return done;
}

static void step(struct guest *guest, size_t count)
{
	demoter_step(engine);
	for (size_t i = 0; i < count; i++)
		process_run_agent(guest[i].process);
	while (fault_resume(engine))
		;
}

/* --- the tree -------------------------------------------------------------------------------------------------- */

struct place {
	struct tenant *tenant, *up;
	struct tenant_share share;
};

static void plant(const struct place *place, size_t places, struct guest *guest, struct tenant *const *of,
		  size_t guests)
{
	tenants_begin(engine);
	for (size_t i = 0; i < places; i++)
		tenants_put(engine, place[i].tenant, place[i].up, &place[i].share);
	for (size_t i = 0; i < guests; i++)
		tenants_place(guest[i].file, of[i]);
	tenants_end(engine);
}

static void fell(struct guest *guest, size_t count)
{
	struct tenant *none[8] = { NULL };

	plant(NULL, 0, guest, none, count);
}

#define TENANTS 12
#define FILES 6

static uint64_t seed(void)
{
	const char *text = getenv("TIERFS_SEED");
	uint64_t value = text ? strtoull(text, NULL, 0) : clock_ns();

	printf("TIERFS_SEED=%llu\n", (unsigned long long)value);
	return value;
}

static uint64_t rnd(uint64_t *state, uint64_t below)
{
	*state = *state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
	return (*state >> 33) % below;
}

struct model {
	struct tenant tenant[TENANTS];
	int up[TENANTS]; /* always one of a lower index; -1: the mount */
	uint64_t max[TENANTS];
	struct ramfile *file[FILES];
	int of[FILES];
	uint64_t bytes[FILES];
};

static bool model_is_below(const struct model *model, int tenant, int above)
{
	while (tenant >= 0 && tenant != above)
		tenant = model->up[tenant];
	return tenant == above;
}

static uint64_t model_used(const struct model *model, int tenant)
{
	uint64_t sum = 0;

	for (int i = 0; i < FILES; i++)
		if (model->of[i] >= 0 && model_is_below(model, model->of[i], tenant))
			sum += model->bytes[i];
	return sum;
}

static bool model_allows(const struct model *model, int file, uint64_t bytes)
{
	for (int at = model->of[file]; at >= 0; at = model->up[at])
		if (model->max[at] != NO_MAX && model_used(model, at) + bytes > model->max[at])
			return false;
	return true;
}

static void model_plant(struct model *model, uint64_t *state)
{
	tenants_begin(engine);
	for (int i = 0; i < TENANTS; i++) {
		struct tenant_share share = { .max_bytes = rnd(state, 3) ? NO_MAX : (1 + rnd(state, 64)) * BLOCK };

		model->up[i] = i ? (int)rnd(state, (uint64_t)i + 1) - 1 : -1;
		model->max[i] = share.max_bytes;
		model->tenant[i].ino = 100 + (uint64_t)i;
		tenants_put(engine, &model->tenant[i], model->up[i] < 0 ? NULL : &model->tenant[model->up[i]], &share);
	}
	for (int i = 0; i < FILES; i++) {
		model->of[i] = (int)rnd(state, TENANTS + 1) - 1;
		tenants_place(model->file[i], model->of[i] < 0 ? NULL : &model->tenant[model->of[i]]);
	}
	tenants_end(engine);
}

static void model_check(struct model *model)
{
	for (int i = 0; i < TENANTS; i++) {
		uint64_t bytes = 0;

		ck_assert_int_eq(tenant_used(engine, 100 + (uint64_t)i, &bytes), 0);
		ck_assert_uint_eq(bytes, model_used(model, i));
		for (int k = 0; k < FILES; k++)
			ck_assert_int_eq(tenant_covers(engine, 100 + (uint64_t)i, model->file[k]),
					 model->of[k] >= 0 && model_is_below(model, model->of[k], i));
	}
}

static void model_step(struct model *model, uint64_t *state)
{
	int i = (int)rnd(state, FILES);
	uint64_t bytes = (1 + rnd(state, 8)) * BLOCK;
	bool near;

	switch (rnd(state, 12)) {
	case 0:
		model_plant(model, state);
		break;
	case 1: /* moves alone */
		model->of[i] = (int)rnd(state, TENANTS + 1) - 1;
		tenant_place(model->file[i], model->of[i] < 0 ? NULL : &model->tenant[model->of[i]]);
		break;
	case 2:
		tenant_charge_anyway(model->file[i], bytes);
		model->bytes[i] += bytes;
		break;
	case 3:
	case 4:
	case 5:
	case 6:
		if (bytes > model->bytes[i])
			bytes = model->bytes[i];
		tenant_discharge(model->file[i], bytes);
		model->bytes[i] -= bytes;
		break;
	default:
		ck_assert_int_eq(tenant_allows(model->file[i], bytes), model_allows(model, i, bytes));
		if (tenant_charge(model->file[i], bytes, BUDGET_MUST, &near)) {
			ck_assert(model_allows(model, i, bytes));
			model->bytes[i] += bytes;
		} else {
			ck_assert(!model_allows(model, i, bytes));
		}
	}
}

START_TEST(charges_add_up)
{
	struct model model = { .bytes = { 0 } };
	uint64_t state = seed();

	for (int i = 0; i < FILES; i++) {
		ck_assert_int_eq(ramfile_load(engine, 7 + (uint64_t)i, BLOCK, false, &model.file[i]), 0);
		model.of[i] = -1;
	}
	model_plant(&model, &state);
	for (int i = 0; i < 5000; i++) {
		model_step(&model, &state);
		model_check(&model);
	}
	for (int i = 0; i < FILES; i++) {
		tenant_discharge(model.file[i], model.bytes[i]);
		tenant_place(model.file[i], NULL);
		ramfile_unload(model.file[i]);
	}
	tenants_begin(engine);
	tenants_end(engine);
}
END_TEST

/* --- max ------------------------------------------------------------------------------------------------------- */

/* Two files of one tenant have its max together. Who is beyond it waits, nobody else does; it gives up blocks of its
 * own, and then it goes on. */
START_TEST(a_max_holds_its_own)
{
	struct guest guest[3];
	struct tenant acme = { .ino = 50 };
	struct tenant *const of[] = { &acme, &acme, NULL };
	const uint64_t max = 96;
	const struct place place[] = { { &acme, NULL, { .max_bytes = max * BLOCK } } };
	uint64_t bytes, most = 0;

	for (uint64_t i = 0; i < 3; i++)
		guest_new(&guest[i], 7 + i);
	plant(place, 1, guest, of, 3);
	run(&guest[0], 40, FILE_BLOCKS);
	run(&guest[1], FILE_BLOCKS, FILE_BLOCKS);
	ck_assert_uint_eq(used(&guest[0]) + used(&guest[1]), max);
	ck_assert_uint_eq(guest[1].faults, 1);
	ck_assert_uint_eq(run(&guest[2], 200, FILE_BLOCKS), 200);
	while (guest[1].next < 400) {
		step(guest, 3);
		run(&guest[1], 16, FILE_BLOCKS);
		ck_assert_int_eq(tenant_used(engine, 50, &bytes), 0);
		most = bytes > most ? bytes : most;
		clock_sleep(QUICK_NS / 8);
	}
	ck_assert_uint_le(most, max * BLOCK);
	ck_assert_uint_eq(atomic_load(&guest[2].file->counts.demotions), 0);
	fell(guest, 3);
	for (int i = 0; i < 3; i++)
		guest_free(&guest[i]);
}
END_TEST

/* Pins count for the max, of all files of the tenant together; one that would leave nothing free is refused whole. */
START_TEST(pins_stay_below_a_max)
{
	struct guest guest[2];
	struct tenant acme = { .ino = 50 };
	struct tenant *const of[] = { &acme, &acme };
	const struct place place[] = { { &acme, NULL, { .max_bytes = UINT64_C(128) * BLOCK } } };
	const uint64_t most = 128 - (UINT64_C(512) << 10) / BLOCK;

	for (uint64_t i = 0; i < 2; i++)
		guest_new(&guest[i], 7 + i);
	plant(place, 1, guest, of, 2);
	ck_assert_int_eq(ramfile_pin(guest[0].file, 0, (most + 1) * BLOCK, true), -ENOMEM);
	ck_assert_uint_eq(guest[0].file->blocks.pinned, 0);
	ck_assert_int_eq(ramfile_pin(guest[0].file, 0, most / 2 * BLOCK, true), 0);
	ck_assert_int_eq(ramfile_pin(guest[1].file, 0, (most / 2 + 1) * BLOCK, true), -ENOMEM);
	ck_assert_int_eq(ramfile_pin(guest[1].file, 0, most / 2 * BLOCK, true), 0);
	ck_assert_int_eq(ramfile_pin(guest[0].file, 0, UINT64_MAX, false), 0);
	fell(guest, 2);
	for (int i = 0; i < 2; i++)
		guest_free(&guest[i]);
}
END_TEST

/* --- min and weight ---------------------------------------------------------------------------------------------- */

static void thrash(struct guest *guest, size_t count, uint64_t blocks)
{
	step(guest, count);
	for (size_t i = 0; i < count; i++)
		run(&guest[i], blocks, FILE_BLOCKS);
	clock_sleep(QUICK_NS / 16);
}

static bool is_about(uint64_t is, uint64_t due)
{
	return is >= due - due / 10 && is <= due + due / 10;
}

/* All want more than there is, until each has what its weight says, within a tenth: the reserve and what is picked in
 * one go are a part of so small a budget. */
START_TEST(weights_divide_what_is_short)
{
	struct guest guest[3];
	struct tenant *const of[] = { &guest[0].tenant, &guest[1].tenant, &guest[2].tenant };
	uint64_t sum = 0;

	for (uint64_t i = 0; i < 3; i++)
		guest_new(&guest[i], 7 + i);
	{
		const struct place place[] = {
			{ &guest[0].tenant, NULL, { .max_bytes = NO_MAX, .weight = 100 } },
			{ &guest[1].tenant, NULL, { .max_bytes = NO_MAX, .weight = 200 } },
			{ &guest[2].tenant, NULL, { .max_bytes = NO_MAX, .weight = 400 } },
		};

		plant(place, 3, guest, of, 3);
	}
	do {
		thrash(guest, 3, 4);
		sum = used(&guest[0]) + used(&guest[1]) + used(&guest[2]);
	} while (sum < BUDGET_BLOCKS * 3 / 4 || !is_about(used(&guest[0]), sum / 7) ||
		 !is_about(used(&guest[1]), 2 * sum / 7) || !is_about(used(&guest[2]), 4 * sum / 7));
	printf("blocks: %llu %llu %llu of %u\n", (unsigned long long)used(&guest[0]),
	       (unsigned long long)used(&guest[1]), (unsigned long long)used(&guest[2]), BUDGET_BLOCKS);
	/* And it stays so. */
	for (int turn = 0; turn < 200; turn++)
		thrash(guest, 3, 4);
	ck_assert_uint_lt(used(&guest[0]), used(&guest[1]));
	ck_assert_uint_lt(used(&guest[1]), used(&guest[2]));
	fell(guest, 3);
	for (int i = 0; i < 3; i++)
		guest_free(&guest[i]);
}
END_TEST

/* A directory of two counts as one, and its two divide what it has among themselves. */
START_TEST(a_tenant_divides_among_its_own)
{
	struct guest guest[3];
	struct tenant acme = { .ino = 50 };
	struct tenant *const of[] = { &acme, &guest[1].tenant, NULL };
	uint64_t sum, both;

	for (uint64_t i = 0; i < 3; i++)
		guest_new(&guest[i], 7 + i);
	{
		const struct place place[] = {
			{ &guest[1].tenant, &acme, { .max_bytes = NO_MAX, .weight = 300 } },
			{ &acme, NULL, { .max_bytes = NO_MAX } },
		};

		plant(place, 2, guest, of, 3);
	}
	do {
		thrash(guest, 3, 4);
		both = used(&guest[0]) + used(&guest[1]);
		sum = both + used(&guest[2]);
	} while (sum < BUDGET_BLOCKS * 3 / 4 || !is_about(both, sum / 2) || !is_about(used(&guest[1]), both * 3 / 4));
	printf("blocks: %llu + %llu, %llu\n", (unsigned long long)used(&guest[0]), (unsigned long long)used(&guest[1]),
	       (unsigned long long)used(&guest[2]));
	fell(guest, 3);
	for (int i = 0; i < 3; i++)
		guest_free(&guest[i]);
}
END_TEST

/* It touches its memory rarely, so that all of it is idle; the others would take it, as the oldest there is. */
START_TEST(a_min_is_not_taken)
{
	struct guest guest[3];
	struct tenant *const of[] = { &guest[0].tenant, NULL, NULL };
	const uint64_t own = 200;
	uint64_t ahead, demotions;

	for (uint64_t i = 0; i < 3; i++)
		guest_new(&guest[i], 7 + i);
	{
		const struct place place[] = {
			{ &guest[0].tenant, NULL, { .min_bytes = own * BLOCK, .max_bytes = NO_MAX } },
		};

		plant(place, 1, guest, of, 3);
	}
	ck_assert_uint_eq(run(&guest[0], own, own), own);
	ahead = used(&guest[0]);
	while (atomic_load(&guest[1].file->counts.demotions) < 2 * BUDGET_BLOCKS) {
		step(guest, 3);
		for (int i = 1; i < 3; i++)
			run(&guest[i], 32, FILE_BLOCKS);
		clock_sleep(QUICK_NS / 16);
	}
	ck_assert_uint_ge(used(&guest[0]), own); /* what was filled ahead of its touches is not promised */
	ck_assert_uint_eq(used(&guest[0]), ahead < own ? own : ahead - atomic_load(&guest[0].file->counts.demotions));
	/* What it has beyond that is not promised. */
	while (guest[0].next < own + 100) {
		step(guest, 3);
		run(&guest[0], 8, FILE_BLOCKS);
		clock_sleep(QUICK_NS / 16);
	}
	for (demotions = atomic_load(&guest[0].file->counts.demotions);
	     atomic_load(&guest[0].file->counts.demotions) < demotions + 50;) {
		thrash(guest + 1, 2, 32);
		process_run_agent(guest[0].process);
	}
	ck_assert_uint_ge(used(&guest[0]), own);
	fell(guest, 3);
	for (int i = 0; i < 3; i++)
		guest_free(&guest[i]);
}
END_TEST

/* The same below a max that both have together: the other one pays for himself. */
START_TEST(a_min_is_not_taken_for_a_sibling)
{
	struct guest guest[2];
	struct tenant acme = { .ino = 50 };
	struct tenant *const of[] = { &guest[0].tenant, &acme };
	const uint64_t own = 100;

	for (uint64_t i = 0; i < 2; i++)
		guest_new(&guest[i], 7 + i);
	{
		const struct place place[] = {
			{ &guest[0].tenant, &acme, { .min_bytes = 2 * own * BLOCK, .max_bytes = NO_MAX } },
			{ &acme, NULL, { .max_bytes = 4 * own * BLOCK } },
		};

		plant(place, 2, guest, of, 2);
	}
	ck_assert_uint_eq(run(&guest[0], own, own), own);
	while (atomic_load(&guest[1].file->counts.demotions) < 10 * own)
		thrash(guest + 1, 1, 4);
	ck_assert_uint_eq(atomic_load(&guest[0].file->counts.demotions), 0);
	fell(guest, 2);
	for (int i = 0; i < 2; i++)
		guest_free(&guest[i]);
}
END_TEST

/* Nobody has more than was promised, and the budget was lowered since: somebody gives all the same. */
START_TEST(a_promise_gives_way_to_a_smaller_budget)
{
	struct guest guest[2];
	struct tenant *const of[] = { &guest[0].tenant, &guest[1].tenant };

	for (uint64_t i = 0; i < 2; i++)
		guest_new(&guest[i], 7 + i);
	{
		const struct place place[] = {
			{ &guest[0].tenant, NULL, { .min_bytes = 400 * BLOCK, .max_bytes = NO_MAX } },
			{ &guest[1].tenant, NULL, { .min_bytes = 400 * BLOCK, .max_bytes = NO_MAX } },
		};

		plant(place, 2, guest, of, 2);
	}
	run(&guest[0], 300, 300);
	run(&guest[1], 300, 300);
	ck_assert_int_eq(tiering_set_dram(engine, UINT64_C(500) * BLOCK), 0);
	while (budget_used(&engine->budget) > 500 * BLOCK) {
		step(guest, 2);
		clock_sleep(QUICK_NS / 8);
	}
	/* And whoever faults then is served. */
	guest[1].next = 300;
	while (guest[1].next < 400) {
		step(guest, 2);
		run(&guest[1], 8, FILE_BLOCKS);
		clock_sleep(QUICK_NS / 8);
	}
	fell(guest, 2);
	for (int i = 0; i < 2; i++)
		guest_free(&guest[i]);
}
END_TEST

/* Who had nothing to give is left out until his time is over, however many there are. */
START_TEST(payers_are_left_out_for_a_while)
{
	static struct payers_out out;

	for (uint64_t i = 1; i <= PAYERS_OUT + 10; i++)
		payers_add(&out, i, 100 + i);
	ck_assert_uint_eq(out.count, PAYERS_OUT);
	ck_assert_uint_eq(out.list[0].ino, 11);
	payers_forget(&out, 111 + 5);
	ck_assert_uint_eq(out.list[0].ino, 17);
	ck_assert_uint_eq(out.count, PAYERS_OUT - 6);
	payers_forget(&out, 10000);
	ck_assert_uint_eq(out.count, 0);
}
END_TEST

/* Who wants less than his part leaves it to the others. */
START_TEST(what_is_not_wanted_is_lent)
{
	struct guest guest[2];
	struct tenant *const of[] = { &guest[0].tenant, &guest[1].tenant };

	for (uint64_t i = 0; i < 2; i++)
		guest_new(&guest[i], 7 + i);
	{
		const struct place place[] = {
			{ &guest[0].tenant, NULL, { .max_bytes = NO_MAX, .weight = 1000 } },
			{ &guest[1].tenant, NULL, { .max_bytes = NO_MAX, .weight = 100 } },
		};

		plant(place, 2, guest, of, 2);
	}
	run(&guest[0], 60, 60);
	while (atomic_load(&guest[1].file->counts.demotions) < 2 * BUDGET_BLOCKS) {
		step(guest, 2);
		run(&guest[0], 4, 60);
		run(&guest[1], 32, FILE_BLOCKS);
		clock_sleep(QUICK_NS / 16);
	}
	ck_assert_uint_ge(used(&guest[0]), 60);
	ck_assert_uint_ge(used(&guest[1]), BUDGET_BLOCKS * 3 / 4);
	fell(guest, 2);
	for (int i = 0; i < 2; i++)
		guest_free(&guest[i]);
}
END_TEST

/* --- who waits for room ------------------------------------------------------------------------------------------- */

/* One has many threads that wait, and more that come; the other one has one. */
START_TEST(who_has_had_less_is_next)
{
	struct guest many, one;
	unsigned int served;

	guest_new(&many, 10);
	guest_new(&one, 11);
	budget_force(&engine->budget, BUDGET_BLOCKS * BLOCK);
	for (uint64_t block = 0; block < 64; block++)
		ck_assert(!touch(&many, block));
	ck_assert(!touch(&one, 0));
	ck_assert_uint_eq(room_parked(engine), 65);
	budget_release(&engine->budget, 3 * BLOCK);
	/* There is room, and who comes now waits behind those who do. */
	ck_assert(!touch(&many, 100));
	for (served = 0; fault_resume(engine); served++)
		ck_assert_uint_le(served, 3);
	ck_assert_uint_eq(served, 3);
	ck_assert_uint_eq(used(&one), 1);
	ck_assert_uint_eq(used(&many), 2);
	budget_release(&engine->budget, (BUDGET_BLOCKS - 3) * BLOCK);
	while (fault_resume(engine))
		;
	ck_assert_uint_eq(room_parked(engine), 0);
	ck_assert_uint_ge(used(&many), 65); /* while there is enough, what lies around is given, too */
	guest_free(&many);
	guest_free(&one);
}
END_TEST

START_TEST(room_is_given_by_weight)
{
	struct guest guest[2];
	struct place place[2] = { { .tenant = &guest[0].tenant, .share = { 0, NO_MAX, 100, { 0 } } },
				  { .tenant = &guest[1].tenant, .share = { 0, NO_MAX, 300, { 0 } } } };
	struct tenant *of[2] = { &guest[0].tenant, &guest[1].tenant };

	for (int i = 0; i < 2; i++)
		guest_new(&guest[i], 10 + (uint64_t)i);
	plant(place, 2, guest, of, 2);
	budget_force(&engine->budget, BUDGET_BLOCKS * BLOCK);
	for (uint64_t block = 0; block < 200; block++)
		for (int i = 0; i < 2; i++)
			ck_assert(!touch(&guest[i], block));
	for (int i = 0; i < 80; i++) {
		budget_release(&engine->budget, BLOCK);
		ck_assert(fault_resume(engine));
	}
	ck_assert_uint_ge(used(&guest[0]), 19);
	ck_assert_uint_le(used(&guest[0]), 21);
	budget_release(&engine->budget, (BUDGET_BLOCKS - 80) * BLOCK);
	while (fault_resume(engine))
		;
	fell(guest, 2);
	for (int i = 0; i < 2; i++)
		guest_free(&guest[i]);
}
END_TEST

static void resume_all(void)
{
	while (fault_resume(engine))
		;
}

static bool is_resident(const struct guest *guest, uint64_t block)
{
	return blocks_state(&guest->file->blocks, block) == BLOCK_RESIDENT;
}

static void touch_urgently(struct guest *guest, uint64_t block)
{
	fault_serve(guest->file, (struct mapper *)guest->process, block * BLOCK, FAULT_URGENT, clock_ns());
}

/* Others wait for the thread: it is next of its file, and the others of its file leave it a little. No other file does,
 * nor is it passed by. */
START_TEST(who_is_waited_for_goes_first)
{
	uint64_t part = budget_reserve_bytes(&engine->budget) / 16;
	struct guest many, one;

	guest_new(&many, 10);
	guest_new(&one, 11);
	budget_force(&engine->budget, BUDGET_BLOCKS * BLOCK);
	for (uint64_t block = 0; block < 64; block++)
		ck_assert(!touch(&many, block));
	touch_urgently(&many, 100);
	touch_urgently(&many, 300);
	ck_assert(!touch(&one, 0));
	ck_assert_uint_eq(room_parked(engine), 67);
	atomic_store(&many.file->limit.urgent_until_ns, UINT64_MAX);
	budget_release(&engine->budget, part);
	resume_all();
	ck_assert(is_resident(&many, 100) && is_resident(&many, 300) && is_resident(&one, 0));
	ck_assert_uint_eq(used(&many), 2);
	ck_assert(!touch(&many, 200));
	resume_all();
	ck_assert(!is_resident(&many, 200));
	touch_urgently(&many, 500);
	resume_all();
	ck_assert(is_resident(&many, 500));
	/* Nothing is kept when none has come for long. */
	budget_release(&engine->budget, BLOCK);
	atomic_store(&many.file->limit.urgent_until_ns, 0);
	ck_assert(fault_resume(engine));
	budget_release(&engine->budget, (BUDGET_BLOCKS - 1) * BLOCK - part);
	resume_all();
	guest_free(&many);
	guest_free(&one);
}
END_TEST

START_TEST(who_pays_leaves_the_last_part_to_others)
{
	uint64_t part = budget_reserve_bytes(&engine->budget) / 4;
	struct guest many, one;

	guest_new(&many, 10);
	guest_new(&one, 11);
	budget_force(&engine->budget, BUDGET_BLOCKS * BLOCK - part);
	tenant_pays(many.file, 0, UINT64_MAX);
	ck_assert(!touch(&many, 0));
	ck_assert(!fault_resume(engine));
	ck_assert_uint_eq(room_parked(engine), 1);
	for (uint64_t block = 0; block < part / BLOCK; block++)
		touch(&one, 2 * block);
	resume_all();
	ck_assert_uint_eq(used(&one), part / BLOCK);
	ck_assert_uint_eq(room_parked(engine), 1);
	ck_assert(!touch(&one, 2 * part / BLOCK));
	budget_release(&engine->budget, 2 * BLOCK);
	resume_all();
	ck_assert_uint_eq(used(&one), part / BLOCK + 1);
	ck_assert_uint_eq(used(&many), 0);
	tenant_pays(many.file, 0, 0);
	ck_assert(fault_resume(engine));
	ck_assert_uint_eq(used(&many), 1);
	budget_release(&engine->budget, (BUDGET_BLOCKS - 2) * BLOCK - part);
	guest_free(&many);
	guest_free(&one);
}
END_TEST

/* A mark goes with the tree that it was made in, and with the place of the file. */
START_TEST(who_is_placed_anew_does_not_pay)
{
	struct guest guest;
	struct tenant *const of[] = { &guest.tenant };
	struct place place = { &guest.tenant, NULL, { .max_bytes = NO_MAX, .weight = 100 } };

	guest_new(&guest, 10);
	plant(&place, 1, &guest, of, 1);
	ck_assert_uint_eq(tenant_pays_until(guest.file), 0);
	ck_assert(!tenant_is_spared(guest.file));
	tenant_pays(guest.file, 10, UINT64_MAX);
	ck_assert_uint_eq(tenant_pays_until(guest.file), UINT64_MAX);
	ck_assert(!tenant_is_spared(guest.file));
	plant(&place, 1, &guest, of, 1);
	ck_assert_uint_eq(tenant_pays_until(guest.file), 0);
	tenant_pays(guest.file, 0, UINT64_MAX);
	ck_assert_uint_eq(tenant_pays_until(guest.file), UINT64_MAX);
	tenant_place(guest.file, NULL);
	ck_assert_uint_eq(tenant_pays_until(guest.file), 0);
	tenant_pays(guest.file, 99, UINT64_MAX); /* there is no such tenant any more */
	ck_assert_uint_eq(tenant_pays_until(guest.file), 0);
	fell(&guest, 1);
	guest_free(&guest);
}
END_TEST

static bool is_over(void)
{
	static const struct payers_out none;
	static const struct going nothing;
	struct payer payer;

	ck_assert(payer_find(engine, 0, &none, &nothing, &payer));
	return payer.over;
}

/* Two tenants of two files each, and one file of none. */
START_TEST(who_is_over_his_part)
{
	static const uint64_t blocks[] = { 100, 33, 66, 67, 133 };
	uint64_t forced[5];
	struct guest guest[5];
	struct tenant *const of[] = { &guest[0].tenant, &guest[0].tenant, &guest[2].tenant, &guest[2].tenant, NULL };
	struct tenant *const one[] = { &guest[0].tenant, &guest[0].tenant, &guest[0].tenant, &guest[0].tenant,
				       &guest[0].tenant };
	struct place place[] = { { &guest[0].tenant, NULL, { .max_bytes = NO_MAX, .weight = 100 } },
				 { &guest[2].tenant, NULL, { .max_bytes = NO_MAX } } };

	for (uint64_t i = 0; i < 5; i++) {
		guest_new(&guest[i], 10 + i);
		ck_assert(touch(&guest[i], 0));
		forced[i] = (blocks[i] - used(&guest[i])) * BLOCK; /* what lies around a touch came with it */
		room_force(guest[i].file, forced[i]);
	}
	plant(place, 1, guest, one, 5);
	ck_assert(!is_over()); /* it has all that there is */
	plant(place, 2, guest, of, 5);
	ck_assert(!is_over()); /* as much as any */
	room_force(guest[3].file, 40 * BLOCK);
	ck_assert(is_over());
	room_release(guest[3].file, 40 * BLOCK);
	place[0].share.weight = 40; /* and now the other one has the most for its weight */
	place[1].share.weight = 200;
	plant(place, 2, guest, of, 5);
	ck_assert(is_over());
	place[0].share = place[1].share = (struct tenant_share){ .min_bytes = 200 * BLOCK, .max_bytes = NO_MAX };
	plant(place, 2, guest, of, 5);
	ck_assert(is_over()); /* the file of none: the others have what they were promised */
	fell(guest, 5);
	for (int i = 0; i < 5; i++)
		room_release(guest[i].file, forced[i]);
	for (int i = 0; i < 5; i++)
		guest_free(&guest[i]);
}
END_TEST

/* One has less than its part, and goes on; the other one wants more than there is. */
START_TEST(who_has_less_than_its_part_does_not_wait)
{
	struct guest guest[2];
	struct tenant *const of[] = { &guest[0].tenant, NULL };
	const struct place place = { &guest[0].tenant, NULL, { .min_bytes = 160 * BLOCK, .max_bytes = NO_MAX } };
	unsigned int touches = 0, waits = 0;
	uint64_t rounds[2] = { 0 };

	for (uint64_t i = 0; i < 2; i++)
		guest_new(&guest[i], 7 + i);
	plant(&place, 1, guest, of, 2);
	for (int i = 0; i < 3000; i++) {
		step(guest, 2);
		run(&guest[1], 64, FILE_BLOCKS);
		if (i % 16 == 0 && !run(&guest[0], 1, 200)) {
			resume_all();
			waits += !is_resident(&guest[0], guest[0].next);
		}
		/* Before the other one had given anything nothing was kept. */
		if (atomic_load(&guest[1].file->counts.demotions) >= BUDGET_BLOCKS)
			touches += i % 16 == 0;
		else
			for (unsigned int k = waits = 0; k < 2; k++)
				rounds[k] = guest[k].file->heat.round;
		clock_sleep(QUICK_NS / 64);
	}
	ck_assert_uint_ge(guest[1].faults, 100);
	ck_assert_uint_ge(touches, 50);
	ck_assert_uint_le(waits, touches / 8); /* none, but on a host that stands still now and then */
	/* Nor is its memory looked at for what the other one has to give. */
	ck_assert_uint_le(guest[0].file->heat.round - rounds[0], (guest[1].file->heat.round - rounds[1]) / 2);
	fell(guest, 2);
	for (int i = 0; i < 2; i++)
		guest_free(&guest[i]);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("tenant");
	TCase *tests = tcase_create("tenant");

	tcase_add_checked_fixture(tests, setup, teardown);
	tcase_set_timeout(tests, 60);
	tcase_add_test(tests, charges_add_up);
	tcase_add_test(tests, a_max_holds_its_own);
	tcase_add_test(tests, pins_stay_below_a_max);
	tcase_add_test(tests, weights_divide_what_is_short);
	tcase_add_test(tests, a_tenant_divides_among_its_own);
	tcase_add_test(tests, a_min_is_not_taken);
	tcase_add_test(tests, a_min_is_not_taken_for_a_sibling);
	tcase_add_test(tests, a_promise_gives_way_to_a_smaller_budget);
	tcase_add_test(tests, payers_are_left_out_for_a_while);
	tcase_add_test(tests, what_is_not_wanted_is_lent);
	tcase_add_test(tests, who_has_had_less_is_next);
	tcase_add_test(tests, room_is_given_by_weight);
	tcase_add_test(tests, who_is_waited_for_goes_first);
	tcase_add_test(tests, who_is_placed_anew_does_not_pay);
	tcase_add_test(tests, who_is_over_his_part);
	tcase_add_test(tests, who_pays_leaves_the_last_part_to_others);
	tcase_add_test(tests, who_has_less_than_its_part_does_not_wait);
	suite_add_tcase(suite, tests);
	return check_run(suite);
}
