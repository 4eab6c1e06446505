/* The engine of one mount as a whole: it comes and goes with its threads, settings, figures. */
#include "policy/tiering.h"

#include <errno.h>
#include <stdlib.h>

#include "base/clock.h"
#include "engine/ahead.h"
#include "engine/crew.h"
#include "engine/engine.h"
#include "engine/fault.h"
#include "engine/file.h"
#include "engine/retry.h"
#include "engine/room.h"
#include "engine/work.h"
#include "policy/demoter.h"

/* The engine comes first: a pointer to it is one to both. */
struct whole {
	struct engine engine;
	struct demoter demoter;
};

/* --- life ------------------------------------------------------------------------------------------------- */

static int config_check(const struct engine_config *config)
{
	uint32_t block = config->block_bytes;

	if (block < PAGE_BYTES || block > 65536 || (block & (block - 1)))
		return -EINVAL;
	return config->dram_bytes >= 4ULL * block ? 0 : -EINVAL;
}

int tiering_new(const struct engine_config *config, struct engine **ret)
{
	struct whole *whole;
	struct engine *engine;
	int err = config_check(config);

	if (err)
		return err;
	whole = calloc(1, sizeof(*whole));
	if (!whole)
		return -ENOMEM;
	engine = &whole->engine;
	engine->demoter = &whole->demoter;
	engine->config = *config;
	atomic_init(&engine->min_idle_ns, config->min_idle_ns);
	atomic_init(&engine->referenced_idle_ns, config->holds ? config->referenced_idle_ns : 0);
	budget_init(&engine->budget, config->dram_bytes);
	work_pool_init(&engine->works, config->block_bytes, config->level, config->secret);
	lock_init(&engine->lock, LOCK_RANK_ENGINE);
	lock_cond_init(&engine->unvisited);
	TAILQ_INIT(&engine->files);
	dues_init(&engine->dues);
	room_init(&engine->room);
	tenants_init(&engine->tenants);
	forget_init(&engine->forgetting);
	flows_init(&engine->flows);
	reclaim_init(&engine->demoter->reclaim, config->demoters);
	engine->works.most_spares = engine->demoter->reclaim.most;
	if (config->run_demoter)
		err = crew_new(&engine->crew);
	if (config->run_demoter && !err)
		err = ahead_new(&engine->ahead);
	if (config->run_demoter && !err)
		err = retry_new(fault_serve, true, &engine->retry);
	if (config->run_demoter && !err)
		err = flows_start(engine);
	if (config->run_demoter && !err)
		err = demoter_start(engine);
	if (err) {
		tiering_free(engine);
		return err;
	}
	*ret = engine;
	return 0;
}

void tiering_free(struct engine *engine)
{
	if (!engine)
		return;
	demoter_stop(engine);
	crew_free(engine->crew);
	retry_free(engine->retry); /* it may ask for read-ahead */
	ahead_free(engine->ahead);
	flows_fini(engine); /* who asked for read-ahead or was tried again may have waited for a turn */
	forget_fini(&engine->forgetting);
	tenants_fini(&engine->tenants);
	room_fini(&engine->room);
	dues_fini(&engine->dues);
	pthread_cond_destroy(&engine->unvisited);
	lock_fini(&engine->lock);
	reclaim_fini(&engine->demoter->reclaim);
	work_pool_fini(&engine->works);
	free(engine);
}

/* --- settings and figures --------------------------------------------------------------------------------- */

void tiering_ahead_late(struct engine *engine, bool late)
{
	ahead_late(engine->ahead, late);
}

void tiering_lift_limits(struct engine *engine)
{
	flow_lift(engine);
	room_look_again(engine, true);
}

int tiering_set_min_idle(struct engine *engine, uint64_t ns)
{
	if (ns > 3600 * NS_PER_S)
		return -EINVAL;
	atomic_store(&engine->min_idle_ns, ns);
	atomic_store(&engine->referenced_idle_ns, 0);
	due_pull_all(engine);
	engine_kick(engine);
	return 0;
}

int tiering_set_dram(struct engine *engine, uint64_t bytes)
{
	if (bytes < 4ULL * engine->config.block_bytes || bytes > INT64_MAX)
		return -EINVAL;
	atomic_store(&engine->budget.limit_bytes, bytes);
	due_pull_all(engine);
	engine_kick(engine);
	room_announce(engine);
	return 0;
}

static void add_memory(void *arg, struct ramfile *file)
{
	uint64_t *bytes = arg;

	LOCK_SCOPE(&file->lock);
	*bytes += sizeof(*file) + blocks_memory_bytes(&file->blocks);
}

void tiering_figures(struct engine *engine, struct tiering_figures *ret)
{
	struct tiering_figures figures = {
		.dram_bytes = atomic_load(&engine->budget.limit_bytes),
		.resident_bytes = budget_used(&engine->budget),
		.metadata_bytes = sizeof(struct whole) + work_pool_bytes(&engine->works),
		.waiting_faults = room_parked(engine),
		.waited_faults = atomic_load(&engine->room.waited_faults),
		.waiting_writes = room_waiting_writes(engine),
		.scans = atomic_load(&engine->scans),
		.visited_blocks = atomic_load(&engine->visited_blocks),
	};

	engine_each_file(engine, add_memory, &figures.metadata_bytes);
	*ret = figures;
}
