#include "policy/reclaim.h"

#include <errno.h>
#include <stdio.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/thread.h"
#include "engine/due.h"
#include "engine/engine.h"
#include "engine/file.h"
#include "engine/quota.h"
#include "engine/room.h"
#include "policy/demoter.h"
#include "policy/scan.h"

/* When nothing can be demoted, nobody is helped by looking again at once. */
#define REST_NS (5 * NS_PER_MS)
/* After a store that refused a batch: for the file, and, if it refuses those of so many in a row, for all; not for all
 * if there are other devices, which do not. */
#define RETRY_NS (500 * NS_PER_MS)
#define REFUSED_MOST 4
/* Who gave nothing is left alone for no longer than that. */
#define OUT_MOST_NS (500 * NS_PER_MS)
/* Who may store no more is asked again after that, then twice as long, up to a minute, or when he may. */
#define REFUSED_NS (500 * NS_PER_MS)
#define REFUSALS_MOST 7U
/* Processors that are used at the most. */
#define MOST_DEFAULT 8

static struct reclaim *reclaim_of(struct engine *engine)
{
	return &engine->demoter->reclaim;
}

/* A large table is not counted all the time. */
static uint64_t rest_of(uint64_t began_ns)
{
	uint64_t now = clock_ns();

	return now + REST_NS + 4 * (now - began_ns);
}

static void due_by(uint64_t *due_ns, uint64_t ns)
{
	if (ns < *due_ns)
		*due_ns = ns;
}

static uint64_t without(uint64_t bytes, uint64_t gone)
{
	return bytes > gone ? bytes - gone : 0;
}

/* --- who is short, and what goes; under the lock ------------------------------------------------------------- */

struct turn {
	struct engine *engine;
	struct chosen *chosen;
	uint64_t *due_ns;
	bool found;
};

/* A file that has come near to its own limit gives up blocks of its own. */
static void choose_of_file(void *arg, struct ramfile *file)
{
	struct turn *turn = arg;
	struct choice *choice = &reclaim_of(turn->engine)->choice;
	uint64_t missing = turn->found ? 0 : room_missing_of(file), now, going;

	if (!missing)
		return;
	now = clock_ns();
	going = going_bytes(&choice->going, turn->engine, 0, file->ino, now);
	missing = going && !room_own_wanted(turn->engine) ? 0 : without(missing, going);
	if (missing && now >= file->rounds.rest_until_ns) {
		turn->found = choice_take_of(choice, file, missing / file->block_bytes + 1, turn->chosen);
		if (turn->found || going)
			return;
		file->rounds.rest_until_ns = clock_ns() + scan_quick_ns(turn->engine) / 2;
	}
	due_by(turn->due_ns, file->rounds.rest_until_ns);
}

static bool choose_of_files(struct turn *turn)
{
	if (atomic_load(&turn->engine->room.limited))
		engine_each_resident(turn->engine, choose_of_file, turn);
	return turn->found;
}

/* A tenant that has come near to its max gives up blocks of its own. */
static bool choose_of_tenants(struct turn *turn)
{
	struct engine *engine = turn->engine;
	struct choice *choice = &reclaim_of(engine)->choice;
	uint64_t ino = 0, missing;

	while (tenant_next_near(engine, clock_ns(), &ino, &missing, turn->due_ns)) {
		uint64_t began_ns = clock_ns(), until_ns;
		uint64_t going = going_bytes(&choice->going, engine, ino, 0, began_ns);

		missing = without(missing, going);
		if (!missing || (going && !room_own_wanted(engine)))
			continue;
		if (choice_take(choice, engine, ino, missing / engine->config.block_bytes + 1, turn->chosen))
			return true;
		if (going)
			continue;
		until_ns = rest_of(began_ns) - REST_NS + scan_quick_ns(engine) / 2;
		tenant_rest(engine, ino, until_ns);
		due_by(turn->due_ns, until_ns);
	}
	return false;
}

