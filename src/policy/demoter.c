/* The demoter: sleeps until something is due, a file's next scan, a fault that found no room, a kick. It keeps a part
 * of the budget free (budget_reserve_bytes), so that faults rarely wait. What is demoted first is decided over all
 * files together (choice.h).
 */
#include "policy/demoter.h"

#include "base/clock.h"
#include "base/thread.h"
#include "engine/engine.h"
#include "engine/file.h"
#include "engine/huge.h"
#include "engine/room.h"
#include "policy/choice.h"
#include "policy/scan.h"

#define QUICK_MIN_NS (20 * NS_PER_MS)
#define QUICK_MAX_NS (1 * NS_PER_S)
#define SLOW_NS (15 * NS_PER_S)
/* With less than four reserves left, idle blocks should be known before they are needed. */
#define NEAR_NS (2 * NS_PER_S)
/* When nothing can be demoted, nobody is helped by looking again at once. */
#define REST_NS (5 * NS_PER_MS)
/* Scans and splits go on for so long at the most while room has to be made. */
#define SLICE_NS (5 * NS_PER_MS)
/* After a store that refused a batch. */
#define RETRY_NS (500 * NS_PER_MS)

/* Refills the reserve, until a scan is due; by one batch in any case, so that nothing that is always due stops it. */
static void relieve(struct engine *engine, uint64_t until_ns)
{
	uint64_t target = budget_reserve_bytes(&engine->budget);
	bool first = true;

	for (; budget_free(&engine->budget) < target; first = false) {
		uint64_t needed = (target - budget_free(&engine->budget)) / engine->config.block_bytes + 1;
		uint64_t now = clock_ns(), demoted;
		int err;

		if (now < engine->demoter->retry_ns || (!first && now >= until_ns))
			break;
		err = choice_demote(&engine->demoter->choice, engine, 0, needed, &demoted);
		if (err) /* The store says why, once. Blocks stay resident, and it goes on by itself. */
			engine->demoter->retry_ns = clock_ns() + RETRY_NS;
		if (!demoted) { /* a large table is not counted all the time */
			engine->demoter->rest_until_ns = clock_ns() + REST_NS + 4 * (clock_ns() - now);
			break;
		}
	}
	if (budget_free(&engine->budget) >= engine->config.block_bytes)
		room_announce(engine);
}

struct turn {
	struct engine *engine;
	struct scan_pace pace;
	uint64_t next_ns;
	uint64_t relieved_ns; /* when room was last made, if it had to be */
	bool near;            /* the budget is */
};

/* Among scans and splits, which may take long. */
static void relieve_between(struct turn *turn)
{
	struct engine *engine = turn->engine;
	uint64_t now = clock_ns();

	if (now < turn->relieved_ns + SLICE_NS || now < engine->demoter->rest_until_ns || !room_pressed(engine))
		return;
	relieve(engine, 0);
	turn->relieved_ns = clock_ns();
}

static void scan_file(void *arg, struct ramfile *file)
{
	struct turn *turn = arg;
	struct scan_pace pace = turn->pace;
	uint64_t now = clock_ns();
	bool wanted;

	if (room_missing_of(file) || tenant_missing(file)) /* nobody else pays for it */
		pace.hurry = pace.wanted = true;
	lock_get(&file->lock);
	file_visit(file, now);
	if (!file->blocks.cached)
		atomic_store(&file->cache.was_cached, false);
	wanted = file->rounds.wanted || pace.hurry;
	if (file->rounds.proof_wanted || (wanted && file->rounds.next_ns > now + turn->pace.quick_ns))
		file->rounds.next_ns = now;
	/* The answer to a zap comes with a kick: the look is due a pace after it. */
	if (file->rounds.zapping && file->rounds.zap_done && wanted)
		file->rounds.next_ns = now;
	lock_put(&file->lock);
	if (now >= file->rounds.next_ns)
		atomic_fetch_add(&turn->engine->scans, 1);
	while (now >= file->rounds.next_ns) {
		file->rounds.next_ns = scan_step(file, now, &pace);
		relieve_between(turn);
	}
	if (file->rounds.next_ns < turn->next_ns)
		turn->next_ns = file->rounds.next_ns;
}

