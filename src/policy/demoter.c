/* The scanner: sleeps until something is due, a file's next scan, or a kick. Under pressure it scans at a quicker pace,
 * and calls those that make room (reclaim.h) when it has found what is idle.
 */
#include "policy/demoter.h"

#include "base/clock.h"
#include "base/thread.h"
#include "engine/due.h"
#include "engine/engine.h"
#include "engine/file.h"
#include "engine/huge.h"
#include "engine/room.h"
#include "engine/tenant.h"
#include "policy/scan.h"

#define SLOW_NS (15 * NS_PER_S)
/* With less than four reserves left, idle blocks should be known before they are needed. */
#define NEAR_NS (2 * NS_PER_S)

/* A file that is due. */
static void scan_file(struct engine *engine, struct scan_pace pace, struct ramfile *file)
{
	uint64_t now = clock_ns(), next_ns;
	bool splits, spared = false;

	if (room_missing_of(file) || tenant_missing(file)) /* nobody else pays for it */
		pace.hurry = pace.wanted = true;
	else if (pace.hurry) /* or nobody asks what of it is idle */
		spared = tenant_is_spared(file);
	if (spared)
		pace.hurry = pace.wanted = false;
	/* Before anything has to be demoted: a huge page hides what of it is idle. */
	splits = (atomic_load(&engine->room.near) || pace.wanted) && huge_split_some(file, now);
	lock_get(&file->lock);
	file_visit(file, now);
	if (!file->blocks.cached)
		atomic_store(&file->cache.was_cached, false);
	lock_put(&file->lock);
	atomic_fetch_add(&engine->scans, 1);
	do {
		due_begin(file);
		next_ns = scan_step(file, now, &pace);
	} while (now >= next_ns);
	due_put(file, splits ? now : next_ns, spared);
}

static bool is_near_to_max(struct ramfile *file)
{
	return tenant_missing(file) > 0;
}

static bool is_quicker(const struct scan_pace *pace, const struct scan_pace *than)
{
	return pace->quick_ns < than->quick_ns || pace->slow_ns < than->slow_ns || pace->hurry > than->hurry ||
	       pace->wanted > than->wanted;
}

/* When a file is due was said at the pace of then. Those whose pace has risen are asked again, but not more often than
 * somebody could notice. Returns when to look again. */
static uint64_t keep_pace(struct engine *engine, const struct scan_pace *pace, uint64_t now_ns)
{
	struct demoter *demoter = engine->demoter;
	uint64_t rest_ns = demoter->raised_ns + pace->quick_ns / 2;
	bool all = atomic_load(&engine->dues.all) || is_quicker(pace, &demoter->pace);
	bool some = all || atomic_load(&engine->dues.near);

	if (some && now_ns < rest_ns)
		return rest_ns;
	demoter->pace = *pace;
	if (now_ns < rest_ns || (!some && !pace->hurry))
		return UINT64_MAX;
	demoter->raised_ns = now_ns;
	if (all) {
		atomic_store(&engine->dues.all, false);
		atomic_store(&engine->dues.near, false);
		due_raise(engine, now_ns, NULL);
		return UINT64_MAX;
	}
	if (atomic_exchange(&engine->dues.near, false))
		due_raise(engine, now_ns, is_near_to_max);
	if (pace->hurry) /* while room is short it is looked at least at the quick pace */
		due_raise_spared(engine, now_ns);
	return UINT64_MAX;
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
	uint64_t quick = scan_quick_ns(engine), now = clock_ns(), next_ns, due_ns, watch_ns;
	struct scan_pace pace = { .quick_ns = quick, .slow_ns = SLOW_NS };
	struct ramfile *file;

	/* In this order: who makes it near in between tells of it. */
	atomic_store(&engine->room.near, false);
	if (budget_free(&engine->budget) < engine_near_bytes(engine)) {
		atomic_store(&engine->room.near, true);
		pace.slow_ns = NEAR_NS;
	}
	pace.hurry = room_pressed(engine);
	pace.wanted = room_wanted(engine);
	next_ns = keep_pace(engine, &pace, now);
	while ((file = due_take(engine, now))) {
		scan_file(engine, pace, file);
		engine_leave(engine, file);
	}
	due_ns = due_next(engine);
	if (due_ns < next_ns)
		next_ns = due_ns;
	watch_ns = reclaim_watch(engine);
	if (watch_ns < next_ns)
		next_ns = watch_ns;
	if (!engine->thread_runs)
		reclaim_here(engine, &next_ns);
	/* That somebody is short, and how much, is told once; what becomes of it has to be looked at. */
	now = clock_ns();
	if (next_ns > now + quick && room_pressed(engine))
		next_ns = now + quick;
	else if (next_ns > now + SLOW_NS && due_ns != UINT64_MAX)
		next_ns = now + SLOW_NS;
	engine->demoter->next_step_ns = next_ns;
}

/* Under the lock of room.h: there may be more that is idle. Whoever hears it looks at all files that have a limit of
 * their own, so where nobody is short it is not said after each step. */
static void tell_idle(struct engine *engine, bool pressed)
{
	struct demoter *demoter = engine->demoter;
	uint64_t now = clock_ns(), again_ns = demoter->called_ns + scan_quick_ns(engine);

	if (pressed || now >= again_ns) {
		demoter->called_ns = now;
		engine_wake_reclaim(engine);
	} else if (demoter->next_step_ns > again_ns) {
		demoter->next_step_ns = again_ns;
	}
}

static void *scanner_run(void *arg)
{
	struct engine *engine = arg;

	thread_set_slice(THREAD_SLICE_LONG_NS);
	lock_get(&engine->room.lock);
	while (!engine->room.stopping) {
		bool pressed;

		lock_put(&engine->room.lock);
		demoter_step(engine);
		reclaim_replace(engine);
		pressed = room_pressed(engine) || room_own_wanted(engine);
		lock_get(&engine->room.lock);
		tell_idle(engine, pressed);
		while (!engine->room.kicked && !engine->room.stopping)
			if (engine->demoter->next_step_ns == UINT64_MAX)
				lock_wait(&engine->room.lock, &engine->room.wakeup);
			else if (lock_wait_until(&engine->room.lock, &engine->room.wakeup,
						 engine->demoter->next_step_ns))
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