/* The reserve of the mount. */
static bool choose_of_all(struct turn *turn)
{
	struct engine *engine = turn->engine;
	struct reclaim *reclaim = reclaim_of(engine);
	uint64_t now = clock_ns(), free_bytes, going, missing;

	atomic_store(&engine->room.pressed, false);
	if (!reclaim->refilling && !room_pressed(engine))
		return false;
	free_bytes = budget_free(&engine->budget);
	going = going_bytes(&reclaim->choice.going, engine, 0, 0, now);
	reclaim->refilling = free_bytes < budget_reserve_bytes(&engine->budget);
	missing = without(budget_reserve_bytes(&engine->budget), free_bytes + going);
	if (!missing || (going && !room_wanted(engine)))
		return false;
	if (now < reclaim->rest_until_ns) {
		due_by(turn->due_ns, reclaim->rest_until_ns);
		return false;
	}
	if (choice_take(&reclaim->choice, engine, 0, missing / engine->config.block_bytes + 1, turn->chosen))
		return true;
	if (going)
		return false;
	reclaim->refilling = false;
	reclaim->rest_until_ns = rest_of(now);
	due_by(turn->due_ns, clock_ns() + scan_quick_ns(engine));
	return false;
}

typedef bool choose_fn(struct turn *turn);

/* By turns, so that none who is always short keeps the others from it. */
static bool choose_any(struct reclaim *reclaim, struct turn *turn)
{
	static choose_fn *const choose[] = { choose_of_files, choose_of_tenants, choose_of_all };
	const unsigned int count = sizeof(choose) / sizeof(choose[0]);

	if (clock_ns() < reclaim->retry_ns) {
		due_by(turn->due_ns, reclaim->retry_ns);
		return false;
	}
	if (going_count(&reclaim->choice.going, false, clock_ns()) >= reclaim->most) {
		due_by(turn->due_ns, clock_ns() + GOING_LATE_NS);
		return false;
	}
	for (unsigned int i = 0; i < count; i++) {
		unsigned int at = (reclaim->turn + i) % count;

		if (!choose[at](turn))
			continue;
		reclaim->turn = at + 1;
		return true;
	}
	if (going_count(&reclaim->choice.going, false, clock_ns()))
		due_by(turn->due_ns, clock_ns() + GOING_LATE_NS); /* that it is late nobody tells */
	return false;
}

/* --- a batch -------------------------------------------------------------------------------------------------- */

/* Another thread may find that there is more to do than this one does. */
static void call_another(struct engine *engine)
{
	LOCK_SCOPE(&engine->room.lock);

	engine_wake_reclaim(engine);
}

/* A limit of what is stored refused all of it. */
static uint64_t refused_until(struct ramfile *file, uint64_t now)
{
	struct rounds *rounds = &file->rounds;

	rounds->refused_news = quota_news(file);
	rounds->refusals += rounds->refusals < REFUSALS_MOST;
	return now + (REFUSED_NS << (rounds->refusals - 1));
}

/* Until when the file is left alone. */
static uint64_t out_until(struct engine *engine, const struct chosen *chosen, int err,
			  const struct demote_result *result)
{
	struct reclaim *reclaim = reclaim_of(engine);
	uint64_t demoted = result->demoted;
	uint64_t now = clock_ns(), rest_ns = rest_of(chosen->since_ns);
	bool refused = err == -EIO || err == -ENOSPC;

	if (demoted)
		reclaim->refused = 0;
	/* The store says why, once. Blocks stay resident, and it goes on by itself. */
	if (refused && store_devices(engine_store(engine)) == 1 && ++reclaim->refused >= REFUSED_MOST) {
		reclaim->retry_ns = now + RETRY_NS;
		reclaim->refused = 0;
	}
	if (!err && !demoted && result->refused)
		return refused_until(chosen->file, now);
	chosen->file->rounds.refusals = 0;
	if (err && err != -EBUSY)
		return now + RETRY_NS;
	return demoted ? 0 : rest_ns < now + OUT_MOST_NS ? rest_ns : now + OUT_MOST_NS;
}