/* A file that has come near to its own limit gives up blocks of its own. */
static void relieve_file(void *arg, struct ramfile *file)
{
	struct turn *turn = arg;
	struct engine *engine = turn->engine;
	uint64_t now = clock_ns(), missing = room_missing_of(file), demoted;
	int err;

	if (!missing)
		return;
	if (now >= file->rounds.rest_until_ns && now >= engine->demoter->retry_ns) {
		err = choice_demote_of(&engine->demoter->choice, file, missing / file->block_bytes + 1, &demoted);
		if (err)
			engine->demoter->retry_ns = clock_ns() + RETRY_NS;
		if (!demoted)
			file->rounds.rest_until_ns = clock_ns() + turn->pace.quick_ns / 2;
		if (demoted)
			room_announce(engine);
	}
	now = room_missing_of(file) && file->rounds.rest_until_ns > now ? file->rounds.rest_until_ns : now;
	if (room_missing_of(file) && now < turn->next_ns)
		turn->next_ns = now;
}

/* A tenant that has come near to its max gives up blocks of its own. */
static void relieve_tenants(struct turn *turn)
{
	struct engine *engine = turn->engine;
	uint64_t ino = 0, missing, demoted;

	while (tenant_next_near(engine, clock_ns(), &ino, &missing, &turn->next_ns)) {
		uint64_t began_ns = clock_ns();
		int err = 0;

		if (began_ns < engine->demoter->retry_ns)
			return;
		err = choice_demote(&engine->demoter->choice, engine, ino, missing / engine->config.block_bytes + 1,
				    &demoted);
		if (err)
			engine->demoter->retry_ns = clock_ns() + RETRY_NS;
		if (demoted) {
			room_announce(engine);
			turn->next_ns = clock_ns(); /* it may have to give more */
			relieve_between(turn);
		} else {
			uint64_t until_ns = clock_ns() + turn->pace.quick_ns / 2 + 4 * (clock_ns() - began_ns);

			tenant_rest(engine, ino, until_ns);
			if (until_ns < turn->next_ns)
				turn->next_ns = until_ns;
		}
	}
}

/* Before anything has to be demoted: a huge page hides what of it is idle. */
static void split_file(void *arg, struct ramfile *file)
{
	struct turn *turn = arg;
	uint64_t now = clock_ns();

	if (!turn->near && !room_missing_of(file) && !tenant_missing(file))
		return;
	if (huge_split_some(file, now))
		turn->next_ns = now;
	relieve_between(turn);
}

void demoter_step(struct engine *engine)
{
	uint64_t quick = atomic_load(&engine->min_idle_ns) / 2;
	struct turn turn = { .engine = engine, .relieved_ns = clock_ns() };

	turn.near = budget_free(&engine->budget) < engine_near_bytes(engine);
	atomic_store(&engine->room.pressed, false);
	if (quick < QUICK_MIN_NS)
		quick = QUICK_MIN_NS;
	if (quick > QUICK_MAX_NS)
		quick = QUICK_MAX_NS;
	turn.pace = (struct scan_pace){ .quick_ns = quick,
					.slow_ns = turn.near ? NEAR_NS : SLOW_NS,
					.hurry = room_pressed(engine),
					.wanted = room_wanted(engine) };
	turn.next_ns = turn.relieved_ns + SLOW_NS;
	engine_each_resident(engine, split_file, &turn);
	engine_each_resident(engine, scan_file, &turn);
	engine_each_resident(engine, relieve_file, &turn);
	relieve_tenants(&turn);
	if (room_pressed(engine))
		relieve(engine, turn.next_ns);
	if (room_pressed(engine) && turn.next_ns > clock_ns() + quick)
		turn.next_ns = clock_ns() + quick;
	engine->demoter->next_step_ns = turn.next_ns;
}

void *demoter_run(void *arg)
{
	struct engine *engine = arg;

	thread_set_slice(THREAD_SLICE_LONG_NS);
	lock_get(&engine->room.lock);
	while (!engine->room.stopping) {
		lock_put(&engine->room.lock);
		demoter_step(engine);
		lock_get(&engine->room.lock);
		while (!engine->room.stopping && clock_ns() < engine->demoter->rest_until_ns)
			lock_wait_until(&engine->room.lock, &engine->room.wakeup, engine->demoter->rest_until_ns);
		while (!engine->room.kicked && !engine->room.stopping)
			if (lock_wait_until(&engine->room.lock, &engine->room.wakeup, engine->demoter->next_step_ns))
				break;
		engine->room.kicked = false;
	}
	lock_put(&engine->room.lock);
	return NULL;
}
