/* The scanner: sleeps until something is due, a file's next scan, or a kick. Under pressure it scans at a quicker pace,
 * and calls those that make room (reclaim.h) when it has found what is idle.
 */
#include "policy/demoter.h"

#include "base/clock.h"
#include "base/thread.h"
#include "engine/engine.h"
#include "engine/file.h"
#include "engine/huge.h"
#include "engine/room.h"
#include "policy/scan.h"

#define SLOW_NS (15 * NS_PER_S)
/* With less than four reserves left, idle blocks should be known before they are needed. */
#define NEAR_NS (2 * NS_PER_S)

struct turn {
	struct engine *engine;
	struct scan_pace pace;
	uint64_t next_ns;
	bool near; /* the budget is */
};

static void scan_file(void *arg, struct ramfile *file)
{
	struct turn *turn = arg;
	struct scan_pace pace = turn->pace;
	uint64_t now = clock_ns();
	bool wanted;

	if (room_missing_of(file) || tenant_missing(file)) /* nobody else pays for it */
		pace.hurry = pace.wanted = true;
	else if (pace.hurry && tenant_is_spared(file)) /* nobody asks what of it is idle */
		pace.hurry = pace.wanted = false;
	/* Before anything has to be demoted: a huge page hides what of it is idle. */
	if ((turn->near || pace.wanted) && huge_split_some(file, now))
		turn->next_ns = now;
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
	while (now >= file->rounds.next_ns)
		file->rounds.next_ns = scan_step(file, now, &pace);
	if (file->rounds.next_ns < turn->next_ns)
		turn->next_ns = file->rounds.next_ns;
}

/* Without threads: until the next scan is due, and by one batch in any case. */
static void reclaim_here(struct engine *engine, uint64_t *next_ns)
{
	while (reclaim_some(engine, next_ns))
		if (clock_ns() >= *next_ns)
			break;
}

void demoter_step(struct engine *engine)
{
	struct turn turn = { .engine = engine, .next_ns = clock_ns() + SLOW_NS };
	uint64_t quick = scan_quick_ns(engine);

	turn.near = budget_free(&engine->budget) < engine_near_bytes(engine);
	turn.pace = (struct scan_pace){ .quick_ns = quick,
					.slow_ns = turn.near ? NEAR_NS : SLOW_NS,
					.hurry = room_pressed(engine),
					.wanted = room_wanted(engine) };
	engine_each_resident(engine, scan_file, &turn);
	if (!engine->thread_runs)
		reclaim_here(engine, &turn.next_ns);
	if (room_pressed(engine) && turn.next_ns > clock_ns() + quick)
		turn.next_ns = clock_ns() + quick;
	engine->demoter->next_step_ns = turn.next_ns;
}

static void *scanner_run(void *arg)
{
	struct engine *engine = arg;

	thread_set_slice(THREAD_SLICE_LONG_NS);
	lock_get(&engine->room.lock);
	while (!engine->room.stopping) {
		lock_put(&engine->room.lock);
		demoter_step(engine);
		reclaim_replace(engine);
		lock_get(&engine->room.lock);
		engine_wake_reclaim(engine); /* there may be more that is idle */
		while (!engine->room.kicked && !engine->room.stopping)
			if (lock_wait_until(&engine->room.lock, &engine->room.wakeup, engine->demoter->next_step_ns))
				break;
		engine->room.kicked = false;
	}
	lock_put(&engine->room.lock);
	return NULL;
}

int demoter_start(struct engine *engine)
{
	struct demoter *demoter = engine->demoter;
	int err;

	engine->thread_runs = true;
	err = reclaim_start(engine);
	if (err)
		return err;
	err = -pthread_create(&demoter->scanner, NULL, scanner_run, engine);
	demoter->scans = !err;
	if (!err)
		pthread_setname_np(demoter->scanner, "tierfs-scanner");
	return err;
}

void demoter_stop(struct engine *engine)
{
	if (!engine->thread_runs)
		return;
	lock_get(&engine->room.lock);
	engine->room.stopping = true;
	pthread_cond_signal(&engine->room.wakeup);
	pthread_cond_broadcast(&engine->room.reclaim);
	lock_put(&engine->room.lock);
	if (engine->demoter->scans)
		pthread_join(engine->demoter->scanner, NULL); /* it may be adding to the others */
	reclaim_stop(engine);
}