bool reclaim_some(struct engine *engine, uint64_t *due_ns)
{
	struct reclaim *reclaim = reclaim_of(engine);
	struct chosen chosen;
	struct turn turn = { .engine = engine, .chosen = &chosen, .due_ns = due_ns };
	struct demote_result result;
	bool found, tell;
	int err;

	lock_get(&reclaim->lock);
	found = choose_any(reclaim, &turn);
	tell = found && !reclaim->watched;
	reclaim->watched |= found;
	lock_put(&reclaim->lock);
	if (tell && engine->thread_runs)
		due_tell_scanner(engine);
	if (found) {
		call_another(engine);
		err = demote_idle(chosen.file, chosen.block, chosen.count, true, &result);
		lock_get(&reclaim->lock);
		choice_end(&reclaim->choice, engine, &chosen, result.demoted > 0,
			   out_until(engine, &chosen, err, &result));
		lock_put(&reclaim->lock);
		engine_leave(engine, chosen.file);
	}
	due_by(due_ns, flow_next_held(engine)); /* who was passed over may write again then */
	if (budget_free(&engine->budget) >= engine->config.block_bytes)
		room_announce(engine);
	return found;
}

/* --- threads -------------------------------------------------------------------------------------------------- */

static void *reclaim_run(void *arg)
{
	struct engine *engine = arg;
	struct room *room = &engine->room;

	thread_set_slice(THREAD_SLICE_LONG_NS);
	lock_get(&room->lock);
	while (!room->stopping) {
		uint64_t seen = room->calls, due_ns = UINT64_MAX;
		bool more = true;

		lock_put(&room->lock);
		while (more)
			more = reclaim_some(engine, &due_ns);
		lock_get(&room->lock);
		while (!room->stopping && room->calls == seen)
			if (due_ns == UINT64_MAX)
				lock_wait(&room->lock, &room->reclaim);
			else if (lock_wait_until(&room->lock, &room->reclaim, due_ns))
				break;
	}
	lock_put(&room->lock);
	return NULL;
}

static int add_thread(struct engine *engine)
{
	struct reclaim *reclaim = reclaim_of(engine);
	pthread_t *thread = &reclaim->thread[reclaim->threads];
	int err = -pthread_create(thread, NULL, reclaim_run, engine);

	if (err)
		return err;
	pthread_setname_np(*thread, "tierfs-demoter");
	reclaim->threads++;
	return 0;
}

void reclaim_init(struct reclaim *reclaim, unsigned int most)
{
	long cpus = sysconf(_SC_NPROCESSORS_ONLN);

	lock_init(&reclaim->lock, LOCK_RANK_RECLAIM);
	if (!most)
		most = cpus < 1 ? 1 : cpus < MOST_DEFAULT ? (unsigned int)cpus : MOST_DEFAULT;
	reclaim->most = most < RECLAIM_THREADS ? most : RECLAIM_THREADS;
}

void reclaim_fini(struct reclaim *reclaim)
{
	lock_fini(&reclaim->lock);
}

int reclaim_start(struct engine *engine)
{
	struct reclaim *reclaim = reclaim_of(engine);
	int err = 0;

	while (!err && reclaim->threads < reclaim->most)
		err = add_thread(engine);
	return err;
}

void reclaim_replace(struct engine *engine)
{
	struct reclaim *reclaim = reclaim_of(engine);
	unsigned int late;

	lock_get(&reclaim->lock);
	late = going_count(&reclaim->choice.going, true, clock_ns());
	lock_put(&reclaim->lock);
	while (reclaim->threads < RECLAIM_THREADS && reclaim->threads < reclaim->most + late)
		if (add_thread(engine))
			return;
}

uint64_t reclaim_watch(struct engine *engine)
{
	struct reclaim *reclaim = reclaim_of(engine);
	uint64_t now = clock_ns();

	LOCK_SCOPE(&reclaim->lock);
	reclaim->watched =
		going_count(&reclaim->choice.going, false, now) + going_count(&reclaim->choice.going, true, now) > 0;
	return reclaim->watched ? now + GOING_LATE_NS : UINT64_MAX;
}

void reclaim_stop(struct engine *engine)
{
	struct reclaim *reclaim = reclaim_of(engine);

	while (reclaim->threads)
		pthread_join(reclaim->thread[--reclaim->threads], NULL);
}
